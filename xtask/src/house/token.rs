//! Rust source as words and symbols. Comments are gone; a literal is one token, so nothing in it can look like code.

/// One token and the line it starts on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    /// As written; of a raw identifier without its `r#`.
    pub(crate) text: &'a str,
    pub(crate) line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Word,
    /// One character, or one of `::`, `->`, `=>`.
    Symbol,
    /// A string, a character, a lifetime.
    Literal,
}

impl Token<'_> {
    /// Whether this is the given word or symbol.
    pub(crate) fn is(&self, text: &str) -> bool {
        self.kind != Kind::Literal && self.text == text
    }
}

/// Cuts `text` into tokens.
pub(crate) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut lexer = Lexer { text, position: 0, line: 1 };
    let mut tokens = Vec::new();
    while let Some(token) = lexer.next() {
        tokens.push(token);
    }
    tokens
}

struct Lexer<'a> {
    text: &'a str,
    position: usize,
    line: usize,
}

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let rest = &self.text[self.position..];
            let first = rest.chars().next()?;
            if first.is_whitespace() {
                self.take(first.len_utf8());
            } else if rest.starts_with("//") {
                self.take(rest.find('\n').unwrap_or(rest.len()));
            } else if rest.starts_with("/*") {
                self.take(block_comment(rest));
            } else {
                return Some(self.token(rest, first));
            }
        }
    }

    fn token(&mut self, rest: &'a str, first: char) -> Token<'a> {
        if let Some(length) = literal(rest) {
            return self.make(Kind::Literal, length);
        }
        if is_word(first) {
            if rest.starts_with("r#") {
                self.take(2);
            }
            let word = &self.text[self.position..];
            return self.make(Kind::Word, word.find(|c: char| !is_word(c)).unwrap_or(word.len()));
        }
        let long = ["::", "->", "=>"].iter().any(|symbol| rest.starts_with(symbol));
        self.make(Kind::Symbol, if long { 2 } else { first.len_utf8() })
    }

    fn make(&mut self, kind: Kind, length: usize) -> Token<'a> {
        let line = self.line;
        Token { kind, text: self.take(length), line }
    }

    fn take(&mut self, length: usize) -> &'a str {
        let taken = &self.text[self.position..self.position + length];
        self.line += taken.matches('\n').count();
        self.position += length;
        taken
    }
}

/// The length of a block comment; they nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut position) = (0usize, 0usize);
    while position < rest.len() {
        let here = &rest.as_bytes()[position..];
        if here.starts_with(b"/*") {
            (depth, position) = (depth + 1, position + 2);
        } else if here.starts_with(b"*/") {
            (depth, position) = (depth - 1, position + 2);
            if depth == 0 {
                break;
            }
        } else {
            position += 1;
        }
    }
    position.min(rest.len())
}

/// The length of the literal that `rest` starts with: a string of any kind, a character, or a lifetime.
fn literal(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r", "b", "c", ""].into_iter().find(|prefix| opens(rest, prefix))?;
    let body = &rest[prefix.len()..];
    if prefix.ends_with('r') {
        let marks = body.bytes().take_while(|byte| *byte == b'#').count();
        let end = format!("\"{}", &body[..marks]);
        let content = marks + 1;
        let length = body[content..].find(&end).map_or(body.len(), |at| content + at + end.len());
        return Some(prefix.len() + length);
    }
    let length = if body.starts_with('"') { quoted(body, b'"') } else { character_or_lifetime(body) };
    Some(prefix.len() + length)
}

/// Whether `rest` is a literal with this prefix.
fn opens(rest: &str, prefix: &str) -> bool {
    let Some(body) = rest.strip_prefix(prefix) else { return false };
    if prefix.ends_with('r') {
        return body.trim_start_matches('#').starts_with('"');
    }
    body.starts_with('"') || body.starts_with('\'') && prefix != "c"
}

/// The length of a literal between two `quote`s.
fn quoted(body: &str, quote: u8) -> usize {
    let bytes = body.as_bytes();
    let mut position = 1;
    while position < bytes.len() && bytes[position] != quote {
        position += if bytes[position] == b'\\' { 2 } else { 1 };
    }
    (position + 1).min(bytes.len())
}

/// `'a'` and `'\n'` end with a quote, `'a` does not.
fn character_or_lifetime(body: &str) -> usize {
    let mut characters = body[1..].char_indices();
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), _) => quoted(body, b'\''),
        (Some(_), Some((at, '\''))) => 1 + at + 1,
        _ => 1 + body[1..].find(|c: char| !is_word(c)).unwrap_or(body.len() - 1),
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}
