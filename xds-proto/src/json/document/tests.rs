//! Bounds, double keys, merge keys, and what counts as YAML or JSON.

use serde_json::json;

use super::super::problem::{Problem, Step};
use super::*;

fn value(text: &str) -> Value {
    parse(text, Format::Auto).unwrap().value
}

fn refusal(text: &str) -> Problem {
    parse(text, Format::Auto).unwrap_err()
}

#[test]
fn yaml_is_read_by_the_rules_of_1_2() {
    let text = "a: yes\nb: on\nc: true\nd: 0x1F\ne: 010\nf: ~\ng: 1.5\nh: .inf\n1: one\ntrue: word\n";
    assert_eq!(
        value(text),
        json!({"a": "yes", "b": "on", "c": true, "d": 31, "e": "010", "f": null, "g": 1.5, "h": "Infinity",
               "1": "one", "true": "word"})
    );
}

#[test]
fn json_is_read_as_json_with_its_own_escapes() {
    assert_eq!(value(r#"{"smile": "\ud83d\ude00", "slash": "\/"}"#), json!({"smile": "😀", "slash": "/"}));
    // A flow mapping is not JSON, but YAML.
    assert_eq!(value("{a: 1}"), json!({"a": 1}));
}

#[test]
fn broken_json_is_reported_as_json() {
    let problem = refusal("{\n  \"a\": 1,\n  \"b\" 2\n}");
    assert!(problem.message.starts_with("not readable as JSON"), "{problem}");
    assert_eq!(problem.line, Some(3));
}

#[test]
fn broken_yaml_names_its_line() {
    let problem = refusal("a: 1\nb: [1, 2\nc: 3\n");
    assert!(problem.message.starts_with("not readable as YAML"), "{problem}");
    assert!(problem.line.is_some());
}

#[test]
fn keys_that_stand_twice_are_noted_with_path_and_second_line() {
    for text in ["a:\n  b: 1\n  c: 2\n  b: 3\n", "{\"a\": {\n\"b\": 1,\n\"c\": 2,\n\"b\": 3}}"] {
        let parsed = parse(text, Format::Auto).unwrap();
        let problems = locate_all(text, parsed.format, parsed.duplicates);
        assert_eq!(problems.len(), 1);
        assert_eq!((problems[0].path.as_str(), problems[0].line), ("a.b", Some(4)));
    }
}

#[test]
fn merge_keys_fill_in_what_is_absent() {
    let text = "base: &base {a: 1, b: 2}\nmore: &more {b: 7, c: 8}\nuse:\n  b: 3\n  <<: [*base, *more]\n";
    assert_eq!(value(text)["use"], json!({"a": 1, "b": 3, "c": 8}));
    assert!(refusal("<<: 5\n").message.contains("`<<` takes an object"));
}

#[test]
fn anchors_cannot_fill_the_memory() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        text.push_str(&format!("a{level}: &a{level} [{}]\n", vec![before; 10].join(", ")));
    }
    let problem = refusal(&text);
    assert!(problem.message.contains("repetition limit") || problem.message.contains("values"), "{problem}");
}

#[test]
fn long_text_under_anchors_counts_wherever_it_is_used() {
    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1_000_000), vec!["*a"; 70].join(", "));
    assert!(refusal(&text).message.contains("bytes of text"));
}

#[test]
fn depth_is_bounded_in_both_formats() {
    for text in
        [format!("{{\"a\": {}1{}}}", "[".repeat(100), "]".repeat(100)), format!("{}1", "- ".repeat(100))]
    {
        assert!(refusal(&text).message.contains("levels deep"), "{}", refusal(&text));
    }
}

#[test]
fn tags_and_further_documents_and_nothing_are_refused() {
    assert!(refusal("a: !secret b\n").message.contains("tag"));
    assert!(refusal("a: 1\n---\nb: 2\n").message.contains("more than one document"));
    for text in ["", "  \n", "# only a comment\n"] {
        assert_eq!(refusal(text).message, "the document is empty");
    }
}

#[test]
fn places_are_found_by_their_line() {
    let text = "a:\n- x: 1\n  y:\n    z: 2\n- - 3\n  - 4\n";
    let cases: [(&[Step], usize); 4] = [
        (&[Step::Key("a".into())], 1),
        (&[Step::Key("a".into()), Step::Index(0), Step::Key("y".into())], 3),
        (&[Step::Key("a".into()), Step::Index(0), Step::Key("y".into()), Step::Key("z".into())], 4),
        (&[Step::Key("a".into()), Step::Index(1), Step::Index(1)], 6),
    ];
    for (steps, line) in cases {
        let found = Found { steps: steps.to_vec(), passed_over: 0, message: String::new() };
        assert_eq!(locate_all(text, Format::Yaml, vec![found])[0].line, Some(line), "{steps:?}");
    }
}

#[test]
fn brackets_without_end_are_refused_at_once() {
    // Of the order of seconds each, were they parsed.
    for opening in ["[", "{a: ", "- ["] {
        let text = format!("a: b\nc:\n  {}", opening.repeat(200_000));
        let problem = parse(&text, Format::Yaml).unwrap_err();
        assert_eq!((problem.line, problem.message.len() < 100), (Some(3), true), "{problem:?}");
    }
}
