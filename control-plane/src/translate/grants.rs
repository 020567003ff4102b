//! Whether a reference may cross namespaces.

use super::normal::GATEWAY_GROUP;
use crate::model::{Name, View};

/// Whether a ReferenceGrant beside the Service lets routes of this kind and namespace refer to it.
pub(super) fn allows_service(view: &View, kind: &str, from: &str, service: &Name) -> bool {
    if from == service.namespace {
        return true;
    }
    view.reference_grants.iter().filter(|(name, _)| name.namespace == service.namespace).any(|(_, grant)| {
        let permitted = grant.spec.from.iter().any(|permitted| {
            permitted.group == GATEWAY_GROUP && permitted.kind == kind && permitted.namespace == from
        });
        permitted
            && grant.spec.to.iter().any(|target| {
                target.group.is_empty()
                    && target.kind == "Service"
                    && target.name.as_ref().is_none_or(|name| *name == service.name)
            })
    })
}
