//! `/config_dump`: the resources as they came, in the shape of `envoy.admin.v3.ConfigDump`, which istioctl and others read.

use http::StatusCode;
use regex::Regex;
use serde_json::{Map, Value, json};
use sidegate_xds::resource::ResourceType;

use super::Shared;
use super::query::Query;
use super::reply::{Reply, json, text};
use crate::compile::Entry;
use crate::telemetry::rfc3339;

/// One part of the dump: where resources of a kind stand in it.
struct Section {
    kind: ResourceType,
    /// `envoy.admin.v3.*`.
    message: &'static str,
    /// The field with those of the bootstrap.
    fixed: &'static str,
    /// The field with those of the control plane.
    dynamic: &'static str,
    /// What a resource is called within an entry.
    entry: &'static str,
}

const SECTIONS: [Section; 5] = [
    Section {
        kind: ResourceType::Cluster,
        message: "ClustersConfigDump",
        fixed: "static_clusters",
        dynamic: "dynamic_active_clusters",
        entry: "cluster",
    },
    Section {
        kind: ResourceType::Listener,
        message: "ListenersConfigDump",
        fixed: "static_listeners",
        dynamic: "dynamic_listeners",
        entry: "listener",
    },
    Section {
        kind: ResourceType::Route,
        message: "RoutesConfigDump",
        fixed: "static_route_configs",
        dynamic: "dynamic_route_configs",
        entry: "route_config",
    },
    Section {
        kind: ResourceType::Endpoint,
        message: "EndpointsConfigDump",
        fixed: "static_endpoint_configs",
        dynamic: "dynamic_endpoint_configs",
        entry: "endpoint_config",
    },
    Section {
        kind: ResourceType::Secret,
        message: "SecretsConfigDump",
        fixed: "static_secrets",
        dynamic: "dynamic_active_secrets",
        entry: "secret",
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
    let wanted = |entry: &Entry| names.as_ref().is_none_or(|names| names.is_match(&entry.name));
    let parts: Vec<Part> = SECTIONS
        .iter()
        .filter(|section| endpoints || section.kind != ResourceType::Endpoint)
        .map(|section| (section, (state.resources)(section.kind).into_iter().filter(wanted).collect()))
        .collect();
    let bodies = parts.iter().flat_map(|(_, entries)| entries).filter_map(|entry| entry.accepted.as_ref());
    let messages = std::iter::once(state.server.bootstrap.clone())
        .chain(bodies.map(|accepted| (*accepted.body).clone()))
        .collect();
    let rendered = match (state.render)(messages).await {
        Ok(Value::Array(rendered)) => rendered.into_iter().map(redacted).collect(),
        Ok(_) => return text(StatusCode::INTERNAL_SERVER_ERROR, "the dump came in no form that is known\n"),
        Err(error) => return text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    };
    json(StatusCode::OK, &shape(&parts, rendered, only))
}

/// Without private keys and passwords, whatever message they stand in.
fn redacted(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let secret = matches!(
                    name.as_str(),
                    "private_key" | "password" | "session_ticket_keys" | "generic_secret"
                );
                *field = if secret { hidden(field.take()) } else { redacted(field.take()) };
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = redacted(item.take())),
        _ => {}
    }
    value
}

/// Every text inside is gone, but where it came from.
fn hidden(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let hide = |(name, field): (String, Value)| {
                let place = matches!(
                    name.as_str(),
                    "filename" | "environment_variable" | "watched_directory" | "name"
                );
                let field = if place { field } else { hidden(field) };
                (name, field)
            };
            Value::Object(fields.into_iter().map(hide).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(hidden).collect()),
        _ => json!("[redacted]"),
    }
}

/// A section and what stands in it.
type Part = (&'static Section, Vec<Entry>);

/// Puts what was rendered (the bootstrap, then every body in force) where Envoy has it.
fn shape(parts: &[Part], rendered: Vec<Value>, only: Option<&str>) -> Value {
    let mut rendered = rendered.into_iter();
    let bootstrap = rendered.next();
    let mut configs = vec![json!({ "@type": type_url("BootstrapConfigDump"), "bootstrap": bootstrap })];
    let mut chosen = Vec::new();
    for (section, entries) in parts {
        let (mut fixed, mut dynamic) = (Vec::new(), Vec::new());
        for entry in entries {
            let list = if entry.fixed { &mut fixed } else { &mut dynamic };
            list.push(show(section, entry, &mut rendered));
        }
        if only == Some(section.fixed) {
            chosen = fixed;
        } else if only == Some(section.dynamic) {
            chosen = dynamic;
        } else {
            configs.push(json!({
                "@type": type_url(section.message),
                section.fixed: fixed,
                section.dynamic: dynamic,
            }));
        }
    }
    json!({ "configs": if only.is_some() { chosen } else { configs } })
}

fn type_url(message: &str) -> String {
    format!("type.googleapis.com/envoy.admin.v3.{message}")
}

fn show(section: &Section, resource: &Entry, rendered: &mut impl Iterator<Item = Value>) -> Value {
    let mut entry = Map::new();
    if let Some(accepted) = &resource.accepted {
        if !resource.fixed {
            entry.insert("version_info".into(), json!(accepted.version));
        }
        entry.insert(section.entry.into(), rendered.next().unwrap_or_default());
        entry.insert("last_updated".into(), json!(rfc3339(accepted.at)));
    }
    let error = resource.refused.as_ref().map(|refused| {
        json!({
            "details": refused.message,
            "last_update_attempt": rfc3339(refused.at),
            "version_info": refused.version,
        })
    });
    // A dynamic listener has states within; everything else is its own state.
    if section.kind == ResourceType::Listener && !resource.fixed {
        let active = (!entry.is_empty()).then_some(entry);
        entry = Map::from_iter([("name".to_owned(), json!(&*resource.name))]);
        entry.extend(active.map(|active| ("active_state".to_owned(), active.into())));
    } else if entry.is_empty() {
        entry.insert("name".into(), json!(&*resource.name));
    }
    entry.extend(error.map(|error| ("error_state".to_owned(), error)));
    entry.into()
}
