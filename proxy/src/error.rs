//! The closed [`Reason`] (D5): why the proxy answered by itself or ended a connection; and [`Rejection`]: a named bad resource.

use http::StatusCode;

/// Why the proxy made a response itself, or ended a connection or a response early.
///
/// Exactly one per such event. It fixes the HTTP and gRPC status, the response flag of access logs (Envoy's vocabulary)
/// and the metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// No virtual host or route matched.
    NoRoute,
    /// The route names a cluster that does not exist.
    NoCluster,
    /// The cluster has no endpoint to send to.
    NoHealthyEndpoint,
    /// The route says so: a direct response.
    DirectResponse,
    /// The route says so: a redirect.
    Redirect,
    /// The upstream connection could not be made.
    ConnectFailure,
    /// The upstream connection was not made in time.
    ConnectTimeout,
    /// No TLS session came about with the upstream.
    UpstreamTlsFailure,
    /// The upstream closed or reset before the response head.
    UpstreamReset,
    /// The upstream closed or reset within the response body, or reset an opaque connection.
    UpstreamBodyReset,
    /// The upstream spoke something that is not a valid response.
    UpstreamProtocolError,
    /// The route's timeout passed.
    RequestTimeout,
    /// Every retry was used and the last attempt failed.
    RetriesExhausted,
    /// A limit of the cluster is reached (connections, pending, requests).
    UpstreamOverflow,
    /// The local rate limit refused the request.
    RateLimited,
    /// The request is malformed or ambiguous.
    BadRequest,
    /// The request belongs on another TLS connection: another certificate or policy is its host's.
    Misdirected,
    /// The request's head is larger than the bound.
    HeadersTooLarge,
    /// The request target is longer than the bound.
    TargetTooLong,
    /// The request's head or body did not arrive in time.
    DownstreamTimeout,
    /// No TLS session came about with the client.
    DownstreamTlsFailure,
    /// The client went away.
    DownstreamClosed,
    /// The client asked for an upgrade or CONNECT that is not configured.
    UpgradeRefused,
    /// An expectation other than `100-continue`.
    ExpectationFailed,
    /// The name of the destination could not be resolved.
    DnsFailure,
    /// The connection was idle for too long.
    IdleTimeout,
    /// The proxy is shutting down.
    Draining,
    /// The listener's or the process's bound on connections is reached.
    DownstreamOverflow,
    /// The client asks for much and takes nothing: one of the floods of HTTP/2.
    DownstreamFlood,
    /// The client broke the protocol in a way that ends its connection.
    DownstreamProtocolError,
    /// Memory is scarce: nothing new is served.
    Overload,
    /// The bound on a whole exchange has passed (`max_stream_duration`), or the one on an opaque connection.
    MaxDuration,
    /// No filter chain of the listener takes the connection.
    NoFilterChain,
    /// What comes before the protocol (a PROXY header, a ClientHello) is malformed or missing.
    BadPreamble,
    /// An authorization policy denies it.
    AccessDenied,
    /// It carries no token, or one that is not accepted, where one is required.
    Unauthenticated,
    /// The external authorization service denies it.
    ExternalDenial,
    /// The external authorization service could not be asked, and that is configured to deny.
    ExternalAuthorizationFailure,
    /// The peer's certificate was revoked, or its identity denied, while its connection was open.
    PeerRevoked,
    /// The route's rewrite makes something of the path that is none.
    InvalidRewrite,
    /// A defect of the proxy itself ended it.
    Internal,
}

impl Reason {
    /// Every reason, in declaration order.
    pub(crate) const ALL: [Reason; 41] = [
        Self::NoRoute,
        Self::NoCluster,
        Self::NoHealthyEndpoint,
        Self::DirectResponse,
        Self::Redirect,
        Self::ConnectFailure,
        Self::ConnectTimeout,
        Self::UpstreamTlsFailure,
        Self::UpstreamReset,
        Self::UpstreamBodyReset,
        Self::UpstreamProtocolError,
        Self::RequestTimeout,
        Self::RetriesExhausted,
        Self::UpstreamOverflow,
        Self::RateLimited,
        Self::BadRequest,
        Self::Misdirected,
        Self::HeadersTooLarge,
        Self::TargetTooLong,
        Self::DownstreamTimeout,
        Self::DownstreamTlsFailure,
        Self::DownstreamClosed,
        Self::UpgradeRefused,
        Self::ExpectationFailed,
        Self::DnsFailure,
        Self::IdleTimeout,
        Self::Draining,
        Self::DownstreamOverflow,
        Self::DownstreamFlood,
        Self::DownstreamProtocolError,
        Self::Overload,
        Self::MaxDuration,
        Self::NoFilterChain,
        Self::BadPreamble,
        Self::AccessDenied,
        Self::Unauthenticated,
        Self::ExternalDenial,
        Self::ExternalAuthorizationFailure,
        Self::PeerRevoked,
        Self::InvalidRewrite,
        Self::Internal,
    ];

    /// The status of the local reply, unless the route or filter gives its own.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::DirectResponse => StatusCode::OK,
            Self::Redirect => StatusCode::MOVED_PERMANENTLY,
            Self::UpstreamReset | Self::UpstreamBodyReset | Self::UpstreamProtocolError => {
                StatusCode::BAD_GATEWAY
            }
            Self::InvalidRewrite | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::RequestTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::RateLimited | Self::DownstreamFlood => StatusCode::TOO_MANY_REQUESTS,
            Self::BadRequest
            | Self::DownstreamTlsFailure
            | Self::DownstreamClosed
            | Self::DownstreamProtocolError
            | Self::NoFilterChain
            | Self::BadPreamble => StatusCode::BAD_REQUEST,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::DownstreamTimeout | Self::IdleTimeout | Self::MaxDuration => StatusCode::REQUEST_TIMEOUT,
            Self::UpgradeRefused
            | Self::AccessDenied
            | Self::PeerRevoked
            | Self::ExternalDenial
            | Self::ExternalAuthorizationFailure => StatusCode::FORBIDDEN,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
            Self::NoCluster
            | Self::NoHealthyEndpoint
            | Self::ConnectFailure
            | Self::ConnectTimeout
            | Self::UpstreamTlsFailure
            | Self::RetriesExhausted
            | Self::UpstreamOverflow
            | Self::DnsFailure
            | Self::Draining
            | Self::DownstreamOverflow
            | Self::Overload => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The flag of `%RESPONSE_FLAGS%` in access logs (Envoy's short names), "-" for none.
    pub(crate) const fn flag(self) -> &'static str {
        match self {
            Self::NoRoute | Self::NoFilterChain => "NR",
            Self::NoCluster => "NC",
            Self::NoHealthyEndpoint => "UH",
            Self::DirectResponse
            | Self::Redirect
            | Self::ExpectationFailed
            | Self::Unauthenticated
            | Self::InvalidRewrite
            | Self::Internal => "-",
            Self::AccessDenied => "RBAC",
            Self::ExternalDenial | Self::ExternalAuthorizationFailure => "UAEX",
            Self::ConnectFailure | Self::ConnectTimeout | Self::UpstreamTlsFailure => "UF",
            Self::UpstreamReset | Self::UpstreamBodyReset => "UC",
            Self::UpstreamProtocolError => "UPE",
            Self::RequestTimeout => "UT",
            Self::RetriesExhausted => "URX",
            Self::UpstreamOverflow => "UO",
            Self::RateLimited => "RL",
            Self::BadRequest
            | Self::HeadersTooLarge
            | Self::TargetTooLong
            | Self::UpgradeRefused
            | Self::DownstreamFlood
            | Self::Misdirected
            | Self::DownstreamTlsFailure
            | Self::DownstreamProtocolError
            | Self::PeerRevoked
            | Self::BadPreamble => "DPE",
            Self::DownstreamTimeout | Self::MaxDuration => "DT",
            Self::DownstreamClosed => "DC",
            Self::DnsFailure => "DF",
            Self::IdleTimeout => "SI",
            Self::Draining | Self::DownstreamOverflow | Self::Overload => "OM",
        }
    }

    /// The label in metrics, in `x-sidegate-reason` and in `/why`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::NoCluster => "no_cluster",
            Self::NoHealthyEndpoint => "no_healthy_endpoint",
            Self::DirectResponse => "direct_response",
            Self::Redirect => "redirect",
            Self::ConnectFailure => "connect_failure",
            Self::ConnectTimeout => "connect_timeout",
            Self::UpstreamTlsFailure => "upstream_tls_failure",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamBodyReset => "upstream_body_reset",
            Self::UpstreamProtocolError => "upstream_protocol_error",
            Self::RequestTimeout => "request_timeout",
            Self::RetriesExhausted => "retries_exhausted",
            Self::UpstreamOverflow => "upstream_overflow",
            Self::RateLimited => "rate_limited",
            Self::BadRequest => "bad_request",
            Self::Misdirected => "misdirected",
            Self::HeadersTooLarge => "headers_too_large",
            Self::TargetTooLong => "target_too_long",
            Self::DownstreamTimeout => "downstream_timeout",
            Self::DownstreamTlsFailure => "downstream_tls_failure",
            Self::DownstreamClosed => "downstream_closed",
            Self::UpgradeRefused => "upgrade_refused",
            Self::ExpectationFailed => "expectation_failed",
            Self::DnsFailure => "dns_failure",
            Self::IdleTimeout => "idle_timeout",
            Self::Draining => "draining",
            Self::DownstreamOverflow => "downstream_overflow",
            Self::DownstreamFlood => "downstream_flood",
            Self::DownstreamProtocolError => "downstream_protocol_error",
            Self::Overload => "overload",
            Self::Internal => "internal_error",
            Self::MaxDuration => "max_duration",
            Self::NoFilterChain => "no_filter_chain",
            Self::BadPreamble => "bad_preamble",
            Self::AccessDenied => "access_denied",
            Self::Unauthenticated => "unauthenticated",
            Self::ExternalDenial => "external_denial",
            Self::ExternalAuthorizationFailure => "external_authorization_failure",
            Self::PeerRevoked => "peer_revoked",
            Self::InvalidRewrite => "invalid_rewrite",
        }
    }

    /// Whether this is what the configuration asked for rather than something that went wrong.
    pub(crate) const fn is_configured(self) -> bool {
        matches!(self, Self::DirectResponse | Self::Redirect)
    }
}

/// The gRPC status for an HTTP status of a local reply (gRPC over HTTP/2, "HTTP to gRPC Status Code Mapping").
pub(crate) fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        200 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// A resource that was refused, by name, with a text for the operator; becomes a line of the NACK.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name}: {message}")]
pub(crate) struct Rejection {
    /// `listener`, `route`, `cluster`, `endpoint`.
    pub(crate) kind: &'static str,
    /// The resource's name.
    pub(crate) name: String,
    /// What is wrong and where: a field path first when there is one.
    pub(crate) message: String,
}
