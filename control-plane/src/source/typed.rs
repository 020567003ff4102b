//! One loosely parsed object → the type that Kubernetes publishes for its kind, with everything that is wrong with it.
//!
//! The same for every source. Before it: a document became a tree of values. After it: an [`Object`], or nothing, and
//! a list of [`Problem`]s that name their fields.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::validate::{self, Problem, path};
use crate::model::{Kind, Object};

/// What became of one object.
#[derive(Debug, Default)]
pub struct Read {
    /// The object, unless a problem refuses it.
    pub object: Option<Object>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// Reads an object whose kind is known. A field of the wrong name or type, or with a value that the kind does
/// not allow, refuses the object: half of what somebody meant is not what they meant.
pub fn read(kind: Kind, mut value: Value) -> Read {
    let mut problems = prepare(kind, &mut value);
    let mut unknown = Vec::new();
    let object = match parse(kind, &value, &mut unknown) {
        Ok(object) => Some(object),
        Err(problem) => {
            problems.push(problem);
            None
        }
    };
    problems.extend(
        unknown
            .into_iter()
            .map(|field| Problem::refused(field, "unknown field: check its spelling and its place")),
    );
    if object.is_some() {
        problems.extend(validate::check(kind, &value));
    }
    let refused = problems.iter().any(|problem| problem.refuses);
    bound(&mut problems);
    Read { object: object.filter(|_| !refused), problems }
}

/// Brings the object into the form that the published types expect and takes out what is not for us to read.
fn prepare(kind: Kind, value: &mut Value) -> Vec<Problem> {
    let Some(object) = value.as_object_mut() else { return Vec::new() };
    // The caller has read them, and the types of the Gateway API do not have them.
    object.remove("apiVersion");
    object.remove("kind");
    // Status is what controllers write; a manifest copied from a cluster carries it. Only a Pod's says something that
    // we read: its address.
    if kind != Kind::Pod {
        object.remove("status");
    }
    match kind {
        Kind::Pod => quantities_to_text(object),
        Kind::Secret => merge_string_data(object),
        _ => {}
    }
    validate::annotations::check(kind, object)
}

/// `cpu: 1` is fine for the API server; the published type only takes `cpu: "1"`.
fn quantities_to_text(tree: &mut Map<String, Value>) {
    for (key, child) in tree.iter_mut() {
        match child {
            Value::Object(quantities) if matches!(key.as_str(), "limits" | "requests" | "overhead") => {
                quantities.values_mut().for_each(number_to_text);
            }
            Value::Number(_) if matches!(key.as_str(), "sizeLimit" | "divisor") => number_to_text(child),
            Value::Object(child) => quantities_to_text(child),
            Value::Array(items) => {
                items.iter_mut().filter_map(Value::as_object_mut).for_each(quantities_to_text);
            }
            _ => {}
        }
    }
}

fn number_to_text(value: &mut Value) {
    if let Value::Number(number) = value {
        *value = Value::String(number.to_string());
    }
}

/// The API server turns `stringData` into `data` when it stores a Secret; a folder has nobody else to do it.
fn merge_string_data(secret: &mut Map<String, Value>) {
    let Some(Value::Object(plain)) = secret.get("stringData") else { return };
    if plain.values().any(|value| !value.is_string()) {
        return; // the typed parse names the wrong one
    }
    let encoded: Vec<(String, Value)> = plain
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), Value::String(base64(value.as_str()?.as_bytes())))))
        .collect();
    match secret.entry("data").or_insert_with(|| Value::Object(Map::new())) {
        Value::Object(data) => data.extend(encoded),
        empty @ Value::Null => *empty = Value::Object(encoded.into_iter().collect()),
        _ => return, // the typed parse names it
    }
    secret.remove("stringData");
}

/// Standard base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let sextet = (group >> (18 - 6 * position)) & 63;
            text.push(if position <= chunk.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    text
}

fn parse(kind: Kind, value: &Value, unknown: &mut Vec<String>) -> Result<Object, Problem> {
    let object = match kind {
        Kind::Namespace => Object::Namespace(published(value, unknown)?),
        Kind::Service => Object::Service(published(value, unknown)?),
        Kind::EndpointSlice => Object::EndpointSlice(published(value, unknown)?),
        Kind::Pod => Object::Pod(published(value, unknown)?),
        Kind::ServiceAccount => Object::ServiceAccount(published(value, unknown)?),
        Kind::Secret => Object::Secret(published(value, unknown).map_err(without_content)?),
        Kind::ConfigMap => Object::ConfigMap(published(value, unknown)?),
        Kind::GatewayClass => Object::GatewayClass(published(value, unknown)?),
        Kind::Gateway => Object::Gateway(published(value, unknown)?),
        Kind::HttpRoute => Object::HttpRoute(published(value, unknown)?),
        Kind::GrpcRoute => Object::GrpcRoute(published(value, unknown)?),
        Kind::ReferenceGrant => Object::ReferenceGrant(published(value, unknown)?),
        Kind::RateLimitPolicy => Object::RateLimitPolicy(published(value, unknown)?),
        Kind::BackendPolicy => Object::BackendPolicy(published(value, unknown)?),
        Kind::AuthorizationPolicy => Object::AuthorizationPolicy(published(value, unknown)?),
        Kind::JwtPolicy => Object::JwtPolicy(published(value, unknown)?),
        Kind::ExternalAuthorizationPolicy => Object::ExternalAuthorizationPolicy(published(value, unknown)?),
        Kind::MeshTlsPolicy => Object::MeshTlsPolicy(published(value, unknown)?),
    };
    Ok(object)
}

/// A published type by serde, with the paths of the fields that it does not know.
fn published<T: DeserializeOwned>(value: &Value, unknown: &mut Vec<String>) -> Result<Arc<T>, Problem> {
    let mut note = |field: serde_ignored::Path<'_>| unknown.push(path::of_ignored(&field));
    let mut track = serde_path_to_error::Track::new();
    let ignored = serde_ignored::Deserializer::new(value, &mut note);
    let tracked = serde_path_to_error::Deserializer::new(ignored, &mut track);
    T::deserialize(tracked).map(Arc::new).map_err(|error| {
        let message = error.to_string();
        let field = path::of_error(&track.path());
        match message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
            Some(missing) => Problem::refused(path::join(&field, missing), "required, and not there"),
            None => Problem::refused(field, bounded(&in_plain_words(&message))),
        }
    })
}

/// serde names Rust's types; who writes a manifest need not know them.
fn in_plain_words(message: &str) -> String {
    let words =
        [("i32", "a whole number"), ("i64", "a whole number"), ("u32", "a whole number, not negative")];
    let typed = words.iter().find_map(|(kind, words)| Some((message.strip_suffix(kind)?, words)));
    match typed {
        Some((start, words)) => format!("{start}{words}"),
        None => message.replace("expected a sequence", "expected a list"),
    }
}

/// serde quotes the value it did not like: of a Secret, nothing may be quoted.
fn without_content(problem: Problem) -> Problem {
    let message =
        "wrong type, or not base64 (the value is not shown); data takes base64, stringData plain text";
    if problem.message.starts_with("required") {
        problem
    } else {
        Problem { message: message.to_owned(), ..problem }
    }
}

/// A value that somebody pasted in the wrong place can be long.
fn bounded(message: &str) -> String {
    const LONGEST: usize = 300;
    if message.len() <= LONGEST {
        return message.to_owned();
    }
    let head: String = message.chars().take(LONGEST).collect();
    format!("{head}…")
}

/// Keeps the first problems of an object: after these, more do not help.
fn bound(problems: &mut Vec<Problem>) {
    const MOST: usize = 20;
    if problems.len() > MOST {
        let more = problems.len() - MOST;
        // What refuses the object must not be cut away by what only leaves out a field.
        problems.sort_by_key(|problem| !problem.refuses);
        problems.truncate(MOST);
        let message = format!("and {more} more problems in this object");
        problems.push(Problem { field: None, message, refuses: false });
    }
}

#[cfg(test)]
mod tests;
