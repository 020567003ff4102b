//! Peers that take or give without end, without keeping anything: for what would not fit into memory.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use crate::sandbox;

/// An HTTP/1.1 origin. `/endless` is answered by a body without end, `/upload…` by nothing: the body is read at a pace, or not at all;
/// everything else by `ok`.
#[derive(Debug)]
pub struct Fountain {
    address: SocketAddr,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
    read: AtomicU64,
}

impl Fountain {
    /// Bodies of requests are read at so many bytes a second from each connection.
    ///
    /// # Panics
    /// When there is no address for it.
    pub async fn start(bytes_per_second: usize) -> Self {
        let address = sandbox::address();
        let listener = TcpListener::bind(address).await.expect("an address for an origin");
        let counts = Arc::new(Counts::default());
        let task = tokio::spawn(accept(listener, counts.clone(), bytes_per_second));
        Self { address, counts, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::Relaxed)
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Bytes of bodies that were read so far.
    pub fn read(&self) -> u64 {
        self.counts.read.load(Ordering::Relaxed)
    }
}

impl Drop for Fountain {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, counts: Arc<Counts>, pace: usize) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        counts.connections.fetch_add(1, Ordering::Relaxed);
        let counts = counts.clone();
        connections.spawn(async move { drop(serve(socket, &counts, pace).await) });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut socket: TcpStream, counts: &Counts, pace: usize) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut head = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let end = loop {
            if let Some(at) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            match socket.read(&mut piece).await? {
                0 => return Ok(()),
                count => head.extend_from_slice(&piece[..count]),
            }
        };
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let target = String::from_utf8_lossy(&head[..end]).split(' ').nth(1).unwrap_or_default().to_owned();
        head.drain(..end);
        match target.as_str() {
            "/endless" => return pour(&mut socket).await,
            target if target.starts_with("/upload") => return sip(&mut socket, counts, pace).await,
            _ => socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?,
        }
    }
}

async fn pour(socket: &mut TcpStream) -> io::Result<()> {
    socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n").await?;
    loop {
        socket.write_all(&WATER).await?;
    }
}

async fn sip(socket: &mut TcpStream, counts: &Counts, pace: usize) -> io::Result<()> {
    let mut cup = vec![0; (pace / 10).max(1)];
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if pace == 0 {
            continue;
        }
        let count = socket.read(&mut cup).await?;
        if count == 0 {
            return Ok(());
        }
        counts.read.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// A connection that takes as little as the system allows before it is read from.
///
/// # Errors
/// When the other side does not listen.
pub async fn narrow(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    socket.connect(address).await
}

/// Zeros.
pub static WATER: [u8; 64 * 1024] = [0; 64 * 1024];
