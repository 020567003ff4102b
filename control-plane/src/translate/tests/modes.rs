//! MeshTLSPolicy: which mode holds where, and what is said of policies that hold nowhere.

use super::fixture::{Shown, secure_sidecar};

/// Pods `shop/web-1` and `shop/bare`, the second without a sidecar; Service `shop/web` in front of the first.
const PODS: &str = r#"
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web, tier: front}, annotations: {sidegate.dev/inbound: "8080:15006,9090:15007"}}
spec: {containers: []}
status: {podIP: 10.0.0.1}
---
kind: Pod
metadata: {name: bare, namespace: shop, labels: {tier: front}}
status: {podIP: 10.0.0.2}
"#;

fn policy(namespace: &str, name: &str, created: &str, spec: &str) -> String {
    format!(
        "---\nkind: MeshTLSPolicy\nmetadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{created}'}}\nspec: {{{spec}}}\n"
    )
}

const OLD: &str = "2020-01-01T00:00:00Z";
const NEW: &str = "2024-01-01T00:00:00Z";

fn shown(policies: &str) -> Shown {
    secure_sidecar(&(PODS.to_owned() + policies), "shop", "web-1")
}

/// The modes of the Pod's two ports, told by the chains of their listeners.
fn modes(shown: &Shown) -> [&'static str; 2] {
    [15006, 15007].map(|port| {
        let listener = shown.listener(&format!("inbound|{port}||"));
        match (listener.filter_chains.len(), listener.default_filter_chain.is_some()) {
            (3, false) => "PERMISSIVE",
            (1, false) => "STRICT",
            (0, true) => "DISABLE",
            other => panic!("{other:?}"),
        }
    })
}

#[test]
fn the_most_specific_policy_holds() {
    let mesh = policy("sidegate-system", "all", OLD, "mode: STRICT");
    let namespace = policy("shop", "all", OLD, "mode: DISABLE");
    let service =
        policy("shop", "web", OLD, "targetRefs: [{group: '', kind: Service, name: web}], mode: PERMISSIVE");
    let labels = policy("shop", "web", OLD, "selector: {matchLabels: {app: web}}, mode: STRICT");
    let port = policy(
        "shop",
        "web",
        OLD,
        "selector: {matchLabels: {app: web}}, mode: STRICT, ports: {'9090': {mode: DISABLE}}",
    );
    let only_port = policy(
        "shop",
        "web",
        OLD,
        "selector: {matchLabels: {app: web}}, ports: {'9090': {mode: PERMISSIVE}}",
    );
    let own =
        policy("shop", "all", OLD, "targetRefs: [{group: '', kind: Namespace, name: shop}], mode: DISABLE");
    let elsewhere = policy("away", "all", OLD, "mode: STRICT");
    let table = [
        (String::new(), ["PERMISSIVE", "PERMISSIVE"]),
        (elsewhere.clone(), ["PERMISSIVE", "PERMISSIVE"]),
        (mesh.clone(), ["STRICT", "STRICT"]),
        (mesh.clone() + &namespace + &elsewhere, ["DISABLE", "DISABLE"]),
        (mesh.clone() + &own, ["DISABLE", "DISABLE"]),
        (mesh.clone() + &namespace + &service, ["PERMISSIVE", "PERMISSIVE"]),
        (mesh.clone() + &namespace + &labels, ["STRICT", "STRICT"]),
        (mesh.clone() + &namespace + &port, ["STRICT", "DISABLE"]),
        // What a workload's policy leaves open is its namespace's, or the mesh's, to say.
        (mesh.clone() + &namespace + &only_port, ["DISABLE", "PERMISSIVE"]),
        (mesh + &only_port, ["STRICT", "PERMISSIVE"]),
    ];
    for (policies, expected) in table {
        let shown = shown(&policies);
        assert_eq!(modes(&shown), expected, "{policies}");
        assert!(shown.0.verdicts.iter().all(|verdict| verdict.status), "{:?}", shown.0.verdicts);
    }
}

#[test]
fn the_older_policy_wins_and_the_other_says_so() {
    let labels = "selector: {matchLabels: {app: web}}";
    let service = "targetRefs: [{group: '', kind: Service, name: web}]";
    for (place, target) in [("sidegate-system", ""), ("shop", ""), ("shop", labels), ("shop", service)] {
        let spec = |mode: &str| {
            if target.is_empty() { format!("mode: {mode}") } else { format!("{target}, mode: {mode}") }
        };
        let shown =
            shown(&(policy(place, "a", NEW, &spec("STRICT")) + &policy(place, "b", OLD, &spec("DISABLE"))));
        assert_eq!(modes(&shown), ["DISABLE", "DISABLE"], "{place} {target}");
        assert_eq!(shown.said(&format!("MeshTLSPolicy {place}/b")), ["Accepted=true Accepted"]);
        assert_eq!(shown.said(&format!("MeshTLSPolicy {place}/a")), ["Accepted=false Conflicted"]);
        let message = shown.message("Conflicted");
        assert!(message.contains(&format!("MeshTLSPolicy {place}/b, which is older")), "{message}");
    }
}

#[test]
fn what_a_policy_cannot_do_is_said() {
    let shown = shown(
        &(policy("shop", "gone", OLD, "targetRefs: [{group: '', kind: Service, name: gone}], mode: STRICT")
            + &policy(
                "shop",
                "away",
                OLD,
                "targetRefs: [{group: '', kind: Namespace, name: away}], mode: STRICT",
            )
            + &policy(
                "shop",
                "kind",
                OLD,
                "targetRefs: [{group: apps, kind: Deployment, name: web}], mode: STRICT",
            )
            + &policy("shop", "tier", OLD, "selector: {matchLabels: {tier: front}}, mode: STRICT")),
    );
    assert_eq!(shown.said("MeshTLSPolicy shop/gone"), ["Accepted=false TargetNotFound"]);
    assert_eq!(shown.said("MeshTLSPolicy shop/away"), ["Accepted=false Invalid"]);
    assert_eq!(shown.said("MeshTLSPolicy shop/kind"), ["Accepted=false Invalid"]);
    // Nobody stands in front of one of its Pods to enforce it.
    assert_eq!(
        shown.said("MeshTLSPolicy shop/tier"),
        ["Accepted=true Accepted", "PartiallyInvalid=true NoSidecar"]
    );
    assert!(shown.message("NoSidecar").contains("Pod shop/bare:"), "{}", shown.message("NoSidecar"));
    assert_eq!(modes(&shown), ["STRICT", "STRICT"]);
}
