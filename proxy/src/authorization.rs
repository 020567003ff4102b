//! The wire of Envoy's external authorization (`envoy.service.auth.v3`): what is asked about a request, and what an answer means. No IO.
//!
//! An answer that is in doubt is none: then what is configured for a service that cannot be asked applies.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use crate::message::{self, Headers};

mod answer;
mod question;

pub(crate) use answer::decode;
pub(crate) use question::{Asked, CHECK, encode};

/// What the service decided.
#[derive(Debug)]
pub(crate) enum Decision {
    /// The request goes on, changed so.
    Allow(Changes),
    /// It is answered so.
    Deny(Denial),
    /// The service itself has failed; what it says of that, for the operator.
    Failed(String),
}

/// What becomes of a request that is allowed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Request headers.
    pub(crate) headers: Vec<HeaderChange>,
    /// Request headers to take off, lower case.
    pub(crate) remove: Vec<String>,
    /// Headers of the response to come.
    pub(crate) response_headers: Vec<HeaderChange>,
    /// Query parameters to set.
    pub(crate) set_query: Vec<(String, String)>,
    /// Query parameters to take off.
    pub(crate) remove_query: Vec<String>,
    /// What later filters learn.
    pub(crate) metadata: Option<Value>,
}

/// The service's own response.
#[derive(Debug)]
pub(crate) struct Denial {
    /// The status.
    pub(crate) status: StatusCode,
    /// The headers.
    pub(crate) headers: Vec<HeaderChange>,
    /// The content.
    pub(crate) body: Bytes,
    /// What later filters, which there are none of, and logs would learn.
    pub(crate) detail: String,
}

/// A header field to write.
#[derive(Clone, Debug)]
pub(crate) struct HeaderChange {
    /// The name.
    pub(crate) name: HeaderName,
    /// The value.
    pub(crate) value: HeaderValue,
    /// What becomes of fields of that name.
    pub(crate) action: Action,
}

/// `append_action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// They stay, and there is one more.
    Append,
    /// They are replaced.
    Overwrite,
    /// They stay; only without any is there one.
    AddIfAbsent,
    /// They are replaced; without any there is none.
    OverwriteIfExists,
}

impl HeaderChange {
    /// Writes it.
    pub(crate) fn apply(&self, headers: &mut Headers) {
        let present = headers.contains(self.name.as_str());
        let name = message::Name::Http(self.name.clone());
        let value = message::Value::Http(self.value.clone());
        match self.action {
            Action::Append => headers.append(name, value),
            Action::Overwrite => headers.insert(name, value),
            Action::AddIfAbsent if !present => headers.append(name, value),
            Action::OverwriteIfExists if present => headers.insert(name, value),
            Action::AddIfAbsent | Action::OverwriteIfExists => {}
        }
    }
}

/// Whether a service may change a header: not what frames the message, says where it goes, or is between proxies only.
pub(crate) fn may_change(name: &str) -> bool {
    !name.starts_with(':')
        && !name.starts_with("x-envoy-")
        && !name.starts_with("x-sidegate-")
        && !is_protected(name)
}

/// Whether a header (by its name in lower case) frames the message or is about one connection: codecs write these, nobody else.
pub(crate) fn is_protected(name: &str) -> bool {
    PROTECTED.contains(&name)
}

const PROTECTED: [&str; 11] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "http2-settings",
];

/// Header fields of one answer, their bytes, and bytes of a body.
pub(crate) const MOST_HEADERS: usize = 100;
pub(crate) const MOST_HEADER_BYTES: usize = 32 * 1024;
pub(crate) const MOST_BODY: usize = 64 * 1024;

#[cfg(test)]
mod tests;
