//! What every measurement stands on: the machine, the origin, certificates, and a folder for configurations.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use tempfile::TempDir;

use super::configuration::{Link, Setting};
use super::helper::Origin;
use super::kind::Kind;
use super::machine::{Machine, raise_file_limit};
use super::peer::{Peer, free_address};
use crate::certificates::Certificates;
use crate::lane::Lane;

pub(super) struct Rig {
    pub(super) machine: Machine,
    pub(super) origin: Origin,
    pub(super) certificates: Certificates,
    folder: TempDir,
}

/// How much a proxy may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections, where a proxy wants to be told
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
        raise_file_limit();
        let machine = Machine::look()?;
        let folder = tempfile::tempdir().context("cannot make a folder for configurations")?;
        let certificates = Certificates::make(folder.path()).context("cannot make certificates")?;
        let origin = Origin::start(&machine, &certificates)?;
        Ok(Self { machine, origin, certificates, folder })
    }

    /// Starts a proxy with these listeners.
    pub(super) fn start(&self, kind: &Kind, lanes: &[Lane], limits: Limits) -> anyhow::Result<Peer> {
        let (file, folder, links) = self.configure(kind, lanes, limits)?;
        let mut command = kind.command(&self.machine, &file, &folder);
        if let Some(files) = limits.files {
            let limited = command;
            // `prlimit` becomes the program: its process id stays.
            command = Command::new("prlimit");
            command.arg(format!("--nofile={files}:{files}"));
            command.arg(limited.get_program()).args(limited.get_args());
        }
        Peer::start(kind, command, links)
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

    fn check(&self, kind: &Kind, lanes: &[Lane]) -> anyhow::Result<Result<(), String>> {
        let (file, folder, ..) = self.configure(kind, lanes, AMPLE)?;
        Ok(kind.check(&file, &folder))
    }

    fn configure(&self, kind: &Kind, lanes: &[Lane], limits: Limits) -> anyhow::Result<Configured> {
        let links: Vec<Link> = lanes
            .iter()
            .map(|lane| {
                let origin = self.origin.address(lane.service())?;
                Ok(Link { lane: *lane, listener: free_address()?, origin })
            })
            .collect::<anyhow::Result<_>>()?;
        let folder = self.folder.path().join(kind.name);
        std::fs::create_dir_all(&folder)?;
        let (file, admin) = (folder.join(kind.file_name()), free_address()?);
        let setting = Setting {
            links: &links,
            admin,
            certificates: &self.certificates,
            folder: &folder,
            connections: limits.connections,
        };
        std::fs::write(&file, kind.configuration(&setting))?;
        Ok((file, folder, links))
    }
}

/// The file, its folder, and the listeners in it.
type Configured = (PathBuf, PathBuf, Vec<Link>);

/// More than any measurement opens.
pub(super) const AMPLE: Limits = Limits { connections: Some(6_000), files: None };
