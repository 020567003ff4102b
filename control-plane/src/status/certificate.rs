//! The certificate of a connected proxy: until when, and whether somebody should look at it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::authn::leaf::Leaf;

/// A certificate that a proxy has shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Its serial number in hexadecimal.
    pub serial: String,
    /// In how many seconds it expires; negative when it has.
    pub expires_seconds: i64,
    /// How many seconds it lives in all.
    pub life_seconds: i64,
    /// Whether its holder has got the next one, with which it comes back when this one ends.
    pub renewed: bool,
}

impl Certificate {
    pub(super) fn new(leaf: &Leaf, renewed: bool, today: SystemTime) -> Self {
        let until = timestamp(leaf.not_after);
        Self {
            serial: leaf.serial.clone(),
            expires_seconds: until.saturating_sub(timestamp(today)),
            life_seconds: until.saturating_sub(timestamp(leaf.not_before)),
            renewed,
        }
    }

    /// Whether less than a third of its life is left and nothing has taken its place: proxies renew at half.
    pub fn is_neglected(&self) -> bool {
        !self.renewed && self.expires_seconds.saturating_mul(3) < self.life_seconds
    }
}

/// Seconds since 1970.
pub(super) fn timestamp(time: SystemTime) -> i64 {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::leaf::Anchors;
    use crate::authn::tests::fixture::{NOW, Says, at, root, trust};

    #[test]
    fn a_certificate_is_neglected_when_it_is_old_and_nothing_has_taken_its_place() {
        let root = root("a");
        let anchors = Anchors::new(&trust(&[&root])).unwrap();
        let chain = root.chain(&Says { from: NOW, until: NOW + 3000, ..Says::default() });
        let leaf = anchors.identify(&chain, at(NOW)).unwrap();
        let at = |seconds, renewed| Certificate::new(&leaf, renewed, at(NOW + seconds));
        assert_eq!((at(0, false).expires_seconds, at(0, false).life_seconds), (3000, 3000));
        assert!(!at(2000, false).is_neglected());
        assert!(at(2001, false).is_neglected());
        assert!(!at(2001, true).is_neglected());
        assert_eq!(at(4000, false).expires_seconds, -1000);
        assert!(at(4000, false).is_neglected());
    }
}
