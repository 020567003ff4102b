//! One plain question on a connection of its own, with little patience.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Whether `GET path` is answered with 200 within a second.
pub(super) fn answers(target: SocketAddr, path: &str) -> bool {
    status(target, path).is_ok_and(|status| status.starts_with(b"HTTP/1.1 200"))
}

fn status(target: SocketAddr, path: &str) -> std::io::Result<[u8; 12]> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // By its address: a page for operators may refuse strange names (DNS rebinding).
    let request = format!("GET {path} HTTP/1.1\r\nhost: {target}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    // To its end: what is left unread would reset the connection.
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    Ok(status)
}

const PATIENCE: Duration = Duration::from_secs(1);
