//! What a route does: forward, redirect, answer.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use sidegate_xds::envoy::config::core::v3::data_source::Specifier;
use sidegate_xds::envoy::config::route::v3 as wire;
use sidegate_xds::envoy::config::route::v3::redirect_action::RedirectResponseCode;
use sidegate_xds::envoy::config::route::v3::route_action as wire_action;
use sidegate_xds::envoy::config::route::v3::route_action::ClusterNotFoundResponseCode;
use sidegate_xds::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;

use super::retry;
use crate::compile::header;
use crate::compile::problem::{At, Problem, fail, unsupported};
use crate::compile::value;
use crate::route::{
    Action, Direct, Forward, GrpcTimeout, HostRewrite, Redirect, RedirectPath, Rewrite, Target,
    WeightedCluster,
};

/// What a forwarding route takes from around it.
pub(crate) struct Inherited<'a> {
    /// The virtual host's retry policy.
    pub(crate) retry: Option<&'a wire::RetryPolicy>,
    /// Mirrors of the virtual host or the table.
    pub(crate) mirrors: &'a [(Arc<str>, u32)],
    /// Retries are for idempotent methods (D9).
    pub(crate) idempotent_only: bool,
    /// Bytes of body kept for a retry.
    pub(crate) replay_limit: usize,
}

/// A bound of time that means "none" where `None` already means "not said".
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// `RouteAction`. Accepted without effect: hash policies (no balancer here hashes), priorities (`ineffective` tells of them), rate limits
/// of the global rate limit filter (which is refused).
pub(crate) fn forward(wire: &wire::RouteAction, inherited: &Inherited<'_>) -> Result<Action, Problem> {
    refuse_unsupported(wire)?;
    let own_mirrors = mirrors(&wire.request_mirror_policies)?;
    let retry = wire.retry_policy.as_ref().or(inherited.retry);
    let retry = retry.map(|policy| retry::compile(policy, inherited.idempotent_only, inherited.replay_limit));
    let idle = wire.idle_timeout.as_ref().map(value::duration).transpose().at("idle_timeout")?;
    let (terminate_connect, upgrades) = upgrades(&wire.upgrade_configs)?;
    Ok(Action::Forward(Box::new(Forward {
        target: target(wire.cluster_specifier.as_ref())?,
        cluster_not_found: match value::choice(wire.cluster_not_found_response_code)
            .at("cluster_not_found_response_code")?
        {
            ClusterNotFoundResponseCode::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            ClusterNotFoundResponseCode::NotFound => StatusCode::NOT_FOUND,
            ClusterNotFoundResponseCode::InternalServerError => StatusCode::INTERNAL_SERVER_ERROR,
        },
        timeout: value::bound(wire.timeout.as_ref(), Some(Duration::from_secs(15))).at("timeout")?,
        idle_timeout: idle.map(|idle| if idle.is_zero() { NEVER } else { idle }),
        longest: longest(wire).at("max_stream_duration")?,
        grpc_stream: grpc_stream(wire).at("max_stream_duration")?,
        grpc_timeout: grpc_timeout(wire.max_grpc_timeout.as_ref(), wire.grpc_timeout_offset.as_ref())
            .at("max_grpc_timeout")?,
        retry: retry.transpose().at("retry_policy")?.flatten(),
        rewrite: rewrite(wire)?,
        host_rewrite: host_rewrite(wire.host_rewrite_specifier.as_ref())?,
        mirrors: if own_mirrors.is_empty() { inherited.mirrors.to_vec() } else { own_mirrors },
        terminate_connect,
        upgrades,
    })))
}

fn longest(wire: &wire::RouteAction) -> Result<Option<Option<Duration>>, Problem> {
    let limit = wire.max_stream_duration.as_ref().and_then(|limits| limits.max_stream_duration.as_ref());
    limit.map(|limit| value::bound(Some(limit), None)).transpose()
}

fn grpc_stream(wire: &wire::RouteAction) -> Result<Option<GrpcTimeout>, Problem> {
    let Some(limits) = &wire.max_stream_duration else { return Ok(None) };
    grpc_timeout(limits.grpc_timeout_header_max.as_ref(), limits.grpc_timeout_header_offset.as_ref())
}

/// Without a maximum, `grpc-timeout` is not looked at; a maximum of zero is none.
fn grpc_timeout(
    most: Option<&sidegate_xds::google::protobuf::Duration>,
    offset: Option<&sidegate_xds::google::protobuf::Duration>,
) -> Result<Option<GrpcTimeout>, Problem> {
    if most.is_none() {
        return Ok(None);
    }
    let offset = offset.map(value::duration).transpose()?.unwrap_or_default();
    Ok(Some(GrpcTimeout { most: value::bound(most, None)?, offset }))
}

fn refuse_unsupported(wire: &wire::RouteAction) -> Result<(), Problem> {
    unsupported(&[
        ("metadata_match", wire.metadata_match.is_some()),
        ("path_rewrite_policy", wire.path_rewrite_policy.is_some()),
        ("path_rewrite", !wire.path_rewrite.is_empty()),
        ("append_x_forwarded_host", wire.append_x_forwarded_host),
        ("retry_policy_typed_config", wire.retry_policy_typed_config.is_some()),
        ("cors", wire.cors.is_some()),
        ("internal_redirect_policy", wire.internal_redirect_policy.is_some()),
        ("hedge_policy", wire.hedge_policy.is_some()),
    ])
}

fn target(wire: Option<&wire_action::ClusterSpecifier>) -> Result<Target, Problem> {
    use wire_action::ClusterSpecifier;
    match wire {
        Some(ClusterSpecifier::Cluster(name)) if name.is_empty() => fail("is required").at("cluster"),
        Some(ClusterSpecifier::Cluster(name)) => Ok(Target::Cluster(name.as_str().into())),
        Some(ClusterSpecifier::ClusterHeader(name)) if name.is_empty() => {
            fail("is required").at("cluster_header")
        }
        Some(ClusterSpecifier::ClusterHeader(name)) => Ok(Target::Header(name.to_ascii_lowercase().into())),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted_clusters(weighted).at("weighted_clusters")
        }
        Some(
            ClusterSpecifier::ClusterSpecifierPlugin(_) | ClusterSpecifier::InlineClusterSpecifierPlugin(_),
        ) => fail("is not supported yet").at("cluster_specifier_plugin"),
        None => fail("names no cluster"),
    }
}

fn weighted_clusters(wire: &wire::WeightedCluster) -> Result<Target, Problem> {
    unsupported(&[("random_value_specifier", wire.random_value_specifier.is_some())])?;
    let mut clusters = Vec::with_capacity(wire.clusters.len());
    let mut total: u32 = 0;
    for (index, cluster) in wire.clusters.iter().enumerate() {
        let cluster = weighted_cluster(cluster).at(format_args!("clusters[{index}]"))?;
        total = total
            .checked_add(cluster.weight)
            .ok_or_else(|| Problem::new("the weights are together more than 4294967295").at("clusters"))?;
        if cluster.weight > 0 {
            clusters.push(cluster);
        }
    }
    if total == 0 {
        return fail("the weights must be together at least 1").at("clusters");
    }
    Ok(Target::Weighted { clusters, total })
}

fn weighted_cluster(wire: &wire::weighted_cluster::ClusterWeight) -> Result<WeightedCluster, Problem> {
    unsupported(&[
        ("cluster_header", !wire.cluster_header.is_empty()),
        ("metadata_match", wire.metadata_match.is_some()),
        ("typed_per_filter_config", !wire.typed_per_filter_config.is_empty()),
        ("host_rewrite_literal", wire.host_rewrite_specifier.is_some()),
    ])?;
    if wire.name.is_empty() {
        return fail("is required").at("name");
    }
    let place = format_args!("weighted cluster {}", wire.name);
    let request = header::changes(
        place,
        "request_headers",
        &wire.request_headers_to_add,
        &wire.request_headers_to_remove,
    )?;
    let response = header::changes(
        place,
        "response_headers",
        &wire.response_headers_to_add,
        &wire.response_headers_to_remove,
    )?;
    Ok(WeightedCluster {
        name: wire.name.as_str().into(),
        weight: value::number(wire.weight.as_ref()).unwrap_or(0),
        request_headers: request,
        response_headers: response,
    })
}

/// `request_mirror_policies`, of a route or a level above it.
pub(crate) fn mirrors(wire: &[wire_action::RequestMirrorPolicy]) -> Result<Vec<(Arc<str>, u32)>, Problem> {
    let mirror = |policy: &wire_action::RequestMirrorPolicy| {
        unsupported(&[
            ("cluster_header", !policy.cluster_header.is_empty()),
            ("request_headers_mutations", !policy.request_headers_mutations.is_empty()),
            ("host_rewrite_literal", !policy.host_rewrite_literal.is_empty()),
        ])?;
        match policy.cluster.as_str() {
            "" => fail("is required").at("cluster"),
            name => Ok((name.into(), value::runtime_fraction(policy.runtime_fraction.as_ref(), value::ALL))),
        }
    };
    let mirrors = wire.iter().enumerate();
    mirrors
        .map(|(index, policy)| mirror(policy).at(format_args!("request_mirror_policies[{index}]")))
        .collect()
}

fn rewrite(wire: &wire::RouteAction) -> Result<Rewrite, Problem> {
    match (&wire.regex_rewrite, wire.prefix_rewrite.as_str()) {
        (Some(_), prefix) if !prefix.is_empty() => {
            fail("prefix_rewrite and regex_rewrite exclude each other")
        }
        (Some(rewrite), _) => Ok(Rewrite::Regex(Box::new(substitution(rewrite).at("regex_rewrite")?))),
        (None, "") => Ok(Rewrite::Keep),
        (None, prefix) => Ok(Rewrite::Prefix(prefix.into())),
    }
}

/// RE2's `\1` becomes `${1}`; a `$` of its own is doubled.
fn substitution(wire: &RegexMatchAndSubstitute) -> Result<(regex::Regex, String), Problem> {
    let pattern = wire.pattern.as_ref().ok_or_else(|| Problem::new("is required").at("pattern"))?;
    let regex = value::part_regex(pattern).at("pattern")?;
    let mut text = String::with_capacity(wire.substitution.len());
    let mut letters = wire.substitution.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '$' => text.push_str("$$"),
            '\\' => match letters.next() {
                Some('\\') => text.push('\\'),
                Some(digit @ '0'..='9')
                    if digit.to_digit(10).is_some_and(|group| (group as usize) < regex.captures_len()) =>
                {
                    text.push_str(&format!("${{{digit}}}"));
                }
                _ => {
                    return fail("a backslash stands before another one or the number of a group")
                        .at("substitution");
                }
            },
            other => text.push(other),
        }
    }
    Ok((regex, text))
}

fn host_rewrite(wire: Option<&wire_action::HostRewriteSpecifier>) -> Result<HostRewrite, Problem> {
    use wire_action::HostRewriteSpecifier;
    match wire {
        None => Ok(HostRewrite::Keep),
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => match host.parse() {
            Ok(authority) => Ok(HostRewrite::Literal(authority)),
            Err(_) => fail(format!("{host:?} is not a host")).at("host_rewrite_literal"),
        },
        Some(HostRewriteSpecifier::AutoHostRewrite(auto)) if auto.value => Ok(HostRewrite::Auto),
        Some(HostRewriteSpecifier::AutoHostRewrite(_)) => Ok(HostRewrite::Keep),
        Some(HostRewriteSpecifier::HostRewriteHeader(_)) => {
            fail("is not supported yet").at("host_rewrite_header")
        }
        Some(HostRewriteSpecifier::HostRewritePathRegex(_)) => {
            fail("is not supported yet").at("host_rewrite_path_regex")
        }
        Some(HostRewriteSpecifier::HostRewrite(_)) => fail("is not supported yet").at("host_rewrite"),
    }
}

/// Lower-case types, and whether the route allows them.
type Upgrades = Vec<(Arc<str>, bool)>;

/// `upgrade_configs`: whether CONNECT ends here (`connect_config`), and what the route says of each type.
fn upgrades(wire: &[wire_action::UpgradeConfig]) -> Result<(bool, Upgrades), Problem> {
    let mut terminate = false;
    let mut upgrades = Upgrades::new();
    for (index, upgrade) in wire.iter().enumerate() {
        let place = format_args!("upgrade_configs[{index}] ({})", upgrade.upgrade_type).to_string();
        let kind = upgrade.upgrade_type.to_ascii_lowercase();
        let enabled = value::flag(upgrade.enabled.as_ref(), true);
        match (&upgrade.connect_config, kind.as_str()) {
            (Some(config), "connect") => {
                unsupported(&[
                    ("connect_config.proxy_protocol_config", config.proxy_protocol_config.is_some()),
                    ("connect_config.allow_post", config.allow_post),
                ])
                .at(&place)?;
                terminate |= enabled;
            }
            (Some(_), _) => return fail("connect_config is for CONNECT").at(place),
            (None, "") => return fail("upgrade_type is required").at(place),
            (None, "connect") if enabled => {
                return fail("CONNECT is only served with a connect_config: it ends here").at(place);
            }
            (None, _) => {}
        }
        if upgrades.iter().any(|(known, _)| **known == *kind) {
            return fail("is there twice").at(place);
        }
        upgrades.push((kind.into(), enabled));
    }
    Ok((terminate, upgrades))
}

/// `RedirectAction`.
pub(crate) fn redirect(wire: &wire::RedirectAction) -> Result<Action, Problem> {
    use wire::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
    let path = match &wire.path_rewrite_specifier {
        None => RedirectPath::Keep,
        Some(PathRewriteSpecifier::PathRedirect(path)) => match path.parse() {
            Ok(path) => RedirectPath::Full(path),
            Err(_) => return fail(format!("{path:?} is not a path")).at("path_redirect"),
        },
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => RedirectPath::Prefix(prefix.as_str().into()),
        Some(PathRewriteSpecifier::RegexRewrite(_)) => {
            return fail("is not supported yet").at("regex_rewrite");
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => return fail("is not supported yet").at("path_rewrite"),
    };
    let port = u16::try_from(wire.port_redirect)
        .map_err(|_| Problem::new(format!("{} is not a port", wire.port_redirect)).at("port_redirect"))?;
    Ok(Action::Redirect(Box::new(Redirect {
        status: match value::choice(wire.response_code).at("response_code")? {
            RedirectResponseCode::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
            RedirectResponseCode::Found => StatusCode::FOUND,
            RedirectResponseCode::SeeOther => StatusCode::SEE_OTHER,
            RedirectResponseCode::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
            RedirectResponseCode::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
        },
        scheme: match &wire.scheme_rewrite_specifier {
            Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
            Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => value::text(&scheme.to_ascii_lowercase()),
            Some(SchemeRewriteSpecifier::HttpsRedirect(false)) | None => None,
        },
        host: value::text(&wire.host_redirect),
        port: Some(port).filter(|port| *port != 0),
        path,
        strip_query: wire.strip_query,
    })))
}

/// `DirectResponseAction`.
pub(crate) fn direct(wire: &wire::DirectResponseAction) -> Result<Action, Problem> {
    unsupported(&[("body_format", wire.body_format.is_some())])?;
    let status = u16::try_from(wire.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    // 1xx are not final responses.
    let status = status.filter(|status| (200..600).contains(&status.as_u16()));
    let Some(status) = status else {
        return fail(format!("{} is not a status from 200 to 599", wire.status)).at("status");
    };
    let body = match wire.body.as_ref().and_then(|body| body.specifier.as_ref()) {
        None => bytes::Bytes::new(),
        Some(Specifier::InlineString(text)) => text.clone().into(),
        Some(Specifier::InlineBytes(bytes)) => bytes.clone().into(),
        Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)) => {
            return fail("only inline_string and inline_bytes are supported yet").at("body");
        }
    };
    Ok(Action::Direct(Box::new(Direct { status, body })))
}
