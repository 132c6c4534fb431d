//! The trailers of gRPC-Web calls, which are in the body of the response.

use observer_common::scanner::web::{MAX_TAIL, value_of};

use super::{Calls, Headers, ResponsePart};
use crate::{
    names::{Interner, TextId},
    protocol::{Transfer, hpack::field_of_text},
    record::Tail,
};

/// Bound on the trailers of a connection that are not complete. Usually a transfer has all of them.
const MAX_OPEN: usize = 32;

/// The longest trailers, in characters of text.
const MAX_LENGTH: usize = (MAX_TAIL as usize).div_ceil(3) * 4;

/// The bit of a prefix's flags for a message that is compressed.
const COMPRESSED: u8 = 1;

/// The trailers of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailers {
    /// As [`Headers::grpc_status`].
    #[expect(clippy::option_option, reason = "no status, and one that is not a number")]
    pub(super) grpc_status: Option<Option<u32>>,
    /// As [`Headers::message`].
    pub(super) message: Option<TextId>,
    /// Whether some of them could not be read.
    pub(super) incomplete: bool,
}

impl Trailers {
    pub(super) fn of(headers: &Headers) -> Self {
        let Headers { grpc_status, message, incomplete, .. } = *headers;
        Self { grpc_status, message, incomplete }
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
        Self::of(&headers)
    }

    /// Trailers that cannot be read.
    const UNREADABLE: Self = Self { grpc_status: None, message: None, incomplete: true };
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
        let trailers = if tail.flags & COMPRESSED != 0 {
            Trailers::UNREADABLE
        } else if tail.text == 0 {
            Trailers::read(&all, interner)
        } else {
            Trailers::read(&decode(tail.text, &all), interner)
        };
        self.trailers(at, stream, trailers);
    }

    /// Takes the trailers of a call.
    pub(super) fn trailers(&mut self, at: Transfer, stream: u32, trailers: Trailers) {
        if let Some(call) = self.open.get_mut(&stream) {
            call.trailers = Some(trailers);
        } else if !self.gap_streams.contains(stream) {
            self.keep_pending(at, stream, ResponsePart::Trailers(trailers));
        }
    }
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
