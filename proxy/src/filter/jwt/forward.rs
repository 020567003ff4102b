//! What the next hop and later filters learn of a token that is good.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::token::Token;
use crate::message::{self, Headers};

/// What becomes of a provider's tokens.
#[derive(Debug, Default)]
pub(crate) struct Forwarding {
    /// `forward`: the token stays in the request.
    pub(crate) keep_token: bool,
    /// `forward_payload_header`.
    pub(crate) payload_header: Option<HeaderName>,
    /// `pad_forward_payload_header`.
    pub(crate) pad: bool,
    /// `claim_to_headers`.
    pub(crate) claims: Vec<ClaimHeader>,
    /// `payload_in_metadata`.
    pub(crate) metadata: Option<Arc<str>>,
    /// `normalize_payload_in_metadata.space_delimited_claims`.
    pub(crate) lists: Vec<Box<str>>,
    /// `clear_route_cache`.
    pub(crate) reroute: bool,
}

/// `JwtClaimToHeader`.
#[derive(Debug)]
pub(crate) struct ClaimHeader {
    /// The header.
    pub(crate) name: HeaderName,
    /// The way to the claim.
    pub(crate) path: Vec<Box<str>>,
}

impl Forwarding {
    /// Headers that it writes.
    pub(crate) fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.payload_header.iter().chain(self.claims.iter().map(|claim| &claim.name))
    }

    /// Whether one token's word would stand where the other's is looked for.
    pub(super) fn clashes(&self, other: &Self) -> bool {
        self.metadata.is_some() && self.metadata == other.metadata
            || self.headers().any(|name| other.headers().any(|theirs| theirs == name))
    }

    /// Writes what there is to write; says whether that was anything.
    pub(super) fn write(&self, token: &Token, headers: &mut Headers, said: &mut Map<String, Value>) -> bool {
        let mut wrote = false;
        // What another provider has written must not be taken for this token's word.
        for name in self.headers() {
            headers.remove(name.as_str());
        }
        let mut put = |name: &HeaderName, value: HeaderValue| {
            headers.insert(message::Name::Http(name.clone()), message::Value::Http(value));
            wrote = true;
        };
        if let Some(name) = &self.payload_header {
            let padding = if self.pad { &"==="[..(4 - token.payload.len() % 4) % 4] } else { "" };
            if let Ok(value) = HeaderValue::from_str(&format!("{}{padding}", token.payload)) {
                put(name, value);
            }
        }
        for claim in &self.claims {
            if let Some(value) = find(&token.claims, &claim.path).and_then(header_value) {
                put(&claim.name, value);
            }
        }
        if let Some(name) = &self.metadata {
            said.insert(name.to_string(), Value::Object(self.normalized(&token.claims)));
            wrote = true;
        }
        wrote
    }

    fn normalized(&self, claims: &Map<String, Value>) -> Map<String, Value> {
        let mut claims = claims.clone();
        for name in &self.lists {
            if let Some(claim) = claims.get_mut(&**name)
                && let Value::String(text) = claim
            {
                *claim = text.split_ascii_whitespace().map(Value::from).collect();
            }
        }
        claims
    }
}

fn find<'a>(claims: &'a Map<String, Value>, path: &[Box<str>]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(claims.get(&**first)?, |value, name| value.as_object()?.get(&**name))
}

/// A claim as a header's value: text, numbers and truth as they are, the rest as base64url of its JSON. What no header may hold (a line
/// end above all) gives none: whoever made the token must not write headers of his own.
fn header_value(claim: &Value) -> Option<HeaderValue> {
    let text = match claim {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Array(_) | Value::Object(_) => URL_SAFE_NO_PAD.encode(claim.to_string()),
        Value::Null => return None,
    };
    let text = text.trim_matches([' ', '\t']);
    if text.len() > LONGEST_VALUE {
        return None;
    }
    HeaderValue::from_bytes(text.as_bytes()).ok()
}

const LONGEST_VALUE: usize = 8 * 1024;
