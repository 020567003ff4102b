//! How much a proxy takes in for somebody who does not take it off its hands.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::super::helper::send;
use super::super::kind::Event;
use super::super::peer::Peer;
use super::super::rig::Rig;
use super::{Contender, Verdicts, each, mib};
use crate::attack::{Attack, Report};
use crate::lane::Lane;
use crate::upload::Taken;
use crate::workload::{VICTIM, WORKLOADS, Workload};

/// Memory of one proxy.
#[derive(Debug, Serialize)]
pub(in super::super) struct Growth {
    before_kib: u64,
    peak_kib: u64,
    /// What came of it: answers that began, bytes that were taken
    note: String,
}

/// 100 answers of 1 MB on one connection whose client opens no window.
pub(in super::super) fn zero_window(contenders: &[Contender], rig: &mut Rig) -> Verdicts<Growth> {
    let limits = rig.ample();
    each(contenders, Event::ZeroWindow, Lane::Downgrade, limits, rig, |peer, rig| {
        let target = peer.address(Lane::Downgrade).context("the proxy does not speak that")?;
        warm(&VICTIM, peer, rig)?;
        let before_kib = peer.resident_kib()?;
        let flags = [
            ("attack", Attack::ZeroWindow.name()),
            ("target", target.to_string()),
            ("connections", "1".to_owned()),
            ("seconds", WINDOW_SECONDS.to_string()),
        ];
        let mut attack = rig.helper("attack", &flags)?;
        let peak_kib = peer.peak_kib(Duration::from_secs(WINDOW_SECONDS))?;
        let Report { answers, resets, endings, .. } = attack.say()?;
        let ending = endings.into_keys().next().unwrap_or_default();
        Ok(Growth { before_kib, peak_kib, note: format!("{answers} begun, {resets} reset, {ending}") })
    })
}

/// 100 uploads of 100 MB each to an origin that reads 10 KB/s of each; on the HTTP/1.1 lane each on a connection of its own, on the other
/// all on one of HTTP/2.
pub(in super::super) fn slow_upstream(
    lane: Lane,
    length: Duration,
    contenders: &[Contender],
    rig: &mut Rig,
) -> Verdicts<Growth> {
    let limits = rig.ample();
    each(contenders, Event::SlowUpstream, lane, limits, rig, |peer, rig| {
        let target = peer.address(lane).context("the proxy does not speak that")?;
        warm(if lane.takes_http2() { &VICTIM } else { &WORKLOADS[0] }, peer, rig)?;
        let before_kib = peer.resident_kib()?;
        let flags = [
            ("target", target.to_string()),
            ("uploads", "100".to_owned()),
            ("http2", lane.takes_http2().to_string()),
            ("bytes", "100000000".to_owned()),
            ("seconds", length.as_secs_f64().to_string()),
        ];
        let mut uploads = rig.helper("upload", &flags)?;
        let peak_kib = peer.peak_kib(length)?;
        let Taken { open, bytes, first_error } = uploads.say()?;
        let error = first_error.map(|error| format!(", {error}")).unwrap_or_default();
        let note = format!("{open} open, {} MiB sent{error}", bytes >> 20);
        Ok(Growth { before_kib, peak_kib, note })
    })
}

/// What is allocated once, for whatever comes first, is not growth.
fn warm(workload: &Workload, peer: &Peer, rig: &Rig) -> anyhow::Result<()> {
    let target = peer.address(workload.lane).context("the proxy does not speak that")?;
    send(workload, target, Duration::from_millis(500), &rig.machine, &rig.certificates)?;
    Ok(())
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let growth = mib(self.peak_kib.saturating_sub(self.before_kib));
        write!(f, "+{growth:.1} | {:.1} | {}", mib(self.before_kib), self.note)
    }
}

const WINDOW_SECONDS: u64 = 4;
