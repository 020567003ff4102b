//! Hostnames as the Gateway API has them: exact, or `*.suffix` for one or more labels in front of the suffix.
//!
//! Everything here is in lower case; `*` alone stands for every host.

/// Every host.
pub(super) const ANY: &str = "*";

/// Whether this is a hostname that the Gateway API allows: labels of letters, digits and `-`, perhaps behind `*.`.
/// (An IP address reads as such labels; the API forbids it, and a numeric last label gives it away.)
pub(super) fn is_valid(host: &str) -> bool {
    let labels = host.strip_prefix("*.").unwrap_or(host);
    let numeric_end =
        labels.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    host.len() <= 253 && !numeric_end && labels.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&label.len())
        && label.bytes().all(inside)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Whether every host that `narrow` stands for is one that `wide` stands for.
pub(super) fn covers(wide: &str, narrow: &str) -> bool {
    if wide == ANY || wide == narrow {
        return true;
    }
    // `*.a.b` covers `x.a.b`, `x.y.a.b` and `*.x.a.b`, but not `a.b`.
    wide.strip_prefix('*').is_some_and(|suffix| narrow.len() > suffix.len() && narrow.ends_with(suffix))
}

/// The hosts that both stand for; of two patterns that overlap, one always covers the other.
pub(super) fn intersect<'a>(one: &'a str, other: &'a str) -> Option<&'a str> {
    if covers(one, other) {
        Some(other)
    } else if covers(other, one) {
        Some(one)
    } else {
        None
    }
}

/// How specific a pattern is: "characters in a matching non-wildcard hostname", then "characters in a matching hostname".
pub(super) fn specificity(pattern: &str) -> (usize, usize) {
    if pattern == ANY {
        (0, 0)
    } else if pattern.starts_with('*') {
        (0, pattern.len())
    } else {
        (pattern.len(), pattern.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames_meet_as_the_gateway_api_says() {
        let table = [
            ("test.example.com", "test.example.com", Some("test.example.com")),
            ("test.example.com", "*.example.com", Some("test.example.com")),
            ("*.example.com", "foo.test.example.com", Some("foo.test.example.com")),
            ("*.example.com", "*.example.com", Some("*.example.com")),
            ("*.example.com", "*.test.example.com", Some("*.test.example.com")),
            ("*.test.example.com", "*.example.com", Some("*.test.example.com")),
            ("*.example.com", "example.com", None),
            ("*.example.com", "test.example.net", None),
            ("*.example.com", "testexample.com", None),
            ("a.example.com", "b.example.com", None),
            ("*", "example.com", Some("example.com")),
            ("*", "*", Some("*")),
        ];
        for (one, other, expected) in table {
            assert_eq!(intersect(one, other), expected, "{one} with {other}");
            assert_eq!(intersect(other, one), expected, "{other} with {one}");
        }
    }

    #[test]
    fn only_hostnames_are_hostnames() {
        for host in ["example.com", "*.example.com", "a", "x-1.example.com", "1.example.com"] {
            assert!(is_valid(host), "{host}");
        }
        for host in
            ["", "*", "foo.*", "*foo.com", "a.*.b", "example.com:80", "10.0.0.1", "-a.b", "a..b", "a_b.c"]
        {
            assert!(!is_valid(host), "{host}");
        }
    }
}
