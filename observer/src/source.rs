//! Where records come from.
//!
//! A worker reads one source. That of the daemon is a [ring](crate::kernel::Ring) of the BPF programs, which says
//! more of itself by counters ([`Probes`](crate::kernel::Probes)); the simulator is another one. To add one:
//! implement [`Source`], and give it to a worker.

use std::{io, time::Duration};

/// Records, each as one thing writes them: in their order, whole or not at all.
pub trait Source {
    /// Hands over those that are there, at most `limit`, and says how many these were.
    fn drain(&mut self, limit: usize, take: impl FnMut(&[u8])) -> usize;

    /// Waits until there are many, or somebody wants something of whoever waits, but no longer than `timeout`.
    fn wait(&mut self, timeout: Duration) -> io::Result<()>;
}
