//! `envoy.config.route.v3.RouteConfiguration` → `route::Table`.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::StatusCode;
use prost::Message;
use sidegate_xds::envoy::config::route::v3 as wire;
use sidegate_xds::envoy::config::route::v3::virtual_host::TlsRequirementType;
use sidegate_xds::resource::content_version;

use super::filter::{self, Buckets, Context};
use super::header;
use super::problem::{At, Problem, fail, unsupported};
use super::value;
use crate::filter::Overrides;
use crate::route::{
    Action, HeaderChanges, HeaderMatch, HeaderTest, Matcher, PathMatch, Redirect, RedirectPath, Route,
    StringMatch, Table, Target, VirtualHost,
};

mod action;
pub(crate) mod matcher;
mod retry;

/// A checked route configuration.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The table.
    pub(crate) table: Arc<Table>,
    /// The clusters that it names.
    pub(crate) clusters: BTreeSet<Arc<str>>,
    /// Its token buckets.
    pub(crate) buckets: Buckets,
}

/// Checks a route configuration. Buckets that `previous` has too are taken over.
pub(crate) fn compile(
    config: &wire::RouteConfiguration,
    previous: Option<&Plan>,
    now: tokio::time::Instant,
) -> Result<Plan, Problem> {
    unsupported(&[
        ("vhds", config.vhds.is_some()),
        ("internal_only_headers", !config.internal_only_headers.is_empty()),
        ("cluster_specifier_plugins", !config.cluster_specifier_plugins.is_empty()),
        ("vhost_header", !config.vhost_header.is_empty()),
        ("ignore_path_parameters_in_path_matching", config.ignore_path_parameters_in_path_matching),
        ("route_specifiers", !config.route_specifiers.is_empty()),
    ])?;
    let mut buckets = Buckets::after(previous.map(|plan| &plan.buckets));
    let mut context = Context { now, buckets: &mut buckets };
    let level = Level::of_table(config, &mut context)?;
    let mut table = Table { name: config.name.as_str().into(), ..Table::default() };
    table.ignore_port = config.ignore_port_in_host_matching;
    for (index, host) in config.virtual_hosts.iter().enumerate() {
        let place = format!("virtual_hosts[{index}] ({})", host.name);
        if table.hosts.iter().any(|other| *other.name == *host.name) {
            return fail("its name is there twice").at(place);
        }
        for (number, domain) in host.domains.iter().enumerate() {
            let inserted = table.domains.insert(domain, index);
            inserted
                .map_err(|error| Problem::new(format!("{domain:?} {error}")).at(format!("domains[{number}]")))
                .at(&place)?;
        }
        let compiled = virtual_host(host, &level, &mut context).at(&place)?;
        table.hosts.push(compiled);
    }
    let clusters = clusters_of(&table);
    Ok(Plan { table: Arc::new(table), clusters, buckets })
}

/// What a level of the configuration hands down to the routes below it.
struct Level {
    request_headers: Option<Arc<HeaderChanges>>,
    response_headers: Option<Arc<HeaderChanges>>,
    filters: Overrides,
    mirrors: Vec<(Arc<str>, u32)>,
    /// `most_specific_header_mutations_wins`: the order of header changes is turned round.
    specific_wins: bool,
}

impl Level {
    fn of_table(config: &wire::RouteConfiguration, context: &mut Context<'_>) -> Result<Self, Problem> {
        Ok(Self {
            request_headers: header::changes(
                format_args!("route table {}", config.name),
                "request_headers",
                &config.request_headers_to_add,
                &config.request_headers_to_remove,
            )?,
            response_headers: header::changes(
                format_args!("route table {}", config.name),
                "response_headers",
                &config.response_headers_to_add,
                &config.response_headers_to_remove,
            )?,
            filters: filter::overrides(&config.typed_per_filter_config, "", context)?,
            mirrors: action::mirrors(&config.request_mirror_policies)?,
            specific_wins: config.most_specific_header_mutations_wins,
        })
    }

    fn of_host(host: &wire::VirtualHost, table: &Self, context: &mut Context<'_>) -> Result<Self, Problem> {
        let mirrors = action::mirrors(&host.request_mirror_policies)?;
        Ok(Self {
            request_headers: header::changes(
                format_args!("virtual host {}", host.name),
                "request_headers",
                &host.request_headers_to_add,
                &host.request_headers_to_remove,
            )?,
            response_headers: header::changes(
                format_args!("virtual host {}", host.name),
                "response_headers",
                &host.response_headers_to_add,
                &host.response_headers_to_remove,
            )?,
            filters: filter::overrides(&host.typed_per_filter_config, &host.name, context)?,
            mirrors: if mirrors.is_empty() { table.mirrors.clone() } else { mirrors },
            specific_wins: table.specific_wins,
        })
    }

    /// Changes in the order in which they apply: from the most specific to the least, whose word is the last; or turned round.
    fn order(&self, levels: [Option<Arc<HeaderChanges>>; 3]) -> Vec<Arc<HeaderChanges>> {
        let mut changes: Vec<_> = levels.into_iter().flatten().collect();
        if self.specific_wins {
            changes.reverse();
        }
        changes
    }
}

fn virtual_host(
    host: &wire::VirtualHost,
    table: &Level,
    context: &mut Context<'_>,
) -> Result<VirtualHost, Problem> {
    unsupported(&[
        ("matcher", host.matcher.is_some()),
        ("cors", host.cors.is_some()),
        ("hedge_policy", host.hedge_policy.is_some()),
        ("retry_policy_typed_config", host.retry_policy_typed_config.is_some()),
        ("include_attempt_count_in_response", host.include_attempt_count_in_response),
        ("route_specifiers", !host.route_specifiers.is_empty()),
    ])?;
    if host.domains.is_empty() {
        return fail("needs at least one").at("domains");
    }
    let level = Level::of_host(host, table, context)?;
    let mut routes = Vec::with_capacity(host.routes.len());
    match value::choice(host.require_tls).at("require_tls")? {
        TlsRequirementType::None => {}
        TlsRequirementType::All => routes.push(Arc::new(to_https(&host.name))),
        TlsRequirementType::ExternalOnly => {
            return fail("EXTERNAL_ONLY is not supported yet").at("require_tls");
        }
    }
    for (index, wire) in host.routes.iter().enumerate() {
        let builder = Builder { host, index, wire, level: &level, table };
        routes.push(Arc::new(builder.build(context).at(format_args!("routes[{index}]"))?));
    }
    Ok(VirtualHost {
        name: host.name.as_str().into(),
        routes,
        attempt_count: host.include_request_attempt_count,
    })
}

/// `require_tls: ALL`: what came in plaintext is sent to `https` before any other route sees it.
fn to_https(host: &str) -> Route {
    let scheme = StringMatch::Exact { text: "http".into(), ignore_case: false };
    let test = HeaderTest::String(scheme);
    Route {
        name: format!("{host}[require_tls]").into(),
        matcher: Matcher {
            path: PathMatch::Prefix("/".into()),
            ignore_case: false,
            headers: vec![HeaderMatch {
                name: ":scheme".into(),
                test,
                invert: false,
                missing_as_empty: false,
            }],
            query: Vec::new(),
            grpc: false,
            fraction: None,
        },
        action: Action::Redirect(Box::new(Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            scheme: Some("https".into()),
            host: None,
            port: None,
            path: RedirectPath::Keep,
            strip_query: false,
        })),
        origin: None,
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        filters: Overrides::new(),
    }
}

/// One route and what stands around it.
struct Builder<'a> {
    host: &'a wire::VirtualHost,
    index: usize,
    wire: &'a wire::Route,
    level: &'a Level,
    table: &'a Level,
}

impl Builder<'_> {
    fn build(&self, context: &mut Context<'_>) -> Result<Route, Problem> {
        let Self { host, wire, level, table, .. } = *self;
        unsupported(&[("route_specifiers", !wire.route_specifiers.is_empty())])?;
        let matching = wire.r#match.as_ref().ok_or_else(|| Problem::new("is required").at("match"))?;
        let place = format!("{}/{}", host.name, self.identity(matching));
        let own_request = header::changes(
            format_args!("route {place}"),
            "request_headers",
            &wire.request_headers_to_add,
            &wire.request_headers_to_remove,
        )?;
        let own_response = header::changes(
            format_args!("route {place}"),
            "response_headers",
            &wire.response_headers_to_add,
            &wire.response_headers_to_remove,
        )?;
        let mut filters = filter::overrides(&wire.typed_per_filter_config, &place, context)?;
        filters.extend(level.filters.iter().chain(&table.filters).cloned());
        let action = self.action()?;
        if table.specific_wins && has_weighted_changes(&action) {
            return fail("with header changes of weighted clusters is not supported yet")
                .at("most_specific_header_mutations_wins");
        }
        let order =
            |own, host: &Option<_>, outer: &Option<_>| table.order([own, host.clone(), outer.clone()]);
        Ok(Route {
            name: self.name(),
            matcher: matcher::compile(matching).at("match")?,
            action,
            origin: value::sidegate_metadata(wire.metadata.as_ref()).map(origin),
            request_headers: order(own_request, &level.request_headers, &table.request_headers),
            response_headers: order(own_response, &level.response_headers, &table.response_headers),
            filters,
        })
    }

    fn action(&self) -> Result<Action, Problem> {
        use wire::route::Action as Wire;
        let own_control_plane = value::sidegate_metadata(self.wire.metadata.as_ref()).is_some();
        let inherited = action::Inherited {
            retry: self.host.retry_policy.as_ref(),
            mirrors: &self.level.mirrors,
            idempotent_only: own_control_plane,
            replay_limit: replay_limit(self.wire, self.host),
        };
        match &self.wire.action {
            Some(Wire::Route(forward)) => action::forward(forward, &inherited).at("route"),
            Some(Wire::Redirect(redirect)) => action::redirect(redirect).at("redirect"),
            Some(Wire::DirectResponse(direct)) => action::direct(direct).at("direct_response"),
            Some(Wire::FilterAction(_)) => fail("is not supported yet").at("filter_action"),
            Some(Wire::NonForwardingAction(_)) => {
                fail("is for gRPC servers, not for proxies").at("non_forwarding_action")
            }
            None => fail("has no action that this proxy knows"),
        }
    }

    fn name(&self) -> Arc<str> {
        value::text(&self.wire.name).unwrap_or_else(|| format!("{}[{}]", self.host.name, self.index).into())
    }

    /// What makes two routes the same across updates: the name, else what they match.
    fn identity(&self, matching: &wire::RouteMatch) -> String {
        match self.wire.name.as_str() {
            "" => content_version(&matching.encode_to_vec()),
            name => name.to_owned(),
        }
    }
}

fn has_weighted_changes(action: &Action) -> bool {
    let Action::Forward(forward) = action else { return false };
    let Target::Weighted { clusters, .. } = &forward.target else { return false };
    clusters.iter().any(|cluster| cluster.request_headers.is_some() || cluster.response_headers.is_some())
}

/// `HTTPRoute shop/web rule 0 generation 3`.
fn origin(fields: &sidegate_xds::google::protobuf::Struct) -> Arc<str> {
    let field = |name| value::field(fields, name);
    let mut text = String::new();
    if let Some(kind) = field("kind") {
        text.push_str(&kind);
        text.push(' ');
    }
    if let Some(namespace) = field("namespace") {
        text.push_str(&namespace);
        text.push('/');
    }
    text.push_str(&field("name").unwrap_or_default());
    for part in ["rule", "generation"] {
        if let Some(number) = field(part) {
            text.push_str(&format!(" {part} {number}"));
        }
    }
    text.into()
}

/// Bytes of body kept for a retry: as asked, up to 1 MiB; 64 KiB when nothing is said.
fn replay_limit(route: &wire::Route, host: &wire::VirtualHost) -> usize {
    let asked = route
        .request_body_buffer_limit
        .as_ref()
        .or(host.request_body_buffer_limit.as_ref())
        .map(|limit| limit.value)
        .or_else(|| value::number(route.per_request_buffer_limit_bytes.as_ref()).map(u64::from))
        .or_else(|| value::number(host.per_request_buffer_limit_bytes.as_ref()).map(u64::from));
    asked.map_or(64 << 10, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX).min(1 << 20))
}

fn clusters_of(table: &Table) -> BTreeSet<Arc<str>> {
    let mut names = BTreeSet::new();
    for route in table.hosts.iter().flat_map(|host| &host.routes) {
        let Action::Forward(forward) = &route.action else { continue };
        match &forward.target {
            Target::Cluster(name) => drop(names.insert(name.clone())),
            Target::Weighted { clusters, .. } => {
                names.extend(clusters.iter().map(|cluster| cluster.name.clone()));
            }
            Target::Header(_) => {}
        }
        names.extend(forward.mirrors.iter().map(|(name, _)| name.clone()));
    }
    names
}

#[cfg(test)]
mod tests;
