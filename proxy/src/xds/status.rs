//! How the stream from the control plane is doing, for admin.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use sidegate_xds::resource::ResourceType;

/// The stream's state. Cloning shares it: the `xds` task writes, admin reads, on the same thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    report: Arc<Mutex<Report>>,
}

/// What is known about the stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// Where the control plane is, when there is a stream or an attempt at one.
    pub(crate) server: Option<String>,
    /// What the control plane calls itself.
    pub(crate) control_plane: Option<String>,
    /// Since when there has been a stream; `None` while there is none.
    pub(crate) connected_since: Option<SystemTime>,
    /// Why there is no stream, or why the last one ended.
    pub(crate) last_failure: Option<String>,
    /// Every type, in the order of [`ResourceType::TAKEN`].
    pub(crate) types: [TypeReport; 5],
}

/// What is known about one type.
#[derive(Clone, Debug, Default)]
pub(crate) struct TypeReport {
    /// Resources held.
    pub(crate) resources: usize,
    /// The version of the last response, as the server calls it.
    pub(crate) version: String,
    /// When the last response came.
    pub(crate) updated: Option<SystemTime>,
    /// Responses accepted.
    pub(crate) accepted: u64,
    /// Responses refused, in whole or in part.
    pub(crate) refused: u64,
    /// The text of the last refusal; gone with the next response that is accepted.
    pub(crate) last_error: Option<String>,
}

impl Status {
    /// What is known now.
    pub(crate) fn read(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn write(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Report {
    /// Whether the control plane has named the listeners, be it none.
    pub(crate) fn has_listeners(&self) -> bool {
        self.of(ResourceType::Listener).updated.is_some()
    }

    /// What is known about a type.
    pub(crate) fn of(&self, kind: ResourceType) -> &TypeReport {
        &self.types[index(kind)]
    }

    pub(super) fn of_mut(&mut self, kind: ResourceType) -> &mut TypeReport {
        &mut self.types[index(kind)]
    }
}

fn index(kind: ResourceType) -> usize {
    ResourceType::TAKEN.iter().position(|other| *other == kind).unwrap_or_default()
}
