//! Header encoders: loona-hpack's, which inserts few fields, and one that inserts many, as those of gRPC's libraries
//! do.

use std::collections::VecDeque;

use loona_hpack::encoder::encode_integer_into;

use crate::random::Random;

/// A header field.
pub type Field = (Vec<u8>, Vec<u8>);

/// The entries of the static table (RFC 7541 appendix A) for the fields that are used here.
const STATIC: &[(usize, &str, &str)] = &[
    (1, ":authority", ""),
    (2, ":method", "GET"),
    (3, ":method", "POST"),
    (4, ":path", "/"),
    (6, ":scheme", "http"),
    (8, ":status", "200"),
    (13, ":status", "404"),
    (31, "content-type", ""),
    (58, "user-agent", ""),
];
const FIRST_DYNAMIC: usize = 62;

/// The largest header table that a peer chooses.
const LARGEST_TABLE: usize = 16_384;

/// One direction's encoder.
pub struct Encoder {
    scheme: Scheme,
    /// Checks the blocks.
    oracle: loona_hpack::Decoder<'static>,
}

enum Scheme {
    Loona(loona_hpack::Encoder<'static>),
    Inserting(Inserting),
}

impl Encoder {
    pub fn new(random: &mut Random) -> Self {
        let mut oracle = loona_hpack::Decoder::new();
        oracle.set_max_allowed_table_size(LARGEST_TABLE);
        let scheme = if random.chance(300) {
            Scheme::Loona(loona_hpack::Encoder::new())
        } else {
            Scheme::Inserting(Inserting { table: VecDeque::new(), max_size: 4096 })
        };
        Self { scheme, oracle }
    }

    /// Encodes a block, sometimes after a change of the table's size.
    pub fn encode(&mut self, random: &mut Random, fields: &[Field]) -> Vec<u8> {
        let mut block = Vec::new();
        while random.chance(30) {
            let size = random.pick(&[0, 100, 1000, 4096, LARGEST_TABLE]);
            encode_integer_into(size, 5, 0x20, &mut block).unwrap();
            match &mut self.scheme {
                Scheme::Loona(encoder) => encoder.set_max_table_size(size),
                Scheme::Inserting(encoder) => encoder.set_max_size(size),
            }
        }
        for field in fields {
            match &mut self.scheme {
                _ if random.chance(100) => {
                    literal(random.pick(&[0x00, 0x10]), 4, 0, field, &mut block);
                }
                Scheme::Loona(encoder) => {
                    encoder.encode_header_into((&field.0, &field.1), &mut block).unwrap();
                }
                Scheme::Inserting(encoder) => encoder.encode(random, field, &mut block),
            }
        }
        assert_eq!(self.oracle.decode(&block).unwrap(), fields, "the simulator encodes wrongly");
        block
    }
}

/// Encodes a literal representation (RFC 7541 section 6.2); `name` is the index of its name, 0 for a literal name.
fn literal(pattern: u8, prefix: u8, name: usize, field: &Field, block: &mut Vec<u8>) {
    encode_integer_into(name, prefix, pattern, block).unwrap();
    if name == 0 {
        string(&field.0, block);
    }
    string(&field.1, block);
}

fn string(text: &[u8], block: &mut Vec<u8>) {
    encode_integer_into(text.len(), 7, 0, block).unwrap();
    block.extend_from_slice(text);
}

/// An encoder that inserts most fields that its table does not have.
struct Inserting {
    /// Newest first.
    table: VecDeque<Field>,
    max_size: usize,
}

impl Inserting {
    fn encode(&mut self, random: &mut Random, field: &Field, block: &mut Vec<u8>) {
        if let Some(index) = self.index_of(|known| known == field)
            && !random.chance(50)
        {
            encode_integer_into(index, 7, 0x80, block).unwrap();
            return;
        }
        let known = self.index_of(|known| known.0 == field.0);
        let name = known.filter(|_| random.chance(800)).unwrap_or(0);
        if random.chance(850) {
            literal(0x40, 6, name, field, block);
            self.table.push_front(field.clone());
            self.evict();
        } else {
            literal(0x00, 4, name, field, block);
        }
    }

    fn index_of(&self, is_it: impl Fn(&Field) -> bool) -> Option<usize> {
        let fixed = STATIC
            .iter()
            .find(|(_, name, value)| is_it(&(name.as_bytes().to_vec(), value.as_bytes().to_vec())));
        let dynamic = || self.table.iter().position(&is_it).map(|at| at + FIRST_DYNAMIC);
        fixed.map(|(index, ..)| *index).or_else(dynamic)
    }

    fn set_max_size(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.evict();
    }

    fn evict(&mut self) {
        let size = |table: &VecDeque<Field>| -> usize {
            table.iter().map(|(name, value)| 32 + name.len() + value.len()).sum()
        };
        while size(&self.table) > self.max_size {
            self.table.pop_back();
        }
    }
}
