//! HPACK (RFC 7541) for a listener that may join late.
//!
//! A [`Decoder`] follows the field blocks of one direction of one connection, in their order, and reports each field by
//! its meaning to gRPC: a [`Field`]. It keeps no strings. An entry of its dynamic table is a meaning and a size, and
//! paths are [`PathId`](crate::names::PathId)s from an [`Interner`](crate::names::Interner). So a block of references
//! costs array lookups only.
//!
//! ```text
//! block ─▶ decoder ── references ──▶ static_table, table ──▶ Field
//!             └────── literals ──▶ string ──▶ huffman ──▶ field ──▶ Field, interner
//! ```
//!
//! A path that comes as the same literal again is found by its Huffman code, without decoding it. A block of references
//! that comes again while the table is the same costs one comparison ([`Digester`]).
//!
//! A field that the decoder does not know is [`Field::Unknown`], never something else. The module `table` has the
//! reasons why that holds after a late join.
//!
//! # Bounds
//!
//! | what | bound |
//! |---|---|
//! | dynamic table | the encoder's maximum size, at most [`MAX_TABLE_SIZE`]; memory in proportion |
//! | a path | [`MAX_PATH_LEN`](crate::names::MAX_PATH_LEN) octets, longer ones are [`PathId::OTHER`](crate::names::PathId::OTHER) |
//! | paths | the interner's |
//! | time | linear in the block's length |
//!
//! The values of other fields are skipped, unless they are inserted into the dynamic table: then their length counts.
//! So some malformed strings are not errors here.

mod decoder;
mod digester;
mod error;
mod field;
mod huffman;
mod integer;
mod static_table;
mod string;
mod table;

#[cfg(test)]
pub(crate) mod tests;

pub use decoder::Decoder;
pub use digester::Digester;
pub use error::Error;
pub use field::{ContentType, Field, RequestMethod, Timeout, TraceParent};
pub use table::MAX_TABLE_SIZE;

use crate::names::Interner;

/// The field with this name and value, which are text and not compressed.
pub fn field_of_text(name: &[u8], value: &[u8], interner: &mut Interner) -> Field {
    field::Name::of_text(name, value, interner)
}
