//! Keys are fetched from a real server that may misbehave.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::model::Name;
use crate::model::access::{JwtPolicy, JwtRule, JwtSpec};

const KEYS: &str = r#"{"keys":[{"kty":"EC"}]}"#;

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Serves `answers` one after the other, the last one for ever; gives its URL and how often it was asked.
async fn serving(answers: Vec<String>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let turn = count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
            let _ = stream.write_all(answers[turn].as_bytes()).await;
        }
    });
    (url, asked)
}

fn allowing() -> Guard {
    Guard { allowed: vec!["127.0.0.1".parse().unwrap()] }
}

fn naming(url: &str, generation: u64) -> Arc<View> {
    let rule = JwtRule { issuer: "i".to_owned(), jwks_uri: Some(url.to_owned()), ..JwtRule::default() };
    let policy = JwtPolicy {
        metadata: Default::default(),
        spec: JwtSpec { target_refs: Vec::new(), selector: None, jwt_rules: vec![rule], required: false },
    };
    let jwt_policies = [(Name::new("shop", "t"), Arc::new(policy))].into();
    Arc::new(View { generation, jwt_policies, ..View::default() })
}

async fn error(answer: &str) -> String {
    let (url, _) = serving(vec![answer.to_owned()]).await;
    fetch::key_set(&url, &allowing()).await.unwrap_err()
}

#[tokio::test]
async fn a_set_is_fetched() {
    let (url, _) = serving(vec![ok(KEYS)]).await;
    assert_eq!(fetch::key_set(&url, &allowing()).await.as_deref(), Ok(KEYS));
}

#[tokio::test]
async fn only_the_public_members_of_keys_are_handed_on() {
    // Numbers that are longer when they are written again, private parts, keys that cannot be read.
    let numbers = vec!["1e15"; 40_000].join(",");
    let body = format!(
        r#"{{"note":[{numbers}],"keys":[{{"kty":"EC","d":"secret","x5c":[1],"x":"a"}},{{"kty":"RSA","kid":7}},5]}}"#
    );
    let (url, _) = serving(vec![ok(&body)]).await;
    let keys = fetch::key_set(&url, &allowing()).await;
    assert_eq!(keys.as_deref(), Ok(r#"{"keys":[{"kty":"EC","x":"a"}]}"#));
    assert!(error(&ok(r#"{"keys":[{"kid":"a"}]}"#)).await.contains("can be read"));
}

#[tokio::test]
async fn g8_what_is_no_set_is_refused_in_words() {
    assert!(
        error("HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n")
            .await
            .contains("redirect")
    );
    assert!(error("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await.contains("503"));
    assert!(error(&ok("<html>")).await.contains("not JSON"));
    assert!(error(&ok("{}")).await.contains("Key Set"));
    assert!(error(&ok(r#"{"keys":[]}"#)).await.contains("no key"));
    assert!(error(&ok(&format!(r#"{{"keys":["{}"]}}"#, "a".repeat(300_000)))).await.contains("262144"));
    assert!(error("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{").await.contains("broke off"));
    assert!(error(&ok(&"[".repeat(100_000))).await.contains("not JSON"));
}

#[tokio::test]
async fn g8_what_only_this_machine_reaches_is_not_asked() {
    let (url, asked) = serving(vec![ok(KEYS)]).await;
    let by_name = url.replace("127.0.0.1", "localhost");
    for url in
        [url.as_str(), by_name.as_str(), "https://169.254.169.254/latest", "https://[::ffff:127.0.0.1]/"]
    {
        let error = fetch::key_set(url, &Guard::default()).await.unwrap_err();
        assert!(error.contains("not asked"), "{url}: {error}");
    }
    for url in ["file:///etc/passwd", "gopher://x/", "keys"] {
        fetch::key_set(url, &allowing()).await.unwrap_err();
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn without_tls_only_what_an_operator_names_or_the_cluster_has() {
    let error = fetch::key_set("http://192.0.2.1/", &Guard::default()).await.unwrap_err();
    assert!(error.contains("https://"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_set_that_does_not_end_is_given_up() {
    let (url, _) = serving(vec!["HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{".to_owned()]).await;
    fetch::key_set(&url, &allowing()).await.unwrap_err();
}

/// Until the view that is passed on satisfies `holds`.
async fn until(keyed: &mut watch::Receiver<Arc<View>>, holds: impl Fn(&View) -> bool) {
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, keyed.wait_for(|view| holds(view))).await.expect("in time").unwrap();
}

#[tokio::test]
async fn views_pass_at_once_and_get_their_keys_when_these_have_come() {
    let (url, asked) =
        serving(vec!["HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_owned(), ok(KEYS)]).await;
    let (views, receiver) = watch::channel(naming(&url, 1));
    let (sender, mut keyed) = watch::channel(Arc::default());
    tokio::spawn(run(receiver, sender, allowing()));
    until(&mut keyed, |view| view.generation == 1 && view.key_sets.is_empty()).await;
    until(&mut keyed, |view| view.key_sets.get(&url).is_some_and(|keys| **keys == *KEYS)).await;
    assert_eq!(asked.load(Ordering::SeqCst), 2, "the failure was repeated once");
    // Another view keeps what has come; one that does not name it has none.
    views.send_replace(naming(&url, 2));
    until(&mut keyed, |view| view.generation == 2 && view.key_sets.len() == 1).await;
    views.send_replace(Arc::new(View { generation: 3, ..View::default() }));
    until(&mut keyed, |view| view.generation == 3 && view.key_sets.is_empty()).await;
}

#[tokio::test]
async fn the_last_good_set_stays_while_its_url_fails() {
    let mut keeper = Keeper::new(allowing());
    let now = Instant::now();
    keeper.follow(of(&[("shop", "u")]), now);
    assert!(keeper.take("u", Ok(KEYS.into()), now));
    assert!(!keeper.take("u", Ok(KEYS.into()), now), "equal keys change nothing");
    let mut pauses = Vec::new();
    for _ in 0..20 {
        assert!(!keeper.take("u", Err("down".to_owned()), now));
        pauses.push(keeper.sets["u"].due.unwrap() - now);
    }
    assert_eq!(keeper.sets["u"].keys.as_deref(), Some(KEYS));
    assert!(
        pauses[0] <= SHORTEST_PAUSE && pauses[19] <= LONGEST_PAUSE && pauses[19] > LONGEST_PAUSE / 2,
        "{pauses:?}"
    );
}

/// What policies of these namespaces name.
fn of(pairs: &[(&str, &str)]) -> Named {
    let mut named = Named::new();
    for (namespace, url) in pairs {
        named.entry((*url).to_owned()).or_default().insert((*namespace).to_owned());
    }
    named
}

#[tokio::test]
async fn m5_one_namespace_does_not_crowd_out_the_others() {
    let mut keeper = Keeper::new(allowing());
    let now = Instant::now();
    keeper.follow(of(&[("shop", "https://z.example/shop")]), now);
    assert!(keeper.take("https://z.example/shop", Ok(KEYS.into()), now));
    let mut named = of(&[("shop", "https://z.example/shop"), ("bank", "https://z.example/bank")]);
    named.extend((0..1000).map(|n| (format!("https://a.example/{n}"), BTreeSet::from(["crowd".to_owned()]))));
    keeper.follow(named, now);
    assert_eq!(keeper.sets.len(), MOST_SETS);
    assert!(keeper.sets["https://z.example/shop"].keys.is_some(), "what has come stays");
    assert!(keeper.sets.contains_key("https://z.example/bank"), "and each has a share");
}

#[tokio::test]
async fn m5_a_slow_host_holds_up_itself_alone() {
    let mut keeper = Keeper::new(allowing());
    let now = Instant::now();
    let mut named = of(&[("shop", "https://z.invalid/keys")]);
    named.extend((0..20).map(|n| (format!("https://a.invalid/{n}"), BTreeSet::from(["crowd".to_owned()]))));
    keeper.follow(named, now);
    keeper.fetch(now);
    assert_eq!(keeper.asked, ["a.invalid", "z.invalid"].map(str::to_owned).into());
    assert_eq!(keeper.sets["https://z.invalid/keys"].due, None, "it is being asked");
    assert_eq!(keeper.next_due(), None, "the others wait for their host");
    keeper.take("https://a.invalid/0", Err("slow".to_owned()), now);
    // It comes back at the end of its own, and after those that have not been asked yet.
    keeper.fetch(now + LONGEST_PAUSE);
    assert_eq!(keeper.sets["https://a.invalid/1"].due, None);
    assert!(keeper.sets["https://a.invalid/0"].due.is_some());
}
