//! Names, patterns and durations as Kubernetes and the Gateway API define them.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};

/// A rule for a text, and how to say it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) holds: fn(&str) -> bool,
    pub(super) says: &'static str,
}

pub(super) const LABEL: Rule = Rule {
    holds: is_label,
    says: "a DNS label (1 to 63 of a-z, 0-9 and '-', a letter or digit at both ends)",
};

pub(super) const SUBDOMAIN: Rule = Rule {
    holds: is_subdomain,
    says: "a DNS name (1 to 253 of a-z, 0-9, '-' and '.', a letter or digit at both ends of each part)",
};

pub(super) const HOSTNAME: Rule =
    Rule { holds: is_hostname, says: "a hostname in lower case, without wildcard, address or port" };

pub(super) const HOSTNAME_OR_WILDCARD: Rule = Rule {
    holds: |text| is_hostname(text.strip_prefix("*.").unwrap_or(text)),
    says: "a hostname in lower case (shop.example.com or *.example.com), without address or port",
};

pub(super) const GROUP: Rule =
    Rule { holds: |text| text.is_empty() || is_subdomain(text), says: "an API group (\"\" for core)" };

pub(super) const KIND: Rule = Rule {
    holds: |text| {
        text.len() <= 63
            && text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.ends_with(|last: char| last.is_ascii_alphanumeric())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    },
    says: "a kind such as Service",
};

pub(super) const HEADER_NAME: Rule = Rule {
    holds: |text| text.len() <= 256 && HeaderName::from_str(text).is_ok(),
    says: "a header name (letters, digits and !#$%&'*+-.^_`|~)",
};

pub(super) const HEADER_VALUE: Rule = Rule {
    holds: |text| (1..=4096).contains(&text.len()) && HeaderValue::from_str(text).is_ok(),
    says: "a header value (1 to 4096 characters, no line breaks or other control characters)",
};

pub(super) const IP_ADDRESS: Rule =
    Rule { holds: |text| IpAddr::from_str(text).is_ok(), says: "an IP address" };

pub(super) const PORT_NAME: Rule = Rule {
    holds: |text| {
        text.len() <= 15
            && is_label(text)
            && !text.contains("--")
            && text.bytes().any(|byte| byte.is_ascii_lowercase())
    },
    says: "a port name (1 to 15 of a-z, 0-9 and '-', at least one letter)",
};

pub(super) const GRPC_SERVICE: Rule = Rule {
    holds: |text| text.len() <= 1024 && text.strip_prefix('.').unwrap_or(text).split('.').all(is_identifier),
    says: "a gRPC service such as shop.v1.Catalog",
};

pub(super) const GRPC_METHOD: Rule =
    Rule { holds: |text| text.len() <= 1024 && is_identifier(text), says: "a gRPC method such as GetItem" };

pub(super) const PATH: Rule = Rule {
    holds: is_path,
    says: "a path (it starts with '/', has no '//', '/./', '/../', '%2f' or '#', does not end with '/.' or '/..', \
           and other characters are percent-encoded; at most 1024)",
};

pub(super) const CONTROLLER_NAME: Rule = Rule {
    holds: |text| {
        text.len() <= 253
            && text.split_once('/').is_some_and(|(domain, rest)| {
                is_subdomain(domain)
                    && !rest.is_empty()
                    && rest
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte))
            })
    },
    says: "a controller name such as sidegate.dev/gateway",
};

pub(super) const LISTENER_PROTOCOL: Rule = Rule {
    holds: |text| match text.split_once('/') {
        None => (KIND.holds)(text),
        Some((domain, name)) => {
            is_subdomain(domain) && !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
        }
    },
    says: "a protocol: HTTP, HTTPS, TLS, TCP, UDP or <domain>/<name>",
};

fn is_label(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 63
        && text.bytes().next().is_some_and(inside)
        && text.bytes().next_back().is_some_and(inside)
        && text.bytes().all(|byte| inside(byte) || byte == b'-')
}

fn is_subdomain(text: &str) -> bool {
    // A part may be longer than a label here; only hostnames that are looked up may not.
    let part = |part: &str| {
        let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        part.bytes().next().is_some_and(inside)
            && part.bytes().next_back().is_some_and(inside)
            && part.bytes().all(|byte| inside(byte) || byte == b'-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

fn is_hostname(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label) && IpAddr::from_str(text).is_err()
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_path(text: &str) -> bool {
    const NEVER: [&str; 6] = ["//", "/./", "/../", "%2f", "%2F", "#"];
    text.len() <= 1024
        && text.starts_with('/')
        && !NEVER.iter().any(|piece| text.contains(piece))
        && !text.ends_with("/..")
        && !text.ends_with("/.")
        && is_percent_encoded(text)
}

fn is_percent_encoded(text: &str) -> bool {
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let fine = match byte {
            b'%' => [rest.next(), rest.next()]
                .iter()
                .all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit())),
            _ => byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte),
        };
        if !fine {
            return false;
        }
    }
    true
}

/// Compiles within bounds: a pattern whose automaton would be huge is refused like one that is malformed.
pub(super) fn regular_expression(text: &str) -> Result<(), String> {
    const LARGEST: usize = 1 << 20;
    match regex::RegexBuilder::new(text).size_limit(LARGEST).build() {
        Ok(_) => Ok(()),
        Err(regex::Error::CompiledTooBig(_)) => Err("too large when compiled; repeat less".to_owned()),
        Err(error) => {
            // The crate draws the pattern with a marker over several lines; the last line says what is wrong.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            Err(last.strip_prefix("error: ").unwrap_or(last).to_owned())
        }
    }
}

/// GEP-2257: up to four whole numbers of up to five digits, each with h, m, s or ms.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let duration = gateway_api::Duration::from_str(text).ok()?;
    Some(Duration::new(duration.as_secs(), duration.subsec_nanos()))
}
