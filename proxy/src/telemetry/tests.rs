//! Telemetry as a whole: what a worker records, and what a scrape, `/stats` and `/why` say of it.

use http::StatusCode;
use tokio::time::Instant;

use super::*;
use crate::error::Reason;
use crate::message::{Headers, RequestHead, Scheme, Version};
use crate::tls::Security;

/// A record of `GET shop.example/cart?item=1` that nothing has happened to.
pub(super) fn record() -> Record {
    let downstream = Downstream {
        listener: "shop/edge/80".into(),
        stat_prefix: "edge".into(),
        inbound: false,
        peer: ([192, 0, 2, 7], 50_000).into(),
        local: ([192, 0, 2, 1], 80).into(),
        security: None,
    };
    let head = RequestHead {
        method: http::Method::GET,
        scheme: Scheme::Http,
        authority: Some("shop.example".parse().unwrap()),
        path: "/cart?item=1".parse().unwrap(),
        version: Version::Http11,
        headers: Headers::new(),
    };
    let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(1_735_738_200_250);
    Record::new(&downstream, &head, Instant::now(), wall)
}

fn answered(cluster: &Arc<ClusterMetrics>, status: u16) -> Record {
    Record {
        cluster: Some(cluster.clone()),
        endpoint: Some(([10, 0, 0, 9], 8080).into()),
        workload: Some(("shop".into(), "web-v1".into())),
        attempts: 1,
        status: StatusCode::from_u16(status).ok(),
        upstream_time: Some(Duration::from_millis(4)),
        duration: Duration::from_millis(7),
        bytes_received: 10,
        bytes_sent: 2_000,
        ..record()
    }
}

fn web() -> Option<ServiceName> {
    Some(ServiceName { namespace: "shop".into(), name: "web".into(), port: 80 })
}

fn page(metrics: &Metrics, form: Exposition) -> String {
    let mut page = String::new();
    metrics.encode(&mut page, form, &Inputs::default());
    page
}

/// The value of the only line that begins with the name and holds all the labels.
fn value(page: &str, name: &str, labels: &[&str]) -> f64 {
    let holds = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    };
    let lines: Vec<&str> = page.lines().filter(holds).collect();
    assert_eq!(lines.len(), 1, "{name} {labels:?}: {lines:#?}");
    lines[0].rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn workers_add_up_under_the_names_that_dashboards_read() {
    let metrics = Metrics::new(2);
    metrics.set_local(LocalWorkload { namespace: "shop".into(), workload: "edge".into() });
    let cluster = metrics.cluster("outbound|80||web.shop.svc.cluster.local", web());
    let workers = [metrics.recorder(0), metrics.recorder(1)];
    for (worker, status) in workers.iter().zip([200, 200]).chain([(&workers[0], 503)]) {
        worker.exchange_started(&"edge".into());
        worker.upstream_attempt(&cluster);
        worker.exchange_ended(answered(&cluster, status), &[]);
    }
    workers[0].exchange_started(&"edge".into());
    let page = page(&metrics, Exposition::Classic);
    let ok = [
        r#"response_code="200""#,
        r#"reporter="source""#,
        r#"destination_service="web.shop.svc.cluster.local""#,
    ];
    assert_eq!(value(&page, "istio_requests_total", &ok), 2.0);
    assert_eq!(value(&page, "istio_request_duration_milliseconds_count", &ok), 2.0);
    assert_eq!(value(&page, "istio_request_duration_milliseconds_sum", &ok), 14.0);
    let bucket = "istio_request_duration_milliseconds_bucket";
    assert_eq!(value(&page, bucket, &[ok[0], r#"le="5""#]), 0.0);
    assert_eq!(value(&page, bucket, &[ok[0], r#"le="10""#]), 2.0);
    assert_eq!(value(&page, bucket, &[ok[0], r#"le="+Inf""#]), 2.0);
    assert_eq!(
        value(&page, "istio_requests_total", &[r#"response_code="503""#, r#"source_workload="edge""#]),
        1.0
    );
    let name = r#"envoy_cluster_name="outbound|80||web.shop.svc.cluster.local""#;
    assert_eq!(value(&page, "envoy_cluster_upstream_rq_total", &[name]), 3.0);
    assert_eq!(value(&page, "envoy_cluster_upstream_rq_xx", &[name, r#"class="2""#]), 2.0);
    assert_eq!(value(&page, "envoy_cluster_upstream_rq", &[name, r#"code="503""#]), 1.0);
    assert_eq!(value(&page, "envoy_cluster_upstream_rq_time_count", &[name]), 3.0);
    assert_eq!(value(&page, "envoy_http_downstream_rq_active", &[r#"prefix="edge""#]), 1.0);
    assert_eq!(value(&page, "envoy_http_downstream_rq_xx", &[r#"class="5""#]), 1.0);
}

/// A session between two workloads: the other end, and ourselves.
pub(super) fn session(peer: &str, own: &str) -> Arc<Security> {
    let signed = |id: &str| {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
        let key = rcgen::KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap(), key)
    };
    let (chain, key) = signed(own);
    let own = crate::tls::Identity::from_pem(chain.pem().as_bytes(), key.serialize_pem().as_bytes());
    Arc::new(Security::with_peer(signed(peer).0.der(), Some(Arc::new(own.unwrap()))))
}

#[test]
fn who_asked_whom_is_told_by_their_certificates() {
    let metrics = Metrics::new(1);
    let recorder = metrics.recorder(0);
    let cluster = metrics.cluster("inbound|80||", None);
    let (web, app, own) = ("spiffe://td/web", "spiffe://td/app", "spiffe://td/own");
    let unauthenticated = {
        let mut session = Arc::into_inner(session(web, own)).unwrap();
        session.peer = None;
        Arc::new(session)
    };
    for (inbound, security, upstream_security) in [
        (true, Some(session(web, own)), None),
        (true, Some(session(web, own)), None),
        (true, Some(session(app, own)), None),
        (true, Some(unauthenticated), None),
        (true, None, None),
        (false, Some(session(web, own)), Some(session(app, own))),
        (false, None, Some(session(web, own))),
        (false, None, None),
    ] {
        let record = Record { inbound, security, upstream_security, ..answered(&cluster, 200) };
        recorder.exchange_ended(record, &[]);
    }
    let page = page(&metrics, Exposition::Classic);
    let count = |reporter: &str, policy: &str, source: &str, destination: &str| {
        let labels = [
            format!("reporter=\"{reporter}\""),
            format!("connection_security_policy=\"{policy}\""),
            format!("source_principal=\"{source}\""),
            format!("destination_principal=\"{destination}\""),
        ];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        value(&page, "istio_requests_total", &labels)
    };
    assert_eq!(count("destination", "mutual_tls", web, own), 2.0);
    assert_eq!(count("destination", "mutual_tls", app, own), 1.0);
    // With TLS and without: whoever proves nothing is nobody.
    assert_eq!(count("destination", "none", "unknown", "unknown"), 2.0);
    assert_eq!(count("source", "unknown", own, app), 1.0);
    assert_eq!(count("source", "unknown", own, web), 1.0);
    assert_eq!(count("source", "unknown", "unknown", "unknown"), 1.0);
}

#[test]
fn connections_passed_on_unseen_have_families_of_their_own() {
    let metrics = Metrics::new(1);
    let recorder = metrics.recorder(0);
    let cluster = metrics.cluster("PassthroughCluster", None);
    for _ in 0..2 {
        recorder.connection_ended(Box::new(answered(&cluster, 200)), &[]);
    }
    let page = page(&metrics, Exposition::Classic);
    let labels = [r#"request_protocol="tcp""#, r#"destination_service_name="PassthroughCluster""#];
    assert_eq!(value(&page, "istio_tcp_connections_closed_total", &labels), 2.0);
    assert_eq!(value(&page, "istio_tcp_sent_bytes_total", &labels), 4_000.0);
    assert_eq!(value(&page, "istio_tcp_received_bytes_total", &labels), 20.0);
    assert!(!page.contains("istio_requests_total{"));
}

#[test]
fn both_forms_name_families_as_their_rules_ask() {
    let metrics = Metrics::new(1);
    let cluster = metrics.cluster("a", None);
    metrics.recorder(0).upstream_attempt(&cluster);
    let classic = page(&metrics, Exposition::Classic);
    assert!(classic.contains("# TYPE envoy_cluster_upstream_rq_total counter\n"));
    assert!(classic.contains("# TYPE sidegate_reasons_total counter\n"), "{classic}");
    assert!(!classic.contains("unknown\n") && !classic.contains("# EOF"));
    let open = page(&metrics, Exposition::OpenMetrics);
    assert!(open.contains("# TYPE envoy_cluster_upstream_rq_total unknown\n"));
    assert!(open.contains("# TYPE sidegate_reasons counter\n"));
    assert!(open.ends_with("# EOF\n"));
    let mut names: Vec<_> = open.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "a family is named twice");
}

#[test]
fn connections_count_as_active_until_their_guard_goes() {
    let metrics = Metrics::new(1);
    let recorder = metrics.recorder(0);
    let (listener, prefix) = ("l".into(), "edge".into());
    let open = recorder.downstream_opened(&listener);
    let http = recorder.http_opened(&prefix, Version::Http2);
    recorder.downstream_overflow(&listener);
    let now = page(&metrics, Exposition::Classic);
    assert_eq!(value(&now, "envoy_listener_downstream_cx_active", &[]), 1.0);
    assert_eq!(value(&now, "envoy_listener_downstream_cx_overflow", &[]), 1.0);
    assert_eq!(value(&now, "envoy_http_downstream_cx_http2_total", &[]), 1.0);
    drop((open, http));
    let later = page(&metrics, Exposition::Classic);
    assert_eq!(value(&later, "envoy_listener_downstream_cx_active", &[]), 0.0);
    assert_eq!(value(&later, "envoy_http_downstream_cx_active", &[]), 0.0);
    assert_eq!(value(&later, "envoy_listener_downstream_cx_total", &[]), 1.0);
}

#[test]
fn series_are_bounded_over_all_workers() {
    let metrics = Metrics::with_bound(2, 10);
    let workers = [metrics.recorder(0), metrics.recorder(1)];
    let cluster = metrics.cluster("a", None);
    for number in 0..100_u16 {
        let mut record = answered(&cluster, 200);
        record.workload = Some(("shop".into(), format!("pod-{number}").into()));
        workers[usize::from(number) % 2].exchange_ended(record, &[]);
    }
    let page = page(&metrics, Exposition::Classic);
    let lines = page.lines().filter(|line| line.starts_with("istio_requests_total{"));
    assert_eq!(lines.clone().count(), 11);
    let sum: u64 = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(sum, 100, "nothing is lost, only told less apart");
    assert_eq!(value(&page, "sidegate_series_overflow_total", &[]), 90.0);
}

#[test]
fn workers_that_count_the_same_share_the_bound() {
    let metrics = Metrics::with_bound(4, 10);
    let cluster = metrics.cluster("a", None);
    for worker in 0..4 {
        let recorder = metrics.recorder(worker);
        for status in 200..210 {
            recorder.exchange_ended(answered(&cluster, status), &[]);
        }
    }
    assert_eq!(metrics.series_bound().overflowed(), 0);
}

#[test]
fn a_scrape_takes_stale_series_from_workers_that_meet_nothing_new() {
    let metrics = Metrics::with_bound(2, 1);
    let (quiet, busy) = (metrics.recorder(0), metrics.recorder(1));
    quiet.exchange_ended(answered(&metrics.cluster("old", None), 200), &[]);
    page(&metrics, Exposition::Classic);
    let cluster = metrics.cluster("new", None);
    busy.exchange_ended(answered(&cluster, 200), &[]);
    assert_eq!(metrics.series_bound().overflowed(), 0);
}

#[test]
fn series_of_clusters_that_are_gone_make_room() {
    let metrics = Metrics::with_bound(1, 4);
    let recorder = metrics.recorder(0);
    for round in 0..20 {
        let cluster = metrics.cluster(&format!("cluster-{round}"), None);
        recorder.exchange_ended(answered(&cluster, 200), &[]);
    }
    assert_eq!(metrics.series_bound().overflowed(), 0);
}

#[test]
fn reasons_are_counted_each_under_its_own_label() {
    let metrics = Metrics::new(1);
    let recorder = metrics.recorder(0);
    for (index, reason) in Reason::ALL.iter().enumerate() {
        assert_eq!(*reason as usize, index, "Reason::ALL stands in declaration order");
        recorder.exchange_ended(Record { reason: Some(*reason), ..record() }, &[]);
    }
    recorder.downstream_overflow(&"edge".into());
    let page = page(&metrics, Exposition::Classic);
    for reason in Reason::ALL {
        let expected = if reason == Reason::DownstreamOverflow { 2.0 } else { 1.0 };
        let label = format!(r#"{{reason="{}"}}"#, reason.label());
        assert_eq!(value(&page, "sidegate_reasons_total", &[&label]), expected);
    }
}

#[test]
fn an_error_reply_is_explained_in_words() {
    let metrics = Metrics::new(1);
    let recorder = metrics.recorder(0);
    let id = recorder.next_reason_id();
    let cluster = metrics.cluster("outbound|80||web.shop.svc.cluster.local", web());
    let mut record = answered(&cluster, 503);
    record.reason = Some(Reason::RetriesExhausted);
    record.reason_id = Some(id);
    record.route = Some("web-0".into());
    record.origin = Some("HTTPRoute shop/web rule 0 generation 3".into());
    record.attempts = 2;
    record.attempt_failures = vec![
        (Some(([10, 0, 0, 8], 8080).into()), Reason::ConnectFailure),
        (Some(([10, 0, 0, 9], 8080).into()), Reason::ConnectTimeout),
    ];
    record.detail = Some("connection refused\n(os error 111)".into());
    recorder.exchange_ended(record, &[]);
    assert_eq!(parse_reason_id(&reason_id_text(id)), Some(id));
    let why = metrics.why(id).unwrap();
    assert_eq!(why["id"], reason_id_text(id));
    assert_eq!(why["reason"], "retries_exhausted");
    assert_eq!(why["when"], "2025-01-01T13:30:00.250Z");
    assert_eq!(why["where"]["route_object"], "HTTPRoute shop/web rule 0 generation 3");
    assert_eq!(why["attempts"]["failed"][0]["endpoint"], "10.0.0.8:8080");
    assert_eq!(why["attempts"]["failed"][1]["reason"], "connect_timeout");
    assert_eq!(why["detail"], r"connection refused\x0a(os error 111)");
    let summary = why["summary"].as_str().unwrap();
    assert!(
        summary.contains("GET shop.example/cart?item=1") && summary.contains("10.0.0.9:8080"),
        "{summary}"
    );
    assert!(metrics.why(id + 1).is_none());
}

#[test]
fn one_failure_is_told_once() {
    let metrics = Metrics::new(1);
    let recorder = metrics.recorder(0);
    let id = recorder.next_reason_id();
    let cluster = metrics.cluster("web", None);
    let mut record = answered(&cluster, 503);
    (record.reason, record.reason_id) = (Some(Reason::ConnectFailure), Some(id));
    record.upstream_time = None;
    record.attempt_failures = vec![(record.endpoint, Reason::ConnectFailure)];
    recorder.exchange_ended(record, &[]);
    assert_eq!(
        metrics.why(id).unwrap()["summary"],
        "GET shop.example/cart?item=1 came in at listener shop/edge/80, matched no route and went to cluster web, \
         endpoint 10.0.0.9:8080. The connection to the endpoint was refused or failed. The answer was 503."
    );
    let page = page(&metrics, Exposition::Classic);
    assert_eq!(value(&page, "envoy_cluster_upstream_cx_rx_bytes_total", &[]), 0.0, "the reply is our own");
    assert_eq!(value(&page, "envoy_cluster_upstream_cx_tx_bytes_total", &[]), 10.0);
}

#[test]
fn the_flight_recorder_keeps_the_newest_and_no_configured_replies() {
    let metrics = Metrics::new(1);
    let recorder = metrics.recorder(0);
    let first = recorder.next_reason_id();
    let refused = |id| Record { reason: Some(Reason::NoRoute), reason_id: Some(id), ..record() };
    recorder.exchange_ended(refused(first), &[]);
    let redirect = recorder.next_reason_id();
    let configured = Record { reason: Some(Reason::Redirect), ..refused(redirect) };
    recorder.exchange_ended(configured, &[]);
    assert!(metrics.why(redirect).is_none());
    for _ in 0..1_024 {
        recorder.exchange_ended(refused(recorder.next_reason_id()), &[]);
    }
    assert!(metrics.why(first).is_none());
    assert!(metrics.why(redirect + 1).is_some());
    assert_eq!(value(&page(&metrics, Exposition::Classic), "sidegate_reasons_forgotten_total", &[]), 1.0);
}

#[test]
fn reason_ids_are_short_and_forgiving() {
    assert_eq!(reason_id_text(0), "0");
    assert_eq!(parse_reason_id("1O0"), parse_reason_id("l00"));
    for id in [0, 31, 32, 1 << 40, u64::MAX] {
        assert_eq!(parse_reason_id(&reason_id_text(id)), Some(id));
    }
    for text in ["", "u", "é", "zzzzzzzzzzzzz", "00000000000000"] {
        assert_eq!(parse_reason_id(text), None, "{text}");
    }
}

#[test]
fn stats_are_listed_as_envoy_lists_them() {
    let metrics = Metrics::new(1);
    let recorder = metrics.recorder(0);
    let cluster = metrics.cluster("a", None);
    recorder.upstream_opened(&cluster);
    recorder.exchange_ended(answered(&cluster, 404), &[]);
    let state = ClusterState { name: "a".into(), members: 3, available: 2, ..ClusterState::default() };
    let inputs = Inputs { clusters: vec![state], ..Inputs::default() };
    let mut text = String::new();
    metrics.encode_stats(&mut text, &|name| name.starts_with("cluster.a."), &inputs);
    for line in [
        "cluster.a.membership_healthy: 2",
        "cluster.a.upstream_cx_active: 1",
        "cluster.a.upstream_rq_404: 1",
        "cluster.a.upstream_rq_4xx: 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    assert!(!text.contains("server.live"));
}

#[test]
#[should_panic(expected = "no recorder")]
fn a_worker_has_one_recorder() {
    let metrics = Metrics::new(1);
    let _first = metrics.recorder(0);
    let _second = metrics.recorder(0);
}
