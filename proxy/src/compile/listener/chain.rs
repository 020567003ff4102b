//! `FilterChain` → `snapshot::FilterChain`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use sidegate_xds::envoy::config::listener::v3 as wire;
use sidegate_xds::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::from_any;
use tokio::time::Instant;

use super::{Plan, criteria};
use crate::compile::authz;
use crate::compile::extension;
use crate::compile::filter::Buckets;
use crate::compile::problem::{At, Problem, fail, unsupported};
use crate::compile::route;
use crate::compile::tls::Contexts;
use crate::compile::value;
use crate::compile::{http, tcp};
use crate::filter::authz::Gate;
use crate::snapshot::{ChainId, Chains, Criteria, FilterChain, Road, Security};
use crate::tls::Denied;

const CONNECTION_MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const CONNECTION_LIMIT: &str = "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit";

/// A checked filter chain.
#[derive(Debug)]
pub(crate) struct ChainPlan {
    /// The chain.
    pub(crate) chain: Arc<FilterChain>,
    /// Where its routes are.
    pub(crate) routes: Routes,
    /// The token buckets of its filters.
    pub(crate) buckets: Buckets,
    /// The clusters that its filters ask.
    pub(crate) asked: BTreeSet<Arc<str>>,
    /// What makes it the same chain in the listener's next form.
    key: Key,
}

/// What makes two forms of a chain the same one.
#[derive(Debug, PartialEq)]
struct Key {
    /// `None` is the default chain.
    criteria: Option<Criteria>,
    transport_socket: Vec<u8>,
    http: bool,
}

/// Where a chain's routes are.
#[derive(Debug)]
pub(crate) enum Routes {
    /// In the listener itself; the key is the table's name in the snapshot.
    Inline(Arc<str>, Box<route::Plan>),
    /// By RDS under this name; how long a new listener waits for it, `None` being for ever.
    Discovered(Arc<str>, Option<Duration>),
    /// It has none: these clusters are where its connections go.
    Opaque(BTreeSet<Arc<str>>),
}

/// Checks every chain of a listener.
pub(super) fn compile(
    wire: &wire::Listener,
    previous: Option<&Plan>,
    contexts: &mut Contexts,
    now: Instant,
) -> Result<(Chains, Vec<ChainPlan>), Problem> {
    let (mut chains, mut plans) = (Chains::default(), Vec::new());
    let listener = super::name(wire);
    let denied = value::denied_identities(wire.metadata.as_ref())?;
    let owner = |place: &str| format!("listener {listener}, {place}");
    let names: Vec<&str> = wire.filter_chains.iter().map(|chain| chain.name.as_str()).collect();
    for (index, chain) in wire.filter_chains.iter().enumerate() {
        let place = place(index, &chain.name);
        let twice = !chain.name.is_empty() && names[..index].contains(&names[index]);
        if twice {
            return fail(format!("another chain is called {} too", chain.name)).at(place);
        }
        let matched = chain.filter_chain_match.as_ref().map(criteria::compile).transpose();
        let matched = matched.at("filter_chain_match").at(&place)?.unwrap_or_default();
        let security = security(chain, &owner(&place), &denied, contexts).at(&place)?;
        let form = Form { criteria: Some(matched.clone()), place: &place, security };
        let plan = one(chain, form, previous, now).at(&place)?;
        chains.add(&matched, plan.chain.clone()).or_else(|other| {
            let other = self::place(other, names[other]);
            fail(format!("matches connections that {other} matches too, and equally well"))
                .at("filter_chain_match")
                .at(&place)
        })?;
        plans.push(plan);
    }
    if let Some(chain) = &wire.default_filter_chain {
        let place = "default_filter_chain";
        let security = security(chain, &owner(place), &denied, contexts).at(place)?;
        let plan = one(chain, Form { criteria: None, place, security }, previous, now).at(place)?;
        chains.set_default(plan.chain.clone());
        plans.push(plan);
    }
    if plans.is_empty() { fail("needs a filter chain").at("filter_chains") } else { Ok((chains, plans)) }
}

fn place(index: usize, name: &str) -> String {
    if name.is_empty() {
        format!("filter_chains[{index}]")
    } else {
        format!("filter_chains[{index}] ({name})")
    }
}

/// What a chain is, besides its filters.
struct Form<'a> {
    /// `None` is the default chain.
    criteria: Option<Criteria>,
    place: &'a str,
    security: Option<Security>,
}

/// TLS for a chain; `None` for plaintext.
fn security(
    wire: &wire::FilterChain,
    owner: &str,
    denied: &Denied,
    contexts: &mut Contexts,
) -> Result<Option<Security>, Problem> {
    let context = contexts.server(owner, wire.transport_socket.as_ref(), denied).at("transport_socket")?;
    let limit = value::bound(wire.transport_socket_connect_timeout.as_ref(), Some(HANDSHAKE));
    // Without a bound, slow handshakes would pile up (C9).
    let time_limit = limit.at("transport_socket_connect_timeout")?.unwrap_or(HANDSHAKE);
    Ok(context.map(|(context, wire)| {
        let mutual = value::flag(wire.require_client_certificate.as_ref(), false);
        Security { context, time_limit, mutual }
    }))
}

/// How long a handshake may take when the configuration does not say.
const HANDSHAKE: Duration = Duration::from_secs(10);

fn one(
    wire: &wire::FilterChain,
    form: Form<'_>,
    previous: Option<&Plan>,
    now: Instant,
) -> Result<ChainPlan, Problem> {
    let Form { criteria, place, security } = form;
    unsupported(&[("use_proxy_proto", value::flag(wire.use_proxy_proto.as_ref(), false))])?;
    let key = Key {
        criteria,
        transport_socket: wire.transport_socket.as_ref().map(Message::encode_to_vec).unwrap_or_default(),
        http: wire.filters.last().is_some_and(|filter| kind(filter) == CONNECTION_MANAGER),
    };
    let previous = previous.and_then(|plan| plan.chains.iter().find(|chain| chain.key == key));
    let id = previous.map_or_else(ChainId::fresh, |previous| previous.chain.id);
    let compiled = filters(wire, id, previous, now)?;
    let chain = FilterChain {
        id,
        name: if wire.name.is_empty() { place.into() } else { wire.name.as_str().into() },
        road: compiled.road,
        security,
        gate: Arc::new(compiled.gate),
        max_connections: compiled.max_connections,
        open: previous.map(|previous| previous.chain.open.clone()).unwrap_or_default(),
    };
    let Compiled { routes, buckets, asked, .. } = compiled;
    Ok(ChainPlan { chain: Arc::new(chain), routes, buckets, asked, key })
}

fn kind(filter: &wire::Filter) -> String {
    match &filter.config_type {
        Some(wire::filter::ConfigType::TypedConfig(any)) => extension::type_name(any),
        _ => String::new(),
    }
}

struct Compiled {
    road: Road,
    routes: Routes,
    buckets: Buckets,
    gate: Gate,
    asked: BTreeSet<Arc<str>>,
    max_connections: Option<u32>,
}

fn filters(
    wire: &wire::FilterChain,
    id: ChainId,
    previous: Option<&ChainPlan>,
    now: Instant,
) -> Result<Compiled, Problem> {
    let mut max_connections = None;
    let mut keepers = Vec::new();
    let last = wire.filters.len().saturating_sub(1);
    for (index, filter) in wire.filters.iter().enumerate() {
        let place = format!("filters[{index}] ({})", filter.name);
        let Some(wire::filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
            return fail("typed_config is required").at(place);
        };
        let kind = extension::type_name(any);
        match (kind.as_str(), index == last) {
            (CONNECTION_MANAGER | TCP_PROXY, false) => return fail("must be the last filter").at(place),
            (CONNECTION_MANAGER, true) => {
                let table = format!("inline:{}", id.number()).into();
                let http::Manager { http, routes, buckets, asked } =
                    http::compile(any, table, previous, now).at(place)?;
                let (road, gate) = (Road::Http(Arc::new(http)), Gate::new(keepers));
                return Ok(Compiled { road, routes, buckets, gate, asked, max_connections });
            }
            (TCP_PROXY, true) => {
                let (tcp, clusters) = tcp::compile(any).at(place)?;
                let (road, routes) = (Road::Tcp(Arc::new(tcp)), Routes::Opaque(clusters));
                let (buckets, gate) = (Buckets::default(), Gate::new(keepers));
                let asked = BTreeSet::new();
                return Ok(Compiled { road, routes, buckets, gate, asked, max_connections });
            }
            (authz::NETWORK, _) => keepers.push(authz::network(&filter.name, any).at(place)?),
            (CONNECTION_LIMIT, _) => max_connections = connection_limit(any).at(place)?,
            _ if extension::is_telemetry(any) => {}
            (kind, _) => return fail(format!("{kind} is not supported by this proxy")).at(place),
        }
    }
    fail("must end in http_connection_manager or tcp_proxy").at("filters")
}

fn connection_limit(any: &Any) -> Result<Option<u32>, Problem> {
    let limit: ConnectionLimit = from_any(any).map_err(|error| Problem::new(error.to_string()))?;
    let enabled = limit
        .runtime_enabled
        .as_ref()
        .is_none_or(|runtime| value::flag(runtime.default_value.as_ref(), true));
    let connections = limit.max_connections.as_ref().map(|limit| limit.value);
    match connections.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)) {
        None | Some(0) => fail("must be at least 1").at("max_connections"),
        limit => Ok(limit.filter(|_| enabled)),
    }
}
