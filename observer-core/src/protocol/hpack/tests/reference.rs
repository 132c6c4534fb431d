//! A simple encoder with a free choice of representations. It knows for every field which blocks a decoder must have
//! seen to know the field.

use std::collections::VecDeque;

use loona_hpack::encoder::encode_integer_into;
use proptest::prelude::*;

use super::encode_huffman;

/// The blocks of one encoder, from the start of the connection.
pub(super) type Script = Vec<Block>;

#[derive(Clone, Debug)]
pub(super) struct Block {
    /// Table size updates at its start.
    pub(super) updates: Vec<u32>,
    pub(super) fields: Vec<Choice>,
}

/// A field and how it is represented, as far as the tables allow.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each one is a choice of its own")]
pub(super) struct Choice {
    pub(super) name: Vec<u8>,
    pub(super) value: Vec<u8>,
    indexed: bool,
    name_indexed: bool,
    insert: bool,
    never: bool,
    huffman_name: bool,
    huffman_value: bool,
    /// Which of several entries that would do.
    pick: usize,
}

pub(super) fn scripts(max_blocks: usize, sizes: std::ops::Range<u32>) -> BoxedStrategy<Script> {
    let updates = prop_oneof![
        8 => Just(Vec::new()),
        1 => prop::collection::vec(sizes.clone(), 1..3),
        1 => sizes.prop_map(|size| vec![0, size]),
    ];
    let block = (updates, prop::collection::vec(choice(), 1..12))
        .prop_map(|(updates, fields)| Block { updates, fields });
    prop::collection::vec(block, 1..max_blocks).boxed()
}

fn choice() -> impl Strategy<Value = Choice> {
    let flags = (
        prop::bool::weighted(0.7),
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.6),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<usize>(),
    );
    (name_and_value(), flags).prop_map(|((name, value), flags)| {
        let (indexed, name_indexed, insert, never, huffman_name, huffman_value, pick) = flags;
        Choice {
            name,
            value,
            indexed,
            name_indexed,
            insert,
            never,
            huffman_name,
            huffman_value,
            pick,
        }
    })
}

fn name_and_value() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let fixed = prop::sample::select(vec![
        (":method", "POST"),
        (":method", "GET"),
        (":method", "PATCH"),
        (":scheme", "http"),
        (":path", "/"),
        (":path", "/helloworld.Greeter/SayHello"),
        (":path", "/routeguide.RouteGuide/ListFeatures"),
        (":authority", "127.0.0.1:50051"),
        (":status", "200"),
        (":status", "418"),
        (":status", "no number"),
        ("content-type", "application/grpc"),
        ("content-type", "application/grpc+proto"),
        ("content-type", "application/grpc-web+proto"),
        ("content-type", "text/html"),
        ("content-type", ""),
        ("te", "trailers"),
        ("user-agent", "grpc-python-asyncio/1.85.0 grpc-c/54.0.0 (linux; chttp2)"),
        ("grpc-status", "0"),
        ("grpc-status", "5"),
        ("grpc-status", "99999999999"),
        ("grpc-timeout", "301m"),
        ("grpc-timeout", "20S"),
        ("grpc-timeout", "soon"),
        ("grpc-message", "not%20found"),
    ])
    .prop_map(|(name, value)| (name.into(), value.into()));
    let odd_name = prop_oneof![
        prop::sample::select(vec![":path", "x-request-id", "traceparent", "grpc-status", ""])
            .prop_map(Vec::from),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    let odd_value = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..60),
        2 => "[0-9a-f]{16}".prop_map(Vec::from),
        1 => prop::collection::vec(b'/'..b'z', 300..3000),
    ];
    prop_oneof![4 => fixed, 1 => (odd_name, odd_value)]
}

/// A field that was encoded, and the first block that a decoder must have seen to know it; `None` if it depends on no
/// earlier block.
pub(super) struct Encoded {
    pub(super) name: Vec<u8>,
    pub(super) value: Vec<u8>,
    pub(super) known_since: Option<usize>,
}

struct Entry {
    name: Vec<u8>,
    value: Vec<u8>,
    /// The block that inserted it.
    block: usize,
    /// The first block that a decoder must have seen to know it.
    known_since: usize,
}

impl Entry {
    fn size(&self) -> usize {
        self.name.len() + self.value.len() + 32
    }
}

/// The encoder.
pub(super) struct Encoder {
    /// Newest first.
    entries: VecDeque<Entry>,
    max_size: usize,
    block: usize,
    out: Vec<u8>,
}

/// The place of an entry.
struct Found {
    index: usize,
    /// If it is in the dynamic table.
    known_since: Option<usize>,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { entries: VecDeque::new(), max_size: 4096, block: 0, out: Vec::new() }
    }

    /// Encodes the next block.
    pub(super) fn encode(&mut self, block: &Block) -> (Vec<u8>, Vec<Encoded>) {
        for &size in &block.updates {
            self.integer(size as usize, 5, 0x20);
            self.max_size = size as usize;
            self.evict(self.max_size);
        }
        let encoded = block.fields.iter().map(|choice| self.field(choice)).collect();
        self.block += 1;
        (std::mem::take(&mut self.out), encoded)
    }

    /// The sizes of the entries of the dynamic table, newest first.
    pub(super) fn sizes(&self) -> Vec<u32> {
        self.entries.iter().map(|entry| entry.size() as u32).collect()
    }

    /// The block that inserted the oldest entry.
    pub(super) fn oldest_block(&self) -> Option<usize> {
        self.entries.back().map(|entry| entry.block)
    }

    fn field(&mut self, choice: &Choice) -> Encoded {
        let Choice { name, value, .. } = choice;
        let known_since = match self.find(name, Some(value), choice.pick) {
            Some(found) if choice.indexed => {
                self.integer(found.index, 7, 0x80);
                found.known_since
            }
            _ => self.literal(choice),
        };
        Encoded { name: name.clone(), value: value.clone(), known_since }
    }

    fn literal(&mut self, choice: &Choice) -> Option<usize> {
        let Choice { name, value, .. } = choice;
        let (prefix_bits, pattern) = match (choice.insert, choice.never) {
            (true, _) => (6, 0x40),
            (false, true) => (4, 0x10),
            (false, false) => (4, 0x00),
        };
        let known_since = match self.find(name, None, choice.pick) {
            Some(found) if choice.name_indexed => {
                self.integer(found.index, prefix_bits, pattern);
                found.known_since
            }
            _ => {
                self.integer(0, prefix_bits, pattern);
                self.string(name, choice.huffman_name);
                None
            }
        };
        self.string(value, choice.huffman_value);
        if choice.insert {
            let entry = Entry {
                name: name.clone(),
                value: value.clone(),
                block: self.block,
                known_since: known_since.unwrap_or(self.block),
            };
            self.insert(entry);
        }
        known_since
    }

    fn insert(&mut self, entry: Entry) {
        self.evict(self.max_size.saturating_sub(entry.size()));
        if entry.size() <= self.max_size {
            self.entries.push_front(entry);
        }
    }

    fn evict(&mut self, size: usize) {
        while self.entries.iter().map(Entry::size).sum::<usize>() > size {
            self.entries.pop_back();
        }
    }

    fn find(&self, name: &[u8], value: Option<&[u8]>, pick: usize) -> Option<Found> {
        let matches = |a_name: &[u8], a_value: &[u8]| {
            a_name == name && value.is_none_or(|value| value == a_value)
        };
        let mut found: Vec<_> = (1..=61)
            .filter(|&index| {
                let (a_name, a_value) = static_entry(index);
                matches(&a_name, &a_value)
            })
            .map(|index| Found { index: usize::from(index), known_since: None })
            .collect();
        for (position, entry) in self.entries.iter().enumerate() {
            if matches(&entry.name, &entry.value) {
                let known_since = Some(entry.known_since);
                found.push(Found { index: 62 + position, known_since });
            }
        }
        (!found.is_empty()).then(|| found.swap_remove(pick % found.len()))
    }

    fn integer(&mut self, value: usize, prefix_bits: u8, pattern: u8) {
        encode_integer_into(value, prefix_bits, pattern, &mut self.out).expect("a Vec takes all");
    }

    fn string(&mut self, text: &[u8], huffman: bool) {
        if huffman {
            let encoded = encode_huffman(text);
            self.integer(encoded.len(), 7, 0x80);
            self.out.extend(encoded);
        } else {
            self.integer(text.len(), 7, 0);
            self.out.extend(text);
        }
    }
}

fn static_entry(index: u8) -> (Vec<u8>, Vec<u8>) {
    thread_local! {
        static ENTRIES: Vec<(Vec<u8>, Vec<u8>)> = {
            let all: Vec<u8> = (1..=61).map(|index| 0x80 | index).collect();
            loona_hpack::Decoder::new().decode(&all).expect("the static table")
        };
    }
    ENTRIES.with(|entries| entries[usize::from(index) - 1].clone())
}
