//! The bootstrap as Envoy's descriptors read it, and as Envoy itself does.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::SystemTime;

use clap::Parser as _;
use serde_json::Value;
use sidegate_xds::envoy::config::bootstrap::v3::Bootstrap;
use sidegate_xds::json::{Descriptors, Format as Document};

use super::*;
use crate::authn::tokens::TokenKey;

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn args(words: &[&str]) -> Args {
    Line::try_parse_from([&["bootstrap"], words].concat()).unwrap().args
}

/// The YAML form, checked against the JSON form and Envoy's descriptors.
fn checked(args: &Args) -> (String, Value, Bootstrap) {
    let descriptors = Descriptors::load().unwrap();
    let yaml = text(args).unwrap();
    let json = document::json(&yaml).unwrap();
    let read = |text: &str, document| -> Bootstrap {
        descriptors.decode(text, document).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"))
    };
    let bootstrap = read(&yaml, Document::Yaml);
    assert_eq!(bootstrap, read(&json, Document::Json));
    let value = serde_json::from_str(&json).unwrap();
    (yaml, value, bootstrap)
}

#[test]
fn the_plaintext_form_is_envoys_bootstrap() {
    let table = [
        ("gateway", "shop/public", "127.0.0.1:15010", "gateway~public.shop", "GATEWAY"),
        ("sidecar", "shop/web-1", "[::1]:15010", "sidecar~web-1.shop", "POD_NAME"),
        ("sidecar", "default/1.5", "control.sidegate-system.svc:15010", "sidecar~1.5.default", "POD_NAME"),
    ];
    for (role, target, xds, id, key) in table {
        let (_, value, bootstrap) = checked(&args(&[role, target, "--xds", xds, "--plaintext"]));
        let node = bootstrap.node.unwrap();
        assert_eq!(node.id, id);
        let fields = node.metadata.unwrap().fields;
        assert!(fields.contains_key(key) && fields.contains_key("NAMESPACE") && fields.len() == 2);
        assert!(value["static_resources"]["clusters"][0]["transport_socket"].is_null());
    }
    let (_, value, _) = checked(&args(&["gateway", "shop/public", "--plaintext"]));
    assert_eq!(port(&value), 15010);
}

fn port(value: &Value) -> u64 {
    let cluster = &value["static_resources"]["clusters"][0];
    let endpoint = &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
    endpoint["address"]["socket_address"]["port_value"].as_u64().unwrap()
}

#[test]
fn by_default_a_proxy_proves_who_it_is_with_a_token_that_was_made_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().display().to_string();
    let (yaml, value, bootstrap) =
        checked(&args(&["sidecar", "shop/web-1", "--ca-dir", &ca, "--service-account", "web"]));
    assert_eq!(port(&value), 15012);
    let identity = &value["node"]["metadata"]["SIDEGATE_IDENTITY"];
    assert_eq!(identity["ca_address"], "127.0.0.1:15012");
    assert_eq!(identity["ca_server_name"], "sidegate.sidegate-system.svc");
    assert_eq!(identity["root_file"], format!("{ca}/root-cert.pem"));
    let file = folder.path().join("tokens/shop.web.token");
    assert_eq!(identity["token_file"], file.display().to_string());
    assert!(yaml.contains("good for 60 minutes"), "{yaml}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let token = std::fs::read_to_string(&file).unwrap();
    assert!(!yaml.contains(token.trim()), "the token itself stays in its file");
    let proven = TokenKey::open(folder.path()).unwrap().verify(token.trim(), SystemTime::now()).unwrap();
    assert_eq!(
        (proven.subject.to_string().as_str(), proven.subject.pod),
        ("system:serviceaccount:shop:web", None)
    );

    let tls = &value["static_resources"]["clusters"][0]["transport_socket"]["typed_config"];
    let context = &tls["common_tls_context"];
    assert_eq!(tls["sni"], "sidegate.sidegate-system.svc");
    assert_eq!(context["validation_context"]["trusted_ca"]["filename"], format!("{ca}/root-cert.pem"));
    let name = &context["validation_context"]["match_typed_subject_alt_names"][0];
    assert_eq!(name["san_type"], "URI");
    assert_eq!(name["matcher"]["exact"], "spiffe://cluster.local/ns/sidegate-system/sa/sidegate");
    assert!(context["tls_certificate_sds_secret_configs"].is_null());
    assert_eq!(bootstrap.static_resources.unwrap().clusters.len(), 1);
}

#[test]
fn an_external_authority_is_asked_by_name() {
    let given = ["--ca-address", "ca.test:443", "--ca-root", "/etc/root.pem", "--token-file", "/run/token"];
    let flags = [["sidecar", "shop/web-1", "--service-account", "web"].as_slice(), &given].concat();
    let (_, value, _) = checked(&args(&flags));
    let identity = &value["node"]["metadata"]["SIDEGATE_IDENTITY"];
    assert_eq!(
        (&identity["ca_address"], &identity["ca_server_name"]),
        (&"ca.test:443".into(), &"ca.test".into())
    );
    assert_eq!(identity["id"], "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!((&identity["external"], &identity["root_file"]), (&true.into(), &"/etc/root.pem".into()));
    assert_eq!(port(&value), 15012, "the stream is the control plane's");
    let (_, value, _) = checked(&args(&[flags.as_slice(), &["--ca-server-name", "other.test"]].concat()));
    assert_eq!(value["node"]["metadata"]["SIDEGATE_IDENTITY"]["ca_server_name"], "other.test");
}

#[test]
fn a_gateway_speaks_in_its_own_name_and_given_files_are_named_as_they_are() {
    let (yaml, value, _) = checked(&args(&[
        "gateway",
        "shop/public",
        "--xds",
        "[::1]:15012",
        "--token-file",
        "/var/run/a \"token\"",
        "--root-file",
        "/etc/root.pem",
        "--trust-domain",
        "mesh.example",
    ]));
    let identity = &value["node"]["metadata"]["SIDEGATE_IDENTITY"];
    assert_eq!(identity["ca_address"], "[::1]:15012");
    assert_eq!(identity["token_file"], "/var/run/a \"token\"");
    assert!(yaml.contains("(shop/public)") && !yaml.contains("minutes"), "{yaml}");
    let context =
        &value["static_resources"]["clusters"][0]["transport_socket"]["typed_config"]["common_tls_context"];
    let name = &context["validation_context"]["match_typed_subject_alt_names"][0]["matcher"]["exact"];
    assert_eq!(name, "spiffe://mesh.example/ns/sidegate-system/sa/sidegate");
}

#[test]
fn an_envoy_shows_what_its_agent_gives_it() {
    let (_, value, _) = checked(&args(&[
        "sidecar",
        "shop/web-1",
        "--token-file",
        "/t",
        "--root-file",
        "/r",
        "--foreign",
        "--sds-socket",
        "/run/sds",
    ]));
    let clusters = &value["static_resources"]["clusters"];
    let context = &clusters[0]["transport_socket"]["typed_config"]["common_tls_context"];
    let secret = &context["tls_certificate_sds_secret_configs"][0];
    assert_eq!(secret["name"], "default");
    let service = &secret["sds_config"]["api_config_source"]["grpc_services"][0]["envoy_grpc"];
    assert_eq!((&service["cluster_name"], &clusters[1]["name"]), (&"sds-grpc".into(), &"sds-grpc".into()));
    let endpoint = &clusters[1]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
    assert_eq!(endpoint["address"]["pipe"]["path"], "/run/sds");
}

#[test]
fn what_does_not_go_together_is_said_before_anything_is_made() {
    let refused = |words: &[&str]| {
        Line::try_parse_from([&["bootstrap", "sidecar", "shop/web-1"], words].concat()).is_err()
    };
    assert!(refused(&["--plaintext", "--token-file", "/t"]));
    assert!(refused(&["--foreign"]));
    assert!(refused(&["--sds-socket", "/run/sds"]));
    assert!(refused(&["--service-account", "a/b"]));
    assert!(refused(&["--trust-domain", "A b"]));
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("none");
    let error = text(&args(&["sidecar", "shop/web-1", "--ca-dir", &none.display().to_string()])).unwrap_err();
    assert!(error.contains("--token-file") && error.contains("--plaintext"), "{error}");
    assert!(!none.exists());
}
