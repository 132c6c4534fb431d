//! What observer knows without looking at the machine: how records become connections, frames, header fields and
//! calls.
//!
//! No I/O and no clock; times are those of records. Needs stable Rust and nothing else: `cargo test -p observer-core`.
//!
//! Each module uses those above it and none below:
//!
//! | module | what |
//! |---|---|
//! | [`source`] | the trait of what records come from |
//! | [`process`] | the table of processes: ids, names, what runs in them |
//! | [`names`] | names that peers choose, interned and bounded |
//! | [`call`] | calls of any protocol: role, direction, code, coverage, [`CallSink`](call::CallSink) |
//! | [`record`] | reads the records of the BPF programs |
//! | [`protocol::hpack`] | header blocks (RFC 7541), after a late join too |
//! | [`protocol::grpc`] | what begins and ends a call, and with which code |
//! | [`protocol::http2`] | frames of one end of a connection (RFC 9113) |
//! | [`ends`] | calls of which both ends are on this node |
//! | [`statistics`] | series of calls, by process, role and method |
//! | [`output`] | the trait of what is made of calls that have ended |
//! | [`pipeline`] | the state of one worker: records in, statistics out |

#![forbid(unsafe_code)]

pub mod call;
pub mod ends;
pub mod names;
pub mod output;
pub mod pipeline;
pub mod process;
pub mod protocol;
pub mod record;
pub mod source;
pub mod statistics;
