//! What a TLS ClientHello asks for (RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301): pure, over a prefix of the connection. Nothing is
//! verified here: whoever ends the TLS connection does that. It may come in any number of segments, and of TLS records.

/// What the first bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// No TLS.
    Other,
    /// So far they may be a ClientHello; so many bytes are needed, at least, to know more.
    Incomplete(usize),
    /// A ClientHello.
    Complete(ClientHello),
    /// They begin as one, and are none that may be passed on.
    Malformed(&'static str),
}

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientHello {
    /// The server's name, in lower case; empty when there is none.
    pub(crate) server_name: Box<str>,
    /// Application protocols (ALPN), the client's order; what is not text is left out.
    pub(crate) protocols: Vec<Box<str>>,
}

/// Bytes of a connection within which its ClientHello must end.
pub(crate) const MOST_BYTES: usize = 16 * 1024 + 5;

/// Looks at a connection's first bytes.
pub(crate) fn client_hello(prefix: &[u8]) -> Hello {
    match handshake(prefix) {
        Gathered::Other => Hello::Other,
        Gathered::Malformed(why) => Hello::Malformed(why),
        Gathered::Incomplete(needed) if needed > MOST_BYTES => {
            Hello::Malformed("a ClientHello of more than 16 KiB")
        }
        Gathered::Incomplete(needed) => Hello::Incomplete(needed),
        Gathered::Whole(body) => {
            parse(&body).map_or(Hello::Malformed("a malformed ClientHello"), Hello::Complete)
        }
    }
}

enum Gathered {
    Other,
    Incomplete(usize),
    Malformed(&'static str),
    /// The handshake message without its header.
    Whole(Vec<u8>),
}

/// The ClientHello's bytes out of the records that carry it.
fn handshake(prefix: &[u8]) -> Gathered {
    let mut message = Vec::new();
    let mut rest = prefix;
    let mut records = 0;
    loop {
        // Bytes that differ from TLS tell so at once, however few they are.
        let differs = rest.first().is_some_and(|kind| *kind != HANDSHAKE)
            || rest.get(1).is_some_and(|major| *major != 3);
        if differs {
            return if records == 0 {
                Gathered::Other
            } else {
                Gathered::Malformed("a ClientHello cut by another record")
            };
        }
        let offset = prefix.len() - rest.len();
        let Some((header, body)) = rest.split_at_checked(RECORD_HEADER) else {
            // A short word of another protocol must not be waited for in vain: each of the first bytes may tell.
            return Gathered::Incomplete(if rest.len() < 2 {
                prefix.len() + 1
            } else {
                offset + RECORD_HEADER
            });
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > MOST_RECORD {
            return if records == 0 {
                Gathered::Other
            } else {
                Gathered::Malformed("a TLS record of no valid length")
            };
        }
        records += 1;
        if records > MOST_RECORDS {
            return Gathered::Malformed("a ClientHello in too many records");
        }
        message.extend_from_slice(&body[..length.min(body.len())]);
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Gathered::Other;
        }
        if let [_, high, middle, low, ..] = message[..] {
            let size = u32::from_be_bytes([0, high, middle, low]) as usize;
            if size > MOST_BYTES {
                return Gathered::Malformed("a ClientHello of more than 16 KiB");
            }
            if message.len() >= HANDSHAKE_HEADER + size {
                message.truncate(HANDSHAKE_HEADER + size);
                message.drain(..HANDSHAKE_HEADER);
                return Gathered::Whole(message);
            }
        }
        if body.len() < length {
            // No more than this record: what follows it is not known. But a message that ends within it ends earlier.
            return Gathered::Incomplete(offset + RECORD_HEADER + needed_of(&message, body.len(), length));
        }
        rest = &body[length..];
    }
}

/// Bytes of a record's body after which more is known.
fn needed_of(message: &[u8], present: usize, length: usize) -> usize {
    let missing = match message {
        [_, high, middle, low, ..] => {
            HANDSHAKE_HEADER + u32::from_be_bytes([0, *high, *middle, *low]) as usize - message.len()
        }
        // The first one tells whether it is a ClientHello.
        [] => 1,
        short => HANDSHAKE_HEADER - short.len(),
    };
    (present + missing).min(length)
}

fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut body = Bytes(body);
    body.take(2 + 32)?;
    let session = body.vector8()?;
    let suites = body.vector16()?;
    let compression = body.vector8()?;
    if session.len() > 32 || suites.is_empty() || suites.len() % 2 != 0 || compression.is_empty() {
        return None;
    }
    let mut hello = ClientHello::default();
    if body.0.is_empty() {
        // TLS 1.2 may do without extensions.
        return Some(hello);
    }
    let mut extensions = Bytes(body.vector16()?);
    if !body.0.is_empty() {
        return None;
    }
    let (mut named, mut protocols) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.number16()?;
        let content = extensions.vector16()?;
        match kind {
            // Which of two would the other end believe?
            SERVER_NAME if std::mem::replace(&mut named, true) => return None,
            SERVER_NAME => hello.server_name = server_name(content)?,
            PROTOCOLS if std::mem::replace(&mut protocols, true) => return None,
            PROTOCOLS => hello.protocols = application_protocols(content)?,
            _ => {}
        }
    }
    Some(hello)
}

/// The one host name of a list (RFC 6066 §3: at most one of each type).
fn server_name(content: &[u8]) -> Option<Box<str>> {
    let mut content = Bytes(content);
    let mut list = Bytes(content.vector16()?);
    let mut found = None;
    while !list.0.is_empty() {
        let kind = list.take(1)?[0];
        let name = list.vector16()?;
        if kind == HOST_NAME && found.replace(name).is_some() {
            return None;
        }
    }
    let name = found?;
    let sane = !name.is_empty()
        && name.len() <= 255
        && name.iter().all(u8::is_ascii_graphic)
        && content.0.is_empty();
    let name = std::str::from_utf8(name).ok().filter(|_| sane)?;
    Some(name.to_ascii_lowercase().into())
}

fn application_protocols(content: &[u8]) -> Option<Vec<Box<str>>> {
    let mut content = Bytes(content);
    let mut list = Bytes(content.vector16()?);
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector8().filter(|name| !name.is_empty())?;
        if let Ok(name) = std::str::from_utf8(name)
            && protocols.len() < MOST_PROTOCOLS
        {
            protocols.push(name.into());
        }
    }
    content.0.is_empty().then_some(protocols)
}

/// What is left to read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Bytes behind their length in one byte.
    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }

    /// Bytes behind their length in two bytes.
    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.number16()?;
        self.take(usize::from(length))
    }
}

const RECORD_HEADER: usize = 5;
/// RFC 8446 §5.1: 2^14 bytes of plaintext.
const MOST_RECORD: usize = 1 << 14;
/// Clients use one, those that cut it up a few.
const MOST_RECORDS: usize = 64;
const HANDSHAKE: u8 = 22;
const HANDSHAKE_HEADER: usize = 4;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const PROTOCOLS: u16 = 16;
const MOST_PROTOCOLS: usize = 64;

#[cfg(test)]
mod tests;
