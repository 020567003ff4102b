use std::path::Path;

use super::*;

fn settings(token_file: &Path) -> Identity {
    Identity {
        ca_host: "ca.test".to_owned(),
        ca_port: 15012,
        ca_server_name: "ca.test".to_owned(),
        root_file: "roots".into(),
        token_file: token_file.to_owned(),
        ttl: Duration::from_secs(60),
        id: None,
        external: false,
    }
}

#[test]
fn a_token_is_one_word_of_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let read = |text: &[u8]| {
        std::fs::write(&file, text).unwrap();
        token(&settings(&file))
    };
    let value = read(b" a.b.c\n").unwrap();
    assert_eq!(value.to_str().unwrap(), "Bearer a.b.c");
    assert!(value.is_sensitive(), "no log shows it");
    let long = "a".repeat(LONGEST_TOKEN);
    assert_eq!(read(long.as_bytes()).unwrap().to_str().unwrap().len(), "Bearer ".len() + LONGEST_TOKEN);
    for text in [&b""[..], b" \n", b"a b", b"a\x00b", b"a\xff", format!("{long}a").as_bytes()] {
        let failure = read(text).unwrap_err();
        assert_eq!(failure.outcome, Outcome::Token);
        assert!(failure.text.contains("has no token in it"), "{failure}");
    }
    assert_eq!(token(&settings(&folder.path().join("none"))).unwrap_err().outcome, Outcome::Token);
}

#[test]
fn a_refusal_says_what_came_of_it_and_what_to_look_at() {
    use Code as C;
    for (code, outcome, words) in [
        (C::Unavailable, Outcome::Unreachable, ""),
        (C::Unknown, Outcome::Unreachable, ""),
        (C::Cancelled, Outcome::Unreachable, ""),
        (C::Internal, Outcome::Unreachable, ""),
        (C::DeadlineExceeded, Outcome::Timeout, ""),
        (C::OutOfRange, Outcome::Answer, ""),
        (C::DataLoss, Outcome::Answer, ""),
        (C::PermissionDenied, Outcome::Refused, ""),
        (
            C::Unauthenticated,
            Outcome::Refused,
            "; look at token_file: is it fresh, and for the authority's audience?",
        ),
        (C::Unimplemented, Outcome::Refused, "; is ca_address the address of a certificate authority?"),
    ] {
        let failure = refusal("ca.test:15012", &Status::new(code, "why"));
        assert_eq!(failure.outcome, outcome, "{code:?}");
        assert_eq!(failure.text, format!("ca.test:15012: {code:?}: why{words}"));
    }
    // What a stranger says has an end, and no line of its own.
    let failure = refusal("a", &Status::aborted(format!("x\n{}", "ä".repeat(1000))));
    assert_eq!(failure.text.chars().count(), "a: ".len() + 300 + 1);
    assert!(failure.text.starts_with("a: Aborted: x\\nä"), "{failure}");
}

#[tokio::test]
async fn without_a_token_nobody_is_asked() {
    let roots = Roots::default();
    let outcome = ask(Arc::new(settings(Path::new("/nowhere/token"))), roots, None, None).await;
    assert_eq!(outcome.unwrap_err().outcome, Outcome::Token);
}
