//! The certificate authority of a running control plane: its folder, and the rotation of its root by command.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;
use sidegate_tests::client;
use sidegate_tests::message::Call;
use sidegate_tests::process::{Finished, Process, program, run};
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::wait;

/// A control plane with an authority and nobody else.
struct Plane {
    process: Process,
    admin: SocketAddr,
    folder: PathBuf,
    flags: Vec<String>,
}

impl Plane {
    async fn start(sandbox: &Sandbox) -> Self {
        let (xds, admin) = (address(), address());
        let (manifests, folder) = (sandbox.path().join("manifests"), sandbox.path().join("ca"));
        std::fs::create_dir_all(&manifests).expect("a folder for manifests");
        let flags = [
            "serve",
            "--manifests",
            &manifests.display().to_string(),
            "--xds-address",
            &xds.to_string(),
            "--admin-address",
            &admin.to_string(),
            "--secure-xds-address",
            "127.0.0.1:0",
            "--ca-dir",
            &folder.display().to_string(),
            "--rotation-hold",
            "1",
            "--rotation-grace",
            "1",
        ]
        .map(str::to_owned)
        .to_vec();
        let process = Process::start(sandbox, "control-plane", &program("sidegate"), &flags);
        let plane = Self { process, admin, folder, flags };
        plane.until("its authority", |ca| ca["roots"][0]["fingerprint"].as_str().map(|_| ())).await;
        plane
    }

    async fn start_again(&mut self, sandbox: &Sandbox) {
        self.process = Process::start(sandbox, "control-plane", &program("sidegate"), &self.flags);
        self.until("its authority", |ca| ca["roots"][0]["fingerprint"].as_str().map(|_| ())).await;
    }

    /// The authority's part of `/status`, until it gives something.
    async fn until<T>(&self, what: &str, look: impl Fn(&Value) -> Option<T>) -> T {
        wait::until(what, async || {
            let response = client::try_call(self.admin, &Call::get("/status").host(&self.admin.to_string()))
                .await
                .ok()?;
            let status: Value = serde_json::from_slice(&response.body).ok()?;
            look(&status["ca"])
        })
        .await
    }

    async fn root(&self) -> String {
        self.until("the root", |ca| ca["rotation"]["current"].as_str().map(str::to_owned)).await
    }

    async fn phase(&self, phase: &str) {
        self.until(phase, |ca| (ca["rotation"]["phase"] == phase).then_some(())).await;
    }

    fn command(&self, more: &[&str]) -> Vec<String> {
        let folder = self.folder.display().to_string();
        let admin = self.admin.to_string();
        let flags = ["rotate-root", "--ca-dir", &folder, "--admin", &admin];
        flags.iter().chain(more).map(|flag| (*flag).to_owned()).collect()
    }

    async fn rotate(&self, more: &[&str]) -> Finished {
        run("sidegate", self.command(more)).await
    }
}

#[tokio::test]
async fn a_root_is_rotated_by_one_command_that_tells_what_happens() {
    let sandbox = Sandbox::new();
    let plane = Plane::start(&sandbox).await;
    let before = plane.root().await;
    let idle = plane.rotate(&["--status"]).await;
    assert_eq!(idle.code, Some(0), "{idle:?}");
    let nothing = plane.rotate(&["--cancel"]).await;
    assert_eq!(nothing.code, Some(1), "{nothing:?}");
    let finished = plane.rotate(&[]).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    for step in ["step 1 of 3", "step 2 of 3", "step 3 of 3", "done: the root"] {
        assert!(finished.out.contains(step), "{step}: {finished:?}");
    }
    let after = plane.root().await;
    assert_ne!(before, after);
    assert!(finished.out.contains(&after[..16]), "{finished:?}");
    assert!(!plane.folder.join(format!("{}.root.pem", &before[..16])).exists(), "the old key is destroyed");
    let status = run("sidegate", ["status", "--address", &plane.admin.to_string()]).await;
    assert!(status.out.contains(&format!("root {} signs", &after[..16])), "{status:?}");
}

#[tokio::test]
async fn a_rotation_outlives_the_command_and_the_control_plane() {
    let sandbox = Sandbox::new();
    let mut plane = Plane::start(&sandbox).await;
    let before = plane.root().await;
    let mut flags = plane.flags.clone();
    // Patience that lasts for as long as this test wants.
    let hold = flags.iter().position(|flag| flag == "--rotation-hold").unwrap();
    flags[hold + 1] = "3600".to_owned();
    let quick = std::mem::replace(&mut plane.flags, flags);
    plane.process.kill().await;
    plane.start_again(&sandbox).await;
    let mut follower = Process::start(&sandbox, "rotate", &program("sidegate"), plane.command(&[]));
    wait::until("the first step told", async || follower.log().contains("step 1 of 3").then_some(())).await;
    let status = plane.rotate(&["--status"]).await;
    assert_eq!(status.code, Some(3), "{status:?}");
    follower.interrupt();
    assert_eq!(follower.ended().await.code(), Some(130));
    assert!(follower.log().contains("goes on"), "{}", follower.log());
    plane.phase("distributing").await;

    let mut second = Process::start(&sandbox, "rotate-again", &program("sidegate"), plane.command(&[]));
    wait::until("it is found", async || second.log().contains("under way already").then_some(())).await;
    plane.process.kill().await;
    plane.flags = quick;
    plane.start_again(&sandbox).await;
    assert_eq!(second.ended().await.code(), Some(0), "{}", second.log());
    assert!(second.log().contains("done: the root"), "{}", second.log());
    assert_ne!(plane.root().await, before);
}

#[tokio::test]
async fn a_rotation_is_given_up_by_command() {
    let sandbox = Sandbox::new();
    let mut plane = Plane::start(&sandbox).await;
    let hold = plane.flags.iter().position(|flag| flag == "--rotation-hold").unwrap();
    plane.flags[hold + 1] = "3600".to_owned();
    plane.process.kill().await;
    plane.start_again(&sandbox).await;
    let before = plane.root().await;
    assert_eq!(plane.rotate(&["--no-wait"]).await.code, Some(0));
    let mut follower = Process::start(&sandbox, "rotate", &program("sidegate"), plane.command(&[]));
    wait::until("it is found", async || follower.log().contains("under way already").then_some(())).await;
    assert_eq!(plane.rotate(&["--cancel"]).await.code, Some(0));
    assert_eq!(follower.ended().await.code(), Some(1), "{}", follower.log());
    assert_eq!(plane.root().await, before);
    plane.phase("stable").await;
}

#[tokio::test]
async fn who_cannot_read_the_folder_rotates_nothing() {
    let sandbox = Sandbox::new();
    let plane = Plane::start(&sandbox).await;
    let other = Sandbox::new();
    let elsewhere = Plane::start(&other).await;
    let admin = plane.admin.to_string();
    let wrong = elsewhere.folder.display().to_string();
    for (folder, told) in [(wrong.as_str(), "another folder"), ("/nowhere/at/all", "/nowhere/at/all")] {
        let refused = run("sidegate", ["rotate-root", "--ca-dir", folder, "--admin", &admin]).await;
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.err.contains(told), "{refused:?}");
    }
    let post = client::try_call(plane.admin, &Call::get("/rotate-root").host(&admin)).await.unwrap();
    assert_eq!(post.status, 401);
    plane.phase("stable").await;
}

#[tokio::test]
async fn two_control_planes_on_one_folder_are_one_line_and_code_2() {
    let sandbox = Sandbox::new();
    let plane = Plane::start(&sandbox).await;
    let mut flags = plane.flags.clone();
    for flag in ["--xds-address", "--admin-address"] {
        let at = flags.iter().position(|one| one == flag).unwrap();
        flags[at + 1] = address().to_string();
    }
    let second = run("sidegate", flags).await;
    assert_eq!(second.code, Some(2), "{second:?}");
    let said: Vec<&str> = second.err.lines().filter(|line| line.starts_with("sidegate:")).collect();
    assert!(said.len() == 1 && said[0].contains(&plane.process.id().to_string()), "{second:?}");
}
