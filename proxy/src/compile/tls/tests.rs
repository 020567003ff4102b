use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sidegate_xds::resource::ResourceType;
use tokio::time::Instant;

use crate::compile::tests::fixture::{removal, upsert, yaml};
use crate::compile::{Compiler, Update};
use crate::snapshot::{Handle, Publisher};

use super::*;

/// A leaf for `edge.test` with its key, and the authority that signed it.
struct Material {
    chain: String,
    key: String,
    root: String,
}

fn material() -> Material {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["edge.test".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    Material { chain: leaf.pem(), key: key.serialize_pem(), root }
}

fn json(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn certificate(material: &Material) -> String {
    let (chain, key) = (json(&material.chain), json(&material.key));
    format!("{{certificate_chain: {{inline_string: {chain}}}, private_key: {{inline_string: {key}}}}}")
}

fn secret(name: &str, material: &Material) -> Update {
    let text = format!("{{name: {name}, tls_certificate: {}}}", certificate(material));
    upsert(ResourceType::Secret, name, &text)
}

fn cluster(common: &str) -> Update {
    let text = format!(
        "{{name: app, transport_socket: {{name: tls, typed_config: {{
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext,
          sni: edge.test, common_tls_context: {common}}}}}}}"
    );
    upsert(ResourceType::Cluster, "app", &text)
}

const BY_SECRET: &str = "{tls_certificate_sds_secret_configs: [{name: own, sds_config: {ads: {}}}]}";

struct Scenario {
    compiler: Compiler,
    handle: Handle,
    now: Instant,
}

impl Scenario {
    fn new() -> Self {
        let publisher = Publisher::new();
        let handle = publisher.handle();
        let compiler = Compiler::new(publisher, crate::telemetry::Metrics::new(0));
        Self { compiler, handle, now: Instant::now() }
    }

    #[track_caller]
    fn accept(&mut self, update: Update) {
        assert_eq!(self.compiler.apply(update, self.now).rejections, []);
    }

    fn reject(&mut self, update: Update) -> String {
        self.compiler.apply(update, self.now).rejections.remove(0).message
    }

    fn generation(&self) -> Option<u64> {
        let snapshot = self.handle.current();
        let cluster = snapshot.clusters.get("app")?;
        Some(cluster.security.as_ref().map_or(0, |security| security.context.generation()))
    }
}

#[test]
fn a_cluster_waits_for_its_secret() {
    let mut scenario = Scenario::new();
    scenario.accept(cluster(BY_SECRET));
    assert_eq!(scenario.generation(), None, "it takes no traffic yet");
    assert_eq!(scenario.compiler.wanted(ResourceType::Secret), [Arc::from("own")].into());
    scenario.accept(secret("own", &material()));
    let first = scenario.generation().unwrap();
    assert!(first > 0);
    // Another certificate is another generation, in the same context.
    scenario.accept(secret("own", &material()));
    let second = scenario.generation().unwrap();
    assert!(second > first);
    // The control plane takes it away: it stays as long as it is needed.
    scenario.accept(removal(ResourceType::Secret, "own"));
    assert_eq!(scenario.generation(), Some(second));
}

#[test]
fn a_cluster_that_gains_tls_serves_on_as_it_was_until_the_secret_is_there() {
    let mut scenario = Scenario::new();
    scenario.accept(upsert(ResourceType::Cluster, "app", "{name: app}"));
    assert_eq!(scenario.generation(), Some(0));
    scenario.accept(cluster(BY_SECRET));
    assert_eq!(scenario.generation(), Some(0), "the form before");
    scenario.accept(secret("own", &material()));
    assert!(scenario.generation() > Some(0));
}

#[test]
fn a_bad_secret_is_named_and_the_one_before_stays() {
    let mut scenario = Scenario::new();
    let good = material();
    scenario.accept(cluster(BY_SECRET));
    scenario.accept(secret("own", &good));
    let before = scenario.generation();
    let crossed = Material { chain: good.chain.clone(), key: material().key, root: String::new() };
    assert_eq!(
        scenario.reject(secret("own", &crossed)),
        "tls_certificate: private_key: is not the key of the certificate in certificate_chain"
    );
    let text = "{name: own, tls_certificate: {certificate_chain: {inline_string: x}, private_key: {inline_string: SECRET}}}";
    let message = scenario.reject(upsert(ResourceType::Secret, "own", text));
    assert_eq!(message, "tls_certificate: certificate_chain: has no certificate in PEM form");
    assert_eq!(scenario.generation(), before);
}

#[test]
fn what_did_not_change_keeps_its_context() {
    let mut scenario = Scenario::new();
    let common = format!("{{tls_certificates: [{}]}}", certificate(&material()));
    scenario.accept(cluster(&common));
    let before = scenario.generation();
    let Update { mut upserts, .. } = cluster(&common);
    let mut wire: crate::compile::Cluster = from_any(&upserts[0].body).unwrap();
    wire.connect_timeout = Some(sidegate_xds::google::protobuf::Duration { seconds: 9, nanos: 0 });
    upserts[0].body = sidegate_xds::resource::to_any(&wire);
    scenario.accept(Update { kind: ResourceType::Cluster, upserts, removals: Vec::new() });
    assert_eq!(scenario.generation(), before);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let root = json(&material().root);
    for (common, expected) in [
        (
            "{tls_params: {signature_algorithms: [x]}}".to_owned(),
            "tls_params.signature_algorithms: is not supported yet",
        ),
        (
            "{tls_params: {tls_maximum_protocol_version: TLSv1_1}}".to_owned(),
            "tls_params.tls_maximum_protocol_version: TLS 1.0 and 1.1 are not spoken here",
        ),
        (
            "{tls_params: {ecdh_curves: [P-521]}}".to_owned(),
            "tls_params.ecdh_curves: P-521 is not spoken here: X25519, P-256, P-384, X25519MLKEM768 are",
        ),
        ("{key_log: {path: /tmp/x}}".to_owned(), "key_log: is not supported yet"),
        (
            format!(
                "{{validation_context: {{trusted_ca: {{inline_string: {root}}}, allow_expired_certificate: true}}}}"
            ),
            "validation_context.allow_expired_certificate: is not supported yet",
        ),
        (
            "{validation_context: {match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a}}]}}"
                .to_owned(),
            "validation_context.match_typed_subject_alt_names: needs a trusted_ca: names in a certificate that nobody has vouched for prove nothing",
        ),
        (
            "{validation_context: {trusted_ca: {inline_string: x}}}".to_owned(),
            "validation_context: trusted_ca: has no certificate in PEM form",
        ),
        (
            "{validation_context: {trusted_ca: {}}}".to_owned(),
            "validation_context.trusted_ca: says not where the bytes are",
        ),
        (
            "{tls_certificate_sds_secret_configs: [{name: nowhere}]}".to_owned(),
            "tls_certificate_sds_secret_configs[0].secret nowhere: static_resources.secrets has none of this name",
        ),
    ] {
        let message = Scenario::new().reject(cluster(&common));
        assert_eq!(message, format!("transport_socket.common_tls_context.{expected}"));
    }
}

#[test]
fn a_required_certificate_needs_someone_to_vouch_for_it() {
    let text = format!(
        "{{require_client_certificate: true, common_tls_context: {{tls_certificates: [{}]}}}}",
        certificate(&material())
    );
    let wire: wire::DownstreamTlsContext = yaml(&text);
    let problem = get(&mut Vec::new(), &Secrets::default(), "l", &wire, ()).unwrap_err();
    assert!(
        problem.to_string().starts_with("require_client_certificate: needs a validation context"),
        "{problem}"
    );
}
