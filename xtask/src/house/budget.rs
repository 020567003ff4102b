//! How long a file and a function may be, and how much a function may ask for.

use std::fmt;

use super::Finding;
use super::source::{Source, closing};
use super::token::{Kind, Token};

/// Everything over a budget in one file; also counts into `figures`.
pub(crate) fn check(source: &Source<'_>, figures: &mut Figures) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = source.lines();
    figures.files.push(lines);
    if lines > FILE {
        findings.push((1, format!("{lines} lines, more than {FILE}: give a part of it its own file")));
    }
    if source.test_lines > INLINE_TESTS {
        let room = source.path.trim_end_matches(".rs");
        let lines = source.test_lines;
        findings.push((
            1,
            format!("{lines} lines of inline tests, more than {INLINE_TESTS}: move them to {room}/tests.rs"),
        ));
    }
    for function in functions(&source.tokens) {
        let Function { name, line, lines, arguments } = function;
        figures.functions.push(lines);
        if lines > FUNCTION {
            findings
                .push((line, format!("`{name}` has {lines} lines, more than {FUNCTION}: name its phases")));
        }
        if arguments > ARGUMENTS {
            let what = format!(
                "`{name}` takes {arguments} arguments, more than {ARGUMENTS}: some belong together in a type"
            );
            findings.push((line, what));
        }
    }
    findings
}

struct Function<'a> {
    name: &'a str,
    line: usize,
    lines: usize,
    arguments: usize,
}

/// Every function that has a body.
fn functions<'a>(tokens: &[Token<'a>]) -> Vec<Function<'a>> {
    let starts = (0..tokens.len().saturating_sub(1)).filter(|at| tokens[*at].is("fn"));
    starts.filter_map(|at| function(tokens, at)).collect()
}

fn function<'a>(tokens: &[Token<'a>], start: usize) -> Option<Function<'a>> {
    let name = tokens.get(start + 1).filter(|token| token.kind == Kind::Word)?;
    let mut at = start + 2;
    if tokens.get(at)?.is("<") {
        at = after_generics(tokens, at)?;
    }
    let end_of_arguments = closing(tokens, at);
    let arguments = arguments(&tokens[at..=end_of_arguments]);
    let mut body = end_of_arguments + 1;
    while !tokens.get(body)?.is("{") {
        match tokens[body].text {
            ";" => return None,
            "(" | "[" => body = closing(tokens, body) + 1,
            _ => body += 1,
        }
    }
    let lines = tokens[closing(tokens, body)].line - tokens[start].line + 1;
    Some(Function { name: name.text, line: tokens[start].line, lines, arguments })
}

fn after_generics(tokens: &[Token<'_>], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "<" => depth += 1,
            ">" => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return Some(index + 1);
        }
    }
    None
}

/// How many `name: Type` stand directly between the parentheses; a plain `self` is not counted.
fn arguments(tokens: &[Token<'_>]) -> usize {
    let (mut depth, mut count) = (0usize, 0);
    for token in tokens.iter().filter(|token| token.kind == Kind::Symbol) {
        match token.text {
            "(" | "[" | "{" | "<" => depth += 1,
            ")" | "]" | "}" | ">" => depth = depth.saturating_sub(1),
            ":" if depth == 1 => count += 1,
            _ => {}
        }
    }
    count
}

/// Sizes over a whole crate.
#[derive(Default)]
pub(crate) struct Figures {
    files: Vec<usize>,
    functions: Vec<usize>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (files, functions) = (self.files.len(), self.functions.len());
        let (file_median, file_most) = median_and_most(&self.files);
        let (function_median, function_most) = median_and_most(&self.functions);
        write!(f, "{files} files of {file_median} lines (longest {file_most}), ")?;
        write!(f, "{functions} functions of {function_median} lines (longest {function_most})")
    }
}

fn median_and_most(sizes: &[usize]) -> (usize, usize) {
    let mut sorted = sizes.to_vec();
    sorted.sort_unstable();
    (sorted.get(sorted.len() / 2).copied().unwrap_or(0), sorted.last().copied().unwrap_or(0))
}

const FILE: usize = 500;
const FUNCTION: usize = 60;
const INLINE_TESTS: usize = 150;
const ARGUMENTS: usize = 6;
