use proptest::prelude::*;

use super::*;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix::new(address.parse().unwrap(), length.parse().unwrap())
}

fn name(text: &str) -> ServerName {
    match text.strip_prefix('*') {
        Some(suffix) => ServerName::Suffix(suffix.into()),
        None => ServerName::Exact(text.into()),
    }
}

fn matcher(chains: &[Criteria]) -> Matcher {
    let mut matcher = Matcher::default();
    for (index, criteria) in chains.iter().enumerate() {
        matcher.insert(criteria, index).unwrap();
    }
    matcher
}

fn tls(server_name: &str) -> Told<'_> {
    Told { server_name, transport: TLS, protocols: &[] }
}

fn facts<'a>(destination: &str, source: &str, told: Told<'a>) -> Facts<'a> {
    let source = address(source);
    Facts { destination: address(destination), direct_source: source, source, told: Some(told) }
}

#[test]
fn ports_come_before_prefixes_and_nothing_goes_back() {
    let chains = [
        Criteria {
            destination_port: Some(80),
            destinations: vec![prefix("10.0.0.0/8")],
            ..Criteria::default()
        },
        Criteria { destinations: vec![prefix("10.1.0.0/16"), prefix("fd00::/8")], ..Criteria::default() },
        Criteria::default(),
    ];
    let matcher = matcher(&chains);
    for (destination, expected) in [
        ("10.1.2.3:80", Found::Chain(0)),
        ("10.1.2.3:81", Found::Chain(1)),
        ("[fd00::1]:81", Found::Chain(1)),
        ("10.2.2.3:81", Found::Chain(2)),
        // A chain names the port: those that do not are out of the question.
        ("11.1.2.3:80", Found::Nothing),
    ] {
        assert_eq!(matcher.find(&facts(destination, "9.9.9.9:1", Told::NOTHING)), expected, "{destination}");
    }
}

#[test]
fn server_names_exactly_then_by_the_longest_suffix() {
    let names = |names: &[&str]| Criteria {
        server_names: names.iter().map(|text| name(text)).collect(),
        ..Criteria::default()
    };
    let matcher = matcher(&[
        names(&["www.example.com"]),
        names(&["*.example.com", "*.test"]),
        names(&["*.a.example.com"]),
        names(&[]),
    ]);
    for (server_name, expected) in [
        ("www.example.com", 0),
        ("mail.example.com", 1),
        ("b.a.example.com", 2),
        ("c.b.a.example.com", 2),
        ("a.example.com", 1),
        ("example.com", 3),
        (".example.com", 3),
        ("x.test", 1),
        ("x.test.", 3),
        ("", 3),
        (".", 3),
    ] {
        let facts = facts("1.1.1.1:443", "9.9.9.9:1", tls(server_name));
        assert_eq!(matcher.find(&facts), Found::Chain(expected), "{server_name}");
    }
}

#[test]
fn transport_and_protocols() {
    let protocols = |transport: Option<&str>, protocols: &[&str]| Criteria {
        transport: transport.map(Into::into),
        protocols: protocols.iter().map(|text| (*text).into()).collect(),
        ..Criteria::default()
    };
    let matcher = matcher(&[
        protocols(Some(TLS), &["h2"]),
        protocols(Some(TLS), &["http/1.1"]),
        protocols(Some(TLS), &[]),
        protocols(Some(RAW), &["h2c"]),
    ]);
    let offered: Vec<Box<str>> = vec!["x".into(), "http/1.1".into(), "h2".into()];
    let cases = [
        (Told { server_name: "", transport: TLS, protocols: &offered }, Found::Chain(1)),
        (Told { server_name: "", transport: TLS, protocols: &offered[..1] }, Found::Chain(2)),
        (Told { server_name: "", transport: RAW, protocols: &["h2c".into()] }, Found::Chain(3)),
        (Told::NOTHING, Found::Nothing),
    ];
    for (told, expected) in cases {
        assert_eq!(matcher.find(&facts("1.1.1.1:443", "9.9.9.9:1", told)), expected, "{told:?}");
    }
}

#[test]
fn sources() {
    let chains = [
        Criteria { source_kind: SourceKind::Local, ..Criteria::default() },
        Criteria {
            source_kind: SourceKind::External,
            sources: vec![prefix("10.0.0.0/8")],
            ..Criteria::default()
        },
        Criteria {
            source_kind: SourceKind::External,
            sources: vec![prefix("10.1.0.0/16")],
            source_ports: vec![7, 8],
            ..Criteria::default()
        },
        Criteria { direct_sources: vec![prefix("192.0.2.1/32")], ..Criteria::default() },
    ];
    let matcher = matcher(&chains);
    for (source, expected) in [
        ("127.0.0.1:9", Found::Chain(0)),
        ("1.1.1.1:9", Found::Chain(0)),
        ("10.2.0.1:9", Found::Chain(1)),
        ("10.1.0.1:7", Found::Chain(2)),
        ("10.1.0.1:9", Found::Nothing),
        ("11.0.0.1:9", Found::Nothing),
        ("192.0.2.1:9", Found::Chain(3)),
    ] {
        assert_eq!(matcher.find(&facts("1.1.1.1:80", source, Told::NOTHING)), expected, "{source}");
    }
    let relayed =
        Facts { direct_source: address("192.0.2.1:1"), ..facts("1.1.1.1:80", "10.2.0.1:9", Told::NOTHING) };
    assert_eq!(matcher.find(&relayed), Found::Chain(3), "the direct source comes first");
}

#[test]
fn bytes_are_needed_only_where_a_chain_depends_on_them() {
    let chains = [
        Criteria { destination_port: Some(443), server_names: vec![name("a")], ..Criteria::default() },
        Criteria { destination_port: Some(444), transport: Some(TLS.into()), ..Criteria::default() },
        Criteria { destination_port: Some(445), protocols: vec!["h2".into()], ..Criteria::default() },
        Criteria::default(),
    ];
    let matcher = matcher(&chains);
    for (port, expected) in [
        (443, Found::NeedsBytes),
        (444, Found::NeedsBytes),
        (445, Found::NeedsBytes),
        (3306, Found::Chain(3)),
    ] {
        let facts = Facts { told: None, ..facts(&format!("1.1.1.1:{port}"), "9.9.9.9:1", Told::NOTHING) };
        assert_eq!(matcher.find(&facts), expected, "{port}");
    }
}

#[test]
fn two_chains_for_the_same_connections() {
    let mut matcher = Matcher::default();
    let one = Criteria { server_names: vec![name("a"), name("b")], ..Criteria::default() };
    let other = Criteria { server_names: vec![name("b"), name("c")], ..Criteria::default() };
    assert_eq!(matcher.insert(&one, 0), Ok(()));
    assert_eq!(matcher.insert(&other, 1), Err(0));
    assert_eq!(matcher.insert(&Criteria { destination_port: Some(1), ..other }, 2), Ok(()));
}

#[test]
fn prefixes() {
    assert!(prefix("10.0.0.0/8").contains("10.255.0.1".parse().unwrap()));
    assert!(!prefix("10.0.0.0/8").contains("11.0.0.1".parse().unwrap()));
    assert!(prefix("0.0.0.0/0").contains("11.0.0.1".parse().unwrap()));
    assert!(!prefix("0.0.0.0/0").contains("::1".parse().unwrap()));
    assert!(prefix("::/0").contains("::1".parse().unwrap()));
    assert_eq!(prefix("10.1.2.3/8"), prefix("10.0.0.0/8"));
}

/// The same decision, taken slowly: at each level those chains stay that name the most specific value that fits.
fn naive(chains: &[Criteria], facts: &Facts<'_>) -> Option<usize> {
    let told = facts.told.unwrap();
    let within = |ranges: &[Prefix], address: SocketAddr| match ranges {
        [] => Some(0),
        ranges => ranges
            .iter()
            .filter(|range| range.contains(address.ip()))
            .map(|range| usize::from(range.length) + 1)
            .max(),
    };
    let among = |all: bool, one: bool| if all { Some(0) } else { one.then_some(1) };
    type Level<'a> = &'a dyn Fn(&Criteria) -> Option<usize>;
    let levels: [Level<'_>; 9] = [
        &|chain| match chain.destination_port {
            None => Some(0),
            Some(port) => (port == facts.destination.port()).then_some(1),
        },
        &|chain| within(&chain.destinations, facts.destination),
        &|chain| {
            let rank = |name: &ServerName| match name {
                ServerName::Exact(name) => (&**name == told.server_name).then_some(1000),
                ServerName::Suffix(suffix) => {
                    let longer = told.server_name.len() > suffix.len();
                    (longer && told.server_name.ends_with(&**suffix)).then_some(suffix.len())
                }
            };
            if chain.server_names.is_empty() {
                Some(0)
            } else {
                chain.server_names.iter().filter_map(rank).max()
            }
        },
        &|chain| among(chain.transport.is_none(), chain.transport.as_deref() == Some(told.transport)),
        &|chain| {
            let place = |protocol: &str| told.protocols.iter().position(|offered| **offered == *protocol);
            let places = chain.protocols.iter().filter_map(|protocol| place(protocol));
            if chain.protocols.is_empty() { Some(0) } else { places.min().map(|place| 1000 - place) }
        },
        &|chain| within(&chain.direct_sources, facts.direct_source),
        &|chain| match chain.source_kind {
            SourceKind::Any => Some(0),
            SourceKind::Local => is_local(facts).then_some(1),
            SourceKind::External => (!is_local(facts)).then_some(1),
        },
        &|chain| within(&chain.sources, facts.source),
        &|chain| among(chain.source_ports.is_empty(), chain.source_ports.contains(&facts.source.port())),
    ];
    let mut left: Vec<usize> = (0..chains.len()).collect();
    for rank in levels {
        let best = left.iter().filter_map(|chain| rank(&chains[*chain])).max()?;
        left.retain(|chain| rank(&chains[*chain]) == Some(best));
    }
    assert_eq!(left.len(), 1, "{left:?}");
    left.pop()
}

fn prefixes_of_a_few() -> impl Strategy<Value = Vec<Prefix>> {
    let one = prop::sample::select(vec![
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.1.1/32",
        "0.0.0.0/0",
        "fd00::/8",
        "::/0",
    ]);
    prop::collection::vec(one.prop_map(prefix), 0..3)
}

fn texts(all: &'static [&'static str]) -> impl Strategy<Value = Vec<Box<str>>> {
    prop::collection::vec(prop::sample::select(all).prop_map(Box::from), 0..3)
}

prop_compose! {
    fn criteria()(
        destination_port in prop::option::of(80_u16..82),
        destinations in prefixes_of_a_few(),
        server_names in texts(&["a.b.c", "*.b.c", "*.c", "b.c", "x"]),
        transport in prop::option::of(prop::sample::select(vec![RAW, TLS])),
        protocols in texts(&["h2", "http/1.1"]),
        direct_sources in prefixes_of_a_few(),
        source_kind in prop::sample::select(vec![SourceKind::Any, SourceKind::Local, SourceKind::External]),
        sources in prefixes_of_a_few(),
        source_ports in prop::collection::vec(1_u16..3, 0..2),
    ) -> Criteria {
        Criteria {
            destination_port,
            destinations,
            server_names: server_names.iter().map(|text| name(text)).collect(),
            transport: transport.map(Into::into),
            protocols,
            direct_sources,
            source_kind,
            sources,
            source_ports,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 1000 }))]

    #[test]
    fn agrees_with_a_naive_search(
        all in prop::collection::vec(criteria(), 0..12),
        server_name in prop::sample::select(vec!["", "a.b.c", "b.c", "z.b.c", "c", "x", "y.x"]),
        transport in prop::sample::select(vec![RAW, TLS]),
        protocols in texts(&["h2", "http/1.1", "h3"]),
        destination in prop::sample::select(vec!["10.1.1.1:80", "10.1.2.1:81", "10.2.0.1:82", "[fd00::1]:80", "9.9.9.9:81"]),
        direct in prop::sample::select(vec!["10.1.1.1:1", "10.1.2.1:2", "127.0.0.1:3", "[fd00::2]:1"]),
        source in prop::sample::select(vec!["10.1.1.1:1", "10.1.2.1:2", "127.0.0.1:3", "[fd00::1]:1", "[::1]:2"]),
    ) {
        let mut matcher = Matcher::default();
        let mut chains: Vec<Criteria> = Vec::new();
        for criteria in all {
            // A chain that was refused may have left places behind: a table is thrown away then, and so is this one.
            let mut trial = self::matcher(&chains);
            if trial.insert(&criteria, chains.len()).is_ok() {
                matcher = trial;
                chains.push(criteria);
            }
        }
        let facts = Facts {
            destination: address(destination),
            direct_source: address(direct),
            source: address(source),
            told: Some(Told { server_name, transport, protocols: &protocols }),
        };
        let expected = naive(&chains, &facts).map_or(Found::Nothing, Found::Chain);
        prop_assert_eq!(matcher.find(&facts), expected);
        // Without the bytes: either they are needed, or they change nothing.
        let blind = matcher.find(&Facts { told: None, ..facts });
        prop_assert!(blind == Found::NeedsBytes || blind == expected);
    }
}
