//! What the BPF programs and the daemon share.
//!
//! [`frame`] is the HTTP/2 frame header, [`scanner`] finds the frames and gRPC messages in a byte
//! stream, [`record`] is how the BPF programs report to the daemon what they found, [`counter`] what
//! they count, [`driver`] what is done with a transfer's bytes, [`block`] what a header block shows
//! undecoded, [`sync`] when a frame boundary is believed, [`tls`] what the records of TLS show,
//! [`writer`] who fills a ring, [`layout`] the fields of the running kernel's structs that they
//! read, and [`settings`] what the daemon sets as it loads them.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

// By this name the tests know it, where the simulator's host is theirs.
#[cfg(test)]
extern crate self as observer_common;

pub mod block;
pub mod counter;
pub mod driver;
pub mod frame;
pub mod layout;
pub mod record;
pub mod scanner;
pub mod settings;
pub mod sync;
pub mod tls;
pub mod writer;

/// Why a process is selected.
pub mod selected {
    /// By its number, or as a child: until it exits.
    pub const FOR_GOOD: u8 = 1;
    /// By its name: until it executes another program.
    pub const BY_NAME: u8 = 2;
    /// Bytes of a control group's name that are compared, with a zero behind them. That of a pod's container
    /// has some 90, of which these have most of its id.
    pub const CGROUP_NAME: usize = 64;
}
