//! The flags of the Kubernetes API server that vouches for tokens.

use std::path::PathBuf;

use crate::authn::review::ReviewSettings;

/// Whom to ask about tokens that are not the control plane's own.
#[derive(Debug, clap::Args)]
#[group(id = "token-reviews")]
#[command(next_help_heading = "Tokens of Kubernetes")]
pub(super) struct Args {
    /// The Kubernetes API server that reviews the tokens of service accounts; without one, only tokens of `sidegate token` count.
    #[arg(long, value_name = "URL", conflicts_with = "no_ca")]
    token_review: Option<String>,
    /// The roots of the API server's certificate.
    #[arg(long, value_name = "FILE", requires = "token_review")]
    token_review_ca: Option<PathBuf>,
    /// The token with which the control plane asks; it may create tokenreviews.
    #[arg(long, value_name = "FILE", requires = "token_review")]
    token_review_credential: Option<PathBuf>,
}

impl Args {
    /// How to ask; none when nobody is to be asked.
    pub(super) fn settings(self) -> Option<ReviewSettings> {
        Some(ReviewSettings {
            url: self.token_review?,
            roots: self.token_review_ca,
            credential: self.token_review_credential,
        })
    }
}
