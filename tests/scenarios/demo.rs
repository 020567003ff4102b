//! `sidegate demo`: the main job in one command.

use std::time::Duration;

use sidegate_tests::process::{Process, program};
use sidegate_tests::sandbox::Sandbox;
use sidegate_tests::wait;
use tokio::process::Command;

#[tokio::test]
async fn the_demo_passes() {
    let demo = Command::new(program("sidegate"))
        .args(["demo", "--duration", "12s", "--rate", "50", "--output", "json"])
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(90), demo).await.expect("the demo ends").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", String::from_utf8_lossy(&output.stdout));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["failed"], 0, "{report}");
    assert!(report["requests"].as_u64() > Some(300), "{report}");
}

#[tokio::test]
async fn a_demo_that_is_interrupted_leaves_nobody_behind() {
    let sandbox = Sandbox::new();
    let arguments = ["demo", "--duration", "60s", "--rate", "10", "--output", "json"];
    let mut demo = Process::start(&sandbox, "demo", &program("sidegate"), arguments);
    let parent = demo.id();
    let born = wait::until("children of the demo", async || {
        let children = children_of(parent);
        (children.len() >= 5).then_some(children)
    })
    .await;
    demo.interrupt();
    assert_eq!(demo.ended().await.code(), Some(130));
    let alive = || born.iter().filter(|child| is_alive(**child)).copied().collect::<Vec<_>>();
    wait::until_equal("children left", Vec::new(), async || alive()).await;
}

/// Direct children, as the kernel lists them.
fn children_of(parent: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<_>>())
        .collect()
}

fn is_alive(id: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // After the name in parentheses stands the state; Z has ended.
    status.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
