//! Every [`Reason`] in words: what happened, and what an operator does next.

use crate::error::Reason;

/// What happened, as a clause without a full stop.
pub(super) fn what(reason: Reason) -> &'static str {
    words(reason).1
}

/// What to do next, one sentence.
pub(super) fn next_step(reason: Reason) -> &'static str {
    words(reason).2
}

fn words(reason: Reason) -> (Reason, &'static str, &'static str) {
    WORDS.get(reason as usize).copied().unwrap_or((reason, "", ""))
}

/// In the order of [`Reason::ALL`].
const WORDS: [(Reason, &str, &str); Reason::ALL.len()] = [
    (
        Reason::NoRoute,
        "No virtual host or route matches this host and request",
        "Compare host, path, method and headers with the routes of this listener (`POST /explain`, or `/config_dump` for all of them); an HTTPRoute that is not attached shows in `sidegate status`.",
    ),
    (
        Reason::NoCluster,
        "The route names a cluster that is not in the configuration",
        "Check the route's backendRefs: a Service that does not exist, a wrong port or a missing ReferenceGrant; `sidegate status` names the condition.",
    ),
    (
        Reason::NoHealthyEndpoint,
        "The cluster has no endpoint that may get requests",
        "Look at `/clusters` for this cluster: if it lists no endpoint, check the Service's selector and that its pods are ready.",
    ),
    (
        Reason::DirectResponse,
        "The route answers by itself, as configured",
        "Nothing: change the route if this is not what you want.",
    ),
    (
        Reason::Redirect,
        "The route redirects, as configured",
        "Nothing: change the route if this is not what you want.",
    ),
    (
        Reason::ConnectFailure,
        "The connection to the endpoint was refused or failed",
        "Check that the workload listens on this address and port (targetPort), on all addresses rather than on its own loopback, and that no NetworkPolicy refuses it.",
    ),
    (
        Reason::ConnectTimeout,
        "The endpoint did not accept the connection in time",
        "Check whether a NetworkPolicy or firewall drops packets to this address, or whether the node is gone; connect_timeout is in the cluster.",
    ),
    (
        Reason::UpstreamTlsFailure,
        "No TLS session came about with the endpoint",
        "The detail says which certificate or name is wrong: compare the cluster's trusted_ca, names and sni with the certificate that the endpoint shows (`openssl s_client`).",
    ),
    (
        Reason::UpstreamReset,
        "The endpoint closed or reset the connection before its response began",
        "Look into the workload's log at this time: it crashed, restarted, or closes idle connections while a request is on its way.",
    ),
    (
        Reason::UpstreamBodyReset,
        "The endpoint closed or reset the connection within its response",
        "Look into the workload's log at this time: it ended in the middle of a response, or reset an opaque connection; the client has seen that it was cut.",
    ),
    (
        Reason::UpstreamProtocolError,
        "What the endpoint sent is not a valid HTTP response",
        "Check which protocol the port speaks: set the Service port's appProtocol (`kubernetes.io/h2c` for HTTP/2), or mend the workload's response.",
    ),
    (
        Reason::RequestTimeout,
        "The response was not complete within the route's timeout",
        "Find out why the workload is slow (trace id above), or raise the route's timeouts.request.",
    ),
    (
        Reason::RetriesExhausted,
        "Every retry was used and the last attempt failed too",
        "See what each attempt met: the endpoints fail for a common reason; retrying more would add load.",
    ),
    (
        Reason::UpstreamOverflow,
        "A limit towards the cluster is reached (connections, pending or active requests)",
        "The workload is saturated or slow: add replicas, or raise the cluster's circuit breaker limits (BackendPolicy).",
    ),
    (
        Reason::RateLimited,
        "The local rate limit refused the request",
        "Wait and send less, or raise the limit in the RateLimitPolicy.",
    ),
    (
        Reason::BadRequest,
        "The request is malformed or ambiguous",
        "Mend the client; the detail says what is wrong with its request.",
    ),
    (
        Reason::Misdirected,
        "The request belongs on another connection: its host has another certificate or client policy, or what this one came to is not configured any more",
        "Nothing to mend as a rule: the client opens another connection; clients that do not are broken.",
    ),
    (
        Reason::HeadersTooLarge,
        "The request's headers are larger than the bound",
        "Look for large cookies or tokens; the bound is max_request_headers_kb of the listener.",
    ),
    (
        Reason::TargetTooLong,
        "The request's target is longer than the bound",
        "Move data from the URL into the body.",
    ),
    (
        Reason::DownstreamTimeout,
        "The client did not send its request in time",
        "Slow or stalled clients are cut on purpose; if it hits honest ones, raise request_headers_timeout or request_timeout.",
    ),
    (
        Reason::DownstreamTlsFailure,
        "No TLS session came about with the client",
        "The proxy's log names the client and says why: an untrusted or missing client certificate, another protocol, or a client that was too slow.",
    ),
    (
        Reason::DownstreamClosed,
        "The client went away before the response was complete",
        "Compare the client's timeout with the duration above: it gave up, or a user closed the page.",
    ),
    (
        Reason::UpgradeRefused,
        "The client asked for CONNECT or an upgrade that is not configured here",
        "Add the upgrade type to upgrade_configs, if it is wanted.",
    ),
    (
        Reason::ExpectationFailed,
        "The client expects something other than 100-continue",
        "Mend the client's Expect header.",
    ),
    (
        Reason::DnsFailure,
        "The destination's name could not be resolved",
        "Resolve the name from this proxy's pod; check its spelling, /etc/resolv.conf and the cluster's DNS.",
    ),
    (
        Reason::IdleTimeout,
        "No byte moved for longer than the idle timeout",
        "Find out which side stalled; long silent streams need a larger stream_idle_timeout or keep-alives.",
    ),
    (
        Reason::Draining,
        "The proxy is shutting down",
        "Send it again: the load balancer should have stopped sending here; give it a longer drain delay.",
    ),
    (
        Reason::DownstreamOverflow,
        "The bound on connections from clients is reached",
        "Look for clients that open many connections; the bound protects memory and can be raised in the listener.",
    ),
    (
        Reason::DownstreamFlood,
        "The client sent what costs much and serves nobody: resets, control frames or header fragments without end",
        "The proxy's log names the client and the kind; if it is an honest one, docs/adr/0008-h2-guard.md tells the budgets and how to widen them.",
    ),
    (
        Reason::DownstreamProtocolError,
        "The client broke the protocol in a way that ends its connection",
        "Find the client by its address in the proxy's log and mend or update its HTTP library.",
    ),
    (
        Reason::Overload,
        "The proxy's memory is close to its ceiling: it serves nothing new until what is under way has ended",
        "Look at `sidegate_overload_memory_bytes` beside the numbers of connections and requests in flight: add replicas, raise the memory limit (or `--memory-ceiling`), or find who holds large exchanges open.",
    ),
    (
        Reason::MaxDuration,
        "It lasted longer than max_stream_duration, or than max_downstream_connection_duration of an opaque connection",
        "Raise max_stream_duration of the route or of the connection manager, or the TCP proxy's bound, if it is meant to last so long.",
    ),
    (
        Reason::NoFilterChain,
        "No filter chain of the listener takes this connection",
        "Compare the address, server name and protocols that the client asked for with each filter_chain_match of the listener (`/config_dump`); a default_filter_chain takes what is left.",
    ),
    (
        Reason::BadPreamble,
        "What comes before the protocol is malformed or missing: a PROXY header or a ClientHello",
        "Check that what stands before this proxy sends the PROXY header (`send-proxy`, `proxy_protocol`) exactly where the listener expects one, and that nobody else reaches the port.",
    ),
    (
        Reason::AccessDenied,
        "An authorization policy denies it",
        "The detail names the policy and the rule: compare who called (peer above), what was asked for and the policy, or ask `sidegate authz check`.",
    ),
    (
        Reason::Unauthenticated,
        "It carries no token, or one that is not accepted, where one is required",
        "The detail says what is wrong with the token: compare its issuer, audience and expiry with the JWTPolicy.",
    ),
    (
        Reason::ExternalDenial,
        "The external authorization service denies it",
        "Look into the log of the authorization service that the detail names.",
    ),
    (
        Reason::ExternalAuthorizationFailure,
        "The external authorization service could not be asked, and then nothing passes",
        "Check that the authorization service that the detail names runs and answers within its timeout.",
    ),
    (
        Reason::PeerRevoked,
        "The peer was revoked while its connection was open",
        "A revocation list names the peer's certificate, or denied_identities its id. If that is meant, nothing is to be done; otherwise take it off the list, and the peer is accepted again.",
    ),
    (
        Reason::InvalidRewrite,
        "The route's rewrite makes something of the path that is no path",
        "Mend the route's prefix_rewrite or regex_rewrite; what it makes begins with a slash. The detail has what it made.",
    ),
    (
        Reason::Internal,
        "A defect of the proxy itself ended this exchange",
        "Report it with the line `panicked` of the proxy's log; the proxy serves on.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_words_of_its_own() {
        for reason in Reason::ALL {
            assert_eq!(words(reason).0, reason);
            assert!(!what(reason).ends_with('.') && next_step(reason).ends_with('.'), "{reason:?}");
        }
    }
}
