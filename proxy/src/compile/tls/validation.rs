//! `CertificateValidationContext`: whom to trust.

use std::net::IpAddr;

use sidegate_xds::envoy::r#type::matcher::v3::StringMatcher;
use sidegate_xds::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use super::source::{Inputs, place};
use super::{Unmade, spiffe, wire};
use crate::compile::problem::{At, Problem, fail, unsupported};
use crate::compile::value;
use crate::route::StringMatch;
use crate::tls::{NameKind, NameMatch, PolicyParts, Revocation, Roots};

/// The parts of the policy; `None` when the configuration has nothing to say.
pub(super) fn parts(
    common: &wire::CommonTlsContext,
    inputs: &Inputs<'_>,
) -> Result<Option<PolicyParts>, Unmade> {
    use wire::common_tls_context::ValidationContextType as Type;
    match &common.validation_context_type {
        None => Ok(None),
        Some(Type::ValidationContext(context)) => {
            Ok(Some(parts_of(context, None, inputs).at("validation_context")?))
        }
        Some(Type::ValidationContextSdsSecretConfig(config)) => {
            let context = by_secret(config, inputs, "validation_context_sds_secret_config")?;
            let place = format!("secret {}", config.name);
            Ok(Some(parts_of(context, None, inputs).at(place)?))
        }
        Some(Type::CombinedValidationContext(combined)) => {
            refuse_combined(combined).at("combined_validation_context")?;
            let own = combined.default_validation_context.clone().unwrap_or_default();
            let dynamic = match &combined.validation_context_sds_secret_config {
                Some(config) => Some(by_secret(config, inputs, "combined_validation_context")?),
                None => None,
            };
            Ok(Some(parts_of(&own, dynamic, inputs).at("combined_validation_context")?))
        }
        Some(_) => Err(Problem::new("certificate providers are not supported yet")
            .at("validation_context_type")
            .into()),
    }
}

#[allow(deprecated, reason = "named only to refuse it")]
fn refuse_combined(
    combined: &wire::common_tls_context::CombinedCertificateValidationContext,
) -> Result<(), Problem> {
    unsupported(&[
        (
            "validation_context_certificate_provider",
            combined.validation_context_certificate_provider.is_some(),
        ),
        (
            "validation_context_certificate_provider_instance",
            combined.validation_context_certificate_provider_instance.is_some(),
        ),
    ])
}

fn by_secret<'a>(
    config: &wire::SdsSecretConfig,
    inputs: &Inputs<'a>,
    place: &str,
) -> Result<&'a wire::CertificateValidationContext, Unmade> {
    let secret = inputs.secret(config).map_err(|unmade| match unmade {
        Unmade::Wrong(problem) => Unmade::Wrong(problem.at(place)),
        Unmade::Waiting => Unmade::Waiting,
    })?;
    match &secret.r#type {
        Some(wire::secret::Type::ValidationContext(context)) => Ok(context),
        _ => {
            Err(Problem::new(format!("secret {} is not a validation_context", config.name)).at(place).into())
        }
    }
}

/// `dynamic` is what a secret adds: single fields replace, lists are both's, as messages merge.
pub(super) fn parts_of(
    own: &wire::CertificateValidationContext,
    dynamic: Option<&wire::CertificateValidationContext>,
    inputs: &Inputs<'_>,
) -> Result<PolicyParts, Problem> {
    let all = || std::iter::once(own).chain(dynamic);
    let mut parts = PolicyParts::default();
    for context in all() {
        refuse_unsupported(context)?;
        if let Some(text) = inputs.read(context.trusted_ca.as_ref(), "trusted_ca")? {
            let roots = Roots::from_pem(&text, false);
            let roots = roots.map_err(|error| Problem::new(error.to_string()))?;
            for certificate in &*roots.certificates {
                inputs.show(place(context.trusted_ca.as_ref()), true, certificate);
            }
            parts.roots = Some(roots);
        } else if context.system_root_certs.is_some() {
            parts.roots = Some(system_roots(inputs).at("system_root_certs")?);
        }
        if let Some(bundles) = spiffe::bundles(context, inputs).at("custom_validator_config")? {
            parts.bundles = Some(bundles);
        }
        if let Some(text) = inputs.read(context.crl.as_ref(), "crl")? {
            let lists = Revocation::from_pem(&text).map_err(|error| Problem::new(error.to_string()))?;
            parts.revocation = Some(lists);
        }
        parts.only_leaf_revocation |= context.only_verify_leaf_cert_crl;
        parts.hide_roots |= context.suppress_client_ca_list;
        for (index, hash) in context.verify_certificate_hash.iter().enumerate() {
            let hash = hash.replace(':', "");
            parts.hashes.push(
                hexadecimal(&hash)
                    .ok_or_else(|| Problem::new("is no SHA-256 in hexadecimal"))
                    .at(format_args!("verify_certificate_hash[{index}]"))?,
            );
        }
        for (index, pin) in context.verify_certificate_spki.iter().enumerate() {
            parts.keys.push(spki(pin).at(format_args!("verify_certificate_spki[{index}]"))?);
        }
        for (index, matcher) in context.match_typed_subject_alt_names.iter().enumerate() {
            let place = format!("match_typed_subject_alt_names[{index}]");
            parts.names.push(name_match(matcher).at(place)?);
        }
        #[allow(deprecated, reason = "older control planes still send it")]
        for (index, matcher) in context.match_subject_alt_names.iter().enumerate() {
            for kind in [NameKind::Uri, NameKind::Dns, NameKind::Email, NameKind::Address] {
                let place = format!("match_subject_alt_names[{index}]");
                parts.names.push(text_match(kind, matcher).at(place)?);
            }
        }
    }
    check_vouched(&parts)?;
    Ok(parts)
}

/// What is said of certificates must be said of such as somebody vouches for.
fn check_vouched(parts: &PolicyParts) -> Result<(), Problem> {
    let vouched = parts.roots.is_some() || parts.bundles.is_some();
    if parts.revocation.is_some() && !vouched {
        return fail("needs a trusted_ca").at("crl");
    }
    // Anybody can write a name into a certificate that nobody has to vouch for.
    if !parts.names.is_empty() && !vouched && parts.hashes.is_empty() && parts.keys.is_empty() {
        return fail("needs a trusted_ca: names in a certificate that nobody has vouched for prove nothing")
            .at("match_typed_subject_alt_names");
    }
    Ok(())
}

fn refuse_unsupported(context: &wire::CertificateValidationContext) -> Result<(), Problem> {
    use wire::certificate_validation_context::TrustChainVerification;
    unsupported(&[
        ("ca_certificate_provider_instance", context.ca_certificate_provider_instance.is_some()),
        (
            "require_signed_certificate_timestamp",
            value::flag(context.require_signed_certificate_timestamp.as_ref(), false),
        ),
        ("allow_expired_certificate", context.allow_expired_certificate),
        (
            "trust_chain_verification",
            context.trust_chain_verification() != TrustChainVerification::VerifyTrustChain,
        ),
        ("max_verify_depth", context.max_verify_depth.is_some()),
    ])
}

fn name_match(wire: &wire::SubjectAltNameMatcher) -> Result<NameMatch, Problem> {
    use wire::subject_alt_name_matcher::SanType;
    let kind = match wire.san_type() {
        SanType::Uri => NameKind::Uri,
        SanType::Dns => NameKind::Dns,
        SanType::Email => NameKind::Email,
        SanType::IpAddress => NameKind::Address,
        SanType::OtherName => return fail("OTHER_NAME is not supported yet").at("san_type"),
        SanType::Unspecified => return fail("is required").at("san_type"),
    };
    let matcher = wire.matcher.as_ref().ok_or_else(|| Problem::new("is required").at("matcher"))?;
    text_match(kind, matcher).at("matcher")
}

fn text_match(kind: NameKind, wire: &StringMatcher) -> Result<NameMatch, Problem> {
    let test = value::string_match(wire)?;
    let what = match kind {
        NameKind::Uri => "URI",
        NameKind::Dns => "DNS",
        NameKind::Email => "email",
        NameKind::Address => "IP",
    };
    let (how, text) = match &wire.match_pattern {
        Some(MatchPattern::Exact(text)) => ("", text.as_str()),
        Some(MatchPattern::Prefix(text)) => ("prefix ", text.as_str()),
        Some(MatchPattern::Suffix(text)) => ("suffix ", text.as_str()),
        Some(MatchPattern::Contains(text)) => ("containing ", text.as_str()),
        Some(MatchPattern::SafeRegex(regex)) => ("matching ", regex.regex.as_str()),
        _ => ("", ""),
    };
    let case = if wire.ignore_case { " in any case" } else { "" };
    let exact = match &test {
        StringMatch::Exact { text, .. } => Some(Box::from(&**text)),
        _ => None,
    };
    // Addresses have several spellings.
    let test = match (kind, &test) {
        (NameKind::Address, StringMatch::Exact { text, .. }) => match text.parse::<IpAddr>() {
            Ok(address) => StringMatch::Exact { text: address.to_string().into(), ignore_case: false },
            Err(_) => return fail("is no IP address").at("exact"),
        },
        _ => test,
    };
    Ok(NameMatch {
        kind,
        text: format!("{what} {how}{text}{case}").into(),
        exact,
        matches: Box::new(move |name| test.matches(name.as_bytes())),
    })
}

fn hexadecimal(text: &str) -> Option<[u8; 32]> {
    let bytes = text.as_bytes();
    if bytes.len() != 64 {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(bytes.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// Base64 of a SHA-256.
fn spki(text: &str) -> Result<[u8; 32], Problem> {
    let wrong = || Problem::new("is no SHA-256 in base64");
    let digits = text.strip_suffix('=').unwrap_or(text);
    if digits.len() != 43 {
        return Err(wrong());
    }
    let mut bits: u32 = 0;
    let mut held = 0;
    let mut bytes = Vec::with_capacity(32);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(wrong()),
        };
        bits = (bits << 6) | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    bytes.try_into().map_err(|_| wrong())
}

fn system_roots(inputs: &Inputs<'_>) -> Result<Roots, Problem> {
    let mut last = Problem::new("this system has no bundle of roots");
    for path in BUNDLES {
        match inputs.file(path.into()) {
            Ok(text) => {
                return Roots::from_pem(&text, true).map_err(|error| Problem::new(error.to_string()));
            }
            Err(problem) => last = problem,
        }
    }
    Err(last)
}

/// Where systems keep their roots (Debian, RHEL, Alpine, SUSE).
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];
