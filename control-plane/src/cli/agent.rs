//! `sidegate agent`: a workload's certificate for data planes that are not ours. The work is the proxy's own.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use sidegate_proxy::agent::{self, Options};
use sidegate_proxy::settings::Identity;
use sidegate_xds::spiffe::SpiffeId;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The flags of `sidegate agent`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("output").required(true).multiple(true).args(["sds_socket", "out"])))]
pub(super) struct Args {
    /// Where the certificate authority is: the control plane's TLS port, or any istio.v1.auth.IstioCertificateService.
    #[arg(long, value_name = "HOST:PORT")]
    ca_address: String,
    /// The name that its certificate must have.
    #[arg(long, value_name = "NAME", default_value = "sidegate.sidegate-system.svc")]
    ca_server_name: String,
    /// The certificates that vouch for it, in PEM form.
    #[arg(long, value_name = "FILE")]
    root_file: PathBuf,
    /// The token that proves who the workload is (audience `sidegate`); read again at each use.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Who the workload is: some authorities (cert-manager's istio-csr) give nothing to a request that does not say so.
    #[arg(long, value_name = "SPIFFE-ID")]
    id: Option<SpiffeId>,
    /// How long a certificate is asked for.
    #[arg(long, value_name = "TIME", default_value = "24h")]
    ttl: String,
    /// Serve SDS here: the secrets `default` and `ROOTCA`, as Envoy asks for them.
    #[arg(long, value_name = "PATH")]
    sds_socket: Option<PathBuf>,
    /// Keep cert-chain.pem, key.pem and root-cert.pem in this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How much to log: error, warn, info, debug, trace.
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "info")]
    log_level: LevelFilter,
}

pub(super) fn run(args: Args) -> ExitCode {
    let level = args.log_level;
    let filter =
        if level <= LevelFilter::WARN { level.to_string() } else { format!("warn,sidegate_proxy={level}") };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let name = Some(args.ca_server_name.as_str());
    let (roots, token) = (&args.root_file, &args.token_file);
    let identity = match Identity::new(&args.ca_address, name, roots, token, Some(&args.ttl)) {
        Ok(identity) => identity.known_as(args.id),
        Err(wrong) => {
            for (field, text) in wrong {
                eprintln!("sidegate: --{}: {text}", field.replace('_', "-"));
            }
            return ExitCode::from(super::CANNOT_RUN);
        }
    };
    match super::block_on(agent::run(Options { identity, socket: args.sds_socket, out: args.out })) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => super::cannot(error),
        Err(error) => super::cannot(error),
    }
}
