//! What the server's side of a full handshake of mutual TLS 1.3 costs, by who verifies the client: `plain` rustls, or Sidegate with a
//! SPIFFE bundle, to which each client is new (`cold`) or known (`warm`). All in memory, one thread, the same keys and certificates.
//!
//! `handshakes KIND COUNT` prints the median time of one; `valgrind --tool=callgrind --toggle-collect='*serve*'` counts its instructions.
//! `bench/README.md` has the commands and what came of them.

use std::sync::Arc;

use anyhow::{Context, bail};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use sidegate_proxy::measured;
use sidegate_xds::spiffe::trust_domain_of;
use tokio::time::{Duration, Instant};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let kind = arguments.next().context("plain, cold or warm?")?;
    let count: u32 = arguments.next().context("how many?")?.parse()?;
    let authority = Authority::new()?;
    let client = Arc::new(authority.client()?);
    let server = |verifier| authority.server(verifier).map(Arc::new);
    let (identified, known) = match kind.as_str() {
        "plain" => (false, Some(server(authority.plain()?)?)),
        "cold" => (true, None),
        "warm" => (true, Some(server(authority.sidegate()?)?)),
        _ => bail!("{kind}: plain, cold or warm"),
    };
    let mut spent = Vec::new();
    // The first one, which is not counted, is the one that a warm verifier remembers.
    for round in 0..=count {
        let config = match &known {
            Some(config) => config.clone(),
            None => server(authority.sidegate()?)?,
        };
        let took = handshake(&client, config, identified)?;
        if round > 0 {
            spent.push(took);
        }
    }
    spent.sort_unstable();
    let median = spent.get(spent.len() / 2).copied().unwrap_or_default();
    println!("{kind}: {:.1} µs (median)", median.as_secs_f64() * 1e6);
    Ok(())
}

/// One handshake to its end; gives the time that the server took.
fn handshake(
    client: &Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    identified: bool,
) -> anyhow::Result<Duration> {
    let mut client = ClientConnection::new(client.clone(), ServerName::try_from(SERVER)?)?;
    let mut server = ServerConnection::new(server)?;
    let mut spent = Duration::ZERO;
    while client.is_handshaking() || server.is_handshaking() {
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight)?;
        }
        let begun = Instant::now();
        let answer = serve(&mut server, &flight, identified)?;
        spent += begun.elapsed();
        let mut answer = answer.as_slice();
        while !answer.is_empty() {
            client.read_tls(&mut answer)?;
            client.process_new_packets()?;
        }
    }
    Ok(spent)
}

/// All that the server does, so that a profiler can tell it from the client.
#[inline(never)]
fn serve(server: &mut ServerConnection, mut flight: &[u8], identified: bool) -> anyhow::Result<Vec<u8>> {
    while !flight.is_empty() {
        server.read_tls(&mut flight)?;
        server.process_new_packets()?;
    }
    let mut answer = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut answer)?;
    }
    // Who it is has to be known afterwards; plain verification says only that somebody vouches for it.
    if identified && !server.is_handshaking() {
        let leaf = server.peer_certificates().and_then(<[_]>::first).context("no certificate")?;
        let id = measured::id_of(leaf);
        anyhow::ensure!(id.as_deref() == Some(CLIENT), "{id:?} is somebody else");
    }
    Ok(answer)
}

/// One authority and the two certificates that it signed.
struct Authority {
    roots: String,
    server: Pair,
    client: Pair,
}

type Pair = (CertificateDer<'static>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let roots = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        let server =
            leaf(&issuer, SanType::DnsName(SERVER.try_into()?), ExtendedKeyUsagePurpose::ServerAuth)?;
        let client = leaf(&issuer, SanType::URI(CLIENT.try_into()?), ExtendedKeyUsagePurpose::ClientAuth)?;
        Ok(Self { roots, server, client })
    }

    fn plain(&self) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
        Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(self.store()?), provider()).build()?)
    }

    fn sidegate(&self) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
        measured::clients("bench.example", self.roots.as_bytes(), |text| trust_domain_of(text).ok())
            .map_err(anyhow::Error::msg)
    }

    fn server(&self, verifier: Arc<dyn ClientCertVerifier>) -> anyhow::Result<ServerConfig> {
        let (chain, key) = &self.server;
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let builder = builder.with_client_cert_verifier(verifier);
        let mut config = builder.with_single_cert(vec![chain.clone()], key.clone_key())?;
        // As in the proxy: one ticket.
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        config.send_tls13_tickets = 1;
        Ok(config)
    }

    fn client(&self) -> anyhow::Result<ClientConfig> {
        let (chain, key) = &self.client;
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let builder = builder.with_root_certificates(self.store()?);
        let mut config = builder.with_client_auth_cert(vec![chain.clone()], key.clone_key())?;
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    fn store(&self) -> anyhow::Result<RootCertStore> {
        let mut store = RootCertStore::empty();
        store.add(CertificateDer::from_pem_slice(self.roots.as_bytes())?)?;
        Ok(store)
    }
}

fn leaf(issuer: &Issuer<'_, KeyPair>, name: SanType, usage: ExtendedKeyUsagePurpose) -> anyhow::Result<Pair> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![name];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?.der().clone();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
    Ok((certificate, key))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![kx_group::X25519],
        ..default_provider()
    })
}

const SERVER: &str = "bench.example";
const CLIENT: &str = "spiffe://bench.example/ns/shop/sa/cart";
