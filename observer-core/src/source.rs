//! Where records come from.
//!
//! A worker reads one source. In the daemon that is a ring buffer of the BPF programs; the simulator is another one.
//! To add one: implement [`Source`], and give it to a worker.

use std::{io, time::Duration};

/// A queue of records, each written by one BPF program: in their order, whole or not at all.
pub trait Source {
    /// Passes on the records that are there, at most `limit`. Returns how many these were.
    fn drain(&mut self, limit: usize, take: impl FnMut(&[u8])) -> usize;

    /// Waits for many records, or for a wakeup, but no longer than `timeout`.
    fn wait(&mut self, timeout: Duration) -> io::Result<()>;
}
