//! `/config_dump`: the resources as they came, in the shape of `envoy.admin.v3.ConfigDump`, which istioctl and others read.

use http::StatusCode;
use regex::Regex;
use serde_json::{Map, Value, json};
use sidegate_xds::google::protobuf::Any;

use super::query::Query;
use super::reply::{Reply, json, text};
use super::{Kind, Resource, Shared};
use crate::telemetry::rfc3339;

/// One part of the dump: where resources of a kind stand in it.
struct Section {
    kind: Kind,
    /// `envoy.admin.v3.*`.
    message: &'static str,
    /// The field with those of the bootstrap.
    fixed: &'static str,
    /// The field with those of the control plane.
    dynamic: &'static str,
    /// What a resource is called within an entry.
    entry: &'static str,
}

const SECTIONS: [Section; 4] = [
    Section {
        kind: Kind::Cluster,
        message: "ClustersConfigDump",
        fixed: "static_clusters",
        dynamic: "dynamic_active_clusters",
        entry: "cluster",
    },
    Section {
        kind: Kind::Listener,
        message: "ListenersConfigDump",
        fixed: "static_listeners",
        dynamic: "dynamic_listeners",
        entry: "listener",
    },
    Section {
        kind: Kind::Route,
        message: "RoutesConfigDump",
        fixed: "static_route_configs",
        dynamic: "dynamic_route_configs",
        entry: "route_config",
    },
    Section {
        kind: Kind::Endpoint,
        message: "EndpointsConfigDump",
        fixed: "static_endpoint_configs",
        dynamic: "dynamic_endpoint_configs",
        entry: "endpoint_config",
    },
];

pub(super) async fn answer(state: &Shared, query: &Query) -> Reply {
    let names = match query.get("name_regex").map(Regex::new).transpose() {
        Ok(names) => names,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("name_regex: {error}\n")),
    };
    let only = query.get("resource");
    let known =
        |field: &str| SECTIONS.iter().any(|section| field == section.fixed || field == section.dynamic);
    if let Some(field) = only.filter(|field| !known(field)) {
        let fields = SECTIONS.iter().flat_map(|section| [section.fixed, section.dynamic]);
        let fields = fields.collect::<Vec<_>>().join(", ");
        return text(
            StatusCode::BAD_REQUEST,
            format!("{field} not found in config dump; there are: {fields}\n"),
        );
    }
    let endpoints =
        query.get("include_eds").is_some() || only.is_some_and(|field| field.contains("endpoint"));
    let mut resources = (state.resources)();
    resources.retain(|resource| {
        (endpoints || resource.kind != Kind::Endpoint)
            && names.as_ref().is_none_or(|names| names.is_match(&resource.name))
    });
    let mut messages = vec![state.server.bootstrap.clone()];
    messages.extend(bodies(&resources));
    let rendered = match (state.render)(messages).await {
        Ok(Value::Array(rendered)) => rendered,
        Ok(_) => return text(StatusCode::INTERNAL_SERVER_ERROR, "the dump came in no form that is known\n"),
        Err(error) => return text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    };
    json(StatusCode::OK, &shape(&resources, rendered, only, endpoints))
}

/// The bodies that are in force, in order.
fn bodies(resources: &[Resource]) -> impl Iterator<Item = Any> {
    resources
        .iter()
        .filter_map(|resource| resource.accepted.as_ref())
        .map(|accepted| (*accepted.body).clone())
}

/// Puts what was rendered (the bootstrap, then [`bodies`]) where Envoy has it.
fn shape(resources: &[Resource], rendered: Vec<Value>, only: Option<&str>, endpoints: bool) -> Value {
    let mut rendered = rendered.into_iter();
    let bootstrap = rendered.next();
    let entries: Vec<(&Resource, Value)> =
        resources.iter().map(|resource| (resource, entry(resource, &mut rendered))).collect();
    let of = |section: &Section, fixed: bool| -> Vec<Value> {
        let wanted = |resource: &Resource| resource.kind == section.kind && resource.fixed == fixed;
        entries.iter().filter(|(resource, _)| wanted(resource)).map(|(_, entry)| entry.clone()).collect()
    };
    if let Some(field) = only {
        let lists = SECTIONS
            .iter()
            .flat_map(|section| [(section.fixed, section, true), (section.dynamic, section, false)]);
        let configs: Vec<Value> = lists
            .filter(|(name, ..)| *name == field)
            .flat_map(|(_, section, fixed)| of(section, fixed))
            .collect();
        return json!({ "configs": configs });
    }
    let mut configs = vec![json!({ "@type": type_url("BootstrapConfigDump"), "bootstrap": bootstrap })];
    for section in SECTIONS.iter().filter(|section| endpoints || section.kind != Kind::Endpoint) {
        configs.push(json!({
            "@type": type_url(section.message),
            section.fixed: of(section, true),
            section.dynamic: of(section, false),
        }));
    }
    json!({ "configs": configs })
}

fn type_url(message: &str) -> String {
    format!("type.googleapis.com/envoy.admin.v3.{message}")
}

fn entry(resource: &Resource, rendered: &mut impl Iterator<Item = Value>) -> Value {
    let section = SECTIONS.iter().find(|section| section.kind == resource.kind);
    let name = section.map_or("resource", |section| section.entry);
    let mut entry = Map::new();
    if let Some(accepted) = &resource.accepted {
        entry.insert("version_info".into(), json!(accepted.version));
        entry.insert(name.into(), rendered.next().unwrap_or_default());
        entry.insert("last_updated".into(), json!(rfc3339(accepted.at)));
    }
    if resource.fixed {
        entry.remove("version_info");
        return entry.into();
    }
    let error = resource.refused.as_ref().map(|refused| {
        json!({
            "details": refused.message,
            "last_update_attempt": rfc3339(refused.at),
            "version_info": refused.version,
        })
    });
    // A dynamic listener has states within; everything else is its own state.
    if resource.kind == Kind::Listener {
        let active = (!entry.is_empty()).then_some(entry);
        entry = Map::from_iter([("name".to_owned(), json!(&*resource.name))]);
        entry.extend(active.map(|active| ("active_state".to_owned(), active.into())));
    } else if entry.is_empty() {
        entry.insert("name".into(), json!(&*resource.name));
    }
    entry.extend(error.map(|error| ("error_state".to_owned(), error)));
    entry.into()
}
