//! `custom_validator_config` with `SPIFFECertValidatorConfig` → [`Bundles`].

use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::from_any;
use sidegate_xds::spiffe::{is_trust_domain, trust_domain_of};

use super::source::{Inputs, place};
use super::wire;
use crate::compile::extension;
use crate::compile::problem::{At, Problem, fail, unsupported};
use crate::tls::{Bundles, Roots};

/// The bundles of a validation context; `None` when it has no validator of its own.
pub(super) fn bundles(
    context: &wire::CertificateValidationContext,
    inputs: &Inputs<'_>,
) -> Result<Option<Bundles>, Problem> {
    let Some(validator) = &context.custom_validator_config else { return Ok(None) };
    let Some(any) = &validator.typed_config else { return fail("is required").at("typed_config") };
    match extension::type_name(any).as_str() {
        "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig" => {
            of_config(any, inputs).at("typed_config").map(Some)
        }
        other => fail(format!("validator {other} is not supported: envoy.tls.cert_validator.spiffe is")),
    }
}

fn of_config(any: &Any, inputs: &Inputs<'_>) -> Result<Bundles, Problem> {
    let config: wire::SpiffeCertValidatorConfig =
        from_any(any).map_err(|error| Problem::new(error.to_string()))?;
    unsupported(&[("trust_bundles", config.trust_bundles.is_some())])?;
    if config.trust_domains.is_empty() {
        return fail("needs a trust domain: nobody could be trusted").at("trust_domains");
    }
    let mut bundles = Bundles::new(|text| trust_domain_of(text).ok());
    for (index, domain) in config.trust_domains.iter().enumerate() {
        add(domain, &mut bundles, inputs).at(format_args!("trust_domains[{index}]"))?;
    }
    Ok(bundles)
}

fn add(
    domain: &wire::spiffe_cert_validator_config::TrustDomain,
    bundles: &mut Bundles,
    inputs: &Inputs<'_>,
) -> Result<(), Problem> {
    unsupported(&[("workload_trust_domain", !domain.workload_trust_domain.is_empty())])?;
    if !is_trust_domain(&domain.name) {
        return fail(format!("{:?} is no trust domain (without spiffe://, in lower case)", domain.name))
            .at("name");
    }
    let source = domain.trust_bundle.as_ref();
    let Some(text) = inputs.read(source, "trust_bundle")? else {
        return fail("is required").at("trust_bundle");
    };
    let roots = Roots::from_pem(&text, false).map_err(|error| Problem::new(error.to_string()));
    let roots = roots.at("trust_bundle")?;
    for certificate in &*roots.certificates {
        inputs.show(place(source), true, certificate);
    }
    if bundles.insert(&domain.name, roots) {
        Ok(())
    } else {
        fail(format!("{} is there twice", domain.name)).at("name")
    }
}
