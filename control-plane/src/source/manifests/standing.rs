//! What is in force: every object in its last good form, and which document provides it. Pure: sheets in, batch out.
//!
//! The rules. Of two documents that claim one object the first counts, by the order of paths; one that cannot be used gives way to one that
//! can, but where it provided the last good form. A document that claims an object in a form that cannot be used leaves the last good form in
//! force. A file of which something cannot be used leaves in force what it provided and what nobody claims now: a name with a slip of the pen
//! in it is another object. Everything else that nobody claims is gone.
//!
//! After a start there are no last good forms. What may be a policy and cannot be used holds everything back then, until it is mended or
//! removed: proxies keep what they have, and nobody is let in by a policy that is missing.

use std::collections::{BTreeMap, BTreeSet};

use super::sheet::{Claim, Sheet};
use crate::model::{Batch, Change, Finding, Object, ObjectKey};
use crate::source::validate::Problem;

/// What is in force.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Nothing was in doubt once since the start.
    begun: bool,
    held: BTreeMap<ObjectKey, Held>,
    findings: Vec<Finding>,
}

#[derive(Debug)]
struct Held {
    object: Object,
    file: String,
    document: usize,
}

/// A claim and the file that makes it.
type Claimed<'s> = (&'s str, &'s Claim);

impl Standing {
    /// Takes over what the sheets say now; `of_folder` are findings about no particular sheet. Returns what changed.
    pub(super) fn settle<'s>(
        &mut self,
        sheets: impl Iterator<Item = (&'s str, &'s Sheet)> + Clone,
        of_folder: Vec<Finding>,
    ) -> Option<Batch> {
        let mut claims: BTreeMap<&ObjectKey, Claimed<'s>> = BTreeMap::new();
        let mut findings = of_folder;
        for (file, sheet) in sheets.clone() {
            for claim in &sheet.claims {
                match claims.get(&claim.key) {
                    Some(first) if self.gives_way(*first, claim) => {
                        findings.extend(of_claim(*first, THE_OTHER));
                        claims.insert(&claim.key, (file, claim));
                    }
                    Some(first) => findings.push(claimed_twice(file, claim, *first)),
                    None => {
                        claims.insert(&claim.key, (file, claim));
                    }
                }
            }
        }
        let is_broken = |sheet: &Sheet| sheet.torn || sheet.claims.iter().any(|claim| claim.form.is_none());
        let broken: BTreeSet<&str> =
            sheets.clone().filter(|(_, sheet)| is_broken(sheet)).map(|(file, _)| file).collect();
        let changes = self.take_over(&claims, &broken);
        let in_doubt = if self.begun { BTreeSet::new() } else { self.in_doubt(sheets.clone(), &claims) };
        let begins = !self.begun && in_doubt.is_empty();
        self.begun |= begins;
        for (key, (file, claim)) in &claims {
            let in_force = match self.held.contains_key(*key) {
                true => LAST_GOOD,
                false if in_doubt.contains(file) => HELD_BACK,
                false => NOTHING,
            };
            // A field that is left out matters only in an object that is used.
            let in_force = if claim.form.is_some() { THE_REST } else { in_force };
            findings.extend(of_claim((file, claim), in_force));
        }
        findings.extend(self.of_remarks(sheets, &claims, &in_doubt));
        let findings = ordered(findings);
        if changes.is_empty() && findings == self.findings && !begins {
            return None;
        }
        self.findings.clone_from(&findings);
        Some(Batch { changes, findings, held_back: !self.begun })
    }

    /// Whether the first claim of an object, which cannot be used, gives way to another one.
    fn gives_way(&self, (file, first): Claimed<'_>, other: &Claim) -> bool {
        let keeps = self.held.get(&first.key).is_some_and(|held| held.file == file);
        first.form.is_none() && other.form.is_some() && !keeps
    }

    /// The files that may hold a policy of which no form is known.
    fn in_doubt<'s>(
        &self,
        sheets: impl Iterator<Item = (&'s str, &'s Sheet)>,
        claims: &BTreeMap<&ObjectKey, Claimed<'s>>,
    ) -> BTreeSet<&'s str> {
        let unknown = claims.iter().filter(|(key, (_, claim))| {
            key.kind.is_policy_of_access() && claim.form.is_none() && !self.held.contains_key(**key)
        });
        let files = unknown.map(|(_, (file, _))| *file);
        sheets.filter(|(_, sheet)| sheet.doubtful).map(|(file, _)| file).chain(files).collect()
    }

    /// The file and document of each object in force.
    pub(super) fn places(&self) -> BTreeMap<ObjectKey, (String, usize)> {
        self.held.iter().map(|(key, held)| (key.clone(), (held.file.clone(), held.document))).collect()
    }

    fn take_over(
        &mut self,
        claims: &BTreeMap<&ObjectKey, Claimed<'_>>,
        broken: &BTreeSet<&str>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for (key, (file, claim)) in claims {
            let place = |object| Held { object, file: (*file).to_owned(), document: claim.document };
            match (self.held.get_mut(*key), &claim.form) {
                (Some(held), Some(form)) if !held.object.is_identical(form) && held.object != *form => {
                    changes.push(Change::Apply(form.clone()));
                    *held = place(form.clone());
                }
                // Equal, or not usable: the form that is held stays, and with it whoever compares by pointer.
                (Some(held), _) => *held = place(held.object.clone()),
                (None, Some(form)) => {
                    changes.push(Change::Apply(form.clone()));
                    self.held.insert((*key).clone(), place(form.clone()));
                }
                (None, None) => {}
            }
        }
        self.held.retain(|key, held| {
            let stays = claims.contains_key(key) || broken.contains(held.file.as_str());
            if !stays {
                changes.push(Change::Delete(key.clone()));
            }
            stays
        });
        changes
    }

    fn of_remarks<'s>(
        &self,
        sheets: impl Iterator<Item = (&'s str, &'s Sheet)>,
        claims: &BTreeMap<&ObjectKey, Claimed<'_>>,
        in_doubt: &BTreeSet<&str>,
    ) -> Vec<Finding> {
        let unclaimed = self.held.iter().filter(|(key, _)| !claims.contains_key(key));
        let keeps: BTreeSet<&str> = unclaimed.map(|(_, held)| held.file.as_str()).collect();
        let remarks = sheets.flat_map(|(file, sheet)| sheet.remarks.iter().map(move |remark| (file, remark)));
        remarks
            .map(|(file, remark)| {
                let in_force = match keeps.contains(file) {
                    true => LAST_GOOD,
                    false if in_doubt.contains(file) => HELD_BACK,
                    false => NOTHING,
                };
                finding(file, remark.document, remark.object.clone(), &remark.problem, in_force)
            })
            .collect()
    }
}

fn of_claim((file, claim): Claimed<'_>, in_force: &'static str) -> impl Iterator<Item = Finding> {
    let object = claim.key.to_string();
    claim
        .problems
        .iter()
        .map(move |problem| finding(file, claim.document, Some(object.clone()), problem, in_force))
}

fn claimed_twice(file: &str, claim: &Claim, (first_file, first): Claimed<'_>) -> Finding {
    let message = format!(
        "{first_file}, document {}, is this object too and comes first; this one has no effect: remove one of the two",
        first.document
    );
    let problem = Problem::refused("metadata.name", message);
    finding(file, claim.document, Some(claim.key.to_string()), &problem, "the first of the two")
}

/// A finding for a file or document.
pub(super) fn finding(
    file: &str,
    document: usize,
    object: Option<String>,
    problem: &Problem,
    in_force: &str,
) -> Finding {
    const LONGEST_FIELD: usize = 500;
    Finding {
        file: file.to_owned(),
        document,
        object,
        field: problem.field.as_ref().map(|field| field.chars().take(LONGEST_FIELD).collect()),
        message: problem.message.clone(),
        in_force: in_force.to_owned(),
    }
}

/// In one order whatever happened before, and not without end.
fn ordered(mut findings: Vec<Finding>) -> Vec<Finding> {
    const MOST: usize = 1000;
    findings.sort();
    if findings.len() > MOST {
        let message = format!("and {} more findings; mend the first ones", findings.len() - MOST);
        findings.truncate(MOST);
        findings.push(finding(".", 0, None, &Problem::refused("", message), NOTHING));
    }
    findings
}

/// What `in_force` says when an earlier form of the object is used.
pub(super) const LAST_GOOD: &str = "last good form";
/// What `in_force` says when nothing is used instead.
pub(super) const NOTHING: &str = "nothing";
/// What it says of what may be a policy, after a start.
const HELD_BACK: &str = "nothing; no proxy is told anything until this is mended or removed";
pub(super) const THE_OTHER: &str = "the other document that is this object";
const THE_REST: &str = "the rest of the object";
