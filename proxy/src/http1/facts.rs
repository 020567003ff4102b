//! What the fields of a head say about framing and connection.

use std::time::Duration;

use super::fault::Fault;
use super::field::{self, Known, elements};
use super::section::{Field, Section, Span};
use super::{Expect, Framing, Limits};
use crate::message::Version;

/// What the fields of a head say about framing and connection.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) hosts: usize,
    /// The last `Host`.
    pub(super) host: Option<Span>,
    content_length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    has_upgrade: bool,
    /// Elements of `Connection`.
    options: usize,
    /// Whether some of them name fields.
    nominates: bool,
    pub(super) te_trailers: bool,
    pub(super) expect: Expect,
    pub(super) keep_alive_timeout: Option<Duration>,
}

impl Facts {
    /// Reads them.
    pub(super) fn gather(section: &Section, head: &[u8], limits: &Limits) -> Result<Self, Fault> {
        let mut facts = Self {
            hosts: 0,
            host: None,
            content_length: None,
            chunked: false,
            close: false,
            keep_alive: false,
            upgrade: false,
            has_upgrade: false,
            options: 0,
            nominates: false,
            te_trailers: false,
            expect: Expect::None,
            keep_alive_timeout: None,
        };
        for field in section.fields.iter().filter(|field| field.known != Known::Other) {
            facts.note(field, head)?;
        }
        if facts.options > limits.fields {
            return Err(Fault::ConnectionOptions);
        }
        if facts.chunked && facts.content_length.is_some() {
            return Err(Fault::TransferEncodingAndLength);
        }
        Ok(facts)
    }

    fn note(&mut self, field: &Field, head: &[u8]) -> Result<(), Fault> {
        let value = field.value.of(head);
        match field.known {
            Known::Host => {
                self.hosts += 1;
                self.host = Some(field.value);
            }
            Known::ContentLength => {
                let length = content_length(value).ok_or(Fault::ContentLength)?;
                if self.content_length.replace(length).is_some() {
                    return Err(Fault::ContentLengthRepeated);
                }
            }
            Known::TransferEncoding => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::TransferEncoding);
                }
                self.chunked = true;
            }
            Known::Connection => self.note_connection(value),
            Known::Upgrade => self.has_upgrade = true,
            Known::Te => {
                self.te_trailers |= elements(value).any(|element| element.eq_ignore_ascii_case(b"trailers"));
            }
            Known::Expect => {
                let known = self.expect == Expect::None && value.eq_ignore_ascii_case(b"100-continue");
                self.expect = if known { Expect::Continue } else { Expect::Unknown };
            }
            Known::KeepAlive => self.keep_alive_timeout = keep_alive_timeout(value),
            Known::Other | Known::HopByHop | Known::ProxyLogin | Known::Imitation => {}
        }
        Ok(())
    }

    fn note_connection(&mut self, value: &[u8]) {
        for option in elements(value) {
            self.options += 1;
            match option.len() {
                5 if option.eq_ignore_ascii_case(b"close") => self.close = true,
                10 if option.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                7 if option.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
                _ => self.nominates = true,
            }
        }
    }

    /// How the content is delimited, as far as the fields say.
    pub(super) fn framing(&self, version: Version) -> Result<Framing, Fault> {
        match (self.chunked, self.content_length) {
            (true, _) if version == Version::Http10 => Err(Fault::TransferEncodingInHttp10),
            (true, _) => Ok(Framing::Chunked),
            (false, Some(length)) => Ok(Framing::Length(length)),
            (false, None) => Ok(Framing::None),
        }
    }

    /// Whether the sender keeps the connection (RFC 9112 §9.3).
    pub(super) fn keeps_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }

    /// The protocols of `Upgrade` if `Connection` names it, lower case; without `h2c`, which nobody may ask for through a proxy.
    pub(super) fn upgrade(&self, section: &Section, head: &[u8]) -> Option<Box<str>> {
        if !(self.upgrade && self.has_upgrade) {
            return None;
        }
        let mut protocols = String::new();
        for field in section.fields.iter().filter(|field| field.known == Known::Upgrade) {
            for protocol in elements(field.value.of(head)).filter(|one| !one.eq_ignore_ascii_case(b"h2c")) {
                if !protocols.is_empty() {
                    protocols.push(',');
                }
                protocols.push_str(&String::from_utf8_lossy(protocol).to_ascii_lowercase());
            }
        }
        (!protocols.is_empty()).then(|| protocols.into_boxed_str())
    }

    /// Whether the field goes because `Connection` nominates it.
    pub(super) fn is_nominated(&self, field: &Field, section: &Section, head: &[u8]) -> bool {
        if !self.nominates {
            return false;
        }
        let name = field.name.of(head);
        let mut connection = section.fields.iter().filter(|field| field.known == Known::Connection);
        connection.any(|field| elements(field.value.of(head)).any(|option| option.eq_ignore_ascii_case(name)))
            && !field::is_end_to_end(name)
    }
}

/// A plain decimal number: no sign, no list, no leading zero.
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || (value.len() > 1 && value.first() == Some(&b'0')) {
        return None;
    }
    value.iter().try_fold(0_u64, |length, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        length.checked_mul(10)?.checked_add(digit)
    })
}

fn keep_alive_timeout(value: &[u8]) -> Option<Duration> {
    elements(value).find_map(|parameter| {
        let (name, seconds) = parameter.split_at_checked("timeout=".len())?;
        let named = name.eq_ignore_ascii_case(b"timeout=");
        let seconds = std::str::from_utf8(seconds).ok().filter(|_| named)?;
        seconds.parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()))
    })
}
