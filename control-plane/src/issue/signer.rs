//! The mesh's authority behind the certificate service.

use std::pin::Pin;
use std::time::Duration;

use super::Authority;
use crate::authn::refusal::{Reason, Refusal};
use crate::authn::{Caller, Proof, Subject};
use crate::ca::{self, IssueError};

impl Authority for ca::Authority {
    fn issue<'a>(
        &'a self,
        caller: &'a Caller,
        request: &'a str,
        validity: Option<Duration>,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<String>, Refusal>> + Send + 'a>> {
        Box::pin(async move {
            let order = order(caller, request, validity);
            match ca::Authority::issue(self, order).await {
                Ok(issued) => Ok(issued.chain),
                Err(error) => Err(Refusal::new(reason(&error), error.to_string())),
            }
        })
    }
}

/// Somebody else's: callers are to ask there. Their tokens are not handed on (ADR 16).
impl Authority for ca::External {
    fn issue<'a>(
        &'a self,
        _: &'a Caller,
        _: &'a str,
        _: Option<Duration>,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<String>, Refusal>> + Send + 'a>> {
        let address = self.address();
        let text = format!(
            "the certificates of this mesh come from {address}: ask there (ca_address; `sidegate bootstrap --ca-address {address}`)"
        );
        Box::pin(async move { Err(Refusal { reason: Reason::RequestForbidden, text }) })
    }
}

fn order(caller: &Caller, request: &str, validity: Option<Duration>) -> ca::Order {
    let proof = match &caller.proof {
        Proof::Leaf(leaf) => ca::Proof::Certificate(leaf.serial.clone()),
        Proof::Token { .. } => {
            let (namespace, account) = caller.identity.namespace_and_account().unwrap_or_default();
            let subject = Subject { namespace: namespace.to_owned(), account: account.to_owned(), pod: None };
            ca::Proof::Token(subject.to_string())
        }
    };
    ca::Order {
        request: request.to_owned(),
        identity: caller.identity.clone(),
        ttl: validity,
        proof,
        // The one that it shows is the one that it replaces; a rotation waits for those that nobody replaced.
        supersedes: caller.leaf().map(|leaf| leaf.serial.clone()),
    }
}

fn reason(error: &IssueError) -> Reason {
    match error {
        IssueError::Request(_) => Reason::Request,
        IssueError::Forbidden(_) => Reason::RequestForbidden,
        IssueError::Denied(_) => Reason::Denied,
        IssueError::TooMany { .. } | IssueError::Full(_) => Reason::CertificateLimit,
        IssueError::Unavailable(_) => Reason::AuthorityUnavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::leaf::Anchors;
    use crate::authn::tests::fixture::{NOW, Says, WEB, at, root, trust};

    #[test]
    fn a_leaf_that_is_shown_is_the_one_that_is_replaced() {
        let root = root("a");
        let anchors = Anchors::new(&trust(&[&root])).unwrap();
        let leaf = anchors.identify(&root.chain(&Says::default()), at(NOW)).unwrap();
        let by_leaf = Caller::by_leaf(leaf, false);
        let renewed = order(&by_leaf, "csr", Some(Duration::from_secs(60)));
        assert_eq!(renewed.proof, ca::Proof::Certificate("4711".to_owned()));
        assert_eq!(renewed.supersedes.as_deref(), Some("4711"));
        assert_eq!((renewed.identity.as_str(), renewed.ttl), (WEB, Some(Duration::from_secs(60))));
        let token = Proof::Token { expires: at(NOW), pod: None };
        let first = Caller { identity: WEB.parse().unwrap(), proof: token, token: true };
        let first = order(&first, "csr", None);
        assert_eq!(first.proof, ca::Proof::Token("system:serviceaccount:shop:web".to_owned()));
        assert_eq!(first.supersedes, None);
    }
}
