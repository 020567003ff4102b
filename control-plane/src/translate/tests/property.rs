//! What holds for every view: translation ends, says the same twice, and never names one thing twice.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use proptest::prelude::*;
use prost::Message;
use sidegate_xds::envoy::config::cluster::v3::Cluster;
use sidegate_xds::envoy::config::route::v3::RouteConfiguration;
use sidegate_xds::envoy::config::route::v3::route::Action;
use sidegate_xds::envoy::config::route::v3::route_action::ClusterSpecifier;
use sidegate_xds::envoy::config::route::v3::route_match::PathSpecifier;

use super::fixture::view;
use crate::model::{Name, Scope};
use crate::translate::{Translation, translate};

/// One of a few words, so that objects meet.
fn one_of(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    proptest::sample::select(words).prop_map(str::to_owned)
}

fn host() -> impl Strategy<Value = String> {
    one_of(&["a.com", "'*.com'", "b.a.com", "'*.a.com'", "A.com", "'*'", "'x.*'", "1.2.3.4", "''", "'a b'"])
}

fn namespace() -> impl Strategy<Value = String> {
    one_of(&["n", "m"])
}

fn name() -> impl Strategy<Value = String> {
    one_of(&["x", "y", "z"])
}

fn port() -> impl Strategy<Value = i32> {
    proptest::sample::select(&[80, 81, 0, -1, 70_000, 443][..])
}

fn service() -> impl Strategy<Value = String> {
    (namespace(), name(), port(), port(), one_of(&["http", "grpc", "x"]), any::<bool>()).prop_map(
        |(namespace, name, first, second, port_name, external)| {
            let kind = if external { "type: ExternalName, externalName: e.com, " } else { "selector: {app: x}, " };
            format!(
                "kind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{kind}ports: \
                 [{{name: {port_name}, port: {first}}}, {{name: b, port: {second}, protocol: UDP}}, {{name: c, port: {first}}}]}}\n"
            )
        },
    )
}

fn pod() -> impl Strategy<Value = String> {
    let ip = one_of(&["10.0.0.1", "10.0.0.2", "127.0.0.2", "fd00::1", "none"]);
    let inbound = one_of(&["80:15006", "80:1,81:2", "80:1,80:2", "x", ""]);
    let outbound = one_of(&["15001", "0", "x"]);
    (namespace(), name(), ip, inbound, outbound).prop_map(|(namespace, name, ip, inbound, outbound)| {
        format!(
            "kind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: x}}, annotations: {{sidegate.dev/inbound: \
             '{inbound}', sidegate.dev/outbound-proxy: '{outbound}'}}}}\nstatus: {{podIP: '{ip}'}}\n"
        )
    })
}

fn slice() -> impl Strategy<Value = String> {
    (namespace(), name(), name(), one_of(&["10.0.0.1", "fd00::1", "x"]), port()).prop_map(
        |(namespace, name, service, address, port)| {
            format!(
                "kind: EndpointSlice\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
                 addressType: IPv4\nports: [{{name: http, port: {port}}}]\nendpoints: [{{addresses: ['{address}']}}, {{addresses: \
                 ['{address}'], zone: a}}]\n"
            )
        },
    )
}

fn gateway() -> impl Strategy<Value = String> {
    let protocol = one_of(&["HTTP", "HTTP", "HTTP", "HTTPS"]);
    let listener =
        (one_of(&["l", "k"]), port(), protocol, proptest::option::of(host()), one_of(&["All", "Same"]));
    (namespace(), proptest::collection::vec(listener, 0..5)).prop_map(|(namespace, listeners)| {
        let mut yaml = format!("kind: Gateway\nmetadata: {{name: g, namespace: {namespace}}}\nspec:\n  gatewayClassName: c\n  listeners:\n");
        for (name, port, protocol, host, from) in &listeners {
            let host = host.as_ref().map(|host| format!(", hostname: {host}")).unwrap_or_default();
            let _ = writeln!(
                yaml,
                "  - {{name: {name}, port: {port}, protocol: {protocol}{host}, allowedRoutes: {{namespaces: {{from: {from}}}}}}}"
            );
        }
        if listeners.is_empty() { yaml.replace("listeners:\n", "listeners: []\n") } else { yaml }
    })
}

fn parent() -> impl Strategy<Value = String> {
    let gateway = (namespace(), proptest::option::of(one_of(&["l", "k"])), proptest::option::of(port()))
        .prop_map(|(namespace, section, port)| {
            let section = section.map(|section| format!(", sectionName: {section}")).unwrap_or_default();
            let port = port.map(|port| format!(", port: {port}")).unwrap_or_default();
            format!("{{name: g, namespace: {namespace}{section}{port}}}")
        });
    let service = (namespace(), name()).prop_map(|(namespace, name)| {
        format!("{{group: '', kind: Service, name: {name}, namespace: {namespace}}}")
    });
    prop_oneof![gateway, service]
}

fn backend() -> impl Strategy<Value = String> {
    let weight = proptest::sample::select(&[0, 1, 2, -1, i32::MAX][..]);
    (namespace(), name(), port(), weight).prop_map(|(namespace, name, port, weight)| {
        format!("{{name: {name}, namespace: {namespace}, port: {port}, weight: {weight}}}")
    })
}

fn http_route() -> impl Strategy<Value = String> {
    let path = (
        one_of(&["Exact", "PathPrefix", "RegularExpression"]),
        one_of(&["/", "/a", "/a/", "a", "/a//b", "/[a-z]*", "/(", "/a?b"]),
    );
    let filter = one_of(&[
        "{type: CORS}",
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: '%'}], remove: [b]}}",
        "{type: RequestRedirect, requestRedirect: {scheme: https}}",
        "{type: URLRewrite, urlRewrite: {hostname: c.com, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}",
        "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: '/\\1'}}}",
        "{type: RequestMirror, requestMirror: {backendRef: {name: x, port: 80}, percent: 7}}",
    ]);
    let timeouts = one_of(&["{request: 1s}", "{backendRequest: 1s}", "{request: x}", "{}"]);
    let rule = (
        proptest::collection::vec(path, 0..3),
        proptest::collection::vec(filter, 0..2),
        proptest::collection::vec(backend(), 0..3),
        timeouts,
    )
        .prop_map(|(paths, filters, backends, timeouts)| {
            let matches: Vec<_> = paths
                .iter()
                .map(|(kind, value)| format!("{{path: {{type: {kind}, value: '{value}'}}}}"))
                .collect();
            format!(
                "{{matches: [{}], filters: [{}], backendRefs: [{}], timeouts: {timeouts}}}",
                matches.join(", "),
                filters.join(", "),
                backends.join(", ")
            )
        });
    route("HTTPRoute", rule)
}

fn grpc_route() -> impl Strategy<Value = String> {
    let method = one_of(&[
        "{service: a}",
        "{method: b}",
        "{service: a, method: b}",
        "{type: RegularExpression, service: '('}",
    ]);
    let rule = (method, backend()).prop_map(|(method, backend)| {
        format!("{{matches: [{{method: {method}}}], backendRefs: [{backend}]}}")
    });
    route("GRPCRoute", rule)
}

fn route(kind: &'static str, rule: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let hosts = proptest::collection::vec(host(), 0..3);
    let parents = proptest::collection::vec(parent(), 0..3);
    (namespace(), name(), hosts, parents, proptest::collection::vec(rule, 0..3)).prop_map(
        move |(namespace, name, hosts, parents, rules)| {
            format!(
                "kind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{parentRefs: [{}], hostnames: [{}], rules: [{}]}}\n",
                parents.join(", "),
                hosts.join(", "),
                rules.join(", ")
            )
        },
    )
}

fn policy() -> impl Strategy<Value = String> {
    let target = one_of(&[
        "{group: gateway.networking.k8s.io, kind: Gateway, name: g}",
        "{group: gateway.networking.k8s.io, kind: Gateway, name: g, sectionName: l}",
        "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: x}",
        "{group: '', kind: Service, name: x}",
    ]);
    (namespace(), name(), target, 0_u32..3).prop_map(|(namespace, name, target, requests)| {
        format!(
            "kind: RateLimitPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{targetRefs: [{target}], local: {{requests: {requests}}}}}\n"
        )
    })
}

const CLASS: &str =
    "kind: GatewayClass\nmetadata: {name: c}\nspec: {controllerName: sidegate.dev/gateway-controller}\n";

fn manifests() -> impl Strategy<Value = String> {
    let grant = "kind: ReferenceGrant\nmetadata: {name: g, namespace: n}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: m}], to: [{group: '', kind: Service}]}\n";
    let object = prop_oneof![
        2 => service(),
        1 => pod(),
        1 => slice(),
        2 => gateway(),
        4 => http_route(),
        2 => grpc_route(),
        1 => policy(),
        1 => Just(grant.to_owned()),
    ];
    proptest::collection::vec(object, 0..24)
        .prop_map(|objects| format!("{CLASS}---\n{}", objects.join("---\n")))
}

fn scopes() -> Vec<Scope> {
    let mut scopes = Vec::new();
    for namespace in ["n", "m"] {
        scopes.push(Scope::Gateway {
            gateway: Name::new(namespace, "g"),
            foreign: namespace == "n",
            secure: false,
        });
        scopes.extend(["x", "y", "z"].map(|pod| Scope::Sidecar {
            pod: Name::new(namespace, pod),
            foreign: false,
            secure: false,
        }));
    }
    scopes
}

fn check(translation: &Translation) {
    let resources = &translation.resources;
    for (name, resource) in &resources.clusters {
        let cluster = Cluster::decode(resource.body.clone()).unwrap();
        assert_eq!(&cluster.name, name);
        assert_eq!(cluster.eds_cluster_config.is_some(), resources.endpoints.contains_key(name), "{name}");
    }
    for resource in resources.routes.values() {
        check_table(translation, &RouteConfiguration::decode(resource.body.clone()).unwrap());
    }
    let mut said = BTreeSet::new();
    for verdict in &translation.verdicts {
        let fresh = said.insert((&verdict.object, &verdict.condition, &verdict.reason, &verdict.message));
        assert!(fresh, "said twice: {verdict:?}");
    }
}

fn check_table(translation: &Translation, table: &RouteConfiguration) {
    let mut domains = BTreeSet::new();
    let mut names = BTreeSet::new();
    for host in &table.virtual_hosts {
        assert!(names.insert(&host.name), "two virtual hosts {}", host.name);
        assert!(!host.domains.is_empty());
        for domain in &host.domains {
            assert!(domains.insert(domain), "domain {domain} twice in {}", table.name);
        }
        for route in &host.routes {
            if let Some(PathSpecifier::PathSeparatedPrefix(path)) =
                &route.r#match.as_ref().unwrap().path_specifier
            {
                assert!(path.len() > 1 && !path.ends_with('/'));
            }
            let Some(Action::Route(action)) = &route.action else { continue };
            let named: Vec<&String> = match action.cluster_specifier.as_ref().unwrap() {
                ClusterSpecifier::Cluster(name) => vec![name],
                ClusterSpecifier::WeightedClusters(weighted) => {
                    let total: u64 =
                        weighted.clusters.iter().map(|each| u64::from(each.weight.unwrap().value)).sum();
                    assert!((1..=u64::from(u32::MAX)).contains(&total), "weights sum to {total}");
                    weighted.clusters.iter().map(|each| &each.name).collect()
                }
                other => panic!("{other:?}"),
            };
            let mirrors = action.request_mirror_policies.iter().map(|mirror| &mirror.cluster);
            for name in named.into_iter().chain(mirrors) {
                let there = translation.resources.clusters.contains_key(name);
                assert_eq!(there, !name.starts_with("blackhole|"), "{name}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn translation_ends_is_deterministic_and_names_nothing_twice(yaml in manifests()) {
        let view = view(&yaml);
        for scope in scopes() {
            let first = translate(&view, &scope);
            let second = translate(&view, &scope);
            prop_assert_eq!(&first.resources, &second.resources);
            prop_assert_eq!(&first.verdicts, &second.verdicts);
            check(&first);
        }
    }
}
