//! `/revoke`: what counts no more, and the commands that revoke a certificate or deny an identity; for who may read the folder.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::guard::{self, only};
use super::server::{plain, respond};
use crate::ca::report::Reason;
use crate::ca::{self, CaError, Certifier};

/// What is to count no more, or again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Revoke {
    /// A certificate.
    Serial {
        /// Its serial number, in hex digits.
        serial: String,
        /// Why.
        reason: Reason,
        /// Although the ledger does not know it.
        force: bool,
    },
    /// An identity, whatever certificate it shows.
    Deny {
        /// Its SPIFFE id.
        id: String,
        /// Why.
        reason: Reason,
    },
    /// An identity counts again.
    Undo {
        /// Its SPIFFE id.
        id: String,
    },
}

pub(super) async fn answer(
    request: Request<Incoming>,
    certifier: Option<&Certifier>,
) -> Response<Full<Bytes>> {
    let certifier = match guard::admit(request.headers(), certifier, "/revoke", "sidegate revoke") {
        Ok(certifier) => certifier,
        Err(refused) => return *refused,
    };
    match *request.method() {
        Method::GET => list(certifier).await,
        Method::POST => command(request, certifier).await,
        _ => only("GET, POST"),
    }
}

async fn command(request: Request<Incoming>, certifier: &Certifier) -> Response<Full<Bytes>> {
    let command = match guard::read(request).await {
        Ok(command) => command,
        Err(refused) => return *refused,
    };
    match carry_out(command, certifier).await {
        Ok(()) => list(certifier).await,
        Err(error) => plain(StatusCode::CONFLICT, &format!("{error}\n")),
    }
}

async fn carry_out(command: Revoke, certifier: &Certifier) -> Result<(), CaError> {
    match (command, certifier) {
        (Revoke::Serial { serial, reason, force }, Certifier::Own(authority)) => {
            authority.revoke(serial, reason, force).await
        }
        (Revoke::Serial { .. }, Certifier::External(external)) => Err(CaError::Refused(format!(
            "the external authority ({}) has signed it, and only its PKI can make the list: write that into crl.pem of --ca-dir, which is watched, or deny the identity (--id)",
            external.address()
        ))),
        (Revoke::Deny { id, reason }, Certifier::Own(authority)) => {
            authority.deny(ca::identity(&id)?, reason).await
        }
        (Revoke::Deny { id, reason }, Certifier::External(external)) => {
            external.deny(ca::identity(&id)?, reason).await
        }
        (Revoke::Undo { id }, Certifier::Own(authority)) => authority.admit_again(ca::identity(&id)?).await,
        (Revoke::Undo { id }, Certifier::External(external)) => {
            external.admit_again(ca::identity(&id)?).await
        }
    }
}

async fn list(certifier: &Certifier) -> Response<Full<Bytes>> {
    let withdrawn = match certifier {
        Certifier::Own(authority) => authority.withdrawn().await,
        Certifier::External(external) => external.withdrawn(),
    };
    match serde_json::to_vec(&withdrawn) {
        Ok(body) => respond(StatusCode::OK, "application/json", body),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}
