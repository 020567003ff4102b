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
        Some(cluster.sockets.all().next().map_or(0, |security| security.context.generation()))
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
    let problem = get(&mut Vec::new(), &Secrets::default(), "l", &wire, Denied::default()).unwrap_err();
    assert!(
        problem.to_string().starts_with("require_client_certificate: needs a validation context"),
        "{problem}"
    );
}

fn spiffe(domains: &[(&str, &str)]) -> String {
    let domains = domains
        .iter()
        .map(|(name, root)| format!("{{name: {name}, trust_bundle: {{inline_string: {}}}}}", json(root)));
    let domains = domains.collect::<Vec<_>>().join(", ");
    format!(
        "{{name: envoy.tls.cert_validator.spiffe, typed_config: {{
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig,
          trust_domains: [{domains}]}}}}"
    )
}

#[test]
fn spiffe_bundles_come_inline_or_by_secret_and_change_in_place() {
    let mut scenario = Scenario::new();
    let root = material().root;
    let names = "match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: spiffe://td/a}}]";
    let combined = format!(
        "{{combined_validation_context: {{default_validation_context: {{{names}}}, validation_context_sds_secret_config: {{name: ROOTCA, sds_config: {{ads: {{}}}}}}}}}}"
    );
    scenario.accept(cluster(&combined));
    assert_eq!(scenario.generation(), None, "names without anybody who vouches for them wait");
    let rootca = |domains: &[(&str, &str)]| {
        let text =
            format!("{{name: ROOTCA, validation_context: {{custom_validator_config: {}}}}}", spiffe(domains));
        upsert(ResourceType::Secret, "ROOTCA", &text)
    };
    scenario.accept(rootca(&[("td", &root)]));
    let first = scenario.generation().unwrap();
    assert!(first > 0);
    let other = material().root;
    let both = format!("{root}{other}");
    scenario.accept(rootca(&[("td", &both), ("other", &other)]));
    let second = scenario.generation().unwrap();
    assert!(second > first);
    let shown = scenario.compiler.certificates().read();
    assert_eq!(shown.iter().filter(|shown| shown.is_root).count(), 2, "each root once: {shown:?}");
    // What is wrong with a bundle refuses the secret, and the one before stays.
    let message = scenario.reject(rootca(&[("td", "nothing")]));
    assert_eq!(
        message,
        "validation_context.custom_validator_config.typed_config.trust_domains[0].trust_bundle: trusted_ca: has no certificate in PEM form"
    );
    assert_eq!(scenario.generation(), Some(second));
}

#[test]
fn spiffe_validators_are_checked() {
    let root = material().root;
    let place = "validation_context.custom_validator_config.typed_config";
    for (validator, expected) in [
        (spiffe(&[]), format!("{place}.trust_domains: needs a trust domain: nobody could be trusted")),
        (
            spiffe(&[("TD", &root)]),
            format!(
                "{place}.trust_domains[0].name: \"TD\" is no trust domain (without spiffe://, in lower case)"
            ),
        ),
        (spiffe(&[("td", &root), ("td", &root)]), format!("{place}.trust_domains[1].name: td is there twice")),
        (
            spiffe(&[("td", &root)]).replace("name: td,", "name: td, workload_trust_domain: x,"),
            format!("{place}.trust_domains[0].workload_trust_domain: is not supported yet"),
        ),
        (
            "{name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}".to_owned(),
            "validation_context.custom_validator_config: validator envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer is not supported: envoy.tls.cert_validator.spiffe is".to_owned(),
        ),
        ("{name: x}".to_owned(), "validation_context.custom_validator_config.typed_config: is required".to_owned()),
    ] {
        let common = format!("{{validation_context: {{custom_validator_config: {validator}}}}}");
        let message = Scenario::new().reject(cluster(&common));
        assert_eq!(message, format!("transport_socket.common_tls_context.{expected}"));
    }
}

fn matched(matches: &str, denied: &str) -> Update {
    let text = format!(
        "{{name: app, transport_socket_matches: {matches}, metadata: {{filter_metadata: {{sidegate: {{denied_identities: {denied}}}}}}}}}"
    );
    upsert(ResourceType::Cluster, "app", &text)
}

#[test]
fn each_match_has_a_context_of_its_own_which_stays_while_others_come() {
    let root = json(&material().root);
    let entry = |name: &str| {
        format!(
            "{{name: {name}, match: {{identity: {name}}}, transport_socket: {{name: tls, typed_config: {{
              '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext,
              common_tls_context: {{validation_context: {{trusted_ca: {{inline_string: {root}}}}}}}}}}}}}"
        )
    };
    let mut scenario = Scenario::new();
    let generations = |scenario: &Scenario| -> Vec<u64> {
        let cluster = scenario.handle.current().clusters["app"].clone();
        cluster.sockets.all().map(|security| security.context.generation()).collect()
    };
    scenario.accept(matched(&format!("[{}]", entry("a")), "[]"));
    let [first] = generations(&scenario)[..] else { panic!() };
    scenario.accept(matched(&format!("[{}, {}]", entry("b"), entry("a")), "[]"));
    let [other, same] = generations(&scenario)[..] else { panic!() };
    assert_eq!(same, first, "its pooled connections stay");
    assert_ne!(other, first);
    // Whom the cluster denies is another policy.
    scenario.accept(matched(&format!("[{}]", entry("a")), "[spiffe://td/a]"));
    let [denying] = generations(&scenario)[..] else { panic!() };
    assert_ne!(denying, first);
    let message = scenario.reject(matched("[]", "[nobody]"));
    assert!(message.starts_with("metadata.filter_metadata.sidegate.denied_identities[0]: "), "{message}");
    let message = scenario.reject(matched("[{name: a, transport_socket: {name: x}}]", "[]"));
    assert_eq!(message, "transport_socket_matches[0].transport_socket: x has no typed_config");
}

/// A listener whose clients must show a certificate of the secret `ROOTCA`'s authorities.
fn mutual(material: &Material, denied: &str) -> Update {
    let text = format!(
        "{{name: l, address: {{socket_address: {{address: 127.0.0.1, port_value: 80}}}},
          metadata: {{filter_metadata: {{sidegate: {{denied_identities: {denied}}}}}}},
          filter_chains: [{{filters: [{{name: tcp, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: a, cluster: c}}}}],
            transport_socket: {{name: tls, typed_config: {{
              '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext,
              require_client_certificate: true, common_tls_context: {{tls_certificates: [{}],
              validation_context_sds_secret_config: {{name: ROOTCA, sds_config: {{ads: {{}}}}}}}}}}}}}}]}}",
        certificate(material)
    );
    upsert(ResourceType::Listener, "l", &text)
}

/// A CA whose leaves have ids, and lists of those that it has revoked.
struct Mesh {
    issuer: Issuer<'static, KeyPair>,
    root: String,
}

impl Mesh {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "mesh");
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), root }
    }

    fn session(&self, id: &str, serial: u64) -> Arc<crate::tls::Security> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
        params.serial_number = Some(rcgen::SerialNumber::from(serial));
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap();
        Arc::new(crate::tls::Security::with_peer(leaf.der(), None))
    }

    fn rootca(&self, more: &str, revoked: &[u64]) -> Update {
        let revoked_certs = revoked.iter().map(|serial| rcgen::RevokedCertParams {
            serial_number: rcgen::SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2099, 1, 1),
            crl_number: rcgen::SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let list = json(&list.signed_by(&self.issuer).unwrap().pem().unwrap());
        let validator = spiffe(&[("td", &format!("{}{more}", self.root))]);
        let text = format!(
            "{{name: ROOTCA, validation_context: {{custom_validator_config: {validator}, crl: {{inline_string: {list}}}}}}}"
        );
        upsert(ResourceType::Secret, "ROOTCA", &text)
    }
}

#[test]
fn c13_who_is_revoked_is_asked_to_leave_and_nobody_else() {
    let (mut scenario, own, mesh) = (Scenario::new(), material(), Mesh::new());
    scenario.accept(mutual(&own, "[]"));
    scenario.accept(mesh.rootca("", &[]));
    let reader = scenario.handle.reader();
    let chains = std::rc::Rc::new(crate::worker::Chains::new(&reader));
    let listener = reader.load().listeners["l"].clone();
    let chain = listener.chains.iter().next().unwrap().clone();
    let join = |id: &str, serial| {
        let member = chains.join(&reader, &listener, &chain);
        member.identify(&mesh.session(id, serial));
        member
    };
    let context = std::task::Context::from_waker(std::task::Waker::noop());
    let (web, app) = (join("spiffe://td/web", 11), join("spiffe://td/app", 12));
    let left = |member: &crate::worker::Member| {
        let asked = member.poll_leaving(&context).is_ready();
        assert_eq!(asked, member.poll_revoked(&context).is_ready());
        assert_eq!(asked, member.revoked().is_some());
        asked
    };
    let find = || {
        chains.follow(&reader);
        chains.recheck();
        chains.take_revoked().len()
    };
    assert!(find() == 0 && !left(&web) && !left(&app));
    // More roots, another leaf of our own, other people's serials: nobody is asked to leave.
    scenario.accept(mesh.rootca(&material().root, &[]));
    assert_eq!(find(), 0);
    scenario.accept(mesh.rootca("", &[99]));
    scenario.accept(mutual(&own, "[spiffe://td/nobody]"));
    assert!(find() == 0 && !left(&web) && !left(&app));
    // By its serial: in place, without a publication.
    let before = reader.load().version;
    scenario.accept(mesh.rootca("", &[11]));
    assert_eq!(reader.load().version, before);
    assert_eq!(find(), 1);
    assert!(left(&web) && !left(&app));
    assert_eq!(web.revoked(), Some(crate::tls::Revoked::Certificate));
    // By its id, with the listener.
    scenario.accept(mutual(&own, "[spiffe://td/app]"));
    assert_eq!(find(), 1, "who was found before is not counted again");
    assert_eq!(app.revoked(), Some(crate::tls::Revoked::Identity));
    // Who shakes hands meanwhile is looked at when that is done.
    assert!(left(&join("spiffe://td/app", 13)) && !left(&join("spiffe://td/other", 14)));
    assert_eq!(chains.take_revoked(), [Arc::from("l")]);
}

#[test]
fn c13_relays_to_revoked_endpoints_are_found_and_no_others() {
    let (mut scenario, mesh) = (Scenario::new(), Mesh::new());
    scenario.accept(cluster("{validation_context_sds_secret_config: {name: ROOTCA, sds_config: {ads: {}}}}"));
    scenario.accept(mesh.rootca("", &[]));
    let watch = crate::upstream::Watch::default();
    let app = scenario_clusters(&scenario.handle)["app"].clone();
    let add = |serial| watch.add(&app, Some(&mesh.session("spiffe://td/app", serial)));
    let (bad, good, plain) = (add(11), add(12), watch.add(&app, None));
    let context = std::task::Context::from_waker(std::task::Waker::noop());
    let cut = |watched: &crate::upstream::Watched| watched.poll_revoked(&context).is_ready();
    watch.recheck(&scenario_clusters(&scenario.handle));
    assert!(!cut(&bad) && !cut(&good) && !cut(&plain));
    scenario.accept(mesh.rootca(&material().root, &[99]));
    watch.recheck(&scenario_clusters(&scenario.handle));
    assert!(!cut(&bad) && !cut(&good));
    scenario.accept(mesh.rootca("", &[11]));
    assert!(!cut(&bad), "nobody has looked yet");
    watch.recheck(&scenario_clusters(&scenario.handle));
    assert!(cut(&bad) && !cut(&good) && !cut(&plain));
    // One that is there only now is looked at too.
    let late = watch.add(&app, Some(&mesh.session("spiffe://td/app", 11)));
    watch.recheck(&scenario_clusters(&scenario.handle));
    assert!(cut(&late));
}

type Clusters = rustc_hash::FxHashMap<Arc<str>, Arc<crate::cluster::Cluster>>;

fn scenario_clusters(handle: &Handle) -> Clusters {
    handle.current().clusters.clone()
}

/// The same, asked of the proxy's own identity.
const OWN: &str = "{tls_certificate_sds_secret_configs: [{name: default, sds_config: {api_config_source: {
  api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: sds-grpc}}]}}}]}";

fn own(material: &Material) -> Option<wire::Secret> {
    Some(yaml(&format!("{{name: default, tls_certificate: {}}}", certificate(material))))
}

#[test]
fn the_proxys_own_identity_is_swapped_in_and_taken_away() {
    let mut scenario = Scenario::new();
    let refused = scenario.reject(cluster(OWN));
    assert!(refused.contains("add node.metadata.SIDEGATE_IDENTITY"), "{refused}");
    scenario.compiler.has_identity();
    scenario.accept(cluster(OWN));
    assert_eq!(scenario.generation(), None, "it takes no traffic yet");
    assert_eq!(scenario.compiler.wanted(ResourceType::Secret), [].into(), "nobody else is asked");
    let now = scenario.now;
    let identify =
        |scenario: &mut Scenario, secret| scenario.compiler.identify("default", secret, now).rejections;
    let (one, two) = (material(), material());
    assert_eq!(identify(&mut scenario, own(&one)), []);
    let first = scenario.generation().unwrap();
    assert!(first > 0);
    assert_eq!(identify(&mut scenario, own(&one)), []);
    assert_eq!(scenario.generation(), Some(first), "the same again changes nothing");
    assert_eq!(identify(&mut scenario, own(&two)), []);
    let second = scenario.generation().unwrap();
    assert!(second > first);
    // Half of one, half of the other: refused, and what was in force stays.
    let half = Material { chain: one.chain.clone(), ..material() };
    assert!(identify(&mut scenario, own(&half))[0].message.contains("is not the key of the certificate"));
    assert_eq!(scenario.generation(), Some(second));
    // Over: no handshake, no pooled connection, until there is another.
    assert_eq!(identify(&mut scenario, None), []);
    assert_eq!(scenario.generation(), Some(0));
    scenario.compiler.look_at_files();
    assert_eq!(scenario.generation(), Some(0));
    assert_eq!(identify(&mut scenario, own(&two)), []);
    assert!(scenario.generation().unwrap() > second);
    // No dump has it.
    assert!(scenario.compiler.ledger().entries(ResourceType::Secret).is_empty());
}

#[test]
fn the_proxys_own_identity_comes_from_nobody_else() {
    let mut scenario = Scenario::new();
    scenario.compiler.has_identity();
    let by_ads = "{tls_certificate_sds_secret_configs: [{name: default, sds_config: {ads: {}}}]}";
    let refused = scenario.reject(cluster(by_ads));
    assert!(refused.contains("never comes by ads"), "{refused}");
    let refused = scenario.reject(secret("default", &material()));
    assert!(refused.contains("comes from nobody else"), "{refused}");
    let refused = scenario.reject(cluster(&OWN.replace("name: default", "name: other")));
    assert!(refused.contains("sds-grpc has default and ROOTCA only"), "{refused}");
    let elsewhere = scenario.reject(cluster(&OWN.replace("sds-grpc", "elsewhere")));
    assert!(elsewhere.contains("use ads"), "{elsewhere}");
}

#[test]
fn roots_that_are_always_wanted_stay_without_a_context() {
    let mut scenario = Scenario::new();
    scenario.compiler.always_want("ROOTCA");
    assert_eq!(scenario.compiler.wanted(ResourceType::Secret), [Arc::from("ROOTCA")].into());
    let text = format!(
        "{{name: ROOTCA, validation_context: {{trusted_ca: {{inline_string: {}}}}}}}",
        json(&material().root)
    );
    scenario.accept(upsert(ResourceType::Secret, "ROOTCA", &text));
    // A context that comes later finds it: it will not be sent again.
    let roots = "{validation_context_sds_secret_config: {name: ROOTCA, sds_config: {ads: {}}}}";
    scenario.accept(upsert(ResourceType::Cluster, "other", "{name: other}"));
    scenario.accept(cluster(roots));
    assert!(scenario.generation() > Some(0));
}
