//! Which path answers what.

use http::header::{ACCEPT, ALLOW};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use regex::Regex;
use serde_json::json;
use tracing::level_filters::LevelFilter;

use super::query::Query;
use super::reply::{Reply, json, reply, text};
use super::{Shared, State, certs, config_dump, explain, guard, status};
use crate::telemetry::{Exposition, parse_reason_id};

/// Every page: path, method, what it is.
const PAGES: [(&str, Method, &str); 18] = [
    ("/", Method::GET, "this list"),
    ("/ready", Method::GET, "200 LIVE, or 503 and the state"),
    ("/server_info", Method::GET, "version, state, uptime, node"),
    ("/stats", Method::GET, "counters and gauges (?filter=REGEX, ?format=json|prometheus)"),
    ("/stats/prometheus", Method::GET, "the same for Prometheus"),
    ("/metrics", Method::GET, "the same for Prometheus"),
    ("/listeners", Method::GET, "listeners and their addresses (?format=json)"),
    ("/certs", Method::GET, "the certificates in use: where from, names, expiry"),
    ("/clusters", Method::GET, "clusters, limits and endpoints (?format=json)"),
    (
        "/config_dump",
        Method::GET,
        "the configuration as it came (?include_eds, ?resource=FIELD, ?name_regex=REGEX)",
    ),
    ("/why", Method::GET, "the latest error replies that the proxy made itself"),
    ("/why/{id}", Method::GET, "why the reply with `x-sidegate-reason: …; id={id}` came to be"),
    (
        "/explain",
        Method::POST,
        r#"what would be done with a request, sending nothing: {"listener", "method", "host", "path", "headers"}"#,
    ),
    ("/logging", Method::GET, "the log level (POST ?level=trace|debug|info|warning|error|off changes it)"),
    ("/logging", Method::POST, "changes the log level"),
    ("/reopen_logs", Method::POST, "opens the access log files again, after they were moved"),
    ("/drain_listeners", Method::POST, "begins to drain (?graceful lets connections finish)"),
    ("/quitquitquit", Method::POST, "ends the process in order"),
];

/// Answers a request.
pub(super) async fn answer(state: &Shared, request: Request<Incoming>) -> Reply {
    if let Err(refusal) = guard::check(request.method(), request.headers()) {
        return text(StatusCode::FORBIDDEN, refusal);
    }
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query());
    let path = parts.uri.path();
    let reads = parts.method == Method::GET || parts.method == Method::HEAD;
    match (path, reads, parts.method == Method::POST) {
        ("/explain", _, true) => explain::answer(state, body).await,
        ("/config_dump", true, _) => config_dump::answer(state, &query).await,
        (_, true, _) => match read(state, path, &query, &parts.headers) {
            Some(reply) => reply,
            None => elsewhere(path),
        },
        (_, _, true) => change(state, path, &query).unwrap_or_else(|| elsewhere(path)),
        _ => elsewhere(path),
    }
}

fn read(state: &State, path: &str, query: &Query, headers: &HeaderMap) -> Option<Reply> {
    Some(match path {
        "/" | "/help" => text(StatusCode::OK, help()),
        "/ready" => ready(state),
        "/server_info" => json(StatusCode::OK, &status::server_info(state)),
        "/stats" => stats(state, query, headers),
        "/stats/prometheus" | "/metrics" => prometheus(state, headers),
        "/listeners" => status::listeners(state, query),
        "/certs" => json(StatusCode::OK, &certs::certs(state)),
        "/clusters" => status::clusters(state, query),
        "/logging" => text(StatusCode::OK, format!("level: {}\n", level_name((state.level)()))),
        "/why" => json(StatusCode::OK, &json!({ "latest": state.metrics.latest_reasons(LATEST) })),
        _ => why(state, path.strip_prefix("/why/")?),
    })
}

fn change(state: &State, path: &str, query: &Query) -> Option<Reply> {
    Some(match path {
        "/logging" => set_level(state, query),
        "/reopen_logs" => {
            state.metrics.reopen_logs();
            text(StatusCode::OK, "OK\n")
        }
        "/drain_listeners" => {
            (state.drain_listeners)(query.get("graceful").is_some());
            text(StatusCode::OK, "OK\n")
        }
        "/quitquitquit" => {
            (state.quit)();
            text(StatusCode::OK, "OK\n")
        }
        _ => return None,
    })
}

/// Neither path nor method as asked.
fn elsewhere(path: &str) -> Reply {
    let methods: Vec<&str> = PAGES
        .iter()
        .filter(|(page, ..)| *page == path || (page.ends_with("{id}") && path.starts_with("/why/")))
        .map(|(_, method, _)| method.as_str())
        .collect();
    if methods.is_empty() {
        return text(StatusCode::NOT_FOUND, format!("no such page; these are there:\n\n{}", help()));
    }
    let allow = methods.join(", ");
    let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, format!("this page takes {allow}\n"));
    if let Ok(allow) = HeaderValue::from_str(&allow) {
        reply.headers_mut().insert(ALLOW, allow);
    }
    reply
}

fn help() -> String {
    let width = PAGES.iter().map(|(path, ..)| path.len()).max().unwrap_or_default();
    let lines = PAGES.iter().map(|(path, method, help)| format!("{method:<4} {path:<width$}  {help}\n"));
    lines.collect()
}

fn ready(state: &State) -> Reply {
    let (word, number) = state.condition();
    // The process lives and its configuration is in force; but sending more here would only be refused.
    if number == 0 && (state.overload.refuses_requests() || state.overload.refuses_connections()) {
        let memory = state.overload.report().words();
        return text(StatusCode::SERVICE_UNAVAILABLE, format!("OVERLOADED: {memory}\n"));
    }
    if number == 0 {
        return text(StatusCode::OK, format!("{word}\n"));
    }
    let waits = state.identity.as_ref().and_then(|identity| identity.read().waits_for());
    let waits = waits.map(|what| format!("{what}\n")).unwrap_or_default();
    text(StatusCode::SERVICE_UNAVAILABLE, format!("{word}\n{waits}"))
}

fn stats(state: &State, query: &Query, headers: &HeaderMap) -> Reply {
    if query.get("format") == Some("prometheus") {
        return prometheus(state, headers);
    }
    let filter = match query.get("filter").map(Regex::new).transpose() {
        Ok(filter) => filter,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("filter: {error}\n")),
    };
    let wanted = |name: &str| filter.as_ref().is_none_or(|filter| filter.is_match(name));
    let mut lines = String::new();
    state.metrics.encode_stats(&mut lines, &wanted, &state.inputs());
    if query.get("format") != Some("json") {
        return text(StatusCode::OK, lines);
    }
    let stats = lines.lines().filter_map(|line| line.rsplit_once(": ")).map(|(name, value)| {
        let value = value.parse::<u64>().map_or_else(|_| json!(value), |number| json!(number));
        json!({ "name": name, "value": value })
    });
    json(StatusCode::OK, &json!({ "stats": stats.collect::<Vec<_>>() }))
}

fn prometheus(state: &State, headers: &HeaderMap) -> Reply {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let form = Exposition::negotiate(accept);
    let mut page = String::new();
    state.metrics.encode(&mut page, form, &state.inputs());
    reply(StatusCode::OK, form.content_type(), page.into())
}

fn why(state: &State, id: &str) -> Reply {
    match parse_reason_id(id).and_then(|id| state.metrics.why(id)) {
        Some(story) => json(StatusCode::OK, &story),
        None => {
            let message = "nothing is known under this id: ask the proxy that made the reply, and soon; it keeps the latest 1024";
            json(StatusCode::NOT_FOUND, &json!({ "error": message }))
        }
    }
}

fn set_level(state: &State, query: &Query) -> Reply {
    // Envoy takes `?level=debug`, and `?<logger>=debug` for one logger; here there is one.
    let asked = query.get("level").or_else(|| query.first().map(|(_, value)| value));
    let Some(level) = asked.and_then(parse_level) else {
        return text(StatusCode::BAD_REQUEST, "say ?level=trace|debug|info|warning|error|off\n");
    };
    (state.set_level)(level);
    text(StatusCode::OK, format!("level: {}\n", level_name(level)))
}

fn parse_level(text: &str) -> Option<LevelFilter> {
    Some(match &*text.to_ascii_lowercase() {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warning" | "warn" => LevelFilter::WARN,
        "error" | "critical" => LevelFilter::ERROR,
        "off" => LevelFilter::OFF,
        _ => return None,
    })
}

fn level_name(level: LevelFilter) -> &'static str {
    match level {
        LevelFilter::TRACE => "trace",
        LevelFilter::DEBUG => "debug",
        LevelFilter::INFO => "info",
        LevelFilter::WARN => "warning",
        LevelFilter::ERROR => "error",
        _ => "off",
    }
}

/// Error replies that `/why` lists.
const LATEST: usize = 20;
