//! ExternalAuthorizationPolicy: who is asked where, and what when nobody can be.

use sidegate_xds::envoy::config::cluster::v3::Cluster;
use sidegate_xds::envoy::config::core::v3::grpc_service::TargetSpecifier;
use sidegate_xds::envoy::config::listener::v3::filter;
use sidegate_xds::envoy::extensions::filters::http::ext_authz::v3::{ExtAuthz, ext_authz::Services};
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use sidegate_xds::envoy::extensions::filters::network::rbac::v3::Rbac;
use sidegate_xds::resource::from_any;

use super::fixture::{GATEWAY, SERVICES, Shown, gateway, sidecar};

const POD: &str = "---\nkind: Pod\nmetadata: {name: web-1, namespace: shop, labels: {app: web}, annotations: {sidegate.dev/inbound: '8080:15006'}}\n\
    spec: {containers: []}\nstatus: {podIP: 10.0.0.1}\n\
    ---\nkind: Service\nmetadata: {name: front, namespace: shop}\nspec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}\n";
const AUTHZ: &str = "---\nkind: Service\nmetadata: {name: authz, namespace: auth}\nspec: {selector: {app: authz}, ports: [{name: api, port: 9000}]}\n";
const GRANT: &str = "---\nkind: ReferenceGrant\nmetadata: {name: g, namespace: auth}\n\
    spec: {from: [{group: sidegate.dev, kind: ExternalAuthorizationPolicy, namespace: shop}], to: [{group: '', kind: Service}]}\n";
const CLUSTER: &str = "outbound|9000||authz.auth.svc.cluster.local";
const REFERENCE: &str = "backendRef: {name: authz, namespace: auth, port: 9000}";

fn policy(namespace: &str, spec: &str) -> String {
    format!(
        "---\nkind: ExternalAuthorizationPolicy\nmetadata: {{name: ask, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
}

fn checks(manager: &HttpConnectionManager) -> Vec<(String, ExtAuthz)> {
    let named = manager.http_filters.iter().filter(|filter| filter.name.contains("ext_authz"));
    named
        .map(|filter| {
            let Some(ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("no config") };
            (filter.name.clone(), from_any(any).unwrap())
        })
        .collect()
}

fn at_pod(more: &str) -> Shown {
    sidecar(&(POD.to_owned() + AUTHZ + more), "shop", "web-1")
}

#[test]
fn a_pod_asks_by_grpc_and_denies_without_an_answer() {
    let shown = at_pod(&(GRANT.to_owned() + &policy("shop", &format!("protocol: GRPC, {REFERENCE}"))));
    let manager = shown.manager("inbound|15006||");
    let [(name, check)] = &checks(&manager)[..] else { panic!("{manager:?}") };
    assert_eq!(name, "envoy.filters.http.ext_authz.shop/ask");
    let Some(Services::GrpcService(service)) = &check.services else { panic!("{check:?}") };
    let Some(TargetSpecifier::EnvoyGrpc(target)) = &service.target_specifier else { panic!("{service:?}") };
    assert_eq!(
        (target.cluster_name.as_str(), target.authority.as_str()),
        (CLUSTER, "authz.auth.svc.cluster.local:9000")
    );
    assert_eq!(service.timeout.unwrap().seconds, 1);
    assert!(
        !check.failure_mode_allow && check.with_request_body.is_none() && check.allowed_headers.is_none()
    );
    assert_eq!(check.status_on_error.as_ref().unwrap().code, 403);
    // The proxy is sent whom to ask, and speaks HTTP/2 there although the port does not say so.
    let cluster: Cluster = shown.cluster(CLUSTER);
    assert!(!cluster.typed_extension_protocol_options.is_empty());
    assert_eq!(shown.said("ExternalAuthorizationPolicy shop/ask"), ["Accepted=true Accepted"]);
}

#[test]
fn http_has_a_path_and_headers_both_ways() {
    let spec = format!(
        "protocol: HTTP, {REFERENCE}, http: {{path: /check, allowedHeaders: [X-Team, cookie], allowedResponseHeaders: [x-user]}}, \
         forwardBody: {{maxSize: 4096, allowPartial: true}}, timeout: 250ms, failOpen: true, statusOnError: 503"
    );
    let shown = at_pod(&(GRANT.to_owned() + &policy("shop", &spec)));
    let (_, check) = checks(&shown.manager("inbound|15006||")).remove(0);
    let Some(Services::HttpService(service)) = &check.services else { panic!("{check:?}") };
    let uri = service.server_uri.as_ref().unwrap();
    assert_eq!(
        (uri.uri.as_str(), uri.timeout.unwrap().nanos),
        ("http://authz.auth.svc.cluster.local:9000", 250_000_000)
    );
    assert_eq!(service.path_prefix, "/check");
    let heard = service.authorization_response.as_ref().unwrap().allowed_upstream_headers.as_ref().unwrap();
    assert_eq!((heard.patterns.len(), check.allowed_headers.as_ref().unwrap().patterns.len()), (1, 2));
    let body = check.with_request_body.as_ref().unwrap();
    assert_eq!((body.max_request_bytes, body.allow_partial_message), (4096, true));
    assert!(check.failure_mode_allow && check.failure_mode_allow_header_add);
    assert_eq!(check.status_on_error.unwrap().code, 503);
    assert!(shown.cluster(CLUSTER).typed_extension_protocol_options.is_empty());
}

#[test]
fn what_may_not_be_asked_or_is_not_there_denies() {
    let asks = policy("shop", &format!("protocol: GRPC, {REFERENCE}"));
    for (more, reason) in [
        (asks.clone(), "RefNotPermitted"),
        (GRANT.to_owned() + &asks.replace("9000", "9001"), "BackendNotFound"),
        (GRANT.to_owned() + &asks.replace("name: authz", "name: nobody"), "BackendNotFound"),
    ] {
        let shown = at_pod(&more);
        assert_eq!(checks(&shown.manager("inbound|15006||")).len(), 1, "{reason}");
        assert!(!shown.0.resources.clusters.contains_key(CLUSTER), "{reason}");
        let said = shown.said("ExternalAuthorizationPolicy shop/ask");
        assert!(said.contains(&format!("ResolvedRefs=false {reason}")), "{said:?}");
    }
}

#[test]
fn bytes_that_are_no_requests_do_not_pass_unasked() {
    let opaque = "---\nkind: Service\nmetadata: {name: raw, namespace: shop}\nspec: {selector: {app: web}, ports: [{name: tcp-raw, port: 81, targetPort: 8080}]}\n";
    for (open, filters) in [(false, 2), (true, 1)] {
        let spec = format!("protocol: GRPC, {REFERENCE}, failOpen: {open}");
        // No Service says that it is HTTP.
        let pod = POD.replace("name: http, ", "");
        let shown = sidecar(&(pod + AUTHZ + opaque + GRANT + &policy("shop", &spec)), "shop", "web-1");
        let chain = shown.listener("inbound|15006||").default_filter_chain.unwrap();
        assert_eq!(chain.filters.len(), filters, "{open}");
        let Some(filter::ConfigType::TypedConfig(any)) = &chain.filters[0].config_type else { panic!() };
        if !open {
            let nobody: Rbac = from_any(any).unwrap();
            assert!(nobody.rules.unwrap().policies.is_empty());
        }
    }
}

#[test]
fn a_gateway_asks_before_its_own_rules() {
    let target = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: public}]";
    let grant = GRANT.replace("namespace: shop", "namespace: edge");
    let rules =
        "---\nkind: AuthorizationPolicy\nmetadata: {name: all, namespace: edge}\nspec: {rules: [{}]}\n";
    let asks = policy("edge", &format!("{target}, protocol: GRPC, {REFERENCE}"));
    let shown = gateway(&(GATEWAY.to_owned() + SERVICES + AUTHZ + &grant + rules + &asks));
    let names: Vec<_> =
        shown.manager("edge/public/80").http_filters.into_iter().map(|filter| filter.name).collect();
    assert_eq!(
        names,
        [
            "envoy.filters.http.ext_authz.edge/ask",
            "envoy.filters.http.rbac.allow",
            "envoy.filters.http.router"
        ]
    );
    assert!(shown.0.resources.clusters.contains_key(CLUSTER));
}
