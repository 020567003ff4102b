//! What an idle keep-alive connection weighs.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::super::helper::Helper;
use super::super::kind::Event;
use super::super::peer::Peer;
use super::super::rig::Rig;
use super::{Contender, Verdicts, each, mib};
use crate::hold::Crowd;
use crate::lane::Lane;

/// One proxy with many connections that have asked once.
#[derive(Debug, Serialize)]
pub(in super::super) struct Weight {
    connections: u32,
    before_kib: u64,
    after_kib: u64,
    /// Of each connection
    kib: f64,
    /// Why the figure means nothing
    pub(in super::super) invalid: Option<String>,
}

pub(in super::super) fn weigh(lane: Lane, contenders: &[Contender], rig: &mut Rig) -> Verdicts<Weight> {
    let connections = rig.most_connections().min(CONNECTIONS);
    if connections < CONNECTIONS {
        eprintln!("  only {connections} connections: this process may not have more descriptors");
    }
    let limits = rig.ample();
    each(contenders, Event::Trial, lane, limits, rig, |peer, rig| one(peer, lane, connections, rig))
}

fn one(peer: &Peer, lane: Lane, connections: u32, rig: &Rig) -> anyhow::Result<Weight> {
    crowd(peer, lane, 20, rig)?.end()?;
    std::thread::sleep(Duration::from_millis(500));
    let before_kib = peer.resident_kib()?;
    let mut helper = crowd(peer, lane, connections, rig)?;
    let crowd: Crowd = helper.say()?;
    std::thread::sleep(SETTLE);
    let after_kib = peer.resident_kib()?;
    helper.end()?;
    let invalid = (crowd.answered != connections).then(|| {
        let error = crowd.first_error.unwrap_or_default();
        format!("only {} of {connections} were answered: {error}", crowd.answered)
    });
    let kib = after_kib.saturating_sub(before_kib) as f64 / f64::from(connections);
    Ok(Weight { connections, before_kib, after_kib, kib, invalid })
}

fn crowd(peer: &Peer, lane: Lane, connections: u32, rig: &Rig) -> anyhow::Result<Helper> {
    let target = peer.address(lane).context("the proxy does not speak that")?;
    let mut flags = vec![
        ("target", target.to_string()),
        ("connections", connections.to_string()),
        ("at-once", "32".to_owned()),
        ("patience", "10".to_owned()),
    ];
    if lane == Lane::TlsDown {
        flags.push(("certificates", rig.certificates.folder().display().to_string()));
    }
    rig.helper("hold", &flags)
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, after] = [self.before_kib, self.after_kib].map(mib);
        match &self.invalid {
            Some(why) => write!(f, "INVALID ({why})"),
            None => write!(f, "{:.1} | {before:.1} | {after:.1}", self.kib),
        }
    }
}

const CONNECTIONS: u32 = 5_000;
/// Until buffers that are given back when a connection idles have been.
const SETTLE: Duration = Duration::from_secs(3);
