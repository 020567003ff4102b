//! What every measurement stands on: the machine, the origin, certificates, and a folder for configurations.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use tempfile::TempDir;

use super::configuration::{Link, Setting};
use super::helper::{Helper, Origin};
use super::kind::Kind;
use super::machine::{Machine, raise_file_limit};
use super::peer::{Peer, free_address};
use crate::certificates::Certificates;
use crate::lane::Lane;

pub(super) struct Rig {
    /// Descriptors that a process may have, here and in every child
    files: u64,
    pub(super) machine: Machine,
    pub(super) origin: Origin,
    pub(super) certificates: Certificates,
    folder: TempDir,
}

/// How much a proxy may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections; none: as many as the proxy makes room for by itself
    pub(super) connections: Option<u32>,
    /// Descriptors
    pub(super) files: Option<u32>,
}

/// The lanes a proxy takes, and why it does not take the others.
pub(super) struct Support {
    pub(super) lanes: Vec<Lane>,
    pub(super) refused: BTreeMap<Lane, String>,
}

impl Rig {
    pub(super) fn new() -> anyhow::Result<Self> {
        let files = raise_file_limit();
        let machine = Machine::look()?;
        let folder = tempfile::tempdir().context("cannot make a folder for configurations")?;
        let certificates = Certificates::make(folder.path()).context("cannot make certificates")?;
        let origin = Origin::start(&machine, &certificates)?;
        Ok(Self { files, machine, origin, certificates, folder })
    }

    /// Starts a proxy with these listeners.
    pub(super) fn start(&self, kind: &Kind, lanes: &[Lane], limits: Limits) -> anyhow::Result<Peer> {
        let (file, folder, links, admin) = self.configure(kind, lanes, limits)?;
        let mut command = kind.command(&self.machine, &file, &folder);
        if let Some(files) = limits.files {
            let limited = command;
            // `prlimit` becomes the program: its process id stays.
            command = Command::new("prlimit");
            command.arg(format!("--nofile={files}:{files}"));
            command.arg(limited.get_program()).args(limited.get_args());
        }
        let log = folder.join("log");
        let file = File::create(&log).context("cannot make a log file")?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        Peer::start(kind, command, links, admin).with_context(|| last_words(&log))
    }

    /// Asks a proxy which listeners it would take.
    pub(super) fn support(&self, kind: &Kind) -> anyhow::Result<Support> {
        let mut support = Support { lanes: Vec::new(), refused: BTreeMap::new() };
        for lane in Lane::ALL {
            match kind.inability(lane) {
                Some(why) => drop(support.refused.insert(lane, why.to_owned())),
                None => support.lanes.push(lane),
            }
        }
        if self.check(kind, &support.lanes)?.is_err() {
            for lane in std::mem::take(&mut support.lanes) {
                match self.check(kind, &[lane])? {
                    Ok(()) => support.lanes.push(lane),
                    Err(why) => drop(support.refused.insert(lane, why)),
                }
            }
        }
        Ok(support)
    }

    /// Starts one of this program's other halves: a command and its flags.
    pub(super) fn helper(&self, command: &str, flags: &[(&str, String)]) -> anyhow::Result<Helper> {
        let flags = flags.iter().flat_map(|(name, value)| [format!("--{name}"), value.clone()]);
        Helper::start(&self.machine, std::iter::once(command.to_owned()).chain(flags))
    }

    /// How many connections a proxy and a client can have at once; a proxied one needs two descriptors.
    pub(super) fn most_connections(&self) -> u32 {
        u32::try_from(self.files / 2).unwrap_or(u32::MAX).saturating_sub(500)
    }

    /// No want of anything.
    pub(super) fn ample(&self) -> Limits {
        Limits { connections: Some(self.most_connections().min(AMPLE)), files: None }
    }

    fn check(&self, kind: &Kind, lanes: &[Lane]) -> anyhow::Result<Result<(), String>> {
        let (file, folder, ..) = self.configure(kind, lanes, self.ample())?;
        Ok(kind.check(&file, &folder))
    }

    fn configure(&self, kind: &Kind, lanes: &[Lane], limits: Limits) -> anyhow::Result<Configured> {
        let links: Vec<Link> = lanes
            .iter()
            .map(|lane| {
                let origin = self.origin.address(lane.service())?;
                Ok(Link { lane: *lane, listener: free_address()?, origin, between: free_address()? })
            })
            .collect::<anyhow::Result<_>>()?;
        let folder = self.folder.path().join(kind.name);
        std::fs::create_dir_all(&folder)?;
        let (file, admin) = (folder.join(kind.file_name()), free_address()?);
        let setting =
            Setting { links: &links, admin, certificates: &self.certificates, folder: &folder, limits };
        std::fs::write(&file, kind.configuration(&setting))?;
        Ok((file, folder, links, admin))
    }
}

/// The file, its folder, the listeners in it, and the address for operators.
type Configured = (PathBuf, PathBuf, Vec<Link>, SocketAddr);

/// What a proxy has last said; nothing is said about one that said nothing.
fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    line.replace('|', "/").chars().take(160).collect()
}

/// More than any measurement opens.
const AMPLE: u32 = 6_000;
