//! The house law, checked: rooms import only what stands below them, files and functions stay small, and each external
//! crate stays in the rooms that may have it. CONTRIBUTING.md says why.

mod budget;
mod habit;
mod room;
mod source;
mod token;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use self::room::Plan;
use self::source::Source;
use crate::workspace::root;

/// Checks every crate; prints one line for each and one for each finding.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut findings = Vec::new();
    for plan in room::PLANS {
        let house = inspect(root()?, plan)?;
        eprintln!("   {}: {}", plan.krate, house.figures);
        findings.extend(house.findings);
    }
    for finding in &findings {
        eprintln!("   {finding}");
    }
    if !findings.is_empty() {
        bail!("the house law is broken in {} place(s)", findings.len());
    }
    Ok(())
}

/// What was found in one crate.
struct House {
    findings: Vec<String>,
    figures: String,
}

fn inspect(root: &Path, plan: &Plan) -> anyhow::Result<House> {
    let folder = root.join(plan.krate).join("src");
    let order =
        std::fs::read_to_string(folder.join("lib.rs")).map(|text| room::order(&text)).unwrap_or_default();
    let mut house = House { findings: Vec::new(), figures: String::new() };
    let mut figures = budget::Figures::default();
    for path in rust_files(&folder)? {
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let relative = path.strip_prefix(&folder).unwrap_or(&path);
        let source = Source::new(relative, &text);
        let place = |line: usize| format!("{}/src/{}:{line}", plan.krate, source.path);
        for (line, what) in all(&source, &order, plan, &mut figures) {
            house.findings.push(format!("{}: {what}", place(line)));
        }
    }
    house.figures = figures.to_string();
    Ok(house)
}

/// Every finding in one file: its line and what is wrong there.
fn all(source: &Source<'_>, order: &[String], plan: &Plan, figures: &mut budget::Figures) -> Vec<Finding> {
    let mut findings = budget::check(source, figures);
    findings.extend(habit::check(source));
    findings.extend(room::imports(source, order));
    findings.extend(room::guarded(source, plan));
    findings
}

type Finding = (usize, String);

/// Sources in reading order, without tests and generated code: the law is about what runs.
fn rust_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut entries: Vec<PathBuf> = folder
        .read_dir()
        .with_context(|| format!("cannot read {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    entries.sort();
    for entry in entries {
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        if entry.is_dir() {
            if name != "generated" && name != "tests" {
                files.extend(rust_files(&entry)?);
            }
        } else if name.ends_with(".rs") && !is_test_file(&name) {
            files.push(entry);
        }
    }
    Ok(files)
}

fn is_test_file(name: &str) -> bool {
    let stem = name.trim_end_matches(".rs");
    ["test", "tests"].iter().any(|word| stem == *word || stem.ends_with(&format!("_{word}")))
}
