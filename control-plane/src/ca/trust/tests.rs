//! Files that people write.

use super::*;

fn root(name: &str) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&key).unwrap().pem()
}

fn jwk(pem: &str, purpose: &str) -> String {
    let x5c = STANDARD.encode(&super::super::pem::certificates(pem).unwrap()[0]);
    format!(r#"{{"kty":"EC","use":"{purpose}","crv":"P-256","x":"x","y":"y","x5c":["{x5c}"]}}"#)
}

#[test]
fn a_bundle_is_pem_or_a_jwk_set() {
    let (one, two) = (root("one"), root("two"));
    assert_eq!(bundle(&format!("# ours\n{one}\n{two}{one}")).unwrap(), [one.clone(), two.clone()]);
    let (first, second) = (jwk(&one, "x509-svid"), jwk(&two, "jwt-svid"));
    let set = format!(r#"{{"keys":[{first},{second}],"spiffe_sequence":1,"spiffe_refresh_hint":300}}"#);
    assert_eq!(bundle(&set).unwrap(), std::slice::from_ref(&one), "keys for tokens are for others");
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(["web".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    for text in [
        "",
        "hello",
        "{",
        "{}",
        r#"{"keys":[]}"#,
        &leaf,
        &format!("{one}{leaf}"),
        &set.replace("\"x5c\":[\"", "\"x5c\":[\"!"),
    ] {
        assert!(bundle(text).is_err(), "{text}");
    }
    let many: String = (0..=ROOT_LIMIT).map(|_| one.as_str()).collect();
    assert!(bundle(&many).is_err());
}

#[test]
fn more_denied_ids_than_a_proxy_takes_are_refused_rather_than_cut() {
    let ids = |count: usize| (0..count).map(|n| format!("spiffe://td/{n}\n")).collect::<String>();
    assert_eq!(denied(&ids(MOST_DENIED)).unwrap().len(), MOST_DENIED);
    assert!(denied(&ids(MOST_DENIED + 1)).unwrap_err().contains("more than the 10000"));
}

#[test]
fn denied_ids_are_exact_or_refused() {
    assert_eq!(
        denied("spiffe://td/a # why\n\n  spiffe://td/b\nspiffe://td/a").unwrap(),
        ["spiffe://td/a", "spiffe://td/b"]
    );
    assert_eq!(denied("").unwrap(), Vec::<String>::new());
    for text in ["td/a", "spiffe://td/*", "spiffe://TD/a", "spiffe://td/a spiffe://td/b"] {
        assert!(denied(text).is_err(), "{text}");
    }
}

#[test]
fn a_revocation_list_must_be_one() {
    assert_eq!(revocation("").unwrap(), Vec::<String>::new());
    assert!(revocation("hello").is_err());
    assert!(revocation("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n").is_err());
}

#[test]
fn a_file_keeps_its_last_good_form_and_its_problem_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.pem");
    let (one, two) = (root("one"), root("two"));
    std::fs::write(&path, &one).unwrap();
    let more = vec![("other.example".to_owned(), path.clone()), ("cluster.local".to_owned(), path.clone())];
    let mut files = Files::new(folder.path(), more);
    let (extra, problems) = files.read();
    assert!(problems.is_empty(), "{problems:?}");
    let trust = assemble("cluster.local", vec![two.clone()], &extra);
    assert_eq!(trust.bundles["cluster.local"], [two, one.clone()], "more roots of the own one come last");
    assert_eq!(trust.bundles["other.example"], std::slice::from_ref(&one));
    std::fs::write(&path, "half").unwrap();
    let (again, problems) = files.read();
    assert_eq!((&again, problems.len()), (&extra, 2));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(files.read().0, extra, "a bundle that is gone is a mistake, too");
}

#[test]
fn l7_a_list_that_is_being_written_sets_nobody_free() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DENIED);
    let (web, db) = ("spiffe://td/web", "spiffe://td/db");
    let mut files = Files::new(folder.path(), Vec::new());
    let mut write = |text: &str| {
        std::fs::write(&path, text).unwrap();
        files.read().0.denied
    };
    assert_eq!(write(web), [web], "the first look is taken as it is");
    assert_eq!(write(""), [web], "it may be in the middle of being written");
    assert_eq!(write(db), [db, web], "what comes holds at once");
    assert_eq!(write(db), [db], "and what goes, when it is seen twice");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(files.read().0.denied, [db]);
    assert_eq!(files.read().0.denied, Vec::<String>::new());
}
