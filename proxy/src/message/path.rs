//! One canonical form of a path, computed once, by which routing, filters and logs decide and which is sent on (RFC 3986 §6.2.2).

use http::uri::PathAndQuery;

/// What to do with `%2F` and `%5C` in a path (`path_with_escaped_slashes_action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum EscapedSlashes {
    /// As they are.
    #[default]
    Keep,
    /// 400.
    Reject,
    /// Unescape and redirect.
    UnescapeAndRedirect,
    /// Unescape and go on.
    UnescapeAndForward,
}

/// What to change in a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PathOptions {
    /// Decode what needs no encoding, upper-case the rest, turn `\` into `/`, resolve dot segments (`normalize_path`).
    pub(crate) normalize: bool,
    /// Make one slash of several (`merge_slashes`).
    pub(crate) merge_slashes: bool,
    /// What to do with escaped slashes; comes first.
    pub(crate) escaped_slashes: EscapedSlashes,
}

/// Why a request does not go on with its path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    /// `%` without two hexadecimal digits.
    #[error("the path has a malformed percent-encoding")]
    Malformed,
    /// `%00`.
    #[error("the path has an encoded NUL")]
    Nul,
    /// `%2F` or `%5C`, which are configured to be refused.
    #[error("the path has an escaped slash")]
    EscapedSlash,
    /// `..;x`: some servers take it for `..`, others for a name.
    #[error("the path has a dot segment with a parameter")]
    Ambiguous,
    /// Not an error: redirect there (escaped slashes were unescaped). Starts with one slash.
    #[error("the path is to be redirected to its unescaped form")]
    Redirect(PathAndQuery),
}

/// The canonical form of `path`; `None` when it is in that form already. The query stays as it is, and so does `*`.
///
/// Normalised paths are a fixed point: doing it again changes nothing.
pub(crate) fn normalize(
    path: &PathAndQuery,
    options: &PathOptions,
) -> Result<Option<PathAndQuery>, PathError> {
    let original = path.path().as_bytes();
    if original.first() != Some(&b'/') || !may_change(original) {
        return Ok(None);
    }
    let (mut bytes, unescaped) = unescape_slashes(original, options.escaped_slashes)?;
    if options.normalize {
        bytes = remove_dot_segments(&decode(&bytes)?)?;
    }
    let redirect = unescaped && options.escaped_slashes == EscapedSlashes::UnescapeAndRedirect;
    if options.merge_slashes {
        bytes.dedup_by(|next, previous| *next == b'/' && *previous == b'/');
    } else if redirect {
        // A location that starts with two slashes would name another host.
        let doubled = bytes.iter().take_while(|byte| **byte == b'/').count().saturating_sub(1);
        bytes.drain(..doubled);
    }
    if bytes == original {
        return Ok(None);
    }
    if let Some(query) = path.query() {
        bytes.push(b'?');
        bytes.extend_from_slice(query.as_bytes());
    }
    let changed =
        PathAndQuery::from_maybe_shared(bytes::Bytes::from(bytes)).map_err(|_| PathError::Malformed)?;
    if redirect { Err(PathError::Redirect(changed)) } else { Ok(Some(changed)) }
}

/// Whether a path has anything that any option would look at: most have not.
fn may_change(path: &[u8]) -> bool {
    let mut previous = 0;
    path.iter().any(|byte| {
        let found = matches!(byte, b'%' | b'\\') || (previous == b'/' && matches!(byte, b'/' | b'.'));
        previous = *byte;
        found
    })
}

fn unescape_slashes(path: &[u8], policy: EscapedSlashes) -> Result<(Vec<u8>, bool), PathError> {
    if policy == EscapedSlashes::Keep {
        return Ok((path.to_vec(), false));
    }
    let mut out = Vec::with_capacity(path.len());
    let mut found = false;
    let mut rest = path;
    while let [first, after @ ..] = rest {
        let slash = match rest {
            [b'%', b'2', b'f' | b'F', ..] => Some(b'/'),
            [b'%', b'5', b'c' | b'C', ..] => Some(b'\\'),
            _ => None,
        };
        out.push(slash.unwrap_or(*first));
        found |= slash.is_some();
        rest = if slash.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    if found && policy == EscapedSlashes::Reject {
        return Err(PathError::EscapedSlash);
    }
    Ok((out, found))
}

/// Decodes once what needs no encoding; so a decoded `%` never becomes the start of another escape.
fn decode(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'\\' => out.push(b'/'),
            b'%' => {
                let [high, low, after @ ..] = rest else { return Err(PathError::Malformed) };
                rest = after;
                let byte = hex(*high)? << 4 | hex(*low)?;
                match byte {
                    0 => return Err(PathError::Nul),
                    b'-' | b'.' | b'_' | b'~' => out.push(byte),
                    byte if byte.is_ascii_alphanumeric() => out.push(byte),
                    _ => out.extend([b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]),
                }
            }
            byte => out.push(*byte),
        }
    }
    Ok(out)
}

fn hex(byte: u8) -> Result<u8, PathError> {
    match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        b'A'..=b'F' => Ok(byte - b'A' + 10),
        _ => Err(PathError::Malformed),
    }
}

/// RFC 3986 §5.2.4.
fn remove_dot_segments(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut out = Vec::with_capacity(path.len());
    let mut segments = path.get(1..).unwrap_or_default().split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"." => {}
            b".." => out.truncate(out.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
            [b'.', b';', ..] | [b'.', b'.', b';', ..] => return Err(PathError::Ambiguous),
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
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGE: PathOptions =
        PathOptions { normalize: true, merge_slashes: true, escaped_slashes: EscapedSlashes::Keep };

    fn with(path: &str, options: &PathOptions) -> Result<String, PathError> {
        let path: PathAndQuery = path.parse().unwrap();
        normalize(&path, options).map(|changed| changed.unwrap_or(path).to_string())
    }

    fn edge(path: &str) -> Result<String, PathError> {
        with(path, &EDGE)
    }

    #[test]
    fn i4_one_path_has_one_form() {
        for (path, wanted) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/", "/a/"),
            ("//a///b//", "/a/b/"),
            ("/a/./b", "/a/b"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/..", "/"),
            ("/../../x", "/x"),
            ("/a/../../x", "/x"),
            ("/%2e%2e/private", "/private"),
            ("/public/%2e%2E%2fx", "/public/..%2Fx"),
            ("/public/.%2e/x", "/x"),
            ("/a//../b", "/a/b"),
            ("/%61%7e%2D%5f", "/a~-_"),
            ("/%c3%a4%2b%20", "/%C3%A4%2B%20"),
            ("/%252e%252e/x", "/%252e%252e/x"),
            ("/%25%32%65", "/%252e"),
            ("/a\\..\\b", "/b"),
            ("/a%5c..%5Cb", "/a%5C..%5Cb"),
            ("/.a/..b/c../...", "/.a/..b/c../..."),
            ("/a;x=1/b;c", "/a;x=1/b;c"),
            ("/.", "/"),
            ("/a?b=/../c//%zz", "/a?b=/../c//%zz"),
            ("/a/..?b", "/?b"),
            ("/A", "/A"),
            ("/\u{e4}/..", "/"),
            ("*", "*"),
        ] {
            assert_eq!(edge(path).as_deref(), Ok(wanted), "{path}");
        }
    }

    #[test]
    fn i4_what_servers_read_differently_is_refused() {
        for (path, wanted) in [
            ("/a%", PathError::Malformed),
            ("/a%4", PathError::Malformed),
            ("/%zz", PathError::Malformed),
            ("/%%32e", PathError::Malformed),
            ("/%u002e", PathError::Malformed),
            ("/a%00b", PathError::Nul),
            ("/a/..;/b", PathError::Ambiguous),
            ("/a/.;x=y/b", PathError::Ambiguous),
            ("/a/%2e%2e;x/b", PathError::Ambiguous),
        ] {
            assert_eq!(edge(path), Err(wanted), "{path}");
        }
    }

    #[test]
    fn i4_every_escape_of_one_byte_has_one_form() {
        for byte in 1..=255_u8 {
            let (lower, upper) = (edge(&format!("/%{byte:02x}")), edge(&format!("/%{byte:02X}")));
            assert_eq!(lower, upper);
            let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            let wanted = match byte {
                b'.' => "/".to_owned(),
                byte if plain => format!("/{}", char::from(byte)),
                byte => format!("/%{byte:02X}"),
            };
            assert_eq!(lower, Ok(wanted));
        }
    }

    #[test]
    fn escaped_slashes_follow_the_policy() {
        let policy = |escaped_slashes, path| with(path, &PathOptions { escaped_slashes, ..EDGE });
        let redirect = |path: &str| Err(PathError::Redirect(path.parse().unwrap()));
        for path in ["/a%2Fb", "/a%2fb", "/a%5Cb", "/a%5cb", "/a%2F%2fb"] {
            assert_eq!(policy(EscapedSlashes::Reject, path), Err(PathError::EscapedSlash));
            assert_eq!(policy(EscapedSlashes::UnescapeAndForward, path).as_deref(), Ok("/a/b"));
            assert_eq!(policy(EscapedSlashes::UnescapeAndRedirect, path), redirect("/a/b"));
        }
        assert_eq!(
            policy(EscapedSlashes::UnescapeAndForward, "/a/%2e%2e%2fb?c=%2F").as_deref(),
            Ok("/b?c=%2F")
        );
        assert_eq!(policy(EscapedSlashes::UnescapeAndRedirect, "/a//b").as_deref(), Ok("/a/b"));
        assert_eq!(policy(EscapedSlashes::Reject, "/a%252Fb").as_deref(), Ok("/a%252Fb"));
    }

    #[test]
    fn a_redirect_never_names_another_host() {
        for normalize in [true, false] {
            let escaped_slashes = EscapedSlashes::UnescapeAndRedirect;
            let options = PathOptions { normalize, merge_slashes: false, escaped_slashes };
            let wanted = Err(PathError::Redirect("/evil.test/x//y".parse().unwrap()));
            assert_eq!(with("/%2F%2fevil.test/x//y", &options), wanted);
        }
    }

    #[test]
    fn nothing_changes_that_is_not_asked_for() {
        let none = PathOptions::default();
        assert_eq!(with("/a//../%2e%zz\\b", &none).as_deref(), Ok("/a//../%2e%zz\\b"));
        let merge = PathOptions { merge_slashes: true, ..none };
        assert_eq!(with("//a//../%2e", &merge).as_deref(), Ok("/a/../%2e"));
        let normalized = PathOptions { normalize: true, ..none };
        assert_eq!(with("//a//b/./c", &normalized).as_deref(), Ok("//a//b/c"));
    }
}
