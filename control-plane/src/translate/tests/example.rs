//! The example shop, whole.

use super::fixture::{destination, gateway_named, metadata, secure_sidecar, sidecar};

fn shop() -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/shop");
    let mut texts: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    texts.sort();
    texts.join("\n---\n")
}

#[test]
fn the_gateway_sends_to_the_web_app_through_its_sidecar() {
    let shown = gateway_named(&shop(), "shop", "shop");
    let host = shown.host("shop/shop/8080", "shop.example").unwrap();
    assert_eq!(destination(&host.routes[0]), "outbound|80||web.shop");
    assert_eq!(metadata(&host.routes[0].metadata)["kind"], "HTTPRoute");
    assert_eq!(shown.endpoints("outbound|80||web.shop.svc.cluster.local").len(), 1);
    assert_eq!(shown.0.resources.clusters.len(), 1, "only what the routes refer to");
    assert!(shown.0.verdicts.iter().all(|verdict| verdict.status), "{:#?}", shown.0.verdicts);
}

#[test]
fn the_catalog_reaches_both_versions_of_the_reviews() {
    let shown = secure_sidecar(&shop(), "shop", "catalog-1");
    let host = shown.host("outbound-proxy", "reviews").unwrap();
    let sends = destination(&host.routes[0]);
    assert!(
        sends.contains("outbound|80||reviews-v1.shop@") && sends.contains("outbound|80||reviews-v2.shop@"),
        "{sends}"
    );
    assert_eq!(
        host.domains.iter().filter(|domain| domain.starts_with("reviews.shop.svc.cluster.local")).count(),
        2
    );
    assert!(shown.0.resources.listeners.contains_key("inbound|15006||"));
    assert!(shown.0.resources.clusters.contains_key("inbound|9080||"));
    assert!(shown.0.resources.clusters.contains_key("PassthroughCluster"));
    assert!(shown.0.verdicts.iter().all(|verdict| verdict.status), "{:#?}", shown.0.verdicts);
}

#[test]
fn the_shop_is_closed_to_plaintext() {
    let inbound = secure_sidecar(&shop(), "shop", "catalog-1").listener("inbound|15006||");
    let chains: Vec<&str> = inbound.filter_chains.iter().map(|chain| chain.name.as_str()).collect();
    assert_eq!((chains, inbound.default_filter_chain), (vec!["mesh"], None));
    // A sidecar that has proven nothing does not serve it in the clear either.
    let unproven = sidecar(&shop(), "shop", "catalog-1");
    assert!(!unproven.0.resources.listeners.contains_key("inbound|15006||"));
    assert_eq!(unproven.said("Pod shop/catalog-1"), ["Programmed=false Pending"]);
}
