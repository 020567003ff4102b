//! The whole source on a real folder: events and polls lead to the right views.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::index::Index;
use crate::model::View;

/// A running source and the index that its batches make.
struct Running {
    batches: mpsc::Receiver<Batch>,
    index: Index,
    view: Arc<View>,
}

/// A poll so slow that only events can be what is seen.
const EVENTS_ONLY: Timing = Timing {
    quiet: Duration::from_millis(15),
    longest: Duration::from_millis(150),
    poll: Duration::from_secs(3600),
    gone_after: Duration::from_millis(100),
    torn_for: Duration::from_secs(1),
};

const FAST_POLL: Timing = Timing { poll: Duration::from_millis(30), ..EVENTS_ONLY };

impl Running {
    async fn start(folder: &Path, timing: Timing) -> Self {
        let (tx, batches) = mpsc::channel(4);
        tokio::spawn(Manifests::new(folder).with_timing(timing).run(tx));
        let mut running = Self { batches, index: Index::default(), view: Arc::default() };
        running.until("the first batch", |view| view.generation == 1).await;
        running
    }

    /// Takes batches until the view is as it should be.
    async fn until(&mut self, what: &str, holds: impl Fn(&View) -> bool) {
        let arrive = async {
            while !holds(&self.view) {
                let batch = self.batches.recv().await.expect("the source runs");
                if let Some(view) = self.index.apply(batch) {
                    self.view = view;
                }
            }
        };
        let arrived = timeout(Duration::from_secs(20), arrive).await;
        assert!(arrived.is_ok(), "never: {what}");
    }

    async fn until_services(&mut self, services: &[&str]) {
        self.until(&format!("{services:?}"), |view| names(view) == services).await;
    }
}

fn names(view: &View) -> Vec<String> {
    let services = view.services.values();
    services
        .map(|service| format!("{}:{}", service.metadata.name.as_deref().unwrap_or(""), port(service)))
        .collect()
}

fn port(service: &k8s_openapi::api::core::v1::Service) -> i32 {
    service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).map_or(0, |ports| ports[0].port)
}

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    )
}

#[tokio::test]
async fn a_missing_folder_is_an_error() {
    let directory = TempDir::new().unwrap();
    let (tx, _rx) = mpsc::channel(1);
    let error = Manifests::new(directory.path().join("no")).run(tx).await.unwrap_err();
    assert!(error.to_string().contains("manifests are read from a folder"), "{error}");
    assert!(Manifests::new(directory.path().join("no")).read_once().is_err());
}

#[tokio::test]
async fn events_lead_to_views() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.yaml"), service("a", 1)).unwrap();
    let mut running = Running::start(directory.path(), EVENTS_ONLY).await;
    running.until_services(&["a:1"]).await;

    fs::write(path("a.yaml"), service("a", 2)).unwrap();
    running.until_services(&["a:2"]).await;

    fs::write(path("a.yaml.tmp"), service("a", 3)).unwrap();
    fs::rename(path("a.yaml.tmp"), path("a.yaml")).unwrap();
    running.until_services(&["a:3"]).await;

    fs::create_dir_all(path("deep/er")).unwrap();
    fs::write(path("deep/er/b.yaml"), service("b", 1)).unwrap();
    running.until_services(&["a:3", "b:1"]).await;

    fs::rename(path("deep"), path("moved")).unwrap();
    fs::write(path("moved/er/b.yaml"), service("b", 2)).unwrap();
    running.until_services(&["a:3", "b:2"]).await;

    fs::remove_dir_all(path("moved")).unwrap();
    fs::create_dir_all(path("moved/er")).unwrap();
    fs::write(path("moved/er/c.yaml"), service("c", 1)).unwrap();
    running.until_services(&["a:3", "c:1"]).await;
    fs::write(path("moved/er/c.yaml"), service("c", 2)).unwrap();
    running.until_services(&["a:3", "c:2"]).await;

    fs::remove_file(path("a.yaml")).unwrap();
    running.until_services(&["c:2"]).await;
}

#[tokio::test]
async fn the_swap_of_a_config_map_is_an_event() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    for version in [1, 2] {
        fs::create_dir(path(&format!("..{version}"))).unwrap();
        fs::write(path(&format!("..{version}/a.yaml")), service("a", version)).unwrap();
    }
    symlink("..1", path("..data")).unwrap();
    symlink("..data/a.yaml", path("a.yaml")).unwrap();
    let mut running = Running::start(directory.path(), EVENTS_ONLY).await;
    running.until_services(&["a:1"]).await;
    symlink("..2", path("..data_tmp")).unwrap();
    fs::rename(path("..data_tmp"), path("..data")).unwrap();
    running.until_services(&["a:2"]).await;
    assert!(running.view.findings.is_empty());
}

#[tokio::test]
async fn a_file_written_in_pieces_is_read_when_it_is_closed() {
    use std::io::Write;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a.yaml");
    fs::write(&path, service("a", 1)).unwrap();
    let patient = Timing { torn_for: Duration::from_secs(30), ..EVENTS_ONLY };
    let mut running = Running::start(directory.path(), patient).await;
    running.until_services(&["a:1"]).await;
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(service("b", 1).as_bytes()).unwrap();
    // Something else makes a round begin meanwhile.
    fs::write(directory.path().join("other.yaml"), service("other", 1)).unwrap();
    running.until_services(&["a:1", "other:1"]).await;
    file.write_all(format!("---\n{}", service("a", 2)).as_bytes()).unwrap();
    drop(file);
    running
        .until("both documents", |view| view.services.len() != 2 || !names(view).contains(&"a:1".to_owned()))
        .await;
    assert_eq!(names(&running.view), ["a:2", "b:1", "other:1"]);
}

#[tokio::test]
async fn polling_finds_what_no_event_tells() {
    let (directory, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(outside.path().join("a.yaml"), service("a", 1)).unwrap();
    symlink(outside.path().join("a.yaml"), directory.path().join("a.yaml")).unwrap();
    let mut running = Running::start(directory.path(), FAST_POLL).await;
    running.until_services(&["a:1"]).await;
    fs::write(outside.path().join("a.yaml"), service("a", 2)).unwrap();
    running.until_services(&["a:2"]).await;
}

#[tokio::test]
async fn a_folder_that_goes_and_comes_back() {
    let parent = TempDir::new().unwrap();
    let folder = parent.path().join("manifests");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.yaml"), service("a", 1)).unwrap();
    let mut running = Running::start(&folder, FAST_POLL).await;
    fs::remove_dir_all(&folder).unwrap();
    running.until("a finding", |view| !view.findings.is_empty()).await;
    assert_eq!(names(&running.view), ["a:1"]);
    assert!(running.view.findings[0].message.contains("until the folder is back"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("b.yaml"), service("b", 1)).unwrap();
    running.until_services(&["b:1"]).await;
    assert!(running.view.findings.is_empty());
}

#[tokio::test]
async fn a_folder_that_is_a_link_may_lead_elsewhere() {
    let parent = TempDir::new().unwrap();
    for version in [1, 2] {
        fs::create_dir(parent.path().join(version.to_string())).unwrap();
        fs::write(parent.path().join(format!("{version}/a.yaml")), service("a", version)).unwrap();
    }
    let current = parent.path().join("current");
    symlink("1", &current).unwrap();
    let mut running = Running::start(&current, FAST_POLL).await;
    running.until_services(&["a:1"]).await;
    symlink("2", parent.path().join("next")).unwrap();
    fs::rename(parent.path().join("next"), &current).unwrap();
    running.until_services(&["a:2"]).await;
}

#[tokio::test]
async fn it_ends_when_nobody_listens() {
    let directory = TempDir::new().unwrap();
    let (tx, mut rx) = mpsc::channel(1);
    let task = tokio::spawn(Manifests::new(directory.path()).with_timing(EVENTS_ONLY).run(tx));
    rx.recv().await.unwrap();
    drop(rx);
    timeout(Duration::from_secs(20), task).await.unwrap().unwrap().unwrap();
}

#[test]
fn reading_once_tells_places_and_findings() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("a.yaml"), service("a", 1) + "---\n" + &service("b", 0)).unwrap();
    let reading = Manifests::new(directory.path()).read_once().unwrap();
    assert_eq!((reading.batch.changes.len(), reading.batch.findings.len()), (1, 1));
    assert_eq!(reading.places.values().next(), Some(&("a.yaml".to_owned(), 1)));
}
