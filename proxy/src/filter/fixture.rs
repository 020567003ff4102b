//! What filters' tests need around a request.

use http::{HeaderValue, Method};
use tokio::time::Instant;

use super::{Attributes, Context};
use crate::message::{Headers, Name, RequestHead, Scheme, Value, Version};
use crate::telemetry::{Downstream, Metrics};

/// A plaintext connection.
pub(crate) fn connection() -> Downstream {
    Downstream {
        listener: "l".into(),
        stat_prefix: "s".into(),
        inbound: true,
        peer: "127.0.0.1:1".parse().expect("written to be read"),
        local: "127.0.0.1:2".parse().expect("written to be read"),
        security: None,
    }
}

/// A GET of `shop.test`.
pub(crate) fn request(path: &str, fields: &[(&'static str, &str)]) -> RequestHead {
    let mut headers = Headers::new();
    for (name, value) in fields {
        headers.append(
            Name::Static(name),
            Value::Http(HeaderValue::from_str(value).expect("written to be read")),
        );
    }
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: "shop.test".parse().ok(),
        path: path.parse().expect("written to be read"),
        version: Version::Http11,
        headers,
    }
}

/// Does something as a filter would.
pub(crate) fn in_context<T>(
    head: &mut RequestHead,
    attributes: &mut Attributes,
    run: impl FnOnce(&mut Context<'_>) -> T,
) -> T {
    let (connection, recorder, mut notes) = (connection(), Metrics::new(1).recorder(0), Vec::new());
    run(&mut Context {
        now: Instant::now(),
        connection: &connection,
        direct: connection.peer.ip(),
        client: connection.peer.ip(),
        head,
        attributes,
        recorder: &recorder,
        notes: &mut notes,
    })
}
