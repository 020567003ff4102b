//! May this caller have what its node asks for? Decided when the stream introduces itself, and again whenever that changes.
//!
//! The node's metadata says what a proxy serves, and anybody can write that. What it serves belongs to a service account; the caller
//! must have proven to be that account.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::node::ProxyNode;
use crate::authn::refusal::{Reason, Refusal, Refusals};
use crate::authn::{Caller, Proof, Session};
use crate::model::{Scope, View, account};

/// A caller that is known, before it said what it serves.
#[derive(Debug)]
pub(super) struct Applicant {
    session: Session,
    views: watch::Receiver<Arc<View>>,
    refusals: Refusals,
}

/// A caller that may have what it is served.
#[derive(Debug)]
pub(super) struct Admission {
    session: Session,
    views: watch::Receiver<Arc<View>>,
    refusals: Refusals,
    node: ProxyNode,
}

impl Applicant {
    pub(super) fn new(session: Session, views: watch::Receiver<Arc<View>>, refusals: Refusals) -> Self {
        Self { session, views, refusals }
    }

    /// Who it is.
    pub(super) fn caller(&self) -> &Caller {
        self.session.caller()
    }

    /// Compares what the node says with who the caller is.
    ///
    /// # Errors
    /// Why the caller may not have it; counted and logged here. What does not exist is nobody's until it does.
    pub(super) async fn admit(mut self, node: &ProxyNode) -> Result<Admission, Refusal> {
        let what = format!("an xDS stream of {} was", self.session.caller().identity);
        // A control plane that has just started refuses nobody for what it has not read yet.
        let known = timeout(READY_LIMIT, self.views.wait_for(|view| view.generation > 0)).await;
        let judged = match known.ok().and_then(Result::ok) {
            Some(view) => agree(&view, node, self.session.caller()),
            None => Err(Refusal::new(
                Reason::NotReady,
                "the control plane has not read its objects yet: try again",
            )),
        };
        if let Err(refusal) = judged {
            self.refusals.note(&refusal, self.session.peer(), &what);
            return Err(refusal);
        }
        self.views.mark_changed();
        let Self { session, views, refusals } = self;
        Ok(Admission { session, views, refusals, node: node.clone() })
    }
}

impl Admission {
    /// Who is served.
    pub(super) fn caller(&self) -> &Caller {
        self.session.caller()
    }

    /// Resolves when the caller may no longer have what it is served. May be dropped and asked again.
    async fn lapsed(&mut self) -> Refusal {
        let refusal = loop {
            if self.views.has_changed().unwrap_or(false)
                && let Some(refusal) =
                    changed_hands(&self.views.borrow_and_update(), &self.node, self.session.caller())
            {
                break refusal;
            }
            let mut views = self.views.clone();
            tokio::select! {
                refusal = self.session.lapsed() => break refusal,
                changed = views.changed() => if changed.is_err() {
                    break self.session.lapsed().await;
                },
            }
        };
        let what = format!("the xDS stream of {} was", self.session.caller().identity);
        self.refusals.note(&refusal, self.session.peer(), &what);
        refusal
    }
}

/// Resolves when an admission ends; never without one.
pub(super) async fn lapsed(admission: Option<&mut Admission>) -> Refusal {
    match admission {
        Some(admission) => admission.lapsed().await,
        None => std::future::pending().await,
    }
}

/// Notes that a secret was asked for that the scope does not have.
pub(super) fn note_secret(admission: Option<&Admission>, node: &str, name: &str) {
    match admission {
        Some(admission) => {
            let session = &admission.session;
            let shown: String = name.chars().take(SHOWN).collect();
            let text = format!(
                "{} asked for the secret {shown}, which is not among its own",
                session.caller().identity
            );
            admission.refusals.note(
                &Refusal::new(Reason::ForeignSecret, text),
                session.peer(),
                "a secret was",
            );
        }
        None => tracing::debug!(node, "a secret was asked for on the plaintext port, which has none"),
    }
}

fn agree(view: &View, node: &ProxyNode, caller: &Caller) -> Result<(), Refusal> {
    let (namespace, name) = match &node.scope {
        Scope::Gateway { gateway, .. } => (&gateway.namespace, &gateway.name),
        Scope::Sidecar { pod, .. } => (&pod.namespace, &pod.name),
    };
    let identity = &caller.identity;
    let title = node.title();
    let own = identity.namespace_and_account();
    if own.is_none_or(|(own, _)| own != namespace) {
        // Said before anything is looked up: what exists in other namespaces is not the caller's to find out.
        return Err(Refusal::new(
            Reason::NodeIdentity,
            format!(
                "the node says that it serves the {title}, and the caller is {identity}: that is of another namespace"
            ),
        ));
    }
    let Some(account) = account::of_scope(view, &node.scope) else {
        return Err(Refusal::new(
            Reason::NodeUnknown,
            format!(
                "the node says that it serves the {title}, which does not exist: nobody may until it does. Apply it; the proxy tries again by itself"
            ),
        ));
    };
    if own != Some((namespace.as_str(), account.as_str())) {
        return Err(Refusal::new(
            Reason::NodeIdentity,
            format!(
                "the node says that it serves the {title}, whose service account is {namespace}/{account}, and the caller is {identity}: use that account's token, or correct node.metadata"
            ),
        ));
    }
    match (&caller.proof, &node.scope) {
        (Proof::Token { pod: Some(bound), .. }, Scope::Sidecar { .. }) if bound != name => Err(Refusal::new(
            Reason::TokenPod,
            format!(
                "the token is bound to the Pod {namespace}/{bound}, and the node says that it serves the {title}"
            ),
        )),
        _ => Ok(()),
    }
}

/// What is gone keeps its stream, so that the proxy is told to let go of everything; what is somebody else's now does not.
fn changed_hands(view: &View, node: &ProxyNode, caller: &Caller) -> Option<Refusal> {
    account::of_scope(view, &node.scope)?;
    let refusal = agree(view, node, caller).err()?;
    Some(Refusal::new(
        Reason::NodeChanged,
        format!("what this stream serves changed hands: {}", refusal.text),
    ))
}

/// What the names of secrets begin with that are made of Kubernetes' Secrets.
pub(super) const SECRET_OF_OBJECT: &str = "kubernetes://";

/// How much of a name is logged.
const SHOWN: usize = 300;

/// How long a stream waits for the first full read.
const READY_LIMIT: Duration = Duration::from_secs(20);
