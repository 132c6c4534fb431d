//! The status of calls of gRPC-Web and Connect, which is in the body of the response.

use std::borrow::Cow;

use miniz_oxide::inflate::decompress_slice_iter_to_slice;
use observer_common::scanner::web::{MAX_TAIL, value_of};
use serde::Deserialize;

use super::{Calls, Headers, Kind, ResponsePart};
use crate::{
    names::{Interner, TextId},
    protocol::{Transfer, hpack::field_of_text},
    record::Tail,
};

/// Bound on the trailers of a connection that are not complete. Usually a transfer has all of them.
const MAX_OPEN: usize = 32;

/// The longest trailers, in characters of text.
const MAX_LENGTH: usize = (MAX_TAIL as usize).div_ceil(3) * 4;

/// The flags of a prefix for trailers, without [`COMPRESSED`].
const TRAILERS: u8 = 0x80;

/// The flags of a prefix for the last message of a Connect stream, without [`COMPRESSED`].
const END_STREAM: u8 = 2;

/// The bit of a prefix's flags for a message that is compressed.
const COMPRESSED: u8 = 1;

/// Bound on the last message of a Connect stream once it is decompressed.
const MAX_DECOMPRESSED: usize = 16 << 10;

/// The status in the body of a call's response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailers {
    /// The kind of calls that have such ones.
    kind: Kind,
    /// As [`Headers::grpc_status`].
    #[expect(clippy::option_option, reason = "no status, and one that is not a number")]
    pub(super) grpc_status: Option<Option<u32>>,
    /// As [`Headers::message`].
    pub(super) message: Option<TextId>,
    /// Whether some of them could not be read.
    pub(super) incomplete: bool,
}

impl Trailers {
    pub(super) fn of(kind: Kind, headers: &Headers) -> Self {
        let Headers { grpc_status, message, incomplete, .. } = *headers;
        Self { kind, grpc_status, message, incomplete }
    }

    /// Those of a status that is known, or cannot be read.
    fn with(kind: Kind, status: Option<u32>) -> Self {
        let grpc_status = status.map(Some);
        Self { kind, grpc_status, message: None, incomplete: status.is_none() }
    }

    /// Reads a tail; `None` if it is not one.
    fn of_tail(tail: Tail, bytes: &[u8], interner: &mut Interner) -> Option<Self> {
        let is_compressed = tail.flags & COMPRESSED != 0;
        Some(match tail.flags & !COMPRESSED {
            Tail::ERROR => Self::with(Kind::ConnectUnary, Some(tail.text.into())),
            TRAILERS if is_compressed => Self::with(Kind::GrpcWeb, None),
            TRAILERS if tail.text == 0 => Self::read(bytes, interner),
            TRAILERS => Self::read(&decode(tail.text, bytes), interner),
            END_STREAM => {
                let json = if is_compressed {
                    decompress(bytes).map(Cow::Owned)
                } else {
                    Some(bytes.into())
                };
                Self::with(Kind::ConnectStream, json.and_then(|json| code_of(&json)))
            }
            _ => return None,
        })
    }

    /// Reads lines of HTTP/1 fields. Of two statuses the last one counts, as in trailers of HTTP/2.
    fn read(lines: &[u8], interner: &mut Interner) -> Self {
        let mut headers = Headers::default();
        for line in lines.split(|&octet| octet == b'\n') {
            let Some(colon) = line.iter().position(|&octet| octet == b':') else { continue };
            let (name, value) = line.split_at(colon);
            let value = value.get(1..).unwrap_or_default();
            headers.add(field_of_text(name.trim_ascii(), value.trim_ascii(), interner));
        }
        Self::of(Kind::GrpcWeb, &headers)
    }
}

/// The trailers of a connection that are not complete, by stream.
#[derive(Debug, Default)]
pub(super) struct Tails(Vec<(u32, Vec<u8>)>);

impl Tails {
    /// Takes the next bytes of a stream's trailers. Returns all of them once they are complete.
    fn take(&mut self, stream: u32, tail: Tail, is_part: bool, bytes: &[u8]) -> Option<Vec<u8>> {
        let length = (tail.length as usize).min(MAX_LENGTH);
        let at = self.0.iter().position(|(of, _)| *of == stream);
        let mut all = at.map_or_else(Vec::new, |at| self.0.swap_remove(at).1);
        if !is_part {
            all.clear();
        }
        let room = length.saturating_sub(all.len());
        all.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        if all.len() == length {
            return Some(all);
        }
        if self.0.len() >= MAX_OPEN {
            self.0.remove(0);
        }
        self.0.push((stream, all));
        None
    }

    /// The memory that they have allocated, in bytes.
    pub(super) fn memory(&self) -> usize {
        let bytes: usize = self.0.iter().map(|(_, bytes)| bytes.capacity()).sum();
        self.0.capacity() * size_of::<(u32, Vec<u8>)>() + bytes
    }
}

impl Calls {
    /// Takes trailers in the body of a response, or a part of them.
    pub fn tail(
        &mut self,
        at: Transfer,
        stream: u32,
        tail: Tail,
        is_part: bool,
        bytes: &[u8],
        interner: &mut Interner,
    ) {
        if self.is_request(at.direction) || !at.relatives.any() {
            return;
        }
        let Some(all) = self.tails.take(stream, tail, is_part, bytes) else { return };
        if let Some(trailers) = Trailers::of_tail(tail, &all, interner) {
            self.trailers(at, stream, trailers);
        }
    }

    /// Takes the trailers of a call.
    pub(super) fn trailers(&mut self, at: Transfer, stream: u32, trailers: Trailers) {
        if let Some(call) = self.open.get_mut(&stream) {
            // Other bodies may have bytes that look like these.
            if trailers.kind == call.kind {
                call.trailers = Some(trailers);
            }
        } else if !self.gap_streams.contains(stream) {
            self.keep_pending(at, stream, ResponsePart::Trailers(trailers));
        }
    }
}

/// The last message of a Connect stream.
///
/// Source: "EndStreamResponse" in the specification of the Connect protocol.
#[derive(Deserialize)]
struct EndStream<'a> {
    #[serde(borrow)]
    error: Option<StreamError<'a>>,
}

#[derive(Deserialize)]
struct StreamError<'a> {
    #[serde(borrow)]
    code: Option<Cow<'a, str>>,
}

/// The number of the code that a Connect stream ends with; `None` if the message is not JSON.
fn code_of(json: &[u8]) -> Option<u32> {
    const CODES: [&str; 16] = [
        "canceled",
        "unknown",
        "invalid_argument",
        "deadline_exceeded",
        "not_found",
        "already_exists",
        "permission_denied",
        "resource_exhausted",
        "failed_precondition",
        "aborted",
        "out_of_range",
        "unimplemented",
        "internal",
        "unavailable",
        "data_loss",
        "unauthenticated",
    ];
    const UNKNOWN: u32 = 2;
    let EndStream { error } = serde_json::from_slice(json).ok()?;
    let Some(StreamError { code }) = error else { return Some(0) };
    let number = CODES.iter().zip(1..).find(|(name, _)| code.as_deref() == Some(**name));
    Some(number.map_or(UNKNOWN, |(_, number)| number))
}

/// Decompresses gzip (RFC 1952), at most [`MAX_DECOMPRESSED`] bytes; `None` if it is not gzip, or longer. Checksums are
/// not compared.
fn decompress(bytes: &[u8]) -> Option<Vec<u8>> {
    const DEFLATE: u8 = 8;
    const EXTRA: u8 = 1 << 2;
    const NAME: u8 = 1 << 3;
    const COMMENT: u8 = 1 << 4;
    const CHECKSUM: u8 = 1 << 1;
    let ([0x1f, 0x8b, DEFLATE, flags, ..], mut rest) = bytes.split_first_chunk::<10>()? else {
        return None;
    };
    if flags & EXTRA != 0 {
        let (length, after) = rest.split_first_chunk::<2>()?;
        rest = after.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|&octet| octet == 0)?;
            rest = rest.get(end + 1..)?;
        }
    }
    if flags & CHECKSUM != 0 {
        rest = rest.get(2..)?;
    }
    let mut decompressed = vec![0; MAX_DECOMPRESSED];
    let parts = std::iter::once(rest);
    let length = decompress_slice_iter_to_slice(&mut decompressed, parts, false, true).ok()?;
    decompressed.truncate(length);
    Some(decompressed)
}

/// Decodes base64, from the middle of a group of four characters on: see [`Tail::text`].
fn decode(text: u8, characters: &[u8]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(characters.len() / 4 * 3 + 3);
    let mut place = text >> Tail::PLACE & 3;
    let mut bits = u32::from(text & 0xf);
    for character in characters {
        let value = value_of(*character);
        if value > 63 {
            (place, bits) = (0, 0);
            continue;
        }
        let all = bits << 6 | value;
        let after = 6 - 2 * u32::from(place);
        if place > 0 {
            octets.push((all >> after) as u8);
        }
        bits = all & ((1 << after) - 1);
        place = (place + 1) % 4;
    }
    octets
}
