//! The HPACK decoder, compared with `loona-hpack`'s: from the start of a connection, and joined late.
#![no_main]

use libfuzzer_sys::fuzz_target;
use observer_core::{
    names::Interner,
    protocol::hpack::{Decoder, Error, Field, MAX_TABLE_SIZE},
};
use observer_fuzz::fields::{decode, meaning};
use observer_fuzz::input::Input;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let joins = usize::from(input.byte() % 8);
    let mut interner = Interner::new(64);
    let (mut decoder, mut late) = (Decoder::from_start(), Decoder::joined_late());
    let mut oracle = loona_hpack::Decoder::new();
    oracle.set_max_allowed_table_size(MAX_TABLE_SIZE as usize);
    for number in 0.. {
        if input.is_empty() {
            break;
        }
        let block = input.bytes();
        let fields = decode(&mut decoder, block, &mut interner);
        let truth = oracle.decode(block);
        assert!(decoder.memory() <= MAX_TABLE_SIZE as usize);
        match (&fields, &truth) {
            (Ok(fields), Ok(truth)) => {
                let meant: Vec<_> =
                    truth.iter().map(|(name, value)| meaning(name, value, &mut interner)).collect();
                assert_eq!(*fields, meant);
            }
            // Our decoder does not check values that it does not need, so it does not find all errors.
            (_, Err(_)) => return,
            // In the middle of a block (RFC 7541 section 4.2): `loona-hpack` allows that.
            (Err(Error::TableSizeMisplaced), Ok(_)) => return,
            (Err(error), Ok(truth)) => panic!("{error:?}, and valid: {truth:?}"),
        }
        if number >= joins {
            let (Ok(seen), Ok(fields)) = (decode(&mut late, block, &mut interner), fields) else {
                panic!("an error only because it was joined late");
            };
            assert_eq!(seen.len(), fields.len());
            for (seen, field) in seen.iter().zip(&fields) {
                assert!(seen == field || *seen == Field::Unknown, "{seen:?}, not {field:?}");
            }
        }
    }
});
