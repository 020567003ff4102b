//! `Http2ProtocolOptions` → [`Options`], for listeners and clusters.

use std::time::Duration;

use sidegate_xds::envoy::config::core::v3 as core;

use super::problem::{At, Problem, fail, unsupported};
use super::value;
use crate::http2::{Budgets, Keepalive, Options};

/// Checks the options; none are the defaults.
pub(crate) fn options(wire: Option<&core::Http2ProtocolOptions>) -> Result<Options, Problem> {
    let Some(wire) = wire else { return Ok(Options::default()) };
    unsupported(&[
        ("allow_metadata", wire.allow_metadata),
        ("custom_settings_parameters", !wire.custom_settings_parameters.is_empty()),
    ])?;
    let streams = value::number(wire.max_concurrent_streams.as_ref());
    if streams.is_some_and(|streams| streams == 0 || streams > MOST) {
        return fail("must be from 1 to 2147483647").at("max_concurrent_streams");
    }
    let default = Options::default();
    let stream_window = window(wire.initial_stream_window_size.as_ref()).at("initial_stream_window_size")?;
    let connection_window =
        window(wire.initial_connection_window_size.as_ref()).at("initial_connection_window_size")?;
    Ok(Options {
        max_concurrent_streams: streams,
        stream_window: stream_window.unwrap_or(default.stream_window),
        connection_window,
        table_bytes: value::number(wire.hpack_table_size.as_ref()),
        budgets: budgets(wire)?,
        keepalive: wire
            .connection_keepalive
            .as_ref()
            .map(keepalive)
            .transpose()
            .at("connection_keepalive")?,
    })
}

fn window(wire: Option<&sidegate_xds::google::protobuf::UInt32Value>) -> Result<Option<u32>, Problem> {
    match value::number(wire) {
        Some(bytes) if !(65_535..=MOST).contains(&bytes) => fail("must be from 65535 to 2147483647"),
        bytes => Ok(bytes),
    }
}

fn budgets(wire: &core::Http2ProtocolOptions) -> Result<Budgets, Problem> {
    let default = Budgets::default();
    let number = |field: &str, wire, least: u32, default| match value::number(wire) {
        Some(number) if number < least => fail(format!("must be at least {least}")).at(field),
        number => Ok(number.unwrap_or(default)),
    };
    Ok(Budgets {
        empty_frames: value::number(wire.max_consecutive_inbound_frames_with_empty_payload.as_ref()),
        priority_per_stream: value::number(wire.max_inbound_priority_frames_per_stream.as_ref()),
        updates_per_data: number(
            "max_inbound_window_update_frames_per_data_frame_sent",
            wire.max_inbound_window_update_frames_per_data_frame_sent.as_ref(),
            1,
            default.updates_per_data,
        )?,
        outbound_frames: number(
            "max_outbound_frames",
            wire.max_outbound_frames.as_ref(),
            1,
            default.outbound_frames,
        )?,
        outbound_control_frames: number(
            "max_outbound_control_frames",
            wire.max_outbound_control_frames.as_ref(),
            1,
            default.outbound_control_frames,
        )?,
        cut_on_malformed: !value::flag(wire.override_stream_error_on_invalid_http_message.as_ref(), true),
        ..default
    })
}

fn keepalive(wire: &core::KeepaliveSettings) -> Result<Keepalive, Problem> {
    let Some(timeout) = &wire.timeout else { return fail("is required").at("timeout") };
    let jitter = wire.interval_jitter.as_ref().map_or(15.0, |percent| percent.value);
    if !(0.0..=100.0).contains(&jitter) {
        return fail("must be from 0 to 100").at("interval_jitter");
    }
    let interval = value::bound(wire.interval.as_ref(), None).at("interval")?;
    let idle = value::bound(wire.connection_idle_interval.as_ref(), None).at("connection_idle_interval")?;
    if interval.or(idle).is_none() {
        return fail("needs an interval or a connection_idle_interval");
    }
    Ok(Keepalive {
        interval,
        timeout: value::interval(Some(timeout), Duration::ZERO).at("timeout")?,
        jitter: jitter / 100.0,
        idle,
    })
}

/// What fits in 31 bits.
const MOST: u32 = (1 << 31) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<Options, String> {
        let any = super::super::tests::fixture::yaml::<core::Http2ProtocolOptions>(yaml);
        options(Some(&any)).map_err(|problem| problem.to_string())
    }

    #[test]
    fn every_option_is_honoured_or_refused_by_name() {
        let all = "{hpack_table_size: 0, max_concurrent_streams: 7, initial_stream_window_size: 65536, \
             initial_connection_window_size: 1048576, max_outbound_frames: 100, max_outbound_control_frames: 50, \
             max_consecutive_inbound_frames_with_empty_payload: 3, max_inbound_priority_frames_per_stream: 4, \
             max_inbound_window_update_frames_per_data_frame_sent: 5, \
             override_stream_error_on_invalid_http_message: false, \
             connection_keepalive: {interval: 30s, timeout: 5s, interval_jitter: {value: 50}, connection_idle_interval: 60s}}";
        let keepalive = Keepalive {
            interval: Some(Duration::from_secs(30)),
            timeout: Duration::from_secs(5),
            jitter: 0.5,
            idle: Some(Duration::from_secs(60)),
        };
        let budgets = Budgets {
            empty_frames: Some(3),
            priority_per_stream: Some(4),
            updates_per_data: 5,
            outbound_frames: 100,
            outbound_control_frames: 50,
            cut_on_malformed: true,
            ..Budgets::default()
        };
        let expected = Options {
            max_concurrent_streams: Some(7),
            stream_window: 65_536,
            connection_window: Some(1_048_576),
            table_bytes: Some(0),
            budgets,
            keepalive: Some(keepalive),
        };
        assert_eq!(read(all).unwrap(), expected);
        assert_eq!(read("{}").unwrap(), Options::default());
        let refused = [
            ("{allow_metadata: true}", "allow_metadata"),
            ("{custom_settings_parameters: [{identifier: 9, value: 1}]}", "custom_settings_parameters"),
            ("{max_concurrent_streams: 0}", "max_concurrent_streams"),
            ("{initial_stream_window_size: 100}", "initial_stream_window_size"),
            ("{max_outbound_frames: 0}", "max_outbound_frames"),
            ("{connection_keepalive: {interval: 1s}}", "connection_keepalive.timeout"),
            ("{connection_keepalive: {timeout: 1s}}", "connection_keepalive"),
        ];
        for (yaml, field) in refused {
            assert!(read(yaml).unwrap_err().contains(field), "{yaml}");
        }
    }
}
