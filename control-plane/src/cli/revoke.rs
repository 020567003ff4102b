//! `sidegate revoke`: a certificate that counts no more, or an identity that nobody accepts. The control plane does the work.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use clap::ValueEnum;
use clap::builder::PossibleValue;
use http::Method;

use super::ca_folder;
use super::plane::Plane;
use crate::ca::report::{Reason, Withdrawn};
use crate::status::Revoke;

/// The flags of `sidegate revoke`.
///
/// Every proxy that is connected is told at once: it refuses the certificate or the identity, and ends connections that it has with
/// it. Exit codes: 0 done, 1 refused, 2 the control plane cannot be asked.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["serial", "id", "list"])))]
pub(super) struct Args {
    /// The serial number of a certificate, in hex digits.
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
    /// The SPIFFE id of a workload: none of its certificates counts, and it gets no other.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Only tell what was revoked and who is denied.
    #[arg(long)]
    list: bool,
    /// Let the identity in again; a certificate that was revoked stays so.
    #[arg(long, requires = "id", conflicts_with_all = ["serial", "reason"])]
    undo: bool,
    /// Why, as the list says it.
    #[arg(long, value_name = "WORD", conflicts_with = "list", default_value = "unspecified")]
    reason: Why,
    /// Revoke a serial number although the control plane does not know it.
    #[arg(long, requires = "serial")]
    force: bool,
    /// The control plane's --ca-dir: who can read it may revoke [default: ~/.local/state/sidegate/ca].
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
    /// The control plane's admin address.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15014")]
    admin: String,
}

/// The reason on the command line.
#[derive(Clone, Copy, Debug)]
struct Why(Reason);

impl ValueEnum for Why {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [Why; Reason::ALL.len()] = {
            let mut all = [Why(Reason::Unspecified); Reason::ALL.len()];
            let mut at = 0;
            while at < all.len() {
                all[at] = Why(Reason::ALL[at]);
                at += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.word()))
    }
}

pub(super) fn run(args: &Args) -> ExitCode {
    match super::block_on(converse(args)) {
        Ok(Ok(Ok(text))) => {
            // A reader that has seen enough (`| head`) is no error.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Ok(Err(refusal))) => {
            eprintln!("sidegate: {refusal}");
            ExitCode::from(REFUSED)
        }
        Ok(Err(reason)) => super::cannot(reason),
        Err(error) => super::cannot(error),
    }
}

async fn converse(args: &Args) -> Result<Result<String, String>, String> {
    let plane = Plane { folder: ca_folder::choose(args.ca_dir.as_deref())?, address: &args.admin };
    let Some(command) = command(args) else {
        let listed = plane.ask::<Withdrawn>(Method::GET, PATH, Bytes::new()).await?;
        return Ok(listed.map(|withdrawn| list(&withdrawn)));
    };
    let body = serde_json::to_vec(&command).map_err(|error| error.to_string())?;
    let done = plane.ask::<Withdrawn>(Method::POST, PATH, body.into()).await?;
    Ok(done.map(|withdrawn| told(&command, &withdrawn)))
}

fn command(args: &Args) -> Option<Revoke> {
    match (&args.serial, &args.id) {
        (Some(serial), _) => {
            Some(Revoke::Serial { serial: serial.clone(), reason: args.reason.0, force: args.force })
        }
        (None, Some(id)) if args.undo => Some(Revoke::Undo { id: id.clone() }),
        (None, Some(id)) => Some(Revoke::Deny { id: id.clone(), reason: args.reason.0 }),
        (None, None) => None,
    }
}

fn told(command: &Revoke, withdrawn: &Withdrawn) -> String {
    match command {
        Revoke::Serial { serial, .. } => {
            let plain = serial.trim().replace(':', "").to_ascii_lowercase();
            let asked = withdrawn.certificates.iter().find(|one| plain.ends_with(&one.serial));
            let identity = asked.and_then(|one| one.identity.as_deref());
            let whose = identity.map(|identity| {
                format!("; {identity} can get another one with a token, unless it is denied, too (--id)")
            });
            format!("revoked{}\n", whose.unwrap_or_default())
        }
        Revoke::Deny { id, .. } => format!("denied: {id}; --undo lets it in again\n"),
        Revoke::Undo { id } => format!("{id} is let in again\n"),
    }
}

fn list(withdrawn: &Withdrawn) -> String {
    let mut text = String::new();
    for one in &withdrawn.certificates {
        let whose = one.identity.as_deref().unwrap_or("(not in the ledger)");
        let _ =
            writeln!(text, "certificate {} {whose} {} until {}", one.serial, one.reason.word(), one.until);
    }
    for id in &withdrawn.identities {
        let _ = writeln!(text, "identity {id}");
    }
    if text.is_empty() {
        text.push_str("nothing is revoked, and nobody is denied\n");
    }
    text
}

const PATH: &str = "/revoke";

/// The exit code beyond 0 and 2.
const REFUSED: u8 = 1;
