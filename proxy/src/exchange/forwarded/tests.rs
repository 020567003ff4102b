use http::uri::PathAndQuery;

use super::*;
use crate::message::Version;
use crate::snapshot::{Forwarding, Prefix};

/// Whether we are the edge, and by what rules.
struct Gate(bool, Forwarding);

fn gate(edge: bool, hops: u8) -> Gate {
    let internal = vec![Prefix::new([10, 0, 0, 0].into(), 8)];
    Gate(edge, Forwarding { trusted_hops: hops, internal, ..Forwarding::default() })
}

fn head(fields: &[(&'static str, &'static str)]) -> RequestHead {
    let mut headers = Headers::new();
    for (name, value) in fields {
        headers.append(Name::Static(name), Value::Static(value));
    }
    RequestHead {
        method: http::Method::GET,
        scheme: Scheme::Http,
        authority: None,
        path: PathAndQuery::from_static("/"),
        version: Version::Http11,
        headers,
    }
}

fn ask(gate: &Gate, peer: &str, head: &mut RequestHead) -> Caller {
    identify(&gate.1, gate.0, head, SocketAddr::new(peer.parse().unwrap(), 5), "9.9.9.9:443".parse().unwrap())
}

#[test]
fn i3_the_edge_appends_its_peer_to_one_list() {
    let mut head = head(&[(FOR, "1.1.1.1"), ("x-other", "1"), (FOR, "2.2.2.2")]);
    let caller = ask(&gate(true, 0), "::ffff:8.8.8.8", &mut head);
    assert_eq!(caller, Caller { inside: false, stranger: true, address: None });
    assert_eq!(head.headers.get_str(FOR), Some("1.1.1.1, 2.2.2.2, 8.8.8.8"));
    assert_eq!(head.headers.get_all(FOR).count(), 1);
    assert_eq!(head.headers.get_str("x-envoy-external-address"), Some("8.8.8.8"));
}

#[test]
fn i3_trusted_hops_name_the_client_and_the_rest_is_hearsay() {
    for (edge, hops, list, expected) in [
        (true, 1, "6.6.6.6, 1.1.1.1", Some("1.1.1.1")),
        (true, 2, "6.6.6.6, 1.1.1.1", Some("6.6.6.6")),
        (true, 3, "6.6.6.6, 1.1.1.1", None),
        (true, 1, "6.6.6.6, nonsense", None),
        (false, 0, "6.6.6.6, 1.1.1.1", Some("1.1.1.1")),
        (false, 1, "6.6.6.6,\t2001:db8::1 ,1.1.1.1", Some("2001:db8::1")),
        (false, 0, "1.1.1.1:80", None),
    ] {
        let mut head = head(&[(FOR, list)]);
        let caller = ask(&gate(edge, hops), "8.8.8.8", &mut head);
        assert_eq!(
            caller.address.map(|address| address.to_string()).as_deref(),
            expected,
            "{edge} {hops} {list}"
        );
        let told = if edge { Some(expected.unwrap_or("8.8.8.8")) } else { None };
        assert_eq!(head.headers.get_str("x-envoy-external-address"), told);
    }
}

#[test]
fn i3_only_insiders_steer() {
    let steering = [("x-envoy-retry-on", "5xx"), ("X-Envoy-Max-Retries", "9"), ("x-envoy-internal", "true")];
    for (edge, peer, list, inside) in [
        (true, "8.8.8.8", None, false),
        (true, "10.1.1.1", None, true),
        // It speaks for somebody else.
        (true, "10.1.1.1", Some("10.2.2.2"), false),
        (false, "10.1.1.1", None, false),
        (false, "8.8.8.8", Some("10.2.2.2"), true),
        (false, "8.8.8.8", Some("10.2.2.2, 10.3.3.3"), false),
        (false, "8.8.8.8", Some("1.1.1.1"), false),
    ] {
        let mut fields = steering.to_vec();
        fields.extend(list.map(|list| (FOR, list)));
        fields.push(("x-envoy-attempt-count", "1"));
        let mut head = head(&fields);
        let caller = ask(&gate(edge, 0), peer, &mut head);
        assert_eq!((caller.inside, caller.stranger), (inside, edge && !inside), "{edge} {peer} {list:?}");
        assert_eq!(head.headers.contains("x-envoy-max-retries"), inside, "{edge} {peer} {list:?}");
        assert_eq!(head.headers.get_str("x-envoy-internal"), inside.then_some("true"));
        assert_eq!(head.headers.contains("x-envoy-attempt-count"), !edge || inside);
    }
}

#[test]
fn i3_ours_are_known_in_any_case_and_are_never_a_strangers() {
    assert!(
        is_ours(b"X-Envoy-Retry-On") && is_ours(b"x-sidegate-reason") && !is_ours(b"x-env") && !is_ours(b"")
    );
    let mut head = head(&[("X-Sidegate-Reason", "1")]);
    ask(&gate(true, 0), "10.1.1.1", &mut head);
    assert!(head.headers.is_empty() || !head.headers.contains("x-sidegate-reason"));
}

#[test]
fn i3_the_scheme_is_the_connections_unless_a_trusted_hop_says_so() {
    for (edge, hops, told, scheme, sent) in [
        (true, 0, Some("https"), Scheme::Http, "http"),
        (true, 1, Some("https"), Scheme::Https, "https"),
        (true, 1, None, Scheme::Http, "http"),
        (false, 0, Some("HTTPS"), Scheme::Https, "HTTPS"),
        (false, 0, Some("gopher"), Scheme::Http, "gopher"),
    ] {
        let mut head = head(&told.map(|told| (PROTO, told)).into_iter().collect::<Vec<_>>());
        ask(&gate(edge, hops), "8.8.8.8", &mut head);
        assert_eq!(
            (head.scheme, head.headers.get_str(PROTO)),
            (scheme, Some(sent)),
            "{edge} {hops} {told:?}"
        );
    }
}

#[test]
fn i3_ports_and_lists_as_the_configuration_says() {
    let mut rules = gate(true, 0);
    rules.1.append_port = true;
    rules.1.skip_append = true;
    let mut head = head(&[(FOR, "1.1.1.1"), (PORT, "1")]);
    ask(&rules, "8.8.8.8", &mut head);
    assert_eq!((head.headers.get_str(PORT), head.headers.get_str(FOR)), (Some("443"), Some("1.1.1.1")));
    rules.1.trusted_hops = 1;
    head.headers.set(PORT, HeaderValue::from(1));
    ask(&rules, "8.8.8.8", &mut head);
    assert_eq!(head.headers.get_str(PORT), Some("1"));
}
