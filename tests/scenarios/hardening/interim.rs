//! A19, A20: interim responses, and clients that wait for one.

use std::time::Duration;

use sidegate_tests::client::{Http1, Protocol};
use sidegate_tests::gateway::Gateway;
use sidegate_tests::guarded::Guarded;
use sidegate_tests::message::Call;
use sidegate_tests::origin::{Answer, Origin};
use sidegate_tests::wait;

#[tokio::test]
async fn a19_whatever_comes_before_it_the_final_response_arrives() {
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast";
    let rows = [
        ("one 100", format!("HTTP/1.1 100 Continue\r\n\r\n{last}")),
        ("fifty", format!("{}{last}", "HTTP/1.1 100 Continue\r\n\r\n".repeat(50))),
        ("103", format!("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n{last}")),
        (
            "102, 103, 199",
            format!("HTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\n\r\nHTTP/1.1 199 X\r\n\r\n{last}"),
        ),
        ("with a length", format!("HTTP/1.1 103 Early Hints\r\nContent-Length: 6\r\n\r\n{last}")),
        ("behind the final one", format!("{last}HTTP/1.1 100 Continue\r\n\r\n")),
        (
            "another final one",
            format!("{last}HTTP/1.1 103 E\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
        ),
    ];
    let bytes: Vec<String> = rows.iter().map(|row| row.1.clone()).collect();
    let origin = Origin::recording(move |received| {
        let row =
            received.target.trim_start_matches('/').parse::<usize>().ok().and_then(|row| bytes.get(row));
        row.map_or_else(|| Answer::text("fine"), |bytes| Answer::raw(bytes.clone()).then_go())
    })
    .await;
    let gateway = Gateway::to(&[origin.address()]).http("{http_protocol_options: {accept_http_10: true}}");
    let mut guarded = Guarded::start("HTTP/1.1", origin, gateway).await;
    for (number, (case, _)) in rows.iter().enumerate() {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let answer = guarded.proxy.call_over(protocol, &Call::get(&format!("/{number}"))).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "last"), "{case}: {answer:?}");
            assert_eq!(guarded.proxy.get("/next").await.text(), "fine", "after {case}");
            guarded.records(2).await;
        }
        // HTTP/1.0 knows none: every byte before the final one would be taken for it.
        let mut client = Http1::connect(guarded.proxy.address).await.unwrap();
        client.send(format!("GET /{number} HTTP/1.0\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        let all = wait::within(case, client.rest()).await.unwrap();
        let text = String::from_utf8_lossy(&all).into_owned();
        assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("\r\n\r\nlast"), "{case}: {text}");
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "{case}: {text}");
        guarded.records(1).await;
    }
    guarded.finish().await;
}

#[tokio::test]
async fn a20_a_client_that_waits_is_told_once_and_at_most_once() {
    for mut guarded in Guarded::both().await {
        for expect in ["100-continue", "100-Continue"] {
            let mut client = Http1::connect(guarded.proxy.address).await.unwrap();
            let head =
                format!("POST /slow HTTP/1.1\r\nHost: a\r\nExpect: {expect}\r\nContent-Length: 10\r\n\r\n");
            client.send(head.as_bytes()).await.unwrap();
            let told = wait::within("100 Continue", client.read(25)).await.unwrap();
            assert_eq!(told, b"HTTP/1.1 100 Continue\r\n\r\n");
            for piece in ["hello", "there"] {
                tokio::time::sleep(Duration::from_millis(20)).await;
                client.send(piece.as_bytes()).await.unwrap();
            }
            let answer = wait::within("the answer", client.response("POST")).await.unwrap();
            assert_eq!(
                (answer.status, answer.text().as_str(), answer.interim.len()),
                (200, "hellothere", 0),
                "{answer:?}"
            );
            let next = wait::within("the next answer", client.call(&Call::get("/next"))).await.unwrap();
            assert_eq!(next.status, 200);
            guarded.records(2).await;
        }
        // Content at once, or none: nobody waits, and the answer is one.
        for bytes in [
            "POST /once HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
            "GET /none HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
            "POST /empty HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
        ] {
            let method = bytes.split(' ').next().unwrap();
            let (answer, received) = guarded.serves(bytes, method, bytes.as_bytes()).await;
            assert!(answer.interim.len() <= 1, "{bytes:?}: {answer:?}");
            assert_eq!(received.header("expect"), None, "{bytes:?}");
        }
        for expect in [
            "y 100-continue",
            "100-continue, 100-continue",
            "200-ok",
            "100-continue;q=1",
            "",
            "100-continue\r\nExpect: 100-continue",
        ] {
            let bytes =
                format!("POST / HTTP/1.1\r\nHost: a\r\nExpect: {expect}\r\nContent-Length: 5\r\n\r\nhello");
            guarded
                .refuses(&format!("Expect: {expect:?}"), bytes.as_bytes(), 417, "expectation_failed")
                .await;
        }
        guarded.finish().await;
    }
}

#[tokio::test]
async fn a20_a_final_answer_instead_of_100_ends_the_connection() {
    let origin = Origin::recording(|_| Answer::text("origin")).await;
    let gateway = Gateway::to(&[origin.address()]).routes(
        "[{match: {prefix: /deny}, direct_response: {status: 403}}, {match: {prefix: /}, route: {cluster: app}}]",
    );
    let mut guarded = Guarded::start("HTTP/1.1", origin, gateway).await;
    let before = guarded.origin.count();
    let content = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = format!(
        "POST /deny HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        content.len()
    );
    // The content follows at once, or when the refusal has been read, or never.
    for (case, at_once, afterwards) in
        [("at once", true, false), ("afterwards", false, true), ("never", false, false)]
    {
        let mut client = Http1::connect(guarded.proxy.address).await.unwrap();
        client.send(head.as_bytes()).await.unwrap();
        if at_once {
            client.send(content.as_bytes()).await.unwrap();
        }
        let answer = wait::within(case, client.response("POST")).await.unwrap();
        assert_eq!((answer.status, answer.interim.len()), (403, 0), "{case}: {answer:?}");
        if afterwards {
            let _ = client.send(content.as_bytes()).await;
        }
        let rest = wait::within("the end of the connection", client.rest()).await.unwrap_or_default();
        assert!(rest.is_empty(), "{case}: {}", String::from_utf8_lossy(&rest));
        // Either it says that it closes, or the content was read as such and more could have followed.
        assert!(at_once || answer.header("connection") == Some("close"), "{case}: {answer:?}");
        assert_eq!(guarded.records(1).await[0].status, 403);
    }
    assert_eq!(guarded.origin.count(), before, "{:?}", guarded.received());
    guarded.finish().await;
}
