//! The admin server over its own socket, asked as curl would ask.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::*;
use crate::cluster::{self, Endpoint, EndpointSet};
use crate::compile::{Accepted, Refused};
use crate::drain::Drain;
use crate::snapshot::{Publisher, Snapshot};

/// A running server and what can be changed about it.
struct Sandbox {
    address: SocketAddr,
    drain: Drain,
    publisher: Publisher,
    metrics: Metrics,
    stage: Rc<Cell<Stage>>,
    level: Rc<Cell<LevelFilter>>,
    drained: Rc<Cell<Option<bool>>>,
    asked: Rc<RefCell<Vec<(String, Question)>>>,
}

impl Sandbox {
    fn start(resources: Vec<(ResourceType, Entry)>) -> Self {
        let drain = Drain::new(Duration::ZERO);
        let publisher = Publisher::new();
        let metrics = Metrics::new(1);
        let stage = Rc::new(Cell::new(Stage::Live));
        let level = Rc::new(Cell::new(LevelFilter::INFO));
        let drained = Rc::new(Cell::new(None));
        let asked = Rc::new(RefCell::new(Vec::new()));
        let server = Server {
            started: Instant::now(),
            node_id: "sidecar~web.shop".into(),
            node_cluster: "shop".into(),
            concurrency: 1,
            source: "bootstrap.yaml".into(),
            bootstrap: Any { type_url: "bootstrap".into(), ..Any::default() },
        };
        let (own_stage, own_level, set, own_drained, quit, own_asked) =
            (stage.clone(), level.clone(), level.clone(), drained.clone(), drain.watch(), asked.clone());
        let state = State {
            certificates: crate::tls::Certificates::default(),
            identity: None,
            metrics: metrics.clone(),
            snapshots: publisher.handle(),
            drain: quit,
            overload: Default::default(),
            server,
            stage: Box::new(move || own_stage.get()),
            resources: Box::new(move |kind| {
                let of = resources.iter().filter(|(held, _)| *held == kind);
                of.map(|(_, entry)| entry.clone()).collect()
            }),
            render: Box::new(|messages| {
                let rendered = messages.iter().map(|any| json!({ "@type": any.type_url })).collect::<Value>();
                Box::pin(std::future::ready(Ok(rendered)))
            }),
            explain: Box::new(move |listener, question| {
                own_asked.borrow_mut().push((listener.to_owned(), question.clone()));
                json!({ "decision": "no_route" })
            }),
            level: Box::new(move || own_level.get()),
            set_level: Box::new(move |level| set.set(level)),
            drain_listeners: Box::new(move |graceful| own_drained.set(Some(graceful))),
            quit: Box::new(|| {}),
        };
        let listener = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(run(listener, state));
        Self { address, drain, publisher, metrics, stage, level, drained, asked }
    }

    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Status and body.
    async fn ask(&self, method: &str, target: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n",
            self.address
        );
        let answer = self.raw(&(head + body)).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    async fn get(&self, target: &str) -> (u16, String) {
        self.ask("GET", target, "").await
    }

    async fn get_json(&self, target: &str) -> Value {
        serde_json::from_str(&self.get(target).await.1).unwrap()
    }
}

async fn scenario(resources: Vec<(ResourceType, Entry)>, steps: impl AsyncFnOnce(Sandbox)) {
    LocalSet::new().run_until(async { steps(Sandbox::start(resources)).await }).await;
}

fn web(metrics: &Metrics) -> Arc<cluster::Cluster> {
    let mut draining = Endpoint::new(([10, 0, 0, 2], 8080).into(), 1);
    draining.available = false;
    let endpoints = vec![Arc::new(Endpoint::new(([10, 0, 0, 1], 8080).into(), 3)), Arc::new(draining)];
    Arc::new(cluster::Cluster {
        name: "outbound|80||web".into(),
        service: None,
        policy: cluster::Policy::LeastRequest,
        protocol: cluster::Protocol::Http1,
        http2: crate::http2::Options::default(),
        connect_timeout: Duration::from_secs(1),
        keep: cluster::Keep::default(),
        discovery: cluster::Discovery::Eds("web".into()),
        sockets: Arc::default(),
        limits: cluster::Limits::default(),
        proxy_header: None,
        endpoints: arc_swap::ArcSwap::from_pointee(EndpointSet::new(endpoints)),
        live: Arc::default(),
        metrics: metrics.cluster("outbound|80||web", None),
    })
}

fn resource(kind: ResourceType, name: &str, fixed: bool) -> (ResourceType, Entry) {
    let body = Arc::new(Any { type_url: format!("{kind:?}/{name}"), ..Any::default() });
    let accepted = Accepted { version: "7".into(), body, at: SystemTime::UNIX_EPOCH };
    (kind, Entry { name: name.into(), fixed, accepted: Some(accepted), refused: None })
}

#[tokio::test]
async fn readiness_follows_start_and_shutdown() {
    scenario(vec![], async |sandbox| {
        assert_eq!(sandbox.get("/ready").await, (200, "LIVE\n".into()));
        for (stage, word) in
            [(Stage::PreInitializing, "PRE_INITIALIZING\n"), (Stage::Initializing, "INITIALIZING\n")]
        {
            sandbox.stage.set(stage);
            assert_eq!(sandbox.get("/ready").await, (503, word.into()));
        }
        sandbox.stage.set(Stage::Live);
        sandbox.drain.advance(Phase::Lame);
        assert_eq!(sandbox.get("/ready").await, (503, "DRAINING\n".into()));
        assert_eq!(sandbox.get_json("/server_info").await["state"], "DRAINING");
        let (_, page) = sandbox.get("/metrics").await;
        assert!(page.contains("\nenvoy_server_live 0.0\n") && page.contains("\nenvoy_server_state 1.0\n"));
    })
    .await;
}

#[tokio::test]
async fn clusters_show_endpoints_and_their_health() {
    let mut fixed = resource(ResourceType::Cluster, "outbound|80||web", true);
    fixed.1.accepted = None;
    scenario(vec![fixed], async |sandbox| {
        let cluster = web(&sandbox.metrics);
        sandbox.publisher.publish(Snapshot {
            clusters: std::iter::once((cluster.name.clone(), cluster)).collect(),
            ..Snapshot::default()
        });
        let (_, page) = sandbox.get("/clusters").await;
        for line in [
            "outbound|80||web::default_priority::max_requests::1024",
            "outbound|80||web::added_via_api::false",
            "outbound|80||web::10.0.0.1:8080::health_flags::healthy",
            "outbound|80||web::10.0.0.1:8080::weight::3",
            "outbound|80||web::10.0.0.2:8080::health_flags::/failed_eds_health",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in {page}");
        }
        let json = sandbox.get_json("/clusters?format=json").await;
        let hosts = &json["cluster_statuses"][0]["host_statuses"];
        assert_eq!(hosts[0]["address"]["socket_address"]["port_value"], 8080);
        assert_eq!(hosts[1]["health_status"]["eds_health_status"], "UNHEALTHY");
        let (_, page) = sandbox.get("/stats?filter=membership").await;
        assert_eq!(
            page,
            "cluster.outbound|80||web.membership_healthy: 1\ncluster.outbound|80||web.membership_total: 2\n"
        );
        let json = sandbox.get_json("/stats?filter=membership_total&format=json").await;
        assert_eq!(json["stats"][0]["value"], 2);
        assert_eq!(sandbox.get("/stats?filter=(").await.0, 400);
    })
    .await;
}

#[tokio::test]
async fn the_dump_has_envoys_shape() {
    let mut refused = resource(ResourceType::Listener, "edge", false);
    refused.1.refused =
        Some(Refused { version: "8".into(), message: "no filter chain".into(), at: SystemTime::UNIX_EPOCH });
    let mut never = resource(ResourceType::Route, "bad", false);
    never.1.accepted = None;
    let resources = vec![
        resource(ResourceType::Cluster, "a", true),
        resource(ResourceType::Cluster, "b", false),
        resource(ResourceType::Endpoint, "b", false),
        refused,
        never,
        resource(ResourceType::Route, "edge", false),
    ];
    scenario(resources, async |sandbox| {
        let dump = sandbox.get_json("/config_dump").await;
        let configs = dump["configs"].as_array().unwrap();
        assert_eq!(configs.len(), 5);
        assert_eq!(configs[0]["bootstrap"]["@type"], "bootstrap");
        assert_eq!(configs[1]["@type"], "type.googleapis.com/envoy.admin.v3.ClustersConfigDump");
        assert_eq!(configs[1]["static_clusters"][0]["cluster"]["@type"], "Cluster/a");
        assert_eq!(configs[1]["dynamic_active_clusters"][0]["version_info"], "7");
        let listener = &configs[2]["dynamic_listeners"][0];
        assert_eq!(listener["active_state"]["listener"]["@type"], "Listener/edge");
        assert_eq!(listener["error_state"]["details"], "no filter chain");
        let routes = &configs[3]["dynamic_route_configs"];
        assert_eq!(
            (&routes[0]["name"], &routes[1]["route_config"]["@type"]),
            (&json!("bad"), &json!("Route/edge"))
        );
        let dump = sandbox.get_json("/config_dump?include_eds").await;
        let endpoints = &dump["configs"][4]["dynamic_endpoint_configs"];
        assert_eq!(endpoints[0]["endpoint_config"]["@type"], "Endpoint/b");
        let dump = sandbox.get_json("/config_dump?resource=dynamic_active_clusters&name_regex=%5Eb%24").await;
        assert_eq!(dump["configs"][0]["cluster"]["@type"], "Cluster/b");
        assert_eq!(sandbox.get("/config_dump?resource=nonsense").await.0, 400);
    })
    .await;
}

#[tokio::test]
async fn what_changes_something_is_posted() {
    scenario(vec![], async |sandbox| {
        let (status, page) = sandbox.get("/quitquitquit").await;
        assert_eq!((status, &*page), (405, "this page takes POST\n"));
        assert_eq!(sandbox.ask("POST", "/ready", "").await.0, 405);
        assert_eq!(sandbox.ask("DELETE", "/logging", "").await.0, 405);
        assert_eq!(sandbox.get("/logging").await.1, "level: info\n");
        assert_eq!(sandbox.ask("POST", "/logging?level=debug", "").await, (200, "level: debug\n".into()));
        assert_eq!(sandbox.level.get(), LevelFilter::DEBUG);
        assert_eq!(sandbox.ask("POST", "/logging?level=loud", "").await.0, 400);
        assert_eq!(sandbox.ask("POST", "/drain_listeners?graceful", "").await.0, 200);
        assert_eq!(sandbox.drained.get(), Some(true));
        assert_eq!(sandbox.ask("POST", "/reopen_logs", "").await.0, 200);
        let (status, page) = sandbox.get("/nonsense").await;
        assert!(status == 404 && page.contains("/config_dump"));
        assert!(sandbox.get("/").await.1.contains("POST /explain"));
    })
    .await;
}

#[tokio::test]
async fn browsers_are_kept_out() {
    scenario(vec![], async |sandbox| {
        let answer = sandbox.raw("GET /ready HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        let posted = format!(
            "POST /drain_listeners HTTP/1.1\r\nHost: {}\r\nOrigin: https://evil.example\r\nConnection: close\r\n\r\n",
            sandbox.address
        );
        assert!(sandbox.raw(&posted).await.starts_with("HTTP/1.1 403 "));
        assert_eq!(sandbox.drained.get(), None);
    })
    .await;
}

#[tokio::test]
async fn questions_are_checked_before_they_are_decided() {
    use crate::snapshot::{Chains, Direction, Listener, Preamble, SocketSettings};
    scenario(vec![], async |sandbox| {
        let error = |text: String| serde_json::from_str::<Value>(&text).unwrap()["error"].to_string();
        let (status, text) = sandbox.ask("POST", "/explain", r#"{"host": "a"}"#).await;
        assert!(status == 400 && error(text).contains("there is no listener"));
        let listener = Arc::new(Listener {
            name: "edge".into(),
            addresses: vec![([127, 0, 0, 1], 80).into()],
            bind: true,
            socket: SocketSettings::default(),
            preamble: Preamble::default(),
            hand_over: false,
            chains: Chains::default(),
            direction: Direction::Outbound,
        });
        sandbox.publisher.publish(Snapshot {
            listeners: std::iter::once((listener.name.clone(), listener)).collect(),
            ..Snapshot::default()
        });
        assert_eq!(sandbox.get("/listeners").await.1, "edge::127.0.0.1:80\n");
        let question =
            r#"{"authority": "shop:80", "path": "/a?b", "headers": {"X-User": ["1", "2"], "y": "3"}}"#;
        let (status, text) = sandbox.ask("POST", "/explain", question).await;
        assert_eq!((status, serde_json::from_str(&text).unwrap()), (200, json!({ "decision": "no_route" })));
        let (listener, asked) = sandbox.asked.borrow().last().cloned().unwrap();
        let head = asked.head;
        assert_eq!((asked.peer, asked.port, asked.claims), (None, None, None));
        assert_eq!((&*listener, head.method.as_str(), head.path.as_str()), ("edge", "GET", "/a?b"));
        assert_eq!(head.headers.get_all("x-user").collect::<Vec<_>>(), [b"1", b"2"]);
        for (question, message) in [
            ("", "not understood"),
            (r#"{"host": "a", "nonsense": 1}"#, "nonsense"),
            (r#"{"host": "a b"}"#, "malformed"),
            (r#"{"host": "u@a"}"#, "user information"),
            (r#"{"host": "a", "method": "G T"}"#, "malformed"),
            (r#"{"host": "a", "path": "a"}"#, "path"),
            (r#"{"host": "a", "headers": {"x": 1}}"#, "header x"),
            (r#"{"host": "a", "headers": {"x": "1\r\ny: 2"}}"#, "header x"),
            (r#"{"host": "a", "listener": "b"}"#, "there are: edge"),
        ] {
            let (status, text) = sandbox.ask("POST", "/explain", question).await;
            let error = error(text);
            assert!(status == 400 && error.contains(message), "{question}: {error}");
        }
        let large = format!(r#"{{"host": "a", "path": "/{}"}}"#, "x".repeat(65 * 1024));
        assert_eq!(sandbox.ask("POST", "/explain", &large).await.0, 400);
    })
    .await;
}

#[tokio::test]
async fn an_unknown_id_says_where_to_ask() {
    scenario(vec![], async |sandbox| {
        let (status, text) = sandbox.get("/why/0abc").await;
        assert!(status == 404 && text.contains("ask the proxy that made the reply"), "{text}");
        assert_eq!(sandbox.get_json("/why").await["latest"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn scrapers_get_the_form_they_ask_for() {
    scenario(vec![], async |sandbox| {
        let ask = async |accept: &str| {
            let host = sandbox.address;
            let request = format!(
                "GET /metrics HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
            );
            sandbox.raw(&request).await
        };
        let open = ask("application/openmetrics-text;version=1.0.0,text/plain;q=0.5").await;
        assert!(open.contains("content-type: application/openmetrics-text") && open.ends_with("# EOF\n"));
        let classic = ask("*/*").await;
        assert!(classic.contains("content-type: text/plain; version=0.0.4"));
        assert!(classic.contains("# TYPE sidegate_build_info gauge"));
    })
    .await;
}

#[tokio::test]
async fn a_taken_port_is_said_clearly() {
    let first = bind(([127, 0, 0, 1], 0).into()).unwrap();
    let error = bind(first.local_addr().unwrap()).unwrap_err().to_string();
    assert!(error.contains("choose another admin port"), "{error}");
}
