use super::*;

const BOUNDS: HeadBounds = HeadBounds { bytes: 4_096, fields: 20 };

fn read(method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<Incoming, HeadError> {
    let mut request = http::Request::builder().method(method).uri(uri).version(http::Version::HTTP_2);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request_head(request.body(()).unwrap().into_parts().0, BOUNDS).map_err(|refused| refused.error)
}

#[test]
fn what_is_refused_is_still_known_and_nobodys_password() {
    let request =
        http::Request::builder().method("POST").uri("http://me:secret@a.test/b?c").body(()).unwrap();
    let Refused { error, head } = *request_head(request.into_parts().0, BOUNDS).unwrap_err();
    assert_eq!((error, head.version, head.method), (HeadError::Authority, Version::Http2, Method::POST));
    assert_eq!((head.authority.unwrap().as_str(), head.path.as_str()), ("a.test", "/b?c"));
}

#[test]
fn one_authority_whoever_says_it() {
    let named = |uri, fields| read("GET", uri, fields).map(|incoming| incoming.head.authority.unwrap());
    assert_eq!(named("http://a.test/", &[]).unwrap(), "a.test");
    assert_eq!(named("http://a.test/", &[("host", "A.test")]).unwrap(), "a.test");
    assert_eq!(named("/", &[("host", "a.test:80")]).unwrap(), "a.test:80");
    assert_eq!(named("/", &[]).unwrap_err(), HeadError::NoAuthority);
    assert_eq!(named("http://a.test/", &[("host", "b.test")]).unwrap_err(), HeadError::AuthorityMismatch);
    let twice = [("host", "a.test"), ("host", "a.test")];
    assert_eq!(named("http://a.test/", &twice).unwrap_err(), HeadError::AuthorityMismatch);
    assert_eq!(named("http://u@a.test/", &[]).unwrap_err(), HeadError::Authority);
    assert_eq!(named("/", &[("host", "a.test/b")]).unwrap_err(), HeadError::Authority);
}

#[test]
fn what_is_malformed_is_named() {
    let table = [
        ("GET", "ftp://a.test/", vec![], HeadError::Scheme),
        ("GET", "http://a.test/", vec![("x-a", " 1")], HeadError::Value),
        ("GET", "http://a.test/", vec![("x-a", "1\t")], HeadError::Value),
        ("POST", "http://a.test/", vec![("content-length", "")], HeadError::ContentLength),
        ("POST", "http://a.test/", vec![("content-length", "05")], HeadError::ContentLength),
        (
            "POST",
            "http://a.test/",
            vec![("content-length", "5"), ("content-length", "5")],
            HeadError::ContentLength,
        ),
        ("POST", "http://a.test/", vec![("expect", "200-ok")], HeadError::Expectation),
        ("CONNECT", "a.test", vec![], HeadError::NoPort),
    ];
    for (method, uri, fields, fault) in table {
        assert_eq!(read(method, uri, &fields).unwrap_err(), fault, "{method} {uri} {fields:?}");
    }
    let star = http::Request::builder().method("GET").uri("*").header("host", "a.test").body(()).unwrap();
    assert_eq!(request_head(star.into_parts().0, BOUNDS).unwrap_err().error, HeadError::Path);
}

#[test]
fn everything_that_was_decoded_counts() {
    let long = "v".repeat(1_000);
    let crumbs: Vec<_> = (0..5).map(|_| ("cookie", long.as_str())).collect();
    assert_eq!(read("GET", "http://a.test/", &crumbs).unwrap_err(), HeadError::TooLarge);
    assert_eq!(
        read("GET", &format!("http://a.test/{}", "p".repeat(5_000)), &[]).unwrap_err(),
        HeadError::TooLarge
    );
    let many: Vec<_> = (0..21).map(|_| ("x-a", "1")).collect();
    assert_eq!(read("GET", "http://a.test/", &many).unwrap_err(), HeadError::TooManyFields);
    assert_eq!(HeadError::TooLarge.reason(), Reason::HeadersTooLarge);
}

#[test]
fn crumbs_are_one_cookie_and_hop_by_hop_fields_go() {
    let fields =
        [("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2"), ("te", "trailers"), ("expect", "100-continue")];
    let incoming = read("GET", "http://a.test/", &fields).unwrap();
    assert_eq!(incoming.head.headers.get_str("cookie"), Some("a=1; b=2"));
    assert_eq!(incoming.head.headers.len(), 2);
    assert!(incoming.expects_continue);
}
