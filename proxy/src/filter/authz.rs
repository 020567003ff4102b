//! Who may do what: Envoy's RBAC, as an HTTP filter and as a network filter.
//!
//! Rules are compiled once (`compile::authz`); here they are asked. Nothing of the wire is known here, and nothing is guessed: what
//! cannot be judged counts as matching where policies deny, and as not matching where they allow ([`Truth`]).

use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value};

use super::{Context, Reply};
use crate::error::Reason;
use crate::telemetry::{Authorized, Recorder};

mod address;
mod facts;
mod field;
mod gate;
mod index;
mod path;
mod rule;
mod template;
mod text;
mod truth;
mod value;

pub(crate) use address::Range;
pub(crate) use facts::{Facts, Peer};
pub(crate) use field::{FieldName, FieldRule, FieldTest};
pub(crate) use gate::{Gate, Keeper};
pub(crate) use index::MOST_POLICIES;
pub(crate) use path::PathTest;
pub(crate) use rule::Rule;
pub(crate) use template::Template;
pub(crate) use text::Text;
pub(crate) use truth::Truth;
pub(crate) use value::{AttributeRule, ValueTest};

use index::{Index, WORDS};

/// `RBAC`, of either kind.
#[derive(Debug)]
pub(crate) struct Rbac {
    /// `rules`; without them nothing is enforced.
    pub(crate) rules: Option<Policies>,
    /// `shadow_rules`: a dry run.
    pub(crate) shadow: Option<Policies>,
    /// `rules_stat_prefix`.
    pub(crate) prefix: Arc<str>,
    /// `shadow_rules_stat_prefix`.
    pub(crate) shadow_prefix: Arc<str>,
}

/// A set of policies and what they are for.
#[derive(Debug)]
pub(crate) struct Policies {
    action: Action,
    /// By name, ascending.
    policies: Box<[Policy]>,
    index: Index,
}

/// What a matching policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// It allows; what no policy allows is denied.
    Allow,
    /// It denies; what no policy denies is allowed.
    Deny,
    /// It makes a note.
    Log,
}

/// `Policy`.
#[derive(Debug)]
pub(crate) struct Policy {
    /// Its name; ours are `<namespace>/<name>/rule/<n>`.
    pub(crate) name: Arc<str>,
    /// What is asked for.
    pub(crate) permission: Rule,
    /// Who asks.
    pub(crate) principal: Rule,
}

/// What a set of policies says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict<'a> {
    /// Whether it may pass.
    pub(crate) allowed: bool,
    /// What the policies do.
    pub(crate) action: Action,
    /// The policy that settled it.
    pub(crate) policy: Option<&'a Arc<str>>,
    /// The first policy that could not be judged, if that made the difference.
    pub(crate) unclear: Option<&'a Arc<str>>,
}

/// So few policies are asked without looking for fewer.
const ENOUGH: usize = 2;

/// Words that hold the policies of most filters.
const FEW: usize = 4;

impl Policies {
    /// A set of policies; they are asked in the order of their names.
    pub(crate) fn new(action: Action, mut policies: Vec<Policy>) -> Self {
        policies.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let index = Index::of(policies.iter().map(|policy| [&policy.permission, &policy.principal]));
        Self { action, policies: policies.into(), index }
    }

    /// What they say. The first policy that matches settles it, as in Envoy.
    pub(crate) fn decide(&self, facts: &Facts<'_>) -> Verdict<'_> {
        if self.policies.len() <= FEW * 64 {
            self.decide_among::<FEW>(facts)
        } else {
            self.decide_among::<WORDS>(facts)
        }
    }

    fn decide_among<const N: usize>(&self, facts: &Facts<'_>) -> Verdict<'_> {
        let mut unclear = None;
        for number in self.index.candidates::<N>(facts, ENOUGH).iter() {
            let Some(policy) = self.policies.get(number) else { break };
            let truth =
                Truth::all([&policy.principal, &policy.permission].into_iter().map(|rule| rule.judge(facts)));
            match (truth, self.action) {
                (Truth::No, _) => {}
                (Truth::Unclear, Action::Allow) => unclear = unclear.or(Some(&policy.name)),
                (Truth::Yes | Truth::Unclear, action) => {
                    let name = Some(&policy.name);
                    let unclear = name.filter(|_| truth == Truth::Unclear);
                    return Verdict { allowed: action != Action::Deny, action, policy: name, unclear };
                }
            }
        }
        Verdict { allowed: self.action != Action::Allow, action: self.action, policy: None, unclear }
    }

    /// Whether any of them asks for the name that a TLS client wants to reach.
    pub(crate) fn ask_server_name(&self) -> bool {
        let rules = self.policies.iter().flat_map(|policy| [&policy.permission, &policy.principal]);
        rules.into_iter().any(Rule::asks_server_name)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Log => "LOG",
        })
    }
}

/// For the operator: the first word is what Envoy says in `%RESPONSE_CODE_DETAILS%`.
impl fmt::Display for Verdict<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.policy.map_or("none", |policy| policy);
        formatter.write_str(if self.allowed {
            "rbac_access_allowed_matched_policy["
        } else {
            "rbac_access_denied_matched_policy["
        })?;
        for character in name.chars() {
            // As Envoy does, so that it stays one word.
            fmt::Write::write_char(formatter, if character.is_whitespace() { '_' } else { character })?;
        }
        write!(formatter, "] ({})", self.action)?;
        match (self.action, self.unclear) {
            (_, None) => Ok(()),
            (Action::Allow, Some(policy)) => {
                write!(formatter, ", policy {policy} would, but the request can be read in more than one way")
            }
            (_, Some(_)) => formatter.write_str(", because the request can be read in more than one way"),
        }
    }
}

/// What both sets of policies say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judgement<'a> {
    /// The policies in force.
    pub(crate) enforced: Option<Verdict<'a>>,
    /// Those of the dry run.
    pub(crate) shadow: Option<Verdict<'a>>,
}

impl Judgement<'_> {
    /// Why it is denied; `None` when it is not.
    pub(crate) fn denial(&self, filter: &str) -> Option<String> {
        let verdict = self.enforced.filter(|verdict| !verdict.allowed)?;
        Some(match self.shadow_note(filter) {
            None => format!("{verdict} by {filter}"),
            Some(note) => format!("{verdict} by {filter}; {note}"),
        })
    }

    /// What the dry run would deny.
    pub(crate) fn shadow_note(&self, filter: &str) -> Option<String> {
        let verdict = self.shadow.filter(|verdict| !verdict.allowed)?;
        Some(format!("dry run of {filter}: {verdict}"))
    }

    /// Notes what was decided. `http`: which of the two filters it is; `owner` is what its statistics are called after.
    pub(crate) fn count(&self, rbac: &Rbac, http: bool, owner: &Arc<str>, recorder: &Recorder) {
        let told = [(self.enforced, &rbac.prefix, false), (self.shadow, &rbac.shadow_prefix, true)];
        for (verdict, prefix, shadow) in told {
            if let Some(Verdict { allowed, .. }) = verdict {
                recorder.authorized(&Authorized { http, owner, prefix, allowed, shadow });
            }
        }
    }

    /// What filters behind this one are told, under the names that Envoy has for it: the result of a dry run (Istio asks for external
    /// authorization by it), and whether a LOG policy wants the request logged.
    fn tell(&self, rbac: &Rbac, context: &mut Context<'_>) {
        if let Some(shadow) = &self.shadow {
            let mut fields = Map::new();
            let result = if shadow.allowed { "allowed" } else { "denied" };
            fields.insert(format!("{}shadow_engine_result", rbac.shadow_prefix), Value::from(result));
            if let Some(policy) = shadow.policy {
                let name = format!("{}shadow_effective_policy_id", rbac.shadow_prefix);
                fields.insert(name, Value::from(&**policy));
            }
            context.attributes.merge(FILTER, fields);
        }
        if let Some(Verdict { action: Action::Log, policy, .. }) = self.enforced {
            let hint = ("access_log_hint".to_owned(), Value::from(policy.is_some()));
            context.attributes.merge("envoy.common", Map::from_iter([hint]));
        }
    }
}

/// The name under which it speaks to other filters, whatever the configuration calls it.
const FILTER: &str = "envoy.filters.http.rbac";

impl Rbac {
    /// What it says; nothing is counted or told.
    pub(crate) fn judge(&self, facts: &Facts<'_>) -> Judgement<'_> {
        Judgement {
            enforced: self.rules.as_ref().map(|rules| rules.decide(facts)),
            shadow: self.shadow.as_ref().map(|rules| rules.decide(facts)),
        }
    }

    /// Decides about a request.
    pub(super) fn on_request(&self, filter: &str, context: &mut Context<'_>) -> Option<Reply> {
        let facts = Facts::of_connection(context.connection, context.direct, Some(""));
        let judgement = self.judge(&facts.with_request(context.head, context.attributes, context.client));
        judgement.count(self, true, &context.connection.stat_prefix, context.recorder);
        judgement.tell(self, context);
        if let Some(detail) = judgement.denial(filter) {
            return Some(Reply {
                reason: Reason::AccessDenied,
                status: StatusCode::FORBIDDEN,
                headers: Vec::new(),
                detail: Some(detail),
            });
        }
        if let Some(note) = judgement.shadow_note(filter) {
            tracing::debug!(listener = &*context.connection.listener, "{note}");
            context.notes.push(note);
        }
        None
    }

    /// Whether it has no rules at all.
    pub(crate) fn is_idle(&self) -> bool {
        self.rules.is_none() && self.shadow.is_none()
    }

    /// Whether any rule asks for the name that a TLS client wants to reach.
    pub(crate) fn asks_server_name(&self) -> bool {
        self.rules.iter().chain(&self.shadow).any(Policies::ask_server_name)
    }
}

#[cfg(test)]
mod tests;
