//! What the RBAC filters say of a question.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::Question;
use crate::filter::authz::{Facts, Gate, Judgement, Peer, Verdict};
use crate::filter::{self, Attributes, Kind};
use crate::message::RequestHead;
use crate::route::Route;
use crate::snapshot::Http;

/// What was said so far.
#[derive(Debug)]
pub(super) struct Judged<'a> {
    question: &'a Question,
    destination: SocketAddr,
    /// By each filter, in their order, up to the first that denies.
    pub(super) list: Vec<Value>,
    /// The decision, when one denies.
    pub(super) denial: Option<Value>,
}

impl<'a> Judged<'a> {
    /// By the network filters.
    pub(super) fn of_connection(gate: &Gate, question: &'a Question, destination: SocketAddr) -> Self {
        let mut judged = Self { question, destination, list: Vec::new(), denial: None };
        for (keeper, judgement) in gate.judge(&judged.facts()) {
            judged.add(&keeper.name, "network", &judgement);
        }
        judged
    }

    fn facts(&self) -> Facts<'a> {
        let uris = self.question.peer.as_slice();
        let peer =
            (!uris.is_empty()).then_some(Peer { uris, dns: &[], emails: &[], subject: "", doubtful: false });
        Facts::supposed(peer, self.question.server_name.as_deref(), self.question.source, self.destination)
    }

    /// By the HTTP filters in force on the route, unless the connection is denied already.
    pub(super) fn add_request(&mut self, http: &Http, route: &Route, head: &RequestHead, client: IpAddr) {
        let mut attributes = Attributes::default();
        if let Some(claims) = &self.question.claims {
            attributes.set("envoy.filters.http.jwt_authn".into(), json!({ "payload": claims }));
        }
        let facts = self.facts().with_request(head, &attributes, client);
        for (name, kind) in filter::in_force(&http.filters, &route.filters) {
            if let (Kind::Rbac(rbac), None) = (kind, &self.denial) {
                self.add(name, "http", &rbac.judge(&facts));
            }
        }
    }

    fn add(&mut self, filter: &str, kind: &str, judgement: &Judgement<'_>) {
        let mut said = judgement.enforced.as_ref().map_or_else(|| json!({ "decision": "none" }), told);
        said["filter"] = json!(filter);
        said["kind"] = json!(kind);
        said["shadow"] = judgement.shadow.as_ref().map_or(Value::Null, told);
        if let Some(verdict) = judgement.enforced.filter(|verdict| !verdict.allowed) {
            let status = (kind == "http").then_some(403);
            self.denial = Some(json!({
                "denied": "access_denied",
                "status": status,
                "filter": filter,
                "policy": verdict.policy.map(|policy| &**policy),
            }));
        }
        self.list.push(said);
    }
}

fn told(verdict: &Verdict<'_>) -> Value {
    json!({
        "decision": if verdict.allowed { "allowed" } else { "denied" },
        "action": verdict.action.to_string(),
        "policy": verdict.policy.map(|policy| &**policy),
        // Of this one nobody can say whether it is meant.
        "unclear": verdict.unclear.map(|policy| &**policy),
    })
}
