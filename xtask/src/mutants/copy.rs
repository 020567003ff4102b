//! Rooms copied into a crate of their own, with the versions of everything that the workspace has.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::workspace::root;

/// A crate that holds some rooms of a package.
pub(super) struct Copy {
    /// Its folder below `target/mutants`.
    pub(super) name: &'static str,
    /// The package's folder.
    pub(super) package: &'static str,
    /// The rooms.
    pub(super) rooms: &'static [&'static str],
    /// Rooms for tests alone.
    pub(super) test_rooms: &'static [&'static str],
    /// What stands in `lib.rs` for rooms that are left out.
    pub(super) beside: &'static str,
    /// Files that are copied beside the rooms, or made.
    pub(super) files: &'static [(&'static str, File)],
    /// Lines that are left out: the file, and what is in them.
    pub(super) without: &'static [(&'static str, &'static str)],
    /// What it uses.
    pub(super) dependencies: Dependencies,
    /// Whether its tests take longer than its build.
    pub(super) optimised: bool,
}

/// A file that is no room.
pub(super) enum File {
    /// The package's own, from `src` on.
    Own,
    /// Another package's, from the root on.
    Of(&'static str),
    /// This text.
    Text(&'static str),
}

/// What a copy uses.
pub(super) enum Dependencies {
    /// Some of the workspace's, and those that tests use.
    These(&'static [&'static str], &'static [&'static str]),
    /// All that its package does.
    OfPackage,
}

impl Copy {
    /// Makes it anew; says where.
    pub(super) fn make(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let (root, made) = (root()?, folder.join(self.name));
        let (from, sources) = (root.join(self.package).join("src"), made.join("src"));
        if sources.exists() {
            fs::remove_dir_all(&sources).with_context(|| format!("cannot empty {}", sources.display()))?;
        }
        fs::create_dir_all(&sources)?;
        let mut lib = "//! Rooms, to be changed in small ways.\n#![allow(warnings)]\n".to_owned();
        for room in self.rooms.iter().chain(self.test_rooms) {
            copy(&from.join(room), &sources.join(room))?;
            copy(&from.join(format!("{room}.rs")), &sources.join(format!("{room}.rs")))?;
            let when = if self.test_rooms.contains(room) { "#[cfg(test)]\n" } else { "" };
            // Public, so that nobody looks for what is not used.
            writeln!(lib, "{when}pub mod {room};")?;
        }
        for (file, source) in self.files {
            let place = sources.join(file);
            fs::create_dir_all(place.parent().context("a file without a folder")?)?;
            match source {
                File::Own => copy(&from.join(file), &place)?,
                File::Of(path) => copy(&root.join(path), &place)?,
                File::Text(text) => fs::write(place, text)?,
            }
        }
        lib.push_str(self.beside);
        fs::write(sources.join("lib.rs"), lib)?;
        for (file, without) in self.without {
            edit(&sources.join(file), |line| !line.contains(without))?;
        }
        copy(&root.join("fuzz/seeds"), &folder.join("fuzz/seeds"))?;
        fs::copy(root.join("Cargo.lock"), made.join("Cargo.lock"))?;
        fs::write(made.join("Cargo.toml"), self.manifest(root)?)?;
        Ok(made)
    }

    /// A workspace of one package, with the versions of ours.
    fn manifest(&self, root: &Path) -> anyhow::Result<String> {
        let ours = fs::read_to_string(root.join("Cargo.toml"))?;
        let (begin, end) = (ours.find("[workspace.package]"), ours.find("[workspace.lints"));
        let versions = begin.zip(end).and_then(|(begin, end)| ours.get(begin..end));
        let versions = versions.context("the workspace's manifest has another order")?;
        let mut text = "[workspace]\n\n".to_owned();
        for line in versions.lines() {
            // The workspace's own crates stand where they are.
            let place = format!("{{ path = \"{}/", root.display());
            writeln!(text, "{}", line.replace("{ path = \"", &place))?;
        }
        write!(text, "[package]\nname = \"{}\"\nedition.workspace = true\n\n", self.name)?;
        let optimised = if self.optimised { "opt-level = 1\n" } else { "" };
        let profile = match self.dependencies {
            Dependencies::These(..) => "debug = false",
            // The workspace's own profile, so that what its `target/debug` holds is good here too.
            Dependencies::OfPackage => {
                "debug = \"line-tables-only\"\n\n[profile.dev.package.\"*\"]\ndebug = false"
            }
        };
        write!(text, "[profile.dev]\n{optimised}{profile}\n\n[features]\nfuzzing = []\n\n")?;
        match self.dependencies {
            Dependencies::These(names, tested) => {
                text.push_str("[dependencies]\n");
                for name in names {
                    writeln!(text, "{name}.workspace = true")?;
                }
                text.push_str("\n[dev-dependencies]\n");
                for name in tested {
                    let features = if *name == "tokio" { ", features = [\"test-util\"]" } else { "" };
                    writeln!(text, "{name} = {{ workspace = true{features} }}")?;
                }
            }
            Dependencies::OfPackage => {
                let package = fs::read_to_string(root.join(self.package).join("Cargo.toml"))?;
                let begin = package.find("[dependencies]").context("a package without dependencies")?;
                let end = package.find("[[bin]]").unwrap_or(package.len());
                writeln!(text, "{}", package.get(begin..end).unwrap_or_default())?;
            }
        }
        Ok(text)
    }
}

/// Keeps some lines of a file.
fn edit(file: &Path, keep: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let kept: Vec<&str> = text.lines().filter(|line| keep(line)).collect();
    Ok(fs::write(file, kept.join("\n") + "\n")?)
}

/// A file or a folder; what does not exist is left out, since not every room has a folder.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in from.read_dir()? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else if from.is_file() {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}
