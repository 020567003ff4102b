//! What the demo tells about itself while it runs. The conductor writes, the screen reads.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::control::Expected;
use super::plan::{Action, Step};
use super::security::Security;

/// The state of the demo.
#[derive(Clone, Debug)]
pub(super) struct Board {
    /// What it does right now.
    pub(super) doing: String,
    /// When traffic began.
    pub(super) began: Option<Instant>,
    /// How long traffic should flow.
    pub(super) duration: Duration,
    /// Where to send requests, once known.
    pub(super) gateway: Option<String>,
    /// What is not where it usually is.
    pub(super) notes: Vec<String>,
    /// The script and how far it is.
    pub(super) lines: Vec<Line>,
    /// The applied swaps.
    pub(super) swaps: Vec<Swap>,
    /// How long the proxies took to come back to the new control plane.
    pub(super) reconnected: Option<Duration>,
    /// What was tried and counted of the mesh's security.
    pub(super) security: Security,
    /// The proxies that should apply every change.
    pub(super) expected: Expected,
    /// What the control plane last said of them.
    pub(super) applied: Applied,
}

/// One step of the script.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// What is to be done.
    pub(super) action: Action,
    /// When.
    pub(super) at: Duration,
    /// How far it is.
    pub(super) state: State,
}

/// How far a step is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Later.
    Waiting,
    /// Now.
    Running,
    /// Done; what came of it.
    Done(String),
}

/// One change of the configuration that every proxy has applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Swap {
    /// What was changed.
    pub(super) change: String,
    /// From the edit of the file until every proxy had applied it.
    pub(super) took: Duration,
}

/// Who has applied what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    /// The control plane's generation; none while it is away.
    pub(super) generation: Option<u64>,
    /// How many proxies have applied it.
    pub(super) at: usize,
    /// How many there are.
    pub(super) of: usize,
}

impl Board {
    /// The board before anything runs.
    pub(super) fn new(duration: Duration, steps: &[Step]) -> Self {
        let line = |step: &Step| Line { action: step.action, at: step.at, state: State::Waiting };
        Self {
            doing: "starting".to_owned(),
            began: None,
            duration,
            gateway: None,
            notes: Vec::new(),
            lines: steps.iter().map(line).collect(),
            swaps: Vec::new(),
            reconnected: None,
            security: Security::default(),
            expected: Expected::new(),
            applied: Applied::default(),
        }
    }
}

/// The conductor's end.
pub(super) type BoardWriter = watch::Sender<Board>;
/// The screen's end.
pub(super) type BoardReader = watch::Receiver<Board>;
