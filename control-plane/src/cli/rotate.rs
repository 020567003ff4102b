//! `sidegate rotate-root`: begins a rotation of the root, or finds the one under way, and tells whom it waits for.
//!
//! The control plane does the work. This command can be ended and started again at any time.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::time::sleep;

use super::ca_folder;
use super::plane::Plane;
use super::status::authority::{line, phase, push, short};
use crate::ca::report::{Report, Turn};
use crate::ca::rotation::Phase;
use crate::status::{Command, NewRoot};

/// The flags of `sidegate rotate-root`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Args {
    /// The control plane's --ca-dir: who can read it may rotate [default: ~/.local/state/sidegate/ca].
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
    /// The control plane's admin address.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15014")]
    admin: String,
    /// Only tell how far it is.
    #[arg(long, conflicts_with_all = ["cancel", "no_wait", "new_cert", "without"])]
    status: bool,
    /// Give it up; possible until the new root signs.
    #[arg(long, conflicts_with_all = ["no_wait", "new_cert", "without"])]
    cancel: bool,
    /// Wait no longer, until the end of the rotation under way, for a proxy that is gone for good: its node id, or what it serves
    /// (shop/web-1); or for anybody of a SPIFFE id. May be given several times. What they still hold stops working (docs/authority.md).
    #[arg(long, value_name = "NODE|SPIFFE ID", conflicts_with = "new_cert")]
    without: Vec<String>,
    /// Begin it, and do not wait for its end.
    #[arg(long)]
    no_wait: bool,
    /// The new certificate that signs, for an authority that you gave (--ca-cert); the certificates above it may follow.
    #[arg(long, value_name = "FILE", requires = "new_key")]
    new_cert: Option<PathBuf>,
    /// The private key of --new-cert.
    #[arg(long, value_name = "FILE", requires = "new_cert")]
    new_key: Option<PathBuf>,
    /// The root above --new-cert, when it is not in that file.
    #[arg(long, value_name = "FILE", requires = "new_cert")]
    new_root: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let result = super::block_on(async {
        tokio::select! {
            // First, so that an interrupt is never taken for an end.
            biased;
            _ = tokio::signal::ctrl_c() => {
                eprintln!("sidegate: interrupted; a rotation that has begun goes on: `sidegate rotate-root --status` tells how far it is, --cancel gives it up");
                Ok(ExitCode::from(INTERRUPTED))
            }
            result = converse(args) => result,
        }
    });
    match result {
        Ok(Ok(code)) => code,
        Ok(Err(reason)) => super::cannot(reason),
        Err(error) => super::cannot(error),
    }
}

async fn converse(args: &Args) -> Result<ExitCode, String> {
    let plane = Plane { folder: ca_folder::choose(args.ca_dir.as_deref())?, address: &args.admin };
    if args.status {
        let report = plane.report().await?;
        let mut text = String::new();
        push(&mut text, &report);
        print!("{}", text.trim_start_matches('\n'));
        println!("{}", phase(&report.rotation));
        let stable = report.rotation.phase == Phase::Stable;
        return Ok(if stable { ExitCode::SUCCESS } else { ExitCode::from(UNDER_WAY) });
    }
    if !args.without.is_empty() {
        return plane.go_on_without(&args.without, args.no_wait).await;
    }
    let command = match args.cancel {
        true => Command::Cancel,
        false => Command::Start { new: new_root(args)? },
    };
    let report = match plane.command(&command).await? {
        Ok(report) => report,
        Err(refusal) => {
            let Ok(report) = plane.report().await else {
                eprintln!("sidegate: {refusal}");
                return Ok(ExitCode::from(REFUSED));
            };
            let plain = command == Command::Start { new: None };
            if !plain || report.rotation.phase == Phase::Stable {
                eprintln!("sidegate: {refusal}");
                return Ok(ExitCode::from(REFUSED));
            }
            println!("a rotation is under way already");
            report
        }
    };
    if args.cancel {
        println!("given up: {}", phase(&report.rotation));
        return Ok(ExitCode::SUCCESS);
    }
    if args.no_wait {
        println!("{}", phase(&report.rotation));
        return Ok(ExitCode::SUCCESS);
    }
    plane.follow(report).await
}

fn new_root(args: &Args) -> Result<Option<NewRoot>, String> {
    // The control plane reads the files, and it may stand in another folder.
    let whole =
        |path: &Path| std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()));
    let (Some(certificate), Some(key)) = (&args.new_cert, &args.new_key) else { return Ok(None) };
    let root = args.new_root.as_deref().map(whole).transpose()?;
    Ok(Some(NewRoot { certificate: whole(certificate)?, key: whole(key)?, root }))
}

/// What this command asks of it.
impl Plane<'_> {
    async fn report(&self) -> Result<Report, String> {
        self.ask(Method::GET, PATH, Bytes::new()).await?.map_err(|text| format!("it answers: {text}"))
    }

    /// What it says after a command, or why it refuses.
    async fn command(&self, command: &Command) -> Result<Result<Report, String>, String> {
        let body = serde_json::to_vec(command).map_err(|error| error.to_string())?;
        self.ask(Method::POST, PATH, body.into()).await
    }

    /// Leaves them out one by one, and follows what happens then.
    async fn go_on_without(&self, names: &[String], no_wait: bool) -> Result<ExitCode, String> {
        let mut latest = None;
        for name in names {
            match self.command(&Command::Without { name: name.clone() }).await? {
                Ok(report) => {
                    println!("no longer waiting for {name}: {}", suffers(report.rotation.phase));
                    latest = Some(report);
                }
                Err(refusal) => {
                    eprintln!("sidegate: {refusal}");
                    return Ok(ExitCode::from(REFUSED));
                }
            }
        }
        match latest {
            Some(report) if !no_wait => self.follow(report).await,
            _ => Ok(ExitCode::SUCCESS),
        }
    }

    /// Tells what happens until it is over.
    async fn follow(&self, first: Report) -> Result<ExitCode, String> {
        let mut teller = Teller::default();
        let Some(next) = first.rotation.next.clone() else {
            return Err("the control plane says that nothing has begun".to_owned());
        };
        let mut report = first;
        let mut silent = 0;
        loop {
            teller.tell(&report.rotation);
            if report.rotation.phase == Phase::Stable {
                let done = report.rotation.current == next;
                let current = short(&report.rotation.current);
                return Ok(match done {
                    true => {
                        println!("done: the root {current} is in force, and the old one is forgotten");
                        ExitCode::SUCCESS
                    }
                    false => {
                        eprintln!("sidegate: the rotation was given up; the root {current} stays in force");
                        ExitCode::from(REFUSED)
                    }
                });
            }
            sleep(PACE).await;
            match self.report().await {
                Ok(newer) => (report, silent) = (newer, 0),
                // It is started again, perhaps; what has begun goes on then.
                Err(reason) if silent < SILENCES => {
                    if silent == 0 {
                        println!("{reason}; trying again");
                    }
                    silent += 1;
                }
                Err(reason) => return Err(reason),
            }
        }
    }
}

/// Prints what is new, and nothing twice.
#[derive(Default)]
struct Teller {
    phase: Option<Phase>,
    waiting: Vec<(String, String)>,
}

impl Teller {
    fn tell(&mut self, turn: &Turn) {
        if self.phase != Some(turn.phase) {
            self.phase = Some(turn.phase);
            self.waiting.clear();
            if turn.phase != Phase::Stable {
                println!("{}", phase(turn));
            }
        }
        for waiting in &turn.waiting {
            if !self.waiting.iter().any(|(who, what)| (who, what) == (&waiting.who, &waiting.what)) {
                println!("  {}", line(waiting, turn.now));
            }
        }
        self.waiting =
            turn.waiting.iter().map(|waiting| (waiting.who.clone(), waiting.what.clone())).collect();
    }
}

/// What becomes of those who are not waited for, should they live after all.
const fn suffers(phase: Phase) -> &'static str {
    match phase {
        Phase::Stable => "the rotation is over",
        Phase::Distributing => {
            "if it comes back without the new root, it refuses others and they refuse it, until it has a new bootstrap (root-cert.pem) and a token"
        }
        Phase::Signing => {
            "a certificate of the old root that it still uses is refused by everybody from step 3 on, until it gets another one with a token"
        }
        Phase::Retiring => {
            "it goes on trusting the old root, with which nothing is signed any more, until it is told otherwise"
        }
    }
}

const EXIT_CODES: &str = "\
Exit codes: 0 done (or begun, with --no-wait; or nothing under way, with --status), 1 refused or given up by somebody,
2 the control plane cannot be asked, 3 still under way (with --status), 130 interrupted while it goes on.";

/// The exit codes beyond 0 and 2.
const REFUSED: u8 = 1;
const UNDER_WAY: u8 = 3;
const INTERRUPTED: u8 = 130;

const PATH: &str = "/rotate-root";

/// How often it is asked, and how many failures in a row are bridged.
const PACE: Duration = Duration::from_millis(500);
const SILENCES: u32 = 120;
