//! Every [`Reason`] in words: what happened, and what an operator does next.

use crate::error::Reason;

/// What happened, as a clause without a full stop.
pub(super) const fn what(reason: Reason) -> &'static str {
    match reason {
        Reason::NoRoute => "No virtual host or route matches this host and request",
        Reason::NoCluster => "The route names a cluster that is not in the configuration",
        Reason::NoHealthyEndpoint => "The cluster has no endpoint that may get requests",
        Reason::DirectResponse => "The route answers by itself, as configured",
        Reason::Redirect => "The route redirects, as configured",
        Reason::ConnectFailure => "The connection to the endpoint was refused or failed",
        Reason::ConnectTimeout => "The endpoint did not accept the connection in time",
        Reason::UpstreamReset => "The endpoint closed or reset the connection before its response began",
        Reason::UpstreamBodyReset => "The endpoint closed or reset the connection within its response",
        Reason::UpstreamProtocolError => "What the endpoint sent is not a valid HTTP response",
        Reason::RequestTimeout => "The response was not complete within the route's timeout",
        Reason::RetriesExhausted => "Every retry was used and the last attempt failed too",
        Reason::UpstreamOverflow => {
            "A limit towards the cluster is reached (connections, pending or active requests)"
        }
        Reason::RateLimited => "The local rate limit refused the request",
        Reason::BadRequest => "The request is malformed or ambiguous",
        Reason::HeadersTooLarge => "The request's headers are larger than the bound",
        Reason::TargetTooLong => "The request's target is longer than the bound",
        Reason::DownstreamTimeout => "The client did not send its request in time",
        Reason::DownstreamClosed => "The client went away before the response was complete",
        Reason::UpgradeRefused => "The client asked for CONNECT or an upgrade that is not configured here",
        Reason::ExpectationFailed => "The client expects something other than 100-continue",
        Reason::DnsFailure => "The destination's name could not be resolved",
        Reason::IdleTimeout => "No byte moved for longer than the idle timeout",
        Reason::Draining => "The proxy is shutting down",
        Reason::DownstreamOverflow => "The bound on connections from clients is reached",
    }
}

/// What to do next, one sentence.
pub(super) const fn next_step(reason: Reason) -> &'static str {
    match reason {
        Reason::NoRoute => {
            "Compare host, path, method and headers with the routes of this listener (`POST /explain`, or `/config_dump` for all of them); an HTTPRoute that is not attached shows in `sidegate status`."
        }
        Reason::NoCluster => {
            "Check the route's backendRefs: a Service that does not exist, a wrong port or a missing ReferenceGrant; `sidegate status` names the condition."
        }
        Reason::NoHealthyEndpoint => {
            "Look at `/clusters` for this cluster: if it lists no endpoint, check the Service's selector and that its pods are ready."
        }
        Reason::DirectResponse | Reason::Redirect => {
            "Nothing: change the route if this is not what you want."
        }
        Reason::ConnectFailure => {
            "Check that the workload listens on this address and port (targetPort), on all addresses rather than on its own loopback, and that no NetworkPolicy refuses it."
        }
        Reason::ConnectTimeout => {
            "Check whether a NetworkPolicy or firewall drops packets to this address, or whether the node is gone; connect_timeout is in the cluster."
        }
        Reason::UpstreamReset => {
            "Look into the workload's log at this time: it crashed, restarted, or closes idle connections while a request is on its way."
        }
        Reason::UpstreamBodyReset => {
            "Look into the workload's log at this time: it ended in the middle of a response; the client has seen a cut response."
        }
        Reason::UpstreamProtocolError => {
            "Check which protocol the port speaks: set the Service port's appProtocol (`kubernetes.io/h2c` for HTTP/2), or mend the workload's response."
        }
        Reason::RequestTimeout => {
            "Find out why the workload is slow (trace id above), or raise the route's timeouts.request."
        }
        Reason::RetriesExhausted => {
            "See what each attempt met: the endpoints fail for a common reason; retrying more would add load."
        }
        Reason::UpstreamOverflow => {
            "The workload is saturated or slow: add replicas, or raise the cluster's circuit breaker limits (BackendPolicy)."
        }
        Reason::RateLimited => "Wait and send less, or raise the limit in the RateLimitPolicy.",
        Reason::BadRequest => "Mend the client; the detail says what is wrong with its request.",
        Reason::HeadersTooLarge => {
            "Look for large cookies or tokens; the bound is max_request_headers_kb of the listener."
        }
        Reason::TargetTooLong => "Move data from the URL into the body.",
        Reason::DownstreamTimeout => {
            "Slow or stalled clients are cut on purpose; if it hits honest ones, raise request_headers_timeout or request_timeout."
        }
        Reason::DownstreamClosed => {
            "Compare the client's timeout with the duration above: it gave up, or a user closed the page."
        }
        Reason::UpgradeRefused => "Add the upgrade type to upgrade_configs, if it is wanted.",
        Reason::ExpectationFailed => "Mend the client's Expect header.",
        Reason::DnsFailure => {
            "Resolve the name from this proxy's pod; check its spelling, /etc/resolv.conf and the cluster's DNS."
        }
        Reason::IdleTimeout => {
            "Find out which side stalled; long silent streams need a larger stream_idle_timeout or keep-alives."
        }
        Reason::Draining => {
            "Send it again: the load balancer should have stopped sending here; give it a longer drain delay."
        }
        Reason::DownstreamOverflow => {
            "Look for clients that open many connections; the bound protects memory and can be raised in the listener."
        }
    }
}
