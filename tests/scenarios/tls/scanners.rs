//! C11: a scanner that nobody here wrote finds with our proxy what it finds with a server that is rustls and nothing else.

use std::collections::BTreeMap;

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
