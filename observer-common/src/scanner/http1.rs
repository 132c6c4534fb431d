//! Framing of HTTP/1.1 (RFC 9112): where heads and bodies are. A part of a body is as a DATA frame of HTTP/2: its messages
//! are found in the same way.
//!
//! ```text
//! start line (§3, §4)                    POST /shop.Shop/Buy HTTP/1.1    HTTP/1.1 200 OK
//! field lines (§5), an empty line        content-length: 9               transfer-encoding: chunked
//! the body (§6): of this length, or      ∙∙∙∙∙∙∙∙∙
//! chunks (§7.1), the last of size 0                                      9 ∙∙∙∙∙∙∙∙∙  0, trailers, an empty line
//! ```
//!
//! The messages of a direction have the stream numbers 1, 3, 5, …: a response belongs to the request with its number. An
//! informational response (1xx) has the number of the response that follows it. A message is not followed, and nothing
//! after it, if its framing is unclear: fields that contradict each other, another coding than `chunked`, a response that
//! ends with the connection, a body of 4 GiB or more, a head of more than 64 KiB; and if another protocol may follow:
//! a CONNECT request, a request with `upgrade`, or a response with the status 101.
//!
//! Between parts of bodies, the scanner's fields for payload have other meanings: see [`Scanner::begin_line`].

use super::{AT_HEADER, MAX_HEAD, Scanner, Take, Want, check, event, opening, phase, word};
use crate::frame::{FrameHeader, flag, kind};

// Bits of `Scanner::http1`.
/// This is HTTP/1.
const FOUND: u32 = 1;
/// The direction has responses.
const RESPONSES: u32 = 2;
/// The head has a length.
const HAS_LENGTH: u32 = 4;
/// The body is in chunks.
const CHUNKED: u32 = 8;
/// The status is one without a body (RFC 9110 §15.3.5, §15.4.5), or the request is HEAD.
const NO_BODY: u32 = 16;
/// The status is 1xx.
const INFORMATIONAL: u32 = 32;
/// The method is HEAD.
const HEAD: u32 = 64;

/// The bytes of a start line that are read at once: up to the status code.
const START_LENGTH: u32 = 12;

/// The bytes of the rest of a line that are read at once.
const REST_LENGTH: u32 = 8;

/// The names of the fields that matter, and the only coding that is followed, in lower case, with zeros after them; one starts at each multiple of 32.
#[expect(clippy::indexing_slicing, reason = "by the compiler, which checks it")]
const NAMES: [u8; 128] = {
    let mut names = [0; 128];
    let mut place = 0;
    let all: [&[u8]; 4] = [b"content-length", b"transfer-encoding", b"upgrade", b"chunked"];
    while place < all.len() {
        let mut at = 0;
        while at < all[place].len() {
            names[32 * place + at] = all[place][at];
            at += 1;
        }
        place += 1;
    }
    names
};
const LENGTH_NAME: u32 = 0;
const CODING_NAME: u32 = 32;
const UPGRADE_NAME: u32 = 64;

const CODING: u32 = 96;
const CODING_LENGTH: u32 = 7;

/// In `Scanner::have`: white space came after the value.
const VALUE_ENDED: u32 = 16;

impl Scanner {
    /// Creates a scanner for a direction with HTTP/1.1 requests, from its first byte on.
    #[inline(always)]
    pub const fn at_request() -> Self {
        Self::at(phase::START_LINE, check::NONE).of_http1(FOUND)
    }

    /// Creates a scanner for a direction with HTTP/1.1 responses, from its first byte on.
    #[inline(always)]
    pub const fn at_response() -> Self {
        Self::at(phase::START_LINE, check::NONE).of_http1(FOUND | RESPONSES)
    }

    #[inline(always)]
    const fn of_http1(mut self, flags: u32) -> Self {
        self.http1 = flags;
        self.frame.stream = 1;
        self.message_left = MAX_HEAD;
        self
    }

    /// Gives up: no boundary of a message is known any more.
    #[inline(always)]
    pub const fn give_up(&mut self) {
        self.phase = phase::REFUSED;
    }

    /// Returns whether the next bytes belong to a head, or to what is between the parts of a body; or whether nothing is
    /// followed any more.
    #[inline(always)]
    pub const fn is_in_lines(&self) -> bool {
        matches!(
            self.phase,
            phase::HEADER | phase::REFUSED | phase::START_LINE..=phase::TRAILER_END
        )
    }

    /// Returns whether the next bytes belong to a head.
    #[inline(always)]
    pub const fn is_in_head(&self) -> bool {
        matches!(self.phase, phase::START_LINE..=phase::HEAD_END)
    }

    /// Returns whether a head begins with the next byte.
    #[inline(always)]
    pub const fn is_at_head(&self) -> bool {
        self.phase == phase::START_LINE && self.have == 0
    }

    /// Returns whether the message with this number, or one after it, has begun.
    #[inline(always)]
    pub const fn has_begun(&self, stream: u32) -> bool {
        self.frame.stream > stream || self.frame.stream == stream && !self.is_at_head()
    }

    /// Goes on after a part of a body. To be called before [`want_line`](Self::want_line).
    ///
    /// From here on, `have` is the place in a name or value, `matched` which name it may be, `message_length` a length,
    /// `padding` the one in the head, and `message_left` how much longer the head may be.
    ///
    /// Not inlined, as [`take_line`](Self::take_line), so that what they return is in the memory of a map: the verifier
    /// follows what comes after once, not once for each value.
    #[inline(never)]
    pub const fn begin_line(&mut self) {
        if self.phase == phase::HEADER {
            if self.http1 & CHUNKED != 0 {
                self.phase = phase::CHUNK_END;
            } else {
                self.begin_message();
            }
        }
        let length = match self.phase {
            phase::START_LINE => START_LENGTH - self.have,
            phase::REST | phase::CHUNK_REST | phase::TRAILER_REST => REST_LENGTH,
            _ => 1,
        };
        let have = if self.phase == phase::START_LINE { self.have } else { 0 };
        self.line = have | length << 8;
    }

    /// [`Self::want`], if [`Self::is_in_lines`].
    #[inline(always)]
    pub const fn want_line(&self) -> Want {
        let (have, length) = (self.line & 0xff, self.line >> 8);
        Want { take: Take::Read, at: AT_HEADER as u32 + have, length, phase: phase::START_LINE }
    }

    /// Takes at most `n` bytes, which were read as wanted, 1 ≤ `n` ≤ `want_line().length`. [`taken`](Self::taken) returns
    /// how many they were, and what they completed.
    #[inline(never)]
    pub fn take_line(&mut self, n: u32) {
        let mut length = n;
        let byte = self.buffer[AT_HEADER];
        let events = match self.phase {
            phase::START_LINE => {
                self.have += n;
                if self.have == START_LENGTH { self.start_line() } else { 0 }
            }
            phase::REST | phase::CHUNK_REST | phase::TRAILER_REST => {
                let ends = line_ends(self.first()) & (u64::MAX >> ((64 - 8 * n) & 63));
                if ends == 0 {
                    0
                } else {
                    length = ends.trailing_zeros() / 8 + 1;
                    self.end_of_rest()
                }
            }
            phase::LINE => self.first_of_line(byte),
            phase::NAME => self.name(byte),
            phase::LENGTH_VALUE => self.length_value(byte),
            phase::CODING_VALUE => self.coding_value(byte),
            phase::CHUNK_SIZE => self.chunk_size(byte),
            phase::CHUNK_END if byte == b'\r' => self.enter(phase::CHUNK_END_LF),
            phase::TRAILER if byte == b'\r' => self.enter(phase::TRAILER_END),
            phase::TRAILER if byte != b'\n' => self.enter(phase::TRAILER_REST),
            // Nothing else but the end of a line may come.
            _ if byte != b'\n' => self.refuse(),
            phase::HEAD_END => self.end_head(),
            phase::TRAILER | phase::TRAILER_END => self.end_message(),
            _ => self.begin_chunk_size(),
        };
        self.line = length | events << 8;
    }

    /// What [`take_line`](Self::take_line) took: the number of bytes, and bits of [`event`].
    #[inline(always)]
    pub const fn taken(&self) -> (u32, u32) {
        (self.line & 0xff, self.line >> 8)
    }

    /// The response that begins has no body, because its request is HEAD.
    #[inline(always)]
    pub const fn has_no_body(&mut self) {
        self.http1 |= NO_BODY;
    }

    #[inline(always)]
    const fn enter(&mut self, phase: u32) -> u32 {
        self.phase = phase;
        0
    }

    /// Ends a line whose rest did not matter.
    #[inline(always)]
    fn end_of_rest(&mut self) -> u32 {
        match self.phase {
            phase::REST => self.enter(phase::LINE),
            phase::TRAILER_REST => self.enter(phase::TRAILER),
            _ => self.begin_chunk(),
        }
    }

    /// Counts bytes of a head. Returns false if it is too long.
    #[inline(always)]
    pub const fn may_go_on(&mut self, n: u32) -> bool {
        if self.message_left < n {
            self.phase = phase::REFUSED;
            return false;
        }
        self.message_left -= n;
        true
    }

    /// Takes the first bytes of a message. No start line is shorter.
    #[inline(always)]
    fn start_line(&mut self) -> u32 {
        const OF_HEAD: opening::Opening = (word(*b"HEAD \0\0\0"), 5);
        const SWITCHING_PROTOCOLS: u32 = u32::from_be_bytes(*b" 101");
        const NO_CONTENT: u32 = u32::from_be_bytes(*b" 204");
        const NOT_MODIFIED: u32 = u32::from_be_bytes(*b" 304");
        let [_, _, _, _, _, _, _, _, b8, b9, b10, b11, ..] = self.buffer;
        let after = u64::from_le_bytes([b8, b9, b10, b11, 0, 0, 0, 0]);
        if line_ends(self.first()) | line_ends(after) != 0 {
            return self.refuse();
        }
        self.phase = phase::REST;
        if self.http1 & RESPONSES == 0 {
            if opening::may_begin(self.first(), 8, OF_HEAD) {
                self.http1 |= HEAD;
            } else if opening::may_begin(self.first(), 8, opening::CONNECT) {
                return self.refuse();
            }
            return 0;
        }
        let digit = |byte: u8| byte.wrapping_sub(b'0') <= 9;
        let is_status = b8 == b' ' && digit(b9) && digit(b10) && digit(b11);
        if !is_status || !opening::may_begin(self.first(), 8, opening::RESPONSE) {
            return self.refuse();
        }
        let status = u32::from_be_bytes([b8, b9, b10, b11]);
        if status == SWITCHING_PROTOCOLS {
            return self.refuse();
        }
        if status == NO_CONTENT || status == NOT_MODIFIED {
            self.http1 |= NO_BODY;
        } else if b9 == b'1' {
            self.http1 |= INFORMATIONAL;
        }
        0
    }

    /// Takes the first byte of a field line.
    #[inline(always)]
    fn first_of_line(&mut self, byte: u8) -> u32 {
        self.have = 1;
        self.phase = phase::NAME;
        match byte {
            b'c' | b'C' => self.matched = LENGTH_NAME,
            b't' | b'T' => self.matched = CODING_NAME,
            b'u' | b'U' => self.matched = UPGRADE_NAME,
            b'\r' => self.phase = phase::HEAD_END,
            b'\n' => return self.end_head(),
            // A value that goes on in another line (§5.2).
            b' ' | b'\t' => return self.refuse(),
            _ => self.phase = phase::REST,
        }
        0
    }

    /// Takes another byte of a name, or what comes after it.
    #[inline(always)]
    fn name(&mut self, byte: u8) -> u32 {
        let place = ((self.matched | self.have) & 127) as usize;
        let expected = NAMES.get(place).copied().unwrap_or(0);
        if expected != 0 && byte.to_ascii_lowercase() == expected {
            self.have += 1;
            return 0;
        }
        let is_whole = expected == 0;
        self.phase = if byte == b'\n' { phase::LINE } else { phase::REST };
        if !is_whole {
            return 0;
        }
        match byte {
            b':' => self.begin_value(),
            // Some peers would ignore the space, others the field (§5.1).
            b' ' | b'\t' => self.refuse(),
            _ => 0,
        }
    }

    #[inline(always)]
    const fn begin_value(&mut self) -> u32 {
        self.have = 0;
        self.message_length = 0;
        match self.matched {
            LENGTH_NAME => self.phase = phase::LENGTH_VALUE,
            CODING_NAME => self.phase = phase::CODING_VALUE,
            // Servers may offer protocols in any response.
            _ if self.http1 & RESPONSES == 0 => return self.refuse(),
            _ => {}
        }
        0
    }

    #[inline(always)]
    fn length_value(&mut self, byte: u8) -> u32 {
        const MAX: u32 = (u32::MAX - 9) / 10;
        let digit = u32::from(byte.wrapping_sub(b'0'));
        if digit <= 9 && self.have <= 1 && self.message_length <= MAX {
            self.message_length = 10 * self.message_length + digit;
            self.have = 1;
            return 0;
        }
        match byte {
            b' ' | b'\t' | b'\r' => {
                if self.have == 1 {
                    self.have = VALUE_ENDED;
                }
            }
            b'\n' if self.have != 0 => {
                if self.http1 & HAS_LENGTH != 0 && self.padding != self.message_length {
                    return self.refuse();
                }
                self.http1 |= HAS_LENGTH;
                self.padding = self.message_length;
                self.phase = phase::LINE;
            }
            _ => return self.refuse(),
        }
        0
    }

    #[inline(always)]
    fn coding_value(&mut self, byte: u8) -> u32 {
        let expected = NAMES.get(((CODING | self.have) & 127) as usize).copied().unwrap_or(0);
        match byte {
            b' ' | b'\t' | b'\r' => {
                if self.have != 0 {
                    self.have |= VALUE_ENDED;
                }
            }
            b'\n' if self.have & !VALUE_ENDED == CODING_LENGTH => {
                if self.http1 & CHUNKED != 0 {
                    return self.refuse();
                }
                self.http1 |= CHUNKED;
                self.phase = phase::LINE;
            }
            _ if expected != 0 && byte.to_ascii_lowercase() == expected => self.have += 1,
            _ => return self.refuse(),
        }
        0
    }

    /// Finds out how the body is framed (§6.3).
    #[inline(always)]
    fn end_head(&mut self) -> u32 {
        let flags = self.http1;
        let mut events = event::HEAD_END;
        if flags & HEAD != 0 {
            events |= event::HEAD_REQUEST;
        }
        let is_response = flags & RESPONSES != 0;
        if flags & INFORMATIONAL != 0 {
            self.begin_head();
            return events;
        }
        if is_response && flags & NO_BODY != 0 {
            return events | self.end_message();
        }
        // A head with both is as one with the coding alone, or an attack.
        match flags & (CHUNKED | HAS_LENGTH) {
            CHUNKED => events | self.begin_chunk_size(),
            HAS_LENGTH if self.padding != 0 => {
                events | self.begin_part(self.padding, flag::END_STREAM)
            }
            HAS_LENGTH => events | self.end_message(),
            0 if !is_response => events | self.end_message(),
            _ => self.refuse(),
        }
    }

    #[inline(always)]
    const fn begin_chunk_size(&mut self) -> u32 {
        self.have = 0;
        self.message_length = 0;
        self.enter(phase::CHUNK_SIZE)
    }

    #[inline(always)]
    fn chunk_size(&mut self, byte: u8) -> u32 {
        const MAX_DIGITS: u32 = 8;
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' | b';' | b' ' | b'\t' if self.have != 0 => {
                return self.enter(phase::CHUNK_REST);
            }
            b'\n' if self.have != 0 => return self.begin_chunk(),
            _ => return self.refuse(),
        };
        if self.have >= MAX_DIGITS {
            return self.refuse();
        }
        self.have += 1;
        self.message_length = self.message_length << 4 | u32::from(digit);
        0
    }

    #[inline(always)]
    fn begin_chunk(&mut self) -> u32 {
        if self.message_length == 0 {
            return self.enter(phase::TRAILER);
        }
        self.begin_part(self.message_length, 0)
    }

    /// Begins a part of a body: a DATA frame with these flags.
    #[inline(always)]
    const fn begin_part(&mut self, length: u32, flags: u8) -> u32 {
        let stream = self.frame.stream;
        self.frame = FrameHeader { length, stream, kind: kind::DATA, flags, _reserved: 0 };
        self.left = length;
        self.padding = 0;
        self.unaligned = 0;
        self.message_left = 0;
        self.prefix_have = 0;
        self.text = 0;
        self.queue = 0;
        self.phase = phase::PREFIX;
        event::FRAME_BEGIN
    }

    /// Ends a message whose last bytes were not in a part of its body.
    #[inline(always)]
    const fn end_message(&mut self) -> u32 {
        self.begin_message();
        event::MESSAGE_OVER
    }

    /// Begins the next message.
    #[inline(always)]
    const fn begin_message(&mut self) {
        self.frame.stream = self.frame.stream.wrapping_add(2) & (u32::MAX >> 1);
        self.begin_head();
    }

    #[inline(always)]
    const fn begin_head(&mut self) {
        let stream = self.frame.stream;
        self.frame = FrameHeader { length: 0, stream, kind: kind::HEADERS, flags: 0, _reserved: 0 };
        self.http1 &= FOUND | RESPONSES;
        self.have = 0;
        self.padding = 0;
        self.message_left = MAX_HEAD;
        self.phase = phase::START_LINE;
    }
}

/// The highest bit of each byte that is a line feed, up to and including the lowest of these bytes; after that it may be
/// wrong.
#[inline(always)]
const fn line_ends(bytes: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let differs = bytes ^ (ONES * b'\n' as u64);
    differs.wrapping_sub(ONES) & !differs & (ONES << 7)
}
