//! What is applied where: the report behind `/status`, and the page that serves it with metrics and health.

mod applied;
mod certificate;
mod guard;
mod judging;
mod origin;
mod revoke;
mod rotate;
mod server;
mod step;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::encoding::text;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::ca::{self, Certifier, ExternalReport};
use crate::model::{Finding, Scope, Verdict, View};
use crate::snapshot::Snapshots;
use crate::xds::stream::{TypeReport, TypeState};
use crate::xds::{Metrics, StreamReport, Streams};
pub use certificate::Certificate;
use judging::Bench;
pub use judging::Wanted;
pub use revoke::Revoke;
pub use rotate::{Command, NewRoot};
pub use server::serve;
pub use step::Step;

/// `GET /status`: what is served, who has applied it, what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Grows with every change of the world; 0 before the first full read.
    pub generation: u64,
    /// Every connected proxy, by id.
    pub proxies: Vec<Proxy>,
    /// What is wrong with documents.
    pub findings: Vec<Finding>,
    /// What is to be said about objects.
    pub conditions: Vec<Verdict>,
    /// The certificate authority, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<ca::report::Report>,
    /// Somebody else's certificate authority, when that signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_ca: Option<ExternalReport>,
}

/// One connected proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proxy {
    /// `node.id`.
    pub id: String,
    /// What it serves.
    pub role: Role,
    /// The namespace of what it serves.
    pub namespace: String,
    /// The name of the Gateway or Pod.
    pub name: String,
    /// A data plane other than ours.
    pub foreign: bool,
    /// In whose name it has proven to speak; none on the plaintext port.
    #[serde(default)]
    pub identity: Option<String>,
    /// The certificate with which it has connected; none when it has shown a token.
    #[serde(default)]
    pub certificate: Option<Certificate>,
    /// For how long.
    pub connected_seconds: f64,
    /// The newest generation that it has accepted all of; 0 for none.
    pub applied_generation: u64,
    /// How far it is, by resource type.
    pub types: Vec<TypeStatus>,
}

/// What a proxy serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The listeners of a Gateway.
    Gateway,
    /// A Pod.
    Sidecar,
}

/// How far a proxy is with one resource type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TypeStatus {
    /// `cluster`, `endpoint`, `listener`, `route`, `secret`.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many resources it confirmed to hold.
    pub resources: usize,
    /// The version last sent.
    pub sent: Option<String>,
    /// The version last accepted as a whole.
    pub accepted: Option<String>,
    /// How far it is.
    pub state: State,
    /// Why it refuses what it refuses.
    pub error: Option<String>,
    /// For how long state and versions have been these.
    pub since_seconds: f64,
}

/// How far a proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It accepted everything.
    Synced,
    /// Something is to be sent or was not answered yet.
    Pending,
    /// It refused something of what is wanted now.
    Rejected,
    /// It did not ask for the type.
    NotRequested,
}

impl State {
    /// The word for people, the same as in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Pending => "pending",
            Self::Rejected => "rejected",
            Self::NotRequested => "not-requested",
        }
    }
}

/// Answers a question about a request, JSON to JSON, for as long as that is wanted; the error says what is wrong with the question.
pub type Judge = dyn Fn(&[u8], &Wanted) -> Result<Vec<u8>, String> + Send + Sync;

/// Gathers reports from those who know. Reads only.
pub struct Reporter {
    views: watch::Receiver<Arc<View>>,
    verdicts: watch::Receiver<Arc<Vec<Verdict>>>,
    streams: Streams,
    snapshots: Snapshots,
    certifier: Option<Certifier>,
    registry: Registry,
    gauges: Gauges,
    judge: Option<Box<Judge>>,
    bench: Bench,
}

#[derive(Debug, Default)]
struct Gauges {
    generation: Gauge,
    findings: Gauge,
    false_conditions: Gauge,
    certificate_expiry: Gauge,
}

impl Reporter {
    /// A reporter over the latest view and verdicts, the open streams with what they follow and count, and the authority if there
    /// is one.
    pub fn new(
        views: watch::Receiver<Arc<View>>,
        verdicts: watch::Receiver<Arc<Vec<Verdict>>>,
        streams: Streams,
        snapshots: Snapshots,
        metrics: &Metrics,
        certifier: Option<Certifier>,
    ) -> Self {
        let mut registry = Registry::default();
        if let Some(authority) = certifier.as_ref().and_then(Certifier::own) {
            authority.metrics().register(&mut registry);
        }
        let gauges = Gauges::default();
        metrics.register(&mut registry);
        registry.register("sidegate_generation", "Changes of the world so far", gauges.generation.clone());
        registry.register("sidegate_findings", "What is wrong with documents now", gauges.findings.clone());
        registry.register(
            "sidegate_false_conditions",
            "Conditions of objects that are false now",
            gauges.false_conditions.clone(),
        );
        registry.register(
            "sidegate_earliest_certificate_expiry_timestamp_seconds",
            "When the certificate in use expires that is the first to; 0 when there is none",
            gauges.certificate_expiry.clone(),
        );
        let bench = Bench::default();
        Self { views, verdicts, streams, snapshots, certifier, registry, gauges, judge: None, bench }
    }

    /// Lets others name their counters on the page.
    pub fn register(&mut self, enter: impl FnOnce(&mut Registry)) {
        enter(&mut self.registry);
    }

    /// Who answers questions about requests: it reads what is translated, which stands above this room.
    pub fn asking(mut self, judge: Box<Judge>) -> Self {
        self.judge = Some(judge);
        self
    }

    fn judge(&self, question: &[u8], wanted: &Wanted) -> Result<Vec<u8>, String> {
        let judge = self.judge.as_ref().ok_or("nobody here answers that")?;
        judge(question, wanted)
    }

    fn bench(&self) -> &Bench {
        &self.bench
    }

    /// Everything, now.
    pub fn report(&self, now: Instant, today: SystemTime) -> Report {
        let view = Arc::clone(&self.views.borrow());
        let streams = self.streams.current();
        let conditions = self.conditions(&streams);
        let mut proxies: Vec<Proxy> = streams
            .into_iter()
            .map(|stream| {
                let certificate = self.certificate(&stream, today);
                proxy(stream, certificate, now)
            })
            .collect();
        proxies.sort_by(|one, other| one.id.cmp(&other.id));
        Report {
            generation: view.generation,
            proxies,
            findings: view.findings.clone(),
            conditions,
            ca: self.certifier.as_ref().and_then(Certifier::own).map(ca::Authority::report),
            external_ca: self.certifier.as_ref().and_then(Certifier::external).map(ca::External::report),
        }
    }

    /// What translation says of objects, with what proxies say of it.
    fn conditions(&self, streams: &[StreamReport]) -> Vec<Verdict> {
        applied::conditions(self.verdicts.borrow().to_vec(), streams, &self.snapshots)
    }

    fn certificate(&self, stream: &StreamReport, today: SystemTime) -> Option<Certificate> {
        let leaf = stream.caller.as_ref()?.leaf()?;
        let renewed = match self.certifier.as_ref()? {
            Certifier::Own(authority) => {
                authority.leaf(&leaf.serial).is_some_and(|known| known.superseded.is_some())
            }
            // Whether its holder has got another one, only its authority knows: nobody is accused of neglect.
            Certifier::External(_) => true,
        };
        Some(Certificate::new(leaf, renewed, today))
    }

    /// The metrics in the OpenMetrics text form.
    pub fn metrics(&self, today: SystemTime) -> String {
        let view = Arc::clone(&self.views.borrow());
        // As `/status` has them: an object whose proxy refuses what was sent counts, too.
        let conditions = self.conditions(&self.streams.current());
        let failing = conditions.iter().filter(|condition| !condition.status).count();
        self.gauges.generation.set(signed(view.generation));
        self.gauges.findings.set(signed(view.findings.len() as u64));
        self.gauges.false_conditions.set(signed(failing as u64));
        let seconds = match &self.certifier {
            Some(Certifier::Own(authority)) => {
                authority.report().next_expiry.map(|next| next.expires_seconds)
            }
            Some(Certifier::External(external)) => external.report().expires_seconds,
            None => None,
        };
        let expiry = seconds.map_or(0, |seconds| certificate::timestamp(today).saturating_add(seconds));
        self.gauges.certificate_expiry.set(expiry);
        let mut page = String::new();
        // Writing to a string fails only when a metric's own encoding does, and then the rest is still of use.
        if let Err(error) = text::encode(&mut page, &self.registry) {
            tracing::error!(%error, "a metric could not be written");
        }
        page
    }

    /// Who certifies, when somebody does.
    fn certifier(&self) -> Option<&Certifier> {
        self.certifier.as_ref()
    }

    /// Whether the source was read in full at least once, and may be published.
    pub fn is_ready(&self) -> bool {
        let view = self.views.borrow();
        view.generation > 0 && !view.held_back
    }
}

fn proxy(stream: StreamReport, certificate: Option<Certificate>, now: Instant) -> Proxy {
    let foreign = stream.node.is_foreign();
    let (role, name) = match stream.node.scope {
        Scope::Gateway { gateway, .. } => (Role::Gateway, gateway),
        Scope::Sidecar { pod, .. } => (Role::Sidecar, pod),
    };
    Proxy {
        id: stream.node.id,
        role,
        namespace: name.namespace,
        name: name.name,
        foreign,
        identity: stream.caller.map(|caller| caller.identity.to_string()),
        certificate,
        connected_seconds: seconds(stream.connected, now),
        applied_generation: stream.applied_generation,
        types: stream.types.into_iter().map(|report| type_status(report, now)).collect(),
    }
}

fn type_status(report: TypeReport, now: Instant) -> TypeStatus {
    let state = match report.state {
        TypeState::Synced => State::Synced,
        TypeState::Pending => State::Pending,
        TypeState::Rejected => State::Rejected,
        TypeState::NotRequested => State::NotRequested,
    };
    TypeStatus {
        kind: report.kind.noun().to_owned(),
        resources: report.resources,
        sent: report.sent.map(|version| version.as_ref().to_owned()),
        accepted: report.accepted.map(|version| version.as_ref().to_owned()),
        state,
        error: report.error,
        since_seconds: seconds(report.since, now),
    }
}

/// Whole milliseconds are enough for people and programs.
fn seconds(since: Instant, now: Instant) -> f64 {
    (now.saturating_duration_since(since).as_secs_f64() * 1000.0).round() / 1000.0
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
