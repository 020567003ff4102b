//! What is done to every request before routing and to every response after it: canonical path, identifiers, forwarded headers.
//!
//! The path is made canonical once, here; routing, policy and logs all see the same (R3).

use std::net::SocketAddr;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderValue, Method};

use super::{Exchange, Reply, certificate, forwarded};
use crate::error::Reason;
use crate::message::{
    EscapedSlashes, Headers, Name, PathError, PathOptions, RequestHead, ResponseHead, Value, Version,
    normalize,
};
use crate::snapshot::{Choice, Facts, Http, StripPort, TLS, Told, Underscores};
use crate::telemetry::Record;
use crate::trace;

impl Exchange<'_> {
    pub(super) fn prepare(&mut self, http: &Http, head: &mut RequestHead) -> Result<(), Reply> {
        if head.authority.is_none() && http.default_host.is_some() {
            head.authority.clone_from(&http.default_host);
            self.ending.record().authority.clone_from(&http.default_host);
        }
        // HTTP/1.0 may leave it out; what goes on is HTTP/1.1, which may not.
        if head.authority.is_none() && head.version == Version::Http10 {
            let detail = "HTTP/1.0 without Host, and no default_host_for_http_10";
            return Err(Reply::new(Reason::BadRequest).detail(detail));
        }
        self.refuse_misdirected(head)?;
        self.normalize_path(http, head)?;
        match http.underscores {
            // What proxies say of a client must not be what the client says, to whoever takes the one for the other.
            Underscores::Allow => head.headers.remove_alike_of_proxies(),
            action => check_underscores(action, &mut head.headers)?,
        }
        canonical_host(http, head, self.downstream.connection.local.port());
        let connection = &self.downstream.connection;
        let caller = forwarded::identify(
            &http.forwarding,
            http.use_remote_address,
            head,
            connection.peer,
            connection.local,
        );
        self.inside = caller.inside;
        if let Some(address) = caller.address {
            self.ending.record().peer = SocketAddr::new(address, 0);
        }
        if let Some(scheme) = http.scheme {
            head.scheme = scheme;
        }
        let security = self.downstream.connection.security.as_deref();
        certificate::forward(&http.client_certificate, &mut head.headers, security);
        self.request_id(http, caller.stranger, head);
        if http.tracing {
            let worker = self.worker;
            let context =
                trace::continue_context(&mut head.headers, true, !caller.stranger, || worker.random());
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

    /// A client that has a TLS connection for one host may send requests for another on it. Where that other host has a certificate, or
    /// asks clients for theirs, otherwise, they belong on a connection of their own (RFC 9110 §15.5.20; C5).
    fn refuse_misdirected(&self, head: &RequestHead) -> Result<(), Reply> {
        let connection = &self.downstream.connection;
        let (Some(security), Some(authority)) = (&connection.security, &head.authority) else {
            return Ok(());
        };
        // As routes take it: what is written otherwise must not get around this.
        let host = authority.host().trim_matches(['[', ']']);
        let host = host.strip_suffix('.').unwrap_or(host);
        if security.server_name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(host)) {
            return Ok(());
        }
        if !security.admits(host) {
            let detail = format!("{host} has another certificate than this connection's");
            return Err(Reply::new(Reason::Misdirected).detail(detail));
        }
        let host = host.to_ascii_lowercase();
        let (snapshot, chain) = self.downstream.member.load(&self.worker.snapshots);
        let listener = snapshot.listeners.get(&connection.listener);
        let (Some(listener), Some(own)) = (listener, &chain.security) else { return Ok(()) };
        let context_for = |protocols: &[Box<str>]| {
            let facts = Facts {
                destination: connection.local,
                direct_source: self.downstream.direct_source,
                source: connection.peer,
                told: Some(Told { server_name: &host, transport: TLS, protocols }),
            };
            let Choice::Chain(chain) = listener.chains.choose(&facts) else { return None };
            chain.security.as_ref().map(|security| security.context.clone())
        };
        let is_own = |context: Arc<_>| Arc::ptr_eq(&context, &own.context);
        // A proxy of the mesh offers the mesh's protocol whatever the host, and comes to this chain with it: what others would get is
        // another matter.
        if own.mutual && context_for(&["istio".into()]).is_some_and(is_own) {
            return Ok(());
        }
        // A connection of the host's own would be on one of these, by what it offers.
        let offers = [&[][..], &["h2".into()], &["http/1.1".into()]];
        let is_other =
            offers.iter().any(|protocols| context_for(protocols).is_some_and(|context| !is_own(context)));
        if is_other {
            let detail = format!("{host} has another TLS policy than this connection's");
            return Err(Reply::new(Reason::Misdirected).detail(detail));
        }
        Ok(())
    }

    fn normalize_path(&mut self, http: &Http, head: &mut RequestHead) -> Result<(), Reply> {
        match canonical_path(http, &head.path) {
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
    fn request_id(&mut self, http: &Http, stranger: bool, head: &mut RequestHead) {
        let existing = head.headers.get(REQUEST_ID).filter(|id| is_sane_id(id));
        let id = match existing {
            Some(id) if !stranger || http.preserve_external_request_id => HeaderValue::from_bytes(id).ok(),
            _ if http.generate_request_id => {
                let bits = (u128::from(self.worker.random()) << 64) | u128::from(self.worker.random());
                let id = HeaderValue::from_maybe_shared(self.worker.text(&trace::request_id(bits))).ok();
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

/// The path's canonical form by what the connection manager asks for; `None` when it has that form.
pub(super) fn canonical_path(http: &Http, path: &PathAndQuery) -> Result<Option<PathAndQuery>, PathError> {
    if !http.normalize_path && !http.merge_slashes && http.escaped_slashes == EscapedSlashes::Keep {
        return Ok(None);
    }
    let options = PathOptions {
        normalize: http.normalize_path,
        merge_slashes: http.merge_slashes,
        escaped_slashes: http.escaped_slashes,
    };
    normalize(path, &options)
}

/// `headers_with_underscores_action`: `X_Forwarded_For` is `X-Forwarded-For` to many an application (A27).
fn check_underscores(action: Underscores, headers: &mut Headers) -> Result<(), Reply> {
    let has_one = |name: &[u8]| name.contains(&b'_');
    if action == Underscores::Reject && headers.iter().any(|(name, _)| has_one(name)) {
        return Err(Reply::new(Reason::BadRequest).detail("a header's name has an underscore"));
    }
    headers.retain(|name, _| !has_one(name));
    Ok(())
}

/// The host's form by what the connection manager asks for: what is taken off stays off upstream, as in Envoy.
pub(super) fn canonical_host(http: &Http, head: &mut RequestHead, own: u16) {
    if http.strip_trailing_dot {
        strip_trailing_dot(head);
    }
    if http.strip_port != StripPort::Never {
        strip_port(http.strip_port, head, own);
    }
}

/// `strip_trailing_host_dot`; the port stays.
fn strip_trailing_dot(head: &mut RequestHead) {
    let Some(authority) = &head.authority else { return };
    let Some(host) = authority.host().strip_suffix('.').filter(|host| !host.is_empty()) else { return };
    let without = match authority.port() {
        Some(port) => format!("{host}:{port}").parse(),
        None => host.parse(),
    };
    if let Ok(without) = without {
        head.authority = Some(without);
    }
}

/// `strip_any_host_port`, `strip_matching_host_port`. A tunnel's destination keeps its port.
fn strip_port(rule: StripPort, head: &mut RequestHead, own: u16) {
    let Some(authority) = head.authority.as_ref().filter(|_| head.method != Method::CONNECT) else { return };
    let Some(port) = authority.port_u16() else { return };
    if (rule == StripPort::Any || port == own)
        && let Ok(without) = authority.host().parse()
    {
        head.authority = Some(without);
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

/// What every response gets, ours and the upstream's.
pub(super) fn finish_response(http: &Http, record: &Record, head: &mut ResponseHead) {
    if http.request_id_in_response
        && let Some(id) = &record.request_id
    {
        head.headers.set(REQUEST_ID, id.clone());
    }
    if let (false, Some(name)) = (http.pass_server_header, &http.server_name)
        && !(http.keep_server_header && head.headers.contains("server"))
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
    use crate::message::Scheme;

    #[test]
    fn a27_names_with_underscores() {
        let mut headers = Headers::new();
        headers.append(Name::Static("x-forwarded-for"), Value::Static("1.1.1.1"));
        assert!(check_underscores(Underscores::Reject, &mut headers).is_ok());
        headers.append(Name::Static("X_Forwarded_For"), Value::Static("6.6.6.6"));
        assert!(check_underscores(Underscores::Reject, &mut headers).is_err());
        assert!(check_underscores(Underscores::Drop, &mut headers).is_ok());
        assert_eq!(headers.len(), 1);
    }

    fn head(method: Method, authority: &str) -> RequestHead {
        RequestHead {
            method,
            scheme: Scheme::Http,
            authority: authority.parse().ok(),
            path: PathAndQuery::from_static("/"),
            version: Version::Http11,
            headers: Headers::new(),
        }
    }

    #[test]
    fn a_dot_is_taken_off_a_host() {
        for (authority, expected) in [
            ("a.test.", "a.test"),
            ("a.test.:80", "a.test:80"),
            ("a.test", "a.test"),
            ("[::1]:80", "[::1]:80"),
        ] {
            let mut head = head(Method::GET, authority);
            strip_trailing_dot(&mut head);
            assert_eq!(head.authority.unwrap(), expected);
        }
    }

    #[test]
    fn ports_are_taken_off_hosts() {
        let stripped = |rule, method: Method, authority: &str| {
            let mut head = head(method, authority);
            strip_port(rule, &mut head, 8080);
            head.authority.unwrap().to_string()
        };
        assert_eq!(stripped(StripPort::Matching, Method::GET, "a.test:8080"), "a.test");
        assert_eq!(stripped(StripPort::Matching, Method::GET, "a.test:80"), "a.test:80");
        assert_eq!(stripped(StripPort::Any, Method::GET, "[::1]:80"), "[::1]");
        assert_eq!(stripped(StripPort::Any, Method::CONNECT, "a.test:80"), "a.test:80");
    }
}
