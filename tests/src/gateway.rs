//! Our proxy under a static configuration, written in the few words in which scenarios differ.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use crate::client::{self, Protocol};
use crate::message::{Call, Response};
use crate::process::{Process, program};
use crate::sandbox::{Sandbox, address};
use crate::wait;

/// A configuration in the making: one listener, with HTTP routes or opaque TCP.
#[derive(Clone, Debug)]
pub struct Gateway {
    clusters: Vec<Value>,
    virtual_hosts: Value,
    /// What is laid over the connection manager.
    http: Map<String, Value>,
    /// The cluster that everything goes to, unread.
    tcp: Option<String>,
    admin: bool,
    flags: Vec<String>,
    /// The listener's `DownstreamTlsContext`.
    tls: Option<Value>,
    secrets: Value,
    /// `node.metadata`.
    metadata: Value,
    /// What is laid over the listener.
    listener: Value,
    /// Filter chains instead of the one.
    chains: Vec<Value>,
    /// More listeners.
    others: Vec<Value>,
    /// What is laid over the listener's filter chain.
    chain: Value,
    /// The program that starts the proxy, with its arguments.
    under: Vec<String>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self::new()
    }
}

impl Gateway {
    /// Without routes and clusters.
    pub fn new() -> Self {
        Self {
            clusters: Vec::new(),
            virtual_hosts: json!([]),
            http: Map::new(),
            tcp: None,
            admin: false,
            tls: None,
            secrets: json!([]),
            metadata: Value::Null,
            chain: json!({}),
            flags: vec!["--concurrency".to_owned(), "1".to_owned()],
            listener: json!({}),
            chains: Vec::new(),
            others: Vec::new(),
            under: Vec::new(),
        }
    }

    /// Every request goes to one cluster, `app`.
    pub fn to(endpoints: &[SocketAddr]) -> Self {
        Self::new().cluster("app", endpoints).routes("[{match: {prefix: /}, route: {cluster: app}}]")
    }

    /// As [`Gateway::to`]; upstream speaks HTTP/2.
    pub fn to_http2(endpoints: &[SocketAddr]) -> Self {
        Self::new().cluster_http2("app", endpoints).routes("[{match: {prefix: /}, route: {cluster: app}}]")
    }

    /// Every connection goes to these endpoints, unread.
    pub fn opaque(endpoints: &[SocketAddr]) -> Self {
        Self { tcp: Some("app".to_owned()), ..Self::new().cluster("app", endpoints) }
    }

    /// A cluster that speaks HTTP/1.1.
    #[must_use]
    pub fn cluster(self, name: &str, endpoints: &[SocketAddr]) -> Self {
        self.cluster_with(name, endpoints, "{}")
    }

    /// A cluster that speaks HTTP/2.
    #[must_use]
    pub fn cluster_http2(self, name: &str, endpoints: &[SocketAddr]) -> Self {
        let options = json!({"typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }});
        self.cluster_with(name, endpoints, &options.to_string())
    }

    /// A cluster with these fields laid over it (YAML).
    #[must_use]
    pub fn cluster_with(mut self, name: &str, endpoints: &[SocketAddr], fields: &str) -> Self {
        let endpoints: Vec<Value> =
            endpoints.iter().map(|end| json!({"endpoint": {"address": socket(*end)}})).collect();
        let mut cluster = json!({"name": name});
        if !endpoints.is_empty() {
            let assignment = json!({"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]});
            overlay(&mut cluster, json!({"type": "STATIC", "load_assignment": assignment}));
        }
        overlay(&mut cluster, yaml(fields));
        self.clusters.push(cluster);
        self
    }

    /// The routes of the one virtual host `*` (a YAML list).
    #[must_use]
    pub fn routes(self, routes: &str) -> Self {
        let routes = yaml(routes);
        self.virtual_hosts(&json!([{"name": "all", "domains": ["*"], "routes": routes}]).to_string())
    }

    /// All virtual hosts (a YAML list).
    #[must_use]
    pub fn virtual_hosts(mut self, hosts: &str) -> Self {
        self.virtual_hosts = yaml(hosts);
        self
    }

    /// Fields of the connection manager (YAML).
    #[must_use]
    pub fn http(mut self, fields: &str) -> Self {
        if let Value::Object(fields) = yaml(fields) {
            self.http.extend(fields);
        }
        self
    }

    /// Started by this program, which becomes the proxy.
    #[must_use]
    pub fn under(mut self, program: &[&str]) -> Self {
        self.under = program.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Fields of the listener (YAML).
    #[must_use]
    pub fn listener(mut self, fields: &str) -> Self {
        overlay(&mut self.listener, yaml(fields));
        self
    }

    /// One more listener, whole.
    #[must_use]
    pub fn other_listener(mut self, listener: Value) -> Self {
        self.others.push(listener);
        self
    }

    /// A filter chain that passes what it matches (YAML) on to a cluster, unread.
    #[must_use]
    pub fn opaque_chain(mut self, criteria: &str, cluster: &str) -> Self {
        self.chains.push(json!({"filter_chain_match": yaml(criteria), "filters": [tcp_proxy(cluster)]}));
        self
    }

    /// A filter chain for what it matches (YAML), with the connection manager as it is now.
    #[must_use]
    pub fn http_chain(mut self, criteria: &str) -> Self {
        let manager = self.connection_manager();
        self.chains.push(json!({"filter_chain_match": yaml(criteria), "filters": [manager]}));
        self
    }

    /// Fields of the filter chain that was added last.
    ///
    /// # Panics
    /// When none was.
    #[must_use]
    pub fn last_chain(mut self, fields: Value) -> Self {
        overlay(self.chains.last_mut().expect("a chain"), fields);
        self
    }

    /// With an admin page.
    #[must_use]
    pub fn with_admin(mut self) -> Self {
        self.admin = true;
        self
    }

    /// The listener speaks TLS by this `DownstreamTlsContext`.
    #[must_use]
    pub fn tls(mut self, context: Value) -> Self {
        self.tls = Some(context);
        self
    }

    /// Fields of the listener's filter chain.
    #[must_use]
    pub fn chain(mut self, fields: Value) -> Self {
        self.chain = fields;
        self
    }

    /// `static_resources.secrets`.
    #[must_use]
    pub fn secrets(mut self, secrets: Value) -> Self {
        self.secrets = secrets;
        self
    }

    /// `node.metadata`.
    #[must_use]
    pub fn metadata(mut self, metadata: Value) -> Self {
        self.metadata = metadata;
        self
    }

    /// More flags; of a flag that is given twice, the last one counts.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// Two worker threads.
    #[must_use]
    pub fn two_workers(mut self) -> Self {
        self.flags = vec!["--concurrency".to_owned(), "2".to_owned()];
        self
    }

    /// The configuration, for a listener and perhaps an admin page at these addresses.
    pub fn bootstrap(&self, listener: SocketAddr, admin: Option<SocketAddr>) -> Value {
        let filter = match &self.tcp {
            Some(cluster) => tcp_proxy(cluster),
            None => self.connection_manager(),
        };
        let chains =
            if self.chains.is_empty() { vec![json!({"filters": [filter]})] } else { self.chains.clone() };
        let mut main = json!({"name": "main", "address": socket(listener), "filter_chains": chains});
        overlay(&mut main, self.listener.clone());
        let listeners: Vec<Value> = std::iter::once(main).chain(self.others.iter().cloned()).collect();
        let mut bootstrap = json!({"static_resources": {
            "listeners": listeners,
            "clusters": self.clusters,
            "secrets": self.secrets,
        }});
        overlay(&mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0], self.chain.clone());
        if let Some(context) = &self.tls {
            let kind = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
            let socket = typed("envoy.transport_sockets.tls", kind, context.clone());
            bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"] = socket;
        }
        if !self.metadata.is_null() {
            overlay(&mut bootstrap, json!({"node": {"id": "main", "metadata": self.metadata}}));
        }
        if let Some(admin) = admin {
            overlay(&mut bootstrap, json!({"admin": {"address": socket(admin)}}));
        }
        bootstrap
    }

    fn connection_manager(&self) -> Value {
        let mut manager = json!({
            "stat_prefix": "main",
            "route_config": {"name": "main", "virtual_hosts": self.virtual_hosts},
            "http_filters": [router()],
        });
        overlay(&mut manager, Value::Object(self.http.clone()));
        typed(
            "envoy.filters.network.http_connection_manager",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            manager,
        )
    }

    /// Starts a proxy and waits until it accepts.
    pub async fn start(self, sandbox: &Sandbox) -> Proxy {
        let mut proxy = self.start_unprobed(sandbox);
        proxy.accepting().await;
        proxy
    }

    /// As [`Gateway::start`], with a pipe for its stdout that nobody reads.
    pub async fn start_unread(self, sandbox: &Sandbox) -> Proxy {
        let mut proxy = self.launch(sandbox, Process::start_unread);
        proxy.accepting().await;
        proxy
    }

    /// Starts a proxy that does not listen yet, for want of something.
    pub fn start_unready(self, sandbox: &Sandbox) -> Proxy {
        self.start_unprobed(sandbox)
    }

    /// Starts a proxy.
    fn start_unprobed(self, sandbox: &Sandbox) -> Proxy {
        self.launch(sandbox, Process::start)
    }

    fn launch(
        self,
        sandbox: &Sandbox,
        start: impl FnOnce(&Sandbox, &str, &std::path::Path, Vec<String>) -> Process,
    ) -> Proxy {
        let listener = address();
        let admin = self.admin.then(address);
        let bootstrap = self.bootstrap(listener, admin);
        let config = sandbox.write("bootstrap.json", &bootstrap.to_string());
        let mut arguments = vec!["-c".to_owned(), config.display().to_string()];
        arguments.extend(self.flags);
        let mut words = self.under;
        words.push(program("sidegate-proxy").display().to_string());
        words.extend(arguments.iter().cloned());
        let first = std::path::PathBuf::from(words.remove(0));
        let process = start(sandbox, "proxy", &first, words);
        Proxy { process, address: listener, arguments, admin }
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    /// Its process.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
    arguments: Vec<String>,
    admin: Option<SocketAddr>,
}

impl Proxy {
    /// Starts it again, at the same addresses, after it has ended.
    pub async fn restart(&mut self, sandbox: &Sandbox) {
        self.process = Process::start(sandbox, "proxy", &program("sidegate-proxy"), self.arguments.clone());
        self.accepting().await;
    }

    async fn accepting(&mut self) {
        let address = self.address;
        let process = &mut self.process;
        wait::until("the proxy listens", async || {
            assert!(process.is_running(), "the proxy ended");
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
    }

    /// One request over HTTP/1.1 on a connection of its own.
    pub async fn call(&self, call: &Call) -> Response {
        client::call(self.address, call).await
    }

    /// One request over either protocol on a connection of its own.
    pub async fn call_over(&self, protocol: Protocol, call: &Call) -> Response {
        client::call_over(protocol, self.address, call).await
    }

    /// A GET over HTTP/1.1.
    pub async fn get(&self, target: &str) -> Response {
        self.call(&Call::get(target)).await
    }

    /// A GET of the admin page.
    pub async fn admin(&self, target: &str) -> Response {
        self.ask_admin(Call::get(target)).await
    }

    /// Where the admin page listens.
    ///
    /// # Panics
    /// When there is none.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.expect("a proxy started with_admin")
    }

    /// The same, of a proxy that may not be that far.
    pub async fn try_admin(&self, target: &str) -> Option<Response> {
        let admin = self.admin.expect("a proxy started with_admin");
        client::try_call(admin, &Call::get(target).host(&admin.to_string())).await.ok()
    }

    /// A number of `/stats`, by its whole name. It is there once somebody has counted: a connection that the system has accepted for the
    /// proxy may not have been looked at.
    ///
    /// # Panics
    /// When it never is.
    pub async fn stat(&self, name: &str) -> u64 {
        wait::until(name, async || {
            let page = self.admin(&format!("/stats?filter={name}")).await.text();
            let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.and_then(|value| value.parse().ok())
        })
        .await
    }

    /// Asks the admin page to do something.
    pub async fn admin_post(&self, target: &str) -> Response {
        self.ask_admin(Call::post(target, "")).await
    }

    /// Asks the admin page a question.
    pub async fn admin_asks(&self, target: &str, question: &str) -> Response {
        self.ask_admin(Call::post(target, question)).await
    }

    async fn ask_admin(&self, call: Call) -> Response {
        let admin = self.admin_address();
        // By its own name: the page answers to no other, lest a browser be led to it.
        client::call(admin, &call.host(&admin.to_string())).await
    }
}

/// A `core.v3.Address`.
pub fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// A TCP proxy to one cluster.
pub fn tcp_proxy(cluster: &str) -> Value {
    typed(
        "envoy.filters.network.tcp_proxy",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        json!({"stat_prefix": "tcp", "cluster": cluster}),
    )
}

/// The router filter.
pub fn router() -> Value {
    typed("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router", json!({}))
}

/// A named extension with its type.
pub fn typed(name: &str, kind: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!("type.googleapis.com/{kind}"));
    json!({"name": name, "typed_config": config})
}

/// YAML or JSON as a value.
///
/// # Panics
/// When it is neither.
pub fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap_or_else(|error| panic!("no YAML: {error}\n{text}"))
}

/// Fields of one object replace those of another.
fn overlay(base: &mut Value, fields: Value) {
    if let (Value::Object(base), Value::Object(fields)) = (base, fields) {
        base.extend(fields);
    }
}
