//! `sidegate bootstrap`: the static configuration with which a proxy finds this control plane.
//!
//! It fits our own proxy and Envoy alike. It does not say which of the two reads it: our proxy adds the mark `SIDEGATE` to its
//! node's metadata by itself.

mod document;
mod proof;
mod target;
#[cfg(test)]
mod tests;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;

use target::{Authority, Target, is_kubernetes_name};

/// The flags of `sidegate bootstrap`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What the proxy is.
    #[arg(value_enum)]
    role: Role,
    /// The Gateway, or the sidecar's Pod.
    #[arg(value_name = "NAMESPACE/NAME")]
    target: Target,
    /// Where the control plane listens for proxies; port 15012, or 15010 with --plaintext.
    #[arg(long, value_name = "HOST:PORT")]
    xds: Option<Authority>,
    /// The port of the proxy's admin page, on the loopback address.
    #[arg(long, value_name = "PORT", default_value_t = 15000)]
    admin_port: u16,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Yaml)]
    format: Format,
    /// Without TLS, identity and secrets: for the control plane's port 15010 on the same machine.
    #[arg(long, conflicts_with_all = ["root_file", "token_file", "service_account", "foreign", "sds_socket"])]
    plaintext: bool,
    /// An external authority (`sidegate serve --ca-address`): the proxy gets its certificate there, and its token is for that.
    #[arg(long, value_name = "HOST:PORT", requires_all = ["root_file", "token_file"], conflicts_with = "plaintext")]
    ca_address: Option<Authority>,
    /// The name that the external authority's certificate must have [default: the host of --ca-address].
    #[arg(long, value_name = "NAME", requires = "ca_address", value_parser = server_name)]
    ca_server_name: Option<String>,
    /// The roots that the control plane's certificate chains to, and the authority's; root-cert.pem of the authority's folder by default.
    #[arg(long, value_name = "FILE", alias = "ca-root")]
    root_file: Option<PathBuf>,
    /// The token with which the proxy proves who it is; made for an hour when the authority's folder is on this machine.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The service account of the Pod (default: default) or of the Gateway (default: its name).
    #[arg(long, value_name = "NAME", value_parser = account)]
    service_account: Option<String>,
    /// The trust domain of the mesh.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", value_parser = trust_domain)]
    trust_domain: String,
    /// The control plane's --ca-dir, when it is on this machine [default: ~/.local/state/sidegate/ca].
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
    /// For an Envoy: it gets its certificate from `sidegate agent` at --sds-socket.
    #[arg(long, requires = "sds_socket")]
    foreign: bool,
    /// The Unix socket of `sidegate agent`, which runs beside an Envoy.
    #[arg(long, value_name = "PATH", requires = "foreign")]
    sds_socket: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// It serves the listeners of a Gateway.
    Gateway,
    /// It stands beside one Pod's app.
    Sidecar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// With comments.
    Yaml,
    /// For programs.
    Json,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let text = text(args).and_then(|yaml| match args.format {
        Format::Yaml => Ok(yaml),
        Format::Json => document::json(&yaml),
    });
    match text {
        Ok(text) => {
            // A reader that has seen enough (`| head`) is no error.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(reason) => super::cannot(reason),
    }
}

fn text(args: &Args) -> Result<String, String> {
    let proof = if args.plaintext { None } else { Some(proof::find(args)?) };
    Ok(document::yaml(args, proof.as_ref()))
}

impl Args {
    fn authority(&self) -> Authority {
        let port = if self.plaintext { 15010 } else { 15012 };
        self.xds.clone().unwrap_or_else(|| Authority { host: "127.0.0.1".to_owned(), port })
    }

    fn account(&self) -> &str {
        let default = match self.role {
            Role::Gateway => &self.target.name,
            Role::Sidecar => crate::model::account::DEFAULT,
        };
        self.service_account.as_deref().unwrap_or(default)
    }
}

fn account(text: &str) -> Result<String, String> {
    if is_kubernetes_name(text) {
        Ok(text.to_owned())
    } else {
        Err("not the name of a service account".to_owned())
    }
}

/// It is written into the document as it stands.
fn server_name(text: &str) -> Result<String, String> {
    if is_kubernetes_name(text) || text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("a name in lower case, or an IP address".to_owned())
}

fn trust_domain(text: &str) -> Result<String, String> {
    if sidegate_xds::spiffe::is_trust_domain(text) {
        return Ok(text.to_owned());
    }
    Err("a trust domain has lower-case letters, digits, '.', '-' and '_'".to_owned())
}
