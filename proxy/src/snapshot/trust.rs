//! What a connection manager believes of a request.

use super::Prefix;

/// `xff_num_trusted_hops` and what belongs to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forwarding {
    /// Proxies before us whose word counts.
    pub(crate) trusted_hops: u8,
    /// `skip_xff_append`.
    pub(crate) skip_append: bool,
    /// `append_x_forwarded_port`.
    pub(crate) append_port: bool,
    /// `internal_address_config.cidr_ranges`: nobody is inside without it, as in Envoy since 1.33.
    pub(crate) internal: Vec<Prefix>,
}

/// What becomes of header names with underscores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Underscores {
    /// They are passed on.
    Allow,
    /// The request is refused.
    Reject,
    /// The header is dropped.
    Drop,
}

/// Which ports are taken off the request's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StripPort {
    /// None.
    Never,
    /// The listener's own.
    Matching,
    /// Any.
    Any,
}
