//! A leaf: what is in a certificate that says who a workload is.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};

/// What one leaf says.
#[derive(Debug)]
pub(super) struct Leaf<'a> {
    pub(super) serial: Serial,
    pub(super) identity: &'a str,
    /// Names beside the id; only the control plane's own certificate has any.
    pub(super) dns: &'a [String],
    pub(super) addresses: &'a [IpAddr],
    /// Seconds since 1970.
    pub(super) from: u64,
    pub(super) until: u64,
}

impl Leaf<'_> {
    /// Signs it; gives its DER form.
    pub(super) fn sign(
        &self,
        public_key: &impl PublicKeyData,
        issuer: &Issuer<'_, KeyPair>,
    ) -> Result<Vec<u8>, rcgen::Error> {
        let mut params = CertificateParams::default();
        // Without a subject the names are all that there is, and the extension that has them is critical (RFC 5280, 4.2.1.6).
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from_slice(&self.serial.0));
        set_validity(&mut params, self.from, self.until);
        params.subject_alt_names = vec![SanType::URI(self.identity.try_into()?)];
        for name in self.dns {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(self.addresses.iter().copied().map(SanType::IpAddress));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(public_key, issuer)?.der().to_vec())
    }
}

/// A serial number: 126 random bits, so that nobody guesses or repeats one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Serial(pub(super) [u8; 16]);

impl Serial {
    pub(super) fn random() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut bytes = [0; 16];
        aws_lc_rs::rand::fill(&mut bytes)?;
        // Positive, and as long as it looks: the same digits in every tool.
        bytes[0] = bytes[0] & 0x7f | 0x40;
        Ok(Self(bytes))
    }

    pub(super) fn text(self) -> String {
        super::pem::hex(&self.0)
    }
}

/// Sets how long a certificate is valid, in seconds since 1970.
pub(super) fn set_validity(params: &mut CertificateParams, from: u64, until: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from);
    params.not_after = epoch + Duration::from_secs(until);
}
