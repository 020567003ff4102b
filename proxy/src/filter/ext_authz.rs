//! `envoy.filters.http.ext_authz`: another service decides about each request.
//!
//! The filter asks; the exchange reads what it wants of the body, calls the service and gives the answer back. A service that cannot be
//! asked denies, unless it is configured otherwise.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::{Answered, Attributes, Context, Predicate, Question, Reply, Verdict};
use crate::authorization::{Asked, CHECK, Changes, Decision, encode};
use crate::error::Reason;
use crate::message::{Headers, Name, RequestHead, Scheme, Value, Version};
use crate::telemetry::{Downstream, FilterEvent};

mod decision;
mod query;

/// The filter.
#[derive(Debug)]
pub(crate) struct ExternalAuthorization {
    /// Who is asked.
    pub(crate) service: Service,
    /// The cluster that answers.
    pub(crate) cluster: Arc<str>,
    /// An answer takes no longer.
    pub(crate) timeout: Duration,
    /// `filter_enabled` is zero: nobody is asked; `deny_at_disable` says what then.
    pub(crate) disabled: Option<Disabled>,
    /// `failure_mode_allow`.
    pub(crate) failure_allow: bool,
    /// `failure_mode_allow_header_add`.
    pub(crate) failure_header: bool,
    /// `status_on_error`.
    pub(crate) status_on_error: StatusCode,
    /// `with_request_body`.
    pub(crate) body: Option<BodyRule>,
    /// `clear_route_cache`.
    pub(crate) reroute: bool,
    /// `metadata_context_namespaces`.
    pub(crate) namespaces: Vec<Arc<str>>,
    /// `include_peer_certificate`.
    pub(crate) certificate: bool,
    /// `include_tls_session`.
    pub(crate) session: bool,
    /// `allowed_headers`.
    pub(crate) allowed: Option<Predicate<[u8]>>,
    /// `disallowed_headers`.
    pub(crate) disallowed: Option<Predicate<[u8]>>,
    /// `enable_dynamic_metadata_ingestion`.
    pub(crate) ingests: bool,
    /// `max_denied_response_body_bytes`, within our own bound.
    pub(crate) most_denied_body: usize,
}

/// What happens when nobody is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disabled {
    /// Requests go on.
    Allow,
    /// They are denied.
    Deny,
}

/// How the service is asked.
#[derive(Debug)]
pub(crate) enum Service {
    /// `grpc_service`.
    Grpc {
        /// `:authority`.
        authority: Authority,
        /// `initial_metadata`.
        metadata: Vec<(HeaderName, HeaderValue)>,
    },
    /// `http_service`.
    Http(Box<HttpService>),
}

/// `http_service`.
#[derive(Debug, Default)]
pub(crate) struct HttpService {
    /// `path_prefix`.
    pub(crate) prefix: Box<str>,
    /// `path_override`.
    pub(crate) path: Option<PathAndQuery>,
    /// `authorization_request.headers_to_add`.
    pub(crate) add: Vec<(HeaderName, HeaderValue)>,
    /// `allowed_upstream_headers`.
    pub(crate) upstream: Option<Predicate<[u8]>>,
    /// `allowed_upstream_headers_to_append`.
    pub(crate) upstream_append: Option<Predicate<[u8]>>,
    /// `allowed_client_headers`; `None` is all.
    pub(crate) client: Option<Predicate<[u8]>>,
    /// `allowed_client_headers_on_success`.
    pub(crate) client_on_success: Option<Predicate<[u8]>>,
    /// `dynamic_metadata_from_headers`.
    pub(crate) metadata: Option<Predicate<[u8]>>,
}

/// `BufferSettings`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BodyRule {
    /// `max_request_bytes`.
    pub(crate) most: usize,
    /// `allow_partial_message`.
    pub(crate) partial: bool,
    /// `pack_as_bytes`.
    pub(crate) raw: bool,
}

/// `ExtAuthzPerRoute`.
#[derive(Debug)]
pub(crate) struct RouteCheck {
    /// `disabled`.
    pub(crate) disabled: bool,
    /// `context_extensions`.
    pub(crate) extensions: Vec<(String, String)>,
    /// `with_request_body` or `disable_request_body_buffering`, in place of the filter's own.
    pub(crate) body: Option<Option<BodyRule>>,
}

/// What the exchange sends.
#[derive(Debug)]
pub(crate) struct Check {
    /// The head.
    pub(crate) head: RequestHead,
    /// The content.
    pub(crate) body: Bytes,
}

/// What the exchange has read of the request's body.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The first bytes.
    pub(crate) bytes: Bytes,
    /// That is all of them.
    pub(crate) whole: bool,
    /// How many there are, when it is known.
    pub(crate) size: Option<u64>,
}

/// Why no answer came.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The service's; for the operator.
    Service(String),
    /// The request's body is longer than what the service is to see, and must see whole.
    TooLong,
    /// The client's.
    Client(Reason),
}

/// A request about which the service is asked.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// The filter.
    pub(crate) filter: Arc<ExternalAuthorization>,
    route: Option<Arc<RouteCheck>>,
}

impl ExternalAuthorization {
    /// Decides whether the service is asked.
    pub(crate) fn on_request(
        self: &Arc<Self>,
        route: Option<&Arc<RouteCheck>>,
        context: &mut Context<'_>,
    ) -> Verdict {
        if self.failure_header {
            // Only we say that.
            context.head.headers.remove(FAILURE_HEADER);
        }
        if route.is_some_and(|route| route.disabled) {
            return Verdict::Continue;
        }
        match self.disabled {
            None => {
                let waiting = Waiting { filter: self.clone(), route: route.cloned() };
                Verdict::Ask(Box::new(Question::Check(waiting)))
            }
            Some(disabled) => {
                context.attributes.note(FilterEvent::AuthorizationDisabled);
                match disabled {
                    Disabled::Allow => Verdict::Continue,
                    Disabled::Deny => {
                        self.refuse("the filter is disabled, and denies then (deny_at_disable)".to_owned())
                    }
                }
            }
        }
    }

    fn refuse(&self, detail: String) -> Verdict {
        Verdict::Reply(Reply {
            reason: Reason::ExternalAuthorizationFailure,
            status: self.status_on_error,
            headers: Vec::new(),
            detail: Some(detail),
        })
    }

    /// Whether the service may see a header; lower case.
    fn shows(&self, name: &str) -> bool {
        let name_bytes = name.as_bytes();
        if self.disallowed.as_ref().is_some_and(|test| test.holds(name_bytes)) {
            return false;
        }
        match (&self.allowed, &self.service) {
            (Some(test), Service::Grpc { .. }) => test.holds(name_bytes),
            (None, Service::Grpc { .. }) => true,
            // These go along as they always do.
            (_, Service::Http(_)) if name == "authorization" => true,
            (allowed, Service::Http(_)) => allowed.as_ref().is_some_and(|test| test.holds(name_bytes)),
        }
    }
}

impl Waiting {
    /// What the service is to see of the body.
    pub(crate) fn body_rule(&self) -> Option<BodyRule> {
        let own = self.route.as_ref().and_then(|route| route.body);
        own.unwrap_or(self.filter.body)
    }

    /// What is sent to the service.
    pub(crate) fn check(
        &self,
        head: &RequestHead,
        connection: &Downstream,
        attributes: &Attributes,
        seen: Seen,
        time: SystemTime,
    ) -> Check {
        match &self.filter.service {
            Service::Grpc { authority, metadata } => {
                let rule = self.body_rule();
                let body = encode(&Asked {
                    head,
                    connection,
                    body: seen.bytes,
                    raw_body: rule.is_some_and(|rule| rule.raw),
                    size: seen.size,
                    time,
                    shows: &|name| self.filter.shows(name),
                    extensions: self.route.as_ref().map_or(&[][..], |route| &route.extensions),
                    metadata: self.metadata(attributes),
                    certificate: self.filter.certificate,
                    session: self.filter.session,
                });
                Check { head: grpc_head(authority, metadata, self.filter.timeout), body }
            }
            Service::Http(service) => self.http_check(service, head, seen),
        }
    }

    fn metadata<'a>(&'a self, attributes: &'a Attributes) -> Vec<(&'a str, &'a serde_json::Value)> {
        let namespaces = self.filter.namespaces.iter();
        namespaces.filter_map(|name| Some((&**name, attributes.get(name)?))).collect()
    }

    fn http_check(&self, service: &HttpService, head: &RequestHead, seen: Seen) -> Check {
        let mut headers = Headers::new();
        for (name, value) in head.headers.iter() {
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            let framing = matches!(name.as_str(), "content-length" | "transfer-encoding" | "expect");
            if !framing
                && self.filter.shows(&name)
                && let (Ok(name), Ok(value)) = (name.parse(), HeaderValue::from_bytes(value))
            {
                headers.append(Name::Http(name), Value::Http(value));
            }
        }
        if self.body_rule().is_some() {
            let partial = if seen.whole { "false" } else { "true" };
            headers.set("x-envoy-auth-partial-body", HeaderValue::from_static(partial));
        }
        for (name, value) in &service.add {
            headers.insert(Name::Http(name.clone()), Value::Http(value.clone()));
        }
        let path = match &service.path {
            Some(path) => path.clone(),
            None if service.prefix.is_empty() => head.path.clone(),
            // Two valid parts are a valid target; if not, then the prefix alone asks about nothing that could be allowed by accident.
            None => format!("{}{}", service.prefix, head.path)
                .parse()
                .unwrap_or_else(|_| PathAndQuery::from_static("/")),
        };
        let head = RequestHead {
            // A CONNECT would be one to the service itself.
            method: if head.method == Method::CONNECT { Method::GET } else { head.method.clone() },
            scheme: Scheme::Http,
            authority: head.authority.clone(),
            path,
            version: Version::Http11,
            headers,
        };
        Check { head, body: seen.bytes }
    }

    /// The service has answered, or not.
    pub(crate) fn resume(self, answer: Result<Answered, Trouble>, context: &mut Context<'_>) -> Verdict {
        let decision = match answer {
            Ok(answered) => decision::of(&self.filter, answered),
            Err(Trouble::Service(detail)) => Decision::Failed(detail),
            Err(Trouble::TooLong) => {
                context.attributes.note(FilterEvent::AuthorizationError);
                return Verdict::Reply(Reply {
                    reason: Reason::ExternalAuthorizationFailure,
                    status: StatusCode::PAYLOAD_TOO_LARGE,
                    headers: Vec::new(),
                    detail: Some("the body is longer than max_request_bytes of ext_authz".to_owned()),
                });
            }
            Err(Trouble::Client(reason)) => {
                let detail = Some("the request's body did not come, which ext_authz is to see".to_owned());
                return Verdict::Reply(Reply {
                    reason,
                    status: reason.status(),
                    headers: Vec::new(),
                    detail,
                });
            }
        };
        match decision {
            Decision::Allow(changes) => {
                context.attributes.note(FilterEvent::AuthorizationOk);
                self.allow(changes, context)
            }
            Decision::Deny(denial) => {
                context.attributes.note(FilterEvent::AuthorizationDenied);
                let (reply, body) = decision::reply(denial, self.filter.most_denied_body);
                Verdict::ReplyWith(reply, body)
            }
            Decision::Failed(detail) => {
                context.attributes.note(FilterEvent::AuthorizationError);
                self.failed(detail, context)
            }
        }
    }

    fn failed(&self, detail: String, context: &mut Context<'_>) -> Verdict {
        if !self.filter.failure_allow {
            return self.filter.refuse(detail);
        }
        context.attributes.note(FilterEvent::AuthorizationWaived);
        if self.filter.failure_header {
            context.head.headers.set(FAILURE_HEADER, HeaderValue::from_static("true"));
        }
        Verdict::Continue
    }

    fn allow(&self, changes: Changes, context: &mut Context<'_>) -> Verdict {
        let head = &mut *context.head;
        let changed = !(changes.headers.is_empty()
            && changes.remove.is_empty()
            && changes.set_query.is_empty()
            && changes.remove_query.is_empty());
        for name in &changes.remove {
            head.headers.remove_alike(name);
        }
        for change in &changes.headers {
            // What the client has put beside it is not the service's word (A27).
            head.headers.drop_alike(change.name.as_str());
            change.apply(&mut head.headers);
        }
        if let Some(path) = query::change(&head.path, &changes.set_query, &changes.remove_query) {
            head.path = path;
        }
        if let Some(metadata) = changes.metadata.filter(|_| self.filter.ingests) {
            context.attributes.set(METADATA.into(), metadata);
        }
        context.attributes.change_response(changes.response_headers);
        if changed && self.filter.reroute { Verdict::Reroute } else { Verdict::Continue }
    }
}

fn grpc_head(
    authority: &Authority,
    metadata: &[(HeaderName, HeaderValue)],
    timeout: Duration,
) -> RequestHead {
    let mut headers = Headers::new();
    headers.set("content-type", HeaderValue::from_static("application/grpc"));
    headers.set("user-agent", HeaderValue::from_static("sidegate"));
    if let Ok(value) = HeaderValue::from_str(&format!("{}m", timeout.as_millis().min(99_999_999))) {
        headers.set("grpc-timeout", value);
    }
    for (name, value) in metadata {
        headers.append(Name::Http(name.clone()), Value::Http(value.clone()));
    }
    RequestHead {
        method: Method::POST,
        scheme: Scheme::Http,
        authority: Some(authority.clone()),
        path: PathAndQuery::from_static(CHECK),
        version: Version::Http2,
        headers,
    }
}

/// The name under which later filters find what the service says.
const METADATA: &str = "envoy.filters.http.ext_authz";
const FAILURE_HEADER: &str = "x-envoy-auth-failure-mode-allowed";

#[cfg(test)]
mod tests;
