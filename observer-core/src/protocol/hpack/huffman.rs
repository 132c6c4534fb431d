//! The Huffman code for strings (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: codes of one length are consecutive in the order of their symbols, and shorter ones come
//! before longer ones. So it follows from the lengths.

use super::Error;

/// The symbol for the end of a string. It is never in a string; only its first bits are, as padding.
const EOS: u16 = 256;
const SYMBOLS: usize = 257;
const MAX_LEN: usize = 30;

/// The length of each symbol's code, in bits. Source: RFC 7541 appendix B.
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, // 0x00
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, // 0x10
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, // 0x20
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, // 0x30
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, // 0x40
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, // 0x50
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, // 0x60
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, // 0x70
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, // 0x80
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, // 0x90
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, // 0xa0
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, // 0xb0
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, // 0xc0
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, // 0xd0
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, // 0xe0
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, // 0xf0
    30, // EOS
];

/// Decodes a string into the front of `out`, and returns the string's length.
///
/// Octets that do not fit into `out` are checked and counted, but not kept. With an empty `out` this only measures.
#[inline]
pub(super) fn decode(encoded: &[u8], out: &mut [u8]) -> Result<usize, Error> {
    let mut input = encoded;
    let mut len = 0;
    // The next `available` bits of the string, then zeros.
    let mut window = 0_u64;
    let mut available = 0;
    loop {
        if available < 32 {
            if let Some((octets, rest)) = input.split_first_chunk() {
                window |= u64::from(u32::from_be_bytes(*octets)) << (32 - available);
                available += 32;
                input = rest;
            } else {
                for &octet in input {
                    window |= u64::from(octet) << (56 - available);
                    available += 8;
                }
                input = &[];
            }
        }
        let (symbol, width) = symbol_at((window >> 32) as u32);
        if width > available {
            // The width counts zeros after the string, so these bits are not a code, but padding.
            let padding = !(u64::MAX >> available);
            return if available <= 7 && window == padding { Ok(len) } else { Err(Error::Huffman) };
        }
        if symbol == EOS {
            return Err(Error::Huffman);
        }
        if let Some(slot) = out.get_mut(len) {
            *slot = symbol as u8;
        }
        len += 1;
        window <<= width;
        available -= width;
    }
}

/// The symbol whose code is at the top of `window`, and the length of its code.
#[inline]
fn symbol_at(window: u32) -> (u16, u32) {
    match SHORT_CODES.get((window >> 24) as usize) {
        Some(&(symbol, width @ 1..)) => (u16::from(symbol), u32::from(width)),
        _ => long_symbol_at(window),
    }
}

#[cold]
fn long_symbol_at(window: u32) -> (u16, u32) {
    for group in &LONG_CODES {
        if window <= group.last {
            let position = group.offset + ((window - group.first) >> (32 - group.width));
            let symbol = SORTED_SYMBOLS.get(position as usize).copied().unwrap_or(EOS);
            return (symbol, group.width);
        }
    }
    (EOS, MAX_LEN as u32) // Unreachable: the last group's `last` is u32::MAX.
}

/// The symbol and the length of its code, for each value of the next eight bits; length 0 if the code is longer than
/// eight bits. Letters, digits and the usual characters of paths are here.
static SHORT_CODES: [(u8, u8); 256] = short_codes();

/// The codes of more than eight bits, a group for each length.
static LONG_CODES: [Group; MAX_LEN - 8] = TABLES.long;

/// All symbols in the order of their codes.
static SORTED_SYMBOLS: [u16; SYMBOLS] = TABLES.sorted;

/// The code of each symbol, right-aligned, and its length.
pub(super) const CODES: [(u32, u8); SYMBOLS] = TABLES.codes;

const TABLES: Tables = tables();

/// The tables that follow from the lengths of codes.
struct Tables {
    codes: [(u32, u8); SYMBOLS],
    sorted: [u16; SYMBOLS],
    long: [Group; MAX_LEN - 8],
}

/// The codes of one length.
#[derive(Clone, Copy)]
struct Group {
    /// The length in bits.
    width: u32,
    /// The first code, followed by zeros to 32 bits.
    first: u32,
    /// The last code of this length or a shorter one, followed by ones to 32 bits.
    last: u32,
    /// The position of the first code's symbol in [`SORTED_SYMBOLS`].
    offset: u32,
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would say so")]
const fn tables() -> Tables {
    let mut codes = [(0, 0); SYMBOLS];
    let mut sorted = [0; SYMBOLS];
    let mut long = [Group { width: 0, first: 0, last: 0, offset: 0 }; MAX_LEN - 8];
    let mut code = 0_u64;
    let mut position = 0;
    let mut width = 1;
    while width <= MAX_LEN {
        let (first, offset) = (code << (32 - width), position as u32);
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == width {
                codes[symbol] = (code as u32, width as u8);
                sorted[position] = symbol as u16;
                code += 1;
                position += 1;
            }
            symbol += 1;
        }
        if width > 8 {
            let last = (code << (32 - width)) - 1;
            let (first, last) = (first as u32, last as u32);
            long[width - 9] = Group { width: width as u32, first, last, offset };
        }
        code <<= 1;
        width += 1;
    }
    Tables { codes, sorted, long }
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would say so")]
const fn short_codes() -> [(u8, u8); 256] {
    let mut table = [(0, 0); 256];
    let mut symbol = 0;
    while symbol < 256 {
        let (code, width) = CODES[symbol];
        if width <= 8 {
            let first = (code << (8 - width)) as usize;
            let mut next = first;
            while next < first + (1 << (8 - width)) {
                table[next] = (symbol as u8, width);
                next += 1;
            }
        }
        symbol += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::hpack::tests::encode_huffman;

    fn decode_all(encoded: &[u8]) -> Result<Vec<u8>, Error> {
        let len = decode(encoded, &mut [])?;
        let mut out = vec![0; len];
        assert_eq!(decode(encoded, &mut out), Ok(len), "measured, then decoded");
        Ok(out)
    }

    #[test]
    fn codes_are_those_of_appendix_b() {
        // The first and last codes of some lengths, and unusual ones.
        let rows = [
            (0, 0x1ff8, 13),
            (10, 0x3fff_fffc, 30),
            (22, 0x3fff_fffe, 30),
            (u16::from(b' '), 0x14, 6),
            (u16::from(b'/'), 0x18, 6),
            (u16::from(b'0'), 0x0, 5),
            (u16::from(b':'), 0x5c, 7),
            (u16::from(b'A'), 0x21, 6),
            (u16::from(b'Z'), 0xfd, 8),
            (u16::from(b'\\'), 0x7fff0, 19),
            (u16::from(b'a'), 0x3, 5),
            (u16::from(b'z'), 0x7b, 7),
            (127, 0x0fff_fffc, 28),
            (199, 0x01ff_ffec, 25),
            (249, 0x0fff_fffe, 28),
            (255, 0x03ff_ffee, 26),
            (EOS, 0x3fff_ffff, 30),
        ];
        for (symbol, code, width) in rows {
            assert_eq!(CODES[usize::from(symbol)], (code, width), "symbol {symbol}");
        }
    }

    #[test]
    fn every_symbol_round_trips_as_it_does_elsewhere() {
        for symbol in 0..=255 {
            // With neighbours, so that codes straddle octets.
            for text in [vec![symbol], vec![b'a', symbol, b'z'], vec![symbol; 9]] {
                let encoded = encode_huffman(&text);
                assert_eq!(decode_all(&encoded), Ok(text.clone()), "symbol {symbol}");
                let theirs = loona_hpack::huffman::HuffmanDecoder::new().decode(&encoded);
                assert_eq!(theirs.ok(), Some(text), "symbol {symbol}");
            }
        }
    }

    #[test]
    fn the_end_is_less_than_an_octet_of_ones() {
        let rows: [(&[u8], &[u8]); 5] = [
            (&[], b""),
            // '&' is 11111000: no padding.
            (&[0b1111_1000], b"&"),
            // 'a' is 00011: 3 bits.
            (&[0b0001_1111], b"a"),
            (&[0b0000_0111, 0b1000_1111], b"0w"),
            // 5 + 5 + 7 + 8 = 25: 7 bits.
            (&[0b0001_1000, 0b1110_1110, 0b0111_1100, 0b0111_1111], b"aa:&"),
        ];
        for (encoded, text) in rows {
            assert_eq!(decode_all(encoded).as_deref(), Ok(text), "{encoded:02x?}");
        }
        let refused: [&[u8]; 10] = [
            &[0b0000_0000, 0b0111_1111, 0b0000_0111, 0b1111_1111],
            &[0b0001_1111, 0b1111_1111],
            &[0xff],
            &[0xff; 3],
            // Not all ones.
            &[0b0001_1000],
            &[0b0001_1110],
            &[0b0001_1011],
            // EOS is not a symbol.
            &[0xff; 4],
            &[0xff, 0xff, 0xff, 0xfc, 0x1f],
            &[0xff; 64],
        ];
        for encoded in refused {
            assert_eq!(decode_all(encoded), Err(Error::Huffman), "{encoded:02x?}");
        }
    }

    #[test]
    fn a_short_buffer_takes_the_front() {
        let mut out = [0; 3];
        assert_eq!(decode(&encode_huffman(b"grpc-status"), &mut out), Ok(11));
        assert_eq!(&out, b"grp");
    }

    proptest! {
        #[test]
        fn strings_round_trip(text: Vec<u8>) {
            prop_assert_eq!(decode_all(&encode_huffman(&text)), Ok(text));
        }

        /// The encoding of a string is unique, so what decodes must encode to the same octets.
        #[test]
        fn arbitrary_octets(encoded: Vec<u8>) {
            if let Ok(text) = decode_all(&encoded) {
                prop_assert_eq!(encode_huffman(&text), encoded);
            }
        }

        #[test]
        fn mostly_ones(mut encoded in proptest::collection::vec(128_u8.., 1..8), last: u8) {
            encoded.push(last);
            let theirs = loona_hpack::huffman::HuffmanDecoder::new().decode(&encoded).ok();
            if let Ok(text) = decode_all(&encoded) {
                prop_assert_eq!(Some(text), theirs);
            }
        }
    }
}
