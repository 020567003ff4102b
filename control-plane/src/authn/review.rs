//! Tokens that Kubernetes signed: asked of its API server by a TokenReview, and remembered for a short while.
//!
//! Whatever goes wrong on the way, nobody is let in by it.

mod budget;
mod cache;
mod client;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::refusal::{Reason, Refusal};
use super::subject::Subject;
use super::tokens::{self, AUDIENCE, Proven};
pub(super) use budget::Asker;
use budget::Budget;
use cache::Cache;
use client::Client;
pub use client::ReviewerError;

/// Where the API server is and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewSettings {
    /// `https://host:port`; `http://` on the loopback only.
    pub url: String,
    /// The roots that its certificate must chain to.
    pub roots: Option<PathBuf>,
    /// The file with the control plane's own token; read each time, because Kubernetes exchanges it.
    pub credential: Option<PathBuf>,
}

/// Asks the API server who a token speaks for.
#[derive(Debug)]
pub struct Reviewer {
    client: Client,
    cache: Cache,
    budget: Budget,
}

#[derive(Serialize)]
struct Question<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    spec: QuestionSpec<'a>,
}

#[derive(Serialize)]
struct QuestionSpec<'a> {
    token: &'a str,
    audiences: [&'static str; 1],
}

/// `TokenReview`, as far as it is read. What is missing is as good as "no".
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Review {
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    authenticated: bool,
    error: Option<String>,
    audiences: Vec<String>,
    user: User,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    extra: Extra,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Extra {
    #[serde(rename = "authentication.kubernetes.io/pod-name")]
    pod: Vec<String>,
}

impl Reviewer {
    /// Reads what does not change: the address and the roots.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(settings: &ReviewSettings) -> Result<Self, ReviewerError> {
        let client = Client::new(settings)?;
        Ok(Self { client, cache: Cache::default(), budget: Budget::default() })
    }

    /// Who a token speaks for; `expires` is what the token says of its end.
    ///
    /// # Errors
    /// Why it proves nothing, or that nobody can say now.
    pub(super) async fn review(
        &self,
        token: &str,
        expires: Option<u64>,
        now: SystemTime,
        asker: &Asker<'_>,
    ) -> Result<Proven, Refusal> {
        // Every token of a workload ends; one that says it does not is nothing that Kubernetes would give to a Pod.
        // The number is anybody's, so that it may be no time at all.
        let expires = expires.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        let expires = expires.ok_or_else(tokens::malformed)?;
        let Ok(left) = expires.duration_since(now) else { return Err(tokens::expired()) };
        let proven = |subject| Proven { subject, expires };
        if let Some(known) = self.cache.find(token, Instant::now()) {
            return known.map(proven);
        }
        let answer = timeout(LIMIT, self.ask(token, asker))
            .await
            .unwrap_or_else(|_| Err(unavailable(format!("no answer within {} seconds", LIMIT.as_secs()))));
        match &answer {
            // That nobody could answer says nothing about the token.
            Err(refusal) if matches!(refusal.reason, Reason::ReviewUnavailable | Reason::Overload) => {}
            Err(_) => {
                asker.doubt();
                self.cache.keep(token, answer.clone(), Instant::now() + NEGATIVE_LIFE);
            }
            Ok(_) => self.cache.keep(token, answer.clone(), Instant::now() + POSITIVE_LIFE.min(left)),
        }
        answer.map(proven)
    }

    async fn ask(&self, token: &str, asker: &Asker<'_>) -> Result<Subject, Refusal> {
        let _place = self.budget.place(asker).await?;
        let question = Question {
            api_version: "authentication.k8s.io/v1",
            kind: "TokenReview",
            spec: QuestionSpec { token, audiences: [AUDIENCE] },
        };
        let body = serde_json::to_vec(&question).map_err(|error| unavailable(error.to_string()))?;
        let answer = self.client.post(PATH, body).await.map_err(unavailable)?;
        // The parser's words may quote what it read, and that may be what was sent.
        let review: Review = serde_json::from_slice(&answer)
            .map_err(|_| unavailable("its answer is no TokenReview".to_owned()))?;
        judge(review.status)
    }
}

fn judge(status: Status) -> Result<Subject, Refusal> {
    // Who says both yes and no has not said yes.
    if !status.authenticated || status.error.is_some_and(|error| !error.is_empty()) {
        return Err(Refusal::new(
            Reason::TokenRejected,
            format!(
                "Kubernetes does not vouch for the token: it must be a projected token of a running Pod's account with the audience {AUDIENCE:?}"
            ),
        ));
    }
    // An API server that does not know audiences leaves the list out: then nobody has looked at the token's.
    if !status.audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(tokens::wrong_audience());
    }
    Subject::parse(&status.user.username, status.user.extra.pod.into_iter().next())
}

/// The refusal when nobody can say. The details are the operator's, not the caller's.
fn unavailable(why: String) -> Refusal {
    tracing::warn!(why, "the Kubernetes API server did not review a token");
    Refusal::new(
        Reason::ReviewUnavailable,
        "the Kubernetes API server cannot be asked about the token now: try again",
    )
}

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// How long the API server may take, all in all.
const LIMIT: Duration = Duration::from_secs(5);

/// How long an answer is used again: a token that was revoked is good for so long at most (battery G5).
const POSITIVE_LIFE: Duration = Duration::from_secs(60);
const NEGATIVE_LIFE: Duration = Duration::from_secs(5);
