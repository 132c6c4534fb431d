//! Single blocks: those that are refused, and those of decoders that joined late.

use super::{
    super::{Decoder, Error, Field, RequestMethod},
    Interner, decode,
};
use crate::names::PathId;

fn decode_first(mut decoder: Decoder, block: &[u8]) -> Result<Vec<Field>, Error> {
    let result = decode(&mut decoder, block, &mut Interner::new(10));
    assert_eq!(result.is_err(), !decoder.table().is_complete(), "only errors lose track");
    result
}

#[test]
fn invalid_blocks_are_refused() {
    let rows: [(&[u8], Error); 15] = [
        (&[0x80], Error::IndexZero),
        (&[0xbe], Error::IndexOutOfRange),
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0x0f], Error::IntegerOverflow),
        (&[0xff, 0x80, 0xff, 0xff, 0xff, 0x0f], Error::IndexOutOfRange),
        (&[0x7e, 0x00], Error::IndexOutOfRange),
        (&[0x0f, 0x2f, 0x00], Error::IndexOutOfRange),
        (&[0xff], Error::Truncated),
        (&[0x82, 0x44], Error::Truncated),
        (&[0x82, 0x44, 0x02, b'/'], Error::Truncated),
        (&[0x40, 0x01, b'a'], Error::Truncated),
        (&[0x44, 0x81, 0xff], Error::Huffman),
        (&[0x04, 0x81, 0x18], Error::Huffman),
        (&[0x40, 0x81, 0xff, 0x00], Error::Huffman),
        (&[0x82, 0x20], Error::TableSizeMisplaced),
        (&[0x3f, 0xe2, 0xff, 0x3f], Error::TableSizeTooLarge),
    ];
    for (block, error) in rows {
        assert_eq!(decode_first(Decoder::from_start(), block), Err(error), "{block:02x?}");
    }
}

#[test]
fn odd_blocks_are_not_refused() {
    let post = Field::Method(RequestMethod::Post);
    let rows: [(&[u8], &[Field]); 6] = [
        (&[], &[]),
        (&[0x20, 0x3f, 0xe1, 0x1f, 0x83], &[post]),
        (&[0x3f, 0xe1, 0xff, 0x3f, 0x83], &[post]),
        // Fields that do not matter and are not inserted are not read.
        (&[0x00, 0x01, b'a', 0x81, 0x00, 0x83], &[Field::Other, post]),
        (&[0x10, 0x81, 0x00, 0x01, b'a', 0x83], &[Field::Other, post]),
        (&[0x44, 0x01, b'/', 0xbe], &[Field::Path(PathId::ROOT), Field::Path(PathId::ROOT)]),
    ];
    for (block, fields) in rows {
        assert_eq!(decode_first(Decoder::from_start(), block).as_deref(), Ok(fields));
    }
}

#[test]
fn references_to_before_the_join() {
    let mut interner = Interner::new(10);
    let mut decoder = Decoder::joined_late();
    assert!(!decoder.table().is_complete());
    // Indexed; a name for a literal, not inserted and inserted.
    let block = [0xbf, 0x0f, 0x30, 0x01, b'x', 0x7f, 0x00, 0x01, b'y'];
    assert_eq!(decode(&mut decoder, &block, &mut interner), Ok(vec![Field::Unknown; 3]));
    // That entry is known to exist, but not its name; one inserted after it is known.
    let block = [0xbe, 0x48, 0x03, b'4', b'1', b'8', 0xbe, 0xbf];
    let expected = [Field::Unknown, Field::Status(418), Field::Status(418), Field::Unknown];
    assert_eq!(decode(&mut decoder, &block, &mut interner).as_deref(), Ok(expected.as_slice()));
    assert_eq!(decoder.table().len(), 2);
}

#[test]
fn emptied_after_a_late_join() {
    let mut interner = Interner::new(10);
    let mut decoder = Decoder::joined_late();
    decode(&mut decoder, &[0x20, 0x3f, 0xe1, 0x1f], &mut interner).expect("well formed");
    assert!(decoder.table().is_complete());
    assert_eq!(decode(&mut decoder, &[0xbe], &mut interner), Err(Error::IndexOutOfRange));
    assert!(!decoder.table().is_complete());
}

#[test]
fn goes_on_after_an_error() {
    let mut interner = Interner::new(10);
    let mut decoder = Decoder::from_start();
    decode(&mut decoder, &[0x48, 0x03, b'4', b'1', b'8'], &mut interner).expect("well formed");
    assert_eq!(decode(&mut decoder, &[0xbe, 0x80], &mut interner), Err(Error::IndexZero));
    assert_eq!(decoder.table().len(), 0);
    let block = [0xbe, 0x48, 0x03, b'4', b'2', b'9', 0xbe];
    let expected = [Field::Unknown, Field::Status(429), Field::Status(429)];
    assert_eq!(decode(&mut decoder, &block, &mut interner).as_deref(), Ok(expected.as_slice()));
}

#[test]
fn an_unused_decoder_is_small() {
    assert!(size_of::<Decoder>() <= 64);
    assert_eq!(Decoder::joined_late().memory(), 0);
    assert!(size_of::<Field>() <= 20);
}
