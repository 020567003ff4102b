//! The same decisions as a served request's, taken for a question (D4): nothing is sent.

use http::uri::PathAndQuery;
use serde_json::{Value, json};

use crate::message::RequestHead;
use crate::route::{Action, Target};
use crate::snapshot::Snapshot;

/// What the proxy would do with a request on a listener, step by step.
pub(crate) fn explain(snapshot: &Snapshot, listener: &str, head: &RequestHead, roll: u32) -> Value {
    let mut steps: Vec<String> = Vec::new();
    let Some(listener) = snapshot.listeners.get(listener) else {
        let known: Vec<_> = snapshot.listeners.keys().map(|name| name.to_string()).collect();
        return json!({ "error": format!("no listener {listener}"), "listeners": known });
    };
    let Some(http) = listener.chains.iter().find_map(|chain| chain.http()) else {
        return json!({ "listener": &*listener.name, "decision": "TCP: no request is looked at" });
    };
    let Some(table) = snapshot.routes.get(&http.routes) else {
        return json!({ "listener": &*listener.name, "decision": "no_route", "steps": ["the route table has not arrived"] });
    };
    let Some((host, route)) = table.select(head, roll, &mut steps) else {
        return json!({ "listener": &*listener.name, "route_table": &*table.name, "decision": "no_route", "steps": steps });
    };
    json!({
        "listener": &*listener.name,
        "route_table": &*table.name,
        "virtual_host": &*host.name,
        "route": &*route.name,
        "origin": route.origin.as_deref(),
        "decision": decision(snapshot, &route.action, &head.path),
        "steps": steps,
    })
}

fn decision(snapshot: &Snapshot, action: &Action, path: &PathAndQuery) -> Value {
    match action {
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
