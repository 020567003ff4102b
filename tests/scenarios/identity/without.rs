//! A rotation of the root goes on without a proxy that stands still for good, and without its certificate: by command, and by nothing else.

use sidegate_tests::origin::Origin;
use sidegate_tests::sandbox::address;
use sidegate_tests::secured::SecuredPlane;

use super::rates::meshed;
use super::*;

/// Until the rotation waits for this one alone.
async fn waits_for(plane: &SecuredPlane, phase: &str, who: &str) {
    wait::until(&format!("{phase}: only {who} is waited for"), async || {
        let status = plane.status().await?;
        let rotation = &status["ca"]["rotation"];
        let waiting = rotation["waiting"].as_array()?;
        let only = waiting.len() == 1 && waiting[0]["who"] == who;
        (rotation["phase"] == phase && only).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_rotation_goes_on_without_a_proxy_that_is_named() {
    let sandbox = Sandbox::new();
    let origin = Origin::named("app").await;
    let (app, _) = meshed("app", origin.address());
    let (gone, _) = meshed("gone", address());
    let manifests = [("app.yaml", app), ("gone.yaml", gone)];
    let flags = ["--leaf-ttl", "10s", "--rotation-hold", "1", "--rotation-grace", "1"];
    let plane = SecuredPlane::start(&sandbox, &manifests, &flags).await;
    let _app = plane.proxy(&sandbox, "sidecar", "app").await;
    let gone = plane.proxy(&sandbox, "sidecar", "gone").await;
    let id = "spiffe://cluster.local/ns/shop/sa/gone";
    let none = plane.rotate_root(&["--without", "shop/gone"]).await;
    assert!(none.code == Some(1) && none.err.contains("no rotation is under way"), "{none:?}");

    gone.process.pause();
    assert_eq!(plane.rotate_root(&["--no-wait"]).await.code, Some(0));
    waits_for(&plane, "distributing", "sidecar shop/gone").await;
    let refused = plane.rotate_root(&["--without", "shop/app"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("waited for are: sidecar shop/gone (node "), "{refused:?}");
    let left_out = plane.rotate_root(&["--without", "shop/gone", "--no-wait"]).await;
    assert_eq!(left_out.code, Some(0), "{left_out:?}");
    assert!(left_out.out.contains("no longer waiting for shop/gone: if it comes back"), "{left_out:?}");
    let told = plane.rotate_root(&["--status"]).await;
    assert!(told.code == Some(3) && told.out.contains("not waiting for sidecar shop/gone"), "{told:?}");
    assert!(plane.process.log().contains("does not wait any more"), "{}", plane.process.log());

    // Its certificate is another matter: any Pod of the account may have it.
    waits_for(&plane, "signing", id).await;
    let mut follower = plane.rotate(&sandbox, "rotation");
    let left_out = plane.rotate_root(&["--without", id, "--no-wait"]).await;
    assert_eq!(left_out.code, Some(0), "{left_out:?}");
    assert_eq!(
        wait::within("the end of the rotation", follower.wait()).await.code(),
        Some(0),
        "{}",
        follower.log()
    );
    assert!(follower.log().contains("done: the root"), "{}", follower.log());
    let status = plane.status().await.expect("a status");
    assert_eq!(
        status["ca"]["rotation"]["without"],
        Value::Null,
        "the next one waits for everybody: {status}"
    );
    gone.process.resume();
}
