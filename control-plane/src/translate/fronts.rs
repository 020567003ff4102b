//! What the Services in front of an app's port say of it, and what holds when they disagree.
//!
//! Who may write a Service may not thereby switch off what another's policies ask of requests: a port is bytes only when nobody says that it
//! is HTTP, and, where tokens are looked at, only when every Service in front of it says that it is not.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, ServicePort};

use super::access::Place;
use super::context::Build;
use super::verdict::{ACCEPTED, Problem, Subject};
use super::{endpoint, service};
use crate::model::Name;

/// What is said of an app's port.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fronts {
    /// It speaks HTTP/2.
    pub(super) h2: bool,
    /// It does not speak HTTP, or not in the clear.
    pub(super) opaque: bool,
}

impl Fronts {
    /// Of the port of a Pod. A Service whose word does not count is told.
    pub(super) fn of(build: &mut Build<'_>, name: &Name, pod: &Pod, app: u16) -> Self {
        let world = &build.world;
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let mut fronts = Self::default();
        let mut opaque = Vec::new();
        let (mut http, mut silent) = (None, None);
        for (service, object) in &world.view.services {
            let selects = |selector: &BTreeMap<String, String>| {
                selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            };
            if service.namespace != name.namespace || !service::selector(object).is_some_and(selects) {
                continue;
            }
            let leads_here = |port: &ServicePort| endpoint::target_port(pod, port) == Some(app);
            for (number, port) in service::ports(object).filter(|(_, port)| leads_here(port)) {
                fronts.h2 |= world.speaks_h2(service, number, port);
                if service::declares_opaque(port) {
                    opaque.push((object, number));
                } else if service::declares_http(port) {
                    http.get_or_insert((service, number));
                } else {
                    silent.get_or_insert((service, number));
                }
            }
        }
        let reads_tokens = world.access.reads_tokens(world.view, Place::Pod { pod, port: app });
        let stronger = http.or(silent.filter(|_| reads_tokens));
        fronts.opaque = !opaque.is_empty() && stronger.is_none();
        let Some((other, number_there)) = stronger else { return fronts };
        for (object, number) in opaque {
            let text = format!(
                "port {number} is declared opaque and leads to port {app} of Pod {name}, which Service {other} has as HTTP (its port \
                 {number_there}): it is served as HTTP, so that no policy for requests is passed by"
            );
            let subject = Subject::new("Service", &object.metadata);
            build.verdicts.note(&subject, ACCEPTED, Problem::new("ProtocolConflict", text));
        }
        fronts
    }
}
