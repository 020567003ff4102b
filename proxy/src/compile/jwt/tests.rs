use super::*;
use crate::compile::tests::fixture::yaml;

const KEY: &str = r#"{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}"#;

fn read(text: &str) -> Result<Jwt, String> {
    let filter: sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter =
        yaml(&format!(
            "{{name: f, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication, {text}}}}}"
        ));
    let Some(sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType::TypedConfig(any)) =
        filter.config_type
    else {
        panic!("no typed_config")
    };
    compile(&any, &mut Buckets::default()).map_err(|problem| problem.to_string())
}

fn provider(text: &str) -> Result<Jwt, String> {
    read(&format!("providers: {{p: {{local_jwks: {{inline_string: \"{KEY}\"}}, {text}}}}}"))
}

#[test]
fn a_whole_filter() {
    let jwt = read(&format!(
        "providers: {{a: {{issuer: i, audiences: [x], local_jwks: {{inline_string: \"{KEY}\"}}, forward: true, \
           forward_payload_header: X-Payload, claim_to_headers: [{{header_name: x-sub, claim_name: org.sub}}], \
           from_headers: [{{name: X-Token, value_prefix: 'JWT '}}], payload_in_metadata: payload, max_lifetime: 3600s}}, \
           b: {{remote_jwks: {{http_uri: {{uri: 'https://issuer.test/jwks?v=1', cluster: c, timeout: 2s}}, cache_duration: 60s, \
                retry_policy: {{num_retries: 3}}, async_fetch: {{fast_listener: true}}}}}}}}, \
         rules: [{{match: {{prefix: /open}}}}, {{match: {{prefix: /}}, requires: {{requires_any: {{requirements: \
           [{{provider_name: b}}, {{provider_and_audiences: {{provider_name: a, audiences: [y]}}}}, {{allow_missing: {{}}}}]}}}}}}], \
         requirement_map: {{both: {{requires_all: {{requirements: [{{provider_name: a}}, {{provider_name: b}}]}}}}}}, \
         bypass_cors_preflight: true"
    ))
    .unwrap();
    assert!(jwt.bypass_preflight && !jwt.strip_failure);
    assert!(jwt.rules[0].requires.is_none());
    let Some(Requirement::Any(any)) = &jwt.rules[1].requires else { panic!("{:?}", jwt.rules) };
    assert!(matches!(
        any[..],
        [Requirement::Provider(1), Requirement::ProviderFor(0, _), Requirement::AllowMissing]
    ));
    assert!(matches!(&jwt.named[..], [(name, Requirement::All(_))] if &**name == "both"));
    assert_eq!(jwt.own_headers.iter().map(|name| &**name).collect::<Vec<_>>(), ["x-payload", "x-sub"]);
    let remote = jwt.remotes().next().unwrap();
    assert_eq!(
        (&*remote.cluster, remote.authority.as_str(), remote.path.as_str()),
        ("c", "issuer.test", "/jwks?v=1")
    );
    assert_eq!((remote.timeout, remote.cache), (Duration::from_secs(2), Duration::from_secs(60)));
    assert_eq!(jwt.providers[1].lifetime.skew, Duration::from_secs(60));
}

#[test]
fn keys_survive_updates_that_leave_their_url_alone() {
    let wire: wire::RemoteJwks = yaml("{http_uri: {uri: 'http://a.test/', cluster: c, timeout: 1s}}");
    let source = JwksSourceSpecifier::RemoteJwks(wire);
    let taken = |buckets: &mut Buckets| match keys(Some(&source), buckets).unwrap() {
        Keys::Remote(remote) => remote,
        Keys::Local(_) => panic!("local"),
    };
    let mut first = Buckets::default();
    let one = taken(&mut first);
    assert!(Arc::ptr_eq(&one, &taken(&mut first)), "two providers of one URL fetch once");
    let mut second = Buckets::after(Some(&first));
    assert!(Arc::ptr_eq(&one, &taken(&mut second)));
    assert!(!Arc::ptr_eq(&one, &taken(&mut Buckets::default())));
}

#[test]
fn refusals_say_what_and_where() {
    for (text, wanted) in [
        ("header_in_metadata: h", "providers[p].header_in_metadata: is not supported yet"),
        ("failed_status_in_metadata: h", "providers[p].failed_status_in_metadata: is not supported yet"),
        (
            "forward_payload_header: host",
            "providers[p].forward_payload_header: host must not be changed here",
        ),
        ("claim_to_headers: [{header_name: ':path', claim_name: a}]", "claim_to_headers[0].header_name"),
        ("claim_to_headers: [{header_name: a}]", "claim_to_headers[0].claim_name: is required"),
        ("from_params: ['']", "has an empty name"),
        ("max_lifetime: -1s", "max_lifetime"),
    ] {
        let refused = provider(text).unwrap_err();
        assert!(refused.contains(wanted), "{refused}");
    }
    let remote = |uri: &str| {
        read(&format!("providers: {{p: {{remote_jwks: {{http_uri: {{{uri}, timeout: 1s}}}}}}}}")).unwrap_err()
    };
    for (uri, wanted) in [
        ("uri: 'file:///etc/passwd', cluster: c", "neither an http nor an https URL"),
        ("uri: 'ftp://a.test/', cluster: c", "neither an http nor an https URL"),
        ("uri: '/jwks', cluster: c", "neither an http nor an https URL"),
        ("uri: 'http://user:pass@a.test/', cluster: c", "holds credentials"),
        ("uri: 'http://a.test/'", "cluster: is required"),
    ] {
        assert!(remote(uri).contains(wanted), "{}", remote(uri));
    }
    for (text, wanted) in [
        ("providers: {p: {issuer: i}}", "providers[p]: local_jwks or remote_jwks is required"),
        ("providers: {p: {local_jwks: {inline_string: '{}'}}}", "local_jwks: the JWKS cannot be read"),
        ("providers: {p: {local_jwks: {filename: /nowhere}}}", "cannot read /nowhere"),
        (
            "rules: [{match: {prefix: /}, requires: {provider_name: x}}]",
            "rules[0].requires.provider_name: \"x\" is not among",
        ),
        ("rules: [{match: {prefix: /}, requirement_name: x}]", "x is not in requirement_map"),
        ("rules: [{requires: {allow_missing: {}}}]", "rules[0].match: is required"),
        (
            "rules: [{match: {prefix: /}, requires: {extract_only_without_validation: {}}}]",
            "extract_only_without_validation",
        ),
        ("rules: [{match: {prefix: /}, requires: {requires_any: {}}}]", "requires_any: is empty"),
        (
            "rules: [{match: {prefix: /, runtime_fraction: {default_value: {numerator: 1}}}, requires: {allow_missing: {}}}]",
            "a requirement for a part of the requests is none",
        ),
        ("filter_state_rules: {name: x}", "filter_state_rules: is not supported yet"),
    ] {
        let refused = read(text).unwrap_err();
        assert!(refused.contains(wanted), "{refused}");
    }
}

#[test]
fn key_sets_have_as_many_keys_as_control_planes_are_told_of() {
    use sidegate_xds::bounds::MOST_KEYS;
    let keys = |count: usize| {
        let keys = vec![r#"{\"kty\":\"RSA\"}"#; count].join(",");
        read(&format!("providers: {{p: {{local_jwks: {{inline_string: \"{{\\\"keys\\\":[{keys}]}}\"}}}}}}"))
    };
    keys(MOST_KEYS).unwrap();
    assert!(keys(MOST_KEYS + 1).unwrap_err().contains("more than 100 keys"));
}
