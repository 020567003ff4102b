//! What the first bytes tell a filter chain's match: the inspectors together.

use crate::detect::{self, ClientHello, Hello};
use crate::snapshot::{RAW, TLS, Told};

/// What to look for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looks {
    /// A ClientHello.
    pub(super) tls: bool,
    /// A request.
    pub(super) http: bool,
}

/// What is seen.
#[derive(Debug)]
pub(super) enum Sight {
    /// All there is to know.
    Told(Seen),
    /// At least so many bytes must be there.
    Needs(usize),
    /// Nothing that may be passed on.
    Malformed(&'static str),
}

/// What was seen, owned.
#[derive(Debug, Default)]
pub(super) struct Seen {
    hello: Option<ClientHello>,
    /// The version of HTTP.
    protocols: Option<[Box<str>; 1]>,
}

impl Seen {
    /// As filter chains match it.
    pub(super) fn told(&self) -> Told<'_> {
        match &self.hello {
            Some(hello) => {
                Told { server_name: &hello.server_name, transport: TLS, protocols: &hello.protocols }
            }
            None => {
                let protocols = self.protocols.as_ref().map_or(&[][..], |protocols| &protocols[..]);
                Told { server_name: "", transport: RAW, protocols }
            }
        }
    }
}

/// Looks at the first bytes.
pub(super) fn look(prefix: &[u8], looks: Looks) -> Sight {
    if looks.tls {
        match detect::client_hello(prefix) {
            Hello::Complete(hello) => return Sight::Told(Seen { hello: Some(hello), protocols: None }),
            Hello::Incomplete(needed) => return Sight::Needs(needed),
            Hello::Malformed(why) => return Sight::Malformed(why),
            Hello::Other => {}
        }
    }
    if !looks.http {
        return Sight::Told(Seen::default());
    }
    match detect::http_version(prefix) {
        detect::Http::Version(version) => {
            Sight::Told(Seen { hello: None, protocols: Some([version.into()]) })
        }
        detect::Http::Undecided => Sight::Needs(prefix.len() + 1),
        detect::Http::Other => Sight::Told(Seen::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_for_is_told() {
        let told = |prefix: &[u8], tls, http| match look(prefix, Looks { tls, http }) {
            Sight::Told(seen) => format!("{:?}", seen.told()),
            other => format!("{other:?}"),
        };
        assert_eq!(told(b"", true, true), "Needs(1)");
        assert_eq!(told(b"", false, true), "Needs(1)");
        assert_eq!(told(b"", false, false), format!("{:?}", Told::NOTHING));
        assert!(told(b"GET / HTTP/1.1\r\n", true, true).contains("http/1.1"));
        assert_eq!(told(b"GET / HTTP/1.1\r\n", true, false), format!("{:?}", Told::NOTHING));
        assert!(told(b"\x16\x03\x01\x40\x00\x01\x00\x50\x00", true, false).starts_with("Malformed"));
        assert_eq!(
            told(b"\x16\x03\x01", false, false),
            format!("{:?}", Told::NOTHING),
            "the inspector is off"
        );
    }
}
