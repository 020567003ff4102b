//! "May this caller do that?", answered from the live policy: what the sidecars of a Service are sent is given to the proxy's own judgement,
//! the code that decides for requests.

use std::fmt;
use std::net::IpAddr;

use prost::{Message as _, Name as _};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sidegate_xds::envoy::config::listener::v3::Listener;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::{ResourceType, to_any};
use sidegate_xds::spiffe::{IdError, SpiffeId};

use crate::model::{Name, Scope, Trust, View};
use crate::translate::{self, translate};

/// What is asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The caller's SPIFFE id; `None` is a caller without TLS.
    #[serde(default)]
    pub from: Option<String>,
    /// `<namespace>/<Service>`, with `:<port>` if one port is meant.
    pub to: String,
    /// The method.
    pub method: String,
    /// The path, with its query if it has one.
    pub path: String,
    /// The host; the Service's name when absent.
    #[serde(default)]
    pub host: Option<String>,
    /// Headers.
    #[serde(default)]
    pub headers: Map<String, Value>,
    /// What an accepted token says.
    #[serde(default)]
    pub claims: Option<Map<String, Value>>,
    /// Where the caller is.
    #[serde(default)]
    pub source_ip: Option<IpAddr>,
}

/// What one Pod's sidecar would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The Pod.
    pub pod: String,
    /// Whether the request reaches the app.
    pub allowed: bool,
    /// Why, in words.
    pub because: String,
    /// All that the proxy's judgement says, as `POST /explain` does.
    pub explanation: Value,
}

/// Asks every Pod behind the Service, until `is_over` says that nobody waits for it any more.
///
/// # Errors
/// Says what is wrong with the question, or why it cannot be answered.
pub fn answer(
    view: &View,
    trust: Option<&Trust>,
    question: &Question,
    is_over: &dyn Fn() -> bool,
) -> Result<Vec<Answer>, String> {
    let (service, port) = service(&question.to)?;
    if let Some(from) = &question.from {
        let wrong = |error: IdError| format!("{from:?}: {error}, e.g. spiffe://cluster.local/ns/shop/sa/web");
        from.parse::<SpiffeId>().map_err(wrong)?;
    }
    let behind =
        translate::behind(view, &service, port).ok_or_else(|| format!("there is no Service {service}"))?;
    if behind.is_empty() {
        return Err(format!("no Pod stands behind {}: nobody would answer", Shown(&service, port)));
    }
    let mut answers = Vec::new();
    for translate::Behind { pod, sidecar } in behind {
        if is_over() {
            return Err("nobody waits for the answer".to_owned());
        }
        let Some(sidecar) = sidecar else {
            answers.push(Answer {
                pod: pod.to_string(),
                allowed: true,
                because: "no sidecar stands in front of the app: no policy is enforced there".to_owned(),
                explanation: Value::Null,
            });
            continue;
        };
        let scope = Scope::Sidecar { pod: pod.clone(), foreign: false, secure: trust.is_some() };
        let resources = translate(view, trust, &scope).resources;
        let name = format!("inbound|{sidecar}||");
        let Some(resource) = resources.listeners.get(&name) else {
            answers.push(Answer {
                pod: pod.to_string(),
                allowed: false,
                because: "its sidecar is given no listener for this port; see `sidegate status`".to_owned(),
                explanation: Value::Null,
            });
            continue;
        };
        let listener = bare(&resource.body)?;
        let given = vec![(ResourceType::Listener, name.clone(), listener)];
        let explanation = sidegate_proxy::explain(given, &question.to_json(&name, &service, sidecar))?;
        let (allowed, because) = read(&explanation);
        answers.push(Answer { pod: pod.to_string(), allowed, because, explanation });
    }
    Ok(answers)
}

/// The listener without its certificates: who the caller is, the question says.
fn bare(body: &[u8]) -> Result<Any, String> {
    let mut listener =
        Listener::decode(body).map_err(|error| format!("{}: {error}", Listener::full_name()))?;
    listener.filter_chains.iter_mut().for_each(|chain| chain.transport_socket = None);
    Ok(to_any(&listener))
}

/// `shop/web:80`.
fn service(text: &str) -> Result<(Name, Option<u16>), String> {
    let form = || format!("{text:?}: write NAMESPACE/SERVICE or NAMESPACE/SERVICE:PORT, e.g. shop/web:80");
    let (namespace, rest) = text.split_once('/').ok_or_else(form)?;
    let (name, port) = match rest.split_once(':') {
        Some((name, port)) => (name, Some(port.parse().map_err(|_| form())?)),
        None => (rest, None),
    };
    if namespace.is_empty() || name.is_empty() { Err(form()) } else { Ok((Name::new(namespace, name), port)) }
}

struct Shown<'a>(&'a Name, Option<u16>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(port) => write!(formatter, "Service {}:{port}", self.0),
            None => write!(formatter, "Service {}", self.0),
        }
    }
}

impl Question {
    /// For `POST /explain`. The port is named, so that only the chain counts that such a connection would be on.
    fn to_json(&self, listener: &str, service: &Name, port: u16) -> Value {
        let host = self.host.clone().unwrap_or_else(|| format!("{}.{}", service.name, service.namespace));
        let mut question = json!({
            "listener": listener, "method": self.method, "host": host, "path": self.path, "headers": self.headers, "port": port,
        });
        let optional = [
            ("peer", self.from.clone().map(Value::from)),
            ("source_ip", self.source_ip.map(|address| address.to_string().into())),
            ("claims", self.claims.clone().map(Value::from)),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                question[key] = value;
            }
        }
        question
    }
}

/// The decision, and the filter that made it.
fn read(explanation: &Value) -> (bool, String) {
    let decision = &explanation["decision"];
    if let Some(denied) = decision["denied"].as_str() {
        let policy = match decision["policy"].as_str() {
            Some(policy) => format!("by {policy}"),
            None => "no ALLOW policy matches it".to_owned(),
        };
        return (false, format!("{denied}: {policy}"));
    }
    match decision.as_str() {
        Some("no_filter_chain") => {
            return (
                false,
                "the port takes mutual TLS of the mesh only (STRICT), and this caller has none".to_owned(),
            );
        }
        Some("bad_request" | "no_route") => return (false, format!("{decision}: {}", explanation["steps"])),
        _ => {}
    }
    let judged = explanation["authorization"].as_array().map_or(&[][..], Vec::as_slice);
    let by =
        judged.iter().rev().find(|each| each["action"] == "ALLOW").and_then(|each| each["policy"].as_str());
    let because =
        by.map_or_else(|| "no policy denies it".to_owned(), |policy| format!("allowed by {policy}"));
    (true, because)
}

#[cfg(test)]
mod tests;
