//! Flags and bootstrap → [`Settings`], read once and never changed.
//!
//! The flags and the file are Envoy's. The file is read by a child process of this same program (`child`), because reading needs
//! the descriptors of all of Envoy's messages and a proxy should not carry 15 MiB for what it does once.

mod ads;
mod bootstrap;
mod cgroup;
mod child;
mod concurrency;
mod flags;
mod identity;
mod memory;
mod overload;

use std::ffi::OsString;
use std::fmt;
use std::io::Read as _;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use sidegate_xds::envoy::config::bootstrap::v3::Bootstrap;
use sidegate_xds::envoy::config::cluster::v3::Cluster;
use sidegate_xds::envoy::config::core::v3::Node;
use sidegate_xds::envoy::config::listener::v3::Listener;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::google::protobuf::value::Kind;
use sidegate_xds::json::{Format, Problem};
use sidegate_xds::resource::to_any;
use tracing::level_filters::LevelFilter;

use flags::Flags;

pub use ads::{Ads, AdsCertificate, AdsEndpoint, AdsName, AdsTls, Source};
pub use child::{RenderError, child_entry, render_child};
pub use flags::Mode;
pub use identity::Identity;
pub(crate) use identity::is_there as names_identity;
pub use memory::{Account, Ceiling, Size};
pub use overload::{MemoryBound, Overload, Thresholds};

/// What this process was told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What error texts call the configuration: the file's name, or `--config-yaml`.
    pub source: String,
    /// The file and `--config-yaml` merged, as they came.
    pub bootstrap: Bootstrap,
    /// Who this proxy is: the bootstrap's node, with what flags override, and the mark `SIDEGATE` by which our own control plane
    /// knows its own proxy.
    pub node: Node,
    /// Where the admin server listens; without an `admin` section there is none.
    pub admin: Option<SocketAddr>,
    /// The control plane, when there is one.
    pub ads: Option<Ads>,
    /// Where the proxy's own certificate comes from, when it has one.
    pub identity: Option<Identity>,
    /// Serve, or only check.
    pub mode: Mode,
    /// Worker threads.
    pub concurrency: NonZeroUsize,
    /// What bounds the process as a whole.
    pub overload: Overload,
    /// What is logged.
    pub log_level: LevelFilter,
    /// How long open connections may take to finish when shutting down.
    pub drain_time: Duration,
    /// How long to go on accepting after SIGTERM.
    pub shutdown_delay: Duration,
    /// Parts of the bootstrap that have no effect here; to be logged as warnings.
    pub ignored: Vec<String>,
}

impl Settings {
    /// Reads the flags (without the program's own name) and the configuration they name.
    ///
    /// # Errors
    /// What to print and how to exit: see [`Stop::report`].
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Stop> {
        let flags = Flags::parse(arguments).map_err(Stop::Flags)?;
        let source = flags.source();
        let bootstrap = read_bootstrap(&flags)?;
        let mut problems = Vec::new();
        let has_identity = names_identity(bootstrap.node.as_ref());
        let ads = ads::extract(&bootstrap, has_identity, &mut problems);
        let node = bootstrap::node(&bootstrap, &flags, ads.is_some(), &mut problems);
        let identity = identity::read(&node, &mut problems);
        let admin = bootstrap::admin(&bootstrap, &mut problems);
        let overload = overload::read(&bootstrap, flags.memory_ceiling, &mut problems);
        if !problems.is_empty() {
            return Err(Stop::Invalid(
                problems.iter().map(|problem| format!("{source}: {problem}")).collect(),
            ));
        }
        Ok(Self {
            source,
            node,
            admin,
            ads,
            identity,
            mode: flags.mode,
            concurrency: flags.concurrency.unwrap_or_else(concurrency::available),
            overload,
            log_level: flags.log_level.filter(),
            drain_time: Duration::from_secs(flags.drain_time_s.into()),
            shutdown_delay: Duration::from_secs(flags.shutdown_delay_s.into()),
            ignored: bootstrap::ignored(&bootstrap),
            bootstrap,
        })
    }

    /// The workload that this proxy stands beside, or the gateway that it is, as its node's metadata says: namespace and name.
    pub(crate) fn workload(&self) -> (Arc<str>, Arc<str>) {
        let metadata = self.node.metadata.as_ref();
        let text = |key: &str| match metadata?.fields.get(key)?.kind.as_ref()? {
            Kind::StringValue(text) if !text.is_empty() => Some(Arc::from(&**text)),
            _ => None,
        };
        let name = ["WORKLOAD_NAME", "GATEWAY", "POD_NAME"].into_iter().find_map(text);
        (text("NAMESPACE").unwrap_or_default(), name.unwrap_or_default())
    }

    /// The bootstrap, for dumps.
    pub(crate) fn bootstrap_message(&self) -> Any {
        to_any(&self.bootstrap)
    }

    /// The static listeners, on the wire.
    pub fn listeners(&self) -> &[Listener] {
        self.bootstrap.static_resources.as_ref().map_or(&[], |resources| &resources.listeners)
    }

    /// The static clusters, on the wire.
    pub fn clusters(&self) -> &[Cluster] {
        self.bootstrap.static_resources.as_ref().map_or(&[], |resources| &resources.clusters)
    }

    /// `--mode validate`: says whether the configuration would be served. `check` looks deeper than the settings do and returns
    /// one line, `path: message`, for each thing it cannot serve, and one for each that has no effect.
    pub fn validate(&self, check: impl FnOnce(&Self) -> (Vec<String>, Vec<String>)) -> ExitCode {
        let (problems, ineffective) = check(self);
        for ignored in self.ignored.iter().chain(&ineffective) {
            eprintln!("{}: warning: {ignored}", self.source);
        }
        if problems.is_empty() {
            println!("configuration {} is valid", self.source);
            return ExitCode::SUCCESS;
        }
        Stop::Invalid(problems.iter().map(|problem| format!("{}: {problem}", self.source)).collect()).report()
    }
}

/// Why the program ends before it served anything.
#[derive(Debug)]
pub enum Stop {
    /// The flags are wrong, or ask for help or the version.
    Flags(clap::Error),
    /// A file cannot be read.
    Unreadable(String),
    /// The configuration is wrong: one line for each mistake.
    Invalid(Vec<String>),
}

impl Stop {
    /// Prints the reason and gives the exit code: 1 for a wrong configuration, 2 for wrong flags or an unreadable file.
    pub fn report(self) -> ExitCode {
        match self {
            Self::Flags(error) => {
                // Nothing can be done when the terminal is gone.
                let _ = error.print();
                u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
            }
            Self::Unreadable(_) => {
                eprintln!("{self}");
                ExitCode::from(2)
            }
            Self::Invalid(_) => {
                eprintln!("{self}");
                ExitCode::FAILURE
            }
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flags(error) => error.fmt(formatter),
            Self::Unreadable(text) => formatter.write_str(text),
            Self::Invalid(lines) => formatter.write_str(&lines.join("\n")),
        }
    }
}

impl std::error::Error for Stop {}

/// Reads the file and `--config-yaml` and merges them as Envoy does: what the latter sets replaces, objects merge, lists are
/// appended. On the wire that is putting one message after the other.
fn read_bootstrap(flags: &Flags) -> Result<Bootstrap, Stop> {
    let mut merged = Vec::new();
    let mut lines = Vec::new();
    if let Some(path) = &flags.config_path {
        let name = path.display().to_string();
        let content = std::fs::read(path).map_err(|error| Stop::Unreadable(format!("{name}: {error}")))?;
        match decode_file(path, content) {
            Ok(bytes) => merged.extend(bytes),
            Err(problems) => lines.extend(problems.iter().map(|problem| problem.in_file(&name))),
        }
    }
    if let Some(text) = &flags.config_yaml {
        match child::decode_bootstrap(text, Format::Yaml) {
            Ok(bytes) => merged.extend(bytes),
            Err(problems) => lines.extend(problems.iter().map(|problem| problem.in_file(flags::CONFIG_YAML))),
        }
    }
    if !lines.is_empty() {
        return Err(Stop::Invalid(lines));
    }
    Bootstrap::decode(merged.as_slice())
        .map_err(|error| Stop::Invalid(vec![format!("{}: is no encoded Bootstrap: {error}", flags.source())]))
}

/// A file's Bootstrap on the wire; Envoy's rule is that the name says how it is written.
fn decode_file(path: &Path, content: Vec<u8>) -> Result<Vec<u8>, Vec<Problem>> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("pb") => return Ok(content),
        Some("pb_text") => {
            return Err(vec![Problem::whole("protobuf text is not read here; write YAML or JSON")]);
        }
        _ => {}
    }
    match String::from_utf8(content) {
        Ok(text) => child::decode_bootstrap(&text, Format::of_file(path)),
        Err(error) => Err(vec![Problem::whole(format!("is not UTF-8 text: {error}"))]),
    }
}

/// The whole of a small file.
///
/// # Errors
/// When it cannot be read, or is none: its name and why.
pub(crate) fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut content));
    match read {
        Ok(_) if content.len() as u64 <= LARGEST => Ok(content),
        Ok(_) => Err(format!("{} is longer than {LARGEST} bytes", path.display())),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

/// Files of certificates: a system's bundle of roots is a quarter of it.
const LARGEST: u64 = 1 << 20;

/// What a configuration lacks that asks for the proxy's own certificate.
pub(crate) const NO_IDENTITY: &str = "asks for the proxy's own certificate, but the bootstrap says not where it comes from: add node.metadata.SIDEGATE_IDENTITY with ca_address, root_file and token_file";

#[cfg(test)]
mod tests;
