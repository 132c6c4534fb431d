//! Header fields, as field blocks and by their meaning.

use loona_hpack::encoder::encode_integer_into;
use observer_core::{
    names::Interner,
    protocol::hpack::{Decoder, Error, Field},
};

/// All fields of a block.
pub fn decode(
    decoder: &mut Decoder,
    block: &[u8],
    interner: &mut Interner,
) -> Result<Vec<Field>, Error> {
    let mut fields = Vec::new();
    decoder.decode(block, interner, |field| fields.push(field)).map(|()| fields)
}

/// The meaning of a field, decoded from a block with that literal alone.
pub fn meaning(name: &[u8], value: &[u8], interner: &mut Interner) -> Field {
    let mut block = vec![0];
    for text in [name, value] {
        encode_integer_into(text.len(), 7, 0, &mut block).expect("a vector takes all bytes");
        block.extend(text);
    }
    let fields = decode(&mut Decoder::from_start(), &block, interner).unwrap_or_default();
    *fields.first().expect("a literal is a field")
}
