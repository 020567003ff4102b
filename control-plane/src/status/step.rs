//! Whether everything is in step, in one word: what the exit code of `sidegate status` says to scripts.

use super::applied::NOT_ACKNOWLEDGED;
use super::{Certificate, Proxy, Report, State};
use crate::ca::ExternalReport;

/// How the mesh stands with what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Every proxy that is connected has acknowledged the newest configuration, and nothing is wrong with it.
    InStep,
    /// Nothing is wrong, and something is on its way: asked again later, the answer is another.
    OnTheWay,
    /// Something is refused, wrong, stale, or about to expire: it stays so until somebody does something.
    OutOfStep,
}

impl Report {
    /// The worst of what is to be said of anything in it.
    pub fn step(&self) -> Step {
        let proxies = self.proxies.iter().map(|proxy| proxy.step(self.generation)).max();
        let wrong = !self.findings.is_empty()
            || self.conditions.iter().any(|condition| {
                let partly = condition.condition == "PartiallyInvalid";
                // Whoever has not answered yet is counted as a proxy.
                condition.status == partly && condition.reason != NOT_ACKNOWLEDGED
            })
            || self.ca.as_ref().is_some_and(|ca| !ca.problems.is_empty())
            || self.external_ca.as_ref().is_some_and(is_ailing);
        let read = if self.generation == 0 { Step::OnTheWay } else { Step::InStep };
        let own = if wrong { Step::OutOfStep } else { read };
        proxies.unwrap_or(Step::InStep).max(own)
    }
}

impl Proxy {
    fn step(&self, generation: u64) -> Step {
        let mut step = Step::InStep;
        if self.certificate.as_ref().is_some_and(Certificate::is_neglected) {
            step = Step::OutOfStep;
        }
        for status in &self.types {
            step = step.max(match status.state {
                State::Synced | State::NotRequested => Step::InStep,
                State::Pending if status.since_seconds < STALE_SECONDS => Step::OnTheWay,
                State::Pending | State::Rejected => Step::OutOfStep,
            });
        }
        // Foreign clients may never ask for listeners or clusters, and then never have everything.
        let asks = self.types.iter().any(|status| status.state != State::NotRequested);
        let never = self.foreign && self.applied_generation == 0 && asks;
        if self.applied_generation < generation && !never { step.max(Step::OnTheWay) } else { step }
    }
}

/// An authority elsewhere that signs nothing for us, or a file that cannot be read.
fn is_ailing(external: &ExternalReport) -> bool {
    let over = external.expires_seconds.is_none_or(|seconds| seconds <= 0);
    over || external.last_failure.is_some() || !external.problems.is_empty()
}

/// After how long without an answer a proxy no longer counts as busy, in seconds: it hangs, or is gone without a word.
const STALE_SECONDS: f64 = 30.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Finding, Verdict};
    use crate::status::{Role, TypeStatus};

    fn status(kind: &str, state: State, since_seconds: f64) -> TypeStatus {
        TypeStatus {
            kind: kind.to_owned(),
            resources: 1,
            sent: None,
            accepted: None,
            state,
            error: None,
            since_seconds,
        }
    }

    fn proxy(applied_generation: u64, types: Vec<TypeStatus>) -> Proxy {
        Proxy {
            id: "a".to_owned(),
            role: Role::Sidecar,
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            foreign: false,
            identity: None,
            certificate: None,
            connected_seconds: 60.0,
            applied_generation,
            types,
        }
    }

    fn with(proxy: Proxy) -> Step {
        Report { generation: 7, proxies: vec![proxy], ..Report::default() }.step()
    }

    #[test]
    fn proxies_have_all_or_are_about_to_or_refuse_or_hang() {
        let types =
            |state, since| vec![status("cluster", State::Synced, 60.0), status("listener", state, since)];
        assert_eq!(with(proxy(7, types(State::Synced, 60.0))), Step::InStep);
        assert_eq!(with(proxy(7, types(State::NotRequested, 60.0))), Step::InStep);
        assert_eq!(with(proxy(6, types(State::Synced, 60.0))), Step::OnTheWay);
        assert_eq!(with(proxy(0, Vec::new())), Step::OnTheWay, "it has just come");
        assert_eq!(with(proxy(6, types(State::Pending, 1.0))), Step::OnTheWay);
        assert_eq!(with(proxy(6, types(State::Pending, 31.0))), Step::OutOfStep);
        assert_eq!(with(proxy(6, types(State::Rejected, 0.0))), Step::OutOfStep);
        let foreign = Proxy { foreign: true, ..proxy(0, types(State::NotRequested, 60.0)) };
        assert_eq!(with(foreign.clone()), Step::InStep, "it asks for no listeners");
        assert_eq!(with(Proxy { types: Vec::new(), ..foreign }), Step::OnTheWay);
    }

    #[test]
    fn a_certificate_that_is_not_renewed_is_out_of_step() {
        let certificate = |expires_seconds| Certificate {
            serial: "1".to_owned(),
            expires_seconds,
            life_seconds: 86_400,
            renewed: false,
        };
        let holding = |seconds| Proxy {
            certificate: Some(certificate(seconds)),
            ..proxy(7, vec![status("cluster", State::Synced, 60.0)])
        };
        assert_eq!(with(holding(40_000)), Step::InStep);
        assert_eq!(with(holding(20_000)), Step::OutOfStep);
    }

    #[test]
    fn what_is_wrong_with_objects_counts_and_what_only_waits_does_not() {
        let report = |condition: &str, status, reason: &str| Report {
            generation: 7,
            conditions: vec![Verdict {
                object: "Pod shop/web".to_owned(),
                generation: 1,
                condition: condition.to_owned(),
                status,
                reason: reason.to_owned(),
                message: "m".to_owned(),
            }],
            ..Report::default()
        };
        assert_eq!(Report::default().step(), Step::OnTheWay, "nothing is read yet");
        assert_eq!(Report { generation: 7, ..Report::default() }.step(), Step::InStep);
        assert_eq!(report("Programmed", true, "Programmed").step(), Step::InStep);
        assert_eq!(report("Programmed", false, "Refused").step(), Step::OutOfStep);
        assert_eq!(report("Programmed", false, NOT_ACKNOWLEDGED).step(), Step::InStep);
        assert_eq!(report("PartiallyInvalid", true, "NoSidecar").step(), Step::OutOfStep);
        assert_eq!(report("PartiallyInvalid", false, "Fine").step(), Step::InStep);
        let finding = Finding {
            file: "web.yaml".to_owned(),
            document: 1,
            object: None,
            field: None,
            message: "wrong".to_owned(),
            in_force: "nothing".to_owned(),
        };
        let found = Report { generation: 7, findings: vec![finding], ..Report::default() };
        assert_eq!(found.step(), Step::OutOfStep);
    }
}
