//! Trust domains (SPIFFE): each has roots of its own, and which ones count is decided by the id in the certificate, before any path is
//! built (R7). So no domain can vouch for an id of another one.

use std::collections::BTreeMap;
use std::fmt;

use super::certificate::Certificate;
use super::material::Roots;
use super::verify::Refusal;

/// The roots of each trust domain (`SPIFFECertValidatorConfig`).
pub(crate) struct Bundles {
    by_domain: BTreeMap<Box<str>, Roots>,
    /// The grammar of ids: the trust domain of a text that is one.
    trust_domain_of: TrustDomainOf,
}

/// The trust domain of a SPIFFE id; `None` when the text is none.
pub(crate) type TrustDomainOf = for<'a> fn(&'a str) -> Option<&'a str>;

impl fmt::Debug for Bundles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.by_domain.keys()).finish()
    }
}

impl Bundles {
    /// No domains yet.
    pub(crate) fn new(trust_domain_of: TrustDomainOf) -> Self {
        Self { by_domain: BTreeMap::new(), trust_domain_of }
    }

    /// Adds a domain; false when it is there already.
    pub(crate) fn insert(&mut self, domain: &str, roots: Roots) -> bool {
        self.by_domain.insert(domain.into(), roots).is_none()
    }

    /// The domains with their roots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Roots)> {
        self.by_domain.iter().map(|(domain, roots)| (&**domain, roots))
    }

    /// The roots that may vouch for a certificate: those of the trust domain of its one id.
    pub(super) fn of(&self, certificate: &Certificate) -> Result<&Roots, Refusal> {
        let names = &certificate.names;
        let id = match (names.uri_count, names.uris.as_slice()) {
            (1, [id]) => id,
            (1, _) => return Err(Refusal::Identity("has a URI that cannot be read".into())),
            (0, _) => return Err(Refusal::Identity("has no URI, so no SPIFFE id".into())),
            (count, _) => {
                return Err(Refusal::Identity(format!("has {count} URIs, where a SPIFFE id stands alone")));
            }
        };
        if certificate.may_certify {
            return Err(Refusal::Identity("may sign others (key usage), which no workload may".into()));
        }
        let Some(domain) = (self.trust_domain_of)(id) else {
            return Err(Refusal::Identity(format!("has {id:?}, which is no SPIFFE id")));
        };
        self.by_domain.get(domain).ok_or_else(|| Refusal::Domain(domain.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_domain_has_one_bundle_and_is_told_by_its_name() {
        let mut bundles = Bundles::new(|_| None);
        assert!(bundles.insert("a.test", Roots::default()));
        assert!(!bundles.insert("a.test", Roots::default()), "there already");
        assert!(bundles.insert("b.test", Roots::default()));
        assert_eq!(format!("{bundles:?}"), "{\"a.test\", \"b.test\"}");
    }
}
