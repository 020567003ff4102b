//! Addresses and socket settings of a listener.

use std::net::SocketAddr;
use std::time::Duration;

use sidegate_xds::envoy::config::core::v3 as core;
use sidegate_xds::envoy::config::listener::v3 as wire;

use crate::compile::problem::{At, Problem, fail};
use crate::compile::value;
use crate::snapshot::SocketSettings;

/// Where the listener is bound.
pub(super) fn addresses(wire: &wire::Listener) -> Result<Vec<SocketAddr>, Problem> {
    let mut addresses = vec![value::socket_address(wire.address.as_ref()).at("address")?];
    for (index, additional) in wire.additional_addresses.iter().enumerate() {
        let place = format!("additional_addresses[{index}]");
        if additional.socket_options.is_some() {
            return fail("is not supported yet").at("socket_options").at(place);
        }
        let address = value::socket_address(additional.address.as_ref()).at("address").at(&place)?;
        if addresses.contains(&address) {
            return fail(format!("{address} is there twice")).at(place);
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// How its sockets are made. TCP Fast Open has no effect: it only saves clients a round trip.
pub(super) fn settings(wire: &wire::Listener) -> Result<SocketSettings, Problem> {
    let all = std::iter::once(wire.address.as_ref())
        .chain(wire.additional_addresses.iter().map(|additional| additional.address.as_ref()));
    let compatible = |address: Option<&core::Address>| match address.and_then(|one| one.address.as_ref()) {
        Some(core::address::Address::SocketAddress(socket)) => socket.ipv4_compat,
        _ => false,
    };
    let backlog = value::number(wire.tcp_backlog_size.as_ref());
    if backlog == Some(0) {
        return fail("must be at least 1").at("tcp_backlog_size");
    }
    let mut settings = SocketSettings {
        transparent: value::flag(wire.transparent.as_ref(), false),
        freebind: value::flag(wire.freebind.as_ref(), false),
        dual_stack: all.into_iter().any(compatible),
        backlog,
        ..SocketSettings::default()
    };
    for (index, option) in wire.socket_options.iter().enumerate() {
        option_of(option, &mut settings).at(format_args!("socket_options[{index}]"))?;
    }
    Ok(settings)
}

/// The options that make sense on a listener, by the numbers that Linux gives them.
fn option_of(option: &core::SocketOption, settings: &mut SocketSettings) -> Result<(), Problem> {
    let Some(core::socket_option::Value::IntValue(value)) = option.value else {
        return fail("is not supported yet").at("buf_value");
    };
    let Ok(number) = u32::try_from(value) else { return fail("must not be negative").at("int_value") };
    let seconds = || Some(Duration::from_secs(number.into()));
    match (option.level, option.name) {
        // SOL_SOCKET: SO_REUSEADDR, SO_REUSEPORT are on anyway.
        (1, 2 | 15) if number == 1 => {}
        (1, 9) if number == 0 => settings.keepalive = None,
        (1, 9) => drop(settings.keepalive.get_or_insert_default()),
        (1, 36) => settings.mark = Some(number),
        // IPPROTO_TCP: TCP_NODELAY is on anyway, TCP_FASTOPEN only saves clients a round trip.
        (6, 1) if number == 1 => {}
        (6, 23) => {}
        (6, 4) => settings.keepalive.get_or_insert_default().idle = seconds(),
        (6, 5) => settings.keepalive.get_or_insert_default().interval = seconds(),
        (6, 6) => settings.keepalive.get_or_insert_default().probes = Some(number),
        (6, 18) => settings.user_timeout = Some(Duration::from_millis(number.into())),
        // IP_FREEBIND, IP_TRANSPARENT and their IPv6 forms.
        (0, 15) | (41, 78) => settings.freebind = number != 0,
        (0, 19) | (41, 75) => settings.transparent = number != 0,
        (level, name) => {
            return fail(format!("option {name} of level {level} with {number} is not supported"));
        }
    }
    Ok(())
}
