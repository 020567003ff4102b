//! Routes that lead nowhere because what they name as their parent does not exist. No proxy serves such a parent, so
//! no translation speaks of it.

use crate::model::{Kind, Name, ObjectKey, Verdict, View};

/// A parentRef with its defaults filled in.
struct Parent<'v> {
    group: &'v str,
    kind: &'v str,
    name: Name,
}

impl<'v> Parent<'v> {
    fn new(
        route: &Name,
        (group, kind): (Option<&'v str>, Option<&'v str>),
        namespace: Option<&str>,
        name: &str,
    ) -> Self {
        Self {
            group: group.unwrap_or(Kind::Gateway.group()),
            kind: kind.unwrap_or(Kind::Gateway.name()),
            name: Name::new(namespace.unwrap_or(&route.namespace), name),
        }
    }
}

/// The parents in a view that do not exist, unless something was said of them already.
pub(super) fn missing(view: &View, said: &[Verdict]) -> Vec<Verdict> {
    let mut missing = Vec::new();
    for (name, route) in &view.http_routes {
        let parents = route.spec.parent_refs.iter().flatten().map(|parent| {
            let group_and_kind = (parent.group.as_deref(), parent.kind.as_deref());
            Parent::new(name, group_and_kind, parent.namespace.as_deref(), &parent.name)
        });
        missing.extend(of_route(view, said, Kind::HttpRoute, name, parents));
    }
    for (name, route) in &view.grpc_routes {
        let parents = route.spec.parent_refs.iter().flatten().map(|parent| {
            let group_and_kind = (parent.group.as_deref(), parent.kind.as_deref());
            Parent::new(name, group_and_kind, parent.namespace.as_deref(), &parent.name)
        });
        missing.extend(of_route(view, said, Kind::GrpcRoute, name, parents));
    }
    missing
}

fn of_route<'v>(
    view: &View,
    said: &[Verdict],
    kind: Kind,
    name: &Name,
    parents: impl Iterator<Item = Parent<'v>>,
) -> Vec<Verdict> {
    let object = ObjectKey { kind, name: name.clone() };
    let generation = view.object(&object).and_then(|object| object.metadata().generation).unwrap_or(0);
    let verdict = |message: String| Verdict {
        object: object.to_string(),
        generation,
        condition: "Accepted".to_owned(),
        status: false,
        reason: "NoMatchingParent".to_owned(),
        message,
    };
    let mut count = 0;
    let mut missing = Vec::new();
    for (position, parent) in parents.enumerate() {
        count += 1;
        let field = format!("spec.parentRefs[{position}]");
        let is_said = said.iter().any(|verdict| {
            !verdict.status && verdict.object == object.to_string() && verdict.message.contains(&field)
        });
        if let Some(problem) = problem(view, &parent).filter(|_| !is_said) {
            missing.push(verdict(format!("{field}: {problem}")));
        }
    }
    if count == 0 {
        missing.push(verdict("spec.parentRefs: none, so the route is in force nowhere".to_owned()));
    }
    missing
}

fn problem(view: &View, parent: &Parent<'_>) -> Option<String> {
    let Parent { group, kind, name } = parent;
    let exists = match (*group, *kind) {
        (group, "Gateway") if group == Kind::Gateway.group() => view.gateways.contains_key(name),
        ("", "Service") => view.services.contains_key(name),
        _ => {
            return Some(format!(
                "kind {kind:?} of group {group:?} cannot be a parent; Gateway and Service can"
            ));
        }
    };
    if exists { None } else { Some(format!("{kind} {name} does not exist")) }
}
