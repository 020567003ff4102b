//! The demo's copy of `examples/shop`: the files come out of the program, move to free ports, and are edited in place.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use gateway_api::experimental::gateways::Gateway;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

use super::edit::{self, EditError};
use super::layout::{Layout, Place, Wanted};

/// What the demo must know about one Pod to run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShopPod {
    /// Its manifest's file name.
    pub(super) file: String,
    /// The Pod's name.
    pub(super) name: String,
    /// The label `app`.
    pub(super) app: String,
    /// The label `version`.
    pub(super) version: String,
    /// The service account that it runs as.
    pub(super) account: String,
    /// Where it listens.
    pub(super) place: Place,
}

/// The folder that the control plane reads.
#[derive(Debug)]
pub(super) struct Manifests {
    folder: PathBuf,
    /// Beside the folder, on the same disk: a file is written here and moved, so that no reader sees half of it.
    staging: PathBuf,
}

impl Manifests {
    /// Writes the shop, moved to where `layout` says, into a new folder `manifests` below `root`.
    pub(super) fn write_all(root: &Path, layout: &Layout) -> Result<Self, ManifestError> {
        let manifests = Self { folder: root.join("manifests"), staging: root.join("staging") };
        for folder in [&manifests.folder, &manifests.staging] {
            std::fs::create_dir(folder).map_err(|error| ManifestError::file(folder, &error))?;
        }
        for (file, text) in FILES {
            manifests.write(file, &relocate(text, layout)?)?;
        }
        Ok(manifests)
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Changes one value of one file, as a person would in an editor.
    pub(super) fn set(
        &self,
        file: &str,
        anchors: &[&str],
        key: &str,
        value: &str,
    ) -> Result<(), ManifestError> {
        let path = self.folder.join(file);
        let text = std::fs::read_to_string(&path).map_err(|error| ManifestError::file(&path, &error))?;
        let edited = edit::set(&text, anchors, key, value)
            .map_err(|reason| ManifestError::Edit { file: file.to_owned(), reason })?;
        self.write(file, &edited)
    }

    /// Splits the traffic of `reviews`: `percent` to version 2, the rest to version 1. One write, so one change.
    pub(super) fn set_canary(&self, percent: u32) -> Result<(), ManifestError> {
        let path = self.folder.join(CANARY_FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| ManifestError::file(&path, &error))?;
        let rest = (100 - percent.min(100)).to_string();
        let edited = edit::set(&text, &["- name: reviews-v1"], "weight", &rest)
            .and_then(|text| edit::set(&text, &["- name: reviews-v2"], "weight", &percent.to_string()))
            .map_err(|reason| ManifestError::Edit { file: CANARY_FILE.to_owned(), reason })?;
        self.write(CANARY_FILE, &edited)
    }

    /// Adds the replacement of the lost Pod, not ready yet: as Kubernetes shows a Pod that is starting.
    pub(super) fn add_replacement(&self, layout: &Layout) -> Result<(), ManifestError> {
        let text = relocate(&replacement_text(), layout)?;
        let text = edit::set(&text, &["conditions:"], "ready", "false")
            .map_err(|reason| ManifestError::Edit { file: REPLACEMENT.to_owned(), reason })?;
        self.write(&format!("{REPLACEMENT}.yaml"), &text)
    }

    /// Removes a file.
    pub(super) fn remove(&self, file: &str) -> Result<(), ManifestError> {
        let path = self.folder.join(file);
        std::fs::remove_file(&path).map_err(|error| ManifestError::file(&path, &error))
    }

    fn write(&self, file: &str, text: &str) -> Result<(), ManifestError> {
        let (staged, path) = (self.staging.join(file), self.folder.join(file));
        std::fs::write(&staged, text).map_err(|error| ManifestError::file(&staged, &error))?;
        std::fs::rename(&staged, &path).map_err(|error| ManifestError::file(&path, &error))
    }
}

/// What the files ask for, the later replacement included.
pub(super) fn wanted() -> Result<Wanted, ManifestError> {
    let mut pods = Vec::new();
    for (file, text) in FILES {
        pods.extend(pod_in(file, text)?);
    }
    pods.extend(pod_in(REPLACEMENT, &replacement_text())?);
    let pods = pods.into_iter().map(|pod| (pod.name, pod.place)).collect();
    Ok(Wanted { gateway: gateway_address()?, pods })
}

/// The Pods that run from the start, where `layout` puts them.
pub(super) fn pods(layout: &Layout) -> Result<Vec<ShopPod>, ManifestError> {
    let mut pods = Vec::new();
    for (file, text) in FILES {
        pods.extend(pod_in(file, text)?.and_then(|pod| placed(pod, layout)));
    }
    Ok(pods)
}

/// The Pod that replaces the lost one.
pub(super) fn replacement(layout: &Layout) -> Result<ShopPod, ManifestError> {
    let file = format!("{REPLACEMENT}.yaml");
    pod_in(&file, &replacement_text())?
        .and_then(|pod| placed(pod, layout))
        .ok_or(ManifestError::Pod { file, reason: "no Pod in it".to_owned() })
}

fn placed(pod: ShopPod, layout: &Layout) -> Option<ShopPod> {
    let place = *layout.pods.get(&pod.name)?;
    Some(ShopPod { place, ..pod })
}

/// The lost Pod's manifest with another name and another address.
fn replacement_text() -> String {
    let text = FILES.iter().find(|(file, _)| *file == LOST_FILE).map_or("", |(_, text)| *text);
    let text = text.split_once('\n').map_or(text, |(_, rest)| rest);
    let renamed = [(LOST, REPLACEMENT), (LOST_ADDRESS, REPLACEMENT_ADDRESS)]
        .map(|(from, to)| (from.to_owned(), to.to_owned()));
    format!("# The Pod that replaces {LOST}.\n{}", edit::replace_words(text, &renamed))
}

/// Moves the addresses and ports of one file to where the layout says.
fn relocate(text: &str, layout: &Layout) -> Result<String, ManifestError> {
    let mut replacements = Vec::new();
    let mut replace = |from: String, to: String| replacements.push((from, to));
    if let Some(pod) = pod_in("", text)? {
        let Some(to) = layout.pods.get(&pod.name) else { return Ok(text.to_owned()) };
        replace(pod.place.address.to_string(), to.address.to_string());
        replace(pod.place.app.to_string(), to.app.to_string());
        replace(pod.place.inbound.to_string(), to.inbound.to_string());
        replace(pod.place.outbound.to_string(), to.outbound.to_string());
    } else if text == GATEWAY_TEXT {
        replace(gateway_address()?.port().to_string(), layout.gateway.port().to_string());
    }
    Ok(edit::replace_words(text, &replacements))
}

/// The first Pod of a file.
fn pod_in(file: &str, text: &str) -> Result<Option<ShopPod>, ManifestError> {
    let failed = |reason: String| ManifestError::Pod { file: file.to_owned(), reason };
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_yaml::Value::deserialize(document).map_err(|error| failed(error.to_string()))?;
        if value.get("kind").and_then(serde_yaml::Value::as_str) == Some("Pod") {
            let pod: Pod = serde_yaml::from_value(value).map_err(|error| failed(error.to_string()))?;
            return shop_pod(file, pod).map(Some).map_err(failed);
        }
    }
    Ok(None)
}

fn shop_pod(file: &str, pod: Pod) -> Result<ShopPod, String> {
    let labels = pod.metadata.labels.unwrap_or_default();
    let annotations = pod.metadata.annotations.unwrap_or_default();
    let label = |name: &str| labels.get(name).cloned().ok_or_else(|| format!("no label `{name}`"));
    let annotation = |name: &str| annotations.get(name).ok_or_else(|| format!("no annotation `{name}`"));
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("`{text}` is not a port"));
    let (app, inbound) = annotation("sidegate.dev/inbound")?
        .split_once(':')
        .ok_or("`sidegate.dev/inbound` is not `<app>:<sidecar>`")?;
    let address = pod.status.and_then(|status| status.pod_ip).ok_or("no `status.podIP`")?;
    let place = Place {
        address: address.parse::<IpAddr>().map_err(|_| format!("`{address}` is not an address"))?,
        app: port(app)?,
        inbound: port(inbound)?,
        outbound: port(annotation("sidegate.dev/outbound-proxy")?)?,
        admin: 0,
    };
    let name = pod.metadata.name.ok_or("no name")?;
    let account =
        pod.spec.and_then(|spec| spec.service_account_name).ok_or("no `spec.serviceAccountName`")?;
    let (app, version) = (label("app")?, label("version")?);
    Ok(ShopPod { file: file.to_owned(), name, app, version, account, place })
}

fn gateway_address() -> Result<SocketAddr, ManifestError> {
    let failed =
        |reason: &str| ManifestError::Pod { file: "gateway.yaml".to_owned(), reason: reason.to_owned() };
    for document in serde_yaml::Deserializer::from_str(GATEWAY_TEXT) {
        let value = serde_yaml::Value::deserialize(document).map_err(|error| failed(&error.to_string()))?;
        if value.get("kind").and_then(serde_yaml::Value::as_str) != Some("Gateway") {
            continue;
        }
        let gateway: Gateway = serde_yaml::from_value(value).map_err(|error| failed(&error.to_string()))?;
        let addresses = gateway.spec.addresses.unwrap_or_default();
        let address = addresses.first().and_then(|address| address.value.as_deref()?.parse::<IpAddr>().ok());
        let port = gateway.spec.listeners.first().and_then(|listener| u16::try_from(listener.port).ok());
        let (Some(address), Some(port)) = (address, port) else { return Err(failed("no address or port")) };
        return Ok(SocketAddr::new(address, port));
    }
    Err(failed("no Gateway in it"))
}

/// Why the demo's files are not as it needs them.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    /// The disk says no.
    #[error("{path}: {reason}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// A person changed the file so that the next edit finds nothing to change.
    #[error("{file}: {reason}")]
    Edit {
        /// The file.
        file: String,
        /// What is missing.
        reason: EditError,
    },
    /// A Pod or Gateway that the demo cannot run.
    #[error("{file}: {reason}")]
    Pod {
        /// The file.
        file: String,
        /// What is missing.
        reason: String,
    },
}

impl ManifestError {
    fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::File { path: path.to_owned(), reason: error.to_string() }
    }
}

/// The host that the gateway's route is for.
pub(super) const HOST: &str = "shop.example";
/// The shop's namespace.
pub(super) const NAMESPACE: &str = "shop";
/// The Gateway's name.
pub(super) const GATEWAY: &str = "shop";
/// The weights.
pub(super) const CANARY_FILE: &str = "canary.yaml";
/// Rate limit and load balancing.
pub(super) const POLICY_FILE: &str = "policies.yaml";
/// The Pod that is killed.
pub(super) const LOST: &str = "reviews-v1-2";
/// The Pod that comes in its place.
pub(super) const REPLACEMENT: &str = "reviews-v1-3";
const LOST_FILE: &str = "reviews-v1-2.yaml";
const LOST_ADDRESS: &str = "127.0.0.32";
const REPLACEMENT_ADDRESS: &str = "127.0.0.33";
const GATEWAY_TEXT: &str = include_str!("../../../examples/shop/gateway.yaml");

const FILES: [(&str, &str); 11] = [
    ("shop.yaml", include_str!("../../../examples/shop/shop.yaml")),
    ("gateway.yaml", GATEWAY_TEXT),
    ("web.yaml", include_str!("../../../examples/shop/web.yaml")),
    ("catalog.yaml", include_str!("../../../examples/shop/catalog.yaml")),
    ("reviews.yaml", include_str!("../../../examples/shop/reviews.yaml")),
    ("reviews-v1-1.yaml", include_str!("../../../examples/shop/reviews-v1-1.yaml")),
    (LOST_FILE, include_str!("../../../examples/shop/reviews-v1-2.yaml")),
    ("reviews-v2-1.yaml", include_str!("../../../examples/shop/reviews-v2-1.yaml")),
    (CANARY_FILE, include_str!("../../../examples/shop/canary.yaml")),
    (POLICY_FILE, include_str!("../../../examples/shop/policies.yaml")),
    ("security.yaml", include_str!("../../../examples/shop/security.yaml")),
];

#[cfg(test)]
mod tests;
