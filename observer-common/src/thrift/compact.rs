//! The compact protocol: how it writes what the binary protocol writes.
//!
//! ```text
//! ┌────┬───────────┬─────────────┬─────────────┬──────┬──────────────────────────────────────────┐
//! │ 82 │ kind << 5 │ sequence id │ name length │ name │ fields                                   │
//! │    │ + 1       │ number      │ number      │      │ delta of the id << 4 + type, value; 00   │
//! └────┴───────────┴─────────────┴─────────────┴──────┴──────────────────────────────────────────┘
//! ```
//!
//! A number has seven bits in each byte, the lowest first; the highest bit of a byte says that another follows. If the
//! delta is 0, the id follows as a number. Integers are numbers. A field that is a bool has no value: its type says it.
//!
//! Source: "Thrift Compact protocol encoding" in Apache Thrift's doc/specs.

use super::{MAX_NAME, value};

/// The most bytes of a length, or of a field's id.
pub(super) const MAX_DIGITS: u8 = 5;

/// Types of values as in the binary protocol, by their numbers here.
static VALUES: [u8; 16] = [
    value::STOP,
    value::BOOL,
    value::BOOL,
    value::BYTE,
    value::I16,
    value::I32,
    value::I64,
    value::DOUBLE,
    value::STRING,
    value::LIST,
    value::SET,
    value::MAP,
    value::STRUCT,
    value::UUID,
    value::VOID,
    value::VOID,
];

/// A bit of each byte.
const EACH: u64 = 0x0101_0101_0101_0101;

/// The kind of the message that begins with these two bytes.
#[inline(always)]
pub(super) const fn kind(a: u8, b: u8) -> Option<u8> {
    const PROTOCOL: u8 = 0x82;
    const VERSION: u8 = 1;
    let kind = b >> 5;
    if a == PROTOCOL && b & 0x1f == VERSION && kind >= 1 && kind <= 4 { Some(kind) } else { None }
}

/// The type of values, as in the binary protocol, that the lower half of this byte stands for.
#[inline(always)]
pub(super) fn value(byte: u8) -> u8 {
    VALUES.get(byte as usize & 15).copied().unwrap_or(value::VOID)
}

/// How many numbers end in the first `n` of these bytes, at most 8.
#[inline(always)]
pub(super) const fn ends(bytes: u64, n: u32) -> u32 {
    // One bit for each byte that is the last of its number, added up in the highest byte.
    let last = !(bytes >> 7) & EACH & present(n);
    (last.wrapping_mul(EACH) >> 56) as u32
}

/// Whether a name may begin with the first `n` of these bytes: all of them are printable.
#[inline(always)]
pub(super) const fn is_name(bytes: u64, n: u32) -> bool {
    let present = present(n);
    let bytes = (bytes & present) | ((EACH * 0x61) & !present);
    // No byte has its highest bit, is less than `!`, or is the last of ASCII. Nothing is carried from byte to byte.
    let less = (bytes | (EACH * 0x80)) - EACH * 0x21;
    let last = (bytes & (EACH * 0x7f)) + EACH;
    (bytes | !less | last) & (EACH * 0x80) == 0
}

/// All bits of the first `n` bytes.
#[inline(always)]
const fn present(n: u32) -> u64 {
    if n >= 8 { u64::MAX } else { (1 << (8 * n)) - 1 }
}

/// Whether a message may begin with these two bytes and the eight after them, of which `n` are there in all; see
/// [`super::may_begin`].
#[inline(always)]
pub(super) const fn may_begin([a, b]: [u8; 2], mut rest: u64, n: u32) -> Option<bool> {
    if kind(a, b).is_none() || n < 2 {
        return None;
    }
    // The sequence id ends with the first byte without a highest bit. Without a loop, which the verifier would follow.
    let digits = (!rest & (EACH * 0x80)).trailing_zeros() / 8 + 1;
    if digits > MAX_DIGITS as u32 {
        return None;
    }
    rest >>= 8 * digits;
    // The length of the name: more than two bytes are too many.
    let (low, high) = (rest as u32 & 0xff, (rest >> 8) as u32 & 0xff);
    let more = low >> 7;
    let length = (low & 0x7f) | ((high << 7) * more);
    let of_length = 1 + more;
    if 2 + digits + of_length >= n {
        return Some(false);
    }
    let is_message = length != 0 && length <= MAX_NAME && is_name(rest >> (8 * of_length), 1);
    if is_message { Some(true) } else { None }
}
