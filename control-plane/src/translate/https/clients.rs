//! `spec.tls.frontend` of a Gateway: who must vouch for the clients of its HTTPS ports.

use gateway_api::experimental::gateways::{
    Gateway, GatewayTlsFrontendDefaultValidation as ForAll,
    GatewayTlsFrontendDefaultValidationMode as ForAllMode, GatewayTlsFrontendPerPortTlsValidation as ForPort,
    GatewayTlsFrontendPerPortTlsValidationMode as ForPortMode,
};

use super::Notes;
use crate::model::{Name, View, pem};
use crate::snapshot::Resource;
use crate::translate::grants;
use crate::translate::security;
use crate::translate::verdict::{ACCEPTED, Problem, RESOLVED_REFS};

/// What a port asks of its clients, whichever of the two places it is written in.
struct Validation<'a> {
    place: String,
    references: Vec<Reference<'a>>,
    accepts_anybody: bool,
}

struct Reference<'a> {
    group: &'a str,
    kind: &'a str,
    namespace: Option<&'a str>,
    name: &'a str,
}

/// The secret with those who vouch for the clients of a port; `None` when clients need no certificate.
///
/// # Errors
/// When they need one, and nobody is known who could vouch for it: the port must not serve.
pub(super) fn required(
    view: &View,
    gateway: &Gateway,
    name: &Name,
    port: i32,
) -> Result<Option<(String, Resource)>, Notes> {
    let Some(validation) = validation(gateway, port) else { return Ok(None) };
    let place = &validation.place;
    if validation.accepts_anybody {
        let text = format!(
            "{place}.mode: AllowInsecureFallback is not supported: a certificate that proves nothing is as good as none. Use \
             AllowValidOnly, or leave validation out"
        );
        return Err(vec![(ACCEPTED, Problem::new("UnsupportedValue", text))]);
    }
    let (mut notes, mut roots) = (Notes::new(), Vec::new());
    for (index, reference) in validation.references.iter().enumerate() {
        match authority(view, name, reference) {
            Ok(text) => roots.push(text.to_owned()),
            Err(problem) => {
                let message = format!("{place}.caCertificateRefs[{index}]: {}", problem.message);
                notes.push((RESOLVED_REFS, Problem { message, ..problem }));
            }
        }
    }
    // One of several that cannot be read would make some good clients bad: better none is served than nobody knows why.
    if roots.is_empty() || !notes.is_empty() {
        let text = format!("{place}.caCertificateRefs: not all of them hold a certificate");
        notes.push((ACCEPTED, Problem::new("NoValidCACertificate", text)));
        return Err(notes);
    }
    let secret = format!("frontend-ca://{name}/{port}");
    let resource = Resource::new(&security::client_roots(&secret, &roots));
    Ok(Some((secret, resource)))
}

fn validation(gateway: &Gateway, port: i32) -> Option<Validation<'_>> {
    let frontend = gateway.spec.tls.as_ref()?.frontend.as_ref()?;
    let for_port =
        frontend.per_port.iter().flatten().enumerate().find(|(_, candidate)| candidate.port == port);
    match for_port {
        Some((index, given)) => {
            let place = format!("spec.tls.frontend.perPort[{index}].tls.validation");
            given.tls.validation.as_ref().map(|given| of_port(place, given))
        }
        None => frontend.default.validation.as_ref().map(of_all),
    }
}

fn of_all(given: &ForAll) -> Validation<'_> {
    let references = given.ca_certificate_refs.iter().map(|reference| Reference {
        group: &reference.group,
        kind: &reference.kind,
        namespace: reference.namespace.as_deref(),
        name: &reference.name,
    });
    Validation {
        place: "spec.tls.frontend.default.validation".to_owned(),
        references: references.collect(),
        accepts_anybody: given.mode == Some(ForAllMode::AllowInsecureFallback),
    }
}

fn of_port(place: String, given: &ForPort) -> Validation<'_> {
    let references = given.ca_certificate_refs.iter().map(|reference| Reference {
        group: &reference.group,
        kind: &reference.kind,
        namespace: reference.namespace.as_deref(),
        name: &reference.name,
    });
    Validation {
        place,
        references: references.collect(),
        accepts_anybody: given.mode == Some(ForPortMode::AllowInsecureFallback),
    }
}

/// The certificates of one reference: `ca.crt` of a ConfigMap, or of a Secret.
fn authority<'a>(view: &'a View, gateway: &Name, reference: &Reference<'_>) -> Result<&'a str, Problem> {
    let invalid = |text: String| Problem::new("InvalidCACertificateRef", text);
    let target = Name::new(reference.namespace.unwrap_or(&gateway.namespace), reference.name);
    let kind = match (reference.group, reference.kind) {
        ("", kind @ ("ConfigMap" | "Secret")) => kind,
        (group, kind) => {
            let text = format!(
                "kind {kind:?} of group {group:?} holds no certificates here; a ConfigMap or a Secret does"
            );
            return Err(Problem::new("InvalidCACertificateKind", text));
        }
    };
    if !grants::allows(view, ("Gateway", &gateway.namespace), (kind, &target)) {
        let text = format!(
            "{kind} {target} is in another namespace, and no ReferenceGrant there lets Gateways of {} refer to it",
            gateway.namespace
        );
        return Err(Problem::new("RefNotPermitted", text));
    }
    let absent = || invalid(format!("{kind} {target} does not exist"));
    let bytes = if kind == "ConfigMap" {
        let object = view.config_maps.get(&target).ok_or_else(absent)?;
        object.data.as_ref().and_then(|data| data.get(KEY)).map(String::as_bytes)
    } else {
        let object = view.secrets.get(&target).ok_or_else(absent)?;
        object.data.as_ref().and_then(|data| data.get(KEY)).map(|bytes| &*bytes.0)
    };
    bytes
        .filter(|bytes| pem::has_certificate(bytes))
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .ok_or_else(|| invalid(format!("{kind} {target}: {KEY} has no certificate in PEM form")))
}

/// Where a ConfigMap or a Secret has the certificates of an authority.
const KEY: &str = "ca.crt";
