//! `envoy.config.cluster.v3.Cluster` → a plan, from which `clusters` makes and remakes the live cluster.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use sidegate_xds::envoy::config::cluster::v3 as wire;
use sidegate_xds::envoy::config::cluster::v3::cluster::ClusterProtocolSelection;
use sidegate_xds::envoy::config::core::v3 as core;
use sidegate_xds::envoy::extensions::upstreams::http::v3 as upstream;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::from_any;

use super::extension;
use super::http2;
use super::problem::{At, Problem, fail, unsupported};
use super::tls::Contexts;
use super::value;
use crate::cluster::{Discovery, Keep, Limits, Policy, Protocol, Service, Sockets};
use crate::proxy_header::Version;

mod balancing;
mod keep;
mod proxy_header;
mod security;
mod source;

pub(crate) use balancing::{Balancing, Rule};
#[cfg(test)]
use source::Family;
pub(crate) use source::{Dns, Source};

/// A checked cluster: all of it but what lives.
#[derive(Debug)]
pub(crate) struct Plan {
    /// `name`.
    pub(crate) name: Arc<str>,
    /// The Kubernetes object behind it.
    pub(crate) service: Option<Service>,
    /// How an endpoint is picked.
    pub(crate) balancing: Balancing,
    /// What the endpoints speak.
    pub(crate) protocol: Protocol,
    /// How HTTP/2 is spoken.
    pub(crate) http2: crate::http2::Options,
    /// `connect_timeout`.
    pub(crate) connect_timeout: Duration,
    /// How long connections are kept.
    pub(crate) keep: Keep,
    /// Bounds.
    pub(crate) limits: Limits,
    /// Where endpoints come from.
    pub(crate) source: Source,
    /// How its connections are secured, by endpoint.
    pub(crate) sockets: Arc<Sockets>,
    /// Connections begin with a PROXY header of this version.
    pub(crate) proxy_header: Option<Version>,
}

impl Plan {
    /// The source as the cluster shows it.
    pub(crate) fn discovery(&self) -> Discovery {
        match &self.source {
            Source::Static(_) => Discovery::Static,
            Source::Eds { name, .. } => Discovery::Eds(name.clone()),
            Source::Dns(dns) => Discovery::Dns(dns.template.names()),
            Source::Forward => Discovery::Forward,
            Source::Original { port } => Discovery::Original { port: *port },
        }
    }

    /// A fresh balancer.
    pub(crate) fn policy(&self) -> Policy {
        match self.balancing.rule {
            Rule::LeastRequest => Policy::LeastRequest,
            Rule::RoundRobin => Policy::RoundRobin(AtomicU32::new(0)),
            Rule::Random => Policy::Random,
        }
    }
}

/// Checks a cluster.
pub(crate) fn compile(cluster: &wire::Cluster, contexts: &mut Contexts) -> Result<Plan, Problem> {
    let inner;
    let (cluster, proxy_header) = match proxy_header::compile(cluster)? {
        Some((unwrapped, version)) => {
            inner = unwrapped;
            (&inner, Some(version))
        }
        None => (cluster, None),
    };
    refuse_unsupported(cluster)?;
    let source = source::compile(cluster)?;
    let options = http_options(cluster)?;
    Ok(Plan {
        name: cluster.name.as_str().into(),
        service: value::sidegate_metadata(cluster.metadata.as_ref()).and_then(service),
        balancing: balancing::compile(cluster, &source)?,
        protocol: protocol(cluster, options.as_ref())?,
        http2: http2_options(cluster, options.as_ref())?,
        connect_timeout: value::interval(cluster.connect_timeout.as_ref(), Duration::from_secs(5))
            .at("connect_timeout")?,
        keep: keep::compile(cluster, options.as_ref())?,
        limits: limits(cluster.circuit_breakers.as_ref()).at("circuit_breakers")?,
        source,
        sockets: security::compile(cluster, options.as_ref(), contexts)?,
        proxy_header,
    })
}

/// What would send traffic elsewhere, or otherwise than asked, if it were left out.
/// Accepted without effect: statistics and tuning fields, panic thresholds (there is no panic routing here), LRS.
fn refuse_unsupported(cluster: &wire::Cluster) -> Result<(), Problem> {
    for (index, filter) in cluster.filters.iter().enumerate() {
        let known = filter.typed_config.as_ref().is_some_and(extension::is_telemetry);
        if !known {
            return Err(Problem::new(format!("network filter {} is not supported", filter.name))
                .at(format_args!("filters[{index}]")));
        }
    }
    let binds = cluster.upstream_bind_config.as_ref();
    let subsets = cluster.lb_subset_config.as_ref();
    unsupported(&[
        ("health_checks", !cluster.health_checks.is_empty()),
        ("outlier_detection", cluster.outlier_detection.is_some()),
        ("upstream_bind_config", binds.is_some_and(|bind| *bind != core::BindConfig::default())),
        ("lb_subset_config", subsets.is_some_and(|subsets| !subsets.subset_selectors.is_empty())),
        ("transport_socket_matcher", cluster.transport_socket_matcher.is_some()),
        ("upstream_config", cluster.upstream_config.is_some()),
        ("connection_pool_per_downstream_connection", cluster.connection_pool_per_downstream_connection),
        (
            "circuit_breakers.per_host_thresholds",
            cluster.circuit_breakers.iter().any(|breakers| !breakers.per_host_thresholds.is_empty()),
        ),
    ])
}

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

fn http_options(cluster: &wire::Cluster) -> Result<Option<upstream::HttpProtocolOptions>, Problem> {
    let place = |name: &str| format!("typed_extension_protocol_options[{name}]");
    let mut options = None;
    for (name, any) in &cluster.typed_extension_protocol_options {
        if name != HTTP_OPTIONS {
            return fail("is not supported").at(place(name));
        }
        options = Some(decode_options(any).at(place(name))?);
    }
    Ok(options)
}

fn decode_options(any: &Any) -> Result<upstream::HttpProtocolOptions, Problem> {
    let options: upstream::HttpProtocolOptions =
        from_any(any).map_err(|error| Problem::new(error.to_string()))?;
    for filter in &options.http_filters {
        // The codec filter is what an empty list means; every cluster has it.
        if filter.name != "envoy.filters.http.upstream_codec" {
            return Err(
                Problem::new(format!("upstream filter {} is not supported", filter.name)).at("http_filters")
            );
        }
    }
    unsupported(&[
        ("outlier_detection", options.outlier_detection.is_some()),
        ("request_mirror_policies", !options.request_mirror_policies.is_empty()),
        ("retry_policy", options.retry_policy.is_some()),
        ("header_validation_config", options.header_validation_config.is_some()),
    ])?;
    Ok(options)
}

fn protocol(
    cluster: &wire::Cluster,
    options: Option<&upstream::HttpProtocolOptions>,
) -> Result<Protocol, Problem> {
    use upstream::http_protocol_options::UpstreamProtocolOptions as Options;
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    let Some(options) = options else {
        return Ok(match cluster.protocol_selection() {
            ClusterProtocolSelection::UseDownstreamProtocol => Protocol::Downstream,
            _ if cluster.http2_protocol_options.is_some() => Protocol::Http2,
            _ => Protocol::Http1,
        });
    };
    let place = |field: &str| format!("typed_extension_protocol_options[{HTTP_OPTIONS}].{field}");
    match &options.upstream_protocol_options {
        Some(Options::ExplicitHttpConfig(explicit)) => match &explicit.protocol_config {
            Some(ProtocolConfig::HttpProtocolOptions(_)) => Ok(Protocol::Http1),
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => Ok(Protocol::Http2),
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                fail("HTTP/3 is not supported yet").at(place("explicit_http_config"))
            }
            None => fail("names no protocol").at(place("explicit_http_config")),
        },
        Some(Options::UseDownstreamProtocolConfig(_)) => Ok(Protocol::Downstream),
        // By ALPN, that is with TLS only; over plaintext Envoy refuses it too.
        Some(Options::AutoConfig(_)) => {
            fail("is not supported yet: name the protocol").at(place("auto_config"))
        }
        None => fail("names no protocol").at(place("upstream_protocol_options")),
    }
}

/// The options of whichever form asks for HTTP/2.
fn http2_options(
    cluster: &wire::Cluster,
    options: Option<&upstream::HttpProtocolOptions>,
) -> Result<crate::http2::Options, Problem> {
    use upstream::http_protocol_options::UpstreamProtocolOptions as Options;
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    let Some(options) = options else {
        return http2::options(cluster.http2_protocol_options.as_ref()).at("http2_protocol_options");
    };
    let wire = match &options.upstream_protocol_options {
        Some(Options::ExplicitHttpConfig(explicit)) => match &explicit.protocol_config {
            Some(ProtocolConfig::Http2ProtocolOptions(wire)) => Some(wire),
            _ => None,
        },
        Some(Options::UseDownstreamProtocolConfig(config)) => config.http2_protocol_options.as_ref(),
        _ => None,
    };
    http2::options(wire)
        .at(format_args!("typed_extension_protocol_options[{HTTP_OPTIONS}].http2_protocol_options"))
}

fn limits(breakers: Option<&wire::CircuitBreakers>) -> Result<Limits, Problem> {
    let mut limits = Limits::default();
    // One set of limits for all requests: the default priority's.
    let thresholds = breakers.iter().flat_map(|breakers| breakers.thresholds.iter().enumerate());
    let mut thresholds =
        thresholds.filter(|(_, thresholds)| thresholds.priority() == core::RoutingPriority::Default);
    let Some((index, thresholds)) = thresholds.next() else { return Ok(limits) };
    let number = |value: Option<_>, default| value::number(value).unwrap_or(default);
    limits.connections = number(thresholds.max_connections.as_ref(), limits.connections);
    limits.pending = number(thresholds.max_pending_requests.as_ref(), limits.pending);
    limits.requests = number(thresholds.max_requests.as_ref(), limits.requests);
    limits.retries = number(thresholds.max_retries.as_ref(), limits.retries);
    if let Some(budget) = &thresholds.retry_budget {
        let percent = budget.budget_percent.as_ref().map_or(20.0, |percent| percent.value);
        if !(0.0..=100.0).contains(&percent) {
            return fail("must be from 0 to 100")
                .at(format_args!("thresholds[{index}].retry_budget.budget_percent"));
        }
        limits.retry_budget = Some((percent, number(budget.min_retry_concurrency.as_ref(), 3)));
    }
    Ok(limits)
}

fn service(fields: &sidegate_xds::google::protobuf::Struct) -> Option<Service> {
    Some(Service {
        kind: value::field(fields, "kind")?,
        namespace: value::field(fields, "namespace")?,
        name: value::field(fields, "name")?,
        port: value::field(fields, "port")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests;
