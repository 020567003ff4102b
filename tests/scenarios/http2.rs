//! HTTP/2, hard to break: rows B1 to B17 of the hardening battery, by raw frames against a recording origin.
//!
//! Each row also asserts that a client beside it is unharmed, that nothing panicked, and that no descriptor stays open ([`Stage`]).

use std::time::Duration;

use sidegate_tests::frames::{Raw, kind};
use sidegate_tests::gateway::{Gateway, Proxy};
use sidegate_tests::load::Load;
use sidegate_tests::message::{Call, Received};
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::wait;

mod connection_fields; // what only a codec may write, in configuration
mod grpc; // B17: calls and how they end
mod floods; // B3 to B8: what costs much and serves nobody
mod streams; // B16: streams without number, and the last one
mod suites; // B1, B2: h2spec, httpwg
mod upstreams; // B15: endpoints that refuse, go away, fall silent
mod windows; // B9: clients and endpoints that do not read
mod heads; // B10 to B14: what is malformed, and what becomes of the rest

/// A proxy, its origin, and a client that must not notice what else happens.
struct Stage {
    origin: Origin,
    proxy: Proxy,
    victim: Option<Load>,
    descriptors: usize,
    resident: usize,
    _sandbox: Sandbox,
}

impl Stage {
    /// Before an origin over HTTP/1.1 that echoes.
    async fn new() -> Self {
        Self::scripted(Answer::echo).await
    }

    async fn scripted(script: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        let origin = Origin::http1(script).await;
        let gateway = Gateway::to(&[origin.address()]);
        Self::start(origin, gateway).await
    }

    async fn start(origin: Origin, gateway: Gateway) -> Self {
        let sandbox = Sandbox::new();
        let proxy = gateway.with_admin().start(&sandbox).await;
        let mut stage = Self { origin, proxy, victim: None, descriptors: 0, resident: 0, _sandbox: sandbox };
        // The first requests open what stays open.
        for _ in 0..20 {
            stage.proxy.get("/victim").await;
        }
        stage.descriptors = stage.descriptors();
        stage.resident = stage.proxy.process.resident();
        stage.victim = Some(Load::start(stage.proxy.address, 20, Call::get("/victim")));
        stage
    }

    async fn raw(&self) -> Raw {
        Raw::connect(self.proxy.address, &[]).await.expect("the proxy listens")
    }

    /// Requests at the origin that are not the victim's.
    fn attacks(&self) -> usize {
        self.origin.received().iter().filter(|received| received.target != "/victim").count()
    }

    /// How often connections were ended for this reason.
    async fn cuts(&self, reason: &str) -> f64 {
        let page = self.proxy.admin("/metrics").await.text();
        let name = format!("sidegate_reasons_total{{reason=\"{reason}\"}} ");
        page.lines()
            .find_map(|line| line.strip_prefix(&name))
            .map_or(0.0, |text| text.parse().expect("a number"))
    }

    /// Waits until so many connections were cut as floods, and that each was told in one line.
    async fn flooded(&self, connections: usize) {
        wait::until_equal("connections cut", connections as f64, async || {
            self.cuts("downstream_flood").await
        })
        .await;
        let lines = self.proxy.process.log().matches("connection is cut").count();
        assert_eq!(lines, connections, "{}", self.proxy.process.log());
    }

    /// KiB of memory more than at the beginning.
    fn growth(&self) -> usize {
        self.proxy.process.resident().saturating_sub(self.resident)
    }

    /// Descriptors that are not connections to origins.
    fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.proxy.process.id()));
        open.map_or(0, Iterator::count).saturating_sub(self.origin.open_connections())
    }

    /// What must hold when the row is through.
    async fn finish(mut self) {
        let victim = self.victim.take().expect("a victim");
        victim.more(5).await;
        let counts = victim.stop().await;
        assert_eq!(counts.failed, 0, "the victim was harmed: {:?}", counts.failures);
        let before = self.descriptors;
        wait::until(&format!("not more than {before} descriptors"), async || {
            (self.descriptors() <= before).then_some(())
        })
        .await;
        let log = self.proxy.process.log();
        assert!(!log.contains("panicked"), "{log}");
        assert!(self.proxy.process.is_running());
    }
}

/// A pause that only bounds how long silence is listened to.
const QUIET: Duration = Duration::from_millis(300);

/// The statuses of a stream, and whether it was reset, with which code.
async fn outcome(raw: &mut Raw, stream: u32) -> (Option<u16>, Option<u32>) {
    let mut status = None;
    loop {
        let Some(frame) = wait::within("an end of the stream", raw.next()).await else {
            return (status, None);
        };
        if frame.kind == kind::GOAWAY {
            return (status, frame.code());
        }
        if frame.stream != stream {
            continue;
        }
        match frame.kind {
            kind::HEADERS => status = status.or(frame.status()),
            kind::RST_STREAM => return (status, frame.code()),
            _ => {}
        }
        if matches!(frame.kind, kind::HEADERS | kind::DATA) && frame.flags & 1 != 0 {
            return (status, None);
        }
    }
}
