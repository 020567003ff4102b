//! B17: gRPC calls end with their status, or with an error, and never without an end.

use std::io;
use std::time::Duration;

use sidegate_tests::client::{Http2, Protocol, call_over};
use sidegate_tests::frames::{Raw, code, data, flag, headers, kind, ok, request, reset};
use sidegate_tests::gateway::{Gateway, Proxy};
use sidegate_tests::message::{Call, Received, Response};
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::sandbox::{Sandbox, address};
use sidegate_tests::wait;

use super::upstreams::Played;

const TYPE: &str = "application/grpc";

fn answer() -> Answer {
    Answer::status(200).header("content-type", TYPE)
}

fn script(received: &Received) -> Answer {
    match received.target.as_str() {
        "/s.S/TrailersOnly" => answer().header("grpc-status", "5").header("grpc-message", "no such thing"),
        "/s.S/NoStatus" => answer().body("message"),
        "/s.S/Echo" => answer().body(received.body.clone()).trailer("grpc-status", "0"),
        "/s.S/Many" => {
            answer().body("message".repeat(5)).paced(5, Duration::from_millis(50)).trailer("grpc-status", "0")
        }
        _ => answer().header("grpc-status", "12"),
    }
}

async fn try_call(proxy: &Proxy, method: &str, message: Vec<u8>) -> io::Result<Response> {
    let call = Call::post(method, message).header("content-type", TYPE).header("te", "trailers");
    wait::within(method, async { Http2::connect(proxy.address).await?.call(&call).await }).await
}

async fn call(proxy: &Proxy, method: &str, message: Vec<u8>) -> Response {
    try_call(proxy, method, message).await.unwrap_or_else(|error| panic!("{method}: {error}"))
}

#[tokio::test]
async fn b17_a_status_arrives_wherever_it_stands() {
    for http2 in [false, true] {
        let sandbox = Sandbox::new();
        let origin = if http2 { Origin::http2(script).await } else { Origin::http1(script).await };
        let endpoints = [origin.address()];
        let gateway = if http2 { Gateway::to_http2(&endpoints) } else { Gateway::to(&endpoints) };
        let proxy = gateway.start(&sandbox).await;

        let only = call(&proxy, "/s.S/TrailersOnly", b"ask".to_vec()).await;
        let told = (only.header("grpc-status"), only.header("grpc-message"));
        assert_eq!((only.status, told, only.complete), (200, (Some("5"), Some("no such thing")), true));
        assert_eq!(only.body, b"", "{only:?}");

        // Not ours to judge, and no hang: a client of gRPC makes UNKNOWN of it.
        let none = call(&proxy, "/s.S/NoStatus", b"ask".to_vec()).await;
        assert_eq!((none.status, none.text().as_str(), none.complete), (200, "message", true));
        assert_eq!((none.header("grpc-status"), none.trailer("grpc-status")), (None, None));

        let many = call(&proxy, "/s.S/Many", b"ask".to_vec()).await;
        assert_eq!((many.body.len(), many.trailer("grpc-status")), (35, Some("0")), "{many:?}");

        let large: Vec<u8> = (0..4 * 1024 * 1024_u32).map(|index| index as u8).collect();
        let echo = call(&proxy, "/s.S/Echo", large.clone()).await;
        assert_eq!((echo.status, echo.trailer("grpc-status"), echo.complete), (200, Some("0"), true));
        assert!(echo.body == large, "{} bytes came back", echo.body.len());
    }
}

#[tokio::test]
async fn b17_without_an_answer_the_status_is_ours() {
    let sandbox = Sandbox::new();
    let endpoint = Played::start(&[], async |_, mut raw: Raw| {
        let stream = super::upstreams::request_end(&mut raw).await?.stream;
        raw.send(&reset(stream, code::INTERNAL_ERROR)).await.ok()
    })
    .await;
    let proxy = Gateway::new()
        .cluster_http2("app", &[endpoint.address])
        .cluster_http2("gone", &[address()])
        .routes(
            "[{match: {prefix: /gone}, route: {cluster: gone}}, {match: {prefix: /s.S}, route: {cluster: app}}]",
        )
        .start(&sandbox)
        .await;
    // UNAVAILABLE where nobody could answer, UNIMPLEMENTED where there is no such method.
    for (method, status) in [("/s.S/Reset", "14"), ("/gone.S/M", "14"), ("/nowhere.S/M", "12")] {
        let response = call(&proxy, method, b"ask".to_vec()).await;
        assert_eq!((response.status, response.header("grpc-status")), (200, Some(status)), "{method}");
        assert_eq!((response.header("content-type"), response.body.len()), (Some(TYPE), 0), "{response:?}");
    }
}

#[tokio::test]
async fn b17_a_call_that_breaks_off_never_looks_complete() {
    let sandbox = Sandbox::new();
    let endpoint = Played::start(&[], async |_, mut raw: Raw| {
        loop {
            let stream = super::upstreams::request_end(&mut raw).await?.stream;
            let begun = [ok(stream, flag::NONE), data(stream, flag::NONE, b"half a mess")].concat();
            raw.send(&[begun, reset(stream, code::INTERNAL_ERROR)].concat()).await.ok()?;
        }
    })
    .await;
    let proxy = Gateway::to_http2(&[endpoint.address]).start(&sandbox).await;
    // The client's library may tell of the reset before it tells of the head.
    if let Ok(response) = try_call(&proxy, "/s.S/M", b"ask".to_vec()).await {
        assert_eq!((response.status, response.complete), (200, false), "{response:?}");
        assert_eq!(response.trailer("grpc-status"), None, "no status was made up");
    }
    // Over HTTP/1.1 neither.
    let plain = call_over(Protocol::Http1, proxy.address, &Call::post("/s.S/M", "ask")).await;
    assert_eq!((plain.status, plain.complete), (200, false), "{plain:?}");
}

/// A call in both directions at once: answers come before the question has ended, and go on after it has.
#[tokio::test]
async fn b17_each_direction_ends_by_itself() {
    let sandbox = Sandbox::new();
    let endpoint = Played::start(&[], async |_, mut raw: Raw| {
        loop {
            let frame = raw.next().await?;
            let stream = frame.stream;
            match frame.kind {
                kind::HEADERS => raw.send(&ok(stream, flag::NONE)).await.ok()?,
                kind::DATA if frame.flags & flag::END_STREAM == 0 => {
                    raw.send(&data(stream, flag::NONE, &frame.payload)).await.ok()?;
                }
                kind::DATA => {
                    raw.send(&data(stream, flag::NONE, b"last")).await.ok()?;
                    raw.send(&headers(stream, flag::WHOLE, &[("grpc-status", "0")])).await.ok()?;
                }
                _ => {}
            }
        }
    })
    .await;
    let proxy = Gateway::to_http2(&[endpoint.address]).start(&sandbox).await;
    let mut client = Raw::connect(proxy.address, &[]).await.unwrap();
    let fields = [request("POST", "/s.S/Both"), vec![("content-type", TYPE), ("te", "trailers")]].concat();
    client.send(&headers(1, flag::END_HEADERS, &fields)).await.unwrap();
    let head = wait::within("the head", client.next_of(1)).await.unwrap();
    assert_eq!((head.kind, head.status()), (kind::HEADERS, Some(200)));
    for message in ["one", "two"] {
        client.send(&data(1, flag::NONE, message.as_bytes())).await.unwrap();
        let frame = wait::within(message, client.next_of(1)).await.unwrap();
        assert_eq!((frame.kind, frame.payload.as_slice()), (kind::DATA, message.as_bytes()));
    }
    client.send(&data(1, flag::END_STREAM, b"")).await.unwrap();
    let last = wait::within("what comes after our end", client.next_of(1)).await.unwrap();
    assert_eq!((last.kind, last.payload.as_slice()), (kind::DATA, &b"last"[..]));
    let trailers = wait::within("the trailers", client.next_of(1)).await.unwrap();
    assert_eq!((trailers.kind, trailers.flags & flag::END_STREAM), (kind::HEADERS, flag::END_STREAM));
}
