//! Collects what is to be said about objects, as Gateway API conditions.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::model::{Name, Verdict};

/// Condition types.
pub(super) const ACCEPTED: &str = "Accepted";
pub(super) const RESOLVED_REFS: &str = "ResolvedRefs";
pub(super) const PROGRAMMED: &str = "Programmed";
pub(super) const PARTIALLY_INVALID: &str = "PartiallyInvalid";

/// Which object, at which generation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    object: String,
    generation: i64,
}

impl Subject {
    /// `kind namespace/name`, with the generation of the metadata.
    pub(super) fn new(kind: &str, metadata: &ObjectMeta) -> Self {
        let name = name_of(metadata);
        Self { object: format!("{kind} {name}"), generation: metadata.generation.unwrap_or(0) }
    }

    /// An object that is not in the view.
    pub(super) fn absent(kind: &str, name: &Name) -> Self {
        Self { object: format!("{kind} {name}"), generation: 0 }
    }
}

/// Namespace and name of an object.
pub(super) fn name_of(metadata: &ObjectMeta) -> Name {
    Name::new(metadata.namespace.as_deref().unwrap_or(""), metadata.name.as_deref().unwrap_or(""))
}

/// One thing wrong: the Gateway API's reason, and a text that says where and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What was found wrong with one object so far, by condition.
type Problems = BTreeMap<&'static str, Vec<Problem>>;

/// The verdicts of one translation.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    said: BTreeSet<Verdict>,
    problems: BTreeMap<Subject, Problems>,
    /// The policies that something sent here carries.
    carried: BTreeSet<String>,
}

impl Verdicts {
    /// Says that a condition holds or not.
    pub(super) fn say(&mut self, subject: &Subject, condition: &str, status: bool, because: Problem) {
        self.said.insert(Verdict {
            object: subject.object.clone(),
            generation: subject.generation,
            condition: condition.to_owned(),
            status,
            reason: because.reason.to_owned(),
            message: because.message,
        });
    }

    /// Notes something that makes a condition of the object false; all such notes of one condition become one verdict.
    pub(super) fn note(&mut self, subject: &Subject, condition: &'static str, problem: Problem) {
        let noted = self.problems.entry(subject.clone()).or_default().entry(condition).or_default();
        if !noted.contains(&problem) {
            noted.push(problem);
        }
    }

    /// Says for each condition that it holds, unless something was noted against it.
    pub(super) fn conclude(&mut self, subject: &Subject, holds: &[(&'static str, Problem)]) {
        let mut problems = self.problems.remove(subject).unwrap_or_default();
        for (condition, because) in holds {
            if !problems.contains_key(condition) {
                self.say(subject, condition, true, because.clone());
            }
        }
        for (condition, noted) in std::mem::take(&mut problems) {
            let Some(reason) = noted.first().map(|problem| problem.reason) else { continue };
            let texts: Vec<String> = noted.into_iter().map(|problem| problem.message).collect();
            // `PartiallyInvalid` is the one condition that is true when something is wrong.
            self.say(
                subject,
                condition,
                condition == PARTIALLY_INVALID,
                Problem::new(reason, texts.join("; ")),
            );
        }
    }

    /// Notes that what is sent to this scope carries a policy.
    pub(super) fn carry(&mut self, policy: &Subject) {
        self.carried.insert(policy.object.clone());
    }

    /// The policies that are carried, each once.
    pub(super) fn take_carried(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.carried)
    }

    /// Everything said, sorted, each once.
    pub(super) fn into_list(mut self) -> Vec<Verdict> {
        let open: Vec<Subject> = self.problems.keys().cloned().collect();
        for subject in open {
            self.conclude(&subject, &[]);
        }
        self.said.into_iter().collect()
    }
}
