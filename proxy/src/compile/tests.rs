use std::time::Duration;

pub(crate) mod fixture;

use super::*;
use crate::cluster::Discovery;
use crate::route::Silent;
use fixture::*;

const CLUSTER: ResourceType = ResourceType::Cluster;
const ENDPOINT: ResourceType = ResourceType::Endpoint;
const LISTENER: ResourceType = ResourceType::Listener;
const ROUTE: ResourceType = ResourceType::Route;

/// A compiler and what it published, at a time that only the test moves.
struct Scenario {
    compiler: Compiler,
    handle: crate::snapshot::Handle,
    now: Instant,
}

impl Scenario {
    fn new() -> Self {
        let publisher = Publisher::new();
        let handle = publisher.handle();
        Self {
            compiler: Compiler::new(publisher, crate::telemetry::Metrics::new(0)),
            handle,
            now: Instant::now(),
        }
    }

    #[track_caller]
    fn accept(&mut self, update: Update) -> bool {
        let outcome = self.compiler.apply(update, self.now);
        assert_eq!(outcome.rejections, []);
        outcome.published
    }

    fn reject(&mut self, update: Update) -> String {
        let outcome = self.compiler.apply(update, self.now);
        outcome.rejections.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    fn pass(&mut self, time: Duration) -> bool {
        self.now += time;
        self.compiler.expire(self.now).published
    }

    fn cluster(&self, name: &str) -> Option<Arc<crate::cluster::Cluster>> {
        self.handle.current().clusters.get(name).cloned()
    }

    fn ports(&self, cluster: &str) -> Option<Vec<u16>> {
        let endpoints = self.cluster(cluster)?.endpoints.load_full();
        Some(endpoints.available.iter().map(|endpoint| endpoint.address.port()).collect())
    }

    fn listens(&self, name: &str) -> bool {
        self.handle.current().listeners.contains_key(name)
    }

    /// The cluster that a table's first route names.
    fn target(&self, table: &str) -> Option<Arc<str>> {
        let snapshot = self.handle.current();
        let table = snapshot.routes.get(table)?;
        match &table.hosts[0].routes[0].action {
            crate::route::Action::Forward(forward) => match &forward.target {
                crate::route::Target::Cluster(name) => Some(name.clone()),
                _ => None,
            },
            _ => None,
        }
    }
}

/// What is refused of a bootstrap.
fn validate(bootstrap: &Bootstrap) -> Vec<Rejection> {
    super::validate(bootstrap).0
}

#[test]
fn a_cluster_takes_traffic_with_its_first_assignment() {
    let mut scenario = Scenario::new();
    assert!(!scenario.accept(eds_cluster("a")));
    assert_eq!(scenario.compiler.wanted(ENDPOINT), BTreeSet::from(["a".into()]));
    assert_eq!(scenario.ports("a"), None);
    assert!(scenario.accept(assignment("a", &[1, 2])));
    assert_eq!(scenario.ports("a"), Some(vec![1, 2]));
    assert_eq!(scenario.cluster("a").unwrap().discovery, Discovery::Eds("a".into()));
}

#[test]
fn a_cluster_without_assignment_starts_empty_after_its_patience() {
    let mut scenario = Scenario::new();
    scenario.accept(eds_cluster("a"));
    assert!(!scenario.pass(Duration::from_millis(4999)));
    assert_eq!(scenario.compiler.deadline(), Some(scenario.now + Duration::from_millis(1)));
    assert!(scenario.pass(Duration::from_millis(1)));
    assert_eq!(scenario.ports("a"), Some(vec![]));
    assert_eq!(scenario.compiler.deadline(), None);
    assert!(!scenario.accept(assignment("a", &[1])), "late endpoints swap in place");
    assert_eq!(scenario.ports("a"), Some(vec![1]));
}

#[test]
fn an_assignment_that_does_not_exist_ends_the_wait() {
    let mut scenario = Scenario::new();
    scenario.accept(eds_cluster("a"));
    assert!(scenario.accept(removal(ENDPOINT, "a")));
    assert_eq!(scenario.ports("a"), Some(vec![]));
    scenario.accept(assignment("a", &[1]));
    scenario.accept(removal(ENDPOINT, "a"));
    assert_eq!(scenario.ports("a"), Some(vec![1]), "what was assigned stays while the cluster does");
}

#[test]
fn endpoints_swap_in_place_and_keep_what_lives() {
    let mut scenario = Scenario::new();
    scenario.accept(eds_cluster("a"));
    scenario.accept(assignment("a", &[1, 2]));
    let cluster = scenario.cluster("a").unwrap();
    let before = cluster.endpoints.load_full();
    before.all[1].in_flight.store(7, std::sync::atomic::Ordering::Relaxed);
    let version = scenario.handle.current().version;
    assert!(!scenario.accept(assignment("a", &[2, 3])));
    assert_eq!(scenario.handle.current().version, version);
    let after = cluster.endpoints.load_full();
    assert!(Arc::ptr_eq(&after.all[0], &before.all[1]), "an unchanged endpoint is the same one");
    assert_ne!(after.all[1].id, before.all[0].id);
    scenario.accept(assignment("a", &[2, 3]));
    assert!(Arc::ptr_eq(&after, &cluster.endpoints.load_full()), "nothing is stored when nothing changed");
}

#[test]
fn a_changed_cluster_keeps_endpoints_counts_and_traffic() {
    let mut scenario = Scenario::new();
    scenario.accept(eds_cluster("a"));
    scenario.accept(assignment("a", &[1]));
    let before = scenario.cluster("a").unwrap();
    let mut changed = eds_cluster("a");
    let mut wire: Cluster = from_any(&changed.upserts[0].body).unwrap();
    wire.connect_timeout = Some(sidegate_xds::google::protobuf::Duration { seconds: 9, nanos: 0 });
    changed.upserts[0].body = to_any(&wire);
    assert!(scenario.accept(changed.clone()));
    let after = scenario.cluster("a").unwrap();
    assert_eq!(after.connect_timeout, Duration::from_secs(9));
    assert!(Arc::ptr_eq(&before.live, &after.live) && Arc::ptr_eq(&before.metrics, &after.metrics));
    assert!(Arc::ptr_eq(&before.endpoints.load_full(), &after.endpoints.load_full()));
    changed.upserts[0].version = "2".to_owned();
    assert!(!scenario.accept(changed), "the same body under another version is no change");
    let entry = scenario.compiler.ledger().entry(CLUSTER, "a").unwrap();
    assert_eq!(entry.accepted.unwrap().version, "2");
}

#[test]
fn a_cluster_that_moves_to_another_assignment_keeps_the_old_endpoints_until_it_comes() {
    let mut scenario = Scenario::new();
    scenario.accept(eds_cluster("a"));
    scenario.accept(assignment("a", &[1]));
    let mut moved = eds_cluster("a");
    let mut wire: Cluster = from_any(&moved.upserts[0].body).unwrap();
    wire.eds_cluster_config.as_mut().unwrap().service_name = "b".to_owned();
    moved.upserts[0].body = to_any(&wire);
    assert!(!scenario.accept(moved));
    assert_eq!(scenario.ports("a"), Some(vec![1]));
    assert_eq!(scenario.compiler.wanted(ENDPOINT), BTreeSet::from(["b".into()]));
    assert!(scenario.accept(assignment("b", &[2])));
    assert_eq!(scenario.ports("a"), Some(vec![2]));
}

#[test]
fn a_listener_waits_for_its_table_and_the_table_for_its_clusters() {
    let mut scenario = Scenario::new();
    scenario.accept(eds_cluster("a"));
    assert!(!scenario.accept(listener("l", 80, "r")));
    assert_eq!(scenario.compiler.wanted(ROUTE), BTreeSet::from(["r".into()]));
    assert!(!scenario.accept(table("r", "a")), "cluster a is warming");
    assert!(!scenario.listens("l"));
    assert!(scenario.accept(assignment("a", &[1])));
    assert!(scenario.listens("l"));
    assert_eq!(scenario.target("r").as_deref(), Some("a"));
}

#[test]
fn a_listener_without_table_is_bound_after_its_patience() {
    let mut scenario = Scenario::new();
    scenario.accept(listener("l", 80, "r"));
    assert!(scenario.pass(Duration::from_secs(15)));
    assert!(scenario.listens("l"));
    let mut scenario = Scenario::new();
    scenario.accept(listener("l", 80, "r"));
    assert!(scenario.accept(removal(ROUTE, "r")), "a table that does not exist is not waited for");
    assert!(scenario.listens("l"));
}

#[test]
fn an_updated_table_waits_for_new_clusters_while_the_old_one_routes() {
    let mut scenario = Scenario::new();
    scenario.accept(eds_cluster("a"));
    scenario.accept(assignment("a", &[1]));
    scenario.accept(listener("l", 80, "r"));
    scenario.accept(table("r", "a"));
    scenario.accept(eds_cluster("b"));
    assert!(!scenario.accept(table("r", "b")));
    assert_eq!(scenario.target("r").as_deref(), Some("a"));
    scenario.accept(assignment("b", &[2]));
    assert_eq!(scenario.target("r").as_deref(), Some("b"));
    assert!(scenario.accept(table("r", "ghost")), "a cluster that does not exist is not waited for");
}

#[test]
fn a_listener_that_moves_to_another_table_serves_the_old_one_until_it_comes() {
    let mut scenario = Scenario::new();
    scenario.accept(listener("l", 80, "one"));
    scenario.accept(table("one", "x"));
    assert!(!scenario.accept(listener("l", 81, "two")));
    let port = |scenario: &Scenario| scenario.handle.current().listeners["l"].addresses[0].port();
    assert_eq!(port(&scenario), 80);
    assert_eq!(scenario.compiler.wanted(ROUTE).len(), 2);
    assert!(scenario.accept(table("two", "y")));
    assert_eq!(port(&scenario), 81);
    assert_eq!(scenario.compiler.wanted(ROUTE), BTreeSet::from(["two".into()]));
    assert_eq!(scenario.target("one"), None, "nothing refers to the old table any more");
}

#[test]
fn removals() {
    let mut scenario = Scenario::new();
    scenario.accept(eds_cluster("a"));
    scenario.accept(assignment("a", &[1]));
    scenario.accept(listener("l", 80, "r"));
    scenario.accept(table("r", "a"));
    assert!(!scenario.accept(removal(ROUTE, "r")), "routing goes on while a listener refers to the table");
    assert_eq!(scenario.target("r").as_deref(), Some("a"));
    assert!(scenario.accept(removal(CLUSTER, "a")));
    assert_eq!(scenario.ports("a"), None);
    assert!(scenario.accept(removal(LISTENER, "l")));
    assert_eq!(scenario.target("r"), None);
    for kind in ResourceType::ALL {
        assert!(!scenario.accept(removal(kind, "ghost")));
        assert!(scenario.compiler.ledger().entries(kind).is_empty(), "{kind:?}");
    }
    scenario.accept(eds_cluster("a"));
    assert_eq!(scenario.ports("a"), None, "what was assigned went with the cluster");
}

#[test]
fn one_bad_resource_of_three_is_named_and_its_last_good_form_stays() {
    let mut scenario = Scenario::new();
    scenario.accept(eds_cluster("bad"));
    scenario.accept(assignment("bad", &[1]));
    let mut update = eds_cluster("one");
    let refused = upsert(CLUSTER, "bad", "{name: bad, type: STATIC, lb_policy: MAGLEV}");
    update.upserts.extend(refused.upserts);
    update.upserts.extend(eds_cluster("two").upserts);
    assert_eq!(scenario.reject(update), "cluster bad: lb_policy: MAGLEV is not supported yet");
    assert_eq!(scenario.ports("bad"), Some(vec![1]));
    assert_eq!(scenario.compiler.wanted(ENDPOINT).len(), 3);
    let entry = scenario.compiler.ledger().entry(CLUSTER, "bad").unwrap();
    assert!(entry.accepted.is_some());
    assert_eq!(entry.refused.unwrap().message, "lb_policy: MAGLEV is not supported yet");
    scenario.accept(eds_cluster("bad"));
    assert!(scenario.compiler.ledger().entry(CLUSTER, "bad").unwrap().refused.is_none(), "mended");
}

#[test]
fn names_types_and_bytes_are_checked() {
    let mut scenario = Scenario::new();
    let mut renamed = eds_cluster("a");
    renamed.upserts[0].name = "b".to_owned();
    assert_eq!(scenario.reject(renamed), "cluster b: the resource inside is called \"a\"");
    let mut twice = eds_cluster("a");
    twice.upserts.extend(eds_cluster("a").upserts);
    assert_eq!(scenario.reject(twice), "cluster a: is there twice in one response");
    let mut wrong = eds_cluster("a");
    wrong.kind = LISTENER;
    assert!(
        scenario.reject(wrong).contains("expected a type.googleapis.com/envoy.config.listener.v3.Listener")
    );
    let mut broken = eds_cluster("a");
    broken.upserts[0].body.value = vec![0xff; 3];
    assert!(scenario.reject(broken).contains("malformed"));
    assert_eq!(scenario.handle.current().version, 0);
}

#[test]
fn rate_limit_buckets_survive_unrelated_updates() {
    let text = |max: u32, body: &str| {
        format!(
            "
name: r
virtual_hosts:
- name: all
  domains: ['*']
  routes:
  - match: {{prefix: /}}
    direct_response: {{status: 200, body: {{inline_string: {body}}}}}
    typed_per_filter_config:
      envoy.filters.http.local_ratelimit:
        '@type': type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
        stat_prefix: x
        token_bucket: {{max_tokens: {max}, tokens_per_fill: 1, fill_interval: 60s}}
        filter_enabled: {{default_value: {{numerator: 100}}}}
        filter_enforced: {{default_value: {{numerator: 100}}}}
"
        )
    };
    let bucket = |scenario: &Scenario| {
        let snapshot = scenario.handle.current();
        match &snapshot.routes["r"].hosts[0].routes[0].filters[..] {
            [(_, Some(crate::filter::Kind::LocalRateLimit(limit)))] => limit.clone(),
            other => panic!("{other:?}"),
        }
    };
    let mut scenario = Scenario::new();
    scenario.accept(listener("l", 80, "r"));
    scenario.accept(upsert(ROUTE, "r", &text(2, "one")));
    let first = bucket(&scenario);
    scenario.accept(upsert(ROUTE, "r", &text(2, "two")));
    assert!(Arc::ptr_eq(&first, &bucket(&scenario)));
    scenario.accept(upsert(ROUTE, "r", &text(3, "two")));
    assert!(!Arc::ptr_eq(&first, &bucket(&scenario)), "another limit is another bucket");
}

const BOOTSTRAP: &str = "
static_resources:
  clusters:
  - name: web
    type: STATIC
    load_assignment:
      cluster_name: web
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 8080}}}}]}]
  listeners:
  - name: front
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            name: local
            virtual_hosts:
            - {name: all, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: web}}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
";

#[test]
fn static_resources_serve_and_stay() {
    let mut scenario = Scenario::new();
    let bootstrap: Bootstrap = yaml(BOOTSTRAP);
    assert_eq!(validate(&bootstrap), []);
    scenario.compiler.load_static(&bootstrap, scenario.now).unwrap();
    let snapshot = scenario.handle.current();
    let chain = snapshot.listeners["front"].chains.iter().next().unwrap();
    let http = chain.http().unwrap();
    let table = &snapshot.routes[&http.routes];
    assert_eq!(&*table.name, "local");
    let head = crate::message::RequestHead {
        method: ::http::Method::GET,
        scheme: crate::message::Scheme::Http,
        authority: Some("a".parse().unwrap()),
        path: "/".parse().unwrap(),
        version: crate::message::Version::Http11,
        headers: crate::message::Headers::new(),
    };
    assert!(table.select(&head, 0, &mut Silent).is_some());
    assert_eq!(scenario.ports("web"), Some(vec![8080]));
    assert!(scenario.reject(eds_cluster("web")).contains("the bootstrap has one of this name"));
    scenario.accept(removal(CLUSTER, "web"));
    assert_eq!(scenario.ports("web"), Some(vec![8080]));
}

#[test]
fn a_bad_bootstrap_lists_everything_that_is_wrong() {
    let text = BOOTSTRAP.replace("cluster: web}", "cluster: wob}");
    let rejections = validate(&yaml(&text));
    assert_eq!(
        rejections[0].to_string(),
        "listener front: its routes name cluster wob, which does not exist"
    );
    let dynamic = format!("{text}\ndynamic_resources: {{cds_config: {{ads: {{}}}}}}");
    assert_eq!(validate(&yaml(&dynamic)), [], "the control plane may bring it");
    let text = BOOTSTRAP
        .replace("type: STATIC", "type: STATIC\n    health_checks: [{}]")
        .replace("stat_prefix: front", "stat_prefix: front\n          add_user_agent: true");
    let rejections: Vec<_> = validate(&yaml(&text)).iter().map(ToString::to_string).collect();
    assert_eq!(
        rejections,
        [
            "cluster web: health_checks: is not supported yet",
            "listener front: filter_chains[0].filters[0] (envoy.filters.network.http_connection_manager)\
             .add_user_agent: is not supported yet",
        ]
    );
}

#[test]
fn static_resources_that_wait_for_a_control_plane_need_one() {
    let text =
        BOOTSTRAP.replace("type: STATIC", "type: EDS\n    eds_cluster_config: {eds_config: {ads: {}}}");
    assert_eq!(
        validate(&yaml(&text))[0].to_string(),
        "cluster web: its endpoints come by ADS, but there is no dynamic_resources.ads_config"
    );
    let control_plane = "dynamic_resources: {ads_config: {api_type: DELTA_GRPC}}";
    assert_eq!(validate(&yaml(&format!("{text}\n{control_plane}"))), []);
}

#[test]
fn two_static_listeners_on_one_address() {
    let mut bootstrap: Bootstrap = yaml(BOOTSTRAP);
    let resources = bootstrap.static_resources.as_mut().unwrap();
    let mut second = resources.listeners[0].clone();
    second.name = "other".to_owned();
    resources.listeners.push(second);
    assert_eq!(
        validate(&bootstrap)[0].to_string(),
        "listener other: address: 127.0.0.1:10000 is the address of listener front too"
    );
}

/// A listener with opaque chains, each by the client's port that it takes and the `stat_prefix` that it has now.
fn opaque_chains(chains: &[(u16, &str)]) -> Update {
    let chain = |(port, prefix): &(u16, &str)| {
        format!(
            "{{filter_chain_match: {{source_ports: [{port}]}}, filters: [{{name: tcp, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: {prefix}, cluster: c}}}}]}}"
        )
    };
    let chains: Vec<_> = chains.iter().map(chain).collect();
    let address = "{socket_address: {address: 127.0.0.1, port_value: 80}}";
    upsert(LISTENER, "l", &format!("{{name: l, address: {address}, filter_chains: [{}]}}", chains.join(", ")))
}

#[test]
fn d3_a_change_of_one_chain_concerns_only_its_own_connections() {
    let mut scenario = Scenario::new();
    scenario.accept(opaque_chains(&[(1, "one"), (2, "two")]));
    let reader = scenario.handle.reader();
    let chains = std::rc::Rc::new(crate::worker::Chains::new(&reader));
    let listener = reader.load().listeners["l"].clone();
    let all: Vec<_> = listener.chains.iter().cloned().collect();
    let members: Vec<_> = all.iter().map(|chain| chains.join(&reader, &listener, chain)).collect();
    let asked_to_leave = |index: usize| {
        let context = std::task::Context::from_waker(std::task::Waker::noop());
        members[index].poll_leaving(&context).is_ready()
    };
    let prefix = |index: usize| members[index].load(&reader).1.stat_prefix().clone();

    scenario.accept(opaque_chains(&[(2, "changed"), (1, "one"), (3, "three")]));
    chains.follow(&reader);
    assert!(!asked_to_leave(0) && !asked_to_leave(1), "both are still there");
    assert_eq!((&*prefix(0), &*prefix(1)), ("one", "changed"), "each is served by its current form");

    scenario.accept(opaque_chains(&[(1, "one"), (3, "three")]));
    assert_eq!(&*prefix(1), "changed", "noticed without being told, and answered as it was");
    assert!(!asked_to_leave(0) && asked_to_leave(1));
    let (last, now) = (members[1].load(&reader).0.version, members[0].load(&reader).0.version);
    assert!(last < now, "the last snapshot that had it");

    // Who took its time until its chain was found learns at once that it is gone.
    let late = chains.join(&reader, &listener, &all[1]);
    assert!(late.gone_since().is_some() && members[0].gone_since().is_none());
    let late = chains.join(&reader, &listener, &all[0]);
    assert_eq!((late.gone_since(), &**late.load(&reader).1.stat_prefix()), (None, "one"));

    scenario.accept(removal(LISTENER, "l"));
    chains.follow(&reader);
    assert!(asked_to_leave(0), "the listener is gone");
    assert!(chains.join(&reader, &listener, &all[0]).gone_since().is_some());
}
