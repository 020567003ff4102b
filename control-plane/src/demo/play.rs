//! The play: starts everything, lets traffic flow, works through the script, and closes the last window.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::board::{Applied, BoardWriter, State, Swap};
use super::control::{self, ControlPlane};
use super::error::DemoError;
use super::load::Load;
use super::manifests;
use super::mesh::{self, Mesh};
use super::plan::{self, Action, Step};
use super::security;
use super::tally::SharedTally;

/// What the conductor needs at every step.
#[derive(Debug)]
pub(super) struct Play<'a> {
    /// What runs.
    pub(super) mesh: &'a mut Mesh,
    /// What is told about it.
    pub(super) board: &'a BoardWriter,
    /// What the load sees.
    pub(super) tally: &'a SharedTally,
    /// How long traffic flows.
    pub(super) duration: Duration,
    /// Requests per second.
    pub(super) rate: u32,
}

impl Play<'_> {
    /// The whole play.
    pub(super) async fn whole(&mut self, steps: &[Step]) -> Result<(), DemoError> {
        self.start().await?;
        self.mesh.end_turn();
        self.perform(steps).await
    }

    /// Starts every process and returns when a request has gone all the way.
    async fn start(&mut self) -> Result<(), DemoError> {
        self.say("starting the control plane");
        self.mesh.start_control_plane().await?;
        self.say("starting the gateway, the sidecars and the shop");
        let pods = manifests::pods(&self.mesh.layout)?;
        self.mesh.start_gateway().await?;
        for pod in &pods {
            self.mesh.start_pod(pod).await?;
        }
        self.say("waiting for every proxy's first configuration");
        self.wait_applied("the first configuration", None, START_LIMIT).await?;
        self.mesh.wait_gateway().await?;
        for pod in &pods {
            self.mesh.wait_pod(pod).await?;
        }
        self.say("sending the first request all the way");
        self.warm_up().await
    }

    /// Traffic, and the script under it.
    async fn perform(&mut self, steps: &[Step]) -> Result<(), DemoError> {
        let (stop, stopping) = watch::channel(false);
        let load = Load::new(self.mesh.layout.gateway, manifests::HOST, self.rate, self.tally.clone());
        // Both end with this set, also when the play is broken off.
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(self.mesh.layout.control_admin, self.board.clone()));
        let began = Instant::now();
        self.board.send_modify(|board| board.began = Some(began));
        self.tally.lock().open_window(share(plan::FIRST_CANARY));
        let mut load_task = JoinSet::new();
        load_task.spawn(Arc::clone(&load).run(stopping));
        self.say(TRAFFIC);
        for (index, step) in steps.iter().enumerate() {
            tokio::time::sleep_until(began + step.at).await;
            self.mark(index, State::Running);
            let done = self.act(step.action).await?;
            self.mark(index, State::Done(done));
        }
        // A slow machine gets a last window all the same.
        let end = (began + self.duration).max(Instant::now() + self.duration / 20);
        tokio::time::sleep_until(end).await;
        stop.send_replace(true);
        self.say("waiting for the last answers");
        while load_task.join_next().await.is_some() {}
        self.tally.lock().close_window();
        self.count_edges().await
    }

    async fn act(&mut self, action: Action) -> Result<String, DemoError> {
        match action {
            Action::Canary(percent) => self.move_canary(percent).await,
            Action::LosePod => self.lose_pod().await,
            Action::AddPod => self.add_pod().await,
            Action::RestartControlPlane => self.restart_control_plane().await,
            Action::Intrude => self.intrude().await,
            Action::RotateRoot => self.rotate_root().await,
            Action::RateLimit => {
                let edit = |mesh: &Mesh| {
                    mesh.manifests.set(
                        manifests::POLICY_FILE,
                        &["kind: RateLimitPolicy"],
                        "requests",
                        "30000",
                    )
                };
                self.swap(action, edit).await
            }
            Action::Balancing => {
                let edit = |mesh: &Mesh| {
                    let (anchors, value) = (["kind: BackendPolicy"], "RoundRobin");
                    mesh.manifests.set(manifests::POLICY_FILE, &anchors, "loadBalancing", value)
                };
                self.swap(action, edit).await
            }
            Action::RemovePod => {
                self.swap(action, |mesh| mesh.manifests.remove(&format!("{}.yaml", manifests::LOST))).await
            }
            Action::AdmitPod => {
                let file = format!("{}.yaml", manifests::REPLACEMENT);
                self.swap(action, |mesh| mesh.manifests.set(&file, &["conditions:"], "ready", "true")).await
            }
        }
    }

    /// One split ends, the next begins when every proxy has applied it. Requests in between count for neither.
    async fn move_canary(&mut self, percent: u32) -> Result<String, DemoError> {
        self.tally.lock().close_window();
        // What was sent a moment ago is still to be split the old way; every request ends within its deadline.
        while !self.tally.lock().is_settled() {
            tokio::time::sleep(SETTLE_EVERY).await;
        }
        let done = self.swap(Action::Canary(percent), |mesh| mesh.manifests.set_canary(percent)).await?;
        self.tally.lock().open_window(share(percent));
        Ok(done)
    }

    /// A crash in two parts: first the app is gone and its sidecar must say so, then the sidecar is gone as well and
    /// nobody answers at that address.
    async fn lose_pod(&mut self) -> Result<String, DemoError> {
        self.mesh.expected.remove(&format!("sidecar {}", manifests::LOST));
        self.board.send_modify(|board| board.expected.clone_from(&self.mesh.expected));
        self.mesh.processes.kill(&mesh::app_process(manifests::LOST)).await?;
        tokio::time::sleep(plan::pause(self.duration)).await;
        self.mesh.processes.kill(&mesh::sidecar_process(manifests::LOST)).await?;
        Ok(format!("{}: app and sidecar, SIGKILL", manifests::LOST))
    }

    async fn add_pod(&mut self) -> Result<String, DemoError> {
        let applied = self.swap(Action::AddPod, |mesh| mesh.manifests.add_replacement(&mesh.layout)).await?;
        let pod = manifests::replacement(&self.mesh.layout)?;
        self.mesh.start_replacement(&pod).await?;
        self.wait_applied("the replacement's first configuration", None, START_LIMIT).await?;
        self.mesh.wait_pod(&pod).await?;
        Ok(format!("{}; {applied}", pod.name))
    }

    async fn restart_control_plane(&mut self) -> Result<String, DemoError> {
        self.mesh.processes.kill(mesh::CONTROL_PLANE).await?;
        tokio::time::sleep(plan::pause(self.duration)).await;
        let began = Instant::now();
        self.mesh.start_control_plane().await?;
        self.wait_applied("the restarted control plane's configuration", None, START_LIMIT).await?;
        let took = began.elapsed();
        self.board.send_modify(|board| board.reconnected = Some(took));
        Ok(format!("SIGKILL; every proxy back {} after the start", millis(took)))
    }

    /// What must not work: plaintext to a sidecar, and a call that policy forbids.
    async fn intrude(&mut self) -> Result<String, DemoError> {
        let pods = manifests::pods(&self.mesh.layout)?;
        let mut refused = 0;
        for pod in &pods {
            refused += usize::from(security::refuses_plaintext(pod).await);
        }
        let web = pods.iter().find(|pod| pod.app == "web");
        let denied = match web {
            Some(web) => security::is_denied(web).await,
            None => Err("there is no web".to_owned()),
        };
        let (tried, forbidden_denied) = (pods.len(), denied.is_ok());
        self.board.send_modify(|board| {
            let security = &mut board.security;
            (security.plaintext_tried, security.plaintext_refused) = (tried, refused);
            security.forbidden_denied = forbidden_denied;
        });
        let forbidden = denied.map_or_else(|reason| reason, |()| "403 access_denied".to_owned());
        Ok(format!("plaintext refused by {refused} of {tried} sidecars; web → reviews: {forbidden}"))
    }

    /// The command that people use, until every proxy trusts the new root and has a certificate of it. The old root goes a minute
    /// later: an answer with a certificate may have been lost on the way.
    async fn rotate_root(&mut self) -> Result<String, DemoError> {
        let began = Instant::now();
        let exchanged = async {
            self.mesh.rotate_root().await?;
            self.mesh.control.wait_renewed(&self.mesh.expected).await
        };
        let waited = tokio::time::timeout(ROTATE_LIMIT, exchanged).await;
        let said = waited.unwrap_or_else(|_| Err(format!("not done after {} s", ROTATE_LIMIT.as_secs())));
        said.map_err(|reason| self.mesh.failure(mesh::CONTROL_PLANE, &reason))?;
        let took = began.elapsed();
        let millis_taken = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.board.send_modify(|board| board.security.root_rotated_ms = Some(millis_taken));
        Ok(format!("trusted by every proxy, and every certificate renewed, after {}", millis(took)))
    }

    /// Who called whom, as the called sidecars counted it, and when the first certificate ends.
    async fn count_edges(&mut self) -> Result<(), DemoError> {
        let mut pods = manifests::pods(&self.mesh.layout)?;
        pods.retain(|pod| pod.name != manifests::LOST);
        pods.push(manifests::replacement(&self.mesh.layout)?);
        let mut security = self.board.borrow().security.clone();
        for pod in &pods {
            let counted = security::count(pod, &mut security).await;
            counted.map_err(|reason| self.mesh.failure(&mesh::sidecar_process(&pod.name), &reason))?;
        }
        let status = self.mesh.control.status().await;
        let status = status.map_err(|reason| self.mesh.failure(mesh::CONTROL_PLANE, &reason))?;
        security.next_expiry_seconds = status
            .proxies
            .iter()
            .filter_map(|proxy| proxy.certificate.as_ref())
            .filter_map(|certificate| u64::try_from(certificate.expires_seconds).ok())
            .min();
        self.board.send_modify(|board| board.security = security);
        Ok(())
    }

    /// Edits a file and waits until every proxy has applied the change.
    async fn swap(
        &mut self,
        action: Action,
        edit: impl FnOnce(&Mesh) -> Result<(), manifests::ManifestError>,
    ) -> Result<String, DemoError> {
        let change = action.to_string();
        let before = self.mesh.control.status().await;
        let before = before.map_err(|reason| self.mesh.failure(mesh::CONTROL_PLANE, &reason))?.generation;
        let began = Instant::now();
        edit(self.mesh)?;
        self.wait_applied(&change, Some(before), APPLY_LIMIT).await?;
        let took = began.elapsed();
        self.board.send_modify(|board| board.swaps.push(Swap { change, took }));
        Ok(format!("applied everywhere after {}", millis(took)))
    }

    async fn wait_applied(
        &self,
        change: &str,
        before: Option<u64>,
        limit: Duration,
    ) -> Result<(), DemoError> {
        let waited = self.mesh.control.wait_applied(&self.mesh.expected, before, limit).await;
        let generation = waited.map_err(|missing| DemoError::NotApplied {
            change: change.to_owned(),
            seconds: limit.as_secs(),
            missing,
        })?;
        let count = self.mesh.expected.len();
        let applied = Applied { generation: Some(generation), at: count, of: count };
        self.board.send_modify(|board| {
            board.applied = applied;
            board.expected.clone_from(&self.mesh.expected);
        });
        Ok(())
    }

    async fn warm_up(&self) -> Result<(), DemoError> {
        // Counted apart: these are not part of the load.
        let load = Load::new(self.mesh.layout.gateway, manifests::HOST, 1, SharedTally::new());
        let deadline = Instant::now() + START_LIMIT;
        let mut in_a_row = 0;
        loop {
            let reason = match tokio::time::timeout(super::load::DEADLINE, load.ask(rand::random())).await {
                Ok(Ok(_answer)) => {
                    in_a_row += 1;
                    if in_a_row == WARM_REQUESTS {
                        return Ok(());
                    }
                    continue;
                }
                Ok(Err(failure)) => failure.detail,
                Err(_elapsed) => "no answer".to_owned(),
            };
            in_a_row = 0;
            if Instant::now() >= deadline {
                return Err(DemoError::NoAnswer { seconds: START_LIMIT.as_secs(), reason });
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    fn say(&self, doing: &str) {
        self.board.send_modify(|board| doing.clone_into(&mut board.doing));
    }

    fn mark(&self, index: usize, state: State) {
        self.board.send_modify(|board| {
            if let Some(line) = board.lines.get_mut(index) {
                board.doing = match state {
                    State::Running => line.action.to_string(),
                    State::Waiting | State::Done(_) => TRAFFIC.to_owned(),
                };
                line.state = state;
            }
        });
    }
}

/// Keeps the board's view of the control plane fresh, also while nothing is waited for.
async fn follow(address: std::net::SocketAddr, board: BoardWriter) {
    let control = ControlPlane::new(address);
    loop {
        tokio::time::sleep(FOLLOW_EVERY).await;
        let status = control.status().await;
        board.send_modify(|board| {
            let of = board.expected.len();
            board.applied = match status {
                Ok(status) => Applied {
                    generation: Some(status.generation),
                    at: control::applied(&status, &board.expected, status.generation),
                    of,
                },
                Err(_away) => Applied { generation: None, at: 0, of },
            };
        });
    }
}

fn share(percent: u32) -> f64 {
    f64::from(percent) / 100.0
}

fn millis(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

const TRAFFIC: &str = "traffic flows";
const START_LIMIT: Duration = Duration::from_secs(20);
const ROTATE_LIMIT: Duration = Duration::from_secs(60);
const APPLY_LIMIT: Duration = Duration::from_secs(10);
const SETTLE_EVERY: Duration = Duration::from_millis(5);
const WARM_REQUESTS: u32 = 20;
const RETRY_EVERY: Duration = Duration::from_millis(50);
const FOLLOW_EVERY: Duration = Duration::from_millis(250);
