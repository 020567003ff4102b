//! How long a cluster's connections are kept: `common_http_protocol_options`, of the extension or (deprecated) of the cluster itself.

use sidegate_xds::envoy::config::cluster::v3 as wire;
use sidegate_xds::envoy::config::core::v3::HttpProtocolOptions;
use sidegate_xds::envoy::extensions::upstreams::http::v3 as upstream;

use super::HTTP_OPTIONS;
use crate::cluster::{Idle, Keep};
use crate::compile::problem::{At, Problem, unsupported};
use crate::compile::value;

/// Checks the options. As in Envoy, those of the extension stand alone; only the cluster's own `max_requests_per_connection` counts beside
/// them.
pub(super) fn compile(
    cluster: &wire::Cluster,
    options: Option<&upstream::HttpProtocolOptions>,
) -> Result<Keep, Problem> {
    const FIELD: &str = "common_http_protocol_options";
    let (common, place) = match options {
        Some(options) => (
            options.common_http_protocol_options.as_ref(),
            format!("typed_extension_protocol_options[{HTTP_OPTIONS}].{FIELD}"),
        ),
        None => (cluster.common_http_protocol_options.as_ref(), FIELD.to_owned()),
    };
    let mut keep = common.map(bounds).transpose().at(place)?.unwrap_or_default();
    let own = value::number(cluster.max_requests_per_connection.as_ref());
    keep.requests = keep.requests.or(own).filter(|most| *most > 0);
    Ok(keep)
}

fn bounds(common: &HttpProtocolOptions) -> Result<Keep, Problem> {
    unsupported(&[
        ("max_headers_count", common.max_headers_count.is_some()),
        ("max_response_headers_kb", common.max_response_headers_kb.is_some()),
        ("max_stream_duration", common.max_stream_duration.is_some()),
        ("headers_with_underscores_action", common.headers_with_underscores_action != 0),
    ])?;
    let idle = match &common.idle_timeout {
        None => Idle::Default,
        Some(wire) => match value::duration(wire).at("idle_timeout")? {
            idle if idle.is_zero() => Idle::Endless,
            idle => Idle::For(idle),
        },
    };
    Ok(Keep {
        idle,
        age: value::bound(common.max_connection_duration.as_ref(), None).at("max_connection_duration")?,
        requests: value::number(common.max_requests_per_connection.as_ref()),
    })
}
