//! What one file says.

use proptest::prelude::*;

use super::*;

fn sheet(text: &str) -> Sheet {
    Sheet::read(Path::new("a.yaml"), text.as_bytes(), &Limits::default())
}

fn keys(sheet: &Sheet) -> Vec<(usize, String, bool)> {
    sheet.claims.iter().map(|claim| (claim.document, claim.key.to_string(), claim.form.is_some())).collect()
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n";

#[test]
fn documents_of_many_kinds_in_one_file() {
    let read = sheet(&format!(
        "{SERVICE}---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1beta1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: shop}}\nspec: {{}}\n"
    ));
    let expected = [(1, "Service default/web".to_owned(), true), (3, "HTTPRoute shop/web".to_owned(), true)];
    assert_eq!(keys(&read), expected);
    assert_eq!((read.skipped, read.remarks.len(), read.torn), (1, 0, false));
    let namespace = read.claims[0].form.as_ref().unwrap().metadata().namespace.as_deref();
    assert_eq!(namespace, Some("default"), "what is read later always has a namespace");
}

#[test]
fn a_broken_document_does_not_take_its_neighbours() {
    let read = sheet(&format!("{SERVICE}---\nkind: [\n---\n{}", SERVICE.replace("web", "api")));
    assert_eq!(keys(&read).len(), 2);
    assert!(read.torn);
    assert_eq!(read.remarks[0].document, 2);
}

#[test]
fn lists_are_their_items() {
    let item = "{apiVersion: v1, kind: Service, metadata: {name: NAME}, spec: {ports: [{port: PORT}]}}";
    let (good, bad) =
        (item.replace("NAME", "a").replace("PORT", "1"), item.replace("NAME", "b").replace("PORT", "0"));
    let read = sheet(&format!("apiVersion: v1\nkind: List\nitems: [{good}, {bad}, 7]\n"));
    assert_eq!(keys(&read).len(), 2);
    assert_eq!(read.claims[1].problems[0].field.as_deref(), Some("items[1].spec.ports[0].port"));
    assert_eq!(read.remarks[0].problem.field.as_deref(), Some("items[2]"));
    let typed = sheet(
        "apiVersion: v1\nkind: ServiceList\nitems: [{metadata: {name: a}, spec: {ports: [{port: 1}]}}]\n",
    );
    assert_eq!(keys(&typed), [(1, "Service default/a".to_owned(), true)]);
}

#[test]
fn json_files() {
    let text =
        r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "namespace": "x"}} {"#;
    let read = Sheet::read(Path::new("a.JSON"), text.as_bytes(), &Limits::default());
    assert_eq!(keys(&read), [(1, "Namespace shop".to_owned(), true)]);
    assert_eq!(read.claims[0].problems[0].field.as_deref(), Some("metadata.namespace"));
    assert_eq!((read.torn, read.remarks[0].document), (true, 2));
}

#[test]
fn what_cannot_be_identified_tears_the_file() {
    for text in [
        "just text",
        "a: 1",
        "kind: Service\nmetadata: {name: a}",
        "apiVersion: v1\nkind: Service\nmetadata: {}",
        "apiVersion: v1\nkind: Service\nmetadata: {name: 7}",
        "apiVersion: sidegate.dev/v1alpha1\nkind: Ratelimit\nmetadata: {name: a}",
    ] {
        let read = sheet(text);
        assert!(read.torn && read.claims.is_empty() && read.remarks.len() == 1, "{text}");
    }
    let known =
        sheet("apiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {name: a, namespace: b}");
    assert!(!known.torn);
    assert_eq!(known.remarks[0].object.as_deref(), Some("TLSRoute b/a"));
}

#[test]
fn another_version_is_a_claim_without_a_form() {
    let read = sheet(
        "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: HTTPRoute\nmetadata: {name: a}\nspec: {}",
    );
    assert_eq!(keys(&read), [(1, "HTTPRoute default/a".to_owned(), false)]);
    assert!(read.claims[0].problems[0].message.contains("gateway.networking.k8s.io/v1"));
}

#[test]
fn bounds() {
    let limits = Limits { file_bytes: 1000, documents: 3, ..Limits::default() };
    let read = |text: &str| Sheet::read(Path::new("a.yaml"), text.as_bytes(), &limits);
    let large = read(&"#".repeat(1001));
    assert!(large.torn && large.remarks[0].problem.message.contains("1000 bytes"));
    assert!(!read(&"--- {apiVersion: v1, kind: Event}\n".repeat(3)).torn);
    let many = read(&"--- {apiVersion: v1, kind: Event}\n".repeat(4));
    assert!(many.torn && many.remarks[0].problem.message.contains("3 documents"));
    let listed =
        read(&format!("apiVersion: v1\nkind: List\nitems: [{}]", "{apiVersion: v1, kind: Event},".repeat(4)));
    assert!(listed.torn);
    assert!(
        Sheet::read(Path::new("a.yaml"), b"a: \xff", &limits).remarks[0].problem.message.contains("UTF-8")
    );
    assert!(!Sheet::read(Path::new("a.yaml"), format!("\u{feff}{SERVICE}").as_bytes(), &limits).torn);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        Sheet::read(Path::new("a.yaml"), &bytes, &Limits::default());
        Sheet::read(Path::new("a.json"), &bytes, &Limits::default());
    }

    #[test]
    fn no_edit_of_a_manifest_makes_it_panic(at in 0..GATEWAY.len(), length in 0..20_usize, insert in "[-{}\\[\\]:\"'a0 \n]{0,6}") {
        let end = (at + length).min(GATEWAY.len());
        let text = format!("{}{insert}{}", &GATEWAY[..at], &GATEWAY[end..]);
        sheet(&text);
    }
}

const GATEWAY: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop, annotations: {sidegate.dev/inbound: "1:2"}}
spec:
  parentRefs: [{name: edge, port: 80}]
  hostnames: ["shop.example.com"]
  rules:
  - matches: [{path: {type: RegularExpression, value: "/a[0-9]+"}, headers: [{name: a, value: b}]}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, percent: 5}}]
    backendRefs: [{name: web, port: 80, weight: 1}]
    timeouts: {request: 1s}
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata: {name: edge}
data: {tls.crt: YQ==, tls.key: YQ==}
"#;
