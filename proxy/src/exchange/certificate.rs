//! `x-forwarded-client-cert`: what the next hop is told of the client's certificate, in Envoy's form.

use std::fmt::Write as _;

use http::HeaderValue;

use crate::message::{Headers, Name, Value};
use crate::snapshot::{ClientCertificate, ForwardMode};
use crate::tls::{Peer, Security};

const HEADER: &str = "x-forwarded-client-cert";

/// Removes, forwards or writes the header, as configured. What a client without a verified certificate says in it is never passed on.
pub(super) fn forward(config: &ClientCertificate, headers: &mut Headers, security: Option<&Security>) {
    let verified = security.and_then(|security| Some((security, security.peer.as_ref()?)));
    let (mode, Some((security, peer))) = (config.mode, verified) else {
        if headers.contains(HEADER) {
            headers.remove(HEADER);
        }
        return;
    };
    match mode {
        ForwardMode::Forward => {}
        ForwardMode::Sanitize => {
            headers.remove(HEADER);
        }
        ForwardMode::Append => {
            let element = element(config, security, peer);
            append(headers, &element);
        }
        ForwardMode::Set => {
            let element = element(config, security, peer);
            if let Ok(value) = HeaderValue::from_str(&element) {
                headers.insert(Name::Static(HEADER), Value::Http(value));
            } else {
                headers.remove(HEADER);
            }
        }
    }
}

/// One list: the elements of those before, then ours. What is not well formed is left out as a whole: a quote that does not end would make
/// ours a part of what another has written.
fn append(headers: &mut Headers, element: &str) {
    let mut list = Vec::new();
    if headers.get_all(HEADER).all(is_well_formed) {
        for value in headers.get_all(HEADER) {
            list.extend_from_slice(value);
            list.push(b',');
        }
    }
    list.extend_from_slice(element.as_bytes());
    match HeaderValue::from_bytes(&list) {
        Ok(value) => headers.insert(Name::Static(HEADER), Value::Http(value)),
        Err(_) => {
            headers.remove(HEADER);
        }
    }
}

/// Whether every reader sees the same elements: quotes only around whole values, and each of them ends.
fn is_well_formed(list: &[u8]) -> bool {
    let mut bytes = list.iter().copied();
    let mut before = b',';
    while let Some(byte) = bytes.next() {
        if byte == b'"' {
            if before != b'=' || !skip_quoted(&mut bytes) {
                return false;
            }
            match bytes.next() {
                None => return true,
                Some(b',' | b';') => {}
                Some(_) => return false,
            }
            before = b',';
            continue;
        }
        before = byte;
    }
    true
}

/// Skips to behind the quote that ends a value; false when none does.
fn skip_quoted(bytes: &mut impl Iterator<Item = u8>) -> bool {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return true,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    false
}

fn element(config: &ClientCertificate, security: &Security, peer: &Peer) -> String {
    let mut text = String::new();
    let mut pair = |key: &str, value: &str| {
        let separator = if text.is_empty() { "" } else { ";" };
        // Writing to a String does not fail.
        let _ = write!(text, "{separator}{key}={value}");
    };
    for uri in security.own.iter().flat_map(|own| &own.leaf.names.uris) {
        pair("By", &quoted(uri));
    }
    let certificate = &peer.certificate;
    pair("Hash", &certificate.sha256);
    if config.cert {
        pair("Cert", &format!("\"{}\"", peer.pem()));
    }
    if config.chain {
        pair("Chain", &format!("\"{}\"", peer.chain_pem()));
    }
    if config.subject {
        pair("Subject", &format!("\"{}\"", escaped(&certificate.subject)));
    }
    if config.uri {
        for uri in &certificate.names.uris {
            pair("URI", &quoted(uri));
        }
    }
    if config.dns {
        for name in &certificate.names.dns {
            pair("DNS", &quoted(name));
        }
    }
    text
}

/// In quotes where a separator would end the value early.
fn quoted(value: &str) -> String {
    if value.contains([',', ';', '=', '"', '\\']) {
        format!("\"{}\"", escaped(value))
    } else {
        value.to_owned()
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_within_values_are_quoted() {
        assert_eq!(quoted("spiffe://td/a"), "spiffe://td/a");
        assert_eq!(quoted("spiffe://td/a;By=x"), "\"spiffe://td/a;By=x\"");
        assert_eq!(quoted("a\"b"), "\"a\\\"b\"");
    }

    #[test]
    fn what_peers_write_cannot_swallow_what_we_add() {
        let appended = |values: &[&'static str]| {
            let mut headers = Headers::new();
            values.iter().for_each(|value| headers.append(Name::Static(HEADER), Value::Static(value)));
            append(&mut headers, "By=own");
            headers.get_str(HEADER).unwrap().to_owned()
        };
        for value in ["By=a;URI=b", "Subject=\"CN=a,O=\\\"b\";URI=c,By=d", "Subject=\"\""] {
            assert_eq!(appended(&[value]), format!("{value},By=own"));
        }
        for value in ["URI=\"b", "URI=\"b\\\"", "URI=b\"", "A=x\";B=\"y", "A=\"x\"y", "\"By=a\""] {
            assert_eq!(appended(&[value]), "By=own", "{value}");
            assert_eq!(appended(&["By=a", value]), "By=own", "{value}");
        }
        assert_eq!(appended(&["By=a", "By=b"]), "By=a,By=b,By=own");
    }

    #[test]
    fn without_a_verified_certificate_nothing_is_passed_on() {
        for mode in [ForwardMode::Forward, ForwardMode::Append, ForwardMode::Set, ForwardMode::Sanitize] {
            let mut headers = Headers::new();
            headers.append(Name::Static(HEADER), Value::Static("Hash=beef"));
            forward(&ClientCertificate { mode, ..ClientCertificate::default() }, &mut headers, None);
            assert!(!headers.contains(HEADER), "{mode:?}");
        }
    }
}
