//! Commands that move trust: everybody on the machine reaches the admin port; a bearer token shows that the caller may read the
//! authority's folder (`ca::pass`).

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::server::plain;
use crate::ca::Certifier;

/// The answer to who may not, or says nothing that is understood.
pub(super) type Refused = Box<Response<Full<Bytes>>>;

/// Who certifies, for who may command it; `command` is what makes the token.
pub(super) fn admit<'a>(
    headers: &HeaderMap,
    certifier: Option<&'a Certifier>,
    path: &str,
    command: &str,
) -> Result<&'a Certifier, Refused> {
    let Some(certifier) = certifier else {
        let text = "this control plane has no certificate authority (--no-ca)\n";
        return Err(Box::new(plain(StatusCode::NOT_FOUND, text)));
    };
    if !is_admitted(headers, certifier) {
        tracing::warn!("a request for {path} without a valid token was refused");
        let text = format!("a token is needed that is made from the authority's folder: use `{command}`\n");
        let mut response = plain(StatusCode::UNAUTHORIZED, &text);
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return Err(Box::new(response));
    }
    Ok(certifier)
}

fn is_admitted(headers: &HeaderMap, certifier: &Certifier) -> bool {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    value
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("Bearer "))
        .is_some_and(|token| certifier.admits(token))
}

/// A command in JSON.
pub(super) async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refused> {
    let bad = |text: String| Box::new(plain(StatusCode::BAD_REQUEST, &text));
    let body = Limited::new(request.into_body(), COMMAND_LIMIT).collect().await;
    let body = body.map_err(|error| bad(format!("{error}\n")))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| bad(format!("not a command: {error}\n")))
}

/// The answer to other methods than these.
pub(super) fn only(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, &format!("only {methods}\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

/// How long a command may be; it has three paths at most.
const COMMAND_LIMIT: usize = 16 * 1024;
