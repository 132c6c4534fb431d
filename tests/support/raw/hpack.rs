//! An HPACK encoder (RFC 7541) whose representations and table size the tests choose. `loona-hpack`'s decoder checks
//! it.

use std::collections::VecDeque;

/// The size of an entry without its bytes (RFC 7541 §4.1).
const ENTRY_OVERHEAD: usize = 32;

/// The number of entries in the static table (RFC 7541 appendix A).
const STATIC_LENGTH: usize = 61;

/// The entries of the static table that the peers use: index, name, value.
const STATIC: &[(usize, &str, &str)] = &[
    (1, ":authority", ""),
    (3, ":method", "POST"),
    (2, ":method", "GET"),
    (4, ":path", "/"),
    (6, ":scheme", "http"),
    (8, ":status", "200"),
    (12, ":status", "400"),
    (13, ":status", "404"),
    (14, ":status", "500"),
    (31, "content-type", ""),
];

/// The encoder of one direction. It inserts each field that the static table does not have into the dynamic table.
#[derive(Debug)]
pub struct Encoder {
    /// The newest first.
    table: VecDeque<(String, String)>,
    size: usize,
    limit: usize,
    /// Size updates at the start of the next block (RFC 7541 §6.3).
    updates: Vec<usize>,
}

impl Encoder {
    /// Sets the table's size; the next block starts with the update.
    pub fn resize(&mut self, limit: usize) {
        self.limit = limit;
        self.evict(limit);
        self.updates.push(limit);
    }

    /// Encodes a field block.
    pub fn block(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        for limit in self.updates.drain(..) {
            integer(&mut block, 0x20, 5, limit);
        }
        for (name, value) in fields {
            self.field(&mut block, name, value);
        }
        block
    }

    fn field(&mut self, block: &mut Vec<u8>, name: &str, value: &str) {
        let whole = STATIC.iter().find(|(_, n, v)| (*n, *v) == (name, value));
        if let Some((index, ..)) = whole.filter(|_| !value.is_empty()) {
            return integer(block, 0x80, 7, *index);
        }
        if let Some(age) = self.table.iter().position(|(n, v)| (&**n, &**v) == (name, value)) {
            return integer(block, 0x80, 7, STATIC_LENGTH + 1 + age);
        }
        let named = STATIC.iter().find(|(_, n, _)| *n == name);
        integer(block, 0x40, 6, named.map_or(0, |(index, ..)| *index));
        if named.is_none() {
            string(block, name);
        }
        string(block, value);
        self.insert(name, value);
    }

    fn insert(&mut self, name: &str, value: &str) {
        let cost = name.len() + value.len() + ENTRY_OVERHEAD;
        self.evict(self.limit.saturating_sub(cost));
        // An entry that is larger than the table leaves it empty (RFC 7541 §4.4).
        if cost <= self.limit {
            self.table.push_front((name.to_owned(), value.to_owned()));
            self.size += cost;
        }
    }

    fn evict(&mut self, limit: usize) {
        while self.size > limit {
            let Some((name, value)) = self.table.pop_back() else { return };
            self.size -= name.len() + value.len() + ENTRY_OVERHEAD;
        }
    }
}

impl Default for Encoder {
    /// An encoder with the table size of a new connection.
    fn default() -> Self {
        Self { table: VecDeque::new(), size: 0, limit: 4096, updates: Vec::new() }
    }
}

/// Appends an integer with a prefix of `bits` bits (RFC 7541 §5.1).
fn integer(block: &mut Vec<u8>, pattern: u8, bits: u32, value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        block.push(pattern | value as u8);
        return;
    }
    block.push(pattern | most as u8);
    let mut rest = value - most;
    while rest >= 128 {
        block.push((rest & 127) as u8 | 128);
        rest >>= 7;
    }
    block.push(rest as u8);
}

/// Appends a string without Huffman coding (RFC 7541 §5.2).
fn string(block: &mut Vec<u8>, text: &str) {
    integer(block, 0, 7, text.len());
    block.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::Encoder;

    #[test]
    fn another_decoder_reads_the_same() {
        let long = "x".repeat(300);
        let lists: [&[(&str, &str)]; 4] = [
            &[(":method", "POST"), (":scheme", "http"), (":path", "/a/B"), ("te", "trailers")],
            &[(":path", "/a/B"), ("te", "trailers"), ("long", &long), (":status", "503")],
            &[("content-type", "application/grpc"), (":authority", ""), ("", "")],
            &[(":path", "/"), (":path", "/a/B"), ("grpc-status", "0"), ("grpc-status", "1")],
        ];
        let (mut encoder, mut decoder) = (Encoder::default(), loona_hpack::Decoder::new());
        decoder.set_max_allowed_table_size(1 << 16);
        // The default size; no table; room for few entries; emptied and grown; a large table.
        for sizes in [&[][..], &[0], &[100], &[0, 4096], &[1 << 16]] {
            for size in sizes {
                encoder.resize(*size);
            }
            for list in lists.iter().chain(&lists) {
                let fields = decoder.decode(&encoder.block(list)).unwrap();
                let expected = list.iter().map(|(n, v)| (n.as_bytes().into(), v.as_bytes().into()));
                assert_eq!(fields, expected.collect::<Vec<(Vec<u8>, Vec<u8>)>>());
            }
        }
    }
}
