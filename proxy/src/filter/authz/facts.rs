//! What rules are asked about: a connection, and a request on it when there is one.

use std::cell::OnceCell;
use std::net::{IpAddr, SocketAddr};

use http::Method;

use super::address::Range;
use super::path::{self, PathTest};
use super::text::Text;
use super::truth::Truth;
use crate::filter::Attributes;
use crate::message::RequestHead;
use crate::telemetry::Downstream;
use crate::tls::Certificate;

/// What is known of who asks for what.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    /// The other end of the connection, if it has proven who it is.
    pub(crate) peer: Option<Peer<'a>>,
    /// The server name of its ClientHello, empty when it named none; `None` when nobody has looked.
    pub(crate) server_name: Option<&'a str>,
    /// Where the connection wanted to go.
    pub(crate) destination: SocketAddr,
    /// Where it comes from; a PROXY header's word counts.
    pub(crate) source: IpAddr,
    /// The address at its other end.
    pub(crate) direct: IpAddr,
    /// The client, as trusted hops tell it (`x-forwarded-for`).
    pub(crate) client: IpAddr,
    /// What tells it comes from a neighbour in the mesh who has proven nothing: it may be made up.
    pub(super) hearsay: bool,
    /// The request.
    pub(crate) request: Option<&'a RequestHead>,
    /// What filters before have found out.
    pub(crate) attributes: Option<&'a Attributes>,
    /// Whether its path has one reading only, once somebody asks.
    plain: OnceCell<bool>,
    /// How its path may be read, once somebody asks; `None` inside: nobody can tell.
    readings: OnceCell<Option<Vec<Vec<u8>>>>,
}

/// The names of a verified certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer<'a> {
    /// URIs: a SPIFFE id is one.
    pub(crate) uris: &'a [Box<str>],
    /// DNS names.
    pub(crate) dns: &'a [Box<str>],
    /// Mail addresses.
    pub(crate) emails: &'a [Box<str>],
    /// The subject.
    pub(crate) subject: &'a str,
    /// It has names that could not be read.
    pub(crate) doubtful: bool,
}

impl<'a> Peer<'a> {
    /// What a certificate says.
    pub(crate) fn of(certificate: &'a Certificate) -> Self {
        let names = &certificate.names;
        Self {
            uris: &names.uris,
            dns: &names.dns,
            emails: &names.emails,
            subject: &certificate.subject,
            doubtful: names.doubtful > 0,
        }
    }

    /// Every name by which it may be meant.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        let sans = self.uris.iter().chain(self.dns).map(|name| &**name);
        sans.chain(std::iter::once(self.subject))
    }

    /// Whether one of its names is meant: URIs, DNS names, the subject.
    pub(super) fn is(&self, test: &Text) -> Truth {
        self.judge(self.names(), test)
    }

    /// Whether one of its URIs is meant.
    pub(super) fn has_uri(&self, test: &Text) -> Truth {
        self.judge(self.uris.iter().map(|uri| &**uri), test)
    }

    /// Whether one of its mail addresses is meant.
    pub(super) fn has_email(&self, test: &Text) -> Truth {
        self.judge(self.emails.iter().map(|email| &**email), test)
    }

    fn judge<'b>(&self, mut names: impl Iterator<Item = &'b str>, test: &Text) -> Truth {
        match names.any(|name| test.holds(name)) {
            // Two ids are none (R7): what is for one of them may not be for the other.
            true if self.uris.len() > 1 && !self.uris.iter().all(|uri| test.holds(uri)) => Truth::Unclear,
            true => Truth::Yes,
            false if self.doubtful => Truth::Unclear,
            false => Truth::No,
        }
    }
}

impl<'a> Facts<'a> {
    /// Of a connection. `server_name` is what its first bytes said, if somebody looked; a handshake knows better.
    pub(crate) fn of_connection(
        connection: &'a Downstream,
        direct: IpAddr,
        server_name: Option<&'a str>,
    ) -> Self {
        let security = connection.security.as_deref();
        let peer = security.and_then(|security| security.peer.as_ref());
        Self {
            peer: peer.map(|peer| Peer::of(&peer.certificate)),
            server_name: security
                .map(|security| security.server_name.as_deref().unwrap_or_default())
                .or(server_name),
            destination: connection.local,
            source: connection.peer.ip(),
            direct,
            client: connection.peer.ip(),
            hearsay: connection.inbound && peer.is_none(),
            request: None,
            attributes: None,
            plain: OnceCell::new(),
            readings: OnceCell::new(),
        }
    }

    /// Of a connection that is only supposed.
    pub(crate) fn supposed(
        peer: Option<Peer<'a>>,
        server_name: Option<&'a str>,
        source: IpAddr,
        destination: SocketAddr,
    ) -> Self {
        Self {
            peer,
            server_name: Some(server_name.unwrap_or_default()),
            destination,
            source,
            direct: source,
            client: source,
            hearsay: false,
            request: None,
            attributes: None,
            plain: OnceCell::new(),
            readings: OnceCell::new(),
        }
    }

    /// A request on it.
    #[must_use]
    pub(crate) fn with_request(
        mut self,
        request: &'a RequestHead,
        attributes: &'a Attributes,
        client: IpAddr,
    ) -> Self {
        (self.request, self.attributes, self.client) = (Some(request), Some(attributes), client);
        (self.plain, self.readings) = (OnceCell::new(), OnceCell::new());
        self
    }

    /// Whether the client's address is in a range.
    pub(super) fn judge_client(&self, range: &Range) -> Truth {
        let told = Truth::of(range.contains(self.client));
        if self.hearsay { Truth::agreed([told, Truth::of(range.contains(self.source))]) } else { told }
    }

    /// The path, when there is only one way to read it.
    pub(super) fn plain_path(&self) -> Option<&'a str> {
        let request = self.request?;
        let is_plain = || request.method != Method::CONNECT && path::is_plain(request.path.path().as_bytes());
        self.plain.get_or_init(is_plain).then(|| request.path.path())
    }

    /// Whether a test holds of the path, without its query.
    pub(super) fn judge_path(&self, test: &PathTest) -> Truth {
        match self.plain_path() {
            Some(path) => test.holds(path.as_bytes(), true),
            None => self.judge_readings(|path, as_it_stands| test.holds(path, as_it_stands)),
        }
    }

    /// Whether a test holds of the path and its query.
    pub(super) fn judge_target(&self, test: &Text) -> Truth {
        let Some(request) = self.request else { return Truth::Unclear };
        if self.plain_path().is_some() {
            return test.judge_bytes(request.path.as_str().as_bytes());
        }
        self.judge_readings(|path, _| match request.path.query() {
            Some(query) => test.judge_bytes(&[path, query.as_bytes()].join(&b'?')),
            None => test.judge_bytes(path),
        })
    }

    fn judge_readings(&self, judge: impl Fn(&[u8], bool) -> Truth) -> Truth {
        let readings = self.readings.get_or_init(|| {
            // A tunnel has no path, and may carry any.
            let request = self.request.filter(|request| request.method != Method::CONNECT)?;
            path::readings(request.path.path())
        });
        let readings = readings.as_deref().unwrap_or_default();
        Truth::agreed(readings.iter().enumerate().map(|(number, reading)| judge(reading, number == 0)))
    }

    /// Whether a test holds of the server name.
    pub(super) fn judge_server_name(&self, test: &Text) -> Truth {
        let Some(name) = self.server_name else { return Truth::Unclear };
        match test.holds(name) {
            true => Truth::Yes,
            // A name means the same in capitals, and with the root's dot.
            false if test.nearly(name.strip_suffix('.').unwrap_or(name)) => Truth::Unclear,
            false => Truth::No,
        }
    }
}
