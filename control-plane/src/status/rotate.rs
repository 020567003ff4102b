//! `/rotate-root`: how far the rotation of the root is, and the commands that begin it or give it up.
//!
//! Everybody on the machine reaches the admin port; a bearer token shows that the caller may read the authority's folder (`ca::pass`).

use std::path::PathBuf;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::server::{plain, respond};
use crate::ca::{Authority, Given};

/// What a caller wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Begin a rotation.
    Start {
        /// The new root, when the user gives it; else one is made.
        new: Option<NewRoot>,
    },
    /// Give it up.
    Cancel,
}

/// Files on the control plane's machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRoot {
    /// The certificate that signs leaves, and those between it and the root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The root, when it is not in the first file.
    pub root: Option<PathBuf>,
}

pub(super) async fn answer(
    request: Request<Incoming>,
    authority: Option<&Authority>,
) -> Response<Full<Bytes>> {
    let Some(authority) = authority else {
        return plain(StatusCode::NOT_FOUND, "this control plane has no certificate authority (--no-ca)\n");
    };
    if !admitted(request.headers(), authority) {
        tracing::warn!("a request for /rotate-root without a valid token was refused");
        let text = "a token is needed that is made from the authority's folder: use `sidegate rotate-root`\n";
        let mut response = plain(StatusCode::UNAUTHORIZED, text);
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    match *request.method() {
        Method::GET => report(authority),
        Method::POST => command(request, authority).await,
        _ => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
            response
        }
    }
}

fn admitted(headers: &HeaderMap, authority: &Authority) -> bool {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    value
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("Bearer "))
        .is_some_and(|token| authority.admits(token))
}

async fn command(request: Request<Incoming>, authority: &Authority) -> Response<Full<Bytes>> {
    let body = match Limited::new(request.into_body(), COMMAND_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return plain(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    };
    let done = match serde_json::from_slice(&body) {
        Ok(Command::Start { new }) => {
            let given = new.map(|NewRoot { certificate, key, root }| Given { certificate, key, root });
            authority.rotate(given).await
        }
        Ok(Command::Cancel) => authority.cancel().await,
        Err(error) => return plain(StatusCode::BAD_REQUEST, &format!("not a command: {error}\n")),
    };
    match done {
        Ok(()) => report(authority),
        Err(error) => plain(StatusCode::CONFLICT, &format!("{error}\n")),
    }
}

fn report(authority: &Authority) -> Response<Full<Bytes>> {
    match serde_json::to_vec(&authority.report()) {
        Ok(body) => respond(StatusCode::OK, "application/json", body),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

/// How long a command may be; it has three paths at most.
const COMMAND_LIMIT: usize = 16 * 1024;
