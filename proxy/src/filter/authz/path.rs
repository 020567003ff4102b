//! How a path may be read by what stands behind us (I4).
//!
//! Rules see the canonical path, once made for everybody (R3). What canonical form leaves to interpretation (`%2F`, `;x`, an encoding
//! within an encoding) is decoded here as the boldest of servers would: a rule is certain of a path only when every reading agrees.

use super::template::Template;
use super::text::Text;
use super::truth::Truth;

/// What must hold for a path without its query.
#[derive(Debug)]
pub(crate) enum PathTest {
    /// `url_path`.
    Text(Text),
    /// `uri_template`.
    Template(Template),
}

impl PathTest {
    /// Whether it holds of one reading.
    pub(super) fn holds(&self, path: &[u8]) -> Truth {
        match self {
            Self::Text(text) => text.judge(path),
            Self::Template(template) => {
                std::str::from_utf8(path).map_or(Truth::Unclear, |path| template.judge(path))
            }
        }
    }
}

/// Whether a path has one reading only. Most have.
pub(super) fn is_plain(path: &str) -> bool {
    let mut previous = 0;
    // A dot at the start of a segment may be a dot segment; a hidden file is looked at more closely too.
    !path.bytes().any(|byte| {
        let doubtful =
            matches!(byte, b'%' | b';' | b'\\') || (previous == b'/' && matches!(byte, b'/' | b'.'));
        previous = byte;
        doubtful
    })
}

/// The readings of a path, its canonical form first; `None` when nobody can say what a server makes of it.
pub(super) fn readings(path: &str) -> Option<Vec<Vec<u8>>> {
    let mut found = vec![path.as_bytes().to_vec()];
    let mut current = path.as_bytes().to_vec();
    for round in 0..ROUNDS {
        // What is malformed further in is text that looks like an encoding: `/100%25`.
        let decoded = decode(&current, round > 0)?;
        if decoded.contains(&0) || is_overlong(&decoded) {
            return None;
        }
        for with_parameters in [true, false] {
            let text = if with_parameters { decoded.clone() } else { without_parameters(&decoded) };
            let mut merged = text.clone();
            merge(&mut merged);
            let mut resolved = resolve(&text);
            merge(&mut resolved);
            for reading in [resolve(&merged), resolved] {
                let cut = reading.iter().position(|byte| matches!(byte, b'?' | b'#'));
                if let Some(cut) = cut {
                    note(&mut found, reading[..cut].to_vec());
                }
                note(&mut found, reading);
            }
        }
        if decoded == current {
            return Some(found);
        }
        current = decoded;
    }
    // An encoding in an encoding in an encoding: somebody is trying.
    None
}

/// Times that a path may have been encoded.
const ROUNDS: usize = 3;

fn note(found: &mut Vec<Vec<u8>>, reading: Vec<u8>) {
    if !found.contains(&reading) {
        found.push(reading);
    }
}

/// Decodes everything; `None` when an encoding is malformed, unless such a thing is to be left as it is.
fn decode(path: &[u8], lenient: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, after @ ..] = rest {
        rest = after;
        let byte = match (first, encoded(after)) {
            (b'%', Some(byte)) => {
                rest = after.get(2..).unwrap_or_default();
                byte
            }
            (b'%', None) if !lenient => return None,
            (byte, _) => *byte,
        };
        out.push(if byte == b'\\' { b'/' } else { byte });
    }
    Some(out)
}

/// The byte that two hexadecimal digits are.
fn encoded(text: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let [high, low, ..] = text else { return None };
    u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()
}

/// UTF-8 that writes a character with more bytes than it needs: some decoders make a slash or a dot of it.
fn is_overlong(text: &[u8]) -> bool {
    text.windows(2).any(|pair| match pair {
        [0xc0 | 0xc1, 0x80..=0xbf] | [0xe0, 0x80..=0x9f] | [0xf0, 0x80..=0x8f] => true,
        _ => false,
    })
}

/// `/a;x=1/b` as `/a/b`.
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let segments = path.split(|byte| *byte == b'/');
    let names = segments.map(|segment| segment.split(|byte| *byte == b';').next().unwrap_or_default());
    names.collect::<Vec<_>>().join(&b'/')
}

fn merge(path: &mut Vec<u8>) {
    path.dedup_by(|next, previous| *next == b'/' && *previous == b'/');
}

/// RFC 3986 §5.2.4, for a path that begins with a slash.
fn resolve(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut segments = path.get(1..).unwrap_or_default().split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"." => {}
            b".." => out.truncate(out.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
            segment => {
                out.push(b'/');
                out.extend_from_slice(segment);
                continue;
            }
        }
        if segments.peek().is_none() {
            out.push(b'/');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &str) -> Vec<String> {
        let readings = readings(path).unwrap_or_else(|| panic!("{path}"));
        readings.into_iter().map(|reading| String::from_utf8(reading).unwrap()).collect()
    }

    #[test]
    fn i4_a_plain_path_has_one_reading() {
        for path in ["/", "/a/b.c", "/a/b/", "/a=b,c:d@e"] {
            assert!(is_plain(path), "{path}");
            assert_eq!(texts(path), [path]);
        }
        for path in ["/%41", "/a;b", "/a\\b", "//a", "/./a", "/.git", "/a/.."] {
            assert!(!is_plain(path), "{path}");
        }
    }

    #[test]
    fn i4_what_a_server_may_make_of_it() {
        for (path, reading) in [
            ("/public/..%2Fprivate", "/private"),
            ("/public%2F..%2Fprivate", "/private"),
            ("/public/%2e%2e/private", "/private"),
            ("/public/%252e%252e/private", "/private"),
            ("/public/..;x/private", "/private"),
            ("/private;x=1", "/private"),
            ("/private%3Bx", "/private"),
            ("/private%3Fx", "/private"),
            ("//private", "/private"),
            ("/%2Fprivate", "/private"),
            ("/public%5C..%5cprivate", "/private"),
            ("/public/%2F/../private", "/public/private"),
            ("/public/%2F/../private", "/private"),
            ("/%70rivate", "/private"),
            ("/private/.", "/private/"),
        ] {
            let texts = texts(path);
            assert_eq!(texts[0], path);
            assert!(texts.iter().any(|text| text == reading), "{path}: {texts:?}");
        }
    }

    #[test]
    fn i4_what_nobody_can_tell() {
        for path in
            ["/%", "/%4", "/%zz", "/%u002e", "/a%00b", "/%c0%ae", "/%c0%af", "/%e0%80%af", "/%25252561"]
        {
            assert_eq!(readings(path), None, "{path}");
        }
        assert_eq!(texts("/100%25"), ["/100%25", "/100%"]);
        // Letters of Latin-1 are none of that.
        assert!(readings("/caf%e9").is_some() && readings("/%c0").is_some());
    }
}
