//! What proxies have confirmed of the roots that they were told to trust: the gates of a rotation (`ca`) wait for it.
//!
//! A proxy trusts the roots of the version of `ROOTCA` that it has acknowledged. When that is not the newest version of its scope,
//! it counts as not confirmed, whatever it holds.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use prost::Message as _;
use sidegate_xds::envoy::config::core::v3::DataSource;
use sidegate_xds::envoy::config::core::v3::data_source::Specifier;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::{Secret, SpiffeCertValidatorConfig};
use sidegate_xds::resource::{ResourceType, from_any};
use tokio::time::Instant;

use super::streams::StreamReport;
use crate::ca::fingerprints;
use crate::ca::rotation::{Roots, Witness};
use crate::snapshot::{Resource, Snapshots};

/// The connected proxies that have proven who they are. `identity` tells who that is.
pub fn witnesses(
    streams: Vec<StreamReport>,
    snapshots: &Snapshots,
    trust_domain: &str,
    identity: impl Fn(&StreamReport) -> Option<String>,
    now: Instant,
) -> Vec<Witness> {
    let mut read: HashMap<Arc<str>, BTreeSet<String>> = HashMap::new();
    let witness = |report: StreamReport| {
        let identity = identity(&report)?;
        let latest = snapshots.latest(&report.node.scope);
        let latest = latest.as_ref().and_then(|one| one.resources.of(ResourceType::Secret).get(ROOTS));
        let roots = roots(&report, latest, |resource| {
            // Thousands of proxies hold the same few versions.
            let known = read.entry(Arc::clone(&resource.version));
            known.or_insert_with(|| trusted(&resource.body, trust_domain)).clone()
        });
        Some(Witness {
            title: report.node.title(),
            proxy: report.node.id,
            identity,
            connected: now.saturating_duration_since(report.connected).as_secs(),
            roots,
        })
    };
    streams.into_iter().filter_map(witness).collect()
}

fn roots(
    report: &StreamReport,
    latest: Option<&Resource>,
    read: impl FnOnce(&Resource) -> BTreeSet<String>,
) -> Roots {
    let secrets = report.types.iter().find(|one| one.kind == ResourceType::Secret);
    let Some(holding) = secrets.and_then(|secrets| secrets.roots.as_ref()) else { return Roots::NotAsked };
    if let Some(text) = &holding.refused {
        return Roots::Refused(text.clone());
    }
    match (latest, &holding.confirmed) {
        (Some(latest), Some(confirmed)) if latest.version == *confirmed => Roots::Confirmed(read(latest)),
        _ => Roots::Unconfirmed,
    }
}

/// The roots of the own trust domain in a `ROOTCA`.
fn trusted(body: &[u8], trust_domain: &str) -> BTreeSet<String> {
    let Ok(Secret { r#type: Some(Type::ValidationContext(context)), .. }) = Secret::decode(body) else {
        return BTreeSet::new();
    };
    let config = context.custom_validator_config.and_then(|extension| extension.typed_config);
    let Some(config) = config.and_then(|any| from_any::<SpiffeCertValidatorConfig>(&any).ok()) else {
        return context.trusted_ca.as_ref().map(inline).unwrap_or_default();
    };
    let own = config.trust_domains.into_iter().filter(|domain| domain.name == trust_domain);
    own.filter_map(|domain| domain.trust_bundle).flat_map(|bundle| inline(&bundle)).collect()
}

fn inline(source: &DataSource) -> BTreeSet<String> {
    match &source.specifier {
        Some(Specifier::InlineString(text)) => fingerprints(text),
        Some(Specifier::InlineBytes(bytes)) => {
            std::str::from_utf8(bytes).map(fingerprints).unwrap_or_default()
        }
        _ => BTreeSet::new(),
    }
}

/// The secret that says whom a proxy trusts.
const ROOTS: &str = "ROOTCA";

#[cfg(test)]
mod tests {
    use sidegate_xds::envoy::config::core::v3::TypedExtensionConfig;
    use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::CertificateValidationContext;
    use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain;
    use sidegate_xds::resource::to_any;

    use super::*;
    use crate::model::{Name, Scope};
    use crate::xds::ProxyNode;
    use crate::xds::stream::{Holding, TypeReport, TypeState};

    fn secret(domains: &[(&str, &[&str])]) -> Resource {
        let trust_domains = domains.iter().map(|(name, roots)| TrustDomain {
            name: (*name).to_owned(),
            trust_bundle: Some(DataSource {
                specifier: Some(Specifier::InlineString(roots.concat())),
                ..DataSource::default()
            }),
            ..TrustDomain::default()
        });
        let config =
            SpiffeCertValidatorConfig { trust_domains: trust_domains.collect(), ..Default::default() };
        Resource::new(&Secret {
            name: ROOTS.to_owned(),
            r#type: Some(Type::ValidationContext(CertificateValidationContext {
                custom_validator_config: Some(TypedExtensionConfig {
                    name: "envoy.tls.cert_validator.spiffe".to_owned(),
                    typed_config: Some(to_any(&config)),
                }),
                ..CertificateValidationContext::default()
            })),
        })
    }

    fn report(holding: Option<Holding>) -> StreamReport {
        let now = Instant::now();
        let scope = Scope::Sidecar { pod: Name::new("shop", "web-1"), foreign: false, secure: true };
        StreamReport {
            caller: None,
            node: ProxyNode { id: "web-1".to_owned(), scope },
            connected: now,
            applied_generation: 1,
            types: vec![TypeReport {
                kind: ResourceType::Secret,
                resources: 1,
                sent: None,
                accepted: None,
                state: TypeState::Synced,
                error: None,
                roots: holding,
                since: now,
            }],
        }
    }

    fn root(name: &str) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap().pem()
    }

    #[test]
    fn only_an_acknowledgement_of_the_newest_version_counts() {
        let (one, two, other) = (root("one"), root("two"), root("other"));
        let newest = secret(&[("cluster.local", &[&one, &two]), ("elsewhere.example", &[&other])]);
        let look = |holding| {
            roots(&report(holding), Some(&newest), |resource| trusted(&resource.body, "cluster.local"))
        };
        assert_eq!(look(None), Roots::NotAsked);
        let holding = |confirmed: Option<&str>, refused: Option<&str>| {
            Some(Holding { confirmed: confirmed.map(Into::into), refused: refused.map(str::to_owned) })
        };
        assert_eq!(look(holding(None, None)), Roots::Unconfirmed);
        assert_eq!(look(holding(Some("an earlier one"), None)), Roots::Unconfirmed);
        assert_eq!(look(holding(None, Some("no"))), Roots::Refused("no".to_owned()));
        let own: BTreeSet<String> = [&one, &two].into_iter().flat_map(|pem| fingerprints(pem)).collect();
        assert_eq!(own.len(), 2);
        assert_eq!(look(holding(Some(&newest.version), None)), Roots::Confirmed(own));
    }

    #[test]
    fn what_has_proven_nothing_is_no_witness() {
        let look = |identity: Option<&str>| {
            let identity = identity.map(str::to_owned);
            let reports = vec![report(None)];
            witnesses(reports, &Snapshots::default(), "cluster.local", |_| identity.clone(), Instant::now())
        };
        assert_eq!(look(None), []);
        assert_eq!(look(Some("spiffe://cluster.local/ns/shop/sa/web"))[0].title, "sidecar shop/web-1");
    }
}
