//! A request's facts → `CheckRequest`, in a gRPC message.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use serde_json::Value;
use sidegate_xds::envoy::config::core::v3 as core;
use sidegate_xds::envoy::service::auth::v3 as wire;
use sidegate_xds::google::protobuf;
use wire::attribute_context::{HttpRequest, Peer, Request, TlsSession};

use crate::message::RequestHead;
use crate::telemetry::Downstream;

/// The method that decides.
pub(crate) const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// What is asked about.
pub(crate) struct Asked<'a> {
    /// The request.
    pub(crate) head: &'a RequestHead,
    /// Its connection.
    pub(crate) connection: &'a Downstream,
    /// The first bytes of its body, or all.
    pub(crate) body: Bytes,
    /// `raw_body` instead of `body`.
    pub(crate) raw_body: bool,
    /// The body's whole length, when it is known.
    pub(crate) size: Option<u64>,
    /// When the request came.
    pub(crate) time: SystemTime,
    /// Whether the service may see a header.
    pub(crate) shows: &'a dyn Fn(&str) -> bool,
    /// `context_extensions`.
    pub(crate) extensions: &'a [(String, String)],
    /// What filters before have said, by their names.
    pub(crate) metadata: Vec<(&'a str, &'a Value)>,
    /// `include_peer_certificate`.
    pub(crate) certificate: bool,
    /// `include_tls_session`.
    pub(crate) session: bool,
}

/// The message, with the five bytes before it that gRPC wants.
pub(crate) fn encode(asked: &Asked<'_>) -> Bytes {
    let request = wire::CheckRequest { attributes: Some(attributes(asked)) };
    let length = request.encoded_len();
    let mut out = BytesMut::with_capacity(length + 5);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A growing buffer has room.
    let _ = request.encode(&mut out);
    out.freeze()
}

fn attributes(asked: &Asked<'_>) -> wire::AttributeContext {
    let connection = asked.connection;
    let since = asked.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = protobuf::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    };
    let security = connection.security.as_deref();
    let peer = security.and_then(|security| security.peer.as_ref());
    let names = peer.map(|peer| (&peer.certificate.names, &*peer.certificate.subject));
    let principal =
        names.map(|(names, subject)| names.uris.first().or(names.dns.first()).map_or(subject, |name| name));
    let session = security.filter(|_| asked.session);
    let metadata = asked.metadata.iter().map(|(name, value)| ((*name).to_owned(), structure(value)));
    let metadata: HashMap<_, _> = metadata.collect();
    wire::AttributeContext {
        source: Some(Peer {
            address: Some(address(connection.peer)),
            principal: principal.unwrap_or_default().to_owned(),
            certificate: peer.filter(|_| asked.certificate).map(|peer| peer.pem()).unwrap_or_default(),
            ..Peer::default()
        }),
        destination: Some(Peer { address: Some(address(connection.local)), ..Peer::default() }),
        request: Some(Request { time: Some(time), http: Some(http(asked)) }),
        context_extensions: asked.extensions.iter().cloned().collect(),
        metadata_context: Some(core::Metadata { filter_metadata: metadata, ..core::Metadata::default() }),
        tls_session: session.map(|security| TlsSession {
            sni: security.server_name.as_deref().unwrap_or_default().to_owned(),
        }),
        ..wire::AttributeContext::default()
    }
}

fn http(asked: &Asked<'_>) -> HttpRequest {
    let head = asked.head;
    let host = head.authority.as_ref().map_or("", |authority| authority.as_str());
    let (body, raw_body) = if asked.raw_body {
        (String::new(), asked.body.to_vec())
    } else {
        (String::from_utf8_lossy(&asked.body).into_owned(), Vec::new())
    };
    HttpRequest {
        id: head.headers.get_str("x-request-id").unwrap_or_default().to_owned(),
        method: head.method.as_str().to_owned(),
        headers: headers(asked, host).into_iter().collect(),
        path: head.path.as_str().to_owned(),
        host: host.to_owned(),
        scheme: head.scheme.as_str().to_owned(),
        size: asked.size.and_then(|size| i64::try_from(size).ok()).unwrap_or(-1),
        protocol: head.version.as_str().to_owned(),
        body,
        raw_body,
        ..HttpRequest::default()
    }
}

/// By lower-case name; repeated fields are joined, so that the service sees every one of them.
fn headers(asked: &Asked<'_>, host: &str) -> BTreeMap<String, String> {
    let head = asked.head;
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    let pseudo = [
        (":authority", host),
        (":method", head.method.as_str()),
        (":path", head.path.as_str()),
        (":scheme", head.scheme.as_str()),
    ];
    for (name, value) in pseudo.into_iter().filter(|(name, _)| (asked.shows)(name)) {
        headers.insert(name.to_owned(), value.to_owned());
    }
    for (name, value) in head.headers.iter() {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        if !(asked.shows)(&name) {
            continue;
        }
        let value = String::from_utf8_lossy(value);
        headers
            .entry(name)
            .and_modify(|known| {
                known.push(',');
                known.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    headers
}

fn address(address: SocketAddr) -> core::Address {
    let socket = core::SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(address.port().into())),
        ..core::SocketAddress::default()
    };
    core::Address { address: Some(core::address::Address::SocketAddress(socket)) }
}

fn structure(value: &Value) -> protobuf::Struct {
    let fields = value.as_object().into_iter().flatten();
    protobuf::Struct { fields: fields.map(|(name, value)| (name.clone(), wrapped(value))).collect() }
}

fn wrapped(value: &Value) -> protobuf::Value {
    use protobuf::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(truth) => Kind::BoolValue(*truth),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(list) => {
            Kind::ListValue(protobuf::ListValue { values: list.iter().map(wrapped).collect() })
        }
        Value::Object(_) => Kind::StructValue(structure(value)),
    };
    protobuf::Value { kind: Some(kind) }
}
