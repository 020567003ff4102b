//! Certificate authorities and what they sign, in files and in rustls' forms.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::sandbox::Sandbox;

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub pem: String,
    /// The certificates above it.
    above: Vec<String>,
}

/// What a certificate is to say. Everything has a sound default.
#[derive(Clone, Debug)]
pub struct Leaf {
    dns: Vec<String>,
    uris: Vec<String>,
    usages: Vec<ExtendedKeyUsagePurpose>,
    years: (i32, i32),
    serial: u64,
    authority: bool,
    signs: bool,
    /// URIs as they are, whatever bytes they have.
    raw_uris: Vec<Vec<u8>>,
    /// What else it says.
    more: Option<fn(&mut CertificateParams)>,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The chain.
    pub chain: String,
    /// The key.
    pub key: String,
    serial: u64,
}

impl Leaf {
    /// For these DNS names, as server and as client.
    pub fn dns(names: &[&str]) -> Self {
        Self {
            dns: names.iter().map(|name| (*name).to_owned()).collect(),
            uris: Vec::new(),
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            years: (2020, 2099),
            serial: rcgen_serial(),
            authority: false,
            signs: true,
            raw_uris: Vec::new(),
            more: None,
        }
    }

    /// For this URI.
    pub fn uri(name: &str) -> Self {
        Self { uris: vec![name.to_owned()], ..Self::dns(&[]) }
    }

    /// With one more URI.
    #[must_use]
    pub fn and_uri(mut self, name: &str) -> Self {
        self.uris.push(name.to_owned());
        self
    }

    /// For these URIs, byte for byte: no certificate library would write some of them.
    pub fn raw_uris(uris: &[&[u8]]) -> Self {
        Self { raw_uris: uris.iter().map(|uri| uri.to_vec()).collect(), ..Self::dns(&[]) }
    }

    /// That says something else.
    #[must_use]
    pub fn with(mut self, more: fn(&mut CertificateParams)) -> Self {
        self.more = Some(more);
        self
    }

    /// For clients only.
    #[must_use]
    pub fn only_client(mut self) -> Self {
        self.usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self
    }

    /// For servers only.
    #[must_use]
    pub fn only_server(mut self) -> Self {
        self.usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self
    }

    /// Over since long.
    #[must_use]
    pub fn expired(mut self) -> Self {
        self.years = (2020, 2021);
        self
    }

    /// Not valid for long.
    #[must_use]
    pub fn future(mut self) -> Self {
        self.years = (2098, 2099);
        self
    }

    /// That says it is an authority.
    #[must_use]
    pub fn authority(mut self) -> Self {
        self.authority = true;
        self
    }

    /// Whose key may not sign.
    #[must_use]
    pub fn cannot_sign(mut self) -> Self {
        self.signs = false;
        self
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        let name = self.dns.first().or(self.uris.first()).cloned().unwrap_or_else(|| "nobody".to_owned());
        params.distinguished_name.push(DnType::CommonName, name);
        let text = |text: &String| text.as_str().try_into().expect("ASCII");
        params.subject_alt_names = self.dns.iter().map(|name| SanType::DnsName(text(name))).collect();
        params.subject_alt_names.extend(self.uris.iter().map(|name| SanType::URI(text(name))));
        params.extended_key_usages.clone_from(&self.usages);
        params.not_before = rcgen::date_time_ymd(self.years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(self.years.1, 1, 1);
        params.serial_number = Some(SerialNumber::from(self.serial));
        if self.authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        } else {
            let usage =
                if self.signs { KeyUsagePurpose::DigitalSignature } else { KeyUsagePurpose::KeyAgreement };
            params.key_usages = vec![usage];
        }
        if !self.raw_uris.is_empty() {
            let names: Vec<u8> = self.raw_uris.iter().flat_map(|uri| tagged(0x86, uri)).collect();
            let names = CustomExtension::from_oid_content(&[2, 5, 29, 17], tagged(0x30, &names));
            params.custom_extensions.push(names);
        }
        if let Some(more) = self.more {
            more(&mut params);
        }
        params
    }
}

/// A DER value.
fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("a short value").to_be_bytes();
    let mut der = vec![tag];
    match length {
        [0, low @ 0..128] => der.push(low),
        [0, low] => der.extend([0x81, low]),
        [high, low] => der.extend([0x82, high, low]),
    }
    der.extend_from_slice(content);
    der
}

fn rcgen_serial() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// Never, unless the system has no randomness.
    pub fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    /// A new one that says something else.
    ///
    /// # Panics
    /// When it says what no certificate can say.
    pub fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let params = authority(name, change);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("an authority").pem();
        Self { issuer: Issuer::new(params, key), pem, above: Vec::new() }
    }

    /// One that this one vouches for.
    ///
    /// # Panics
    /// When it says what no certificate can say.
    pub fn below(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let params = authority(name, change);
        let key = KeyPair::generate().expect("a key");
        let pem = params.signed_by(&key, &self.issuer).expect("an authority").pem();
        let above = std::iter::once(&self.pem).chain(&self.above).cloned().collect();
        Self { issuer: Issuer::new(params, key), pem, above }
    }

    /// Signs a certificate with a new key.
    ///
    /// # Panics
    /// When it says what no certificate can say.
    pub fn issue(&self, leaf: &Leaf) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let chain = leaf.params().signed_by(&key, &self.issuer).expect("a certificate").pem();
        Pair { chain, key: key.serialize_pem(), serial: leaf.serial }
    }

    /// Signs the key of a request in PEM form for these URIs, good from then to then: a chain in PEM form, the root last.
    ///
    /// # Panics
    /// When the request is none.
    pub fn sign(&self, request: &str, uris: &[&str], from: SystemTime, until: SystemTime) -> Vec<String> {
        let request = CertificateSigningRequestParams::from_pem(request).expect("a signing request");
        let mut leaf = Leaf::dns(&[]);
        leaf.uris = uris.iter().map(|uri| (*uri).to_owned()).collect();
        let mut params = leaf.params();
        params.distinguished_name = DistinguishedName::new();
        let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).expect("a time after 1970");
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since(from);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since(until);
        let certificate = params.signed_by(&request.public_key, &self.issuer).expect("a certificate");
        [certificate.pem(), self.pem.clone()].into_iter().chain(self.above.iter().cloned()).collect()
    }

    /// A list that revokes these.
    ///
    /// # Panics
    /// Never.
    pub fn revoke(&self, pairs: &[&Pair]) -> String {
        self.revoke_until(pairs, 2099)
    }

    /// A list that revokes these, good until the beginning of that year.
    ///
    /// # Panics
    /// Never.
    pub fn revoke_until(&self, pairs: &[&Pair], year: i32) -> String {
        let revoked = pairs.iter().map(|pair| RevokedCertParams {
            serial_number: SerialNumber::from(pair.serial),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }
}

fn authority(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    change(&mut params);
    params
}

/// A request of somebody else, in PEM form.
///
/// # Panics
/// Never.
pub fn signing_request() -> String {
    let key = KeyPair::generate().expect("a key");
    CertificateParams::default().serialize_request(&key).expect("a request").pem().expect("PEM")
}

/// A certificate that nobody has signed but its own key.
///
/// # Panics
/// When it says what no certificate can say.
pub fn self_signed(leaf: &Leaf) -> Pair {
    let key = KeyPair::generate().expect("a key");
    let chain = leaf.params().self_signed(&key).expect("a certificate").pem();
    Pair { chain, key: key.serialize_pem(), serial: leaf.serial }
}

impl Pair {
    /// Of a chain and a key that were made elsewhere.
    pub fn of(chain: String, key: String) -> Self {
        Self { chain, key, serial: 0 }
    }

    /// Shown with these authorities above it.
    #[must_use]
    pub fn under(mut self, authorities: &[&Authority]) -> Self {
        for authority in authorities {
            self.chain.push_str(&authority.pem);
        }
        self
    }

    /// Writes `<name>.pem` and `<name>.key`.
    pub fn write(&self, sandbox: &Sandbox, name: &str) -> (PathBuf, PathBuf) {
        (sandbox.write(&format!("{name}.pem"), &self.chain), sandbox.write(&format!("{name}.key"), &self.key))
    }

    /// A `TlsCertificate` with both inline.
    pub fn inline(&self) -> serde_json::Value {
        serde_json::json!({
            "certificate_chain": {"inline_string": self.chain},
            "private_key": {"inline_string": self.key},
        })
    }

    /// In rustls' form.
    ///
    /// # Panics
    /// Never: it was made here.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        let (chain, key) = self.parts();
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).expect("a key");
        Arc::new(CertifiedKey::new(chain, key))
    }

    /// Chain and key.
    ///
    /// # Panics
    /// Never: they were made here.
    pub fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain =
            CertificateDer::pem_slice_iter(self.chain.as_bytes()).map(|one| one.expect("PEM")).collect();
        (chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("PEM"))
    }
}
