//! Our TLS under the real Envoy: every resource that names it is taken, none is refused.
//!
//! What comes by ADS elsewhere comes from files here: this room speaks no gRPC.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use prost::Message;
use sidegate_xds::envoy::config::cluster::v3::Cluster;
use sidegate_xds::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use sidegate_xds::envoy::config::core::v3::{
    ApiVersion, ConfigSource, PathConfigSource, TransportSocket, transport_socket,
};
use sidegate_xds::envoy::config::listener::v3::{Listener, filter};
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, UpstreamTlsContext,
};
use sidegate_xds::envoy::service::discovery::v3::DiscoveryResponse;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::{ResourceType, from_any, to_any};
use tempfile::TempDir;

use super::fixture::{base64, view};
use crate::model::{Name, Scope, Trust};
use crate::snapshot::Resources;
use crate::translate::translate;

const VARIABLE: &str = "SIDEGATE_TEST_ENVOY";

#[test]
fn envoy_takes_our_tls() {
    let Some(program) = std::env::var_os(VARIABLE) else {
        assert!(std::env::var_os("CI").is_none(), "{VARIABLE} is not set, and a CI must test against Envoy");
        eprintln!("SKIPPED: {VARIABLE} is not set, so nothing is tested against Envoy");
        return;
    };
    let folder = TempDir::new().unwrap();
    let authority = authority(folder.path());
    let ports = [(); 4].map(|()| free_port());
    let yaml = manifests(&authority, &ports);
    let bundles = [("mesh.test".to_owned(), vec![authority.0.clone()])].into_iter().collect();
    let trust = Trust {
        trust_domain: "mesh.test".to_owned(),
        bundles,
        denied: vec!["spiffe://mesh.test/ns/shop/sa/thief".to_owned()],
        ..Trust::default()
    };
    let scopes = [
        Scope::Gateway { gateway: Name::new("edge", "public"), foreign: true, secure: true },
        Scope::Sidecar { pod: Name::new("shop", "one"), foreign: true, secure: true },
    ];
    let mut resources = Resources::default();
    for scope in &scopes {
        let translation = translate(&view(&yaml), Some(&trust), scope);
        assert!(translation.verdicts.iter().all(|verdict| verdict.status), "{:?}", translation.verdicts);
        resources.clusters.extend(translation.resources.clusters);
        resources.endpoints.extend(translation.resources.endpoints);
        resources.listeners.extend(translation.resources.listeners);
        resources.routes.extend(translation.resources.routes);
        resources.secrets.extend(translation.resources.secrets);
    }
    assert_eq!((resources.listeners.len(), resources.secrets.len()), (4, 3), "{resources:?}");
    let envoy = Envoy::start(&program.into(), folder.path(), &resources);
    let wanted = [
        "listener_manager.total_listeners_active: 4",
        "cluster_manager.cds.update_success: 1",
        "listener_manager.lds.update_success: 1",
    ];
    let stats = envoy.stats_with(&wanted);
    for secret in resources.secrets.keys() {
        // What a name of a statistic cannot have, Envoy leaves out.
        let name = secret.replace("://", "_");
        assert!(
            stats.contains(&format!("sds.{name}.version_text: \"1\"")),
            "{secret} did not arrive:\n{stats}\n{}",
            envoy.log()
        );
    }
    let refused: Vec<&str> = stats
        .lines()
        .filter(|line| line.contains("update_rejected") || line.contains("key_rotation_failed"))
        .filter(|line| !line.ends_with(": 0"))
        .collect();
    assert!(refused.is_empty(), "{refused:?}\n{}", envoy.log());
}

/// A certificate that signs itself, with its key. The room of certificates is another one, so openssl makes it.
fn authority(folder: &Path) -> (String, String) {
    let (certificate, key) = (folder.join("root.pem"), folder.join("root.key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=root", "-out"])
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key)
        .output()
        .expect("openssl runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (std::fs::read_to_string(certificate).unwrap(), std::fs::read_to_string(key).unwrap())
}

fn manifests((certificate, key): &(String, String), ports: &[u16; 4]) -> String {
    let [secure, permissive, strict, opaque] = ports;
    let (crt, key) = (base64(certificate), base64(key));
    let root = certificate.trim().replace('\n', "\n    ");
    format!(
        r#"
kind: GatewayClass
metadata: {{name: sidegate}}
spec: {{controllerName: sidegate.dev/gateway-controller}}
---
kind: Gateway
metadata: {{name: public, namespace: edge}}
spec:
  gatewayClassName: sidegate
  addresses: [{{type: IPAddress, value: 127.0.0.1}}]
  tls: {{frontend: {{default: {{validation: {{caCertificateRefs: [{{group: '', kind: ConfigMap, name: ca}}]}}}}}}}}
  listeners:
  - {{name: a, protocol: HTTPS, port: {secure}, hostname: a.test, tls: {{certificateRefs: [{{name: pair}}]}}, allowedRoutes: {{namespaces: {{from: All}}}}}}
  - {{name: wild, protocol: HTTPS, port: {secure}, hostname: '*.test', tls: {{certificateRefs: [{{name: pair}}]}}, allowedRoutes: {{namespaces: {{from: All}}}}}}
---
kind: Secret
metadata: {{name: pair, namespace: edge}}
type: kubernetes.io/tls
data: {{tls.crt: {crt}, tls.key: {key}}}
---
kind: ConfigMap
metadata: {{name: ca, namespace: edge}}
data:
  ca.crt: |
    {root}
---
kind: HTTPRoute
metadata: {{name: web, namespace: shop}}
spec:
  parentRefs: [{{name: public, namespace: edge}}]
  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]
---
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: tcp-raw, port: 81, targetPort: 8082}}]}}
---
kind: Pod
metadata: {{name: one, namespace: shop, labels: {{app: web}}, annotations: {{sidegate.dev/inbound: "8080:{permissive},8081:{strict},8082:{opaque}"}}}}
spec: {{serviceAccountName: web, containers: []}}
status: {{podIP: 127.0.0.1}}
---
kind: Pod
metadata: {{name: bare, namespace: shop, labels: {{app: web}}}}
status: {{podIP: 127.0.0.2}}
---
kind: MeshTLSPolicy
metadata: {{name: strict, namespace: shop}}
spec: {{selector: {{matchLabels: {{app: web}}}}, ports: {{'8081': {{mode: STRICT}}}}}}
"#
    )
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A running Envoy, that ends with this.
struct Envoy {
    child: Child,
    admin: SocketAddr,
    log: PathBuf,
}

impl Envoy {
    fn start(program: &PathBuf, folder: &Path, resources: &Resources) -> Self {
        let mut files = Files { folder: folder.to_owned(), needed: BTreeSet::new() };
        let clusters: Vec<Any> = resources
            .clusters
            .values()
            .map(|one| to_any(&files.cluster(Cluster::decode(one.body.clone()).unwrap())))
            .collect();
        let listeners: Vec<Any> = resources
            .listeners
            .values()
            .map(|one| to_any(&files.listener(Listener::decode(one.body.clone()).unwrap())))
            .collect();
        files.write("cds", ResourceType::Cluster, clusters);
        files.write("lds", ResourceType::Listener, listeners);
        for (kind, name) in std::mem::take(&mut files.needed) {
            let resource = &resources.of(kind)[&name];
            let any = Any { type_url: kind.type_url().to_owned(), value: resource.body.to_vec() };
            files.write(&file(kind, &name), kind, vec![any]);
        }
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let bootstrap = folder.join("envoy.yaml");
        std::fs::write(&bootstrap, bootstrap_of(folder, admin.port())).unwrap();
        let log = folder.join("log");
        let child = Command::new(program)
            .arg("-c")
            .arg(&bootstrap)
            .args(["--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"])
            .stderr(std::fs::File::create(&log).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .expect("Envoy starts");
        Self { child, admin, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The statistics, once all these lines are among them.
    fn stats_with(&self, lines: &[&str]) -> String {
        let mut last = String::new();
        for _ in 0..600 {
            last = self.stats().unwrap_or(last);
            if lines.iter().all(|line| last.lines().any(|found| found == *line)) {
                return last;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{lines:?} never came:\n{last}\n{}", self.log());
    }

    fn stats(&self) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        stream.write_all(b"GET /stats HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bootstrap_of(folder: &Path, admin: u16) -> String {
    let folder = folder.display();
    format!(
        r#"
node: {{id: test, cluster: test}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
dynamic_resources:
  cds_config: {{resource_api_version: V3, path_config_source: {{path: {folder}/cds.pb}}}}
  lds_config: {{resource_api_version: V3, path_config_source: {{path: {folder}/lds.pb}}}}
static_resources:
  clusters:
  - name: sds-grpc
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: sds-grpc
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{pipe: {{path: {folder}/agent}}}}}}}}]}}]
"#
    )
}

/// Where what comes by ADS is written to.
struct Files {
    folder: PathBuf,
    needed: BTreeSet<(ResourceType, String)>,
}

fn file(kind: ResourceType, name: &str) -> String {
    let name: String =
        name.chars().map(|each| if each.is_ascii_alphanumeric() { each } else { '_' }).collect();
    format!("{}-{name}", kind.noun())
}

impl Files {
    fn write(&self, name: &str, kind: ResourceType, resources: Vec<Any>) {
        let response = DiscoveryResponse {
            version_info: "1".to_owned(),
            resources,
            type_url: kind.type_url().to_owned(),
            ..DiscoveryResponse::default()
        };
        std::fs::write(self.folder.join(format!("{name}.pb")), response.encode_to_vec()).unwrap();
    }

    /// The same from a file, if it is to come by ADS.
    fn source(&mut self, kind: ResourceType, name: &str, source: &mut Option<ConfigSource>) {
        let by_ads = |source: &ConfigSource| {
            matches!(source.config_source_specifier, Some(ConfigSourceSpecifier::Ads(_)))
        };
        if !source.as_ref().is_some_and(by_ads) {
            return;
        }
        let path = self.folder.join(format!("{}.pb", file(kind, name))).display().to_string();
        self.needed.insert((kind, name.to_owned()));
        let file = PathConfigSource { path, ..PathConfigSource::default() };
        *source = Some(ConfigSource {
            resource_api_version: ApiVersion::V3.into(),
            config_source_specifier: Some(ConfigSourceSpecifier::PathConfigSource(file)),
            ..ConfigSource::default()
        });
    }

    fn cluster(&mut self, mut cluster: Cluster) -> Cluster {
        if let Some(eds) = &mut cluster.eds_cluster_config {
            self.source(ResourceType::Endpoint, &cluster.name, &mut eds.eds_config);
        }
        let matches = cluster.transport_socket_matches.iter_mut().map(|entry| &mut entry.transport_socket);
        for socket in matches.chain([&mut cluster.transport_socket]).flatten() {
            self.socket(socket);
        }
        cluster
    }

    fn listener(&mut self, mut listener: Listener) -> Listener {
        for chain in listener.filter_chains.iter_mut().chain(&mut listener.default_filter_chain) {
            if let Some(socket) = &mut chain.transport_socket {
                self.socket(socket);
            }
            for filter in &mut chain.filters {
                let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type else { continue };
                let Ok(mut manager) = from_any::<HttpConnectionManager>(any) else { continue };
                if let Some(RouteSpecifier::Rds(rds)) = &mut manager.route_specifier {
                    self.source(ResourceType::Route, &rds.route_config_name, &mut rds.config_source);
                    *any = to_any(&manager);
                }
            }
        }
        listener
    }

    fn socket(&mut self, socket: &mut TransportSocket) {
        let Some(transport_socket::ConfigType::TypedConfig(any)) = &mut socket.config_type else { return };
        if let Ok(mut context) = from_any::<UpstreamTlsContext>(any) {
            context.common_tls_context.iter_mut().for_each(|common| self.common(common));
            *any = to_any(&context);
        } else if let Ok(mut context) = from_any::<DownstreamTlsContext>(any) {
            context.common_tls_context.iter_mut().for_each(|common| self.common(common));
            *any = to_any(&context);
        }
    }

    fn common(&mut self, common: &mut CommonTlsContext) {
        let validation = match &mut common.validation_context_type {
            Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => Some(config),
            Some(ValidationContextType::CombinedValidationContext(combined)) => {
                combined.validation_context_sds_secret_config.as_mut()
            }
            _ => None,
        };
        for SdsSecretConfig { name, sds_config, .. } in
            common.tls_certificate_sds_secret_configs.iter_mut().chain(validation)
        {
            self.source(ResourceType::Secret, name, sds_config);
        }
    }
}
