//! String literals (RFC 7541 section 5.2).
//!
//! ```text
//!   0   1   2   3   4   5   6   7
//! +---+---+---+---+---+---+---+---+
//! | H |    String Length (7+)     |
//! +---+---------------------------+
//! |  String Data (Length octets)  |
//! +-------------------------------+
//! ```

use super::{Error, huffman, integer};
use crate::names::MAX_PATH_LEN;

/// Room for a decoded string. The longest value that matters is a path; one octet more shows that a path is too long.
pub(super) type Scratch = [u8; MAX_PATH_LEN + 1];

/// A string literal as it is in the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StringLiteral<'a> {
    pub(super) octets: &'a [u8],
    pub(super) huffman: bool,
}

impl<'a> StringLiteral<'a> {
    /// Takes a string literal off the front of `input`.
    #[inline]
    pub(super) fn take(input: &mut &'a [u8]) -> Result<Self, Error> {
        let huffman = input.first().is_some_and(|first| first & 0x80 != 0);
        let len = integer::take(input, 7)?;
        let (octets, rest) = input.split_at_checked(len as usize).ok_or(Error::Truncated)?;
        *input = rest;
        Ok(Self { octets, huffman })
    }

    /// The length of the decoded string.
    pub(super) fn len(self) -> Result<usize, Error> {
        if self.huffman { huffman::decode(self.octets, &mut []) } else { Ok(self.octets.len()) }
    }

    /// The decoded string, cut if it does not fit into `scratch`, and its length before that.
    pub(super) fn read<'b>(self, scratch: &'b mut Scratch) -> Result<(&'b [u8], usize), Error>
    where
        'a: 'b,
    {
        if !self.huffman {
            return Ok((self.octets, self.octets.len()));
        }
        let len = huffman::decode(self.octets, scratch)?;
        Ok((scratch.get(..len).unwrap_or(scratch), len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::hpack::tests::encode_huffman;

    fn encoded(huffman: u8, octets: &[u8]) -> Vec<u8> {
        let len = u8::try_from(octets.len()).expect("a short string");
        assert!(len < 127);
        [&[huffman | len], octets].concat()
    }

    #[test]
    fn plain() {
        let block = [encoded(0, b"custom-key"), b"rest".to_vec()].concat();
        let mut input = block.as_slice();
        let string = StringLiteral::take(&mut input).expect("well formed");
        assert_eq!(input, b"rest");
        assert_eq!(string.len(), Ok(10));
        assert_eq!(string.read(&mut [0; 513]), Ok((b"custom-key".as_slice(), 10)));
    }

    #[test]
    fn huffman() {
        let block = encoded(0x80, &encode_huffman(b"www.example.com"));
        let string = StringLiteral::take(&mut block.as_slice()).expect("well formed");
        assert_eq!(string.len(), Ok(15));
        assert_eq!(string.read(&mut [0; 513]), Ok((b"www.example.com".as_slice(), 15)));
    }

    #[test]
    fn longer_than_the_scratch() {
        let octets = encode_huffman(&[b'0'; 1000]);
        let string = StringLiteral { octets: &octets, huffman: true };
        assert_eq!(string.read(&mut [0; 513]), Ok(([b'0'; 513].as_slice(), 1000)));
    }

    #[test]
    fn longer_than_the_block() {
        for mut input in [&b""[..], b"\x01", b"\x7f", b"\x05abcd", b"\x7f\xff\xff\xff\xff\x0a"] {
            assert_eq!(StringLiteral::take(&mut input), Err(Error::Truncated));
        }
    }
}
