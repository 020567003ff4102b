//! In whose name a token speaks: a service account, and the Pod that it is bound to.

use std::fmt;

use super::refusal::{Reason, Refusal};
use crate::model::is_name;

/// Kubernetes' name of a service account, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub account: String,
    /// The Pod that the token is bound to: nobody else may show it.
    pub pod: Option<String>,
}

const PREFIX: &str = "system:serviceaccount:";

impl Subject {
    /// Reads `system:serviceaccount:<namespace>:<name>`.
    ///
    /// # Errors
    /// When it is somebody else, such as a user.
    pub fn parse(user: &str, pod: Option<String>) -> Result<Self, Refusal> {
        let parts = user.strip_prefix(PREFIX).and_then(|rest| rest.split_once(':'));
        let valid = parts.filter(|(namespace, account)| is_name(namespace) && is_name(account));
        let (namespace, account) = valid.ok_or_else(|| {
            Refusal::new(
                Reason::TokenSubject,
                "the token is valid, but it speaks for no service account: proxies have the token of their Pod's account",
            )
        })?;
        Ok(Self { namespace: namespace.to_owned(), account: account.to_owned(), pod })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}{}:{}", self.namespace, self.account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_service_accounts_speak_for_workloads() {
        let subject = Subject::parse("system:serviceaccount:shop:web.v2", Some("web-1".to_owned())).unwrap();
        assert_eq!((subject.namespace.as_str(), subject.account.as_str()), ("shop", "web.v2"));
        assert_eq!(subject.to_string(), "system:serviceaccount:shop:web.v2");
        for other in [
            "",
            "admin",
            "system:serviceaccount:shop",
            "system:serviceaccount::web",
            "system:serviceaccount:shop:",
            "system:serviceaccount:shop:web:extra",
            "system:serviceaccount:shop/../other:web",
            "system:serviceaccount:Shop:web",
            "system:node:node-1",
        ] {
            assert_eq!(Subject::parse(other, None).unwrap_err().reason, Reason::TokenSubject, "{other}");
        }
    }
}
