//! Which address and port everything listens on: what the manifests say where that is free, the next free port where
//! it is not. Pure but for the probe that it is given.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where one Pod's app and sidecar listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The Pod's address.
    pub(super) address: IpAddr,
    /// The app.
    pub(super) app: u16,
    /// The sidecar, for what comes in.
    pub(super) inbound: u16,
    /// The sidecar, for what the app sends.
    pub(super) outbound: u16,
    /// The sidecar's admin page, on 127.0.0.1.
    pub(super) admin: u16,
}

/// Where everything listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The gateway.
    pub(super) gateway: SocketAddr,
    /// The gateway's admin page.
    pub(super) gateway_admin: u16,
    /// The control plane, for proxies that prove who they are.
    pub(super) xds: SocketAddr,
    /// The control plane, without TLS; nobody uses it here.
    pub(super) plain_xds: SocketAddr,
    /// The control plane, for people.
    pub(super) control_admin: SocketAddr,
    /// Each Pod by name.
    pub(super) pods: BTreeMap<String, Place>,
    /// What is not where it usually is, for people.
    pub(super) notes: Vec<String>,
}

/// What the manifests ask for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// The gateway.
    pub(super) gateway: SocketAddr,
    /// Each Pod by name; `admin` is not read.
    pub(super) pods: BTreeMap<String, Place>,
}

/// Chooses a layout. `free` says whether one can listen on an address now; port 0 asks whether the address exists.
pub(super) fn choose(wanted: &Wanted, free: impl Fn(SocketAddr) -> bool) -> Result<Layout, NoPort> {
    let names: Vec<&String> = wanted.pods.keys().collect();
    let mut chooser = Chooser { free, taken: BTreeSet::new(), notes: Vec::new() };
    let mut addresses: Vec<IpAddr> = wanted.pods.values().map(|place| place.address).collect();
    if !addresses.iter().all(|&address| (chooser.free)(SocketAddr::new(address, 0))) {
        chooser
            .notes
            .push("this machine has one loopback address: each Pod gets ports of its own".to_owned());
        addresses.fill(LOOPBACK);
    }
    let gateway = chooser.one("the gateway", wanted.gateway)?;
    let xds = chooser.one("the control plane's xDS", SocketAddr::new(LOOPBACK, XDS_PORT))?;
    let plain_xds =
        chooser.one("the control plane's xDS without TLS", SocketAddr::new(LOOPBACK, PLAIN_XDS_PORT))?;
    let control_admin =
        chooser.one("the control plane's admin page", SocketAddr::new(LOOPBACK, CONTROL_ADMIN_PORT))?;
    let gateway_admin =
        chooser.one("the gateway's admin page", SocketAddr::new(LOOPBACK, PROXY_ADMIN_PORT))?.port();
    let Some(example) = wanted.pods.values().next() else {
        return Ok(Layout {
            gateway,
            gateway_admin,
            xds,
            plain_xds,
            control_admin,
            pods: BTreeMap::new(),
            notes: chooser.notes,
        });
    };
    let app = chooser.each("the apps", example.app, &addresses)?;
    let inbound = chooser.each("the sidecars", example.inbound, &addresses)?;
    let outbound = chooser.each("the apps' outbound proxies", example.outbound, &addresses)?;
    let local = vec![LOOPBACK; addresses.len()];
    let admin = chooser.each("the sidecars' admin pages", PROXY_ADMIN_PORT + 1, &local)?;
    let place = |index: usize| Place {
        address: addresses[index],
        app: app[index],
        inbound: inbound[index],
        outbound: outbound[index],
        admin: admin[index],
    };
    let pods = names.iter().enumerate().map(|(index, name)| ((*name).clone(), place(index))).collect();
    Ok(Layout { gateway, gateway_admin, xds, plain_xds, control_admin, pods, notes: chooser.notes })
}

struct Chooser<F> {
    free: F,
    taken: BTreeSet<SocketAddr>,
    notes: Vec<String>,
}

impl<F: Fn(SocketAddr) -> bool> Chooser<F> {
    /// One address, at its port or the next free one.
    fn one(&mut self, what: &str, wanted: SocketAddr) -> Result<SocketAddr, NoPort> {
        let port = self.first_free(what, wanted.port(), &[wanted.ip()])?;
        if port != wanted.port() {
            self.notes.push(format!("port {} is in use: {what} listens on {port}", wanted.port()));
        }
        Ok(SocketAddr::new(wanted.ip(), port))
    }

    /// The same port on every address when the addresses differ, the next ports otherwise.
    fn each(&mut self, what: &str, wanted: u16, addresses: &[IpAddr]) -> Result<Vec<u16>, NoPort> {
        if addresses.iter().collect::<BTreeSet<_>>().len() == addresses.len() {
            let port = self.first_free(what, wanted, addresses)?;
            if port != wanted {
                self.notes.push(format!("port {wanted} is in use: {what} listen on {port}"));
            }
            return Ok(vec![port; addresses.len()]);
        }
        let mut ports = Vec::with_capacity(addresses.len());
        for &address in addresses {
            ports.push(self.first_free(what, wanted, &[address])?);
        }
        Ok(ports)
    }

    fn first_free(&mut self, what: &str, wanted: u16, addresses: &[IpAddr]) -> Result<u16, NoPort> {
        let all = |port: u16| addresses.iter().map(move |&address| SocketAddr::new(address, port));
        let last = wanted.saturating_add(PORTS_TRIED);
        let port = (wanted..last)
            .find(|&port| all(port).all(|address| !self.taken.contains(&address) && (self.free)(address)))
            .ok_or_else(|| NoPort { what: what.to_owned(), first: wanted, last })?;
        self.taken.extend(all(port));
        Ok(port)
    }
}

/// Everything in reach is in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no free port for {what} between {first} and {last}")]
pub(super) struct NoPort {
    what: String,
    first: u16,
    last: u16,
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const XDS_PORT: u16 = 15012;
const PLAIN_XDS_PORT: u16 = 15010;
const CONTROL_ADMIN_PORT: u16 = 15014;
const PROXY_ADMIN_PORT: u16 = 15100;
const PORTS_TRIED: u16 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        let place = |last| Place {
            address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)),
            app: 9080,
            inbound: 15006,
            outbound: 15001,
            admin: 0,
        };
        Wanted {
            gateway: SocketAddr::new(LOOPBACK, 8080),
            pods: [("catalog-1".to_owned(), place(21)), ("web-1".to_owned(), place(11))].into(),
        }
    }

    fn all_addresses(layout: &Layout) -> Vec<SocketAddr> {
        let local = |port| SocketAddr::new(LOOPBACK, port);
        let mut all = vec![
            layout.gateway,
            layout.xds,
            layout.plain_xds,
            layout.control_admin,
            local(layout.gateway_admin),
        ];
        for place in layout.pods.values() {
            all.extend(
                [place.app, place.inbound, place.outbound].map(|port| SocketAddr::new(place.address, port)),
            );
            all.push(local(place.admin));
        }
        all
    }

    #[test]
    fn an_idle_machine_gets_what_the_manifests_say() {
        let layout = choose(&wanted(), |_| true).unwrap();
        assert!(layout.notes.is_empty(), "{:?}", layout.notes);
        assert_eq!(layout.gateway.port(), 8080);
        let place = layout.pods["web-1"];
        assert_eq!((place.app, place.inbound, place.outbound), (9080, 15006, 15001));
    }

    #[test]
    fn a_busy_port_moves_for_all_pods_and_is_said() {
        let busy: SocketAddr = "127.0.0.21:9080".parse().unwrap();
        let layout = choose(&wanted(), |address| address != busy).unwrap();
        assert!(layout.pods.values().all(|place| place.app == 9081));
        assert_eq!(layout.notes, ["port 9080 is in use: the apps listen on 9081"]);
    }

    #[test]
    fn a_second_layout_beside_the_first_shares_nothing_with_it() {
        let first = all_addresses(&choose(&wanted(), |_| true).unwrap());
        let second = all_addresses(&choose(&wanted(), |address| !first.contains(&address)).unwrap());
        assert!(second.iter().all(|address| !first.contains(address)));
    }

    #[test]
    fn one_loopback_address_is_enough() {
        let layout = choose(&wanted(), |address| address.ip() == LOOPBACK).unwrap();
        let all = all_addresses(&layout);
        assert!(all.iter().all(|address| address.ip() == LOOPBACK));
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
    }

    #[test]
    fn no_port_at_all_is_said() {
        let error = choose(&wanted(), |address| address.port() == 0).unwrap_err().to_string();
        assert_eq!(error, "no free port for the gateway between 8080 and 8580");
    }
}
