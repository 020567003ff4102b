//! HTTPS listeners: which certificate for which name, from where, and what is said when there is none.

use sidegate_xds::envoy::config::core::v3::transport_socket;
use sidegate_xds::envoy::config::listener::v3::{FilterChain, filter};
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::ForwardClientCertDetails;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::{DownstreamTlsContext, Secret, secret};
use sidegate_xds::resource::from_any;

use prost::Message;

use super::fixture::{SERVICES, Shown, destination, gateway, pair, secure_gateway};

fn with(listeners: &str, more: &str) -> String {
    format!(
        "kind: GatewayClass\nmetadata: {{name: sidegate}}\n\
         spec: {{controllerName: sidegate.dev/gateway-controller}}\n---\n\
         kind: Gateway\nmetadata: {{name: public, namespace: edge}}\n\
         spec:\n  gatewayClassName: sidegate\n  listeners:\n{listeners}{more}\n---\n{SERVICES}"
    )
}

fn listener(name: &str, hostname: &str, tls: &str) -> String {
    let host = if hostname.is_empty() { String::new() } else { format!("hostname: '{hostname}', ") };
    format!(
        "  - {{name: {name}, protocol: HTTPS, port: 443, {host}tls: {{{tls}}}, allowedRoutes: {{namespaces: {{from: All}}}}}}\n"
    )
}

fn route(name: &str, host: &str) -> String {
    format!(
        "---\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  parentRefs: [{{name: public, namespace: edge}}]\n  hostnames: ['{host}']\n  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]\n"
    )
}

const ONE: &str = "certificateRefs: [{name: one}]";

fn context(chain: &FilterChain) -> DownstreamTlsContext {
    let socket = chain.transport_socket.as_ref().unwrap();
    let Some(transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type else { panic!() };
    from_any(any).unwrap()
}

fn manager(chain: &FilterChain) -> HttpConnectionManager {
    let Some(filter::ConfigType::TypedConfig(any)) = &chain.filters[0].config_type else { panic!() };
    from_any(any).unwrap()
}

fn certificates(chain: &FilterChain) -> Vec<String> {
    let common = context(chain).common_tls_context.unwrap();
    common.tls_certificate_sds_secret_configs.into_iter().map(|config| config.name).collect()
}

fn chains(shown: &Shown) -> Vec<FilterChain> {
    shown.listener("edge/public/443").filter_chains
}

#[test]
fn listeners_of_one_port_share_it_and_are_told_apart_by_name() {
    let listeners = listener("a", "a.test", ONE)
        + &listener("wild", "*.test", "certificateRefs: [{name: two}, {name: one}]");
    let yaml = with(&listeners, "")
        + &pair("edge", "one")
        + &pair("edge", "two")
        + &route("a", "a.test")
        + &route("b", "b.test");
    let shown = secure_gateway(&yaml);
    let wire = shown.listener("edge/public/443");
    assert!(wire.default_filter_chain.is_none(), "whoever names another host is refused");
    assert_eq!(wire.listener_filters[0].name, "envoy.filters.listener.tls_inspector");
    let names: Vec<_> = wire
        .filter_chains
        .iter()
        .map(|chain| (chain.name.as_str(), chain.filter_chain_match.as_ref().unwrap().server_names.join(",")))
        .collect();
    assert_eq!(names, [("a", "a.test".to_owned()), ("wild", "*.test".to_owned())]);
    assert_eq!(certificates(&wire.filter_chains[0]), ["kubernetes://edge/one"]);
    assert_eq!(certificates(&wire.filter_chains[1]), ["kubernetes://edge/two", "kubernetes://edge/one"]);
    let common = context(&wire.filter_chains[0]).common_tls_context.unwrap();
    assert_eq!(common.alpn_protocols, ["h2", "http/1.1"]);
    assert_eq!(common.tls_params.unwrap().tls_minimum_protocol_version, TlsProtocol::TlSv12 as i32);
    assert!(common.validation_context_type.is_none());
    assert!(manager(&wire.filter_chains[0]).use_remote_address.unwrap().value);
    let secrets: Vec<&String> = shown.0.resources.secrets.keys().collect();
    assert_eq!(secrets, ["ROOTCA", "kubernetes://edge/one", "kubernetes://edge/two"]);
    let secret = Secret::decode(shown.0.resources.secrets["kubernetes://edge/one"].body.clone()).unwrap();
    assert!(matches!(secret.r#type, Some(secret::Type::TlsCertificate(pair)) if pair.private_key.is_some()));
    assert_eq!(shown.said("Gateway edge/public"), ["Accepted=true Accepted", "Programmed=true Programmed"]);
}

#[test]
fn a_connection_for_one_listener_does_not_reach_anothers_routes() {
    let listeners =
        listener("a", "a.test", ONE) + &listener("wild", "*.test", ONE) + &listener("any", "", ONE);
    let yaml = with(&listeners, "") + &pair("edge", "one") + &route("a", "a.test") + &route("b", "b.test");
    let shown = secure_gateway(&yaml);
    let answer = |table: &str, domain: &str| {
        shown.host(table, domain).map(|host| host.routes.first().map(destination).unwrap_or_default())
    };
    let web = Some("outbound|80||web.shop".to_owned());
    let misdirected = Some("421".to_owned());
    assert_eq!(answer("edge/public/443/a", "a.test"), web);
    assert_eq!(answer("edge/public/443/a", "*.test"), misdirected);
    assert_eq!(answer("edge/public/443/a", "*"), misdirected);
    assert_eq!(answer("edge/public/443/wild", "b.test"), web);
    assert_eq!(answer("edge/public/443/wild", "a.test"), misdirected);
    assert_eq!(answer("edge/public/443/any", "a.test"), misdirected);
}

#[test]
fn references_that_lead_nowhere_are_said_and_the_listener_serves_nothing() {
    let grant = "---\nkind: ReferenceGrant\nmetadata: {name: g, namespace: vault}\nspec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: edge}], to: [{group: '', kind: Secret, name: open}]}\n";
    let opaque = pair("edge", "opaque").replace("kubernetes.io/tls", "Opaque");
    let broken = pair("edge", "broken").replace("tls.crt: LS0t", "tls.crt: AAAA");
    let world = [pair("vault", "open"), pair("vault", "closed"), opaque, broken, grant.to_owned()].concat();
    let table = [
        ("{name: absent}", "InvalidCertificateRef", "Secret edge/absent does not exist"),
        ("{name: opaque}", "InvalidCertificateRef", "not of type kubernetes.io/tls"),
        ("{name: broken}", "InvalidCertificateRef", "tls.crt has no certificate"),
        ("{name: open, kind: ConfigMap}", "InvalidCertificateRef", "\"ConfigMap\""),
        ("{name: closed, namespace: vault}", "RefNotPermitted", "no ReferenceGrant there"),
    ];
    for (reference, reason, says) in table {
        let tls = format!("certificateRefs: [{reference}]");
        let shown = secure_gateway(&(with(&listener("a", "", &tls), "") + &world + &route("a", "a.test")));
        let said = shown.said("Gateway edge/public");
        assert!(said.contains(&format!("ResolvedRefs=false {reason}")), "{reference}: {said:?}");
        assert!(said.contains(&"Programmed=false Invalid".to_owned()), "{said:?}");
        assert!(shown.message(reason).contains(says), "{}", shown.message(reason));
        assert!(shown.message(reason).contains("spec.listeners[0] (\"a\"): tls.certificateRefs[0]"));
        assert!(shown.0.resources.listeners.is_empty() && shown.0.resources.secrets.is_empty());
        // A route attaches all the same: nothing is wrong with it.
        assert!(shown.said("HTTPRoute shop/a").contains(&"Accepted=true Accepted".to_owned()));
    }
    let tls = "certificateRefs: [{name: absent}, {name: open, namespace: vault}]";
    let shown = secure_gateway(&(with(&listener("a", "", tls), "") + &world));
    assert_eq!(certificates(&chains(&shown)[0]), ["kubernetes://vault/open"], "what there is, is shown");
    assert!(
        shown.said("Gateway edge/public").contains(&"ResolvedRefs=false InvalidCertificateRef".to_owned())
    );
}

#[test]
fn a_proxy_that_has_proven_nothing_serves_no_https_and_has_no_key() {
    let yaml = with(&(listener("a", "", ONE) + "  - {name: plain, protocol: HTTP, port: 80}\n"), "")
        + &pair("edge", "one");
    let shown = gateway(&yaml);
    assert!(shown.0.resources.secrets.is_empty());
    assert_eq!(shown.0.resources.listeners.keys().collect::<Vec<_>>(), ["edge/public/80"]);
    assert_eq!(shown.said("Gateway edge/public"), ["Accepted=true Accepted", "Programmed=false Pending"]);
    assert!(shown.message("Pending").contains("needs a private key"), "{}", shown.message("Pending"));
}

#[test]
fn one_port_has_one_protocol() {
    let yaml = with(
        &(listener("a", "a.test", ONE)
            + "  - {name: b, protocol: HTTP, port: 443}\n  - {name: c, protocol: HTTP, port: 80}\n"),
        "",
    ) + &pair("edge", "one");
    let shown = secure_gateway(&yaml);
    assert_eq!(shown.0.resources.listeners.keys().collect::<Vec<_>>(), ["edge/public/80"]);
    assert!(shown.said("Gateway edge/public").contains(&"Accepted=false ProtocolConflict".to_owned()));
}

#[test]
fn options_are_known_or_refused() {
    let option = |key: &str, value: &str| {
        let tls = format!("{ONE}, options: {{{key}: '{value}'}}");
        secure_gateway(&(with(&listener("a", "", &tls), "") + &pair("edge", "one")))
    };
    let shown = option("sidegate.dev/minimum-protocol-version", "1.3");
    let least = context(&chains(&shown)[0]).common_tls_context.unwrap().tls_params.unwrap();
    assert_eq!(least.tls_minimum_protocol_version, TlsProtocol::TlSv13 as i32);
    for (key, value) in [("sidegate.dev/minimum-protocol-version", "1.1"), ("sidegate.dev/minimum", "1.3")] {
        let shown = option(key, value);
        assert!(shown.said("Gateway edge/public").contains(&"Accepted=false UnsupportedValue".to_owned()));
        assert!(shown.0.resources.listeners.is_empty());
    }
}

const AUTHORITY: &str = "---\nkind: ConfigMap\nmetadata: {name: ca, namespace: edge}\n\
    data:\n  ca.crt: |\n    -----BEGIN CERTIFICATE-----\n    AA==\n    -----END CERTIFICATE-----\n";

#[test]
fn clients_are_asked_for_a_certificate_where_the_gateway_says_so() {
    let frontend = "  tls: {frontend: {default: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}}}}\n";
    let yaml = with(&listener("a", "", ONE), frontend) + &pair("edge", "one") + AUTHORITY;
    let shown = secure_gateway(&yaml);
    let chain = &chains(&shown)[0];
    let context = context(chain);
    assert!(context.require_client_certificate.unwrap().value);
    let Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) =
        context.common_tls_context.unwrap().validation_context_type
    else {
        panic!()
    };
    assert_eq!(config.name, "frontend-ca://edge/public/443");
    let secret = Secret::decode(shown.0.resources.secrets[&config.name].body.clone()).unwrap();
    assert!(
        matches!(secret.r#type, Some(secret::Type::ValidationContext(context)) if context.trusted_ca.is_some())
    );
    // Only what has been proven is told to the app.
    assert_eq!(manager(chain).forward_client_cert_details(), ForwardClientCertDetails::SanitizeSet);

    let spared = "  tls: {frontend: {default: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}}, perPort: [{port: 443, tls: {}}]}}\n";
    let shown = secure_gateway(&(with(&listener("a", "", ONE), spared) + &pair("edge", "one") + AUTHORITY));
    let chain = &chains(&shown)[0];
    assert!(self::context(chain).require_client_certificate.is_none());
    assert_eq!(manager(chain).forward_client_cert_details(), ForwardClientCertDetails::Sanitize);
}

#[test]
fn a_port_whose_clients_nobody_could_vouch_for_does_not_serve() {
    let reference = |text: &str| format!("  tls: {{frontend: {{default: {{validation: {{{text}}}}}}}}}\n");
    let table = [
        (
            "caCertificateRefs: [{group: '', kind: ConfigMap, name: gone}]",
            "ResolvedRefs=false InvalidCACertificateRef",
        ),
        (
            "caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}, {group: '', kind: Secret, name: gone}]",
            "Accepted=false NoValidCACertificate",
        ),
        (
            "caCertificateRefs: [{group: '', kind: Service, name: ca}]",
            "ResolvedRefs=false InvalidCACertificateKind",
        ),
        (
            "caCertificateRefs: [{group: '', kind: ConfigMap, name: ca, namespace: vault}]",
            "ResolvedRefs=false RefNotPermitted",
        ),
        (
            "caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}], mode: AllowInsecureFallback",
            "Accepted=false UnsupportedValue",
        ),
    ];
    for (validation, expected) in table {
        let yaml = with(&listener("a", "", ONE), &reference(validation)) + &pair("edge", "one") + AUTHORITY;
        let shown = secure_gateway(&yaml);
        let said = shown.said("Gateway edge/public");
        assert!(said.contains(&expected.to_owned()), "{validation}: {said:?}");
        assert!(shown.0.resources.listeners.is_empty() && shown.0.resources.secrets.is_empty());
    }
}
