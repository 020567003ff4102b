//! What the command line names: a Gateway or Pod, and a host with a port.

use std::fmt;
use std::str::FromStr;

/// `namespace/name` of a Kubernetes object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, name) = text.split_once('/').ok_or("write NAMESPACE/NAME, e.g. shop/public")?;
        for part in [namespace, name] {
            if !is_kubernetes_name(part) {
                return Err(format!(
                    "{part:?} is not a name that Kubernetes allows: lower-case letters, digits, - and ."
                ));
            }
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

pub(super) fn is_kubernetes_name(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let edge = |end: Option<u8>| end.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 253 && text.bytes().all(inside) && edge(text.bytes().next()) && edge(text.bytes().last())
}

/// `host:port`, where the host is a name or an address (IPv6 in brackets).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Authority {
    pub(super) host: String,
    pub(super) port: u16,
}

impl FromStr for Authority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write HOST:PORT, e.g. 127.0.0.1:15012 or [::1]:15012";
        let (host, port) = text.rsplit_once(':').ok_or(form)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(form)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let known = match bare {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => is_kubernetes_name(&host.to_ascii_lowercase()),
        };
        if !known {
            return Err(format!("{host:?} is not a host; {form}"));
        }
        Ok(Self { host: bare.unwrap_or(host).to_owned(), port })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(formatter, "[{host}]:{port}")
        } else {
            write!(formatter, "{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_need_quoting_is_refused() {
        for target in ["shop", "shop/", "/web", "Shop/web", "shop/we\"b", "shop/web: x", "shop/web/1"] {
            assert!(target.parse::<Target>().is_err(), "{target}");
        }
        for xds in ["127.0.0.1", "127.0.0.1:0", "a b:1", "::1:15010x", "[::g]:1", ":15010", "host:99999"] {
            assert!(xds.parse::<Authority>().is_err(), "{xds}");
        }
        assert_eq!("[::1]:15012".parse::<Authority>().unwrap().to_string(), "[::1]:15012");
    }
}
