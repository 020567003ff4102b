//! Folders and what is said about them.

use std::fs;

use tempfile::TempDir;

use super::*;

fn examined(files: &[(&str, &str)]) -> Examination {
    let folder = TempDir::new().unwrap();
    for (file, text) in files {
        fs::write(folder.path().join(file), text).unwrap();
    }
    examine(folder.path()).unwrap()
}

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: sidegate}
spec: {controllerName: sidegate.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: sidegate, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{port: 80}]}
";

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
";

#[test]
fn a_sound_folder_is_clean() {
    let examination = examined(&[("gateway.yaml", GATEWAY), ("route.yaml", ROUTE)]);
    assert!(examination.is_clean(), "{}", examination.text());
    assert_eq!(examination.summary(), "4 objects, no findings");
    assert!(examined(&[]).is_clean());
}

#[test]
fn findings_name_file_document_object_and_field() {
    let broken = ROUTE.replace("port: 80", "port: eighty");
    let examination = examined(&[("gateway.yaml", GATEWAY), ("route.yaml", &format!("{broken}---\n["))]);
    let text = examination.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].starts_with("route.yaml:1: HTTPRoute shop/web: spec.rules[0].backendRefs[0].port: "),
        "{text}"
    );
    assert!(lines[1].starts_with("route.yaml:2: "), "{text}");
    assert_eq!(examination.summary(), "3 objects usable, 2 findings");
}

#[test]
fn what_does_not_resolve_is_said_where_it_stands() {
    let examination = examined(&[
        ("gateway.yaml", GATEWAY),
        ("route.yaml", &ROUTE.replace("name: web, port", "name: wbe, port")),
    ]);
    let text = examination.text();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("route.yaml:1: HTTPRoute shop/web: "), "{text}");
    assert!(
        text.contains("shop/wbe does not exist") && text.contains("(ResolvedRefs: BackendNotFound)"),
        "{text}"
    );
}

#[test]
fn a_parent_that_does_not_exist_is_said_once() {
    let two =
        ROUTE.replace("[{name: edge}]", "[{name: edge}, {name: egde}, {name: x, kind: Service, group: ''}]");
    let text = examined(&[("gateway.yaml", GATEWAY), ("route.yaml", &two)]).text();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("spec.parentRefs[1]: Gateway shop/egde does not exist"), "{text}");
    assert!(text.contains("spec.parentRefs[2]: Service shop/x does not exist"), "{text}");
    let none = ROUTE.replace("  parentRefs: [{name: edge}]\n", "");
    assert!(
        examined(&[("gateway.yaml", GATEWAY), ("route.yaml", &none)]).text().contains("in force nowhere")
    );
}

#[test]
fn what_a_sidecar_would_hear_counts_too() {
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, annotations: {sidegate.dev/outbound-proxy: '15001'}}
spec: {containers: [{name: app}]}
";
    let route = ROUTE.replace("{name: edge}", "{name: web, kind: Service, group: '', port: 81}");
    let text = examined(&[("gateway.yaml", GATEWAY), ("pod.yaml", pod), ("route.yaml", &route)]).text();
    assert!(text.contains("pod.yaml:1: Pod shop/web-1: status.podIP is missing"), "{text}");
    let pod = format!("{pod}status: {{podIP: 10.0.0.1}}\n");
    let text = examined(&[("gateway.yaml", GATEWAY), ("pod.yaml", &pod), ("route.yaml", &route)]).text();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("has no TCP port 81"), "{text}");
}

#[test]
fn another_controllers_gateway_is_not_ours_to_judge() {
    let other = GATEWAY.replace("sidegate.dev/gateway-controller", "example.com/other");
    let examination = examined(&[("gateway.yaml", &other), ("route.yaml", ROUTE)]);
    assert!(examination.is_clean(), "{}", examination.text());
}

#[test]
fn one_manifest_may_be_given() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("gateway.yaml");
    fs::write(&file, GATEWAY).unwrap();
    fs::write(folder.path().join("broken.yaml"), "[").unwrap();
    assert_eq!(examine(&file).unwrap().objects, 3);
    assert!(examine(&file).unwrap().is_clean());
    assert!(examine(&folder.path().join("no")).is_err());
}

#[test]
fn programs_get_the_same_as_people() {
    let examination = examined(&[("route.yaml", ROUTE), ("x.yaml", "[")]);
    let value = serde_json::to_value(&examination).unwrap();
    assert_eq!(value["objects"], 1);
    assert_eq!(value["findings"][0]["file"], "x.yaml");
    assert_eq!(value["conditions"][0]["object"], "HTTPRoute shop/web");
    assert_eq!(value["conditions"][0]["type"], "Accepted");
    assert_eq!(value["conditions"][0]["file"], "route.yaml");
}

/// What looks like a certificate with its key, from as near as a folder is looked at.
const PAIR: &str = "
apiVersion: v1
kind: Secret
metadata: {name: pair, namespace: shop}
type: kubernetes.io/tls
stringData:
  tls.crt: |
    -----BEGIN CERTIFICATE-----
    AA==
    -----END CERTIFICATE-----
  tls.key: |
    -----BEGIN PRIVATE KEY-----
    AA==
    -----END PRIVATE KEY-----
";

#[test]
fn https_is_looked_at_as_a_proxy_would_have_it_that_may_have_its_key() {
    let https = GATEWAY.replace(
        "{name: http, port: 80, protocol: HTTP}",
        "{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: pair}]}}",
    );
    let examination = examined(&[("gateway.yaml", &https), ("pair.yaml", PAIR), ("route.yaml", ROUTE)]);
    assert!(examination.is_clean(), "{}", examination.text());
    let text = examined(&[("gateway.yaml", &https), ("route.yaml", ROUTE)]).text();
    assert!(text.contains("gateway.yaml:2: Gateway shop/edge: "), "{text}");
    assert!(
        text.contains(
            "tls.certificateRefs[0]: Secret shop/pair does not exist (ResolvedRefs: InvalidCertificateRef)"
        ),
        "{text}"
    );
    let broken = PAIR.replace("CERTIFICATE", "CERTIFICATE REQUEST");
    let text = examined(&[("pair.yaml", &broken)]).text();
    assert!(text.starts_with("pair.yaml:1: Secret shop/pair: data[\"tls.crt\"]: "), "{text}");
}

#[test]
fn a_policy_of_mutual_tls_that_an_older_one_overrules_is_told() {
    let policy = |name: &str, year: u32| {
        format!(
            "---\napiVersion: sidegate.dev/v1alpha1\nkind: MeshTLSPolicy\nmetadata: {{name: {name}, namespace: shop, creationTimestamp: \"{year}-01-01T00:00:00Z\"}}\nspec: {{mode: STRICT}}\n"
        )
    };
    let both = policy("young", 2024) + &policy("old", 2020);
    let text = examined(&[("gateway.yaml", GATEWAY), ("policy.yaml", &both)]).text();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.contains("MeshTLSPolicy shop/young: the namespace has MeshTLSPolicy shop/old, which is older"),
        "{text}"
    );
}
