//! The Huffman code for strings (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: codes of one length are consecutive in the order of their symbols, and
//! shorter ones come before longer ones. So the lengths say it all.

use super::Error;

/// The end of a string. It never stands in one, only its first bits do, as padding.
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

/// Decodes a string into the front of `out` and returns its length.
///
/// What does not fit into `out` is checked and counted, but not kept: with an empty `out` this
/// only measures.
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
            // Zeros were taken for bits of the string, so these are no code, but its padding.
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

/// The symbol whose code begins at the top of `window`, and the length of its code.
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
    (EOS, MAX_LEN as u32) // Not reached: the last group's `last` is u32::MAX.
}

/// For each value of the next eight bits, the symbol and the length of its code; length 0 where
/// the code is longer than that. All letters, digits and what is usual in paths is here.
static SHORT_CODES: [(u8, u8); 256] = short_codes();

/// The codes longer than eight bits, a group for each length.
static LONG_CODES: [Group; MAX_LEN - 8] = long_codes();

/// All symbols in the order of their codes.
static SORTED_SYMBOLS: [u16; SYMBOLS] = sorted_symbols();

/// The code of each symbol, right-aligned.
pub(super) const CODES: [(u32, u8); SYMBOLS] = codes();

/// The codes of one length.
#[derive(Clone, Copy)]
struct Group {
    /// The length.
    width: u32,
    /// The first code, followed by zeros to 32 bits.
    first: u32,
    /// The last code of this length or a shorter one, followed by ones to 32 bits.
    last: u32,
    /// Where the first code's symbol is in [`SORTED_SYMBOLS`].
    offset: u32,
}

/// How long `text` is when encoded.
pub(super) const fn encoded_len(text: &[u8]) -> usize {
    let mut bits = 0;
    let mut rest = text;
    while let Some((&octet, tail)) = rest.split_first() {
        bits += code_of(octet).1 as usize;
        rest = tail;
    }
    bits.div_ceil(8)
}

/// Encodes `text`; `N` is its [`encoded_len`].
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would say so")]
pub(super) const fn encode<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut encoded = [0; N];
    let mut len = 0;
    let mut window = 0_u64;
    let mut pending = 0;
    let mut rest = text;
    while let Some((&octet, tail)) = rest.split_first() {
        let (code, width) = code_of(octet);
        window = window << width | code as u64;
        pending += width;
        while pending >= 8 {
            pending -= 8;
            encoded[len] = (window >> pending) as u8;
            len += 1;
        }
        rest = tail;
    }
    if pending > 0 {
        let padding = 8 - pending;
        encoded[len] = (window << padding) as u8 | (u8::MAX >> pending);
    }
    encoded
}

#[expect(clippy::indexing_slicing, reason = "an octet is less than 257")]
const fn code_of(octet: u8) -> (u32, u8) {
    CODES[octet as usize]
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would say so")]
const fn codes() -> [(u32, u8); SYMBOLS] {
    let mut codes = [(0, 0); SYMBOLS];
    let mut code = 0;
    let mut width = 1;
    while width <= MAX_LEN {
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == width {
                codes[symbol] = (code, width as u8);
                code += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        width += 1;
    }
    codes
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would say so")]
const fn sorted_symbols() -> [u16; SYMBOLS] {
    let mut sorted = [0; SYMBOLS];
    let mut len = 0;
    let mut width = 1;
    while width <= MAX_LEN {
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == width {
                sorted[len] = symbol as u16;
                len += 1;
            }
            symbol += 1;
        }
        width += 1;
    }
    sorted
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

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would say so")]
const fn long_codes() -> [Group; MAX_LEN - 8] {
    let mut groups = [Group { width: 0, first: 0, last: 0, offset: 0 }; MAX_LEN - 8];
    let mut code = 0_u64;
    let mut offset = 0;
    let mut width = 1;
    while width <= MAX_LEN {
        let first = code << (32 - width);
        let mut symbol = 0;
        let mut count = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == width {
                count += 1;
            }
            symbol += 1;
        }
        code += count as u64;
        if width > 8 {
            groups[width - 9] = Group {
                width: width as u32,
                first: first as u32,
                last: ((code << (32 - width)) - 1) as u32,
                offset,
            };
        }
        offset += count;
        code <<= 1;
        width += 1;
    }
    groups
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

    /// Packs strings of `0` and `1`.
    fn bits(text: &str) -> Vec<u8> {
        assert_eq!(text.len() % 8, 0);
        (0..text.len() / 8)
            .map(|at| u8::from_str_radix(&text[8 * at..8 * at + 8], 2).expect("binary digits"))
            .collect()
    }

    #[test]
    fn codes_are_those_of_appendix_b() {
        // One of each kind: the first and last of some lengths, and the odd ones.
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
    fn the_compile_time_encoder_agrees() {
        const TEXT: &[u8] = b"grpc-status\x00\xff";
        const ENCODED: [u8; encoded_len(TEXT)] = encode(TEXT);
        assert_eq!(ENCODED.as_slice(), encode_huffman(TEXT));
    }

    #[test]
    fn padding() {
        assert_eq!(decode_all(&[]), Ok(vec![]));
        assert_eq!(decode_all(&bits("0000011110001111")), Ok(b"0w".to_vec()), "4 bits");
        assert_eq!(decode_all(&bits("00000000011111110000011111111111")).ok(), None, "11 bits");
        // 'a' is 00011; every length of padding, all ones.
        assert_eq!(decode_all(&bits("00011111")), Ok(b"a".to_vec()), "3 bits");
        // '&' is 11111000: no padding.
        assert_eq!(decode_all(&bits("11111000")), Ok(b"&".to_vec()), "0 bits");
        // 7 bits: 5 + 5 + 7 + 8 = 25, then 7 ones.
        assert_eq!(
            decode_all(&bits("00011000111011100111110001111111")),
            Ok(b"aa:&".to_vec()),
            "7 bits"
        );
    }

    #[test]
    fn padding_must_be_ones() {
        for encoded in ["00011000", "00011110", "00011011"] {
            assert_eq!(decode_all(&bits(encoded)), Err(Error::Huffman), "{encoded}");
        }
    }

    #[test]
    fn padding_must_be_shorter_than_an_octet() {
        assert_eq!(decode_all(&[0xff]), Err(Error::Huffman));
        assert_eq!(decode_all(&bits("0001111111111111")), Err(Error::Huffman));
        assert_eq!(decode_all(&[0xff, 0xff, 0xff]), Err(Error::Huffman));
    }

    #[test]
    fn end_of_string_is_no_symbol() {
        assert_eq!(decode_all(&[0xff, 0xff, 0xff, 0xff]), Err(Error::Huffman));
        assert_eq!(decode_all(&[0xff, 0xff, 0xff, 0xfc, 0x1f]), Err(Error::Huffman));
        assert_eq!(decode_all(&[0xff; 64]), Err(Error::Huffman));
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
