//! What is in force now: `/server_info`, `/listeners`, `/clusters`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;
use serde_json::{Value, json};
use sidegate_xds::resource::ResourceType;

use super::State;
use super::query::Query;
use super::reply::{Reply, json, text};
use crate::cluster::{Cluster, Discovery, Endpoint};

/// `envoy.admin.v3.ServerInfo`.
pub(super) fn server_info(state: &State) -> Value {
    let uptime = format!("{}s", state.server.started.elapsed().as_secs());
    json!({
        "version": format!("sidegate/{}", env!("CARGO_PKG_VERSION")),
        "state": state.condition().0,
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "command_line_options": {
            "concurrency": state.server.concurrency,
            "config_path": state.server.source,
            "mode": "Serve",
            "log_level": (state.level)().to_string(),
        },
        "node": { "id": state.server.node_id, "cluster": state.server.node_cluster },
    })
}

/// `envoy.admin.v3.Listeners`.
pub(super) fn listeners(state: &State, query: &Query) -> Reply {
    let snapshot = state.snapshots.current();
    let mut listeners: Vec<_> = snapshot.listeners.values().collect();
    listeners.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    if query.get("format") == Some("json") {
        let statuses = listeners.iter().map(|listener| {
            let mut addresses = listener.addresses.iter().map(|address| socket_address(*address));
            json!({
                "name": &*listener.name,
                "local_address": addresses.next(),
                "additional_local_addresses": addresses.collect::<Vec<_>>(),
            })
        });
        return json(StatusCode::OK, &json!({ "listener_statuses": statuses.collect::<Vec<_>>() }));
    }
    let lines = listeners.iter().flat_map(|listener| {
        listener.addresses.iter().map(|address| format!("{}::{address}\n", listener.name))
    });
    text(StatusCode::OK, lines.collect::<String>())
}

/// `envoy.admin.v3.Clusters`.
pub(super) fn clusters(state: &State, query: &Query) -> Reply {
    let snapshot = state.snapshots.current();
    let mut clusters: Vec<_> = snapshot.clusters.values().collect();
    clusters.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    let entries = (state.resources)(ResourceType::Cluster);
    let fixed: BTreeSet<Arc<str>> =
        entries.into_iter().filter(|entry| entry.fixed).map(|entry| entry.name).collect();
    if query.get("format") == Some("json") {
        let statuses = clusters.iter().map(|cluster| cluster_json(cluster, fixed.contains(&*cluster.name)));
        return json(StatusCode::OK, &json!({ "cluster_statuses": statuses.collect::<Vec<_>>() }));
    }
    let mut page = String::new();
    for cluster in clusters {
        // Writing to a String does not fail.
        let _ = cluster_text(cluster, fixed.contains(&*cluster.name), &mut page);
    }
    text(StatusCode::OK, page)
}

fn cluster_text(cluster: &Cluster, fixed: bool, page: &mut String) -> std::fmt::Result {
    let (name, limits, live) = (&cluster.name, &cluster.limits, &cluster.live);
    writeln!(page, "{name}::observability_name::{name}")?;
    writeln!(page, "{name}::default_priority::max_connections::{}", limits.connections)?;
    writeln!(page, "{name}::default_priority::max_pending_requests::{}", limits.pending)?;
    writeln!(page, "{name}::default_priority::max_requests::{}", limits.requests)?;
    writeln!(page, "{name}::default_priority::max_retries::{}", limits.retries)?;
    if let Some((percent, minimum)) = limits.retry_budget {
        writeln!(page, "{name}::default_priority::retry_budget_percent::{percent}")?;
        writeln!(page, "{name}::default_priority::min_retry_concurrency::{minimum}")?;
    }
    writeln!(page, "{name}::added_via_api::{}", !fixed)?;
    if let Discovery::Eds(service) = &cluster.discovery {
        writeln!(page, "{name}::eds_service_name::{service}")?;
    }
    writeln!(page, "{name}::cx_active::{}", live.connections.load(Relaxed))?;
    writeln!(page, "{name}::rq_active::{}", live.requests.load(Relaxed))?;
    for endpoint in &cluster.endpoints.load().all {
        let address = endpoint.address;
        let health = if endpoint.available { "healthy" } else { "/failed_eds_health" };
        writeln!(page, "{name}::{address}::rq_active::{}", endpoint.in_flight.load(Relaxed))?;
        writeln!(page, "{name}::{address}::hostname::{}", endpoint.hostname.as_deref().unwrap_or_default())?;
        writeln!(page, "{name}::{address}::health_flags::{health}")?;
        writeln!(page, "{name}::{address}::weight::{}", endpoint.weight)?;
        writeln!(page, "{name}::{address}::transport_socket::{}", cluster.sockets.name_of(endpoint))?;
        if let Some(origin) = &endpoint.origin {
            writeln!(page, "{name}::{address}::workload::{}/{}", origin.namespace, origin.workload)?;
            writeln!(page, "{name}::{address}::pod::{}", origin.pod)?;
        }
    }
    Ok(())
}

fn cluster_json(cluster: &Cluster, fixed: bool) -> Value {
    let limits = &cluster.limits;
    let service = match &cluster.discovery {
        Discovery::Eds(service) => Some(&**service),
        _ => None,
    };
    let endpoints = cluster.endpoints.load();
    json!({
        "name": &*cluster.name,
        "observability_name": &*cluster.name,
        "added_via_api": !fixed,
        "eds_service_name": service,
        "circuit_breakers": { "thresholds": [{
            "max_connections": limits.connections,
            "max_pending_requests": limits.pending,
            "max_requests": limits.requests,
            "max_retries": limits.retries,
        }] },
        "host_statuses": endpoints.all.iter().map(|endpoint| endpoint_json(cluster, endpoint)).collect::<Vec<_>>(),
    })
}

fn endpoint_json(cluster: &Cluster, endpoint: &Endpoint) -> Value {
    let health = if endpoint.available { "HEALTHY" } else { "UNHEALTHY" };
    let origin = endpoint.origin.as_ref().map(|origin| {
        json!({
            "workload": &*origin.workload,
            "namespace": &*origin.namespace,
            "service_account": &*origin.service_account,
            "pod": &*origin.pod,
        })
    });
    json!({
        "address": socket_address(endpoint.address),
        "hostname": endpoint.hostname.as_deref(),
        "weight": endpoint.weight,
        "health_status": { "eds_health_status": health },
        "stats": [{ "name": "rq_active", "type": "GAUGE", "value": endpoint.in_flight.load(Relaxed).to_string() }],
        "sidegate": origin,
        "transport_socket": cluster.sockets.name_of(endpoint),
    })
}

fn socket_address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}
