//! What a request costs, for callgrind: `docs/authorization.md` says how it is run. Without `SIDEGATE_COST_ROUNDS` it asks a few times
//! and checks the answers only.

use super::*;

/// A hundred policies as our control plane writes them: callers by id or by namespace, methods, paths by prefix or template.
fn hundred(action: Action) -> Vec<Policy> {
    let policy = |number: usize| {
        let id = format!("spiffe://cluster.local/ns/team-{}/sa/service-{number}", number % 10);
        let caller = if number.is_multiple_of(4) {
            Text::contains(&format!("/ns/team-{number}/"), false)
        } else {
            Text::exact(&id, false)
        };
        let place = match number % 3 {
            0 => PathTest::Text(Text::exact(&format!("/api/v1/things/{number}"), false)),
            1 => PathTest::Text(Text::prefix(&format!("/api/v1/parts/{number}/"), false)),
            _ => PathTest::Template(Template::parse(&format!("/api/v1/orders/{number}/{{*}}")).unwrap()),
        };
        let methods = Rule::Any([is(":method", "GET"), is(":method", "HEAD")].into());
        Policy {
            name: format!("shop/policy-{number:03}/rule/0").into(),
            permission: Rule::All([methods, Rule::Path(Box::new(place)), Rule::Ports(8080, 8081)].into()),
            principal: Rule::Peer(Some(Box::new(caller))),
        }
    };
    let mut policies: Vec<_> = (0..99).map(policy).collect();
    let open = Rule::Peer(Some(Box::new(Text::exact("spiffe://cluster.local/ns/web/sa/front", false))));
    if action == Action::Allow {
        policies.push(Policy { name: "zz/front/rule/0".into(), permission: Rule::Always, principal: open });
    }
    policies
}

#[test]
fn a_hundred_policies() {
    let rounds: usize = std::env::var("SIDEGATE_COST_ROUNDS").map_or(3, |text| text.parse().unwrap());
    let metrics = crate::telemetry::Metrics::new(1);
    let recorder = metrics.recorder(0);
    let connection = connection();
    let rbac = |action| Rbac {
        rules: Some(Policies::new(action, hundred(action))),
        shadow: None,
        prefix: "".into(),
        shadow_prefix: "".into(),
    };
    let fields: &[(&'static str, &[u8])] = &[
        ("user-agent", b"curl/8.5.0"),
        ("accept", b"*/*"),
        ("x-request-id", b"4f0a5b56-8a8e-9c00-a4b3-1f2e3d4c5b6a"),
        ("x-forwarded-proto", b"https"),
        ("x-envoy-attempt-count", b"1"),
    ];
    let head = request("GET", "orders.shop.svc:8080", "/api/v1/orders/98/items?page=2", fields);
    let attributes = Attributes::default();
    let uris: [Box<str>; 1] = ["spiffe://cluster.local/ns/web/sa/front".into()];
    let peer = Peer { uris: &uris, dns: &[], emails: &[], subject: "", doubtful: false };
    let (allow, deny) = (rbac(Action::Allow), rbac(Action::Deny));
    for _ in 0..rounds {
        for rbac in [&deny, &allow] {
            assert!(std::hint::black_box(judge_once(rbac, &connection, &head, &attributes, peer, &recorder)));
        }
    }
}

#[test]
fn the_last_policy_of_a_set_of_any_size_counts() {
    let (head, attributes) = (request("GET", "a.test", "/", &[]), Attributes::default());
    let facts = facts(&head, &attributes, None);
    for size in [1, 63, 64, 65, FEW * 64 - 1, FEW * 64, FEW * 64 + 1, MOST_POLICIES] {
        let policy = |number: usize| Policy {
            name: format!("{number:04}").into(),
            permission: is(":method", if number + 1 == size { "GET" } else { "PUT" }),
            principal: Rule::Always,
        };
        let set = Policies::new(Action::Deny, (0..size).map(policy).collect());
        let verdict = set.decide(&facts);
        assert_eq!(verdict.policy, Some(&format!("{:04}", size - 1).into()), "{size}");
    }
}

/// The policies of a set of a hundred that are asked about a request.
fn asked(method: &str, target: &str, uri: &str, port: u16) -> Vec<usize> {
    let set = Policies::new(Action::Deny, hundred(Action::Deny));
    let head = request(method, "orders.shop", target, &[]);
    let (attributes, uris) = (Attributes::default(), [uri.into()]);
    let peer = Peer { uris: &uris, dns: &[], emails: &[], subject: "", doubtful: false };
    let facts = Facts::supposed(Some(peer), None, [10, 0, 0, 2].into(), ([10, 0, 0, 1], port).into());
    let facts = facts.with_request(&head, &attributes, [10, 0, 0, 2].into());
    let few: Vec<_> = set.index.candidates::<FEW>(&facts, 0).iter().collect();
    assert_eq!(few, set.index.candidates::<WORDS>(&facts, 0).iter().collect::<Vec<_>>());
    let enough: Vec<_> = set.index.candidates::<FEW>(&facts, 2).iter().collect();
    assert!(few.iter().all(|number| enough.contains(number)) && enough.len() <= few.len().max(2));
    few
}

#[test]
fn few_of_a_hundred_are_asked() {
    let service =
        |number: usize| format!("spiffe://cluster.local/ns/team-{}/sa/service-{number}", number % 10);
    // A path as a whole, by its beginning, by a template.
    for (number, target) in
        [(33, "/api/v1/things/33"), (67, "/api/v1/parts/67/x"), (98, "/api/v1/orders/98/items")]
    {
        let caller = service(number);
        assert_eq!(asked("GET", target, &caller, 8080), [number]);
        assert_eq!(asked("HEAD", target, &caller, 8080), [number]);
        assert!(asked("PUT", target, &caller, 8080).is_empty(), "another method");
        assert!(asked("GET", target, &caller, 8081).is_empty(), "another port");
        assert!(asked("GET", target, &service(1), 8080).is_empty(), "another caller");
        assert!(asked("GET", "/api/v2/things", &caller, 8080).is_empty(), "another path");
        // Nobody can tell which path it is: whoever names the caller is asked.
        let named = asked("GET", "/api/v1/%2e%2e/things", &caller, 8080);
        assert!(named.contains(&number) && named.len() <= 2, "{named:?}");
    }
    // A namespace, also behind another mark.
    for caller in ["spiffe://td/ns/team-64/sa/x", "spiffe://td/ns/ns/team-64/sa/x"] {
        assert_eq!(asked("GET", "/api/v1/parts/64/x", caller, 8080), [64], "{caller}");
    }
    assert!(asked("GET", "/api/v1/parts/64/x", "spiffe://td/ns/team-6/sa/x", 8080).is_empty());
}

/// What `Rbac::on_request` does for a request that passes.
#[inline(never)]
fn judge_once(
    rbac: &Rbac,
    connection: &crate::telemetry::Downstream,
    head: &RequestHead,
    attributes: &Attributes,
    peer: Peer<'_>,
    recorder: &Recorder,
) -> bool {
    let mut facts = Facts::of_connection(connection, connection.peer.ip(), Some(""));
    facts.peer = Some(peer);
    let judgement = rbac.judge(&facts.with_request(head, attributes, connection.peer.ip()));
    judgement.count(rbac, true, &connection.stat_prefix, recorder);
    judgement.denial("rbac").is_none()
}
