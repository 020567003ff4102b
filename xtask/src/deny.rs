//! Bans, licences and sources of the dependency tree, as `deny.toml` says.
//!
//! The tree is the one of Linux on x86-64; cargo-deny reads the same file and can do more (docs/adr/0007).

mod configuration;
mod licence;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use anyhow::{Context, bail};

use self::configuration::{Ban, Configuration};
use crate::workspace::{Metadata, Package, Resolve, metadata, root};

/// Prints one line for each finding.
pub(crate) fn run() -> anyhow::Result<()> {
    let path = root()?.join("deny.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let configuration: Configuration = toml::from_str(&text).context("deny.toml")?;
    let findings = inspect(&tree(metadata()?), &configuration);
    for finding in &findings {
        eprintln!("   {finding}");
    }
    if !findings.is_empty() {
        bail!("{} finding(s) against deny.toml", findings.len());
    }
    Ok(())
}

/// The packages that are built, and who asks for each.
#[derive(Default)]
struct Tree {
    packages: Vec<Package>,
    /// Package id → names of the packages that depend on it
    users: BTreeMap<String, Vec<String>>,
}

/// `cargo metadata` lists packages of every platform; only those that its resolution names are in the tree.
fn tree(metadata: Metadata) -> Tree {
    let nodes = metadata.resolve.map(|Resolve { nodes }| nodes).unwrap_or_default();
    let names: BTreeMap<&str, &str> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package.name.as_str())).collect();
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for node in &nodes {
        users.entry(node.id.clone()).or_default();
        let name = names.get(node.id.as_str()).copied().unwrap_or("?");
        for dependency in &node.dependencies {
            users.entry(dependency.clone()).or_default().push(name.to_owned());
        }
    }
    let packages = metadata.packages.into_iter().filter(|package| users.contains_key(&package.id)).collect();
    Tree { packages, users }
}

fn inspect(tree: &Tree, configuration: &Configuration) -> Vec<String> {
    let mut findings = Vec::new();
    for ban in &configuration.bans.deny {
        findings.extend(banned(tree, ban));
    }
    for package in tree.packages.iter().filter(|package| package.source.is_some()) {
        findings.extend(licence_of(package, configuration));
        findings.extend(source_of(package, configuration));
    }
    findings
}

fn banned(tree: &Tree, ban: &Ban) -> Vec<String> {
    let present: Vec<&Package> = tree.packages.iter().filter(|package| package.name == ban.krate).collect();
    let Ban { krate, reason, .. } = ban;
    if ban.deny_multiple_versions {
        let versions: Vec<&str> = present.iter().map(|package| package.version.as_str()).collect();
        let several = versions.len() > 1;
        return Vec::from_iter(
            several.then(|| format!("{krate} is there as {}: {reason}", versions.join(" and "))),
        );
    }
    let mut findings = Vec::new();
    for package in present {
        let users = tree.users.get(&package.id).map(Vec::as_slice).unwrap_or_default();
        let excused = !users.is_empty() && users.iter().all(|user| ban.wrappers.contains(user));
        if !excused {
            let version = &package.version;
            findings
                .push(format!("{krate} {version} is banned ({reason}); asked for by {}", users.join(", ")));
        }
    }
    findings
}

fn licence_of(package: &Package, configuration: &Configuration) -> Option<String> {
    let Package { name, version, license, .. } = package;
    let Some(expression) = license else { return Some(format!("{name} {version} names no licence")) };
    let exceptions = configuration.licenses.exceptions.iter().filter(|exception| exception.krate == *name);
    let allowed = |wanted: &str| {
        configuration.licenses.allow.iter().any(|known| known == wanted)
            || exceptions.clone().any(|exception| exception.allow.iter().any(|known| known == wanted))
    };
    match licence::permits(expression, &allowed) {
        Ok(true) => None,
        Ok(false) => Some(format!("{name} {version} has a licence that is not in the list: {expression}")),
        Err(what) => Some(format!("{name} {version}: cannot read the licence `{expression}`: {what}")),
    }
}

fn source_of(package: &Package, configuration: &Configuration) -> Option<String> {
    let Package { name, version, source, .. } = package;
    let source = source.as_deref()?;
    let sources = &configuration.sources;
    let (kind, address) = source.split_once('+').unwrap_or(("", source));
    let known = if kind == "git" { &sources.allow_git } else { &sources.allow_registry };
    let address = address.split(['?', '#']).next().unwrap_or(address);
    (!known.iter().any(|allowed| allowed == address))
        .then(|| format!("{name} {version} comes from {source}, which deny.toml does not allow"))
}
