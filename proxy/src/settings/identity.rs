//! Where the proxy's own certificate comes from: `node.metadata.SIDEGATE_IDENTITY`.
//!
//! It stands in the node's metadata because Envoy ignores it there: one bootstrap fits both.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sidegate_xds::envoy::config::core::v3::Node;
use sidegate_xds::google::protobuf::Struct;
use sidegate_xds::google::protobuf::value::Kind;
use sidegate_xds::json::Problem;
use sidegate_xds::spiffe::SpiffeId;

use super::bootstrap::problem;

/// How to get a certificate, and from whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Host of the certificate authority: a name or an IP address.
    pub ca_host: String,
    /// Its port.
    pub ca_port: u16,
    /// The name that its certificate must have.
    pub ca_server_name: String,
    /// The certificates that vouch for it, in PEM form; read again at each use.
    pub root_file: PathBuf,
    /// The token that proves who this is as long as there is no certificate; read again at each use.
    pub token_file: PathBuf,
    /// How long a certificate is asked for.
    pub ttl: Duration,
    /// Who this is, when that is known before the first certificate: some authorities give nothing to a request that does not say so.
    pub id: Option<SpiffeId>,
    /// The authority is not the control plane: the order of roots in `ROOTCA` does not say which of them signs.
    pub external: bool,
}

impl Identity {
    /// Puts the parts together.
    ///
    /// # Errors
    /// One line for each part that is wrong: the field, and what to write.
    pub fn new(
        ca_address: &str,
        ca_server_name: Option<&str>,
        root_file: &Path,
        token_file: &Path,
        ttl: Option<&str>,
    ) -> Result<Self, Vec<(&'static str, String)>> {
        let mut wrong = Vec::new();
        let mut keep = |field, result: Result<(), String>| {
            if let Err(text) = result {
                wrong.push((field, text));
            }
        };
        let address = host_and_port(ca_address);
        keep("ca_address", address.as_ref().map(drop).map_err(Clone::clone));
        let name = ca_server_name.unwrap_or(DEFAULT_SERVER_NAME);
        keep("ca_server_name", is_name(name));
        keep("root_file", is_readable(root_file, "the certificates that vouch for the authority"));
        keep("token_file", is_readable(token_file, "the token that proves who this proxy is"));
        let ttl = ttl.map_or(Ok(DEFAULT_TTL), duration);
        keep("ttl", ttl.as_ref().map(drop).map_err(Clone::clone));
        match (address, ttl) {
            (Ok((ca_host, ca_port)), Ok(ttl)) if wrong.is_empty() => Ok(Self {
                ca_host,
                ca_port,
                ca_server_name: name.to_owned(),
                root_file: root_file.to_owned(),
                token_file: token_file.to_owned(),
                ttl,
                id: None,
                external: false,
            }),
            _ => Err(wrong),
        }
    }

    /// The same for who is known before the first certificate.
    #[must_use]
    pub fn known_as(self, id: Option<SpiffeId>) -> Self {
        Self { id, ..self }
    }

    /// The same, under an authority that is not the control plane.
    #[must_use]
    pub fn under_external(self, external: bool) -> Self {
        Self { external, ..self }
    }

    /// The authority's address, for messages.
    pub fn ca_address(&self) -> String {
        if self.ca_host.contains(':') {
            format!("[{}]:{}", self.ca_host, self.ca_port)
        } else {
            format!("{}:{}", self.ca_host, self.ca_port)
        }
    }
}

/// Whether the bootstrap says where the proxy's own certificate comes from, right or wrong.
pub(crate) fn is_there(node: Option<&Node>) -> bool {
    node.and_then(|node| node.metadata.as_ref()).is_some_and(|metadata| metadata.fields.contains_key(KEY))
}

/// Reads the node's metadata. `None` without a new problem: the proxy has no identity of its own.
pub(super) fn read(node: &Node, problems: &mut Vec<Problem>) -> Option<Identity> {
    let value = node.metadata.as_ref()?.fields.get(KEY)?;
    let Some(Kind::StructValue(fields)) = &value.kind else {
        problems.push(problem(PATH, "expected an object with ca_address, root_file and token_file"));
        return None;
    };
    let before = problems.len();
    for name in fields.fields.keys().filter(|name| !FIELDS.contains(&name.as_str())) {
        let known = FIELDS.join(", ");
        problems.push(problem(format!("{PATH}.{name}"), format!("is no field of it; there are {known}")));
    }
    let required = |name, problems: &mut Vec<Problem>| {
        let found = text(fields, name, problems);
        if found.is_none() && !fields.fields.contains_key(name) {
            problems.push(problem(format!("{PATH}.{name}"), "is required"));
        }
        found.unwrap_or_default()
    };
    let address = required("ca_address", problems);
    let root_file = required("root_file", problems);
    let token_file = required("token_file", problems);
    let name = text(fields, "ca_server_name", problems);
    let ttl = text(fields, "ttl", problems);
    let id = id(fields, problems);
    let external = external(fields, problems);
    if problems.len() > before {
        return None;
    }
    match Identity::new(&address, name.as_deref(), root_file.as_ref(), token_file.as_ref(), ttl.as_deref()) {
        Ok(identity) => Some(identity.known_as(id).under_external(external)),
        Err(wrong) => {
            problems.extend(wrong.into_iter().map(|(field, text)| problem(format!("{PATH}.{field}"), text)));
            None
        }
    }
}

fn id(fields: &Struct, problems: &mut Vec<Problem>) -> Option<SpiffeId> {
    let text = text(fields, "id", problems)?;
    match text.parse() {
        Ok(id) => Some(id),
        Err(error) => {
            problems.push(problem(format!("{PATH}.id"), format!("{text:?} is no SPIFFE id: {error}")));
            None
        }
    }
}

fn external(fields: &Struct, problems: &mut Vec<Problem>) -> bool {
    match fields.fields.get("external").and_then(|value| value.kind.as_ref()) {
        None => false,
        Some(Kind::BoolValue(external)) => *external,
        Some(_) => {
            problems.push(problem(format!("{PATH}.external"), "expected true or false"));
            false
        }
    }
}

fn text(fields: &Struct, name: &str, problems: &mut Vec<Problem>) -> Option<String> {
    match &fields.fields.get(name)?.kind {
        Some(Kind::StringValue(text)) => Some(text.clone()),
        _ => {
            problems.push(problem(format!("{PATH}.{name}"), "expected a string"));
            None
        }
    }
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let form = || format!("expected HOST:PORT, e.g. 127.0.0.1:15012 or [::1]:15012, found {text:?}");
    let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(form)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match bare {
        Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => address,
        Some(_) => return Err(form()),
        None if host.contains(':') => return Err(form()),
        None => host,
    };
    is_name(host).map_err(|_| form())?;
    Ok((host.to_owned(), port))
}

/// A DNS name, or an IP address.
fn is_name(text: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
    if text.is_empty() || text.len() > 253 || !text.bytes().all(allowed) {
        return Err(format!("{text:?} is no name that a certificate can have"));
    }
    Ok(())
}

fn is_readable(path: &Path, what: &str) -> Result<(), String> {
    match std::fs::File::open(path).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(format!("{} is no file: {what} must be in it", path.display())),
        Err(error) => Err(format!("cannot read {}: {error}; {what} must be in it", path.display())),
    }
}

/// `24h`, `90m`, `3600s`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("expected 5s to {LONGEST_DAYS} days, e.g. 24h, 90m or 3600s, found {text:?}");
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(wrong()),
    };
    let seconds = number.checked_mul(unit).ok_or_else(wrong)?;
    if !(5..=LONGEST_DAYS * 86_400).contains(&seconds) {
        return Err(wrong());
    }
    Ok(Duration::from_secs(seconds))
}

const KEY: &str = "SIDEGATE_IDENTITY";
const PATH: &str = "node.metadata.SIDEGATE_IDENTITY";
const FIELDS: [&str; 7] =
    ["ca_address", "ca_server_name", "root_file", "token_file", "ttl", "id", "external"];

/// The control plane's name inside a cluster.
const DEFAULT_SERVER_NAME: &str = "sidegate.sidegate-system.svc";

/// As Istio has it.
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3_600);

/// A certificate that cannot be taken back should not last.
const LONGEST_DAYS: u64 = 90;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("90m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        for text in ["", "5", "4s", "-1h", "1.5h", "1d", "h", "2161h", "99999999999999999999h", "5é"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_read() {
        assert_eq!(host_and_port("ca.test:15012"), Ok(("ca.test".to_owned(), 15012)));
        assert_eq!(host_and_port("[::1]:1"), Ok(("::1".to_owned(), 1)));
        for text in ["ca.test", "ca.test:", "ca.test:0", ":15012", "::1:15012", "[x]:1", "a b:1", "a:65536"] {
            assert!(host_and_port(text).is_err(), "{text}");
        }
    }
}
