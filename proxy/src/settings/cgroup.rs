//! The control groups that this process is in, of either version: where their files are.

use std::path::{Path, PathBuf};

/// Where control groups are mounted.
pub(super) const MOUNT: &str = "/sys/fs/cgroup";

/// One control group on the way from this process' own up to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) version: Version,
    pub(super) folder: PathBuf,
}

/// How its files are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

impl Group {
    /// What a file of the group says; nothing when it is not there.
    pub(super) fn read(&self, file: &str) -> String {
        read(&self.folder.join(file))
    }
}

/// This process' groups, as the kernel lists them.
pub(super) fn own() -> String {
    read(Path::new("/proc/self/cgroup"))
}

/// The groups of a controller along the way up to the root, from `/proc/self/cgroup`. Some may have no files.
pub(super) fn groups(cgroups: &str, mount: &Path, controller: &str) -> Vec<Group> {
    let mut found = Vec::new();
    for line in cgroups.lines() {
        // `hierarchy:controllers:path`; version 2 has the hierarchy 0 and no controllers.
        let mut parts = line.splitn(3, ':');
        let (Some(hierarchy), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let is_v2 = hierarchy == "0" && controllers.is_empty();
        if !is_v2 && !controllers.split(',').any(|name| name == controller) {
            continue;
        }
        let version = if is_v2 { Version::V2 } else { Version::V1 };
        let root = if is_v2 { mount.to_owned() } else { v1_root(mount, controllers, controller) };
        // In a container the path may be the host's, of which only the end, or nothing, is mounted: then the root is ours.
        let own = Path::new(if path.contains("..") { "" } else { path.trim_start_matches('/') });
        found.extend(own.ancestors().map(|ancestor| Group { version, folder: root.join(ancestor) }));
    }
    found
}

/// Version 1 mounts a controller under its own name or under all the names it shares a hierarchy with.
fn v1_root(mount: &Path, controllers: &str, controller: &str) -> PathBuf {
    let shared = mount.join(controllers);
    if shared.is_dir() { shared } else { mount.join(controller) }
}

/// A file that is not there says nothing.
pub(super) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests;
