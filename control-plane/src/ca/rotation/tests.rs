//! The rotation against a model of the world: proxies that come, go, confirm, renew and die, and a control plane that dies, too.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::ca::ledger::Ledger;

mod names;
mod without;

/// Short, so that random events reach every gate.
const SETTINGS: Settings = Settings { hold: 10, grace: 60, wait_for_absent: true, leaf_life: 600 };

/// One proxy: what it has in its memory, and how it is connected.
#[derive(Clone, Debug, Default)]
struct Proxy {
    /// Empty until it was told whom to trust; its process has not begun to speak to others then.
    trusts: BTreeSet<String>,
    /// Serial, root and end of its leaf.
    leaf: Option<(String, String, u64)>,
    /// Since when it is connected.
    connected: Option<u64>,
    /// It confirmed on this connection.
    confirmed: bool,
}

struct Model {
    now: u64,
    rotation: Rotation,
    /// What a restart finds.
    kept: (String, u64),
    ledger: Ledger,
    proxies: Vec<Proxy>,
    /// Proxies that a rotation was told not to wait for: what they suffer is their own, until they have caught up.
    left_out: BTreeSet<usize>,
    /// Proxies whose leaves of up to then it does not wait for.
    leaves_left_out: BTreeMap<usize, u64>,
    made: usize,
    roots: usize,
}

#[derive(Clone, Debug)]
enum Event {
    Pass(u64),
    Connect(usize),
    Disconnect(usize),
    Confirm(usize),
    Renew(usize),
    Die(usize),
    Restart,
    Start,
    Cancel,
    /// A proxy is not waited for, by its node id.
    Without(usize),
    /// Nobody of its identity is.
    WithoutIdentity(usize),
}

/// Three proxies of one identity, and one of another.
const PROXIES: usize = 4;

fn identity(index: usize) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{}", if index < 3 { "web" } else { "pay" })
}

impl Model {
    fn new() -> Self {
        let rotation = Rotation::stable("root-0".to_owned(), 1_000);
        let mut model = Self {
            now: 1_000,
            kept: (serde_json::to_string(&rotation).unwrap(), 1_000),
            rotation,
            ledger: Ledger::default(),
            proxies: vec![Proxy::default(); PROXIES],
            left_out: BTreeSet::new(),
            leaves_left_out: BTreeMap::new(),
            made: 0,
            roots: 1,
        };
        for index in 0..PROXIES {
            model.happen(&Event::Connect(index));
            model.happen(&Event::Confirm(index));
            model.happen(&Event::Renew(index));
        }
        model
    }

    fn trusted(&self) -> BTreeSet<String> {
        self.rotation.trusted().into_iter().map(str::to_owned).collect()
    }

    fn witnesses(&self) -> Vec<Witness> {
        let trusted = self.trusted();
        let witness = |(index, proxy): (usize, &Proxy)| {
            let since = proxy.connected?;
            let roots = match (proxy.confirmed && proxy.trusts == trusted, proxy.trusts.is_empty()) {
                (true, _) => Roots::Confirmed(proxy.trusts.clone()),
                (false, true) => Roots::NotAsked,
                (false, false) => Roots::Unconfirmed,
            };
            Some(Witness {
                proxy: format!("proxy-{index}"),
                title: format!("sidecar shop/pod-{index}"),
                identity: identity(index),
                connected: self.now - since,
                roots,
            })
        };
        self.proxies.iter().enumerate().filter_map(witness).collect()
    }

    fn look(&mut self) {
        self.ledger.expire(self.now, SETTINGS.grace);
        let leaves: Vec<LiveLeaf> = self.ledger.iter().cloned().collect();
        let witnesses = self.witnesses();
        let world = World { witnesses: &witnesses, leaves: &leaves };
        let actions = self.rotation.look(self.now, &world, &SETTINGS);
        // As the keeper does it: at every step, and now and then.
        if !actions.is_empty() || self.now >= self.kept.1 + 10 {
            self.keep();
        }
    }

    fn keep(&mut self) {
        self.kept = (serde_json::to_string(&self.rotation).unwrap(), self.now);
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Pass(seconds) => self.now += seconds,
            Event::Connect(index) => {
                let proxy = &mut self.proxies[*index];
                proxy.connected.get_or_insert(self.now);
            }
            Event::Disconnect(index) => {
                let proxy = &mut self.proxies[*index];
                (proxy.connected, proxy.confirmed) = (None, false);
            }
            Event::Confirm(index) => {
                let trusted = self.trusted();
                let proxy = &mut self.proxies[*index];
                if proxy.connected.is_some() {
                    (proxy.trusts, proxy.confirmed) = (trusted, true);
                }
            }
            Event::Renew(index) => self.renew(*index),
            Event::Die(index) => {
                self.proxies[*index] = Proxy::default();
            }
            Event::Without(index) => {
                if self.leave_out(&format!("proxy-{index}")) {
                    self.left_out.insert(*index);
                }
            }
            Event::WithoutIdentity(index) => {
                let name = identity(*index);
                if self.leave_out(&name) {
                    let all = (0..PROXIES).filter(|other| identity(*other) == name);
                    self.left_out.extend(all.clone());
                    self.leaves_left_out.extend(all.map(|other| (other, self.now)));
                }
            }
            Event::Restart => {
                let kept: Rotation = serde_json::from_str(&self.kept.0).unwrap();
                self.rotation = kept.resumed(self.now);
                for proxy in &mut self.proxies {
                    (proxy.connected, proxy.confirmed) = (None, false);
                }
            }
            Event::Start => {
                if self.rotation.start(format!("root-{}", self.roots), self.now).is_ok() {
                    self.roots += 1;
                    self.keep();
                }
            }
            Event::Cancel => {
                if self.rotation.cancel(self.now).is_ok() {
                    self.keep();
                }
            }
        }
        self.look();
        self.catch_up();
    }

    /// Who has confirmed what is trusted now is waited for again; so is whoever got a leaf after it was left out.
    fn catch_up(&mut self) {
        let (trusted, now) = (self.trusted(), self.now);
        let proxies = &self.proxies;
        self.left_out.retain(|index| !(proxies[*index].confirmed && proxies[*index].trusts == trusted));
        self.leaves_left_out.retain(|index, since| {
            let lives = |until: u64| until > now && until - SETTINGS.leaf_life <= *since;
            // A leaf of the same second is one of those that it was given so far.
            now <= *since || proxies[*index].leaf.as_ref().is_some_and(|(_, _, until)| lives(*until))
        });
    }

    fn waiting(&self) -> Vec<Waiting> {
        let leaves: Vec<LiveLeaf> = self.ledger.iter().cloned().collect();
        let witnesses = self.witnesses();
        let world = World { witnesses: &witnesses, leaves: &leaves };
        self.rotation.waiting(self.now, &world, &SETTINGS)
    }

    /// As the keeper does it: those who are named, and nobody else, are gone from the list, and it is on the disk.
    fn leave_out(&mut self, name: &str) -> bool {
        let before = (self.waiting(), self.rotation.clone());
        let done = self.rotation.leave_out(name, self.now, &before.0);
        if done.is_err() {
            assert_eq!(self.rotation, before.1);
            return false;
        }
        let is_named =
            |one: &Waiting| one.node.as_deref() == Some(name) || one.identity.as_deref() == Some(name);
        let others: Vec<Waiting> = before.0.into_iter().filter(|one| !is_named(one)).collect();
        assert_eq!(self.waiting(), others, "without {name}");
        assert_eq!(
            (self.rotation.phase, self.rotation.trusted(), self.rotation.signs()),
            (before.1.phase, before.1.trusted(), before.1.signs()),
            "nothing else happens"
        );
        self.keep();
        true
    }

    /// A proxy renews by its connection to the control plane, once it knows whom to trust. One that comes back after its leaf was
    /// over is told whom to trust first.
    fn renew(&mut self, index: usize) {
        let now = self.now;
        let root = self.rotation.signs().to_owned();
        let proxy = &mut self.proxies[index];
        let over = proxy.leaf.as_ref().is_none_or(|(_, _, until)| *until <= now);
        if proxy.connected.is_none() || proxy.trusts.is_empty() || (over && !proxy.confirmed) {
            return;
        }
        self.made += 1;
        let serial = format!("{:032x}", self.made);
        let earlier = proxy.leaf.replace((serial.clone(), root.clone(), now + SETTINGS.leaf_life));
        self.ledger.insert(LiveLeaf {
            key: serial.clone(),
            serial,
            identity: identity(index),
            root,
            issued: now,
            until: now + SETTINGS.leaf_life,
            proof: String::new(),
            superseded: None,
            revoked: None,
            issuer: String::new(),
            own: false,
        });
        if let Some((earlier, ..)) = earlier {
            self.ledger.supersede(&earlier, &identity(index), now);
        }
    }

    /// Proxies that can speak to others: they know whom to trust, and their leaf is valid. Those that were left out are no longer promised that.
    fn speaking(&self) -> impl Iterator<Item = (&BTreeSet<String>, &str)> {
        let waited_for =
            self.proxies.iter().enumerate().filter(|(index, _)| {
                !self.left_out.contains(index) && !self.leaves_left_out.contains_key(index)
            });
        waited_for.filter_map(|(_, proxy)| {
            let (_, root, until) = proxy.leaf.as_ref()?;
            (*until > self.now && !proxy.trusts.is_empty()).then_some((&proxy.trusts, root.as_str()))
        })
    }

    fn check(&self) {
        for (trusts, _) in self.speaking() {
            for (_, root) in self.speaking() {
                assert!(
                    trusts.contains(root),
                    "a proxy that trusts {trusts:?} meets a leaf of {root}, in {:?}",
                    self.rotation
                );
            }
            // Whoever renews now is understood, too.
            assert!(trusts.contains(self.rotation.signs()), "{trusts:?} and {:?}", self.rotation);
        }
        let trusted = self.trusted();
        for (_, root) in self.speaking() {
            assert!(trusted.contains(root), "{root} lives and is not trusted, in {:?}", self.rotation);
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let proxy = 0..PROXIES;
    prop_oneof![
        4 => (1_u64..15).prop_map(Event::Pass),
        1 => (15_u64..400).prop_map(Event::Pass),
        4 => proxy.clone().prop_map(Event::Connect),
        1 => proxy.clone().prop_map(Event::Disconnect),
        6 => proxy.clone().prop_map(Event::Confirm),
        4 => proxy.clone().prop_map(Event::Renew),
        1 => proxy.clone().prop_map(Event::Die),
        1 => proxy.clone().prop_map(Event::Without),
        1 => proxy.prop_map(Event::WithoutIdentity),
        1 => Just(Event::Restart),
        2 => Just(Event::Start),
        1 => Just(Event::Cancel),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn nobody_meets_a_leaf_that_it_does_not_trust(events in prop::collection::vec(event(), 1..200)) {
        let mut model = Model::new();
        for event in &events {
            model.happen(event);
            model.check();
        }
        // From wherever it is, it comes to its end when proxies do their part.
        for _ in 0..2_000 {
            for index in 0..PROXIES {
                for event in [Event::Connect(index), Event::Confirm(index), Event::Renew(index)] {
                    model.happen(&event);
                    model.check();
                }
            }
            model.happen(&Event::Pass(5));
            model.check();
            if model.rotation.phase == Phase::Stable {
                break;
            }
        }
        prop_assert_eq!(model.rotation.phase, Phase::Stable);
    }
}

/// One proxy that confirms and renews, step by step.
#[test]
fn each_gate_opens_for_what_it_waits_for_and_nothing_else() {
    let mut model = Model::new();
    model.proxies.truncate(1);
    model.ledger = Ledger::default();
    model.rotation = Rotation::stable("root-0".to_owned(), model.now);
    model.happen(&Event::Renew(0));
    model.happen(&Event::Start);
    assert_eq!(model.rotation.trusted(), ["root-0", "root-1"]);
    for _ in 0..100 {
        model.happen(&Event::Pass(1));
    }
    assert_eq!(
        (model.rotation.phase, model.rotation.signs()),
        (Phase::Distributing, "root-0"),
        "not confirmed"
    );
    model.happen(&Event::Confirm(0));
    model.happen(&Event::Pass(9));
    assert_eq!(model.rotation.phase, Phase::Distributing, "confirmed, but not for long enough");
    model.happen(&Event::Pass(1));
    assert_eq!((model.rotation.phase, model.rotation.signs()), (Phase::Signing, "root-1"));
    assert_eq!(model.rotation.signs_own(), "root-0", "bootstraps know the old root");
    assert_eq!(model.rotation.cancel(model.now), Err(Refusal::TooLate(Phase::Signing)));
    model.happen(&Event::Confirm(0));
    model.happen(&Event::Pass(100));
    assert_eq!(model.rotation.phase, Phase::Signing, "a leaf of the old root lives");
    model.happen(&Event::Renew(0));
    model.happen(&Event::Pass(59));
    assert_eq!(model.rotation.phase, Phase::Signing, "it was replaced only now");
    model.happen(&Event::Pass(1));
    model.happen(&Event::Pass(10));
    assert_eq!((model.rotation.phase, model.rotation.signs_own()), (Phase::Retiring, "root-1"));
    assert_eq!(model.rotation.trusted(), ["root-1"]);
    model.happen(&Event::Pass(100));
    assert_eq!(model.rotation.phase, Phase::Retiring, "the old root is still trusted by somebody");
    model.happen(&Event::Confirm(0));
    model.happen(&Event::Pass(10));
    assert_eq!(model.rotation.kept().collect::<Vec<_>>(), ["root-1"]);
    assert_eq!(model.rotation.phase, Phase::Stable);
}

#[test]
fn a_proxy_that_went_away_is_waited_for_by_name_until_its_leaf_is_over() {
    let mut model = Model::new();
    model.happen(&Event::Disconnect(1));
    model.happen(&Event::Start);
    for index in [0, 2, 3] {
        model.happen(&Event::Confirm(index));
    }
    let left = |model: &Model| model.waiting().into_iter().map(|waiting| waiting.who).collect::<Vec<_>>();
    assert_eq!(left(&model), ["sidecar shop/pod-1"]);
    model.happen(&Event::Restart);
    for index in [0, 2, 3] {
        model.happen(&Event::Connect(index));
        model.happen(&Event::Confirm(index));
    }
    assert_eq!(left(&model), ["sidecar shop/pod-1"], "a restart does not make it forgotten");
    for _ in 0..30 {
        model.happen(&Event::Pass(10));
        [0, 2, 3].iter().for_each(|index| model.happen(&Event::Renew(*index)));
    }
    assert_eq!(model.rotation.phase, Phase::Distributing);
    model.happen(&Event::Pass(SETTINGS.leaf_life));
    [0, 2, 3].iter().for_each(|index| model.happen(&Event::Renew(*index)));
    model.happen(&Event::Pass(11));
    assert_eq!(model.rotation.phase, Phase::Signing, "its certificate is over");
}

/// It came back and renewed after the last write, and another proxy of its identity has no leaf that could be taken for its own.
#[test]
fn a_proxy_that_came_back_unwritten_before_a_restart_is_waited_for() {
    let mut model = Model::new();
    for event in [Event::Pass(40), Event::Restart, Event::Pass(300), Event::Die(0), Event::Pass(13)] {
        model.happen(&event);
    }
    for event in [Event::Connect(1), Event::Renew(1), Event::Restart, Event::Connect(0), Event::Start] {
        model.happen(&event);
    }
    for _ in 0..55 {
        model.happen(&Event::Pass(10));
        model.check();
    }
    assert_eq!(model.rotation.phase, Phase::Distributing);
    assert!(model.waiting().iter().any(|one| one.who == "sidecar shop/pod-1"));
}

#[test]
fn a_cancelled_rotation_leaves_no_trace() {
    let mut rotation = Rotation::stable("old".to_owned(), 5);
    assert_eq!(rotation.cancel(6), Err(Refusal::None));
    rotation.start("new".to_owned(), 6).unwrap();
    assert_eq!(rotation.start("newer".to_owned(), 7), Err(Refusal::UnderWay(Phase::Distributing)));
    assert_eq!(rotation.cancel(8).unwrap(), [Action::Publish, Action::Drop("new".to_owned())]);
    assert_eq!(rotation, Rotation::stable("old".to_owned(), 8));
    assert_eq!(rotation.start("old".to_owned(), 9), Err(Refusal::Same));
}

/// The control plane died before it could write down that a second proxy of an identity came.
#[test]
fn a_leaf_without_a_proxy_that_is_known_is_waited_for() {
    let mut rotation = Rotation::stable("old".to_owned(), 0);
    let leaf = |serial: &str, issued: u64| LiveLeaf {
        serial: serial.to_owned(),
        identity: identity(0),
        root: "old".to_owned(),
        key: serial.to_owned(),
        issued,
        until: issued + SETTINGS.leaf_life,
        proof: String::new(),
        superseded: None,
        revoked: None,
        issuer: String::new(),
        own: false,
    };
    rotation.start("new".to_owned(), 100).unwrap();
    let roots = ["old", "new"].map(str::to_owned).into();
    let known = [Witness {
        proxy: "one".to_owned(),
        title: "sidecar shop/one".to_owned(),
        identity: identity(0),
        connected: 50,
        roots: Roots::Confirmed(roots),
    }];
    let mut waits = |now: u64, leaves: &[LiveLeaf], witnesses: &[Witness], settings: &Settings| {
        let world = World { witnesses, leaves };
        rotation.look(now, &world, settings);
        rotation.waiting(now, &world, settings).len()
    };
    let (one, two) = (leaf("1", 90), leaf("2", 90));
    assert_eq!(waits(101, std::slice::from_ref(&one), &known, &SETTINGS), 0, "its one proxy has confirmed");
    assert_eq!(waits(101, &[one.clone(), two.clone()], &known, &SETTINGS), 1);
    assert_eq!(waits(101, &[leaf("3", 101), two.clone()], &known, &SETTINGS), 1, "one renewed, one did not");
    assert_eq!(
        waits(101, &[leaf("3", 101), leaf("4", 101)], &known, &SETTINGS),
        0,
        "no leaf is older than the rotation"
    );
    let replaced = LiveLeaf { superseded: Some(101), ..two.clone() };
    assert_eq!(waits(101, &[one.clone(), replaced], &known, &SETTINGS), 0);
    let own = LiveLeaf { own: true, ..two.clone() };
    assert_eq!(waits(101, &[one.clone(), own], &known, &SETTINGS), 0, "the control plane knows by itself");
    assert_eq!(
        waits(101, std::slice::from_ref(&two), &[], &SETTINGS),
        1,
        "the one that confirmed is gone, and this may be another's"
    );
    let impatient = Settings { wait_for_absent: false, ..SETTINGS };
    assert_eq!(waits(101, &[one, two], &known, &impatient), 0);
}
