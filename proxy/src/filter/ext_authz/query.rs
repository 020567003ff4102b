//! Query parameters that the authorization service sets or takes off.

use http::uri::PathAndQuery;

/// The target with other parameters; `None` when nothing changes.
pub(super) fn change(
    path: &PathAndQuery,
    set: &[(String, String)],
    remove: &[String],
) -> Option<PathAndQuery> {
    if set.is_empty() && remove.is_empty() {
        return None;
    }
    let goes = |name: &str| {
        remove.iter().any(|gone| encoded(gone) == name || gone == name)
            || set.iter().any(|(set, _)| encoded(set) == name || set == name)
    };
    let pairs = path.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let kept = pairs.filter(|pair| !goes(pair.split_once('=').map_or(pair, |(name, _)| name)));
    let mut parts: Vec<String> = kept.map(ToOwned::to_owned).collect();
    parts.extend(set.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))));
    let target = match parts.is_empty() {
        true => path.path().to_owned(),
        false => format!("{}?{}", path.path(), parts.join("&")),
    };
    target.parse().ok()
}

/// Percent-encoded as a part of a query (RFC 3986 §2.3).
fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}
