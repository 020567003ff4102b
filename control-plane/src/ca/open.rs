//! Opening the folder: the first time, the next time, and after a death at any point.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sidegate_xds::spiffe::is_trust_domain;
use tokio::sync::{Notify, watch};

use super::certificate::Moment;
use super::directory::{DRAFT, Directory};
use super::error::CaError;
use super::generation::{self, Generation, id, id_of};
use super::keeper::{self, Keeper, Kept, NAME};
use super::limit::Limiter;
use super::metrics::Metrics;
use super::options::Options;
use super::pass::Secret;
use super::revocation::Revocations;
use super::rotation::Rotation;
use super::trust::Files;
use super::{Inner, State, journal};

pub(super) fn open(mut options: Options) -> Result<Inner, CaError> {
    check(&options)?;
    options.rotation.leaf_life = options.leaf_ttl.as_secs();
    let directory = Directory::open(&options.directory)?;
    let now = options.clock.now();
    let at = Moment { trust_domain: &options.trust_domain, now };
    for name in directory.names()?.iter().filter(|name| name.ends_with(DRAFT)) {
        directory.remove(name)?;
    }
    let mut keeper = match kept(&directory, &options)? {
        Some(kept) => again(&directory, kept, &options, &at)?,
        None => first(&directory, &options, &at)?,
    };
    let (extra, problems) = keeper.files.read();
    if let Some(problem) = problems.into_iter().next() {
        return Err(problem);
    }
    keeper.extra = extra;
    keeper::write_roots(&directory, &keeper.roots())?;
    keeper.revocations = Revocations::open(&directory)?;
    let begun = directory.read(BEGUN)?.is_some();
    let (mut ledger, journal) = journal::open(&directory, now, options.rotation.grace, begun)?;
    for revoked in keeper.revocations.all() {
        ledger.revoke(&revoked.serial, revoked.at);
    }
    directory.remove(BEGUN)?;
    let of = |root: &str| {
        let missing = || CaError::content(&directory.file(NAME), "it names no root that signs");
        keeper.generations.get(root).cloned().ok_or_else(missing)
    };
    let state = State {
        signer: of(keeper.rotation.signs())?,
        own_signer: of(keeper.rotation.signs_own())?,
        ledger,
        limiter: Limiter::default(),
        denied: keeper.extra.denied.iter().cloned().collect(),
        revoked_keys: keeper.revocations.keys(),
        view: keeper.view(Vec::new(), Vec::new()),
    };
    let (trust, _) = watch::channel(Arc::new(keeper.trust(&options.trust_domain)));
    Ok(Inner {
        secret: Secret::keep(&directory)?,
        keeper: Mutex::new(keeper),
        journal: Mutex::new(journal),
        served: Mutex::new(None),
        state: Mutex::new(state),
        directory,
        options,
        trust,
        metrics: Metrics::default(),
        turned: Notify::new(),
    })
}

fn check(options: &Options) -> Result<(), CaError> {
    let domains =
        std::iter::once(&options.trust_domain).chain(options.bundles.iter().map(|(domain, _)| domain));
    for domain in domains {
        if !is_trust_domain(domain) {
            return Err(CaError::Refused(format!(
                "{domain:?} is not a trust domain: lower-case letters, digits, '.', '-' and '_'"
            )));
        }
    }
    if options.leaf_ttl.as_secs() == 0 {
        return Err(CaError::Refused("--leaf-ttl: a certificate must live for a second at least".to_owned()));
    }
    Ok(())
}

fn kept(directory: &Directory, options: &Options) -> Result<Option<Kept>, CaError> {
    let Some(text) = directory.read(NAME)? else { return Ok(None) };
    let path = directory.file(NAME);
    let kept: Kept = serde_json::from_str(&text).map_err(|error| {
        CaError::content(
            &path,
            format!(
                "it is not what a control plane of this version writes ({error}): bring it back from a backup"
            ),
        )
    })?;
    if kept.version != keeper::VERSION {
        return Err(CaError::content(
            &path,
            format!(
                "its version is {}, and this control plane knows {}: run a newer one",
                kept.version,
                keeper::VERSION
            ),
        ));
    }
    if kept.trust_domain != options.trust_domain {
        return Err(CaError::content(
            &path,
            format!(
                "this folder is for the trust domain {}: start with --trust-domain {0}, or give another folder with --ca-dir",
                kept.trust_domain
            ),
        ));
    }
    Ok(Some(kept))
}

/// A folder that has no authority yet.
fn first(directory: &Directory, options: &Options, at: &Moment<'_>) -> Result<Keeper, CaError> {
    let names = directory.names()?;
    if let Some(name) = names.iter().find(|name| id_of(name).is_none() && !FIRST.contains(&name.as_str())) {
        return Err(CaError::content(
            directory.path(),
            format!(
                "it has no {NAME}, but other files ({name}): give an empty folder with --ca-dir, or bring it back from a backup"
            ),
        ));
    }
    let keys: Vec<&str> = names.iter().map(String::as_str).filter(|name| id_of(name).is_some()).collect();
    // A run that died before it wrote `authority.json` has given out nothing, and has left its mark. Other keys are somebody's.
    if directory.read(BEGUN)?.is_none() && !keys.is_empty() {
        return Err(CaError::content(
            directory.path(),
            format!(
                "it has keys ({}), but no {NAME} that says what they are for: bring that back from the same backup, or give an empty folder with --ca-dir. Nothing was changed",
                keys.join(", ")
            ),
        ));
    }
    directory.write(BEGUN, "the first start is not over yet\n")?;
    for name in keys {
        directory.remove(name)?;
    }
    let (generation, files) = match &options.given {
        Some(given) => Generation::given(given, at)?,
        None => Generation::make(at)?,
    };
    files.save(directory, &generation.fingerprint)?;
    let rotation = Rotation::stable(generation.fingerprint.clone(), at.now);
    keeper::write(directory, at.trust_domain, &rotation, &[])?;
    tracing::info!(root = generation.id(), folder = %directory.path().display(), "a new certificate authority");
    let generations = BTreeMap::from([(generation.fingerprint.clone(), Arc::new(generation))]);
    Ok(keeper_of(directory, options, rotation, generations, Vec::new()))
}

/// A folder that has one.
fn again(
    directory: &Directory,
    mut kept: Kept,
    options: &Options,
    at: &Moment<'_>,
) -> Result<Keeper, CaError> {
    take_given(directory, &kept, options, at)?;
    kept.rotation = kept.rotation.resumed(at.now);
    let mut generations = BTreeMap::new();
    for root in kept.rotation.kept() {
        let generation = match Generation::load(directory, root, at) {
            // A key that signs leaves may have ended while nobody looked; its root can make another.
            Err(_) if Generation::may_renew(directory, root, at) => Generation::renew(directory, root, at)?,
            loaded => loaded?,
        };
        generations.insert(root.to_owned(), Arc::new(generation));
    }
    // Keys of roots that are gone, or that never came into force.
    let ids: Vec<&str> = kept.rotation.kept().map(id).collect();
    for name in directory.names()? {
        if id_of(&name).is_some_and(|id| !ids.contains(&id)) {
            directory.remove(&name)?;
            tracing::info!(name, "removed the key of a root that is not in force");
        }
    }
    Ok(keeper_of(directory, options, kept.rotation, generations, kept.retired))
}

/// What the flags give must be what is in force: a new certificate under the same root is taken over, a new root is not.
fn take_given(directory: &Directory, kept: &Kept, options: &Options, at: &Moment<'_>) -> Result<(), CaError> {
    let Some(given) = &options.given else { return Ok(()) };
    let (generation, files) = Generation::given(given, at)?;
    let fingerprint = &generation.fingerprint;
    if kept.rotation.kept().any(|root| root == fingerprint) {
        return files.save(directory, fingerprint);
    }
    if kept.retired.contains(fingerprint) {
        tracing::warn!(
            given = generation.id(),
            in_force = generation::id(&kept.rotation.current),
            "--ca-cert is of a root that was rotated away; the newer one in the folder stays in force: change or remove the flags"
        );
        return Ok(());
    }
    Err(CaError::content(
        directory.path(),
        format!(
            "the root in force here is {}, and --ca-cert is of the root {}: nobody trusts that one yet. Start without --ca-cert and change the root with `sidegate rotate-root --new-cert … --new-key …`, or give an empty folder with --ca-dir",
            id(&kept.rotation.current),
            generation.id()
        ),
    ))
}

fn keeper_of(
    directory: &Directory,
    options: &Options,
    rotation: Rotation,
    generations: BTreeMap<String, Arc<Generation>>,
    retired: Vec<String>,
) -> Keeper {
    let files = Files::new(directory.path(), options.bundles.clone());
    Keeper {
        rotation,
        generations,
        retired,
        files,
        extra: Default::default(),
        revocations: Revocations::default(),
        kept_at: 0,
    }
}

/// What may be in a folder before its first authority: the lock is ours, people write the lists, and `sidegate token` may come first.
const FIRST: &[&str] = &["lock", "denied", "crl.pem", "token-key.pem", "tokens", BEGUN];

/// Stands in the folder while it gets its first authority: what is made meanwhile is nobody's yet.
const BEGUN: &str = "first-start";
