//! How many questions about tokens may be under way, so that strangers with forged ones keep nobody out.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::unavailable;
use crate::authn::refusal::Refusal;
use crate::authn::shares::Shares;
use crate::authn::{Peer, Standing};

/// On whose behalf a token is asked about.
#[derive(Debug)]
pub(in crate::authn) struct Asker<'a> {
    standing: Option<&'a Standing>,
    address: Option<IpAddr>,
    /// Whether it has proven an identity already.
    known: bool,
}

impl<'a> Asker<'a> {
    /// Somebody at the other end of a connection; `known` by a certificate, or by an earlier call.
    pub(in crate::authn) fn new(peer: Option<&'a Peer>, known: bool) -> Self {
        Self {
            standing: peer.map(|peer| peer.standing.as_ref()),
            address: peer.map(|peer| network(peer.address.ip())),
            known: known || peer.is_some_and(|peer| peer.standing.is_known()),
        }
    }

    /// Notes that a token was not believed.
    pub(super) fn doubt(&self) {
        if let Some(standing) = self.standing {
            standing.doubt();
        }
    }
}

/// Places for questions: some for strangers, of which each address has a few, and others for those who are known.
#[derive(Debug)]
pub(super) struct Budget {
    known: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    addresses: Shares<Option<IpAddr>>,
}

/// A place, for as long as the question takes.
pub(super) struct Place<'a> {
    _turn: Option<SemaphorePermit<'a>>,
    _places: [Option<OwnedSemaphorePermit>; 2],
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            known: Arc::new(Semaphore::new(OF_KNOWN)),
            strangers: Arc::new(Semaphore::new(OF_STRANGERS)),
            addresses: Shares::new(OF_ADDRESS),
        }
    }
}

impl Budget {
    /// Waits for a place. The connection's own turn comes first, then the address', so that nobody waits with what others need.
    ///
    /// # Errors
    /// When the connection has shown too much that was not believed.
    pub(super) async fn place<'a>(&self, asker: &Asker<'a>) -> Result<Place<'a>, Refusal> {
        // No semaphore is ever closed.
        let closed = |error: tokio::sync::AcquireError| unavailable(error.to_string());
        let turn = match asker.standing {
            Some(standing) => Some(standing.question().await?),
            None => None,
        };
        if asker.known {
            let place = Arc::clone(&self.known).acquire_owned().await.map_err(closed)?;
            return Ok(Place { _turn: turn, _places: [Some(place), None] });
        }
        let of_address = self.addresses.of(asker.address).acquire_owned().await.map_err(closed)?;
        let place = Arc::clone(&self.strangers).acquire_owned().await.map_err(closed)?;
        Ok(Place { _turn: turn, _places: [Some(of_address), Some(place)] })
    }
}

/// A machine has a whole /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address => address,
    }
}

/// How many questions may be under way.
const OF_KNOWN: usize = 8;
const OF_STRANGERS: usize = 16;
const OF_ADDRESS: usize = 4;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn peer(address: &str) -> Peer {
        Peer { address: address.parse().unwrap(), chain: None, standing: Arc::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_of_one_address_leave_room_for_others_and_for_the_known() {
        let budget = Budget::default();
        let soon = Duration::from_secs(1);
        let crowd: Vec<Peer> = (1..100).map(|port| peer(&format!("192.0.2.1:{port}"))).collect();
        let mut held = Vec::new();
        for one in &crowd {
            if let Ok(place) = timeout(soon, budget.place(&Asker::new(Some(one), false))).await {
                held.push(place.unwrap());
            }
        }
        assert_eq!(held.len(), OF_ADDRESS);
        let other = peer("192.0.2.2:1");
        assert!(timeout(soon, budget.place(&Asker::new(Some(&other), false))).await.is_ok());
        let known = peer("192.0.2.1:100");
        let place = timeout(soon, budget.place(&Asker::new(Some(&known), true))).await.unwrap();
        let again = timeout(soon, budget.place(&Asker::new(Some(&known), true))).await;
        assert!(place.is_ok() && again.is_err(), "a connection asks one question at a time");
    }

    #[test]
    fn a_machine_is_its_network() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
