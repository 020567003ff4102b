//! Network filters, and what is asked about a connection beside the request on it.

use super::*;
use crate::telemetry::Metrics;

fn rbac(rules: Option<Policies>, shadow: Option<Policies>) -> Rbac {
    Rbac { rules, shadow, prefix: "".into(), shadow_prefix: "".into() }
}

fn keeper(name: &str, rbac: Rbac) -> Keeper {
    Keeper { name: name.into(), stat_prefix: name.into(), rbac }
}

fn source(text: &str) -> Rule {
    Rule::Source(Range::new(text.parse().unwrap(), 32).unwrap())
}

#[test]
fn the_first_filter_that_denies_ends_it() {
    let always = |action| rbac(Some(policies(action, Rule::Always)), None);
    let keepers = vec![
        keeper("a", always(Action::Log)),
        keeper("b", always(Action::Deny)),
        keeper("c", always(Action::Deny)),
    ];
    let gate = Gate::new(keepers);
    let connection = connection();
    let facts = Facts::of_connection(&connection, connection.peer.ip(), None);
    let asked: Vec<_> = gate.judge(&facts).into_iter().map(|(keeper, _)| keeper.name.to_string()).collect();
    assert_eq!(asked, ["a", "b"]);
    let metrics = Metrics::new(1);
    let why = gate.admit(&connection, connection.peer.ip(), None, &metrics.recorder(0)).unwrap_err();
    assert_eq!(why, "rbac_access_denied_matched_policy[p] (DENY) by b");
    let mut page = String::new();
    metrics.encode_stats(&mut page, &|name| name.ends_with("rbac.denied"), &Default::default());
    assert_eq!(page, "a.rbac.denied: 0\nb.rbac.denied: 1\n");
}

#[test]
fn a_gate_admits_whom_every_filter_lets_through() {
    let connection = connection();
    let allow = |address| rbac(Some(policies(Action::Allow, source(address))), None);
    let dry = || rbac(None, Some(policies(Action::Deny, Rule::Always)));
    for (keepers, open, admitted) in [
        (vec![], true, true),
        (vec![keeper("own", allow("10.0.0.9"))], false, true),
        (vec![keeper("other", allow("10.0.0.8"))], false, false),
        (vec![keeper("own", allow("10.0.0.9")), keeper("other", allow("10.0.0.8"))], false, false),
        (vec![keeper("dry", dry())], false, true),
    ] {
        let (direct, recorder) = (connection.peer.ip(), Metrics::new(1).recorder(0));
        let gate = Gate::new(keepers);
        assert_eq!(gate.is_open(), open);
        assert_eq!(gate.admit(&connection, direct, None, &recorder).is_ok(), admitted, "{gate:?}");
        assert_eq!(gate.would_admit(&connection, direct), admitted, "{gate:?}");
    }
}

#[test]
fn it_is_known_whether_a_server_name_is_asked_for() {
    let name = || Rule::ServerName(Box::new(Text::exact("a.test", false)));
    for (rule, asks) in [
        (Rule::Always, false),
        (name(), true),
        (Rule::All([Rule::Always, name()].into()), true),
        (Rule::Any([name(), Rule::Always].into()), true),
        (Rule::Any([Rule::Always].into()), false),
        (Rule::Not(Box::new(name())), true),
        (Rule::Not(Box::new(Rule::Always)), false),
    ] {
        for dry in [false, true] {
            let set = policies(Action::Deny, rule_like(&rule, &name));
            let rbac = if dry { rbac(None, Some(set)) } else { rbac(Some(set), None) };
            assert_eq!(rbac.asks_server_name(), asks, "{rule:?}");
            assert!(!rbac.is_idle());
            let gate = Gate::new(vec![keeper("a", empty()), keeper("b", rbac)]);
            assert_eq!(gate.asks_server_name(), asks, "{rule:?}");
        }
    }
    assert!(empty().is_idle() && !empty().asks_server_name());
}

fn empty() -> Rbac {
    rbac(None, None)
}

/// Rules cannot be copied.
fn rule_like(rule: &Rule, name: &dyn Fn() -> Rule) -> Rule {
    match rule {
        Rule::ServerName(_) => name(),
        Rule::All(rules) => Rule::All(rules.iter().map(|rule| rule_like(rule, name)).collect()),
        Rule::Any(rules) => Rule::Any(rules.iter().map(|rule| rule_like(rule, name)).collect()),
        Rule::Not(rule) => Rule::Not(Box::new(rule_like(rule, name))),
        _ => Rule::Always,
    }
}

#[test]
fn mail_addresses_and_uris_are_asked_for_by_their_kind() {
    let (uris, emails): ([Box<str>; 1], [Box<str>; 1]) = (["spiffe://td/a".into()], ["me@a.test".into()]);
    let peer = Peer { uris: &uris, dns: &[], emails: &emails, subject: "", doubtful: false };
    let text = |text| Box::new(Text::exact(text, false));
    for (rule, known) in [
        (Rule::PeerEmail(text("me@a.test")), Yes),
        (Rule::PeerEmail(text("spiffe://td/a")), No),
        (Rule::PeerUri(text("spiffe://td/a")), Yes),
        (Rule::PeerUri(text("me@a.test")), No),
        (Rule::Peer(Some(text("me@a.test"))), No),
    ] {
        let connection = connection();
        let mut facts = Facts::of_connection(&connection, [10, 0, 0, 1].into(), None);
        assert_eq!(rule.judge(&facts), No, "{rule:?}");
        facts.peer = Some(peer);
        assert_eq!(rule.judge(&facts), known, "{rule:?}");
    }
}
