//! `CommonTlsContext`: parameters, certificates, ALPN.

use std::sync::Arc;

use super::source::{Inputs, place};
use super::{Unmade, fresh, is_set, wire};
use crate::compile::problem::{At, Problem, fail, unsupported};
use crate::tls::{Identity, Parameters};

/// Refuses what would change who is trusted or what is shown if it were left out.
pub(super) fn refuse_unsupported(common: &wire::CommonTlsContext) -> Result<(), Problem> {
    unsupported(&[
        ("tls_certificate_provider_instance", common.tls_certificate_provider_instance.is_some()),
        ("custom_tls_certificate_selector", common.custom_tls_certificate_selector.is_some()),
        ("tls_certificate_certificate_provider", common.tls_certificate_certificate_provider.is_some()),
        (
            "tls_certificate_certificate_provider_instance",
            common.tls_certificate_certificate_provider_instance.is_some(),
        ),
        ("custom_handshaker", common.custom_handshaker.is_some()),
        // Whoever has the log can read every connection.
        ("key_log", is_set(common.key_log.as_ref())),
    ])
}

/// `tls_params`.
pub(super) fn parameters(wire: Option<&wire::TlsParameters>) -> Result<Parameters, Problem> {
    let Some(wire) = wire else { return Ok(Parameters::default()) };
    parameters_of(wire).at("tls_params")
}

fn parameters_of(wire: &wire::TlsParameters) -> Result<Parameters, Problem> {
    use wire::tls_parameters::TlsProtocol;
    unsupported(&[
        ("signature_algorithms", !wire.signature_algorithms.is_empty()),
        ("compliance_policies", !wire.compliance_policies.is_empty()),
    ])?;
    let (least, most) = (wire.tls_minimum_protocol_version(), wire.tls_maximum_protocol_version());
    // Older versions are never spoken: asking for them as the least is met by newer ones, as the most it is not.
    if matches!(most, TlsProtocol::TlSv10 | TlsProtocol::TlSv11) {
        return fail("TLS 1.0 and 1.1 are not spoken here").at("tls_maximum_protocol_version");
    }
    let tls12 = least != TlsProtocol::TlSv13;
    let tls13 = most != TlsProtocol::TlSv12;
    if !tls12 && !tls13 {
        return fail("is below tls_minimum_protocol_version").at("tls_maximum_protocol_version");
    }
    let mut suites = Vec::new();
    for entry in &wire.cipher_suites {
        // `[a|b]` is a group of equal preference in Envoy.
        suites.extend(entry.trim_matches(['[', ']']).split('|').map(ToOwned::to_owned));
    }
    // Suites that are not spoken here are not offered: the others remain.
    suites.retain(|suite| Parameters::knows_suite(suite));
    if suites.is_empty() && !wire.cipher_suites.is_empty() && !tls13 {
        return fail("none of these is spoken here: ECDHE with AES-GCM or ChaCha20-Poly1305 is")
            .at("cipher_suites");
    }
    let groups = wire.ecdh_curves.clone();
    if let Some(unknown) = groups.iter().find(|group| !Parameters::knows_group(group)) {
        return fail(format!("{unknown} is not spoken here: X25519, P-256, P-384, X25519MLKEM768 are"))
            .at("ecdh_curves");
    }
    Ok(Parameters {
        // Without a suite of its own, TLS 1.2 cannot be spoken.
        tls12: tls12 && (!suites.is_empty() || wire.cipher_suites.is_empty()),
        tls13,
        suites: (!wire.cipher_suites.is_empty()).then_some(suites),
        groups: (!groups.is_empty()).then_some(groups),
    })
}

/// `alpn_protocols`.
pub(super) fn alpn(common: &wire::CommonTlsContext) -> Result<Vec<Vec<u8>>, Problem> {
    let mut protocols = Vec::new();
    for (index, protocol) in common.alpn_protocols.iter().enumerate() {
        if protocol.is_empty() || protocol.len() > 255 {
            return fail("must have 1 to 255 bytes").at(format_args!("alpn_protocols[{index}]"));
        }
        protocols.push(protocol.as_bytes().to_vec());
    }
    Ok(protocols)
}

/// The certificates, from the configuration itself or by secrets.
pub(super) fn identities(
    common: &wire::CommonTlsContext,
    inputs: &Inputs<'_>,
) -> Result<Vec<Arc<Identity>>, Unmade> {
    let mut identities = Vec::new();
    for (index, certificate) in common.tls_certificates.iter().enumerate() {
        let identity = identity(certificate, inputs).at(format_args!("tls_certificates[{index}]"))?;
        inputs.show(place(certificate.certificate_chain.as_ref()), false, &identity.leaf);
        identities.push(Arc::new(identity));
    }
    // Every secret is asked for, so that all are subscribed to.
    let mut waiting = false;
    for (index, config) in common.tls_certificate_sds_secret_configs.iter().enumerate() {
        let place = format!("tls_certificate_sds_secret_configs[{index}]");
        match inputs.secret(config) {
            Ok(secret) => {
                let place = format!("{place}.secret {}", secret.name);
                let Some(wire::secret::Type::TlsCertificate(certificate)) = &secret.r#type else {
                    return Err(Problem::new("is not a tls_certificate").at(place).into());
                };
                let identity = identity(certificate, inputs).at(place)?;
                inputs.show(&secret.name, false, &identity.leaf);
                identities.push(Arc::new(identity));
            }
            Err(Unmade::Waiting) => waiting = true,
            Err(Unmade::Wrong(problem)) => return Err(problem.at(place).into()),
        }
    }
    if waiting { Err(Unmade::Waiting) } else { Ok(identities) }
}

/// `TlsCertificate`.
pub(super) fn identity(certificate: &wire::TlsCertificate, inputs: &Inputs<'_>) -> Result<Identity, Problem> {
    unsupported(&[
        ("pkcs12", certificate.pkcs12.is_some()),
        ("private_key_provider", certificate.private_key_provider.is_some()),
        ("password", certificate.password.is_some()),
        ("ocsp_staple", certificate.ocsp_staple.is_some()),
        ("signed_certificate_timestamp", !certificate.signed_certificate_timestamp.is_empty()),
        ("tls_params", certificate.tls_params.is_some()),
    ])?;
    let chain = inputs.read(certificate.certificate_chain.as_ref(), "certificate_chain")?;
    let chain = chain.ok_or_else(|| Problem::new("is required").at("certificate_chain"))?;
    let key = inputs.read(certificate.private_key.as_ref(), "private_key")?;
    let key = key.ok_or_else(|| Problem::new("is required").at("private_key"))?;
    let identity = Identity::from_pem(&chain, &key).map_err(|error| Problem::new(error.to_string()))?;
    fresh(&identity, inputs)?;
    Ok(identity)
}
