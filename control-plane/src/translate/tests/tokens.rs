//! JWTPolicy: the filter that verifies tokens, and what stands where there are no requests.

use sidegate_xds::envoy::config::listener::v3::{FilterChain, Listener, filter};
use sidegate_xds::envoy::extensions::filters::http::jwt_authn::v3::JwtAuthentication;
use sidegate_xds::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::JwksSourceSpecifier;
use sidegate_xds::envoy::extensions::filters::http::jwt_authn::v3::jwt_requirement::RequiresType;
use sidegate_xds::envoy::extensions::filters::http::jwt_authn::v3::requirement_rule::RequirementType;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use sidegate_xds::envoy::extensions::filters::network::rbac::v3::Rbac;
use sidegate_xds::resource::from_any;

use super::access::{POD, at_pod, policy};
use super::fixture::{Shown, secure_sidecar};

fn tokens(name: &str, required: bool, rules: &str) -> String {
    format!(
        "---\nkind: JWTPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{required: {required}, jwtRules: [{rules}]}}\n"
    )
}

const RULE: &str = r#"{issuer: i, jwks: '{"keys":[{"kty":"EC"}]}'}"#;

fn filter(shown: &Shown) -> JwtAuthentication {
    let manager = shown.manager("inbound|15006||");
    assert_eq!(manager.http_filters[0].name, "envoy.filters.http.jwt_authn");
    let Some(ConfigType::TypedConfig(any)) = &manager.http_filters[0].config_type else {
        panic!("no config")
    };
    from_any(any).unwrap()
}

#[test]
fn tokens_are_verified_before_policies_and_without_keys_none_is_valid() {
    let rules = "{issuer: i, jwksUri: 'https://i/keys'}, {issuer: j, jwks: '{\"keys\":[1]}'}";
    let shown = at_pod(
        &(tokens("t", false, rules)
            + &policy("shop", "p", "{rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}")),
    );
    let config = filter(&shown);
    let keys = |name: &str| match config.providers[name].jwks_source_specifier.clone() {
        Some(JwksSourceSpecifier::LocalJwks(source)) => format!("{:?}", source.specifier.unwrap()),
        other => panic!("{other:?}"),
    };
    assert_eq!(keys("shop/t/0"), r#"InlineString("{\"keys\":[]}")"#);
    assert_eq!(keys("shop/t/1"), r#"InlineString("{\"keys\":[1]}")"#);
    assert_eq!(shown.said("JWTPolicy shop/t"), ["Accepted=false Pending"]);
    assert!(shown.message("Pending").contains("https://i/keys"));
    let shown = at_pod(&tokens("t", false, "{issuer: j, jwks: '{\"keys\":[1],\"keys\":[1]}'}"));
    assert_eq!(shown.said("JWTPolicy shop/t"), ["Accepted=false NotSent"]);
    assert!(config.providers.values().all(|provider| provider.require_expiration), "`exp` must be there");
    // One scope of many is one element of a list.
    let lists = config.providers["shop/t/1"].normalize_payload_in_metadata.clone().unwrap();
    assert_eq!(lists.space_delimited_claims, ["scope", "permission"]);
}

/// The requirement, as its alternatives: providers' names, and `-` when none is needed.
fn alternatives(shown: &Shown) -> Vec<String> {
    let config = filter(shown);
    let Some(RequirementType::Requires(requires)) = &config.rules[0].requirement_type else {
        panic!("{config:?}")
    };
    let name = |requires: &RequiresType| match requires {
        RequiresType::ProviderName(name) => name.clone(),
        RequiresType::AllowMissing(_) => "-".to_owned(),
        other => panic!("{other:?}"),
    };
    match requires.requires_type.as_ref().unwrap() {
        RequiresType::RequiresAny(any) => {
            any.requirements.iter().map(|each| name(each.requires_type.as_ref().unwrap())).collect()
        }
        only => vec![name(only)],
    }
}

#[test]
fn the_issuers_of_all_policies_are_alternatives() {
    let two = |required: [bool; 2]| {
        alternatives(&at_pod(
            &(tokens("a", required[0], RULE)
                + &tokens("b", required[1], &RULE.replace("issuer: i", "issuer: j"))),
        ))
    };
    assert_eq!(two([false, false]), ["shop/a/0", "shop/b/0", "-"]);
    assert_eq!(two([true, false]), ["shop/a/0", "shop/b/0"]);
    assert_eq!(two([false, true]), ["shop/a/0", "shop/b/0"]);
    assert_eq!(alternatives(&at_pod(&tokens("a", true, RULE))), ["shop/a/0"]);
}

#[test]
fn more_issuers_than_a_proxy_takes_let_nothing_through() {
    let policies: String = (0..33)
        .map(|number| {
            tokens(&format!("t{number}"), false, &format!("{RULE}, {}", RULE.replace(": i", ": j")))
        })
        .collect();
    let shown = at_pod(&policies);
    let manager = shown.manager("inbound|15006||");
    assert_eq!(manager.http_filters[0].name, "envoy.filters.http.rbac.jwt");
    assert_eq!(shown.said("JWTPolicy shop/t7"), ["Accepted=false NotSent"]);
}

/// The names of a chain's network filters.
fn names(chain: &FilterChain) -> Vec<&str> {
    chain.filters.iter().map(|filter| filter.name.rsplit_once('.').unwrap().1).collect()
}

fn chain<'a>(listener: &'a Listener, name: &str) -> &'a FilterChain {
    listener.filter_chains.iter().find(|chain| chain.name == name).unwrap()
}

#[test]
fn bytes_without_requests_do_not_pass_where_a_token_is_required() {
    // An app's own TLS on a PERMISSIVE port.
    for (required, filters) in [(true, &["jwt", "tcp_proxy"][..]), (false, &["tcp_proxy"])] {
        let shown = secure_sidecar(&(POD.to_owned() + &tokens("t", required, RULE)), "shop", "web-1");
        assert_eq!(names(chain(&shown.listener("inbound|15006||"), "app-tls")), filters);
    }
    // An opaque port.
    let pod = POD.replace("name: http", "name: tcp");
    let shown = secure_sidecar(&(pod + &tokens("t", true, RULE)), "shop", "web-1");
    let listener = shown.listener("inbound|15006||");
    for name in ["mesh", "plaintext", "app-tls"] {
        let chain = chain(&listener, name);
        assert_eq!(names(chain), ["jwt", "tcp_proxy"]);
        let Some(filter::ConfigType::TypedConfig(any)) = &chain.filters[0].config_type else { panic!() };
        let rbac: Rbac = from_any(any).unwrap();
        assert!(rbac.rules.is_some_and(|rules| rules.action == 0 && rules.policies.is_empty()));
    }
}

#[test]
fn a_second_service_does_not_make_bytes_of_requests() {
    let second = |name: &str| {
        format!(
            "---\nkind: Service\nmetadata: {{name: second, namespace: shop}}\nspec: {{selector: {{app: web}}, ports: [{{name: {name}, port: 81, targetPort: 8080}}]}}\n"
        )
    };
    let silent = POD.replace("name: http, ", "");
    let token = tokens("t", false, RULE);
    for (manifests, conflict) in [
        (POD.to_owned() + &second("tcp"), true),
        (silent.clone() + &second("tcp") + &token, true),
        (silent + &second("other") + &token, false),
    ] {
        let shown = super::fixture::sidecar(&manifests, "shop", "web-1");
        assert_eq!(shown.manager("inbound|15006||").stat_prefix, "inbound|15006||");
        let said: &[&str] = if conflict { &["Accepted=false ProtocolConflict"] } else { &[] };
        assert_eq!(shown.said("Service shop/second"), said, "{manifests}");
    }
    // Where nobody says HTTP and no token is looked at, one word is enough.
    let silent = POD.replace("name: http, ", "") + &second("tcp");
    let listener = super::fixture::sidecar(&silent, "shop", "web-1").listener("inbound|15006||");
    assert_eq!(names(&listener.default_filter_chain.unwrap()), ["tcp_proxy"]);
}
