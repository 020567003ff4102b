//! A view and a scope → Envoy resources and verdicts. Pure: what goes in is the whole cache key.

use crate::model::{Scope, Verdict, View};
use crate::snapshot::Resources;

/// What one scope gets.
#[derive(Clone, Debug, Default)]
pub struct Translation {
    /// The resources.
    pub resources: Resources,
    /// What is to be said about the objects that were read for them.
    pub verdicts: Vec<Verdict>,
}

/// Translates the view for one scope.
pub fn translate(_view: &View, _scope: &Scope) -> Translation {
    Translation::default()
}
