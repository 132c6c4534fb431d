//! Finds HTTP/2 frames and gRPC messages in one direction of a connection.
//!
//! The scanner never holds the bytes of the stream. [`Scanner::want`] returns what the driver is to do with the next
//! bytes: read, copy or skip them. The driver does it with as many of them as are available, and reports their number to
//! [`Scanner::took`], which returns what they completed. The BPF programs drive the scanner over buffers of a process,
//! the tests over slices.
//!
//! Order of calls: `want`, then `took` with 1 to `want().length` bytes, and so on. After [`event::FRAME_BEGIN`] of a DATA
//! frame, the driver may [`resume`](Scanner::resume) a message that an earlier DATA frame of the stream left unfinished.
//! After [`event::FRAME_END`], [`unfinished`](Scanner::unfinished) returns the message to keep, if there is one.
//!
//! The client preface may come after something else: a PROXY header, a `CONNECT` request and its response,
//! `101 Switching Protocols`. The scanner skips these ([`Scanner::at_preface`], [`Scanner::at_opening`]).
//!
//! Bodies of gRPC-Web and Connect end with a message that has the status, and may be encoded as text ([`web`]). A driver
//! that does not follow them passes `false` to [`Scanner::took_payload`].
//!
//! With them, a connection may be HTTP/1.1: its heads are found line by line, and each part of a body is as a DATA frame
//! ([`http1`]).
//!
//! There is no loop, and no index with a value of run time, so that the kernel's verifier can follow the code. Parts that
//! may be cut are put together in [`Scanner::buffer`], each at its own offset.

pub mod http1;
pub mod web;

use crate::frame::{FrameHeader, HEADER_LENGTH, PREFACE, flag, kind};

/// The length of gRPC's message prefix: the compressed flag and the big-endian length of the message.
pub const PREFIX_LENGTH: u32 = 5;

/// The longest frame payload that is kept whole, in bytes. The rest of a longer one is a counted gap.
///
/// HTTP/2 allows 16 MiB − 1. By default no gRPC library accepts a field block of 1 MiB (8 KiB to 64 KiB is usual), so a
/// higher bound would only let a hostile peer fill more memory.
pub const MAX_KEPT: u32 = 1 << 20;

/// The ways in which the driver takes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Copy them into [`Scanner::buffer`] at [`Want::at`]. The driver may overwrite up to [`OVERRUN`] bytes there, with
    /// the bytes that follow the wanted ones.
    Read,
    /// Copy them into the record: they are the payload of a frame that is kept.
    Copy,
    /// Skip them.
    Skip,
}

/// What the scanner needs from the next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// How to take them.
    pub take: Take,
    /// The offset in [`Scanner::buffer`], for [`Take::Read`].
    pub at: u32,
    /// The most bytes to take; never 0.
    pub length: u32,
    /// The scanner's place, kept here so that the verifier does not follow the choice of it again.
    phase: u32,
}

/// Bits for what the taken bytes completed.
pub mod event {
    /// The client preface is complete; frames follow.
    pub const PREFACE_END: u32 = 1;
    /// The bytes are not a client preface. Nothing that follows can be scanned.
    pub const NOT_PREFACE: u32 = 2;
    /// A frame header is complete: see [`super::Scanner::frame`].
    pub const FRAME_BEGIN: u32 = 4;
    /// The frame's last byte was taken.
    pub const FRAME_END: u32 = 8;
    /// A gRPC message's last byte was taken: see [`super::Scanner::message_length`].
    pub const MESSAGE_END: u32 = 16;
    /// The frame is longer than [`MAX_KEPT`](super::MAX_KEPT); the rest of it is skipped.
    pub const TOO_LONG: u32 = 32;
    /// The bytes are not a frame header, so the boundary was not one: see [`super::Scanner::at_unproven_frame`].
    pub const NOT_FRAME: u32 = 64;
    /// The tail of a body begins: see [`super::Scanner::tail`].
    pub const TAIL: u32 = 128;
    /// The head of an HTTP/1.1 message is complete.
    pub const HEAD_END: u32 = 256;
    /// That head is of a HEAD request, whose response has no body.
    pub const HEAD_REQUEST: u32 = 512;
    /// An HTTP/1.1 message without a body is complete, or one whose body was in chunks.
    pub const MESSAGE_OVER: u32 = 1024;
}

/// How strictly frame headers are checked.
mod check {
    /// Not at all: the stream was seen from its beginning.
    pub(super) const NONE: u32 = 0;
    /// They have to be legal: the boundary was found and believed.
    pub(super) const LEGAL: u32 = 1;
    /// They have to be plausible: the boundary is not believed yet.
    pub(super) const PLAUSIBLE: u32 = 2;
}

/// Where in the stream the next byte is.
mod phase {
    pub(super) const PREFACE: u32 = 0;
    pub(super) const HEADER: u32 = 1;
    /// In a frame that is kept.
    pub(super) const COPY: u32 = 2;
    /// In a frame, or in the rest of one, that is not needed.
    pub(super) const SKIP: u32 = 3;
    /// At the pad length of a DATA frame (RFC 9113 §6.1).
    pub(super) const PAD_LENGTH: u32 = 4;
    /// In a message's prefix.
    pub(super) const PREFIX: u32 = 5;
    /// In a message's body.
    pub(super) const BODY: u32 = 6;
    /// The stream did not begin with the client preface, or a frame did not begin where it should.
    pub(super) const REFUSED: u32 = 7;
    /// In the tail of a body, as [`Take::Copy`].
    pub(super) const TAIL: u32 = 8;
    /// At a character of a body that is encoded as text.
    pub(super) const TEXT: u32 = 9;
    /// In the characters of a message's body.
    pub(super) const TEXT_BODY: u32 = 10;
    /// In the code of an error in JSON.
    pub(super) const ERROR: u32 = 11;
    // HTTP/1.1: up to `HEAD_END` in a head.
    /// In the first bytes of a message.
    pub(super) const START_LINE: u32 = 12;
    /// At the first byte of a field line.
    pub(super) const LINE: u32 = 13;
    /// In a name that may be one of [`http1`](super::http1)'s.
    pub(super) const NAME: u32 = 14;
    /// In the value of `content-length`.
    pub(super) const LENGTH_VALUE: u32 = 15;
    /// In the value of `transfer-encoding`.
    pub(super) const CODING_VALUE: u32 = 16;
    /// In the rest of a line.
    pub(super) const REST: u32 = 17;
    /// At the last byte of the empty line.
    pub(super) const HEAD_END: u32 = 18;
    /// In the size of a chunk.
    pub(super) const CHUNK_SIZE: u32 = 19;
    /// In the rest of the line with the size.
    pub(super) const CHUNK_REST: u32 = 20;
    /// At the line end after a chunk.
    pub(super) const CHUNK_END: u32 = 21;
    /// At its last byte.
    pub(super) const CHUNK_END_LF: u32 = 22;
    /// At the first byte of a line of trailers.
    pub(super) const TRAILER: u32 = 23;
    /// In the rest of such a line.
    pub(super) const TRAILER_REST: u32 = 24;
    /// At the last byte of the empty line after trailers.
    pub(super) const TRAILER_END: u32 = 25;
    /// At the first byte of a direction that may carry the client preface, frames, or what comes before either.
    pub(super) const OPENING: u32 = 26;
    /// In the head of an HTTP/1 message, up to its empty line.
    pub(super) const HEAD: u32 = 27;
    /// In the status code of an HTTP/1 response.
    pub(super) const STATUS: u32 = 28;
    /// In a PROXY header of version 1: a line.
    pub(super) const PROXY_LINE: u32 = 29;
    /// In the second eight bytes of a PROXY header of version 2.
    pub(super) const PROXY_LENGTH: u32 = 30;
    /// In the addresses of a PROXY header of version 2.
    pub(super) const PROXY_ADDRESSES: u32 = 31;
    /// In the length and type of the first frame, which must be SETTINGS.
    pub(super) const FIRST_FRAME: u32 = 32;
}

/// Eight bytes as the number that they are read as.
const fn word(bytes: [u8; 8]) -> u64 {
    u64::from_le_bytes(bytes)
}

/// The first bytes that a direction may have.
pub mod opening {
    use super::word;

    /// The first bytes, and how many of the eight count.
    pub type Opening = (u64, u32);

    /// The client preface itself.
    pub const PREFACE: Opening = (word(*b"PRI * HT"), 8);
    /// A PROXY header of version 1.
    pub const PROXY_LINE: Opening = (word(*b"PROXY \0\0"), 6);
    /// A PROXY header of version 2.
    pub const PROXY_BINARY: Opening = (word(*b"\r\n\r\n\0\r\nQ"), 8);
    /// A request for a tunnel (RFC 9110 §9.3.6).
    pub const CONNECT: Opening = (word(*b"CONNECT "), 8);
    /// An HTTP/1 response, of any minor version.
    pub const RESPONSE: Opening = (word(*b"HTTP/1.\0"), 7);

    /// Returns whether the first `n` ≤ 8 bytes match this beginning, as far as they are available.
    #[inline(always)]
    pub const fn may_begin(seen: u64, n: u32, (bytes, length): Opening) -> bool {
        // Bytes that have not been read, or that do not count, are shifted out.
        let n = if n < length { n } else { length };
        n > 0 && (seen ^ bytes) << ((64 - 8 * n) & 63) == 0
    }
}

/// The most bytes of an HTTP/1 head: more than servers accept.
const MAX_HEAD: u32 = 64 << 10;

/// The most bytes of a PROXY header of version 1 (haproxy's proxy-protocol.txt, 2.1), without the first eight.
const MAX_PROXY_LINE: u32 = 107 - 8;

// Offsets in the buffer. Each part may be cut anywhere, so each has its own place.
const AT_HEADER: usize = 0;
const AT_PREFIX: usize = 16;
const AT_PAD_LENGTH: usize = 24;

/// The number of bytes that a driver may overwrite at [`Want::at`]: each part is read before the part that follows it in
/// the buffer.
pub const OVERRUN: usize = 16;

/// The length of [`Scanner::buffer`]: a driver may mask offsets with 31 and lengths with 15.
pub(crate) const BUFFER_LENGTH: usize = 48;

/// A gRPC message whose last byte has not been seen yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Message {
    /// The bytes of the prefix that were seen.
    pub prefix: [u8; 5],
    /// How many these are; [`Message::UNALIGNED`] if it is not known where messages begin.
    pub have: u8,
    /// The place in a body that is encoded as text: see [`web`]. 0 for other bodies.
    pub text: u16,
    /// The length of the body in bytes, once the prefix is complete.
    pub length: u32,
    /// The bytes of the body that are still to come.
    pub left: u32,
    /// For the driver: [`crate::sync::FrameSync::epoch`] at the time when the message was kept.
    pub epoch: u32,
}

impl Message {
    /// The value of [`Message::have`] if it is not known where messages of the stream begin and end.
    pub const UNALIGNED: u8 = 0xff;

    /// The message of a stream whose beginning was not seen, or that does not carry gRPC.
    pub const fn unaligned() -> Self {
        Self { prefix: [0; 5], have: Self::UNALIGNED, text: 0, length: 0, left: 0, epoch: 0 }
    }
}

/// The state of one direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Scanner {
    /// The place where the driver puts the bytes that it reads.
    pub buffer: [u8; BUFFER_LENGTH],
    phase: u32,
    /// The number of bytes of the preface part or frame header in the buffer.
    have: u32,
    /// The number of bytes of the message prefix in the buffer.
    prefix_have: u32,
    /// Payload bytes of the frame still to come, without the padding.
    left: u32,
    /// Padding still to come after them (RFC 9113 §6.1).
    padding: u32,
    frame: FrameHeader,
    message_length: u32,
    message_left: u32,
    /// The current DATA frame is not framed as messages.
    unaligned: u32,
    /// The number of preface bytes that matched, or of bytes of the empty line that ends a head.
    matched: u32,
    /// One of [`check`].
    check: u32,
    /// Not 0 once the head of an HTTP/1 message was found. If HTTP/1.1 is followed, the flags of [`http1`].
    http1: u32,
    /// As [`Message::text`].
    text: u32,
    /// Two numbers between the functions of [`http1`]: the second one from bit 8 on.
    line: u32,
    /// Characters that were read but not decoded yet: the first one in the lowest octet.
    queue: u64,
}

impl Scanner {
    /// Creates a scanner for a stream that opens with the client preface, or with what may come before it.
    #[inline(always)]
    pub const fn at_preface() -> Self {
        Self::at(phase::PREFACE, check::NONE)
    }

    /// Creates a scanner at a frame boundary.
    #[inline(always)]
    pub const fn at_frame() -> Self {
        Self::at(phase::HEADER, check::NONE)
    }

    /// Creates a scanner at what may be a frame boundary, in a stream whose beginning was not seen.
    ///
    /// Each frame header must be one that peers send, otherwise `took` returns [`event::NOT_FRAME`]. Once the driver
    /// calls [`prove`](Self::prove), a header only has to be legal.
    #[inline(always)]
    pub const fn at_unproven_frame() -> Self {
        Self::at(phase::HEADER, check::PLAUSIBLE)
    }

    /// Creates a scanner for a stream that opens with the client preface or with SETTINGS, or with what may come before
    /// either: it is not known yet which side is the client.
    #[inline(always)]
    pub const fn at_opening() -> Self {
        Self::at(phase::OPENING, check::NONE)
    }

    #[inline(always)]
    const fn at(phase: u32, check: u32) -> Self {
        Self {
            buffer: [0; BUFFER_LENGTH],
            phase,
            have: 0,
            prefix_have: 0,
            left: 0,
            padding: 0,
            frame: FrameHeader { length: 0, stream: 0, kind: 0, flags: 0, _reserved: 0 },
            message_length: 0,
            message_left: 0,
            unaligned: 0,
            matched: 0,
            check,
            http1: 0,
            text: 0,
            line: 0,
            queue: 0,
        }
    }

    /// The boundary is believed from now on.
    #[inline(always)]
    pub const fn prove(&mut self) {
        self.check = check::LEGAL;
    }

    /// Returns whether a frame begins with the next byte.
    #[inline(always)]
    pub const fn is_at_boundary(&self) -> bool {
        self.phase == phase::HEADER && self.have == 0
    }

    /// Returns the header of the frame that began last.
    #[inline(always)]
    pub const fn frame(&self) -> FrameHeader {
        self.frame
    }

    /// Returns the length in bytes of the message that began last.
    #[inline(always)]
    pub const fn message_length(&self) -> u32 {
        self.message_length
    }

    /// Returns whether it is not known where messages of the current DATA frame begin.
    #[inline(always)]
    pub const fn is_unaligned(&self) -> bool {
        self.unaligned != 0
    }

    /// Returns whether the stream did not begin with the client preface, or a frame did not begin where it should. Nothing
    /// that follows can be scanned.
    #[inline(always)]
    pub const fn is_refused(&self) -> bool {
        self.phase == phase::REFUSED
    }

    /// Returns whether the head of an HTTP/1 message was found.
    #[inline(always)]
    pub const fn has_http1(&self) -> bool {
        self.http1 != 0
    }

    /// Returns how many bytes of the current frame were taken, if all of them belong to its header; otherwise 0.
    #[inline(always)]
    pub const fn header_alone(&self) -> u32 {
        match self.phase {
            phase::HEADER => self.have,
            _ if self.left + self.padding == self.frame.length => HEADER_LENGTH,
            _ => 0,
        }
    }

    /// Passes over a gap of `n` bytes.
    ///
    /// Returns bits of [`event`] if all of them belong to the payload of one frame, so that it is still known where the
    /// next frame begins. A DATA frame is then [unaligned](Self::is_unaligned), unless all of them belong to the body of
    /// one message.
    #[inline(always)]
    pub fn pass_gap(&mut self, n: u64) -> Option<u32> {
        let want = match self.phase {
            phase::PROXY_ADDRESSES => self.want_before(),
            _ => self.want_payload(),
        };
        // Not `phase::TEXT_BODY`: that it is left would not show.
        let is_skipped = matches!(self.phase, phase::SKIP | phase::BODY | phase::PROXY_ADDRESSES);
        if is_skipped && n <= u64::from(want.length) {
            return Some(match self.phase {
                phase::PROXY_ADDRESSES => self.took_proxy_addresses(n as u32),
                _ => self.took_payload(want, n as u32, false),
            });
        }
        let in_payload = matches!(
            self.phase,
            phase::COPY
                | phase::SKIP
                | phase::PAD_LENGTH
                | phase::PREFIX
                | phase::BODY
                | phase::TAIL
                | phase::TEXT
                | phase::TEXT_BODY
                | phase::ERROR
        );
        let left = self.left + self.padding;
        if !in_payload || n > u64::from(left) {
            return None;
        }
        self.lose_messages();
        self.left = left - n as u32;
        self.padding = 0;
        Some(self.end_of_part())
    }

    /// Returns whether the next bytes belong to the preface, or to what comes before it.
    #[inline(always)]
    pub const fn is_before_frames(&self) -> bool {
        matches!(self.phase, phase::PREFACE | phase::OPENING..)
    }

    /// Returns what to do with the next bytes.
    #[inline(always)]
    pub const fn want(&self) -> Want {
        match self.phase {
            phase::HEADER => self.want_header(),
            phase::PREFACE | phase::OPENING.. => self.want_before(),
            phase::TAIL..=phase::ERROR => self.want_web(),
            _ => self.want_payload(),
        }
    }

    /// Takes `n` bytes as wanted, 1 ≤ `n` ≤ `want.length`. Returns the bits of [`event`] that they completed.
    #[inline(always)]
    pub fn took(&mut self, want: Want, n: u32) -> u32 {
        match want.phase {
            phase::HEADER => self.took_header(n),
            phase::PREFACE | phase::OPENING.. => self.took_before(want, n),
            phase::TAIL..=phase::ERROR => self.took_web(want, n),
            _ => self.took_payload(want, n, false),
        }
    }

    /// [`Self::want`], if [`Self::is_before_frames`].
    #[inline(always)]
    pub const fn want_before(&self) -> Want {
        let phase = self.phase;
        let from = AT_HEADER as u32 + self.have;
        let (take, at, length) = match phase {
            // Eight at a time: `matched` is 0, 8 or 16.
            phase::PREFACE => (Take::Read, from, 8 - (self.have & 7)),
            phase::STATUS => (Take::Read, from, 12 - self.have),
            phase::PROXY_LENGTH => (Take::Read, from, 16 - self.have),
            phase::PROXY_ADDRESSES => (Take::Skip, 0, self.left),
            phase::FIRST_FRAME => (Take::Read, from, 4 - self.have),
            _ => (Take::Read, AT_HEADER as u32, 1),
        };
        Want { take, at, length, phase }
    }

    /// [`Self::took`], if [`Self::is_before_frames`].
    #[inline(always)]
    pub fn took_before(&mut self, want: Want, n: u32) -> u32 {
        match want.phase {
            phase::PREFACE => self.took_preface(n),
            phase::OPENING => self.took_opening(),
            phase::HEAD => self.took_head(4),
            phase::PROXY_LINE => self.took_head(2),
            phase::STATUS => self.took_status(n),
            phase::PROXY_LENGTH => self.took_proxy_length(n),
            phase::PROXY_ADDRESSES => self.took_proxy_addresses(n),
            _ => self.took_first_frame(n),
        }
    }

    /// Returns whether the next bytes belong to a frame header.
    #[inline(always)]
    pub const fn is_in_header(&self) -> bool {
        self.phase == phase::HEADER
    }

    /// [`Self::want`], if [`Self::is_in_header`].
    #[inline(always)]
    pub const fn want_header(&self) -> Want {
        let at = AT_HEADER as u32 + self.have;
        Want { take: Take::Read, at, length: HEADER_LENGTH - self.have, phase: phase::HEADER }
    }

    /// [`Self::want`], in the payload of a frame.
    #[inline(always)]
    pub const fn want_payload(&self) -> Want {
        let phase = self.phase;
        let (take, at, length) = match phase {
            phase::COPY => (Take::Copy, 0, self.left),
            phase::SKIP => (Take::Skip, 0, self.left),
            phase::PAD_LENGTH => (Take::Read, AT_PAD_LENGTH as u32, 1),
            phase::BODY => (Take::Skip, 0, min(self.message_left, self.left)),
            _ => (
                Take::Read,
                AT_PREFIX as u32 + self.prefix_have,
                min(PREFIX_LENGTH - self.prefix_have, self.left),
            ),
        };
        Want { take, at, length, phase }
    }

    /// [`Self::took`], in the payload of a frame. `web`: whether bodies of gRPC-Web and Connect are followed.
    #[inline(always)]
    pub fn took_payload(&mut self, want: Want, n: u32, web: bool) -> u32 {
        match want.phase {
            phase::COPY | phase::SKIP => {
                self.left -= n;
                self.end_of_part()
            }
            phase::PAD_LENGTH => self.took_pad_length(web),
            phase::BODY => {
                self.left -= n;
                self.message_left -= n;
                self.end_of_body()
            }
            _ => self.took_prefix(n, web),
        }
    }

    /// Goes on with a message that an earlier DATA frame of this stream began. Only right after [`event::FRAME_BEGIN`].
    /// `web`: whether bodies of gRPC-Web and Connect are followed.
    #[inline(always)]
    pub fn resume(&mut self, message: &Message, web: bool) {
        if message.have == Message::UNALIGNED {
            self.unaligned = 1;
            if self.phase == phase::PREFIX {
                self.phase = phase::SKIP;
            }
            return;
        }
        self.prefix_have = min(u32::from(message.have), PREFIX_LENGTH - 1);
        self.buffer[AT_PREFIX] = message.prefix[0];
        self.buffer[AT_PREFIX + 1] = message.prefix[1];
        self.buffer[AT_PREFIX + 2] = message.prefix[2];
        self.buffer[AT_PREFIX + 3] = message.prefix[3];
        self.buffer[AT_PREFIX + 4] = message.prefix[4];
        self.message_length = message.length;
        self.message_left = message.left;
        self.text = u32::from(message.text);
        if self.phase == phase::PREFIX {
            self.phase = self.phase_in_message(web);
        }
    }

    /// Returns the message that was left unfinished by the DATA frame that just ended.
    #[inline(always)]
    pub fn unfinished(&self) -> Option<Message> {
        if self.unaligned != 0 {
            return Some(Message::unaligned());
        }
        if self.message_left == 0 && self.prefix_have == 0 && !self.is_in_group() {
            return None;
        }
        Some(Message {
            prefix: self.prefix(),
            have: self.prefix_have as u8,
            text: self.text as u16,
            length: self.message_length,
            left: self.message_left,
            epoch: 0,
        })
    }

    #[inline(always)]
    const fn prefix(&self) -> [u8; 5] {
        let b = &self.buffer;
        [b[AT_PREFIX], b[AT_PREFIX + 1], b[AT_PREFIX + 2], b[AT_PREFIX + 3], b[AT_PREFIX + 4]]
    }

    #[inline(always)]
    fn took_preface(&mut self, n: u32) -> u32 {
        self.have += n;
        if !self.preface_matches() {
            return if self.matched == 0 { self.took_other() } else { self.refuse() };
        }
        if self.have < 8 {
            return 0;
        }
        self.have = 0;
        self.matched += 8;
        if self.matched < PREFACE.len() as u32 {
            return 0;
        }
        self.matched = 0;
        self.phase = phase::HEADER;
        event::PREFACE_END
    }

    #[inline(always)]
    const fn refuse(&mut self) -> u32 {
        self.phase = phase::REFUSED;
        event::NOT_PREFACE
    }

    /// Compares the bytes in the buffer with the next eight of the preface.
    #[inline(always)]
    fn preface_matches(&self) -> bool {
        let expected = match self.matched {
            0 => opening::PREFACE,
            8 => (word(*b"TP/2.0\r\n"), 8),
            _ => (word(*b"\r\nSM\r\n\r\n"), 8),
        };
        opening::may_begin(self.first(), self.have, expected)
    }

    /// Returns the first eight bytes of the buffer.
    #[inline(always)]
    const fn first(&self) -> u64 {
        let [b0, b1, b2, b3, b4, b5, b6, b7, ..] = self.buffer;
        u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7])
    }

    /// Looks for what may come before the preface in up to eight bytes that are not the preface.
    #[inline(always)]
    fn took_other(&mut self) -> u32 {
        let (seen, have) = (self.first(), self.have);
        let (next, bytes) = if opening::may_begin(seen, have, opening::PROXY_LINE) {
            (phase::PROXY_LINE, MAX_PROXY_LINE)
        } else if opening::may_begin(seen, have, opening::PROXY_BINARY) {
            (phase::PROXY_LENGTH, 0)
        } else if opening::may_begin(seen, have, opening::CONNECT) {
            (phase::HEAD, MAX_HEAD)
        } else if opening::may_begin(seen, have, opening::RESPONSE) {
            (phase::STATUS, MAX_HEAD)
        } else {
            return self.refuse();
        };
        if have == 8 {
            if matches!(next, phase::HEAD | phase::STATUS) {
                self.http1 = 1;
            }
            self.phase = next;
            self.left = bytes;
        }
        0
    }

    /// Looks at the first byte. The length of a SETTINGS frame begins with 0, and nothing else does.
    #[inline(always)]
    fn took_opening(&mut self) -> u32 {
        if self.buffer[AT_HEADER] == 0 {
            self.phase = phase::FIRST_FRAME;
            self.have = 1;
            return 0;
        }
        self.phase = phase::PREFACE;
        self.have = 0;
        self.took_preface(1)
    }

    /// Looks for what ends a head: the first `length` bytes of `\r\n\r\n`.
    #[inline(always)]
    fn took_head(&mut self, length: u32) -> u32 {
        let expected = if self.matched & 1 == 0 { b'\r' } else { b'\n' };
        let byte = self.buffer[AT_HEADER];
        self.matched = if byte == expected { self.matched + 1 } else { u32::from(byte == b'\r') };
        self.left -= 1;
        if self.matched == length {
            self.matched = 0;
            self.phase = phase::OPENING;
        } else if self.left == 0 {
            return self.refuse();
        }
        0
    }

    /// Checks whether the peer agrees to a tunnel (any 2xx, RFC 9110 §9.3.6), or to another protocol (101).
    #[inline(always)]
    fn took_status(&mut self, n: u32) -> u32 {
        self.have += n;
        if self.have < 12 {
            return 0;
        }
        let [_, _, _, _, _, _, _, _, space, hundreds, tens, ones, ..] = self.buffer;
        if !matches!([space, hundreds, tens, ones], [b' ', b'2', ..] | [b' ', b'1', b'0', b'1']) {
            return self.refuse();
        }
        self.phase = phase::HEAD;
        0
    }

    /// Checks the rest of a PROXY header's signature and its version, and takes the length of the addresses.
    #[inline(always)]
    fn took_proxy_length(&mut self, n: u32) -> u32 {
        self.have += n;
        if self.have < 16 {
            return 0;
        }
        let [_, _, _, _, _, _, _, _, b8, b9, b10, b11, version, _, high, low, ..] = self.buffer;
        if u32::from_le_bytes([b8, b9, b10, b11]) != u32::from_le_bytes(*b"UIT\n")
            || version >> 4 != 2
        {
            return self.refuse();
        }
        self.left = u32::from_be_bytes([0, 0, high, low]);
        self.phase = if self.left == 0 { phase::OPENING } else { phase::PROXY_ADDRESSES };
        0
    }

    /// Checks that the first frame is SETTINGS (RFC 9113 §3.4).
    #[inline(always)]
    fn took_first_frame(&mut self, n: u32) -> u32 {
        self.have += n;
        if self.have < 4 {
            return 0;
        }
        if self.buffer[AT_HEADER + 3] != kind::SETTINGS {
            return self.refuse();
        }
        self.phase = phase::HEADER;
        0
    }

    #[inline(always)]
    const fn took_proxy_addresses(&mut self, n: u32) -> u32 {
        self.left -= n;
        if self.left == 0 {
            self.phase = phase::OPENING;
        }
        0
    }

    /// [`Self::took`], if [`Self::is_in_header`].
    #[inline(always)]
    pub fn took_header(&mut self, n: u32) -> u32 {
        self.have += n;
        if self.have < HEADER_LENGTH {
            return 0;
        }
        self.have = 0;
        let [b0, b1, b2, b3, b4, b5, b6, b7, b8, ..] = self.buffer;
        let frame = FrameHeader::parse([b0, b1, b2, b3, b4, b5, b6, b7, b8]);
        if self.check != check::NONE && !self.believes(&frame) {
            self.phase = phase::REFUSED;
            return event::NOT_FRAME;
        }
        self.frame = frame;
        self.left = self.frame.length;
        self.padding = 0;
        self.unaligned = 0;
        self.message_left = 0;
        self.prefix_have = 0;
        self.text = 0;
        self.queue = 0;
        event::FRAME_BEGIN | self.begin_payload()
    }

    /// Returns whether this may be a frame header, after the frame before it.
    #[inline(always)]
    const fn believes(&self, frame: &FrameHeader) -> bool {
        let is_one =
            if self.check == check::LEGAL { frame.is_legal() } else { frame.is_plausible() };
        is_one && frame.may_follow(&self.frame)
    }

    #[inline(always)]
    fn begin_payload(&mut self) -> u32 {
        match self.frame.kind {
            kind::DATA if self.frame.has(flag::PADDED) => self.phase = phase::PAD_LENGTH,
            kind::DATA => self.phase = phase::PREFIX,
            _ if self.frame.is_kept() => {
                self.phase = phase::COPY;
                if self.left > MAX_KEPT {
                    self.padding = self.left - MAX_KEPT;
                    self.left = MAX_KEPT;
                    return event::TOO_LONG;
                }
            }
            _ => self.phase = phase::SKIP,
        }
        self.end_of_part()
    }

    #[inline(always)]
    fn took_pad_length(&mut self, web: bool) -> u32 {
        self.left -= 1;
        // Padding that is longer than the payload is the peer's error (RFC 9113 §6.1); it ends
        // the connection, so how it is read does not matter as long as the frame ends where it says.
        self.padding = min(u32::from(self.buffer[AT_PAD_LENGTH]), self.left);
        self.left -= self.padding;
        self.phase = if self.unaligned != 0 { phase::SKIP } else { self.phase_in_message(web) };
        self.end_of_part()
    }

    #[inline(always)]
    fn took_prefix(&mut self, n: u32, web: bool) -> u32 {
        self.prefix_have += n;
        self.left -= n;
        if self.prefix_have < PREFIX_LENGTH {
            return self.end_of_part();
        }
        self.prefix_have = 0;
        let [compressed, l0, l1, l2, l3] = self.prefix();
        if compressed > 1 && web {
            return self.begin_web();
        }
        if compressed > 1 {
            // These are not messages of gRPC, or not any more.
            self.lose_messages();
            return self.end_of_part();
        }
        self.message_length = u32::from_be_bytes([l0, l1, l2, l3]);
        self.message_left = self.message_length;
        self.phase = phase::BODY;
        self.end_of_body()
    }

    /// Records that it is not known where messages of the frame begin.
    #[inline(always)]
    const fn lose_messages(&mut self) {
        self.unaligned = 1;
        self.queue = 0;
        self.phase = phase::SKIP;
    }

    /// Ends the message if it is complete, and the frame with it.
    #[inline(always)]
    fn end_of_body(&mut self) -> u32 {
        if self.message_left > 0 {
            return self.end_of_part();
        }
        self.phase = phase::PREFIX;
        event::MESSAGE_END | self.end_of_part()
    }

    /// Ends the frame if its payload is complete, unless padding follows.
    #[inline(always)]
    fn end_of_part(&mut self) -> u32 {
        if self.left > 0 {
            return 0;
        }
        if self.padding > 0 {
            self.left = self.padding;
            self.padding = 0;
            self.phase = phase::SKIP;
            return 0;
        }
        self.phase = phase::HEADER;
        event::FRAME_END
    }
}

#[inline(always)]
const fn min(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests;
