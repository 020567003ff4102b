//! `CheckResponse` in a gRPC message → [`Decision`].

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use prost::Message as _;
use serde_json::{Map, Value};
use sidegate_xds::envoy::config::core::v3 as core;
use sidegate_xds::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use sidegate_xds::envoy::service::auth::v3 as wire;
use sidegate_xds::google::protobuf;
use wire::check_response::HttpResponse;

use super::{
    Action, Changes, Decision, Denial, HeaderChange, MOST_BODY, MOST_HEADER_BYTES, MOST_HEADERS, may_change,
};

/// Reads the message, its five bytes of gRPC included.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn decode(message: &[u8]) -> Result<Decision, String> {
    let (flag, rest) = message.split_first().ok_or("the answer is empty")?;
    let (length, rest) = rest.split_at_checked(4).ok_or("the answer breaks off")?;
    let length = length.iter().fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
    if *flag != 0 {
        return Err("the answer is compressed, which nobody asked for".to_owned());
    }
    if rest.len() != length {
        return Err(format!("the answer has {} bytes instead of {length}", rest.len()));
    }
    let response = wire::CheckResponse::decode(rest).map_err(|error| error.to_string())?;
    decision(response)
}

fn decision(response: wire::CheckResponse) -> Result<Decision, String> {
    // Some message or other that happens to be readable must not count as consent.
    let status = response.status.ok_or("the answer has no status")?;
    let metadata = response.dynamic_metadata.map(|fields| object(&fields));
    match (status.code, response.http_response) {
        (_, Some(HttpResponse::ErrorResponse(_))) => {
            Ok(Decision::Failed(format!("the service says that it failed: {}", said(&status.message))))
        }
        (0, Some(HttpResponse::OkResponse(ok))) => allow(ok, metadata),
        (0, None) => Ok(Decision::Allow(Changes { metadata, ..Changes::default() })),
        (0, Some(HttpResponse::DeniedResponse(_))) => Err("the answer says OK and denies in one".to_owned()),
        (code, Some(HttpResponse::DeniedResponse(denied))) => deny(denied, code, &status.message),
        // Whatever goes with it, it is not OK.
        (code, _) => deny(wire::DeniedHttpResponse::default(), code, &status.message),
    }
}

#[allow(deprecated, reason = "services still set the older field")]
fn allow(ok: wire::OkHttpResponse, metadata: Option<Value>) -> Result<Decision, String> {
    let mut remove = Vec::new();
    for name in ok.headers_to_remove {
        let name = name.to_ascii_lowercase();
        if may_change(&name) {
            remove.push(name);
        }
    }
    let parameters = ok.query_parameters_to_set.into_iter();
    let metadata = metadata.or_else(|| ok.dynamic_metadata.as_ref().map(object));
    Ok(Decision::Allow(Changes {
        headers: changes(&ok.headers)?,
        remove,
        response_headers: changes(&ok.response_headers_to_add)?,
        set_query: parameters.map(|parameter| (parameter.key, parameter.value)).collect(),
        remove_query: ok.query_parameters_to_remove,
        metadata,
    }))
}

fn deny(denied: wire::DeniedHttpResponse, code: i32, message: &str) -> Result<Decision, String> {
    let status = match denied.status.as_ref().map(|status| status.code) {
        None | Some(0) => StatusCode::FORBIDDEN,
        Some(code) => u16::try_from(code)
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok())
            .filter(|status| (200..600).contains(&status.as_u16()))
            .ok_or_else(|| format!("the answer's status is {code}"))?,
    };
    let mut body = Bytes::from(denied.body);
    body.truncate(MOST_BODY);
    let detail = format!("the service denies it: gRPC status {code} {}", said(message));
    Ok(Decision::Deny(Denial { status, headers: changes(&denied.headers)?, body, detail }))
}

/// Checked header fields. One that cannot be written makes the whole answer doubtful; one that may not be changed is left out.
fn changes(options: &[core::HeaderValueOption]) -> Result<Vec<HeaderChange>, String> {
    if options.len() > MOST_HEADERS {
        return Err(format!("the answer has more than {MOST_HEADERS} headers"));
    }
    let mut changes = Vec::with_capacity(options.len());
    let mut bytes = 0;
    for option in options {
        let Some(header) = &option.header else { continue };
        if !may_change(&header.key.to_ascii_lowercase()) {
            continue;
        }
        let value =
            if header.raw_value.is_empty() { header.value.as_bytes() } else { header.raw_value.as_slice() };
        bytes += header.key.len() + value.len();
        if bytes > MOST_HEADER_BYTES {
            return Err(format!("the answer's headers are longer than {MOST_HEADER_BYTES} bytes"));
        }
        let wrong = || format!("the answer's header {:?} cannot be written", said(&header.key));
        let name: HeaderName = header.key.parse().map_err(|_| wrong())?;
        let value = HeaderValue::from_bytes(value).map_err(|_| wrong())?;
        changes.push(HeaderChange { name, value, action: action(option) });
    }
    Ok(changes)
}

/// Here, and only here, fields are replaced when nothing is said.
#[allow(deprecated, reason = "services still set the older field")]
fn action(option: &core::HeaderValueOption) -> Action {
    match (&option.append, option.append_action()) {
        (Some(append), _) if append.value => Action::Append,
        (Some(_), _) | (None, HeaderAppendAction::AppendIfExistsOrAdd) => Action::Overwrite,
        (None, HeaderAppendAction::AddIfAbsent) => Action::AddIfAbsent,
        (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => Action::Overwrite,
        (None, HeaderAppendAction::OverwriteIfExists) => Action::OverwriteIfExists,
    }
}

/// Words of the service's, as far as a log may have them.
fn said(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(200).collect()
}

fn object(fields: &protobuf::Struct) -> Value {
    let fields: Map<String, Value> =
        fields.fields.iter().map(|(name, value)| (name.clone(), plain(value))).collect();
    Value::Object(fields)
}

fn plain(value: &protobuf::Value) -> Value {
    use protobuf::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(truth)) => Value::Bool(*truth),
        Some(Kind::NumberValue(number)) => Value::from(*number),
        Some(Kind::StringValue(text)) => Value::from(text.as_str()),
        Some(Kind::ListValue(list)) => list.values.iter().map(plain).collect(),
        Some(Kind::StructValue(fields)) => object(fields),
    }
}
