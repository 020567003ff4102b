//! `DownstreamTlsContext` → [`ServerContext`].

use std::sync::Arc;

use super::common;
use super::source::Inputs;
use super::validation;
use super::{Make, Unmade, wire};
use crate::compile::problem::{At, Problem, unsupported};
use crate::compile::value;
use crate::tls::{ClientAuthentication, Denied, Policy, Remember, ServerContext, ServerPlan};

impl Make<Denied> for wire::DownstreamTlsContext {
    type Context = ServerContext;

    fn make(&self, denied: &Denied, inputs: &mut Inputs<'_>, into: &ServerContext) -> Result<(), Unmade> {
        let plan = plan(self, denied, inputs)?;
        into.install(&plan).map_err(|error| Problem::new(error.to_string()).into())
    }

    fn is_ready(context: &ServerContext) -> bool {
        context.is_ready()
    }

    fn withdraw(context: &ServerContext) {
        context.withdraw();
    }
}

fn plan(
    wire: &wire::DownstreamTlsContext,
    denied: &Denied,
    inputs: &Inputs<'_>,
) -> Result<ServerPlan, Unmade> {
    let empty = wire::CommonTlsContext::default();
    let common = wire.common_tls_context.as_ref().unwrap_or(&empty);
    refuse_unsupported(wire)?;
    common::refuse_unsupported(common).at("common_tls_context")?;
    let parameters = common::parameters(common.tls_params.as_ref()).at("common_tls_context")?;
    let alpn = common::alpn(common).at("common_tls_context")?;
    let within = |unmade: Unmade| match unmade {
        Unmade::Wrong(problem) => Unmade::Wrong(problem.at("common_tls_context")),
        Unmade::Waiting => Unmade::Waiting,
    };
    // Both, before either is waited for: what is missing is asked for at once.
    let identities = common::identities(common, inputs).map_err(within);
    let mut parts = validation::parts(common, inputs).map_err(within)?;
    if let Some(parts) = &mut parts {
        parts.denied = denied.clone();
    }
    let identities = identities?;
    if identities.is_empty() {
        let problem = Problem::new("a certificate is required");
        return Err(problem.at("common_tls_context.tls_certificates").into());
    }
    let required = value::flag(wire.require_client_certificate.as_ref(), false);
    let clients = clients(parts.map(Policy::new).map(Arc::new), required)?;
    use wire::downstream_tls_context::SessionTicketKeysType as Keys;
    let tickets =
        !matches!(wire.session_ticket_keys_type, Some(Keys::DisableStatelessSessionResumption(true)));
    Ok(ServerPlan {
        identities,
        clients,
        alpn,
        parameters,
        remember: Remember { tickets, sessions: !wire.disable_stateful_session_resumption },
        full_scan: value::flag(wire.full_scan_certs_on_sni_mismatch.as_ref(), false),
        require_sni: value::flag(wire.require_sni.as_ref(), false),
    })
}

fn refuse_unsupported(wire: &wire::DownstreamTlsContext) -> Result<(), Problem> {
    use wire::downstream_tls_context::{OcspStaplePolicy, SessionTicketKeysType as Keys};
    unsupported(&[
        (
            "session_ticket_keys",
            matches!(
                wire.session_ticket_keys_type,
                Some(Keys::SessionTicketKeys(_) | Keys::SessionTicketKeysSdsSecretConfig(_))
            ),
        ),
        // Lenient stapling staples what there is, and there is nothing.
        ("ocsp_staple_policy", wire.ocsp_staple_policy() != OcspStaplePolicy::LenientStapling),
    ])
}

/// A client is asked for its certificate when there is something to hold it against.
fn clients(policy: Option<Arc<Policy>>, required: bool) -> Result<ClientAuthentication, Problem> {
    match (policy.filter(|policy| !policy.is_open()), required) {
        (Some(policy), true) => Ok(ClientAuthentication::Required(policy)),
        (Some(policy), false) => Ok(ClientAuthentication::Optional(policy)),
        (None, false) => Ok(ClientAuthentication::None),
        (None, true) => Err(Problem::new(
            "needs a validation context with a trusted_ca or a hash: a certificate that nobody vouches for proves nothing",
        )
        .at("require_client_certificate")),
    }
}
