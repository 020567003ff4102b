//! What was sent is not what is in force where a proxy refuses it, or has not answered yet: what conditions say then.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Scope, Verdict};
use crate::snapshot::{Snapshot, Snapshots};
use crate::xds::StreamReport;
use crate::xds::stream::{TypeReport, TypeState};

/// The reason of a condition that is false until proxies have answered.
pub(super) const NOT_ACKNOWLEDGED: &str = "NotAcknowledged";

/// What translation has said, with what proxies say of it: Pods and Gateways whose proxy refuses something are not `Programmed`,
/// and a policy is `Programmed` when every proxy that is connected has acknowledged what carries it.
pub(super) fn conditions(
    mut said: Vec<Verdict>,
    streams: &[StreamReport],
    snapshots: &Snapshots,
) -> Vec<Verdict> {
    let mut carriers: BTreeMap<String, Carriers> = BTreeMap::new();
    for stream in streams {
        refuse(&mut said, stream);
        let Some(latest) = snapshots.latest(&stream.node.scope) else { continue };
        for policy in latest.policies.iter() {
            carriers.entry(policy.clone()).or_default().enter(policy, stream, &latest);
        }
    }
    let programmed: Vec<Verdict> =
        said.iter().filter_map(|verdict| carriers.get(&verdict.object)?.judge(verdict)).collect();
    said.extend(programmed);
    said.sort_by(|one, other| (&one.object, &one.condition).cmp(&(&other.object, &other.condition)));
    said
}

/// Of the Pod or Gateway of a proxy that refuses something.
fn refuse(said: &mut [Verdict], stream: &StreamReport) {
    let refused = stream.types.iter().find(|report| report.state == TypeState::Rejected);
    let Some(refused) = refused else { return };
    let object = match &stream.node.scope {
        Scope::Gateway { gateway, .. } => format!("Gateway {gateway}"),
        Scope::Sidecar { pod, .. } => format!("Pod {pod}"),
    };
    let sent = |verdict: &&mut Verdict| {
        verdict.object == object && verdict.condition == PROGRAMMED && verdict.status
    };
    for verdict in said.iter_mut().filter(sent) {
        let why = refused.error.as_deref().unwrap_or("it does not say why");
        verdict.status = false;
        verdict.reason = REFUSED.to_owned();
        verdict.message = format!(
            "its proxy refuses a {}, and keeps what it had before, whatever changes: {why}",
            refused.kind.noun()
        );
    }
}

/// The proxies that enforce a policy, by what they say of it.
#[derive(Debug, Default)]
struct Carriers {
    have: BTreeSet<String>,
    refuse: BTreeSet<String>,
    /// Those that have not answered, or were not asked yet.
    owe: BTreeSet<String>,
}

impl Carriers {
    fn enter(&mut self, policy: &str, stream: &StreamReport, latest: &Snapshot) {
        let reports = || stream.types.iter().filter(|report| carries(policy, report.kind.noun()));
        let has = |report: &TypeReport| {
            report.state == TypeState::Synced && report.accepted.as_ref() == Some(latest.version(report.kind))
        };
        let title = stream.node.title();
        if reports().any(|report| report.state == TypeState::Rejected) {
            self.refuse.insert(title);
        } else if reports().next().is_some() && reports().all(has) {
            self.have.insert(title);
        } else {
            self.owe.insert(title);
        }
    }

    /// `Programmed`, beside what is said of whether the policy is accepted; one that is not in force as it is written is not
    /// called so.
    fn judge(&self, accepted: &Verdict) -> Option<Verdict> {
        let Self { have, refuse, owe } = self;
        if accepted.condition != "Accepted" {
            return None;
        }
        let all = have.len() + refuse.len() + owe.len();
        let (status, reason, message) = if !refuse.is_empty() {
            let who = names(refuse);
            let text = format!(
                "{} of {all} proxies that enforce it refuse a listener or cluster that may carry it, and keep what they had before: {who} (see `sidegate status`)",
                refuse.len()
            );
            (false, REFUSED, text)
        } else if !owe.is_empty() {
            let text = format!(
                "{} of {all} proxies that enforce it have not acknowledged it yet: {}",
                owe.len(),
                names(owe)
            );
            (false, NOT_ACKNOWLEDGED, text)
        } else if accepted.status {
            (
                true,
                PROGRAMMED,
                format!("acknowledged by every proxy that enforces it and is connected: {all}"),
            )
        } else {
            return None;
        };
        let (condition, reason) = (PROGRAMMED.to_owned(), reason.to_owned());
        Some(Verdict { condition, status, reason, message, ..accepted.clone() })
    }
}

/// Policies stand in listeners; the service that one asks is a cluster.
fn carries(policy: &str, kind: &str) -> bool {
    kind == "listener" || (kind == "cluster" && policy.starts_with("ExternalAuthorizationPolicy "))
}

/// The first of them, and how many more there are.
fn names(all: &BTreeSet<String>) -> String {
    let first: Vec<&str> = all.iter().take(NAMED).map(String::as_str).collect();
    match all.len().saturating_sub(NAMED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

const PROGRAMMED: &str = "Programmed";
const REFUSED: &str = "Refused";

/// How many proxies a condition names.
const NAMED: usize = 3;

#[cfg(test)]
mod tests;
