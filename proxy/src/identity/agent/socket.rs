//! The agent's Unix socket: for its own user alone, in the place of one that nobody serves any more, never in the place of another.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Type};
use tokio::net::UnixListener;

use super::AgentError;

/// A bound socket; its path goes with its value.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    listener: std::os::unix::net::UnixListener,
}

impl Socket {
    /// Binds the path.
    ///
    /// # Errors
    /// With what is in the way.
    pub(super) fn bind(path: &Path) -> Result<Self, AgentError> {
        bind(path).map_err(|reason| AgentError::Socket { path: path.display().to_string(), reason })
    }

    /// The listener, on the runtime that this is called on.
    pub(super) fn listener(&self) -> io::Result<UnixListener> {
        UnixListener::from_std(self.listener.try_clone()?)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Left behind, it would be replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn bind(path: &Path) -> Result<Socket, String> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err("something is there that is no socket: choose another path".to_owned());
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err("another agent serves it: stop that one, or choose another path".to_owned());
        }
        _ => {}
    }
    let name = path.file_name().ok_or("the path names no file")?.to_string_lossy();
    // Under another name until it is what it must be; the rename then replaces whatever was left there.
    let draft = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let _ = std::fs::remove_file(&draft);
    let bound = listen(&draft, path);
    if bound.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    let listener = bound.map_err(|error| error.to_string())?;
    Ok(Socket { path: path.to_owned(), listener })
}

fn listen(draft: &Path, path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(draft)?)?;
    // Before it listens: nobody can connect meanwhile.
    std::fs::set_permissions(draft, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    std::fs::rename(draft, path)?;
    Ok(std::os::fd::OwnedFd::from(socket).into())
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sds");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a stale one is left behind");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        let refused = Socket::bind(&path).unwrap_err().to_string();
        assert!(refused.contains("another agent serves it"), "{refused}");
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        let refused = Socket::bind(&path).unwrap_err().to_string();
        assert!(refused.contains("is no socket"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }
}
