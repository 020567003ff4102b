//! What is accepted, and what is refused by name.

use sidegate_xds::resource::to_any;

use super::*;
use crate::compile::tests::fixture::yaml;
use crate::filter::Attributes;
use crate::filter::authz::{Facts, Peer};
use crate::message::{Headers, Name, RequestHead, Scheme, Value as FieldValue, Version};

/// The HTTP filter with these fields.
fn compiled(fields: &str) -> Result<Rbac, String> {
    let filter: http::Rbac = yaml(&format!("{{{fields}}}"));
    super::http(&to_any(&filter)).map_err(|problem| problem.to_string())
}

/// An ALLOW policy with this permission.
fn permitting(permission: &str) -> Result<Rbac, String> {
    compiled(&format!(
        "rules: {{policies: {{p: {{permissions: [{permission}], principals: [{{any: true}}]}}}}}}"
    ))
}

/// An ALLOW policy for this principal.
fn letting(principal: &str) -> Result<Rbac, String> {
    compiled(&format!(
        "rules: {{policies: {{p: {{permissions: [{{any: true}}], principals: [{principal}]}}}}}}"
    ))
}

fn head(method: &str, target: &str) -> RequestHead {
    let mut headers = Headers::new();
    headers.append(Name::Static("x-role"), FieldValue::Static("admin"));
    RequestHead {
        method: method.parse().unwrap(),
        scheme: Scheme::Http,
        authority: "a.test".parse().ok(),
        path: target.parse().unwrap(),
        version: Version::Http11,
        headers,
    }
}

fn allows(rbac: &Rbac) -> bool {
    let uris: [Box<str>; 1] = ["spiffe://td/ns/shop/sa/web".into()];
    let emails: [Box<str>; 1] = ["web@shop.test".into()];
    let peer = Peer { uris: &uris, dns: &[], emails: &emails, subject: "", doubtful: false };
    let head = head("GET", "/a/b?c");
    let mut attributes = Attributes::default();
    attributes.set("jwt".into(), serde_json::json!({"payload": {"sub": "me", "n": 5}}));
    let destination = ([10, 0, 0, 1], 8080).into();
    let facts = Facts::supposed(Some(peer), Some("sni.test"), [10, 0, 0, 2].into(), destination);
    let facts = facts.with_request(&head, &attributes, [192, 0, 2, 7].into());
    rbac.judge(&facts).denial("f").is_none()
}

#[test]
fn permissions_say_what_they_say_in_envoy() {
    for (permission, wanted) in [
        ("{any: true}", true),
        ("{header: {name: ':method', exact_match: GET}}", true),
        ("{header: {name: ':method', string_match: {exact: PUT}}}", false),
        ("{header: {name: X-Role, string_match: {safe_regex: {regex: 'ad.+'}}}}", true),
        ("{header: {name: x-role, present_match: false}}", false),
        ("{header: {name: x-none, present_match: false}}", true),
        ("{header: {name: x-role, prefix_match: ad, invert_match: true}}", false),
        ("{header: {name: x-none, string_match: {exact: ''}, treat_missing_header_as_empty: true}}", true),
        ("{header: {name: host, suffix_match: '.test'}}", true),
        ("{url_path: {path: {exact: /a/b}}}", true),
        ("{url_path: {path: {prefix: /A, ignore_case: true}}}", true),
        ("{header: {name: ':path', contains_match: '?c'}}", true),
        ("{destination_ip: {address_prefix: 10.0.0.0, prefix_len: 24}}", true),
        ("{destination_ip: {address_prefix: 10.0.1.0, prefix_len: 24}}", false),
        ("{destination_port: 8080}", true),
        ("{destination_port_range: {start: 8000, end: 8080}}", false),
        ("{destination_port_range: {start: 8000, end: 8081}}", true),
        ("{requested_server_name: {exact: sni.test}}", true),
        (
            "{metadata: {filter: jwt, path: [{key: payload}, {key: sub}], value: {string_match: {exact: me}}}}",
            true,
        ),
        (
            "{sourced_metadata: {metadata_matcher: {filter: jwt, path: [{key: payload}, {key: n}], value: {double_match: {range: {start: 1, end: 6}}}}}}",
            true,
        ),
        (
            "{metadata: {filter: jwt, path: [{key: payload}, {key: no}], value: {present_match: true}, invert: true}}",
            true,
        ),
        (
            "{uri_template: {name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: '/{*}/b'}}}",
            true,
        ),
        ("{and_rules: {rules: [{any: true}, {destination_port: 1}]}}", false),
        ("{or_rules: {rules: [{destination_port: 1}, {any: true}]}}", true),
        ("{not_rule: {destination_port: 1}}", true),
    ] {
        let rbac = permitting(permission).unwrap_or_else(|error| panic!("{permission}: {error}"));
        assert_eq!(allows(&rbac), wanted, "{permission}");
    }
}

#[test]
fn principals_say_what_they_say_in_envoy() {
    for (principal, wanted) in [
        ("{any: true}", true),
        ("{authenticated: {}}", true),
        ("{authenticated: {principal_name: {exact: 'spiffe://td/ns/shop/sa/web'}}}", true),
        ("{authenticated: {principal_name: {safe_regex: {regex: '.*/ns/shop/.*'}}}}", true),
        ("{authenticated: {principal_name: {suffix: /sa/other}}}", false),
        ("{source_ip: {address_prefix: 10.0.0.2, prefix_len: 32}}", true),
        ("{direct_remote_ip: {address_prefix: 10.0.0.2, prefix_len: 32}}", true),
        ("{remote_ip: {address_prefix: 10.0.0.2, prefix_len: 32}}", false),
        ("{remote_ip: {address_prefix: 192.0.2.0, prefix_len: 24}}", true),
        ("{header: {name: x-role, exact_match: admin}}", true),
        ("{url_path: {path: {exact: /a}}}", false),
        ("{and_ids: {ids: [{any: true}, {not_id: {authenticated: {}}}]}}", false),
        ("{or_ids: {ids: [{not_id: {any: true}}, {any: true}]}}", true),
        (
            "{custom: {name: m, typed_config: {'@type': type.googleapis.com/envoy.extensions.rbac.principals.mtls_authenticated.v3.Config, any_validated_client_certificate: true}}}",
            true,
        ),
        (
            "{custom: {name: m, typed_config: {'@type': type.googleapis.com/envoy.extensions.rbac.principals.mtls_authenticated.v3.Config, san_matcher: {san_type: URI, matcher: {prefix: 'spiffe://td/'}}}}}",
            true,
        ),
        (
            "{custom: {name: m, typed_config: {'@type': type.googleapis.com/envoy.extensions.rbac.principals.mtls_authenticated.v3.Config, san_matcher: {san_type: EMAIL, matcher: {exact: 'a@b'}}}}}",
            false,
        ),
    ] {
        let rbac = letting(principal).unwrap_or_else(|error| panic!("{principal}: {error}"));
        assert_eq!(allows(&rbac), wanted, "{principal}");
    }
}

#[test]
fn rules_that_are_absent_and_rules_that_are_empty() {
    assert!(allows(&compiled("").unwrap()));
    assert!(!allows(&compiled("rules: {}").unwrap()));
    assert!(allows(&compiled("rules: {action: DENY}").unwrap()));
    assert!(allows(&compiled("shadow_rules: {}").unwrap()));
    let policy = "p: {permissions: [{any: true}], principals: [{any: true}]}";
    assert!(!allows(&compiled(&format!("rules: {{action: DENY, policies: {{{policy}}}}}")).unwrap()));
    assert!(allows(&compiled(&format!("rules: {{action: LOG, policies: {{{policy}}}}}")).unwrap()));
}

#[allow(clippy::too_many_lines, reason = "one table, read from top to bottom")]
#[test]
fn what_is_not_understood_is_refused_by_name() {
    for (permission, wanted) in [
        ("{}", "has no rule that this proxy knows"),
        ("{any: false}", "any: must be true"),
        ("{and_rules: {}}", "and_rules.rules: needs at least one"),
        ("{header: {name: ''}}", "header.name: is required"),
        ("{header: {name: ':status'}}", "header.name: :status is not known"),
        ("{header: {name: a, treat_missing_header_as_empty: true}}", "treat_missing_header_as_empty"),
        ("{header: {name: a, safe_regex_match: {regex: '['}}}", "header.safe_regex_match.regex: "),
        ("{header: {name: a, string_match: {}}}", "match_pattern is required"),
        ("{url_path: {}}", "url_path.path: is required"),
        (
            "{destination_ip: {address_prefix: x}}",
            "destination_ip.address_prefix: \"x\" is not an IP address",
        ),
        ("{destination_ip: {address_prefix: 1.1.1.1, prefix_len: 33}}", "prefix_len"),
        ("{destination_port: 65536}", "destination_port: 65536 is not a port"),
        ("{destination_port_range: {start: 5, end: 5}}", "is not a range of ports"),
        (
            "{matcher: {name: envoy.rbac.matchers.upstream_ip_port}}",
            "matcher: envoy.rbac.matchers.upstream_ip_port",
        ),
        ("{uri_template: {name: other}}", "uri_template: other"),
        (
            "{uri_template: {name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: '/**/*'}}}",
            "path_template: \"/**/*\" has an operator behind",
        ),
        ("{metadata: {filter: f, path: [{key: a}]}}", "metadata.value: is required"),
        ("{metadata: {filter: f, value: {present_match: true}}}", "metadata.path: needs at least one key"),
        (
            "{sourced_metadata: {metadata_source: ROUTE, metadata_matcher: {filter: f}}}",
            "metadata_source: ROUTE",
        ),
    ] {
        let error = permitting(permission).unwrap_err();
        assert!(
            error.contains(wanted) && error.starts_with("rules.policies[p].permissions[0]"),
            "{permission}: {error}"
        );
    }
    for (principal, wanted) in [
        ("{}", "has no identifier that this proxy knows"),
        ("{filter_state: {key: a}}", "filter_state: is not supported yet"),
        ("{custom: {name: other}}", "custom: other"),
        ("{authenticated: {principal_name: {}}}", "authenticated.principal_name: match_pattern is required"),
        (
            "{custom: {name: m, typed_config: {'@type': type.googleapis.com/envoy.extensions.rbac.principals.mtls_authenticated.v3.Config, san_matcher: {san_type: DNS, matcher: {exact: a}}}}}",
            "san_type",
        ),
        (
            "{custom: {name: m, typed_config: {'@type': type.googleapis.com/envoy.extensions.rbac.principals.mtls_authenticated.v3.Config}}}",
            "needs san_matcher",
        ),
    ] {
        let error = letting(principal).unwrap_err();
        assert!(
            error.contains(wanted) && error.starts_with("rules.policies[p].principals[0]"),
            "{principal}: {error}"
        );
    }
    for (fields, wanted) in [
        ("matcher: {}", "matcher: is not supported yet"),
        ("shadow_matcher: {}", "shadow_matcher: is not supported yet"),
        (
            "rules: {policies: {p: {principals: [{any: true}]}}}",
            "rules.policies[p].permissions: needs at least one",
        ),
        (
            "shadow_rules: {policies: {p: {permissions: [{any: true}]}}}",
            "shadow_rules.policies[p].principals: needs at least one",
        ),
        (
            "rules: {policies: {p: {permissions: [{any: true}], principals: [{any: true}], condition: {id: 1}}}}",
            "rules.policies[p].condition: is not supported yet",
        ),
        (
            "rules: {policies: {p: {permissions: [{any: true}], principals: [{any: true}], checked_condition: {}}}}",
            "checked_condition: is not supported yet",
        ),
        (
            "rules: {audit_logging_options: {audit_condition: ON_DENY, logger_configs: [{audit_logger: {name: envoy.rbac.audit_loggers.stream}}]}}",
            "audit_logging_options.logger_configs[0]: envoy.rbac.audit_loggers.stream is not supported yet",
        ),
    ] {
        let error = compiled(fields).unwrap_err();
        assert!(error.contains(wanted), "{fields}: {error}");
    }
    let optional =
        "rules: {audit_logging_options: {audit_condition: ON_DENY, logger_configs: [{is_optional: true}]}}";
    assert!(compiled(optional).is_ok());
    let mut filter: http::Rbac = yaml("{rules: {}}");
    filter.rules.as_mut().unwrap().action = 9;
    assert!(
        super::http(&to_any(&filter)).unwrap_err().to_string().starts_with("rules.action: 9 is not a value")
    );
}

#[test]
fn everything_is_bounded() {
    let nested = |depth| {
        let mut permission = "{any: true}".to_owned();
        for _ in 0..depth {
            permission = format!("{{not_rule: {permission}}}");
        }
        permission
    };
    assert!(permitting(&nested(30)).is_ok());
    assert!(permitting(&nested(33)).unwrap_err().contains("more than 32 deep"));
    let any = wire::Permission { rule: Some(wire::permission::Rule::Any(true)) };
    let who = wire::Principal { identifier: Some(wire::principal::Identifier::Any(true)) };
    let policy = |rules: usize| wire::Policy {
        permissions: vec![any.clone(); rules],
        principals: vec![who.clone()],
        ..Default::default()
    };
    let compiled = |policies: Vec<wire::Policy>| {
        let policies =
            policies.into_iter().enumerate().map(|(n, policy)| (format!("{n:05}"), policy)).collect();
        let rules = wire::Rbac { policies, ..Default::default() };
        let filter = http::Rbac { rules: Some(rules), ..Default::default() };
        super::http(&to_any(&filter)).map_err(|problem| problem.to_string())
    };
    assert!(allows(&compiled(vec![policy(1); MOST_POLICIES]).unwrap()));
    assert!(compiled(vec![policy(1); MOST_POLICIES + 1]).unwrap_err().contains("more than 4096"));
    assert!(compiled(vec![policy(MOST_RULES)]).unwrap_err().contains("more than 65536 rules"));
    let regex = yaml::<wire::Permission>("{url_path: {path: {safe_regex: {regex: 'a+'}}}}");
    let mut many = policy(1);
    many.permissions = vec![regex; MOST_REGEXES + 1];
    assert!(compiled(vec![many]).unwrap_err().contains("more than 1024 regular expressions"));
    let long = format!("{{url_path: {{path: {{safe_regex: {{regex: '{}+'}}}}}}}}", "a".repeat(65 * 1024));
    assert!(permitting(&long).unwrap_err().contains("is longer than"));
}

#[test]
fn routes_override_and_disable() {
    let route: http::RbacPerRoute = yaml("{rbac: {rules: {}}}");
    assert!(!allows(&per_route(&to_any(&route)).unwrap().unwrap()));
    assert!(per_route(&to_any(&http::RbacPerRoute::default())).unwrap().is_none());
    let route: http::RbacPerRoute = yaml("{rbac: {matcher: {}}}");
    assert_eq!(per_route(&to_any(&route)).unwrap_err().to_string(), "rbac.matcher: is not supported yet");
}

#[test]
fn connections_are_asked_only_what_they_can_answer() {
    let compiled = |fields: &str| {
        let filter: network::Rbac = yaml(&format!("{{{fields}}}"));
        super::network("n", &to_any(&filter)).map_err(|problem| problem.to_string())
    };
    let rules = |permission: &str| {
        format!(
            "stat_prefix: 'tcp.', rules: {{policies: {{p: {{permissions: [{permission}], principals: [{{any: true}}]}}}}}}"
        )
    };
    let keeper = compiled(&rules("{requested_server_name: {exact: a.test}}")).unwrap();
    assert!(&*keeper.stat_prefix == "tcp." && keeper.rbac.asks_server_name());
    assert!(!compiled(&rules("{destination_port: 1}")).unwrap().rbac.asks_server_name());
    for (fields, wanted) in [
        ("rules: {}".to_owned(), "stat_prefix: is required"),
        ("stat_prefix: a, matcher: {}".to_owned(), "matcher: is not supported yet"),
        ("stat_prefix: a, delay_deny: 1s".to_owned(), "delay_deny: is not supported yet"),
        ("stat_prefix: a, enforcement_type: CONTINUOUS".to_owned(), "enforcement_type: CONTINUOUS"),
        (rules("{header: {name: a}}"), "header: a connection has none"),
        (rules("{url_path: {path: {exact: a}}}"), "url_path: a connection has none"),
        (
            rules("{metadata: {filter: f, path: [{key: a}], value: {present_match: true}}}"),
            "metadata: a connection has none",
        ),
    ] {
        let error = compiled(&fields).unwrap_err();
        assert!(error.contains(wanted), "{fields}: {error}");
    }
}
