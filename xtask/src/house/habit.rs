//! Habits that hold in every file: an opening that says what it owns, nothing unfinished, no panic by shortcut.

use super::Finding;
use super::source::{Source, closing};
use super::token::Token;

/// Everything in one file that breaks a habit.
pub(crate) fn check(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if source.path == "mod.rs" || source.path.ends_with("/mod.rs") {
        findings.push((1, "is a mod.rs: call it by its room's name, beside the folder".to_owned()));
    }
    if source.lines() > SHORT && !has_opening(source.text) {
        findings.push((1, "has no `//!` opening that says what it owns".to_owned()));
    }
    findings.extend(notes(source.text));
    for (index, token) in source.tokens.iter().enumerate() {
        let rest = &source.tokens[index..];
        if let Some(what) = shortcut(rest) {
            findings.push((token.line, what.to_owned()));
        }
    }
    findings
}

/// What is wrong with the tokens that start here.
fn shortcut(rest: &[Token<'_>]) -> Option<&'static str> {
    let starts = |words: &[&str]| {
        rest.len() >= words.len() && rest.iter().zip(words).all(|(token, word)| token.is(word))
    };
    if starts(&[".", "unwrap", "(", ")"]) {
        return Some(
            "`unwrap()` outside tests: say what to do, or `expect` with the reason why it cannot happen",
        );
    }
    if starts(&["todo", "!"]) || starts(&["unimplemented", "!"]) {
        return Some("unfinished: `todo!`");
    }
    if starts(&["#", "[", "allow", "("]) && !rest[..=closing(rest, 1)].iter().any(|token| token.is("reason"))
    {
        return Some("`#[allow(…)]` without `reason = \"…\"`");
    }
    None
}

/// `//!` comes first; inner attributes may stand before it.
fn has_opening(text: &str) -> bool {
    let mut rest = text.trim_start();
    while rest.starts_with("#![") {
        rest = rest.split_once('\n').map_or("", |(_, after)| after).trim_start();
    }
    rest.starts_with("//!")
}

/// Notes to oneself, unless they name an issue: `TODO(#12)`.
fn notes(text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for word in NOTES {
            let unnamed = line.match_indices(word).any(|(at, _)| {
                let (before, after) = (&line[..at], &line[at + word.len()..]);
                let whole = !before.ends_with(in_word) && !after.starts_with(in_word);
                let named = after
                    .strip_prefix("(#")
                    .is_some_and(|issue| issue.starts_with(|c: char| c.is_ascii_digit()));
                whole && !named
            });
            if unnamed {
                findings.push((index + 1, format!("`{word}` without an issue, as `{word}(#12)`")));
            }
        }
    }
    findings
}

fn in_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Files up to this length need no opening.
const SHORT: usize = 20;
const NOTES: [&str; 4] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX"), concat!("HA", "CK")];
