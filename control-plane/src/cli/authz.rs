//! `sidegate authz check`: may this caller do that?

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use http::{Method, StatusCode};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::admin::Call;
use crate::check::{Answer, Question};

/// The flags of `sidegate authz`.
#[derive(Debug, clap::Args)]
#[group(id = "authz")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask the live policy about one request; nothing is sent. Exit code 0: allowed by every Pod, 1: denied, 2: cannot be asked.
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// The caller's SPIFFE id; a caller without TLS when it is left out.
    #[arg(long, value_name = "SPIFFE ID")]
    from: Option<String>,
    /// The Service that is called.
    #[arg(long, value_name = "NAMESPACE/SERVICE[:PORT]")]
    to: String,
    /// The method.
    #[arg(long, default_value = "GET")]
    method: String,
    /// The path.
    #[arg(long, default_value = "/")]
    path: String,
    /// The host; the Service's name when it is left out.
    #[arg(long)]
    host: Option<String>,
    /// A header of the request; may be given several times.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// What an accepted token says, as a JSON object.
    #[arg(long, value_name = "JSON", value_parser = claims)]
    claims: Option<Map<String, Value>>,
    /// Where the caller is.
    #[arg(long, value_name = "ADDRESS")]
    source_ip: Option<IpAddr>,
    /// The control plane's admin address.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15014")]
    admin: String,
    /// Print all that the judgement says, as JSON.
    #[arg(long)]
    json: bool,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn claims(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

pub(super) fn run(args: Args) -> ExitCode {
    let Command::Check(args) = args.command;
    let (address, as_json) = (args.admin.clone(), args.json);
    let asked = super::block_on(async { timeout(LIMIT, ask(args)).await });
    let answers = match asked {
        Ok(Ok(Ok(answers))) => answers,
        Ok(Ok(Err(reason))) => return super::cannot(format_args!("{reason} (asked {address})")),
        Ok(Err(_)) => {
            return super::cannot(format_args!("no answer from {address} within {} s", LIMIT.as_secs()));
        }
        Err(error) => return super::cannot(error),
    };
    let text = if as_json {
        serde_json::to_string_pretty(&answers).unwrap_or_default() + "\n"
    } else {
        table(&answers)
    };
    // A reader that has seen enough (`| head`) is no error.
    let _ = io::stdout().write_all(text.as_bytes());
    if answers.iter().all(|answer| answer.allowed) { ExitCode::SUCCESS } else { ExitCode::from(DENIED) }
}

async fn ask(args: CheckArgs) -> Result<Vec<Answer>, String> {
    let headers = args.headers.into_iter().map(|(name, value)| (name, value.into())).collect();
    let question = Question {
        from: args.from,
        to: args.to,
        method: args.method,
        path: args.path,
        host: args.host,
        headers,
        claims: args.claims,
        source_ip: args.source_ip,
    };
    let body = serde_json::to_vec(&question).map_err(|error| error.to_string())?;
    let call = Call { method: Method::POST, body: body.into(), ..Call::get(&args.admin, "/authz/check") };
    let (status, body) =
        call.send().await.map_err(|error| format!("{error}; is `sidegate serve` running there?"))?;
    if status != StatusCode::OK {
        return Err(String::from_utf8_lossy(&body).trim().to_owned());
    }
    serde_json::from_slice(&body).map_err(|error| format!("the answer is not understood: {error}"))
}

fn table(answers: &[Answer]) -> String {
    let line = |answer: &Answer| {
        format!(
            "{}  {}  {}\n",
            if answer.allowed { "ALLOWED" } else { "DENIED " },
            answer.pod,
            answer.because
        )
    };
    answers.iter().map(line).collect()
}

const LIMIT: Duration = Duration::from_secs(10);

/// The exit code when some Pod denies it.
const DENIED: u8 = 1;
