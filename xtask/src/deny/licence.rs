//! SPDX licence expressions: `MIT OR (Apache-2.0 AND BSD-3-Clause)`.
//!
//! Grammar, weakest first: `any = all { OR all }`, `all = one { AND one }`, `one = ( any ) | id [WITH exception]`.
//! Crates of old write `/` for OR.

/// Whether one may use what stands under `expression`, if `allowed` says which licences one may accept. `X WITH Y` is at least
/// as permissive as `X`.
pub(crate) fn permits(expression: &str, allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut reader = Reader { words: spaced.split_whitespace().collect(), position: 0, allowed };
    let permitted = reader.any()?;
    match reader.peek() {
        None => Ok(permitted),
        Some(word) => Err(format!("`{word}` is not expected there")),
    }
}

struct Reader<'a> {
    words: Vec<&'a str>,
    position: usize,
    allowed: &'a dyn Fn(&str) -> bool,
}

impl<'a> Reader<'a> {
    fn any(&mut self) -> Result<bool, String> {
        let mut permitted = self.all()?;
        while self.accept("OR") {
            permitted |= self.all()?;
        }
        Ok(permitted)
    }

    fn all(&mut self) -> Result<bool, String> {
        let mut permitted = self.one()?;
        while self.accept("AND") {
            permitted &= self.one()?;
        }
        Ok(permitted)
    }

    fn one(&mut self) -> Result<bool, String> {
        if self.accept("(") {
            let permitted = self.any()?;
            return if self.accept(")") {
                Ok(permitted)
            } else {
                Err("a parenthesis is not closed".to_owned())
            };
        }
        let licence = self.identifier()?;
        if self.accept("WITH") {
            self.identifier()?;
        }
        Ok((self.allowed)(licence))
    }

    fn identifier(&mut self) -> Result<&'a str, String> {
        let word = self.peek().filter(|word| !["OR", "AND", "WITH", "(", ")"].contains(word));
        self.position += 1;
        word.ok_or_else(|| "a licence is missing".to_owned())
    }

    fn accept(&mut self, word: &str) -> bool {
        let there = self.peek() == Some(word);
        self.position += usize::from(there);
        there
    }

    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.position).copied()
    }
}
