//! The ways through a proxy: one listener each, and what it leads to.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What comes in, and what goes on to the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// HTTP/1.1 both ways
    Http1,
    /// HTTP/2 with prior knowledge both ways
    Http2,
    /// HTTP/2 in, HTTP/1.1 on
    Downgrade,
    /// Bytes, to an echo
    Tcp,
    /// Bytes, to a source of many
    Bulk,
    /// HTTP/1.1, mutual TLS to the origin
    TlsUp,
    /// HTTP/1.1, mutual TLS from the client
    TlsDown,
    /// HTTP/1.1 through two proxies, as between sidecars, with HTTP/1.1 over mutual TLS between them
    Mesh1,
    /// The same with HTTP/2 between them
    Mesh2,
}

impl Lane {
    pub(crate) const ALL: [Self; 9] = [
        Self::Http1,
        Self::Http2,
        Self::Downgrade,
        Self::Tcp,
        Self::Bulk,
        Self::TlsUp,
        Self::TlsDown,
        Self::Mesh1,
        Self::Mesh2,
    ];

    /// In configurations.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Downgrade => "downgrade",
            Self::Tcp => "tcp",
            Self::Bulk => "bulk",
            Self::TlsUp => "tls_up",
            Self::TlsDown => "tls_down",
            Self::Mesh1 => "mesh_http1",
            Self::Mesh2 => "mesh_http2",
        }
    }

    /// Where it ends.
    pub(crate) fn service(self) -> Service {
        match self {
            Self::Http1 | Self::Downgrade | Self::TlsDown | Self::Mesh1 | Self::Mesh2 => Service::Http1,
            Self::Http2 => Service::Http2,
            Self::Tcp => Service::Echo,
            Self::Bulk => Service::Bulk,
            Self::TlsUp => Service::Tls,
        }
    }

    /// Whether bytes pass without being read as HTTP.
    pub(crate) fn is_opaque(self) -> bool {
        matches!(self, Self::Tcp | Self::Bulk)
    }

    /// Whether a second proxy stands between the first and the origin: another listener of the same process.
    pub(crate) fn is_mesh(self) -> bool {
        matches!(self, Self::Mesh1 | Self::Mesh2)
    }

    /// Whether HTTP/2 comes in.
    pub(crate) fn takes_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Downgrade)
    }
}

/// What the origin does on one of its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Service {
    /// HTTP/1.1: `GET /n` is answered with n bytes
    Http1,
    /// The same over TLS 1.3; asks for a client certificate
    Tls,
    /// HTTP/2 with prior knowledge: a message and trailers
    Http2,
    /// Every TCP message goes back
    Echo,
    /// Each byte is answered with many
    Bulk,
}

impl Service {
    pub(crate) const ALL: [Self; 5] = [Self::Http1, Self::Tls, Self::Http2, Self::Echo, Self::Bulk];
}
