//! Types and decisions that the BPF programs and the daemon share.
//!
//! | module | contents |
//! |---|---|
//! | [`frame`] | the HTTP/2 frame header |
//! | [`scanner`] | finds frames and gRPC messages in a byte stream |
//! | [`sync`] | when a frame boundary is believed |
//! | [`block`] | facts that a field block shows without being decoded |
//! | [`thrift`] | finds Thrift messages in a byte stream |
//! | [`tls`] | what the TLS records of a connection show |
//! | [`driver`] | what happens to the bytes of a transfer |
//! | [`record`] | the records that the BPF programs send to the daemon |
//! | [`counter`] | the events that the BPF programs count |
//! | [`writer`] | how much each process wrote into a ring |
//! | [`layout`] | the fields of kernel structs that the BPF programs read |
//! | [`settings`] | the values that the daemon sets when it loads them |

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

// The tests include the simulator's host, which knows this crate by its name.
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
pub mod thrift;
pub mod tls;
pub mod writer;

/// Reasons why a process is selected.
pub mod selected {
    /// By its pid, or as a child: until it exits.
    pub const FOR_GOOD: u8 = 1;
    /// By its name: until it executes another program.
    pub const BY_NAME: u8 = 2;
    /// Bytes of a cgroup's name that are compared, including a zero at the end. The name of a pod's container has
    /// about 90; these include most of its id.
    pub const CGROUP_NAME: usize = 64;
}
