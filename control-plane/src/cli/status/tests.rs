//! What people read.

use super::*;

fn status(kind: &str, state: State, error: Option<&str>) -> TypeStatus {
    TypeStatus {
        kind: kind.to_owned(),
        resources: 4,
        sent: Some("3f2a91c0aa".to_owned()),
        accepted: (state == State::Synced).then(|| "3f2a91c0aa".to_owned()),
        state,
        error: error.map(str::to_owned),
        since_seconds: 1.0,
    }
}

fn report() -> Report {
    let gateway = Proxy {
        id: "gateway~public.shop".to_owned(),
        role: Role::Gateway,
        namespace: "shop".to_owned(),
        name: "public".to_owned(),
        foreign: true,
        identity: None,
        certificate: None,
        connected_seconds: 59.4,
        applied_generation: 6,
        types: vec![
            status("cluster", State::Synced, None),
            status("route", State::Rejected, Some("shop/public/80: no such cluster")),
            status("secret", State::Synced, None),
            TypeStatus { sent: None, ..status("endpoint", State::NotRequested, None) },
        ],
    };
    Report { generation: 7, proxies: vec![gateway], ..Report::default() }
}

#[test]
fn proxies_stand_in_aligned_columns_with_their_errors_below() {
    let text = table(&report());
    let expected = "\
generation 7

PROXY        ROLE               CLUSTERS           ENDPOINTS  LISTENERS  ROUTES               SECRETS            CERTIFICATE  APPLIED  AGE
shop/public  gateway (foreign)  synced 3f2a91 (4)  -          -          rejected 3f2a91 (4)  synced 3f2a91 (4)  plaintext    6        59s

shop/public refuses a route: shop/public/80: no such cluster
";
    assert_eq!(text, expected);
}

#[test]
fn findings_and_false_conditions_follow() {
    let finding = Finding {
        file: "web.yaml".to_owned(),
        document: 2,
        object: Some("HTTPRoute shop/web".to_owned()),
        field: Some("spec.rules[0]".to_owned()),
        message: "wrong".to_owned(),
        in_force: "nothing".to_owned(),
    };
    let condition = |status: bool| Verdict {
        object: "HTTPRoute shop/web".to_owned(),
        generation: 1,
        condition: "ResolvedRefs".to_owned(),
        status,
        reason: "BackendNotFound".to_owned(),
        message: "no Service shop/x".to_owned(),
    };
    let report = Report {
        generation: 1,
        findings: vec![finding],
        conditions: vec![condition(true), condition(false)],
        ..Report::default()
    };
    let expected = "\
generation 1

No proxy is connected.

Findings:
  web.yaml #2 HTTPRoute shop/web spec.rules[0]: wrong (in force: nothing)

Conditions that are false:
  HTTPRoute shop/web ResolvedRefs=False, BackendNotFound: no Service shop/x
";
    assert_eq!(table(&report), expected);
}

#[test]
fn ages_are_short() {
    let texts = [0.4, 119.0, 120.0, 7200.0, 200_000.0, -1.0].map(age);
    assert_eq!(texts, ["0s", "119s", "2m", "2h", "2d", "0s"]);
}

#[test]
fn json_goes_through_whole() {
    let body = serde_json::to_vec(&report()).unwrap();
    let printed = print(&read(&body).unwrap(), Output::Json).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&printed).unwrap(), report());
    assert!(read(b"<html>").is_err());
}

#[test]
fn certificates_that_nobody_renews_are_told_long_before_they_end() {
    let with = |identity: bool, certificate: Option<(i64, bool)>| {
        let mut report = report();
        report.proxies[0].identity = identity.then(|| "spiffe://cluster.local/ns/shop/sa/public".to_owned());
        report.proxies[0].certificate =
            certificate.map(|(expires_seconds, renewed)| crate::status::Certificate {
                serial: "1".to_owned(),
                expires_seconds,
                life_seconds: 86_400,
                renewed,
            });
        table(&report)
    };
    for (certificate, cell, warning) in [
        (None, "token", None),
        (Some((43_200, false)), "12h", None),
        (Some((7_200, false)), "2h!", Some("expires in 2h and was not renewed")),
        (Some((7_200, true)), "2h", None),
        (Some((-5, false)), "expired", Some("has expired and was not renewed")),
    ] {
        let text = with(true, certificate);
        let line = text.lines().find(|line| line.starts_with("shop/public")).unwrap();
        let columns: Vec<&str> =
            line.split("  ").map(str::trim).filter(|column| !column.is_empty()).collect();
        assert_eq!(columns[columns.len() - 3], cell, "{line}");
        assert_eq!(warning.is_some(), text.contains("not renewed"), "{text}");
        assert!(warning.is_none_or(|warning| text.contains(warning)), "{text}");
    }
}
