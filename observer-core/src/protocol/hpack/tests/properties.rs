//! Random connections, decoded from the start, after a late join, and with errors.

use proptest::prelude::*;

use super::{
    super::{Decoder, Digester, Error, Field, MAX_TABLE_SIZE},
    Interner, decode, meaning,
    reference::{Block, Encoded, Encoder, scripts},
};

/// A block, its fields as they were encoded, and by their meaning.
struct Seen {
    octets: Vec<u8>,
    encoded: Vec<Encoded>,
    truth: Vec<Field>,
    /// The encoder's table after the block.
    sizes: Vec<u32>,
    oldest_block: Option<usize>,
}

fn encode_all(script: &[Block], interner: &mut Interner) -> Vec<Seen> {
    let mut encoder = Encoder::new();
    let mut encode = |block| {
        let (octets, encoded) = encoder.encode(block);
        let truth = encoded.iter().map(|field| meaning(&field.name, &field.value, interner));
        Seen {
            truth: truth.collect(),
            octets,
            encoded,
            sizes: encoder.sizes(),
            oldest_block: encoder.oldest_block(),
        }
    };
    script.iter().map(&mut encode).collect()
}

/// Follows a connection from a block on. `exactly`: what can be known must be known.
fn follow_from(join: usize, seen: &[Seen], exactly: bool, interner: &mut Interner) {
    let mut decoder = Decoder::joined_late();
    for (at, block) in seen.iter().enumerate().skip(join) {
        let fields = decode(&mut decoder, &block.octets, interner).expect("a valid block");
        assert_eq!(fields.len(), block.truth.len());
        for ((field, truth), encoded) in fields.iter().zip(&block.truth).zip(&block.encoded) {
            let knowable = encoded.known_since.is_none_or(|since| since >= join);
            if knowable && (exactly || encoded.known_since.is_none()) {
                assert_eq!(field, truth, "joined at {join}, in block {at}");
            } else if knowable {
                assert!(field == truth || *field == Field::Unknown, "{field:?}, not {truth:?}");
            } else {
                assert_eq!(*field, Field::Unknown, "joined at {join}, in block {at}");
            }
        }
        if decoder.table().is_complete() {
            assert!(block.oldest_block.is_none_or(|oldest| oldest >= join), "block {at}");
        }
    }
}

/// The fields of a short block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Fields([Option<Field>; 16], usize);

impl Fields {
    fn add(&mut self, field: Field) {
        self.0[self.1] = Some(field);
        self.1 += 1;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Block(Vec<u8>),
    /// Skipped blocks that inserted this many entries; `None` if that is not known.
    Missed(Option<u32>),
}

fn step() -> impl Strategy<Value = Step> {
    // Few different ones, so that they repeat: 62 to 65 are in the dynamic table, if anything is.
    let references =
        prop::collection::vec(prop::sample::select(vec![0x83, 0x88, 0xbe, 0xbf, 0xc0, 0xc1]), 0..4);
    let inserts = prop::sample::select(vec![
        b"\x44\x02/a".to_vec(),
        b"\x44\x02/b\xbe".to_vec(),
        b"\x48\x03404".to_vec(),
        b"\x20\x3f\xe1\x1f".to_vec(),
        b"\x04\x02/c".to_vec(),
    ]);
    prop_oneof![
        8 => references.prop_map(Step::Block),
        2 => inserts.prop_map(Step::Block),
        1 => prop::option::of(0..3_u32).prop_map(Step::Missed),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn from_the_start_all_is_known(script in scripts(30, 0..10_000)) {
        let mut interner = Interner::new(1000);
        let mut decoder = Decoder::from_start();
        let mut oracle = loona_hpack::Decoder::new();
        oracle.set_max_allowed_table_size(10_000);
        for block in encode_all(&script, &mut interner) {
            let strings: Vec<_> =
                block.encoded.into_iter().map(|field| (field.name, field.value)).collect();
            prop_assert_eq!(oracle.decode(&block.octets).expect("a valid block"), strings);
            let fields = decode(&mut decoder, &block.octets, &mut interner);
            prop_assert_eq!(fields, Ok(block.truth));
            let (entries, _) = decoder.table().view();
            let sizes: Vec<_> = entries.into_iter().map(|(_, size)| size).collect();
            prop_assert_eq!(sizes, block.sizes);
            prop_assert!(decoder.table().is_complete());
        }
    }

    #[test]
    fn encoded_by_another_crate(script in scripts(30, 0..10_000)) {
        let mut interner = Interner::new(1000);
        let mut encoder = loona_hpack::Encoder::new();
        let mut decoder = Decoder::from_start();
        for block in &script {
            let mut octets = Vec::new();
            for &size in &block.updates {
                encoder.set_max_table_size(size as usize);
                loona_hpack::encoder::encode_integer_into(size as usize, 5, 0x20, &mut octets)
                    .expect("a Vec takes all");
            }
            let fields = || block.fields.iter().map(|field| (&*field.name, &*field.value));
            encoder.encode_into(fields(), &mut octets).expect("a Vec takes all");
            let truth = fields().map(|(name, value)| meaning(name, value, &mut interner)).collect();
            prop_assert_eq!(decode(&mut decoder, &octets, &mut interner), Ok(truth));
        }
    }

    /// Whatever the table's size before the join, up to the default: ours is as large.
    #[test]
    fn late_joins_know_what_they_can(script in scripts(40, 0..4097)) {
        let mut interner = Interner::new(1000);
        let seen = encode_all(&script, &mut interner);
        for join in 0..seen.len() {
            follow_from(join, &seen, true, &mut interner);
        }
    }

    /// With a larger one some may be unknown, but nothing is taken for something else.
    #[test]
    fn late_joins_are_never_wrong(script in scripts(40, 0..40_000)) {
        let mut interner = Interner::new(1000);
        let seen = encode_all(&script, &mut interner);
        for join in 0..seen.len() {
            follow_from(join, &seen, false, &mut interner);
        }
    }

    #[test]
    fn after_a_missed_block_it_is_a_late_join(
        script in scripts(30, 0..4097),
        missed in any::<prop::sample::Index>(),
    ) {
        let mut interner = Interner::new(1000);
        let seen = encode_all(&script, &mut interner);
        let missed = missed.index(seen.len());
        let mut decoder = Decoder::from_start();
        let mut late = Decoder::joined_late();
        for (at, block) in seen.iter().enumerate() {
            if at == missed {
                decoder.gap();
                continue;
            }
            let fields = decode(&mut decoder, &block.octets, &mut interner);
            if at > missed {
                let expected = decode(&mut late, &block.octets, &mut interner);
                // A larger guess of the size may only let it know more.
                let expected = expected.expect("a valid block");
                for (field, expected) in fields.expect("a valid block").iter().zip(&expected) {
                    prop_assert!(field == expected || *expected == Field::Unknown);
                }
            }
        }
    }

    /// Cut anywhere, a block is shorter by some fields, or refused.
    #[test]
    fn truncated_blocks(script in scripts(3, 0..10_000)) {
        let mut interner = Interner::new(1000);
        for block in encode_all(&script[..1], &mut interner) {
            for cut in 0..block.octets.len() {
                let mut decoder = Decoder::from_start();
                match decode(&mut decoder, &block.octets[..cut], &mut interner) {
                    Ok(fields) => prop_assert!(block.truth.starts_with(&fields)),
                    Err(error) => prop_assert_eq!(error, Error::Truncated),
                }
            }
        }
    }

    #[test]
    fn garbage(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..20)) {
        let mut interner = Interner::new(10);
        let mut decoders = [Decoder::from_start(), Decoder::joined_late()];
        for block in &blocks {
            for decoder in &mut decoders {
                let mut count = 0;
                let result = decoder.decode(block, &mut interner, |_| count += 1);
                prop_assert!(count <= block.len());
                prop_assert!(decoder.memory() <= MAX_TABLE_SIZE as usize);
                if result.is_err() {
                    prop_assert_eq!(decoder.table().len(), 0);
                }
            }
        }
    }

    /// The digest of a remembered block is the same as if the block were decoded again, whatever comes between.
    #[test]
    fn remembered_blocks(steps in prop::collection::vec(step(), 0..200)) {
        let mut interner = Interner::new(10);
        let mut remembering = Digester::new(Decoder::from_start());
        let mut other = Decoder::from_start();
        for step in &steps {
            match step {
                Step::Block(block) => {
                    let add = |fields: &mut Fields, field| fields.add(field);
                    let digest = remembering.digest(block, &mut interner, add);
                    let mut expected = Fields::default();
                    let decoded = other.decode(block, &mut interner, |field| expected.add(field));
                    prop_assert_eq!(digest, (expected, decoded));
                }
                Step::Missed(None) => {
                    remembering.decoder.gap();
                    other.gap();
                }
                Step::Missed(Some(inserts)) => {
                    remembering.decoder.inserts_dropped(*inserts);
                    other.inserts_dropped(*inserts);
                }
            }
        }
    }

    /// Valid but for one octet: gets further than garbage does.
    #[test]
    fn one_wrong_octet(
        script in scripts(20, 0..10_000),
        at in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
    ) {
        let mut interner = Interner::new(100);
        let mut seen = encode_all(&script, &mut interner);
        let octets: usize = seen.iter().map(|block| block.octets.len()).sum();
        prop_assume!(octets > 0);
        let at = at.index(octets);
        *seen.iter_mut().flat_map(|block| &mut block.octets).nth(at).expect("in range") ^= flip;
        for mut decoder in [Decoder::from_start(), Decoder::joined_late()] {
            for block in &seen {
                let result = decode(&mut decoder, &block.octets, &mut interner);
                prop_assert!(result.is_ok() || !decoder.table().is_complete());
            }
        }
    }
}

/// An encoder with a large table keeps referring to an entry after more than 4096 bytes of others: the decoder learns
/// that such entries are kept.
#[test]
fn late_join_to_a_large_table() {
    let mut interner = Interner::new(100);
    let mut decoder = Decoder::joined_late();
    let insert_path = b"\x44\x05/a.A/";
    let path = meaning(b":path", b"/a.A/", &mut interner);
    decode(&mut decoder, insert_path, &mut interner).expect("well formed");
    let mut inserted_since = 0;
    let mut known = 0;
    for call in 0..1000 {
        // 32 + 4 + 60 octets each; the path comes back when it is still in a table of 64 KiB.
        let mut block = b"\x40\x04user\x3c".to_vec();
        block.extend([b'x'; 60]);
        inserted_since += 1;
        loona_hpack::encoder::encode_integer_into(62 + inserted_since, 7, 0x80, &mut block)
            .expect("a Vec takes all");
        let fields = decode(&mut decoder, &block, &mut interner).expect("well formed");
        if fields == [Field::Other, path] {
            known += 1;
        } else {
            assert_eq!(fields, [Field::Other, Field::Unknown], "call {call}");
        }
        if inserted_since > 500 || fields == [Field::Other, Field::Unknown] {
            decode(&mut decoder, insert_path, &mut interner).expect("well formed");
            inserted_since = 0;
        }
    }
    assert!(known > 990, "{known}");
}
