//! HPACK (RFC 7541), for one who only listens and may have come late.
//!
//! A [`Decoder`] follows the header blocks of one direction of one connection, in their order,
//! and reports each field as what it means to gRPC: a [`Field`]. It keeps no strings. An entry of
//! its dynamic table is a meaning and a size, and paths are [`PathId`](crate::names::PathId)s given out by an
//! [`Interner`](crate::names::Interner), so that a block of nothing but references costs array look-ups only.
//!
//! ```text
//! block ─▶ decoder ── references ──▶ static_table, table ──▶ Field
//!             └────── literals ──▶ string ──▶ huffman ──▶ field ──▶ Field, interner
//! ```
//!
//! A path that comes as the same literal again is found by its code, without decoding it. A block of nothing but
//! references that comes again while the table is the same is not even looked up ([`Digester`]).
//!
//! What it does not know it reports as [`Field::Unknown`], never as something else. The reasons
//! why that holds after a late join are in `table`.
//!
//! # Bounds
//!
//! | what | bound |
//! |---|---|
//! | dynamic table | the encoder's maximum size, at most [`MAX_TABLE_SIZE`]; memory in proportion |
//! | a path | [`MAX_PATH_LEN`](crate::names::MAX_PATH_LEN) octets, longer ones are [`PathId::OTHER`](crate::names::PathId::OTHER) |
//! | paths | the interner's |
//! | work | linear in the block's length |
//!
//! Values of fields of no interest are skipped unread, unless they are inserted into the dynamic
//! table: then their length counts. So not every malformed string is an error here.

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
pub use field::{ContentType, Field, RequestMethod, Timeout};
pub use table::MAX_TABLE_SIZE;
