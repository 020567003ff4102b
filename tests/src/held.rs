//! A server that takes connections and says nothing until it is let: handshakes through it last as long as a scenario wants.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::origin::Gate;
use crate::sandbox;

/// In front of another server.
#[derive(Debug)]
pub struct Held {
    address: SocketAddr,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    taken: AtomicUsize,
    open: AtomicUsize,
}

impl Held {
    /// Passes every connection on to `behind` once the gate is open.
    ///
    /// # Panics
    /// When no address is free.
    pub async fn start(behind: SocketAddr, gate: &Gate) -> Self {
        let listener = TcpListener::bind(sandbox::address()).await.expect("an address");
        let address = listener.local_addr().expect("an address");
        let counts = Arc::new(Counts::default());
        let (counted, gate) = (counts.clone(), gate.clone());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                counted.taken.fetch_add(1, Ordering::Relaxed);
                counted.open.fetch_add(1, Ordering::Relaxed);
                let (counted, gate) = (counted.clone(), gate.clone());
                connections.spawn(async move {
                    // How it ends is the other side's.
                    let _ = serve(socket, behind, &gate).await;
                    counted.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, counts, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it was ever asked for.
    pub fn taken(&self) -> usize {
        self.counts.taken.load(Ordering::Relaxed)
    }

    /// How many of them are open.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::Relaxed)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut socket: TcpStream, behind: SocketAddr, gate: &Gate) -> io::Result<()> {
    let mut ahead = Vec::new();
    let opened = gate.opened();
    tokio::pin!(opened);
    loop {
        tokio::select! {
            biased;
            () = &mut opened => break,
            read = socket.read_buf(&mut ahead) => {
                if read? == 0 {
                    return Ok(());
                }
            }
        }
    }
    let mut origin = TcpStream::connect(behind).await?;
    origin.write_all(&ahead).await?;
    copy_bidirectional(&mut socket, &mut origin).await?;
    Ok(())
}
