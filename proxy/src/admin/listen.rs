//! Binding, accepting, and the bounds on connections: readiness must answer when everything else is scarce.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::{Shared, State, is_loopback, pages};

/// Connections at a time; further ones are closed at once.
const CONNECTIONS: usize = 64;

/// For a request's head, and for the next request on an idle connection.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// For everything on one connection: no dump takes longer, and no client holds a place for ever.
const CONNECTION_TIME: Duration = Duration::from_secs(300);

/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;

/// Descriptors kept aside for when the process has no more.
const RESERVED: usize = 4;

/// After an error that accepting again at once would only repeat.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The admin address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("admin: cannot listen on {address}: {source}{}", advice(source))]
pub(crate) struct BindError {
    address: SocketAddr,
    source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program (or another proxy) listens there: stop it or choose another admin port"
        }
        io::ErrorKind::PermissionDenied => "; choose a port above 1023",
        io::ErrorKind::AddrNotAvailable => "; no interface of this host has that address",
        _ => "",
    }
}

/// Binds the admin address.
///
/// # Errors
/// With a text that says what to do.
pub(crate) fn bind(address: SocketAddr) -> Result<std::net::TcpListener, BindError> {
    let bound = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    let listener = bound.map_err(|source| BindError { address, source })?;
    if !is_loopback(address) {
        tracing::warn!(%address, "the admin server is reachable from other hosts; it has no authentication");
    }
    Ok(listener)
}

/// Serves until dropped. On a thread with a `LocalSet`.
///
/// # Errors
/// When the socket does not belong to a runtime any more.
pub(crate) async fn run(listener: std::net::TcpListener, state: State) -> io::Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    let state: Shared = Rc::new(state);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let reserve = Rc::new(Reserve::new());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if is_scarcity(&error) && reserve.spend() => continue,
            Err(error) => {
                tracing::debug!(%error, "admin: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (state, reserve) = (state.clone(), reserve.clone());
        tokio::task::spawn_local(async move {
            let served = tokio::time::timeout(CONNECTION_TIME, serve(stream, state)).await;
            if let Ok(Err(error)) = served {
                tracing::debug!(%error, "admin: connection ended early");
            }
            drop(place);
            reserve.refill();
        });
    }
}

async fn serve(stream: TcpStream, state: Shared) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(pages::answer(&state, request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn is_scarcity(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Descriptors held open for nothing, so that closing one makes room for a connection when the process has run out.
#[derive(Debug)]
struct Reserve(RefCell<Vec<File>>);

impl Reserve {
    fn new() -> Self {
        let reserve = Self(RefCell::default());
        reserve.refill();
        reserve
    }

    /// Closes one; says whether there was one.
    fn spend(&self) -> bool {
        self.0.borrow_mut().pop().is_some()
    }

    fn refill(&self) {
        let mut files = self.0.borrow_mut();
        while files.len() < RESERVED
            && let Ok(file) = File::open("/dev/null")
        {
            files.push(file);
        }
    }
}
