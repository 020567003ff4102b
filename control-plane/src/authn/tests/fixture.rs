//! An authority for tests: certificates of every kind, the trust in them, and a clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::authn::WallClock;
use crate::authn::leaf::Chain;
use crate::model::Trust;

/// When tests happen, in seconds since 1970.
pub(crate) const NOW: u64 = 1_800_000_000;

/// A root.
pub(crate) struct Root {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// What a leaf says.
pub(crate) struct Says<'a> {
    pub(crate) uris: &'a [&'a str],
    pub(crate) dns: &'a [&'a str],
    pub(crate) from: u64,
    pub(crate) until: u64,
    pub(crate) authority: bool,
    pub(crate) serial: u64,
}

impl Default for Says<'_> {
    fn default() -> Self {
        Self { uris: &[WEB], dns: &[], from: NOW - 60, until: NOW + 3600, authority: false, serial: 0x4711 }
    }
}

pub(crate) const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

pub(crate) fn root(name: &str) -> Root {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Root { issuer: Issuer::new(params, key), pem }
}

impl Root {
    pub(crate) fn leaf(&self, says: &Says<'_>) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            says.uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params
            .subject_alt_names
            .extend(says.dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())));
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + Duration::from_secs(says.from);
        params.not_after = epoch + Duration::from_secs(says.until);
        params.serial_number = Some(says.serial.into());
        if says.authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        (der, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    /// An authority below this one, with this serial number.
    pub(crate) fn below(&self, name: &str, serial: u64) -> Root {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(serial.into());
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Root { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn chain(&self, says: &Says<'_>) -> Chain {
        [self.leaf(says).0].into()
    }

    /// A list that revokes one serial number.
    pub(crate) fn revoke(&self, serial: u64) -> String {
        self.revoke_until(serial, 2099)
    }

    /// The same, in a list that is over at the beginning of a year.
    pub(crate) fn revoke_until(&self, serial: u64, year: i32) -> String {
        let day = rcgen::date_time_ymd(2025, 1, 1);
        let revoked = rcgen::RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: day,
            reason_code: None,
            invalidity_date: None,
        };
        let params = rcgen::CertificateRevocationListParams {
            this_update: day,
            next_update: rcgen::date_time_ymd(year, 1, 1),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

pub(crate) fn trust(roots: &[&Root]) -> Trust {
    Trust {
        trust_domain: "cluster.local".to_owned(),
        bundles: BTreeMap::from([(
            "cluster.local".to_owned(),
            roots.iter().map(|root| root.pem.clone()).collect(),
        )]),
        revocation: Vec::new(),
        denied: Vec::new(),
    }
}

pub(crate) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A clock that tests set.
#[derive(Clone)]
pub(crate) struct Hand(Arc<Mutex<u64>>);

impl Hand {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(NOW)))
    }

    pub(crate) fn set(&self, seconds: u64) {
        *self.0.lock().unwrap() = seconds;
    }

    pub(crate) fn clock(&self) -> WallClock {
        let hand = self.clone();
        Arc::new(move || at(*hand.0.lock().unwrap()))
    }
}
