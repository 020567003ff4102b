//! Random histories: whatever happened, in the end the client holds what the server has.

use std::time::Duration;

use proptest::prelude::*;
use sidegate_xds::resource::ResourceType;

use super::model::{Refusal, Wire, resource};
use crate::snapshot::Resources;

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    /// The world changes.
    Cluster {
        index: u8,
        version: u8,
        bad: bool,
    },
    DropCluster {
        index: u8,
    },
    Endpoints {
        index: u8,
        version: u8,
    },
    /// A secret has another content; there are two, shared by whoever needs one.
    Secret {
        index: u8,
        version: u8,
    },
    Listener {
        index: u8,
        version: u8,
        bad: bool,
        targets: Vec<u8>,
    },
    DropListener {
        index: u8,
    },
    /// The wire moves.
    Send,
    Receive,
    Client,
    Advance {
        seconds: u8,
    },
    Reconnect,
}

/// What the steps make of the world; turned into resources that always refer to what exists.
#[derive(Clone, Debug, Default)]
struct World {
    clusters: std::collections::BTreeMap<u8, (u8, bool, u8)>,
    secrets: [u8; 2],
    listeners: std::collections::BTreeMap<u8, (u8, bool, Vec<u8>)>,
}

impl World {
    /// Applies a step; says whether the world changed.
    fn change(&mut self, step: &Step) -> bool {
        match step.clone() {
            Step::Cluster { index, version, bad } => {
                let endpoints = self.clusters.get(&index).map_or(0, |(_, _, endpoints)| *endpoints);
                self.clusters.insert(index, (version, bad, endpoints));
            }
            Step::DropCluster { index } => {
                self.clusters.remove(&index);
            }
            Step::Endpoints { index, version } => match self.clusters.get_mut(&index) {
                Some((_, _, endpoints)) => *endpoints = version,
                None => return false,
            },
            Step::Secret { index, version } => self.secrets[usize::from(index)] = version,
            Step::Listener { index, version, bad, targets } => {
                self.listeners.insert(index, (version, bad, targets));
            }
            Step::DropListener { index } => {
                self.listeners.remove(&index);
            }
            Step::Send | Step::Receive | Step::Client | Step::Advance { .. } | Step::Reconnect => {
                return false;
            }
        }
        true
    }

    fn mend(&mut self) {
        self.clusters.values_mut().for_each(|(_, bad, _)| *bad = false);
        self.listeners.values_mut().for_each(|(_, bad, _)| *bad = false);
    }

    fn resources(&self) -> Resources {
        let mut resources = Resources::default();
        let word = |bad: bool| if bad { "bad" } else { "good" };
        for (index, (version, bad, endpoints)) in &self.clusters {
            let name = format!("c{index}");
            // Of its three versions one needs no secret, and two need different ones.
            let needs = version.checked_sub(1).map(|secret| needs(&mut resources, secret, self.secrets));
            let body = format!("{} {version}{}", word(*bad), needs.unwrap_or_default());
            resources.clusters.insert(name.clone(), resource(&body));
            resources.endpoints.insert(name, resource(&format!("e{endpoints}")));
        }
        for (index, (version, bad, targets)) in &self.listeners {
            let name = format!("l{index}");
            let existing = targets.iter().filter(|target| self.clusters.contains_key(*target));
            let list: Vec<String> = existing.map(|target| format!("c{target}")).collect();
            let needs = version.checked_sub(1).map(|secret| needs(&mut resources, secret, self.secrets));
            let body = format!("{} {version}{}", word(*bad), needs.unwrap_or_default());
            resources.listeners.insert(name.clone(), resource(&body));
            resources
                .routes
                .insert(name, resource(&format!("{} {version} > {}", word(*bad), list.join(" "))));
        }
        resources
    }
}

/// What a body says of the secret that it needs; the secret comes with it.
fn needs(resources: &mut Resources, secret: u8, versions: [u8; 2]) -> String {
    let name = format!("s{secret}");
    let body = resource(&format!("secret {}", versions[usize::from(secret)]));
    resources.secrets.insert(name.clone(), body);
    format!(" needs:{name}")
}

fn world_step(bad: bool) -> impl Strategy<Value = Step> {
    let bad = move || if bad { prop::bool::weighted(0.3).boxed() } else { Just(false).boxed() };
    prop_oneof![
        3 => (0..6u8, 0..3u8, bad()).prop_map(|(index, version, bad)| Step::Cluster { index, version, bad }),
        2 => (0..6u8).prop_map(|index| Step::DropCluster { index }),
        2 => (0..6u8, 0..3u8).prop_map(|(index, version)| Step::Endpoints { index, version }),
        1 => (0..2u8, 0..3u8).prop_map(|(index, version)| Step::Secret { index, version }),
        3 => (0..3u8, 0..3u8, bad(), prop::collection::vec(0..6u8, 0..4))
            .prop_map(|(index, version, bad, targets)| Step::Listener { index, version, bad, targets }),
        1 => (0..3u8).prop_map(|index| Step::DropListener { index }),
    ]
}

fn wire_step() -> impl Strategy<Value = Step> {
    prop_oneof![3 => Just(Step::Send), 3 => Just(Step::Receive), 3 => Just(Step::Client)]
}

fn wild_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => world_step(true),
        8 => wire_step(),
        1 => (0..20u8).prop_map(|seconds| Step::Advance { seconds }),
        1 => Just(Step::Reconnect),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![Just(Refusal::Partly), Just(Refusal::Whole), Just(Refusal::Mute)]
}

fn play(wire: &mut Wire, world: &mut World, step: &Step) {
    if world.change(step) {
        wire.publish(world.resources());
    }
    match step {
        Step::Send => {
            wire.send();
        }
        Step::Receive => {
            wire.receive();
        }
        Step::Client => wire.client.step(),
        Step::Advance { seconds } => wire.advance(Duration::from_secs(u64::from(*seconds))),
        Step::Reconnect => wire.reconnect(),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_the_end_both_are_equal(
        steps in prop::collection::vec(wild_step(), 0..200),
        refusal in refusal(),
        foreign: bool,
    ) {
        let mut world = World::default();
        let mut wire = Wire::new(world.resources(), refusal, foreign);
        for step in &steps {
            play(&mut wire, &mut world, step);
        }
        wire.rest();
        world.mend();
        wire.publish(world.resources());
        wire.rest();
        wire.assert_equal();
        prop_assert_eq!(wire.stream.applied_generation(), wire.snapshot.generation);
    }

    #[test]
    fn what_is_refused_is_not_sent_in_a_loop(
        steps in prop::collection::vec(world_step(true), 1..30),
        refusal in refusal(),
    ) {
        let mut world = World::default();
        for step in &steps {
            world.change(step);
        }
        let mut wire = Wire::new(world.resources(), refusal, false);
        wire.rest();
        let most = wire.client.refused.values().max().copied().unwrap_or(0);
        // Six clusters: together, in halves, in quarters, alone.
        prop_assert!(most <= 4, "{:?}", wire.client.refused);
        // Whatever is good arrived, whoever it travelled with.
        for kind in [ResourceType::Cluster, ResourceType::Listener] {
            let good = wire.snapshot.resources.of(kind).values().filter(|one| !one.body.starts_with(b"bad")).count();
            prop_assert_eq!(wire.client.texts(kind).len(), good);
        }
    }

    #[test]
    fn no_route_ever_leads_nowhere(
        steps in prop::collection::vec(prop_oneof![1 => world_step(false), 6 => wire_step()], 0..300),
        foreign: bool,
    ) {
        let mut world = World::default();
        let mut wire = Wire::new(world.resources(), Refusal::Partly, foreign);
        for step in &steps {
            play(&mut wire, &mut world, step);
            prop_assert_eq!(wire.client.broken_routes(), vec![], "after {:?}", step);
        }
    }
}
