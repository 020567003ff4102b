//! Somebody else is the authority: a server in another language, with another library for gRPC and keys of another program.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use sidegate_tests::client;
use sidegate_tests::load::Load;
use sidegate_tests::process::{Finished, Process, program, run};
use sidegate_tests::sandbox::{address, local_port};

use super::meshed::{Pod, to};
use super::*;

/// The folder of grpcio, when `cargo xtask test` has got it. Without it the scenario says so and is skipped; a CI may not skip.
fn grpcio() -> Option<PathBuf> {
    let found = std::env::var_os(PYTHON).map(PathBuf::from);
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{PYTHON} is not set, and a CI must test a foreign authority"
        );
        eprintln!(
            "SKIPPED: {PYTHON} is not set, so no foreign authority is tested; `cargo xtask test` sets it"
        );
    }
    found
}

const PYTHON: &str = "SIDEGATE_TEST_PYTHON";

/// The authority's folder and where it serves.
struct Foreign {
    folder: PathBuf,
    address: SocketAddr,
    python: PathBuf,
}

impl Foreign {
    fn new(sandbox: &Sandbox, python: PathBuf) -> Self {
        let folder = sandbox.path().join("foreign");
        std::fs::create_dir(&folder).expect("a folder");
        let foreign = Self { folder, address: address(), python };
        foreign.root("one");
        foreign.sign_with("one");
        foreign.openssl(&format!(
            "req -new {KEY} -keyout server.key -out server.csr -subj /CN=ca -addext subjectAltName=DNS:ca.test"
        ));
        foreign.openssl("x509 -req -in server.csr -CA one.pem -CAkey one.key -days 2 -copy_extensions copy -out server.pem");
        foreign.write("life", "3600");
        let tokens = ["sidegate-system/sidegate", "shop/web", "shop/app"].map(|account| {
            let (namespace, name) = account.split_once('/').expect("a namespace and a name");
            std::fs::write(foreign.token(name), format!("token-of-{name}\n")).expect("a file written");
            format!("token-of-{name} spiffe://cluster.local/ns/{namespace}/sa/{name}\n")
        });
        foreign.write("tokens", &tokens.concat());
        std::fs::copy(foreign.folder.join("one.pem"), foreign.roots()).expect("a file copied");
        foreign
    }

    fn openssl(&self, arguments: &str) {
        let arguments = arguments.split_whitespace();
        let output =
            Command::new("openssl").args(arguments).current_dir(&self.folder).output().expect("openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Makes a root.
    fn root(&self, name: &str) {
        self.openssl(&format!(
            "req -x509 {KEY} -keyout {name}.key -out {name}.pem -days 2 -subj /CN={name} -addext keyUsage=critical,keyCertSign,cRLSign"
        ));
    }

    fn sign_with(&self, name: &str) {
        let at = |name: String| self.folder.join(name);
        std::fs::copy(at(format!("{name}.key")), at("ca.key".to_owned())).expect("a file copied");
        for to in ["ca.pem", "root.pem"] {
            std::fs::copy(at(format!("{name}.pem")), at(to.to_owned())).expect("a file copied");
        }
    }

    /// Whom everybody trusts.
    fn trust(&self, names: &[&str]) {
        let read =
            |name: &&str| std::fs::read_to_string(self.folder.join(format!("{name}.pem"))).expect("a file");
        let draft = self.folder.join("draft");
        std::fs::write(&draft, names.iter().map(read).collect::<String>()).expect("a file written");
        std::fs::rename(draft, self.roots()).expect("a file moved");
    }

    fn roots(&self) -> PathBuf {
        self.folder.join("trusted.pem")
    }

    fn token(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.token"))
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join(name), text).expect("a file written");
    }

    /// What it was asked, one line each.
    fn calls(&self) -> String {
        std::fs::read_to_string(self.folder.join("calls")).unwrap_or_default()
    }

    async fn start(&self, sandbox: &Sandbox) -> Process {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/identity/external/authority.py");
        // The environment is the only way to tell python where a package is.
        let python = Path::new("/usr/bin/env");
        let path = format!("PYTHONPATH={}", self.python.display());
        let (folder, address) = (self.folder.display().to_string(), self.address.to_string());
        let script = script.display().to_string();
        let arguments = [path.as_str(), "python3", "-u", &script, &folder, &address];
        let process = Process::start(sandbox, "authority", python, arguments);
        wait::until("the authority", async || tokio::net::TcpStream::connect(self.address).await.ok()).await;
        process
    }
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

/// A control plane under it.
struct Plane {
    process: Process,
    secure: SocketAddr,
    admin: SocketAddr,
    folder: String,
}

impl Plane {
    fn start(sandbox: &Sandbox, foreign: &Foreign, pods: &[&Pod]) -> Self {
        let manifests = sandbox.path().join("manifests");
        std::fs::create_dir(&manifests).expect("a folder");
        for pod in pods {
            std::fs::write(manifests.join(format!("{}.yaml", pod.name)), &pod.manifest)
                .expect("a file written");
        }
        let (plain, secure, admin) = (address(), address(), address());
        let folder = sandbox.path().join("ca").display().to_string();
        let flags = [
            "serve".to_owned(),
            format!("--manifests={}", manifests.display()),
            format!("--ca-dir={folder}"),
            format!("--xds-address={plain}"),
            format!("--secure-xds-address={secure}"),
            format!("--admin-address={admin}"),
            format!("--ca-address={}", foreign.address),
            "--ca-server-name=ca.test".to_owned(),
            format!("--ca-root={}", foreign.roots().display()),
            format!("--ca-token={}", foreign.token("sidegate").display()),
        ];
        let process = Process::start(sandbox, "control-plane", &program("sidegate"), flags);
        Self { process, secure, admin, folder }
    }

    /// The external authority's part of `/status`, until it gives something.
    async fn until<T>(&self, what: &str, look: impl Fn(&Value) -> Option<T>) -> T {
        wait::until(what, async || {
            let status: Value = serde_json::from_str(&meshed::page(self.admin, "/status").await?).ok()?;
            look(&status["external_ca"])
        })
        .await
    }

    async fn serial(&self) -> String {
        self.until("a certificate of its own", |ca| Some(ca["serial"].as_str()?.to_owned())).await
    }

    async fn command(&self, command: &str, more: &[&str]) -> Finished {
        let admin = self.admin.to_string();
        run("sidegate", [[command, "--ca-dir", &self.folder, "--admin", &admin].as_slice(), more].concat())
            .await
    }

    async fn sidecar(&self, sandbox: &Sandbox, foreign: &Foreign, pod: &Pod) -> (Process, SocketAddr) {
        let port = local_port().to_string();
        let flags = [
            "bootstrap".to_owned(),
            "sidecar".to_owned(),
            format!("shop/{}", pod.name),
            format!("--service-account={}", pod.name),
            format!("--xds={}", self.secure),
            format!("--admin-port={port}"),
            format!("--ca-address={}", foreign.address),
            "--ca-server-name=ca.test".to_owned(),
            format!("--ca-root={}", foreign.roots().display()),
            format!("--token-file={}", foreign.token(pod.name).display()),
        ];
        let bootstrap = run("sidegate", flags).await;
        assert_eq!(bootstrap.code, Some(0), "{}", bootstrap.err);
        meshed::sidecar(sandbox, pod, &bootstrap.out, &port)
    }
}

/// The serial number of a proxy's own certificate.
async fn serial(admin: SocketAddr) -> Option<String> {
    let certs: Value = serde_json::from_str(&meshed::page(admin, "/certs").await?).ok()?;
    let own = certs["certificates"].as_array()?.last()?;
    Some(own["cert_chain"][0]["serial_number"].as_str()?.to_owned())
}

#[allow(clippy::too_many_lines, reason = "one story, read from top to bottom")]
#[tokio::test]
async fn an_authority_of_somebody_else_certifies_the_mesh() {
    let Some(python) = grpcio() else { return };
    let sandbox = Sandbox::new();
    let foreign = Foreign::new(&sandbox, python);
    let (web, app) = (Pod::new("web").await, Pod::new("app").await);
    // It is away at the start: the port is shut, and the page says why.
    let plane = Plane::start(&sandbox, &foreign, &[&web, &app]);
    let why = plane.until("a reason", |ca| Some(ca["last_failure"].as_str()?.to_owned())).await;
    assert!(why.contains(&foreign.address.to_string()), "{why}");
    let status = run("sidegate", ["status", "--address", &plane.admin.to_string()]).await;
    assert!(status.out.contains("port 15012 lets nobody in"), "{status:?}");
    let authority = foreign.start(&sandbox).await;
    let first = plane.serial().await;
    let (_web_proxy, web_admin) = plane.sidecar(&sandbox, &foreign, &web).await;
    let (_app_proxy, app_admin) = plane.sidecar(&sandbox, &foreign, &app).await;
    meshed::serves(&web, "app").await;
    for who in ["ns/sidegate-system/sa/sidegate", "ns/shop/sa/web", "ns/shop/sa/app"] {
        let line = format!("signed spiffe://cluster.local/{who} URI:spiffe://cluster.local/{who}\n");
        assert!(foreign.calls().contains(&line), "{}", foreign.calls());
    }
    assert!(!foreign.calls().contains("refused"), "{}", foreign.calls());

    // Its root is changed as people do it: trusted first, then signing, then alone. Nobody fails.
    let load = Load::start(web.outbound, 50, to("app.shop"));
    foreign.root("two");
    foreign.trust(&["one", "two"]);
    plane.until("both roots", |ca| (ca["roots"].as_array()?.len() == 2).then_some(())).await;
    foreign.sign_with("two");
    // What lives for an hour is not renewed yet: it is replaced below, because its root goes.
    let before = (serial(web_admin).await.unwrap(), serial(app_admin).await.unwrap());
    load.more(20).await;
    let refused = plane.command("rotate-root", &[]).await;
    assert_eq!((refused.code, refused.err.lines().count()), (Some(1), 1), "{refused:?}");
    assert!(refused.err.contains("trusted.pem"), "{refused:?}");
    let counts = load.stop().await;
    assert_eq!(counts.failed, 0, "{:?}", counts.failures);
    // The server of the authority shows a certificate of the new root, too, from now on.
    drop(authority);
    foreign.openssl(
        "x509 -req -in server.csr -CA two.pem -CAkey two.key -days 2 -copy_extensions copy -out server.pem",
    );
    let authority = foreign.start(&sandbox).await;
    foreign.trust(&["two"]);
    let renewed = plane.until("a certificate of the new root", |ca| {
        let serial = ca["serial"].as_str()?;
        (serial != first).then(|| serial.to_owned())
    });
    assert_ne!(renewed.await, first);
    wait::until("certificates of the new root", async || {
        (serial(web_admin).await? != before.0 && serial(app_admin).await? != before.1).then_some(())
    })
    .await;
    meshed::serves(&web, "app").await;

    // An identity can be denied; a serial number is for the authority's own PKI.
    let serial = plane.command("revoke", &["--serial", "4a"]).await;
    assert!(serial.code == Some(1) && serial.err.contains("crl.pem"), "{serial:?}");
    let denied = plane.command("revoke", &["--id", "spiffe://cluster.local/ns/shop/sa/web"]).await;
    assert_eq!(denied.code, Some(0), "{denied:?}");
    wait::until("the denied is refused", async || {
        (client::try_call(web.outbound, &to("app.shop")).await.ok()?.status == 502).then_some(())
    })
    .await;
    drop(authority);
    assert!(plane.process.log().contains("port 15012 shows a new certificate"));
}

#[tokio::test]
async fn an_authority_of_somebody_else_renews_by_token_and_may_be_away() {
    let Some(python) = grpcio() else { return };
    let sandbox = Sandbox::new();
    let foreign = Foreign::new(&sandbox, python);
    foreign.write("life", "12");
    let (web, app) = (Pod::new("web").await, Pod::new("app").await);
    let authority = foreign.start(&sandbox).await;
    let plane = Plane::start(&sandbox, &foreign, &[&web, &app]);
    let first = plane.serial().await;
    let (_web_proxy, web_admin) = plane.sidecar(&sandbox, &foreign, &web).await;
    let (_app_proxy, _) = plane.sidecar(&sandbox, &foreign, &app).await;
    meshed::serves(&web, "app").await;
    let before = serial(web_admin).await.unwrap();
    let load = Load::start(web.outbound, 50, to("app.shop"));
    plane.until("another certificate", |ca| (ca["serial"].as_str()? != first).then_some(())).await;
    wait::until("another leaf", async || (serial(web_admin).await? != before).then_some(())).await;
    let counts = load.stop().await;
    assert_eq!(counts.failed, 0, "{:?}", counts.failures);
    // It goes away: the port serves until its certificate is over, and then lets nobody in.
    drop(authority);
    plane
        .until("a failure that is told", |ca| {
            (ca["last_failure"].is_string() && ca["serial"].is_string()).then_some(())
        })
        .await;
    plane.until("the end of its certificate", |ca| ca["serial"].is_null().then_some(())).await;
    let _authority = foreign.start(&sandbox).await;
    plane.serial().await;
    meshed::serves(&web, "app").await;
}

#[tokio::test]
async fn flags_of_an_external_authority_that_do_not_fit_are_one_line() {
    let sandbox = Sandbox::new();
    let root = sandbox.write("root.pem", &Authority::new("root").pem).display().to_string();
    let token = sandbox.write("token", "t").display().to_string();
    let manifests = sandbox.path().display().to_string();
    let folder = sandbox.path().join("ca").display().to_string();
    let base = ["serve", "--manifests", &manifests, "--ca-dir", &folder];
    let good = ["--ca-address", "ca.test:443", "--ca-root", &root, "--ca-token", &token];
    for (more, word) in [
        ([good.as_slice(), &["--no-ca"]].concat(), "--no-ca"),
        ([good.as_slice(), &["--ca-cert", &root, "--ca-key", &root]].concat(), "--ca-cert"),
        ([good.as_slice(), &["--leaf-ttl", "1h"]].concat(), "--leaf-ttl"),
        (good[..4].to_vec(), "--ca-token"),
        (vec!["--ca-root", &root], "--ca-cert"),
        (["--ca-address", "ca.test"].iter().chain(&good[2..]).copied().collect(), "HOST:PORT"),
        (["--ca-token", "/none"].iter().chain(&good[..4]).copied().collect(), "--ca-token"),
    ] {
        let refused = run("sidegate", [base.as_slice(), &more].concat()).await;
        assert_eq!(refused.code, Some(2), "{more:?}: {refused:?}");
        assert!(refused.err.contains(word), "{more:?}: {refused:?}");
    }
}
