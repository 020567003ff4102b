//! Which sidecars answer for a Service: a question of people, on no path of configuration.

use super::{endpoint, service, workload};
use crate::model::{Name, View};

/// A sidecar in front of one port of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The Pod.
    pub pod: Name,
    /// The sidecar's port; `None` when nothing stands in front of the app.
    pub sidecar: Option<u16>,
}

/// The Pods that a Service selects, for one of its ports or for all; `None` when there is no such Service.
pub fn behind(view: &View, name: &Name, wanted: Option<u16>) -> Option<Vec<Behind>> {
    let object = view.services.get(name)?;
    let selector =
        object.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|selector| !selector.is_empty());
    let mut found = Vec::new();
    for (pod_name, pod) in view.pods.iter().filter(|(pod, _)| pod.namespace == name.namespace) {
        let labels = pod.metadata.labels.as_ref();
        let selected = selector.is_some_and(|selector| {
            selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        });
        if !selected {
            continue;
        }
        let pairs = workload::inbound_ports(pod).unwrap_or_default();
        for (_, port) in
            service::ports(object).filter(|(number, _)| wanted.is_none_or(|wanted| wanted == *number))
        {
            let Some(app) = endpoint::target_port(pod, port) else { continue };
            let sidecar = pairs.iter().find(|(own, _)| *own == app).map(|(_, sidecar)| *sidecar);
            found.push(Behind { pod: pod_name.clone(), sidecar });
        }
    }
    Some(found)
}
