//! Who is believed to be whom, by both kinds of proof together.

pub(crate) mod fixture;

use std::time::{Duration, UNIX_EPOCH};

use http::header::AUTHORIZATION;
use tokio::time::timeout;

use super::review::ReviewSettings;
use super::*;
use crate::model::Trust;
use fixture::{Hand, NOW, Says, WEB, at, root, trust};

struct Setting {
    authenticator: Authenticator,
    hand: Hand,
    trust: watch::Sender<Arc<Trust>>,
    root: fixture::Root,
    _folder: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        Self::with_reviewer(None)
    }

    fn with_reviewer(reviewer: Option<Reviewer>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (hand, root) = (Hand::new(), root("a"));
        let (trust, receiver) = watch::channel(Arc::new(trust(&[&root])));
        let authenticator = Authenticator::with_clock(
            TokenKey::open(folder.path()).unwrap(),
            reviewer,
            leaf::follow(receiver).unwrap(),
            Refusals::default(),
            hand.clock(),
        );
        Self { authenticator, hand, trust, root, _folder: folder }
    }

    fn token(&self, account: &str, ttl: u64) -> String {
        let subject = Subject { namespace: "shop".to_owned(), account: account.to_owned(), pod: None };
        self.authenticator.parts.tokens.mint(&subject, Duration::from_secs(ttl), at(NOW)).unwrap()
    }

    fn peer(&self, says: Option<&Says<'_>>) -> Peer {
        Peer {
            address: "192.0.2.1:4000".parse().unwrap(),
            chain: says.map(|says| self.root.chain(says)),
            standing: Arc::default(),
        }
    }

    async fn call(&self, token: Option<&str>, peer: &Peer) -> Result<Session, Refusal> {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        }
        self.authenticator.authenticate(&headers, Some(peer), "a call was").await
    }
}

fn reason(result: Result<Session, Refusal>) -> Reason {
    result.unwrap_err().reason
}

#[tokio::test]
async fn a_token_or_a_certificate_or_both_of_one_identity() {
    let setting = Setting::new();
    let (token, says) = (setting.token("web", 600), Says::default());
    let stranger = setting.peer(None);
    let by_token = setting.call(Some(&token), &stranger).await.unwrap();
    assert_eq!(by_token.caller().identity.as_str(), WEB);
    assert_eq!(by_token.caller().proof, Proof::Token { expires: at(NOW + 600), pod: None });
    assert!(stranger.standing.is_known(), "its connection is somebody's now");
    let by_leaf = setting.call(None, &setting.peer(Some(&says))).await.unwrap();
    assert_eq!(by_leaf.caller().identity.as_str(), WEB);
    assert_eq!(by_leaf.caller().leaf().unwrap().not_after, at(NOW + 3600));
    let by_both = setting.call(Some(&token), &setting.peer(Some(&says))).await.unwrap();
    assert!(by_both.caller().leaf().is_some());
}

#[tokio::test]
async fn g5_whoever_proves_nothing_is_refused_and_counted() {
    let setting = Setting::new();
    let stranger = setting.peer(None);
    assert_eq!(reason(setting.call(None, &stranger).await), Reason::NoProof);
    assert_eq!(reason(setting.call(Some("x"), &stranger).await), Reason::TokenMalformed);
    let mut twice = HeaderMap::new();
    let value: http::HeaderValue = format!("Bearer {}", setting.token("web", 600)).parse().unwrap();
    twice.append(AUTHORIZATION, value.clone());
    twice.append(AUTHORIZATION, value);
    let refused = setting.authenticator.authenticate(&twice, Some(&stranger), "a call was").await;
    assert_eq!(reason(refused), Reason::TwoTokens);
    // {"iss":"kubernetes","exp":4000000000}: nobody is there to ask.
    let foreign = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIiwiZXhwIjo0MDAwMDAwMDAwfQ.x";
    assert_eq!(reason(setting.call(Some(foreign), &stranger).await), Reason::TokenIssuer);
    assert!(!stranger.standing.is_known());
    for counted in [Reason::NoProof, Reason::TokenMalformed, Reason::TwoTokens, Reason::TokenIssuer] {
        assert_eq!(setting.authenticator.refusals().count(counted), 1, "{counted:?}");
    }
}

#[tokio::test]
async fn g5_a_token_beside_a_certificate_agrees_or_is_refused() {
    let setting = Setting::new();
    let peer = setting.peer(Some(&Says::default()));
    let other = setting.token("db", 600);
    assert_eq!(reason(setting.call(Some(&other), &peer).await), Reason::Disagreement);
    assert_eq!(reason(setting.call(Some("x"), &peer).await), Reason::TokenMalformed);
    // An old token in a file says nothing about a certificate that is good.
    let old = setting.token("web", 60);
    setting.hand.set(NOW + 120);
    assert!(setting.call(Some(&old), &peer).await.unwrap().caller().leaf().is_some());
    assert_eq!(reason(setting.call(Some(&old), &setting.peer(None)).await), Reason::TokenExpired);
}

#[tokio::test]
async fn g5_yesterdays_certificate_is_refused_whatever_came_of_its_connection() {
    let setting = Setting::new();
    let peer = setting.peer(Some(&Says::default()));
    assert!(setting.call(None, &peer).await.is_ok());
    setting.hand.set(NOW + 24 * 3600);
    assert_eq!(reason(setting.call(None, &peer).await), Reason::CertificateExpired);
    // A good token does not mend it: the connection was made as somebody who can no longer prove it.
    let token = setting.token("web", 24 * 3600);
    assert_eq!(reason(setting.call(Some(&token), &peer).await), Reason::CertificateExpired);
}

#[tokio::test]
async fn a_denied_identity_gets_nothing_by_either_proof() {
    let setting = Setting::new();
    let mut trust = trust(&[&setting.root]);
    trust.denied.push(WEB.to_owned());
    let mut anchors = setting.authenticator.parts.anchors.clone();
    setting.trust.send_replace(Arc::new(trust));
    anchors.changed().await.unwrap();
    let token = setting.token("web", 600);
    assert_eq!(reason(setting.call(Some(&token), &setting.peer(None)).await), Reason::Denied);
    assert_eq!(reason(setting.call(None, &setting.peer(Some(&Says::default()))).await), Reason::Denied);
    assert!(setting.call(Some(&setting.token("db", 600)), &setting.peer(None)).await.is_ok());
}

#[tokio::test]
async fn our_tokens_are_never_shown_to_an_api_server() {
    // Nobody listens there: a question would end in "unavailable".
    let settings = ReviewSettings { url: "http://127.0.0.1:1".to_owned(), roots: None, credential: None };
    let setting = Setting::with_reviewer(Some(Reviewer::new(&settings).unwrap()));
    let stranger = setting.peer(None);
    assert!(setting.call(Some(&setting.token("web", 600)), &stranger).await.is_ok());
    let forged = Setting::new().token("web", 600);
    assert_eq!(reason(setting.call(Some(&forged), &stranger).await), Reason::TokenSignature);
    let foreign = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIiwiZXhwIjo0MDAwMDAwMDAwfQ.x";
    assert_eq!(reason(setting.call(Some(foreign), &stranger).await), Reason::ReviewUnavailable);
}

/// A session under a paused clock whose wall clock goes along.
async fn paused(token: bool) -> (Setting, Session) {
    let setting = Setting::new();
    let text = setting.token("web", 600);
    let session = if token {
        setting.call(Some(&text), &setting.peer(None)).await
    } else {
        setting.call(None, &setting.peer(Some(&Says::default()))).await
    };
    let mut session = session.unwrap();
    let began = tokio::time::Instant::now();
    session.set_clock(Arc::new(move || UNIX_EPOCH + Duration::from_secs(NOW) + began.elapsed()));
    (setting, session)
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_the_certificate_that_it_began_with() {
    let (_setting, mut session) = paused(false).await;
    let early = timeout(Duration::from_secs(3599), session.lapsed()).await;
    assert!(early.is_err(), "still good");
    let refusal = timeout(Duration::from_secs(2), session.lapsed()).await.unwrap();
    assert_eq!(refusal.reason, Reason::ProofOver);
    assert!(refusal.text.contains("certificate expired; reconnect"), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_soon_after_the_token_that_it_began_with() {
    let (_setting, mut session) = paused(true).await;
    let early =
        timeout(Duration::from_secs(600) + TOKEN_GRACE - Duration::from_secs(1), session.lapsed()).await;
    assert!(early.is_err(), "still good");
    let refusal = timeout(Duration::from_secs(2), session.lapsed()).await.unwrap();
    assert_eq!(refusal.reason, Reason::ProofOver);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_its_caller_is_denied_revoked_or_no_longer_trusted() {
    let other = root("b");
    for (change, expected) in
        [(0, Reason::Denied), (1, Reason::CertificateRevoked), (2, Reason::CertificateUntrusted)]
    {
        let (setting, mut session) = paused(false).await;
        let mut next = trust(&[&setting.root]);
        next.bundles.get_mut("cluster.local").unwrap().push(other.pem.clone());
        setting.trust.send_replace(Arc::new(next.clone()));
        let harmless = timeout(Duration::from_secs(10), session.lapsed()).await;
        assert!(harmless.is_err(), "a root more is no reason");
        match change {
            0 => next.denied.push(WEB.to_owned()),
            1 => next.revocation.push(setting.root.revoke(0x4711)),
            _ => {
                next.bundles.insert("cluster.local".to_owned(), vec![other.pem.clone()]);
            }
        }
        setting.trust.send_replace(Arc::new(next));
        let refusal = timeout(Duration::from_secs(10), session.lapsed()).await.expect("an end");
        assert_eq!(refusal.reason, expected);
    }
}
