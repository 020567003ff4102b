//! `sidegate serve` with its TLS port, and what stands around it: proxies that have proven who they are, agents, rotations of the root.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::client;
use crate::message::Call;
use crate::process::{Finished, Process, program, run};
use crate::sandbox::{Sandbox, address, local_port};
use crate::secure::Client;
use crate::wait;

/// A running control plane whose proxies come by TLS.
#[derive(Debug)]
pub struct SecuredPlane {
    /// Its process.
    pub process: Process,
    /// Where its pages are.
    pub admin: SocketAddr,
    plain: SocketAddr,
    secure: SocketAddr,
    authority: PathBuf,
}

/// A proxy of ours under it.
#[derive(Debug)]
pub struct SecuredProxy {
    /// Its process.
    pub process: Process,
    admin: SocketAddr,
}

/// `sidegate agent`, and the folder that it keeps.
#[derive(Debug)]
pub struct Agent {
    /// Its process.
    pub process: Process,
    /// Where its files are.
    pub out: PathBuf,
}

/// The files that an agent keeps, for who reads them again and again.
#[derive(Clone, Debug)]
pub struct Files(PathBuf);

impl SecuredPlane {
    /// Starts one on these manifests, with more flags, and waits until it has an authority.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub async fn start(sandbox: &Sandbox, manifests: &[(&str, String)], more: &[&str]) -> Self {
        let folder = sandbox.path().join("manifests");
        std::fs::create_dir_all(&folder).expect("a folder for manifests");
        for (name, text) in manifests {
            std::fs::write(folder.join(name), text).expect("a manifest");
        }
        let (plain, secure, admin) = (address(), address(), address());
        let authority = sandbox.path().join("ca");
        let (manifests, ca) = (folder.display().to_string(), authority.display().to_string());
        let plain_address = plain.to_string();
        let (secure_address, admin_address) = (secure.to_string(), admin.to_string());
        let flags = [
            ["serve", "--manifests", &manifests, "--ca-dir", &ca, "--xds-address", &plain_address].as_slice(),
            &["--secure-xds-address", &secure_address, "--admin-address", &admin_address],
            more,
        ]
        .concat();
        let process = Process::start(sandbox, "control-plane", &program("sidegate"), flags);
        let plane = Self { process, admin, plain, secure, authority };
        wait::until("the control plane has read its folder", async || {
            (plane.status().await?["generation"].as_u64()? > 0).then_some(())
        })
        .await;
        plane
    }

    /// Its plaintext port.
    pub fn plain(&self) -> SocketAddr {
        self.plain
    }

    /// Its TLS port.
    pub fn secure(&self) -> SocketAddr {
        self.secure
    }

    /// `/status`, if it answers.
    pub async fn status(&self) -> Option<Value> {
        serde_json::from_str(&page(self.admin, "/status").await?).ok()
    }

    /// Starts our proxy for `shop/<name>`, whose service account has that name, too, with a token from the authority's folder, and waits until it is ready.
    ///
    /// # Panics
    /// When `sidegate bootstrap` fails.
    pub async fn proxy(&self, sandbox: &Sandbox, role: &str, name: &str) -> SecuredProxy {
        let (port, target, xds) = (local_port(), format!("shop/{name}"), self.secure.to_string());
        let (ca, admin_port) = (self.authority.display().to_string(), port.to_string());
        let arguments =
            ["bootstrap", role, &target, "--service-account", name, "--xds", &xds, "--ca-dir", &ca];
        let arguments = [arguments.as_slice(), &["--admin-port", &admin_port]].concat();
        let bootstrap = run("sidegate", arguments).await;
        assert_eq!(bootstrap.code, Some(0), "{}", bootstrap.err);
        let config = sandbox.write(&format!("{name}.yaml"), &bootstrap.out).display().to_string();
        let flags = ["-c", &config, "--concurrency", "1"];
        let process = Process::start(sandbox, name, &program("sidegate-proxy"), flags);
        let proxy = SecuredProxy { process, admin: ([127, 0, 0, 1], port).into() };
        wait::until("the proxy is ready", async || {
            (proxy.page("/ready").await?.trim() == "LIVE").then_some(())
        })
        .await;
        proxy
    }

    /// The roots in force, as bootstraps name them.
    pub fn root_file(&self) -> PathBuf {
        self.authority.join("root-cert.pem")
    }

    /// A file with a token of a service account of `shop`.
    ///
    /// # Panics
    /// When `sidegate token` fails.
    pub async fn token(&self, sandbox: &Sandbox, account: &str) -> PathBuf {
        let file = sandbox.path().join(format!("{account}.token"));
        let (ca, out) = (self.authority.display().to_string(), file.display().to_string());
        let arguments = ["token", "--namespace", "shop", "--service-account", account, "--ttl", "1h"];
        let minted =
            run("sidegate", [arguments.as_slice(), &["--ca-dir", &ca, "--out", &out]].concat()).await;
        assert_eq!(minted.code, Some(0), "{}", minted.err);
        file
    }

    /// What a bootstrap's metadata say of a proxy that is to get its certificate here.
    pub async fn identity(&self, sandbox: &Sandbox, account: &str) -> Value {
        serde_json::json!({"SIDEGATE_IDENTITY": {
            "ca_address": self.secure.to_string(),
            "root_file": self.root_file(),
            "token_file": self.token(sandbox, account).await,
        }})
    }

    /// Starts an agent for a service account of `shop` and waits for its files.
    ///
    /// # Panics
    /// When `sidegate token` fails.
    pub async fn agent(&self, sandbox: &Sandbox, account: &str) -> Agent {
        let name = format!("agent-{account}");
        let out = sandbox.path().join(&name);
        let token = self.token(sandbox, account).await.display().to_string();
        let (xds, root) = (self.secure.to_string(), self.root_file().display().to_string());
        let folder = out.display().to_string();
        let flags = ["agent", "--ca-address", &xds, "--root-file", &root, "--token-file", &token];
        let flags = [flags.as_slice(), &["--out", &folder]].concat();
        let process = Process::start(sandbox, &name, &program("sidegate"), flags);
        let agent = Agent { process, out };
        wait::until("the agent's files", async || agent.files().client()).await;
        agent
    }

    /// Starts `sidegate rotate-root`, which tells what it waits for until the rotation is done.
    pub fn rotate(&self, sandbox: &Sandbox, name: &str) -> Process {
        Process::start(sandbox, name, &program("sidegate"), self.rotation(&[]))
    }

    /// `sidegate rotate-root` with more flags, to its end.
    pub async fn rotate_root(&self, more: &[&str]) -> Finished {
        run("sidegate", self.rotation(more)).await
    }

    fn rotation(&self, more: &[&str]) -> Vec<String> {
        let (ca, admin) = (self.authority.display().to_string(), self.admin.to_string());
        let flags = ["rotate-root", "--ca-dir", &ca, "--admin", &admin];
        flags.iter().chain(more).map(|flag| (*flag).to_owned()).collect()
    }
}

impl SecuredProxy {
    /// A page of its admin port, if it answers.
    pub async fn page(&self, path: &str) -> Option<String> {
        page(self.admin, path).await
    }

    /// How often it got another certificate.
    ///
    /// # Panics
    /// When it does not tell.
    pub async fn renewals(&self) -> u64 {
        let page = self.page("/stats/prometheus").await.expect("its metrics");
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(r#"sidegate_identity_renewals_total{result="ok"} "#));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no renewals in\n{page}"))
    }

    /// The counters whose names satisfy this, summed.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn sum(&self, of: impl Fn(&str) -> bool) -> u64 {
        let page = self.page("/stats").await.expect("its counters");
        let counters = page.lines().filter_map(|line| line.split_once(": "));
        counters.filter(|(name, _)| of(name)).filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
    }
}

impl Agent {
    /// What it keeps.
    pub fn files(&self) -> Files {
        Files(self.out.clone())
    }
}

impl Files {
    /// A client that shows the newest certificate and trusts the newest roots, read as one generation.
    pub fn client(&self) -> Option<Client> {
        let generation = std::fs::canonicalize(self.0.join("..data")).ok()?;
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        let chain = read(&generation.join("cert-chain.pem"))?;
        let key = read(&generation.join("key.pem"))?;
        let roots = read(&generation.join("root-cert.pem"))?;
        Some(Client::of(&roots, &chain, &key).any_name())
    }
}

async fn page(admin: SocketAddr, path: &str) -> Option<String> {
    let answer = client::try_call(admin, &Call::get(path).host(&admin.to_string())).await.ok()?;
    Some(answer.text())
}
