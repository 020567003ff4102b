use proptest::prelude::*;

use super::*;
use crate::message::{Headers, Name, Scheme, Value, Version};

impl Matcher {
    fn matches(&self, head: &RequestHead, roll: u32) -> bool {
        self.mismatch(head, roll).is_none()
    }
}

fn head(method: Method, path: &str, headers: &[(&'static str, &'static str)]) -> RequestHead {
    let mut section = Headers::new();
    for (name, value) in headers {
        section.append(Name::Static(name), Value::Static(value));
    }
    RequestHead {
        method,
        scheme: Scheme::Http,
        authority: Some("shop.example:8080".parse().unwrap()),
        path: path.parse().unwrap(),
        version: Version::Http11,
        headers: section,
    }
}

fn get(path: &str) -> RequestHead {
    head(Method::GET, path, &[])
}

fn matcher(path: PathMatch) -> Matcher {
    Matcher { path, ignore_case: false, headers: Vec::new(), query: Vec::new(), grpc: false, fraction: None }
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact { text: text.into(), ignore_case: false }
}

fn header(name: &str, test: HeaderTest) -> HeaderMatch {
    HeaderMatch { name: name.into(), test, invert: false, missing_as_empty: false }
}

#[test]
fn paths() {
    let separated = || matcher(PathMatch::Separated("/a".into()));
    let cases = [
        (matcher(PathMatch::Prefix("/a".into())), "/ab?q", true),
        (matcher(PathMatch::Prefix("/a/".into())), "/a", false),
        (matcher(PathMatch::Exact("/a".into())), "/a?b=c", true),
        (matcher(PathMatch::Exact("/a".into())), "/A", false),
        (separated(), "/a", true),
        (separated(), "/a/b", true),
        (separated(), "/ab", false),
        (separated(), "/a?x", true),
        (matcher(PathMatch::Regex(Box::new(Regex::new(r"\A(?:/[0-9]+)\z").unwrap()))), "/12?x", true),
        (matcher(PathMatch::Regex(Box::new(Regex::new(r"\A(?:/[0-9]+)\z").unwrap()))), "/12a", false),
        (matcher(PathMatch::Connect), "/", false),
    ];
    for (matcher, path, expected) in cases {
        assert_eq!(matcher.matches(&get(path), 0), expected, "{matcher:?} {path}");
    }
    let mut any_case = matcher(PathMatch::Separated("/Shop".into()));
    any_case.ignore_case = true;
    assert!(any_case.matches(&get("/sHOP/cart"), 0));
}

#[test]
fn connect_is_seen_by_its_matcher_alone() {
    let connect = head(Method::CONNECT, "/", &[]);
    assert!(matcher(PathMatch::Connect).matches(&connect, 0));
    assert!(!matcher(PathMatch::Prefix("/".into())).matches(&connect, 0));
}

#[test]
fn headers() {
    let request =
        head(Method::POST, "/", &[("x-a", "one"), ("x-n", "7"), ("x-r", "a"), ("x-r", "b"), ("x-r", "c")]);
    let regex = StringMatch::Regex(Box::new(Regex::new(r"\A(?:o.e)\z").unwrap()));
    let inverted = |mut one: HeaderMatch| {
        one.invert = true;
        one
    };
    let lenient = |mut one: HeaderMatch| {
        one.missing_as_empty = true;
        one
    };
    let text = |name, text| header(name, HeaderTest::String(exact(text)));
    for (test, expected) in [
        (text("x-a", "one"), true),
        (text("x-a", "ONE"), false),
        (inverted(text("x-a", "two")), true),
        (header("x-a", HeaderTest::String(regex)), true),
        (header("x-a", HeaderTest::Present), true),
        (inverted(header("x-a", HeaderTest::Present)), false),
        (inverted(header("x-z", HeaderTest::Present)), true),
        (text("x-z", ""), false),
        (inverted(text("x-z", "q")), false),
        (lenient(text("x-z", "")), true),
        (lenient(inverted(text("x-z", "q"))), true),
        (header("x-n", HeaderTest::Range(0, 8)), true),
        (header("x-n", HeaderTest::Range(0, 7)), false),
        (header("x-a", HeaderTest::Range(0, 7)), false),
        (text("x-r", "a,b,c"), true),
        (text(":method", "POST"), true),
        (text(":path", "/"), true),
        (text(":scheme", "http"), true),
        (text(":authority", "shop.example:8080"), true),
        (text("host", "shop.example:8080"), true),
    ] {
        let mut matcher = matcher(PathMatch::Prefix("/".into()));
        let shown = format!("{test:?}");
        matcher.headers.push(test);
        assert_eq!(matcher.matches(&request, 0), expected, "{shown}");
    }
}

#[test]
fn query_parameters() {
    let query = |name: &str, test| QueryMatch { name: name.into(), test };
    for (test, path, expected) in [
        (query("a", None), "/?a", true),
        (query("a", None), "/?b=a", false),
        (query("a", None), "/", false),
        (query("a", Some(exact("1"))), "/?b&a=1", true),
        (query("a", Some(exact("1"))), "/?a=2&a=1", false),
        (query("a", Some(exact(""))), "/?a", true),
        (query("a", Some(exact("1=2"))), "/?a=1=2", true),
    ] {
        let mut matcher = matcher(PathMatch::Prefix("/".into()));
        matcher.query.push(test);
        assert_eq!(matcher.matches(&get(path), 0), expected, "{matcher:?} {path}");
    }
}

#[test]
fn grpc_and_fraction() {
    let mut grpc = matcher(PathMatch::Prefix("/".into()));
    grpc.grpc = true;
    for (content_type, expected) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc;x=y", true),
        ("application/grpc-web", false),
        ("text/plain", false),
    ] {
        assert_eq!(grpc.matches(&head(Method::POST, "/", &[("content-type", content_type)]), 0), expected);
    }
    let mut some = matcher(PathMatch::Prefix("/".into()));
    some.fraction = Some(250_000);
    assert!(some.matches(&get("/"), 249_999));
    assert!(!some.matches(&get("/"), 250_000));
    assert_eq!(
        some.mismatch(&get("/"), 999_999).unwrap().to_string(),
        "takes 25 % of requests, not this one"
    );
}

proptest! {
    /// The string tests agree with those of `str`, in both case modes.
    #[test]
    fn strings_agree_with_the_library(text in "[aAbB]{0,3}", value in "[aAbB]{0,6}", ignore_case: bool) {
        let fold = |text: &str| if ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
        let (wanted, folded) = (fold(&text), fold(&value));
        let text: Arc<str> = text.into();
        let check = |test: StringMatch| test.matches(value.as_bytes());
        prop_assert_eq!(check(StringMatch::Exact { text: text.clone(), ignore_case }), folded == wanted);
        prop_assert_eq!(check(StringMatch::Prefix { text: text.clone(), ignore_case }), folded.starts_with(&wanted));
        prop_assert_eq!(check(StringMatch::Suffix { text: text.clone(), ignore_case }), folded.ends_with(&wanted));
        prop_assert_eq!(check(StringMatch::Contains { text, ignore_case }), folded.contains(&wanted));
    }

    /// A separated prefix is the prefix itself or followed by a slash.
    #[test]
    fn separated_prefixes(prefix in "(/[ab]){1,2}", path in "(/[ab]{1,2}){1,3}") {
        let separated = matcher(PathMatch::Separated(prefix.as_str().into()));
        let expected = path == prefix || path.starts_with(&format!("{prefix}/"));
        prop_assert_eq!(separated.matches(&get(&path), 0), expected);
    }
}
