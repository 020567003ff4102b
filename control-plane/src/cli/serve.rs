//! `sidegate serve`.

mod authority;
mod review;

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::app::{self, Addresses, TrustSettings};
use crate::jwks;
use crate::model::block::Block;
use crate::source::manifests::Manifests;

/// The flags of `sidegate serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder of manifests to serve; it is watched for changes.
    #[arg(long, value_name = "DIR")]
    manifests: PathBuf,
    /// Address of the xDS service; plaintext, so loopback only.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15010")]
    xds_address: SocketAddr,
    /// Address of the xDS and certificate services over TLS, for callers that prove who they are; not with --no-ca.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15012")]
    secure_xds_address: SocketAddr,
    /// Address of /status, /metrics and /healthz.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15014")]
    admin_address: SocketAddr,
    /// How many xDS streams one identity may have on the TLS port: Pods of one service account share an identity, and each has a stream.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = share)]
    streams_per_identity: usize,
    #[command(flatten)]
    authority: authority::Args,
    #[command(flatten)]
    review: review::Args,
    /// Addresses that keys for JWTPolicies may be fetched from although they are this machine's own or its links', and without TLS.
    #[arg(long, value_name = "BLOCK")]
    jwks_allow: Vec<Block>,
    /// How much to log: error, warn, info, debug, trace, or a filter such as `sidegate=debug`.
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "info", value_parser = log_filter)]
    log_level: String,
}

/// A level is about our own words; libraries speak up from `warn` on. A filter says it all by itself.
fn log_filter(text: &str) -> Result<String, String> {
    if text.contains(['=', ',']) {
        return EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string());
    }
    let level: LevelFilter = text
        .parse()
        .map_err(|_| "give error, warn, info, debug, trace, or a filter such as sidegate=debug".to_owned())?;
    Ok(if level <= LevelFilter::WARN { level.to_string() } else { format!("warn,sidegate={level}") })
}

fn share(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=10_000).contains(number));
    number.ok_or_else(|| "give a number from 1 to 10000, which is how many streams there may be".to_owned())
}

pub(super) fn run(args: Args) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(args.log_level))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let addresses =
        Addresses { xds: args.xds_address, secure: args.secure_xds_address, admin: args.admin_address };
    let guard = jwks::Guard { allowed: args.jwks_allow };
    let authority = match args.authority.settings() {
        Ok(authority) => authority,
        Err(reason) => return super::cannot(reason),
    };
    let review = args.review.settings();
    let streams_per_identity = args.streams_per_identity;
    let trust = authority.map(|authority| TrustSettings { authority, review, streams_per_identity });
    let source = Manifests::new(args.manifests);
    match super::block_on(app::serve(source, addresses, guard, trust)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => super::cannot(error),
        Err(error) => super::cannot(error),
    }
}
