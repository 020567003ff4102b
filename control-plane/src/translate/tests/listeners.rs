//! Gateways: whose they are, their listeners, and which routes attach.

use super::fixture::{GATEWAY, SERVICES, Shown, destination, gateway, show_address};

/// A Gateway `edge/public` with these listeners.
fn with_listeners(listeners: &str) -> String {
    format!(
        "kind: GatewayClass\nmetadata: {{name: sidegate}}\n\
         spec: {{controllerName: sidegate.dev/gateway-controller}}\n---\n\
         kind: Gateway\nmetadata: {{name: public, namespace: edge, generation: 4}}\n\
         spec:\n  gatewayClassName: sidegate\n  listeners:\n{listeners}\n---\n{SERVICES}"
    )
}

/// An HTTPRoute `shop/NAME` to `shop/web`, with further lines of its spec.
fn route(name: &str, spec: &str) -> String {
    format!(
        "---\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]\n{spec}\n"
    )
}

const ALL: &str = "allowedRoutes: {namespaces: {from: All}}";

/// `domain → names of its routes`, for each virtual host of port 80.
fn hosts(shown: &Shown) -> Vec<String> {
    let table = shown.table("edge/public/80");
    let mut lines = Vec::new();
    for host in table.virtual_hosts {
        let names: Vec<_> =
            host.routes.iter().map(|route| route.name.split('/').nth(2).unwrap().to_owned()).collect();
        lines.push(format!("{} → {}", host.domains.join(","), names.join(",")));
    }
    lines
}

#[test]
fn a_gateway_is_ours_by_its_class() {
    let other = GATEWAY.replace("sidegate.dev/gateway-controller", "example.com/other");
    let absent = GATEWAY.replace("name: sidegate}", "name: another}");
    for (yaml, says) in [(other, "belongs to controller example.com/other"), (absent, "does not exist")] {
        let shown = gateway(&yaml);
        assert!(shown.0.resources.listeners.is_empty());
        assert_eq!(shown.said("Gateway edge/public"), ["Accepted=false Pending"]);
        assert!(shown.message("Pending").contains(says), "{}", shown.message("Pending"));
    }
    let shown = gateway(GATEWAY);
    assert_eq!(shown.said("Gateway edge/public"), ["Accepted=true Accepted", "Programmed=true Programmed"]);
}

#[test]
fn a_gateway_that_does_not_exist_says_so() {
    assert_eq!(gateway("").said("Gateway edge/public"), ["Accepted=false Pending"]);
}

#[test]
fn a_listener_is_an_envoy_listener() {
    let shown = gateway(GATEWAY);
    let listener = shown.listener("edge/public/80");
    assert_eq!(show_address(listener.address.as_ref().unwrap()), "0.0.0.0:80");
    let manager = shown.manager("edge/public/80");
    assert_eq!(manager.http_filters.last().unwrap().name, "envoy.filters.http.router");
    assert_eq!(manager.http_filters.len(), 1);
    assert!(manager.use_remote_address.unwrap().value && manager.merge_slashes && manager.tracing.is_some());
    assert!(shown.table("edge/public/80").virtual_hosts.is_empty());
}

#[test]
fn a_gateway_listens_on_the_addresses_it_names() {
    let yaml = GATEWAY.replace(
        "  listeners:",
        "  addresses: [{type: IPAddress, value: 127.0.0.1}, {value: '::1'}, {type: Hostname, value: a.b}]\n  listeners:",
    );
    let shown = gateway(&yaml);
    let listener = shown.listener("edge/public/80");
    assert_eq!(show_address(listener.address.as_ref().unwrap()), "127.0.0.1:80");
    assert_eq!(show_address(listener.additional_addresses[0].address.as_ref().unwrap()), "::1:80");
    assert!(shown.said("Gateway edge/public").contains(&"Programmed=false AddressNotAssigned".to_owned()));
}

#[test]
fn other_protocols_are_named_and_left_out() {
    for protocol in ["TLS", "TCP", "UDP", "example.com/X"] {
        let shown = gateway(&with_listeners(&format!(
            "  - {{name: web, protocol: HTTP, port: 80}}\n  - {{name: odd, protocol: {protocol}, port: 443}}"
        )));
        let said = shown.said("Gateway edge/public");
        assert!(said.contains(&"Accepted=false UnsupportedProtocol".to_owned()), "{said:?}");
        assert!(said.contains(&"Programmed=true Programmed".to_owned()), "{said:?}");
        assert_eq!(shown.0.resources.listeners.keys().collect::<Vec<_>>(), ["edge/public/80"]);
        assert!(shown.message("UnsupportedProtocol").contains("spec.listeners[1] (\"odd\")"));
    }
}

#[test]
fn listeners_that_cannot_be_told_apart_are_both_refused() {
    let shown = gateway(&with_listeners(
        "  - {name: a, protocol: HTTP, port: 80, hostname: x.com}\n  \
         - {name: b, protocol: HTTP, port: 80, hostname: X.com}\n  - {name: c, protocol: HTTP, port: 81}",
    ));
    assert_eq!(shown.0.resources.listeners.keys().collect::<Vec<_>>(), ["edge/public/81"]);
    assert!(shown.said("Gateway edge/public").contains(&"Accepted=false HostnameConflict".to_owned()));
}

#[test]
fn a_host_belongs_to_its_most_specific_listener() {
    let listeners = format!(
        "  - {{name: any, protocol: HTTP, port: 80, {ALL}}}\n  \
         - {{name: wide, protocol: HTTP, port: 80, hostname: '*.example.com', {ALL}}}\n  \
         - {{name: narrow, protocol: HTTP, port: 80, hostname: foo.example.com, {ALL}}}"
    );
    let wide = "  parentRefs: [{name: public, namespace: edge, sectionName: wide}]";
    let yaml = with_listeners(&listeners)
        + &route("wide", wide)
        + &route("stray", &format!("{wide}\n  hostnames: [foo.example.com]"))
        + &route("any", "  parentRefs: [{name: public, namespace: edge, sectionName: any}]");
    // `foo.example.com` has no routes of its own, and gets none of the wider listeners'.
    assert_eq!(hosts(&gateway(&yaml)), ["* → any", "*.example.com → wide", "foo.example.com → "]);

    let narrow = "  parentRefs: [{name: public, namespace: edge, sectionName: narrow}]";
    let yaml = yaml + &route("narrow", narrow);
    assert_eq!(hosts(&gateway(&yaml)), ["* → any", "*.example.com → wide", "foo.example.com → narrow"]);
}

#[test]
fn a_route_without_a_section_attaches_to_all_listeners() {
    let yaml = with_listeners(&format!(
        "  - {{name: a, protocol: HTTP, port: 80, hostname: a.com, {ALL}}}\n  \
         - {{name: b, protocol: HTTP, port: 80, hostname: b.com, {ALL}}}\n  \
         - {{name: c, protocol: HTTP, port: 81, {ALL}}}"
    )) + &route("web", "  parentRefs: [{name: public, namespace: edge}]");
    let shown = gateway(&yaml);
    assert_eq!(hosts(&shown), ["a.com → web", "b.com → web"]);
    assert_eq!(shown.table("edge/public/81").virtual_hosts[0].domains, ["*"]);
    let by_port =
        yaml.replace("{name: public, namespace: edge}]", "{name: public, namespace: edge, port: 81}]");
    let shown = gateway(&by_port);
    assert_eq!(hosts(&shown), ["a.com → ", "b.com → "]);
    assert_eq!(shown.table("edge/public/81").virtual_hosts.len(), 1);
}

#[test]
fn hostnames_of_route_and_listener_meet() {
    // listener, route, domains; none: NoMatchingListenerHostname
    let table = [
        (
            "very.specific.com",
            "[non.matching.com, '*.nonmatching.io', very.specific.com]",
            "very.specific.com",
        ),
        ("very.specific.com", "['*.specific.com']", "very.specific.com"),
        (
            "'*.wildcard.io'",
            "[wildcard.io, foo.wildcard.io, a.b.wildcard.io]",
            "a.b.wildcard.io,foo.wildcard.io",
        ),
        ("'*.wildcard.io'", "['*.foo.wildcard.io', x.com]", "*.foo.wildcard.io"),
        ("'*.foo.wildcard.io'", "['*.wildcard.io']", "*.foo.wildcard.io"),
        ("'*.wildcard.io'", "[wildcard.io]", ""),
        ("UPPER.com", "[upper.COM]", "upper.com"),
    ];
    for (listener, route_hosts, expected) in table {
        let listeners = format!("  - {{name: http, protocol: HTTP, port: 80, hostname: {listener}, {ALL}}}");
        let spec = format!("  parentRefs: [{{name: public, namespace: edge}}]\n  hostnames: {route_hosts}");
        let shown = gateway(&(with_listeners(&listeners) + &route("web", &spec)));
        let table = shown.table("edge/public/80");
        let mut domains: Vec<_> = table
            .virtual_hosts
            .into_iter()
            .filter(|host| !host.routes.is_empty())
            .flat_map(|host| host.domains)
            .collect();
        domains.sort();
        assert_eq!(domains.join(","), expected, "{listener} {route_hosts}");
        if expected.is_empty() {
            assert!(
                shown
                    .said("HTTPRoute shop/web")
                    .contains(&"Accepted=false NoMatchingListenerHostname".to_owned())
            );
        }
    }
}

#[test]
fn a_wildcard_answers_what_the_exact_host_does_not() {
    let parent = "  parentRefs: [{name: public, namespace: edge}]";
    let narrow = route("narrow", &format!("{parent}\n  hostnames: [foo.example.com]"))
        .replace("{backendRefs", "{matches: [{path: {value: /api}}], backendRefs");
    let yaml = GATEWAY.to_owned()
        + SERVICES
        + &narrow
        + &route("wide", &format!("{parent}\n  hostnames: ['*.example.com', other.org]"))
        + &route("any", parent);
    assert_eq!(
        hosts(&gateway(&yaml)),
        ["* → any", "*.example.com,other.org → wide,any", "foo.example.com → narrow,wide,any"]
    );
}

#[test]
fn allowed_namespaces_are_kept() {
    let labels = "---\nkind: Namespace\nmetadata: {name: shop, labels: {team: a, tier: x}}\n";
    let table = [
        ("from: Same", false),
        ("from: All", true),
        ("from: Selector, selector: {matchLabels: {team: a}}", true),
        ("from: Selector, selector: {matchLabels: {team: b}}", false),
        ("from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: shop}}", true),
        ("from: Selector, selector: {matchExpressions: [{key: team, operator: In, values: [a, b]}]}", true),
        ("from: Selector, selector: {matchExpressions: [{key: team, operator: NotIn, values: [a]}]}", false),
        ("from: Selector, selector: {matchExpressions: [{key: none, operator: DoesNotExist}]}", true),
        (
            "from: Selector, selector: {matchExpressions: [{key: team, operator: Exists}, {key: tier, operator: Odd}]}",
            false,
        ),
        ("from: Selector", false),
    ];
    for (namespaces, allowed) in table {
        let listener = format!(
            "  - {{name: http, protocol: HTTP, port: 80, allowedRoutes: {{namespaces: {{{namespaces}}}}}}}"
        );
        let yaml = with_listeners(&listener)
            + labels
            + &route("web", "  parentRefs: [{name: public, namespace: edge}]");
        let shown = gateway(&yaml);
        let said = shown.said("HTTPRoute shop/web");
        assert_eq!(!shown.routes("*").is_empty(), allowed, "{namespaces}");
        assert_eq!(
            said.contains(&"Accepted=false NotAllowedByListeners".to_owned()),
            !allowed,
            "{namespaces} {said:?}"
        );
    }
}

#[test]
fn allowed_kinds_are_kept() {
    let parent = "  parentRefs: [{name: public, namespace: edge}]";
    let listener = |kinds: &str| {
        format!(
            "  - {{name: http, protocol: HTTP, port: 80, allowedRoutes: {{kinds: {kinds}, namespaces: {{from: All}}}}}}"
        )
    };
    let shown = gateway(&(with_listeners(&listener("[{kind: GRPCRoute}]")) + &route("web", parent)));
    assert_eq!(shown.said("HTTPRoute shop/web")[0], "Accepted=false NotAllowedByListeners");
    let shown = gateway(
        &(with_listeners(&listener("[{kind: TCPRoute}, {kind: HTTPRoute}]")) + &route("web", parent)),
    );
    assert_eq!(shown.said("HTTPRoute shop/web")[0], "Accepted=true Accepted");
    assert!(shown.said("Gateway edge/public").contains(&"ResolvedRefs=false InvalidRouteKinds".to_owned()));
}

#[test]
fn a_parent_that_is_not_there_is_named() {
    for (parent, text) in [
        ("sectionName: nope", "no usable listener called \"nope\""),
        ("port: 99", "no usable listener on port 99"),
    ] {
        let spec = format!("  parentRefs: [{{name: public, namespace: edge, {parent}}}]");
        let shown = gateway(&(GATEWAY.to_owned() + SERVICES + &route("web", &spec)));
        assert_eq!(shown.said("HTTPRoute shop/web")[0], "Accepted=false NoMatchingParent");
        let message = shown.message("NoMatchingParent");
        assert!(message.contains(text) && message.starts_with("spec.parentRefs[0]"), "{message}");
    }
}

#[test]
fn unusable_hostnames_are_named_and_never_widen_a_route() {
    let spec = "  parentRefs: [{name: public, namespace: edge}]\n  hostnames: ['foo.*', '10.0.0.1']";
    let shown = gateway(&(GATEWAY.to_owned() + SERVICES + &route("web", spec)));
    assert!(hosts(&shown).is_empty());
    let both = spec.replace("['foo.*',", "[good.com, 'foo.*',");
    let shown = gateway(&(GATEWAY.to_owned() + SERVICES + &route("web", &both)));
    assert_eq!(hosts(&shown), ["good.com → web"]);
    assert!(shown.message("UnsupportedValue").contains("\"foo.*\""));
    assert_eq!(destination(&shown.routes("good.com")[0]), "outbound|80||web.shop");
}

#[test]
fn what_is_wrong_with_a_route_is_said_even_where_it_is_not_in_force() {
    let spec = "  parentRefs: [{name: public, namespace: edge, sectionName: none}]";
    let yaml = GATEWAY.to_owned()
        + SERVICES
        + &route("web", spec).replace("name: web, port: 80", "name: none, port: 80");
    let shown = gateway(&yaml);
    assert_eq!(
        shown.said("HTTPRoute shop/web"),
        ["Accepted=false NoMatchingParent", "ResolvedRefs=false BackendNotFound"]
    );
    let good = gateway(&(GATEWAY.to_owned() + SERVICES + &route("web", spec)));
    assert_eq!(good.said("HTTPRoute shop/web")[1], "ResolvedRefs=true ResolvedRefs");
    assert!(good.0.resources.clusters.is_empty());
}

#[test]
fn a_gateway_drops_headers_that_are_spelled_with_underscores() {
    let manager = gateway(&(GATEWAY.to_owned() + SERVICES)).manager("edge/public/80");
    let options = manager.common_http_protocol_options.unwrap_or_default();
    // DROP_HEADER
    assert_eq!(options.headers_with_underscores_action, 2);
}
