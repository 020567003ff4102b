//! Floods of HTTP/2 frames, with a well-behaved client beside them.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::super::helper::{load, send};
use super::super::kind::Event;
use super::super::peer::Peer;
use super::super::rig::Rig;
use super::{Contender, Verdicts, each, mib};
use crate::attack::{Attack, Report};
use crate::lane::Lane;
use crate::load::Report as Calls;
use crate::workload::VICTIM;

/// One proxy under one attack.
#[derive(Debug, Serialize)]
pub(in super::super) struct Flood {
    attackers: Report,
    victims: Calls,
    /// Requests of attackers that the origin got to see
    reached_origin: u64,
    before_kib: u64,
    peak_kib: u64,
}

pub(in super::super) fn flood(
    attack: Attack,
    length: Duration,
    contenders: &[Contender],
    rig: &mut Rig,
) -> Verdicts<Flood> {
    let limits = rig.ample();
    each(contenders, Event::Trial, Lane::Downgrade, limits, rig, |peer, rig| one(attack, length, peer, rig))
}

fn one(attack: Attack, length: Duration, peer: &Peer, rig: &mut Rig) -> anyhow::Result<Flood> {
    let target = peer.address(Lane::Downgrade).context("the proxy does not speak that")?;
    let service = Lane::Downgrade.service();
    // What is allocated once, for whoever comes first, is not growth.
    send(&VICTIM, target, CALM, &rig.machine, &rig.certificates)?;
    let before_kib = peer.resident_kib()?;
    let seen_before = rig.origin.count(service)?;
    let mut victims = load(&VICTIM, target, CALM + length, &rig.machine, &rig.certificates)?;
    victims.go()?;
    std::thread::sleep(CALM);
    let flags = [
        ("attack", attack.name()),
        ("target", target.to_string()),
        ("connections", ATTACKERS.to_string()),
        ("seconds", length.as_secs_f64().to_string()),
    ];
    let mut attackers = rig.helper("attack", &flags)?;
    let peak_kib = peer.peak_kib(length)?;
    let attackers: Report = attackers.say()?;
    let victims: Calls = victims.say()?;
    let seen = rig.origin.count(service)? - seen_before;
    Ok(Flood { reached_origin: seen.saturating_sub(victims.ok), attackers, victims, before_kib, peak_kib })
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attackers, victims, .. } = self;
        let open = attackers.endings.get("open").copied().unwrap_or(0);
        let cut = attackers.cut;
        let growth = mib(self.peak_kib.saturating_sub(self.before_kib));
        let strikes = format!("{} ({})", attackers.strikes_median, attackers.strikes_max);
        // Where time was over first, nobody knows how many it would have taken.
        let strikes = match open {
            0 => strikes,
            _ if attackers.survived > 0 => format!("never: {strikes}"),
            _ => format!("more than {strikes}"),
        };
        let endings: Vec<&str> = attackers.endings.keys().map(String::as_str).collect();
        write!(
            f,
            "{cut} of {} | {strikes} | {} | +{growth:.1} | {} of {} | {:.0} ms | {}",
            cut + open,
            self.reached_origin,
            victims.errors,
            victims.errors + victims.ok,
            f64::from(victims.latency_max) / 1e3,
            endings.join(", ")
        )
    }
}

const ATTACKERS: u32 = 50;
/// How long the victims have the proxy to themselves.
const CALM: Duration = Duration::from_millis(500);
