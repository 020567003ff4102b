//! Mutual TLS between workloads: what clients expect of whom, and what servers take.

use std::collections::BTreeMap;

use sidegate_xds::envoy::config::core::v3::{
    DataSource, Metadata, TransportSocket, data_source, transport_socket,
};
use sidegate_xds::envoy::config::endpoint::v3::lb_endpoint;
use sidegate_xds::envoy::config::listener::v3::{FilterChain, filter};
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::ForwardClientCertDetails;
use sidegate_xds::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy, tcp_proxy::ClusterSpecifier,
};
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, Secret, SpiffeCertValidatorConfig, UpstreamTlsContext, secret,
};
use sidegate_xds::google::protobuf::value::Kind;
use sidegate_xds::google::protobuf::{Any, Struct};
use sidegate_xds::resource::from_any;

use prost::Message;

use super::fixture::{Shown, gateway, secure_gateway, secure_sidecar, show_address, sidecar, trust, view};
use crate::model::{Name, Scope};
use crate::translate::translate;

/// The Gateway `edge/public` with a route to `shop/web`, whose Pods are: two of one account behind sidecars, one of another account,
/// one that has no sidecar.
const SHOP: &str = r#"
kind: GatewayClass
metadata: {name: sidegate}
spec: {controllerName: sidegate.dev/gateway-controller}
---
kind: Gateway
metadata: {name: public, namespace: edge}
spec:
  gatewayClassName: sidegate
  listeners:
  - {name: http, protocol: HTTP, port: 80, allowedRoutes: {namespaces: {from: All}}}
---
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{name: public, namespace: edge}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
kind: Pod
metadata: {name: one, namespace: shop, labels: {app: web}, annotations: {sidegate.dev/inbound: "8080:15006"}}
spec: {serviceAccountName: web, containers: []}
status: {podIP: 10.0.0.1}
---
kind: Pod
metadata: {name: two, namespace: shop, labels: {app: web}, annotations: {sidegate.dev/inbound: "8080:15006"}}
spec: {serviceAccountName: web, containers: []}
status: {podIP: 10.0.0.2}
---
kind: Pod
metadata: {name: other, namespace: shop, labels: {app: web}, annotations: {sidegate.dev/inbound: "8080:15006", sidegate.dev/outbound-proxy: "15001"}}
status: {podIP: 10.0.0.3}
---
kind: Pod
metadata: {name: bare, namespace: shop, labels: {app: web}, annotations: {sidegate.dev/inbound: "9090:15006"}}
status: {podIP: 10.0.0.4}
"#;

const CLUSTER: &str = "outbound|80||web.shop.svc.cluster.local";
const WEB: &str = "spiffe://mesh.test/ns/shop/sa/web";
const OTHER: &str = "spiffe://mesh.test/ns/shop/sa/default";

fn any(socket: &TransportSocket) -> &Any {
    let Some(transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type else { panic!() };
    any
}

fn pairs(given: &Struct) -> BTreeMap<String, String> {
    let text = |kind: &Option<Kind>| match kind {
        Some(Kind::StringValue(text)) => text.clone(),
        other => panic!("{other:?}"),
    };
    given.fields.iter().map(|(key, value)| (key.clone(), text(&value.kind))).collect()
}

/// `key=text`, what each endpoint says of itself, by address.
fn marks(shown: &Shown) -> Vec<(String, String)> {
    let localities = shown.assignment(CLUSTER).endpoints;
    let endpoints = localities.iter().flat_map(|locality| &locality.lb_endpoints);
    endpoints
        .map(|each| {
            let Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &each.host_identifier else {
                panic!()
            };
            let metadata = each.metadata.clone().unwrap_or_default();
            let mark =
                metadata.filter_metadata.get("envoy.transport_socket_match").map(pairs).unwrap_or_default();
            let mark =
                mark.into_iter().map(|(key, text)| format!("{key}={text}")).collect::<Vec<_>>().join(",");
            (show_address(endpoint.address.as_ref().unwrap()), mark)
        })
        .collect()
}

/// Names, protocols, versions, and whose certificate is expected: what a client's TLS says.
fn upstream(socket: &TransportSocket) -> (String, Vec<String>, Vec<String>) {
    let context: UpstreamTlsContext = from_any(any(socket)).unwrap();
    let common = context.common_tls_context.unwrap();
    assert_only_tls13(&common);
    let Some(ValidationContextType::CombinedValidationContext(combined)) = &common.validation_context_type
    else {
        panic!("{common:?}")
    };
    assert_eq!(combined.validation_context_sds_secret_config.as_ref().unwrap().name, "ROOTCA");
    let names = &combined.default_validation_context.as_ref().unwrap().match_typed_subject_alt_names;
    let names: Vec<String> = names
        .iter()
        .map(|name| {
            assert_eq!(name.san_type, 3, "a URI");
            super::fixture::exact(name.matcher.as_ref().unwrap())
        })
        .collect();
    (context.sni, common.alpn_protocols, names)
}

fn assert_only_tls13(common: &CommonTlsContext) {
    let parameters = common.tls_params.as_ref().unwrap();
    let only = TlsProtocol::TlSv13 as i32;
    assert_eq!(
        (parameters.tls_minimum_protocol_version, parameters.tls_maximum_protocol_version),
        (only, only)
    );
}

#[test]
fn each_endpoint_must_prove_its_own_identity() {
    let shown = secure_gateway(SHOP);
    let at = |address: &str, mark: &str| (address.to_owned(), mark.to_owned());
    assert_eq!(
        marks(&shown),
        [
            at("10.0.0.1:15006", &format!("identity={WEB}")),
            at("10.0.0.2:15006", &format!("identity={WEB}")),
            at("10.0.0.3:15006", &format!("identity={OTHER}")),
            // Its sidecar stands in front of another port.
            at("10.0.0.4:8080", "plaintext=true"),
        ]
    );
    let cluster = shown.cluster(CLUSTER);
    let names: Vec<&str> = cluster.transport_socket_matches.iter().map(|each| each.name.as_str()).collect();
    assert_eq!(names, [OTHER, WEB, "plaintext"], "one for each identity, in a stable order");
    for entry in &cluster.transport_socket_matches[..2] {
        assert_eq!(pairs(entry.r#match.as_ref().unwrap())["identity"], entry.name);
        let socket = entry.transport_socket.as_ref().unwrap();
        let (server_name, protocols, expected) = upstream(socket);
        assert_eq!(server_name, "outbound_.80_._.web.shop.svc.cluster.local");
        assert_eq!(protocols, ["istio", "http/1.1"]);
        assert_eq!(expected, [entry.name.as_str()], "exactly this one");
        let context: UpstreamTlsContext = from_any(any(socket)).unwrap();
        let own = &context.common_tls_context.unwrap().tls_certificate_sds_secret_configs[0];
        assert_eq!(own.name, "default");
        assert!(format!("{:?}", own.sds_config).contains("sds-grpc"));
    }
    let plain = &cluster.transport_socket_matches[2];
    assert_eq!(pairs(plain.r#match.as_ref().unwrap())["plaintext"], "true");
    assert_eq!(plain.transport_socket.as_ref().unwrap().name, "envoy.transport_sockets.raw_buffer");
}

#[test]
fn an_endpoint_of_which_nothing_is_known_is_not_spoken_to() {
    let shown = secure_gateway(SHOP);
    let (server_name, protocols, expected) =
        upstream(shown.cluster(CLUSTER).transport_socket.as_ref().unwrap());
    assert_eq!((server_name.as_str(), protocols), ("", vec![]));
    // No authority gives anybody an id of this form.
    assert_eq!(expected, ["spiffe://mesh.test/nobody"]);
}

#[test]
fn http2_and_disabled_ports_are_told_apart() {
    let h2 =
        SHOP.replace("{name: http, port: 80, targetPort: 8080}", "{name: grpc, port: 80, targetPort: 8080}");
    let cluster = secure_gateway(&h2).cluster(CLUSTER);
    assert_eq!(
        upstream(cluster.transport_socket_matches[0].transport_socket.as_ref().unwrap()).1,
        ["istio", "h2"]
    );
    let disabled = SHOP.to_owned()
        + "---\nkind: MeshTLSPolicy\nmetadata: {name: off, namespace: shop}\nspec: {mode: DISABLE}\n";
    let shown = secure_gateway(&disabled);
    assert!(marks(&shown).iter().all(|(_, mark)| mark == "plaintext=true"));
    assert_eq!(shown.cluster(CLUSTER).transport_socket_matches.len(), 1);
}

#[test]
fn slices_lead_to_the_same_identities() {
    let slice = "---\nkind: EndpointSlice\nmetadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}\n\
                 addressType: IPv4\nports: [{name: http, port: 8080}]\n\
                 endpoints: [{addresses: [10.0.0.3]}, {addresses: [10.9.9.9]}, {addresses: [10.0.0.1], conditions: {ready: false}}]\n";
    let shown = secure_gateway(&(SHOP.to_owned() + slice));
    let found = marks(&shown);
    assert_eq!(found[0], ("10.0.0.3:15006".to_owned(), format!("identity={OTHER}")));
    assert_eq!(found[1], ("10.9.9.9:8080".to_owned(), "plaintext=true".to_owned()));
    // One that is not ready changes no cluster when it is.
    let names = shown.cluster(CLUSTER).transport_socket_matches;
    assert_eq!(names.iter().map(|each| each.name.as_str()).collect::<Vec<_>>(), [OTHER, WEB, "plaintext"]);
}

#[test]
fn whoever_has_proven_nothing_is_told_of_no_tls() {
    for shown in [gateway(SHOP), sidecar(SHOP, "shop", "other")] {
        assert!(shown.0.resources.secrets.is_empty());
        let cluster = shown.cluster(CLUSTER);
        assert!(cluster.transport_socket.is_none() && cluster.transport_socket_matches.is_empty());
        assert!(marks(&shown).iter().all(|(_, mark)| mark.is_empty()));
    }
    let inbound = sidecar(SHOP, "shop", "one").listener("inbound|15006||");
    assert!(inbound.filter_chains.is_empty() && inbound.listener_filters.is_empty());
}

#[test]
fn roots_come_by_trust_domain_and_only_where_they_are_named() {
    let shown = secure_sidecar(SHOP, "shop", "one");
    let secret = Secret::decode(shown.0.resources.secrets["ROOTCA"].body.clone()).unwrap();
    assert_eq!(shown.0.resources.secrets.len(), 1);
    let Some(secret::Type::ValidationContext(context)) = secret.r#type else { panic!() };
    let validator = context.custom_validator_config.unwrap();
    assert_eq!(validator.name, "envoy.tls.cert_validator.spiffe");
    let validator: SpiffeCertValidatorConfig = from_any(&validator.typed_config.unwrap()).unwrap();
    let text = |source: &Option<DataSource>| match source.as_ref().and_then(|source| source.specifier.clone())
    {
        Some(data_source::Specifier::InlineString(text)) => text,
        other => panic!("{other:?}"),
    };
    let domains =
        validator.trust_domains.iter().map(|domain| (domain.name.as_str(), text(&domain.trust_bundle)));
    let domains: BTreeMap<&str, String> = domains.collect();
    assert_eq!(domains.keys().copied().collect::<Vec<_>>(), ["away.test", "mesh.test"]);
    // The one that signs now comes first.
    let own: Vec<&str> = domains["mesh.test"].lines().collect();
    assert_eq!((own.len(), own[1], own[4]), (6, "one", "two"));
    let off = "---\nkind: MeshTLSPolicy\nmetadata: {name: off, namespace: shop}\nspec: {mode: DISABLE}\n";
    let shown = secure_sidecar(&(SHOP.to_owned() + off), "shop", "one");
    assert!(shown.0.resources.secrets.is_empty());
}

/// What a chain matches and what serves it.
fn line(chain: &FilterChain) -> String {
    let matching = chain.filter_chain_match.clone().unwrap_or_default();
    let mesh = if matching.application_protocols.contains(&"istio".to_owned()) { "+mesh" } else { "" };
    let Some(filter::ConfigType::TypedConfig(any)) = &chain.filters[0].config_type else { panic!() };
    let serves = match from_any::<HttpConnectionManager>(any) {
        Ok(manager) => {
            assert!(manager.route_specifier.is_some());
            match manager.forward_client_cert_details() {
                ForwardClientCertDetails::Sanitize => "http",
                ForwardClientCertDetails::AppendForward => {
                    assert!(manager.set_current_client_cert_details.unwrap().uri);
                    "http, names its client"
                }
                other => panic!("{other:?}"),
            }
        }
        Err(_) => {
            let proxy: TcpProxy = from_any(any).unwrap();
            assert_eq!(proxy.cluster_specifier, Some(ClusterSpecifier::Cluster("inbound|8080||".to_owned())));
            "bytes"
        }
    };
    let tls = chain.transport_socket.as_ref().map(|socket| {
        let context: DownstreamTlsContext = from_any(self::any(socket)).unwrap();
        assert!(context.require_client_certificate.unwrap().value);
        let common = context.common_tls_context.unwrap();
        assert_only_tls13(&common);
        assert_eq!(common.tls_certificate_sds_secret_configs[0].name, "default");
        let Some(ValidationContextType::ValidationContextSdsSecretConfig(roots)) =
            &common.validation_context_type
        else {
            panic!()
        };
        assert_eq!(roots.name, "ROOTCA");
        format!(" [mutual TLS {}]", common.alpn_protocols.join(" "))
    });
    let name = if chain.name.is_empty() { "default" } else { &chain.name };
    format!("{name}: {}{mesh}{} → {serves}", matching.transport_protocol, tls.unwrap_or_default())
}

fn inbound(yaml: &str) -> Vec<String> {
    let listener = secure_sidecar(yaml, "shop", "one").listener("inbound|15006||");
    assert_eq!(show_address(listener.address.as_ref().unwrap()), "10.0.0.1:15006");
    assert_eq!(listener.listener_filters.is_empty(), listener.default_filter_chain.is_some());
    listener.filter_chains.iter().chain(&listener.default_filter_chain).map(line).collect()
}

fn moded(mode: &str) -> String {
    format!(
        "{SHOP}---\nkind: MeshTLSPolicy\nmetadata: {{name: mode, namespace: shop}}\nspec: {{mode: {mode}}}\n"
    )
}

#[test]
fn a_sidecar_takes_what_its_mode_says() {
    let mesh = "mesh: tls+mesh [mutual TLS h2 http/1.1] → http, names its client";
    // A client that offers no protocol of the mesh is asked for its certificate, too.
    let strict = "mesh: tls [mutual TLS h2 http/1.1] → http, names its client";
    let all = [mesh, "plaintext: raw_buffer → http", "app-tls: tls → bytes"];
    assert_eq!(inbound(SHOP), all);
    assert_eq!(inbound(&moded("PERMISSIVE")), all);
    assert_eq!(inbound(&moded("STRICT")), [strict]);
    assert_eq!(inbound(&moded("DISABLE")), ["default:  → http"]);
}

#[test]
fn an_opaque_port_has_its_bytes_copied() {
    let opaque = |yaml: &str| yaml.replace("{name: http, port: 80,", "{name: tcp-db, port: 80,");
    let mesh = "mesh: tls+mesh [mutual TLS istio] → bytes";
    assert_eq!(inbound(&opaque(SHOP)), [mesh, "plaintext: raw_buffer → bytes", "app-tls: tls → bytes"]);
    assert_eq!(inbound(&opaque(&moded("STRICT"))), [mesh]);
    assert_eq!(inbound(&opaque(&moded("DISABLE"))), ["default:  → bytes"]);
    // A server that speaks first is not waited for long, and none is cut off.
    let listener = secure_sidecar(&opaque(SHOP), "shop", "one").listener("inbound|15006||");
    assert!(listener.continue_on_listener_filters_timeout);
    assert_eq!(listener.listener_filters_timeout.unwrap().nanos, 500_000_000);
}

#[test]
fn strict_is_not_served_in_the_clear_by_a_proxy_that_has_proven_nothing() {
    let shown = sidecar(&moded("STRICT"), "shop", "one");
    assert!(shown.0.resources.listeners.is_empty());
    assert_eq!(shown.said("Pod shop/one"), ["Programmed=false Pending"]);
    assert!(shown.message("Pending").contains("port 8080 is STRICT"), "{}", shown.message("Pending"));
    assert!(!sidecar(SHOP, "shop", "one").0.resources.listeners.is_empty());
}

#[test]
fn a_gateway_takes_away_the_client_certificates_that_strangers_claim() {
    let manager = secure_gateway(SHOP).manager("edge/public/80");
    assert_eq!(manager.forward_client_cert_details(), ForwardClientCertDetails::Sanitize);
}

#[test]
fn nobody_gets_past_the_policies_by_not_speaking_http() {
    let deny = "---\nkind: AuthorizationPolicy\napiVersion: sidegate.dev/v1alpha1\nmetadata: {name: deny, namespace: shop}\n\
                spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}\n";
    let listener = secure_sidecar(&(SHOP.to_owned() + deny), "shop", "one").listener("inbound|15006||");
    let filters = |chain: &FilterChain| -> Vec<String> {
        chain.filters.iter().map(|filter| filter.name.clone()).collect()
    };
    let by_name =
        |name: &str| filters(listener.filter_chains.iter().find(|chain| chain.name == name).unwrap());
    assert_eq!(by_name("app-tls"), ["envoy.filters.network.rbac.deny", "envoy.filters.network.tcp_proxy"]);
    assert_eq!(by_name("plaintext"), ["envoy.filters.network.http_connection_manager"]);
    for chain in listener.filter_chains.iter().filter(|chain| chain.name != "app-tls") {
        let Some(filter::ConfigType::TypedConfig(any)) = &chain.filters[0].config_type else { panic!() };
        let manager: HttpConnectionManager = from_any(any).unwrap();
        assert!(
            manager.http_filters.iter().any(|filter| filter.name.starts_with("envoy.filters.http.rbac")),
            "{}",
            chain.name
        );
    }
}

#[test]
fn who_is_denied_is_denied_by_servers_and_clients() {
    let mut trust = trust();
    trust.denied = vec![WEB.to_owned(), "not an id".to_owned()];
    let names = |metadata: Option<Metadata>| {
        let fields = &metadata.unwrap().filter_metadata["sidegate"].fields;
        match &fields["denied_identities"].kind {
            Some(Kind::ListValue(list)) => {
                list.values.iter().map(|value| value.kind.clone()).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    let expected = vec![Some(Kind::StringValue(WEB.to_owned()))];
    let pod = Scope::Sidecar { pod: Name::new("shop", "other"), foreign: false, secure: true };
    let shown = Shown(translate(&view(SHOP), Some(&trust), &pod));
    assert_eq!(names(shown.listener("inbound|15006||").metadata), expected);
    let cluster = shown.cluster(CLUSTER);
    assert_eq!(cluster.metadata.as_ref().unwrap().filter_metadata["sidegate"].fields.len(), 5);
    assert_eq!(names(cluster.metadata), expected);
    // A listener that takes no certificates denies none.
    let off = moded("DISABLE");
    assert!(Shown(translate(&view(&off), Some(&trust), &pod)).listener("inbound|15006||").metadata.is_none());
}
