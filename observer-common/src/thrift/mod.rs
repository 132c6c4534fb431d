//! Finds Thrift messages in one direction of a connection: binary protocol or compact protocol, framed or not.
//!
//! ```text
//! ┌──────────────┬────────────┬──────────────┬──────┬─────────────┬─────────────────────────────┐
//! │ frame length │ 80 01 00 k │ name length  │ name │ sequence id │ arguments or result: fields │
//! │ 4, if framed │ 4          │ 4            │      │ 4           │ type 1, id 2, value; 00     │
//! └──────────────┴────────────┴──────────────┴──────┴─────────────┴─────────────────────────────┘
//! ```
//!
//! `k` is the kind of the message ([`kind`]). All integers are big-endian. A frame has one message. A message without a
//! frame ends with its last field, so the scanner follows the types and lengths of all values; it never looks at the
//! values. Each message says by its first bytes what it is: no frame is as long as the version reads. The layout of the
//! [compact] protocol is in the module of that name.
//!
//! The header transport (THeader) puts a header between the length of a frame and a message:
//!
//! ```text
//! ┌──────────────┬────────────┬─────────────┬───────────────┬────────────────────────────────────────┬─────────┐
//! │ frame length │ 0f ff      │ sequence id │ header length │ header: protocol, number of transforms │ message │
//! │ 4            │ flags 2    │ 4           │ 2, in words   │ 1, 1, the rest is skipped              │         │
//! └──────────────┴────────────┴─────────────┴───────────────┴────────────────────────────────────────┴─────────┘
//! ```
//!
//! A transform, such as compression, makes the message unreadable: then the frame is refused.
//!
//! Messages of the binary protocol may have no version, if [that is expected](Scanner::expect_unversioned). Then the kind
//! comes after the name:
//!
//! ```text
//! ┌──────────────┬─────────────┬──────┬──────┬─────────────┬─────────────────────────────┐
//! │ frame length │ name length │ name │ kind │ sequence id │ arguments or result: fields │
//! │ 4, if framed │ 4           │      │ 1    │ 4           │                             │
//! └──────────────┴─────────────┴──────┴──────┴─────────────┴─────────────────────────────┘
//! ```
//!
//! A number that may be the length of a frame or of a name is that of a name if printable bytes follow it.
//!
//! Source: "Thrift Binary protocol encoding", "Thrift RPC" and "Header format" in Apache Thrift's doc/specs.
//!
//! Order of calls: [`Scanner::want`], then [`Scanner::took`] with at most that many bytes, and so on, as for the
//! [HTTP/2 scanner](crate::scanner). There is no loop: a step that needs no bytes [is pending](Scanner::is_pending).

mod compact;

use crate::scanner::Take;

/// The longest name of a method, in bytes. A longer one is taken for something else.
pub const MAX_NAME: u32 = 512;

/// The longest frame, in bytes. Libraries allow 16,384,000 by default.
const MAX_FRAME: u32 = (1 << 28) - 1;

/// The shortest frame: a message of the compact protocol with a name of one byte and no field.
const MIN_FRAME: u32 = 2 + 1 + 1 + 1 + 1;

/// Most bytes with numbers of the compact protocol that are read at once.
const NUMBERS_MAX: u32 = 8;

/// How deep values may be nested: a power of two. Libraries allow 64, but messages are rarely as deep as this.
const MAX_DEPTH: usize = 16;

/// Kinds of messages.
pub mod kind {
    /// A call, which gets a reply or an exception.
    pub const CALL: u8 = 1;
    /// The result of a call, or an exception that its method declares.
    pub const REPLY: u8 = 2;
    /// An exception of the library: `TApplicationException`.
    pub const EXCEPTION: u8 = 3;
    /// A call without an answer.
    pub const ONEWAY: u8 = 4;
}

/// The first field of a reply: it is the result, or the exception.
pub mod first {
    /// It was not looked at: the message is not a reply.
    pub const NOT_SEEN: u8 = 0;
    /// There is no field: the method returns nothing.
    pub const NONE: u8 = 1;
    /// The field with id 0: the result.
    pub const RESULT: u8 = 2;
    /// A field with another id: a declared exception.
    pub const EXCEPTION: u8 = 3;
}

/// Bits for what the taken bytes completed.
pub mod event {
    /// The length of the name is known, and the kind of the message unless it has no version; the name follows.
    pub const BEGIN: u32 = 1;
    /// The name is complete.
    pub const NAME_END: u32 = 2;
    /// The message's last byte was taken.
    pub const END: u32 = 4;
}

/// Types of values.
mod value {
    pub(super) const STOP: u8 = 0;
    /// No value has this type.
    pub(super) const VOID: u8 = 1;
    pub(super) const BOOL: u8 = 2;
    pub(super) const BYTE: u8 = 3;
    pub(super) const DOUBLE: u8 = 4;
    pub(super) const I16: u8 = 6;
    pub(super) const I32: u8 = 8;
    pub(super) const I64: u8 = 10;
    pub(super) const STRING: u8 = 11;
    pub(super) const STRUCT: u8 = 12;
    pub(super) const MAP: u8 = 13;
    pub(super) const SET: u8 = 14;
    pub(super) const LIST: u8 = 15;
    pub(super) const UUID: u8 = 16;
}

/// Where in the message the next byte is.
mod phase {
    /// In the first two bytes of a message, or of a frame.
    pub(super) const START: u32 = 0;
    /// In the next two: the rest of the length of a frame, or of a version.
    pub(super) const WORD: u32 = 1;
    pub(super) const NAME_LENGTH: u32 = 2;
    pub(super) const NAME: u32 = 3;
    pub(super) const SEQUENCE: u32 = 4;
    /// At the type of a field, or at the end of a struct.
    pub(super) const FIELD: u32 = 5;
    pub(super) const FIELD_ID: u32 = 6;
    /// In the length of a string.
    pub(super) const LENGTH: u32 = 7;
    /// In the type and number of a list's or set's elements.
    pub(super) const LIST: u32 = 8;
    /// In the types and number of a map's entries. In the compact protocol, only in the types.
    pub(super) const MAP: u32 = 9;
    /// In a value, in several, or in the rest of a frame.
    pub(super) const SKIP: u32 = 10;
    /// After a value; takes no bytes.
    pub(super) const NEXT: u32 = 11;
    /// The bytes are not a message.
    pub(super) const REFUSED: u32 = 12;
    /// In the start of a header.
    pub(super) const HEADER: u32 = 13;
    /// In the rest of a header.
    pub(super) const HEADER_REST: u32 = 14;
    /// Before a name whose first bytes are looked at.
    pub(super) const CHECK: u32 = 15;
    /// In numbers of the compact protocol.
    pub(super) const NUMBERS: u32 = 16;
    /// In the number of a list's or set's elements, if it does not fit into the byte with their type.
    pub(super) const COUNT: u32 = 17;
    /// In the number of a map's entries in the compact protocol.
    pub(super) const MAP_COUNT: u32 = 18;
    /// In the kind and the sequence id of a message without a version.
    pub(super) const KIND: u32 = 19;
}

/// The offset in the buffer of the part that each phase reads: first the phases of the binary protocol, then, from 32 on,
/// those of the compact protocol. Each part may be cut anywhere, so each has its own place. The first bytes stay at the
/// start. These are tables, because the verifier follows the walk once for each number that it knows.
#[rustfmt::skip]
static PLACES: [u8; 64] = [
    0, 2, 8, 0, 12, 16, 17, 20, 20, 20, 0, 0, 0, 4, 0, 20, 20, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 21, 0, 21, 16, 21, 21, 20, 20, 0, 0, 0, 0, 0, 20, 20, 21, 21, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// The lengths of these parts.
#[rustfmt::skip]
static LENGTHS: [u8; 64] = [
    2, 2, 4, 0, 4, 1, 2, 4, 5, 6, 0, 0, 0, 8, 0, 8, 8, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 8, 8, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// The size of a type whose values are numbers of the compact protocol.
const NUMBER: u8 = 0xff;

/// Sizes of values by type, in the same way.
#[rustfmt::skip]
static SIZES: [u8; 64] = [
    0, 0, 1, 1, 8, 0, 2, 0, 4, 0, 8, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 1, 1, 8, 0, NUMBER, 0, NUMBER, 0, NUMBER, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// Bytes of the buffer that the scanner reads: the start of the driver's buffer.
pub type Buffer = [u8; 28];

/// The action on the next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// How to take them. [`Take::Copy`] copies the message's name.
    pub take: Take,
    /// The offset in the buffer, for [`Take::Read`].
    pub at: u32,
    /// The most bytes to take; 0 if the step [is pending](Scanner::is_pending).
    pub length: u32,
    /// Whether the bytes are only looked at: the next action is on the same bytes.
    pub stays: bool,
}

/// A value whose end has not come: a struct, or the elements of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Level {
    /// Elements that are left; [`Level::STRUCT`] for a struct. A map has two for each entry.
    left: u32,
    /// The type of an element that leaves an odd number: a map's keys.
    odd: u8,
    /// The type of the other elements.
    even: u8,
    _reserved: u16,
}

impl Level {
    const STRUCT: u32 = u32::MAX;

    const fn new(left: u32, odd: u8, even: u8) -> Self {
        Self { left, odd, even, _reserved: 0 }
    }
}

/// The place in one direction's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Scanner {
    /// The values around the next byte, the message itself first.
    levels: [Level; MAX_DEPTH],
    /// Bytes of the present value, or of the name, that are left.
    skip: u64,
    /// Bytes of the frame that are left.
    frame: u32,
    phase: u32,
    /// Bytes of the present part that are in the buffer.
    have: u32,
    /// Number of `levels`.
    depth: u32,
    /// The length of the name.
    name: u32,
    sequence: u32,
    /// One of [`kind`]; 0 if it is not known yet.
    kind: u8,
    /// One of [`first`].
    first: u8,
    /// Not 0 in a frame.
    framed: u8,
    /// Not 0 while no message boundary is known: each transfer may start with a message.
    lost: u8,
    /// Not 0 in a message of the compact protocol.
    compact: u8,
    /// Digits of the present number that were taken; `skip` has their value.
    digits: u8,
    /// Not 0 if messages may have no version.
    unversioned: u8,
    _reserved: u8,
}

impl Scanner {
    /// The state at the start of a message.
    pub const NEW: Self = Self {
        levels: [Level::new(0, 0, 0); MAX_DEPTH],
        skip: 0,
        frame: 0,
        phase: phase::START,
        have: 0,
        depth: 0,
        name: 0,
        sequence: 0,
        kind: 0,
        first: first::NOT_SEEN,
        framed: 0,
        lost: 0,
        compact: 0,
        digits: 0,
        unversioned: 0,
        _reserved: 0,
    };

    /// Expects messages without a version, too.
    #[inline(always)]
    pub const fn expect_unversioned(&mut self) {
        self.unversioned = 1;
    }

    /// Records that no message boundary is known from here on.
    #[inline(always)]
    pub const fn lose(&mut self) {
        self.lost = 1;
        self.phase = phase::START;
        self.have = 0;
        self.framed = 0;
        self.compact = 0;
    }

    /// Whether no message boundary is known.
    #[inline(always)]
    pub const fn is_lost(&self) -> bool {
        self.lost != 0
    }

    /// Starts a transfer. If no boundary is known, its start is tried.
    #[inline(always)]
    pub const fn begin_transfer(&mut self) {
        if self.lost != 0 {
            self.lose();
        }
    }

    /// Whether the last bytes were not a message.
    #[inline(always)]
    pub const fn is_refused(&self) -> bool {
        self.phase == phase::REFUSED
    }

    /// Whether the next step takes no bytes.
    #[inline(always)]
    pub const fn is_pending(&self) -> bool {
        self.phase == phase::NEXT
    }

    /// The kind of the message: one of [`kind`]. 0 if there is no version, until [`event::END`].
    #[inline(always)]
    pub const fn kind(&self) -> u8 {
        self.kind
    }

    /// Whether the message is from the client.
    #[inline(always)]
    pub const fn is_of_client(&self) -> bool {
        matches!(self.kind, kind::CALL | kind::ONEWAY)
    }

    /// The length of the name in bytes, at most [`MAX_NAME`].
    #[inline(always)]
    pub const fn name_length(&self) -> u32 {
        self.name
    }

    /// The sequence id of the message that has ended.
    #[inline(always)]
    pub const fn sequence(&self) -> u32 {
        self.sequence
    }

    /// The first field of the message that has ended: one of [`first`].
    #[inline(always)]
    pub const fn first(&self) -> u8 {
        self.first
    }

    /// Passes over bytes that were not captured. Returns whether all of them are in one value, or in the rest of a frame:
    /// then nothing else is missing.
    #[inline(always)]
    pub const fn pass_gap(&mut self, bytes: u64) -> bool {
        if self.phase != phase::SKIP || bytes > self.skip {
            return false;
        }
        self.skip -= bytes;
        if self.skip == 0 {
            self.phase = phase::NEXT;
        }
        true
    }

    /// The action on the next bytes.
    #[inline(always)]
    pub fn want(&self) -> Want {
        let skip = if self.skip < u64::from(MAX_FRAME) { self.skip as u32 } else { MAX_FRAME };
        let some = if skip < NUMBERS_MAX { skip } else { NUMBERS_MAX };
        // From a table: the verifier follows the walk once for each number that it knows.
        let of = (self.phase | u32::from(self.compact) << 5) as usize & 63;
        let (Some(&at), Some(&length)) = (PLACES.get(of), LENGTHS.get(of)) else {
            return Want { take: Take::Skip, at: 0, length: 0, stays: false };
        };
        let (take, length) = match self.phase {
            phase::NAME => (Take::Copy, skip),
            phase::SKIP | phase::HEADER_REST => (Take::Skip, skip),
            phase::NEXT | phase::REFUSED => (Take::Skip, 0),
            phase::CHECK | phase::NUMBERS => (Take::Read, some),
            _ => (Take::Read, u32::from(length).wrapping_sub(self.have)),
        };
        let at = u32::from(at) + self.have;
        Want { take, at, length, stays: self.phase == phase::CHECK }
    }

    /// Takes `n` bytes as [`want`](Self::want) asked for. Returns bits of [`event`].
    #[inline(always)]
    pub fn took(&mut self, buffer: &Buffer, want: Want, n: u32) -> u32 {
        if self.framed != 0 && !want.stays && !matches!(want.take, Take::Skip) {
            if n > self.frame {
                return self.refuse();
            }
            self.frame -= n;
        }
        match want.take {
            Take::Read if self.phase == phase::CHECK => self.check(eight(buffer), n),
            Take::Read if self.phase == phase::NUMBERS => {
                self.skip -= u64::from(compact::ends(eight(buffer), n));
                self.after_skip()
            }
            Take::Read if n < want.length => {
                self.have += n;
                0
            }
            Take::Read => {
                self.have = 0;
                if self.compact != 0 { self.compact_part(buffer) } else { self.part(buffer) }
            }
            Take::Copy => {
                self.skip -= u64::from(n);
                if self.skip != 0 {
                    return 0;
                }
                if self.compact != 0 {
                    return event::NAME_END | self.body();
                }
                self.phase = if self.kind == 0 { phase::KIND } else { phase::SEQUENCE };
                event::NAME_END
            }
            Take::Skip if self.phase == phase::NEXT => self.next(),
            Take::Skip => {
                self.skip -= u64::from(n);
                self.after_skip()
            }
        }
    }

    #[inline(always)]
    const fn after_skip(&mut self) -> u32 {
        if self.skip == 0 {
            let in_header = self.phase == phase::HEADER_REST;
            self.phase = if in_header { phase::START } else { phase::NEXT };
        }
        0
    }

    /// Takes a part that is complete in the buffer.
    #[inline(always)]
    fn part(&mut self, b: &Buffer) -> u32 {
        match self.phase {
            phase::START => self.start(b[0], b[1]),
            phase::WORD => self.word(number(b[0], b[1], b[2], b[3])),
            phase::HEADER => self.header(number(0, 0, b[8], b[9]), b[10], b[11]),
            phase::NAME_LENGTH => self.begin(number(b[8], b[9], b[10], b[11])),
            phase::SEQUENCE => {
                self.sequence = number(b[12], b[13], b[14], b[15]);
                self.body()
            }
            phase::KIND => {
                self.kind = b[11];
                self.sequence = number(b[12], b[13], b[14], b[15]);
                if matches!(self.kind, kind::CALL..=kind::ONEWAY) {
                    self.body()
                } else {
                    self.refuse()
                }
            }
            phase::FIELD if b[16] == value::STOP => self.stop(),
            phase::FIELD => {
                self.phase = phase::FIELD_ID;
                0
            }
            phase::FIELD_ID => self.field(b[16], b[17] | b[18]),
            phase::LENGTH => self.elements(number(b[20], b[21], b[22], b[23]), value::BYTE, 0),
            phase::LIST => self.elements(number(b[21], b[22], b[23], b[24]), b[20], 0),
            phase::MAP => self.elements(number(b[22], b[23], b[24], b[25]), b[20], b[21]),
            _ => self.refuse(),
        }
    }

    /// Does the same in a message of the compact protocol. Not inlined: the verifier would follow the walk once for each
    /// path through both.
    #[inline(never)]
    fn compact_part(&mut self, b: &Buffer) -> u32 {
        let (high, low) = (b[20] >> 4, compact::value(b[20]));
        match self.phase {
            phase::FIELD => {
                let delta = b[16] >> 4;
                return match compact::value(b[16]) {
                    value::STOP => self.stop(),
                    _ if delta == 0 => self.enter(phase::FIELD_ID),
                    of => self.field(of, delta),
                };
            }
            phase::LIST if high == 15 => return self.enter(phase::COUNT),
            phase::LIST => return self.elements(u32::from(high), low, 0),
            phase::MAP => return self.elements(self.skip as u32, compact::value(high), low),
            _ => {}
        }
        let digit = b[21];
        self.skip |= u64::from(digit & 0x7f) << ((self.digits * 7) & 63);
        self.digits += 1;
        if digit & 0x80 != 0 {
            return if self.digits >= compact::MAX_DIGITS { self.refuse() } else { 0 };
        }
        let number = self.skip as u32;
        match self.phase {
            phase::SEQUENCE => {
                self.sequence = number;
                self.enter(phase::NAME_LENGTH)
            }
            phase::NAME_LENGTH => self.begin(number),
            phase::FIELD_ID => self.field(compact::value(b[16]), u8::from(number != 0)),
            phase::LENGTH => self.elements(number, value::BYTE, 0),
            phase::COUNT => self.elements(number, low, 0),
            phase::MAP_COUNT if number == 0 => {
                self.phase = phase::NEXT;
                0
            }
            phase::MAP_COUNT => {
                self.skip = u64::from(number);
                self.phase = phase::MAP;
                0
            }
            _ => self.refuse(),
        }
    }

    /// Goes on with a number of the compact protocol.
    #[inline(always)]
    const fn enter(&mut self, phase: u32) -> u32 {
        self.phase = phase;
        self.skip = 0;
        self.digits = 0;
        0
    }

    #[inline(always)]
    const fn refuse(&mut self) -> u32 {
        self.phase = phase::REFUSED;
        0
    }

    #[inline(always)]
    const fn start(&mut self, a: u8, b: u8) -> u32 {
        self.phase = phase::WORD;
        if let Some(kind) = compact::kind(a, b) {
            self.kind = kind;
            self.compact = 1;
            return self.enter(phase::SEQUENCE);
        }
        0
    }

    #[inline(always)]
    const fn word(&mut self, word: u32) -> u32 {
        if is_version(word) {
            self.kind = word as u8;
            self.phase = phase::NAME_LENGTH;
        } else if self.unversioned != 0 && is_name(word) {
            self.kind = 0;
            return self.begin(word);
        } else if self.framed == 0 && is_frame(word) {
            self.begin_frame(word);
        } else if self.framed != 0 && is_header(word) {
            self.phase = phase::HEADER;
        } else {
            self.phase = phase::REFUSED;
        }
        0
    }

    #[inline(always)]
    const fn begin_frame(&mut self, length: u32) {
        self.framed = 1;
        self.frame = length;
        self.phase = phase::START;
    }

    /// Skips the rest of a header, which has so many words.
    #[inline(always)]
    const fn header(&mut self, words: u32, protocol: u8, transforms: u8) -> u32 {
        const BINARY: u8 = 0;
        const COMPACT: u8 = 2;
        let rest = (words * 4).wrapping_sub(2);
        if !matches!(protocol, BINARY | COMPACT)
            || transforms != 0
            || words == 0
            || rest > self.frame
        {
            return self.refuse();
        }
        self.frame -= rest;
        self.skip = rest as u64;
        self.phase = phase::HEADER_REST;
        0
    }

    #[inline(always)]
    const fn begin(&mut self, name: u32) -> u32 {
        // The kind, a sequence id and the end of the message's struct follow.
        let rest = if self.compact != 0 {
            1
        } else if self.kind == 0 {
            6
        } else {
            5
        };
        if !is_name(name) || self.framed != 0 && name + rest > self.frame {
            return self.refuse();
        }
        self.name = name;
        self.skip = name as u64;
        if self.compact != 0 || self.kind == 0 {
            self.phase = phase::CHECK;
            return 0;
        }
        self.named()
    }

    /// Looks at the first `n` bytes of a name: the bytes before are not enough to recognize a message.
    #[inline(always)]
    const fn check(&mut self, bytes: u64, n: u32) -> u32 {
        if compact::is_name(bytes, n) {
            return self.named();
        }
        // Its length was that of a frame.
        if self.kind == 0 && self.framed == 0 && is_frame(self.name) {
            self.begin_frame(self.name);
            return 0;
        }
        self.refuse()
    }

    #[inline(always)]
    const fn named(&mut self) -> u32 {
        self.lost = 0;
        self.phase = phase::NAME;
        event::BEGIN
    }

    /// The fields of the message follow.
    #[inline(always)]
    fn body(&mut self) -> u32 {
        self.first = first::NOT_SEEN;
        if self.framed != 0 && self.kind != kind::REPLY {
            return self.rest();
        }
        self.depth = 0;
        self.push(Level::new(Level::STRUCT, 0, 0));
        self.phase = phase::FIELD;
        0
    }

    /// Skips the rest of the frame.
    #[inline(always)]
    const fn rest(&mut self) -> u32 {
        self.skip = self.frame as u64;
        self.phase = if self.skip == 0 { phase::NEXT } else { phase::SKIP };
        0
    }

    /// A struct has ended.
    #[inline(always)]
    const fn stop(&mut self) -> u32 {
        self.depth = self.depth.wrapping_sub(1);
        self.phase = phase::NEXT;
        if self.depth != 0 {
            return 0;
        }
        if self.kind == kind::REPLY && self.first == first::NOT_SEEN {
            self.first = first::NONE;
        }
        if self.framed != 0 { self.rest() } else { 0 }
    }

    /// The value of a field follows; `id` is 0 if the field's id is.
    #[inline(always)]
    fn field(&mut self, of: u8, id: u8) -> u32 {
        if self.depth == 1 && self.kind == kind::REPLY && self.first == first::NOT_SEEN {
            self.first = if id == 0 { first::RESULT } else { first::EXCEPTION };
        }
        if self.framed != 0 {
            return self.rest();
        }
        if self.compact != 0 && of == value::BOOL {
            // The type is the value.
            self.phase = phase::NEXT;
            return 0;
        }
        self.value(of)
    }

    /// A value of this type follows.
    #[inline(always)]
    fn value(&mut self, of: u8) -> u32 {
        self.digits = 0;
        let size = self.size(of);
        self.skip = u64::from(size);
        self.phase = match of {
            value::STRING => phase::LENGTH,
            value::LIST | value::SET => phase::LIST,
            value::MAP if self.compact != 0 => phase::MAP_COUNT,
            value::MAP => phase::MAP,
            _ if size == NUMBER => {
                self.skip = 1;
                phase::NUMBERS
            }
            value::STRUCT => {
                self.push(Level::new(Level::STRUCT, 0, 0));
                if self.is_refused() { phase::REFUSED } else { phase::FIELD }
            }
            _ if size != 0 => phase::SKIP,
            _ => phase::REFUSED,
        };
        0
    }

    /// A number of elements follows; for a map, `even` is the type of its values. Elements of one size are skipped at once.
    #[inline(always)]
    fn elements(&mut self, count: u32, odd: u8, even: u8) -> u32 {
        const MOST: u32 = i32::MAX as u32;
        if count > MOST {
            return self.refuse();
        }
        self.phase = phase::NEXT;
        if count == 0 {
            return 0;
        }
        // No value has the type 0.
        let is_map = even != value::STOP;
        let (one, other) = (self.size(odd), self.size(even));
        if one == NUMBER && (other == NUMBER || !is_map) {
            self.skip = u64::from(count) << u32::from(is_map);
            self.phase = phase::NUMBERS;
            return 0;
        }
        let is_short = |size: u8| size != 0 && size != NUMBER;
        if is_short(one) && (is_short(other) || !is_map) {
            self.skip = u64::from(count) * (u64::from(one) + u64::from(other));
            self.phase = phase::SKIP;
            return 0;
        }
        let level =
            if is_map { Level::new(2 * count, odd, even) } else { Level::new(count, odd, odd) };
        self.push(level);
        0
    }

    #[inline(always)]
    fn push(&mut self, level: Level) {
        if self.depth >= MAX_DEPTH as u32 {
            self.phase = phase::REFUSED;
            return;
        }
        if let Some(place) = self.levels.get_mut(self.depth as usize & (MAX_DEPTH - 1)) {
            *place = level;
        }
        self.depth += 1;
    }

    /// Goes on after a value.
    #[inline(always)]
    fn next(&mut self) -> u32 {
        if self.framed != 0 || self.depth == 0 {
            self.framed = 0;
            self.compact = 0;
            self.phase = phase::START;
            return event::END;
        }
        let at = self.depth.wrapping_sub(1) as usize & (MAX_DEPTH - 1);
        let Some(level) = self.levels.get_mut(at) else { return self.refuse() };
        if level.left == Level::STRUCT {
            self.phase = phase::FIELD;
            return 0;
        }
        if level.left == 0 {
            self.depth = self.depth.wrapping_sub(1);
            return 0;
        }
        level.left -= 1;
        let of = if level.left & 1 != 0 { level.odd } else { level.even };
        self.value(of)
    }

    /// The length of a value of this type in bytes; 0 if it differs from value to value, or if there is no such type;
    /// [`NUMBER`] in the compact protocol.
    #[inline(always)]
    fn size(&self, of: u8) -> u8 {
        let at = (u32::from(of) | u32::from(self.compact) << 5) as usize & 63;
        if of > value::UUID { 0 } else { SIZES.get(at).copied().unwrap_or(0) }
    }
}

/// Whether a direction may start with these bytes, of which `n` are there, and whether there is a message for certain.
#[inline(always)]
pub const fn may_begin(b: &[u8; 16], n: u32) -> Option<bool> {
    let rest = u64::from_le_bytes([b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9]]);
    if let Some(is_certain) = compact::may_begin([b[0], b[1]], rest, n) {
        return Some(is_certain);
    }
    let words = [
        number(b[0], b[1], b[2], b[3]),
        number(b[4], b[5], b[6], b[7]),
        number(b[8], b[9], b[10], b[11]),
    ];
    match words {
        [version, name, _] if is_version(version) => match n {
            0..4 => None,
            4..8 => Some(false),
            _ if is_name(name) => Some(true),
            _ => None,
        },
        [frame, version, name] if is_frame(frame) => match n {
            // Libraries read the length of a frame by itself.
            4 => Some(false),
            8..12 if is_version(version) => Some(false),
            12.. if is_version(version) && is_name(name) && name < frame => Some(true),
            // Nothing else has so many bits that are 0.
            8.. if is_header(version) => Some(version & 0xfff0 == 0),
            6.. => {
                let rest = [b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13]];
                compact::may_begin([b[4], b[5]], u64::from_le_bytes(rest), n - 4)
            }
            _ => None,
        },
        _ => None,
    }
}

/// The same for messages without a version.
#[inline(always)]
pub const fn may_begin_unversioned(b: &[u8; 16], n: u32) -> Option<bool> {
    if n < 4 {
        return None;
    }
    let (word, next) = (number(b[0], b[1], b[2], b[3]), number(b[4], b[5], b[6], b[7]));
    let name = u64::from_le_bytes([b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11]]);
    let present = n - 4;
    if is_name(word) {
        let looked_at = least([word, present, 8]);
        if compact::is_name(name, looked_at) {
            return Some(looked_at == least([word, 8, 8]));
        }
    }
    if !is_frame(word) {
        return None;
    }
    if present < 4 {
        return if present == 0 || b[4] == 0 { Some(false) } else { None };
    }
    // The length of the name, the kind, the sequence id and the end of the message's struct.
    if !is_name(next) || next + 10 > word {
        return None;
    }
    let looked_at = least([next, present - 4, 4]);
    if compact::is_name(name >> 32, looked_at) {
        Some(looked_at == least([next, 4, 4]))
    } else {
        None
    }
}

#[inline(always)]
const fn least([a, b, c]: [u32; 3]) -> u32 {
    let least = if a < b { a } else { b };
    if least < c { least } else { c }
}

/// Whether this is version 1 and the kind of a message.
#[inline(always)]
const fn is_version(word: u32) -> bool {
    word >> 8 == 0x80_0100 && matches!(word as u8, kind::CALL..=kind::ONEWAY)
}

/// Whether a header begins like this.
#[inline(always)]
const fn is_header(word: u32) -> bool {
    word >> 16 == 0x0fff
}

#[inline(always)]
const fn is_frame(length: u32) -> bool {
    length >= MIN_FRAME && length <= MAX_FRAME
}

#[inline(always)]
const fn is_name(length: u32) -> bool {
    length != 0 && length <= MAX_NAME
}

#[inline(always)]
const fn number(a: u8, b: u8, c: u8, d: u8) -> u32 {
    u32::from_be_bytes([a, b, c, d])
}

/// The value's bytes, the first one lowest.
#[inline(always)]
const fn eight(b: &Buffer) -> u64 {
    u64::from_le_bytes([b[20], b[21], b[22], b[23], b[24], b[25], b[26], b[27]])
}

#[cfg(test)]
mod tests;
