//! AuthorizationPolicy, JWTPolicy and ExternalAuthorizationPolicy → the filters that stand before routing where requests and connections arrive.
//!
//! Which policies hold for a workload, in one place for every kind of listener: of a Pod those that select it by label, by a Service in front
//! of it, by its namespace, or from the root namespace; of a Gateway those that target it, its namespace's, and the root namespace's.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sidegate_xds::envoy::config::listener::v3::Filter;
use sidegate_xds::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;

use super::verdict::{Subject, Verdicts};
use super::{endpoint, service, workload};
use crate::model::access::external::{ExternalAuthorizationPolicy, Protocol};
use crate::model::access::{AuthorizationPolicy, JwtPolicy, ROOT_NAMESPACE, Selector};
use crate::model::policy::TargetRef;
use crate::model::{Name, View};

mod reach;
mod authorization;
mod token;
mod external;
mod budget;
mod rule;
mod principal;
mod permission;
mod text;

/// Where requests or connections arrive.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// At a port of a Pod's app.
    Pod {
        /// The Pod.
        pod: &'a Pod,
        /// The app's port.
        port: u16,
    },
    /// At a port of a Gateway.
    Gateway {
        /// The Gateway.
        name: &'a Name,
        /// The port.
        port: u16,
    },
}

/// Who peers are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mesh<'a> {
    /// The mesh's own.
    pub(super) trust_domain: &'a str,
    /// The ids of its Gateways, whose word on who the client is counts; `None` where no peer can prove who it is.
    pub(super) gateways: Option<&'a [String]>,
}

impl Place<'_> {
    fn namespace(&self) -> &str {
        match self {
            Place::Pod { pod, .. } => pod.metadata.namespace.as_deref().unwrap_or(""),
            Place::Gateway { name, .. } => &name.namespace,
        }
    }

    fn port(&self) -> u16 {
        match self {
            Place::Pod { port, .. } | Place::Gateway { port, .. } => *port,
        }
    }
}

/// All policies of a view.
#[derive(Debug, Default)]
pub(super) struct Access<'a> {
    authorization: Vec<&'a AuthorizationPolicy>,
    tokens: Vec<&'a JwtPolicy>,
    external: Vec<&'a ExternalAuthorizationPolicy>,
}

impl<'a> Access<'a> {
    /// Every policy of the view.
    pub(super) fn new(view: &'a View) -> Self {
        let authorization = view.authorization_policies.values().map(|policy| &**policy).collect();
        let tokens = view.jwt_policies.values().map(|policy| &**policy).collect();
        let external = view.external_authorization_policies.values().map(|policy| &**policy).collect();
        Self { authorization, tokens, external }
    }

    /// What is to be said of each policy, after what was noted where it is sent to.
    pub(super) fn conclude(&self, view: &View, verdicts: &mut Verdicts) {
        for policy in &self.authorization {
            let subject = Subject::new(authorization::KIND, &policy.metadata);
            reach::examine(view, &subject, policy.attachment(), verdicts);
        }
        for policy in &self.tokens {
            let subject = Subject::new(token::KIND, &policy.metadata);
            token::examine(view, &subject, policy, verdicts);
            reach::examine(view, &subject, policy.attachment(), verdicts);
        }
        for policy in &self.external {
            let subject = Subject::new(external::KIND, &policy.metadata);
            external::examine(view, &subject, policy, verdicts);
            reach::examine(view, &subject, policy.attachment(), verdicts);
        }
    }

    /// The HTTP filters of a place, in their order: who says so, who else is asked, what is audited, denied, allowed. What cannot be sent as
    /// it is written stands there in a form that lets nothing through, and a verdict says so.
    pub(super) fn http(
        &self,
        view: &View,
        mesh: Mesh<'_>,
        place: Place<'_>,
        verdicts: &mut Verdicts,
    ) -> Vec<HttpFilter> {
        self.note_carried(view, place, verdicts);
        let mut filters: Vec<HttpFilter> =
            token::filter(view, &self.tokens_at(view, place), verdicts).into_iter().collect();
        filters.extend(external::http(&self.external_at(view, place)));
        filters.extend(authorization::http(&self.authorization_at(view, place), mesh, place, verdicts));
        filters
    }

    /// The network filters of a place where bytes are opaque.
    pub(super) fn network(
        &self,
        view: &View,
        mesh: Mesh<'_>,
        place: Place<'_>,
        verdicts: &mut Verdicts,
    ) -> Vec<Filter> {
        self.note_carried(view, place, verdicts);
        let tokens = token::network(&self.tokens_at(view, place));
        let external = external::network(&self.external_at(view, place));
        let own = authorization::network(&self.authorization_at(view, place), mesh, place, verdicts);
        tokens.into_iter().chain(external).chain(own).collect()
    }

    /// Notes the policies that the filters of a place are made of: who has acknowledged those, has the policies.
    fn note_carried(&self, view: &View, place: Place<'_>, verdicts: &mut Verdicts) {
        let authorization = self.authorization_at(view, place).into_iter();
        let authorization = authorization.map(|policy| Subject::new(authorization::KIND, &policy.metadata));
        let tokens = self.tokens_at(view, place).into_iter();
        let tokens = tokens.map(|policy| Subject::new(token::KIND, &policy.metadata));
        let external = self.external_at(view, place).into_iter();
        let external = external.map(|policy| Subject::new(external::KIND, &policy.metadata));
        authorization.chain(tokens).chain(external).for_each(|policy| verdicts.carry(&policy));
    }

    /// Whether tokens are looked at here: then what a Service says of its port may not keep requests from being seen.
    pub(super) fn reads_tokens(&self, view: &View, place: Place<'_>) -> bool {
        !self.tokens_at(view, place).is_empty()
    }

    /// The Service ports that are asked about requests at a place.
    pub(super) fn asked(&self, view: &View, place: Place<'_>) -> Vec<(Name, u16)> {
        let policies = self.external_at(view, place);
        policies.iter().filter_map(|policy| external::resolve(view, policy).ok()).collect()
    }

    /// The Service ports that are asked by gRPC, wherever.
    pub(super) fn asked_by_grpc(view: &View) -> impl Iterator<Item = (Name, u16)> + '_ {
        let policies = view.external_authorization_policies.values();
        policies
            .filter(|policy| policy.spec.protocol == Protocol::Grpc)
            .map(|policy| external::backend(policy))
    }

    fn authorization_at(&self, view: &View, place: Place<'_>) -> Vec<&'a AuthorizationPolicy> {
        at(view, place, &self.authorization)
    }

    fn external_at(&self, view: &View, place: Place<'_>) -> Vec<&'a ExternalAuthorizationPolicy> {
        at(view, place, &self.external)
    }

    fn tokens_at(&self, view: &View, place: Place<'_>) -> Vec<&'a JwtPolicy> {
        at(view, place, &self.tokens)
    }
}

/// What a policy is attached to.
#[derive(Clone, Copy, Debug)]
struct Attachment<'a> {
    metadata: &'a ObjectMeta,
    targets: &'a [TargetRef],
    selector: Option<&'a Selector>,
}

/// A kind of policy that is attached so.
trait Attached {
    fn attachment(&self) -> Attachment<'_>;
}

macro_rules! attached {
    ($($kind:ty),*) => {$(
        impl Attached for $kind {
            fn attachment(&self) -> Attachment<'_> {
                let spec = &self.spec;
                Attachment {
                    metadata: &self.metadata,
                    targets: &spec.target_refs,
                    selector: spec.selector.as_ref(),
                }
            }
        }
    )*};
}

attached!(AuthorizationPolicy, JwtPolicy, ExternalAuthorizationPolicy);

/// Those that hold at a place.
fn at<'a, P: Attached>(view: &View, place: Place<'_>, policies: &[&'a P]) -> Vec<&'a P> {
    policies.iter().filter(|policy| holds(view, place, policy.attachment())).copied().collect()
}

/// Whether a policy holds at a place.
fn holds(view: &View, place: Place<'_>, policy: Attachment<'_>) -> bool {
    let Attachment { metadata, targets, selector } = policy;
    let namespace = metadata.namespace.as_deref().unwrap_or("");
    let reaches = namespace == place.namespace();
    if !targets.is_empty() {
        return reaches && targets.iter().any(|target| is_target(view, place, target));
    }
    if !reaches && namespace != ROOT_NAMESPACE {
        return false;
    }
    match (selector, place) {
        (None, _) => true,
        (Some(_), Place::Gateway { .. }) => false,
        (Some(selector), Place::Pod { pod, .. }) => has_labels(pod, &selector.match_labels),
    }
}

fn has_labels(pod: &Pod, wanted: &BTreeMap<String, String>) -> bool {
    let labels = pod.metadata.labels.as_ref();
    wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// Targets stand in the policy's own namespace, and the place's namespace is that.
fn is_target(view: &View, place: Place<'_>, target: &TargetRef) -> bool {
    match place {
        Place::Gateway { name, .. } => target.kind == "Gateway" && target.name == name.name,
        Place::Pod { pod, port } if target.kind == "Service" => is_behind(
            view,
            pod,
            port,
            &Name::new(place.namespace(), target.name.as_str()),
            target.section_name.as_deref(),
        ),
        Place::Pod { .. } => false,
    }
}

/// Whether a Service leads to a Pod's port; `section` is one port of the Service, by name or number.
fn is_behind(view: &View, pod: &Pod, port: u16, service: &Name, section: Option<&str>) -> bool {
    let Some(object) = view.services.get(service) else { return false };
    let selector = object.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selects = selector.is_some_and(|selector| !selector.is_empty() && has_labels(pod, selector));
    if !selects {
        return false;
    }
    let targets = targets(object, pod, section);
    targets.contains(&Some(port)) || misses(pod, &targets)
}

/// Where a Service, or one port of it, leads at a Pod; `None` for a port that has no number there.
fn targets(object: &Service, pod: &Pod, section: Option<&str>) -> Vec<Option<u16>> {
    let named = service::ports(object).filter(|(number, candidate)| {
        section.is_none_or(|section| {
            candidate.name.as_deref() == Some(section) || section.parse() == Ok(*number)
        })
    });
    named.map(|(_, candidate)| endpoint::target_port(pod, candidate)).collect()
}

/// Whether a Service leads to none of the ports in front of which a Pod's sidecar stands. By a slip of the pen (a container's port has another
/// name now) nobody may lose protection: a policy for such a Service holds at all ports of the sidecar.
fn misses(pod: &Pod, targets: &[Option<u16>]) -> bool {
    let met = |target: &Option<u16>| target.is_some_and(|port| workload::has_sidecar(pod, port));
    !targets.is_empty() && !targets.iter().any(met)
}
