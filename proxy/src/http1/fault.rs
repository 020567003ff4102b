//! What can be wrong with a message, in words for an operator, and the [`Reason`] it becomes.

use crate::error::Reason;

/// A message that is refused. After one the connection's position is unknown: nothing more may be read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseError {
    /// The client's message.
    #[error("malformed request: {0}")]
    Request(Fault),
    /// The upstream's message.
    #[error("malformed response: {0}")]
    Response(Fault),
}

impl ParseError {
    /// What to answer, count and log.
    pub(crate) const fn reason(&self) -> Reason {
        match self {
            Self::Request(Fault::HeadTooLarge | Fault::TooManyFields) => Reason::HeadersTooLarge,
            Self::Request(Fault::TargetTooLong) => Reason::TargetTooLong,
            Self::Request(_) => Reason::BadRequest,
            Self::Response(_) => Reason::UpstreamProtocolError,
        }
    }

    /// What is wrong.
    #[cfg(test)]
    pub(crate) const fn fault(&self) -> Fault {
        match self {
            Self::Request(fault) | Self::Response(fault) => *fault,
        }
    }
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub(crate) enum Fault {
    /// More bytes than [`super::Limits::head_bytes`].
    #[error("the header or trailer section is larger than the limit")]
    HeadTooLarge,
    /// More lines than [`super::Limits::fields`].
    #[error("there are more header fields than the limit")]
    TooManyFields,
    /// More bytes than [`super::Limits::target_bytes`].
    #[error("the request target is longer than the limit")]
    TargetTooLong,
    /// A line ends in LF alone.
    #[error("a line ends without a carriage return")]
    BareLineFeed,
    /// A CR stands elsewhere than before LF.
    #[error("a carriage return stands alone")]
    BareCarriageReturn,
    /// Too much emptiness before the request line.
    #[error("too many empty lines stand before the request line")]
    BlankLines,
    /// Not three parts with one space between each.
    #[error("the request line is not `method target version`")]
    RequestLine,
    /// Not a token, or absurdly long.
    #[error("the method is not a token of at most 32 characters")]
    Method,
    /// Neither HTTP/1.1 nor, where allowed, HTTP/1.0.
    #[error("the protocol version is not supported")]
    Version,
    /// None of the four forms, or a byte that no target may have.
    #[error("the request target is malformed")]
    Target,
    /// `#` in the target.
    #[error("the request target has a fragment")]
    Fragment,
    /// An absolute target that is not for HTTP.
    #[error("the scheme of the request target is neither http nor https")]
    Scheme,
    /// The target's authority.
    #[error("the authority of the request target is not `host` or `host:port`")]
    Authority,
    /// HTTP/1.1 without `Host`.
    #[error("the Host header is missing or empty")]
    HostMissing,
    /// More than one `Host`.
    #[error("there is more than one Host header")]
    HostRepeated,
    /// `Host` is not an authority.
    #[error("the Host header is not `host` or `host:port`")]
    Host,
    /// Not `version status reason`.
    #[error("the status line is malformed")]
    StatusLine,
    /// Outside 100 to 599.
    #[error("the status code is not between 100 and 599")]
    Status,
    /// A line of the header section starts with white space.
    #[error("a header line is folded")]
    FieldFold,
    /// A line of the header section without colon.
    #[error("a header line has no colon")]
    FieldColon,
    /// Empty, or a byte that no token has.
    #[error("a header name is not a token")]
    FieldName,
    /// White space before the colon.
    #[error("white space stands between a header name and its colon")]
    FieldNameSpace,
    /// A control character.
    #[error("a header value has a control character")]
    FieldValue,
    /// `content_length`, `transfer_encoding`: CGI-like servers take them for the real ones.
    #[error("a header name imitates Content-Length or Transfer-Encoding")]
    FieldImitation,
    /// Not a plain decimal number.
    #[error("the Content-Length header is not a plain number")]
    ContentLength,
    /// More than one.
    #[error("there is more than one Content-Length header")]
    ContentLengthRepeated,
    /// Anything but one `chunked`.
    #[error("the Transfer-Encoding header is not exactly `chunked`")]
    TransferEncoding,
    /// Both framings at once.
    #[error("there are both a Transfer-Encoding and a Content-Length header")]
    TransferEncodingAndLength,
    /// HTTP/1.0 has no chunks.
    #[error("an HTTP/1.0 message has a Transfer-Encoding header")]
    TransferEncodingInHttp10,
    /// More elements than the limit on fields.
    #[error("the Connection header has too many elements")]
    ConnectionOptions,
    /// CONNECT has none.
    #[error("a CONNECT request has content")]
    ConnectContent,
    /// Not 1 to 16 hexadecimal digits.
    #[error("a chunk size is not a plain hexadecimal number")]
    ChunkSize,
    /// A control character, or white space without an extension.
    #[error("a chunk extension is malformed")]
    ChunkExtension,
    /// More than 16 KiB over a message.
    #[error("the chunk extensions are longer than the limit")]
    ChunkExtensionsTooLong,
    /// No CRLF where the size says the chunk ends.
    #[error("a chunk is longer or shorter than its size")]
    ChunkEnd,
    /// The sender closed too early.
    #[error("the message ends before its end")]
    Truncated,
}
