//! Somebody else signs: the folder, the roots in a file, and that nobody is let in without a certificate.

use sidegate_proxy::settings::Identity;

use super::*;

fn root(name: &str) -> String {
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

fn options(scene: &Scene) -> ExternalOptions {
    let (roots, token) = (scene.folder.path().join("roots.pem"), scene.folder.path().join("token"));
    std::fs::write(&token, "t").unwrap();
    if !roots.exists() {
        std::fs::write(&roots, root("one")).unwrap();
    }
    ExternalOptions {
        directory: scene.path(),
        trust_domain: "cluster.local".to_owned(),
        identity: Identity::new("127.0.0.1:1", Some("ca.test"), &roots, &token, None).unwrap(),
        roots,
        bundles: Vec::new(),
    }
}

async fn until(what: &str, look: impl Fn() -> bool) {
    let waited = timeout(Duration::from_secs(20), async {
        while !look() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

#[tokio::test]
async fn the_roots_are_a_file_that_is_followed() {
    let scene = Scene::new();
    let options = options(&scene);
    let roots = options.roots.clone();
    let external = External::open(options).unwrap();
    let trust = external.trust();
    let own = || trust.borrow().bundles["cluster.local"].clone();
    let first = own();
    assert_eq!(first.len(), 1);
    let running = tokio::spawn(external.clone().run());
    until("a failure is told", || external.report().last_failure.is_some()).await;
    assert!(external.serving().borrow().is_none() && external.report().serial.is_none());
    let two = root("two");
    std::fs::write(&roots, format!("{}{two}", first[0])).unwrap();
    until("both are trusted", || own() == [first[0].clone(), two.clone()]).await;
    // The file is written afterwards.
    let written = || read(&scene.path(), "root-cert.pem").matches("BEGIN").count();
    until("the file has both", || written() == 2).await;
    std::fs::write(&roots, "half").unwrap();
    until("a problem is told", || !external.report().problems.is_empty()).await;
    assert_eq!(own().len(), 2, "the last good form stays");
    external.deny(id("web"), Reason::KeyCompromise).await.unwrap();
    assert_eq!(trust.borrow().denied, [id("web").as_str()]);
    external.admit_again(id("web")).await.unwrap();
    assert!(trust.borrow().denied.is_empty());
    running.abort();
}

#[tokio::test]
async fn a_folder_of_one_kind_is_not_taken_for_the_other() {
    let scene = Scene::new();
    drop(scene.open());
    let error = External::open(options(&scene)).unwrap_err().to_string();
    assert!(error.contains("of the control plane's own"), "{error}");
    let scene = Scene::new();
    drop(External::open(options(&scene)).unwrap());
    let error = Authority::open(scene.options()).unwrap_err().to_string();
    assert!(error.contains("other files"), "{error}");
    let scene = Scene::new();
    let options = options(&scene);
    std::fs::write(&options.roots, "nothing").unwrap();
    let error = External::open(options).unwrap_err().to_string();
    assert!(error.contains("roots.pem"), "{error}");
}
