//! Whether a reference may cross namespaces.

use super::normal::GATEWAY_GROUP;
use crate::model::{Name, View};

/// The group of our own kinds.
const OWN_GROUP: &str = "sidegate.dev";

/// Whether a ReferenceGrant beside the Service lets routes of this kind and namespace refer to it.
pub(super) fn allows_service(view: &View, kind: &str, from: &str, service: &Name) -> bool {
    allows(view, (kind, from), ("Service", service))
}

/// Whether a ReferenceGrant beside the Service lets one of our own policies of this kind and namespace refer to it.
pub(super) fn allows_policy(view: &View, kind: &str, from: &str, service: &Name) -> bool {
    granted(view, (OWN_GROUP, kind, from), ("Service", service))
}

/// Whether a ReferenceGrant beside an object of the core group lets objects of the Gateway API refer to it.
pub(super) fn allows(view: &View, (kind, from): (&str, &str), target: (&str, &Name)) -> bool {
    granted(view, (GATEWAY_GROUP, kind, from), target)
}

fn granted(
    view: &View,
    (group, kind, from): (&str, &str, &str),
    (target_kind, target): (&str, &Name),
) -> bool {
    if from == target.namespace {
        return true;
    }
    view.reference_grants.iter().filter(|(name, _)| name.namespace == target.namespace).any(|(_, grant)| {
        let permitted = grant.spec.from.iter().any(|permitted| {
            permitted.group == group && permitted.kind == kind && permitted.namespace == from
        });
        permitted
            && grant.spec.to.iter().any(|to| {
                to.group.is_empty()
                    && to.kind == target_kind
                    && to.name.as_ref().is_none_or(|name| *name == target.name)
            })
    })
}
