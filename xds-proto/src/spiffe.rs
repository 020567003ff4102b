//! SPIFFE ids as they are written on the wire: in certificates, in xDS and in manifests.
//!
//! The strict form of the SPIFFE-ID standard (§2): nothing is normalised, so that two ids are the same exactly when their bytes are.

use std::fmt;
use std::str::FromStr;

/// `spiffe://<trust domain>/<path>`, checked; compared byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Box<str>,
    /// Where the trust domain ends in `text`.
    domain_end: usize,
}

impl SpiffeId {
    /// The id of a workload: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    ///
    /// # Errors
    /// When a part has a byte that ids may not have.
    pub fn workload(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, IdError> {
        format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain: whose bundle verifies it.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.domain_end]
    }

    /// The path, with its leading slash.
    pub fn path(&self) -> &str {
        &self.text[self.domain_end..]
    }

    /// Namespace and service account, when the path is that of a workload.
    pub fn namespace_and_account(&self) -> Option<(&str, &str)> {
        let rest = self.path().strip_prefix("/ns/")?;
        let (namespace, rest) = rest.split_once('/')?;
        let account = rest.strip_prefix("sa/")?;
        (!namespace.is_empty() && !account.is_empty() && !account.contains('/'))
            .then_some((namespace, account))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let domain = trust_domain_of(text)?;
        Ok(Self { text: text.into(), domain_end: SCHEME.len() + domain.len() })
    }
}

/// The trust domain of a text that is an id by the same rules, without keeping it.
///
/// # Errors
/// When it is none.
pub fn trust_domain_of(text: &str) -> Result<&str, IdError> {
    if text.len() > LONGEST {
        return Err(IdError::TooLong);
    }
    let rest = text.strip_prefix(SCHEME).ok_or(IdError::Scheme)?;
    let (domain, path) = rest.split_at(rest.find('/').ok_or(IdError::NoPath)?);
    if !is_trust_domain(domain) {
        return Err(IdError::TrustDomain);
    }
    if !path[1..].split('/').all(is_segment) {
        return Err(IdError::Path);
    }
    Ok(domain)
}

/// Whether a text may be a trust domain: lower-case letters, digits, `.`, `-`, `_`; at most 255 bytes.
pub fn is_trust_domain(text: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    !text.is_empty() && text.len() <= 255 && text.bytes().all(allowed)
}

fn is_segment(segment: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(allowed)
}

const SCHEME: &str = "spiffe://";

/// SPIFFE-ID §2.3: implementations must support ids up to this many bytes, and should not make longer ones.
const LONGEST: usize = 2048;

/// Why a text is no SPIFFE id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Longer than 2,048 bytes.
    #[error("a SPIFFE id has at most 2048 bytes")]
    TooLong,
    /// Another scheme, or none.
    #[error("a SPIFFE id begins with spiffe://, in lower case")]
    Scheme,
    /// Only a trust domain.
    #[error("a workload's SPIFFE id has a path after the trust domain")]
    NoPath,
    /// A byte that trust domains do not have.
    #[error("a trust domain has lower-case letters, digits, '.', '-' and '_', and at most 255 bytes")]
    TrustDomain,
    /// An empty or relative segment, or a byte that paths do not have.
    #[error("a SPIFFE id's path has segments of letters, digits, '.', '-' and '_', none empty, '.' or '..'")]
    Path,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_has_namespace_and_account() {
        let id = SpiffeId::workload("cluster.local", "shop", "web").unwrap();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
        assert_eq!((id.trust_domain(), id.path()), ("cluster.local", "/ns/shop/sa/web"));
        assert_eq!(id.namespace_and_account(), Some(("shop", "web")));
        assert_eq!(id.to_string(), id.as_str());
        for other in ["web", "ns/shop", "ns/shop/web", "ns/shop/sa/web/x", "sa/web/ns/shop"] {
            let id: SpiffeId = format!("spiffe://td/{other}").parse().unwrap();
            assert_eq!(id.namespace_and_account(), None, "{other}");
        }
    }

    #[test]
    fn what_another_reader_may_read_differently_is_refused() {
        for (text, error) in [
            ("SPIFFE://td/a", IdError::Scheme),
            ("https://td/a", IdError::Scheme),
            ("spiffe://td", IdError::NoPath),
            ("spiffe://TD/a", IdError::TrustDomain),
            ("spiffe://td:443/a", IdError::TrustDomain),
            ("spiffe://user@td/a", IdError::TrustDomain),
            ("spiffe:///a", IdError::TrustDomain),
            ("spiffe://td/", IdError::Path),
            ("spiffe://td/a/", IdError::Path),
            ("spiffe://td//a", IdError::Path),
            ("spiffe://td/a/../b", IdError::Path),
            ("spiffe://td/a%00", IdError::Path),
            ("spiffe://td/a\0", IdError::Path),
            ("spiffe://td/a?b", IdError::Path),
            ("spiffe://td/a#b", IdError::Path),
            ("spiffe://td/é", IdError::Path),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(error), "{text:?}");
        }
        let long = format!("spiffe://td/{}", "a".repeat(2037));
        assert_eq!(long.parse::<SpiffeId>(), Err(IdError::TooLong));
        let longest = format!("spiffe://td/{}", "a".repeat(2036));
        assert_eq!(longest.parse::<SpiffeId>().unwrap().as_str(), longest);
    }
}
