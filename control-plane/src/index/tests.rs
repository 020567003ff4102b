//! Batches in, views out.

use k8s_openapi::api::core::v1::{Namespace, Service};

use super::*;
use crate::model::{Finding, Name};

fn service(name: &str, label: &str) -> Object {
    let mut service = Service::default();
    service.metadata.namespace = Some("shop".to_owned());
    service.metadata.name = Some(name.to_owned());
    service.metadata.labels = Some(BTreeMap::from([("v".to_owned(), label.to_owned())]));
    Object::Service(Arc::new(service))
}

fn batch(changes: impl IntoIterator<Item = Change>) -> Batch {
    Batch { changes: changes.into_iter().collect(), findings: Vec::new(), held_back: false }
}

fn web() -> ObjectKey {
    service("web", "").key()
}

#[test]
fn each_change_is_one_generation() {
    let mut index = Index::default();
    let first = index.apply(batch([])).expect("the first batch always makes a view");
    assert_eq!((first.generation, first.services.len()), (1, 0));

    let second =
        index.apply(batch([Change::Apply(service("web", "1")), Change::Apply(service("api", "1"))])).unwrap();
    assert_eq!((second.generation, second.services.len()), (2, 2));
    assert_eq!(first.services.len(), 0, "a view that was handed out never changes");

    let third = index.apply(batch([Change::Delete(web())])).unwrap();
    assert_eq!((third.generation, third.services.len()), (3, 1));
}

#[test]
fn what_changes_nothing_makes_no_view() {
    let mut index = Index::default();
    index.apply(batch([Change::Apply(service("web", "1"))])).unwrap();
    assert!(index.apply(batch([])).is_none());
    assert!(index.apply(batch([Change::Apply(service("web", "1"))])).is_none());
    assert!(index.apply(batch([Change::Delete(service("api", "1").key())])).is_none());
}

#[test]
fn changes_of_one_batch_count_in_order() {
    let mut index = Index::default();
    index.apply(batch([Change::Apply(service("web", "1"))])).unwrap();
    let view = index.apply(batch([Change::Delete(web()), Change::Apply(service("web", "1"))])).unwrap();
    assert_eq!(view.services.len(), 1);
    let view = index.apply(batch([Change::Apply(service("web", "2")), Change::Delete(web())])).unwrap();
    assert_eq!(view.services.len(), 0);
}

#[test]
fn findings_are_replaced_and_are_a_change() {
    let mut index = Index::default();
    index.apply(batch([])).unwrap();
    let finding = Finding {
        file: "a.yaml".to_owned(),
        document: 1,
        object: None,
        field: None,
        message: "broken".to_owned(),
        in_force: "nothing".to_owned(),
    };
    let with = || Batch { changes: Vec::new(), findings: vec![finding.clone()], held_back: false };
    assert_eq!(index.apply(with()).unwrap().findings.len(), 1);
    assert!(index.apply(with()).is_none());
    assert!(index.apply(batch([])).unwrap().findings.is_empty());
}

#[test]
fn objects_that_did_not_change_are_shared_between_views() {
    let mut index = Index::default();
    let first = index.apply(batch([Change::Apply(service("web", "1"))])).unwrap();
    let second = index.apply(batch([Change::Apply(service("api", "1"))])).unwrap();
    let name = Name::new("shop", "web");
    assert!(Arc::ptr_eq(&first.services[&name], &second.services[&name]));
}

#[test]
fn cluster_scoped_objects_have_no_namespace() {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some("shop".to_owned());
    namespace.metadata.namespace = Some("ignored".to_owned());
    let object = Object::Namespace(Arc::new(namespace));
    assert_eq!(object.key().name, Name::new("", "shop"));
    let mut index = Index::default();
    let view = index.apply(batch([Change::Apply(object.clone())])).unwrap();
    assert_eq!(view.object(&object.key()), Some(object.clone()));
    let view = index.apply(batch([Change::Delete(object.key())])).unwrap();
    assert!(view.namespaces.is_empty());
}

#[tokio::test]
async fn the_task_publishes_the_newest_view_and_ends_with_its_source() {
    let (tx, rx) = mpsc::channel(4);
    let (views, mut seen) = watch::channel(Arc::new(View::default()));
    let task = tokio::spawn(run(rx, views));
    tx.send(batch([Change::Apply(service("web", "1"))])).await.unwrap();
    seen.changed().await.unwrap();
    assert_eq!(seen.borrow_and_update().generation, 1);
    tx.send(batch([])).await.unwrap();
    tx.send(batch([Change::Delete(web())])).await.unwrap();
    seen.changed().await.unwrap();
    assert_eq!(seen.borrow_and_update().generation, 2);
    drop(tx);
    task.await.unwrap();
}
