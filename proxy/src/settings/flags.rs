//! The command line, under Envoy's names.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgGroup, Parser, ValueEnum};
use tracing::level_filters::LevelFilter;

use super::memory::Wish;

/// The data plane: a sidecar and edge proxy that reads Envoy's v3 configuration.
#[derive(Debug, Parser)]
#[command(name = "sidegate-proxy", version, no_binary_name = true)]
#[command(group(ArgGroup::new("configuration").required(true).multiple(true).args(["config_path", "config_yaml"])))]
pub(super) struct Flags {
    /// The bootstrap file, in YAML or JSON
    #[arg(short = 'c', long, value_name = "FILE")]
    pub(super) config_path: Option<PathBuf>,

    /// A bootstrap given inline; merged over the file: objects merge, lists are appended
    #[arg(long, value_name = "YAML")]
    pub(super) config_yaml: Option<String>,

    /// Serve, or only check the configuration
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    pub(super) mode: Mode,

    /// Worker threads [default: the CPUs this process may use, by affinity and cgroup quota]
    #[arg(long, value_name = "THREADS", value_parser = threads)]
    pub(super) concurrency: Option<NonZeroUsize>,

    /// Memory near which new work is refused: a size, a share of the cgroup's limit, or `off` [default: the cgroup's limit]
    #[arg(long, value_name = "BYTES|PERCENT")]
    pub(super) memory_ceiling: Option<Wish>,

    /// What is logged
    #[arg(short = 'l', long, value_enum, default_value_t = LogLevel::Info, value_name = "LEVEL")]
    pub(super) log_level: LogLevel,

    /// This proxy's id; replaces the bootstrap's `node.id`
    #[arg(long, value_name = "ID")]
    pub(super) service_node: Option<String>,

    /// The cluster this proxy runs for; replaces the bootstrap's `node.cluster`
    #[arg(long, value_name = "NAME")]
    pub(super) service_cluster: Option<String>,

    /// How long open connections may take to finish when shutting down
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(super) drain_time_s: u32,

    /// How long to go on accepting after SIGTERM, not ready any more, so that load balancers notice first
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub(super) shutdown_delay_s: u32,

    /// The zone this proxy runs in; replaces the bootstrap's `node.locality.zone`
    #[arg(long, value_name = "ZONE")]
    pub(super) service_zone: Option<String>,
}

impl Flags {
    pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(arguments)
    }

    /// What to call the configuration in error texts.
    pub(super) fn source(&self) -> String {
        self.config_path.as_ref().map_or_else(|| CONFIG_YAML.to_owned(), |path| path.display().to_string())
    }
}

/// What to do with the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Serve it.
    Serve,
    /// Check it and exit.
    Validate,
}

/// Envoy's words for what is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogLevel {
    Trace,
    Debug,
    Info,
    #[value(alias = "warn")]
    Warning,
    Error,
    Critical,
    Off,
}

impl LogLevel {
    /// The nearest level that `tracing` has.
    pub(super) fn filter(self) -> LevelFilter {
        match self {
            Self::Trace => LevelFilter::TRACE,
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warning => LevelFilter::WARN,
            Self::Error | Self::Critical => LevelFilter::ERROR,
            Self::Off => LevelFilter::OFF,
        }
    }
}

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    text.parse::<usize>()
        .ok()
        .filter(|threads| *threads <= MAX_THREADS)
        .and_then(NonZeroUsize::new)
        .ok_or_else(|| format!("a whole number from 1 to {MAX_THREADS} is needed"))
}

/// The name of the flag, where an error text needs a file's.
pub(super) const CONFIG_YAML: &str = "--config-yaml";

/// More threads than any machine this runs on has; above it stands a mistake.
const MAX_THREADS: usize = 1024;
