//! One rule of an AuthorizationPolicy → one policy of Envoy's RBAC.

use sidegate_xds::envoy::config::rbac::v3::{Permission, Policy, Principal, permission, principal};

use super::{Mesh, Place, permission as permissions, principal as principals};
use crate::model::access::{Action, Attribute, Condition, Rule};

/// What a rule is compiled for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around<'a> {
    /// The policy's namespace: the one of service accounts that are named without any.
    pub(super) namespace: &'a str,
    /// Who peers are.
    pub(super) mesh: Mesh<'a>,
    /// Where it is enforced.
    pub(super) place: Place<'a>,
    /// What a match means: it decides what becomes of conditions on requests where there are only bytes.
    pub(super) action: Action,
    /// Whether there are requests.
    pub(super) http: bool,
}

impl Around<'_> {
    /// What a condition on requests means for a connection without requests: it cannot be seen to hold, so that nothing is allowed by it,
    /// and it cannot be seen not to hold, so that everything else of the rule denies.
    pub(super) fn unseen(&self) -> Option<bool> {
        (!self.http).then_some(self.action == Action::Deny)
    }
}

/// What matches whatever is asked for, by whomever.
pub(super) fn everything() -> Policy {
    Policy {
        permissions: vec![all_rules(Vec::new())],
        principals: vec![all_ids(Vec::new())],
        ..Policy::default()
    }
}

/// The rule, if it can match at this place; an error when nobody can say what it means.
pub(super) fn compile(rule: &Rule, around: Around<'_>) -> Result<Option<Policy>, String> {
    let mut conditions = Vec::with_capacity(rule.when.len());
    for condition in &rule.when {
        conditions.push((Attribute::parse(&condition.key)?, condition));
    }
    Ok(of_terms(rule, &conditions, around))
}

fn of_terms(rule: &Rule, conditions: &[(Attribute, &Condition)], around: Around<'_>) -> Option<Policy> {
    let mut everywhere = Vec::new();
    let mut everybody = Vec::new();
    for (attribute, condition) in conditions {
        if let (true, Some(unseen)) = (attribute.is_of_requests(), around.unseen()) {
            if unseen {
                continue;
            }
            return None;
        }
        match attribute {
            Attribute::DestinationIp | Attribute::DestinationPort | Attribute::Sni => {
                everywhere.extend(permissions::condition(attribute, condition, around)?);
            }
            _ => everybody.extend(principals::condition(attribute, condition, around)),
        }
    }
    let permissions =
        alternatives(rule.to.iter().map(|to| permissions::operation(&to.operation, around)), &everywhere);
    let principals =
        alternatives(rule.from.iter().map(|from| principals::source(&from.source, around)), &everybody);
    let permissions: Vec<Permission> = permissions?.into_iter().map(all_rules).collect();
    let principals: Vec<Principal> = principals?.into_iter().map(all_ids).collect();
    Some(Policy { permissions, principals, ..Policy::default() })
}

/// What must hold together, for each alternative: its own and what holds for all. `None` when there are alternatives and none can match.
fn alternatives<T: Clone>(
    own: impl ExactSizeIterator<Item = Option<Vec<T>>>,
    all: &[T],
) -> Option<Vec<Vec<T>>> {
    if own.len() == 0 {
        return Some(vec![all.to_vec()]);
    }
    let mut possible = Vec::new();
    for mut terms in own.flatten() {
        terms.extend_from_slice(all);
        possible.push(terms);
    }
    (!possible.is_empty()).then_some(possible)
}

/// The values of a field and of its not-form as terms that must hold together.
pub(super) fn terms<T>(
    values: &[String],
    not_values: &[String],
    make: impl Fn(&str) -> T,
    any: impl Fn(Vec<T>) -> T,
    not: impl Fn(T) -> T,
) -> Vec<T> {
    let mut terms = Vec::new();
    for (values, negated) in [(values, false), (not_values, true)] {
        if !values.is_empty() {
            let one_of = any(values.iter().map(|value| make(value)).collect());
            terms.push(if negated { not(one_of) } else { one_of });
        }
    }
    terms
}

/// As [`terms`], of a condition.
pub(super) fn terms_of<T>(
    condition: &Condition,
    make: impl Fn(&str) -> T,
    any: impl Fn(Vec<T>) -> T,
    not: impl Fn(T) -> T,
) -> Vec<T> {
    terms(&condition.values, &condition.not_values, make, any, not)
}

fn all_rules(mut rules: Vec<Permission>) -> Permission {
    let rule = match (rules.pop(), rules.len()) {
        (None, _) => permission::Rule::Any(true),
        (Some(only), 0) => return only,
        (Some(last), _) => {
            rules.push(last);
            permission::Rule::AndRules(permission::Set { rules })
        }
    };
    Permission { rule: Some(rule) }
}

fn all_ids(mut ids: Vec<Principal>) -> Principal {
    let identifier = match (ids.pop(), ids.len()) {
        (None, _) => principal::Identifier::Any(true),
        (Some(only), 0) => return only,
        (Some(last), _) => {
            ids.push(last);
            principal::Identifier::AndIds(principal::Set { ids })
        }
    };
    Principal { identifier: Some(identifier) }
}
