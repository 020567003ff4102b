//! Policies that cannot be sent, or that reach nobody: which verdicts say so, and what holds instead.

use super::access::{POD, at_pod, policy, rules};
use super::fixture::{GATEWAY, SERVICES, gateway};

#[test]
fn a_target_that_is_not_there_is_named() {
    let shown = at_pod(&policy("shop", "p", "{targetRefs: [{group: '', kind: Service, name: nobody}]}"));
    assert_eq!(shown.said("AuthorizationPolicy shop/p"), ["Accepted=false TargetNotFound"]);
}

#[test]
fn a_rule_that_cannot_be_sent_is_closed() {
    // Validation refuses such templates; what came by another way must not freeze a listener.
    let template =
        "rules: [{to: [{operation: {paths: ['/\u{fc}/{*}']}}]}, {to: [{operation: {paths: [/b]}}]}]";
    let shown = at_pod(&policy("shop", "p", &format!("{{action: DENY, {template}}}")));
    assert_eq!(rules(&shown, 15006), ["deny shop/p/rule/0: any | any", "deny shop/p/rule/1: path /b | any"]);
    assert_eq!(shown.said("AuthorizationPolicy shop/p"), ["Accepted=false NotSent"]);
    assert!(shown.message("NotSent").starts_with("spec.rules[0] cannot be sent: "));
    let shown = at_pod(&policy("shop", "p", &format!("{{{template}}}")));
    assert_eq!(rules(&shown, 15006), ["allow shop/p/rule/1: path /b | any"]);
    for (action, left) in [("ALLOW", &["allow nothing"][..]), ("AUDIT", &[])] {
        let unknown = format!("{{action: {action}, rules: [{{when: [{{key: nothing, values: [a]}}]}}]}}");
        let shown = at_pod(&policy("shop", "p", &unknown));
        assert_eq!(rules(&shown, 15006), left);
        assert_eq!(shown.said("AuthorizationPolicy shop/p"), ["Accepted=false NotSent"]);
    }
}

#[test]
fn a_filter_has_so_many_policies() {
    let many: String = (0..9)
        .map(|number| {
            let rules = "{to: [{operation: {paths: [/a]}}]},".repeat(500);
            policy("shop", &format!("p{number}"), &format!("{{action: DENY, rules: [{rules}]}}"))
        })
        .collect();
    let shown = at_pod(&many);
    let rules = rules(&shown, 15006);
    assert_eq!(rules.len(), 4_096);
    assert_eq!(rules.iter().filter(|rule| rule.ends_with(": any | any")).count(), 1);
    assert_eq!(shown.said("AuthorizationPolicy shop/p8"), ["Accepted=false NotSent"]);
    assert_eq!(shown.said("AuthorizationPolicy shop/p0"), ["Accepted=true Accepted"]);
}

#[test]
fn a_policy_that_protects_nobody_says_so() {
    let bare = "---\nkind: Pod\nmetadata: {name: bare, namespace: shop, labels: {app: bare}}\nspec: {containers: []}\n\
        ---\nkind: Service\nmetadata: {name: bare, namespace: shop}\nspec: {selector: {app: bare}, ports: [{port: 80}]}\n\
        ---\nkind: Service\nmetadata: {name: outside, namespace: shop}\nspec: {ports: [{port: 80}]}\n";
    let service = |name: &str| format!("targetRefs: [{{group: '', kind: Service, name: {name}}}]");
    for (attachment, said) in [
        ("selector: {matchLabels: {app: web}}".to_owned(), "Accepted=true Accepted"),
        ("selector: {matchLabels: {}}".to_owned(), "Accepted=true Accepted,PartiallyInvalid=true NoSidecar"),
        ("selector: {matchLabels: {app: bare}}".to_owned(), "Accepted=false NoSidecar"),
        ("selector: {matchLabels: {app: nobody}}".to_owned(), "Accepted=false NoWorkload"),
        (service("front"), "Accepted=true Accepted"),
        (service("bare"), "Accepted=false NoSidecar"),
        (service("outside"), "Accepted=false Invalid"),
    ] {
        let shown = at_pod(&(bare.to_owned() + &policy("shop", "p", &format!("{{{attachment}}}"))));
        assert_eq!(shown.said("AuthorizationPolicy shop/p").join(","), said, "{attachment}");
    }
    // A Gateway has no labels that a selector could meet.
    let edge = policy("edge", "p", "{selector: {matchLabels: {app: public}}}");
    let shown = gateway(&(GATEWAY.to_owned() + SERVICES + POD + &edge));
    assert!(shown.message("NoWorkload").contains("a Gateway is reached by targetRefs"));
}

#[test]
fn a_service_that_leads_to_no_port_of_a_sidecar_protects_all_of_them() {
    let service = "---\nkind: Service\nmetadata: {name: slip, namespace: shop}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: htpp}]}\n";
    let deny = policy(
        "shop",
        "p",
        "{action: DENY, targetRefs: [{group: '', kind: Service, name: slip}], rules: [{to: [{operation: {paths: [/b]}}]}]}",
    );
    let shown = at_pod(&(service.to_owned() + &deny));
    for port in [15006, 15007] {
        assert_eq!(rules(&shown, port), ["deny shop/p/rule/0: path /b | any"], "{port}");
    }
    assert_eq!(
        shown.said("AuthorizationPolicy shop/p").join(","),
        "Accepted=true Accepted,PartiallyInvalid=true NoPort"
    );
    assert!(shown.message("NoPort").contains("Service shop/slip"));
}
