//! Revocation lists by name: of several lists of one issuer each counts, while a handshake looks at the first alone.

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{CertRevocationList, EndEntityCert, OwnedCertRevocationList};

/// The lists of everybody.
#[derive(Debug)]
pub(super) struct Lists(Vec<CertRevocationList<'static>>);

impl Lists {
    pub(super) fn read(lists: &[CertificateRevocationListDer<'_>]) -> Result<Self, String> {
        let read = |list: &CertificateRevocationListDer<'_>| {
            OwnedCertRevocationList::from_der(list).map(CertRevocationList::from)
        };
        lists
            .iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(|error| format!("a revocation list: {error}"))
    }

    /// Whether one of them names the certificate. One that cannot be read in full names everybody.
    pub(super) fn name(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok(certificate) = EndEntityCert::try_from(certificate) else { return false };
        let mut lists = self.0.iter().filter(|list| list.issuer() == certificate.issuer());
        lists.any(|list| !matches!(list.find_serial(certificate.serial()), Ok(None)))
    }
}
