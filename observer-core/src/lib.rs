//! What observer knows without looking at the machine: how records become connections, frames, header fields and
//! calls.
//!
//! No I/O and no clock; times are those of records. Needs stable Rust and nothing else: `cargo test -p observer-core`.
//!
//! Each module uses those above it and none below:
//!
//! | module | what |
//! |---|---|
//! | [`process`] | ids and names of processes |
//! | [`names`] | names that peers choose, interned and bounded |
//! | [`call`] | calls, whatever the protocol: role, direction, code, how much is seen, who is told |
//! | [`record`] | reads the records of the BPF programs |
//! | [`protocol::hpack`] | header blocks (RFC 7541), after a late join too |
//! | [`protocol::grpc`] | what begins and ends a call, and with which code |
//! | [`protocol::http2`] | frames of one end of a connection (RFC 9113) |
//! | [`ends`] | a call that both of whose ends are on this node |
//! | [`statistics`] | what calls add up to, by process, role and method |

#![forbid(unsafe_code)]

pub mod call;
pub mod ends;
pub mod names;
pub mod process;
pub mod protocol;
pub mod record;
pub mod statistics;
