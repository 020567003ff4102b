//! What xDS says about resources of any kind: their type URLs, `Any` in and out, and the content hash
//! that serves as a version.

use bytes::Bytes;
use prost::{Message, Name};

use crate::google::protobuf::Any;

/// The resource types that Sidegate exchanges over ADS, in make-before-break order
/// (xDS protocol, "Eventual consistency considerations"): additions go forwards, removals backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// `envoy.extensions.transport_sockets.tls.v3.Secret` (SDS): asked for by name only, sent to nobody who has not proven who it is.
    Secret,
    /// `envoy.config.cluster.v3.Cluster` (CDS).
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment` (EDS).
    Endpoint,
    /// `envoy.config.listener.v3.Listener` (LDS).
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration` (RDS).
    Route,
}

impl ResourceType {
    /// Every type that a proxy takes, in the order in which it asks for them.
    pub const TAKEN: [ResourceType; 5] =
        [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route, Self::Secret];

    /// How many types there are.
    pub const COUNT: usize = 5;

    /// Every type that our control plane sends, in the order in which additions are sent: a type's number (`as usize`) is its
    /// place here. Secrets come before the clusters and listeners that name them.
    pub const ALL: [ResourceType; Self::COUNT] =
        [Self::Secret, Self::Cluster, Self::Endpoint, Self::Listener, Self::Route];

    /// The type URL on the wire.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The type for a URL, or `None` for one that our control plane does not send.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// The noun used in logs, metrics and `sidegate status`.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Endpoint => "endpoint",
            Self::Listener => "listener",
            Self::Route => "route",
            Self::Secret => "secret",
        }
    }

    /// Whether a first request without names subscribes to every resource of the type.
    pub const fn is_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    /// Whether resources of the type are given to those who name them, and never to whoever asks for all there are.
    pub const fn is_by_name_only(self) -> bool {
        matches!(self, Self::Secret)
    }
}

/// Wraps a message into an `Any` under its canonical `type.googleapis.com/` URL.
pub fn to_any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// Unwraps an `Any`, refusing one that holds another type.
///
/// # Errors
/// Names both types when they differ; otherwise says why the bytes do not decode.
pub fn from_any<M: Message + Name + Default>(any: &Any) -> Result<M, DecodeError> {
    let expected = M::type_url();
    if any.type_url != expected {
        return Err(DecodeError::WrongType { expected, found: any.type_url.clone() });
    }
    M::decode(any.value.as_slice()).map_err(|source| DecodeError::Malformed { type_url: expected, source })
}

/// A content version: the 64-bit FNV-1a of the encoded resource, as 16 hex digits. Equal bytes have equal versions
/// in every process, so that a restarted control plane need not send what a proxy already holds.
pub fn content_version(body: &[u8]) -> String {
    let hash = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// Encodes a message once, for many receivers.
pub fn encode<M: Message>(message: &M) -> Bytes {
    message.encode_to_vec().into()
}

/// Why an `Any` could not be unwrapped.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The type URL is another one.
    #[error("expected a {expected}, found a {found}")]
    WrongType {
        /// The URL that was asked for.
        expected: String,
        /// The URL that came.
        found: String,
    },
    /// The bytes are not such a message.
    #[error("malformed {type_url}: {source}")]
    Malformed {
        /// The URL that was asked for.
        type_url: String,
        /// What prost says.
        source: prost::DecodeError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_types_number_is_its_place_in_the_order_of_additions() {
        for (place, kind) in ResourceType::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place, "{kind:?}");
            assert_eq!(ResourceType::from_type_url(kind.type_url()), Some(kind));
        }
    }

    #[test]
    fn secrets_come_first_and_by_name() {
        assert_eq!(ResourceType::ALL[0], ResourceType::Secret);
        let by_name: Vec<_> = ResourceType::ALL.into_iter().filter(|kind| kind.is_by_name_only()).collect();
        assert_eq!(by_name, [ResourceType::Secret]);
        assert!(!ResourceType::Secret.is_wildcard());
    }
}
