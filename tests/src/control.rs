//! `sidegate serve` on a folder of manifests, and what it says of itself.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;

use crate::client;
use crate::message::Call;
use crate::process::{Finished, Process, program, run};
use crate::sandbox::{Sandbox, address};
use crate::wait;

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    /// Its process.
    pub process: Process,
    /// The folder it reads.
    pub folder: PathBuf,
    /// Where proxies find it.
    pub xds: SocketAddr,
    admin: SocketAddr,
}

impl ControlPlane {
    /// Starts one on these files and waits until it has read them.
    pub async fn start(sandbox: &Sandbox, files: &[(&str, String)]) -> Self {
        Self::start_at(sandbox, files, address(), address()).await
    }

    /// Starts one at addresses that were told to others before.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub async fn start_at(
        sandbox: &Sandbox,
        files: &[(&str, String)],
        xds: SocketAddr,
        admin: SocketAddr,
    ) -> Self {
        let folder = sandbox.path().join("manifests");
        std::fs::create_dir_all(&folder).expect("a folder for manifests");
        for (name, text) in files {
            std::fs::write(folder.join(name), text).expect("a manifest");
        }
        let process = start(sandbox, &folder, xds, admin);
        let mut control = Self { process, folder, xds, admin };
        control.ready().await;
        control
    }

    /// Starts it again, at the same addresses, after it has ended.
    pub async fn start_again(&mut self, sandbox: &Sandbox) {
        self.process = start(sandbox, &self.folder, self.xds, self.admin);
        self.ready().await;
    }

    async fn ready(&mut self) {
        let admin = self.admin;
        let process = &mut self.process;
        wait::until("the control plane has read its folder", async || {
            assert!(process.is_running(), "the control plane ended");
            let status = fetch(admin).await?;
            (status["generation"].as_u64()? > 0).then_some(())
        })
        .await;
    }

    /// Replaces a file, as an editor does: whole or not at all.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        let draft = self.folder.join(format!(".{name}.draft"));
        std::fs::write(&draft, text).expect("a draft");
        std::fs::rename(draft, self.folder.join(name)).expect("the file replaced");
    }

    /// Removes a file.
    ///
    /// # Panics
    /// When it is not there.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder.join(name)).expect("the file removed");
    }

    /// `/status`.
    pub async fn status(&self) -> Value {
        wait::until("a status", async || fetch(self.admin).await).await
    }

    /// Polls `/status` until it gives something.
    pub async fn until<T>(&self, what: &str, look: impl Fn(&Value) -> Option<T>) -> T {
        wait::until(what, async || look(&fetch(self.admin).await?)).await
    }

    /// Replaces a file and waits until this many proxies have applied the change.
    pub async fn apply(&self, name: &str, text: &str, proxies: usize) {
        let before = self.generation().await;
        self.write(name, text);
        self.applied(before + 1, proxies).await;
    }

    /// The number of the current state of the world.
    pub async fn generation(&self) -> u64 {
        self.status().await["generation"].as_u64().unwrap_or_default()
    }

    /// Waits until this many proxies have applied everything there is, and at least this generation.
    pub async fn applied(&self, generation: u64, proxies: usize) {
        let what = format!("generation {generation} applied by {proxies} proxies");
        self.until(&what, |status| {
            let current = status["generation"].as_u64()?;
            let all = status["proxies"].as_array()?;
            let good =
                all.iter().filter(|proxy| proxy["applied_generation"].as_u64() >= Some(current)).count();
            (current >= generation && good >= proxies).then_some(())
        })
        .await;
    }

    /// Waits until this many proxies have applied everything there is.
    pub async fn synced(&self, proxies: usize) {
        self.applied(1, proxies).await;
    }

    /// A metric without labels on its page; `None` when it is not there.
    pub async fn metric(&self, name: &str) -> Option<u64> {
        let page = client::call(self.admin, &Call::get("/metrics").host("localhost")).await.text();
        let values = page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        values.filter_map(|value| value.parse().ok()).next()
    }

    /// `sidegate status`, as people read it.
    pub async fn printed_status(&self) -> Finished {
        run("sidegate", ["status".to_owned(), "--address".to_owned(), format!("http://{}", self.admin)]).await
    }

    /// The flags with which another one would want the same addresses.
    pub fn flags(&self) -> Vec<String> {
        flags(&self.folder.display().to_string(), self.xds, self.admin)
    }
}

fn start(sandbox: &Sandbox, folder: &std::path::Path, xds: SocketAddr, admin: SocketAddr) -> Process {
    let flags = flags(&folder.display().to_string(), xds, admin);
    Process::start(sandbox, "control-plane", &program("sidegate"), flags)
}

fn flags(folder: &str, xds: SocketAddr, admin: SocketAddr) -> Vec<String> {
    let (xds, admin) = (xds.to_string(), admin.to_string());
    // Beside the manifests: two control planes cannot share one.
    let authority = format!("{folder}.ca");
    let addresses = ["--xds-address", &xds, "--admin-address", &admin, "--secure-xds-address", "127.0.0.1:0"];
    ["serve", "--manifests", folder, "--ca-dir", &authority]
        .into_iter()
        .chain(addresses)
        .map(str::to_owned)
        .collect()
}

async fn fetch(admin: SocketAddr) -> Option<Value> {
    let response = client::try_call(admin, &Call::get("/status").host(&admin.to_string())).await.ok()?;
    serde_json::from_slice(&response.body).ok()
}
