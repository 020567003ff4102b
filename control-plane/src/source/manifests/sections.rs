//! A YAML file → its documents, before any of them is parsed: a broken one does not take its neighbours with it.

/// One document's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section<'t> {
    /// From 1; sections without content do not count.
    pub(super) number: usize,
    /// Lines of the file before this text.
    pub(super) lines_before: usize,
    pub(super) text: &'t str,
}

/// Splits at the markers `---` and `...`. At the start of a line these are markers wherever they stand, even inside a
/// quoted or a block text: YAML says so, which is what makes splitting before parsing right.
pub(super) fn sections(text: &str) -> Vec<Section<'_>> {
    let mut found = Vec::new();
    let (mut start, mut lines_before) = (0, 0);
    let mut position = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line, "---") {
            push(&mut found, &text[start..position], lines_before);
            // What follows on the line of the marker belongs to the document.
            (start, lines_before) = (position + 3, number);
        } else if is_marker(line, "...") {
            push(&mut found, &text[start..position], lines_before);
            (start, lines_before) = (position + line.len(), number + 1);
        }
        position += line.len();
    }
    push(&mut found, &text[start..], lines_before);
    found
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn push<'t>(found: &mut Vec<Section<'t>>, text: &'t str, lines_before: usize) {
    let is_content =
        |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#') && !line.starts_with('%');
    if text.lines().any(is_content) {
        found.push(Section { number: found.len() + 1, lines_before, text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(usize, usize, &str)> {
        sections(text)
            .into_iter()
            .map(|section| (section.number, section.lines_before, section.text))
            .collect()
    }

    #[test]
    fn splits_at_markers_and_counts_only_content() {
        let text = "# licence\n---\na: 1\n---\n\n--- # nothing\n---\nb: 2\n...\n%YAML 1.2\n---\nc: 3";
        assert_eq!(texts(text), [(1, 1, "\na: 1\n"), (2, 6, "\nb: 2\n"), (3, 10, "\nc: 3")]);
    }

    #[test]
    fn keeps_what_follows_a_marker_on_its_line() {
        assert_eq!(texts("--- {a: 1}\n"), [(1, 0, " {a: 1}\n")]);
    }

    #[test]
    fn a_marker_stands_alone_at_the_start_of_a_line() {
        assert_eq!(texts("a: |\n  ---\n----\n---x").len(), 1);
        assert_eq!(texts("a: 1\r\n---\r\nb: 2\r\n").len(), 2);
        assert_eq!(texts(""), []);
        assert_eq!(texts("---"), []);
    }
}
