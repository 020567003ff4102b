//! `HttpConnectionManager` → `snapshot::Http`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sidegate_xds::envoy::config::core::v3 as core;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3 as wire;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::from_any;
use tokio::time::Instant;
use wire::http_connection_manager::{
    CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier,
    ServerHeaderTransformation,
};

use super::access_log;
use super::extension;
use super::filter::{self, Buckets, Context};
use super::http2;
use super::listener::{ChainPlan, Routes};
use super::problem::{At, Problem, fail, unsupported};
use super::route;
use super::value;
use crate::message::EscapedSlashes;
use crate::snapshot::{ClientCertificate, Codec, ForwardMode, Http, HttpTimeouts};

mod trust;

/// A connection manager with what belongs to it.
pub(crate) struct Manager {
    /// It.
    pub(crate) http: Http,
    /// Where its routes are.
    pub(crate) routes: Routes,
    /// The token buckets of its filters.
    pub(crate) buckets: Buckets,
    /// The clusters that its filters ask.
    pub(crate) asked: BTreeSet<Arc<str>>,
}

/// Checks a connection manager. A route table inside it gets the name `inline`.
pub(crate) fn compile(
    any: &Any,
    inline: Arc<str>,
    previous: Option<&ChainPlan>,
    now: Instant,
) -> Result<Manager, Problem> {
    let manager: wire::HttpConnectionManager =
        from_any(any).map_err(|error| Problem::new(error.to_string()))?;
    refuse_unsupported(&manager)?;
    let mut buckets = Buckets::after(previous.map(|plan| &plan.buckets));
    let filters = filter::chain(&manager.http_filters, &mut Context { now, buckets: &mut buckets })?;
    let routes = routes(&manager, inline, previous, now)?;
    let table = table_of(&routes)?;
    let (allow_connect, upgrades) = upgrades(&manager)?;
    let http1 = manager.http_protocol_options.as_ref();
    let common = manager.common_http_protocol_options.as_ref();
    let (header_bytes, header_count) = header_limits(&manager)?;
    let http2_wire = manager.http2_protocol_options.as_ref();
    let http2_options = http2::options(http2_wire).at("http2_protocol_options")?;
    let http = Http {
        stat_prefix: manager.stat_prefix.as_str().into(),
        codec: codec(value::choice(manager.codec_type).at("codec_type")?)?,
        routes: table,
        filters,
        use_remote_address: value::flag(manager.use_remote_address.as_ref(), false),
        forwarding: trust::forwarding(&manager)?,
        underscores: trust::underscores(common)?,
        strip_port: trust::strip_port(&manager),
        strip_trailing_dot: manager.strip_trailing_host_dot,
        scheme: trust::scheme(&manager)?,
        default_host: trust::default_host(http1)?,
        request_id_in_response: manager.always_set_request_id_in_response,
        generate_request_id: value::flag(manager.generate_request_id.as_ref(), true),
        preserve_external_request_id: manager.preserve_external_request_id,
        normalize_path: value::flag(manager.normalize_path.as_ref(), false),
        merge_slashes: manager.merge_slashes,
        escaped_slashes: escaped_slashes(&manager)?,
        tracing: manager.tracing.is_some(),
        allow_connect,
        upgrades,
        extended_connect: http2_wire.is_some_and(|options| options.allow_connect),
        server_name: value::text(&manager.server_name),
        pass_server_header: manager.server_header_transformation() == ServerHeaderTransformation::PassThrough,
        keep_server_header: manager.server_header_transformation()
            == ServerHeaderTransformation::AppendIfAbsent,
        via: value::text(&manager.via),
        timeouts: timeouts(&manager)?,
        max_header_bytes: header_bytes,
        max_header_count: header_count,
        max_concurrent_streams: http2_options.max_concurrent_streams.unwrap_or(100),
        http2: http2_options,
        max_requests_per_connection: requests_per_connection(common),
        accept_http_10: http1.is_some_and(|options| options.accept_http_10),
        access_logs: access_log::compile(&manager.access_log)?,
        client_certificate: client_certificate(&manager),
    };
    let asked = crate::filter::clusters(&http.filters).cloned().collect();
    Ok(Manager { http, routes, buckets, asked })
}

fn table_of(routes: &Routes) -> Result<Arc<str>, Problem> {
    match routes {
        Routes::Inline(name, _) | Routes::Discovered(name, _) => Ok(name.clone()),
        Routes::Opaque(_) => fail("has no routes"),
    }
}

/// `max_requests_per_connection`; zero is no bound.
fn requests_per_connection(common: Option<&core::HttpProtocolOptions>) -> Option<u32> {
    let most = common.and_then(|common| value::number(common.max_requests_per_connection.as_ref()));
    most.filter(|requests| *requests > 0)
}

/// Bytes and number of a request's header fields.
fn header_limits(manager: &wire::HttpConnectionManager) -> Result<(usize, usize), Problem> {
    let kilobytes = value::number(manager.max_request_headers_kb.as_ref()).unwrap_or(64);
    if !(1..=8192).contains(&kilobytes) {
        return fail("must be from 1 to 8192").at("max_request_headers_kb");
    }
    let common = manager.common_http_protocol_options.as_ref();
    let count = common.and_then(|common| value::number(common.max_headers_count.as_ref())).unwrap_or(100);
    if count == 0 {
        return fail("must be at least 1").at("common_http_protocol_options.max_headers_count");
    }
    Ok((kilobytes as usize * 1024, count as usize))
}

/// What would change requests, responses or trust if it were left out. Accepted without effect: statistics, sampling and
/// other details of tracing, flush timing, buffer and window tuning.
fn refuse_unsupported(manager: &wire::HttpConnectionManager) -> Result<(), Problem> {
    unsupported(&[
        ("add_user_agent", value::flag(manager.add_user_agent.as_ref(), false)),
        ("original_ip_detection_extensions", !manager.original_ip_detection_extensions.is_empty()),
        ("early_header_mutation_extensions", !manager.early_header_mutation_extensions.is_empty()),
        ("forward_client_cert_matcher", manager.forward_client_cert_matcher.is_some()),
        (
            "forward_client_cert_details: ALWAYS_FORWARD_ONLY",
            manager.forward_client_cert_details() == ForwardClientCertDetails::AlwaysForwardOnly,
        ),
        ("local_reply_config", manager.local_reply_config.is_some()),
        ("path_normalization_options", manager.path_normalization_options.is_some()),
        ("proxy_status_config", manager.proxy_status_config.is_some()),
        ("typed_header_validation_config", manager.typed_header_validation_config.is_some()),
        ("forward_proto_config", manager.forward_proto_config.is_some()),
    ])?;
    refuse_http1(manager.http_protocol_options.as_ref()).at("http_protocol_options")
}

fn refuse_http1(options: Option<&core::Http1ProtocolOptions>) -> Result<(), Problem> {
    let Some(options) = options else { return Ok(()) };
    unsupported(&[
        ("allow_absolute_url: false", !value::flag(options.allow_absolute_url.as_ref(), true)),
        ("send_fully_qualified_url", options.send_fully_qualified_url),
    ])?;
    trust::key_format(options)?;
    if options.allow_chunked_length {
        // Two lengths in one message is how requests are smuggled: there is no safe way to honour this.
        return fail("a message with both Content-Length and chunked encoding is always refused here")
            .at("allow_chunked_length");
    }
    Ok(())
}

fn routes(
    manager: &wire::HttpConnectionManager,
    inline: Arc<str>,
    previous: Option<&ChainPlan>,
    now: Instant,
) -> Result<Routes, Problem> {
    match &manager.route_specifier {
        Some(RouteSpecifier::RouteConfig(config)) => {
            let previous = match previous.map(|plan| &plan.routes) {
                Some(Routes::Inline(_, plan)) => Some(&**plan),
                _ => None,
            };
            let plan = route::compile(config, previous, now).at("route_config")?;
            Ok(Routes::Inline(inline, Box::new(plan)))
        }
        Some(RouteSpecifier::Rds(rds)) => {
            let source = rds.config_source.as_ref();
            let source = source.ok_or_else(|| Problem::new("is required").at("rds.config_source"))?;
            extension::is_ads(source).at("rds.config_source")?;
            if rds.route_config_name.is_empty() {
                return fail("is required").at("rds.route_config_name");
            }
            let patience = value::bound(source.initial_fetch_timeout.as_ref(), Some(FIRST_TABLE));
            let patience = patience.at("rds.config_source.initial_fetch_timeout")?;
            Ok(Routes::Discovered(rds.route_config_name.as_str().into(), patience))
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => fail("is not supported yet").at("scoped_routes"),
        None => fail("rds or route_config is required"),
    }
}

fn codec(wire: CodecType) -> Result<Codec, Problem> {
    match wire {
        CodecType::Auto => Ok(Codec::Auto),
        CodecType::Http1 => Ok(Codec::Http1),
        CodecType::Http2 => Ok(Codec::Http2),
        CodecType::Http3 => fail("HTTP3 is not supported yet").at("codec_type"),
    }
}

fn escaped_slashes(manager: &wire::HttpConnectionManager) -> Result<EscapedSlashes, Problem> {
    let action = value::choice(manager.path_with_escaped_slashes_action);
    Ok(match action.at("path_with_escaped_slashes_action")? {
        PathWithEscapedSlashesAction::ImplementationSpecificDefault
        | PathWithEscapedSlashesAction::KeepUnchanged => EscapedSlashes::Keep,
        PathWithEscapedSlashesAction::RejectRequest => EscapedSlashes::Reject,
        PathWithEscapedSlashesAction::UnescapeAndRedirect => EscapedSlashes::UnescapeAndRedirect,
        PathWithEscapedSlashesAction::UnescapeAndForward => EscapedSlashes::UnescapeAndForward,
    })
}

fn client_certificate(manager: &wire::HttpConnectionManager) -> ClientCertificate {
    let mode = match manager.forward_client_cert_details() {
        // The last one is refused before.
        ForwardClientCertDetails::Sanitize | ForwardClientCertDetails::AlwaysForwardOnly => {
            ForwardMode::Sanitize
        }
        ForwardClientCertDetails::ForwardOnly => ForwardMode::Forward,
        ForwardClientCertDetails::AppendForward => ForwardMode::Append,
        ForwardClientCertDetails::SanitizeSet => ForwardMode::Set,
    };
    let Some(details) = &manager.set_current_client_cert_details else {
        return ClientCertificate { mode, ..ClientCertificate::default() };
    };
    ClientCertificate {
        mode,
        subject: value::flag(details.subject.as_ref(), false),
        cert: details.cert,
        chain: details.chain,
        dns: details.dns,
        uri: details.uri,
    }
}

/// Whether CONNECT is allowed, and the other upgrade types.
fn upgrades(manager: &wire::HttpConnectionManager) -> Result<(bool, Vec<Arc<str>>), Problem> {
    let mut allow_connect = false;
    let mut upgrades: Vec<Arc<str>> = Vec::new();
    for (index, upgrade) in manager.upgrade_configs.iter().enumerate() {
        let place = format!("upgrade_configs[{index}] ({})", upgrade.upgrade_type);
        unsupported(&[("filters", !upgrade.filters.is_empty())]).at(place)?;
        let name = upgrade.upgrade_type.to_ascii_lowercase();
        match (value::flag(upgrade.enabled.as_ref(), true), name.as_str()) {
            (false, _) => {}
            (true, "connect") => allow_connect = true,
            (true, _) => upgrades.push(name.into()),
        }
    }
    Ok((allow_connect, upgrades))
}

fn timeouts(manager: &wire::HttpConnectionManager) -> Result<HttpTimeouts, Problem> {
    let default = HttpTimeouts::default();
    let common = manager.common_http_protocol_options.as_ref();
    let idle = common.and_then(|common| common.idle_timeout.as_ref());
    let longest = common.and_then(|common| common.max_stream_duration.as_ref());
    let connection = common.and_then(|common| common.max_connection_duration.as_ref());
    let exact = |field: &str, wire: Option<&_>, default| wire.map_or(Ok(default), value::duration).at(field);
    let bound = |field: &str, wire, default| value::bound(wire, default).at(field);
    Ok(HttpTimeouts {
        idle: bound("common_http_protocol_options.idle_timeout", idle, default.idle)?,
        stream_idle: bound("stream_idle_timeout", manager.stream_idle_timeout.as_ref(), default.stream_idle)?,
        headers: bound("request_headers_timeout", manager.request_headers_timeout.as_ref(), default.headers)?,
        request: bound("request_timeout", manager.request_timeout.as_ref(), default.request)?,
        longest: bound("common_http_protocol_options.max_stream_duration", longest, None)?,
        connection: bound("common_http_protocol_options.max_connection_duration", connection, None)?,
        drain: exact("drain_timeout", manager.drain_timeout.as_ref(), default.drain)?,
        delayed_close: exact(
            "delayed_close_timeout",
            manager.delayed_close_timeout.as_ref(),
            default.delayed_close,
        )?,
    })
}

/// How long a new listener waits for its routes when its configuration does not say (Envoy's default).
const FIRST_TABLE: Duration = Duration::from_secs(15);
