//! What comes from a control plane, and what became of it.

use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::ResourceType;

use crate::error::Rejection;
/// A change of the resources of one type.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    /// The type.
    pub(crate) kind: ResourceType,
    /// New and changed resources.
    pub(crate) upserts: Vec<Resource>,
    /// Names of resources that are gone.
    pub(crate) removals: Vec<String>,
}

/// A resource as it came.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    /// Its name.
    pub(crate) name: String,
    /// Its version; says nothing, may be empty (T7).
    pub(crate) version: String,
    /// Its bytes.
    pub(crate) body: Any,
}

/// What became of an update.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The resources that were refused.
    pub(crate) rejections: Vec<Rejection>,
    /// Whether a new snapshot was published.
    pub(crate) published: bool,
}
