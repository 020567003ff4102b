//! Requests that want their connection to become something else: CONNECT and upgrades. Which are allowed, and which came about.

use http::StatusCode;

use super::Reply;
use crate::error::Reason;
use crate::message::{Tunnel, Version};
use crate::route::{Action, Route};
use crate::snapshot::Http;

/// Refuses what neither the connection manager nor the route allows (A15, A16). Passing such a request on without its upgrade would
/// half-work, and its bytes could be taken for another request.
pub(super) fn check(tunnel: &Tunnel, http: &Http, route: &Route) -> Result<(), Reply> {
    let refused = |detail: &str| Err(Reply::new(Reason::UpgradeRefused).detail(detail));
    let own = |kind: &str| match &route.action {
        Action::Forward(forward) => {
            forward.upgrades.iter().find(|(name, _)| **name == *kind).map(|(_, enabled)| *enabled)
        }
        Action::Redirect(_) | Action::Direct(_) => None,
    };
    match tunnel {
        Tunnel::Connect if !own("connect").unwrap_or(http.allow_connect) => {
            refused("CONNECT is not configured here")
        }
        Tunnel::Connect => match &route.action {
            Action::Forward(forward) if !forward.terminate_connect => {
                refused("the route does not terminate CONNECT (connect_config)")
            }
            _ => Ok(()),
        },
        Tunnel::Upgrade(kind) => {
            let allowed = own(kind).unwrap_or_else(|| http.upgrades.iter().any(|allowed| allowed == kind));
            if allowed { Ok(()) } else { refused("the upgrade is not configured here") }
        }
    }
}

/// Whether the upstream's answer starts the tunnel, if one was asked for. Over HTTP/2 every 2xx opens it (RFC 8441 §5): that of an upstream
/// of HTTP/1.1 which ignores the upgrade is refused, since the client would read its content as the other protocol's.
pub(super) fn outcome(asked: Option<&Tunnel>, client: Version, status: StatusCode) -> Result<bool, Reply> {
    let opened = asked.is_some_and(|tunnel| has_opened(tunnel, status));
    if asked.is_none() || opened || client != Version::Http2 || !status.is_success() {
        return Ok(opened);
    }
    let detail =
        format!("the endpoint answered {status}, not 101, which the client would take for its tunnel");
    Err(Reply::new(Reason::UpstreamProtocolError).detail(detail))
}

/// An answer to an upgrade is 101 whatever version carried it.
fn has_opened(tunnel: &Tunnel, status: StatusCode) -> bool {
    match tunnel {
        Tunnel::Connect => status.is_success(),
        Tunnel::Upgrade(_) => status == StatusCode::SWITCHING_PROTOCOLS,
    }
}
