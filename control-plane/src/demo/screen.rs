//! The live screen: a few lines redrawn in place on a terminal, plain progress lines anywhere else.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::board::{Board, BoardReader, Line, State};
use super::plan::Action;
use super::tally::{Recent, SharedTally, Split, Tally};
use super::words;

/// Shows the board until told to stop.
#[derive(Debug)]
pub(super) struct Screen {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Screen {
    /// Starts to show. The live form goes to stdout when that is a terminal and not wanted for JSON.
    pub(super) fn start(board: BoardReader, tally: SharedTally, json: bool) -> Self {
        let (stop, stopping) = watch::channel(false);
        let live = !json && std::io::stdout().is_terminal();
        let task = match live {
            true => tokio::spawn(draw_until(stopping, board, tally)),
            false => tokio::spawn(report_until(stopping, board, tally)),
        };
        Self { stop, task }
    }

    /// Draws the last state and leaves it on the screen.
    pub(super) async fn finish(self) {
        self.stop.send_replace(true);
        // Only a panic of the task could fail here; it has spoken for itself.
        let _ended = self.task.await;
    }
}

/// Redraws in place.
async fn draw_until(mut stopping: watch::Receiver<bool>, board: BoardReader, tally: SharedTally) {
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut painter = Painter::new(colour);
    loop {
        let stopped = tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => true,
            () = tokio::time::sleep(REDRAW_EVERY) => false,
        };
        let lines = page(&board.borrow(), &tally.lock(), Instant::now());
        painter.paint(&lines);
        if stopped {
            return;
        }
    }
}

/// Prints what changed, and a line of figures now and then, to stderr.
async fn report_until(mut stopping: watch::Receiver<bool>, mut board: BoardReader, tally: SharedTally) {
    let mut told = Told::default();
    let mut figures = tokio::time::interval(FIGURES_EVERY);
    loop {
        let news = tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => None,
            Ok(()) = board.changed() => Some(false),
            _ = figures.tick() => Some(true),
        };
        let now = board.borrow_and_update().clone();
        for line in told.news(&now) {
            eprintln!("{line}");
        }
        match news {
            None => return,
            Some(true) if now.began.is_some() => {
                eprintln!("{}", figures_line(&now, &tally.lock(), Instant::now()))
            }
            Some(_) => {}
        }
    }
}

/// What was printed already, so that nothing is printed twice.
#[derive(Debug, Default)]
struct Told {
    doing: String,
    notes: usize,
    done: usize,
    gateway: bool,
}

impl Told {
    fn news(&mut self, board: &Board) -> Vec<String> {
        let mut news = Vec::new();
        for note in &board.notes[self.notes.min(board.notes.len())..] {
            news.push(format!("note: {note}"));
        }
        self.notes = board.notes.len();
        if let (false, Some(gateway)) = (self.gateway, &board.gateway) {
            news.push(format!("gateway: {gateway}"));
            self.gateway = true;
        }
        let done = board.lines.iter().filter_map(|line| match &line.state {
            State::Done(result) => Some((line, result)),
            State::Waiting | State::Running => None,
        });
        let finished: Vec<_> = done.collect();
        for (line, result) in &finished[self.done.min(finished.len())..] {
            news.push(format!("{:>5}  {}: {result}", words::clock(line.at), line.action));
        }
        self.done = finished.len();
        // Steps are told when they are done; what comes between two of them was told before.
        let is_step = board.lines.iter().any(|line| line.action.to_string() == board.doing);
        if self.doing != board.doing && !is_step {
            news.push(format!("{}…", board.doing));
            board.doing.clone_into(&mut self.doing);
        }
        news
    }
}

fn figures_line(board: &Board, tally: &Tally, now: Instant) -> String {
    let recent = tally.recent(now);
    let elapsed = board.began.map_or(Duration::ZERO, |began| now.duration_since(began));
    let split = tally.splits.last().map(|split| {
        format!("; v2 {} of {}", words::percent(split.observed()), words::percent(split.configured))
    });
    format!(
        "{:>5}  {:.0} requests/s, {} sent, {} failed; p50 {}, p99 {}{}; {}",
        words::clock(elapsed),
        recent.per_second,
        words::count(tally.requests),
        words::count(tally.failed),
        words::millis(recent.p50),
        words::millis(recent.p99),
        split.unwrap_or_default(),
        applied(board)
    )
}

/// How a piece of text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Plain,
    Bold,
    Dim,
    Good,
    Bad,
    Accent,
}

impl Look {
    fn code(self) -> &'static str {
        match self {
            Look::Plain => "0",
            Look::Bold => "1",
            Look::Dim => "2",
            Look::Good => "32",
            Look::Bad => "1;31",
            Look::Accent => "36",
        }
    }
}

type Spans = Vec<(Look, String)>;

/// The whole screen. Pure.
fn page(board: &Board, tally: &Tally, now: Instant) -> Vec<Spans> {
    let mut page = vec![heading(board, now)];
    page.extend(board.notes.iter().map(|note| vec![(Look::Dim, format!("  {note}"))]));
    page.push(Vec::new());
    if board.began.is_some() {
        page.extend(figures(board, tally, &tally.recent(now)));
        page.push(Vec::new());
    }
    page.extend(board.lines.iter().map(script_line));
    page
}

fn heading(board: &Board, now: Instant) -> Spans {
    let mut spans = vec![(Look::Bold, "sidegate demo  ".to_owned())];
    if let Some(began) = board.began {
        let elapsed = now.duration_since(began).min(board.duration.max(Duration::from_secs(1)));
        let clock = format!("{} / {}  ", words::clock(elapsed), words::clock(board.duration));
        spans.push((Look::Accent, clock));
    }
    spans.push((Look::Plain, board.doing.clone()));
    if let Some(gateway) = &board.gateway {
        spans.push((Look::Dim, format!("  ({gateway})")));
    }
    spans
}

fn figures(board: &Board, tally: &Tally, recent: &Recent) -> Vec<Spans> {
    let succeeded = 1.0 - tally.failed as f64 / tally.requests.max(1) as f64;
    let (failed_look, rate_look) =
        if tally.failed == 0 { (Look::Good, Look::Good) } else { (Look::Bad, Look::Bad) };
    let mut lines = vec![
        vec![
            (Look::Dim, "  requests  ".to_owned()),
            (Look::Plain, format!("{:.0}/s, {} in all, ", recent.per_second, words::count(tally.requests))),
            (rate_look, format!("{:.2} % ok, ", (succeeded * 1e4).floor() / 1e2)),
            (failed_look, format!("{} failed", words::count(tally.failed))),
        ],
        vec![
            (Look::Dim, "  latency   ".to_owned()),
            (Look::Plain, format!("p50 {}, p99 {}", words::millis(recent.p50), words::millis(recent.p99))),
            (Look::Dim, "  of the last seconds".to_owned()),
        ],
    ];
    let is_moving = |line: &Line| matches!((line.action, &line.state), (Action::Canary(_), State::Running));
    let moving = board.lines.iter().any(is_moving);
    lines.extend(tally.splits.last().map(|split| split_lines(split, moving)).into_iter().flatten());
    let swaps = match board.swaps.last() {
        None => "no swap yet".to_owned(),
        Some(last) => {
            format!("{} swaps, the last within {}", board.swaps.len(), words::millis(Some(last.took)))
        }
    };
    let look = if board.applied.generation.is_some() { Look::Plain } else { Look::Bad };
    lines.push(vec![
        (Look::Dim, "  config    ".to_owned()),
        (look, applied(board)),
        (Look::Plain, format!("; {swaps}")),
    ]);
    lines
}

fn split_lines(split: &Split, moving: bool) -> [Spans; 2] {
    let look = if split.kept() || split.requests < FEW { Look::Good } else { Look::Bad };
    let trailing = if moving { ", moving on" } else { "" };
    [
        vec![
            (Look::Dim, "  configured  ".to_owned()),
            (Look::Plain, bar(split.configured)),
            (Look::Plain, format!("  v2 {}", words::percent(split.configured))),
        ],
        vec![
            (Look::Dim, "  observed    ".to_owned()),
            (look, bar(split.observed())),
            (look, format!("  v2 {}", words::percent(split.observed()))),
            (Look::Dim, format!("  of {} answers{trailing}", words::count(split.requests))),
        ],
    ]
}

/// Version 2 grows from the left.
fn bar(share: f64) -> String {
    let filled = (share * BAR as f64).round() as usize;
    format!("{}{}", "█".repeat(filled.min(BAR)), "░".repeat(BAR - filled.min(BAR)))
}

fn applied(board: &Board) -> String {
    match board.applied.generation {
        None => "control plane away, proxies go on".to_owned(),
        Some(generation) => {
            format!("version {generation} applied at {} of {} proxies", board.applied.at, board.applied.of)
        }
    }
}

fn script_line(line: &Line) -> Spans {
    let at = words::clock(line.at);
    match &line.state {
        State::Waiting => vec![(Look::Dim, format!("  · {at}  {}", line.action))],
        State::Running => vec![(Look::Accent, format!("  ▸ {at}  {}…", line.action))],
        State::Done(result) => vec![
            (Look::Good, "  ✓ ".to_owned()),
            (Look::Plain, format!("{at}  {}", line.action)),
            (Look::Dim, format!("  {result}")),
        ],
    }
}

/// Draws over what it drew before. Gives the cursor back when it is dropped.
#[derive(Debug)]
struct Painter {
    drawn: usize,
    colour: bool,
}

impl Painter {
    fn new(colour: bool) -> Self {
        print_now("\x1b[?25l");
        Self { drawn: 0, colour }
    }

    fn paint(&mut self, lines: &[Spans]) {
        let (width, height) = window();
        let shown = &lines[..lines.len().min(height.saturating_sub(1).max(1))];
        let mut output = String::new();
        if self.drawn > 0 {
            output.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in shown {
            output.push_str("\r\x1b[2K");
            output.push_str(&render(line, width.saturating_sub(1), self.colour));
            output.push('\n');
        }
        output.push_str("\x1b[J");
        self.drawn = shown.len();
        print_now(&output);
    }
}

impl Drop for Painter {
    fn drop(&mut self) {
        print_now("\x1b[?25h");
    }
}

/// Cuts a line to the width of the terminal: a line that wraps could not be drawn over.
fn render(spans: &Spans, width: usize, colour: bool) -> String {
    let mut room = width;
    let mut line = String::new();
    for (look, text) in spans {
        let cut: String = text.chars().take(room).collect();
        room -= cut.chars().count();
        match (colour, look) {
            (true, Look::Bold | Look::Dim | Look::Good | Look::Bad | Look::Accent) => {
                line.push_str(&format!("\x1b[{}m{cut}\x1b[0m", look.code()));
            }
            _ => line.push_str(&cut),
        }
    }
    line
}

/// Columns and rows of the terminal.
fn window() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

fn print_now(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // A terminal that is gone wants no picture; the demo ends by SIGHUP.
    let _written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

const REDRAW_EVERY: Duration = Duration::from_millis(200);
const FIGURES_EVERY: Duration = Duration::from_secs(5);
const BAR: usize = 40;
/// Below this many answers a red split would only frighten.
const FEW: u64 = 20;

#[cfg(test)]
mod tests;
