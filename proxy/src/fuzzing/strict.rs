//! A second reading of an HTTP/1.1 request, written without regard to the codec's: what a proxy sends must pass it.
//!
//! Slow, plain and stricter than the RFCs: everything that two servers could read differently is an error, and so is whatever a proxy must
//! not pass on. It uses the standard library alone, because the scenarios read what their origins got with the same file.

/// A request as it stands on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The method.
    pub method: String,
    /// The target, as it came.
    pub target: String,
    /// Names in lower case; values as they came.
    pub fields: Vec<(String, Vec<u8>)>,
    /// The content.
    pub body: Vec<u8>,
    /// As `fields`.
    pub trailers: Vec<(String, Vec<u8>)>,
}

impl Message {
    /// Every value of a field.
    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_slice()).collect()
    }

    /// The only `Host`.
    pub fn host(&self) -> String {
        self.values("host")
            .first()
            .map(|value| String::from_utf8_lossy(value).into_owned())
            .unwrap_or_default()
    }
}

/// What stands at a place and where it ends; `None` while that has not come; why it is not clean.
pub type Found<T> = Result<Option<(T, usize)>, String>;

/// Takes the request at the start of the bytes: it and its length. `None` while it is not whole.
///
/// # Errors
/// When it is not one unambiguous request that a proxy may send, whatever follows.
pub fn read(bytes: &[u8]) -> Found<Message> {
    let Some((head, mut at)) = lines(bytes, 0)? else { return Ok(None) };
    let [start, fields @ ..] = head.as_slice() else {
        return Err("an empty line instead of a request".to_owned());
    };
    let (method, target) = start_line(start)?;
    let mut message = Message { method, target, fields: section(fields)?, ..Message::default() };
    let hosts = message.values("host");
    if hosts.len() != 1 {
        return Err(format!("{} Host fields", hosts.len()));
    }
    for name in ONE_HOP {
        if !message.values(name).is_empty() {
            return Err(format!("{name} was passed on"));
        }
    }
    match (message.values("content-length").as_slice(), message.values("transfer-encoding").as_slice()) {
        ([], []) => {}
        ([length], []) => {
            let length = number(length)?;
            let Some(body) = bytes.get(at..).and_then(|rest| rest.get(..length)) else { return Ok(None) };
            message.body = body.to_vec();
            at += length;
        }
        ([], [coding]) if *coding == b"chunked" => {
            let Some(end) = chunks(bytes, at, &mut message)? else { return Ok(None) };
            at = end;
        }
        (lengths, codings) => return Err(format!("framed by {lengths:?} and {codings:?}")),
    }
    Ok(Some((message, at)))
}

/// Every request that the bytes hold, and how many bytes of an unfinished one follow.
///
/// # Errors
/// As [`read`], with what could be read before.
pub fn read_all(bytes: &[u8]) -> (Vec<Message>, Result<usize, String>) {
    let (mut messages, mut at) = (Vec::new(), 0);
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        match read(rest) {
            _ if rest.is_empty() => return (messages, Ok(0)),
            Ok(Some((message, length))) => {
                messages.push(message);
                at += length;
            }
            Ok(None) => return (messages, Ok(rest.len())),
            Err(error) => return (messages, Err(error)),
        }
    }
}

/// The lines from `at` to the empty line, and where that ends.
fn lines(bytes: &[u8], mut at: usize) -> Found<Vec<&[u8]>> {
    let mut lines = Vec::new();
    loop {
        let Some((line, next)) = line(bytes, at)? else { return Ok(None) };
        at = next;
        if line.is_empty() {
            return Ok(Some((lines, at)));
        }
        lines.push(line);
    }
}

/// A line that ends in CRLF and holds no other control than TAB, and where the next one starts.
fn line(bytes: &[u8], at: usize) -> Found<&[u8]> {
    let rest = bytes.get(at..).unwrap_or_default();
    for (index, byte) in rest.iter().enumerate() {
        match (byte, rest.get(index + 1)) {
            (b'\r', Some(b'\n')) => return Ok(Some((&rest[..index], at + index + 2))),
            (b'\r', None) => return Ok(None),
            (b'\t' | 0x20..=0x7e | 0x80.., _) => {}
            (other, _) => return Err(format!("byte {other:#04x} in a line")),
        }
    }
    Ok(None)
}

fn start_line(line: &[u8]) -> Result<(String, String), String> {
    let text: String = line.iter().copied().map(char::from).collect();
    let [method, target, "HTTP/1.1"] = text.split(' ').collect::<Vec<_>>()[..] else {
        return Err(format!("{text:?} is no request line"));
    };
    let rooted = target.starts_with('/') || (target == "*" && method == "OPTIONS") || method == "CONNECT";
    if !is_token(method.as_bytes()) || !rooted || target.contains('#') {
        return Err(format!("{text:?} is no request line"));
    }
    Ok((method.to_owned(), target.to_owned()))
}

fn section(lines: &[&[u8]]) -> Result<Vec<(String, Vec<u8>)>, String> {
    lines.iter().map(|line| field(line)).collect()
}

fn field(line: &[u8]) -> Result<(String, Vec<u8>), String> {
    let bad = || format!("{:?} is no field", String::from_utf8_lossy(line));
    let colon = line.iter().position(|byte| *byte == b':').ok_or_else(bad)?;
    let (name, rest) = line.split_at(colon);
    let value = rest.strip_prefix(b": ").ok_or_else(bad)?;
    let spaced = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if !is_token(name) || spaced(value.first()) || spaced(value.last()) {
        return Err(bad());
    }
    Ok((String::from_utf8_lossy(name).to_lowercase(), value.to_vec()))
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn number(digits: &[u8]) -> Result<usize, String> {
    let text = String::from_utf8_lossy(digits);
    let number: usize = text.parse().map_err(|_| format!("{text:?} is no length"))?;
    if number.to_string() == text { Ok(number) } else { Err(format!("{text:?} is a length in disguise")) }
}

/// Reads chunks without extensions from `at`; gives where the message ends.
fn chunks(bytes: &[u8], mut at: usize, message: &mut Message) -> Result<Option<usize>, String> {
    loop {
        let Some((size, next)) = line(bytes, at)? else { return Ok(None) };
        let text = String::from_utf8_lossy(size);
        let length = usize::from_str_radix(&text, 16).map_err(|_| format!("{text:?} is no chunk size"))?;
        if format!("{length:x}") != text {
            return Err(format!("{text:?} is a chunk size in disguise"));
        }
        at = next;
        if length == 0 {
            let Some((trailers, end)) = lines(bytes, at)? else { return Ok(None) };
            message.trailers = section(&trailers)?;
            let bad = message.trailers.iter().find(|(name, _)| NEVER_TRAILS.contains(&name.as_str()));
            return bad.map_or(Ok(Some(end)), |(name, _)| Err(format!("{name} among the trailers")));
        }
        let Some(data) = bytes.get(at..).and_then(|rest| rest.get(..length)) else { return Ok(None) };
        message.body.extend_from_slice(data);
        at += length;
        match bytes.get(at..).unwrap_or_default() {
            [b'\r', b'\n', ..] => at += 2,
            [] | [b'\r'] => return Ok(None),
            _ => return Err("a chunk is longer than it says".to_owned()),
        }
    }
}

/// What says something about the client's connection only.
const ONE_HOP: [&str; 4] = ["proxy-connection", "keep-alive", "http2-settings", "proxy-authenticate"];

/// Some of what must not come after the content (RFC 9110 §6.5.1).
const NEVER_TRAILS: [&str; 8] = [
    "host",
    "content-length",
    "transfer-encoding",
    "authorization",
    "cookie",
    "x-forwarded-for",
    "connection",
    "trailer",
];
