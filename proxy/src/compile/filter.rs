//! HTTP filters: the chain of a connection manager, and what routes say otherwise (`typed_per_filter_config`).

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;
use sidegate_xds::envoy::config::core::v3::HeaderValueOption;
use sidegate_xds::envoy::config::route::v3::FilterConfig;
use sidegate_xds::envoy::extensions::filters::http::local_ratelimit::v3 as local;
use sidegate_xds::envoy::extensions::filters::http::router::v3::Router;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3 as wire;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::from_any;
use tokio::time::Instant;

use super::authz;
use super::ext_authz;
use super::extension;
use super::header;
use super::jwt;
use super::problem::{At, Problem, fail, unsupported};
use super::value;
use crate::filter::jwt::Remote;
use crate::filter::{Chain, Entry, Kind, LocalRateLimit, Overrides};
use crate::route::AddedValue;

const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
const LOCAL_RATE_LIMIT: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
const GRPC_WEB: &str = "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb";
const FORWARD_PROXY: &str = "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig";
const FORWARD_PROXY_ROUTE: &str = "envoy.extensions.filters.http.dynamic_forward_proxy.v3.PerRouteConfig";
const JWT: &str = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
const JWT_ROUTE: &str = "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig";
const EXT_AUTHZ: &str = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
const EXT_AUTHZ_ROUTE: &str = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute";
const ROUTE_WRAPPER: &str = "envoy.config.route.v3.FilterConfig";

/// The token buckets of one resource, by their place in it, so that an update of the resource that leaves a bucket's
/// configuration alone does not refill it; and in the same way the keys that its filters have fetched.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    kept: HashMap<String, (Vec<u8>, Arc<LocalRateLimit>)>,
    made: HashMap<String, (Vec<u8>, Arc<LocalRateLimit>)>,
    /// Keys that are fetched, by the configuration that says where.
    remotes: (Remotes, Remotes),
}

type Remotes = HashMap<Vec<u8>, Arc<Remote>>;

impl Buckets {
    /// Buckets for the next form of the resource that `previous` belongs to.
    pub(crate) fn after(previous: Option<&Buckets>) -> Self {
        Self {
            kept: previous.map(|buckets| buckets.made.clone()).unwrap_or_default(),
            made: HashMap::new(),
            remotes: (previous.map(|buckets| buckets.remotes.1.clone()).unwrap_or_default(), HashMap::new()),
        }
    }

    /// Keys as they are known already, or else as they were made.
    pub(super) fn remote(&mut self, config: Vec<u8>, made: Remote) -> Arc<Remote> {
        let (kept, known) = &mut self.remotes;
        let kept = kept.get(&config).cloned();
        known.entry(config).or_insert_with(|| kept.unwrap_or_else(|| Arc::new(made))).clone()
    }

    fn take(&mut self, place: &str, config: &Any, now: Instant) -> Result<Kind, Problem> {
        // Two routes may look alike: then the second one's place is `…#2`.
        let mut place = place.to_owned();
        while self.made.contains_key(&place) {
            place.push_str("#2");
        }
        let fresh = match self.kept.remove(&place) {
            Some((bytes, bucket)) if bytes == config.value => bucket,
            _ => match rate_limit(config, now)? {
                Some(bucket) => Arc::new(bucket),
                None => return Ok(Kind::Inert),
            },
        };
        self.made.insert(place, (config.value.clone(), fresh.clone()));
        Ok(Kind::LocalRateLimit(fresh))
    }
}

/// What compiling filters needs from around it.
pub(crate) struct Context<'a> {
    /// Now: new buckets are full now.
    pub(crate) now: Instant,
    /// The resource's buckets.
    pub(crate) buckets: &'a mut Buckets,
}

/// The chain of a connection manager; the router must be last and is left out.
pub(crate) fn chain(filters: &[wire::HttpFilter], context: &mut Context<'_>) -> Result<Chain, Problem> {
    let mut chain = Chain::new();
    let last = filters.len().saturating_sub(1);
    for (index, filter) in filters.iter().enumerate() {
        let place = format!("http_filters[{index}] ({})", filter.name);
        let is_router = is_router(filter);
        match (is_router, index == last) {
            (true, true) => router(filter).at(place)?,
            (true, false) => return fail("the router must be the last filter").at(place),
            (false, true) => return fail("the last filter must be the router").at(place),
            (false, false) => chain.extend(entry(filter, context).at(place)?),
        }
    }
    if filters.is_empty() {
        return fail("must end in envoy.filters.http.router").at("http_filters");
    }
    Ok(chain)
}

fn typed_config(filter: &wire::HttpFilter) -> Option<&Any> {
    match &filter.config_type {
        Some(wire::http_filter::ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    }
}

/// Whether who may do what is to be learnt by extension discovery.
fn discovers_rules(filter: &wire::HttpFilter) -> bool {
    let Some(wire::http_filter::ConfigType::ConfigDiscovery(source)) = &filter.config_type else {
        return false;
    };
    let is_rules = |url: &String| url.rsplit('/').next() == Some(authz::HTTP);
    source.type_urls.iter().any(is_rules)
}

/// By type; by name when there is no configuration, as older ones have it.
fn is_router(filter: &wire::HttpFilter) -> bool {
    match typed_config(filter) {
        Some(any) => extension::type_name(any) == ROUTER,
        None => filter.name == "envoy.filters.http.router",
    }
}

/// Options of the router that only change statistics or the handling of `x-envoy-*` request headers are accepted without effect.
fn router(filter: &wire::HttpFilter) -> Result<(), Problem> {
    let Some(any) = typed_config(filter) else { return Ok(()) };
    let router: Router = from_any(any).map_err(|error| Problem::new(error.to_string()))?;
    for filter in &router.upstream_http_filters {
        if filter.name != "envoy.filters.http.upstream_codec" {
            return fail(format!("{} is not supported", filter.name)).at("upstream_http_filters");
        }
    }
    Ok(())
}

fn entry(filter: &wire::HttpFilter, context: &mut Context<'_>) -> Result<Option<Arc<Entry>>, Problem> {
    let entry = |kind| Some(Arc::new(Entry { name: filter.name.as_str().into(), kind }));
    let Some(any) = typed_config(filter) else {
        // Without a configuration (or with one that is to be discovered) there is nothing to run, but for rules that are to be
        // discovered and would be missing.
        let skip = (filter.is_optional || filter.disabled) && !discovers_rules(filter);
        return if skip { Ok(entry(Kind::Inert)) } else { fail("typed_config is required") };
    };
    let kind = match extension::type_name(any).as_str() {
        LOCAL_RATE_LIMIT => match context.buckets.take(&filter.name, any, context.now)? {
            Kind::LocalRateLimit(_) if filter.disabled => {
                return fail("disabled, with a token bucket for routes to enable, is not supported yet");
            }
            kind => kind,
        },
        JWT | EXT_AUTHZ if filter.disabled => {
            return fail("disabled, for routes to enable, is not supported yet");
        }
        JWT => Kind::Jwt(Arc::new(jwt::compile(any, context.buckets)?)),
        EXT_AUTHZ => Kind::ExternalAuthorization(Arc::new(ext_authz::compile(any)?)),
        // The cluster resolves the request's authority; the filter adds nothing to that.
        FORWARD_PROXY => Kind::Inert,
        GRPC_WEB if !filter.disabled => Kind::GrpcWeb,
        // Left out, it would let everybody in: optional or not.
        authz::HTTP => match (authz::http(any)?, filter.disabled) {
            (rbac, false) => Kind::Rbac(Arc::new(rbac)),
            // Routes bring their own rules.
            (rbac, true) if rbac.is_idle() => Kind::Inert,
            (_, true) => return fail("disabled, with rules for routes to enable, is not supported yet"),
        },
        // Routes cannot enable it either: their configuration for it is refused.
        _ if filter.disabled || filter.is_optional => Kind::Inert,
        _ if extension::is_telemetry(any) => return Ok(None),
        name => return fail(format!("{name} is not supported by this proxy")),
    };
    Ok(entry(kind))
}

/// One level of `typed_per_filter_config`; `place` names it for the buckets. Levels come most specific first:
/// the first entry of a filter's name counts.
pub(crate) fn overrides(
    configs: &HashMap<String, Any>,
    place: &str,
    context: &mut Context<'_>,
) -> Result<Overrides, Problem> {
    let mut names: Vec<_> = configs.iter().collect();
    names.sort_by_key(|(name, _)| name.as_str());
    let mut overrides = Overrides::new();
    for (name, any) in names {
        let kind = per_route(any, &format!("{place}/{name}"), context)
            .at(format_args!("typed_per_filter_config[{name}]"))?;
        if let Some(kind) = kind {
            overrides.push((name.as_str().into(), kind));
        }
    }
    Ok(overrides)
}

/// What a route says for a filter: nothing, disabled, or another configuration.
fn per_route(any: &Any, place: &str, context: &mut Context<'_>) -> Result<Option<Option<Kind>>, Problem> {
    let (any, optional) = match extension::type_name(any).as_str() {
        // An empty `Any` leaves the filter as the chain has it.
        "" => return Ok(None),
        ROUTE_WRAPPER => {
            let wrapper: FilterConfig = from_any(any).map_err(|error| Problem::new(error.to_string()))?;
            if wrapper.disabled {
                return Ok(Some(None));
            }
            match wrapper.config {
                Some(inner) if !inner.type_url.is_empty() => (inner, wrapper.is_optional),
                _ => return Ok(None),
            }
        }
        _ => (any.clone(), false),
    };
    match extension::type_name(&any).as_str() {
        LOCAL_RATE_LIMIT => Ok(Some(Some(context.buckets.take(place, &any, context.now)?))),
        authz::PER_ROUTE => Ok(Some(authz::per_route(&any)?.map(|rbac| Kind::Rbac(Arc::new(rbac))))),
        JWT_ROUTE => Ok(Some(Some(Kind::JwtRoute(jwt::per_route(&any)?)))),
        EXT_AUTHZ_ROUTE => {
            Ok(Some(Some(Kind::ExternalAuthorizationRoute(Arc::new(ext_authz::per_route(&any)?)))))
        }
        FORWARD_PROXY_ROUTE => fail("per-route host rewriting is not supported yet"),
        _ if optional || extension::is_telemetry(&any) => Ok(None),
        name => fail(format!("{name} is not supported by this proxy")),
    }
}

/// A bucket, or `None` when the filter does nothing: without a bucket, or enabled or enforced for no request.
fn rate_limit(config: &Any, now: Instant) -> Result<Option<LocalRateLimit>, Problem> {
    let config: local::LocalRateLimit = from_any(config).map_err(|error| Problem::new(error.to_string()))?;
    // Absent fractions are 0 % in Envoy. Enabled but not enforced only counts.
    let enabled = value::runtime_fraction(config.filter_enabled.as_ref(), 0);
    let enforced = value::runtime_fraction(config.filter_enforced.as_ref(), 0);
    let Some(bucket) = &config.token_bucket else { return Ok(None) };
    if enabled == 0 || enforced == 0 {
        return Ok(None);
    }
    unsupported(&[
        ("filter_enabled (other than 0 or 100 %)", enabled != value::ALL),
        ("filter_enforced (other than 0 or 100 %)", enforced != value::ALL),
        ("descriptors", !config.descriptors.is_empty()),
        ("rate_limits", !config.rate_limits.is_empty()),
        ("local_rate_limit_per_downstream_connection", config.local_rate_limit_per_downstream_connection),
        ("local_cluster_rate_limit", config.local_cluster_rate_limit.is_some()),
        (
            "request_headers_to_add_when_not_enforced",
            !config.request_headers_to_add_when_not_enforced.is_empty(),
        ),
        ("enable_x_ratelimit_headers", config.enable_x_ratelimit_headers != 0),
        ("enable_retry_after_header", config.enable_retry_after_header),
        ("rate_limited_as_resource_exhausted", config.rate_limited_as_resource_exhausted),
    ])?;
    if bucket.max_tokens == 0 {
        return fail("must be at least 1").at("token_bucket.max_tokens");
    }
    let per_fill = value::number(bucket.tokens_per_fill.as_ref()).unwrap_or(1);
    if per_fill == 0 {
        return fail("must be at least 1").at("token_bucket.tokens_per_fill");
    }
    let Some(fill_interval) = &bucket.fill_interval else {
        return fail("is required").at("token_bucket.fill_interval");
    };
    let fill_interval = value::duration(fill_interval).at("token_bucket.fill_interval")?;
    if fill_interval < std::time::Duration::from_millis(50) {
        return fail("must be at least 50 ms").at("token_bucket.fill_interval");
    }
    let mut limit = LocalRateLimit::new(bucket.max_tokens, per_fill, fill_interval, now);
    limit.status = status(config.status.as_ref().map(|status| status.code));
    limit.response_headers = response_headers(&config.response_headers_to_add)?;
    Ok(Some(limit))
}

/// A status below 400 would make a success of a refusal: Envoy answers 429 then.
fn status(code: Option<i32>) -> StatusCode {
    code.and_then(|code| u16::try_from(code).ok())
        .and_then(|code| StatusCode::from_u16(code).ok())
        .filter(|status| status.is_client_error() || status.is_server_error())
        .unwrap_or(StatusCode::TOO_MANY_REQUESTS)
}

fn response_headers(
    wire: &[HeaderValueOption],
) -> Result<Vec<(http::HeaderName, http::HeaderValue)>, Problem> {
    let changes = header::changes("local rate limit", "response_headers", wire, &[])?;
    let added = changes.iter().flat_map(|changes| &changes.add);
    added
        .map(|addition| match &addition.value {
            AddedValue::Fixed(value) => Ok((addition.name.clone(), value.clone())),
            AddedValue::Made(_) => {
                fail(format!("{}: values with operators are not supported here", addition.name))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
