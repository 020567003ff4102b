//! What RBAC filters decided, under Envoy's names. Counted by worker; the number of scopes is bounded as all series are.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;

use super::OVERFLOW;
use super::counter::Counter;

/// One decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Authorized<'a> {
    /// The HTTP filter's, else the network filter's.
    pub(crate) http: bool,
    /// `stat_prefix` of the connection manager, or of the network filter.
    pub(crate) owner: &'a Arc<str>,
    /// `rules_stat_prefix`, or that of the shadow rules.
    pub(crate) prefix: &'a Arc<str>,
    /// What was decided.
    pub(crate) allowed: bool,
    /// By shadow rules: nothing came of it.
    pub(crate) shadow: bool,
}

/// Whose decisions are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Scope {
    pub(super) http: bool,
    pub(super) owner: Arc<str>,
    pub(super) prefix: Arc<str>,
}

impl Scope {
    /// What its statistics begin with: `http.main.rbac.`.
    pub(super) fn stat_prefix(&self) -> String {
        let joined = |part: &str| {
            if part.is_empty() || part.ends_with('.') { part.to_owned() } else { format!("{part}.") }
        };
        let owner = joined(&self.owner);
        format!("{}{owner}rbac.{}", if self.http { "http." } else { "" }, joined(&self.prefix))
    }
}

/// A scope's counters in one worker.
#[derive(Debug)]
pub(super) struct AuthorizationBlock {
    pub(super) scope: Scope,
    pub(super) allowed: Counter,
    pub(super) denied: Counter,
    pub(super) shadow_allowed: Counter,
    pub(super) shadow_denied: Counter,
}

/// Blocks as a scrape sees them.
pub(super) type SharedAuthorizations = Mutex<Vec<Arc<AuthorizationBlock>>>;

/// A worker's own way to its blocks.
#[derive(Debug, Default)]
pub(super) struct Authorizations {
    by_scope: RefCell<FxHashMap<Scope, Arc<AuthorizationBlock>>>,
}

impl Authorizations {
    pub(super) fn count(&self, told: &Authorized<'_>, shared: &SharedAuthorizations, bound: usize) {
        let scope = Scope { http: told.http, owner: told.owner.clone(), prefix: told.prefix.clone() };
        if let Some(block) = self.by_scope.borrow().get(&scope) {
            return block.count(told);
        }
        self.admit(scope, shared, bound).count(told);
    }

    #[cold]
    fn admit(&self, scope: Scope, shared: &SharedAuthorizations, bound: usize) -> Arc<AuthorizationBlock> {
        let mut by_scope = self.by_scope.borrow_mut();
        let scope = if by_scope.len() < bound {
            scope
        } else {
            Scope { http: scope.http, owner: OVERFLOW.into(), prefix: "".into() }
        };
        let block = by_scope.entry(scope).or_insert_with_key(|scope| {
            let block = Arc::new(AuthorizationBlock {
                scope: scope.clone(),
                allowed: Counter::default(),
                denied: Counter::default(),
                shadow_allowed: Counter::default(),
                shadow_denied: Counter::default(),
            });
            shared.lock().unwrap_or_else(PoisonError::into_inner).push(block.clone());
            block
        });
        block.clone()
    }
}

impl AuthorizationBlock {
    fn count(&self, told: &Authorized<'_>) {
        let counter = match (told.shadow, told.allowed) {
            (false, true) => &self.allowed,
            (false, false) => &self.denied,
            (true, true) => &self.shadow_allowed,
            (true, false) => &self.shadow_denied,
        };
        counter.add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_named_as_envoy_names_them_and_bounded() {
        let scope =
            |http, owner: &str, prefix: &str| Scope { http, owner: owner.into(), prefix: prefix.into() };
        assert_eq!(scope(true, "main", "").stat_prefix(), "http.main.rbac.");
        assert_eq!(scope(true, "main", "dry_").stat_prefix(), "http.main.rbac.dry_.");
        assert_eq!(scope(false, "tcp.", "").stat_prefix(), "tcp.rbac.");
        let (own, shared) = (Authorizations::default(), SharedAuthorizations::default());
        for number in 0..5 {
            let (owner, prefix): (Arc<str>, Arc<str>) = (format!("m{number}").into(), "".into());
            let told =
                Authorized { http: true, owner: &owner, prefix: &prefix, allowed: number > 0, shadow: false };
            own.count(&told, &shared, 2);
        }
        let blocks = shared.lock().unwrap();
        let counts: Vec<_> = blocks
            .iter()
            .map(|block| (&*block.scope.owner, block.allowed.get(), block.denied.get()))
            .collect();
        assert_eq!(counts, [("m0", 0, 1), ("m1", 1, 0), ("overflow", 3, 0)]);
    }
}
