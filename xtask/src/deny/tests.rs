//! The verdicts on small trees.

use std::collections::BTreeMap;

use super::configuration::Configuration;
use super::licence::permits;
use super::{Tree, inspect};
use crate::workspace::Package;

const RULES: &str = r#"
    [bans]
    deny = [
      { crate = "cmake", wrappers = ["aws-lc-sys"], reason = "no C" },
      { crate = "tokio", deny-multiple-versions = true, reason = "one" },
    ]
    [licenses]
    allow = ["MIT"]
    [[licenses.exceptions]]
    crate = "zlib"
    allow = ["Zlib"]
    [sources]
    allow-registry = ["https://index"]
"#;

fn verdicts(packages: &[(&str, &str, &str)], users: &[(&str, &str)]) -> Vec<String> {
    let configuration: Configuration = toml::from_str(RULES).unwrap();
    let packages = packages
        .iter()
        .map(|(id, license, source)| Package {
            id: (*id).to_owned(),
            name: id.split('@').next().unwrap().to_owned(),
            version: id.split('@').nth(1).unwrap_or("1").to_owned(),
            license: Some((*license).to_owned()),
            source: (!source.is_empty()).then(|| (*source).to_owned()),
        })
        .collect();
    let mut by_id: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (user, used) in users {
        by_id.entry((*used).to_owned()).or_default().push((*user).to_owned());
    }
    inspect(&Tree { packages, users: by_id }, &configuration)
}

const INDEX: &str = "registry+https://index";

#[test]
fn a_banned_crate_is_named_with_who_wants_it() {
    let found = verdicts(&[("cmake", "MIT", INDEX)], &[("zlib-sys", "cmake")]);
    assert_eq!(found, ["cmake 1 is banned (no C); asked for by zlib-sys"]);
    assert!(verdicts(&[("cmake", "MIT", INDEX)], &[("aws-lc-sys", "cmake")]).is_empty());
}

#[test]
fn some_crates_may_be_there_only_once() {
    let found = verdicts(&[("tokio@1.0.0", "MIT", INDEX), ("tokio@2.0.0", "MIT", INDEX)], &[]);
    assert_eq!(found, ["tokio is there as 1.0.0 and 2.0.0: one"]);
    assert!(verdicts(&[("syn@1.0.0", "MIT", INDEX), ("syn@2.0.0", "MIT", INDEX)], &[]).is_empty());
}

#[test]
fn licences_and_sources_are_from_the_lists() {
    assert_eq!(
        verdicts(&[("a", "GPL-3.0", INDEX)], &[]),
        ["a 1 has a licence that is not in the list: GPL-3.0"]
    );
    assert!(verdicts(&[("zlib", "Zlib", INDEX)], &[]).is_empty());
    assert_eq!(verdicts(&[("b", "Zlib", INDEX)], &[]).len(), 1);
    assert!(verdicts(&[("our-own", "Proprietary", "")], &[]).is_empty());
    let fork = verdicts(&[("a", "MIT", "git+https://example.com/a?branch=x#1234")], &[]);
    assert_eq!(fork.len(), 1);
}

#[test]
fn licence_expressions() {
    let allowed = |licence: &str| ["MIT", "BSD-3-Clause", "Apache-2.0"].contains(&licence);
    let permits = |expression| permits(expression, &allowed);
    assert_eq!(permits("MIT/GPL-3.0"), Ok(true));
    assert_eq!(permits("MIT AND GPL-3.0"), Ok(false));
    assert_eq!(permits("(MIT OR GPL-3.0) AND BSD-3-Clause"), Ok(true));
    assert_eq!(permits("GPL-3.0 OR MIT AND GPL-2.0"), Ok(false));
    assert_eq!(permits("Apache-2.0 WITH LLVM-exception"), Ok(true));
    assert!(permits("MIT OR").is_err());
    assert!(permits("(MIT").is_err());
    assert!(permits("MIT Apache-2.0").is_err());
}
