//! Rounds over a real folder, without watcher and clock: what is in force after each edit.

use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::index::Index;
use crate::model::{Name, View};
use crate::source::manifests::scan;

mod policies;

/// A folder, its memory, and the index that its batches make.
struct Scene {
    directory: TempDir,
    folder: Folder,
    index: Index,
    view: View,
    now: Instant,
    news: News,
}

/// No patience: what is tested here is what is true once everything has settled.
const AT_ONCE: Timing = Timing {
    quiet: Duration::ZERO,
    longest: Duration::ZERO,
    poll: Duration::ZERO,
    gone_after: Duration::from_millis(100),
    torn_for: Duration::ZERO,
};

impl Scene {
    fn new() -> Self {
        Self::with(Limits::default(), AT_ONCE)
    }

    fn with(limits: Limits, timing: Timing) -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            folder: Folder::new(limits, timing),
            index: Index::default(),
            view: View::default(),
            now: Instant::now(),
            news: News::default(),
        }
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.directory.path().join(file)
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// One round; returns what was put off.
    fn round(&mut self) -> Option<Duration> {
        let root = self.directory.path();
        let listing =
            scan::list(root, &self.folder.limits, &mut |_, _| {}).map_err(|error| error.to_string());
        let moment = Moment { now: self.now, wall: SystemTime::now(), news: self.news.clone() };
        let refreshed = self.folder.refresh(listing, &moment);
        if let Some(view) = refreshed.batch.and_then(|batch| self.index.apply(batch)) {
            self.view = (*view).clone();
        }
        refreshed.again
    }

    /// Rounds until nothing is put off.
    fn settle(&mut self) {
        while self.round().is_some() {
            self.now += Duration::from_millis(200);
        }
    }

    /// The services with their `v` labels.
    fn services(&self) -> Vec<String> {
        let label = |labels: &BTreeMap<String, String>| labels["v"].clone();
        let services = self.view.services.iter();
        services
            .map(|(name, service)| {
                format!("{}={}", name.name, service.metadata.labels.as_ref().map_or(String::new(), label))
            })
            .collect()
    }

    #[track_caller]
    fn holds(&mut self, services: &[&str]) {
        self.settle();
        assert_eq!(self.services(), services);
    }

    fn findings(&self) -> Vec<(String, usize, String)> {
        let findings = self.view.findings.iter();
        findings.map(|finding| (finding.file.clone(), finding.document, finding.in_force.clone())).collect()
    }
}

fn service(name: &str, version: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, labels: {{v: {version:?}}}}}\n\
         spec: {{ports: [{{port: 80}}]}}\n---\n"
    )
}

#[test]
fn files_come_change_and_go() {
    let mut scene = Scene::new();
    scene.holds(&[]);
    assert_eq!(scene.view.generation, 1, "an empty folder is a world without objects");
    scene.write("web.yaml", &service("web", "1"));
    scene.write("deep/er/api.yml", &service("api", "1"));
    scene.write("deep/notes.txt", &service("not-read", "1"));
    scene.write(".git/x.yaml", &service("hidden", "1"));
    scene.write(".hidden.yaml", &service("hidden", "1"));
    scene.holds(&["api=1", "web=1"]);
    scene.write("web.yaml", &service("web", "2"));
    scene.holds(&["api=1", "web=2"]);
    let generation = scene.view.generation;
    scene.write("web.yaml", &format!("# only a comment\n{}", service("web", "2")));
    scene.holds(&["api=1", "web=2"]);
    fs::rename(scene.path("web.yaml"), scene.path("deep/web.json.yaml")).unwrap();
    scene.holds(&["api=1", "web=2"]);
    assert_eq!(scene.view.generation, generation, "nothing that matters has changed");
    fs::remove_dir_all(scene.path("deep")).unwrap();
    scene.holds(&[]);
}

#[test]
fn a_document_taken_out_takes_its_object() {
    let mut scene = Scene::new();
    scene.write("all.yaml", &(service("a", "1") + &service("b", "1")));
    scene.holds(&["a=1", "b=1"]);
    scene.write("all.yaml", &service("b", "1"));
    scene.holds(&["b=1"]);
    scene.write("all.yaml", "");
    scene.holds(&[]);
}

#[test]
fn a_torn_file_leaves_in_force_what_it_provided() {
    let mut scene = Scene::new();
    scene.write("all.yaml", &(service("a", "1") + &service("b", "1")));
    scene.holds(&["a=1", "b=1"]);
    scene.write("all.yaml", &(service("a", "2") + "apiVersion: v1\nkind: Service\nmetadata: {name: b, lab"));
    scene.holds(&["a=2", "b=1"]);
    assert_eq!(scene.findings(), [("all.yaml".to_owned(), 2, "last good form".to_owned())]);
    scene.write("all.yaml", &service("a", "3"));
    scene.holds(&["a=3"]);
    assert_eq!(scene.findings(), []);
    scene.write("all.yaml", "\u{0}");
    scene.holds(&["a=3"]);
    fs::remove_file(scene.path("all.yaml")).unwrap();
    scene.holds(&[]);
}

#[test]
fn what_a_torn_file_provided_may_be_claimed_by_another() {
    let mut scene = Scene::new();
    scene.write("a.yaml", &service("a", "1"));
    scene.holds(&["a=1"]);
    scene.write("a.yaml", "{");
    scene.write("b.yaml", &service("a", "2"));
    scene.holds(&["a=2"]);
    assert_eq!(scene.findings(), [("a.yaml".to_owned(), 1, "nothing".to_owned())]);
    fs::remove_file(scene.path("b.yaml")).unwrap();
    scene.holds(&[]);
}

#[test]
fn an_invalid_object_keeps_its_last_good_form() {
    let mut scene = Scene::new();
    scene.write("a.yaml", &service("a", "1").replace("80", "0"));
    scene.holds(&[]);
    assert_eq!(scene.findings(), [("a.yaml".to_owned(), 1, "nothing".to_owned())]);
    scene.write("a.yaml", &service("a", "1"));
    scene.holds(&["a=1"]);
    scene.write("a.yaml", &service("a", "2").replace("80", "eighty"));
    scene.holds(&["a=1"]);
    assert_eq!(scene.view.findings[0].field.as_deref(), Some("spec.ports[0].port"));
    assert_eq!(scene.view.findings[0].object.as_deref(), Some("Service default/a"));
    assert_eq!(scene.findings(), [("a.yaml".to_owned(), 1, "last good form".to_owned())]);
    scene.write("a.yaml", &service("a", "2").replace("port:", "prot: 1, port:"));
    scene.holds(&["a=1"]);
    assert_eq!(scene.findings(), [("a.yaml".to_owned(), 1, "last good form".to_owned())]);
}

#[test]
fn of_two_that_claim_one_object_the_first_counts() {
    let mut scene = Scene::new();
    scene.write("b.yaml", &service("web", "b"));
    scene.holds(&["web=b"]);
    scene.write("a.yaml", &(service("x", "1") + &service("web", "a")));
    scene.holds(&["web=a", "x=1"]);
    let finding = &scene.view.findings[0];
    assert_eq!((finding.file.as_str(), finding.document), ("b.yaml", 1));
    assert!(finding.message.starts_with("a.yaml, document 2,"), "{}", finding.message);
    fs::remove_file(scene.path("a.yaml")).unwrap();
    scene.holds(&["web=b"]);
    assert_eq!(scene.findings(), []);
}

#[test]
fn a_mounted_config_map_changes_at_once_and_is_read_once() {
    let mut scene = Scene::new();
    scene.write("..1/web.yaml", &service("web", "1"));
    scene.write("..1/api.yaml", &service("api", "1"));
    symlink("..1", scene.path("..data")).unwrap();
    symlink("..data/web.yaml", scene.path("web.yaml")).unwrap();
    symlink("..data/api.yaml", scene.path("api.yaml")).unwrap();
    scene.holds(&["api=1", "web=1"]);
    assert_eq!(scene.findings(), []);
    scene.write("..2/web.yaml", &service("web", "2"));
    scene.write("..2/api.yaml", &service("api", "2"));
    symlink("..2", scene.path("..data_tmp")).unwrap();
    fs::rename(scene.path("..data_tmp"), scene.path("..data")).unwrap();
    fs::remove_dir_all(scene.path("..1")).unwrap();
    let generation = scene.view.generation;
    scene.holds(&["api=2", "web=2"]);
    assert_eq!(scene.view.generation, generation + 1);
}

#[test]
fn one_file_under_many_names_is_read_once() {
    let mut scene = Scene::new();
    scene.write("shop/web.yaml", &service("web", "1"));
    symlink(".", scene.path("shop/loop")).unwrap();
    symlink("shop", scene.path("again")).unwrap();
    symlink("shop/web.yaml", scene.path("link.yaml")).unwrap();
    fs::hard_link(scene.path("shop/web.yaml"), scene.path("hard.yaml")).unwrap();
    scene.holds(&["web=1"]);
    assert_eq!(scene.findings(), []);
    fs::remove_file(scene.path("again")).unwrap();
    scene.holds(&["web=1"]);
}

#[test]
fn a_link_that_leads_nowhere_keeps_what_it_led_to() {
    let mut scene = Scene::new();
    scene.write("..a/web.yaml", &service("web", "1"));
    symlink("..a/web.yaml", scene.path("web.yaml")).unwrap();
    symlink("nowhere", scene.path("unrelated")).unwrap();
    scene.holds(&["web=1"]);
    assert_eq!(scene.findings(), []);
    fs::remove_dir_all(scene.path("..a")).unwrap();
    scene.holds(&["web=1"]);
    assert_eq!(scene.findings(), [("web.yaml".to_owned(), 0, "last good form".to_owned())]);
    fs::remove_file(scene.path("web.yaml")).unwrap();
    scene.holds(&[]);
}

#[test]
fn a_file_that_is_replaced_is_not_gone_meanwhile() {
    let mut scene = Scene::new();
    scene.write("web.yaml", &service("web", "1"));
    scene.holds(&["web=1"]);
    fs::remove_file(scene.path("web.yaml")).unwrap();
    assert!(scene.round().is_some(), "it is put off");
    assert_eq!(scene.services(), ["web=1"]);
    scene.write("web.yaml", &service("web", "2"));
    scene.holds(&["web=2"]);
}

#[test]
fn a_renamed_file_provides_its_objects_without_a_gap() {
    let mut scene = Scene::new();
    scene.write("b.yaml", &service("web", "1"));
    scene.holds(&["web=1"]);
    fs::rename(scene.path("b.yaml"), scene.path("c.yaml")).unwrap();
    scene.round();
    assert_eq!(scene.services(), ["web=1"]);
    let generation = scene.view.generation;
    scene.holds(&["web=1"]);
    assert_eq!(scene.view.generation, generation);
}

#[test]
fn a_file_that_is_being_written_is_not_read() {
    let mut scene = Scene::with(Limits::default(), Timing::default());
    scene.write("web.yaml", &service("web", "1"));
    scene.round();
    assert_eq!(scene.services(), ["web=1"], "the first round reads everything");
    // The writer has made it empty, and no event tells of it.
    scene.write("web.yaml", "");
    assert!(scene.round().is_some());
    assert_eq!(scene.services(), ["web=1"]);
    // It has begun to write.
    let path = scene.path("web.yaml");
    scene.write("web.yaml", &service("a", "1")[..60]);
    scene.news.writing.insert(path.clone(), scene.now);
    assert!(scene.round().is_some());
    assert_eq!(scene.services(), ["web=1"]);
    // It has closed the file.
    scene.write("web.yaml", &service("web", "2"));
    scene.news.writing.clear();
    scene.news.changed.insert(path.clone());
    scene.round();
    assert_eq!(scene.services(), ["web=2"]);
    // A writer that never closes is not waited for without end.
    scene.write("web.yaml", &service("web", "3"));
    scene.news.writing.insert(path, scene.now);
    scene.now += Duration::from_secs(2);
    scene.round();
    assert_eq!(scene.services(), ["web=3"]);
}

#[test]
fn a_folder_that_is_gone_keeps_everything() {
    let mut scene = Scene::new();
    scene.write("web.yaml", &service("web", "1"));
    scene.holds(&["web=1"]);
    fs::remove_dir_all(scene.directory.path()).unwrap();
    scene.holds(&["web=1"]);
    assert_eq!(scene.findings(), [(".".to_owned(), 0, "last good form".to_owned())]);
    scene.write("web.yaml", &service("web", "2"));
    scene.holds(&["web=2"]);
    assert_eq!(scene.findings(), []);
}

#[test]
fn a_directory_that_cannot_be_listed_keeps_what_it_held() {
    let mut scene = Scene::with(Limits { depth: 2, ..Limits::default() }, AT_ONCE);
    scene.write("a/web.yaml", &service("web", "1"));
    scene.holds(&["web=1"]);
    scene.write("a/b/api.yaml", &service("api", "1"));
    scene.holds(&["web=1"]);
    assert_eq!(scene.findings(), [("a/b".to_owned(), 0, "nothing".to_owned())]);
}

#[test]
fn more_files_than_allowed_are_not_read_and_do_not_push_others_out() {
    let mut scene = Scene::with(Limits { files: 2, ..Limits::default() }, AT_ONCE);
    scene.write("c.yaml", &service("c", "1"));
    scene.write("d.yaml", &service("d", "1"));
    scene.holds(&["c=1", "d=1"]);
    scene.write("a.yaml", &service("a", "1"));
    scene.holds(&["c=1", "d=1"]);
    assert_eq!(scene.findings(), [("a.yaml".to_owned(), 0, "nothing".to_owned())]);
    fs::remove_file(scene.path("c.yaml")).unwrap();
    scene.holds(&["a=1", "d=1"]);

    let mut scene = Scene::with(Limits { total_bytes: 150, file_bytes: 150, ..Limits::default() }, AT_ONCE);
    scene.write("a.yaml", &service("a", "1"));
    scene.write("b.yaml", &service("b", "1"));
    scene.holds(&["a=1"]);
    scene.write("a.yaml", &(service("a", "2") + &"#".repeat(150)));
    scene.holds(&["a=1"]);
    assert!(scene.view.findings.iter().any(|finding| finding.message.contains("150 bytes")));
}

#[test]
fn more_entries_than_allowed_delete_nothing() {
    let mut scene = Scene::with(Limits { entries: 3, ..Limits::default() }, AT_ONCE);
    scene.write("a.yaml", &service("a", "1"));
    scene.holds(&["a=1"]);
    fs::remove_file(scene.path("a.yaml")).unwrap();
    (0..5).for_each(|number| scene.write(&format!("{number}.txt"), ""));
    scene.holds(&["a=1"]);
    assert_eq!(scene.findings().len(), 1);
}

#[test]
fn places_are_known() {
    let mut scene = Scene::new();
    scene.write("shop/all.yaml", &(service("a", "1") + &service("b", "1")));
    scene.settle();
    let places: Vec<_> = scene.folder.places().into_iter().map(|(key, place)| (key.name, place)).collect();
    let file = "shop/all.yaml".to_owned();
    assert_eq!(
        places,
        [(Name::new("default", "a"), (file.clone(), 1)), (Name::new("default", "b"), (file, 2))]
    );
}

/// An edit of a folder of valid manifests.
#[derive(Clone, Debug)]
enum Edit {
    Write(usize, Vec<(usize, u8)>),
    Remove(usize),
    Rename(usize, usize),
    Replace(usize, Vec<(usize, u8)>),
}

const FILES: [&str; 5] = ["a.yaml", "b.yaml", "deep/a.yaml", "deep/er/b.yaml", "z.yaml"];

fn edits() -> impl Strategy<Value = Vec<(Edit, bool)>> {
    let documents = || prop::collection::vec((0..4_usize, 0..3_u8), 0..4);
    let edit = prop_oneof![
        (0..FILES.len(), documents()).prop_map(|(file, documents)| Edit::Write(file, documents)),
        (0..FILES.len()).prop_map(Edit::Remove),
        (0..FILES.len(), 0..FILES.len()).prop_map(|(from, to)| Edit::Rename(from, to)),
        (0..FILES.len(), documents()).prop_map(|(file, documents)| Edit::Replace(file, documents)),
    ];
    prop::collection::vec((edit, any::<bool>()), 1..12)
}

fn text(documents: &[(usize, u8)]) -> String {
    documents
        .iter()
        .map(|(name, version)| service(["p", "q", "r", "s"][*name], &version.to_string()))
        .collect()
}

impl Scene {
    fn edit(&self, edit: &Edit) {
        match edit {
            Edit::Write(file, documents) => self.write(FILES[*file], &text(documents)),
            Edit::Remove(file) => drop(fs::remove_file(self.path(FILES[*file]))),
            Edit::Rename(from, to) => {
                fs::create_dir_all(self.path(FILES[*to]).parent().unwrap()).unwrap();
                let _ = fs::rename(self.path(FILES[*from]), self.path(FILES[*to]));
            }
            Edit::Replace(file, documents) => {
                let path = self.path(FILES[*file]);
                self.write(FILES[*file], "");
                let other = path.with_extension("tmp");
                fs::write(&other, text(documents)).unwrap();
                fs::rename(other, path).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn whatever_the_edits_the_end_is_that_of_a_fresh_look(edits in edits()) {
        let mut scene = Scene::new();
        for (edit, look) in &edits {
            scene.edit(edit);
            if *look {
                scene.round();
            }
        }
        scene.settle();
        let mut fresh = Folder::new(Limits::default(), AT_ONCE);
        let listing = scan::list(scene.directory.path(), &Limits::default(), &mut |_, _| {}).unwrap();
        let moment = Moment { now: scene.now, wall: SystemTime::now(), news: News::default() };
        let batch = fresh.refresh(Ok(listing), &moment).batch.unwrap();
        let view = Index::default().apply(batch).unwrap();
        prop_assert_eq!(&view.services, &scene.view.services);
        prop_assert_eq!(&view.findings, &scene.view.findings);
        prop_assert_eq!(fresh.places(), scene.folder.places());
    }
}
