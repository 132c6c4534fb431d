//! Finds Thrift messages in one direction of a connection: strict binary protocol, framed or not.
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
//! values. Each message says by its first four bytes whether it is framed: no frame is as long as the version reads.
//!
//! Source: "Thrift Binary protocol encoding" and "Thrift RPC" in Apache Thrift's doc/specs.
//!
//! Order of calls: [`Scanner::want`], then [`Scanner::took`] with at most that many bytes, and so on, as for the
//! [HTTP/2 scanner](crate::scanner). There is no loop: a step that needs no bytes [is pending](Scanner::is_pending).

use crate::scanner::Take;

/// The longest name of a method, in bytes. A longer one is taken for something else.
pub const MAX_NAME: u32 = 512;

/// The longest frame, in bytes. Libraries allow 16,384,000 by default.
const MAX_FRAME: u32 = (1 << 28) - 1;

/// The shortest frame: a version, a name of one byte, a sequence id and no field.
const MIN_FRAME: u32 = 4 + 4 + 1 + 4 + 1;

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
    /// The kind of the message and the length of its name are known; the name follows.
    pub const BEGIN: u32 = 1;
    /// The name is complete.
    pub const NAME_END: u32 = 2;
    /// The message's last byte was taken.
    pub const END: u32 = 4;
}

/// Types of values.
mod value {
    pub(super) const STOP: u8 = 0;
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
    /// In the first four bytes: the length of a frame, or a version.
    pub(super) const WORD: u32 = 0;
    /// In the version, in a frame.
    pub(super) const VERSION: u32 = 1;
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
    /// In the types and number of a map's entries.
    pub(super) const MAP: u32 = 9;
    /// In a value, in several, or in the rest of a frame.
    pub(super) const SKIP: u32 = 10;
    /// After a value; takes no bytes.
    pub(super) const NEXT: u32 = 11;
    /// The bytes are not a message.
    pub(super) const REFUSED: u32 = 12;
}

// Offsets in the buffer. Each part may be cut anywhere, so each has its own place. The first bytes stay at the start.
const AT_WORD: usize = 0;
const AT_VERSION: usize = 4;
const AT_NAME_LENGTH: usize = 8;
const AT_SEQUENCE: usize = 12;
const AT_FIELD: usize = 16;
const AT_FIELD_ID: usize = 17;
const AT_VALUE: usize = 20;

/// Bytes of the buffer that the scanner reads: the start of the driver's buffer.
pub type Buffer = [u8; 26];

/// The action on the next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// How to take them. [`Take::Copy`] copies the message's name.
    pub take: Take,
    /// The offset in the buffer, for [`Take::Read`].
    pub at: u32,
    /// The most bytes to take; 0 if the step [is pending](Scanner::is_pending).
    pub length: u32,
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
    /// One of [`kind`].
    kind: u8,
    /// One of [`first`].
    first: u8,
    /// Not 0 in a frame.
    framed: u8,
    /// Not 0 while no message boundary is known: each transfer may start with a message.
    lost: u8,
    _reserved: u32,
}

impl Scanner {
    /// The state at the start of a message.
    pub const NEW: Self = Self {
        levels: [Level::new(0, 0, 0); MAX_DEPTH],
        skip: 0,
        frame: 0,
        phase: phase::WORD,
        have: 0,
        depth: 0,
        name: 0,
        sequence: 0,
        kind: 0,
        first: first::NOT_SEEN,
        framed: 0,
        lost: 0,
        _reserved: 0,
    };

    /// Records that no message boundary is known from here on.
    #[inline(always)]
    pub const fn lose(&mut self) {
        self.lost = 1;
        self.phase = phase::WORD;
        self.have = 0;
        self.framed = 0;
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

    /// The kind of the message: one of [`kind`].
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
    pub const fn want(&self) -> Want {
        let (at, length) = match self.phase {
            phase::WORD => (AT_WORD, 4),
            phase::VERSION => (AT_VERSION, 4),
            phase::NAME_LENGTH => (AT_NAME_LENGTH, 4),
            phase::SEQUENCE => (AT_SEQUENCE, 4),
            phase::FIELD => (AT_FIELD, 1),
            phase::FIELD_ID => (AT_FIELD_ID, 2),
            phase::LENGTH => (AT_VALUE, 4),
            phase::LIST => (AT_VALUE, 5),
            phase::MAP => (AT_VALUE, 6),
            phase::NAME => return Want { take: Take::Copy, at: 0, length: self.skip as u32 },
            phase::SKIP => {
                let length =
                    if self.skip < MAX_FRAME as u64 { self.skip as u32 } else { MAX_FRAME };
                return Want { take: Take::Skip, at: 0, length };
            }
            _ => return Want { take: Take::Skip, at: 0, length: 0 },
        };
        Want { take: Take::Read, at: at as u32 + self.have, length: length - self.have }
    }

    /// Takes `n` bytes as [`want`](Self::want) asked for. Returns bits of [`event`].
    #[inline(always)]
    pub fn took(&mut self, buffer: &Buffer, want: Want, n: u32) -> u32 {
        if self.framed != 0 && !matches!(want.take, Take::Skip) {
            if n > self.frame {
                return self.refuse();
            }
            self.frame -= n;
        }
        match want.take {
            Take::Read if n < want.length => {
                self.have += n;
                0
            }
            Take::Read => {
                self.have = 0;
                self.part(buffer)
            }
            Take::Copy => {
                self.skip -= u64::from(n);
                if self.skip != 0 {
                    return 0;
                }
                self.phase = phase::SEQUENCE;
                event::NAME_END
            }
            Take::Skip if self.phase == phase::NEXT => self.next(),
            Take::Skip => {
                self.skip -= u64::from(n);
                if self.skip == 0 {
                    self.phase = phase::NEXT;
                }
                0
            }
        }
    }

    /// Takes a part that is complete in the buffer.
    #[inline(always)]
    fn part(&mut self, b: &Buffer) -> u32 {
        match self.phase {
            phase::WORD => self.word(number(b[0], b[1], b[2], b[3])),
            phase::VERSION => self.version(number(b[4], b[5], b[6], b[7])),
            phase::NAME_LENGTH => self.begin(number(b[8], b[9], b[10], b[11])),
            phase::SEQUENCE => self.body(number(b[12], b[13], b[14], b[15])),
            phase::FIELD if b[AT_FIELD] == value::STOP => self.stop(),
            phase::FIELD => {
                self.phase = phase::FIELD_ID;
                0
            }
            phase::FIELD_ID => self.field(b[AT_FIELD], b[17] | b[18]),
            phase::LENGTH => self.elements(number(b[20], b[21], b[22], b[23]), value::BYTE, 0),
            phase::LIST => self.elements(number(b[21], b[22], b[23], b[24]), b[20], 0),
            phase::MAP => self.elements(number(b[22], b[23], b[24], b[25]), b[20], b[21]),
            _ => self.refuse(),
        }
    }

    #[inline(always)]
    const fn refuse(&mut self) -> u32 {
        self.phase = phase::REFUSED;
        0
    }

    #[inline(always)]
    const fn word(&mut self, word: u32) -> u32 {
        if is_frame(word) {
            self.framed = 1;
            self.frame = word;
            self.phase = phase::VERSION;
            return 0;
        }
        self.version(word)
    }

    #[inline(always)]
    const fn version(&mut self, version: u32) -> u32 {
        if !is_version(version) {
            return self.refuse();
        }
        self.kind = version as u8;
        self.phase = phase::NAME_LENGTH;
        0
    }

    #[inline(always)]
    const fn begin(&mut self, name: u32) -> u32 {
        // A sequence id and the end of the message's struct follow.
        if !is_name(name) || self.framed != 0 && name + 5 > self.frame {
            return self.refuse();
        }
        self.lost = 0;
        self.name = name;
        self.skip = name as u64;
        self.phase = phase::NAME;
        event::BEGIN
    }

    /// The fields of the message follow.
    #[inline(always)]
    fn body(&mut self, sequence: u32) -> u32 {
        self.sequence = sequence;
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
        if self.framed != 0 { self.rest() } else { self.value(of) }
    }

    /// A value of this type follows.
    #[inline(always)]
    fn value(&mut self, of: u8) -> u32 {
        self.skip = u64::from(size(of));
        self.phase = match of {
            value::STRING => phase::LENGTH,
            value::LIST | value::SET => phase::LIST,
            value::MAP => phase::MAP,
            value::STRUCT => {
                self.push(Level::new(Level::STRUCT, 0, 0));
                if self.is_refused() { phase::REFUSED } else { phase::FIELD }
            }
            _ if self.skip != 0 => phase::SKIP,
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
        let (one, other) = (size(odd), size(even));
        if one != 0 && (other != 0 || !is_map) {
            self.skip = u64::from(count) * u64::from(one + other);
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
            self.phase = phase::WORD;
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
}

/// Whether a direction may start with these bytes, of which `n` are there, and whether there is a message for certain.
#[inline(always)]
pub const fn may_begin(b: &[u8; 16], n: u32) -> Option<bool> {
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
            _ => None,
        },
        _ => None,
    }
}

/// Whether this is version 1 and the kind of a message.
#[inline(always)]
const fn is_version(word: u32) -> bool {
    word >> 8 == 0x80_0100 && matches!(word as u8, kind::CALL..=kind::ONEWAY)
}

#[inline(always)]
const fn is_frame(length: u32) -> bool {
    length >= MIN_FRAME && length <= MAX_FRAME
}

#[inline(always)]
const fn is_name(length: u32) -> bool {
    length != 0 && length <= MAX_NAME
}

/// The length of a value of this type in bytes; 0 if it differs from value to value, or if there is no such type.
#[inline(always)]
const fn size(of: u8) -> u32 {
    match of {
        value::BOOL | value::BYTE => 1,
        value::I16 => 2,
        value::I32 => 4,
        value::I64 | value::DOUBLE => 8,
        value::UUID => 16,
        _ => 0,
    }
}

#[inline(always)]
const fn number(a: u8, b: u8, c: u8, d: u8) -> u32 {
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests;
