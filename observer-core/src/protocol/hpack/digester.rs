//! Digests of field blocks, and a memory of the last blocks that consist only of references.
//!
//! A peer whose table has all its fields repeats them in a few octets, which are the same each time. As long as the
//! table is the same, their meaning is the same.

use super::{Decoder, Error, Field};
use crate::names::Interner;

/// A [`Decoder`] that adds up the fields of each block to a digest `D`.
#[derive(Debug)]
pub struct Digester<D> {
    /// The decoder, to call its methods. A new decoder needs a new digester, because the last blocks are the old one's.
    pub decoder: Decoder,
    recent: Recent<D>,
}

impl<D: Copy + Default> Digester<D> {
    /// Creates a digester that continues with this decoder.
    pub fn new(decoder: Decoder) -> Self {
        Self { decoder, recent: Recent::default() }
    }

    /// Decodes a field block as [`Decoder::decode`] does, and returns the digest of its fields: all of them, or those
    /// before an error. `add` adds a field to a digest. It is not called for a block of references that is one of the
    /// last two such blocks.
    #[inline]
    pub fn digest(
        &mut self,
        block: &[u8],
        interner: &mut Interner,
        mut add: impl FnMut(&mut D, Field),
    ) -> (D, Result<(), Error>) {
        let Self { decoder, recent } = self;
        let references = references(block);
        if let Some(references) = references
            && let Some(digest) = recent.get(references, decoder.generation)
        {
            return (digest, Ok(()));
        }
        let mut digest = D::default();
        let mut known = true;
        let result = decoder.decode(block, interner, |field| {
            known &= field != Field::Unknown;
            add(&mut digest, field);
        });
        if let Some(references) = references
            && known
            && result.is_ok()
        {
            recent.put(references, decoder.generation, digest);
        }
        (digest, result)
    }
}

/// The octets of a block of references of one octet each, and zeros after the last one. Zero is not a reference.
type References = u128;

/// The block as a number, if it consists of at most 16 such references.
#[inline]
fn references(block: &[u8]) -> Option<References> {
    /// The first bit of each octet: an indexed field (RFC 7541 section 6.1).
    const INDEXED: u128 = u128::from_le_bytes([0x80; 16]);
    let number = number(block)?;
    let unused = 8 * (16 - block.len()) as u32;
    (number & INDEXED == INDEXED.checked_shr(unused)?).then_some(number)
}

/// At most 16 octets as a little-endian number. It takes two loads that overlap, because copying a variable number of
/// octets takes longer than everything else that is done for such a block.
#[inline]
fn number(octets: &[u8]) -> Option<u128> {
    let length = octets.len();
    if length > 16 {
        return None;
    }
    if let (Some(first), Some(last)) = (octets.first_chunk(), octets.last_chunk()) {
        let [first, last] = [first, last].map(|octets| u128::from(u64::from_le_bytes(*octets)));
        return Some(first | last << (8 * (length - 8)));
    }
    if let (Some(first), Some(last)) = (octets.first_chunk(), octets.last_chunk()) {
        let [first, last] = [first, last].map(|octets| u128::from(u32::from_le_bytes(*octets)));
        return Some(first | last << (8 * (length - 4)));
    }
    Some(octets.iter().rev().fold(0, |number, octet| number << 8 | u128::from(*octet)))
}

/// The last two different blocks of references: in responses, those of headers and of trailers take turns.
#[derive(Debug)]
struct Recent<D> {
    /// The later block comes first; its number is 0 if there is none.
    blocks: [(References, D); 2],
    /// The decoder's generation when they were decoded.
    generation: u64,
}

impl<D: Copy + Default> Default for Recent<D> {
    fn default() -> Self {
        Self { blocks: [(0, D::default()); 2], generation: 0 }
    }
}

impl<D: Copy + Default> Recent<D> {
    #[inline]
    fn get(&mut self, block: References, generation: u64) -> Option<D> {
        if self.generation != generation {
            return None;
        }
        let [later, earlier] = &mut self.blocks;
        if later.0 != block {
            if earlier.0 != block {
                return None;
            }
            std::mem::swap(later, earlier);
        }
        Some(later.1)
    }

    fn put(&mut self, block: References, generation: u64, digest: D) {
        if self.generation != generation {
            *self = Self { generation, ..Self::default() };
        }
        let [later, _] = self.blocks;
        self.blocks = [(block, digest), later];
    }
}

#[cfg(test)]
mod tests {
    use super::{Recent, number, references};

    #[test]
    fn as_many_octets_as_there_are_make_a_number() {
        let octets: Vec<u8> = (1..=17).collect();
        for length in 0..=16 {
            let expected = (0..length).map(|at| u128::from(octets[at]) << (8 * at)).sum();
            assert_eq!(number(&octets[..length]), Some(expected), "{length}");
        }
        assert_eq!(number(&octets), None);
    }

    #[test]
    fn only_references_of_one_octet_each_are_a_number() {
        for block in [&[0x82][..], &[0x82, 0xbe, 0xfe], &[0xc0; 16]] {
            assert!(references(block).is_some(), "{block:?}");
        }
        for block in [&[][..], &[0x40], &[0x82, 0x00], &[0x82, 0x7f, 0x82], &[0xc0; 17]] {
            assert!(references(block).is_none(), "{block:?}");
        }
        assert_ne!(references(&[0x82]), references(&[0x82, 0x82]));
    }

    #[test]
    fn two_blocks_are_remembered_as_long_as_the_table_is_the_same() {
        let mut recent = Recent::default();
        let [a, b, c] = [1, 2, 3];
        assert_eq!(recent.get(a, 0), None);
        recent.put(a, 0, 'a');
        recent.put(b, 0, 'b');
        for _ in 0..3 {
            assert_eq!((recent.get(a, 0), recent.get(b, 0)), (Some('a'), Some('b')));
        }
        recent.put(c, 0, 'c');
        assert_eq!([a, b, c].map(|block| recent.get(block, 0)), [None, Some('b'), Some('c')]);
        assert_eq!(recent.get(c, 1), None, "the table is another");
        recent.put(a, 1, 'A');
        assert_eq!([a, b, c].map(|block| recent.get(block, 1)), [Some('A'), None, None]);
    }
}
