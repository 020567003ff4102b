//! More clients than descriptors: what waiting for one costs, whether operators still see the proxy, and how soon all is well again.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use tokio::time::Instant;

use super::super::kind::Event;
use super::super::peer::Peer;
use super::super::rig::{Limits, Rig};
use super::{Contender, Verdicts, each, probe};
use crate::hold::Crowd;
use crate::lane::Lane;

/// One proxy without descriptors.
#[derive(Debug, Serialize)]
pub(in super::super) struct Want {
    /// Clients that got an answer all the same, of [`CLIENTS`]
    answered: u32,
    /// Share of one processor while it lasted
    share: f64,
    /// Good answers of the page for operators, and questions to it
    admin: Option<[u32; 2]>,
    /// From the moment the clients left to the first of [`IN_A_ROW`] good answers
    normal_after_ms: Option<u64>,
}

pub(in super::super) fn exhaust(contenders: &[Contender], rig: &mut Rig) -> Verdicts<Want> {
    let limits = Limits { connections: None, files: Some(FILES) };
    each(contenders, Event::Trial, Lane::Http1, limits, rig, |peer, rig| one(peer, rig))
}

fn one(peer: &Peer, rig: &Rig) -> anyhow::Result<Want> {
    let target = peer.address(Lane::Http1).context("the proxy does not speak that")?;
    ensure!(probe::answers(target, PATH), "it does not answer before it wants for anything");
    let page = peer.admin.is_none_or(|address| probe::answers(address, READY));
    ensure!(page, "its page for operators does not answer before it wants for anything");
    let flags = [
        ("target", target.to_string()),
        ("connections", CLIENTS.to_string()),
        ("at-once", CLIENTS.to_string()),
        ("patience", "1".to_owned()),
    ];
    let mut helper = rig.helper("hold", &flags)?;
    let crowd: Crowd = helper.say()?;
    let (begin, spent_before) = (Instant::now(), peer.spent()?);
    let mut admin = peer.admin.map(|_| [0, 0]);
    while begin.elapsed() < LENGTH {
        if let (Some(address), Some([good, all])) = (peer.admin, &mut admin) {
            *good += u32::from(probe::answers(address, READY));
            *all += 1;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let share = (peer.spent()? - spent_before) as f64 / begin.elapsed().as_nanos() as f64;
    helper.end()?;
    let normal_after_ms = recovery(target);
    Ok(Want { answered: crowd.answered, share, admin, normal_after_ms })
}

/// Milliseconds until answers are good and stay so.
fn recovery(target: std::net::SocketAddr) -> Option<u64> {
    let release = Instant::now();
    let (mut good, mut first) = (0, None);
    while release.elapsed() < GIVE_UP {
        let begin = release.elapsed();
        if probe::answers(target, PATH) {
            good += 1;
            first.get_or_insert(begin);
            if good == IN_A_ROW {
                return first.and_then(|first| u64::try_from(first.as_millis()).ok());
            }
        } else {
            (good, first) = (0, None);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let admin =
            self.admin.map_or_else(|| "has none".to_owned(), |[good, all]| format!("{good} of {all}"));
        let normal = self.normal_after_ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms} ms"));
        write!(f, "{} of {CLIENTS} | {:.1} % | {admin} | {normal}", self.answered, self.share * 100.0)
    }
}

/// Descriptors that the proxy has.
pub(in super::super) const FILES: u32 = 128;
/// Clients that come at once and stay.
pub(in super::super) const CLIENTS: u32 = 500;
const LENGTH: Duration = Duration::from_secs(5);
const GIVE_UP: Duration = Duration::from_secs(15);
const IN_A_ROW: u32 = 3;
const PATH: &str = "/1024";
const READY: &str = "/ready";
