//! Callers who are not who they say: each is refused, logged and counted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value as Json, json};
use sidegate_xds::google::protobuf::value::Kind;
use sidegate_xds::google::protobuf::{Struct, Value};
use sidegate_xds::resource::ResourceType;
use tokio::io::AsyncReadExt;
use tonic::Code;

use crate::plane::{Leaf, Plane, gateway, node, pod, request, signed};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A certificate that the mesh's own authority has signed and that is over, as an old backup of a Pod has one.
fn yesterdays(plane: &Plane) -> Leaf {
    let files = std::fs::read_dir(plane.ca()).unwrap().map(|entry| entry.unwrap().path());
    let issuing = files.into_iter().find(|path| path.to_string_lossy().ends_with(".issuing.pem")).unwrap();
    let text = std::fs::read_to_string(issuing).unwrap();
    let above: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes()).map(Result::unwrap).collect();
    let key = KeyPair::from_pem(&text[text.find("-----BEGIN PRIVATE KEY").unwrap()..]).unwrap();
    let issuer = Issuer::from_ca_cert_der(&above[0], key).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(WEB.try_into().unwrap())];
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now() - 48 * 3600);
    params.not_after = epoch + Duration::from_secs(now() - 24 * 3600);
    let own = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&own, &issuer).unwrap().pem();
    let root = std::fs::read_to_string(plane.ca().join("root-cert.pem")).unwrap();
    let mut chain = vec![leaf];
    chain.extend(above.iter().map(|der| pem(der)));
    chain.push(root);
    Leaf::new(&chain, own)
}

fn pem(der: &CertificateDer<'_>) -> String {
    use std::fmt::Write as _;
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in der.chunks(48) {
        for part in line.chunks(3) {
            let bits =
                u32::from_be_bytes([0, part[0], *part.get(1).unwrap_or(&0), *part.get(2).unwrap_or(&0)]);
            for place in 0..4 {
                let letter = ALPHABET[(bits >> (18 - 6 * place) & 63) as usize];
                let _ = write!(text, "{}", if place > part.len() { '=' } else { char::from(letter) });
            }
        }
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

/// A token with the control plane's own key that says something else: as if it had leaked from where it was meant for.
fn forged(plane: &Plane, change: impl FnOnce(&mut Json)) -> String {
    let pem = std::fs::read(plane.ca().join("token-key.pem")).unwrap();
    let key = EncodingKey::from_ec_pem(&pem).unwrap();
    let id =
        Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap().thumbprint(ThumbprintHash::SHA256).unwrap();
    let mut claims = json!({
        "iss": "sidegate", "aud": "sidegate", "sub": "system:serviceaccount:shop:web",
        "iat": now(), "nbf": now(), "exp": now() + 600, "jti": "1",
    });
    change(&mut claims);
    let header = Header { kid: Some(id), ..Header::new(Algorithm::ES256) };
    jsonwebtoken::encode(&header, &claims, &key).unwrap()
}

#[tokio::test]
async fn g5_yesterdays_certificate_is_refused_logged_and_counted() {
    let plane = Plane::start(&[]);
    let old = yesterdays(&plane);
    // In TLS 1.3 the client hears of it when it first reads.
    if let Ok(mut connection) = plane.connect(Some(&old)).await {
        assert!(connection.read(&mut [0; 1]).await.is_err());
    }
    plane.logged("certificate-expired").await;
    assert_eq!(plane.refused("certificate-expired"), 1);
}

#[tokio::test]
async fn g5_a_stolen_token_is_refused_logged_and_counted() {
    let plane = Plane::start(&[]);
    let (message, _) = request(&[]);
    for (token, reason) in [
        (forged(&plane, |claims| claims["aud"] = json!("vault")), "token-audience"),
        (forged(&plane, |claims| claims["aud"] = json!(["sidegate", "vault"])), "token-audience"),
        (
            forged(&plane, |claims| {
                claims["iat"] = json!(now() - 7200);
                claims["nbf"] = json!(now() - 7200);
                claims["exp"] = json!(now() - 3600);
            }),
            "token-expired",
        ),
        (Plane::start(&[]).token("web", &[]), "token-signature"),
    ] {
        let before = plane.refused(reason);
        let status = plane.certificate(None, Some(&token), message.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        let status = plane.stream(None, Some(&token), pod("web-1")).await.map(drop).unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        plane.logged(reason).await;
        assert_eq!(plane.refused(reason), before + 2, "{reason}");
        assert!(!plane.log().contains(&token), "a token must not be in the log");
    }
    // A token that was made for one Pod opens no other Pod's stream.
    let bound = plane.token("web", &["--pod", "web-2"]);
    let status = plane.stream(None, Some(&bound), pod("web-1")).await.unwrap().hear().await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    plane.logged("token-pod").await;
    assert_eq!(plane.refused("token-pod"), 1);
}

#[tokio::test]
async fn g4_a_request_for_somebody_elses_name_is_refused_logged_and_counted() {
    let plane = Plane::start(&[]);
    let token = plane.token("web", &[]);
    let with = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(WEB.try_into().unwrap())];
        change(&mut params);
        signed(&params).0
    };
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let requests = [
        with(&|params| params.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/db")]),
        with(&|params| params.subject_alt_names.push(uri("spiffe://cluster.local/ns/shop/sa/db"))),
        with(&|params| params.subject_alt_names = vec![uri("spiffe://cluster.local/ns/bank/sa/web")]),
        with(&|params| params.subject_alt_names.push(SanType::DnsName("db.shop.svc".try_into().unwrap()))),
        with(&|params| params.subject_alt_names = vec![SanType::DnsName("*".try_into().unwrap())]),
        with(&|params| {
            params.distinguished_name.push(DnType::CommonName, "spiffe://cluster.local/ns/shop/sa/db")
        }),
        with(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
    ];
    let count = requests.len() as u64;
    for message in requests {
        let status = plane.certificate(None, Some(&token), message).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    }
    assert_eq!(plane.refused("request-forbidden"), count);
    plane.logged("certificate signing request is refused").await;

    let value = Value { kind: Some(Kind::StringValue("spiffe://cluster.local/ns/shop/sa/db".to_owned())) };
    let mut message = request(&[]).0;
    message.metadata =
        Some(Struct { fields: [("ImpersonatedIdentity".to_owned(), value)].into_iter().collect() });
    let status = plane.certificate(None, Some(&token), message).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    plane.logged("impersonation").await;
    assert_eq!(plane.refused("impersonation"), 1);

    let mut broken = request(&[]).0;
    broken.csr = "nonsense".to_owned();
    let status = plane.certificate(None, Some(&token), broken).await.unwrap_err();
    assert_eq!((status.code(), plane.refused("request")), (Code::InvalidArgument, 1));
    let status = plane.certificate(None, None, request(&[WEB]).0).await.unwrap_err();
    assert_eq!((status.code(), plane.refused("no-proof")), (Code::Unauthenticated, 1));
}

#[tokio::test]
async fn g6_a_proxy_with_a_forged_node_is_refused_logged_and_counted() {
    let plane = Plane::start(&[]);
    let web = plane.leaf("web").await;
    for (forged, reason) in [
        (pod("db-1"), "node-identity"),
        (gateway(), "node-identity"),
        (node(&[("NAMESPACE", "bank"), ("POD_NAME", "web-1")]), "node-identity"),
        (pod("nobody"), "node-unknown"),
    ] {
        let before = plane.refused(reason);
        let status = plane.stream(Some(&web), None, forged).await.unwrap().hear().await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        plane.logged(reason).await;
        assert_eq!(plane.refused(reason), before + 1);
    }
    let token = plane.token("db", &[]);
    let status = plane.stream(Some(&web), Some(&token), pod("web-1")).await.map(drop).unwrap_err();
    assert_eq!((status.code(), plane.refused("disagreement")), (Code::PermissionDenied, 1));
}

#[tokio::test]
async fn g6_a_secret_of_others_is_answered_with_nothing_logged_and_counted() {
    let plane = Plane::start(&[]);
    let web = plane.leaf("web").await;
    let mut open = plane.stream(Some(&web), None, pod("web-1")).await.unwrap();
    open.hear().await.unwrap();
    let request = sidegate_xds::envoy::service::discovery::v3::DeltaDiscoveryRequest {
        type_url: ResourceType::Secret.type_url().to_owned(),
        resource_names_subscribe: vec!["kubernetes://bank/vault".to_owned()],
        ..Default::default()
    };
    open.requests.send(request).await.unwrap();
    plane.logged("kubernetes://bank/vault").await;
    assert_eq!(plane.refused("foreign-secret"), 1);
}
