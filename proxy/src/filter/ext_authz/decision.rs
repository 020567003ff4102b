//! An answer of either kind of service → what it decides.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value};

use super::{ExternalAuthorization, HttpService, Service};
use crate::authorization::{
    Action, Changes, Decision, Denial, HeaderChange, MOST_HEADER_BYTES, MOST_HEADERS, decode, may_change,
};
use crate::error::Reason;
use crate::filter::{Answered, Predicate, Reply};
use crate::message::Headers;

/// What the service decides.
pub(super) fn of(filter: &ExternalAuthorization, answered: Answered) -> Decision {
    match &filter.service {
        Service::Grpc { .. } => grpc(&answered).unwrap_or_else(Decision::Failed),
        Service::Http(service) => http(service, answered).unwrap_or_else(Decision::Failed),
    }
}

fn grpc(answered: &Answered) -> Result<Decision, String> {
    if answered.head.status != StatusCode::OK {
        return Err(format!("the service answered {} instead of gRPC", answered.head.status));
    }
    let status = |headers: &Headers| headers.get_str("grpc-status").map(ToOwned::to_owned);
    match status(&answered.trailers).or_else(|| status(&answered.head.headers)).as_deref() {
        Some("0") => decode(&answered.body),
        Some(code) => Err(format!("the service failed with gRPC status {code}")),
        None => Err("the service's answer broke off: no grpc-status".to_owned()),
    }
}

fn http(service: &HttpService, answered: Answered) -> Result<Decision, String> {
    let status = answered.head.status;
    if status.is_server_error() {
        return Err(format!("the service failed with status {status}"));
    }
    let fields = fields(&answered.head.headers)?;
    if status == StatusCode::OK {
        return Ok(Decision::Allow(allow(service, &answered.head.headers, &fields)));
    }
    let to_client = |name: &HeaderName| match &service.client {
        None => true,
        Some(test) => ALWAYS.contains(&name.as_str()) || test.holds(name.as_str().as_bytes()),
    };
    let headers = fields.into_iter().filter(|(name, _)| to_client(name));
    let headers = headers.map(|(name, value)| HeaderChange { name, value, action: Action::Append }).collect();
    let detail = format!("the service denies it with status {status}");
    Ok(Decision::Deny(Denial { status, headers, body: answered.body, detail }))
}

/// Its headers that may be passed on at all.
fn fields(headers: &Headers) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut fields = Vec::new();
    let mut bytes = 0;
    for (name, value) in headers.iter() {
        bytes += name.len() + value.len();
        if fields.len() >= MOST_HEADERS || bytes > MOST_HEADER_BYTES {
            return Err("the service's answer has too many headers".to_owned());
        }
        // What cannot be a header has not come through the codec.
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
            continue;
        };
        if may_change(name.as_str()) {
            fields.push((name, value));
        }
    }
    Ok(fields)
}

fn allow(service: &HttpService, headers: &Headers, fields: &[(HeaderName, HeaderValue)]) -> Changes {
    let mut request: Vec<HeaderChange> =
        chosen(fields, service.upstream.as_ref(), Action::Overwrite).collect();
    // Repeated fields of the answer stay repeated: the first replaces, the others join it.
    for index in 1..request.len() {
        let (before, rest) = request.split_at_mut(index);
        if let Some(change) = rest.first_mut()
            && before.iter().any(|earlier| earlier.name == change.name)
        {
            change.action = Action::Append;
        }
    }
    request.extend(chosen(fields, service.upstream_append.as_ref(), Action::Append));
    let removals = headers.get_all(REMOVE).filter_map(|value| std::str::from_utf8(value).ok());
    let removals = removals.flat_map(|list| list.split(',')).map(|name| name.trim().to_ascii_lowercase());
    let metadata: Map<String, Value> = chosen(fields, service.metadata.as_ref(), Action::Append)
        .map(|change| {
            let value = String::from_utf8_lossy(change.value.as_bytes()).into_owned();
            (change.name.as_str().to_owned(), Value::String(value))
        })
        .collect();
    Changes {
        headers: request,
        remove: removals.filter(|name| may_change(name)).collect(),
        response_headers: chosen(fields, service.client_on_success.as_ref(), Action::Append).collect(),
        metadata: (!metadata.is_empty()).then_some(Value::Object(metadata)),
        ..Changes::default()
    }
}

/// The fields whose names pass the test.
fn chosen<'a>(
    fields: &'a [(HeaderName, HeaderValue)],
    test: Option<&'a Predicate<[u8]>>,
    action: Action,
) -> impl Iterator<Item = HeaderChange> + 'a {
    let wanted = move |name: &HeaderName| test.is_some_and(|test| test.holds(name.as_str().as_bytes()));
    let fields = fields.iter().filter(move |(name, _)| wanted(name));
    fields.map(move |(name, value)| HeaderChange { name: name.clone(), value: value.clone(), action })
}

/// The service's own response to the client.
pub(super) fn reply(denial: Denial, most: usize) -> (Reply, Bytes) {
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for change in denial.headers {
        if change.action != Action::Append {
            headers.retain(|(name, _)| *name != change.name);
        }
        headers.push((change.name, change.value));
    }
    let mut body = denial.body;
    body.truncate(most);
    let detail = Some(denial.detail);
    (Reply { reason: Reason::ExternalDenial, status: denial.status, headers, detail }, body)
}

/// What always goes along with a denial.
const ALWAYS: [&str; 2] = ["www-authenticate", "location"];
/// By this header the service says which request headers to take off.
const REMOVE: &str = "x-envoy-auth-headers-to-remove";
