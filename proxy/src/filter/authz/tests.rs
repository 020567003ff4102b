//! Rules over requests: what each kind of rule says, and that doubt never opens a door.

use http::Method;
use regex::Regex;

use super::Truth::{No, Unclear, Yes};
use super::*;
use crate::filter::Attributes;
use crate::message::{Headers, Name, RequestHead, Scheme, Value as FieldValue, Version};

mod cost;
mod found;
mod gate;
mod random;

/// A request in few words: method, host, target and fields.
fn request(method: &str, host: &str, target: &str, fields: &[(&'static str, &[u8])]) -> RequestHead {
    let mut headers = Headers::new();
    for (name, value) in fields {
        let value = http::HeaderValue::from_bytes(value).unwrap();
        headers.append(Name::Static(name), FieldValue::Http(value));
    }
    RequestHead {
        method: method.parse().unwrap(),
        scheme: Scheme::Http,
        authority: host.parse().ok(),
        path: target.parse().unwrap(),
        version: Version::Http11,
        headers,
    }
}

fn facts<'a>(head: &'a RequestHead, attributes: &'a Attributes, peer: Option<Peer<'a>>) -> Facts<'a> {
    let source = [10, 0, 0, 9].into();
    let facts = Facts::supposed(peer, Some("sni.test"), source, ([10, 1, 2, 3], 8080).into());
    facts.with_request(head, attributes, [192, 0, 2, 7].into())
}

fn judge(rule: &Rule, head: &RequestHead) -> Truth {
    rule.judge(&facts(head, &Attributes::default(), None))
}

fn field(name: &str, test: FieldTest, invert: bool) -> Rule {
    let name = match name {
        ":method" => FieldName::Method,
        ":path" => FieldName::Path,
        ":authority" => FieldName::Authority,
        name => FieldName::Field(name.into()),
    };
    Rule::Field(Box::new(FieldRule { name, test, invert, missing_as_empty: false }))
}

fn is(name: &str, text: &str) -> Rule {
    field(name, FieldTest::Text(Text::exact(text, false)), false)
}

fn path(text: Text) -> Rule {
    Rule::Path(Box::new(PathTest::Text(text)))
}

fn policies(action: Action, rule: Rule) -> Policies {
    Policies::new(action, vec![Policy { name: "p".into(), permission: rule, principal: Rule::Always }])
}

#[test]
fn i5_a_header_is_certain_only_when_every_reader_sees_the_same() {
    let get = |fields: &[(&'static str, &[u8])]| request("GET", "a.test", "/", fields);
    let role = || is("x-role", "admin");
    for (fields, wanted) in [
        (&[][..], No),
        (&[("x-role", &b"admin"[..])], Yes),
        (&[("X-Role", b"admin")], Yes),
        (&[("x-role", b"user")], No),
        (&[("x-role", b"")], No),
        (&[("x-role", b"Admin")], Unclear),
        (&[("x-role", b"user"), ("x-role", b"admin")], Unclear),
        (&[("x-role", b"admin"), ("x-role", b"admin")], Unclear),
        (&[("x-role", b"user"), ("x-role", b"guest")], No),
        (&[("x-role", b"user,admin")], Unclear),
        (&[("x-role", b"user ,\tadmin ")], Unclear),
        (&[("x-role", b"user,guest")], No),
        (&[("x-role", b"admin\xff")], Unclear),
        (&[("x-role", b"user"), ("x-role", b"\xe4")], Unclear),
        (&[("x-rolf", b"admin")], No),
    ] {
        assert_eq!(judge(&role(), &get(fields)), wanted, "{fields:?}");
    }
    let long = vec![b','; 64 * 1024];
    assert_eq!(judge(&role(), &get(&[("x-role", &long)])), Unclear, "nobody reads so long a list to its end");
    assert_eq!(judge(&role(), &get(&[("x-role", &vec![b'a'; 64 * 1024])])), No);
}

#[test]
fn i5_applications_read_names_and_methods_more_freely_than_we_do() {
    let get = |fields: &[(&'static str, &[u8])]| request("GET", "a.test", "/", fields);
    for (fields, wanted) in [
        (&[("X_Role", &b"admin"[..])][..], Unclear),
        (&[("x_role", b"user"), ("x-role", b"user")], Unclear),
        (&[("x_rolf", b"admin"), ("x-role", b"user")], No),
    ] {
        assert_eq!(judge(&is("x-role", "admin"), &get(fields)), wanted, "{fields:?}");
        assert_eq!(judge(&is("x_role", "admin"), &get(&[("x-role", b"admin")])), No);
    }
    let delete = || is(":method", "DELETE");
    for (method, wanted) in [("DELETE", Yes), ("delete", Unclear), ("Delete", Unclear), ("GET", No)] {
        let head = request(method, "a.test", "/", &[]);
        assert_eq!(judge(&delete(), &head), wanted, "{method}");
        assert_eq!(judge(&Rule::Not(Box::new(delete())), &head), wanted.not(), "{method}");
        // As the index finds the policy, too.
        let attributes = Attributes::default();
        let denied = !policies(Action::Deny, delete()).decide(&facts(&head, &attributes, None)).allowed;
        assert_eq!(denied, wanted != No, "{method}");
    }
}

#[test]
fn i3_an_address_by_hearsay_opens_no_door() {
    let head = request("GET", "a.test", "/", &[]);
    let attributes = Attributes::default();
    // The client is said to be 192.0.2.7; the connection comes from 10.0.0.9.
    for (range, believed, heard) in
        [("192.0.2.0", Yes, Unclear), ("10.0.0.0", No, Unclear), ("203.0.113.0", No, No)]
    {
        let rule = Rule::Client(Range::new(range.parse().unwrap(), 24).unwrap());
        let mut facts = facts(&head, &attributes, None);
        assert_eq!(rule.judge(&facts), believed, "{range:?}");
        facts.hearsay = true;
        assert_eq!(rule.judge(&facts), heard, "{range:?}");
    }
}

#[test]
fn i5_presence_and_numbers() {
    let get = |fields: &[(&'static str, &[u8])]| request("GET", "a.test", "/", fields);
    let present = || field("x-a", FieldTest::Present, false);
    let absent = || field("x-a", FieldTest::Present, true);
    let number = || field("x-a", FieldTest::Range(1, 10), false);
    for (fields, [wanted_present, wanted_absent, wanted_number]) in [
        (&[][..], [No, Yes, No]),
        (&[("x-a", &b"5"[..])], [Yes, No, Yes]),
        (&[("x-a", b"10")], [Yes, No, No]),
        (&[("x-a", b"")], [Unclear, Unclear, Unclear]),
        (&[("x-a", b"five")], [Yes, No, Unclear]),
        (&[("x-a", b"5"), ("x-a", b"50")], [Yes, No, Unclear]),
        (&[("x-a", b""), ("x-a", b"5")], [Yes, No, Unclear]),
        (&[("x-a", b"\xff")], [Yes, No, Unclear]),
    ] {
        let said = [present(), absent(), number()].map(|rule| judge(&rule, &get(fields)));
        assert_eq!(said, [wanted_present, wanted_absent, wanted_number], "{fields:?}");
    }
}

#[test]
fn inverted_tests_of_a_missing_header_fail_as_in_envoy() {
    let head = request("GET", "a.test", "/", &[]);
    let test = || FieldTest::Text(Text::exact("admin", false));
    assert_eq!(judge(&field("x-role", test(), true), &head), No);
    assert_eq!(judge(&Rule::Not(Box::new(is("x-role", "admin"))), &head), Yes);
    let rule = FieldRule {
        name: FieldName::Field("x-role".into()),
        test: test(),
        invert: true,
        missing_as_empty: true,
    };
    assert_eq!(judge(&Rule::Field(Box::new(rule)), &head), Yes);
}

#[test]
fn i5_doubt_denies_whatever_the_policy_is_for() {
    // A list in which one element is meant: nobody can say.
    let head = request("GET", "a.test", "/", &[("x-role", b"user,admin")]);
    let attributes = Attributes::default();
    let facts = facts(&head, &attributes, None);
    for rule in [|| is("x-role", "admin"), || Rule::Not(Box::new(is("x-role", "admin")))] {
        let allow = policies(Action::Allow, rule());
        let verdict = allow.decide(&facts);
        assert!(!verdict.allowed && verdict.policy.is_none() && verdict.unclear.is_some());
        let deny = policies(Action::Deny, rule());
        let verdict = deny.decide(&facts);
        assert!(!verdict.allowed && verdict.policy.is_some() && verdict.unclear.is_some());
    }
    // Something certain settles it.
    let certain = Rule::Any([is("x-role", "admin"), is(":method", "GET")].into());
    assert!(policies(Action::Allow, certain).decide(&facts).allowed);
}

#[test]
fn i4_paths_are_certain_only_when_every_server_reads_the_same() {
    let exact = || path(Text::exact("/private/secret.txt", false));
    let prefix = || path(Text::prefix("/public/", false));
    for (target, [wanted_exact, wanted_prefix]) in [
        ("/private/secret.txt", [Yes, No]),
        ("/private/secret.txt?x", [Yes, No]),
        ("/private/secret.txt#x", [Yes, No]),
        ("/public/a", [No, Yes]),
        ("/public/a%20b", [No, Yes]),
        ("/private%2Fsecret.txt", [Unclear, No]),
        ("/private/secret%2etxt", [Unclear, No]),
        ("/private/%73ecret.txt", [Unclear, No]),
        ("/private/secret.txt;x", [Unclear, No]),
        ("//private/secret.txt", [Unclear, No]),
        ("/public/..%2Fprivate/secret.txt", [Unclear, Unclear]),
        ("/public/%2e%2e/private/secret.txt", [Unclear, Unclear]),
        ("/public/%252e%252e/private/secret.txt", [Unclear, Unclear]),
        ("/public/..;/private/secret.txt", [Unclear, Unclear]),
        ("/public/%", [Unclear, Unclear]),
        ("/public/%c0%ae%c0%ae/x", [Unclear, Unclear]),
        ("/Private/secret.txt", [No, No]),
    ] {
        let head = request("GET", "a.test", target, &[]);
        assert_eq!(
            [exact(), prefix()].map(|rule| judge(&rule, &head)),
            [wanted_exact, wanted_prefix],
            "{target}"
        );
    }
    let mut tunnel = request("GET", "a.test", "/", &[]);
    tunnel.method = Method::CONNECT;
    assert_eq!(judge(&path(Text::prefix("/", false)), &tunnel), Unclear, "a tunnel has no path");
}

#[test]
fn targets_have_their_query_and_paths_have_not() {
    let head = request("GET", "a.test", "/a?b=c", &[]);
    assert_eq!(judge(&is(":path", "/a?b=c"), &head), Yes);
    assert_eq!(judge(&is(":path", "/a"), &head), No);
    assert_eq!(judge(&path(Text::exact("/a", false)), &head), Yes);
    assert_eq!(judge(&is(":path", "/a?b=c"), &request("GET", "a.test", "/%61?b=c", &[])), Unclear);
    let template = Template::parse("/a/{*}/c").unwrap();
    let template = Rule::Path(Box::new(PathTest::Template(template)));
    assert_eq!(judge(&template, &request("GET", "a.test", "/a/b/c?d", &[])), Yes);
    assert_eq!(judge(&template, &request("GET", "a.test", "/a/b%2Fc", &[])), Unclear);
}

#[test]
fn i7_one_host_has_one_meaning() {
    for (host, wanted) in [
        ("a.test", Yes),
        ("b.test", No),
        ("A.test", Unclear),
        ("a.test:8080", Unclear),
        ("a.test.", Unclear),
        ("a.TEST.:80", Unclear),
        ("xa.test", No),
    ] {
        assert_eq!(judge(&is(":authority", "a.test"), &request("GET", host, "/", &[])), wanted, "{host}");
    }
    let with_port = Rule::Any([is(":authority", "a.test"), is(":authority", "a.test:8080")].into());
    assert_eq!(judge(&with_port, &request("GET", "a.test:8080", "/", &[])), Yes);
    assert_eq!(judge(&is(":authority", "[::1]"), &request("GET", "[::1]:80", "/", &[])), Unclear);
}

#[test]
fn callers_are_known_by_their_certificates_alone() {
    let (head, attributes) = (request("GET", "a.test", "/", &[]), Attributes::default());
    let text = |text| Some(Box::new(Text::exact(text, false)));
    let say = |rule: &Rule, peer| rule.judge(&facts(&head, &attributes, peer));
    let one: [Box<str>; 1] = ["spiffe://td/ns/a/sa/b".into()];
    let two: [Box<str>; 2] = [one[0].clone(), "spiffe://td/ns/a/sa/c".into()];
    let dns: [Box<str>; 1] = ["b.test".into()];
    let peer = Peer { uris: &one, dns: &dns, emails: &[], subject: "CN=b", doubtful: false };
    for (rule, nobody, known) in [
        (Rule::Peer(None), No, Yes),
        (Rule::Peer(text("spiffe://td/ns/a/sa/b")), No, Yes),
        (Rule::Peer(text("spiffe://td/ns/a/sa/x")), No, No),
        (Rule::Peer(text("b.test")), No, Yes),
        (Rule::Peer(text("CN=b")), No, Yes),
        (Rule::Peer(Some(Box::new(Text::contains("/ns/a/", false)))), No, Yes),
        (Rule::PeerUri(Box::new(Text::exact("b.test", false))), No, No),
        (Rule::Not(Box::new(Rule::Peer(text("spiffe://td/ns/a/sa/b")))), Yes, No),
    ] {
        assert_eq!([say(&rule, None), say(&rule, Some(peer))], [nobody, known], "{rule:?}");
    }
    let rule = Rule::Peer(text("spiffe://td/ns/a/sa/b"));
    assert_eq!(say(&rule, Some(Peer { uris: &two, ..peer })), Unclear, "two ids are none");
    let other = Rule::Peer(text("spiffe://td/ns/a/sa/x"));
    assert_eq!(
        say(&other, Some(Peer { doubtful: true, ..peer })),
        Unclear,
        "it may be one of its other names"
    );
}

#[test]
fn addresses_and_ports() {
    let (head, attributes) = (request("GET", "a.test", "/", &[]), Attributes::default());
    let range = |text: &str| Range::new(text.parse().unwrap(), 24).unwrap();
    for (rule, wanted) in [
        (Rule::Destination(range("10.1.2.0")), Yes),
        (Rule::Destination(range("10.1.3.0")), No),
        (Rule::Source(range("10.0.0.0")), Yes),
        (Rule::Direct(range("10.0.0.0")), Yes),
        (Rule::Client(range("10.0.0.0")), No),
        (Rule::Client(range("192.0.2.0")), Yes),
        (Rule::Ports(8080, 8081), Yes),
        (Rule::Ports(8081, 8082), No),
        (Rule::Ports(1, 8080), No),
        (Rule::ServerName(Box::new(Text::exact("sni.test", false))), Yes),
        (Rule::ServerName(Box::new(Text::exact("SNI.test", false))), Unclear),
        (Rule::ServerName(Box::new(Text::exact("x.test", false))), No),
    ] {
        assert_eq!(rule.judge(&facts(&head, &attributes, None)), wanted, "{rule:?}");
    }
}

#[test]
fn a_connection_says_nothing_of_requests() {
    let unknown = Facts::supposed(None, None, [10, 0, 0, 9].into(), ([10, 1, 2, 3], 8080).into());
    let mut facts = unknown;
    facts.server_name = None;
    let rules = [
        is("x-a", "b"),
        path(Text::prefix("/", false)),
        Rule::ServerName(Box::new(Text::exact("a", false))),
        Rule::Attribute(Box::new(AttributeRule {
            filter: "f".into(),
            path: [Box::from("x")].into(),
            test: ValueTest::Present(true),
            invert: false,
        })),
    ];
    for rule in rules {
        assert_eq!(rule.judge(&facts), Unclear, "{rule:?}");
    }
}

#[test]
fn absent_rules_allow_and_empty_ones_do_what_they_are_for() {
    let (head, attributes) = (request("GET", "a.test", "/", &[]), Attributes::default());
    let facts = facts(&head, &attributes, None);
    for (action, allowed) in [(Action::Allow, false), (Action::Deny, true), (Action::Log, true)] {
        let empty = Policies::new(action, Vec::new());
        assert_eq!(empty.decide(&facts).allowed, allowed, "{action}");
        let matching = policies(action, Rule::Always);
        let verdict = matching.decide(&facts);
        assert_eq!((verdict.allowed, verdict.policy.is_some()), (action != Action::Deny, true), "{action}");
    }
    let nothing = Rbac { rules: None, shadow: None, prefix: "".into(), shadow_prefix: "".into() };
    assert!(nothing.judge(&facts).denial("f").is_none());
}

#[test]
fn the_first_policy_by_name_settles_it_and_is_named() {
    let (head, attributes) = (request("GET", "a.test", "/", &[]), Attributes::default());
    let facts = facts(&head, &attributes, None);
    let policy = |name: &str, rule| Policy { name: name.into(), permission: rule, principal: Rule::Always };
    let set = vec![
        policy("shop/c/rule/0", Rule::Always),
        policy("shop/b", Rule::Always),
        policy("shop/a", is(":method", "PUT")),
    ];
    let deny = Policies::new(Action::Deny, set);
    let rbac = Rbac { rules: Some(deny), shadow: None, prefix: "".into(), shadow_prefix: "".into() };
    let denial = rbac.judge(&facts).denial("rbac").unwrap();
    assert_eq!(denial, "rbac_access_denied_matched_policy[shop/b] (DENY) by rbac");
    let allow = policies(Action::Allow, is(":method", "PUT"));
    assert!(allow.decide(&facts).to_string().starts_with("rbac_access_denied_matched_policy[none] (ALLOW)"));
    let spaced = Policies::new(Action::Deny, vec![policy("a b\n]", Rule::Always)]);
    assert!(spaced.decide(&facts).to_string().starts_with("rbac_access_denied_matched_policy[a_b_]] "));
}

#[test]
fn a_dry_run_denies_nothing_and_is_told() {
    let metrics = crate::telemetry::Metrics::new(1);
    let recorder = metrics.recorder(0);
    let connection = connection();
    let rbac = |rules: Option<Action>, shadow: Option<Action>| Rbac {
        rules: rules.map(|action| policies(action, Rule::Always)),
        shadow: shadow.map(|action| policies(action, Rule::Always)),
        prefix: "".into(),
        shadow_prefix: "dry_".into(),
    };
    let run = |rbac: &Rbac| {
        let (mut head, mut attributes, mut notes) =
            (request("GET", "a.test", "/", &[]), Attributes::default(), Vec::new());
        let mut context = Context {
            now: tokio::time::Instant::now(),
            connection: &connection,
            direct: connection.peer.ip(),
            client: connection.peer.ip(),
            head: &mut head,
            attributes: &mut attributes,
            recorder: &recorder,
            notes: &mut notes,
        };
        let reply = rbac.on_request("rbac", &mut context);
        (reply, attributes, notes)
    };
    let (reply, attributes, notes) = run(&rbac(Some(Action::Allow), Some(Action::Deny)));
    assert!(reply.is_none());
    assert_eq!(notes, ["dry run of rbac: rbac_access_denied_matched_policy[p] (DENY)"]);
    let told = attributes.get("envoy.filters.http.rbac").unwrap();
    assert_eq!(
        (&told["dry_shadow_engine_result"], &told["dry_shadow_effective_policy_id"]),
        (&"denied".into(), &"p".into())
    );
    let (reply, _, notes) = run(&rbac(Some(Action::Deny), Some(Action::Deny)));
    let detail = reply.unwrap().detail.unwrap();
    assert!(detail.contains("dry run of rbac") && notes.is_empty(), "{detail}");
    let (reply, attributes, _) = run(&rbac(Some(Action::Log), None));
    assert!(reply.is_none() && attributes.get("envoy.common").unwrap()["access_log_hint"] == true);
    let mut page = String::new();
    metrics.encode_stats(&mut page, &|name| name.contains("rbac"), &Default::default());
    assert_eq!(
        page,
        "http.main.rbac.allowed: 2\nhttp.main.rbac.denied: 1\nhttp.main.rbac.dry_.allowed: 0\n\
         http.main.rbac.dry_.denied: 0\nhttp.main.rbac.dry_.shadow_allowed: 0\nhttp.main.rbac.dry_.shadow_denied: 2\n\
         http.main.rbac.shadow_allowed: 0\nhttp.main.rbac.shadow_denied: 0\n"
    );
}

#[test]
fn regexes_match_whole_texts() {
    let regex = Text::regex(Box::new(Regex::new(r"\A(?:/v[0-9]+/.*)\z").unwrap()));
    assert_eq!(judge(&path(regex), &request("GET", "a.test", "/v1/x", &[])), Yes);
}

#[test]
fn a_route_cannot_switch_rules_off_by_naming_another_filter() {
    use crate::filter::{Chain, Entry, Kind, Overrides, Verdict, in_force, on_request};
    let metrics = crate::telemetry::Metrics::new(1);
    let recorder = metrics.recorder(0);
    let connection = connection();
    let rbac = Rbac {
        rules: Some(Policies::new(Action::Allow, Vec::new())),
        shadow: None,
        prefix: "".into(),
        shadow_prefix: "".into(),
    };
    let chain: Chain = vec![Arc::new(Entry { name: "rbac".into(), kind: Kind::Rbac(Arc::new(rbac)) })];
    for (own, denied) in [(Some(Kind::Inert), true), (Some(Kind::GrpcWeb), true), (None, false)] {
        let overrides: Overrides = vec![("rbac".into(), own)];
        let (mut head, mut attributes, mut notes) =
            (request("GET", "a.test", "/", &[]), Attributes::default(), Vec::new());
        let mut context = Context {
            now: tokio::time::Instant::now(),
            connection: &connection,
            direct: connection.peer.ip(),
            client: connection.peer.ip(),
            head: &mut head,
            attributes: &mut attributes,
            recorder: &recorder,
            notes: &mut notes,
        };
        let verdict = on_request(&chain, &overrides, &mut 0, &mut context);
        assert_eq!(matches!(verdict, Verdict::Reply(_)), denied, "{overrides:?}");
        assert_eq!(in_force(&chain, &overrides).any(|(_, kind)| matches!(kind, Kind::Rbac(_))), denied);
    }
}

fn connection() -> crate::telemetry::Downstream {
    crate::telemetry::Downstream {
        listener: "l".into(),
        stat_prefix: "main".into(),
        inbound: true,
        peer: ([10, 0, 0, 9], 1).into(),
        local: ([10, 1, 2, 3], 8080).into(),
        security: None,
    }
}
