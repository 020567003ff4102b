//! C11: scanners that nobody here wrote find with our proxy what it finds with a server that is rustls and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use sidegate_tests::peers::Python;
use sidegate_tests::wait;

use super::*;

/// What sslyze finds, by scan.
async fn sslyze(python: &Python, sandbox: &Sandbox, server: SocketAddr) -> BTreeMap<String, Value> {
    let report = sandbox.path().join(format!("{}.json", server.port()));
    let mut command = python.command();
    command.args(["-m", "sslyze", "--quiet", "--sni", "edge.test", "--json_out"]).arg(&report);
    command.args(SCANS).arg(server.to_string());
    let output = tokio::time::timeout(4 * wait::DEADLINE, command.output()).await;
    let output = output.expect("an end of the scan").expect("sslyze starts");
    let text = std::fs::read_to_string(&report).unwrap_or_else(|_| panic!("no report: {output:?}"));
    let report: Value = serde_json::from_str(&text).expect("a report");
    let scanned = &report["server_scan_results"][0];
    assert_eq!(scanned["scan_status"], "COMPLETED", "{scanned}");
    let results = scanned["scan_result"].as_object().expect("results");
    let done = results.iter().filter(|(_, result)| result["status"] != "NOT_SCHEDULED");
    done.map(|(name, result)| (name.clone(), steady(result))).collect()
}

/// Without what is another at every handshake.
fn steady(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, _)| !CHANGING.contains(&name.as_str()));
            Value::Object(kept.map(|(name, value)| (name.clone(), steady(value))).collect())
        }
        Value::Array(all) => Value::Array(all.iter().map(steady).collect()),
        other => other.clone(),
    }
}

#[tokio::test]
async fn c11_sslyze_finds_what_it_finds_with_rustls_alone() {
    let Some(python) = Python::find() else { return };
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let pair = authority.issue(&Leaf::dns(&["edge.test"]));
    let proxy = greeting().tls(showing(&[&pair])).with_admin().start(&sandbox).await;
    let stock = secure::Origin::start("stock", &pair, None).await;
    let (ours, theirs) =
        tokio::join!(sslyze(&python, &sandbox, proxy.address), sslyze(&python, &sandbox, stock.address()));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    let mut differences = Vec::new();
    for (name, found) in &ours {
        if found != &theirs[name] {
            differences.push(name.as_str());
        }
    }
    println!("C11: {} scans, different: {differences:?}", ours.len());
    for name in &differences {
        println!("{name}\n  ours   {}\n  theirs {}", ours[*name], theirs[*name]);
    }
    assert_eq!(differences, ACCEPTED);
    // What the scan is about, said once more in our own words.
    for version in ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"] {
        let accepted = &ours[&format!("{version}_cipher_suites")]["result"]["accepted_cipher_suites"];
        assert_eq!(accepted.as_array().map(Vec::len), Some(0), "{version}: {accepted}");
    }
    assert_eq!(ours["tls_1_3_early_data"]["result"]["supports_early_data"], false);
    wait::until_equal("open connections", 0, async || proxy.stat("listener.main.downstream_cx_active").await)
        .await;
    assert!(
        Client::new(&authority, None).get(proxy.address, "edge.test", "/").await.unwrap().ends_with("hello")
    );
}

/// What testssl finds of protocols, ciphers and known attacks, by test; `None` where it is not installed.
async fn testssl(sandbox: &Sandbox, server: SocketAddr) -> Option<BTreeMap<String, String>> {
    let report = sandbox.path().join(format!("testssl-{}.json", server.port()));
    let mut command = tokio::process::Command::new("testssl");
    command.args(["--quiet", "--color", "0", "--warnings", "batch", "--sneaky", "--jsonfile"]).arg(&report);
    // Not the certificate, which is the same one, nor HTTP's headers.
    command.args(["--protocols", "--server-preference", "--fs", "--vulnerable", "--each-cipher", "--grease"]);
    command.args(["--ip", &server.ip().to_string()]).arg(format!("edge.test:{}", server.port()));
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let status = match command.status().await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        status => status.expect("testssl starts"),
    };
    let text = std::fs::read_to_string(&report).unwrap_or_else(|_| panic!("no report: {status}"));
    let findings: Vec<Value> = serde_json::from_str(&text).expect("a report");
    let named =
        findings.iter().filter_map(|finding| Some((finding["id"].as_str()?, finding["finding"].as_str()?)));
    let steady = named.filter(|(id, _)| !id.starts_with("scan"));
    Some(steady.map(|(id, finding)| (id.to_owned(), finding.to_owned())).collect())
}

#[tokio::test]
async fn c11_testssl_finds_what_it_finds_with_rustls_alone() {
    // A minute of hundreds of processes.
    if std::env::var_os("SIDEGATE_FULL").is_none() {
        return;
    }
    let sandbox = Sandbox::new();
    let authority = Authority::new("one");
    let pair = authority.issue(&Leaf::dns(&["edge.test"]));
    let proxy = greeting().tls(showing(&[&pair])).with_admin().start(&sandbox).await;
    let stock = secure::Origin::start("stock", &pair, None).await;
    let (Some(ours), Some(theirs)) =
        tokio::join!(testssl(&sandbox, proxy.address), testssl(&sandbox, stock.address()))
    else {
        eprintln!("testssl is not installed (apt: testssl.sh): nothing is shown here");
        return;
    };
    let names: BTreeSet<_> = ours.keys().chain(theirs.keys()).map(String::as_str).collect();
    let mut different: Vec<_> =
        names.into_iter().filter(|name| ours.get(*name) != theirs.get(*name)).collect();
    println!("C11: {} findings, different: {different:?}", ours.len());
    for name in &different {
        println!("{name}\n  ours   {:?}\n  theirs {:?}", ours.get(*name), theirs.get(*name));
    }
    different.retain(|name| !TESTSSL_ACCEPTED.contains(name));
    assert_eq!(different, [] as [&str; 0]);
    assert!(ours.len() > 40, "{ours:?}");
    let attacks: Vec<_> =
        ours.iter().filter(|(_, found)| found.to_lowercase().starts_with("vulnerable")).collect();
    assert_eq!(attacks, [] as [(&String, &String); 0]);
    wait::until_equal("open connections", 0, async || proxy.stat("listener.main.downstream_cx_active").await)
        .await;
}

/// Everything that it has but the certificate, which is the same one, and HTTP's headers.
const SCANS: [&str; 16] = [
    "--sslv2",
    "--sslv3",
    "--tlsv1",
    "--tlsv1_1",
    "--tlsv1_2",
    "--tlsv1_3",
    "--reneg",
    "--compression",
    "--heartbleed",
    "--openssl_ccs",
    "--fallback",
    "--robot",
    "--early_data",
    "--resum",
    "--elliptic_curves",
    "--ems",
];

/// Keys of one handshake, and a name that sslyze takes from either of its two OpenSSLs.
const CHANGING: [&str; 3] = ["public_bytes", "ephemeral_key", "openssl_name"];

/// Where we differ from rustls as it is: we give TLS 1.2 sessions to the client, as tickets, instead of keeping them here. sslyze takes a
/// ticket for resumed when it comes back unchanged, and rustls gives a new one each time (`openssl s_client -reconnect` says `Reused`).
const ACCEPTED: [&str; 1] = ["session_resumption"];

/// The same: ticketbleed is looked for where there are such tickets, and not found. And that we offer HTTP/2, which the other server does not;
/// and that testssl gives up waiting for that server's answer to a renegotiation, which we refuse at once.
const TESTSSL_ACCEPTED: [&str; 3] = ["ALPN_HTTP2", "secure_client_renego", "ticketbleed"];
