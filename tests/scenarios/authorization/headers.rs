//! Row I5: headers in every guise, against origins that read them as they like.

use sidegate_tests::message::Received;
use sidegate_tests::origin::Answer;

use super::*;
use crate::authorization::paths::{Dice, mutations};

/// What some reader behind us takes for the role `admin`: any field, any element, in any case, with whatever is no letter left out.
fn some_reader_sees_admin(received: &Received) -> bool {
    let roles = received.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-role"));
    let elements = roles.flat_map(|(_, value)| value.split(','));
    let letters = |element: &str| element.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
    elements.map(letters).any(|element| element.eq_ignore_ascii_case("admin"))
}

/// The role field, or fields, of one request: raw lines.
fn role_lines(dice: &mut Dice) -> Vec<u8> {
    let mut lines = Vec::new();
    let words: [&[u8]; 9] =
        [b"admin", b"Admin", b"ADMIN", b"user", b"guest", b"", b"admin\xff", b"\xc3admin", b"aadmin"];
    for _ in 0..=dice.below(3) {
        let name: &[u8] = [&b"x-role"[..], b"X-Role", b"X-ROLE", b"x-rolE"][dice.below(4)];
        lines.extend_from_slice(name);
        lines.push(b':');
        for element in 0..=dice.below(3) {
            if element > 0 {
                lines.push(b',');
            }
            lines.extend_from_slice([&b""[..], b" ", b"\t", b"  "][dice.below(4)]);
            lines.extend_from_slice(words[dice.below(words.len())]);
            lines.extend_from_slice([&b""[..], b" ", b" \t"][dice.below(3)]);
        }
        if dice.below(100) == 0 {
            lines.push(b',');
            lines.extend_from_slice(&vec![b','; 60 * 1024]);
            lines.extend_from_slice(b"admin");
        }
        lines.extend_from_slice(b"\r\n");
    }
    lines
}

#[allow(clippy::too_many_lines, reason = "one table, read from top to bottom")]
#[tokio::test]
async fn i5_no_guise_of_a_header_gets_past_a_policy() {
    let sandbox = Sandbox::new();
    let origin = Origin::http1(|received| {
        Answer::text(if some_reader_sees_admin(received) { "SECRET" } else { "public" })
    })
    .await;
    let admin = || header("x-role", "admin");
    let policies = [
        ("deny", rules("DENY", "p", admin(), any())),
        ("deny-principal", rules("DENY", "p", any(), admin())),
        ("allow-others", rules("ALLOW", "p", json!({"not_rule": admin()}), any())),
        (
            "allow-guests",
            rules(
                "ALLOW",
                "p",
                json!({"or_rules": {"rules": [header("x-role", "guest"), header("x-role", "user")]}}),
                any(),
            ),
        ),
        ("deny-but", rules("DENY", "p", json!({"not_rule": header("x-role", "guest")}), any())),
        (
            "deny-prefix",
            rules(
                "DENY",
                "p",
                json!({"header": {"name": "x-role", "string_match": {"prefix": "adm"}}}),
                any(),
            ),
        ),
        (
            "deny-any-case",
            rules(
                "DENY",
                "p",
                json!({"header": {"name": "x-role", "string_match": {"contains": "ADMIN", "ignore_case": true}}}),
                any(),
            ),
        ),
        ("open", Value::Null),
    ];
    let hosts: Vec<Value> = policies
        .iter()
        .map(|(name, rules)| {
            let rbac = if rules.is_null() { json!({}) } else { json!({"rules": rules}) };
            let own = json!({NAME: {"@type": format!("type.googleapis.com/{PER_ROUTE}"), "rbac": rbac}});
            json!({"name": name, "domains": [format!("{name}.test")], "typed_per_filter_config": own,
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]})
        })
        .collect();
    let proxy = Gateway::new()
        .cluster("app", &[origin.address()])
        .virtual_hosts(&Value::from(hosts).to_string())
        .http(&filters(&[http_filter(json!({}))]))
        .http("{max_request_headers_kb: 256}")
        .start(&sandbox)
        .await;
    let mut dice = Dice::new(5);
    let (mut would_leak, mut denied) = (0, 0);
    let mut client = Http1::connect(proxy.address).await.unwrap();
    for number in 0..mutations() / policies.len() {
        let lines = role_lines(&mut dice);
        for (name, _) in &policies {
            if !client.is_reusable() {
                client = Http1::connect(proxy.address).await.unwrap();
            }
            let mut request = format!("GET /{number} HTTP/1.1\r\nhost: {name}.test\r\n").into_bytes();
            request.extend_from_slice(&lines);
            request.extend_from_slice(b"\r\n");
            client.send(&request).await.unwrap();
            let response = wait::within("a response", client.response("GET")).await.unwrap();
            let secret = response.text().contains("SECRET");
            denied += usize::from(response.status == 403);
            if *name == "open" {
                would_leak += usize::from(secret);
            } else {
                assert!(!secret, "{name}: {}", lines.escape_ascii());
            }
        }
    }
    assert!(would_leak > mutations() / 40, "the mutations are no danger: {would_leak}");
    assert!(denied > mutations() / 8, "{denied}");
    // What is plain is served as it was meant.
    for (host, role, status) in [
        ("deny.test", "user", 200),
        ("deny.test", "admin", 403),
        ("allow-others.test", "user", 200),
        ("allow-guests.test", "guest", 200),
        ("allow-guests.test", "other", 403),
        ("deny-but.test", "guest", 200),
    ] {
        let response = proxy.call(&Call::get("/").host(host).header("x-role", role)).await;
        assert_eq!(response.status, status, "{host} {role}");
    }
}
