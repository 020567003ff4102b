//! Pods with an app and a sidecar that has an identity.

use std::net::SocketAddr;

use sidegate_tests::client;
use sidegate_tests::manifests::pod;
use sidegate_tests::message::Call;
use sidegate_tests::process::{Process, program};
use sidegate_tests::sandbox::address;

use super::*;

/// A Pod whose service account has its name.
pub(super) struct Pod {
    pub(super) name: &'static str,
    // It serves for as long as the Pod is held.
    _app: Origin,
    pub(super) outbound: SocketAddr,
    pub(super) manifest: String,
}

impl Pod {
    pub(super) async fn new(name: &'static str) -> Self {
        let app = Origin::http1_at(address(), move |_| sidegate_tests::origin::Answer::text(name)).await;
        let at = |port| SocketAddr::new(app.address().ip(), port);
        let (inbound, outbound) = (address().port(), at(address().port()));
        let manifest = pod(name, app.address(), inbound, outbound.port())
            .replace("spec: {containers:", &format!("spec: {{serviceAccountName: {name}, containers:"));
        Self { name, _app: app, outbound, manifest }
    }
}

/// Starts a Pod's sidecar by a bootstrap; gives its admin address, too.
pub(super) fn sidecar(sandbox: &Sandbox, pod: &Pod, bootstrap: &str, port: &str) -> (Process, SocketAddr) {
    let config = sandbox.write(&format!("{}.yaml", pod.name), bootstrap).display().to_string();
    let flags = ["-c", &config, "--concurrency", "1"];
    let process = Process::start(sandbox, pod.name, &program("sidegate-proxy"), flags);
    (process, ([127, 0, 0, 1], port.parse().expect("a port")).into())
}

/// What an app sends to its outbound proxy.
pub(super) fn to(host: &str) -> Call {
    Call::get(&format!("http://{host}/page")).host(host)
}

/// Waits until a Pod reaches another's app.
pub(super) async fn serves(pod: &Pod, app: &str) {
    wait::until(&format!("{} reaches {app}", pod.name), async || {
        let answer = client::try_call(pod.outbound, &to(&format!("{app}.shop"))).await.ok()?;
        (answer.status == 200 && answer.text() == app).then_some(())
    })
    .await;
}

pub(super) async fn page(admin: SocketAddr, path: &str) -> Option<String> {
    let answer = client::try_call(admin, &Call::get(path).host(&admin.to_string())).await.ok()?;
    Some(answer.text())
}
