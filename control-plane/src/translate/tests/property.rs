//! What holds for every view: translation ends, says the same twice, and never names one thing twice.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use proptest::prelude::*;
use prost::Message;
use sidegate_xds::envoy::config::cluster::v3::Cluster;
use sidegate_xds::envoy::config::core::v3::{TransportSocket, transport_socket};
use sidegate_xds::envoy::config::listener::v3::{Listener, filter};
use sidegate_xds::envoy::config::route::v3::RouteConfiguration;
use sidegate_xds::envoy::config::route::v3::route::Action;
use sidegate_xds::envoy::config::route::v3::route_action::ClusterSpecifier;
use sidegate_xds::envoy::config::route::v3::route_match::PathSpecifier;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext,
};
use sidegate_xds::resource::from_any;

use super::fixture::{base64, trust, view};
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
    let account = one_of(&["default", "a", "b", "ü"]);
    (namespace(), name(), ip, inbound, outbound, account).prop_map(|(namespace, name, ip, inbound, outbound, account)| {
        format!(
            "kind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: x}}, annotations: {{sidegate.dev/inbound: \
             '{inbound}', sidegate.dev/outbound-proxy: '{outbound}'}}}}\nspec: {{serviceAccountName: {account}, containers: []}}\nstatus: {{podIP: '{ip}'}}\n"
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
    let protocol = one_of(&[
        "HTTP",
        "HTTP",
        "TLS",
        "HTTPS",
        "HTTPS, tls: {certificateRefs: [{name: x}]}",
        "HTTPS, tls: {certificateRefs: [{name: x, namespace: n}, {name: y}]}",
        "HTTPS, tls: {mode: Passthrough}",
    ]);
    let name = one_of(&["l", "k", "j", "i"]);
    let listener = (name, port(), protocol, proptest::option::of(host()), one_of(&["All", "Same"]));
    let frontend = one_of(&[
        "",
        "  tls: {frontend: {default: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: x}]}}}}\n",
        "  tls: {frontend: {default: {}, perPort: [{port: 443, tls: {validation: {caCertificateRefs: [{group: '', kind: Secret, name: z}]}}}]}}\n",
    ]);
    (namespace(), proptest::collection::vec(listener, 0..5), frontend).prop_map(|(namespace, listeners, frontend)| {
        let mut yaml = format!("kind: Gateway\nmetadata: {{name: g, namespace: {namespace}}}\nspec:\n{frontend}  gatewayClassName: c\n  listeners:\n");
        let mut names = BTreeSet::new();
        // The API server refuses two listeners of one name.
        for (name, port, protocol, host, from) in listeners.iter().filter(|each| names.insert(&each.0)) {
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

fn mesh_tls() -> impl Strategy<Value = String> {
    let place = one_of(&["n", "m", "sidegate-system"]);
    let target = one_of(&[
        "",
        "selector: {matchLabels: {app: x}}, ",
        "targetRefs: [{group: '', kind: Namespace, name: n}], ",
        "targetRefs: [{group: '', kind: Service, name: x}, {group: '', kind: Service, name: y}], ",
        "targetRefs: [{group: apps, kind: Deployment, name: y}], ",
    ]);
    let mode = || one_of(&["STRICT", "PERMISSIVE", "DISABLE"]);
    (place, name(), target, mode(), mode()).prop_map(|(namespace, name, target, mode, port)| {
        format!(
            "kind: MeshTLSPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{target}mode: {mode}, ports: {{'81': {{mode: {port}}}}}}}\n"
        )
    })
}

/// Certificates, or what looks like some from afar.
fn material() -> impl Strategy<Value = String> {
    let certificate = "-----BEGIN CERTIFICATE-----\\nAA==\\n-----END CERTIFICATE-----\\n";
    let key = "-----BEGIN PRIVATE KEY-----\\nAA==\\n-----END PRIVATE KEY-----\\n";
    let content = proptest::sample::select(vec![certificate, key, ""]);
    let kind = one_of(&["Secret", "ConfigMap"]);
    (namespace(), name(), kind, content, one_of(&["kubernetes.io/tls", "Opaque"])).prop_map(
        move |(namespace, name, kind, content, of_type)| {
            let metadata = format!("kind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\n");
            if kind == "ConfigMap" {
                return format!("{metadata}data: {{ca.crt: \"{content}\"}}\n");
            }
            let data = [("tls.crt", content), ("tls.key", key), ("ca.crt", content)]
                .map(|(name, text)| format!("{name}: {}", base64(&text.replace("\\n", "\n"))));
            format!("{metadata}type: {of_type}\ndata: {{{}}}\n", data.join(", "))
        },
    )
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
        1 => mesh_tls(),
        2 => material(),
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
    let proven = scopes.clone().into_iter().map(|scope| match scope {
        Scope::Gateway { gateway, foreign, .. } => Scope::Gateway { gateway, foreign, secure: true },
        Scope::Sidecar { pod, foreign, .. } => Scope::Sidecar { pod, foreign, secure: true },
    });
    scopes.extend(proven.collect::<Vec<_>>());
    scopes
}

/// Whoever is named has a secret, whoever has one is named; nobody who has not proven who it is has one, or is told of TLS.
fn check_secrets(translation: &Translation, secure: bool, trusting: bool) {
    let resources = &translation.resources;
    let mut named = BTreeSet::new();
    for resource in resources.clusters.values() {
        let cluster = Cluster::decode(resource.body.clone()).unwrap();
        let matches = cluster.transport_socket_matches.iter().map(|entry| entry.transport_socket.as_ref());
        let sockets = matches.chain([cluster.transport_socket.as_ref()]).flatten();
        for name in sockets.filter_map(common).flat_map(|common| names(&common)) {
            named.insert(name);
        }
    }
    for resource in resources.listeners.values() {
        let listener = Listener::decode(resource.body.clone()).unwrap();
        let sockets = listener.filter_chains.iter().filter_map(|chain| chain.transport_socket.as_ref());
        for name in sockets.filter_map(common).flat_map(|common| names(&common)) {
            named.insert(name);
        }
    }
    let had: BTreeSet<String> = resources.secrets.keys().cloned().collect();
    // A workload's own certificate comes from elsewhere.
    let own = named.remove("default");
    assert!(secure || (named.is_empty() && !own), "{named:?}");
    assert!(trusting || !own);
    assert_eq!(named, had);
}

fn common(socket: &TransportSocket) -> Option<CommonTlsContext> {
    let Some(transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type else { return None };
    from_any::<UpstreamTlsContext>(any)
        .map(|context| context.common_tls_context)
        .or_else(|_| from_any::<DownstreamTlsContext>(any).map(|context| context.common_tls_context))
        .ok()
        .flatten()
}

fn names(common: &CommonTlsContext) -> Vec<String> {
    let mut names: Vec<String> =
        common.tls_certificate_sds_secret_configs.iter().map(|config| config.name.clone()).collect();
    match &common.validation_context_type {
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => {
            names.push(config.name.clone());
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            names.push(combined.validation_context_sds_secret_config.clone().unwrap().name);
        }
        other => assert!(other.is_none(), "{other:?}"),
    }
    names
}

/// Every table that a listener asks for is there.
fn check_listeners(translation: &Translation) {
    let mut asked = BTreeSet::new();
    for resource in translation.resources.listeners.values() {
        let listener = Listener::decode(resource.body.clone()).unwrap();
        let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
        for filter in chains.flat_map(|chain| &chain.filters) {
            let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else { panic!() };
            let Ok(manager) = from_any::<HttpConnectionManager>(any) else { continue };
            if let Some(RouteSpecifier::Rds(rds)) = manager.route_specifier {
                asked.insert(rds.route_config_name);
            }
        }
    }
    assert_eq!(asked, translation.resources.routes.keys().cloned().collect());
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
            for trust in [None, Some(&trust())] {
                let first = translate(&view, trust, &scope);
                let second = translate(&view, trust, &scope);
                prop_assert_eq!(&first.resources, &second.resources);
                prop_assert_eq!(&first.verdicts, &second.verdicts);
                check(&first);
                check_listeners(&first);
                check_secrets(&first, scope.is_secure(), trust.is_some());
            }
        }
    }
}
