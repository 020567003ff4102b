//! `sidegate demo`: the main job in one command. Real processes, real files, real load; exit code 0 only when no
//! request failed and every split was kept.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

pub mod sample; // `sidegate sample-app`: one process of the shop
mod play; // starts everything, then works through the script under traffic
mod plan; // the script
mod mesh; // what runs
mod processes; // children: started, watched, ended
mod guard; // ends the children when the demo cannot
mod manifests; // the copy of examples/shop and its edits
mod edit; // one value changes, everything else stays
mod layout; // who listens where
mod control; // what the control plane says has been applied
mod load; // an open loop of requests
mod security; // what must not work, and who called whom
mod screen; // the live picture
mod summary; // the verdict
mod hints; // what to try next
mod board; // what the screen shows
mod tally; // what the load saw
mod latency; // a histogram
mod client; // a small HTTP client
mod trace; // trace headers
mod words; // numbers for people
mod error; // why a demo stops

use board::Board;
use error::DemoError;
use mesh::Mesh;
use play::Play;
use processes::Death;
use screen::Screen;
use summary::Report;
use tally::SharedTally;

/// The flags of `sidegate demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// How long traffic flows, e.g. 60s or 2m; at least 10s
    #[arg(long, default_value = "60s", value_parser = plan::parse_duration)]
    duration: Duration,
    /// Requests per second
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// What to print: a live screen, or one JSON object as the last line of stdout
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Leave everything running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Used by the demo itself
    #[arg(long, hide = true)]
    guard: bool,
}

/// What to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Runs the demo. 0: passed. 1: requests failed or a split was not kept. 2: it could not start. 130: Ctrl-C.
pub async fn run(args: DemoArgs) -> ExitCode {
    if args.guard {
        return guard::serve();
    }
    match present(&args).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sidegate demo: {error}");
            ExitCode::from(CANNOT_START)
        }
    }
}

async fn present(args: &DemoArgs) -> Result<ExitCode, DemoError> {
    let mut interrupt = Interrupt::new()?;
    let (mut mesh, mut deaths) = tokio::select! {
        prepared = Mesh::prepare() => prepared?,
        () = interrupt.arrived() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let steps = plan::steps(args.duration);
    let (board, board_reader) = watch::channel(Board::new(args.duration, &steps));
    board.send_modify(|board| {
        board.notes.clone_from(&mesh.layout.notes);
        board.gateway = Some(format!("http://{}", mesh.layout.gateway));
    });
    let tally = SharedTally::new();
    let screen = Screen::start(board_reader, tally.clone(), args.output == Output::Json);
    let mut play =
        Play { mesh: &mut mesh, board: &board, tally: &tally, duration: args.duration, rate: args.rate };
    let ended = tokio::select! {
        ended = play.whole(&steps) => ended.map_err(Stop::Failed),
        () = interrupt.arrived() => Err(Stop::Interrupted),
        Some(death) = deaths.recv() => Err(Stop::Died(death)),
    };
    screen.finish().await;
    let report = |error| Report::new(&board.borrow(), &tally.lock(), args.rate, error);
    let began = board.borrow().began.is_some();
    let code = conclude(args, &mut mesh, ended, began, report);
    let code = match args.keep && began && code != INTERRUPTED {
        true => keep(args, &mesh, &mut interrupt, &mut deaths).await,
        false => code,
    };
    mesh.processes.stop_all().await;
    Ok(ExitCode::from(code))
}

/// What ended the play before its end.
enum Stop {
    /// Ctrl-C, or a polite signal.
    Interrupted,
    /// A child is gone that nobody ended.
    Died(Death),
    /// A step failed.
    Failed(DemoError),
}

/// Says how it ended; returns the exit code.
fn conclude(
    args: &DemoArgs,
    mesh: &mut Mesh,
    ended: Result<(), Stop>,
    began: bool,
    report: impl Fn(Option<String>) -> Report,
) -> u8 {
    let error = match ended {
        Ok(()) => {
            let report = report(None);
            print_report(args, &report);
            if report.passed() {
                return PASSED;
            }
            eprintln!("sidegate demo: all logs: {}", mesh.keep_folder().join("logs").display());
            return FAILED;
        }
        Err(Stop::Interrupted) => {
            eprintln!("sidegate demo: interrupted; ending every process");
            return INTERRUPTED;
        }
        Err(Stop::Died(death)) => mesh.failure(&death.name, &format!("it ended by itself: {}", death.status)),
        Err(Stop::Failed(error)) => error,
    };
    let what = if began { "broken off" } else { "cannot start" };
    eprintln!("sidegate demo: {what}: {error}\n\nAll logs: {}", mesh.keep_folder().join("logs").display());
    if began || args.output == Output::Json {
        print_report(args, &report(Some(error.to_string())));
    }
    if began { FAILED } else { CANNOT_START }
}

fn print_report(args: &DemoArgs, report: &Report) {
    let text = match args.output {
        Output::Text => format!("\n{}", report.text()),
        Output::Json => format!("{}\n", report.json()),
    };
    // Whoever closed the pipe does not want to read it; the exit code says it too.
    let _written = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Leaves everything running until Ctrl-C.
async fn keep(
    args: &DemoArgs,
    mesh: &Mesh,
    interrupt: &mut Interrupt,
    deaths: &mut mpsc::Receiver<Death>,
) -> u8 {
    let hints = format!("\n{}", hints::text(mesh));
    let _written = match args.output {
        Output::Text => std::io::stdout().lock().write_all(hints.as_bytes()),
        Output::Json => std::io::stderr().lock().write_all(hints.as_bytes()),
    };
    loop {
        tokio::select! {
            () = interrupt.arrived() => return INTERRUPTED,
            Some(death) = deaths.recv() => eprintln!("{} ended: {}", death.name, death.status),
        }
    }
}

/// The signals that end the demo.
struct Interrupt {
    signals: [Signal; 3],
}

impl Interrupt {
    fn new() -> Result<Self, DemoError> {
        let listen = |kind| signal(kind).map_err(|error| DemoError::Signal(error.to_string()));
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(listen);
        Ok(Self { signals: [interrupt?, terminate?, hangup?] })
    }

    async fn arrived(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

const PASSED: u8 = 0;
const FAILED: u8 = 1;
const CANNOT_START: u8 = 2;
const INTERRUPTED: u8 = 130;
