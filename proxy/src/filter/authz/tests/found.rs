//! Among many policies none is passed over, however the request is written and whatever is in doubt about its caller.

use super::*;

/// More than are asked one by one, for callers, hosts, methods, paths and ports of their own.
fn many(count: usize, rule: impl Fn(usize) -> (Rule, Rule)) -> Policies {
    let policy = |number| {
        let (principal, permission) = rule(number);
        Policy { name: format!("p{number}").into(), principal, permission }
    };
    Policies::new(Action::Deny, (0..count).map(policy).collect())
}

fn denied(policies: &Policies, head: &RequestHead, peer: Option<Peer<'_>>) -> bool {
    !policies.decide(&facts(head, &Attributes::default(), peer)).allowed
}

#[test]
fn i7_a_host_is_found_however_it_is_written() {
    for count in [100, 400] {
        let policies = many(count, |number| (Rule::Always, is(":authority", &format!("h{number}.test"))));
        for host in ["h77.test", "H77.test", "h77.test:8080", "h77.test.", "h77.TEST.:80"] {
            assert!(denied(&policies, &request("GET", host, "/", &[]), None), "{host} of {count}");
        }
        for host in ["h777.test", "77.test", "xh77.test", "xyzzy"] {
            assert!(!denied(&policies, &request("GET", host, "/", &[]), None), "{host} of {count}");
        }
        // And no other one is asked in vain.
        let (head, attributes) = (request("GET", "H77.test:80", "/", &[]), Attributes::default());
        let found = policies.index.candidates::<WORDS>(&facts(&head, &attributes, None), 0);
        let names: Vec<&str> = found.iter().map(|number| &*policies.policies[number].name).collect();
        assert_eq!(names, ["p77"]);
        let addresses = many(count, |number| (Rule::Always, is(":authority", &format!("[::{number}]"))));
        assert!(denied(&addresses, &request("GET", "[::77]:80", "/", &[]), None));
        assert!(denied(&addresses, &request("GET", "[::77]", "/", &[]), None));
    }
}

#[test]
fn r7_a_caller_with_names_in_doubt_may_be_any_that_is_denied() {
    let name = |number: usize| format!("spiffe://td/ns/a/sa/s{number}");
    let head = request("GET", "a.test", "/", &[]);
    for count in [100, 400] {
        let by_name = |number: usize| Rule::Peer(Some(Box::new(Text::exact(&name(number), false))));
        let policies = many(count, |number| (by_name(number), Rule::Always));
        let (known, other): ([Box<str>; 1], [Box<str>; 1]) = ([name(77).into()], ["spiffe://td/x".into()]);
        let peer = Peer { uris: &known, dns: &[], emails: &[], subject: "", doubtful: false };
        assert!(denied(&policies, &head, Some(peer)));
        assert!(!denied(&policies, &head, Some(Peer { uris: &other, ..peer })));
        assert!(denied(&policies, &head, Some(Peer { uris: &other, doubtful: true, ..peer })));
        assert!(!denied(&policies, &head, None));
    }
}

#[test]
fn r7_a_name_that_cannot_be_read_makes_its_caller_doubtful() {
    let certificate = crate::tls::Certificate::with_doubts;
    assert!(!Peer::of(&certificate(0)).doubtful);
    assert!(Peer::of(&certificate(1)).doubtful);
    assert!(Peer::of(&certificate(3)).doubtful);
}
