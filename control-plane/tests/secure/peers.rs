//! Other people's clients on the TLS port.

use std::process::{Command, Stdio};

use crate::plane::Plane;

/// Runs a program; nothing when this machine does not have it.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some(String::from_utf8_lossy(&text).into_owned())
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{program}: {error}");
            eprintln!("SKIPPED: {program}: {error}");
            None
        }
    }
}

#[tokio::test]
async fn openssl_verifies_the_port_by_name_and_shows_it_a_certificate() {
    let plane = Plane::start(&[]);
    let leaf = plane.leaf("web").await;
    let (root, address) = (plane.ca().join("root-cert.pem").display().to_string(), plane.secure.to_string());
    let (cert, key) = (plane.folder.path().join("leaf.pem"), plane.folder.path().join("leaf.key"));
    std::fs::write(&cert, &leaf.pem).unwrap();
    std::fs::write(&key, &leaf.key_pem).unwrap();
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let common = [
        "s_client",
        "-connect",
        &address,
        "-CAfile",
        &root,
        "-verify_return_error",
        "-verify_hostname",
        "sidegate.sidegate-system.svc",
        "-alpn",
        "h2",
    ];
    let Some(text) = run("openssl", &[&common[..], &["-cert", &cert, "-key", &key]].concat()) else { return };
    for part in [
        "Verify return code: 0 (ok)",
        "ALPN protocol: h2",
        "TLSv1.3",
        "Acceptable client certificate CA names",
    ] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    let text = run("openssl", &[&common[..], &["-tls1_2"]].concat()).unwrap();
    assert!(text.contains("alert protocol version"), "{text}");
    let with_ip = [
        "s_client",
        "-connect",
        &address,
        "-CAfile",
        &root,
        "-verify_return_error",
        "-verify_ip",
        "127.0.0.1",
    ];
    assert!(run("openssl", &with_ip).unwrap().contains("Verify return code: 0 (ok)"));
}

#[tokio::test]
async fn curl_is_told_in_grpcs_words_that_it_has_proven_nothing() {
    let plane = Plane::start(&[]);
    let root = plane.ca().join("root-cert.pem").display().to_string();
    let url = format!(
        "https://localhost:{}/istio.v1.auth.IstioCertificateService/CreateCertificate",
        plane.secure.port()
    );
    let resolve = format!("localhost:{}:127.0.0.1", plane.secure.port());
    let flags = [
        "-sS",
        "--http2",
        "--cacert",
        &root,
        "--resolve",
        &resolve,
        "-D",
        "-",
        "-o",
        "/dev/null",
        "-X",
        "POST",
        "-H",
        "content-type: application/grpc",
        "-H",
        "te: trailers",
        &url,
    ];
    let Some(text) = run("curl", &flags) else { return };
    // 16 is UNAUTHENTICATED.
    assert!(text.contains("HTTP/2 200") && text.contains("grpc-status: 16"), "{text}");
}
