//! The trait [`Source`]: a place that records come from.
//!
//! A worker reads one source. In the daemon that is a ring buffer of the BPF programs; the simulator is another one.
//! To add a source: implement [`Source`], and give it to a worker.

use std::{io, time::Duration};

/// A queue of records in the order in which they were written, each whole or not at all.
pub trait Source {
    /// Passes the available records to `take`, at most `limit`. Returns their number.
    fn drain(&mut self, limit: usize, take: impl FnMut(&[u8])) -> usize;

    /// Waits until there are many records, or for a wakeup, or until `timeout` has passed.
    fn wait(&mut self, timeout: Duration) -> io::Result<()>;
}
