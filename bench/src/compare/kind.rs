//! Which proxies there are, how each is configured, checked and started, and what it takes part in.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::configuration::{self, Setting};
use super::machine::{Machine, answer};
use crate::lane::Lane;
use crate::workload::{Unit, Workload};

/// A program, set up in one way.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    family: Family,
    /// Unlike its family's plain form: it takes part only where that matters
    variant: bool,
    program: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Sidegate,
    Envoy,
    Haproxy,
    Nginx,
}

/// What a proxy may take part in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event<'a> {
    Price(&'a Workload),
    /// What is the same for every variant: idle connections, floods, want of descriptors
    Trial,
    ZeroWindow,
    SlowUpstream,
}

impl Kind {
    /// Sidegate, and whatever peers the machine has; says which it has not.
    pub(super) fn found(sidegate: &Path, envoy: Option<&Path>) -> Vec<Self> {
        let haproxy = installed("haproxy");
        let candidates = [
            ("sidegate", Family::Sidegate, false, Some(sidegate.to_owned())),
            ("envoy", Family::Envoy, false, envoy.map(Path::to_owned)),
            ("envoy-edge", Family::Envoy, true, envoy.map(Path::to_owned)),
            ("haproxy", Family::Haproxy, false, haproxy.clone()),
            ("haproxy-splice", Family::Haproxy, true, haproxy),
            ("nginx", Family::Nginx, false, installed("nginx")),
        ];
        let mut kinds = Vec::new();
        for (name, family, variant, program) in candidates {
            match program {
                Some(program) => kinds.push(Self { name, family, variant, program }),
                None => eprintln!("no {name} on this machine: measuring without"),
            }
        }
        kinds
    }

    pub(super) fn is_ours(&self) -> bool {
        self.family == Family::Sidegate
    }

    pub(super) fn is_variant(&self) -> bool {
        self.variant
    }

    /// The number in what the program itself says.
    pub(super) fn version(&self) -> String {
        let flag = match self.family {
            Family::Sidegate | Family::Envoy => "--version",
            Family::Haproxy | Family::Nginx => "-v",
        };
        let text = answer(&self.program, &[flag]).unwrap_or_default();
        let mut words = text.split(['/', ' ', '\n']);
        let number = words.find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'));
        number.unwrap_or("unknown").to_owned()
    }

    /// Variants only where they differ.
    pub(super) fn joins(&self, event: Event<'_>) -> bool {
        match event {
            _ if !self.variant => true,
            Event::Trial => false,
            Event::ZeroWindow | Event::SlowUpstream => self.family == Family::Envoy,
            Event::Price(workload) => {
                let plain = matches!(workload.lane, Lane::Http1 | Lane::Bulk);
                self.family == Family::Haproxy && workload.unit == Unit::Byte && plain
            }
        }
    }

    /// Why it cannot do that, by its nature: nginx speaks no HTTP/2 to upstreams, and TCP only by a module of its own.
    pub(super) fn inability(&self, lane: Lane) -> Option<&'static str> {
        match (self.family, lane) {
            (Family::Nginx | Family::Haproxy, Lane::Mesh1 | Lane::Mesh2) => {
                Some("only sidecars are measured in pairs")
            }
            (Family::Nginx, Lane::Http2) => Some("nginx speaks no HTTP/2 to upstreams"),
            (Family::Nginx, Lane::Tcp | Lane::Bulk) if configuration::nginx_stream_module().is_none() => {
                Some("nginx lacks its stream module (apt: libnginx-mod-stream)")
            }
            _ => None,
        }
    }

    /// Whether it has a page for operators.
    pub(super) fn has_admin(&self) -> bool {
        matches!(self.family, Family::Sidegate | Family::Envoy)
    }

    pub(super) fn file_name(&self) -> &'static str {
        if self.has_admin() { "proxy.yaml" } else { "proxy.conf" }
    }

    pub(super) fn configuration(&self, setting: &Setting<'_>) -> String {
        match self.family {
            Family::Sidegate | Family::Envoy => configuration::envoy(setting, self.variant),
            Family::Haproxy => configuration::haproxy(setting, self.variant),
            Family::Nginx => configuration::nginx(setting),
        }
    }

    /// Asks the program itself about a configuration; its own words where it refuses.
    pub(super) fn check(&self, file: &Path, folder: &Path) -> Result<(), String> {
        let mut command = Command::new(&self.program);
        match self.family {
            Family::Sidegate | Family::Envoy => {
                command.args(["--mode", "validate", "-l", "error", "-c"]).arg(file);
            }
            Family::Haproxy => {
                command.args(["-c", "-q", "-f"]).arg(file);
            }
            Family::Nginx => {
                command.args(["-t", "-q", "-e", "stderr", "-p"]).arg(folder).arg("-c").arg(file);
            }
        }
        let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let line = words.lines().map(str::trim).find(|line| line.len() > 3).unwrap_or("no reason given");
        let line = line.replace(&format!("{}: ", file.display()), "");
        Err(line.chars().filter(|c| *c != '|').take(160).collect())
    }

    pub(super) fn command(&self, machine: &Machine, file: &Path, folder: &Path) -> Command {
        let mut command = machine.beside_nobody(&self.program);
        match self.family {
            Family::Sidegate => command.args(["--concurrency", "1", "-l", "error", "-c"]).arg(file),
            Family::Envoy => {
                command.args(["--concurrency", "1", "-l", "error", "--disable-hot-restart", "-c"]).arg(file)
            }
            Family::Haproxy => command.args(["-db", "-q", "-f"]).arg(file),
            Family::Nginx => command.args(["-e", "stderr", "-p"]).arg(folder).arg("-c").arg(file),
        };
        command
    }
}

/// System services are often not on a person's path.
fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}
