//! What the rotation and the user's files ask for, done: on the disk first, then in memory, then for everybody to see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::certificate::Moment;
use super::directory::Directory;
use super::error::CaError;
use super::generation::{self, Generation, ISSUING_MARGIN, names};
use super::ledger::LiveLeaf;
use super::options::Given;
use super::report::{Expiry, LISTED, Report, Root, Turn};
use super::revocation::Revocations;
use super::rotation::{Action, Phase, Rotation, Waiting, Witness, World};
use super::trust::{Extra, Files, assemble};
use super::{Inner, lock};

/// The part of the authority that moves.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) rotation: Rotation,
    /// Of every root that the rotation keeps.
    pub(super) generations: BTreeMap<String, Arc<Generation>>,
    /// Roots that were in force once.
    pub(super) retired: Vec<String>,
    pub(super) files: Files,
    pub(super) extra: Extra,
    pub(super) revocations: Revocations,
    /// When the rotation was last written.
    pub(super) kept_at: u64,
}

/// What people see of the keeper.
#[derive(Clone, Debug)]
pub(super) struct View {
    phase: Phase,
    since: u64,
    current: String,
    next: Option<String>,
    roots: Vec<(String, bool, u64)>,
    waiting: Vec<Waiting>,
    /// Whom it was told not to wait for.
    without: Vec<String>,
    /// How many certificates are revoked.
    revoked: usize,
    /// What is wrong with the user's files, and what could not be written.
    problems: Vec<String>,
}

/// `authority.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    pub(super) version: u32,
    pub(super) trust_domain: String,
    pub(super) rotation: Rotation,
    #[serde(default)]
    pub(super) retired: Vec<String>,
}

impl Inner {
    /// Looks after everything once; says how far the rotation is.
    pub(super) fn look(&self, witnesses: &[Witness]) -> Phase {
        let mut keeper = lock(&self.keeper);
        let now = self.options.clock.now();
        let mut problems = self.look_at_files(&mut keeper);
        problems.extend(self.renew_issuing(&mut keeper, now));
        problems.extend(self.forget_revoked(&mut keeper, now));
        let mut leaves = self.expire(now, keeper.rotation.phase);
        // Nobody accepts the denied, whatever they trust or show: they hold up nothing.
        let denied: BTreeSet<&str> = keeper.extra.denied.iter().map(String::as_str).collect();
        leaves.retain(|leaf| !denied.contains(leaf.identity.as_str()));
        let accepted = witnesses.iter().filter(|witness| !denied.contains(witness.identity.as_str()));
        let witnesses: Vec<Witness> = accepted.cloned().collect();
        let world = World { witnesses: &witnesses, leaves: &leaves };
        let before = keeper.rotation.clone();
        let actions = keeper.rotation.look(now, &world, &self.options.rotation);
        let due = now.saturating_sub(keeper.kept_at) >= KEEP_PACE || now < keeper.kept_at;
        if !actions.is_empty() || (due && keeper.rotation != before) {
            match self.keep_rotation(&mut keeper, &actions, now) {
                Ok(()) => self.act(&mut keeper, actions),
                Err(error) => {
                    // Nothing that is not on the disk has happened; it is tried again.
                    keeper.rotation = before;
                    problems.push(error.to_string());
                }
            }
        }
        let waiting = keeper.rotation.waiting(now, &world, &self.options.rotation);
        self.show(&keeper, waiting, problems);
        self.renew_served();
        keeper.rotation.phase
    }

    /// Begins a rotation.
    pub(super) fn rotate(&self, given: Option<&Given>) -> Result<(), CaError> {
        let mut keeper = lock(&self.keeper);
        let now = self.options.clock.now();
        let at = Moment { trust_domain: &self.options.trust_domain, now };
        let current = keeper.generations.get(&keeper.rotation.current);
        if given.is_none() && current.is_some_and(|generation| !generation.own) {
            return Err(CaError::Refused("the root in force is one that you gave: give the new one with --new-cert, --new-key and --new-root".to_owned()));
        }
        if keeper.rotation.phase != Phase::Stable {
            let refusal = super::rotation::Refusal::UnderWay(keeper.rotation.phase);
            return Err(CaError::Refused(refusal.to_string()));
        }
        let (generation, files) = match given {
            Some(given) => Generation::given(given, &at)?,
            None => Generation::make(&at)?,
        };
        let fingerprint = generation.fingerprint.clone();
        if keeper.retired.contains(&fingerprint) {
            return Err(CaError::Refused(format!(
                "the root {} was retired once and does not come back: give another one",
                generation.id()
            )));
        }
        let before = keeper.rotation.clone();
        let actions = keeper
            .rotation
            .start(fingerprint.clone(), now)
            .map_err(|refusal| CaError::Refused(refusal.to_string()))?;
        let kept = files
            .save(&self.directory, &fingerprint)
            .and_then(|()| self.keep_rotation(&mut keeper, &actions, now));
        if let Err(error) = kept {
            keeper.rotation = before;
            return Err(error);
        }
        tracing::info!(
            old = generation::id(&keeper.rotation.current),
            new = generation.id(),
            "rotating the root: everybody is told to trust the new one, too"
        );
        keeper.generations.insert(fingerprint, Arc::new(generation));
        self.act(&mut keeper, actions);
        self.show(&keeper, Vec::new(), Vec::new());
        Ok(())
    }

    /// Gives a rotation up.
    pub(super) fn cancel(&self) -> Result<(), CaError> {
        let mut keeper = lock(&self.keeper);
        let now = self.options.clock.now();
        let before = keeper.rotation.clone();
        let actions = keeper.rotation.cancel(now).map_err(|refusal| CaError::Refused(refusal.to_string()))?;
        if let Err(error) = self.keep_rotation(&mut keeper, &actions, now) {
            keeper.rotation = before;
            return Err(error);
        }
        tracing::info!("the rotation of the root was given up; the new root is forgotten");
        self.act(&mut keeper, actions);
        self.show(&keeper, Vec::new(), Vec::new());
        Ok(())
    }

    /// Waits no longer for somebody.
    pub(super) fn leave_out(&self, name: &str) -> Result<(), CaError> {
        let mut keeper = lock(&self.keeper);
        let now = self.options.clock.now();
        let (mut waiting, problems) = {
            let state = self.state();
            (state.view.waiting.clone(), state.view.problems.clone())
        };
        let before = keeper.rotation.clone();
        let whom = keeper
            .rotation
            .leave_out(name, now, &waiting)
            .map_err(|refusal| CaError::Refused(refusal.to_string()))?;
        if let Err(error) = self.keep_rotation(&mut keeper, &[], now) {
            keeper.rotation = before;
            return Err(error);
        }
        tracing::warn!(
            whom,
            phase = ?keeper.rotation.phase,
            "the rotation of the root does not wait any more for those whom a command has named"
        );
        // Until the next look, which is soon, nobody knows better.
        let named = |one: &Waiting| one.identity.as_deref() == Some(name) || keeper.rotation.is_left_out(one);
        waiting.retain(|one| !named(one));
        self.show(&keeper, waiting, problems);
        Ok(())
    }

    pub(super) fn look_at_files(&self, keeper: &mut Keeper) -> Vec<String> {
        let (extra, problems) = keeper.files.read();
        if extra != keeper.extra {
            keeper.extra = extra;
            self.publish(keeper);
        }
        problems.iter().map(ToString::to_string).collect()
    }

    /// The key that signs leaves is changed long before it ends; its root stays, so nobody has to be asked.
    fn renew_issuing(&self, keeper: &mut Keeper, now: u64) -> Option<String> {
        let at = Moment { trust_domain: &self.options.trust_domain, now };
        let due = |generation: &&Arc<Generation>| {
            let soon = generation.issuing_until.saturating_sub(now) < ISSUING_MARGIN;
            generation.own && soon && generation.issuing_until < generation.root_until
        };
        let old = Arc::clone(keeper.generations.values().find(due)?);
        let renewed = Generation::renew(&self.directory, &old.fingerprint, &at);
        match renewed {
            Ok(generation) => {
                tracing::info!(root = old.id(), "made a new key that signs certificates");
                keeper.generations.insert(old.fingerprint.clone(), Arc::new(generation));
                self.publish(keeper);
                None
            }
            Err(error) => Some(error.to_string()),
        }
    }

    fn expire(&self, now: u64, phase: Phase) -> Vec<LiveLeaf> {
        let mut state = self.state();
        state.ledger.expire(now, self.options.rotation.grace);
        // Only gates want to see each of them.
        let in_use = state.ledger.iter().filter(|leaf| leaf.revoked.is_none());
        if phase == Phase::Stable { Vec::new() } else { in_use.cloned().collect() }
    }

    /// Writes the rotation; from here on it has happened.
    fn keep_rotation(&self, keeper: &mut Keeper, actions: &[Action], now: u64) -> Result<(), CaError> {
        let mut retired = keeper.retired.clone();
        retired.extend(actions.iter().filter_map(|action| match action {
            Action::Retire(root) => Some(root.clone()),
            Action::Publish | Action::Drop(_) => None,
        }));
        write(&self.directory, &self.options.trust_domain, &keeper.rotation, &retired)?;
        keeper.retired = retired;
        keeper.kept_at = now;
        Ok(())
    }

    fn act(&self, keeper: &mut Keeper, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Publish => {
                    let Rotation { phase, current, next, .. } = &keeper.rotation;
                    tracing::info!(
                        ?phase,
                        current = generation::id(current),
                        next = next.as_deref().map(generation::id),
                        "the trust in roots has changed"
                    );
                    self.publish(keeper);
                }
                Action::Drop(root) | Action::Retire(root) => self.destroy(keeper, &root),
            }
        }
    }

    fn destroy(&self, keeper: &mut Keeper, root: &str) {
        keeper.generations.remove(root);
        let (first, second) = names(root);
        for name in [first, second] {
            // What stays is removed at the next start, because nothing refers to it.
            if let Err(error) = self.directory.remove(&name) {
                tracing::error!(%error, "the key of a root that is gone could not be removed: remove the file by hand");
            }
        }
        tracing::info!(root = generation::id(root), "destroyed the key of a root that is no longer trusted");
    }

    /// Makes known who signs and who is trusted. Who signs comes first: our own certificate must never be of a root that others
    /// have been told to forget.
    pub(super) fn publish(&self, keeper: &Keeper) {
        let of = |root: &str| keeper.generations.get(root).cloned();
        let (signer, own_signer) = (of(keeper.rotation.signs()), of(keeper.rotation.signs_own()));
        if let (Some(signer), Some(own_signer)) = (signer, own_signer) {
            let mut state = self.state();
            (state.signer, state.own_signer) = (signer, own_signer);
            state.denied = keeper.extra.denied.iter().cloned().collect();
            state.revoked_keys = keeper.revocations.keys();
            state.view.revoked = keeper.revocations.all().len();
        }
        self.renew_served();
        let trust = keeper.trust(&self.options.trust_domain);
        if let Err(error) = write_roots(&self.directory, &keeper.roots()) {
            tracing::error!(%error, "the roots for bootstraps could not be written");
        }
        self.trust.send_if_modified(|current| {
            let differs = **current != trust;
            if differs {
                *current = Arc::new(trust);
            }
            differs
        });
    }

    fn show(&self, keeper: &Keeper, waiting: Vec<Waiting>, problems: Vec<String>) {
        let view = keeper.view(waiting, problems);
        self.metrics.rotation.set(view.phase as i64);
        self.metrics.waiting.set(i64::try_from(view.waiting.len()).unwrap_or(i64::MAX));
        let mut state = self.state();
        for problem in &view.problems {
            if !state.view.problems.contains(problem) {
                tracing::error!("certificate authority: {problem}");
            }
        }
        let first =
            |view: &View| view.waiting.first().map(|waiting| (waiting.who.clone(), waiting.what.clone()));
        if first(&view) != first(&state.view) {
            for Waiting { who, what, .. } in view.waiting.iter().take(5) {
                tracing::info!("the rotation of the root is waiting for {who} {what}");
            }
        }
        self.metrics.live.set(i64::try_from(state.ledger.len()).unwrap_or(i64::MAX));
        self.metrics.root_expiry.set(i64::try_from(state.signer.root_until).unwrap_or(i64::MAX));
        self.metrics.issuing_expiry.set(i64::try_from(state.signer.issuing_until).unwrap_or(i64::MAX));
        state.view = view;
    }

    pub(super) fn report(&self) -> Report {
        let now = self.options.clock.now();
        let left =
            |until: u64| i64::try_from(until).unwrap_or(i64::MAX) - i64::try_from(now).unwrap_or(i64::MAX);
        let state = self.state();
        let View { phase, since, current, next, roots, waiting, without, revoked, problems } = &state.view;
        let roots = roots.iter().map(|(fingerprint, own, until)| Root {
            fingerprint: fingerprint.clone(),
            own: *own,
            expires_seconds: left(*until),
        });
        let mut problems = problems.clone();
        if left(state.signer.root_until) < ROOT_WARNING {
            problems.push(format!(
                "the root {} expires in {} days: rotate it (sidegate rotate-root)",
                state.signer.id(),
                left(state.signer.root_until) / 86_400
            ));
        }
        if !state.signer.own && left(state.signer.issuing_until) < GIVEN_WARNING {
            problems.push(format!("the certificate that signs expires in {} days: give a new one of the same root with --ca-cert and --ca-key", left(state.signer.issuing_until) / 86_400));
        }
        let in_use = state.ledger.iter().filter(|leaf| leaf.superseded.is_none() && leaf.revoked.is_none());
        Report {
            trust_domain: self.options.trust_domain.clone(),
            roots: roots.collect(),
            issuing_expires_seconds: left(state.signer.issuing_until),
            live_leaves: state.ledger.len(),
            revoked_leaves: *revoked,
            denied_identities: state.denied.len(),
            next_expiry: in_use
                .min_by_key(|leaf| leaf.until)
                .map(|leaf| Expiry { identity: leaf.identity.clone(), expires_seconds: left(leaf.until) }),
            rotation: Turn {
                phase: *phase,
                seconds: now.saturating_sub(*since),
                current: current.clone(),
                next: next.clone(),
                more: waiting.len().saturating_sub(LISTED),
                waiting: waiting.iter().take(LISTED).cloned().collect(),
                without: without.clone(),
                now,
            },
            problems,
        }
    }
}

impl Keeper {
    /// The roots that are trusted, as PEM, the one that signs first.
    pub(super) fn roots(&self) -> Vec<String> {
        let trusted = self.rotation.trusted().into_iter();
        trusted.filter_map(|root| Some(self.generations.get(root)?.root.clone())).collect()
    }

    pub(super) fn trust(&self, trust_domain: &str) -> crate::model::Trust {
        let mut trust = assemble(trust_domain, self.roots(), &self.extra);
        trust.revocation.extend(self.revocations.lists().map(str::to_owned));
        trust
    }

    pub(super) fn view(&self, waiting: Vec<Waiting>, problems: Vec<String>) -> View {
        let trusted = self.rotation.trusted().into_iter();
        let generations = trusted.filter_map(|root| self.generations.get(root));
        let roots = generations
            .map(|generation| (generation.fingerprint.clone(), generation.own, generation.root_until))
            .collect();
        let Rotation { phase, since, current, next, .. } = &self.rotation;
        let (current, next) = (current.clone(), next.clone());
        let revoked = self.revocations.all().len();
        let (phase, since, without) = (*phase, *since, self.rotation.left_out());
        View { phase, since, current, next, roots, waiting, without, revoked, problems }
    }
}

/// Writes `authority.json`.
pub(super) fn write(
    directory: &Directory,
    trust_domain: &str,
    rotation: &Rotation,
    retired: &[String],
) -> Result<(), CaError> {
    let kept = Kept {
        version: VERSION,
        trust_domain: trust_domain.to_owned(),
        rotation: rotation.clone(),
        retired: retired.to_vec(),
    };
    let text = serde_json::to_string_pretty(&kept)
        .map_err(|error| CaError::content(&directory.file(NAME), error.to_string()))?;
    directory.write(NAME, &(text + "\n"))
}

/// Writes the public copy of the roots, for bootstraps.
pub(super) fn write_roots(directory: &Directory, roots: &[String]) -> Result<(), CaError> {
    directory.write_public(ROOTS, &roots.concat())
}

/// What the folder says about itself.
pub(super) const NAME: &str = "authority.json";
pub(super) const VERSION: u32 = 1;

/// The roots in force, for everybody.
pub(super) const ROOTS: &str = "root-cert.pem";

/// How often who was seen is written, in seconds.
const KEEP_PACE: u64 = 10;

/// How long before its end people are told, in seconds.
const ROOT_WARNING: i64 = 365 * 86_400;
const GIVEN_WARNING: i64 = 30 * 86_400;
