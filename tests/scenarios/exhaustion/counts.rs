//! Connections, names, lines and patterns without number.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use sidegate_tests::client::Http1;
use sidegate_tests::gateway::{Gateway, Proxy, typed};
use sidegate_tests::load::Load;
use sidegate_tests::message::Call;
use sidegate_tests::origin::Origin;
use sidegate_tests::process::run;
use sidegate_tests::resources::{Usage, mebibytes};
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::wait;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[tokio::test]
async fn d4_a_storm_of_connections_leaves_nothing_behind() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("ok").await;
    let proxy = Gateway::to(&[origin.address()]).with_admin().start(&sandbox).await;
    let process = proxy.process.id();
    let load = Load::start(proxy.address, 50, Call::get("/"));
    load.more(20).await;
    let before = Usage::of(process);
    let mut storm = JoinSet::new();
    for worker in 0..10 {
        let address = proxy.address;
        storm.spawn(async move {
            for number in 0..500 {
                let socket = TcpStream::connect(address).await.expect("the proxy accepts");
                match (worker + number) % 3 {
                    // Closed, reset, and closed after a byte.
                    0 => drop(socket),
                    1 => socket.set_zero_linger().expect("an open socket"),
                    _ => drop(socket.try_write(b"G")),
                }
            }
        });
    }
    wait::within("the storm's end", storm.join_all()).await;
    load.more(20).await;
    let counts = load.stop().await;
    assert_eq!(counts.failed, 0, "{counts:?}");
    wait::until("everything as before", async || {
        // Besides what the load's connections upstream add.
        let upstream = proxy.stat("cluster.app.upstream_cx_active").await as usize;
        (Usage::of(process).descriptors <= before.descriptors + upstream).then_some(())
    })
    .await;
    // Those that were reset before they were accepted do not count.
    assert!(proxy.stat("listener.main.downstream_cx_total").await >= 3_000);
    wait::until_equal("connections open", 0, async || proxy.stat("listener.main.downstream_cx_active").await)
        .await;
    let grown = Usage::of(process).memory.saturating_sub(before.memory);
    assert!(grown < mebibytes(8), "{grown}");
}

#[tokio::test]
async fn d7_names_that_clients_choose_make_no_series() {
    const CLIENTS: usize = 10;
    const EACH: usize = 2_000;
    let sandbox = Sandbox::new();
    let origin = Origin::named("ok").await;
    let proxy = Gateway::new()
        .cluster("app", &[origin.address()])
        .virtual_hosts(
            "[{name: some, domains: ['*.known.test'], routes: [
               {match: {prefix: /app}, route: {cluster: app}},
               {match: {prefix: /}, direct_response: {status: 200}}]}]",
        )
        .with_admin()
        .start(&sandbox)
        .await;
    let process = proxy.process.id();
    storm_of_names(&proxy, CLIENTS, 100, "first").await;
    let series = series(&proxy).await;
    let before = Usage::of(process).memory;
    storm_of_names(&proxy, CLIENTS, EACH, "then").await;
    let grown = Usage::of(process).memory.saturating_sub(before);
    assert!(grown <= mebibytes(8), "{} KiB", grown / 1024);
    let after = self::series(&proxy).await;
    let new: Vec<_> = after.difference(&series).collect();
    assert!(after.len() <= 10_000 && new.len() < 20, "{} series, these are new: {new:?}", after.len());
}

/// Requests of which each has a host, a path, a method and headers of its own. Half of them match nothing.
async fn storm_of_names(proxy: &Proxy, clients: usize, each: usize, word: &'static str) {
    let mut storm = JoinSet::new();
    for client in 0..clients {
        let address = proxy.address;
        storm.spawn(async move {
            let mut connection = Http1::connect(address).await.expect("the proxy listens");
            for number in 0..each {
                let own = format!("{word}-{client}-{number}");
                let domain = if number % 2 == 0 { "known.test" } else { "unknown.test" };
                let path = if number % 100 == 0 { "app" } else { "direct" };
                let call = Call::new(&format!("M{client}-{number}"), &format!("/{path}/{own}?q={own}"))
                    .host(&format!("{own}.{domain}"))
                    .header("user-agent", &own)
                    .header("x-request-id", &own);
                let response = connection.call(&call).await.expect("an answer");
                assert!(matches!(response.status, 200 | 404), "{response:?}");
                if !connection.is_reusable() {
                    connection = Http1::connect(address).await.expect("the proxy listens");
                }
            }
        });
    }
    storm.join_all().await;
}

/// Names and labels, without numbers.
async fn series(proxy: &Proxy) -> BTreeSet<String> {
    let page = proxy.admin("/metrics").await.text();
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name.to_owned()).collect()
}

#[tokio::test]
async fn d8_a_log_that_nobody_reads_holds_nothing_up() {
    let sandbox = Sandbox::new();
    let big = "%REQ(X-BIG)%".repeat(4);
    let log = typed(
        "log",
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        json!({"log_format": {"text_format_source": {"inline_string": format!("{big}\n")}}}),
    );
    let mut proxy = Gateway::new()
        .routes("[{match: {prefix: /}, direct_response: {status: 400}}]")
        .http(&json!({"access_log": [log]}).to_string())
        .with_admin()
        .flags(&["--shutdown-delay-s", "0", "--drain-time-s", "2"])
        .start_unread(&sandbox)
        .await;
    // 16 KiB a line: some thousand fill the queue of 16 MiB.
    let call = Call::get("/").header("x-big", &"x".repeat(4_000));
    let mut client = Http1::connect(proxy.address).await.unwrap();
    let mut longest = Duration::ZERO;
    for _ in 0..3_000 {
        let begun = Instant::now();
        assert_eq!(client.call(&call).await.unwrap().status, 400);
        longest = longest.max(begun.elapsed());
    }
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    let dropped = wait::until("dropped lines", async || {
        let dropped = proxy.stat("sidegate.access_log_lines_dropped").await;
        (dropped > 0).then_some(dropped)
    })
    .await;
    assert!(dropped < 3_000, "{dropped}");
    let usage = Usage::of(proxy.process.id());
    assert!(usage.memory < mebibytes(48), "{usage:?}");
    drop(client);
    // Nor does it hold up the end.
    proxy.process.terminate();
    let begun = Instant::now();
    assert_eq!(proxy.process.ended().await.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn d9_patterns_are_matched_in_linear_time_or_refused() {
    let sandbox = Sandbox::new();
    let route = |regex: &str| {
        json!([{"match": {"safe_regex": {"regex": regex}}, "direct_response": {"status": 200}},
               {"match": {"prefix": "/"}, "direct_response": {"status": 418}}])
        .to_string()
    };
    for (what, regex) in [
        ("a repetition that multiplies", r"/(\w{1,200}){1,200}(\w{1,200}){1,200}".to_owned()),
        ("a megabyte", format!("/{}", "(ab|cd)?".repeat(128 * 1024))),
    ] {
        let config = Gateway::new().routes(&route(&regex)).bootstrap(address(), None);
        let path = sandbox.write("bomb.json", &config.to_string()).display().to_string();
        let begun = Instant::now();
        let finished = run("sidegate-proxy", ["-c", &path, "--mode", "validate"]).await;
        assert_eq!(finished.code, Some(1), "{what}");
        assert!(finished.err.contains("regex"), "{what}: {}", &finished.err[..finished.err.len().min(500)]);
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}: {:?}", begun.elapsed());
    }
    let proxy = Gateway::new().routes(&route("/(a+)+b")).start(&sandbox).await;
    let begun = Instant::now();
    let response = proxy.get(&format!("/{}", "a".repeat(12_000))).await;
    assert_eq!(response.status, 418);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
