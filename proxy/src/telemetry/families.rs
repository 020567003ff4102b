//! The families that carry Envoy's names: one table each, from which both the Prometheus page and `/stats` are written.

use super::authorization::AuthorizationBlock;
use super::cluster::ClusterBlock;
use super::filter_event::FilterEvent;
use super::shard::{ListenerBlock, ManagerBlock};
use super::totals::ClusterState;

/// One number of a block. Its Prometheus name is the table's prefix and `name`; in `/stats` it is `name` after a dot.
pub(super) struct Stat<T> {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) gauge: bool,
    /// Differences wrap: the sum over all blocks is right even when one worker opened what another closed.
    pub(super) read: fn(&T) -> u64,
}

impl<T> Stat<T> {
    /// The sum over blocks. A gauge that a concurrent reader sees below zero is zero.
    pub(super) fn sum<'a>(&self, blocks: impl Iterator<Item = &'a T>) -> u64
    where
        T: 'a,
    {
        let sum = blocks.fold(0_u64, |sum, block| sum.wrapping_add((self.read)(block)));
        if self.gauge && sum > i64::MAX as u64 { 0 } else { sum }
    }
}

const fn counter<T>(name: &'static str, help: &'static str, read: fn(&T) -> u64) -> Stat<T> {
    Stat { name, help, gauge: false, read }
}

const fn gauge<T>(name: &'static str, help: &'static str, read: fn(&T) -> u64) -> Stat<T> {
    Stat { name, help, gauge: true, read }
}

/// `envoy_cluster_*`, from counters.
pub(super) const CLUSTER: [Stat<ClusterBlock>; 18] = [
    counter("upstream_rq_total", "Requests sent to endpoints, retries included", |b| b.attempts.get()),
    counter("upstream_rq_completed", "Requests that ended with a response, the proxy's own included", |b| {
        b.completed.get()
    }),
    counter("upstream_rq_retry", "Requests that were tried again", |b| b.retries.get()),
    counter("upstream_rq_retry_overflow", "Retries that the budget refused", |b| b.retry_overflow.get()),
    counter("upstream_rq_retry_limit_exceeded", "Requests whose every retry failed", |b| {
        b.retries_exhausted.get()
    }),
    counter(
        "upstream_rq_pending_overflow",
        "Requests refused because a limit of the cluster was reached",
        |b| b.pending_overflow.get(),
    ),
    counter("upstream_rq_timeout", "Requests that did not end within the route's timeout", |b| {
        b.timeouts.get()
    }),
    counter("upstream_rq_rx_reset", "Requests that the endpoint reset", |b| b.resets.get()),
    counter("upstream_cx_total", "Connections made", |b| b.opened.get()),
    counter("upstream_cx_destroy", "Connections ended", |b| b.closed.get()),
    counter("upstream_cx_connect_fail", "Connections that could not be made", |b| b.connect_fail.get()),
    counter("upstream_cx_connect_timeout", "Connections that were not made in time", |b| {
        b.connect_timeout.get()
    }),
    counter("upstream_cx_none_healthy", "Requests for which there was no endpoint", |b| b.no_endpoint.get()),
    counter("upstream_cx_tx_bytes_total", "Body bytes sent to endpoints", |b| b.sent_bytes.get()),
    counter("upstream_cx_rx_bytes_total", "Body bytes received from endpoints", |b| b.received_bytes.get()),
    counter("upstream_rq_per_try_timeout", "Attempts that did not end within their timeout", |b| {
        b.per_try_timeouts.get()
    }),
    counter("upstream_rq_retry_success", "Retries that ended well", |b| b.retry_success.get()),
    gauge("upstream_cx_active", "Connections open", |b| b.opened.get().wrapping_sub(b.closed.get())),
];

/// `envoy_cluster_*`, from the cluster's state.
pub(super) const CLUSTER_STATE: [Stat<ClusterState>; 4] = [
    gauge("membership_total", "Endpoints", |state| state.members),
    gauge("membership_healthy", "Endpoints that get requests", |state| state.available),
    gauge("upstream_rq_active", "Requests in flight", |state| state.requests),
    gauge("upstream_rq_pending_active", "Requests that wait for a connection", |state| state.pending),
];

/// `envoy_http_*`.
pub(super) const MANAGER: [Stat<ManagerBlock>; 10] = [
    counter("downstream_rq_total", "Requests", |b| b.started.get()),
    counter("downstream_rq_completed", "Requests that ended", |b| b.ended.get()),
    gauge("downstream_rq_active", "Requests in flight", |b| b.started.get().wrapping_sub(b.ended.get())),
    counter("downstream_rq_overload_close", "Requests refused for want of memory", |b| b.overload.get()),
    counter("downstream_cx_total", "HTTP connections", |b| b.opened.get()),
    counter("downstream_cx_http2_total", "HTTP/2 connections", |b| b.opened_http2.get()),
    counter("downstream_cx_destroy", "HTTP connections ended", |b| b.closed.get()),
    gauge("downstream_cx_active", "HTTP connections open", |b| b.opened.get().wrapping_sub(b.closed.get())),
    counter("downstream_cx_rx_bytes_total", "Body bytes received from clients", |b| b.received_bytes.get()),
    counter("downstream_cx_tx_bytes_total", "Body bytes sent to clients", |b| b.sent_bytes.get()),
];

/// `envoy_http_local_rate_limit_*`, by connection manager.
pub(super) const RATE_LIMIT: [Stat<ManagerBlock>; 2] = [
    counter("rate_limited", "Requests over a local rate limit", |b| b.rate_limit_exceeded.get()),
    counter("enforced", "Requests that a local rate limit refused", |b| b.rate_limit_enforced.get()),
];

/// `envoy_http_rbac_*`, `envoy_tcp_rbac_*`.
pub(super) const AUTHORIZATION: [Stat<AuthorizationBlock>; 4] = [
    counter("allowed", "Requests or connections that RBAC rules allow", |b| b.allowed.get()),
    counter("denied", "Requests or connections that RBAC rules deny", |b| b.denied.get()),
    counter("shadow_allowed", "What a dry run would have allowed", |b| b.shadow_allowed.get()),
    counter("shadow_denied", "What a dry run would have denied", |b| b.shadow_denied.get()),
];

/// `envoy_http_jwt_authn_*`, by connection manager.
pub(super) const JWT: [Stat<ManagerBlock>; 7] = [
    counter("allowed", "Requests that jwt_authn let go on", |b| b.filter(FilterEvent::JwtAllowed)),
    counter("denied", "Requests that jwt_authn refused", |b| b.filter(FilterEvent::JwtDenied)),
    counter("cors_preflight_bypassed", "CORS preflights that jwt_authn did not look at", |b| {
        b.filter(FilterEvent::JwtPreflight)
    }),
    counter("jwt_cache_hit", "Requests whose token was verified before", |b| {
        b.filter(FilterEvent::JwtCacheHit)
    }),
    counter("jwt_cache_miss", "Requests whose token's signature was checked", |b| {
        b.filter(FilterEvent::JwtCacheMiss)
    }),
    counter("jwks_fetch_success", "Fetches that brought keys", |b| b.filter(FilterEvent::JwksFetched)),
    counter("jwks_fetch_failed", "Fetches that brought no keys", |b| b.filter(FilterEvent::JwksFailed)),
];

/// `envoy_http_ext_authz_*`, by connection manager.
pub(super) const EXT_AUTHZ: [Stat<ManagerBlock>; 5] = [
    counter("ok", "Requests that the authorization service allowed", |b| {
        b.filter(FilterEvent::AuthorizationOk)
    }),
    counter("denied", "Requests that the authorization service denied", |b| {
        b.filter(FilterEvent::AuthorizationDenied)
    }),
    counter("error", "Requests about which the authorization service could not be asked", |b| {
        b.filter(FilterEvent::AuthorizationError)
    }),
    counter("failure_mode_allowed", "The same, let go on because that is configured", |b| {
        b.filter(FilterEvent::AuthorizationWaived)
    }),
    counter("disabled", "Requests about which the authorization service was not asked", |b| {
        b.filter(FilterEvent::AuthorizationDisabled)
    }),
];

/// `envoy_listener_*`.
pub(super) const LISTENER: [Stat<ListenerBlock>; 23] = [
    counter("downstream_cx_total", "Connections accepted", |b| b.opened.get()),
    counter("downstream_cx_destroy", "Connections ended", |b| b.closed.get()),
    gauge("downstream_cx_active", "Connections open", |b| b.opened.get().wrapping_sub(b.closed.get())),
    counter("downstream_cx_overflow", "Connections refused at a bound", |b| b.overflow.get()),
    counter("downstream_cx_overload_reject", "Connections refused for want of memory", |b| b.overload.get()),
    counter("ssl_handshake", "TLS sessions that came about", |b| b.tls.handshakes.get()),
    counter("ssl_session_reused", "TLS sessions that were resumed", |b| b.tls.resumed.get()),
    counter("ssl_no_certificate", "TLS sessions of clients without a certificate", |b| {
        b.tls.without_certificate.get()
    }),
    counter("ssl_connection_error", "Handshakes that failed, certificates apart", |b| b.tls.errors.get()),
    counter("ssl_fail_verify_no_cert", "Handshakes without the certificate that is required", |b| {
        b.tls.no_certificate.get()
    }),
    counter("ssl_fail_verify_san", "Handshakes with a certificate of another name", |b| b.tls.names.get()),
    counter("ssl_fail_verify_cert_hash", "Handshakes with a certificate that is not pinned", |b| {
        b.tls.pins.get()
    }),
    counter("ssl_fail_verify_error", "Handshakes with a certificate that is not trusted", |b| {
        b.tls.untrusted.get()
    }),
    counter("ssl_fail_verify_time", "Of these, certificates whose time is over or has not begun", |b| {
        b.tls.time.get()
    }),
    counter(
        "ssl_fail_verify_revoked",
        "Of these, certificates that are revoked or whose id is denied",
        |b| b.tls.revoked.get(),
    ),
    counter(
        "ssl_fail_verify_identity",
        "Of these, certificates without one SPIFFE id of a known domain",
        |b| b.tls.identity.get(),
    ),
    counter("ssl_peer_revoked", "Open connections ended because their client was revoked", |b| {
        b.tls.ended.get()
    }),
    counter("downstream_cx_unsecured", "Connections outside mutual TLS where it is spoken too", |b| {
        b.unsecured.get()
    }),
    counter("ssl_handshake_overflow", "Handshakes refused because too many were pending", |b| {
        b.tls.overflow.get()
    }),
    counter("ssl_handshake_timeout", "Handshakes that were not done in time", |b| b.tls.timeouts.get()),
    counter("no_filter_chain_match", "Connections that no filter chain takes", |b| b.no_filter_chain.get()),
    counter("downstream_pre_cx_timeout", "Connections whose listener filters were not done in time", |b| {
        b.preamble_timeout.get()
    }),
    counter("downstream_pre_cx_malformed", "Connections with a malformed PROXY header or ClientHello", |b| {
        b.preamble_malformed.get()
    }),
];

/// The classes of statuses, as the label and the stat name have them.
pub(super) const CLASSES: [&str; 5] = ["1", "2", "3", "4", "5"];
