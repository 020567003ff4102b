//! The sample shop without a mesh: three apps that call each other directly.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn args(name: &str, upstream: Option<SocketAddr>) -> SampleArgs {
    SampleArgs {
        name: name.to_owned(),
        version: "v1".to_owned(),
        pod: None,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        upstream: upstream.map(|address| format!("http://{address}/").parse().unwrap()),
        proxy: None,
    }
}

/// Serves an app on a port that the system chooses.
async fn start(args: SampleArgs) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind(args.listen).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Arc::new(App::new(args).await.unwrap());
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_connection(Arc::clone(&app), stream, stopping.clone()));
        }
    });
    (address, stop)
}

async fn get(address: SocketAddr, headers: &[(&'static str, &'static str)]) -> (StatusCode, Value) {
    let mut request = Request::get("/").header(HOST, "shop.example").body(Empty::new()).unwrap();
    for &(name, value) in headers {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let response = Client::new(address).send(request).await.unwrap();
    (response.status(), serde_json::from_slice(response.body()).unwrap())
}

#[tokio::test]
async fn answers_nest_and_trace_headers_travel() {
    let (reviews, _reviews) = start(args("reviews", None)).await;
    let (catalog, _catalog) = start(args("catalog", Some(reviews))).await;
    let (web, _web) = start(args("web", Some(catalog))).await;
    let headers =
        [("x-request-id", "r-1"), ("x-b3-traceid", "463ac35c9f6413ad"), ("cookie", "none of your business")];
    let (status, answer) = get(web, &headers).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["name"], "web");
    assert_eq!(answer["upstream"]["name"], "catalog");
    let innermost = &answer["upstream"]["upstream"];
    assert_eq!(innermost["name"], "reviews");
    assert_eq!(innermost["pod"], "reviews-v1");
    assert_eq!(innermost["request_id"], "r-1");
    assert_eq!(innermost["trace_id"], "463ac35c9f6413ad");
}

#[tokio::test]
async fn a_failure_three_hops_away_surfaces_as_502_and_says_where() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (catalog, _catalog) = start(args("catalog", Some(gone))).await;
    let (web, _web) = start(args("web", Some(catalog))).await;
    let (status, answer) = get(web, &[]).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    let reason = answer["error"].as_str().unwrap();
    assert!(reason.contains("answered 502") && reason.contains(&gone.to_string()), "{reason}");
}

#[tokio::test]
async fn a_proxy_is_sent_the_whole_url() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let mut through = args("catalog", None);
    through.upstream = Some("http://reviews.shop/".parse().unwrap());
    through.proxy = Some(proxy.parse().unwrap());
    let (catalog, _catalog) = start(through).await;
    let asked = tokio::spawn(async move { get(catalog, &[("traceparent", "00-1-2-01")]).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("GET http://reviews.shop/ HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("host: reviews.shop\r\n") && head.contains("traceparent: 00-1-2-01\r\n"), "{head}");
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"name\": \"reviews\"} ";
    stream.write_all(answer).await.unwrap();
    let (status, answer) = asked.await.unwrap();
    assert_eq!((status, &answer["upstream"]["name"]), (StatusCode::OK, &json!("reviews")));
}

#[tokio::test]
async fn stopping_ends_idle_connections() {
    let (reviews, stop) = start(args("reviews", None)).await;
    let mut stream = TcpStream::connect(reviews).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await.unwrap();
    let mut first = [0; 15];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    stop.send_replace(true);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn stopping_finishes_what_is_in_flight_and_closes_with_it() {
    let next = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (catalog, stop) = start(args("catalog", next.local_addr().ok())).await;
    let mut stream = TcpStream::connect(catalog).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: catalog\r\n\r\n").await.unwrap();
    let (mut asked, _) = next.accept().await.unwrap();
    stop.send_replace(true);
    asked.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("connection: close\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_upstream_without_a_host_is_refused_at_once() {
    let mut wrong = args("web", None);
    wrong.upstream = Some("/catalog".parse().unwrap());
    let error = App::new(wrong).await.unwrap_err().to_string();
    assert!(error.contains("/catalog: no host"), "{error}");
}
