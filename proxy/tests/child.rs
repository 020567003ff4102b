//! The program as its own child: reads a bootstrap, writes a dump, and gives the descriptors' memory back by ending.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use prost::Message;
use sidegate_xds::envoy::config::bootstrap::v3::Bootstrap;
use sidegate_xds::envoy::config::core::v3::Node;
use sidegate_xds::envoy::service::discovery::v3::DiscoveryResponse;
use sidegate_xds::resource::to_any;

fn ask(task: &str, question: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sidegate-proxy"))
        .arg(task)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(question).expect("the child reads");
    drop(stdin);
    child.wait_with_output().expect("the child ends")
}

#[test]
fn a_child_reads_a_bootstrap() {
    let output = ask("__decode", b"ynode: {id: n}\n");
    let wire = output.stdout.strip_prefix(b"sidegate:done\n").expect("a bootstrap");
    let bootstrap = Bootstrap::decode(wire).expect("the wire form");
    assert_eq!(bootstrap.node, Some(Node { id: "n".to_owned(), ..Node::default() }));
    assert!(output.status.success());
}

#[test]
fn a_child_lists_what_is_wrong() {
    let output = ask("__decode", b"ynode: {id: 5}\nnodes: 1\n");
    let problems = output.stdout.strip_prefix(b"sidegate:refused\n").expect("problems");
    let problems: serde_json::Value = serde_json::from_slice(problems).expect("JSON");
    assert_eq!((problems[0]["line"].as_u64(), problems[1]["path"].as_str()), (Some(1), Some("nodes")));
}

#[test]
fn a_child_writes_a_dump() {
    let bootstrap =
        Bootstrap { node: Some(Node { id: "n".to_owned(), ..Node::default() }), ..Bootstrap::default() };
    let question = DiscoveryResponse { resources: vec![to_any(&bootstrap)], ..DiscoveryResponse::default() };
    let output = ask("__render", &question.encode_to_vec());
    let json = output.stdout.strip_prefix(b"sidegate:done\n").expect("a dump");
    let json: serde_json::Value = serde_json::from_slice(json).expect("JSON");
    assert_eq!(json[0]["node"]["id"], "n");
}
