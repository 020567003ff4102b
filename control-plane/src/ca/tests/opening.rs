//! The folder: made, read again, broken in every way, shared with nobody.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn refusal(scene: &Scene) -> String {
    Authority::open(scene.options()).unwrap_err().to_string()
}

fn file_with(folder: &Path, end: &str) -> std::path::PathBuf {
    let found = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found = found.filter(|path| path.to_string_lossy().ends_with(end));
    found.next().unwrap_or_else(|| panic!("no file ends with {end}"))
}

fn root_of(authority: &Authority) -> String {
    authority.report().roots[0].fingerprint.clone()
}

#[tokio::test]
async fn nobody_else_can_read_a_key_and_everybody_the_root() {
    let scene = Scene::new();
    let authority = scene.open();
    authority.issue(order("web")).await.unwrap();
    let folder = scene.path();
    assert_eq!(mode(&folder), 0o700);
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let wanted = if path.ends_with("root-cert.pem") { 0o644 } else { 0o600 };
        assert_eq!(mode(&path), wanted, "{}", path.display());
    }
    let root = read(&folder, "root-cert.pem");
    assert!(!root.contains("PRIVATE") && root.contains("CERTIFICATE"));
    assert_eq!(fingerprints(&root).into_iter().collect::<Vec<_>>(), [root_of(&authority)]);
    assert!(!format!("{authority:?}").contains("PRIVATE"));
}

#[tokio::test]
async fn the_same_authority_is_found_again_with_its_leaves() {
    let scene = Scene::new();
    let authority = scene.open();
    let root = root_of(&authority);
    let first = authority.issue(order("web")).await.unwrap();
    let second = Order { supersedes: Some(first.serial.clone()), ..order("web") };
    let second = authority.issue(second).await.unwrap();
    drop(authority);
    let again = scene.open();
    assert_eq!(root_of(&again), root);
    assert_eq!(again.leaf(&second.serial).unwrap().superseded, None);
    assert_eq!(again.leaf(&first.serial).unwrap().superseded, Some(scene.now()));
    drop(again);
    scene.pass(25 * 3600);
    assert_eq!(scene.open().report().live_leaves, 0, "they are over");
}

#[test]
fn two_control_planes_do_not_share_a_folder() {
    let scene = Scene::new();
    let first = scene.open();
    let text = refusal(&scene);
    assert!(text.contains("in use") || text.contains("is using"), "{text}");
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    drop(first);
    scene.open();
}

#[test]
fn what_others_may_read_is_refused() {
    let scene = Scene::new();
    drop(scene.open());
    let folder = scene.path();
    let change = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for (path, open, tight) in [
        (folder.clone(), 0o755, 0o700),
        (file_with(&folder, ".root.pem"), 0o640, 0o600),
        (file_with(&folder, ".issuing.pem"), 0o604, 0o600),
        (folder.join("authority.json"), 0o666, 0o600),
        (folder.join("admin.secret"), 0o644, 0o600),
        (folder.join("leaves.jsonl"), 0o620, 0o600),
    ] {
        change(&path, open);
        let text = refusal(&scene);
        assert!(text.contains("chmod") && text.contains(&path.display().to_string()), "{text}");
        change(&path, tight);
        drop(scene.open());
    }
}

#[test]
fn a_broken_folder_is_told_and_not_replaced() {
    let scene = Scene::new();
    drop(scene.open());
    let folder = scene.path();
    for (name, text, told) in [
        (".root.pem", "", "certificate"),
        (".root.pem", "-----BEGIN CERTIFICATE-----\nMIIB", "PEM"),
        (".issuing.pem", "", "private key"),
        (".issuing.pem", "hello", "private key"),
        ("authority.json", "{\"version\": 1", "backup"),
        ("authority.json", "{}", "backup"),
        ("leaves.jsonl", "hello\n", "line 1"),
        ("admin.secret", "short", "64 hex digits"),
    ] {
        let path = file_with(&folder, name);
        let good = fs::read(&path).unwrap();
        fs::write(&path, text).unwrap();
        let said = refusal(&scene);
        assert!(said.contains(told), "{name} {text:?}: {said}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "left as it was");
        fs::write(&path, good).unwrap();
        drop(scene.open());
    }
    for name in [".root.pem", ".issuing.pem"] {
        let path = file_with(&folder, name);
        let aside = folder.with_extension("aside");
        fs::rename(&path, &aside).unwrap();
        assert!(refusal(&scene).contains("missing"), "{name}");
        fs::rename(&aside, &path).unwrap();
    }
    let version = read(&folder, "authority.json");
    fs::write(folder.join("authority.json"), version.replace("\"version\": 1", "\"version\": 2")).unwrap();
    assert!(refusal(&scene).contains("newer"));
    fs::write(folder.join("authority.json"), version).unwrap();
    let other = Options { trust_domain: "other.example".to_owned(), ..scene.options() };
    assert!(Authority::open(other).unwrap_err().to_string().contains("cluster.local"));
    scene.open();
}

#[test]
fn a_key_of_another_root_is_noticed() {
    let (scene, other) = (Scene::new(), Scene::new());
    drop((scene.open(), other.open()));
    let issuing = file_with(&scene.path(), ".issuing.pem");
    fs::copy(file_with(&other.path(), ".issuing.pem"), &issuing).unwrap();
    assert!(refusal(&scene).contains("would not be accepted"), "{}", refusal(&scene));
    let scene = Scene::new();
    drop(scene.open());
    fs::copy(file_with(&other.path(), ".root.pem"), file_with(&scene.path(), ".root.pem")).unwrap();
    assert!(Authority::open(scene.options()).is_err());
}

#[test]
fn a_death_during_the_first_start_or_a_write_leaves_nothing_behind() {
    let scene = Scene::new();
    drop(scene.open());
    let folder = scene.path();
    // Before `authority.json` nothing was given out: what stands there is made anew.
    for name in ["authority.json", "leaves.jsonl", "admin.secret", "root-cert.pem"] {
        fs::remove_file(folder.join(name)).unwrap();
    }
    private(&folder.join("first-start"), "");
    let made = scene.open();
    assert!(!folder.join("first-start").exists());
    // It died after `authority.json`, and before the ledger was begun.
    drop(made);
    fs::remove_file(folder.join("leaves.jsonl")).unwrap();
    private(&folder.join("first-start"), "");
    let made = scene.open();
    let root = root_of(&made);
    drop(made);
    // A draft, the half of a last line, and the key of a root that never came into force.
    fs::write(folder.join("authority.json.draft"), "{").unwrap();
    let ledger = read(&folder, "leaves.jsonl");
    fs::write(folder.join("leaves.jsonl"), format!("{ledger}{{\"issued\":{{\"ser")).unwrap();
    fs::write(folder.join("0123456789abcdef.root.pem"), "x").unwrap();
    assert_eq!(root_of(&scene.open()), root);
    assert!(!folder.join("authority.json.draft").exists());
    assert!(!folder.join("0123456789abcdef.root.pem").exists());
}

#[test]
fn h6_keys_without_the_file_that_names_them_are_left_alone() {
    let scene = Scene::new();
    drop(scene.open());
    let folder = scene.path();
    let (root, issuing) = (file_with(&folder, ".root.pem"), file_with(&folder, ".issuing.pem"));
    let before = (fs::read(&root).unwrap(), fs::read(&issuing).unwrap());
    // What is left of a backup that was brought back by halves.
    let aside = scene.folder.path().join("aside");
    fs::rename(folder.join("authority.json"), &aside).unwrap();
    for name in ["leaves.jsonl", "admin.secret", "root-cert.pem"] {
        fs::remove_file(folder.join(name)).unwrap();
    }
    let text = refusal(&scene);
    assert!(text.contains("authority.json") && text.contains(".root.pem"), "{text}");
    assert_eq!((fs::read(&root).unwrap(), fs::read(&issuing).unwrap()), before);
    // With that file the ledger is what is missed.
    fs::rename(&aside, folder.join("authority.json")).unwrap();
    let text = refusal(&scene);
    assert!(text.contains("leaves.jsonl") && text.contains("rotation"), "{text}");
    private(&folder.join("leaves.jsonl"), "");
    scene.open();
    assert_eq!((fs::read(&root).unwrap(), fs::read(&issuing).unwrap()), before);
}

#[tokio::test]
async fn l2_a_start_with_a_clock_that_was_ahead_does_no_harm() {
    let scene = Scene::new();
    let root = root_of(&scene.open());
    scene.pass(300 * 86_400);
    let authority = scene.open();
    authority.inner.look(&[]);
    drop(authority);
    scene.back(300 * 86_400);
    let authority = scene.open();
    assert_eq!(authority.issue(order("web")).await.unwrap().root, root);
}

fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_folder_of_something_else_is_not_taken() {
    let scene = Scene::new();
    let folder = scene.path();
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(folder.join("letter.txt"), "dear").unwrap();
    assert!(refusal(&scene).contains("letter.txt"));
    assert_eq!(read(&folder, "letter.txt"), "dear");
}

#[tokio::test]
async fn a_disk_that_is_full_gives_no_certificate() {
    let scene = Scene::new();
    let authority = scene.open();
    authority.issue(order("web")).await.unwrap();
    drop(authority);
    let authority = scene.open();
    // The open ledger writes to a device that is always full.
    let full = fs::OpenOptions::new().append(true).open("/dev/full");
    let Ok(full) = full else { return };
    lock(&authority.inner.journal).write_to(full);
    let refused = authority.issue(order("web")).await;
    assert_eq!(refused, Err(IssueError::Unavailable("its ledger cannot be written")));
    assert_eq!(authority.report().live_leaves, 1, "what was not given out is not remembered");
    // With room again the file is begun anew.
    authority.issue(order("web")).await.unwrap();
    drop(authority);
    assert_eq!(scene.open().report().live_leaves, 2);
}

#[test]
fn a_folder_may_be_reached_by_a_link() {
    let scene = Scene::new();
    let root = root_of(&scene.open());
    let link = scene.folder.path().join("link");
    symlink(scene.path(), &link).unwrap();
    let again = Authority::open(Options { directory: link, ..scene.options() }).unwrap();
    assert_eq!(root_of(&again), root);
}

#[tokio::test]
async fn the_key_that_signs_is_renewed_in_time_even_after_a_long_sleep() {
    let scene = Scene::new();
    let authority = scene.open();
    let root = root_of(&authority);
    let before = authority.report().issuing_expires_seconds;
    scene.pass(300 * 86_400);
    authority.inner.look(&[]);
    assert!(authority.report().issuing_expires_seconds > before - 86_400, "a year again");
    let issued = authority.issue(order("web")).await.unwrap();
    assert_eq!(issued.root, root, "under the same root");
    drop(authority);
    scene.pass(500 * 86_400);
    let authority = scene.open();
    assert_eq!(root_of(&authority), root);
    authority.issue(order("web")).await.unwrap();
    drop(authority);
    scene.pass(3000 * 86_400);
    assert!(refusal(&scene).contains("the root has expired"), "{}", refusal(&scene));
}
