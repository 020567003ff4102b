//! The law on small sources: each rule once broken and once kept.

use std::path::Path;

use super::room::{PLANS, order};
use super::source::Source;
use super::token::{Kind, tokens};
use super::{all, budget::Figures, is_test_file};

fn verdicts(path: &str, text: &str) -> Vec<String> {
    let order = order("pub mod app; // top\nmod listener;\nmod route;\nmod error;");
    let source = Source::new(Path::new(path), text);
    all(&source, &order, &PLANS[0], &mut Figures::default())
        .into_iter()
        .map(|(line, what)| format!("{line}: {what}"))
        .collect()
}

#[track_caller]
fn assert_one(path: &str, text: &str, expected: &str) {
    let found = verdicts(path, text);
    assert!(
        found.len() == 1 && found[0].starts_with(expected),
        "expected one `{expected}…`, found {found:?}"
    );
}

#[test]
fn literals_and_comments_hide_what_looks_like_code() {
    let text = "fn f() { /* .unwrap() /* todo!() */ */ let _ = (\"a\\\".unwrap()\", r#\"\"todo!()\"\"#, b'\"', '\\'', 'x'); } // todo!";
    assert!(verdicts("route.rs", text).is_empty());
    let kinds: Vec<Kind> = tokens("&'a str r#type '}' b\"x\"").iter().map(|token| token.kind).collect();
    assert_eq!(kinds, [Kind::Symbol, Kind::Literal, Kind::Word, Kind::Word, Kind::Literal, Kind::Literal]);
    assert_eq!(tokens("r#type")[0].text, "type");
}

#[test]
fn imports_go_down() {
    assert!(verdicts("route.rs", "use crate::error::Reason;\nuse crate::route::Table;").is_empty());
    assert_one("route/matcher.rs", "\nuse crate::listener::Port;", "2: `route` imports `listener`");
    assert_one("error.rs", "use crate::{error, route::{Table, listener}};", "1: `error` imports `route`");
    assert!(verdicts("main.rs", "use crate::listener;").is_empty());
}

#[test]
fn tests_may_do_what_they_like() {
    let text = "fn f() {}\n#[cfg(test)]\n#[allow(clippy::unwrap_used)]\nmod tests {\n    use crate::listener;\n    fn g() { f().unwrap(); }\n}\n";
    assert!(verdicts("route.rs", text).is_empty());
    assert_eq!(Source::new(Path::new("route.rs"), text).lines(), 1);
    assert!(is_test_file("tests.rs") && is_test_file("select_tests.rs") && !is_test_file("latest.rs"));
}

#[test]
fn budgets() {
    assert_one("route.rs", &format!("//! Owns it.\n{}", "const A: u8 = 1;\n".repeat(500)), "1: 501 lines");
    assert_one(
        "route.rs",
        &format!("//! Owns it.\nfn f() {{\n{}}}\n", "    g();\n".repeat(59)),
        "2: `f` has 61 lines",
    );
    let generic =
        "fn f<F: Fn(u8) -> u8>(&self, a: u8, b: (u8, u8), c: [A<u8>; 2], d: F, e: &dyn Fn(u8), g: a::B)";
    assert!(verdicts("route.rs", &format!("{generic} {{}}")).is_empty());
    assert_one(
        "route.rs",
        &format!("{} {{}}", generic.replace("(&self", "(&self, z: u8")),
        "1: `f` takes 7 arguments",
    );
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "fn g() {}\n".repeat(150));
    assert_one("route.rs", &tests, "1: 153 lines of inline tests");
}

#[test]
fn habits() {
    assert_one("route.rs", "fn f() { g().unwrap() }", "1: `unwrap()`");
    assert_one("route.rs", "fn f() { todo!() }", "1: unfinished");
    assert_one("route/mod.rs", "", "1: is a mod.rs");
    assert_one("route.rs", "#[allow(dead_code)]\nfn f() {}", "1: `#[allow(…)]` without");
    assert!(verdicts("route.rs", "#[allow(dead_code, reason = \"later\")]\nfn f() {}").is_empty());
    assert_one("route.rs", &"const A: u8 = 1;\n".repeat(21), "1: has no `//!` opening");
    assert!(
        verdicts("route.rs", &format!("#![no_std]\n//! Owns it.\n{}", "const A: u8 = 1;\n".repeat(21)))
            .is_empty()
    );
    assert_one("route.rs", concat!("// TO", "DO: later"), "1: `TO");
    assert!(verdicts("route.rs", concat!("// TO", "DO(#7): later")).is_empty());
}

#[test]
fn external_crates_keep_their_rooms() {
    assert_one("route.rs", "use h2::client;\nuse h2::server;", "1: `h2` may stand only in http");
    assert_one("route.rs", "fn f() -> ::anyhow::Result<()> { g() }", "1: `anyhow` may stand only in main");
    assert_one("route.rs", "use {std::fmt, hyper::body};", "1: `hyper` may stand only in admin");
    assert_one("route.rs", "use kube;", "1: `kube` may stand nowhere");
    assert!(verdicts("http2.rs", "use h2::client;").is_empty());
    assert!(verdicts("route.rs", "use crate::error::h2::Kind; fn f(h2: u8) { self::h2::g(h2) }").is_empty());
}
