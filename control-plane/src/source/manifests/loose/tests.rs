//! What the loose parser takes, what it refuses, and that it never panics.

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[track_caller]
fn refused(text: &str, fragment: &str) {
    let error = yaml(text, 0).expect_err(text);
    assert!(error.contains(fragment), "{error}");
}

#[test]
fn plain_documents() {
    let text = "a: 1\nb: [x, true, null, 1.5]\n8080: web\ntrue: yes\n";
    assert_eq!(yaml(text, 0), Ok(json!({"a": 1, "b": ["x", true, null, 1.5], "8080": "web", "true": "yes"})));
}

#[test]
fn a_key_twice_is_refused_with_its_line_in_the_file() {
    refused("a: 1\nb: 2\na: 3\n", "\"a\" stands here twice");
    let error = yaml("a: 1\nb: [\n", 100).expect_err("unfinished");
    assert!(error.contains("line 103") || error.contains("line 102"), "{error}");
}

#[test]
fn anchors_and_merge_keys() {
    let text = "base: &base {a: 1, b: 2}\nuse:\n  <<: *base\n  b: 3\nboth:\n  <<: [*base, {c: 4}]\n";
    let parsed = yaml(text, 0).unwrap();
    assert_eq!(parsed["use"], json!({"a": 1, "b": 3}));
    assert_eq!(parsed["both"], json!({"a": 1, "b": 2, "c": 4}));
}

#[test]
fn aliases_that_multiply_are_refused() {
    let mut bomb = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..9 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    refused(&bomb, "aliases");
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1000), "*a, ".repeat(1000));
    refused(&long, "aliases");
    let fair = format!("a: &a {}\nb: [{}]\n", "x".repeat(1000), "*a, ".repeat(15));
    assert!(yaml(&fair, 0).is_ok());
}

#[test]
fn nesting_is_bounded_and_costs_little() {
    refused(&"[".repeat(1_000_000), "nested too deeply");
    refused(&"{a: ".repeat(1_000_000), "nested too deeply");
    refused(&"[".repeat(400), "recursion");
    refused(&"- ".repeat(100_000), "recursion");
    let mut said = Vec::new();
    json(&"[".repeat(1_000_000), |parsed| {
        said.push(parsed);
        true
    });
    assert_eq!(said.len(), 1);
}

#[test]
fn what_json_cannot_say_is_refused() {
    refused("a: .nan", "not a number");
    refused("a: !custom b", "custom");
    refused("? [a]\n: b", "key");
    refused("a: *nobody", "anchor");
}

#[test]
fn json_documents_follow_each_other() {
    let mut seen = Vec::new();
    json("{\"a\": 1}\n[2]\n {\"b\": 1, \"b\": 2} {}", |parsed| {
        seen.push(parsed);
        true
    });
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[..2], [Ok(json!({"a": 1})), Ok(json!([2]))]);
    assert!(
        seen[2]
            .as_ref()
            .is_err_and(|error| error.contains("\"b\" stands here twice") && error.contains("line 3"))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_text_makes_it_panic(text in "[-\\[\\]{}:,&*!|>'\"%@`#?a-c0-9 \t\n]{0,200}") {
        let _ = yaml(&text, 0);
        json(&text, |_| true);
    }
}
