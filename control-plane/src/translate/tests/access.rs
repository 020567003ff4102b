//! AuthorizationPolicy and JWTPolicy: which filters stand where, and what they say.

use std::collections::BTreeMap;

use sidegate_xds::envoy::config::listener::v3::filter;
use sidegate_xds::envoy::config::rbac::v3::{Permission, Principal, permission, principal};
use sidegate_xds::envoy::config::route::v3::HeaderMatcher;
use sidegate_xds::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use sidegate_xds::envoy::extensions::filters::http::rbac::v3::Rbac;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use sidegate_xds::envoy::r#type::matcher::v3::{StringMatcher, path_matcher, string_matcher::MatchPattern};
use sidegate_xds::resource::from_any;

use super::fixture::{GATEWAY, SERVICES, Shown, gateway, secure_sidecar, sidecar};

pub(super) const POD: &str = "---\nkind: Pod\nmetadata: {name: web-1, namespace: shop, labels: {app: web}, annotations: {sidegate.dev/inbound: '8080:15006,9090:15007'}}\n\
    spec: {containers: []}\nstatus: {podIP: 10.0.0.1}\n\
    ---\nkind: Service\nmetadata: {name: front, namespace: shop}\nspec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}\n";

pub(super) fn policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

pub(super) fn at_pod(policies: &str) -> Shown {
    sidecar(&(POD.to_owned() + policies), "shop", "web-1")
}

fn filters(manager: &HttpConnectionManager) -> BTreeMap<String, Rbac> {
    let rbac = manager.http_filters.iter().filter(|filter| filter.name.contains("rbac"));
    rbac.map(|filter| {
        let Some(ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("no config") };
        (filter.name.rsplit_once('.').unwrap().1.to_owned(), from_any(any).unwrap())
    })
    .collect()
}

/// Each rule at the app's port as text: `action name: permissions | principals`.
pub(super) fn rules(shown: &Shown, sidecar_port: u16) -> Vec<String> {
    let manager = shown.manager(&format!("inbound|{sidecar_port}||"));
    let mut lines = Vec::new();
    for (action, filter) in filters(&manager) {
        for (kind, set) in [("", filter.rules), ("dry ", filter.shadow_rules)] {
            let Some(set) = set else { continue };
            if set.policies.is_empty() {
                lines.push(format!("{kind}{action} nothing"));
            }
            let sorted: BTreeMap<_, _> = set.policies.iter().collect();
            for (name, policy) in sorted {
                let permissions: Vec<_> = policy.permissions.iter().map(permission).collect();
                let principals: Vec<_> = policy.principals.iter().map(principal).collect();
                lines.push(format!(
                    "{kind}{action} {name}: {} | {}",
                    permissions.join(" "),
                    principals.join(" ")
                ));
            }
        }
    }
    lines
}

fn permission(permission: &Permission) -> String {
    use permission::Rule;
    match permission.rule.as_ref().unwrap() {
        Rule::Any(true) => "any".to_owned(),
        Rule::AndRules(set) => {
            format!("({})", set.rules.iter().map(self::permission).collect::<Vec<_>>().join(" & "))
        }
        Rule::OrRules(set) => {
            format!("[{}]", set.rules.iter().map(self::permission).collect::<Vec<_>>().join(" "))
        }
        Rule::NotRule(rule) => format!("!{}", self::permission(rule)),
        Rule::Header(matcher) => header(matcher),
        Rule::UrlPath(path) => match path.rule.as_ref().unwrap() {
            path_matcher::Rule::Path(matcher) => format!("path {}", text(matcher)),
        },
        Rule::UriTemplate(_) => "template".to_owned(),
        Rule::DestinationIp(range) => format!("to {}", range.address_prefix),
        Rule::RequestedServerName(matcher) => format!("sni {}", text(matcher)),
        other => panic!("{other:?}"),
    }
}

fn principal(principal: &Principal) -> String {
    use principal::Identifier;
    match principal.identifier.as_ref().unwrap() {
        Identifier::Any(true) => "any".to_owned(),
        Identifier::AndIds(set) => {
            format!("({})", set.ids.iter().map(self::principal).collect::<Vec<_>>().join(" & "))
        }
        Identifier::OrIds(set) => {
            format!("[{}]", set.ids.iter().map(self::principal).collect::<Vec<_>>().join(" "))
        }
        Identifier::NotId(id) => format!("!{}", self::principal(id)),
        Identifier::Header(matcher) => header(matcher),
        Identifier::Authenticated(name) => match &name.principal_name {
            Some(matcher) => text(matcher),
            None => "somebody".to_owned(),
        },
        Identifier::DirectRemoteIp(range) => {
            format!("{}/{}", range.address_prefix, range.prefix_len.unwrap().value)
        }
        Identifier::RemoteIp(range) => format!("client {}", range.address_prefix),
        Identifier::SourcedMetadata(metadata) => {
            let path = &metadata.metadata_matcher.as_ref().unwrap().path;
            let keys = path.iter().map(|segment| match segment.segment.as_ref().unwrap() {
                sidegate_xds::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment::Key(
                    key,
                ) => key.as_str(),
            });
            keys.collect::<Vec<_>>().join(".")
        }
        other => panic!("{other:?}"),
    }
}

fn header(matcher: &HeaderMatcher) -> String {
    if let Some(HeaderMatchSpecifier::PresentMatch(true)) = &matcher.header_match_specifier {
        return format!("{} is there", matcher.name);
    }
    let Some(HeaderMatchSpecifier::StringMatch(value)) = &matcher.header_match_specifier else {
        panic!("{matcher:?}")
    };
    format!("{} {}", matcher.name, text(value))
}

fn text(matcher: &StringMatcher) -> String {
    match matcher.match_pattern.as_ref().unwrap() {
        MatchPattern::Exact(text) => text.clone(),
        MatchPattern::Prefix(text) => format!("{text}…"),
        MatchPattern::Suffix(text) => format!("…{text}"),
        MatchPattern::SafeRegex(regex) => format!("/{}/", regex.regex),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_field_of_a_rule_becomes_a_term() {
    let id = "spiffe://cluster.local/ns";
    for (spec, expected) in [
        ("{}", "any | any".to_owned()),
        ("{from: [{source: {principals: [cluster.local/ns/a/sa/b]}}]}", format!("any | {id}/a/sa/b")),
        (
            "{from: [{source: {principals: ['spiffe://td/x', '*/sa/b', 'td/*']}}]}",
            "any | [spiffe://td/x …/sa/b spiffe://td/…]".to_owned(),
        ),
        ("{from: [{source: {principals: ['*']}}]}", "any | somebody".to_owned()),
        (
            "{from: [{source: {notPrincipals: [td/a]}}, {source: {namespaces: [a]}}]}",
            format!("any | !spiffe://td/a {id}/a/sa/…"),
        ),
        (
            "{from: [{source: {namespaces: ['a*']}}]}",
            "any | /spiffe://cluster\\.local/ns/a[^/]*/sa/[^/]+/".to_owned(),
        ),
        ("{from: [{source: {serviceAccounts: [b, c/d]}}]}", format!("any | [{id}/shop/sa/b {id}/c/sa/d]")),
        (
            "{from: [{source: {ipBlocks: [10.0.0.0/8], notIpBlocks: ['10.1.0.1'], remoteIpBlocks: ['::1']}}]}",
            "any | ((client ::1 & ::1/128) & 10.0.0.0/8 & !10.1.0.1/32)".to_owned(),
        ),
        (
            "{from: [{source: {requestPrincipals: ['https://i/x/me']}}]}",
            format!("any | [{}]", ["(payload.iss & payload.sub)"; 4].join(" ")),
        ),
        (
            "{to: [{operation: {methods: [GET], notPaths: [/a, '/b*', '/c/{*}']}}]}",
            "(:method GET & ![path /a path /b… template]) | any".to_owned(),
        ),
        (
            "{to: [{operation: {hosts: ['*.example']}}]}",
            ":authority /(?i).*\\.example\\.?(:[0-9]+)?/ | any".to_owned(),
        ),
        (
            "{to: [{operation: {hosts: [a.b, 'c*']}}]}",
            "[[:authority a.b :authority a.b:… :authority a.b.:… :authority a.b.] :authority c…] | any"
                .to_owned(),
        ),
        (
            "{to: [{operation: {ports: ['8080']}}], when: [{key: connection.sni, values: [x]}]}",
            "sni x | any".to_owned(),
        ),
        (
            "{when: [{key: 'request.headers[x-a]', values: [b], notValues: ['c*']}, {key: source.namespace, values: [a]}]}",
            format!("any | (x-a b & !x-a c… & {id}/a/sa/…)"),
        ),
        ("{when: [{key: 'request.auth.claims[a][b]', values: [c]}]}", "any | payload.a.b".to_owned()),
    ] {
        let shown = at_pod(&policy("shop", "p", &format!("{{rules: [{spec}]}}")));
        assert_eq!(rules(&shown, 15006), [format!("allow shop/p/rule/0: {expected}")], "{spec}");
    }
}

#[test]
fn only_gateways_are_believed_about_clients() {
    let rule = "{from: [{source: {remoteIpBlocks: [10.0.0.0/8], notRemoteIpBlocks: ['10.1.0.1']}}]}";
    let at = |gateways: &str, action: &str| {
        let policy = policy("shop", "p", &format!("{{action: {action}, rules: [{rule}]}}"));
        let shown = secure_sidecar(&(POD.to_owned() + "---\n" + gateways + &policy), "shop", "web-1");
        let listener = shown.listener("inbound|15006||");
        let chain = listener.filter_chains.iter().find(|chain| chain.name == "plaintext").unwrap();
        let Some(filter::ConfigType::TypedConfig(any)) = &chain.filters[0].config_type else { panic!() };
        let rules = filters(&from_any(any).unwrap()).into_values().next().unwrap().rules.unwrap();
        rules.policies["shop/p/rule/0"].principals.iter().map(principal).collect::<Vec<_>>().join(" ")
    };
    let gateway = "spiffe://mesh.test/ns/edge/sa/public";
    let (client, itself) = ("client 10.0.0.0", "10.0.0.0/8");
    let (except, except_itself) = ("client 10.1.0.1", "10.1.0.1/32");
    assert_eq!(
        at(GATEWAY, "DENY"),
        format!("([{client} ({itself} & !{gateway})] & !({except} & [{except_itself} {gateway}]))")
    );
    assert_eq!(
        at(GATEWAY, "ALLOW"),
        format!("(({client} & [{itself} {gateway}]) & ![{except} ({except_itself} & !{gateway})])")
    );
    // Of another's Gateways nobody knows whom they believe.
    let foreign = GATEWAY.replace("sidegate.dev/gateway-controller", "other.example/controller");
    for gateways in ["", foreign.as_str()] {
        assert_eq!(at(gateways, "DENY"), format!("([{client} {itself}] & !({except} & {except_itself}))"));
        assert_eq!(at(gateways, "ALLOW"), format!("(({client} & {itself}) & ![{except} {except_itself}])"));
    }
}

/// A sidecar in the clear, where no caller can prove to be a Gateway: nobody is believed, and the policy says so.
#[test]
fn i3_where_nobody_can_prove_to_be_a_gateway_nobody_is_believed_about_clients() {
    let at = |action: &str, rule: &str| {
        let policy = policy("shop", "p", &format!("{{action: {action}, rules: [{rule}]}}"));
        at_pod(&format!("---\n{GATEWAY}{policy}"))
    };
    let rule = "{from: [{source: {remoteIpBlocks: [10.0.0.0/8], notRemoteIpBlocks: ['10.1.0.1']}}]}";
    let (client, itself) = ("client 10.0.0.0", "10.0.0.0/8");
    let (except, except_itself) = ("client 10.1.0.1", "10.1.0.1/32");
    assert_eq!(
        rules(&at("DENY", rule), 15006),
        [format!("deny shop/p/rule/0: any | ([{client} {itself}] & !({except} & {except_itself}))")]
    );
    assert_eq!(
        rules(&at("ALLOW", rule), 15006),
        [format!("allow shop/p/rule/0: any | (({client} & {itself}) & ![{except} {except_itself}])")]
    );
    let by_condition = "{when: [{key: remote.ip, values: [10.0.0.0/8]}]}";
    assert_eq!(
        rules(&at("ALLOW", by_condition), 15006),
        [format!("allow shop/p/rule/0: any | ({client} & {itself})")]
    );
    for asks in [rule, by_condition] {
        let shown = at("ALLOW", asks);
        assert!(shown.message("ClientNotProven").contains("Pod shop/web-1"));
    }
    let other = at("ALLOW", "{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}");
    assert!(!other.0.verdicts.iter().any(|verdict| verdict.reason == "ClientNotProven"));
}

#[test]
fn a_rule_for_another_port_is_not_there_and_an_empty_allow_allows_nothing() {
    let ports =
        "{rules: [{to: [{operation: {ports: ['9090']}}]}, {to: [{operation: {notPorts: ['9090']}}]}]}";
    let shown = at_pod(&policy("shop", "p", ports));
    assert_eq!(rules(&shown, 15006), ["allow shop/p/rule/1: any | any"]);
    assert_eq!(rules(&shown, 15007), ["allow shop/p/rule/0: any | any"]);
    assert_eq!(rules(&at_pod(&policy("shop", "p", "{}")), 15006), ["allow nothing"]);
    assert_eq!(rules(&at_pod(&policy("shop", "p", "{action: DENY}")), 15006), [""; 0]);
}

#[test]
fn policies_hold_where_they_point_to() {
    let to = |namespace: &str, attachment: &str| {
        policy(namespace, "p", &format!("{{{attachment} action: DENY, rules: [{{}}]}}"))
    };
    let here = ["deny shop/p/rule/0: any | any".to_owned()];
    for (namespace, attachment, at_8080, at_9090) in [
        ("shop", "", true, true),
        ("shop", "selector: {matchLabels: {app: web}},", true, true),
        ("shop", "selector: {matchLabels: {app: other}},", false, false),
        ("shop", "targetRefs: [{group: '', kind: Service, name: front}],", true, false),
        ("shop", "targetRefs: [{group: '', kind: Service, name: front, sectionName: http}],", true, false),
        ("shop", "targetRefs: [{group: '', kind: Service, name: front, sectionName: '443'}],", false, false),
        (
            "shop",
            "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: front}],",
            false,
            false,
        ),
        ("other", "", false, false),
        ("other", "selector: {matchLabels: {app: web}},", false, false),
        ("sidegate-system", "", true, true),
        ("sidegate-system", "selector: {matchLabels: {app: web}},", true, true),
        ("sidegate-system", "targetRefs: [{group: '', kind: Service, name: front}],", false, false),
    ] {
        let shown = at_pod(&to(namespace, attachment));
        for (port, holds) in [(15006, at_8080), (15007, at_9090)] {
            let expected: Vec<String> = here
                .iter()
                .filter(|_| holds)
                .map(|line| line.replace("shop/p", &format!("{namespace}/p")))
                .collect();
            assert_eq!(rules(&shown, port), expected, "{namespace} {attachment} {port}");
        }
    }
}

#[test]
fn a_gateway_has_its_own_and_its_namespaces() {
    let edge = policy(
        "edge",
        "own",
        "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: public}], action: AUDIT, rules: [{}]}",
    ) + &policy("edge", "all", "{action: DENY, rules: [{}]}")
        + &policy("edge", "pods", "{selector: {matchLabels: {app: web}}, rules: [{}]}");
    let shown = gateway(&(GATEWAY.to_owned() + SERVICES + &edge));
    let found = filters(&shown.manager("edge/public/80"));
    assert_eq!(found.keys().collect::<Vec<_>>(), ["audit", "deny"]);
    assert!(found["deny"].rules.as_ref().unwrap().policies.contains_key("edge/all/rule/0"));
    let names: Vec<_> =
        shown.manager("edge/public/80").http_filters.into_iter().map(|filter| filter.name).collect();
    assert_eq!(
        names,
        ["envoy.filters.http.rbac.audit", "envoy.filters.http.rbac.deny", "envoy.filters.http.router"]
    );
}

#[test]
fn a_dry_run_is_evaluated_and_not_enforced() {
    let dry = "---\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop, annotations: {sidegate.dev/dry-run: 'true'}}\nspec: {action: DENY, rules: [{}]}\n";
    assert_eq!(rules(&at_pod(dry), 15006), ["dry deny shop/p/rule/0: any | any"]);
}
