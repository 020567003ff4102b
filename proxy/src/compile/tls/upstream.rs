//! `UpstreamTlsContext` → [`ClientContext`].

use std::sync::Arc;

use super::common;
use super::source::Inputs;
use super::validation;
use super::{Make, Unmade, wire};
use crate::compile::problem::{At, Problem, fail, unsupported};
use crate::compile::value;
use crate::tls::{ClientContext, ClientPlan, Denied, Policy};

/// What the cluster asks of its context, besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// The cluster's name, for the log.
    pub(crate) cluster: Arc<str>,
    /// `auto_san_validation`: the certificate must be for the name that was asked for.
    pub(crate) verify_name: bool,
    /// Endpoints with these ids are not accepted.
    pub(crate) denied: Denied,
}

impl Make<Wishes> for wire::UpstreamTlsContext {
    type Context = ClientContext;

    fn make(&self, wishes: &Wishes, inputs: &mut Inputs<'_>, into: &ClientContext) -> Result<(), Unmade> {
        let plan = plan(self, wishes, inputs)?;
        if !inputs.replaces {
            warn_if_open(&plan.policy, &wishes.cluster);
        }
        into.install(&plan).map_err(|error| Problem::new(error.to_string()).into())
    }

    fn is_ready(context: &ClientContext) -> bool {
        context.is_ready()
    }

    fn withdraw(context: &ClientContext) {
        context.withdraw();
    }
}

fn plan(wire: &wire::UpstreamTlsContext, wishes: &Wishes, inputs: &Inputs<'_>) -> Result<ClientPlan, Unmade> {
    let empty = wire::CommonTlsContext::default();
    let common = wire.common_tls_context.as_ref().unwrap_or(&empty);
    unsupported(&[("allow_renegotiation", wire.allow_renegotiation)])?;
    common::refuse_unsupported(common).at("common_tls_context")?;
    let parameters = common::parameters(common.tls_params.as_ref()).at("common_tls_context")?;
    let within = |unmade: Unmade| match unmade {
        Unmade::Wrong(problem) => Unmade::Wrong(problem.at("common_tls_context")),
        Unmade::Waiting => Unmade::Waiting,
    };
    let identities = common::identities(common, inputs).map_err(within);
    let parts = validation::parts(common, inputs).map_err(within)?;
    let mut identities = identities?.into_iter();
    let identity = identities.next();
    if identities.next().is_some() {
        return Err(Problem::new("a client shows one certificate")
            .at("common_tls_context.tls_certificates")
            .into());
    }
    let mut parts = parts.unwrap_or_default();
    parts.requested_name = wishes.verify_name || wire.auto_sni_san_validation;
    parts.denied = wishes.denied.clone();
    if parts.requested_name && parts.roots.is_none() && parts.bundles.is_none() {
        return Err(Problem::new("needs a trusted_ca: a name that nobody has vouched for proves nothing")
            .at("auto_sni_san_validation")
            .into());
    }
    let policy = Policy::new(parts);
    if policy.is_open() && !wishes.denied.is_empty() {
        return Err(Problem::new("needs a trusted_ca: an id that nobody has vouched for proves nothing")
            .at("metadata.filter_metadata.sidegate.denied_identities")
            .into());
    }
    Ok(ClientPlan {
        identity,
        policy: Arc::new(policy),
        server_name: server_name(&wire.sni)?,
        alpn: common::alpn(common).at("common_tls_context")?,
        parameters,
        resume: value::number(wire.max_session_keys.as_ref()) != Some(0),
    })
}

fn server_name(sni: &str) -> Result<Option<Box<str>>, Problem> {
    if sni.is_empty() {
        return Ok(None);
    }
    if sni.len() > 255 || !sni.bytes().all(|byte| byte.is_ascii_graphic()) {
        return fail("is no name to ask a server for").at("sni");
    }
    Ok(Some(sni.into()))
}

/// As Envoy does; but whoever set this up should hear of it.
fn warn_if_open(policy: &Policy, cluster: &str) {
    if policy.is_open() {
        tracing::warn!(
            cluster,
            "its TLS has no trusted_ca: ANY certificate is accepted from its endpoints, so nothing proves who they are"
        );
    } else if !policy.checks_names() {
        tracing::warn!(
            cluster,
            "its TLS checks no name: any certificate of its trusted_ca is accepted (set match_typed_subject_alt_names or auto_sni_san_validation)"
        );
    }
}
