//! `sidegate validate`: what the control plane would say about a folder, without serving it.
//!
//! The same reading and the same translation as in `sidegate serve`, once, for every proxy that the folder provides
//! for; and what no proxy would ever show: a route whose parent does not exist.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;

use crate::index::Index;
use crate::model::annotation::PREFIX;
use crate::model::{Finding, ObjectKey, Scope, Trust, Verdict, View};
use crate::source::SourceError;
use crate::source::manifests::Manifests;
use crate::translate::{CONTROLLER, translate};

mod parents;

/// The flags of `sidegate validate`.
#[derive(Debug, clap::Args)]
pub(super) struct ValidateArgs {
    /// The folder of manifests, or one manifest.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One line for each finding.
    Text,
    /// One JSON object.
    Json,
}

/// Checks the folder and prints what is wrong with it.
pub(super) fn run(args: &ValidateArgs) -> ExitCode {
    let examination = match examine(&args.folder) {
        Ok(examination) => examination,
        Err(error) => return super::cannot(error),
    };
    let text = match args.output {
        Output::Text => examination.text(),
        Output::Json => match serde_json::to_string_pretty(&examination) {
            Ok(text) => text + "\n",
            Err(error) => return super::cannot(error),
        },
    };
    // A reader that has seen enough (`| head`) is no error.
    let _ = io::stdout().write_all(text.as_bytes());
    eprintln!("sidegate: {}", examination.summary());
    if examination.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) }
}

/// Everything there is to say about a folder.
#[derive(Debug, serde::Serialize)]
struct Examination {
    /// How many objects can be used.
    objects: usize,
    /// What is wrong with documents.
    findings: Vec<Finding>,
    /// What does not hold once the documents are put together.
    conditions: Vec<Condition>,
}

/// A condition that does not hold, and the document that it is about.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
struct Condition {
    file: String,
    document: usize,
    #[serde(flatten)]
    verdict: Verdict,
}

fn examine(folder: &Path) -> Result<Examination, SourceError> {
    let reading = Manifests::new(folder).read_once()?;
    let objects = reading.places.len();
    let view = Index::default().apply(reading.batch).unwrap_or_default();
    let places = by_name(&reading.places);
    let mut conditions: Vec<Condition> =
        unmet(&view).into_iter().map(|verdict| placed(&places, verdict)).collect();
    conditions.sort();
    conditions.dedup();
    Ok(Examination { objects, findings: view.findings.clone(), conditions })
}

/// Verdicts name objects as `Kind namespace/name`.
fn by_name(places: &BTreeMap<ObjectKey, (String, usize)>) -> BTreeMap<String, (String, usize)> {
    places.iter().map(|(key, place)| (key.to_string(), place.clone())).collect()
}

fn placed(places: &BTreeMap<String, (String, usize)>, verdict: Verdict) -> Condition {
    let (file, document) = places.get(&verdict.object).cloned().unwrap_or_default();
    Condition { file, document, verdict }
}

/// What does not hold, for any proxy that the objects provide for.
fn unmet(view: &Arc<View>) -> Vec<Verdict> {
    // As for proxies that have all that can be had: what one of them lacks is for `sidegate status` to say.
    let trust = Trust { trust_domain: "cluster.local".to_owned(), ..Trust::default() };
    let said: Vec<Verdict> =
        scopes(view).iter().flat_map(|scope| translate(view, Some(&trust), scope).verdicts).collect();
    let orphans = parents::missing(view, &said);
    said.into_iter().filter(is_unmet).chain(orphans).collect()
}

/// `PartiallyInvalid` is the one condition that says something is wrong by being true.
fn is_unmet(verdict: &Verdict) -> bool {
    verdict.status == (verdict.condition == "PartiallyInvalid")
}

/// Every Gateway that is not another controller's, and every Pod that has a sidecar by its annotations.
fn scopes(view: &View) -> Vec<Scope> {
    let gateways = view.gateways.iter().filter(|(_, gateway)| {
        let class = view.gateway_classes.get(&gateway.spec.gateway_class_name);
        class.is_none_or(|class| class.spec.controller_name == CONTROLLER)
    });
    let pods = view.pods.iter().filter(|(_, pod)| {
        let annotations = pod.metadata.annotations.iter().flatten();
        annotations.map(|(key, _)| key).any(|key| key.starts_with(PREFIX))
    });
    let gateways =
        gateways.map(|(name, _)| Scope::Gateway { gateway: name.clone(), foreign: false, secure: true });
    let pods = pods.map(|(name, _)| Scope::Sidecar { pod: name.clone(), foreign: false, secure: true });
    gateways.chain(pods).collect()
}

impl Examination {
    fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.conditions.is_empty()
    }

    /// One line for each: `file:document: Kind namespace/name: field: message`.
    fn text(&self) -> String {
        let mut text = String::new();
        for Finding { file, document, object, field, message, .. } in &self.findings {
            let about = [object.as_deref(), field.as_deref()].into_iter().flatten();
            let about: String = about.map(|part| format!("{part}: ")).collect();
            let _ = writeln!(text, "{}: {about}{message}", place(file, *document));
        }
        for Condition { file, document, verdict } in &self.conditions {
            let Verdict { object, condition, reason, message, .. } = verdict;
            let _ = writeln!(text, "{}: {object}: {message} ({condition}: {reason})", place(file, *document));
        }
        text
    }

    fn summary(&self) -> String {
        let number =
            |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let findings = self.findings.len() + self.conditions.len();
        match (self.objects, findings) {
            (0, 0) => "no objects that Sidegate reads".to_owned(),
            (objects, 0) => format!("{}, no findings", number(objects, "object")),
            (objects, findings) => {
                format!("{} usable, {}", number(objects, "object"), number(findings, "finding"))
            }
        }
    }
}

/// A finding about a whole file has no document; one about an object of no file has neither.
fn place(file: &str, document: usize) -> String {
    match (file, document) {
        ("", _) => "-".to_owned(),
        (file, 0) => file.to_owned(),
        (file, document) => format!("{file}:{document}"),
    }
}

/// The exit code when something is wrong with the manifests.
const FINDINGS: u8 = 1;

#[cfg(test)]
mod tests;
