use http::Method;
use proptest::prelude::*;

use super::*;
use crate::filter::Overrides;
use crate::message::{Headers, Scheme, Version};
use crate::route::{Action, Direct, Matcher, PathMatch, Silent};

fn head(authority: &str, path: &str) -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: (!authority.is_empty()).then(|| authority.parse().unwrap()),
        path: path.parse().unwrap(),
        version: Version::Http11,
        headers: Headers::new(),
    }
}

fn route(name: &str, prefix: &str) -> Arc<Route> {
    let matcher = Matcher {
        path: PathMatch::Prefix(prefix.into()),
        ignore_case: false,
        headers: Vec::new(),
        query: Vec::new(),
        grpc: false,
        fraction: None,
    };
    let action = Action::Direct(Box::new(Direct { status: http::StatusCode::OK, body: bytes::Bytes::new() }));
    Arc::new(Route {
        name: name.into(),
        matcher,
        action,
        origin: None,
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        filters: Overrides::new(),
    })
}

/// One virtual host per domain, named after it, each with the same two routes.
fn table(domains: &[&str]) -> Table {
    let mut table = Table { name: "t".into(), ..Table::default() };
    for (index, domain) in domains.iter().enumerate() {
        table.domains.insert(domain, index).unwrap();
        let routes = vec![route("api", "/api"), route("rest", "/")];
        table.hosts.push(VirtualHost { name: (*domain).into(), routes, attempt_count: false });
    }
    table
}

fn host_of<'a>(table: &'a Table, authority: &str) -> Option<&'a str> {
    table.virtual_host(authority).map(|host| &*host.name)
}

#[test]
fn domains_in_order_of_precedence() {
    let table =
        table(&["*", "shop.*", "*.example.com", "*.a.example.com", "b.a.example.com", "*-x.example.com"]);
    for (authority, expected) in [
        ("b.a.example.com", "b.a.example.com"),
        ("c.a.example.com", "*.a.example.com"),
        ("c.d.a.example.com", "*.a.example.com"),
        ("c.example.com", "*.example.com"),
        ("c-x.example.com", "*-x.example.com"),
        ("shop.org", "shop.*"),
        ("shop.example.com", "*.example.com"),
        ("example.com", "*"),
        (".example.com", "*"),
        ("", "*"),
    ] {
        assert_eq!(host_of(&table, authority), Some(expected), "{authority}");
    }
}

#[test]
fn case_trailing_dot_and_port() {
    let mut table = table(&["Web.Example.com", "web.example.com:8080", "[::1]:80", "[::1]"]);
    assert_eq!(host_of(&table, "WEB.example.COM"), Some("Web.Example.com"));
    assert_eq!(host_of(&table, "web.example.com."), Some("Web.Example.com"));
    assert_eq!(host_of(&table, "web.example.com:8080"), Some("web.example.com:8080"));
    assert_eq!(host_of(&table, "web.example.com.:8080"), Some("web.example.com:8080"));
    assert_eq!(host_of(&table, "web.example.com:9090"), None);
    assert_eq!(host_of(&table, "[::1]:80"), Some("[::1]:80"));
    table.ignore_port = true;
    assert_eq!(host_of(&table, "web.example.com:9090"), Some("Web.Example.com"));
    assert_eq!(host_of(&table, "[::1]:443"), Some("[::1]"));
}

#[test]
fn a_host_longer_than_any_name_is_looked_up_too() {
    let long = format!("{}.example.com", "x".repeat(400));
    assert_eq!(host_of(&table(&["*.example.com"]), &long), Some("*.example.com"));
    assert_eq!(host_of(&table(&["a"]), &long), None);
}

#[test]
fn domains_are_refused_when_taken_or_malformed() {
    let mut domains = Domains::default();
    for domain in ["a.com", "*.a.com", "a.*", "*"] {
        assert_eq!(domains.insert(domain, 0), Ok(()));
        assert_eq!(domains.insert(&domain.to_uppercase(), 1), Err(DomainError::Taken), "{domain}");
    }
    for domain in ["", "a.*.com", "*a*", "**"] {
        assert_eq!(domains.insert(domain, 0), Err(DomainError::Malformed), "{domain}");
    }
}

#[test]
fn the_first_route_that_matches_wins_and_explain_says_why() {
    let table = table(&["*.example.com"]);
    let mut notes = Vec::new();
    let (_, route) = table.select(&head("a.example.com", "/other?x"), 0, &mut notes).unwrap();
    assert_eq!(&*route.name, "rest");
    assert_eq!(notes[0], "host \"a.example.com\" belongs to virtual host *.example.com");
    assert_eq!(notes[1], "route api wants path prefix /api");
    assert_eq!(notes[2], "route rest matches");
    let (_, route) = table.select(&head("a.example.com", "/api/1"), 0, &mut Silent).unwrap();
    assert_eq!(&*route.name, "api");
    let mut notes = Vec::new();
    assert!(table.select(&head("b.org", "/"), 0, &mut notes).is_none());
    assert_eq!(notes, ["no virtual host of t has a domain for host \"b.org\""]);
}

proptest! {
    /// `find` agrees with the definition: the best kind, then the longest, by brute force over all domains.
    #[test]
    fn agrees_with_the_definition(
        domains in prop::collection::btree_set("(\\*|a|b)(\\.[ab]){0,2}(\\.\\*)?", 0..12),
        host in "[abAB](\\.[ab]){0,3}\\.?(:80)?",
    ) {
        let mut table = Table::default();
        let mut kept: Vec<String> = Vec::new();
        for domain in domains {
            if table.domains.insert(&domain, kept.len()).is_ok() {
                let name = domain.as_str().into();
                table.hosts.push(VirtualHost { name, routes: Vec::new(), attempt_count: false });
                kept.push(domain);
            }
        }
        let wanted = host.to_ascii_lowercase().replace(".:", ":");
        let wanted = wanted.strip_suffix('.').unwrap_or(&wanted);
        let rank = |domain: &&String| match (domain.strip_prefix('*'), domain.strip_suffix('*')) {
            (Some(""), _) => Some((0, 0)),
            (Some(suffix), _) => (wanted.len() > suffix.len() && wanted.ends_with(suffix)).then_some((2, suffix.len())),
            (_, Some(prefix)) => (wanted.len() > prefix.len() && wanted.starts_with(prefix)).then_some((1, prefix.len())),
            _ => (wanted == domain.as_str()).then_some((3, 0)),
        };
        let best = kept.iter().filter(|domain| rank(domain).is_some()).max_by_key(rank);
        prop_assert_eq!(table.virtual_host(&host).map(|found| &*found.name), best.map(String::as_str));
    }
}
