//! The load against servers that answer, fail, or say nothing.

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;

fn response(status: u16, body: &str) -> Response<Bytes> {
    Response::builder().status(status).body(Bytes::from(body.to_owned())).unwrap()
}

#[test]
fn an_answer_is_what_reviews_wrote() {
    let body = r#"{"name":"web","upstream":{"name":"catalog","upstream":
        {"name":"reviews","version":"v2","pod":"reviews-v2-1","trace_id":"00000000000000000000000000000007"}}}"#;
    let answer = judge(&response(200, body), 7).unwrap();
    assert_eq!(answer, Answer { version: "v2".to_owned(), pod: "reviews-v2-1".to_owned(), traced: true });
    assert!(!judge(&response(200, body), 8).unwrap().traced);
}

#[test]
fn a_200_from_anyone_else_is_a_failure() {
    let half = r#"{"name":"web","version":"v2","pod":"web-1"}"#;
    assert_eq!(judge(&response(200, half), 1).unwrap_err().class, "200 without reviews");
    assert_eq!(judge(&response(200, "<html>"), 1).unwrap_err().class, "200 without JSON");
}

#[test]
fn failures_are_classed_by_status_and_reason() {
    let mut refused = response(503, "no healthy endpoint");
    refused.headers_mut().insert("x-sidegate-reason", HeaderValue::from_static("no_endpoint; id=42"));
    let failure = judge(&refused, 1).unwrap_err();
    assert_eq!(failure.class, "503 no_endpoint");
    assert_eq!(failure.detail, "503 no_endpoint; id=42 no healthy endpoint");
    assert_eq!(judge(&response(404, ""), 1).unwrap_err().class, "404");
    let deep =
        r#"{"name":"web","error":"http://catalog/ answered 502: http://reviews/ answered 503: no endpoint"}"#;
    assert_eq!(
        judge(&response(502, deep), 1).unwrap_err().class,
        "502: http://reviews/ answered 503: no endpoint"
    );
}

#[test]
fn a_short_trace_id_is_the_end_of_the_long_one() {
    assert!(same_trace("463ac35c9f6413ad", (1 << 100) + 0x463a_c35c_9f64_13ad));
    assert!(!same_trace("463ac35c9f6413ad", 5));
    assert!(!same_trace("none", 5));
}

async fn serve(body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = service_fn(move |_request| async move {
                Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(
                    body.as_bytes(),
                ))))
            });
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), answer));
        }
    });
    address
}

#[tokio::test]
async fn the_loop_is_open_and_counts_everything() {
    let address = serve(r#"{"name":"reviews","version":"v2","pod":"reviews-v2-1"}"#).await;
    let tally = SharedTally::new();
    tally.lock().open_window(1.0);
    let load = Load::new(address, "shop.example", 500, tally.clone());
    let (stop, stopping) = watch::channel(false);
    let running = tokio::spawn(load.run(stopping));
    while tally.lock().requests < 100 {
        tokio::task::yield_now().await;
    }
    stop.send_replace(true);
    running.await.unwrap();
    let tally = tally.lock();
    assert_eq!(tally.failed, 0, "{:?}", tally.examples);
    assert!(tally.splits[0].kept() && tally.splits[0].requests == tally.requests);
}

#[tokio::test(start_paused = true)]
async fn silence_is_a_failure_after_five_seconds_and_the_loop_goes_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let silent = tokio::spawn(async move {
        let mut streams = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            streams.push(stream);
        }
    });
    let tally = SharedTally::new();
    let load = Load::new(address, "shop.example", 10, tally.clone());
    let (stop, stopping) = watch::channel(false);
    let running = tokio::spawn(load.run(stopping));
    tokio::time::sleep(Duration::from_secs(10)).await;
    stop.send_replace(true);
    running.await.unwrap();
    let tally = tally.lock();
    assert!((99..=101).contains(&tally.requests), "{}", tally.requests);
    assert_eq!(tally.failed, tally.requests);
    assert!(tally.latency.quantile(0.5) >= Some(DEADLINE));
    silent.abort();
}
