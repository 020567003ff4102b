//! Lines and field lines: the part of the grammar that requests, responses and trailers share.
//!
//! A line is looked at once, when its end has come; the search for the end resumes where it stopped. So a head costs the same
//! whether it comes at once or byte by byte.

use std::ops::Range;

use bytes::Bytes;
use memchr::memchr;

use super::fault::Fault;
use super::field::{self, Known};
use crate::message::Headers;

/// Finds line ends in a buffer that grows.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Where the current line starts.
    start: usize,
    /// Up to where there is no line feed of the current line.
    searched: usize,
}

impl Lines {
    /// The next line, its CRLF left out; `None` while it is incomplete. `limit` bounds the end of the line.
    pub(super) fn next(&mut self, bytes: &[u8], limit: usize) -> Result<Option<Range<usize>>, Fault> {
        let Some(offset) = memchr(b'\n', bytes.get(self.searched..).unwrap_or_default()) else {
            self.searched = bytes.len();
            return if bytes.len() > limit { Err(Fault::HeadTooLarge) } else { Ok(None) };
        };
        let feed = self.searched + offset;
        if feed >= limit {
            return Err(Fault::HeadTooLarge);
        }
        let line = bytes.get(self.start..feed).unwrap_or_default();
        let [content @ .., b'\r'] = line else { return Err(Fault::BareLineFeed) };
        let content = self.start..self.start + content.len();
        self.start = feed + 1;
        self.searched = self.start;
        Ok(Some(content))
    }

    /// Where the next line starts: after the last line, the length of the whole.
    pub(super) fn position(&self) -> usize {
        self.start
    }
}

/// A part of the buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn new(start: usize, len: usize) -> Option<Self> {
        Some(Self { start: u32::try_from(start).ok()?, len: u32::try_from(len).ok()? })
    }

    pub(super) fn range(self) -> Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }

    pub(super) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.range()).unwrap_or_default()
    }
}

/// A field line of the section.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: Span,
    pub(super) value: Span,
    pub(super) known: Known,
}

/// The field lines up to the empty line.
#[derive(Debug, Default)]
pub(super) struct Section {
    pub(super) lines: Lines,
    pub(super) fields: Vec<Field>,
}

impl Section {
    /// Reads on. True when the empty line has come; then [`Lines::position`] is the section's length.
    pub(super) fn read(&mut self, bytes: &[u8], limits: &super::Limits) -> Result<bool, Fault> {
        while let Some(line) = self.lines.next(bytes, limits.head_bytes)? {
            let start = line.start;
            let content = bytes.get(line).unwrap_or_default();
            if content.is_empty() {
                return Ok(true);
            }
            let field = parse_field(content, start)?;
            if self.fields.len() >= limits.fields {
                return Err(Fault::TooManyFields);
            }
            self.fields.push(field);
        }
        Ok(false)
    }

    /// Makes ready for the next section; keeps its memory.
    pub(super) fn reset(&mut self) {
        self.lines = Lines::default();
        self.fields.clear();
    }

    /// The fields for which `keep` holds, as spans of `head`.
    pub(super) fn headers(&self, head: &Bytes, mut keep: impl FnMut(&Field) -> bool) -> Headers {
        let mut headers = Headers::with_buffer(head.clone(), self.fields.len() + ROOM);
        for field in self.fields.iter().filter(|field| keep(field)) {
            headers.push_span((field.name.start, field.name.len), (field.value.start, field.value.len));
        }
        headers
    }
}

/// Fields that the proxy adds to most heads.
const ROOM: usize = 4;

fn parse_field(line: &[u8], start: usize) -> Result<Field, Fault> {
    let Some(colon) = line.iter().position(|byte| !field::is_token_byte(*byte)) else {
        return Err(Fault::FieldColon);
    };
    if colon == 0 || line.get(colon) != Some(&b':') {
        return Err(name_fault(line, colon));
    }
    let name = line.get(..colon).unwrap_or_default();
    let rest = line.get(colon + 1..).unwrap_or_default();
    if !field::is_content(rest) {
        return Err(if rest.contains(&b'\r') { Fault::BareCarriageReturn } else { Fault::FieldValue });
    }
    let lead = rest.iter().take_while(|byte| field::is_space(**byte)).count();
    let value = field::trim(rest.get(lead..).unwrap_or_default());
    let known = field::classify(name);
    if known == Known::Imitation {
        return Err(Fault::FieldImitation);
    }
    let spans = Span::new(start, colon).zip(Span::new(start + colon + 1 + lead, value.len()));
    let (name, value) = spans.ok_or(Fault::HeadTooLarge)?;
    Ok(Field { name, value, known })
}

/// What is wrong with a name that ends in something else than a colon at `end`.
#[cold]
fn name_fault(line: &[u8], end: usize) -> Fault {
    match line.get(end) {
        Some(b'\r') => Fault::BareCarriageReturn,
        Some(b' ' | b'\t') if end == 0 => Fault::FieldFold,
        Some(b' ' | b'\t') if field::trim(line.get(end..).unwrap_or_default()).first() == Some(&b':') => {
            Fault::FieldNameSpace
        }
        _ if !line.contains(&b':') => Fault::FieldColon,
        _ => Fault::FieldName,
    }
}
