//! Random policies and requests: what the engine says (with its index) is what a naive reading says, which tries every way to see a
//! request and every policy in turn.

use std::cell::RefCell;
use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// A rule as the model has it.
#[derive(Clone, Debug)]
enum Model {
    Always,
    All(Vec<Model>),
    Any(Vec<Model>),
    Not(Box<Model>),
    Role(Shape),
    Method(&'static str),
    Host(&'static str),
    Path(Shape),
    Template(&'static str),
    Name(Shape),
    Port(u16),
}

/// A test of a text.
#[derive(Clone, Debug)]
enum Shape {
    Exact(&'static str),
    Prefix(&'static str),
    Suffix(&'static str),
    Contains(&'static str),
    Regex(&'static str),
}

impl Shape {
    fn text(&self) -> Text {
        match self {
            Self::Exact(text) => Text::exact(text, false),
            Self::Prefix(text) => Text::prefix(text, false),
            Self::Suffix(text) => Text::suffix(text, false),
            Self::Contains(text) => Text::contains(text, false),
            Self::Regex(text) => Text::regex(Box::new(Regex::new(&format!(r"\A(?:{text})\z")).unwrap())),
        }
    }

    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => value == *text,
            Self::Prefix(text) => value.starts_with(text),
            Self::Suffix(text) => value.ends_with(text),
            Self::Contains(text) => value.contains(text),
            Self::Regex(text) => is_match(text, value),
        }
    }

    fn in_lower_case(&self, value: &str) -> bool {
        let lower: &'static str = match self {
            Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) | Self::Contains(text) => text,
            Self::Regex(_) => return self.holds(value),
        };
        assert_eq!(lower, lower.to_ascii_lowercase(), "the model's texts are in lower case");
        self.holds(&value.to_ascii_lowercase())
    }
}

/// A request.
#[derive(Clone, Debug)]
struct Asked {
    method: &'static str,
    host: &'static str,
    target: String,
    roles: Vec<&'static [u8]>,
    names: Vec<&'static str>,
    port: u16,
}

impl Model {
    fn rule(&self) -> Rule {
        let all = |models: &[Model]| models.iter().map(Model::rule).collect();
        match self {
            Self::Always => Rule::Always,
            Self::All(models) => Rule::All(all(models)),
            Self::Any(models) => Rule::Any(all(models)),
            Self::Not(model) => Rule::Not(Box::new(model.rule())),
            Self::Role(shape) => field("x-role", FieldTest::Text(shape.text()), false),
            Self::Method(method) => is(":method", method),
            Self::Host(host) => is(":authority", host),
            Self::Path(shape) => path(shape.text()),
            Self::Template(text) => Rule::Path(Box::new(PathTest::Template(Template::parse(text).unwrap()))),
            Self::Name(shape) => Rule::Peer(Some(Box::new(shape.text()))),
            Self::Port(port) => Rule::Ports(i32::from(*port), i32::from(*port) + 1),
        }
    }

    /// `None`: some say so, some say otherwise.
    fn naive(&self, asked: &Asked) -> Option<bool> {
        match self {
            Self::Always => Some(true),
            Self::All(models) => {
                let said: Vec<_> = models.iter().map(|model| model.naive(asked)).collect();
                if said.contains(&Some(false)) { Some(false) } else { agreed(said) }
            }
            Self::Any(models) => {
                let said: Vec<_> = models.iter().map(|model| model.naive(asked)).collect();
                if said.contains(&Some(true)) { Some(true) } else { agreed(said) }
            }
            Self::Not(model) => model.naive(asked).map(|said| !said),
            Self::Role(shape) => naive_role(shape, &asked.roles),
            Self::Method(method) if *method == asked.method => Some(true),
            Self::Method(method) => (!method.eq_ignore_ascii_case(asked.method)).then_some(false),
            Self::Host(host) => {
                let plain = |text: &str| text.to_ascii_lowercase();
                let asked = asked.host;
                let name = asked.split(':').next().unwrap_or_default();
                let near = [asked, name, name.trim_end_matches('.')].map(plain).contains(&plain(host));
                if *host == asked {
                    Some(true)
                } else if near {
                    None
                } else {
                    Some(false)
                }
            }
            Self::Path(shape) => {
                agreed(naive_paths(&asked.target)?.into_iter().map(|path| Some(shape.holds(&path))).collect())
            }
            Self::Template(text) => {
                let regex = text.replace("{**}", ".*").replace("{*}", "[^/]+");
                agreed(
                    naive_paths(&asked.target)?
                        .into_iter()
                        .map(|path| Some(is_match(&regex, &path)))
                        .collect(),
                )
            }
            Self::Name(shape) => match asked.names.iter().filter(|name| shape.holds(name)).count() {
                0 => Some(!asked.names.is_empty() && shape.holds("")),
                // The subject is empty here, and holds of what holds of nothing.
                some if some == asked.names.len() => Some(true),
                _ => None,
            },
            Self::Port(port) => Some(*port == asked.port),
        }
    }
}

/// Expressions are few, and slow to make.
fn is_match(pattern: &str, text: &str) -> bool {
    thread_local!(static KNOWN: RefCell<HashMap<String, Regex>> = RefCell::default());
    let new = || Regex::new(&format!("^(?:{pattern})$")).unwrap();
    KNOWN.with_borrow_mut(|known| known.entry(pattern.to_owned()).or_insert_with(new).is_match(text))
}

fn agreed(said: Vec<Option<bool>>) -> Option<bool> {
    let first = said.first().copied().flatten()?;
    said.iter().all(|one| *one == Some(first)).then_some(first)
}

/// First, last, each, joined, any element, in any case.
fn naive_role(shape: &Shape, roles: &[&[u8]]) -> Option<bool> {
    if roles.is_empty() {
        return Some(false);
    }
    let texts: Option<Vec<&str>> = roles.iter().map(|role| std::str::from_utf8(role).ok()).collect();
    let texts = texts?;
    let each = |text: &&str| {
        if shape.holds(text) {
            return Some(true);
        }
        let hidden =
            text.split(',').any(|element| shape.in_lower_case(element.trim())) || shape.in_lower_case(text);
        if hidden { None } else { Some(false) }
    };
    let mut said: Vec<_> = texts.iter().map(each).collect();
    if said.len() > 1 {
        said.push(Some(shape.holds(&texts.join(","))));
    }
    agreed(said)
}

/// The words of the model's targets, in every order of the steps that servers take.
fn naive_paths(target: &str) -> Option<Vec<String>> {
    let path = target.split('?').next().unwrap_or_default();
    let mut readings = std::collections::BTreeSet::from([path.to_owned()]);
    loop {
        let mut more = readings.clone();
        for reading in &readings {
            more.insert(reading.replace("%2F", "/").replace("%2e", ".").replace("%61", "a"));
            let names = reading.split('/').map(|part| part.split(';').next().unwrap_or_default());
            more.insert(names.collect::<Vec<_>>().join("/"));
            let mut merged = reading.clone();
            while merged.contains("//") {
                merged = merged.replace("//", "/");
            }
            more.insert(merged);
            more.insert(walk(reading));
        }
        if more.len() == readings.len() {
            return (readings.len() <= 32).then(|| readings.into_iter().collect());
        }
        readings = more;
    }
}

/// Walks along a path as a shell does; an empty part is a name like others.
fn walk(path: &str) -> String {
    let mut stack: Vec<&str> = Vec::new();
    let parts: Vec<&str> = path[1..].split('/').collect();
    for (index, part) in parts.iter().enumerate() {
        match *part {
            "." => {}
            ".." => drop(stack.pop()),
            part => {
                stack.push(part);
                continue;
            }
        }
        if index + 1 == parts.len() {
            stack.push("");
        }
    }
    format!("/{}", stack.join("/"))
}

fn shapes(texts: &'static [&'static str]) -> impl Strategy<Value = Shape> {
    (0..5_u8, proptest::sample::select(texts)).prop_map(|(kind, text)| match kind {
        0 => Shape::Exact(text),
        1 => Shape::Prefix(text),
        2 => Shape::Suffix(text),
        3 => Shape::Contains(text),
        _ => Shape::Regex(text),
    })
}

fn leaf() -> impl Strategy<Value = Model> {
    prop_oneof![
        1 => Just(Model::Always),
        2 => shapes(&["admin", "user", "a", "min"]).prop_map(Model::Role),
        2 => proptest::sample::select(&["GET", "PUT", "get"][..]).prop_map(Model::Method),
        2 => proptest::sample::select(&["a.test", "a.test:80", "b.test", "A.test"][..]).prop_map(Model::Host),
        4 => shapes(&["/", "/a", "/a/", "/a/b", "/b/a", "/a/b/a"]).prop_map(Model::Path),
        2 => proptest::sample::select(&["/a/{*}", "/a/{**}", "/{*}/a", "/a/b"][..]).prop_map(Model::Template),
        4 => shapes(&["spiffe://t/ns/a/sa/a", "spiffe://t/ns/a/sa/b", "/ns/a/", "spiffe://t/ns/b/", "/sa/a"])
            .prop_map(Model::Name),
        1 => proptest::sample::select(&[80_u16, 81][..]).prop_map(Model::Port),
    ]
}

fn models() -> impl Strategy<Value = Model> {
    leaf().prop_recursive(3, 12, 3, |inner| {
        let list = proptest::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            list.clone().prop_map(Model::All),
            list.prop_map(Model::Any),
            inner.prop_map(|model| Model::Not(Box::new(model))),
        ]
    })
}

fn asked() -> impl Strategy<Value = Asked> {
    let part = proptest::sample::select(
        &["a", "b", "..", ".", "", "%61", "a;x", "..%2Fa", "a%2Fb", "%2e%2e", "c"][..],
    );
    let target = proptest::collection::vec(part, 1..5).prop_map(|parts| format!("/{}", parts.join("/")));
    let role: &[&[u8]] = &[b"admin", b"user", b"Admin", b"user,admin", b"", b"\xff", b"x , A"];
    (
        proptest::sample::select(&["GET", "PUT", "get"][..]),
        proptest::sample::select(&["a.test", "a.test:80", "A.TEST", "b.test", "a.test."][..]),
        target,
        proptest::collection::vec(proptest::sample::select(role), 0..3),
        proptest::sample::subsequence(
            &["spiffe://t/ns/a/sa/a", "spiffe://t/ns/b/sa/b", "spiffe://t/ns/ns/a/x"][..],
            0..3,
        ),
        proptest::sample::select(&[80_u16, 81][..]),
    )
        .prop_map(|(method, host, target, roles, names, port)| Asked {
            method,
            host,
            target,
            roles,
            names,
            port,
        })
}

proptest! {
    // No more than this; fewer if `PROPTEST_CASES` says so.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.min(96)))]

    #[test]
    fn the_engine_says_what_a_naive_reading_says(
        policies in proptest::collection::vec((models(), models()), 0..80),
        questions in proptest::collection::vec(asked(), 1..8),
    ) {
        let set = |action| {
            let policy = |(number, (what, who)): (usize, &(Model, Model))| Policy {
                name: format!("{number:03}").into(),
                permission: what.rule(),
                principal: who.rule(),
            };
            Policies::new(action, policies.iter().enumerate().map(policy).collect())
        };
        for asked in &questions {
            let fields: Vec<_> = asked.roles.iter().map(|role| ("x-role", *role)).collect();
            let head = request(asked.method, asked.host, &asked.target, &fields);
            let uris: Vec<Box<str>> = asked.names.iter().map(|name| (*name).into()).collect();
            let peer = (!uris.is_empty())
                .then_some(Peer { uris: &uris, dns: &[], emails: &[], subject: "", doubtful: false });
            let destination = ([10, 0, 0, 1], asked.port).into();
            let attributes = Attributes::default();
            let facts = Facts::supposed(peer, None, [10, 0, 0, 2].into(), destination)
                .with_request(&head, &attributes, [10, 0, 0, 2].into());
            let said: Vec<Option<bool>> = policies
                .iter()
                .map(|(what, who)| match (what.naive(asked), who.naive(asked)) {
                    (Some(false), _) | (_, Some(false)) => Some(false),
                    (Some(true), Some(true)) => Some(true),
                    _ => None,
                })
                .collect();
            let first = |wanted: &dyn Fn(&Option<bool>) -> bool| {
                said.iter().position(wanted).map(|number| format!("{number:03}"))
            };
            let name = |verdict: &Verdict<'_>| verdict.policy.map(|name| name.to_string());
            let (allow, deny) = (set(Action::Allow), set(Action::Deny));
            let allowed = allow.decide(&facts);
            prop_assert_eq!(name(&allowed), first(&|said| *said == Some(true)), "{:?}", asked);
            prop_assert_eq!(allowed.allowed, allowed.policy.is_some());
            let denied = deny.decide(&facts);
            prop_assert_eq!(name(&denied), first(&|said| *said != Some(false)), "{:?}", asked);
            prop_assert_eq!(denied.allowed, denied.policy.is_none());
        }
    }
}
