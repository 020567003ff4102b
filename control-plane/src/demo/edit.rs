//! Edits of manifests as a person makes them: one value changes, every other character and comment stays. Pure.

/// Replaces the value of `key` in the first line that has it below the given anchors, each anchor below the one before.
///
/// An anchor is a whole line without its indentation, such as `- name: reviews-v1`.
pub(super) fn set(text: &str, anchors: &[&str], key: &str, value: &str) -> Result<String, EditError> {
    let mut edited = String::with_capacity(text.len() + value.len());
    let mut anchors = anchors.iter().peekable();
    let mut done = false;
    for line in text.split_inclusive('\n') {
        if let Some(anchor) = anchors.peek() {
            if line.trim() == **anchor {
                anchors.next();
            }
        } else if !done && let Some(found) = value_of(line, key) {
            edited.push_str(&line[..found.start]);
            edited.push_str(value);
            edited.push_str(&line[found.end..]);
            done = true;
            continue;
        }
        edited.push_str(line);
    }
    match anchors.next() {
        Some(anchor) => Err(EditError::Anchor((*anchor).to_owned())),
        None if !done => Err(EditError::Key(key.to_owned())),
        None => Ok(edited),
    }
}

/// Where the value of `key` stands in a line `key: value` or `- key: value`.
fn value_of(line: &str, key: &str) -> Option<std::ops::Range<usize>> {
    let content = line.trim_start().trim_start_matches("- ");
    let value = content.strip_prefix(key)?.strip_prefix(':')?;
    let start = line.len() - value.trim_start().len();
    let value = value.split(" #").next().unwrap_or(value);
    Some(start..start + value.trim().len())
}

/// Replaces whole words. A word is what stands between characters that are not in names, numbers or addresses, so
/// `15006` is found in `"9080:15006"`, but `127.0.0.1` is not found in `127.0.0.11`.
pub(super) fn replace_words(text: &str, replacements: &[(String, String)]) -> String {
    let mut edited = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(in_word) {
        let length = rest[start..].find(|character| !in_word(character)).unwrap_or(rest.len() - start);
        let word = &rest[start..start + length];
        // A full stop that ends a sentence belongs to no word.
        let bare = word.trim_end_matches('.');
        let known = replacements.iter().find(|(from, _)| from == bare);
        edited.push_str(&rest[..start]);
        edited.push_str(known.map_or(bare, |(_, to)| to));
        edited.push_str(&word[bare.len()..]);
        rest = &rest[start + length..];
    }
    edited.push_str(rest);
    edited
}

fn in_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '.' || character == '-'
}

/// What an edit looked for and did not find.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EditError {
    /// The line to look below.
    #[error("no line `{0}`")]
    Anchor(String),
    /// The key to change.
    #[error("no `{0}:` where it should be")]
    Key(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# weight: of this and that\n- name: a\n  weight: 90 # percent\n- name: b\n  weight: 10\n";

    #[test]
    fn one_value_changes_and_comments_stay() {
        let edited = set(TEXT, &["- name: b"], "weight", "50").unwrap();
        assert_eq!(edited, TEXT.replace("weight: 10", "weight: 50"));
        let edited = set(TEXT, &["- name: a"], "weight", "50").unwrap();
        assert_eq!(edited, TEXT.replace("weight: 90 #", "weight: 50 #"));
    }

    #[test]
    fn a_list_item_can_carry_the_key() {
        assert_eq!(set(TEXT, &["weight: 10"], "name", "c"), Err(EditError::Key("name".to_owned())));
        assert_eq!(set("x: 1\n- name: b\n", &[], "name", "c").unwrap(), "x: 1\n- name: c\n");
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(set(TEXT, &["- name: z"], "weight", "1"), Err(EditError::Anchor("- name: z".to_owned())));
        assert_eq!(set(TEXT, &["- name: b"], "port", "1"), Err(EditError::Key("port".to_owned())));
    }

    #[test]
    fn words_are_replaced_whole() {
        let to = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        let replacements = [to("127.0.0.1", "127.0.0.9"), to("9080", "9081"), to("pod-1", "pod-2")];
        assert_eq!(
            replace_words("127.0.0.11 127.0.0.1. \"9080:19080\" [pod-1, pod-12]", &replacements),
            "127.0.0.11 127.0.0.9. \"9081:19080\" [pod-2, pod-12]"
        );
    }
}
