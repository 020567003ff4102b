//! The running shop: control plane, gateway, and a sidecar and an app for each Pod, every one a process of its own.

use std::fs::{File, TryLockError};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::client::Client;
use super::control::{ControlPlane, Expected};
use super::error::DemoError;
use super::layout::{self, Layout};
use super::manifests::{self, Manifests, ShopPod};
use super::processes::{Death, Processes};
use super::sample::HEALTH_PATH;

/// Everything that runs, and the folder that it runs from.
#[derive(Debug)]
pub(super) struct Mesh {
    /// The children.
    pub(super) processes: Processes,
    /// The files that the control plane watches.
    pub(super) manifests: Manifests,
    /// Where everything listens.
    pub(super) layout: Layout,
    /// The control plane's admin page.
    pub(super) control: ControlPlane,
    /// The proxies that must apply every change.
    pub(super) expected: Expected,
    root: TempDir,
    turn: Option<File>,
    /// The ports of the Pod that starts later, so that nobody takes them meanwhile.
    reserved: Vec<TcpListener>,
}

impl Mesh {
    /// Chooses ports and writes the manifests; starts nothing but the guard.
    pub(super) async fn prepare() -> Result<(Self, mpsc::Receiver<Death>), DemoError> {
        let turn = take_turn().await;
        let layout = layout::choose(&manifests::wanted()?, can_listen)?;
        let root = tempfile::Builder::new().prefix("sidegate-demo-").tempdir().map_err(DemoError::folder)?;
        let manifests = Manifests::write_all(root.path(), &layout)?;
        let reserved = reserve(&layout);
        let (processes, deaths) = Processes::new(root.path().join("logs"))?;
        let control = ControlPlane::new(layout.control_admin);
        let mesh =
            Self { processes, manifests, layout, control, expected: Expected::new(), root, turn, reserved };
        Ok((mesh, deaths))
    }

    /// Starts the control plane, or starts it again, and waits until it answers.
    pub(super) async fn start_control_plane(&mut self) -> Result<(), DemoError> {
        let arguments = [
            "serve",
            "--manifests",
            &self.manifests.folder().display().to_string(),
            "--xds-address",
            &self.layout.plain_xds.to_string(),
            "--secure-xds-address",
            &self.layout.xds.to_string(),
            "--ca-dir",
            &self.authority().display().to_string(),
            "--admin-address",
            &self.layout.control_admin.to_string(),
        ]
        .map(str::to_owned);
        self.processes.start(CONTROL_PLANE, &arguments)?;
        self.wait_for_page(CONTROL_PLANE, self.layout.control_admin, "/healthz").await
    }

    /// Starts the gateway.
    pub(super) async fn start_gateway(&mut self) -> Result<(), DemoError> {
        let who = format!("{}/{}", manifests::NAMESPACE, manifests::GATEWAY);
        self.start_proxy(GATEWAY_PROXY, &["gateway", &who], manifests::GATEWAY, self.layout.gateway_admin)
            .await?;
        self.expected.insert(format!("gateway {}", manifests::GATEWAY));
        Ok(())
    }

    /// Starts a Pod's app and its sidecar.
    pub(super) async fn start_pod(&mut self, pod: &ShopPod) -> Result<(), DemoError> {
        let listen = SocketAddr::new(pod.place.address, pod.place.app).to_string();
        let mut arguments: Vec<String> = [
            "sample-app",
            "--name",
            &pod.app,
            "--version",
            &pod.version,
            "--pod",
            &pod.name,
            "--listen",
            &listen,
        ]
        .map(str::to_owned)
        .into();
        if let Some(next) = next_app(&pod.app) {
            let proxy = SocketAddr::new(pod.place.address, pod.place.outbound);
            let url = format!("http://{next}.{}/", manifests::NAMESPACE);
            arguments.extend(["--upstream".to_owned(), url, "--proxy".to_owned(), format!("http://{proxy}")]);
        }
        self.processes.start(&app_process(&pod.name), &arguments)?;
        let who = format!("{}/{}", manifests::NAMESPACE, pod.name);
        self.start_proxy(&sidecar_process(&pod.name), &["sidecar", &who], &pod.account, pod.place.admin)
            .await?;
        self.expected.insert(format!("sidecar {}", pod.name));
        Ok(())
    }

    /// Waits until a Pod's app and sidecar say that they are ready.
    pub(super) async fn wait_pod(&self, pod: &ShopPod) -> Result<(), DemoError> {
        let app = SocketAddr::new(pod.place.address, pod.place.app);
        self.wait_for_page(&app_process(&pod.name), app, HEALTH_PATH).await?;
        self.wait_for_page(&sidecar_process(&pod.name), local(pod.place.admin), READY_PATH).await
    }

    /// Waits until the gateway says that it is ready.
    pub(super) async fn wait_gateway(&self) -> Result<(), DemoError> {
        self.wait_for_page(GATEWAY_PROXY, local(self.layout.gateway_admin), READY_PATH).await
    }

    /// `sidegate rotate-root`: begins it.
    pub(super) async fn rotate_root(&self) -> Result<(), String> {
        let (admin, folder) = (self.layout.control_admin.to_string(), self.authority().display().to_string());
        command(&["rotate-root", "--no-wait", "--admin", &admin, "--ca-dir", &folder]).await.map(drop)
    }

    /// The folder of the demo's own certificate authority: it ends with the demo.
    pub(super) fn authority(&self) -> PathBuf {
        self.root.path().join("authority")
    }

    /// Everything listens now: the next demo may choose its ports.
    pub(super) fn end_turn(&mut self) {
        self.turn = None;
    }

    /// Starts the Pod that replaces the lost one, at the ports that were held for it.
    pub(super) async fn start_replacement(&mut self, pod: &ShopPod) -> Result<(), DemoError> {
        self.reserved.clear();
        self.start_pod(pod).await
    }

    /// A failed start or step, with the end of the log of the child to blame.
    pub(super) fn failure(&self, part: &str, reason: &str) -> DemoError {
        DemoError::Part {
            part: part.to_owned(),
            reason: reason.to_owned(),
            log: self.processes.log_tail(part),
        }
    }

    /// Leaves the folder on the disk, for its logs.
    pub(super) fn keep_folder(&mut self) -> PathBuf {
        self.root.disable_cleanup(true);
        self.root.path().to_owned()
    }

    async fn start_proxy(
        &mut self,
        name: &str,
        who: &[&str; 2],
        account: &str,
        admin: u16,
    ) -> Result<(), DemoError> {
        let bootstrap =
            self.bootstrap(who, account, admin).await.map_err(|reason| self.failure(name, &reason))?;
        let path = self.root.path().join(format!("{name}.yaml"));
        std::fs::write(&path, bootstrap).map_err(DemoError::folder)?;
        let path = path.display().to_string();
        let arguments = ["proxy", "-c", &path, "--concurrency", WORKERS].map(str::to_owned);
        Ok(self.processes.start(name, &arguments)?)
    }

    /// What `sidegate bootstrap` prints: the demo uses the command that people use.
    async fn bootstrap(&self, who: &[&str; 2], account: &str, admin: u16) -> Result<Vec<u8>, String> {
        let (xds, admin) = (self.layout.xds.to_string(), admin.to_string());
        let folder = self.authority().display().to_string();
        let target = ["bootstrap", who[0], who[1], "--xds", &xds, "--admin-port", &admin];
        command(&[&target[..], &["--service-account", account, "--ca-dir", &folder]].concat()).await
    }

    async fn wait_for_page(&self, name: &str, address: SocketAddr, path: &str) -> Result<(), DemoError> {
        let client = Client::new(address);
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let reason = match tokio::time::timeout(PAGE_LIMIT, client.get(path)).await {
                Ok(Ok(response)) if response.status() == http::StatusCode::OK => return Ok(()),
                Ok(Ok(response)) => format!("http://{address}{path} answers {}", response.status()),
                Ok(Err(error)) => error.to_string(),
                Err(_elapsed) => format!("http://{address}{path} does not answer"),
            };
            if Instant::now() >= deadline {
                let reason = format!("not ready after {} s: {reason}", START_LIMIT.as_secs());
                return Err(self.failure(name, &reason));
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }
}

/// A command of this program, run to its end; what it prints.
async fn command(arguments: &[&str]) -> Result<Vec<u8>, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    let output = command.args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("`sidegate {}` failed: {}", arguments.join(" "), said.trim()))
}

/// The name of a Pod's app among the processes.
pub(super) fn app_process(pod: &str) -> String {
    format!("app-{pod}")
}

/// The name of a Pod's sidecar among the processes.
pub(super) fn sidecar_process(pod: &str) -> String {
    format!("sidecar-{pod}")
}

/// Whom each app of the shop calls.
fn next_app(app: &str) -> Option<&'static str> {
    match app {
        "web" => Some("catalog"),
        "catalog" => Some("reviews"),
        _ => None,
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Two demos that start at once must not choose the same ports: one waits for the other. The lock is on the program's
/// own file, so it needs no place of its own. A demo that cannot lock goes on; a port taken meanwhile is reported.
async fn take_turn() -> Option<File> {
    let file = File::open(std::env::current_exe().ok()?).ok()?;
    let deadline = Instant::now() + START_LIMIT;
    let mut told = false;
    while Instant::now() < deadline {
        match file.try_lock() {
            Ok(()) => return Some(file),
            Err(TryLockError::Error(_)) => return None,
            Err(TryLockError::WouldBlock) if told => tokio::time::sleep(POLL_EVERY).await,
            Err(TryLockError::WouldBlock) => {
                eprintln!("waiting until another demo has chosen its ports…");
                told = true;
            }
        }
    }
    None
}

/// Listens where the replacement will; what cannot be held is found out when it starts.
fn reserve(layout: &Layout) -> Vec<TcpListener> {
    let Some(place) = layout.pods.get(manifests::REPLACEMENT) else { return Vec::new() };
    let ports = [place.app, place.inbound, place.outbound].map(|port| SocketAddr::new(place.address, port));
    ports
        .into_iter()
        .chain([local(place.admin)])
        .filter_map(|address| TcpListener::bind(address).ok())
        .collect()
}

fn can_listen(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

/// The control plane among the processes.
pub(super) const CONTROL_PLANE: &str = "control-plane";
/// The gateway among the processes.
pub(super) const GATEWAY_PROXY: &str = "gateway";
/// More than one, so that a change must reach several workers of each proxy.
const WORKERS: &str = "2";
const READY_PATH: &str = "/ready";
const START_LIMIT: Duration = Duration::from_secs(20);
const PAGE_LIMIT: Duration = Duration::from_secs(2);
const POLL_EVERY: Duration = Duration::from_millis(25);
