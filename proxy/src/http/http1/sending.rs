//! A response body on its way out: frames in, encoded bytes in the outbox.

use std::cell::Cell;

use bytes::Bytes;

use crate::error::Reason;
use crate::http1::{CHUNK_END, encode_chunk_header, encode_last_chunk};
use crate::io::Outbox;
use crate::message::{BodyError, Frame};

/// A response body on its way out.
pub(super) struct Sending {
    pub(super) chunked: bool,
    pub(super) grpc_status: Option<u16>,
}

impl Sending {
    /// Encodes a piece, and adds it to `sent`; true when it was the last.
    pub(super) fn encode(
        &mut self,
        frame: Option<Result<Frame, BodyError>>,
        out: &mut Outbox,
        sent: &Cell<u64>,
    ) -> Result<bool, Reason> {
        match frame {
            Some(Ok(Frame::Data(data))) if data.is_empty() => Ok(false),
            Some(Ok(Frame::Data(data))) => {
                sent.set(sent.get() + data.len() as u64);
                self.encode_data(data, out);
                Ok(false)
            }
            Some(Ok(Frame::Trailers(trailers))) => {
                self.grpc_status = trailers.get_str("grpc-status").and_then(|text| text.parse().ok());
                if self.chunked {
                    encode_last_chunk(Some(&trailers), &mut out.head);
                }
                Ok(true)
            }
            None => {
                if self.chunked {
                    encode_last_chunk(None, &mut out.head);
                }
                Ok(true)
            }
            Some(Err(BodyError::Reset | BodyError::Malformed | BodyError::Broken)) => {
                Err(Reason::UpstreamBodyReset)
            }
        }
    }

    fn encode_data(&self, data: Bytes, out: &mut Outbox) {
        if self.chunked {
            encode_chunk_header(data.len(), &mut out.head);
        }
        out.set_piece(data, if self.chunked { CHUNK_END } else { b"" });
    }
}
