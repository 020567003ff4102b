//! Policies that say who may call whom.

use super::*;

#[test]
fn access_policies() {
    for (spec, field) in [
        ("targetRefs: [{group: '', kind: Pod, name: a}]", "spec.targetRefs[0]"),
        ("targetRefs: [{group: '', kind: Service, name: a}], selector: {matchLabels: {}}", "spec.selector"),
        ("selector: {}", "spec.selector.matchLabels"),
        ("rules: [{from: []}]", "spec.rules[0].from"),
        ("rules: [{from: [{source: {}}]}]", "spec.rules[0].from[0].source"),
        ("rules: [{from: [{source: {principals: []}}]}]", "spec.rules[0].from[0].source.principals"),
        ("rules: [{from: [{source: {principals: ['']}}]}]", "spec.rules[0].from[0].source.principals[0]"),
        (
            "rules: [{from: [{source: {ipBlocks: ['10.0.0.0/40']}}]}]",
            "spec.rules[0].from[0].source.ipBlocks[0]",
        ),
        (
            "rules: [{from: [{source: {serviceAccounts: ['a/*']}}]}]",
            "spec.rules[0].from[0].source.serviceAccounts[0]",
        ),
        ("rules: [{to: [{operation: {ports: ['0']}}]}]", "spec.rules[0].to[0].operation.ports[0]"),
        ("rules: [{to: [{operation: {methods: ['G*T']}}]}]", "spec.rules[0].to[0].operation.methods[0]"),
        ("rules: [{to: [{operation: {paths: ['/a/*/b']}}]}]", "spec.rules[0].to[0].operation.paths[0]"),
        ("rules: [{to: [{operation: {paths: ['/a?b']}}]}]", "spec.rules[0].to[0].operation.paths[0]"),
        ("rules: [{to: [{operation: {paths: ['/a/../b']}}]}]", "spec.rules[0].to[0].operation.paths[0]"),
        ("rules: [{to: [{operation: {paths: ['/a{*}']}}]}]", "spec.rules[0].to[0].operation.paths[0]"),
        ("rules: [{to: [{operation: {paths: ['/{**}/a']}}]}]", "spec.rules[0].to[0].operation.paths[0]"),
        ("rules: [{when: [{key: nothing, values: [a]}]}]", "spec.rules[0].when[0].key"),
        ("rules: [{when: [{key: source.ip, values: [a]}]}]", "spec.rules[0].when[0].values[0]"),
        ("rules: [{when: [{key: source.ip}]}]", "spec.rules[0].when[0]"),
    ] {
        refuses(Kind::AuthorizationPolicy, &format!("{{spec: {{{spec}}}}}"), field);
    }
    for path in [
        "/%61dmin",
        "/a/{*}/../b",
        "/x/./{*}",
        "/y//{**}",
        "/a%2fb",
        "/a%",
        "/a%0",
        "/a%00b",
        "/a%+1",
        "/a\\\\b",
        "/a b",
        "/a\\nb",
    ] {
        let text =
            format!("{{spec: {{action: DENY, rules: [{{to: [{{operation: {{paths: [\"{path}\"]}}}}]}}]}}}}");
        refuses(Kind::AuthorizationPolicy, &text, "spec.rules[0].to[0].operation.paths[0]");
    }
    accepts(
        Kind::AuthorizationPolicy,
        "{spec: {rules: [{to: [{operation: {paths: ['/a%2Fb*', '/a%2Fb/{*}']}}]}]}}",
    );
    for (field, text) in [("methods", "GET\\n"), ("methods", "G T"), ("hosts", "a\\nb"), ("notHosts", "a b")]
    {
        let spec = format!("{{spec: {{rules: [{{to: [{{operation: {{{field}: [\"{text}\"]}}}}]}}]}}}}");
        refuses(Kind::AuthorizationPolicy, &spec, &format!("spec.rules[0].to[0].operation.{field}[0]"));
    }
    for spec in [
        "",
        "rules: [{}]",
        "rules: [{to: [{operation: {paths: ['/a/{*}/b', '/a/{**}', '*', '/a*', '*/b']}}]}]",
    ] {
        accepts(Kind::AuthorizationPolicy, &format!("{{spec: {{{spec}}}}}"));
    }
}

#[test]
fn values_that_a_proxy_would_refuse_or_that_never_match() {
    for (spec, field) in [
        ("rules: [{to: [{operation: {paths: ['/\u{fc}/{*}']}}]}]", "spec.rules[0].to[0].operation.paths[0]"),
        ("rules: [{to: [{operation: {paths: ['/a b/{*}']}}]}]", "spec.rules[0].to[0].operation.paths[0]"),
        ("rules: [{to: [{operation: {paths: ['/x\"/{**}']}}]}]", "spec.rules[0].to[0].operation.paths[0]"),
        (
            "rules: [{from: [{source: {principals: ['cluster.local/ns/*/sa/bob']}}]}]",
            "spec.rules[0].from[0].source.principals[0]",
        ),
        (
            "rules: [{from: [{source: {notRequestPrincipals: ['a/*/b']}}]}]",
            "spec.rules[0].from[0].source.notRequestPrincipals[0]",
        ),
        (
            "rules: [{from: [{source: {requestPrincipals: [bob]}}]}]",
            "spec.rules[0].from[0].source.requestPrincipals[0]",
        ),
        ("rules: [{from: [{source: {namespaces: ['a*b']}}]}]", "spec.rules[0].from[0].source.namespaces[0]"),
        (
            "rules: [{when: [{key: 'request.headers[a]', values: ['a*b']}]}]",
            "spec.rules[0].when[0].values[0]",
        ),
        (
            "rules: [{when: [{key: source.namespace, notValues: ['A']}]}]",
            "spec.rules[0].when[0].notValues[0]",
        ),
        (
            "rules: [{when: [{key: 'request.auth.claims[scope]', values: [read suspended]}]}]",
            "spec.rules[0].when[0].values[0]",
        ),
    ] {
        refuses(Kind::AuthorizationPolicy, &format!("{{spec: {{{spec}}}}}"), field);
    }
    let slashes = |count| {
        format!(
            "{{spec: {{rules: [{{from: [{{source: {{requestPrincipals: ['a{}']}}}}]}}]}}}}",
            "/".repeat(count)
        )
    };
    accepts(Kind::AuthorizationPolicy, &slashes(32));
    refuses(Kind::AuthorizationPolicy, &slashes(33), "spec.rules[0].from[0].source.requestPrincipals[0]");
}

#[test]
fn policies_for_tokens() {
    for (rule, field) in [
        ("issuer: '', jwksUri: 'https://b/'", "spec.jwtRules[0].issuer"),
        ("issuer: i", "spec.jwtRules[0].jwks"),
        ("issuer: i, jwks: '{}'", "spec.jwtRules[0].jwks"),
        ("issuer: i, jwks: '{\"keys\":[1],\"keys\":[1]}'", "spec.jwtRules[0].jwks"),
        ("issuer: i, jwksUri: 'file:///etc/passwd'", "spec.jwtRules[0].jwksUri"),
        ("issuer: i, jwksUri: 'https://a@b/'", "spec.jwtRules[0].jwksUri"),
        (
            "issuer: i, jwksUri: 'https://b/', fromHeaders: [{name: 'a b'}]",
            "spec.jwtRules[0].fromHeaders[0].name",
        ),
    ] {
        refuses(Kind::JwtPolicy, &format!("{{spec: {{jwtRules: [{{{rule}}}]}}}}"), field);
    }
    refuses(Kind::JwtPolicy, "{spec: {jwtRules: []}}", "spec.jwtRules");
}

#[test]
fn what_a_token_is_read_from_and_written_to() {
    for (rule, field) in [
        ("fromHeaders: [{name: Host}]", "fromHeaders[0].name"),
        ("fromParams: ['']", "fromParams[0]"),
        ("fromCookies: ['']", "fromCookies[0]"),
        ("outputClaimToHeaders: [{header: host, claim: sub}]", "outputClaimToHeaders[0].header"),
        ("outputClaimToHeaders: [{header: Content-Length, claim: sub}]", "outputClaimToHeaders[0].header"),
        ("outputClaimToHeaders: [{header: Authorization, claim: sub}]", "outputClaimToHeaders[0].header"),
        ("outputClaimToHeaders: [{header: x-user, claim: ''}]", "outputClaimToHeaders[0].claim"),
        ("fromHeaders: [{name: x-token}], outputPayloadToHeader: X-Token", "outputPayloadToHeader"),
        ("fromCookies: [token], outputPayloadToHeader: cookie", "outputPayloadToHeader"),
    ] {
        refuses(
            Kind::JwtPolicy,
            &format!("{{spec: {{jwtRules: [{{issuer: i, jwksUri: 'https://b/', {rule}}}]}}}}"),
            &format!("spec.jwtRules[0].{field}"),
        );
    }
    accepts(
        Kind::JwtPolicy,
        "{spec: {jwtRules: [{issuer: i, jwksUri: 'https://b/', fromHeaders: [{name: x-token}], outputClaimToHeaders: [{header: authorization, claim: sub}]}]}}",
    );
    let keys = |count: usize| {
        let keys = vec!["{\"kty\":\"RSA\"}"; count].join(",");
        format!("{{spec: {{jwtRules: [{{issuer: i, jwks: '{{\"keys\":[{keys}]}}'}}]}}}}")
    };
    accepts(Kind::JwtPolicy, &keys(100));
    refuses(Kind::JwtPolicy, &keys(101), "spec.jwtRules[0].jwks");
    let long = format!(
        "{{spec: {{jwtRules: [{{issuer: i, jwks: '{{\"keys\":[\"{}\"]}}'}}]}}}}",
        "a".repeat(262_144)
    );
    refuses(Kind::JwtPolicy, &long, "spec.jwtRules[0].jwks");
}

#[test]
fn policies_that_ask_a_service() {
    let backend = "backendRef: {name: authz, port: 9000}";
    for (spec, field) in [
        ("protocol: GRPC, http: {path: /check}", "spec.http"),
        ("protocol: HTTP, grpc: {allowedHeaders: [a]}", "spec.grpc"),
        ("protocol: HTTP, http: {path: check}", "spec.http.path"),
        ("protocol: HTTP, http: {path: '/check?x'}", "spec.http.path"),
        ("protocol: HTTP, http: {allowedHeaders: ['a b']}", "spec.http.allowedHeaders[0]"),
        ("protocol: GRPC, forwardBody: {maxSize: 0}", "spec.forwardBody.maxSize"),
        ("protocol: GRPC, forwardBody: {maxSize: 1048577}", "spec.forwardBody.maxSize"),
        ("protocol: GRPC, timeout: 0s", "spec.timeout"),
        ("protocol: GRPC, timeout: 2m", "spec.timeout"),
        ("protocol: GRPC, timeout: soon", "spec.timeout"),
        ("protocol: GRPC, statusOnError: 200", "spec.statusOnError"),
        ("protocol: GRPC, selector: {}", "spec.selector.matchLabels"),
    ] {
        refuses(Kind::ExternalAuthorizationPolicy, &format!("{{spec: {{{backend}, {spec}}}}}"), field);
    }
    refuses(
        Kind::ExternalAuthorizationPolicy,
        "{spec: {protocol: GRPC, backendRef: {name: a, port: 0}}}",
        "spec.backendRef.port",
    );
    accepts(
        Kind::ExternalAuthorizationPolicy,
        &format!("{{spec: {{{backend}, protocol: HTTP, http: {{path: /check}}, timeout: 500ms}}}}"),
    );
}
