//! HTTPS listeners of a Gateway: which certificates they show, whom they ask for one, and the secrets for both.
//!
//! Secrets go to proxies that have proven who they are, and to nobody else.

use std::collections::BTreeMap;

use gateway_api::experimental::gateways::{
    Gateway, GatewayListeners, GatewayListenersTls, GatewayListenersTlsMode,
};
use sidegate_xds::envoy::config::route::v3::route::Action;
use sidegate_xds::envoy::config::route::v3::route_match::PathSpecifier;
use sidegate_xds::envoy::config::route::v3::{
    DirectResponseAction, Route as WireRoute, RouteMatch, VirtualHost,
};

use super::attach::Termination;
use super::context::Build;
use super::grants;
use super::security::{self, Edge};
use super::verdict::{ACCEPTED, PROGRAMMED, Problem, RESOLVED_REFS, name_of};
use super::virtual_host::host;
use crate::model::{Name, View, pem};
use crate::snapshot::{Resource, Resources};

mod clients;

/// `tls.options` that Sidegate has.
const MINIMUM_VERSION: &str = "sidegate.dev/minimum-protocol-version";

/// A condition, and what makes it false.
type Notes = Vec<(&'static str, Problem)>;

/// What becomes of an HTTPS listener's connections. What is wrong is noted; one that cannot show a certificate, or cannot ask for the
/// one that it should, serves nothing.
pub(super) fn terminate(
    build: &Build<'_>,
    gateway: &Gateway,
    given: &GatewayListeners,
    resources: &mut Resources,
) -> (Termination, Notes) {
    let mut notes = Notes::new();
    let name = name_of(&gateway.metadata);
    let edge = edge(build.world.view, gateway, &name, given, &mut notes);
    let Some((edge, secrets)) = edge else {
        let text = "it cannot serve: see ResolvedRefs and Accepted";
        notes.push((PROGRAMMED, Problem::new("Invalid", text)));
        return (Termination::Withheld, notes);
    };
    if !build.secure {
        let text = "HTTPS is served by proxies that have proven who they are, as it needs a private key: one that is connected without \
                    TLS serves none. Let it connect to the control plane by TLS (`sidegate bootstrap` with an identity)";
        notes.push((PROGRAMMED, Problem::new("Pending", text)));
        return (Termination::Withheld, notes);
    }
    resources.secrets.extend(secrets);
    (Termination::Tls(edge), notes)
}

/// What the listener shows and asks for, with the secrets of both.
fn edge(
    view: &View,
    gateway: &Gateway,
    name: &Name,
    given: &GatewayListeners,
    notes: &mut Notes,
) -> Option<(Edge, BTreeMap<String, Resource>)> {
    let none = GatewayListenersTls::default();
    let tls = given.tls.as_ref().unwrap_or(&none);
    if tls.mode == Some(GatewayListenersTlsMode::Passthrough) {
        let text =
            "tls.mode: HTTPS terminates TLS; Passthrough is for protocol TLS, which is not supported yet";
        notes.push((ACCEPTED, Problem::new("UnsupportedValue", text)));
        return None;
    }
    let only_tls13 = match minimum_version(tls) {
        Ok(only_tls13) => only_tls13,
        Err(problem) => {
            notes.push((ACCEPTED, problem));
            return None;
        }
    };
    let mut secrets = BTreeMap::new();
    let mut certificates = Vec::new();
    for (index, reference) in tls.certificate_refs.iter().flatten().enumerate() {
        let target =
            Name::new(reference.namespace.as_deref().unwrap_or(&name.namespace), reference.name.as_str());
        let kind = (reference.group.as_deref().unwrap_or(""), reference.kind.as_deref().unwrap_or("Secret"));
        match pair(view, name, kind, &target) {
            Ok(resource) => {
                let secret = format!("kubernetes://{target}");
                if secrets.insert(secret.clone(), resource).is_none() {
                    certificates.push(secret);
                }
            }
            Err(problem) => {
                let message = format!("tls.certificateRefs[{index}]: {}", problem.message);
                notes.push((RESOLVED_REFS, Problem { message, ..problem }));
            }
        }
    }
    if certificates.is_empty() && notes.is_empty() {
        let text = "tls.certificateRefs: a certificate is needed: name a Secret of type kubernetes.io/tls";
        notes.push((RESOLVED_REFS, Problem::new("InvalidCertificateRef", text)));
    }
    let clients = match clients::required(view, gateway, name, given.port) {
        Ok(required) => required,
        Err(problems) => {
            notes.extend(problems);
            return None;
        }
    };
    let clients = clients.map(|(secret, resource)| {
        secrets.insert(secret.clone(), resource);
        secret
    });
    (!certificates.is_empty()).then_some((Edge { certificates, clients, only_tls13 }, secrets))
}

fn minimum_version(tls: &GatewayListenersTls) -> Result<bool, Problem> {
    let mut only_tls13 = false;
    for (key, value) in tls.options.iter().flatten() {
        match (key.as_str(), value.as_str()) {
            (MINIMUM_VERSION, "1.2") => only_tls13 = false,
            (MINIMUM_VERSION, "1.3") => only_tls13 = true,
            (MINIMUM_VERSION, other) => {
                let text = format!("tls.options[{key:?}]: {other:?} is not 1.2 or 1.3");
                return Err(Problem::new("UnsupportedValue", text));
            }
            // What nobody here knows might have been meant to protect somebody.
            _ => {
                let text = format!("tls.options: there is no option {key:?}; there is {MINIMUM_VERSION}");
                return Err(Problem::new("UnsupportedValue", text));
            }
        }
    }
    Ok(only_tls13)
}

/// The certificate and key of a Secret.
fn pair(
    view: &View,
    gateway: &Name,
    (group, kind): (&str, &str),
    target: &Name,
) -> Result<Resource, Problem> {
    let invalid = |text: String| Err(Problem::new("InvalidCertificateRef", text));
    if (group, kind) != ("", "Secret") {
        return invalid(format!("kind {kind:?} of group {group:?} holds no certificate; a Secret does"));
    }
    if !grants::allows(view, ("Gateway", &gateway.namespace), ("Secret", target)) {
        let text = format!(
            "Secret {target} is in another namespace, and no ReferenceGrant there lets Gateways of {} refer to it",
            gateway.namespace
        );
        return Err(Problem::new("RefNotPermitted", text));
    }
    let Some(secret) = view.secrets.get(target) else {
        return invalid(format!("Secret {target} does not exist"));
    };
    if secret.type_.as_deref() != Some("kubernetes.io/tls") {
        return invalid(format!("Secret {target} is not of type kubernetes.io/tls"));
    }
    let entry = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| &*bytes.0);
    let chain = entry("tls.crt").filter(|bytes| pem::has_certificate(bytes));
    let key = entry("tls.key").filter(|bytes| pem::has_private_key(bytes));
    match (chain, key) {
        (Some(chain), Some(key)) => {
            let name = format!("kubernetes://{target}");
            Ok(Resource::confidential(&security::certificate(&name, chain, key)))
        }
        (None, _) => invalid(format!("Secret {target}: tls.crt has no certificate in PEM form")),
        (_, None) => {
            invalid(format!("Secret {target}: tls.key has no private key in PEM form, in the clear"))
        }
    }
}

/// The hosts of the port's other listeners, asked for over a connection that is this listener's: 421, so that a client that joins
/// connections by their certificate asks again over one of its own. Another listener may ask its clients for more.
pub(super) fn misdirected(own: &[VirtualHost], others: impl Iterator<Item = String>) -> Option<VirtualHost> {
    let mut domains: Vec<String> = others
        .filter(|other| own.iter().all(|host| host.domains.iter().all(|domain| domain != other)))
        .collect();
    domains.sort();
    domains.dedup();
    let refusal = WireRoute {
        name: "misdirected".to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(Action::DirectResponse(DirectResponseAction {
            status: 421,
            ..DirectResponseAction::default()
        })),
        ..WireRoute::default()
    };
    (!domains.is_empty())
        .then(|| VirtualHost { name: "misdirected".to_owned(), ..host(domains, vec![refusal]) })
}
