//! What a route makes of path and host. What it makes of the path is sent, or nothing is: the path as it came was never meant for the endpoint.

use super::{Reply, reply};
use crate::error::Reason;
use crate::message::RequestHead;
use crate::route::{Forward, HostRewrite, Rewrite, Route};

/// Rewrites path and host. `normalized`: the path was made canonical, and must be so still.
pub(super) fn apply(
    forward: &Forward,
    route: &Route,
    normalized: bool,
    head: &mut RequestHead,
) -> Result<(), Reply> {
    let path = match &forward.rewrite {
        Rewrite::Keep => None,
        Rewrite::Prefix(prefix) => Some(reply::swap_prefix(&route.matcher.path, head.path.path(), prefix)),
        Rewrite::Regex(regex) => Some(regex.0.replace_all(head.path.path(), regex.1.as_str()).into_owned()),
    };
    if let Some(path) = path {
        set_path(head, path, normalized)?;
    }
    if let HostRewrite::Literal(authority) = &forward.host_rewrite {
        head.authority = Some(authority.clone());
    }
    Ok(())
}

fn set_path(head: &mut RequestHead, path: String, normalized: bool) -> Result<(), Reply> {
    // Policies have decided about a path without such segments; the endpoint would resolve them.
    if normalized && has_dot_segment(&path) {
        let detail = format!("rewritten, the path would have a dot segment: {path}");
        return Err(Reply::new(Reason::BadRequest).detail(detail));
    }
    // `*` is what OPTIONS asks for the whole server; a fragment would be cut off, with the query behind it.
    let is_path = (path.starts_with('/') || path == "*") && !path.contains('#');
    let full = match head.path.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    match full.parse() {
        Ok(path) if is_path => {
            head.path = path;
            Ok(())
        }
        _ => Err(Reply::new(Reason::InvalidRewrite).detail(format!("{full:?} is no path"))),
    }
}

/// Whether a segment is `.` or `..`, escaped or not.
fn has_dot_segment(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    path.split(['/', '\\']).any(|segment| {
        let dots = segment.replace("%2e", ".").replace("%2E", ".");
        dots == "." || dots == ".."
    })
}

#[cfg(test)]
mod tests {
    use http::Method;
    use http::uri::PathAndQuery;

    use super::*;
    use crate::message::{Headers, Scheme, Version};

    /// The path that is sent, or the status of the refusal.
    fn set(path: &str, normalized: bool) -> Result<String, Reason> {
        let mut head = RequestHead {
            method: Method::GET,
            scheme: Scheme::Http,
            authority: None,
            path: PathAndQuery::from_static("/was?q"),
            version: Version::Http11,
            headers: Headers::new(),
        };
        set_path(&mut head, path.to_owned(), normalized).map_err(|reply| reply.reason)?;
        Ok(head.path.as_str().to_owned())
    }

    #[test]
    fn what_is_no_path_is_never_sent() {
        assert_eq!(set("/new", true).unwrap(), "/new?q");
        for path in ["", "foo", "/a b", "/a#b", "http://other/"] {
            assert_eq!(set(path, false), Err(Reason::InvalidRewrite), "{path:?}");
        }
    }

    #[test]
    fn a_canonical_path_stays_one() {
        for path in ["/static/../secret", "/a/.", "/a/%2e%2E/b", "/..", "/a\\..\\b"] {
            assert_eq!(set(path, true), Err(Reason::BadRequest), "{path:?}");
        }
        assert_eq!(set("/static/../secret", false).unwrap(), "/static/../secret?q");
        for path in ["/a/..b", "/a/.b/c..", "/a?b=/../"] {
            assert!(set(path, true).is_ok(), "{path:?}");
        }
    }
}
