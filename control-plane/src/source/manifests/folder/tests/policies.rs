//! What keeps somebody out must not go by a slip of the pen, whatever else does.

use super::*;
use crate::source::manifests::standing::THE_OTHER;

fn policy(name: &str, action: &str) -> String {
    format!(
        "apiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{action: {action}}}\n---\n"
    )
}

impl Scene {
    fn policies(&mut self) -> Vec<String> {
        self.settle();
        self.view
            .authorization_policies
            .keys()
            .map(|name| format!("{}/{}", name.namespace, name.name))
            .collect()
    }

    /// Another start over the same folder.
    fn started_anew(self) -> Self {
        let Self { directory, .. } = self;
        Self { directory, ..Self::new() }
    }
}

#[test]
fn a_policy_whose_name_is_mistyped_stays_in_force() {
    for wrong in ["namespace: Shop", "namespace: store, ports: 1", "namspace: shop"] {
        let mut scene = Scene::new();
        scene.write("policy.yaml", &policy("cat", "DENY"));
        assert_eq!(scene.policies(), ["shop/cat"]);
        scene.write("policy.yaml", &policy("cat", "DENY").replace("namespace: shop", wrong));
        assert_eq!(scene.policies(), ["shop/cat"], "{wrong}");
        fs::remove_file(scene.path("policy.yaml")).unwrap();
        assert!(scene.policies().is_empty(), "{wrong}");
    }
}

#[test]
fn after_a_start_what_may_be_a_policy_holds_everything_back_until_it_is_mended() {
    let unusable = policy("cat", "DENYY");
    let torn = format!("{}: : {{\n", policy("cat", "DENY"));
    let not_known = policy("cat", "DENY").replace("AuthorizationPolicy", "AuthorisationPolicy");
    for broken in [unusable, torn, not_known] {
        let mut scene = Scene::new();
        scene.write("policy.yaml", &policy("cat", "DENY"));
        scene.write("web.yaml", &service("web", "1"));
        assert_eq!(scene.policies(), ["shop/cat"]);
        scene.write("policy.yaml", &broken);
        assert_eq!(scene.policies(), ["shop/cat"]);
        assert!(!scene.view.held_back, "the last good form is known: {broken}");
        let mut scene = scene.started_anew();
        scene.settle();
        assert!(scene.view.held_back, "{broken}");
        let (file, _, in_force) = scene.findings().remove(0);
        assert_eq!((&*file, in_force.contains("no proxy is told anything")), ("policy.yaml", true));
        scene.write("policy.yaml", &policy("cat", "DENY"));
        assert_eq!(scene.policies(), ["shop/cat"]);
        assert!(!scene.view.held_back && scene.findings().is_empty());
        // Only a start is without last good forms.
        scene.write("other.yaml", &broken.replace("name: cat", "name: dog"));
        assert_eq!(scene.policies().first().map(String::as_str), Some("shop/cat"));
        assert!(!scene.view.held_back, "{broken}");
    }
}

#[test]
fn what_cannot_be_a_policy_holds_nothing_back() {
    let mut scene = Scene::new();
    scene.write("values.yaml", "replicas: 2\n");
    scene.write("web.yaml", &service("web", "1").replace("port: 80", "port: eighty"));
    scene.settle();
    assert!(!scene.view.held_back && scene.findings().len() == 2, "{:?}", scene.findings());
}

#[test]
fn a_broken_copy_hides_no_whole_one() {
    let mut scene = Scene::new();
    scene.write("a-copy.yaml", &policy("cat", "DENYY"));
    scene.write("policy.yaml", &policy("cat", "DENY"));
    assert_eq!(scene.policies(), ["shop/cat"]);
    assert!(!scene.view.held_back);
    assert_eq!(scene.findings(), [("a-copy.yaml".to_owned(), 1, THE_OTHER.to_owned())]);
    // The whole one is followed.
    scene.write("policy.yaml", &policy("cat", "ALLOW"));
    scene.settle();
    let policy = scene.view.authorization_policies.values().next().unwrap();
    assert_eq!(policy.spec.action, crate::model::access::Action::Allow);
}
