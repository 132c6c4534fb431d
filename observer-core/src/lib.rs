//! From the records of the BPF programs to connections, frames, header fields, calls and their statistics.
//!
//! No I/O and no clock; all times come from records. Needs stable Rust and nothing else: `cargo test -p observer-core`.
//!
//! Each module uses only those above it:
//!
//! | module | what |
//! |---|---|
//! | [`source`] | the trait of sources of records |
//! | [`process`] | the table of processes: ids, names, programs |
//! | [`names`] | names that peers choose, interned and bounded |
//! | [`call`] | calls of any protocol: side, direction, code, coverage, [`CallSink`](call::CallSink) |
//! | [`record`] | reads the records of the BPF programs |
//! | [`protocol::hpack`] | field blocks (RFC 7541), after a late join too |
//! | [`protocol::grpc`] | what starts and ends a call, and with which code |
//! | [`protocol::http2`] | frames of one end of a connection (RFC 9113) |
//! | [`ends`] | calls with both ends on this node |
//! | [`statistics`] | series of calls, by process, side and method |
//! | [`output`] | the trait of consumers of ended calls |
//! | [`edges`] | which service calls which |
//! | [`pipeline`] | the state of one worker: records in, statistics out |

#![forbid(unsafe_code)]

pub mod call;
pub mod edges;
pub mod ends;
pub mod names;
pub mod output;
pub mod pipeline;
pub mod process;
pub mod protocol;
pub mod record;
pub mod source;
pub mod statistics;
