//! The certificate in files. A reader that opens chain and key, one after the other, must never get them of two certificates: the three
//! names are links through one link (`..data`), which is exchanged in one step, as Kubernetes does it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::Material;
use super::AgentError;

/// A folder that holds the certificate in force.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    written: Option<(Box<str>, std::sync::Arc<str>)>,
}

impl Folder {
    /// The folder; made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub(super) fn open(path: PathBuf) -> Result<Self, AgentError> {
        let probe = || {
            fs::create_dir_all(&path)?;
            let probe = path.join(format!(".probe.{}", std::process::id()));
            fs::write(&probe, "")?;
            fs::remove_file(probe)
        };
        match probe() {
            Ok(()) => Ok(Self { path, written: None }),
            Err(source) => Err(AgentError::Folder { path: path.display().to_string(), source }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts what is in force into the files, if they hold anything else. Without a certificate they stay as they are.
    pub(super) fn write(&mut self, material: &Material) -> io::Result<()> {
        let (Some(leaf), Some(roots)) = (&material.leaf, &material.roots) else { return Ok(()) };
        let current = (leaf.facts().sha256.clone(), roots.clone());
        if self.written.as_ref() == Some(&current) {
            return Ok(());
        }
        let files =
            [(CHAIN, leaf.chain.as_str(), 0o644), (KEY, leaf.key_pem(), 0o600), (ROOTS, &**roots, 0o644)];
        replace(&self.path, &files)?;
        self.written = Some(current);
        Ok(())
    }
}

fn replace(folder: &Path, files: &[(&str, &str, u32)]) -> io::Result<()> {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let generation = format!("{GENERATION}{nanos}");
    let before = fs::read_link(folder.join(DATA)).ok();
    fs::create_dir(folder.join(&generation))?;
    for (name, text, mode) in files {
        let path = folder.join(&generation).join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(*mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
    }
    relink(Path::new(&generation), &folder.join(DATA))?;
    for (name, ..) in files {
        let target = Path::new(DATA).join(name);
        if fs::read_link(folder.join(name)).ok().as_ref() != Some(&target) {
            relink(&target, &folder.join(name))?;
        }
    }
    // The one before stays: somebody may be reading it.
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name();
        let old = name.to_string_lossy().starts_with(GENERATION) && *name != *generation;
        if old && before.as_deref() != Some(Path::new(&name)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Makes a link, in the place of whatever is there, in one step.
fn relink(target: &Path, link: &Path) -> io::Result<()> {
    let mut draft = link.as_os_str().to_owned();
    draft.push(".new");
    let _ = fs::remove_file(&draft);
    symlink(target, &draft)?;
    fs::rename(&draft, link)
}

const CHAIN: &str = "cert-chain.pem";
const KEY: &str = "key.pem";
const ROOTS: &str = "root-cert.pem";
const DATA: &str = "..data";
const GENERATION: &str = "..certificate-";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn all_files_change_at_once_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        // Somebody's own file of that name is replaced too.
        fs::write(path.join(KEY), "old").unwrap();
        for round in 0..5 {
            let text = format!("{round}");
            replace(path, &[(CHAIN, &text, 0o644), (KEY, &text, 0o600), (ROOTS, &text, 0o644)]).unwrap();
            for name in [CHAIN, KEY, ROOTS] {
                assert_eq!(fs::read_to_string(path.join(name)).unwrap(), text);
            }
        }
        let mode = |name| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(KEY), 0o600);
        // Three names, the link, two generations.
        assert_eq!(fs::read_dir(path).unwrap().count(), 6);
    }
}
