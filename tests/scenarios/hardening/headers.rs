//! I1, I2, I5: what a client writes into headers and paths to be traced, counted or routed otherwise.

use sidegate_tests::client::Protocol;
use sidegate_tests::gateway::{Gateway, router, typed, yaml};
use sidegate_tests::guarded::Guarded;
use sidegate_tests::message::{Call, Received, values};
use sidegate_tests::origin::{Answer, Origin};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

async fn traced() -> Guarded {
    let origin = Origin::recording(|_| Answer::text("ok")).await;
    let gateway = Gateway::to(&[origin.address()]).http("{tracing: {}, use_remote_address: true}");
    Guarded::start("HTTP/1.1", origin, gateway).await
}

/// The trace and the span of the one sound `traceparent` that went on.
fn went_on(case: &str, received: &Received) -> (String, String) {
    let all = values(&received.headers, "traceparent");
    let [value] = all[..] else { panic!("{case}: {all:?}") };
    let parts: Vec<&str> = value.split('-').collect();
    let sound = |text: &str, length: usize| {
        text.len() == length
            && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && text.bytes().any(|byte| byte != b'0')
    };
    let [version, trace, span, flags] = parts[..] else { panic!("{case}: {value}") };
    assert!(
        version == "00" && sound(trace, 32) && sound(span, 16) && matches!(flags, "00" | "01"),
        "{case}: {value}"
    );
    (trace.to_owned(), span.to_owned())
}

#[tokio::test]
async fn i1_a_trace_that_is_not_well_formed_begins_anew() {
    let mut guarded = traced().await;
    let upper = TRACE.to_uppercase();
    let bad = [
        format!("00-{TRACE}-{SPAN}"),
        format!("00-{TRACE}-{SPAN}-01-more"),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("0-{TRACE}-{SPAN}-01"),
        format!("00-{upper}-{SPAN}-01"),
        format!("00-{}-{SPAN}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("00-{TRACE}-{SPAN}-0g"),
        format!("00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01"),
        format!("00_{TRACE}_{SPAN}_01"),
        "x".repeat(55),
        "a".repeat(8_000),
        String::new(),
    ];
    for value in &bad {
        guarded.proxy.call(&Call::get("/").header("traceparent", value).header("tracestate", "a=b")).await;
        let received = guarded.origin.last();
        assert_ne!(went_on(value, &received).0, TRACE, "{value}");
        assert_eq!(
            received.header("tracestate"),
            None,
            "{value}: the state of a trace that is not continued"
        );
    }
    let good = format!("00-{TRACE}-{SPAN}-01");
    guarded.proxy.call(&Call::get("/").header("traceparent", &good).header("traceparent", &good)).await;
    assert_ne!(went_on("two", &guarded.origin.last()).0, TRACE);
    guarded.proxy.call(&Call::get("/").header("traceparent", &good).header("tracestate", "a=b")).await;
    let received = guarded.origin.last();
    let (trace, span) = went_on("a sound one", &received);
    assert_eq!((trace.as_str(), received.header("tracestate")), (TRACE, Some("a=b")));
    assert_ne!(span, SPAN);
    // B3 beside it, with another trace: one of them goes on, in both forms.
    let other = "80f198ee56343ba864fe8b2a57d3eff7";
    let both = Call::get("/")
        .header("traceparent", &good)
        .header("b3", &format!("{other}-{SPAN}-1"))
        .header("tracestate", "a=b");
    guarded.proxy.call(&both).await;
    let received = guarded.origin.last();
    let (trace, _) = went_on("both", &received);
    assert_eq!(received.header("x-b3-traceid"), Some(trace.as_str()));
    assert!(received.header("b3").is_some_and(|b3| b3.starts_with(&trace)), "{received:?}");
    assert_eq!(received.header("tracestate"), None, "a state of the trace that is not continued");
    guarded.records(bad.len() + 3).await;
    guarded.finish().await;
}

#[tokio::test]
async fn i1_what_travels_with_a_trace_is_bounded() {
    let mut guarded = traced().await;
    let good = format!("00-{TRACE}-{SPAN}-01");
    let entries =
        |count: usize| (0..count).map(|number| format!("k{number}=v")).collect::<Vec<_>>().join(",");
    for (case, state, stays) in [
        ("32 entries", entries(32), true),
        ("512 entries", entries(512), false),
        ("one of 8 KiB", format!("a={}", "b".repeat(8 << 10)), false),
    ] {
        guarded.proxy.call(&Call::get("/").header("traceparent", &good).header("tracestate", &state)).await;
        assert_eq!(guarded.origin.last().header("tracestate").is_some(), stays, "{case}");
        guarded.records(1).await;
    }
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nbaggage: {}\r\n\r\n", "a=b,".repeat(16 << 10));
    guarded.refuses("64 KiB of baggage", large.as_bytes(), 431, "headers_too_large").await;
    guarded.finish().await;
}

#[tokio::test]
async fn i1_a_strangers_request_id_is_not_believed() {
    for edge in [true, false] {
        let origin = Origin::recording(|_| Answer::text("ok")).await;
        let gateway = Gateway::to(&[origin.address()]).http(&format!("{{use_remote_address: {edge}}}"));
        let mut guarded = Guarded::start("HTTP/1.1", origin, gateway).await;
        for id in [
            "<script>alert(1)</script>",
            "a b",
            "a\\r\\nb",
            "\"}",
            "\u{e4}",
            &"a".repeat(129),
            &"a".repeat(8_000),
            "%0d%0a",
            "${jndi:x}",
        ] {
            guarded.proxy.call(&Call::get("/").header("x-request-id", id)).await;
            let received = guarded.origin.last();
            let ids = values(&received.headers, "x-request-id");
            assert!(
                ids.len() == 1 && ids[0].len() == 36 && ids[0] != id,
                "{id}, at the edge {edge}: {ids:?}"
            );
            guarded.records(1).await;
        }
        let sane = "0c1e2f3a-0000-4000-8000-000000000001";
        guarded.proxy.call(&Call::get("/").header("x-request-id", sane)).await;
        assert_eq!(guarded.origin.last().header("x-request-id") == Some(sane), !edge, "at the edge {edge}");
        guarded.records(1).await;
        guarded.finish().await;
    }
}

/// Ten requests an hour to `/limited` of `one.test`, over two workers.
async fn limited() -> Guarded {
    let origin = Origin::recording(|_| Answer::text("ok")).await;
    let filter = |bucket: &str| {
        typed(
            "envoy.filters.http.local_ratelimit",
            "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            yaml(&format!(
                "{{stat_prefix: limit, {bucket}filter_enabled: {{default_value: {{numerator: 100}}}},
                  filter_enforced: {{default_value: {{numerator: 100}}}}}}"
            )),
        )
    };
    let limited =
        filter("token_bucket: {max_tokens: 10, tokens_per_fill: 10, fill_interval: 3600s}, ")["typed_config"]
            .clone();
    let routes = serde_json::json!([
        {"match": {"path_separated_prefix": "/limited"}, "route": {"cluster": "app"},
         "typed_per_filter_config": {"envoy.filters.http.local_ratelimit": limited}},
        {"match": {"prefix": "/first"}, "route": {"cluster": "app"}},
        {"match": {"prefix": "/last"}, "route": {"cluster": "app"}},
        {"match": {"prefix": "/"}, "direct_response": {"status": 404}},
    ]);
    let gateway = Gateway::new()
        .cluster("app", &[origin.address()])
        .http(&serde_json::json!({"http_filters": [filter(""), router()], "normalize_path": true, "merge_slashes": true,
            "use_remote_address": true,
            "route_config": {"name": "main", "ignore_port_in_host_matching": true,
                "virtual_hosts": [{"name": "one", "domains": ["one.test"], "routes": routes},
                    {"name": "rest", "domains": ["*"], "routes": [
                        {"match": {"path": "/first"}, "route": {"cluster": "app"}}, {"match": {"path": "/last"}, "route": {"cluster": "app"}}]}]},
        }).to_string())
        .two_workers();
    Guarded::start("HTTP/1.1", origin, gateway).await
}

#[tokio::test]
async fn i2_one_limit_holds_for_every_spelling() {
    let mut guarded = limited().await;
    let targets = [
        "/limited",
        "//limited",
        "/./limited",
        "/x/../limited",
        "/%6cimited",
        "/%6Cimited",
        "/lim%69ted/",
        "/limited//x",
        "/limited/../limited",
        "/%2e/limited",
        "/limited?x",
        "/limited/%2e%2e/limited",
        "/../limited",
        "/limited/.",
    ];
    let hosts = ["one.test", "ONE.test", "one.test.", "one.test:80", "One.Test.:8080"];
    let mut statuses = Vec::new();
    for (number, target) in targets.iter().cycle().take(60).enumerate() {
        let call = Call::get(target)
            .host(hosts[number % hosts.len()])
            .header("x-forwarded-for", &format!("10.0.0.{number}"))
            .header("x-http-method-override", "POST");
        let protocol = if number % 3 == 0 { Protocol::Http2 } else { Protocol::Http1 };
        statuses.push(guarded.proxy.call_over(protocol, &call).await.status);
    }
    let count = |status| statuses.iter().filter(|seen| **seen == status).count();
    assert_eq!((count(200), count(429)), (10, 50), "{statuses:?}");
    assert_eq!(guarded.received().len(), 10);
    guarded.records(60).await;
    guarded.finish().await;
}

#[tokio::test]
async fn i5_a_header_is_matched_as_it_is_sent_on() {
    let origin = Origin::recording(|_| Answer::text("ok")).await;
    let gateway = Gateway::new().cluster("app", &[origin.address()]).routes(
        "[{match: {prefix: /, headers: [{name: x-role, string_match: {exact: admin}}]}, direct_response: {status: 299}},
          {match: {prefix: /, headers: [{name: x-role, string_match: {safe_regex: {regex: '(?i).*secret.*'}}}]}, direct_response: {status: 403}},
          {match: {prefix: /, headers: [{name: x-empty, string_match: {exact: ''}}]}, direct_response: {status: 298}},
          {match: {prefix: /}, route: {cluster: app}}]",
    );
    let mut guarded = Guarded::start("HTTP/1.1", origin, gateway).await;
    let long = format!("{}secret", "a".repeat(32 << 10));
    for (fields, status) in [
        (&[("x-role", "admin")][..], 299),
        (&[("X-ROLE", "admin")], 299),
        (&[("x-role", " \tadmin\t ")], 299),
        (&[("x-role", "Admin")], 200),
        (&[("x-role", "admin,x")], 200),
        (&[("x-role", "admin, admin")], 200),
        // Two fields are one list: neither is what the other says alone.
        (&[("x-role", "user"), ("x-role", "admin")], 200),
        (&[("x-role", "admin"), ("x-role", "user")], 200),
        (&[("x-role", "user"), ("x-role", "top-Secret")], 403),
        (&[("x-role", "SECRET"), ("x-role", "user")], 403),
        (&[("x-role", long.as_str())], 403),
        (&[("x-role", "")], 200),
        (&[("x-empty", "")], 298),
        (&[("x-empty", " \t ")], 298),
        (&[("x_role", "admin")], 200),
        (&[("x-role-", "admin")], 200),
    ] {
        let call = fields.iter().fold(Call::get("/"), |call, (name, value)| call.header(name, value));
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let trimmed = fields.iter().all(|(_, value)| value.trim() == *value);
            if protocol == Protocol::Http2 && !trimmed {
                continue;
            }
            let answer = guarded.proxy.call_over(protocol, &call).await;
            assert_eq!(answer.status, status, "{fields:?} over {protocol:?}");
            if status == 200 {
                let (name, _) = fields[0];
                let received = guarded.origin.last();
                let sent: Vec<&str> = fields.iter().map(|(_, value)| *value).collect();
                assert_eq!(values(&received.headers, name), sent, "{fields:?} over {protocol:?}");
            }
            guarded.records(1).await;
        }
    }
    // Bytes that are no text match no pattern, and are sent on as they are.
    let (_, received) =
        guarded.serves("not UTF-8", "GET", b"GET / HTTP/1.1\r\nHost: a\r\nX-Role: admin\xff\r\n\r\n").await;
    assert_eq!(received.header("x-role"), Some("admin\u{ff}"));
    guarded.finish().await;
}
