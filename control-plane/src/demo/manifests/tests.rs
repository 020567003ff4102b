//! The embedded shop: read, moved, edited.

use super::super::layout;
use super::*;

fn usual() -> Layout {
    layout::choose(&wanted().unwrap(), |_| true).unwrap()
}

fn write(layout: &Layout) -> (tempfile::TempDir, Manifests) {
    let root = tempfile::tempdir().unwrap();
    let manifests = Manifests::write_all(root.path(), layout).unwrap();
    (root, manifests)
}

fn read(manifests: &Manifests, file: &str) -> String {
    std::fs::read_to_string(manifests.folder().join(file)).unwrap()
}

#[test]
fn the_shop_has_the_pods_that_the_demo_speaks_of() {
    let pods = pods(&usual()).unwrap();
    let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(names, ["web-1", "catalog-1", "reviews-v1-1", "reviews-v1-2", "reviews-v2-1"]);
    assert!(pods.iter().any(|pod| pod.name == LOST && pod.file == LOST_FILE));
    assert_eq!(replacement(&usual()).unwrap().name, REPLACEMENT);
}

#[test]
fn every_example_file_is_embedded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop");
    let on_disk =
        std::fs::read_dir(folder).unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let mut on_disk: Vec<String> = on_disk.filter(|name| name.ends_with(".yaml")).collect();
    let mut embedded: Vec<String> = FILES.iter().map(|(file, _)| (*file).to_owned()).collect();
    on_disk.sort();
    embedded.sort();
    assert_eq!(on_disk, embedded);
}

#[test]
fn on_an_idle_machine_the_copy_is_the_example() {
    let (_root, manifests) = write(&usual());
    for (file, text) in FILES {
        assert_eq!(read(&manifests, file), text, "{file}");
    }
}

#[test]
fn everything_moves_together_when_ports_are_busy() {
    let busy = [8080, 9080, 15006, 15001];
    let layout = layout::choose(&wanted().unwrap(), |address| !busy.contains(&address.port())).unwrap();
    let (_root, manifests) = write(&layout);
    for (file, text) in FILES {
        let copy = read(&manifests, file);
        let moved = pod_in(file, &copy).unwrap();
        assert_eq!(
            moved.as_ref().map(|pod| pod.place.app),
            pod_in(file, text).unwrap().map(|_| 9081),
            "{file}"
        );
        for port in busy {
            assert!(!copy.contains(&port.to_string()), "{file} still says {port}:\n{copy}");
        }
    }
    let gateway = read(&manifests, "gateway.yaml");
    assert!(gateway.contains("port: 8081") && gateway.contains("port: 80\n"), "{gateway}");
}

#[test]
fn one_loopback_address_moves_every_pod_there() {
    let layout =
        layout::choose(&wanted().unwrap(), |address| address.ip() == IpAddr::from([127, 0, 0, 1])).unwrap();
    let (_root, manifests) = write(&layout);
    for pod in pods(&layout).unwrap() {
        let copy = read(&manifests, &pod.file);
        assert!(copy.contains("podIP: 127.0.0.1\n") && copy.contains("- 127.0.0.1\n"), "{copy}");
        assert!(copy.contains(&format!("\"{}:{}\"", pod.place.app, pod.place.inbound)), "{copy}");
    }
}

#[test]
fn the_canary_moves_by_two_weights() {
    let (_root, manifests) = write(&usual());
    manifests.set_canary(50).unwrap();
    let halves = FILES.iter().find(|(file, _)| *file == CANARY_FILE).unwrap().1;
    let halves = halves.replace("weight: 90", "weight: 50").replace("weight: 10", "weight: 50");
    assert_eq!(read(&manifests, CANARY_FILE), halves);
    manifests.set_canary(100).unwrap();
    let all = read(&manifests, CANARY_FILE);
    assert!(all.contains("weight: 0\n") && all.contains("weight: 100\n"), "{all}");
}

#[test]
fn the_replacement_starts_as_not_ready_and_is_admitted_by_one_word() {
    let (_root, manifests) = write(&usual());
    manifests.add_replacement(&usual()).unwrap();
    let file = format!("{REPLACEMENT}.yaml");
    let starting = read(&manifests, &file);
    assert!(starting.contains("ready: false") && starting.contains("podIP: 127.0.0.33"), "{starting}");
    assert!(!starting.contains("127.0.0.32") && !starting.contains("name: reviews-v1-2"), "{starting}");
    assert!(starting.contains("kubernetes.io/service-name: reviews-v1\n"), "{starting}");
    manifests.set(&file, &["conditions:"], "ready", "true").unwrap();
    assert_eq!(read(&manifests, &file), starting.replace("ready: false", "ready: true"));
}

#[test]
fn nothing_but_manifests_is_left_in_the_folder() {
    let (_root, manifests) = write(&usual());
    manifests.set_canary(50).unwrap();
    let count = std::fs::read_dir(manifests.folder()).unwrap().count();
    assert_eq!(count, FILES.len());
}

#[test]
fn the_policies_have_what_the_demo_edits() {
    let (_root, manifests) = write(&usual());
    manifests.set(POLICY_FILE, &["kind: RateLimitPolicy"], "requests", "30000").unwrap();
    manifests.set(POLICY_FILE, &["kind: BackendPolicy"], "loadBalancing", "RoundRobin").unwrap();
    let text = read(&manifests, POLICY_FILE);
    assert!(text.contains("requests: 30000\n") && text.contains("loadBalancing: RoundRobin\n"), "{text}");
}
