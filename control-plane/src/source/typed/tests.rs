//! One object at a time: what is used, what is said.

use super::*;

fn read_yaml(kind: Kind, text: &str) -> Read {
    read(kind, serde_yaml::from_str(text).expect("the test's own YAML"))
}

fn fields(read: &Read) -> Vec<&str> {
    read.problems.iter().map(|problem| problem.field.as_deref().unwrap_or("")).collect()
}

#[test]
fn unknown_fields_are_named_and_refuse_the_object() {
    let read = read_yaml(
        Kind::HttpRoute,
        r#"
        metadata: {name: web, namespace: shop, labels: {"app.kubernetes.io/name": web}, typo: 1}
        spec:
          rules:
          - matches: [{path: {value: /}}]
            backendRefs:
            - {name: web, port: 80, wieght: 5}
        "#,
    );
    assert_eq!(fields(&read), ["metadata.typo", "spec.rules[0].backendRefs[0].wieght"]);
    assert!(read.object.is_none() && read.problems.iter().all(|problem| problem.refuses));
}

#[test]
fn unknown_fields_of_core_kinds_are_named_too() {
    let read = read_yaml(
        Kind::Service,
        "{metadata: {name: web, annotations: {a.b/c: d}}, spec: {selektor: {a: b}, ports: [{port: 80, x: {y: 1}}]}}",
    );
    assert_eq!(fields(&read), ["spec.ports[0].x", "spec.selektor"]);
    assert!(read.object.is_none());
}

#[test]
fn a_wrong_type_is_named_by_its_path() {
    let read = read_yaml(
        Kind::HttpRoute,
        "{metadata: {name: a}, spec: {rules: [{}, {backendRefs: [{name: a, port: 80}, {name: b, port: web}]}]}}",
    );
    assert_eq!(fields(&read), ["spec.rules[1].backendRefs[1].port"]);
    assert_eq!(read.problems[0].message, "invalid type: string \"web\", expected a whole number");
    assert!(read.object.is_none());

    let read = read_yaml(Kind::Service, "{metadata: {name: a}, spec: {ports: [{port: eighty}]}}");
    assert_eq!(fields(&read), ["spec.ports[0].port"]);

    let read = read_yaml(
        Kind::HttpRoute,
        "{metadata: {name: a}, spec: {rules: [{matches: [{path: {type: Prefix}}]}]}}",
    );
    assert_eq!(fields(&read), ["spec.rules[0].matches[0].path.type"]);
    assert!(read.problems[0].message.contains("PathPrefix"), "{:?}", read.problems);
}

#[test]
fn a_missing_field_is_named_itself() {
    let read = read_yaml(
        Kind::Gateway,
        "{metadata: {name: a}, spec: {gatewayClassName: x, listeners: [{port: 1}]}}",
    );
    assert_eq!(fields(&read), ["spec.listeners[0].name"]);
    let read = read_yaml(Kind::RateLimitPolicy, "{metadata: {name: a}}");
    assert_eq!(fields(&read), ["spec"]);
}

#[test]
fn status_is_not_ours_to_read_but_a_pods_address_is() {
    let read = read_yaml(
        Kind::HttpRoute,
        "{apiVersion: x, kind: y, metadata: {name: a}, spec: {}, status: {parents: nonsense}}",
    );
    assert!(read.problems.is_empty(), "{:?}", read.problems);
    let read = read_yaml(
        Kind::Pod,
        "{metadata: {name: a}, spec: {containers: [{name: c}]}, status: {podIP: 10.0.0.1}}",
    );
    let Some(Object::Pod(pod)) = read.object else { panic!("{:?}", read.problems) };
    assert_eq!(pod.status.as_ref().unwrap().pod_ip.as_deref(), Some("10.0.0.1"));
}

#[test]
fn quantities_may_be_numbers() {
    let read = read_yaml(
        Kind::Pod,
        "{metadata: {name: a}, spec: {containers: [{name: c, resources: {limits: {cpu: 1}, requests: {memory: 64Mi}}}]}}",
    );
    assert!(read.problems.is_empty(), "{:?}", read.problems);
}

#[test]
fn string_data_becomes_data() {
    let read = read_yaml(
        Kind::Secret,
        "{metadata: {name: a}, type: Opaque, data: {tls.crt: YQ==}, stringData: {tls.key: hush, x: hi}}",
    );
    let Some(Object::Secret(secret)) = read.object else { panic!("{:?}", read.problems) };
    let data = secret.data.as_ref().unwrap();
    assert_eq!(
        (&*data["tls.crt"].0, &*data["tls.key"].0, &*data["x"].0),
        (&b"a"[..], &b"hush"[..], &b"hi"[..])
    );
    assert!(secret.string_data.is_none());
    for (plain, encoded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
        assert_eq!(base64(plain.as_bytes()), encoded);
    }
}

#[test]
fn what_a_secret_holds_is_never_shown() {
    for text in [
        "{metadata: {name: a}, type: kubernetes.io/tls, data: {tls.crt: YQ==, tls.key: 'hunter2 not base64'}}",
        "{metadata: {name: a}, type: kubernetes.io/tls, data: {tls.crt: YQ==, tls.key: 77777}}",
        "{metadata: {name: a}, stringData: {password: 77777}}",
        "{metadata: {name: a}, stringData: {password: [hunter2]}}",
        "{metadata: {name: a}, data: hunter2}",
        "{metadata: {name: a}, data: {}, type: kubernetes.io/tls, stringData: {other: hunter2}}",
        "{metadata: {name: a}, type: [hunter2]}",
    ] {
        let read = read_yaml(Kind::Secret, text);
        assert!(read.object.is_none(), "{text}");
        let said = format!("{:?}", read.problems);
        assert!(!said.contains("hunter2") && !said.contains("77777"), "{said}");
    }
    let read = read_yaml(Kind::Secret, "{metadata: {name: a}, data: {tls.key: 7}}");
    assert_eq!(fields(&read), ["data[\"tls.key\"]"]);
}

#[test]
fn a_pod_with_malformed_annotations_is_not_used() {
    let read = read_yaml(
        Kind::Pod,
        r#"
        metadata:
          name: a
          annotations: {sidegate.dev/inbound: "8080", sidegate.dev/outbound-proxy: "15001", sidegate.dev/inbond: x, other: y}
        spec: {containers: [{name: c}]}
        "#,
    );
    assert_eq!(
        fields(&read),
        ["metadata.annotations[\"sidegate.dev/inbond\"]", "metadata.annotations[\"sidegate.dev/inbound\"]"]
    );
    assert!(read.object.is_none(), "without the annotation it would be reached past its sidecar");
}

#[test]
fn problems_are_bounded() {
    let unknown: String = (0..100).map(|number| format!("u{number}: 1, ")).collect();
    let read = read_yaml(
        Kind::Service,
        &format!("{{metadata: {{name: A_b}}, spec: {{{unknown} ports: [{{port: 0}}]}}}}"),
    );
    assert_eq!(read.problems.len(), 21);
    assert_eq!(fields(&read)[..2], ["spec.u0", "spec.u1"]);
    assert!(read.problems[20].message.contains("82 more"));
    let long = format!("{{metadata: {{name: a}}, spec: {{ports: [{{port: {}}}]}}}}", "x".repeat(10_000));
    assert!(read_yaml(Kind::Service, &long).problems[0].message.len() < 400);
}
