//! One source file: its text, and its tokens without inline tests.

use std::path::Path;

use super::token::{Kind, Token, tokens};

/// A file as the checks see it.
pub(crate) struct Source<'a> {
    /// Below `src/`, with `/`.
    pub(crate) path: String,
    pub(crate) text: &'a str,
    /// Without inline tests.
    pub(crate) tokens: Vec<Token<'a>>,
    /// Lines of inline tests.
    pub(crate) test_lines: usize,
}

impl<'a> Source<'a> {
    pub(crate) fn new(path: &Path, text: &'a str) -> Self {
        let mut tokens = tokens(text);
        let mut test_lines = 0;
        while let Some((start, end)) = test_module(&tokens) {
            test_lines += tokens[end].line - tokens[start].line + 1;
            tokens.drain(start..=end);
        }
        Self { path: path.to_string_lossy().replace('\\', "/"), text, tokens, test_lines }
    }

    /// Lines without inline tests.
    pub(crate) fn lines(&self) -> usize {
        self.text.lines().count() - self.test_lines
    }

    /// The room this file belongs to: `route` for `route.rs` and for `route/matcher.rs`.
    pub(crate) fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }
}

/// First and last token of an inline `#[cfg(test)] mod … { … }`.
fn test_module(tokens: &[Token<'_>]) -> Option<(usize, usize)> {
    (0..tokens.len()).find_map(|start| {
        let mut at = test_attribute(tokens, start)?;
        while tokens.get(at)?.is("#") {
            at = closing(tokens, at + 1) + 1;
        }
        if tokens.get(at)?.is("pub") {
            at += 1;
            if tokens.get(at)?.is("(") {
                at = closing(tokens, at) + 1;
            }
        }
        let opens = tokens.get(at)?.is("mod")
            && tokens.get(at + 1)?.kind == Kind::Word
            && tokens.get(at + 2)?.is("{");
        opens.then(|| (start, closing(tokens, at + 2)))
    })
}

/// The index after `#[cfg(test)]` or `#[cfg(all(test, …))]`, if it stands at `start`.
fn test_attribute(tokens: &[Token<'_>], start: usize) -> Option<usize> {
    let starts = |words: &[&str]| {
        words
            .iter()
            .enumerate()
            .all(|(offset, word)| tokens.get(start + offset).is_some_and(|token| token.is(word)))
    };
    let test = starts(&["#", "[", "cfg", "(", "test"]) || starts(&["#", "[", "cfg", "(", "all", "(", "test"]);
    test.then(|| closing(tokens, start + 1) + 1)
}

/// The index of the bracket that closes the one at `open`; the last token if the file is cut short.
pub(crate) fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0usize;
    for (index, token) in tokens.iter().enumerate().skip(open).filter(|(_, token)| token.kind == Kind::Symbol)
    {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return index;
        }
    }
    tokens.len() - 1
}
