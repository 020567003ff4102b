//! Every object in its last good form, kept by one task; each change makes a new view.
//!
//! Before it: a source, which reports changes in batches. After it: `publish`, which takes the newest view and may
//! skip any. [`Index`] does the work and knows no task; [`run`] is the task.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::model::{Batch, Change, Kind, Object, ObjectKey, View};

/// All objects. Owned and updated by one task.
#[derive(Debug, Default)]
pub struct Index {
    /// The newest view. Receivers share it: a change copies the maps, not the objects.
    view: Arc<View>,
}

impl Index {
    /// Applies a batch as a whole. Returns the new view, one generation later, if anything is different; the first
    /// batch always makes one, so that an empty world can be told from one that has not been read.
    pub fn apply(&mut self, batch: Batch) -> Option<Arc<View>> {
        let Batch { changes, findings, held_back } = batch;
        let mut is_different =
            self.view.generation == 0 || findings != self.view.findings || held_back != self.view.held_back;
        for change in changes {
            if !is_news(&self.view, &change) {
                continue;
            }
            is_different = true;
            // Copies the maps the first time, when receivers still have the last view; not again in this batch.
            let view = Arc::make_mut(&mut self.view);
            match change {
                Change::Apply(object) => apply(view, object),
                Change::Delete(key) => delete(view, &key),
            }
        }
        if !is_different {
            return None;
        }
        let view = Arc::make_mut(&mut self.view);
        (view.findings, view.held_back) = (findings, held_back);
        view.generation += 1;
        Some(Arc::clone(&self.view))
    }
}

fn is_news(view: &View, change: &Change) -> bool {
    match change {
        Change::Apply(object) => view.object(&object.key()).as_ref() != Some(object),
        Change::Delete(key) => view.object(key).is_some(),
    }
}

/// Takes batches from a source and publishes views, until the source is gone or nobody looks any more.
pub async fn run(mut batches: mpsc::Receiver<Batch>, views: watch::Sender<Arc<View>>) {
    let mut index = Index::default();
    loop {
        let batch = tokio::select! {
            batch = batches.recv() => batch,
            () = views.closed() => return,
        };
        let Some(batch) = batch else { return };
        if let Some(view) = index.apply(batch) {
            tracing::debug!(generation = view.generation, findings = view.findings.len(), "a new view");
            if view.held_back {
                tracing::error!(
                    "no proxy is told anything: what may be a policy cannot be read, and nothing is known of what it said before; \
                     mend or remove what the findings name (sidegate status)"
                );
            }
            views.send_replace(view);
        }
    }
}

fn apply(view: &mut View, object: Object) {
    let name = object.key().name;
    match object {
        Object::Namespace(object) => drop(view.namespaces.insert(name.name, object)),
        Object::Service(object) => drop(view.services.insert(name, object)),
        Object::EndpointSlice(object) => drop(view.endpoint_slices.insert(name, object)),
        Object::Pod(object) => drop(view.pods.insert(name, object)),
        Object::ServiceAccount(object) => drop(view.service_accounts.insert(name, object)),
        Object::Secret(object) => drop(view.secrets.insert(name, object)),
        Object::ConfigMap(object) => drop(view.config_maps.insert(name, object)),
        Object::GatewayClass(object) => drop(view.gateway_classes.insert(name.name, object)),
        Object::Gateway(object) => drop(view.gateways.insert(name, object)),
        Object::HttpRoute(object) => drop(view.http_routes.insert(name, object)),
        Object::GrpcRoute(object) => drop(view.grpc_routes.insert(name, object)),
        Object::ReferenceGrant(object) => drop(view.reference_grants.insert(name, object)),
        Object::RateLimitPolicy(object) => drop(view.rate_limit_policies.insert(name, object)),
        Object::BackendPolicy(object) => drop(view.backend_policies.insert(name, object)),
        Object::AuthorizationPolicy(object) => drop(view.authorization_policies.insert(name, object)),
        Object::JwtPolicy(object) => drop(view.jwt_policies.insert(name, object)),
        Object::ExternalAuthorizationPolicy(object) => {
            drop(view.external_authorization_policies.insert(name, object));
        }
        Object::MeshTlsPolicy(object) => drop(view.mesh_tls_policies.insert(name, object)),
    }
}

fn delete(view: &mut View, ObjectKey { kind, name }: &ObjectKey) {
    match kind {
        Kind::Namespace => drop(view.namespaces.remove(&name.name)),
        Kind::Service => drop(view.services.remove(name)),
        Kind::EndpointSlice => drop(view.endpoint_slices.remove(name)),
        Kind::Pod => drop(view.pods.remove(name)),
        Kind::ServiceAccount => drop(view.service_accounts.remove(name)),
        Kind::Secret => drop(view.secrets.remove(name)),
        Kind::ConfigMap => drop(view.config_maps.remove(name)),
        Kind::GatewayClass => drop(view.gateway_classes.remove(&name.name)),
        Kind::Gateway => drop(view.gateways.remove(name)),
        Kind::HttpRoute => drop(view.http_routes.remove(name)),
        Kind::GrpcRoute => drop(view.grpc_routes.remove(name)),
        Kind::ReferenceGrant => drop(view.reference_grants.remove(name)),
        Kind::RateLimitPolicy => drop(view.rate_limit_policies.remove(name)),
        Kind::BackendPolicy => drop(view.backend_policies.remove(name)),
        Kind::AuthorizationPolicy => drop(view.authorization_policies.remove(name)),
        Kind::JwtPolicy => drop(view.jwt_policies.remove(name)),
        Kind::ExternalAuthorizationPolicy => drop(view.external_authorization_policies.remove(name)),
        Kind::MeshTlsPolicy => drop(view.mesh_tls_policies.remove(name)),
    }
}

impl View {
    /// The object of a kind and name.
    pub fn object(&self, ObjectKey { kind, name }: &ObjectKey) -> Option<Object> {
        fn of<K: Ord, T>(map: &BTreeMap<K, Arc<T>>, key: &K) -> Option<Arc<T>> {
            map.get(key).map(Arc::clone)
        }
        match kind {
            Kind::Namespace => of(&self.namespaces, &name.name).map(Object::Namespace),
            Kind::Service => of(&self.services, name).map(Object::Service),
            Kind::EndpointSlice => of(&self.endpoint_slices, name).map(Object::EndpointSlice),
            Kind::Pod => of(&self.pods, name).map(Object::Pod),
            Kind::ServiceAccount => of(&self.service_accounts, name).map(Object::ServiceAccount),
            Kind::Secret => of(&self.secrets, name).map(Object::Secret),
            Kind::ConfigMap => of(&self.config_maps, name).map(Object::ConfigMap),
            Kind::GatewayClass => of(&self.gateway_classes, &name.name).map(Object::GatewayClass),
            Kind::Gateway => of(&self.gateways, name).map(Object::Gateway),
            Kind::HttpRoute => of(&self.http_routes, name).map(Object::HttpRoute),
            Kind::GrpcRoute => of(&self.grpc_routes, name).map(Object::GrpcRoute),
            Kind::ReferenceGrant => of(&self.reference_grants, name).map(Object::ReferenceGrant),
            Kind::RateLimitPolicy => of(&self.rate_limit_policies, name).map(Object::RateLimitPolicy),
            Kind::BackendPolicy => of(&self.backend_policies, name).map(Object::BackendPolicy),
            Kind::AuthorizationPolicy => {
                of(&self.authorization_policies, name).map(Object::AuthorizationPolicy)
            }
            Kind::JwtPolicy => of(&self.jwt_policies, name).map(Object::JwtPolicy),
            Kind::ExternalAuthorizationPolicy => {
                of(&self.external_authorization_policies, name).map(Object::ExternalAuthorizationPolicy)
            }
            Kind::MeshTlsPolicy => of(&self.mesh_tls_policies, name).map(Object::MeshTlsPolicy),
        }
    }
}

#[cfg(test)]
mod tests;
