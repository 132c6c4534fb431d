//! TLS as it passes a socket: where records begin and end, what the hellos say, and whether all plaintext was seen.
//!
//! The plaintext of a TLS connection is seen elsewhere, where a library returns or takes it. Nothing there shows a gap.
//! The socket does: each record has its length in clear, and a cipher suite adds the same number of bytes to each record.
//! So the records say how many bytes of plaintext there are.
//!
//! - [`records`] follows the records of one direction: what kind they are and how long.
//! - [`hello`] reads the first handshake message of a direction: the client's random, by which a library's connection
//!   is found, whether HTTP/2 is spoken, and the cipher suite.
//! - [`cipher`] knows how many bytes a suite adds.
//! - [`balance`] compares the records with the plaintext that was seen.
//! - [`cookie`] says what a probed place in a library is.
//!
//! No key is used and nothing is decrypted. As in the [scanner](crate::scanner), nothing indexes with a run-time value,
//! and loops have constant bounds, so that the kernel's verifier can follow.

pub mod balance;
pub mod cipher;
pub mod cookie;
pub mod hello;
pub mod records;

#[cfg(test)]
mod tests;
