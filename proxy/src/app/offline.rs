//! The decisions of a proxy that does not run: resources in, the answer of `POST /explain` out, by the code that serves requests.

use serde_json::Value;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::ResourceType;
use tokio::time::Instant;

use crate::compile::{Compiler, Resource, Update};
use crate::snapshot::Publisher;
use crate::telemetry::Metrics;
use crate::{admin, exchange};

/// What a proxy with these resources (type, name, body) would do with the request that `question` describes: the body of `POST /explain`,
/// `docs/authorization.md`. Nothing is sent, listened on or counted.
///
/// # Errors
/// Says which resources a proxy would refuse, or what is wrong with the question.
pub fn explain(resources: Vec<(ResourceType, String, Any)>, question: &Value) -> Result<Value, String> {
    let publisher = Publisher::new();
    let handle = publisher.handle();
    let mut compiler = Compiler::new(publisher, Metrics::new(1));
    let now = Instant::now();
    let mut refused = Vec::new();
    for kind in ResourceType::TAKEN {
        let of_kind = resources.iter().filter(|(own, _, _)| *own == kind);
        let upserts = of_kind.map(|(_, name, body)| Resource {
            name: name.clone(),
            version: String::new(),
            body: body.clone(),
        });
        let update = Update { kind, upserts: upserts.collect(), removals: Vec::new() };
        if !update.upserts.is_empty() {
            refused.extend(compiler.apply(update, now).rejections.iter().map(ToString::to_string));
        }
    }
    // What waits for something that is not among the resources waits no longer.
    if let Some(deadline) = compiler.deadline() {
        compiler.expire(deadline);
    }
    if !refused.is_empty() {
        return Err(refused.join("; "));
    }
    let snapshot = handle.current();
    let explained = snapshot.clone();
    let explain =
        move |listener: &str, asked: &exchange::Question| exchange::explain(&explained, listener, asked);
    admin::decide(&snapshot, &explain, question.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn without_a_listener_there_is_nothing_to_say() {
        let error = explain(Vec::new(), &json!({"host": "a"})).unwrap_err();
        assert_eq!(error, "there is no listener");
    }

    #[tokio::test]
    async fn a_resource_that_is_refused_is_named() {
        let body = Any { type_url: ResourceType::Listener.type_url().to_owned(), value: vec![0xff] };
        let error =
            explain(vec![(ResourceType::Listener, "l".to_owned(), body)], &json!({"host": "a"})).unwrap_err();
        assert!(error.contains("listener l"), "{error}");
    }
}
