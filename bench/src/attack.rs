//! Hostile HTTP/2 clients: each connection sends the frames of one attack until it is cut, has sent all, or time is over.

mod fight;
mod frame;
mod script;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::fight::{Ending, fight};
pub(crate) use self::script::Attack;

/// What to do, and to whom.
#[derive(Args, Clone, Debug)]
pub(crate) struct Order {
    /// What is sent
    #[arg(long, value_enum)]
    attack: Attack,
    /// Where
    #[arg(long)]
    target: SocketAddr,
    /// How many attackers
    #[arg(long)]
    connections: u32,
    /// How long at most
    #[arg(long)]
    seconds: f64,
}

/// How it went.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Connections that the proxy ended or told to go away
    pub(crate) cut: u32,
    /// Open at the end, with every strike of the attack sent
    pub(crate) survived: u32,
    /// Strikes until the cut was noticed, or until the end where there was none: the median and the most of a connection
    pub(crate) strikes_median: u64,
    pub(crate) strikes_max: u64,
    /// How connections ended
    pub(crate) endings: BTreeMap<String, u32>,
    /// Answers that began, and streams that the proxy reset
    pub(crate) answers: u64,
    pub(crate) resets: u64,
}

/// Prints a [`Report`].
pub(crate) fn run(order: &Order) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let endings = runtime.block_on(all(order));
    println!("{}", serde_json::to_string(&Report::of(&endings, order.attack.script().total))?);
    Ok(())
}

async fn all(order: &Order) -> Vec<Ending> {
    let end = Instant::now() + Duration::from_secs_f64(order.seconds);
    let mut fights = JoinSet::new();
    let script = Rc::new(order.attack.script());
    for _ in 0..order.connections {
        let (target, script) = (order.target, script.clone());
        fights.spawn_local(async move { fight(target, &script, end).await });
    }
    let mut endings = Vec::new();
    while let Some(ending) = fights.join_next().await {
        endings.extend(ending.ok());
    }
    endings
}

impl Report {
    fn of(endings: &[Ending], total: u64) -> Self {
        let mut report = Self::default();
        let mut strikes: Vec<u64> = endings.iter().map(|ending| ending.strikes).collect();
        strikes.sort_unstable();
        report.strikes_median = strikes.get(strikes.len() / 2).copied().unwrap_or(0);
        report.strikes_max = strikes.last().copied().unwrap_or(0);
        for ending in endings {
            report.cut += u32::from(ending.cut.is_some());
            report.survived += u32::from(ending.cut.is_none() && ending.strikes == total);
            let how = ending.cut.clone().unwrap_or_else(|| "open".to_owned());
            *report.endings.entry(how).or_default() += 1;
            report.answers += ending.answers;
            report.resets += ending.resets;
        }
        report
    }
}
