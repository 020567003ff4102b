use super::*;
use crate::filter::fixture::{in_context, request};
use crate::filter::{Answer, Entry, Kind, resume};
use crate::message::ResponseHead;

fn named(names: &'static [&'static str]) -> Option<Predicate<[u8]>> {
    Some(Predicate::new(move |name: &[u8]| names.iter().any(|one| one.as_bytes() == name)))
}

fn by_http(service: HttpService) -> ExternalAuthorization {
    ExternalAuthorization {
        service: Service::Http(Box::new(service)),
        cluster: "authz".into(),
        timeout: Duration::from_millis(200),
        disabled: None,
        failure_allow: false,
        failure_header: false,
        status_on_error: StatusCode::FORBIDDEN,
        body: None,
        reroute: false,
        namespaces: Vec::new(),
        certificate: false,
        session: false,
        allowed: None,
        disallowed: None,
        ingests: true,
        most_denied_body: 10,
    }
}

fn answered(status: u16, fields: &[(&'static str, &'static str)], body: &'static str) -> Answered {
    let mut headers = Headers::new();
    for (name, value) in fields {
        headers.append(Name::Static(name), Value::Static(value));
    }
    let head =
        ResponseHead { status: StatusCode::from_u16(status).unwrap(), version: Version::Http11, headers };
    Answered { head, body: Bytes::from_static(body.as_bytes()), trailers: Headers::new() }
}

/// Runs the filter over a request, with this answer.
fn run(
    filter: ExternalAuthorization,
    head: &mut RequestHead,
    attributes: &mut Attributes,
    answer: Result<Answered, Trouble>,
) -> Verdict {
    let chain =
        vec![Arc::new(Entry { name: "f".into(), kind: Kind::ExternalAuthorization(Arc::new(filter)) })];
    in_context(head, attributes, |context| {
        let mut next = 0;
        match crate::filter::on_request(&chain, &Vec::new(), &mut next, context) {
            Verdict::Ask(question) => resume(*question, Answer::Check(answer), context),
            verdict => verdict,
        }
    })
}

fn fields(head: &RequestHead) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    head.headers.iter().map(|(name, value)| (text(name), text(value))).collect()
}

#[tokio::test]
async fn an_http_service_changes_only_what_it_is_allowed_to() {
    let service = HttpService {
        upstream: named(&["x-user", "x-list", "host"]),
        upstream_append: named(&["x-more"]),
        client_on_success: named(&["set-cookie"]),
        metadata: named(&["x-user"]),
        ..HttpService::default()
    };
    let mut head = request("/", &[("x-user", "root"), ("x-more", "1"), ("authorization", "secret")]);
    let mut attributes = Attributes::default();
    let ok = answered(
        200,
        &[
            ("x-user", "ada"),
            ("x-list", "a"),
            ("x-list", "b"),
            ("x-more", "2"),
            ("x-other", "no"),
            ("host", "evil.test"),
            ("set-cookie", "a=b"),
            ("x-envoy-auth-headers-to-remove", "Authorization, host ,x-envoy-x"),
        ],
        "",
    );
    let verdict =
        run(ExternalAuthorization { reroute: true, ..by_http(service) }, &mut head, &mut attributes, Ok(ok));
    assert!(matches!(verdict, Verdict::Reroute));
    let wanted = [("x-user", "ada"), ("x-more", "1"), ("x-list", "a"), ("x-list", "b"), ("x-more", "2")];
    let wanted: Vec<_> = wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(fields(&head), wanted);
    assert_eq!(attributes.get(METADATA).unwrap()["x-user"], "ada");
    let events: Vec<_> = attributes.take_events().collect();
    assert_eq!(events, [FilterEvent::AuthorizationOk]);
    assert_eq!(attributes.take_response_changes().len(), 1);
}

#[tokio::test]
async fn a_denial_is_the_services_and_bounded() {
    let denial = |client| {
        let service = HttpService { client, ..HttpService::default() };
        let answer = answered(
            401,
            &[("www-authenticate", "Basic"), ("x-a", "1"), ("content-length", "5")],
            "a body too long",
        );
        match run(by_http(service), &mut request("/", &[]), &mut Attributes::default(), Ok(answer)) {
            Verdict::ReplyWith(reply, body) => (reply, body),
            other => panic!("{other:?}"),
        }
    };
    let (reply, body) = denial(None);
    assert_eq!((reply.status.as_u16(), reply.reason), (401, Reason::ExternalDenial));
    assert_eq!(
        reply.headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["www-authenticate", "x-a"]
    );
    assert_eq!(&body[..], b"a body too");
    let (reply, _) = denial(named(&[]));
    assert_eq!(reply.headers.len(), 1, "what says how to come again always goes along");
}

#[tokio::test]
async fn what_cannot_be_asked_denies_unless_configured() {
    let failures = || {
        [
            Err(Trouble::Service("timed out".to_owned())),
            Ok(answered(500, &[], "")),
            Ok(answered(503, &[], "")),
        ]
    };
    for failure in failures() {
        let mut attributes = Attributes::default();
        let verdict = run(by_http(HttpService::default()), &mut request("/", &[]), &mut attributes, failure);
        let Verdict::Reply(reply) = verdict else { panic!("{verdict:?}") };
        assert_eq!((reply.status.as_u16(), reply.reason), (403, Reason::ExternalAuthorizationFailure));
        assert_eq!(attributes.take_events().collect::<Vec<_>>(), [FilterEvent::AuthorizationError]);
    }
    for failure in failures() {
        let filter = ExternalAuthorization {
            failure_allow: true,
            failure_header: true,
            ..by_http(HttpService::default())
        };
        let mut head = request("/", &[]);
        assert!(matches!(run(filter, &mut head, &mut Attributes::default(), failure), Verdict::Continue));
        assert!(head.headers.contains(FAILURE_HEADER));
    }
    // Not even then: what the service did not see whole, and what the client broke off.
    for trouble in [Trouble::TooLong, Trouble::Client(Reason::DownstreamTimeout)] {
        let filter = ExternalAuthorization { failure_allow: true, ..by_http(HttpService::default()) };
        let verdict = run(filter, &mut request("/", &[]), &mut Attributes::default(), Err(trouble));
        let Verdict::Reply(reply) = verdict else { panic!("{verdict:?}") };
        assert!([408, 413].contains(&reply.status.as_u16()));
    }
    // Redirects and other successes are no yes.
    for status in [201, 204, 302, 404] {
        let answer = Ok(answered(status, &[], ""));
        let verdict =
            run(by_http(HttpService::default()), &mut request("/", &[]), &mut Attributes::default(), answer);
        assert!(matches!(verdict, Verdict::ReplyWith(reply, _) if reply.status.as_u16() == status));
    }
}

#[tokio::test]
async fn grpc_failures_are_failures() {
    let by_grpc = || ExternalAuthorization {
        service: Service::Grpc { authority: "authz".parse().unwrap(), metadata: Vec::new() },
        ..by_http(HttpService::default())
    };
    // `CheckResponse` with status OK is five bytes of frame and an empty status; without any it says nothing.
    for (status, fields, body, allowed) in [
        (200, &[("grpc-status", "0")][..], "\0\0\0\0\x02\x0a\0", true),
        (200, &[("grpc-status", "0")], "\0\0\0\0\0", false),
        (200, &[("grpc-status", "14")], "\0\0\0\0\x02\x0a\0", false),
        (200, &[], "\0\0\0\0\x02\x0a\0", false),
        (503, &[("grpc-status", "0")], "\0\0\0\0\x02\x0a\0", false),
        (200, &[("grpc-status", "0")], "", false),
        (200, &[("grpc-status", "")], "\0\0\0\0\x02\x0a\0", false),
    ] {
        let verdict = run(
            by_grpc(),
            &mut request("/", &[]),
            &mut Attributes::default(),
            Ok(answered(status, fields, body)),
        );
        assert_eq!(matches!(verdict, Verdict::Continue), allowed, "{status} {fields:?}: {verdict:?}");
    }
}

#[tokio::test]
async fn disabled_filters_ask_nobody() {
    let with =
        |disabled| ExternalAuthorization { disabled: Some(disabled), ..by_http(HttpService::default()) };
    let mut attributes = Attributes::default();
    let unasked = || Err(Trouble::Service("asked".to_owned()));
    assert!(matches!(
        run(with(Disabled::Allow), &mut request("/", &[]), &mut attributes, unasked()),
        Verdict::Continue
    ));
    assert!(matches!(
        run(with(Disabled::Deny), &mut request("/", &[]), &mut attributes, unasked()),
        Verdict::Reply(_)
    ));
    assert_eq!(attributes.take_events().collect::<Vec<_>>(), [FilterEvent::AuthorizationDisabled]);
    let filter = Arc::new(by_http(HttpService::default()));
    let off = Arc::new(RouteCheck { disabled: true, extensions: Vec::new(), body: None });
    let verdict = in_context(&mut request("/", &[]), &mut Attributes::default(), |context| {
        filter.on_request(Some(&off), context)
    });
    assert!(matches!(verdict, Verdict::Continue));
}

#[test]
fn the_service_sees_what_it_may() {
    let check = |filter: ExternalAuthorization, head: &RequestHead| {
        let waiting = Waiting { filter: Arc::new(filter), route: None };
        let connection = crate::filter::fixture::connection();
        waiting.check(head, &connection, &Attributes::default(), Seen::default(), SystemTime::UNIX_EPOCH)
    };
    let head = request(
        "/a?b=c",
        &[
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("x-a", "1"),
            ("x-hidden", "2"),
            ("content-length", "7"),
        ],
    );
    let service = HttpService {
        prefix: "/check".into(),
        add: vec![(HeaderName::from_static("x-a"), HeaderValue::from_static("ours"))],
        ..HttpService::default()
    };
    let filter = ExternalAuthorization {
        allowed: named(&["x-a", "x-hidden", "content-length"]),
        disallowed: named(&["x-hidden"]),
        ..by_http(service)
    };
    let asked = check(filter, &head);
    assert_eq!(asked.head.path.as_str(), "/check/a?b=c");
    assert_eq!(
        fields(&asked.head),
        [("authorization".to_owned(), "Bearer x".to_owned()), ("x-a".to_owned(), "ours".to_owned())]
    );
    let path = Some(PathAndQuery::from_static("/always"));
    let asked = check(by_http(HttpService { path, ..HttpService::default() }), &head);
    assert_eq!(asked.head.path.as_str(), "/always");
    assert_eq!(fields(&asked.head).len(), 1);
    let mut connect = request("/", &[]);
    connect.method = Method::CONNECT;
    assert_eq!(check(by_http(HttpService::default()), &connect).head.method, Method::GET);
}

#[test]
fn query_parameters_are_set_and_taken_off() {
    let changed = |path: &str, set: &[(&str, &str)], remove: &[&str]| {
        let set: Vec<_> = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let remove: Vec<_> = remove.iter().map(|name| (*name).to_owned()).collect();
        query::change(&path.parse().unwrap(), &set, &remove).map(|path| path.to_string())
    };
    assert_eq!(changed("/a?b=1", &[], &[]), None);
    assert_eq!(changed("/a?b=1&c&b=2", &[("b", "3&4")], &["c"]).as_deref(), Some("/a?b=3%264"));
    assert_eq!(changed("/a?b=1", &[], &["b"]).as_deref(), Some("/a"));
    assert_eq!(changed("/a", &[("x y", "#")], &[]).as_deref(), Some("/a?x%20y=%23"));
}
