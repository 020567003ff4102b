//! Each rule once, as field and message; and one object of each kind that obeys them all.

use super::*;

mod access;

/// The problems of an object of which only the body matters.
fn problems(kind: Kind, text: &str) -> Vec<(String, String)> {
    let mut value: Value = serde_yaml::from_str(text).expect("the test's own YAML");
    if value.get("metadata").is_none() {
        value["metadata"] = serde_json::json!({"name": "a", "namespace": "b"});
    }
    let problems = check(kind, &value).into_iter();
    problems.map(|problem| (problem.field.unwrap_or_default(), problem.message)).collect()
}

#[track_caller]
fn refuses(kind: Kind, text: &str, field: &str) {
    let problems = problems(kind, text);
    assert_eq!(problems.len(), 1, "{text}: {problems:?}");
    assert_eq!(problems[0].0, field, "{text}: {problems:?}");
}

#[track_caller]
fn accepts(kind: Kind, text: &str) {
    assert_eq!(problems(kind, text), [], "{text}");
}

/// An HTTPRoute with one rule.
fn rule(text: &str) -> String {
    format!("{{spec: {{rules: [{{{text}}}]}}}}")
}

#[test]
fn names_are_dns_names() {
    refuses(Kind::Service, "{metadata: {name: web.shop}, spec: {ports: [{port: 80}]}}", "metadata.name");
    refuses(Kind::HttpRoute, "{metadata: {name: Web}}", "metadata.name");
    refuses(Kind::HttpRoute, "{metadata: {name: web, namespace: a.b}}", "metadata.namespace");
    accepts(Kind::HttpRoute, "{metadata: {name: web.v1, namespace: shop-1}}");
    refuses(Kind::Namespace, &format!("{{metadata: {{name: {}}}}}", "a".repeat(64)), "metadata.name");
}

#[test]
fn a_full_http_route_is_fine() {
    accepts(
        Kind::HttpRoute,
        r#"
        spec:
          hostnames: [shop.example.com, "*.example.com"]
          parentRefs:
          - {name: edge, sectionName: http}
          - {name: edge, sectionName: https, port: 443}
          - {group: "", kind: Service, name: web, port: 80}
          rules:
          - name: cart
            matches:
            - path: {type: PathPrefix, value: /cart}
              headers: [{name: x-cohort, value: beta}, {name: cookie, type: RegularExpression, value: "a=(b|c)"}]
              queryParams: [{name: q, value: " any text "}]
              method: GET
            filters:
            - {type: URLRewrite, urlRewrite: {hostname: cart.local, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
            - type: RequestHeaderModifier
              requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: a, value: b}], remove: [c]}
            - {type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}, fraction: {numerator: 1}}}
            - {type: RequestMirror, requestMirror: {backendRef: {name: other, port: 80}, percent: 5}}
            backendRefs:
            - {name: web, port: 80, weight: 90}
            - {name: web-2, namespace: other, port: 80, weight: 0}
            timeouts: {request: 10s, backendRequest: 1m}
            retry: {attempts: 2, backoff: 100ms, codes: [503]}
        "#
        .replace("backendRequest: 1m", "backendRequest: 5s")
        .as_str(),
    );
}

#[test]
fn backends_have_ports_and_weights_in_range() {
    let field = |name: &str| format!("spec.rules[0].backendRefs[0].{name}");
    for (backend, name) in [
        ("name: a, port: 0", "port"),
        ("name: a, port: 65536", "port"),
        ("name: a", "port"),
        ("name: a, port: 1, weight: -1", "weight"),
        ("name: a, port: 1, weight: 1000001", "weight"),
        ("name: A, port: 1", "name"),
        ("name: a, port: 1, namespace: A", "namespace"),
        ("name: a, group: 'x y', kind: Z", "group"),
        ("name: a, group: x.y, kind: '9'", "kind"),
    ] {
        refuses(Kind::HttpRoute, &rule(&format!("backendRefs: [{{{backend}}}]")), &field(name));
        refuses(Kind::GrpcRoute, &rule(&format!("backendRefs: [{{{backend}}}]")), &field(name));
    }
    accepts(Kind::HttpRoute, &rule("backendRefs: [{name: a, group: x.y, kind: Bucket}]"));
}

#[test]
fn matches_are_well_formed() {
    let field = |name: &str| format!("spec.rules[0].matches[0].{name}");
    for (found, name) in [
        ("path: {value: cart}", "path.value"),
        ("path: {value: /a//b}", "path.value"),
        ("path: {value: /a/../b}", "path.value"),
        ("path: {value: '/a b'}", "path.value"),
        ("path: {value: '/a%2g'}", "path.value"),
        ("path: {type: Exact, value: '/a#b'}", "path.value"),
        ("path: {type: RegularExpression, value: '/(a'}", "path.value"),
        ("headers: [{name: 'x y', value: a}]", "headers[0].name"),
        ("headers: [{name: x, value: ''}]", "headers[0].value"),
        (r#"headers: [{name: x, value: "a\nb"}]"#, "headers[0].value"),
        ("headers: [{name: x, type: RegularExpression, value: '['}]", "headers[0].value"),
        ("headers: [{name: x, value: a}, {name: x, value: b}]", "headers[1].name"),
        ("queryParams: [{name: q, type: RegularExpression, value: '(?<'}]", "queryParams[0].value"),
        (
            "headers: [{name: x, type: RegularExpression, value: '(((a{100}){100}){100}){100}'}]",
            "headers[0].value",
        ),
    ] {
        refuses(Kind::HttpRoute, &rule(&format!("matches: [{{{found}}}]")), &field(name));
    }
    accepts(Kind::HttpRoute, &rule("matches: [{path: {type: RegularExpression, value: '^/v[0-9]+/.*$'}}]"));
}

#[test]
fn a_regular_expressions_fault_is_told_in_one_line() {
    let said = problems(Kind::HttpRoute, &rule("matches: [{path: {type: RegularExpression, value: '/(a'}}]"));
    assert!(said[0].1.ends_with("unclosed group"), "{said:?}");
}

#[test]
fn grpc_matches_are_well_formed() {
    let field = |name: &str| format!("spec.rules[0].matches[0].{name}");
    for (found, name) in [
        ("method: {}", "method"),
        ("method: {service: 'a..b'}", "method.service"),
        ("method: {service: a.b, method: 'Get Item'}", "method.method"),
        ("method: {type: RegularExpression, method: '('}", "method.method"),
    ] {
        refuses(Kind::GrpcRoute, &rule(&format!("matches: [{{{found}}}]")), &field(name));
    }
    accepts(
        Kind::GrpcRoute,
        &rule("matches: [{method: {service: shop.v1.Catalog, method: GetItem}, headers: []}]"),
    );
}

#[test]
fn filters_say_one_thing() {
    let field = |name: &str| format!("spec.rules[0].filters{name}");
    for (filters, name) in [
        ("{type: URLRewrite}", "[0].urlRewrite"),
        ("{type: RequestHeaderModifier, requestHeaderModifier: {}, cors: {}}", "[0].cors"),
        ("{type: URLRewrite, urlRewrite: {}}, {type: URLRewrite, urlRewrite: {}}", "[1]"),
        ("{type: URLRewrite, urlRewrite: {}}, {type: RequestRedirect, requestRedirect: {}}", ""),
        ("{type: RequestRedirect, requestRedirect: {statusCode: 200}}", "[0].requestRedirect.statusCode"),
        ("{type: RequestRedirect, requestRedirect: {port: 0}}", "[0].requestRedirect.port"),
        ("{type: RequestRedirect, requestRedirect: {hostname: '*.a'}}", "[0].requestRedirect.hostname"),
        ("{type: RequestRedirect, requestRedirect: {hostname: 10.0.0.1}}", "[0].requestRedirect.hostname"),
        (
            "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath}}}",
            "[0].urlRewrite.path.replaceFullPath",
        ),
        (
            "{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: 'a:', value: b}]}}",
            "[0].responseHeaderModifier.set[0].name",
        ),
        (
            r#"{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: a, value: "b\r\nc: d"}]}}"#,
            "[0].requestHeaderModifier.add[0].value",
        ),
        (
            "{type: RequestMirror, requestMirror: {backendRef: {name: a}}}",
            "[0].requestMirror.backendRef.port",
        ),
        (
            "{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, percent: 101}}",
            "[0].requestMirror.percent",
        ),
        (
            "{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, fraction: {numerator: 101}}}",
            "[0].requestMirror.fraction",
        ),
    ] {
        refuses(Kind::HttpRoute, &rule(&format!("filters: [{filters}]")), &field(name));
    }
}

#[test]
fn what_excludes_each_other_in_a_rule() {
    let redirect =
        "filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 1}]";
    refuses(Kind::HttpRoute, &rule(redirect), "spec.rules[0].backendRefs");
    let replace = "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]";
    let field = "spec.rules[0].filters[0].urlRewrite.path";
    refuses(
        Kind::HttpRoute,
        &rule(&format!("{replace}, matches: [{{path: {{type: Exact, value: /a}}}}]")),
        field,
    );
    refuses(Kind::HttpRoute, &rule(&format!("{replace}, matches: [{{}}, {{}}]")), field);
    accepts(Kind::HttpRoute, &rule(replace));
    accepts(Kind::HttpRoute, &rule(&format!("{replace}, matches: [{{path: {{value: /a}}}}]")));
    let timeouts = "timeouts: {request: 1s, backendRequest: 2s}";
    refuses(Kind::HttpRoute, &rule(timeouts), "spec.rules[0].timeouts.backendRequest");
    accepts(Kind::HttpRoute, &rule("timeouts: {request: 0s, backendRequest: 2s}"));
}

#[test]
fn durations_are_gateway_api_durations() {
    for wrong in ["'10'", "1.5s", "-1s", "1d", "123456s", "1h1h1h1h1h", "'1 s'", "''"] {
        let field = "spec.rules[0].timeouts.request";
        refuses(Kind::HttpRoute, &rule(&format!("timeouts: {{request: {wrong}}}")), field);
    }
    accepts(Kind::HttpRoute, &rule("timeouts: {request: 1h2m3s4ms}"));
    refuses(Kind::HttpRoute, &rule("retry: {backoff: 1us}"), "spec.rules[0].retry.backoff");
    refuses(Kind::HttpRoute, &rule("retry: {codes: [200]}"), "spec.rules[0].retry.codes[0]");
}

#[test]
fn routes_have_bounds() {
    let rules =
        |count: usize, rule: &str| format!("{{spec: {{rules: [{}]}}}}", format!("{rule},").repeat(count));
    refuses(Kind::HttpRoute, &rules(17, "{}"), "spec.rules");
    accepts(Kind::HttpRoute, &rules(16, "{}"));
    let sixty = format!("{{matches: [{}]}}", "{},".repeat(60));
    refuses(Kind::HttpRoute, &rules(3, &sixty), "spec.rules");
    refuses(Kind::HttpRoute, "{spec: {hostnames: [shop.example.com:80]}}", "spec.hostnames[0]");
    refuses(Kind::HttpRoute, "{spec: {hostnames: ['a.*.b']}}", "spec.hostnames[0]");
    refuses(Kind::HttpRoute, "{spec: {rules: [{name: a}, {name: a}]}}", "spec.rules[1].name");
}

#[test]
fn a_parent_is_named_once_or_in_parts() {
    refuses(Kind::HttpRoute, "{spec: {parentRefs: [{name: a}, {name: a}]}}", "spec.parentRefs[1]");
    refuses(
        Kind::HttpRoute,
        "{spec: {parentRefs: [{name: a, sectionName: x}, {name: a}]}}",
        "spec.parentRefs[1]",
    );
    refuses(Kind::HttpRoute, "{spec: {parentRefs: [{name: a, port: 0}]}}", "spec.parentRefs[0].port");
    accepts(
        Kind::HttpRoute,
        "{spec: {parentRefs: [{name: a}, {name: a, kind: Service, group: ''}, {name: b}]}}",
    );
}

#[test]
fn gateways() {
    let listener = |text: &str| format!("{{spec: {{gatewayClassName: sidegate, listeners: [{text}]}}}}");
    let field = |name: &str| format!("spec.listeners[0].{name}");
    for (text, name) in [
        ("{name: a, port: 0, protocol: HTTP}", "port"),
        ("{name: A, port: 1, protocol: HTTP}", "name"),
        ("{name: a, port: 1, protocol: HTTP, tls: {certificateRefs: [{name: x}]}}", "tls"),
        ("{name: a, port: 1, protocol: HTTPS, tls: {}}", "tls.certificateRefs"),
        ("{name: a, port: 1, protocol: HTTPS, tls: {mode: Passthrough}}", "tls.mode"),
        ("{name: a, port: 1, protocol: TLS, tls: {certificateRefs: [{name: x}]}}", "tls.mode"),
        ("{name: a, port: 1, protocol: TCP, hostname: a.b}", "hostname"),
        ("{name: a, port: 1, protocol: 'H T'}", "protocol"),
        ("{name: a, port: 1, protocol: HTTP, hostname: 'A.b'}", "hostname"),
    ] {
        refuses(Kind::Gateway, &listener(text), &field(name));
    }
    let two = |text: &str| listener(&format!("{{name: a, port: 80, protocol: HTTP}}, {text}"));
    refuses(Kind::Gateway, &two("{name: a, port: 81, protocol: HTTP}"), "spec.listeners[1].name");
    refuses(Kind::Gateway, &two("{name: b, port: 80, protocol: HTTP}"), "spec.listeners[1]");
    accepts(Kind::Gateway, &two("{name: b, port: 80, protocol: HTTP, hostname: '*.example.com'}"));
    accepts(
        Kind::Gateway,
        &listener("{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: x}]}}"),
    );
    accepts(Kind::Gateway, &listener("{name: a, port: 443, protocol: TLS, tls: {mode: Passthrough}}"));
    refuses(Kind::Gateway, &listener(""), "spec.listeners");
    let addresses = "{spec: {gatewayClassName: a, addresses: [{value: x}], listeners: [{name: a, port: 1, protocol: HTTP}]}}";
    refuses(Kind::Gateway, addresses, "spec.addresses[0].value");
}

#[test]
fn classes_and_grants() {
    accepts(Kind::GatewayClass, "{spec: {controllerName: sidegate.dev/gateway}}");
    refuses(Kind::GatewayClass, "{spec: {controllerName: sidegate}}", "spec.controllerName");
    accepts(
        Kind::ReferenceGrant,
        "{spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}], to: [{group: '', kind: Service}]}}",
    );
    refuses(Kind::ReferenceGrant, "{spec: {from: [], to: [{group: '', kind: Service}]}}", "spec.from");
}

#[test]
fn services_slices_and_pods() {
    accepts(
        Kind::Service,
        "{spec: {ports: [{port: 53, name: a, protocol: UDP}, {port: 53, name: b, targetPort: dns}]}}",
    );
    for (text, field) in [
        ("{spec: {ports: [{port: 1}, {port: 2, name: b}]}}", "spec.ports[0].name"),
        ("{spec: {ports: [{port: 1, name: a}, {port: 1, name: b}]}}", "spec.ports[1].port"),
        ("{spec: {ports: [{port: 1, targetPort: 0}]}}", "spec.ports[0].targetPort"),
        ("{spec: {ports: [{port: 1, targetPort: 'A b'}]}}", "spec.ports[0].targetPort"),
        ("{spec: {ports: [{port: 1, protocol: HTTP}]}}", "spec.ports[0].protocol"),
        ("{spec: {ports: []}}", "spec.ports"),
        ("{spec: {clusterIP: x, ports: [{port: 1}]}}", "spec.clusterIP"),
    ] {
        refuses(Kind::Service, text, field);
    }
    accepts(Kind::Service, "{spec: {clusterIP: None}}");
    accepts(
        Kind::EndpointSlice,
        "{addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}], ports: [{port: 80}]}",
    );
    refuses(Kind::EndpointSlice, "{endpoints: []}", "addressType");
    refuses(
        Kind::EndpointSlice,
        "{addressType: IPv4, endpoints: [{addresses: ['::1']}]}",
        "endpoints[0].addresses[0]",
    );
    refuses(
        Kind::EndpointSlice,
        "{addressType: IPv4, endpoints: [{addresses: []}]}",
        "endpoints[0].addresses",
    );
    refuses(Kind::EndpointSlice, "{addressType: IPv4, ports: [{port: 70000}]}", "ports[0].port");
    refuses(Kind::Pod, "{status: {podIP: localhost}}", "status.podIP");
    let port = "spec.containers[0].ports[0].containerPort";
    refuses(Kind::Pod, "{spec: {containers: [{name: c, ports: [{containerPort: 0}]}]}}", port);
    let block = |label: &str| {
        let text = format!("-----BEGIN {label}-----\nAA==\n-----END {label}-----\n");
        serde_json::to_value(k8s_openapi::ByteString(text.into_bytes())).unwrap()
    };
    let secret = |certificate: &str, key: &str| {
        format!(
            "{{type: kubernetes.io/tls, data: {{tls.crt: {}, tls.key: {}}}}}",
            block(certificate),
            block(key)
        )
    };
    accepts(Kind::Secret, &secret("CERTIFICATE", "EC PRIVATE KEY"));
    refuses(Kind::Secret, &secret("CERTIFICATE", "CERTIFICATE"), "data[\"tls.key\"]");
    refuses(Kind::Secret, &secret("CERTIFICATE", "ENCRYPTED PRIVATE KEY"), "data[\"tls.key\"]");
    refuses(Kind::Secret, &secret("PRIVATE KEY", "PRIVATE KEY"), "data[\"tls.crt\"]");
    let alone = format!("{{type: kubernetes.io/tls, data: {{tls.crt: {}}}}}", block("CERTIFICATE"));
    refuses(Kind::Secret, &alone, "data[\"tls.key\"]");
    accepts(Kind::Secret, "{type: Opaque, data: {tls.crt: YQ==}}");
}

#[test]
fn policies() {
    let target = "targetRefs: [{group: '', kind: Service, name: web}]";
    accepts(
        Kind::RateLimitPolicy,
        &format!("{{spec: {{{target}, local: {{requests: 10, per: 1m, burst: 5}}}}}}"),
    );
    for (text, field) in [
        (format!("{target}, local: {{requests: 0}}"), "spec.local.requests"),
        (format!("{target}, local: {{requests: 1, per: 0s}}"), "spec.local.per"),
        (format!("{target}, local: {{requests: 1, per: 1d}}"), "spec.local.per"),
        (format!("{target}, local: {{requests: 1, burst: 0}}"), "spec.local.burst"),
        ("targetRefs: [], local: {requests: 1}".to_owned(), "spec.targetRefs"),
        (
            "targetRefs: [{group: apps, kind: Deployment, name: a}], local: {requests: 1}".to_owned(),
            "spec.targetRefs[0]",
        ),
    ] {
        refuses(Kind::RateLimitPolicy, &format!("{{spec: {{{text}}}}}"), field);
    }
    for (text, field) in [
        (format!("{target}, limits: {{maxConnections: 0}}"), "spec.limits.maxConnections"),
        (format!("{target}, retryBudget: {{percent: 101}}"), "spec.retryBudget.percent"),
        (format!("{target}, timeouts: {{connect: soon}}"), "spec.timeouts.connect"),
        (
            "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: a}]".to_owned(),
            "spec.targetRefs[0]",
        ),
    ] {
        refuses(Kind::BackendPolicy, &format!("{{spec: {{{text}}}}}"), field);
    }
    accepts(Kind::BackendPolicy, &format!("{{spec: {{{target}, limits: {{maxPendingRequests: 0}}}}}}"));
}

#[test]
fn policies_of_mutual_tls() {
    let service = "targetRefs: [{group: '', kind: Service, name: web}]";
    for text in [
        "mode: STRICT".to_owned(),
        format!("{service}, mode: PERMISSIVE, ports: {{'8080': {{mode: DISABLE}}}}"),
        "selector: {matchLabels: {app: web}}, ports: {'8080': {mode: DISABLE}}".to_owned(),
        "targetRefs: [{group: '', kind: Namespace, name: b}], mode: STRICT".to_owned(),
    ] {
        accepts(Kind::MeshTlsPolicy, &format!("{{spec: {{{text}}}}}"));
    }
    for (text, field) in [
        (String::new(), "spec.mode"),
        ("mode: STRICT, ports: {'8080': {mode: DISABLE}}".to_owned(), "spec.ports"),
        (format!("{service}, ports: {{'0': {{mode: DISABLE}}}}"), "spec.ports.0"),
        (format!("{service}, ports: {{http: {{mode: DISABLE}}}}"), "spec.ports.http"),
        (format!("{service}, mode: STRICT, selector: {{matchLabels: {{app: web}}}}"), "spec.selector"),
        ("mode: STRICT, selector: {matchLabels: {}}".to_owned(), "spec.selector.matchLabels"),
        (
            "mode: STRICT, targetRefs: [{group: '', kind: Namespace, name: c}]".to_owned(),
            "spec.targetRefs[0].name",
        ),
        (
            "mode: STRICT, targetRefs: [{group: apps, kind: Deployment, name: a}]".to_owned(),
            "spec.targetRefs[0]",
        ),
    ] {
        refuses(Kind::MeshTlsPolicy, &format!("{{spec: {{{text}}}}}"), field);
    }
}

#[test]
fn annotations() {
    let problems = |kind, annotations: serde_json::Value| {
        let object = serde_json::json!({"metadata": {"annotations": annotations}});
        annotations::check(kind, object.as_object().unwrap())
    };
    for (kind, wrong) in [
        (
            Kind::Pod,
            serde_json::json!({"sidegate.dev/inbound": "8080:15001", "sidegate.dev/outbound-proxy": "15001"}),
        ),
        (Kind::Pod, serde_json::json!({"sidegate.dev/inbound": "8080:15001x"})),
        (Kind::Pod, serde_json::json!({"sidegate.dev/inbond": "8080:15001"})),
        (Kind::Service, serde_json::json!({"sidegate.dev/inbound": "8080:15001"})),
        (Kind::AuthorizationPolicy, serde_json::json!({"sidegate.dev/dry-run": "yes"})),
        (Kind::Pod, serde_json::json!({"sidegate.dev/dry-run": "true"})),
    ] {
        // Without it, a Pod would be reached past its sidecar, and a dry run would be none.
        let found = problems(kind, wrong.clone());
        assert_eq!(found.iter().map(|problem| problem.refuses).collect::<Vec<_>>(), [true], "{wrong}");
    }
    for (kind, right) in [
        (Kind::Pod, serde_json::json!({"sidegate.dev/inbound": "8080:15001", "example.com/other": "x"})),
        (Kind::AuthorizationPolicy, serde_json::json!({"sidegate.dev/dry-run": "true"})),
        (Kind::AuthorizationPolicy, serde_json::json!({"sidegate.dev/dry-run": "false"})),
    ] {
        assert!(problems(kind, right.clone()).is_empty(), "{right}");
    }
}
