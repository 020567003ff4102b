//! What a connection of the TLS port has shown of itself: who its caller is, what is under way on it, how often it was not believed.
//!
//! The calls write it and the connection reads it, which ends when nothing is under way and its caller is nobody any more.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::refusal::{Reason, Refusal};
use super::session::Session;
use super::shares::Shares;

/// Of one connection.
#[derive(Debug)]
pub struct Standing {
    /// Locked for a look or a note, never across an await.
    state: Mutex<State>,
    /// One question about a token at a time.
    question: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    calls: usize,
    seat: Option<Seat>,
    disbelieved: u32,
    last: Option<Instant>,
}

/// Who sits on a connection, and the places that it takes.
#[derive(Debug)]
struct Seat {
    session: Session,
    _places: [OwnedSemaphorePermit; 2],
}

impl Default for Standing {
    fn default() -> Self {
        Self { state: Mutex::default(), question: Semaphore::new(1) }
    }
}

impl Standing {
    /// Whether somebody has proven on this connection who it is.
    pub fn is_known(&self) -> bool {
        self.state().seat.is_some()
    }

    /// Whether the connection is of use: something is under way on it, or its caller is still who it was.
    pub fn holds(&self) -> bool {
        let mut state = self.state();
        if state.calls > 0 {
            return true;
        }
        // A seat whose holder is nobody any more is free at once.
        state.seat.take_if(|seat| !seat.session.holds());
        state.seat.is_some()
    }

    /// Counts a call for as long as the value lives.
    pub(super) fn call(self: &Arc<Self>) -> Call {
        self.state().calls += 1;
        Call(Arc::clone(self))
    }

    /// The turn of a question about a token. Whoever shows tokens that nobody vouches for waits before the next.
    pub(super) async fn question(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Refusal> {
        // The semaphore is never closed.
        let turn = self.question.acquire().await.map_err(|_| doubted())?;
        let state = self.state();
        let waits = state.last.is_some_and(|last| last.elapsed() < DOUBT);
        if state.disbelieved >= DOUBTS && waits { Err(doubted()) } else { Ok(turn) }
    }

    /// Notes that a token was not believed.
    pub(super) fn doubt(&self) {
        let mut state = self.state();
        state.disbelieved = state.disbelieved.saturating_add(1);
        state.last = Some(Instant::now());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that is under way on a connection.
#[derive(Debug)]
pub(super) struct Call(Arc<Standing>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.state().calls -= 1;
    }
}

/// How many connections those may have who have proven who they are.
#[derive(Debug)]
pub(super) struct Seats {
    identities: Shares<String>,
    /// Pods of one account have addresses of their own, so that one of them does not take the places of the others.
    addresses: Shares<(String, IpAddr)>,
}

impl Default for Seats {
    fn default() -> Self {
        Self::new(OF_IDENTITY, OF_ADDRESS)
    }
}

impl Seats {
    fn new(of_identity: usize, of_address: usize) -> Self {
        Self { identities: Shares::new(of_identity), addresses: Shares::new(of_address) }
    }

    /// Gives a connection to who has just proven an identity on it.
    ///
    /// # Errors
    /// When the identity has connections enough.
    pub(super) fn take(&self, standing: &Standing, session: Session, address: IpAddr) -> Result<(), Refusal> {
        let identity = session.caller().identity.to_string();
        let mut state = standing.state();
        if let Some(seat) = &mut state.seat
            && seat.session.caller().identity.as_str() == identity
        {
            seat.session = session;
            return Ok(());
        }
        let full = || {
            Refusal::new(
                Reason::Overload,
                format!("{identity} has too many connections open: close some, or use one for several calls"),
            )
        };
        let of_address = self.addresses.of((identity.clone(), address.to_canonical()));
        let of_address = of_address.try_acquire_owned().map_err(|_| full())?;
        let of_identity = self.identities.of(identity.clone()).try_acquire_owned().map_err(|_| full())?;
        state.seat = Some(Seat { session, _places: [of_address, of_identity] });
        Ok(())
    }
}

fn doubted() -> Refusal {
    Refusal::new(
        Reason::Overload,
        "this connection has shown several tokens that Kubernetes does not vouch for: wait a few seconds before the next",
    )
}

/// How many connections one identity may have, and from one address: of the ten thousand that there may be.
const OF_IDENTITY: usize = 2_500;
const OF_ADDRESS: usize = 256;

/// After how many tokens that were not believed a connection waits, and for how long.
const DOUBTS: u32 = 3;
const DOUBT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tokio::sync::watch;

    use super::*;
    use crate::authn::leaf::Anchors;
    use crate::authn::tests::fixture::{root, trust};
    use crate::authn::{Caller, Proof};

    fn session(account: &str) -> Session {
        let anchors = Anchors::new(&trust(&[&root("a")])).unwrap();
        let identity = format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap();
        let expires = SystemTime::now() + Duration::from_secs(600);
        let caller = Caller { identity, proof: Proof::Token { expires, pod: None }, token: true };
        Session::new(caller, None, None, watch::channel(Arc::new(anchors)).1, Arc::new(SystemTime::now))
    }

    #[test]
    fn one_identity_does_not_take_all_connections() {
        let seats = Seats::new(3, 2);
        let here: IpAddr = "192.0.2.1".parse().unwrap();
        let there: IpAddr = "192.0.2.2".parse().unwrap();
        let connections: Vec<Standing> = (0..5).map(|_| Standing::default()).collect();
        assert!(seats.take(&connections[0], session("web"), here).is_ok());
        assert!(seats.take(&connections[0], session("web"), here).is_ok(), "the next call takes no more");
        assert!(seats.take(&connections[1], session("web"), here).is_ok());
        let refused = seats.take(&connections[2], session("web"), here).unwrap_err();
        assert_eq!(refused.reason, Reason::Overload);
        assert!(!connections[2].is_known(), "it does not stay");
        assert!(seats.take(&connections[2], session("web"), there).is_ok(), "another Pod has its own");
        assert!(seats.take(&connections[3], session("web"), there).is_err(), "and the account an end");
        assert!(seats.take(&connections[3], session("db"), here).is_ok());
        drop(connections);
        assert!(seats.take(&Standing::default(), session("web"), here).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_shows_what_nobody_vouches_for_waits() {
        let standing = Standing::default();
        for _ in 0..DOUBTS {
            assert!(standing.question().await.is_ok());
            standing.doubt();
        }
        assert_eq!(standing.question().await.unwrap_err().reason, Reason::Overload);
        tokio::time::advance(DOUBT).await;
        assert!(standing.question().await.is_ok());
    }
}
