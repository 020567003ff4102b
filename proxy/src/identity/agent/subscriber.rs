//! One SDS stream's state: what was asked for and what was sent. Does no IO.

use std::collections::{BTreeMap, BTreeSet};

use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::Secret;
use sidegate_xds::envoy::service::discovery::v3 as wire;
use sidegate_xds::resource::{ResourceType, to_any};

use super::super::Material;
use super::super::secret::{DEFAULT, ROOTS};

/// A subscriber, of either protocol.
#[derive(Debug, Default)]
pub(super) struct Subscriber {
    names: BTreeSet<String>,
    /// What the subscriber has, by version.
    sent: BTreeMap<String, String>,
    /// Names that were asked for and not answered yet.
    unanswered: BTreeSet<String>,
    nonce: u64,
}

impl Subscriber {
    /// Takes a request of the state-of-the-world protocol.
    pub(super) fn ask(&mut self, request: &wire::DiscoveryRequest) {
        if self.is_stale(&request.response_nonce) {
            return;
        }
        let names: BTreeSet<String> = request.resource_names.iter().take(MOST_NAMES).cloned().collect();
        self.unanswered.extend(names.difference(&self.names).cloned());
        self.names = names;
    }

    /// Takes a request of the delta protocol.
    pub(super) fn ask_delta(&mut self, request: &wire::DeltaDiscoveryRequest) {
        for name in &request.resource_names_unsubscribe {
            self.names.remove(name);
            self.sent.remove(name);
            self.unanswered.remove(name);
        }
        for name in request.resource_names_subscribe.iter().take(MOST_NAMES) {
            if self.names.len() < MOST_NAMES {
                self.names.insert(name.clone());
                self.unanswered.insert(name.clone());
            }
        }
        let held = request.initial_resource_versions.iter().filter(|(name, _)| self.names.contains(*name));
        self.sent.extend(held.map(|(name, version)| (name.clone(), version.clone())).collect::<Vec<_>>());
    }

    fn is_stale(&self, nonce: &str) -> bool {
        !nonce.is_empty() && nonce != self.nonce.to_string()
    }

    /// What is to be sent, if anything is new to the subscriber.
    pub(super) fn answer(&mut self, material: &Material) -> Option<wire::DiscoveryResponse> {
        let secrets = self.secrets(material);
        let new = |(name, secret): (&String, &(String, Secret))| {
            self.unanswered.contains(name) || self.sent.get(name) != Some(&secret.0)
        };
        if !secrets.iter().any(new) {
            return None;
        }
        self.sent = secrets.iter().map(|(name, (version, _))| (name.clone(), version.clone())).collect();
        self.unanswered.retain(|name| !secrets.contains_key(name));
        self.nonce += 1;
        Some(wire::DiscoveryResponse {
            version_info: self.nonce.to_string(),
            nonce: self.nonce.to_string(),
            type_url: ResourceType::Secret.type_url().to_owned(),
            resources: secrets.values().map(|(_, secret)| to_any(secret)).collect(),
            ..wire::DiscoveryResponse::default()
        })
    }

    /// The same for the delta protocol, where what is over can be taken away.
    pub(super) fn answer_delta(&mut self, material: &Material) -> Option<wire::DeltaDiscoveryResponse> {
        let secrets = self.secrets(material);
        let mut resources = Vec::new();
        for (name, (version, secret)) in &secrets {
            if self.unanswered.remove(name) || self.sent.get(name) != Some(version) {
                self.sent.insert(name.clone(), version.clone());
                resources.push(wire::Resource {
                    name: name.clone(),
                    version: version.clone(),
                    resource: Some(to_any(secret)),
                    ..wire::Resource::default()
                });
            }
        }
        let gone: Vec<String> =
            self.sent.keys().filter(|name| !secrets.contains_key(*name)).cloned().collect();
        let mut removed_resources = gone.clone();
        self.sent.retain(|name, _| !gone.contains(name));
        // Of a name that there never will be anything of, the subscriber need not wait.
        self.unanswered.retain(|name| {
            let known = name == DEFAULT || name == ROOTS;
            if !known {
                removed_resources.push(name.clone());
            }
            known
        });
        if resources.is_empty() && removed_resources.is_empty() {
            return None;
        }
        self.nonce += 1;
        Some(wire::DeltaDiscoveryResponse {
            nonce: self.nonce.to_string(),
            type_url: ResourceType::Secret.type_url().to_owned(),
            resources,
            removed_resources,
            ..wire::DeltaDiscoveryResponse::default()
        })
    }

    /// What there is of the names that were asked for, with versions.
    fn secrets(&self, material: &Material) -> BTreeMap<String, (String, Secret)> {
        let leaf = material.leaf.as_ref().map(|leaf| leaf.facts().sha256.to_string());
        let roots = material.roots.as_ref().map(|roots| crate::tls::fingerprint(roots.as_bytes()));
        let mut secrets = BTreeMap::new();
        for ((name, secret), version) in material.secrets().into_iter().zip([leaf, roots]) {
            if let (Some(secret), Some(version), true) = (secret, version, self.names.contains(name)) {
                secrets.insert(name.to_owned(), (version, secret));
            }
        }
        secrets
    }
}

/// Names that one stream may ask for: there are two.
const MOST_NAMES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn material(roots: Option<&str>) -> Material {
        Material { leaf: None, roots: roots.map(Into::into) }
    }

    fn sotw(names: &[&str], nonce: &str) -> wire::DiscoveryRequest {
        wire::DiscoveryRequest {
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            response_nonce: nonce.to_owned(),
            ..wire::DiscoveryRequest::default()
        }
    }

    #[test]
    fn state_of_the_world_is_sent_when_it_is_there_and_when_it_changes() {
        let mut subscriber = Subscriber::default();
        subscriber.ask(&sotw(&["ROOTCA"], ""));
        assert_eq!(subscriber.answer(&material(None)), None);
        let first = subscriber.answer(&material(Some("one"))).unwrap();
        assert_eq!((first.nonce.as_str(), first.resources.len()), ("1", 1));
        subscriber.ask(&sotw(&["ROOTCA"], "1"));
        assert_eq!(subscriber.answer(&material(Some("one"))), None, "an ACK is no question");
        assert_eq!(subscriber.answer(&material(Some("two"))).unwrap().nonce, "2");
        // What answers an older response says nothing of the names now.
        subscriber.ask(&sotw(&[], "1"));
        assert!(subscriber.answer(&material(Some("three"))).is_some());
        subscriber.ask(&sotw(&["other"], "3"));
        assert_eq!(subscriber.answer(&material(Some("four"))), None, "not asked for any more");
    }

    #[test]
    fn delta_takes_away_what_is_over_and_what_never_is() {
        let mut subscriber = Subscriber::default();
        let mut request = wire::DeltaDiscoveryRequest {
            resource_names_subscribe: vec!["ROOTCA".to_owned(), "file-cert:/etc/passwd".to_owned()],
            ..wire::DeltaDiscoveryRequest::default()
        };
        subscriber.ask_delta(&request);
        let first = subscriber.answer_delta(&material(Some("one"))).unwrap();
        assert_eq!(first.resources.len(), 1);
        assert_eq!(first.removed_resources, ["file-cert:/etc/passwd"]);
        assert_eq!(subscriber.answer_delta(&material(Some("one"))), None);
        let gone = subscriber.answer_delta(&material(None)).unwrap();
        assert_eq!(gone.removed_resources, ["ROOTCA"]);
        let version = first.resources[0].version.clone();
        // A stream that begins anew says what it holds.
        let mut again = Subscriber::default();
        request.resource_names_subscribe.truncate(1);
        request.initial_resource_versions.insert("ROOTCA".to_owned(), version);
        again.ask_delta(&request);
        assert!(again.answer_delta(&material(Some("two"))).is_some());
    }
}
