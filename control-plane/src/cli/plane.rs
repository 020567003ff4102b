//! The control plane, as commands that move trust reach it: by its admin page, with the proof that they may read its folder.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::admin::Call;
use crate::ca;

/// Where it is, and whose folder it uses.
pub(super) struct Plane<'a> {
    pub(super) folder: PathBuf,
    pub(super) address: &'a str,
}

impl Plane<'_> {
    /// What it answers; the inner error is a refusal in its own words.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Result<T, String>, String> {
        let token = ca::pass(&self.folder).map_err(|error| {
            format!("{error}; --ca-dir must be the control plane's, and you need the right to read it")
        })?;
        let call = Call { address: self.address, method, path, token: Some(&token), body };
        let asked = timeout(ASK_LIMIT, call.send()).await;
        let answered =
            asked.unwrap_or_else(|_| Err(format!("no answer within {} seconds", ASK_LIMIT.as_secs())));
        let (status, body) = answered.map_err(|reason| {
            format!("cannot ask the control plane at {}: {reason}; is `sidegate serve` running there? (--admin takes its --admin-address)", self.address)
        })?;
        let text = || String::from_utf8_lossy(&body).trim().to_owned();
        match status {
            StatusCode::OK => serde_json::from_slice(&body)
                .map(Ok)
                .map_err(|error| format!("the answer is not a report ({error})")),
            StatusCode::CONFLICT => Ok(Err(text())),
            StatusCode::UNAUTHORIZED => Err(format!(
                "the control plane at {} uses another folder than {}: give its own with --ca-dir",
                self.address,
                self.folder.display()
            )),
            _ => Err(format!("the control plane answers {status}: {}", text())),
        }
    }
}

/// How long one answer may take.
const ASK_LIMIT: Duration = Duration::from_secs(10);
