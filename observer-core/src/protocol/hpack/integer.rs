//! Integers with a prefix (RFC 7541 section 5.1).
//!
//! ```text
//!   0   1   2   3   4   5   6   7
//! +---+---+---+---+---+---+---+---+
//! | ? | ? | ? | 1   1   1   1   1 |   all ones: the value minus 31 follows,
//! +---+---+---+-------------------+
//! | 1 |    Value-(2^N-1) LSB      |   7 bits in each octet, least significant first,
//! +---+---------------------------+
//!                ...
//! +---+---------------------------+
//! | 0 |    Value-(2^N-1) MSB      |   the last without its top bit
//! +---+---------------------------+
//! ```

use super::Error;

/// Octets after the prefix: five times 7 bits hold any `u32`.
const MAX_CONTINUATION: u32 = 5;

/// Takes an integer off the front of `input`; its prefix has `prefix_bits` bits (1 to 8).
#[inline]
pub(super) fn take(input: &mut &[u8], prefix_bits: u32) -> Result<u32, Error> {
    let (&first, rest) = input.split_first().ok_or(Error::Truncated)?;
    *input = rest;
    let mask = u8::MAX >> (8 - prefix_bits);
    let prefix = first & mask;
    if prefix < mask { Ok(u32::from(prefix)) } else { take_continuation(input, prefix) }
}

fn take_continuation(input: &mut &[u8], prefix: u8) -> Result<u32, Error> {
    let mut value = u64::from(prefix);
    for octet in 0..MAX_CONTINUATION {
        let (&next, rest) = input.split_first().ok_or(Error::Truncated)?;
        *input = rest;
        value += u64::from(next & 0x7f) << (7 * octet);
        if next & 0x80 == 0 {
            return u32::try_from(value).map_err(|_| Error::IntegerOverflow);
        }
    }
    Err(Error::IntegerOverflow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_as_many_octets_as_there_are() {
        // Octets, bits of the prefix, and the value with the number of octets behind it.
        let rows = [
            // RFC 7541 appendix C.1.
            (&[0b1110_1010][..], 5, Ok((10, 0))),
            (&[0b1111_1111, 0b1001_1010, 0b0000_1010], 5, Ok((1337, 0))),
            (&[0b0010_1010], 8, Ok((42, 0))),
            (&[0x1e, 0xff], 5, Ok((30, 1))),
            (&[0x1f, 0x00, 0xff], 5, Ok((31, 1))),
            // The largest is 32 bits: u32::MAX - 127 in 7-bit groups.
            (&[0x7f, 0x80, 0xff, 0xff, 0xff, 0x0f], 7, Ok((u32::MAX, 0))),
            (&[0x7f, 0x81, 0xff, 0xff, 0xff, 0x0f], 7, Err(Error::IntegerOverflow)),
            (&[0x7f, 0xff, 0xff, 0xff, 0xff, 0x7f], 7, Err(Error::IntegerOverflow)),
            // Zeros without end are refused.
            (&[0x7f, 0x80, 0x80, 0x80, 0x80, 0x00], 7, Ok((127, 0))),
            (&[0x7f, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00], 7, Err(Error::IntegerOverflow)),
            (&[], 7, Err(Error::Truncated)),
            (&[0x7f], 7, Err(Error::Truncated)),
            (&[0x7f, 0x80], 7, Err(Error::Truncated)),
        ];
        for (octets, prefix_bits, expected) in rows {
            let mut input = octets;
            let value = take(&mut input, prefix_bits).map(|value| (value, input.len()));
            assert_eq!(value, expected, "{octets:02x?}");
        }
    }
}
