//! `/rotate-root`: how far the rotation of the root is, and the commands that begin it, go on without somebody, or give it up.

use std::path::PathBuf;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::guard::{self, only};
use super::server::{plain, respond};
use crate::ca::{Authority, Certifier, External, Given};

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
    /// Go on without waiting for somebody.
    Without {
        /// A proxy's node id, what it serves, or a SPIFFE id.
        name: String,
    },
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
    certifier: Option<&Certifier>,
) -> Response<Full<Bytes>> {
    let certifier = match guard::admit(request.headers(), certifier, "/rotate-root", "sidegate rotate-root") {
        Ok(certifier) => certifier,
        Err(refused) => return *refused,
    };
    let authority = match certifier {
        Certifier::Own(authority) => authority,
        Certifier::External(external) => return elsewhere(external),
    };
    match *request.method() {
        Method::GET => report(authority),
        Method::POST => command(request, authority).await,
        _ => only("GET, POST"),
    }
}

async fn command(request: Request<Incoming>, authority: &Authority) -> Response<Full<Bytes>> {
    let command = match guard::read(request).await {
        Ok(command) => command,
        Err(refused) => return *refused,
    };
    let done = match command {
        Command::Start { new } => {
            let given = new.map(|NewRoot { certificate, key, root }| Given { certificate, key, root });
            authority.rotate(given).await
        }
        Command::Cancel => authority.cancel().await,
        Command::Without { name } => authority.leave_out(name).await,
    };
    match done {
        Ok(()) => report(authority),
        Err(error) => plain(StatusCode::CONFLICT, &format!("{error}\n")),
    }
}

/// Roots of somebody else are changed by somebody else.
fn elsewhere(external: &External) -> Response<Full<Bytes>> {
    let text = format!(
        "the root is the external authority's ({}), so it is rotated there: first write the new root beside the old one into {}, which is watched; then let the authority sign with it; when no certificate of the old one is in use, take the old one out\n",
        external.address(),
        external.root_file().display()
    );
    plain(StatusCode::CONFLICT, &text)
}

fn report(authority: &Authority) -> Response<Full<Bytes>> {
    match serde_json::to_vec(&authority.report()) {
        Ok(body) => respond(StatusCode::OK, "application/json", body),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}
