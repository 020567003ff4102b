//! What a handshake came to: the version, what was agreed on, and who is at the other end.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{CommonState, HandshakeKind, ProtocolVersion};

use super::certificate::{Certificate, Unreadable};
use super::server::Choices;
use super::verify::{Policy, Revoked};

/// The verified other end.
#[derive(Debug)]
pub(crate) struct Peer {
    /// What its certificate says.
    pub(crate) certificate: Certificate,
    /// The certificate itself.
    der: CertificateDer<'static>,
    /// What it sent with it, leaf left out.
    intermediates: Vec<CertificateDer<'static>>,
}

impl Peer {
    /// Why it would not be accepted any more by this policy, if so.
    pub(super) fn revoked_by(&self, policy: &Policy) -> Option<Revoked> {
        policy.revokes(&self.certificate, &self.der, &self.intermediates)
    }

    /// Its id: the one URI of its certificate.
    pub(crate) fn id(&self) -> Option<&str> {
        self.certificate.id()
    }

    /// Its certificate in PEM form, percent-encoded as Envoy does: as it is, it has line ends, which no header may hold.
    pub(crate) fn pem(&self) -> String {
        encoded(&pem(&self.der))
    }

    /// Its certificate and what it sent with it, in the same form.
    pub(crate) fn chain_pem(&self) -> String {
        std::iter::once(&self.der).chain(&self.intermediates).map(|der| encoded(&pem(der))).collect()
    }
}

fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len() * 5 / 4), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// A certificate in PEM form.
pub(super) fn pem(der: &[u8]) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let bits = group.iter().fold(0_u32, |bits, byte| (bits << 8) | u32::from(*byte))
                << (8 * (3 - group.len()));
            for digit in 0..4 {
                let value = (bits >> (18 - 6 * digit)) & 63;
                text.push(if digit > group.len() { '=' } else { char::from(BASE64[value as usize]) });
            }
        }
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What is known of a connection with TLS, for logs and headers.
#[derive(Debug)]
pub(crate) struct Security {
    /// `TLSv1.3` or `TLSv1.2`.
    pub(crate) version: &'static str,
    /// The cipher suite, as Envoy names it.
    pub(crate) cipher: Box<str>,
    /// The name that the client asked for, lower case.
    pub(crate) server_name: Option<Box<str>>,
    /// The client, if it showed a certificate; then it was verified.
    pub(crate) peer: Option<Peer>,
    /// The certificate that we showed.
    pub(crate) own: Option<Arc<super::Identity>>,
    /// The other certificates that we could have shown.
    choices: Option<Choices>,
    /// The session was one that had been established before.
    pub(crate) resumed: bool,
}

impl Security {
    /// A session with a client that has shown this certificate.
    #[cfg(test)]
    pub(crate) fn with_peer(der: &CertificateDer<'_>, own: Option<Arc<super::Identity>>) -> Self {
        let certificate = Certificate::read(der).expect("made by the test");
        let peer = Peer { certificate, der: der.clone().into_owned(), intermediates: Vec::new() };
        Self {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256".into(),
            server_name: None,
            peer: Some(peer),
            own,
            choices: None,
            resumed: false,
        }
    }

    /// The id of the other end, if it showed a certificate with one.
    pub(crate) fn peer_id(&self) -> Option<&str> {
        self.peer.as_ref()?.id()
    }

    /// Our own id on this connection.
    pub(crate) fn own_id(&self) -> Option<&str> {
        self.own.as_ref()?.leaf.id()
    }

    /// Whether a request for the host may come on this connection: not when the host has a certificate of its own that the client has
    /// not seen.
    pub(crate) fn admits(&self, host: &str) -> bool {
        if self.server_name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(host)) {
            return true;
        }
        match (&self.choices, &self.own) {
            (Some(choices), Some(own)) => choices.admit(own, host),
            _ => true,
        }
    }
}

/// What a handshake came to.
#[derive(Debug)]
pub(crate) struct Established {
    /// The protocol that was agreed on, if one was.
    pub(crate) alpn: Option<Box<[u8]>>,
    /// The rest.
    pub(crate) security: Arc<Security>,
}

impl Established {
    pub(super) fn of(
        state: &CommonState,
        server_name: Option<Box<str>>,
        own: Option<Arc<super::Identity>>,
        choices: Option<Choices>,
    ) -> Result<Self, Unreadable> {
        let peer = state.peer_certificates().and_then(|chain| chain.split_first());
        let peer = peer.map(|(leaf, intermediates)| -> Result<Peer, Unreadable> {
            Ok(Peer {
                certificate: Certificate::read(leaf)?,
                der: leaf.clone(),
                intermediates: intermediates.to_vec(),
            })
        });
        let security = Security {
            version: match state.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            },
            cipher: state.negotiated_cipher_suite().map(cipher_name).unwrap_or_default(),
            server_name,
            peer: peer.transpose()?,
            own,
            choices,
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
        };
        let alpn = state.alpn_protocol().map(Into::into);
        Ok(Self { alpn, security: Arc::new(security) })
    }
}

/// OpenSSL's name of a suite, which Envoy's logs have: `TLS_AES_128_GCM_SHA256`, `ECDHE-RSA-AES128-GCM-SHA256`.
fn cipher_name(suite: rustls::SupportedCipherSuite) -> Box<str> {
    super::parameters::name_of(suite).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_in_a_header_has_no_line_end() {
        assert_eq!(encoded("-----BEGIN A\n+/="), "-----BEGIN%20A%0A%2B%2F%3D");
        assert!(encoded(&pem(&[0xfb; 100])).bytes().all(|byte| byte.is_ascii_graphic()));
    }

    #[test]
    fn a_certificate_in_pem_form_is_base64_in_lines() {
        // RFC 4648 §10.
        for (bytes, digits) in [
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let wanted = format!("-----BEGIN CERTIFICATE-----\n{digits}\n-----END CERTIFICATE-----\n");
            assert_eq!(pem(bytes.as_bytes()), wanted);
        }
        let lines: Vec<usize> = pem(&[0; 100]).lines().map(str::len).collect();
        assert_eq!(lines, [27, 64, 64, 8, 25]);
    }

    #[test]
    fn a_peer_shows_its_certificate_and_what_it_sent_with_it() {
        let made = rcgen::generate_simple_self_signed(["web.test".to_owned()]).unwrap();
        let mut security = Security::with_peer(made.cert.der(), None);
        let peer = security.peer.as_mut().unwrap();
        let own = encoded(&pem(made.cert.der()));
        assert_eq!((peer.pem(), peer.chain_pem()), (own.clone(), own.clone()));
        peer.intermediates.push(CertificateDer::from(vec![1, 2, 3]));
        assert_eq!(peer.pem(), own);
        assert_eq!(peer.chain_pem(), own + &encoded(&pem(&[1, 2, 3])));
    }

    #[test]
    fn who_is_at_either_end_is_known_by_the_one_uri() {
        let with = |uris: &[&str]| {
            let mut params = rcgen::CertificateParams::default();
            let uri = |text: &&str| rcgen::SanType::URI((*text).try_into().unwrap());
            params.subject_alt_names = uris.iter().map(uri).collect();
            let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            Security::with_peer(made.der(), None)
        };
        assert_eq!(with(&["spiffe://a/b"]).peer_id(), Some("spiffe://a/b"));
        assert_eq!(with(&["spiffe://a/b", "spiffe://a/c"]).peer_id(), None);
        assert_eq!(with(&[]).peer_id(), None);
        assert_eq!(with(&[]).own_id(), None);
        assert_eq!(Security { peer: None, ..with(&[]) }.peer_id(), None);
    }

    #[test]
    fn the_name_that_was_asked_for_admits_in_any_case() {
        let made = rcgen::generate_simple_self_signed(["web.test".to_owned()]).unwrap();
        let security =
            Security { server_name: Some("web.test".into()), ..Security::with_peer(made.cert.der(), None) };
        assert!(security.admits("WEB.test"));
        // Without other certificates there is nothing that another host's client has not seen.
        assert!(security.admits("other.test"));
    }
}
