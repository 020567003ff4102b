//! H4: the time of day steps, an hour or a year, forth and back. What is measured goes on; what is dated follows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sidegate_tests::certificates::{Authority, Leaf};
use sidegate_tests::client::Http1;
use sidegate_tests::clock::Clock;
use sidegate_tests::gateway::{Gateway, router, typed, yaml};
use sidegate_tests::load::Load;
use sidegate_tests::message::Call;
use sidegate_tests::origin::Origin;
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::secure;
use sidegate_tests::wait;
use tokio::time::Instant;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
const STEPS: [i64; 5] = [HOUR, -HOUR, 400 * DAY, -400 * DAY, 0];

fn under(gateway: Gateway, clock: &Clock) -> Gateway {
    let words = clock.words();
    gateway.under(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test]
async fn h4_timers_do_not_heed_the_time_of_day_and_the_log_does() {
    let sandbox = Sandbox::new();
    let Some(clock) = Clock::new(&sandbox) else { return };
    let origin = Origin::named("ok").await;
    let path = sandbox.path().join("access.log");
    // Whole seconds since 1970.
    let format = json!({"json_format": {"start": "%START_TIME(%s)%", "path": "%REQ(:PATH)%"}});
    let log = typed(
        "log",
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        json!({"path": path, "log_format": format}),
    );
    let bounds = "{request_headers_timeout: 1s, stream_idle_timeout: 60s, common_http_protocol_options: {idle_timeout: 60s}}";
    let gateway =
        Gateway::to(&[origin.address()]).http(bounds).http(&json!({"access_log": [log]}).to_string());
    let proxy = under(gateway, &clock).start(&sandbox).await;
    let load = Load::start(proxy.address, 50, Call::get("/load"));
    let mut kept = Http1::connect(proxy.address).await.unwrap();
    for (number, step) in STEPS.into_iter().enumerate() {
        clock.step(step);
        // No idle connection is over because it is another year.
        let target = format!("/kept-{number}");
        assert_eq!(kept.call(&Call::get(&target)).await.expect("kept").status, 200, "{step}");
        // A head has its second, whatever the date.
        let mut slow = Http1::connect(proxy.address).await.unwrap();
        let begun = Instant::now();
        slow.send(b"GET /slow HTTP/1.1\r\n").await.unwrap();
        let _ = wait::within("the end of a slow head", slow.rest()).await;
        assert!(begun.elapsed() > Duration::from_millis(900), "{step}: {:?}", begun.elapsed());
        let logged = wait::until("its line", async || {
            let text = std::fs::read_to_string(&path).ok()?;
            let line = text.lines().find(|line| line.contains(&target))?;
            let line: Value = serde_json::from_str(line).ok()?;
            line["start"].as_str()?.parse::<i64>().ok()
        })
        .await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        assert!((logged - (now + step)).abs() < 60, "{step}: the log says {logged}, it is {now}");
    }
    let counts = load.stop().await;
    assert!(counts.failed == 0 && counts.good > 0, "{counts:?}");
}

#[tokio::test]
async fn h4_a_step_fills_no_rate_limit() {
    let sandbox = Sandbox::new();
    let Some(clock) = Clock::new(&sandbox) else { return };
    let origin = Origin::named("ok").await;
    let limit = typed(
        "envoy.filters.http.local_ratelimit",
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        yaml(
            "{stat_prefix: limit, token_bucket: {max_tokens: 3, tokens_per_fill: 3, fill_interval: 600s},
              filter_enabled: {default_value: {numerator: 100}}, filter_enforced: {default_value: {numerator: 100}}}",
        ),
    );
    let filters = json!({"http_filters": [limit, router()]}).to_string();
    let proxy = under(Gateway::to(&[origin.address()]).http(&filters), &clock).start(&sandbox).await;
    for _ in 0..3 {
        assert_eq!(proxy.get("/").await.status, 200);
    }
    for step in STEPS {
        clock.step(step);
        assert_eq!(proxy.get("/").await.status, 429, "{step}");
    }
    assert_eq!(origin.count(), 3);
}

#[tokio::test]
async fn h4_certificates_are_judged_by_the_time_of_day() {
    let sandbox = Sandbox::new();
    let Some(clock) = Clock::new(&sandbox) else { return };
    let authority = Authority::new("one");
    let origin = secure::Origin::start("app", &authority.issue(&Leaf::dns(&["app.test"])), None).await;
    let context = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": "app.test",
        "common_tls_context": {"validation_context": {"trusted_ca": {"inline_string": authority.pem}}},
    });
    let socket =
        json!({"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}});
    let gateway = Gateway::new()
        .cluster_with("app", &[origin.address()], &socket.to_string())
        .routes("[{match: {prefix: /}, route: {cluster: app}}]");
    let proxy = under(gateway, &clock).start(&sandbox).await;
    // Certificates of the tests last for decades.
    for step in [100 * 365 * DAY, -40 * 365 * DAY] {
        clock.step(step);
        let response = proxy.get("/").await;
        let reason = response.header("x-sidegate-reason").unwrap_or_default();
        assert!(response.status == 503 && reason.starts_with("upstream_tls_failure"), "{step}: {response:?}");
    }
    assert!(origin.seen().is_empty(), "nothing was asked of it");
    clock.step(0);
    assert_eq!(proxy.get("/").await.status, 200);
}
