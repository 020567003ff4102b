//! E5, E8, E11: nothing lost, nothing twice, whatever connections and endpoints do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sidegate_tests::client::Http1;
use sidegate_tests::control::ControlPlane;
use sidegate_tests::gateway::Gateway;
use sidegate_tests::guarded::Guarded;
use sidegate_tests::load::Load;
use sidegate_tests::manifests::{gateway, route, service};
use sidegate_tests::message::{Call, Received};
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::plane::DataPlane;
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::wait;

/// Requests that a scenario sends in all: what the environment says (`SIDEGATE_REQUESTS=100000` is the battery's own figure), or fewer.
fn requests(otherwise: usize) -> usize {
    std::env::var("SIDEGATE_REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// What an origin was asked, by id: how often each came.
#[derive(Clone, Debug, Default)]
struct Asked(Arc<Mutex<BTreeMap<String, u32>>>);

impl Asked {
    fn note(&self, received: &Received) {
        let id = received.header("x-id").unwrap_or_default().to_owned();
        *self.0.lock().expect("no panic while it is held").entry(id).or_default() += 1;
    }

    fn of(&self, id: &str) -> u32 {
        self.0.lock().expect("no panic while it is held").get(id).copied().unwrap_or_default()
    }
}

/// Sends requests over so many connections, each with its id; gives each id's status.
async fn send(
    address: std::net::SocketAddr,
    clients: usize,
    each: usize,
    call: fn(usize, String) -> Call,
) -> Vec<(String, u16)> {
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        tasks.spawn(async move {
            let mut connection = Http1::connect(address).await.expect("the proxy listens");
            let mut seen = Vec::with_capacity(each);
            for number in 0..each {
                let id = format!("{client}-{number}");
                let answer = connection
                    .call(&call(number, id.clone()))
                    .await
                    .expect("an answer on a connection that is kept");
                assert!(answer.complete, "{id}: {answer:?}");
                seen.push((id, answer.status));
            }
            seen
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

fn get(_: usize, id: String) -> Call {
    Call::get("/").header("x-id", &id)
}

fn post(_: usize, id: String) -> Call {
    Call::post("/", "once").header("x-id", &id)
}

/// Nine GETs, then a POST.
fn mixed(number: usize, id: String) -> Call {
    if number % 10 == 9 { post(number, id) } else { get(number, id) }
}

/// Closes after every fifth answer without a word, 0 to 5 ms later.
fn closes_silently(received: &Received) -> Answer {
    match received.nth {
        5 => Answer::text("ok").then_close_after(Duration::from_millis(received.connection as u64 % 6)),
        _ => Answer::text("ok"),
    }
}

#[tokio::test]
async fn e5_an_origin_that_closes_silently_fails_no_get() {
    for clients in [4, 8] {
        let sandbox = Sandbox::new();
        let origin = Origin::forgetful(closes_silently).await;
        let proxy = Gateway::to(&[origin.address()]).start(&sandbox).await;
        let total = requests(5_000) / 2;
        let seen = send(proxy.address, clients, total / clients, get).await;
        let failed: Vec<_> = seen.iter().filter(|(_, status)| *status != 200).collect();
        assert!(
            failed.is_empty(),
            "{} of {} GETs over {clients} connections: {failed:?}",
            failed.len(),
            seen.len()
        );
        assert!(
            origin.connections() >= total / 5,
            "the origin did close: {} connections",
            origin.connections()
        );
        eprintln!(
            "E5: 0 of {} GETs failed over {clients} connections, {} connections upstream",
            seen.len(),
            origin.connections()
        );
    }
}

#[tokio::test]
async fn e5_a_request_that_was_read_is_repeated_only_if_it_may_be() {
    let sandbox = Sandbox::new();
    let asked = Asked::default();
    let noted = asked.clone();
    // Every sixth request of a connection is read, and then the connection closes without an answer, 0 to 5 ms later.
    let origin = Origin::forgetful(move |received| {
        noted.note(received);
        match received.nth {
            6 => Answer::nothing().then_close_after(Duration::from_millis(received.connection as u64 % 6)),
            _ => Answer::text("ok"),
        }
    })
    .await;
    let proxy = Gateway::to(&[origin.address()]).start(&sandbox).await;
    let seen = send(proxy.address, 6, requests(3_000) / 6, mixed).await;
    let (mut good, mut bad) = (0, 0);
    for (id, status) in &seen {
        let number: usize = id.rsplit('-').next().unwrap().parse().unwrap();
        let times = asked.of(id);
        match (number % 10 == 9, *status) {
            (false, 200) => assert!((1..=2).contains(&times), "GET {id} came {times} times"),
            (true, 200 | 502) => {
                assert_eq!(times, 1, "POST {id}, answered {status}");
                if *status == 200 { good += 1 } else { bad += 1 }
            }
            (is_post, status) => panic!("{id}, POST {is_post}: {status}"),
        }
    }
    assert!(good > 0 && bad > 0, "{good} POSTs were answered, {bad} were not");
    eprintln!(
        "E5: 0 of {} GETs failed; of POSTs {good} were answered and {bad} got 502, none came twice",
        seen.len() - good - bad
    );
}

#[tokio::test]
async fn e5_a_post_of_which_nothing_was_read_is_not_lost() {
    let sandbox = Sandbox::new();
    let asked = Asked::default();
    let noted = asked.clone();
    // Closed at once, long before the next request: the look at the socket sees it.
    let origin = Origin::forgetful(move |received| {
        noted.note(received);
        match received.nth {
            3 => Answer::text("ok").then_close(),
            _ => Answer::text("ok"),
        }
    })
    .await;
    let proxy = Gateway::to(&[origin.address()]).start(&sandbox).await;
    let mut client = Http1::connect(proxy.address).await.unwrap();
    for number in 0..200 {
        let id = number.to_string();
        let answer = client.call(&post(0, id.clone())).await.unwrap();
        assert_eq!((answer.status, asked.of(&id)), (200, 1), "POST {number}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

#[tokio::test]
async fn e8_endpoints_come_and_go_under_load() {
    let sandbox = Sandbox::new();
    let mut origins = Vec::new();
    for number in 0..12 {
        origins.push(Origin::named(&format!("origin-{number}")).await);
    }
    let listener = address();
    let all: Vec<_> = origins.iter().map(Origin::address).collect();
    let files = [
        ("gateway.yaml", gateway(listener)),
        ("app.yaml", service("app", &all[..6])),
        ("web.yaml", route("web", "[shop.test]", "[{backendRefs: [{name: app, port: 80}]}]")),
    ];
    let control = ControlPlane::start(&sandbox, &files).await;
    let _proxy = DataPlane::Sidegate.start(&sandbox, &control).await;
    control.synced(1).await;
    wait::until("the gateway listens", async || tokio::net::TcpStream::connect(listener).await.ok()).await;
    let load = Load::start(listener, 300, Call::get("/").host("shop.test"));
    load.more(50).await;
    let changes = std::env::var("SIDEGATE_CHURN").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    for change in 0..changes {
        // Six of twelve, one further each time: one goes, one comes.
        let first = (change + 1) % all.len();
        let current: Vec<_> = (0..6).map(|offset| all[(first + offset) % all.len()]).collect();
        control.apply("app.yaml", &service("app", &current), 1).await;
        if change % 20 != 19 {
            continue;
        }
        // A new endpoint gets traffic, and one that was removed none, once what was on its way has arrived.
        let newest = (first + 5) % all.len();
        load.more_of(&format!("origin-{newest}"), 3).await;
        let removed: Vec<_> = (6..12).map(|offset| (first + offset) % all.len()).collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before: Vec<_> = removed.iter().map(|number| origins[*number].count()).collect();
        load.more(60).await;
        let after: Vec<_> = removed.iter().map(|number| origins[*number].count()).collect();
        assert_eq!(before, after, "change {change}: endpoints that were removed a second ago were asked");
    }
    let counts = load.stop().await;
    assert_eq!(counts.failed, 0, "of {} over {changes} changes: {:?}", counts.good, counts.failures);
    eprintln!("E8: 0 of {} requests failed over {changes} changes of the endpoints", counts.good);
}

#[tokio::test]
async fn e11_clients_log_and_origin_agree_on_every_request() {
    let asked = Asked::default();
    let noted = asked.clone();
    let origin = Origin::forgetful(move |received| {
        noted.note(received);
        match (received.nth, received.connection % 4) {
            (4.., 0) => Answer::nothing(),
            (5.., 1) => Answer::text("ok").then_close(),
            (3.., 2) => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
            (6.., 3) => Answer::text("ok").then_reset(),
            _ => Answer::text("ok"),
        }
    })
    .await;
    let routes = "[{match: {prefix: /}, route: {cluster: app}}]";
    let gateway = Gateway::to(&[origin.address()]).routes(routes);
    let mut guarded = Guarded::start("several", origin, gateway).await;
    let seen = send(guarded.proxy.address, 5, requests(2_000) / 5, mixed).await;
    let mut logged: BTreeMap<String, Vec<u16>> = BTreeMap::new();
    for record in guarded.records(seen.len()).await {
        logged.entry(record.id).or_default().push(record.status);
    }
    for (id, status) in &seen {
        assert_eq!(
            logged.get(id).map(Vec::as_slice),
            Some(&[*status][..]),
            "{id}: the log differs from the client"
        );
        let number: usize = id.rsplit('-').next().unwrap().parse().unwrap();
        let times = asked.of(id);
        if number % 10 == 9 {
            assert!(times <= 1, "POST {id} came {times} times");
        }
        assert!(*status != 200 || times >= 1, "{id} was answered and never came");
        assert!(matches!(status, 200 | 502), "{id}: {status}");
    }
    let good = seen.iter().filter(|(_, status)| *status == 200).count();
    assert!(good > seen.len() / 2 && good < seen.len(), "{good} of {} were answered", seen.len());
    eprintln!(
        "E11: {} requests, {good} with 200, every one once in the log, no POST twice at the origin",
        seen.len()
    );
    guarded.finish().await;
}
