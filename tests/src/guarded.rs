//! A proxy before an origin that records every byte, with the promises that hold after every case of the battery: one record in the
//! access log for each answer, nothing at the origin that could be read in two ways, no panic, and in the end no descriptor more than before.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::client::Http1;
use crate::gateway::{Gateway, Proxy, typed};
use crate::message::{Call, Received, Response};
use crate::origin::{Answer, Origin};
use crate::sandbox::Sandbox;
use crate::wait;

/// The proxy, its origin, and what was already seen of its log.
#[derive(Debug)]
pub struct Guarded {
    /// What the proxy forwards to.
    pub origin: Origin,
    /// The proxy.
    pub proxy: Proxy,
    /// Which protocol is spoken upstream: for messages.
    pub upstream: &'static str,
    log: PathBuf,
    seen: usize,
    descriptors: usize,
    // Last: its folder goes after what writes there.
    _sandbox: Sandbox,
}

/// A line of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The status as it went to the client; 0 when none did.
    pub status: u16,
    /// The reason, `-` for none.
    pub reason: String,
    /// The path.
    pub path: String,
    /// `x-id` of the request, `-` for none.
    pub id: String,
    /// Attempts upstream.
    pub attempts: String,
}

impl Guarded {
    /// Before an origin over HTTP/1.1 that echoes bodies.
    pub async fn http1() -> Self {
        Self::scripted(Answer::echo).await
    }

    /// Before an origin over HTTP/1.1, by script.
    pub async fn scripted(script: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        let origin = Origin::recording(script).await;
        let gateway = Gateway::to(&[origin.address()]);
        Self::start("HTTP/1.1", origin, gateway).await
    }

    /// Before an origin over HTTP/2 that echoes bodies.
    pub async fn http2() -> Self {
        let origin = Origin::http2(Answer::echo).await;
        let gateway = Gateway::to_http2(&[origin.address()]);
        Self::start("HTTP/2", origin, gateway).await
    }

    /// Both of the plain ones, for cases that must end alike whatever is spoken upstream.
    pub async fn both() -> [Self; 2] {
        [Self::http1().await, Self::http2().await]
    }

    /// A gateway of the scenario's own; its access log is set here.
    ///
    /// # Panics
    /// When the proxy does not answer a first request in any way.
    pub async fn start(upstream: &'static str, origin: Origin, gateway: Gateway) -> Self {
        let sandbox = Sandbox::new();
        let log = sandbox.path().join("access.log");
        let config = json!({"path": log, "log_format": {"json_format": {
            "status": "%RESPONSE_CODE%", "reason": "%SIDEGATE_REASON%", "path": "%REQ(:PATH)%", "id": "%REQ(X-ID)%",
            "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"}}});
        let log_config = typed("log", "envoy.extensions.access_loggers.file.v3.FileAccessLog", config);
        let proxy = gateway.http(&json!({"access_log": [log_config]}).to_string()).start(&sandbox).await;
        let mut guarded = Self { origin, proxy, upstream, log, seen: 0, descriptors: 0, _sandbox: sandbox };
        // The first request opens what stays open: the log, a connection upstream.
        guarded.proxy.get("/first").await;
        guarded.records(1).await;
        guarded.descriptors = guarded.settled_descriptors().await;
        guarded
    }

    /// Requests at the origin after the first, whole ones.
    pub fn received(&self) -> Vec<Received> {
        self.origin.received().into_iter().filter(|received| received.target != "/first").collect()
    }

    /// The next lines of the access log: waits for so many.
    pub async fn records(&mut self, count: usize) -> Vec<Record> {
        let (seen, log) = (self.seen, self.log.clone());
        let what = format!("{count} more lines in the access log");
        let records = wait::until(&what, async || {
            let records = read_records(&log);
            (records.len() >= seen + count).then(|| records[seen..seen + count].to_vec())
        })
        .await;
        self.seen += count;
        records
    }

    /// Sends bytes that must not be served, with a whole request behind them: one answer of this status and reason, the connection closed
    /// from the other side, nothing at the origin, one line in the log.
    ///
    /// # Panics
    /// When it is otherwise.
    pub async fn refuses(&mut self, case: &str, bytes: &[u8], status: u16, reason: &str) {
        let case = format!("{case} (upstream {})", self.upstream);
        let before = self.origin.count();
        let answers = self.answers(&case, &[bytes, AFTER].concat()).await;
        let seen: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(seen, [status], "{case}: {answers:?}");
        assert_eq!(answers[0].reason().map(|(reason, _)| reason), Some(reason), "{case}: {answers:?}");
        assert!(
            answers[0].complete && answers[0].header("connection") == Some("close"),
            "{case}: {answers:?}"
        );
        assert_eq!(
            self.origin.count(),
            before,
            "{case}: reached the origin as {:?}",
            self.origin.received().last()
        );
        let records = self.records(1).await;
        assert_eq!((records[0].status, records[0].reason.as_str()), (status, reason), "{case}: {records:?}");
    }

    /// Everything that comes back for these bytes until the proxy closes; our own direction stays open.
    ///
    /// # Panics
    /// When the proxy does not listen or does not close.
    pub async fn answers(&self, case: &str, bytes: &[u8]) -> Vec<Response> {
        let mut client = Http1::connect(self.proxy.address).await.expect("the proxy listens");
        // The refusal may come, and the connection close, before everything is written.
        let _ = client.send(bytes).await;
        let mut answers = Vec::new();
        let reading = async {
            while let Ok(answer) = client.response("GET").await {
                answers.push(answer);
            }
        };
        wait::within(&format!("the end of the connection after {case}"), reading).await;
        answers
    }

    /// Sends bytes that are one request, then a GET on the same connection: both are answered with 200, in order, and the origin has got two
    /// clean requests. Gives the first answer and what the origin got for it.
    ///
    /// # Panics
    /// When it is otherwise.
    pub async fn serves(&mut self, case: &str, method: &str, bytes: &[u8]) -> (Response, Received) {
        let case = format!("{case} (upstream {})", self.upstream);
        let before = self.origin.count();
        let mut client = Http1::connect(self.proxy.address).await.expect("the proxy listens");
        let exchange = async {
            client.send(bytes).await?;
            let first = client.response(method).await?;
            let second = client.call(&Call::get("/second")).await?;
            std::io::Result::Ok((first, second))
        };
        let (first, second) =
            wait::within(&case, exchange).await.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!((first.status, second.status), (200, 200), "{case}: {first:?} {second:?}");
        let received = self.origin.received().split_off(before);
        let [one, two] = received.as_slice() else { panic!("{case}: the origin got {received:?}") };
        assert_eq!(two.target, "/second", "{case}");
        let records = self.records(2).await;
        assert!(
            records.iter().all(|record| record.status == 200 && record.reason == "-"),
            "{case}: {records:?}"
        );
        (first, one.clone())
    }

    /// What must hold when the battery is through.
    ///
    /// # Panics
    /// When it does not.
    pub async fn finish(mut self) {
        let last = self.proxy.call(&Call::get("/last").header("x-id", "last")).await;
        assert!(last.status > 0, "the proxy answers");
        let records = self.records(1).await;
        assert_eq!(records[0].id, "last", "a line in the log that nobody asked for");
        assert_eq!(read_records(&self.log).len(), self.seen, "a line too many in the log");
        if self.upstream == "HTTP/1.1" {
            let strict = self.origin.strictly();
            let whole: Vec<String> =
                self.origin.received().into_iter().map(|received| received.target).collect();
            assert_eq!(whole.len(), strict.len(), "two readings differ: {whole:?}, {strict:?}");
        }
        let descriptors = self.settled_descriptors().await;
        assert!(descriptors <= self.descriptors, "{descriptors} descriptors, {} before", self.descriptors);
        let text = self.proxy.process.log();
        assert!(!text.contains("panicked"), "{text}");
        assert!(self.proxy.process.is_running());
    }

    /// Open descriptors of the proxy besides its connections upstream, once two counts agree.
    async fn settled_descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.proxy.process.id());
        let mut last = None;
        wait::until("a settled count of descriptors", async || {
            let open = std::fs::read_dir(&folder).ok()?.count();
            let now = Some(open.checked_sub(self.origin.open_connections())?);
            let settled = now == last && (self.descriptors == 0 || now <= Some(self.descriptors));
            last = now;
            settled.then_some(now).flatten()
        })
        .await
    }
}

fn read_records(log: &PathBuf) -> Vec<Record> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let Some((whole, _)) = text.rsplit_once('\n') else { return Vec::new() };
    whole.lines().map(read_record).collect()
}

fn read_record(line: &str) -> Record {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON: {error}: {line}"));
    let text = |name: &str| match &value[name] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    Record {
        status: text("status").parse().unwrap_or_default(),
        reason: text("reason"),
        path: text("path"),
        id: text("id"),
        attempts: text("attempts"),
    }
}

/// A request that must not run.
const AFTER: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
