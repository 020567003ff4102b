//! Which MeshTLSPolicy applies where: of a port, else of the workload, else of the namespace, else of the mesh.
//!
//! One policy holds for a workload, a namespace, the mesh: of two that claim the same the older wins, then the lower name. They are not
//! merged; what a workload's policy leaves open is its namespace's to say.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::policy::seniority;
use super::service;
use super::verdict::{ACCEPTED, PARTIALLY_INVALID, Problem, Subject, Verdicts, name_of};
use super::workload;
use crate::model::policy::{MESH_NAMESPACE, MeshTlsMode, MeshTlsPolicy};
use crate::model::{Name, View};

/// All modes of a view.
#[derive(Debug, Default)]
pub(super) struct Modes<'a> {
    mesh: Option<&'a MeshTlsPolicy>,
    namespaces: BTreeMap<&'a str, &'a MeshTlsPolicy>,
    pods: BTreeMap<&'a Name, &'a MeshTlsPolicy>,
}

impl<'a> Modes<'a> {
    /// Attaches every policy to what it claims, and says what became of each.
    pub(super) fn new(view: &'a View, verdicts: &mut Verdicts) -> Self {
        let mut modes = Self::default();
        let mut by_age: Vec<(&Name, &MeshTlsPolicy)> =
            view.mesh_tls_policies.iter().map(|(name, policy)| (name, &**policy)).collect();
        by_age.sort_by_key(|(_, policy)| seniority(&policy.metadata));
        for (name, policy) in by_age {
            let subject = Subject::new("MeshTLSPolicy", &policy.metadata);
            for (condition, problem) in modes.attach(view, name, policy) {
                verdicts.note(&subject, condition, problem);
            }
            verdicts.conclude(&subject, &[(ACCEPTED, Problem::new("Accepted", "in force"))]);
        }
        modes
    }

    /// What a Pod takes on a port of its app.
    pub(super) fn of(&self, pod: &Name, app: u16) -> MeshTlsMode {
        let own = self.pods.get(pod).map(|policy| &policy.spec);
        let of_port = own.and_then(|spec| spec.ports.get(&app.to_string()).map(|port| port.mode));
        let of_namespace = self.namespaces.get(pod.namespace.as_str());
        of_port
            .or_else(|| own.and_then(|spec| spec.mode))
            .or_else(|| of_namespace.and_then(|policy| policy.spec.mode))
            .or_else(|| self.mesh.and_then(|policy| policy.spec.mode))
            .unwrap_or(MeshTlsMode::Permissive)
    }

    fn attach(
        &mut self,
        view: &'a View,
        name: &'a Name,
        policy: &'a MeshTlsPolicy,
    ) -> Vec<(&'static str, Problem)> {
        let spec = &policy.spec;
        if let Some(selector) = &spec.selector {
            let pods = pods_of(view, &name.namespace);
            let chosen = pods.filter(|(_, pod)| has_labels(pod, &selector.match_labels)).collect();
            return self.claim_pods(chosen, policy);
        }
        if spec.target_refs.is_empty() {
            let place = if name.namespace == MESH_NAMESPACE {
                &mut self.mesh
            } else {
                return self.claim_namespace(&name.namespace, policy).err().into_iter().collect();
            };
            return claim(place, policy, "the mesh").err().into_iter().collect();
        }
        let mut problems = Vec::new();
        for (index, target) in spec.target_refs.iter().enumerate() {
            let found = match (target.group.as_str(), target.kind.as_str()) {
                ("", "Namespace") if target.name == name.namespace => {
                    self.claim_namespace(&name.namespace, policy).err().into_iter().collect()
                }
                ("", "Namespace") => {
                    let text = format!(
                        "Namespace {}: a policy targets the namespace that it stands in",
                        target.name
                    );
                    vec![(ACCEPTED, Problem::new("Invalid", text))]
                }
                ("", "Service") => {
                    let service = Name::new(name.namespace.as_str(), target.name.as_str());
                    match behind(view, &service) {
                        Ok(pods) => self.claim_pods(pods, policy),
                        Err(problem) => vec![(ACCEPTED, problem)],
                    }
                }
                (group, kind) => {
                    let text = format!(
                        "cannot target kind {kind:?} of group {group:?}; it can target Namespace, Service"
                    );
                    vec![(ACCEPTED, Problem::new("Invalid", text))]
                }
            };
            problems.extend(found.into_iter().map(|(condition, problem): (_, Problem)| {
                let message = format!("spec.targetRefs[{index}]: {}", problem.message);
                (condition, Problem { message, ..problem })
            }));
        }
        problems
    }

    fn claim_namespace(
        &mut self,
        namespace: &'a str,
        policy: &'a MeshTlsPolicy,
    ) -> Result<(), (&'static str, Problem)> {
        let mut place = self.namespaces.get(namespace).copied();
        claim(&mut place, policy, "the namespace")?;
        self.namespaces.insert(namespace, policy);
        Ok(())
    }

    fn claim_pods(
        &mut self,
        pods: Vec<(&'a Name, &'a Pod)>,
        policy: &'a MeshTlsPolicy,
    ) -> Vec<(&'static str, Problem)> {
        let (mut lost, mut bare) = (Vec::new(), Vec::new());
        let is_strict = policy.spec.mode == Some(MeshTlsMode::Strict)
            || policy.spec.ports.values().any(|port| port.mode == MeshTlsMode::Strict);
        for (name, pod) in pods {
            match self.pods.get(name) {
                // Two Services of one policy may lead to one Pod.
                Some(other) if !std::ptr::eq(*other, policy) => {
                    lost.push(format!("Pod {name} has MeshTLSPolicy {}", name_of(&other.metadata)));
                    continue;
                }
                _ => drop(self.pods.insert(name, policy)),
            }
            if is_strict && workload::inbound_ports(pod).is_ok_and(|pairs| pairs.is_empty()) {
                bare.push(name.to_string());
            }
        }
        let mut problems = Vec::new();
        if !lost.is_empty() {
            let text = format!("{}, which is older or of a lower name", bounded(&lost));
            problems.push((ACCEPTED, Problem::new("Conflicted", text)));
        }
        if !bare.is_empty() {
            let text = format!(
                "no sidecar stands in front of Pod {}: nothing there refuses plaintext (see annotation {})",
                bounded(&bare),
                crate::model::annotation::INBOUND
            );
            problems.push((PARTIALLY_INVALID, Problem::new("NoSidecar", text)));
        }
        problems
    }
}

fn claim<'a>(
    place: &mut Option<&'a MeshTlsPolicy>,
    policy: &'a MeshTlsPolicy,
    what: &str,
) -> Result<(), (&'static str, Problem)> {
    if let Some(other) = place {
        let text = format!(
            "{what} has MeshTLSPolicy {}, which is older or of a lower name",
            name_of(&other.metadata)
        );
        return Err((ACCEPTED, Problem::new("Conflicted", text)));
    }
    *place = Some(policy);
    Ok(())
}

fn pods_of<'a>(view: &'a View, namespace: &'a str) -> impl Iterator<Item = (&'a Name, &'a Pod)> {
    view.pods
        .range(Name::new(namespace, "")..)
        .take_while(move |(name, _)| name.namespace == namespace)
        .map(|(name, pod)| (name, &**pod))
}

fn has_labels(pod: &Pod, wanted: &BTreeMap<String, String>) -> bool {
    let labels = pod.metadata.labels.as_ref();
    wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// The Pods that a Service selects.
fn behind<'a>(view: &'a View, name: &Name) -> Result<Vec<(&'a Name, &'a Pod)>, Problem> {
    let Some((name, object)) = view.services.get_key_value(name) else {
        return Err(Problem::new("TargetNotFound", format!("Service {name} does not exist")));
    };
    let Some(selector) = service::selector(object) else {
        let text = format!("Service {name} has no selector, so that it stands for no Pods");
        return Err(Problem::new("Invalid", text));
    };
    Ok(pods_of(view, &name.namespace).filter(|(_, pod)| has_labels(pod, selector)).collect())
}

/// The first of a list, and how many more there are.
pub(super) fn bounded(items: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = items.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
