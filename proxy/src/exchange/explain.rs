//! The same decisions as a served request's, taken for a question (D4): nothing is sent, and nothing is counted.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::uri::PathAndQuery;
use serde_json::{Value, json};

use super::{forwarded, prepare};
use crate::message::{PathError, RequestHead, Scheme};
use crate::route::{Action, Route, Target};
use crate::snapshot::{Choice, Facts, FilterChain, Http, Listener, RAW, Snapshot, TLS, Told};

mod authorization;

use authorization::Judged;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// The request.
    pub(crate) head: RequestHead,
    /// The id in the caller's certificate; `None`: it shows none.
    pub(crate) peer: Option<Box<str>>,
    /// Where the connection comes from.
    pub(crate) source: IpAddr,
    /// The port that it wants to reach, where that is not the listener's own.
    pub(crate) port: Option<u16>,
    /// The name that its ClientHello asks for.
    pub(crate) server_name: Option<Box<str>>,
    /// What a token says that was accepted.
    pub(crate) claims: Option<Value>,
    /// Chance.
    pub(crate) roll: u32,
}

/// What the proxy would do with a request on a listener, step by step.
pub(crate) fn explain(snapshot: &Snapshot, listener: &str, question: &Question) -> Value {
    let Some(listener) = snapshot.listeners.get(listener) else {
        let known: Vec<_> = snapshot.listeners.keys().map(|name| name.to_string()).collect();
        return json!({ "error": format!("no listener {listener}"), "listeners": known });
    };
    let destination = destination(listener, question);
    let Some(chain) = choose(listener, question, destination) else {
        return json!({ "listener": &*listener.name, "decision": "no_filter_chain" });
    };
    let mut judged = Judged::of_connection(&chain.gate, question, destination);
    let mut answer = json!({ "listener": &*listener.name, "filter_chain": &*chain.name });
    let found = match chain.http() {
        None => json!({ "decision": "TCP: no request is looked at" }),
        Some(http) => of_request(snapshot, http, question, destination, &mut judged),
    };
    if let (Some(answer), Value::Object(found)) = (answer.as_object_mut(), found) {
        answer.extend(found);
        answer.insert("authorization".to_owned(), judged.list.into());
        if let Some(denial) = judged.denial {
            answer.insert("decision".to_owned(), denial);
        }
    }
    answer
}

/// What becomes of a request that the connection may make.
fn of_request(
    snapshot: &Snapshot,
    http: &Http,
    question: &Question,
    destination: SocketAddr,
    judged: &mut Judged<'_>,
) -> Value {
    let mut steps: Vec<String> = Vec::new();
    let mut head = question.head.clone();
    let client = match canonical(http, question, destination, &mut head) {
        Ok(client) => client,
        Err(PathError::Redirect(path)) => {
            return json!({ "decision": { "redirect": 307, "to": path.as_str() } });
        }
        Err(error) => return json!({ "decision": "bad_request", "steps": [error.to_string()] }),
    };
    let Some(table) = snapshot.routes.get(&http.routes) else {
        return json!({ "decision": "no_route", "steps": ["the route table has not arrived"] });
    };
    let Some((host, route)) = table.select(&head, question.roll, &mut steps) else {
        return json!({ "route_table": &*table.name, "decision": "no_route", "steps": steps });
    };
    judged.add_request(http, route, &head, client);
    json!({
        "route_table": &*table.name,
        "virtual_host": &*host.name,
        "route": &*route.name,
        "origin": route.origin.as_deref(),
        "path": head.path.path(),
        "decision": decision(snapshot, route, &head.path),
        "steps": steps,
    })
}

fn destination(listener: &Listener, question: &Question) -> SocketAddr {
    let own = listener.addresses.first().copied().unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
    SocketAddr::new(own.ip(), question.port.unwrap_or(own.port()))
}

/// The chain that has such a connection. When the port is left to us, one for requests is meant.
fn choose<'a>(
    listener: &'a Listener,
    question: &Question,
    destination: SocketAddr,
) -> Option<&'a Arc<FilterChain>> {
    let secured = question.peer.is_some() || question.server_name.is_some();
    let protocols: Vec<Box<str>> = match (&question.peer, secured) {
        (Some(_), _) => MESH.map(Into::into).into(),
        (None, true) => ["h2", "http/1.1"].map(Into::into).into(),
        (None, false) => ["http/1.1", "http/1.0"].map(Into::into).into(),
    };
    let told = Told {
        server_name: question.server_name.as_deref().unwrap_or_default(),
        transport: if secured { TLS } else { RAW },
        protocols: &protocols,
    };
    let source = SocketAddr::new(question.source, 0);
    let facts = Facts { destination, direct_source: source, source, told: Some(told) };
    let chosen = match listener.chains.choose(&facts) {
        Choice::Chain(chain) => Some(chain),
        Choice::Nothing | Choice::NeedsBytes => None,
    };
    if question.port.is_some() || chosen.is_some_and(|chain| chain.http().is_some()) {
        return chosen;
    }
    let for_requests = || listener.chains.iter().filter(|chain| chain.http().is_some());
    let fitting = for_requests().find(|chain| chain.security.is_some() == secured);
    fitting.or_else(|| for_requests().next()).or(chosen)
}

/// What proxies of the mesh offer.
const MESH: [&str; 6] = ["istio", "istio-peer-exchange", "istio-http/1.1", "istio-h2", "h2", "http/1.1"];

/// Makes the head what it is when routes and filters see it; tells the client's address.
fn canonical(
    http: &Http,
    question: &Question,
    destination: SocketAddr,
    head: &mut RequestHead,
) -> Result<IpAddr, PathError> {
    if question.peer.is_some() || question.server_name.is_some() {
        head.scheme = Scheme::Https;
    }
    if let Some(path) = prepare::canonical_path(http, &head.path)? {
        head.path = path;
    }
    prepare::canonical_host(http, head, destination.port());
    let peer = SocketAddr::new(question.source, 0);
    let caller = forwarded::identify(&http.forwarding, http.use_remote_address, head, peer, destination);
    if let Some(scheme) = http.scheme {
        head.scheme = scheme;
    }
    Ok(caller.address.unwrap_or(question.source))
}

fn decision(snapshot: &Snapshot, route: &Route, path: &PathAndQuery) -> Value {
    match &route.action {
        Action::Redirect(redirect) => json!({ "redirect": redirect.status.as_u16(), "from": path.as_str() }),
        Action::Direct(direct) => json!({ "direct_response": direct.status.as_u16() }),
        Action::Forward(forward) => {
            let clusters = match &forward.target {
                Target::Cluster(name) => vec![cluster(snapshot, name, 1, 1)],
                Target::Weighted { clusters, total } => clusters
                    .iter()
                    .map(|weighted| cluster(snapshot, &weighted.name, weighted.weight, *total))
                    .collect(),
                Target::Header(name) => vec![json!({ "named_by_header": &**name })],
            };
            json!({
                "clusters": clusters,
                "timeout_ms": forward.timeout.map(|timeout| timeout.as_millis() as u64),
                "retries": forward.retry.as_ref().map_or(0, |policy| policy.retries),
            })
        }
    }
}

fn cluster(snapshot: &Snapshot, name: &str, weight: u32, total: u32) -> Value {
    let endpoints = snapshot.clusters.get(name).map(|cluster| {
        let set = cluster.endpoints.load();
        set.all
            .iter()
            .map(|endpoint| json!({ "address": endpoint.address.to_string(), "available": endpoint.available }))
            .collect::<Vec<_>>()
    });
    json!({ "name": name, "share": f64::from(weight) / f64::from(total), "endpoints": endpoints })
}
