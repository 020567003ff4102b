//! A folder and addresses of a scenario's own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;

/// A scenario's folder; it goes with its value.
#[derive(Debug)]
pub struct Sandbox {
    folder: TempDir,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// An empty one.
    ///
    /// # Panics
    /// When the system has no room for a folder.
    pub fn new() -> Self {
        Self { folder: TempDir::with_prefix("sidegate-").expect("a temporary folder") }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file in it and tells where it is.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).expect("a file in the sandbox");
        path
    }
}

/// A free port on a loopback address that nobody else in this run gets, so that the port stays free until it is used. Systems
/// with one loopback address share that.
///
/// # Panics
/// When no port is free.
pub fn address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    // Two runs at once meet only when their process numbers agree here.
    let run = u8::try_from(64 + std::process::id() % 128).unwrap_or(64);
    let own = Ipv4Addr::new(127, run, high, low);
    let has_own = TcpListener::bind((own, 0)).is_ok();
    let ip = if has_own { own } else { Ipv4Addr::LOCALHOST };
    SocketAddr::from((ip, free_port(ip)))
}

/// A free port of 127.0.0.1, for what listens nowhere else.
///
/// # Panics
/// When no port is free.
pub fn local_port() -> u16 {
    free_port(Ipv4Addr::LOCALHOST)
}

/// Below those that the system gives to outgoing connections and to whoever does not care: nobody takes it by chance.
fn free_port(ip: Ipv4Addr) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % u32::from(PORTS)).unwrap_or(0);
    (0..PORTS)
        .map(|_| first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)))
        .map(|number| LOWEST_PORT + number % PORTS)
        .find(|port| TcpListener::bind((ip, *port)).is_ok())
        .expect("a free loopback port")
}

const LOWEST_PORT: u16 = 12_000;
const PORTS: u16 = 18_000;
