//! The only place that writes local replies: [`Reason`] → status, gRPC status, headers, body.

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::error::{Reason, grpc_status};
use crate::filter;
use crate::message::{Body, Headers, Name, RequestHead, Response, ResponseHead, Value, Version};
use crate::route::{Direct, Matcher, PathMatch, Redirect, RedirectPath, Route};
use crate::snapshot::Http;
use crate::telemetry::{Record, reason_id_text};

/// A response of the proxy's own.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) reason: Reason,
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Option<Bytes>,
    detail: Option<String>,
    /// In place of what the status stands for.
    grpc_status: Option<u16>,
}

impl Reply {
    /// With the reason's own status.
    pub(crate) fn new(reason: Reason) -> Self {
        Self {
            reason,
            status: reason.status(),
            headers: Vec::new(),
            body: None,
            detail: None,
            grpc_status: None,
        }
    }

    /// Another status than the reason's own.
    pub(super) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// To a gRPC client: that a deadline passed, whatever the status says of it.
    pub(super) fn grpc_deadline(mut self) -> Self {
        self.grpc_status = Some(DEADLINE_EXCEEDED);
        self
    }

    /// What the operator should know beyond the reason; never sent to the client.
    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub(super) fn from_filter(reply: filter::Reply) -> Self {
        Self { headers: reply.headers, detail: reply.detail, ..Self::new(reply.reason).status(reply.status) }
    }

    /// With this content instead of the reason's words.
    pub(super) fn body(mut self, body: Bytes) -> Self {
        self.body = Some(body);
        self
    }

    /// To the same resource under its canonical path.
    pub(super) fn path_redirect(path: &PathAndQuery) -> Self {
        let mut reply = Self::new(Reason::Redirect).status(StatusCode::TEMPORARY_REDIRECT);
        reply.headers.extend(location(path.as_str()));
        reply
    }

    /// The response for the client; the record learns the reason, and the flight recorder's id is named for what went wrong.
    pub(super) fn into_response(
        self,
        record: &mut Record,
        http: Option<&Http>,
        next_id: impl FnOnce() -> u64,
    ) -> Response {
        record.reason = Some(self.reason);
        record.detail = self.detail;
        let mut headers = Headers::new();
        if !self.reason.is_configured() {
            let id = next_id();
            record.reason_id = Some(id);
            let value = format!("{}; id={}", self.reason.label(), reason_id_text(id));
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.append(Name::Static("x-sidegate-reason"), Value::Http(value));
            }
        }
        for (name, value) in self.headers {
            headers.append(Name::Http(name), Value::Http(value));
        }
        if let Some(name) = http.and_then(|http| http.server_name.as_ref())
            && let Ok(value) = HeaderValue::from_str(name)
        {
            headers.append(Name::Static("server"), Value::Http(value));
        }
        if record.grpc && !self.reason.is_configured() {
            let status = self.grpc_status.unwrap_or_else(|| grpc_status(self.status));
            return grpc_reply(status, self.reason, headers);
        }
        let body = self.body.unwrap_or_else(|| text_for(self.reason));
        if !body.is_empty() && !headers.contains("content-type") {
            headers.append(Name::Static("content-type"), Value::Static("text/plain"));
        }
        let head = ResponseHead { status: self.status, version: Version::Http11, headers };
        let body = if body.is_empty() { Body::Empty } else { Body::Full(body) };
        Response { head, body }
    }
}

/// A trailers-only response (gRPC over HTTP/2, "Responses").
fn grpc_reply(status: u16, reason: Reason, mut headers: Headers) -> Response {
    headers.append(Name::Static("content-type"), Value::Static("application/grpc"));
    headers.append(Name::Static("grpc-status"), Value::Http(HeaderValue::from(status)));
    headers.append(Name::Static("grpc-message"), Value::Static(reason.label()));
    let head = ResponseHead { status: StatusCode::OK, version: Version::Http2, headers };
    Response { head, body: Body::Empty }
}

/// gRPC's DEADLINE_EXCEEDED.
const DEADLINE_EXCEEDED: u16 = 4;

/// What a person reads who sees only the body. Not more than the reason: details are for the operator.
fn text_for(reason: Reason) -> Bytes {
    match reason {
        Reason::Redirect => return Bytes::new(),
        // Envoy's words, by which clients know it.
        Reason::AccessDenied => return Bytes::from_static(b"RBAC: access denied"),
        _ => {}
    }
    Bytes::from(format!("sidegate: {}\n", reason.label().replace('_', " ")))
}

/// A `direct_response`.
pub(super) fn direct(direct: &Direct) -> Reply {
    let mut reply = Reply::new(Reason::DirectResponse).status(direct.status);
    reply.body = Some(direct.body.clone());
    reply
}

/// A `redirect`.
pub(super) fn redirect(redirect: &Redirect, route: &Route, head: &RequestHead) -> Reply {
    let mut reply = Reply::new(Reason::Redirect).status(redirect.status);
    reply.headers.extend(location(&redirect_url(redirect, &route.matcher, head)));
    reply
}

fn location(url: &str) -> Option<(HeaderName, HeaderValue)> {
    HeaderValue::from_str(url).ok().map(|value| (http::header::LOCATION, value))
}

fn redirect_url(redirect: &Redirect, matcher: &Matcher, head: &RequestHead) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(head.scheme.as_str());
    let authority = head.authority.as_ref();
    let host = redirect.host.as_deref().or(authority.map(|authority| authority.host())).unwrap_or_default();
    // The request's port only means something under the request's scheme and host.
    let same_place = redirect.scheme.is_none() && redirect.host.is_none();
    let port = redirect.port.or(authority.and_then(|authority| authority.port_u16()).filter(|_| same_place));
    let is_default = matches!((scheme, port), ("http", Some(80)) | ("https", Some(443)));
    let port = port.filter(|_| !is_default).map(|port| format!(":{port}")).unwrap_or_default();
    let query = head.path.query().filter(|_| !redirect.strip_query);
    let path = redirect_path(&redirect.path, matcher, head.path.path(), query);
    format!("{scheme}://{host}{port}{path}")
}

fn redirect_path(target: &RedirectPath, matcher: &Matcher, path: &str, query: Option<&str>) -> String {
    let with_query = |path: &str| match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    match target {
        RedirectPath::Keep => with_query(path),
        RedirectPath::Full(full) if full.query().is_some() => full.as_str().to_owned(),
        RedirectPath::Full(full) => with_query(full.path()),
        RedirectPath::Prefix(prefix) => with_query(&swap_prefix(&matcher.path, path, prefix)),
    }
}

/// The path with its matched part replaced. For `path_separated_prefix`, the slash between prefix and rest is kept single, as the
/// Gateway API asks of `ReplacePrefixMatch`.
pub(super) fn swap_prefix(matched: &PathMatch, path: &str, replacement: &str) -> String {
    let rest = match matched {
        PathMatch::Prefix(prefix) | PathMatch::Separated(prefix) => {
            path.get(prefix.len()..).unwrap_or_default()
        }
        PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::Connect => "",
    };
    let joined = match (replacement.ends_with('/'), rest.starts_with('/')) {
        (true, true) => format!("{replacement}{}", &rest[1..]),
        _ => format!("{replacement}{rest}"),
    };
    if joined.starts_with('/') { joined } else { format!("/{joined}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_swapped_without_doubling_slashes() {
        let separated = PathMatch::Separated("/old".into());
        assert_eq!(swap_prefix(&separated, "/old", "/new"), "/new");
        assert_eq!(swap_prefix(&separated, "/old/x", "/new"), "/new/x");
        assert_eq!(swap_prefix(&separated, "/old/x", "/"), "/x");
        assert_eq!(swap_prefix(&separated, "/old", "/"), "/");
        let prefix = PathMatch::Prefix("/".into());
        assert_eq!(swap_prefix(&prefix, "/x/y", "/api/"), "/api/x/y");
        assert_eq!(swap_prefix(&PathMatch::Exact("/a".into()), "/a", "/b"), "/b");
    }
}
