//! The authority beside OpenSSL: requests that OpenSSL makes, authorities that OpenSSL makes, and chains that OpenSSL verifies.
//! Without the program `openssl` there is nothing to compare with, and each test says so and ends.

#![allow(clippy::unwrap_used, reason = "what a test's helper cannot do fails the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sidegate::ca::report::Reason;
use sidegate::ca::{Authority, Given, Issued, Options, Order, Proof};
use sidegate_xds::spiffe::SpiffeId;

struct Openssl {
    folder: tempfile::TempDir,
}

impl Openssl {
    /// None when there is no such program here.
    fn find() -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("passed over: there is no program `openssl`");
            return None;
        }
        Some(Self { folder: tempfile::tempdir().unwrap() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn try_run(&self, arguments: &str) -> Output {
        let arguments = arguments.split_whitespace();
        Command::new("openssl").args(arguments).current_dir(self.folder.path()).output().unwrap()
    }

    fn run(&self, arguments: &str) -> String {
        let output = self.try_run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Verifies a chain strictly, for both ends of TLS; gives the leaf as text.
    fn verify(&self, issued: &Issued) -> String {
        let (leaf, rest) = issued.chain.split_first().unwrap();
        let (root, between) = rest.split_last().unwrap();
        self.write("leaf.pem", leaf);
        self.write("root.pem", root);
        self.write("between.pem", &between.concat());
        let between = if between.is_empty() { "" } else { "-untrusted between.pem" };
        for purpose in ["sslserver", "sslclient"] {
            self.run(&format!("verify -x509_strict -purpose {purpose} -CAfile root.pem {between} leaf.pem"));
        }
        self.run("x509 -in leaf.pem -noout -text -nameopt RFC2253")
    }

    fn order(&self, key: &str, more: &str) -> Order {
        let request = self.run(&format!("req -new -newkey {key} -nodes -keyout leaf.key -subj / {more}"));
        let identity = SpiffeId::workload("cluster.local", "shop", "web").unwrap();
        Order { request, identity, ttl: None, proof: Proof::Token("test".to_owned()), supersedes: None }
    }

    /// A root and an intermediate under it.
    fn pki(&self, key: &str, subject: &str) -> Given {
        self.write("ca.cnf", "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n");
        self.run(&format!(
            "req -x509 -newkey {key} -nodes -keyout root.key -out given-root.pem -days 30 -subj /CN=Root -addext keyUsage=critical,keyCertSign,cRLSign"
        ));
        self.run(&format!("req -new -newkey {key} -nodes -keyout given.key -out given.csr -subj {subject}"));
        self.run("x509 -req -in given.csr -CA given-root.pem -CAkey root.key -days 20 -extfile ca.cnf -out given.pem");
        Given {
            certificate: self.path("given.pem"),
            key: self.path("given.key"),
            root: Some(self.path("given-root.pem")),
        }
    }

    fn open(&self, given: Option<Given>, folder: &str) -> Result<Authority, String> {
        let options = Options { given, ..Options::new(self.path(folder), "cluster.local") };
        Authority::open(options).map_err(|error| error.to_string())
    }
}

const EC: &str = "ec -pkeyopt ec_paramgen_curve:P-256";

#[tokio::test]
async fn a_leaf_is_what_openssl_expects_of_one() {
    let Some(openssl) = Openssl::find() else { return };
    let authority = openssl.open(None, "ca").unwrap();
    let named = "-addext subjectAltName=URI:spiffe://cluster.local/ns/shop/sa/web";
    for (key, more) in
        [(EC, named), ("ec -pkeyopt ec_paramgen_curve:P-384", ""), ("ed25519", named), ("rsa:3072", "")]
    {
        let issued = authority.issue(openssl.order(key, more)).await.unwrap();
        let text = openssl.verify(&issued);
        for wanted in [
            "Subject: \n",
            "X509v3 Subject Alternative Name: critical\n                URI:spiffe://cluster.local/ns/shop/sa/web\n",
            "X509v3 Key Usage: critical\n                Digital Signature\n",
            "TLS Web Client Authentication, TLS Web Server Authentication",
            "X509v3 Basic Constraints: critical\n                CA:FALSE\n",
        ] {
            assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
        }
    }
    let root = openssl.run("x509 -in ca/root-cert.pem -noout -text");
    assert!(root.contains("CA:TRUE") && root.contains("Certificate Sign, CRL Sign"), "{root}");
    assert!(root.contains("prime256v1"), "{root}");
}

#[tokio::test]
async fn g4_what_openssl_can_ask_for_beyond_an_id_is_refused() {
    let Some(openssl) = Openssl::find() else { return };
    let authority = openssl.open(None, "ca").unwrap();
    for more in [
        "-addext subjectAltName=URI:spiffe://cluster.local/ns/shop/sa/pay",
        "-addext subjectAltName=URI:spiffe://cluster.local/ns/shop/sa/web,DNS:pay",
        "-addext basicConstraints=critical,CA:TRUE",
        "-addext keyUsage=keyCertSign",
        "-addext nsComment=hello",
        "-addext nameConstraints=permitted;DNS:example.com",
    ] {
        let refused = authority.issue(openssl.order(EC, more)).await;
        assert!(refused.is_err(), "{more}");
    }
}

#[tokio::test]
async fn authorities_that_openssl_makes_sign() {
    let Some(openssl) = Openssl::find() else { return };
    // Older forms of the same key, with what OpenSSL writes before it.
    let rewrite = |kind: &str| {
        let older = if kind == "ec" { "" } else { "-traditional" };
        let text = openssl.run(&format!("{kind} -in given.key {older}"));
        let parameters = if kind == "ec" { openssl.run("ecparam -name prime256v1") } else { String::new() };
        openssl.write("given.key", &format!("{parameters}{text}"));
    };
    for (folder, key, change) in [
        ("rsa", "rsa:2048", "pkcs8"),
        ("rsa-older", "rsa:2048", "rsa"),
        ("p384", "ec -pkeyopt ec_paramgen_curve:P-384", "pkcs8"),
        ("ec-older", EC, "ec"),
    ] {
        let given = openssl.pki(key, "/O=Example/CN=Issuing");
        if change != "pkcs8" {
            rewrite(change);
        }
        let authority = openssl.open(Some(given), folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
        let issued = authority.issue(openssl.order(EC, "")).await.unwrap();
        openssl.verify(&issued);
        drop(authority);
        let again = openssl.open(None, folder).unwrap_or_else(|error| panic!("{folder}, again: {error}"));
        openssl.verify(&again.issue(openssl.order(EC, "")).await.unwrap());
        assert!(is_private(&openssl.path(folder)));
    }
}

fn is_private(folder: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::read_dir(folder).unwrap().all(|entry| {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        mode == 0o600 || (mode == 0o644 && entry.file_name() == "root-cert.pem")
    })
}

#[test]
fn an_authority_whose_chains_would_not_verify_is_refused() {
    let Some(openssl) = Openssl::find() else { return };
    let refusal = |given: Given, folder: &str| openssl.open(Some(given), folder).unwrap_err();
    let small = openssl.try_run(
        "req -x509 -newkey rsa:1024 -nodes -keyout small.key -out small.pem -days 3 -subj /CN=Small",
    );
    assert!(small.status.success());
    let given = Given { certificate: openssl.path("small.pem"), key: openssl.path("small.key"), root: None };
    let said = refusal(given, "small");
    assert!(said.contains("1024") || said.contains("RSA"), "{said}");
    // A name with two parts of one kind, as directories have them: it must come out as it is, or not at all.
    let given = openssl.pki(EC, "/DC=com/DC=example/CN=Issuing");
    match openssl.open(Some(given), "directory") {
        Ok(_) => {}
        Err(said) => {
            assert!(said.contains("would not be accepted") || said.contains("cannot be used"), "{said}")
        }
    }
}

#[tokio::test]
async fn a_revoked_leaf_is_refused_by_openssl_with_our_list() {
    let Some(openssl) = Openssl::find() else { return };
    for given in [None, Some(openssl.pki(EC, "/CN=Given"))] {
        let folder = if given.is_some() { "given-ca" } else { "ca" };
        let authority = openssl.open(given, folder).unwrap();
        let (bad, good) = (
            authority.issue(openssl.order(EC, "")).await.unwrap(),
            authority.issue(openssl.order(EC, "")).await.unwrap(),
        );
        authority.revoke(bad.serial.clone(), Reason::KeyCompromise, false).await.unwrap();
        openssl.write("crl.pem", &authority.trust().borrow().revocation.concat());
        let text = openssl.run("crl -in crl.pem -noout -text");
        assert!(text.contains("Key Compromise") && text.contains("X509v3 CRL Number"), "{text}");
        for (issued, word) in [(&bad, "certificate revoked"), (&good, "OK")] {
            openssl.verify(issued);
            let output = openssl.try_run(
                "verify -x509_strict -crl_check -CRLfile crl.pem -CAfile root.pem -untrusted between.pem leaf.pem",
            );
            let said = [output.stdout, output.stderr].concat();
            assert!(
                String::from_utf8_lossy(&said).contains(word),
                "{folder}: {}",
                String::from_utf8_lossy(&said)
            );
        }
    }
}
