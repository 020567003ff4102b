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
    /// Whether it holds of one reading; `as_it_stands`: of the path as the request has it.
    pub(super) fn holds(&self, path: &[u8], as_it_stands: bool) -> Truth {
        match self {
            Self::Text(text) => text.judge_bytes(path),
            Self::Template(template) => template.judge(path, as_it_stands),
        }
    }
}

/// Whether a path has one reading only. Most have.
pub(super) fn is_plain(path: &[u8]) -> bool {
    // A dot at the start of a segment may be a dot segment; a hidden file is looked at more closely too. Paths are short and most are
    // plain: it is cheaper to look at all bytes than to stop at the first that is doubtful.
    let doubtful = |byte: u8| byte == b'%' || byte == b';' || byte == b'\\';
    let doubtful = path.iter().fold(false, |found, byte| found | doubtful(*byte));
    let pairs = path.iter().zip(path.get(1..).unwrap_or_default());
    let dots = pairs
        .fold(false, |found, (one, next)| found | ((*one == b'/') & ((*next == b'/') | (*next == b'.'))));
    !doubtful && !dots
}

/// The readings of a path, its canonical form first; `None` when nobody can say what a server makes of it.
///
/// Servers decode, drop parameters, merge slashes and resolve dots in orders of their own, and some more than once: whatever any
/// order of these steps leads to is a reading.
pub(super) fn readings(path: &str) -> Option<Vec<Vec<u8>>> {
    if !is_well_encoded(path.as_bytes()) {
        return None;
    }
    let mut found = vec![path.as_bytes().to_vec()];
    let mut next = 0;
    while let Some(reading) = found.get(next) {
        let steps = [decoded, with_slashes, cut, without_parameters, merged, resolved];
        let new: Vec<Vec<u8>> = steps.iter().filter_map(|step| step(reading)).collect();
        for reading in new {
            if reading.contains(&0) || is_overlong(&reading) {
                return None;
            }
            if !found.contains(&reading) {
                found.push(reading);
            }
        }
        // Somebody is trying.
        if found.len() > MOST_READINGS {
            return None;
        }
        next += 1;
    }
    Some(found)
}

/// Readings of a path that are told apart.
const MOST_READINGS: usize = 32;

/// Whether every `%` begins an encoding.
fn is_well_encoded(path: &[u8]) -> bool {
    let mut escapes = path.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    escapes.all(|(at, _)| encoded(path.get(at + 1..).unwrap_or_default()).is_some())
}

/// Everything decoded, once; what is malformed further in is text that looks like an encoding (`/100%25`). Each step gives `None` when
/// it changes nothing.
fn decoded(path: &[u8]) -> Option<Vec<u8>> {
    path.contains(&b'%').then(|| {
        let mut out = Vec::with_capacity(path.len());
        let mut rest = path;
        while let [first, after @ ..] = rest {
            rest = after;
            match encoded(after).filter(|_| *first == b'%') {
                Some(byte) => {
                    rest = after.get(2..).unwrap_or_default();
                    out.push(byte);
                }
                None => out.push(*first),
            }
        }
        out
    })
}

/// The byte that two hexadecimal digits are.
fn encoded(text: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let [high, low, ..] = text else { return None };
    u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()
}

/// `\` as `/`.
fn with_slashes(path: &[u8]) -> Option<Vec<u8>> {
    let slash = |byte: &u8| if *byte == b'\\' { b'/' } else { *byte };
    path.contains(&b'\\').then(|| path.iter().map(slash).collect())
}

/// Without what was decoded into a query or a fragment.
fn cut(path: &[u8]) -> Option<Vec<u8>> {
    let end = path.iter().position(|byte| matches!(byte, b'?' | b'#'))?;
    path.get(..end).map(<[u8]>::to_vec)
}

/// UTF-8 that writes a character with more bytes than it needs: some decoders make a slash or a dot of it.
fn is_overlong(text: &[u8]) -> bool {
    text.windows(2)
        .any(|pair| matches!(pair, [0xc0 | 0xc1, 0x80..=0xbf] | [0xe0, 0x80..=0x9f] | [0xf0, 0x80..=0x8f]))
}

/// `/a;x=1/b` as `/a/b`.
fn without_parameters(path: &[u8]) -> Option<Vec<u8>> {
    path.contains(&b';').then(|| {
        let segments = path.split(|byte| *byte == b'/');
        let names = segments.map(|segment| segment.split(|byte| *byte == b';').next().unwrap_or_default());
        names.collect::<Vec<_>>().join(&b'/')
    })
}

/// One slash for several.
fn merged(path: &[u8]) -> Option<Vec<u8>> {
    path.windows(2).any(|pair| pair == b"//").then(|| {
        let mut path = path.to_vec();
        path.dedup_by(|next, previous| *next == b'/' && *previous == b'/');
        path
    })
}

/// RFC 3986 §5.2.4, for a path that begins with a slash.
fn resolved(path: &[u8]) -> Option<Vec<u8>> {
    path.windows(2).any(|pair| pair == b"/.").then(|| without_dots(path))
}

fn without_dots(path: &[u8]) -> Vec<u8> {
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
            assert!(is_plain(path.as_bytes()), "{path}");
            assert_eq!(texts(path), [path]);
        }
        for path in ["/%41", "/a;b", "/a\\b", "//a", "/./a", "/.git", "/a/.."] {
            assert!(!is_plain(path.as_bytes()), "{path}");
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
            // Dots first, then the encoding, as browsers' URL parsers do.
            ("/public%2fpublic/../%70rivate", "/private"),
            ("/a%5cb/../private", "/private"),
            ("/x/%2e%2e%5c..%5cprivate", "/private"),
        ] {
            let texts = texts(path);
            assert_eq!(texts[0], path);
            assert!(texts.iter().any(|text| text == reading), "{path}: {texts:?}");
        }
    }

    #[test]
    fn i4_what_nobody_can_tell() {
        for path in
            ["/%", "/%4", "/%zz", "/%u002e", "/a%00b", "/%c0%ae", "/%c0%af", "/%e0%80%af", "/%ff%2500"]
        {
            assert_eq!(readings(path), None, "{path}");
        }
        assert_eq!(texts("/100%25"), ["/100%25", "/100%"]);
        let many = format!("/%{}61", "25".repeat(40));
        assert_eq!(readings(&many), None, "nobody writes that by chance");
        // However many there are at one step, and however few too many.
        let nested = |depth: usize| readings(&format!("/a/%{}2e/..;x//a", "25".repeat(depth)));
        assert_eq!(nested(4).map(|readings| readings.len()), Some(MOST_READINGS));
        for depth in 5..40 {
            assert!(nested(depth).is_none_or(|readings| readings.len() <= MOST_READINGS), "{depth}");
        }
        // Letters of Latin-1 are none of that.
        assert!(readings("/caf%e9").is_some() && readings("/%c0").is_some());
    }
}
