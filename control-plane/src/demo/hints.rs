//! What to try next while `--keep` leaves everything running.

use super::manifests;
use super::mesh::{Mesh, app_process};

/// A page of commands that work as they stand.
pub(super) fn text(mesh: &Mesh) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "sidegate".to_owned());
    let folder = mesh.manifests.folder().display().to_string();
    let mut page = "Everything is still running. From another terminal, try:\n".to_owned();
    let mut hint = |command: String, what: &str| page.push_str(&format!("\n  {command}\n      {what}\n"));
    hint(
        format!("curl -H 'Host: {}' http://{}/", manifests::HOST, mesh.layout.gateway),
        "one request all the way; each app wrote its own part of the answer",
    );
    hint(
        format!("{program} status --address http://{}", mesh.layout.control_admin),
        "which proxies are connected, and what each has applied",
    );
    hint(
        format!("$EDITOR {folder}/{}", manifests::CANARY_FILE),
        "change the weights, save, and send the request again a few times",
    );
    hint(
        format!("{program} validate {folder}"),
        "what is wrong with the files, after an edit that went wrong",
    );
    if let Some(process) = mesh.processes.id(&app_process(manifests::REPLACEMENT)) {
        hint(
            format!("kill -9 {process}"),
            "kills one copy of reviews v1 (give v1 some weight first): requests go to the other one",
        );
    }
    page.push_str(&format!(
        "\nThe files are in {}, the logs in {}.\nCtrl-C ends everything and removes them.\n",
        folder,
        mesh.processes.logs().display()
    ));
    page
}
