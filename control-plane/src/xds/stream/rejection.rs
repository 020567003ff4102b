//! Reading a NACK's text: which of the resources of a response it names, and what it says about each.
//!
//! Every client has its own prose. All of them put a resource's name before its reason (`name: reason`); Envoy quotes
//! the message when the response does not even decode. What cannot be read is found out by sending smaller responses.

/// How much of a NACK's text is kept; Envoy's hold whole messages.
const TEXT_LIMIT: usize = 1024;

/// The names of `sent` that the text names, each with the part of the text that is about it.
///
/// Names followed by a colon count; only when there is none, names that stand alone anywhere do.
pub(super) fn named<'a>(text: &str, sent: impl Iterator<Item = &'a str> + Clone) -> Vec<(&'a str, String)> {
    let with_colon =
        find(text, sent.clone(), |after| after.trim_start_matches(['"', '\'', '`']).starts_with(':'));
    if with_colon.is_empty() { find(text, sent, |_| true) } else { with_colon }
}

/// The text, shortened at a character's boundary.
pub(super) fn shorten(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(TEXT_LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn find<'a>(
    text: &str,
    names: impl Iterator<Item = &'a str>,
    accepts: impl Fn(&str) -> bool,
) -> Vec<(&'a str, String)> {
    let mut found: Vec<(usize, &str)> =
        names.filter_map(|name| position(text, name, &accepts).map(|start| (start, name))).collect();
    found.sort_unstable();
    let ends: Vec<usize> = found.iter().skip(1).map(|(start, _)| *start).chain([text.len()]).collect();
    let about = |(start, end): (usize, usize)| {
        shorten(text[start..end].trim_end_matches(|end: char| " ,;\n[]\"'`".contains(end)))
    };
    found.iter().zip(ends).map(|(&(start, name), end)| (name, about((start, end)))).collect()
}

/// Where a name stands as a whole word, not as a part of a longer name.
fn position(text: &str, name: &str, accepts: impl Fn(&str) -> bool) -> Option<usize> {
    if name.is_empty() {
        return None;
    }
    text.match_indices(name).map(|(start, _)| start).find(|&start| {
        let (before, after) = (&text[..start], &text[start + name.len()..]);
        let opens = before.chars().next_back().is_none_or(|last| !is_name_character(last));
        let closes = !after.chars().next().is_some_and(is_name_character)
            // A full stop ends a sentence; inside a host name something follows it.
            || (after.starts_with('.') && !after[1..].starts_with(|next: char| is_name_character(next)));
        opens && closes && accepts(after)
    })
}

fn is_name_character(character: char) -> bool {
    character.is_alphanumeric() || "|._-/~*".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, sent: &[&'static str]) -> Vec<(&'static str, String)> {
        named(text, sent.iter().copied())
    }

    #[test]
    fn envoy_names_the_bad_ones_of_a_response() {
        let text = "Error adding/updating cluster(s) b: unknown type, outbound|80||a.shop: no such socket";
        let found = read(text, &["a", "b", "c", "outbound|80||a", "outbound|80||a.shop"]);
        assert_eq!(
            found,
            [
                ("b", "b: unknown type".to_owned()),
                ("outbound|80||a.shop", "outbound|80||a.shop: no such socket".to_owned())
            ]
        );
    }

    #[test]
    fn a_colon_beats_a_mention() {
        let found = read(
            "listener shop/web/80: route config shop/web/81 has no hosts",
            &["shop/web/80", "shop/web/81"],
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "shop/web/80");
    }

    #[test]
    fn a_quoted_message_names_its_resource() {
        let found =
            read("Proto constraint validation failed: name: \"bad\"\nconnect_timeout {}", &["good", "bad"]);
        assert_eq!(found.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["bad"]);
        assert!(read("no idea", &["good", "bad"]).is_empty());
    }

    #[test]
    fn long_texts_are_cut() {
        assert!(shorten(&"é".repeat(5000)).chars().count() <= TEXT_LIMIT + 1);
    }
}
