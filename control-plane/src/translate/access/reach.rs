//! Whom a policy reaches: a policy that is "in force" and protects nobody is worse than none.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use super::super::mode::bounded;
use super::super::verdict::{ACCEPTED, PARTIALLY_INVALID, Problem, Subject, Verdicts, name_of};
use super::super::{service, workload};
use super::Attachment;
use super::{has_labels, misses, targets};
use crate::model::access::ROOT_NAMESPACE;
use crate::model::policy::TargetRef;
use crate::model::{Name, View, annotation};

/// Says whether the policy's targets are there, and whether somebody stands in front of them who enforces it.
pub(super) fn examine(view: &View, subject: &Subject, policy: Attachment<'_>, verdicts: &mut Verdicts) {
    let Attachment { metadata, targets, selector } = policy;
    let namespace = name_of(metadata).namespace;
    for (index, target) in targets.iter().enumerate() {
        let name = Name::new(namespace.as_str(), target.name.as_str());
        for (condition, problem) in problems(view, &name, target) {
            let message = format!("spec.targetRefs[{index}]: {}", problem.message);
            verdicts.note(subject, condition, Problem { message, ..problem });
        }
    }
    if let (true, Some(selector)) = (targets.is_empty(), selector) {
        let everywhere = namespace == ROOT_NAMESPACE;
        let pods = view.pods.iter().filter(|(name, _)| everywhere || name.namespace == namespace);
        let chosen = pods.filter(|(_, pod)| has_labels(pod, &selector.match_labels));
        let found =
            of_pods(chosen.map(|(name, pod)| (name, &**pod)), "spec.selector: no Pod has these labels");
        found.into_iter().for_each(|(condition, problem)| verdicts.note(subject, condition, problem));
    }
    verdicts.conclude(subject, &[(ACCEPTED, Problem::new("Accepted", "in force"))]);
}

type Found = (&'static str, Problem);

fn problems(view: &View, name: &Name, target: &TargetRef) -> Vec<Found> {
    let missing = |text: String| vec![(ACCEPTED, Problem::new("TargetNotFound", text))];
    let nobody = || missing(format!("{} {name} does not exist: nobody is protected by it", target.kind));
    let no_section = |section: &str| {
        missing(format!("{} {name} has no section {section:?} that a policy could target", target.kind))
    };
    let section = target.section_name.as_deref();
    if target.kind == "Gateway" {
        return match section {
            _ if !view.gateways.contains_key(name) => nobody(),
            Some(section) => no_section(section),
            None => Vec::new(),
        };
    }
    let Some(object) = view.services.get(name) else { return nobody() };
    let sections: BTreeSet<String> = service::ports(object)
        .flat_map(|(number, port)| [Some(number.to_string()), port.name.clone()])
        .flatten()
        .collect();
    if let Some(section) = section.filter(|section| !sections.contains(*section)) {
        return no_section(section);
    }
    let Some(labels) = service::selector(object) else {
        let text = format!(
            "Service {name} has no selector, so that it stands for no Pods: nobody is protected by it"
        );
        return vec![(ACCEPTED, Problem::new("Invalid", text))];
    };
    let pods = view.pods.iter().filter(|(pod, _)| pod.namespace == name.namespace);
    let chosen = pods.filter(|(_, pod)| has_labels(pod, labels)).map(|(name, pod)| (name, &**pod));
    // A Service without Pods, for now, is nobody's mistake.
    let chosen: Vec<_> = chosen.collect();
    let missed = chosen.iter().filter(|(_, pod)| {
        workload::inbound_ports(pod).is_ok_and(|pairs| !pairs.is_empty())
            && misses(pod, &targets(object, pod, section))
    });
    let missed: Vec<String> = missed.map(|(name, _)| name.to_string()).collect();
    let no_port = (!missed.is_empty()).then(|| {
        let text = format!(
            "no target port of Service {name} is one that the sidecar of Pod {} stands in front of: the policy holds at all ports of that sidecar (see annotation {})",
            bounded(&missed),
            annotation::INBOUND
        );
        (PARTIALLY_INVALID, Problem::new("NoPort", text))
    });
    bare(chosen).into_iter().chain(no_port).collect()
}

fn of_pods<'a>(pods: impl Iterator<Item = (&'a Name, &'a Pod)>, nobody: &str) -> Vec<Found> {
    let pods: Vec<_> = pods.collect();
    if pods.is_empty() {
        let text = format!("{nobody}: nobody is protected by it (a Gateway is reached by targetRefs)");
        return vec![(ACCEPTED, Problem::new("NoWorkload", text))];
    }
    bare(pods).into_iter().collect()
}

/// Pods in front of which no sidecar stands: when there is no other, nothing enforces the policy.
fn bare(pods: Vec<(&Name, &Pod)>) -> Option<Found> {
    let is_bare = |pod: &Pod| workload::inbound_ports(pod).is_ok_and(|pairs| pairs.is_empty());
    let bare: Vec<String> =
        pods.iter().filter(|(_, pod)| is_bare(pod)).map(|(name, _)| name.to_string()).collect();
    let (first, condition) = match bare.len() {
        0 => return None,
        all if all == pods.len() => ("nobody is protected by it: ", ACCEPTED),
        _ => ("", PARTIALLY_INVALID),
    };
    let text = format!(
        "{first}no sidecar stands in front of Pod {} (see annotation {})",
        bounded(&bare),
        annotation::INBOUND
    );
    Some((condition, Problem::new("NoSidecar", text)))
}
