//! What is in force: every object in its last good form, and which document provides it. Pure: sheets in, batch out.
//!
//! The rules. Of two documents that claim one object the first counts, by the order of paths. A document that claims
//! an object in a form that cannot be used leaves the last good form in force. A file that is torn leaves in force
//! what it provided and what nobody claims now. Everything else that nobody claims is gone.

use std::collections::{BTreeMap, BTreeSet};

use super::sheet::{Claim, Sheet};
use crate::model::{Batch, Change, Finding, Object, ObjectKey};
use crate::source::validate::Problem;

/// What is in force.
#[derive(Debug, Default)]
pub(super) struct Standing {
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
                    Some(first) => findings.push(claimed_twice(file, claim, *first)),
                    None => {
                        claims.insert(&claim.key, (file, claim));
                    }
                }
            }
        }
        let torn: BTreeSet<&str> =
            sheets.clone().filter(|(_, sheet)| sheet.torn).map(|(file, _)| file).collect();
        let changes = self.take_over(&claims, &torn);
        for (key, (file, claim)) in &claims {
            let in_force = if self.held.contains_key(*key) { LAST_GOOD } else { NOTHING };
            findings.extend(claim.problems.iter().map(|problem| {
                // A field that is left out matters only in an object that is used.
                let in_force = if claim.form.is_some() { THE_REST } else { in_force };
                finding(file, claim.document, Some(claim.key.to_string()), problem, in_force)
            }));
        }
        findings.extend(self.of_remarks(sheets, &claims));
        let findings = ordered(findings);
        if changes.is_empty() && findings == self.findings {
            return None;
        }
        self.findings.clone_from(&findings);
        Some(Batch { changes, findings })
    }

    /// The file and document of each object in force.
    pub(super) fn places(&self) -> BTreeMap<ObjectKey, (String, usize)> {
        self.held.iter().map(|(key, held)| (key.clone(), (held.file.clone(), held.document))).collect()
    }

    fn take_over(
        &mut self,
        claims: &BTreeMap<&ObjectKey, Claimed<'_>>,
        torn: &BTreeSet<&str>,
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
            let stays = claims.contains_key(key) || torn.contains(held.file.as_str());
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
    ) -> Vec<Finding> {
        let unclaimed = self.held.iter().filter(|(key, _)| !claims.contains_key(key));
        let keeps: BTreeSet<&str> = unclaimed.map(|(_, held)| held.file.as_str()).collect();
        let remarks = sheets.flat_map(|(file, sheet)| sheet.remarks.iter().map(move |remark| (file, remark)));
        remarks
            .map(|(file, remark)| {
                let in_force = if keeps.contains(file) { LAST_GOOD } else { NOTHING };
                finding(file, remark.document, remark.object.clone(), &remark.problem, in_force)
            })
            .collect()
    }
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
const THE_REST: &str = "the rest of the object";
