//! The flags of the certificate authority.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sidegate_proxy::settings::Identity;

use crate::ca::{ExternalOptions, Given, Options, Settings};
use crate::cli::ca_folder;

/// Whose word counts.
#[derive(Debug, clap::Args)]
#[group(id = "authority")]
#[command(group(clap::ArgGroup::new("signer").args(["ca_cert", "ca_address"])))]
#[command(next_help_heading = "Certificate authority")]
pub(super) struct Args {
    /// Folder of the authority's keys and ledger; made when it is missing [default: ~/.local/state/sidegate/ca].
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
    /// Sign no certificates: no mutual TLS.
    #[arg(long, conflicts_with_all = ["ca_dir", "ca_cert", "ca_address", "leaf_ttl", "trust_bundle"])]
    no_ca: bool,
    /// The trust domain of all identities.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    trust_domain: String,
    /// Sign with this certificate, an intermediate of your PKI (PEM; the certificates above it may follow).
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    ca_cert: Option<PathBuf>,
    /// The private key of --ca-cert.
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    ca_key: Option<PathBuf>,
    /// The root above --ca-cert, when it is not in that file; with --ca-address the roots that the external authority signs under,
    /// which also vouch for its server. That file is watched.
    #[arg(long, value_name = "FILE", requires = "signer")]
    ca_root: Option<PathBuf>,
    /// Sign nothing: proxies get their certificates from this istio.v1.auth.IstioCertificateService (cert-manager's istio-csr, Istio's
    /// istiod), and the control plane gets its own there.
    #[arg(long, value_name = "HOST:PORT", requires_all = ["ca_root", "ca_token"], conflicts_with = "leaf_ttl")]
    ca_address: Option<String>,
    /// The name that the external authority's certificate must have [default: the host of --ca-address].
    #[arg(long, value_name = "NAME", requires = "ca_address")]
    ca_server_name: Option<String>,
    /// The token with which the control plane proves to the external authority that it is sidegate-system/sidegate; read again at each use.
    #[arg(long, value_name = "FILE", requires = "ca_address")]
    ca_token: Option<PathBuf>,
    /// How long a workload's certificate lives at most, e.g. 24h, 30m, 90s.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    leaf_ttl: Duration,
    /// Trust these roots for a trust domain (PEM or a SPIFFE bundle); the file is watched. May be repeated.
    #[arg(long, value_name = "DOMAIN=FILE", value_parser = bundle)]
    trust_bundle: Vec<(String, PathBuf)>,
    /// How many seconds a gate of a rotation must be clear.
    #[arg(long, hide = true, default_value_t = 10)]
    rotation_hold: u64,
    /// How many seconds a certificate counts as in use after it was replaced.
    #[arg(long, hide = true, default_value_t = 60)]
    rotation_grace: u64,
}

impl Args {
    /// What to open; none when nobody is to certify.
    pub(super) fn settings(self) -> Result<Option<Settings>, String> {
        if self.no_ca {
            return Ok(None);
        }
        let folder = ca_folder::choose(self.ca_dir.as_deref())?;
        if let (Some(address), Some(roots), Some(token)) = (&self.ca_address, &self.ca_root, &self.ca_token) {
            let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
            let name = self.ca_server_name.as_deref().unwrap_or(host.trim_matches(['[', ']']));
            return Ok(Some(Settings::External(ExternalOptions {
                directory: folder,
                identity: identity(address, name, roots, token)?,
                trust_domain: self.trust_domain,
                roots: roots.clone(),
                bundles: self.trust_bundle,
            })));
        }
        let mut options = Options::new(folder, self.trust_domain);
        options.given = match (self.ca_cert, self.ca_key) {
            (Some(certificate), Some(key)) => Some(Given { certificate, key, root: self.ca_root }),
            _ => None,
        };
        options.leaf_ttl = self.leaf_ttl;
        options.bundles = self.trust_bundle;
        options.rotation.hold = self.rotation_hold;
        options.rotation.grace = self.rotation_grace;
        Ok(Some(Settings::Own(options)))
    }
}

/// How the external authority is asked.
fn identity(address: &str, name: &str, roots: &Path, token: &Path) -> Result<Identity, String> {
    Identity::new(address, Some(name), roots, token, None).map_err(|wrong| {
        let flag = |field| match field {
            "ca_server_name" => "--ca-server-name",
            "root_file" => "--ca-root",
            "token_file" => "--ca-token",
            _ => "--ca-address",
        };
        let lines = wrong.into_iter().map(|(field, text)| format!("{}: {text}", flag(field)));
        lines.collect::<Vec<_>>().join("; ")
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    let form = || "write a time such as 24h, 30m or 90s".to_owned();
    let digits = text.len() - text.trim_start_matches(|character: char| character.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| form())?;
    let seconds = match unit {
        "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3600),
        "d" => number.checked_mul(86_400),
        _ => None,
    };
    let seconds = seconds.ok_or_else(form)?;
    if !(1..=LONGEST).contains(&seconds) {
        return Err("a certificate lives for at least 1s and at most 90d".to_owned());
    }
    Ok(Duration::from_secs(seconds))
}

fn bundle(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((domain, file)) if !domain.is_empty() && !file.is_empty() => {
            Ok((domain.to_owned(), PathBuf::from(file)))
        }
        _ => Err("write DOMAIN=FILE, e.g. other.example=/etc/sidegate/other.pem".to_owned()),
    }
}

/// What is stolen is of use for as long as it lives.
const LONGEST: u64 = 90 * 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_bounds() {
        for (text, seconds) in [("24h", 86_400), ("90s", 90), ("30m", 1800), ("90d", 7_776_000), ("1s", 1)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "24",
            "h",
            "0s",
            "91d",
            "1.5h",
            "-1h",
            "24 h",
            "99999999999999999999h",
            "18446744073709551615d",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_bundle_has_a_domain_and_a_file() {
        assert_eq!(bundle("a.example=/x=y"), Ok(("a.example".to_owned(), PathBuf::from("/x=y"))));
        for text in ["", "a.example", "=file", "a.example="] {
            assert!(bundle(text).is_err(), "{text}");
        }
    }
}
