//! `sidegate status`: the control plane's report for people and for programs.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use http::StatusCode;
use tokio::time::timeout;

use super::admin::Call;
use crate::model::{Finding, Verdict};
use crate::status::{Proxy, Report, Role, State, Step, TypeStatus};

pub(super) mod authority;
mod certificate;

/// The flags of `sidegate status`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Args {
    /// The control plane's admin address.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:15014")]
    address: String,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

pub(super) fn run(args: &Args) -> ExitCode {
    // The clock of the time limit belongs to the runtime, so it must be made inside.
    let fetched = match super::block_on(async { timeout(FETCH_LIMIT, fetch(&args.address)).await }) {
        Ok(Ok(fetched)) => fetched,
        Ok(Err(_)) => Err(format!("no answer within {} seconds", FETCH_LIMIT.as_secs())),
        Err(error) => return super::cannot(error),
    };
    let read = fetched.and_then(|body| {
        let report = read(&body)?;
        Ok((report.step(), print(&report, args.output)?))
    });
    let (step, text) = match read {
        Ok(read) => read,
        Err(reason) => {
            return super::cannot(format_args!(
                "no status from {}: {reason}; is `sidegate serve` running there? (--address takes its --admin-address)",
                args.address
            ));
        }
    };
    // A reader that has seen enough (`| head`) is no error.
    let _ = io::stdout().write_all(text.as_bytes());
    exit_code(step)
}

/// As `sidegate rotate-root` and `sidegate authz check` have them.
fn exit_code(step: Step) -> ExitCode {
    match step {
        Step::InStep => ExitCode::SUCCESS,
        Step::OutOfStep => ExitCode::from(OUT_OF_STEP),
        Step::OnTheWay => ExitCode::from(ON_THE_WAY),
    }
}

async fn fetch(address: &str) -> Result<Bytes, String> {
    let (status, body) = Call::get(address, "/status").send().await?;
    if status != StatusCode::OK {
        return Err(format!("it answers {status}"));
    }
    Ok(body)
}

fn read(body: &[u8]) -> Result<Report, String> {
    serde_json::from_slice(body).map_err(|error| format!("the answer is not a report ({error})"))
}

fn print(report: &Report, output: Output) -> Result<String, String> {
    match output {
        Output::Table => Ok(table(report)),
        Output::Json => {
            serde_json::to_string_pretty(report).map(|text| text + "\n").map_err(|error| error.to_string())
        }
    }
}

fn table(report: &Report) -> String {
    let mut text = format!("generation {}\n\n", report.generation);
    if report.proxies.is_empty() {
        text.push_str("No proxy is connected.\n");
    } else {
        push_rows(&mut text, &report.proxies);
    }
    for proxy in &report.proxies {
        for status in &proxy.types {
            if let Some(error) = &status.error {
                let _ = writeln!(text, "\n{} refuses a {}: {error}", title(proxy), status.kind);
            }
        }
    }
    certificate::push(&mut text, &report.proxies);
    if let Some(ca) = &report.ca {
        authority::push(&mut text, ca);
    }
    if let Some(external) = &report.external_ca {
        authority::push_external(&mut text, external);
    }
    push_list(&mut text, "Findings", report.findings.iter().map(finding_line));
    let failing = report.conditions.iter().filter(|condition| !condition.status);
    push_list(&mut text, "Conditions that are false", failing.map(condition_line));
    let partly = |condition: &&Verdict| condition.condition == "PartiallyInvalid" && condition.status;
    push_list(&mut text, "In force in part", report.conditions.iter().filter(partly).map(partly_line));
    text
}

fn push_rows(text: &mut String, proxies: &[Proxy]) {
    let heads = [
        "PROXY",
        "ROLE",
        "CLUSTERS",
        "ENDPOINTS",
        "LISTENERS",
        "ROUTES",
        "SECRETS",
        "CERTIFICATE",
        "APPLIED",
        "AGE",
    ];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for proxy in proxies {
        let role = match (proxy.role, proxy.foreign) {
            (Role::Gateway, false) => "gateway",
            (Role::Gateway, true) => "gateway (foreign)",
            (Role::Sidecar, false) => "sidecar",
            (Role::Sidecar, true) => "sidecar (foreign)",
        };
        let mut row = vec![title(proxy), role.to_owned()];
        row.extend(["cluster", "endpoint", "listener", "route", "secret"].map(|kind| {
            proxy.types.iter().find(|status| status.kind == kind).map_or_else(|| "-".to_owned(), cell)
        }));
        row.push(certificate::cell(proxy));
        row.push(proxy.applied_generation.to_string());
        row.push(age(proxy.connected_seconds));
        rows.push(row);
    }
    let widths: Vec<usize> = (0..heads.len())
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
}

/// `synced 3f2a91c0 (4)`: state, version, how many.
fn cell(status: &TypeStatus) -> String {
    let version = status.accepted.as_deref().or(status.sent.as_deref());
    match (status.state, version) {
        (State::NotRequested, _) => "-".to_owned(),
        (state, None) => state.word().to_owned(),
        (state, Some(version)) => {
            let short: String = version.chars().take(6).collect();
            format!("{} {short} ({})", state.word(), status.resources)
        }
    }
}

fn title(proxy: &Proxy) -> String {
    format!("{}/{}", proxy.namespace, proxy.name)
}

fn age(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match whole {
        0..120 => format!("{whole}s"),
        120..7200 => format!("{}m", whole / 60),
        7200..172_800 => format!("{}h", whole / 3600),
        _ => format!("{}d", whole / 86_400),
    }
}

fn push_list(text: &mut String, head: &str, lines: impl Iterator<Item = String>) {
    for (index, line) in lines.enumerate() {
        if index == 0 {
            let _ = writeln!(text, "\n{head}:");
        }
        let _ = writeln!(text, "  {line}");
    }
}

fn finding_line(finding: &Finding) -> String {
    let place = [finding.object.as_deref(), finding.field.as_deref()];
    let place: Vec<&str> = place.into_iter().flatten().collect();
    let place = if place.is_empty() { String::new() } else { format!(" {}", place.join(" ")) };
    format!(
        "{} #{}{place}: {} (in force: {})",
        finding.file, finding.document, finding.message, finding.in_force
    )
}

fn condition_line(condition: &Verdict) -> String {
    format!("{} {}=False, {}: {}", condition.object, condition.condition, condition.reason, condition.message)
}

fn partly_line(condition: &Verdict) -> String {
    format!("{} {}: {}", condition.object, condition.reason, condition.message)
}

const EXIT_CODES: &str = "\
Exit codes: 0 every proxy that is connected has acknowledged the newest configuration, and nothing is wrong;
1 something is: a proxy refuses, or has not answered for 30 seconds, a document or an object is not in force as it
is written, a certificate was not renewed in time, the authority has a problem; 2 the control plane cannot be asked;
3 nothing is wrong, and something is still on its way to a proxy: ask again.";

/// The exit codes beyond 0 and 2.
const OUT_OF_STEP: u8 = 1;
const ON_THE_WAY: u8 = 3;

/// How long the whole exchange may take.
const FETCH_LIMIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
