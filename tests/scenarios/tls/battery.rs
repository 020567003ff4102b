//! Certificates that must not be believed, shown by clients and by servers (battery C1 to C3). Each is refused, counted, and no byte of a
//! request passes.

use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyUsagePurpose};
use sidegate_tests::wait;
use tokio::net::TcpStream;

use super::mesh::{downstream, mutual};
use super::*;

/// A bad certificate: what is wrong with it, and what an operator reads.
struct Bad {
    what: &'static str,
    pair: Pair,
    text: &'static str,
}

fn bad(what: &'static str, pair: Pair, text: &'static str) -> Bad {
    Bad { what, pair, text }
}

/// Names: exactly one URI, which is a SPIFFE id of a known trust domain.
fn names(ours: &Authority) -> Vec<Bad> {
    let long = format!("spiffe://td/{}", "a".repeat(2_049 - 12));
    let raw = |uris: &[&[u8]]| ours.issue(&Leaf::raw_uris(uris));
    let other = "which is no SPIFFE id";
    let unreadable = "has a URI that cannot be read";
    vec![
        bad("DNS instead of URI", ours.issue(&Leaf::dns(&["td"])), "has no URI"),
        bad("two ids", raw(&[b"spiffe://td/a", b"spiffe://td/b"]), "another URI"),
        bad("the same id twice", raw(&[b"spiffe://td/a", b"spiffe://td/a"]), "another URI"),
        bad("an id and a page", raw(&[b"spiffe://td/a", b"https://td/a"]), "another URI"),
        bad("an id with NUL beside one", raw(&[b"spiffe://td/a", b"spiffe://td/b\0"]), "another URI"),
        bad("NUL", raw(&[b"spiffe://td/a\0.evil"]), unreadable),
        bad("no ASCII", raw(&["spiffe://td/\u{e4}".as_bytes()]), ""),
        bad("2,049 bytes", raw(&[long.as_bytes()]), unreadable),
        bad("an escaped NUL", raw(&[b"spiffe://td/a%00"]), other),
        bad("another scheme", raw(&[b"https://td/a"]), other),
        bad("upper case", raw(&[b"SPIFFE://td/a"]), other),
        bad("a slash at the end", raw(&[b"spiffe://td/a/"]), other),
        bad("a query", raw(&[b"spiffe://td/a?b=c"]), other),
        bad("a fragment", raw(&[b"spiffe://td/a#b"]), other),
        bad("a port", raw(&[b"spiffe://td:443/a"]), other),
        bad("a user", raw(&[b"spiffe://user@td/a"]), other),
        bad("no path", raw(&[b"spiffe://td"]), other),
        bad("a way up", raw(&[b"spiffe://td/a/../b"]), other),
        bad("another trust domain", raw(&[b"spiffe://other/a"]), "no bundle for its trust domain"),
    ]
}

/// Paths: from a leaf that may be one to a root of its trust domain.
fn paths(ours: &Authority, foreign: &Authority) -> Vec<Bad> {
    let id = || Leaf::uri("spiffe://td/a");
    let stranger = Authority::new("stranger");
    let namesake = Authority::new("ours");
    let middle = ours.below("middle", |_| {});
    let no_ca = ours.below("no authority", |params| params.is_ca = IsCa::ExplicitNoCa);
    let last = ours.below("last", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let beyond = last.below("beyond", |_| {});
    let elsewhere = ours.below("elsewhere", |params| constrain(params, 0x86, b"elsewhere.test"));
    let hosts = ours.below("hosts", |params| constrain(params, 0x82, b"allowed.test"));
    let wildcard = Leaf::uri("spiffe://td/a").with(|params| {
        params.subject_alt_names.push(rcgen::SanType::DnsName("*.denied.test".try_into().expect("ASCII")));
    });
    let all = std::iter::repeat_n(&middle, 100).collect::<Vec<_>>();
    vec![
        bad("the other domain's authority", foreign.issue(&id()), ""),
        bad("an authority that nobody knows", stranger.issue(&id()), "no trusted root has issued it"),
        bad("an authority of the same name", namesake.issue(&id()), "its signature was not made by"),
        bad("itself", self_signed(&id()), "no trusted root has issued it"),
        bad("what is between is missing", middle.issue(&id()), "no trusted root has issued it"),
        bad("what is between is no authority", no_ca.issue(&id()).under(&[&no_ca]), ""),
        bad("one more than the path may have", beyond.issue(&id()).under(&[&beyond, &last]), ""),
        bad("a hundred between", middle.issue(&id()).under(&all), "comes with 100 others"),
        bad("an authority itself", ours.issue(&id().authority()), ""),
        bad("a leaf that may sign others", ours.issue(&id().with(certifies)), "may sign others"),
        bad("a key that may not sign", ours.issue(&id().cannot_sign()), "may not sign (key usage)"),
        bad("outside the names of what is between", elsewhere.issue(&id()).under(&[&elsewhere]), ""),
        bad("a wildcard outside of them", hosts.issue(&wildcard).under(&[&hosts]), ""),
        bad("over", ours.issue(&id().expired()), "it has expired"),
        bad("not begun", ours.issue(&id().future()), "it is not valid yet"),
    ]
}

fn certifies(params: &mut CertificateParams) {
    params.key_usages.push(KeyUsagePurpose::KeyCertSign);
}

/// Permits names of one kind below one name only.
fn constrain(params: &mut CertificateParams, kind: u8, name: &[u8]) {
    let wrapped = |tag: u8, content: Vec<u8>| {
        let length = u8::try_from(content.len()).expect("a short name");
        [vec![tag, length], content].concat()
    };
    let tree = wrapped(0x30, wrapped(kind, name.to_vec()));
    let constraints = wrapped(0x30, wrapped(0xa0, tree));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], constraints);
    extension.set_criticality(true);
    params.custom_extensions.push(extension);
}

/// Two trust domains, each with its own authority.
fn validation(ours: &str, foreign: &Authority) -> Value {
    json!({"custom_validator_config": {
        "name": "envoy.tls.cert_validator.spiffe",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
            "trust_domains": [
                {"name": "td", "trust_bundle": {"inline_string": ours}},
                {"name": "foreign", "trust_bundle": {"inline_string": foreign.pem}},
            ],
        },
    }})
}

/// Answers by `app` to whoever is one of two trust domains.
async fn strict(
    sandbox: &Sandbox,
    ours: &Authority,
    bundle: &str,
    foreign: &Authority,
    app: &Origin,
) -> Proxy {
    let own = ours.issue(&Leaf::dns(&["edge.test"]).and_uri("spiffe://td/edge"));
    let mut context = mutual(&own, ours, &["http/1.1"]);
    context["common_tls_context"]["validation_context"] = validation(bundle, foreign);
    context["common_tls_context"]["tls_params"] = json!({});
    Gateway::to(&[app.address()]).chain(downstream(context)).with_admin().start(sandbox).await
}

/// A proxy with one cluster, and one path, for each of these servers, of which it believes two trust domains.
async fn towards(sandbox: &Sandbox, servers: &[SocketAddr], bundle: &str, foreign: &Authority) -> Proxy {
    let kind = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let context =
        json!({"sni": "app.test", "common_tls_context": {"validation_context": validation(bundle, foreign)}});
    let socket = json!({"transport_socket": typed("envoy.transport_sockets.tls", kind, context)});
    let (mut gateway, mut routes) = (Gateway::new().with_admin(), Vec::new());
    for (index, server) in servers.iter().enumerate() {
        let name = format!("c{index}");
        gateway = gateway.cluster_with(&name, &[*server], &socket.to_string());
        routes.push(json!({"match": {"path": format!("/{index}")}, "route": {"cluster": name}}));
    }
    gateway.routes(&json!(routes).to_string()).start(sandbox).await
}

/// Why the proxy answered as it did.
async fn story(proxy: &Proxy, response: &sidegate_tests::message::Response) -> String {
    let reason = response.header("x-sidegate-reason").unwrap_or_default().to_owned();
    assert!(reason.starts_with("upstream_tls_failure"), "{reason}");
    let id = reason.rsplit("id=").next().unwrap_or_default().to_owned();
    wait::until("the explanation", async || {
        let page = proxy.admin(&format!("/why/{id}")).await;
        (page.status == 200).then(|| page.text())
    })
    .await
}

#[tokio::test]
async fn c1_c2_c3_clients_that_must_not_be_believed() {
    let sandbox = Sandbox::new();
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let app = Origin::named("app").await;
    let proxy = strict(&sandbox, &ours, &ours.pem, &foreign, &app).await;
    let middle = ours.below("middle", |_| {});
    let good = [
        ours.issue(&Leaf::uri("spiffe://td/ns/shop/sa/web")),
        foreign.issue(&Leaf::uri("spiffe://foreign/web")),
        middle.issue(&Leaf::uri("spiffe://td/web")).under(&[&middle]),
    ];
    for pair in &good {
        let response = Client::new(&ours, Some(pair)).get(proxy.address, "edge.test", "/").await.unwrap();
        assert!(response.ends_with("app"), "{response}");
    }
    let seen = app.count();
    let mut all = names(&ours);
    all.extend(paths(&ours, &foreign));
    all.push(bad("for servers only", ours.issue(&Leaf::uri("spiffe://td/a").only_server()), ""));
    for Bad { what, pair, .. } in &all {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let client = Client::with(&ours, Some(pair), &[version]);
            let refused = client.get(proxy.address, "edge.test", "/").await;
            assert!(refused.is_err(), "{what}: {refused:?}");
        }
    }
    assert_eq!(app.count(), seen, "the origin has seen nothing of it");
    let count = async |name: &str| proxy.stat(&format!("listener.main.ssl.{name}")).await;
    // The last one is told before it is counted.
    let expected = 2 * all.len() as u64;
    wait::until_equal("refused", expected, async || count("fail_verify_error").await).await;
    assert_eq!(count("fail_verify_time").await, 4);
    // Those with another URI beside an id are refused before that is asked.
    assert_eq!(count("fail_verify_identity").await, 2 * (names(&ours).len() as u64 - 4 + 1));
    assert_eq!(count("handshake").await, good.len() as u64);
    assert!(!proxy.process.log().contains("panicked"));
}

#[tokio::test]
async fn c1_c2_c3_servers_that_must_not_be_believed() {
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let mut all = names(&ours);
    all.extend(paths(&ours, &foreign));
    all.push(bad(
        "for clients only",
        ours.issue(&Leaf::uri("spiffe://td/a").only_client()),
        "not meant for this use",
    ));
    let good = bad("good", ours.issue(&Leaf::uri("spiffe://td/ns/shop/sa/app")), "");
    let mut origins = Vec::new();
    for Bad { pair, .. } in all.iter().chain([&good]) {
        origins.push(secure::Origin::start("app", pair, None).await);
    }
    let addresses: Vec<_> = origins.iter().map(secure::Origin::address).collect();
    let sandbox = Sandbox::new();
    let proxy = towards(&sandbox, &addresses, &ours.pem, &foreign).await;
    for (index, Bad { what, text, .. }) in all.iter().enumerate() {
        let response = proxy.get(&format!("/{index}")).await;
        assert_eq!(response.status, 503, "{what}: {response:?}");
        let story = story(&proxy, &response).await;
        assert!(story.contains(text), "{what}: {story}");
        assert!(origins[index].seen().is_empty(), "{what}");
    }
    assert_eq!(proxy.get(&format!("/{}", all.len())).await.text(), "app");
    assert!(!proxy.process.log().contains("panicked"));
}

/// An authority and a leaf for `spiffe://td/a`, by openssl, which still signs what others do not.
fn old_fashioned(sandbox: &Sandbox, key: &str, hash: &str) -> (String, Pair) {
    let extensions = "subjectAltName=URI:spiffe://td/a\nkeyUsage=digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n";
    sandbox.write("extensions", extensions);
    let program = format!(
        "set -e
         openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem \
           -subj /CN=old -days 3650 -addext keyUsage=critical,keyCertSign
         openssl req -new -newkey {key} -nodes -keyout leaf.key -out leaf.csr -subj /CN=leaf
         openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 -{hash} \
           -extfile extensions -out leaf.pem"
    );
    let output = Command::new("sh").args(["-c", &program]).current_dir(sandbox.path()).output();
    let output = output.expect("sh is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| std::fs::read_to_string(sandbox.path().join(name)).expect("it was written");
    (read("ca.pem"), Pair::of(read("leaf.pem"), read("leaf.key")))
}

#[tokio::test]
async fn c3_what_is_signed_too_weakly() {
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let app = Origin::named("app").await;
    let sandbox = Sandbox::new();
    for (key, hash, good) in [
        ("rsa:2048", "sha256", true),
        ("ec -pkeyopt ec_paramgen_curve:P-256", "sha256", true),
        ("ec -pkeyopt ec_paramgen_curve:P-256", "sha1", false),
        ("rsa:1024", "sha256", false),
    ] {
        let folder = Sandbox::new();
        let (root, pair) = old_fashioned(&folder, key, hash);
        let (chain, key_file) = pair.write(&folder, "shown");
        let bundle = format!("{}{root}", ours.pem);
        let proxy = strict(&sandbox, &ours, &bundle, &foreign, &app).await;
        let before = app.count();
        // By openssl: rustls does not even load such a key.
        let program = format!(
            "printf 'GET / HTTP/1.1\\r\\nhost: edge.test\\r\\nconnection: close\\r\\n\\r\\n' | timeout 20 openssl s_client \
             -connect {} -cert {} -key {} -cipher ALL:@SECLEVEL=0 -ign_eof -quiet",
            proxy.address,
            chain.display(),
            key_file.display()
        );
        // The origin is in this thread.
        let running = tokio::task::spawn_blocking(move || Command::new("sh").args(["-c", &program]).output());
        let output = running.await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(answer.contains("200 OK"), good, "{key} {hash}: {output:?}");
        assert_eq!(app.count() - before, usize::from(good), "{key} {hash}");
    }
}

/// `openssl s_server` with what rustls would not even load; killed when dropped.
async fn weak_server(chain: &std::path::Path, key: &std::path::Path) -> (SocketAddr, tokio::process::Child) {
    let address = sidegate_tests::sandbox::address();
    let mut command = tokio::process::Command::new("openssl");
    command.args(["s_server", "-www", "-cipher", "ALL:@SECLEVEL=0", "-accept", &address.to_string()]);
    command.arg("-cert").arg(chain).arg("-key").arg(key).kill_on_drop(true);
    let (input, output) = (std::process::Stdio::null(), std::process::Stdio::null());
    let child = command.stdin(input).stdout(output).spawn().expect("openssl is installed");
    wait::until("openssl listens", async || TcpStream::connect(address).await.ok()).await;
    (address, child)
}

#[tokio::test]
async fn c3_servers_that_are_signed_too_weakly() {
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    for (key, hash, told) in [
        ("rsa:2048", "sha256", None),
        (
            "ec -pkeyopt ec_paramgen_curve:P-256",
            "sha1",
            Some("it is signed in a way that is not accepted, such as by SHA-1"),
        ),
        ("rsa:1024", "sha256", Some("or one that is too short (RSA below 2,048 bits)")),
    ] {
        let folder = Sandbox::new();
        let (root, pair) = old_fashioned(&folder, key, hash);
        let (chain, key_file) = pair.write(&folder, "shown");
        let (server, _child) = weak_server(&chain, &key_file).await;
        let sandbox = Sandbox::new();
        let bundle = format!("{}{root}", ours.pem);
        let proxy = towards(&sandbox, &[server], &bundle, &foreign).await;
        let response = proxy.get("/0").await;
        match told {
            None => assert_eq!(response.status, 200, "{key} {hash}: {response:?}"),
            Some(told) => {
                let story = story(&proxy, &response).await;
                assert_eq!(response.status, 503, "{key} {hash}");
                assert!(story.contains(told), "{key} {hash}: {story}");
            }
        }
    }
}
