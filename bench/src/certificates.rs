//! One authority, a server's and a client's certificate, in files as proxies want them, and the rig's own ends of TLS.
//!
//! The rig speaks TLS 1.3 with one cipher suite and one key exchange, so that every proxy does the same work: they differ in what
//! they prefer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A folder with `ca.pem`, and for `server` and `client` each `.pem`, `.key` and, both in one for HAProxy, `.pair`.
#[derive(Clone, Debug)]
pub(crate) struct Certificates(PathBuf);

impl Certificates {
    /// New keys (P-256) and certificates in `folder`.
    pub(crate) fn make(folder: &Path) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "sidegate-bench authority");
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        std::fs::write(folder.join("ca.pem"), certificate.pem())?;
        let authority = Issuer::new(params, key);
        leaf("server", SERVER_NAME, ExtendedKeyUsagePurpose::ServerAuth, &authority, folder)?;
        leaf("client", "client.example", ExtendedKeyUsagePurpose::ClientAuth, &authority, folder)?;
        Ok(Self(folder.to_owned()))
    }

    /// Those that [`Self::make`] made.
    pub(crate) fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// For the load: verifies the proxy, shows the client's certificate unless it is to be anonymous, and never resumes.
    pub(crate) fn client(&self, anonymous: bool) -> anyhow::Result<Arc<ClientConfig>> {
        let (chain, key) = self.pair("client")?;
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let builder = builder.with_root_certificates(self.roots()?);
        let mut config = if anonymous {
            builder.with_no_client_auth()
        } else {
            builder.with_client_auth_cert(chain, key)?
        };
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// For the origin: shows the server's certificate and verifies the proxy's.
    pub(crate) fn server(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let (chain, key) = self.pair("server")?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider()).build()?;
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        Ok(Arc::new(builder.with_client_cert_verifier(verifier).with_single_cert(chain, key)?))
    }

    fn roots(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.0.join("ca.pem")).context("ca.pem")?)?;
        Ok(roots)
    }

    fn pair(&self, name: &str) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let file = |kind: &str| self.0.join(format!("{name}.{kind}"));
        let chain = CertificateDer::from_pem_file(file("pem")).with_context(|| format!("{name}.pem"))?;
        let key = PrivateKeyDer::from_pem_file(file("key")).with_context(|| format!("{name}.key"))?;
        Ok((vec![chain], key))
    }
}

/// Whom the load expects to reach.
pub(crate) fn server_name() -> anyhow::Result<ServerName<'static>> {
    ServerName::try_from(SERVER_NAME).context("a constant name")
}

fn leaf(
    file: &str,
    name: &str,
    usage: ExtendedKeyUsagePurpose,
    authority: &Issuer<'_, KeyPair>,
    folder: &Path,
) -> anyhow::Result<()> {
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?.pem();
    let key = key.serialize_pem();
    std::fs::write(folder.join(format!("{file}.pair")), format!("{certificate}{key}"))?;
    std::fs::write(folder.join(format!("{file}.pem")), certificate)?;
    std::fs::write(folder.join(format!("{file}.key")), key)?;
    Ok(())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![kx_group::X25519],
        ..default_provider()
    })
}

/// In the server's certificate, for the origin and for proxies alike.
pub(crate) const SERVER_NAME: &str = "bench.example";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let certificates = Certificates::make(folder.path()).unwrap();
        certificates.client(false).unwrap();
        certificates.client(true).unwrap();
        certificates.server().unwrap();
        server_name().unwrap();
    }
}
