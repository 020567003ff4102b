//! What is done to every request before routing and to every response after it: canonical path, identifiers, forwarded headers.
//!
//! The path is made canonical once, here; routing, policy and logs all see the same (R3).

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;

use super::{Exchange, Reply};
use crate::error::Reason;
use crate::message::{
    EscapedSlashes, Headers, Name, PathError, PathOptions, RequestHead, ResponseHead, Scheme, Value,
    normalize,
};
use crate::snapshot::Http;
use crate::trace;

impl Exchange<'_> {
    pub(super) fn prepare(&mut self, http: &Http, head: &mut RequestHead) -> Result<(), Reply> {
        self.normalize_path(http, head)?;
        forwarded_headers(http, head, self.downstream.connection.peer, self.downstream.scheme);
        self.request_id(http, head);
        if http.tracing {
            let worker = self.worker;
            let context = trace::continue_context(&mut head.headers, true, || worker.random());
            self.ending.record().trace_id = Some(context.trace_id);
        }
        if !self.ending.logs.is_empty() {
            let logs = std::mem::take(&mut self.ending.logs);
            let record = self.ending.record();
            for log in &logs {
                collect(&head.headers, log.format.wanted_request_headers(), &mut record.request_headers);
            }
            self.ending.logs = logs;
        }
        Ok(())
    }

    fn normalize_path(&mut self, http: &Http, head: &mut RequestHead) -> Result<(), Reply> {
        if !http.normalize_path && !http.merge_slashes && http.escaped_slashes == EscapedSlashes::Keep {
            return Ok(());
        }
        let options = PathOptions {
            normalize: http.normalize_path,
            merge_slashes: http.merge_slashes,
            escaped_slashes: http.escaped_slashes,
        };
        match normalize(&head.path, &options) {
            Ok(None) => Ok(()),
            Ok(Some(path)) => {
                head.path = path;
                Ok(())
            }
            Err(PathError::Redirect(path)) => Err(Reply::path_redirect(&path)),
            Err(error) => Err(Reply::new(Reason::BadRequest).detail(error.to_string())),
        }
    }

    /// Keeps the request's id; the edge makes its own, since a stranger's could be anything.
    fn request_id(&mut self, http: &Http, head: &mut RequestHead) {
        let existing = head.headers.get(REQUEST_ID).filter(|id| is_sane_id(id));
        let id = match existing {
            Some(id) if !http.use_remote_address || http.preserve_external_request_id => {
                HeaderValue::from_bytes(id).ok()
            }
            _ if http.generate_request_id => {
                let bits = (u128::from(self.worker.random()) << 64) | u128::from(self.worker.random());
                let id = HeaderValue::from_str(&trace::request_id(bits)).ok();
                if let Some(id) = &id {
                    head.headers.set(REQUEST_ID, id.clone());
                }
                id
            }
            _ => None,
        };
        self.ending.record().request_id = id;
    }
}

/// Copies the header fields that a log format asks for.
pub(super) fn collect(headers: &Headers, wanted: &[Arc<str>], into: &mut Vec<(Arc<str>, Vec<u8>)>) {
    for name in wanted {
        if let Some(value) = headers.get(name)
            && !into.iter().any(|(known, _)| known == name)
        {
            into.push((name.clone(), value.to_vec()));
        }
    }
}

const REQUEST_ID: &str = "x-request-id";

/// Printable, without what could break a log line or a page, and not long.
fn is_sane_id(id: &[u8]) -> bool {
    !id.is_empty()
        && id.len() <= 128
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte))
}

/// `x-forwarded-for`, `x-forwarded-proto`, and at the edge the removal of what only insiders may say (I3).
fn forwarded_headers(http: &Http, head: &mut RequestHead, peer: SocketAddr, scheme: Scheme) {
    let headers = &mut head.headers;
    if !http.use_remote_address {
        if !headers.contains("x-forwarded-proto") {
            headers.append(Name::Static("x-forwarded-proto"), Value::Static(scheme.as_str()));
        }
        return;
    }
    if has_internal(headers) {
        headers.retain(|name, _| !is_internal(name));
    }
    append_forwarded_for(headers, peer);
    headers.insert(Name::Static("x-forwarded-proto"), Value::Static(scheme.as_str()));
}

fn has_internal(headers: &Headers) -> bool {
    headers.iter().any(|(name, _)| is_internal(name))
}

/// Headers that steer this proxy or its neighbours, and would be obeyed if a stranger sent them.
fn is_internal(name: &[u8]) -> bool {
    let begins =
        |prefix: &[u8]| name.len() >= prefix.len() && name[..prefix.len()].eq_ignore_ascii_case(prefix);
    begins(b"x-envoy-") || begins(b"x-sidegate-")
}

fn append_forwarded_for(headers: &mut Headers, peer: SocketAddr) {
    let mut list = Vec::new();
    for value in headers.get_all("x-forwarded-for") {
        list.extend_from_slice(value);
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(peer.ip().to_canonical().to_string().as_bytes());
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(list)) {
        headers.set("x-forwarded-for", value);
    }
}

/// What every response gets, ours and the upstream's.
pub(super) fn finish_response(http: &Http, head: &mut ResponseHead) {
    if let (false, Some(name)) = (http.pass_server_header, &http.server_name)
        && let Ok(value) = HeaderValue::from_str(name)
    {
        head.headers.set("server", value);
    }
    if let Some(via) = &http.via
        && let Ok(value) = HeaderValue::from_str(via)
    {
        head.headers.append(Name::Static("via"), Value::Http(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_is_appended_to_one_list() {
        let mut headers = Headers::new();
        headers.append(Name::Static("x-forwarded-for"), Value::Static("1.1.1.1"));
        headers.append(Name::Static("x-forwarded-for"), Value::Static("2.2.2.2"));
        append_forwarded_for(&mut headers, "[::ffff:10.0.0.9]:5".parse().unwrap());
        assert_eq!(headers.get_str("x-forwarded-for"), Some("1.1.1.1, 2.2.2.2, 10.0.0.9"));
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn internal_headers_are_known_in_any_case() {
        assert!(is_internal(b"X-Envoy-Retry-On"));
        assert!(is_internal(b"x-sidegate-reason"));
        assert!(!is_internal(b"x-env"));
    }
}
