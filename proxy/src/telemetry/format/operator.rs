//! The operators: what each is called, and what it prints of a [`Record`].

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use super::time::{self, TimeFormat};
use super::{FormatError, VALUE_LIMIT};
use crate::error::Reason;
use crate::telemetry::flight::reason_id_text;
use crate::telemetry::record::Record;

mod tls;

/// An operator where it stands in a format.
#[derive(Debug)]
pub(super) struct Field {
    operator: Operator,
    /// `:Z`: bytes at most.
    limit: usize,
}

/// What an operator gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Missing,
    Number(u64),
    Text(&'a [u8]),
}

/// Room for values that are made rather than found.
pub(super) type Scratch = Vec<u8>;

#[derive(Debug)]
enum Operator {
    /// Known, but nothing here has such a value: always `-`.
    Nothing,
    /// Known when the format is read.
    Constant(Box<str>),
    StartTime(Option<TimeFormat>),
    /// `REQ(X?Y)`.
    Request(HeaderSource, Option<HeaderSource>),
    /// `RESP(X?Y)`.
    Response(HeaderSource, Option<HeaderSource>),
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    BytesReceived,
    BytesSent,
    /// Milliseconds of the whole exchange.
    Duration,
    /// Until the request's last byte.
    RequestDuration,
    /// Until the response's first byte from the upstream.
    ResponseDuration,
    /// From there to the end.
    ResponseTxDuration,
    Address(Place, Show),
    UpstreamCluster,
    UpstreamAttempts,
    RouteName,
    GrpcStatus(GrpcForm),
    TraceId,
    /// `STREAM_ID`: the request id, as in Envoy.
    RequestId,
    /// Ours: the [`crate::error::Reason`]'s label.
    Reason,
    /// Ours: the id for `/why`.
    ReasonId,
    /// Ours: the free text with the reason.
    Detail,
    /// Ours: the Kubernetes object behind the route.
    RouteOrigin,
    /// Of the client's TLS session.
    Tls(tls::Fact),
}

#[derive(Debug)]
enum HeaderSource {
    Method,
    Authority,
    Path,
    Status,
    RequestId,
    UpstreamServiceTime,
    Named(Arc<str>),
    Nothing,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Peer,
    Local,
    Upstream,
}

#[derive(Clone, Copy, Debug)]
enum Show {
    Both,
    Host,
    Port,
}

#[derive(Clone, Copy, Debug)]
enum GrpcForm {
    Number,
    Camel,
    Snake,
}

impl Field {
    /// Parses what follows a `%`, up to and with the closing one; `None` when it is no operator at all.
    pub(super) fn parse(text: &str) -> Result<Option<(Self, &str)>, FormatError> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let name_end = text.bytes().position(|byte| !is_name(byte)).unwrap_or(text.len());
        let (name, mut rest) = text.split_at(name_end);
        if name.is_empty() {
            return Ok(None);
        }
        let mut argument = None;
        if let Some(after) = rest.strip_prefix('(') {
            let Some((inside, after)) = after.split_once(')') else {
                return Err(bad(name, "the parenthesis is not closed"));
            };
            argument = Some(inside);
            rest = after;
        }
        let mut limit = VALUE_LIMIT;
        if let Some(after) = rest.strip_prefix(':') {
            let end = after.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(after.len());
            let digits = after.get(..end).unwrap_or_default();
            limit = digits.parse().map_err(|_| bad(name, "the length after `:` is not a number"))?;
            rest = after.get(end..).unwrap_or_default();
        }
        let Some(rest) = rest.strip_prefix('%') else {
            return if argument.is_some() || rest.is_empty() {
                Err(bad(name, "the closing `%` is missing"))
            } else {
                Ok(None)
            };
        };
        let operator = Operator::parse(name, argument)?;
        Ok(Some((Self { operator, limit: limit.min(VALUE_LIMIT) }, rest)))
    }

    /// The value's bytes as far as the limit goes.
    pub(super) fn cut<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(..self.limit).unwrap_or(bytes)
    }

    /// Adds the headers it prints, those that are not elsewhere in the record.
    pub(super) fn wanted_headers(&self, request: &mut Vec<Arc<str>>, response: &mut Vec<Arc<str>>) {
        let (names, first, second) = match &self.operator {
            Operator::Request(first, second) => (request, first, second),
            Operator::Response(first, second) => (response, first, second),
            _ => return,
        };
        for source in [Some(first), second.as_ref()].into_iter().flatten() {
            if let HeaderSource::Named(name) = source {
                names.push(name.clone());
            }
        }
    }

    pub(super) fn value<'a>(&'a self, record: &'a Record, scratch: &'a mut Scratch) -> Value<'a> {
        let millis = |duration: std::time::Duration| Value::Number(clamp(duration.as_millis()));
        match &self.operator {
            Operator::Nothing => Value::Missing,
            Operator::Constant(text) => Value::Text(text.as_bytes()),
            Operator::StartTime(format) => {
                match format {
                    Some(format) => format.write(record.start_wall, scratch),
                    None => time::write_rfc3339(record.start_wall, scratch),
                }
                Value::Text(scratch)
            }
            Operator::Request(first, second) | Operator::Response(first, second) => {
                let headers = match &self.operator {
                    Operator::Request(..) => &record.request_headers,
                    _ => &record.response_headers,
                };
                let second = second.as_ref();
                match first.value(record, headers) {
                    Value::Missing => second.map_or(Value::Missing, |second| second.value(record, headers)),
                    value => value,
                }
            }
            Operator::Protocol => Value::Text(record.version.as_str().as_bytes()),
            Operator::ResponseCode => Value::Number(record.status.map_or(0, |status| status.as_u16().into())),
            Operator::ResponseCodeDetails => details(record),
            Operator::ResponseFlags => optional(Some(record.reason.map_or("-", |reason| reason.flag()))),
            Operator::BytesReceived => Value::Number(record.bytes_received),
            Operator::BytesSent => Value::Number(record.bytes_sent),
            Operator::Duration => millis(record.duration),
            Operator::RequestDuration => record.request_time.map_or(Value::Missing, millis),
            Operator::ResponseDuration => record.upstream_time.map_or(Value::Missing, millis),
            Operator::ResponseTxDuration => record
                .upstream_time
                .map_or(Value::Missing, |time| millis(record.duration.saturating_sub(time))),
            Operator::Address(place, show) => address(*place, *show, record, scratch),
            Operator::UpstreamCluster => optional(record.cluster.as_ref().map(|cluster| &*cluster.name)),
            Operator::UpstreamAttempts => Value::Number(record.attempts.into()),
            Operator::RouteName => optional(record.route.as_deref()),
            Operator::GrpcStatus(form) => grpc_status(*form, record),
            Operator::TraceId => match record.trace_id {
                Some(id) => print(scratch, format_args!("{id:032x}")),
                None => Value::Missing,
            },
            Operator::RequestId => HeaderSource::RequestId.value(record, &[]),
            Operator::Reason => optional(record.reason.map(|reason| reason.label())),
            Operator::ReasonId => match record.reason_id {
                Some(id) => print(scratch, format_args!("{}", reason_id_text(id))),
                None => Value::Missing,
            },
            Operator::Detail => optional(record.detail.as_deref()),
            Operator::RouteOrigin => optional(record.origin.as_deref()),
            Operator::Tls(fact) => fact.value(record, scratch),
        }
    }
}

/// `%RESPONSE_CODE_DETAILS%`.
fn details(record: &Record) -> Value<'_> {
    match (record.reason, record.status) {
        // Its first word names the policy, as Envoy's does.
        (Some(reason @ Reason::AccessDenied), _) => {
            let word = record.detail.as_deref().and_then(|detail| detail.split(' ').next());
            Value::Text(word.unwrap_or(reason.label()).as_bytes())
        }
        (Some(reason), _) => Value::Text(reason.label().as_bytes()),
        (None, Some(_)) => Value::Text(b"via_upstream"),
        (None, None) => Value::Missing,
    }
}

impl HeaderSource {
    fn parse(name: &str, response: bool) -> Self {
        match (&*name.to_ascii_lowercase(), response) {
            (":method", false) => Self::Method,
            (":authority" | "host", false) => Self::Authority,
            (":path", false) => Self::Path,
            // The record's path is the original one; what a client sends under this name is no evidence.
            ("x-envoy-original-path", false) => Self::Nothing,
            ("x-request-id", false) => Self::RequestId,
            (":status", true) => Self::Status,
            ("x-envoy-upstream-service-time", true) => Self::UpstreamServiceTime,
            (pseudo, _) if pseudo.starts_with(':') => Self::Nothing,
            (name, _) => Self::Named(name.into()),
        }
    }

    fn value<'a>(&self, record: &'a Record, headers: &'a [(Arc<str>, Vec<u8>)]) -> Value<'a> {
        match self {
            Self::Method => Value::Text(record.method.as_str().as_bytes()),
            Self::Authority => optional(record.authority.as_ref().map(http::uri::Authority::as_str)),
            Self::Path => Value::Text(record.path.as_str().as_bytes()),
            Self::Status => {
                record.status.map_or(Value::Missing, |status| Value::Number(status.as_u16().into()))
            }
            Self::RequestId => {
                record.request_id.as_ref().map_or(Value::Missing, |id| Value::Text(id.as_bytes()))
            }
            Self::UpstreamServiceTime => {
                record.upstream_time.map_or(Value::Missing, |time| Value::Number(clamp(time.as_millis())))
            }
            Self::Named(name) => headers
                .iter()
                .find(|(candidate, _)| candidate == name)
                .map_or(Value::Missing, |(_, value)| Value::Text(value)),
            Self::Nothing => Value::Missing,
        }
    }
}

impl Operator {
    fn parse(name: &str, argument: Option<&str>) -> Result<Self, FormatError> {
        let argument = argument.unwrap_or_default();
        Ok(match name {
            "START_TIME" if argument.is_empty() => Self::StartTime(None),
            "START_TIME" => {
                Self::StartTime(Some(TimeFormat::parse(argument).map_err(|message| bad(name, &message))?))
            }
            "REQ" | "RESP" => Self::parse_header(name, argument)?,
            "PROTOCOL" => Self::Protocol,
            "RESPONSE_CODE" => Self::ResponseCode,
            "RESPONSE_CODE_DETAILS" => Self::ResponseCodeDetails,
            "RESPONSE_FLAGS" => Self::ResponseFlags,
            "BYTES_RECEIVED" => Self::BytesReceived,
            "BYTES_SENT" => Self::BytesSent,
            "DURATION" => Self::Duration,
            "REQUEST_DURATION" => Self::RequestDuration,
            "RESPONSE_DURATION" => Self::ResponseDuration,
            "RESPONSE_TX_DURATION" => Self::ResponseTxDuration,
            "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Self::UpstreamCluster,
            "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Self::UpstreamAttempts,
            "ROUTE_NAME" => Self::RouteName,
            "GRPC_STATUS" => Self::GrpcStatus(match argument {
                "" | "CAMEL_STRING" => GrpcForm::Camel,
                "SNAKE_STRING" => GrpcForm::Snake,
                "NUMBER" => GrpcForm::Number,
                _ => return Err(bad(name, "the form is CAMEL_STRING, SNAKE_STRING or NUMBER")),
            }),
            "GRPC_STATUS_NUMBER" => Self::GrpcStatus(GrpcForm::Number),
            "TRACE_ID" => Self::TraceId,
            "STREAM_ID" => Self::RequestId,
            "HOSTNAME" => {
                let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
                constant(name.trim())
            }
            "ENVIRONMENT" if !argument.is_empty() => constant(&std::env::var(argument).unwrap_or_default()),
            "ENVIRONMENT" => return Err(bad(name, "the variable's name is missing")),
            "SIDEGATE_REASON" => Self::Reason,
            "SIDEGATE_REASON_ID" => Self::ReasonId,
            "SIDEGATE_DETAIL" | "UPSTREAM_TRANSPORT_FAILURE_REASON" => Self::Detail,
            "SIDEGATE_ROUTE_ORIGIN" => Self::RouteOrigin,
            _ => return Self::parse_address(name).ok_or_else(|| FormatError::UnknownOperator(name.into())),
        })
    }

    fn parse_header(name: &str, argument: &str) -> Result<Self, FormatError> {
        let (first, second) = match argument.split_once('?') {
            Some((first, second)) => (first, Some(second)),
            None => (argument, None),
        };
        if first.is_empty() || second.is_some_and(str::is_empty) {
            return Err(bad(name, "the header's name is missing"));
        }
        let response = name == "RESP";
        let first = HeaderSource::parse(first, response);
        let second = second.map(|second| HeaderSource::parse(second, response));
        Ok(if response { Self::Response(first, second) } else { Self::Request(first, second) })
    }

    fn parse_address(name: &str) -> Option<Self> {
        Some(match name {
            "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Self::Address(Place::Upstream, Show::Both),
            "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Self::Address(Place::Upstream, Show::Host),
            "UPSTREAM_REMOTE_PORT" => Self::Address(Place::Upstream, Show::Port),
            "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => {
                Self::Address(Place::Peer, Show::Both)
            }
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
                Self::Address(Place::Peer, Show::Host)
            }
            "DOWNSTREAM_REMOTE_PORT" | "DOWNSTREAM_DIRECT_REMOTE_PORT" => {
                Self::Address(Place::Peer, Show::Port)
            }
            "DOWNSTREAM_LOCAL_ADDRESS" => Self::Address(Place::Local, Show::Both),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Self::Address(Place::Local, Show::Host),
            "DOWNSTREAM_LOCAL_PORT" => Self::Address(Place::Local, Show::Port),
            name if tls::Fact::parse(name).is_some() => Self::Tls(tls::Fact::parse(name)?),
            name if WITHOUT_VALUE.contains(&name) || unknown_of_peer(name) => Self::Nothing,
            _ => return None,
        })
    }
}

/// What a certificate says and this program does not print.
fn unknown_of_peer(name: &str) -> bool {
    name.starts_with("DOWNSTREAM_PEER_") || name.starts_with("UPSTREAM_PEER_")
}

/// Operators of Envoy that formats in use hold and that have no value here: metadata, trailers, filter state.
const WITHOUT_VALUE: [&str; 17] = [
    "TRAILER",
    "CONNECTION_TERMINATION_DETAILS",
    "UPSTREAM_LOCAL_ADDRESS",
    "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "UPSTREAM_LOCAL_PORT",
    "UPSTREAM_METADATA",
    "DYNAMIC_METADATA",
    "CLUSTER_METADATA",
    "METADATA",
    "FILTER_STATE",
    "UPSTREAM_FILTER_STATE",
    "VIRTUAL_CLUSTER_NAME",
    "FILTER_CHAIN_NAME",
    "CONNECTION_ID",
    "DOWNSTREAM_TLS_SESSION_ID",
    "UPSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
];

fn constant(text: &str) -> Operator {
    if text.is_empty() { Operator::Nothing } else { Operator::Constant(text.into()) }
}

fn bad(operator: &str, message: &str) -> FormatError {
    FormatError::BadArgument { operator: operator.to_owned(), message: message.to_owned() }
}

fn optional(text: Option<&str>) -> Value<'_> {
    text.map_or(Value::Missing, |text| Value::Text(text.as_bytes()))
}

fn clamp(millis: u128) -> u64 {
    u64::try_from(millis).unwrap_or(u64::MAX)
}

fn print<'a>(scratch: &'a mut Scratch, text: std::fmt::Arguments<'_>) -> Value<'a> {
    // Writing to a Vec does not fail.
    let _ = scratch.write_fmt(text);
    Value::Text(scratch)
}

fn address<'a>(place: Place, show: Show, record: &'a Record, scratch: &'a mut Scratch) -> Value<'a> {
    let address: Option<SocketAddr> = match place {
        Place::Peer => Some(record.peer),
        Place::Local => Some(record.local),
        Place::Upstream => record.endpoint,
    };
    match (address, show) {
        (None, _) => Value::Missing,
        (Some(address), Show::Both) => print(scratch, format_args!("{address}")),
        (Some(address), Show::Host) => print(scratch, format_args!("{}", address.ip())),
        (Some(address), Show::Port) => Value::Number(address.port().into()),
    }
}

/// gRPC status names, by number: camel case, snake case.
const GRPC_NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

fn grpc_status(form: GrpcForm, record: &Record) -> Value<'_> {
    let Some(status) = record.grpc_status.filter(|_| record.grpc) else { return Value::Missing };
    match (form, GRPC_NAMES.get(usize::from(status))) {
        (GrpcForm::Camel, Some((camel, _))) => Value::Text(camel.as_bytes()),
        (GrpcForm::Snake, Some((_, snake))) => Value::Text(snake.as_bytes()),
        _ => Value::Number(status.into()),
    }
}

/// Appends a number in decimal.
pub(super) fn push_number(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}
