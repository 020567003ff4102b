//! `sidegate token`: a token with which a workload proves who it is, signed by this mesh's control plane.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use super::ca_folder;
use crate::authn::Subject;
use crate::authn::refusal::Refusal;
use crate::authn::tokens::{self, TokenKey};

/// The flags of `sidegate token`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The namespace of the service account.
    #[arg(long, value_name = "NAME")]
    namespace: String,
    /// The service account that the token speaks for.
    #[arg(long, value_name = "NAME")]
    service_account: String,
    /// Only the sidecar of this Pod may use it.
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// How long it is good for, such as 90s, 10m or 2h; 24h at most.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = super::duration)]
    ttl: Duration,
    /// The control plane's --ca-dir, which has the key [default: ~/.local/state/sidegate/ca].
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
    /// Where to write it, for its owner alone; stdout when absent.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    match make(args, SystemTime::now()) {
        Ok(text) => {
            // A reader that has seen enough is no error.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(reason) => super::cannot(reason),
    }
}

/// Makes the token; gives what is to be printed.
fn make(args: &Args, now: SystemTime) -> Result<String, String> {
    let user = format!("system:serviceaccount:{}:{}", args.namespace, args.service_account);
    let subject = Subject::parse(&user, args.pod.clone()).map_err(|Refusal { .. }| {
        format!(
            "{:?} in {:?} is not the name of a service account: lower-case letters, digits, '-' and '.'",
            args.service_account, args.namespace
        )
    })?;
    let folder = ca_folder::choose(args.ca_dir.as_deref())?;
    let key = TokenKey::open(&folder).map_err(|error| error.to_string())?;
    let token = key.mint(&subject, args.ttl, now).map_err(|error| error.to_string())?;
    match &args.out {
        None => Ok(format!("{token}\n")),
        Some(path) => {
            tokens::write(path, &token).map_err(|error| error.to_string())?;
            Ok(String::new())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_is_printed_or_written_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut args = Args {
            namespace: "shop".to_owned(),
            service_account: "web".to_owned(),
            pod: Some("web-1".to_owned()),
            ttl: Duration::from_secs(60),
            ca_dir: Some(folder.path().join("ca")),
            out: None,
        };
        let now = SystemTime::now();
        let printed = make(&args, now).unwrap();
        let key = TokenKey::open(&folder.path().join("ca")).unwrap();
        let proven = key.verify(printed.trim_end(), now).unwrap();
        assert_eq!(proven.subject.pod.as_deref(), Some("web-1"));
        let out = folder.path().join("token");
        std::fs::write(&out, "an older one that everybody could read").unwrap();
        args.out = Some(out.clone());
        assert_eq!(make(&args, now).unwrap(), "");
        assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(key.verify(std::fs::read_to_string(&out).unwrap().trim_end(), now).is_ok());
        args.ttl = Duration::from_secs(25 * 3600);
        assert!(make(&args, now).unwrap_err().contains("24 hours"));
        args.service_account = "a:b".to_owned();
        assert!(make(&args, now).unwrap_err().contains("service account"));
    }
}
