//! `POST /explain`: a question about a request that is not sent.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::{Reply, json};
use super::{Explain, Shared};
use crate::exchange::Question as Asked;
use crate::message::{Headers, Name, RequestHead, Scheme, Value as FieldValue, Version};
use crate::snapshot::Snapshot;

/// Bytes of a question.
const QUESTION_BYTES: usize = 64 * 1024;

/// For a question to arrive.
const QUESTION_TIME: Duration = Duration::from_secs(10);

/// The question.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    /// May be left out when there is one listener only.
    listener: Option<String>,
    #[serde(default = "get")]
    method: String,
    #[serde(alias = "authority")]
    host: String,
    #[serde(default = "root")]
    path: String,
    /// A text, or a list of texts, for each name.
    #[serde(default)]
    headers: serde_json::Map<String, Value>,
    /// The SPIFFE id (or another URI) in the caller's certificate.
    peer: Option<String>,
    /// Where the connection comes from; this host when it is left out.
    source_ip: Option<IpAddr>,
    /// The port that the connection wants to reach, when the listener stands for several.
    port: Option<u16>,
    /// The name that its ClientHello asks for.
    sni: Option<String>,
    /// The payload of a token that was accepted.
    claims: Option<serde_json::Map<String, Value>>,
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

pub(super) async fn answer(state: &Shared, body: Incoming) -> Reply {
    let body = tokio::time::timeout(QUESTION_TIME, Limited::new(body, QUESTION_BYTES).collect()).await;
    let answer = match body {
        Ok(Ok(body)) => serde_json::from_slice(&body.to_bytes())
            .map_err(|error| format!("the question is not understood: {error}"))
            .and_then(|question| decide(&state.snapshots.current(), &state.explain, question)),
        Ok(Err(_)) => Err(format!("a question has at most {QUESTION_BYTES} bytes")),
        Err(_) => Err("the question did not arrive in time".to_owned()),
    };
    match answer {
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(message) => json(StatusCode::BAD_REQUEST, &json!({ "error": message })),
    }
}

/// Answers a question in JSON by what `explain` says of a listener.
///
/// # Errors
/// Says what is wrong with the question.
pub(crate) fn decide_json(snapshot: &Snapshot, explain: &Explain, question: Value) -> Result<Value, String> {
    let question = serde_json::from_value(question)
        .map_err(|error| format!("the question is not understood: {error}"))?;
    decide(snapshot, explain, question)
}

fn decide(snapshot: &Snapshot, explain: &Explain, question: Question) -> Result<Value, String> {
    let mut names: Vec<&str> = snapshot.listeners.keys().map(|name| &**name).collect();
    names.sort_unstable();
    let listener = match (&question.listener, &names[..]) {
        (Some(name), _) if names.contains(&&**name) => name,
        (None, [only]) => *only,
        (Some(name), _) => {
            return Err(format!("there is no listener {name}; there are: {}", names.join(", ")));
        }
        (None, []) => return Err("there is no listener".to_owned()),
        (None, _) => return Err(format!("say which listener: {}", names.join(", "))),
    };
    let asked = Asked {
        head: question.head()?,
        peer: question.peer.map(Into::into),
        source: question.source_ip.unwrap_or(Ipv4Addr::LOCALHOST.into()).to_canonical(),
        port: question.port,
        server_name: question.sni.map(|name| name.to_ascii_lowercase().into()),
        claims: question.claims.map(Value::Object),
        roll: 0,
    };
    Ok(explain(listener, &asked))
}

impl Question {
    fn head(&self) -> Result<RequestHead, String> {
        let method: Method =
            self.method.parse().map_err(|_| format!("method {:?} is malformed", self.method))?;
        let authority: Authority =
            self.host.parse().map_err(|_| format!("host {:?} is malformed", self.host))?;
        if authority.as_str().contains('@') {
            return Err(format!("host {:?} holds user information", self.host));
        }
        let path: PathAndQuery =
            self.path.parse().map_err(|_| format!("path {:?} is malformed", self.path))?;
        if !path.as_str().starts_with('/') {
            return Err(format!("path {:?} does not begin with /", self.path));
        }
        let mut headers = Headers::new();
        for (name, value) in &self.headers {
            let field: HeaderName = name.parse().map_err(|_| format!("header name {name:?} is malformed"))?;
            for value in field_values(name, value)? {
                headers.append(Name::Http(field.clone()), FieldValue::Http(value));
            }
        }
        Ok(RequestHead {
            method,
            scheme: Scheme::Http,
            authority: Some(authority),
            path,
            version: Version::Http11,
            headers,
        })
    }
}

fn field_values(name: &str, value: &Value) -> Result<Vec<HeaderValue>, String> {
    let texts = match value {
        Value::String(text) => vec![&**text],
        Value::Array(items) => items.iter().map(|item| item.as_str().unwrap_or("\n")).collect(),
        _ => vec!["\n"],
    };
    let values = texts.into_iter().map(HeaderValue::from_str).collect::<Result<_, _>>();
    values.map_err(|_| {
        format!("header {name}: the value must be a text, or a list of texts, that a header can carry")
    })
}
