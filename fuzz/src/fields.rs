//! Header fields, as blocks and as what they mean.

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

/// The field as it is read where it stands alone, written out.
pub fn meaning(name: &[u8], value: &[u8], interner: &mut Interner) -> Field {
    let mut block = vec![0];
    for text in [name, value] {
        string(text, &mut block);
    }
    let fields = decode(&mut Decoder::from_start(), &block, interner).unwrap_or_default();
    *fields.first().expect("a literal is a field")
}

/// A length in a prefix of seven bits (RFC 7541 section 5.1), and the octets.
fn string(text: &[u8], block: &mut Vec<u8>) {
    if let Some(mut rest) = text.len().checked_sub(127) {
        block.push(127);
        while rest >= 128 {
            block.push(rest as u8 | 128);
            rest >>= 7;
        }
        block.push(rest as u8);
    } else {
        block.push(text.len() as u8);
    }
    block.extend(text);
}
