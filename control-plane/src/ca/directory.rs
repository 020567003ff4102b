//! The authority's folder: who may read it, one control plane at a time, whole files or none.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::error::CaError;

/// The folder, locked for this process for as long as the value lives.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Its lock is the system's, so that it ends with the process however that ends.
    _lock: File,
}

impl Directory {
    /// Makes the folder if it is missing, checks whose it is, and takes it for this process.
    pub(super) fn open(path: &Path) -> Result<Self, CaError> {
        DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(path).map_err(CaError::file(path))?;
        let metadata = fs::metadata(path).map_err(CaError::file(path))?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(CaError::Owner { path: path.to_owned(), owner: metadata.uid() });
        }
        check_mode(path, metadata.mode(), PRIVATE_FOLDER)?;
        Ok(Self { path: path.to_owned(), _lock: lock(path)? })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A file's text, if there is one. Files with secrets must be ours alone.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>, CaError> {
        let path = self.file(name);
        match fs::metadata(&path) {
            Ok(metadata) => check_mode(&path, metadata.mode(), PRIVATE_FILE)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CaError::file(&path)(error)),
        }
        read_text(&path).map(Some)
    }

    /// Replaces a file as a whole: after a crash at any point there is the old text or the new one.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), CaError> {
        self.replace(name, text, PRIVATE_FILE)
    }

    /// The same for what everybody may read.
    pub(super) fn write_public(&self, name: &str, text: &str) -> Result<(), CaError> {
        self.replace(name, text, PUBLIC_FILE)
    }

    fn replace(&self, name: &str, text: &str, mode: u32) -> Result<(), CaError> {
        let (path, draft) = (self.file(name), self.file(&format!("{name}{DRAFT}")));
        let write = || -> io::Result<()> {
            // A draft of a run that died is not ours to append to.
            remove_if_there(&draft)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            self.sync()
        };
        write().map_err(|error| {
            // What is half written must not lie about; what it was is the error that counts.
            let _ = remove_if_there(&draft);
            CaError::file(&path)(error)
        })
    }

    /// Opens a file for lines that are added at its end.
    pub(super) fn append(&self, name: &str) -> Result<File, CaError> {
        let path = self.file(name);
        let file = OpenOptions::new().append(true).create(true).mode(PRIVATE_FILE).open(&path);
        let file = file.map_err(CaError::file(&path))?;
        self.sync().map_err(CaError::file(&self.path))?;
        Ok(file)
    }

    /// Removes a file; a key that is gone stays gone after a crash.
    pub(super) fn remove(&self, name: &str) -> Result<(), CaError> {
        let path = self.file(name);
        remove_if_there(&path).and_then(|()| self.sync()).map_err(CaError::file(&path))
    }

    /// The names of all files.
    pub(super) fn names(&self) -> Result<Vec<String>, CaError> {
        let entries = fs::read_dir(&self.path).map_err(CaError::file(&self.path))?;
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// The text of a file, within bounds.
pub(super) fn read_text(path: &Path) -> Result<String, CaError> {
    let file = File::open(path).map_err(CaError::file(path))?;
    let mut text = String::new();
    file.take(FILE_LIMIT + 1).read_to_string(&mut text).map_err(CaError::file(path))?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(CaError::content(path, format!("it is larger than {} MiB", FILE_LIMIT >> 20)));
    }
    Ok(text)
}

fn check_mode(path: &Path, mode: u32, wanted: u32) -> Result<(), CaError> {
    let mode = mode & 0o7777;
    if mode & 0o077 != 0 {
        return Err(CaError::Open { path: path.to_owned(), mode, wanted });
    }
    Ok(())
}

fn lock(folder: &Path) -> Result<File, CaError> {
    let path = folder.join(LOCK);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(PRIVATE_FILE);
    let mut file = options.open(&path).map_err(CaError::file(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut process = String::new();
            // Only for the text of the error.
            let _ = (&mut file).take(32).read_to_string(&mut process);
            return Err(CaError::InUse { path: folder.to_owned(), process: process.trim().to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(CaError::file(&path)(error)),
    }
    let note = |file: &mut File| -> io::Result<()> {
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())
    };
    note(&mut file).map_err(CaError::file(&path))?;
    Ok(file)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

const PRIVATE_FOLDER: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;
const PUBLIC_FILE: u32 = 0o644;

/// Held by the control plane that uses the folder.
const LOCK: &str = "lock";

/// How a file is called until it is whole.
pub(super) const DRAFT: &str = ".draft";

/// How large a file may be. The ledger is the largest: some 400 bytes for each leaf that lives.
const FILE_LIMIT: u64 = 256 << 20;
