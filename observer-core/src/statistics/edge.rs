//! The figures of the calls of one method between two services.

use super::{Histogram, Recording};
use crate::call::{Code, Role};

/// The figures of the calls of one method between two services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeSeries {
    /// The time when the series was created, in nanoseconds of the kernel's monotonic clock.
    pub created_ns: u64,
    /// The number of calls by code, in the order of [`Code::ALL`]. Each call counts once, whichever ends are watched.
    pub handled: [u64; Code::ALL.len()],
    /// The number of calls whose code was not seen.
    pub handled_code_not_seen: u64,
    /// The durations that clients' ends have seen.
    pub client: Histogram,
    /// The durations that servers' ends have seen.
    pub server: Histogram,
}

impl EdgeSeries {
    /// Creates a series without calls.
    pub fn new(recording: &Recording, created_ns: u64) -> Self {
        Self {
            created_ns,
            handled: [0; Code::ALL.len()],
            handled_code_not_seen: 0,
            client: Histogram::new(recording),
            server: Histogram::new(recording),
        }
    }

    /// Adds the end of a call, as the end on this side has seen it; with `counts`, as the end that counts the call.
    pub fn add(
        &mut self,
        recording: &Recording,
        role: Role,
        counts: bool,
        code: Option<Code>,
        elapsed_ns: Option<u64>,
    ) {
        if counts {
            let handled = code.and_then(|code| self.handled.get_mut(code as usize));
            *handled.unwrap_or(&mut self.handled_code_not_seen) += 1;
        }
        let histogram = match role {
            Role::Client => &mut self.client,
            Role::Server => &mut self.server,
        };
        if let Some(elapsed_ns) = elapsed_ns {
            histogram.observe(&recording.buckets, elapsed_ns, None);
        }
    }

    /// Adds the figures of another series.
    pub fn merge(&mut self, other: &Self) {
        let Self { created_ns, handled, handled_code_not_seen, client, server } = other;
        self.created_ns = self.created_ns.min(*created_ns);
        for (to, from) in self.handled.iter_mut().zip(handled) {
            *to += from;
        }
        self.handled_code_not_seen += handled_code_not_seen;
        self.client.merge(client);
        self.server.merge(server);
    }

    /// The number of calls.
    pub fn ended(&self) -> u64 {
        self.handled.iter().sum::<u64>() + self.handled_code_not_seen
    }

    /// The number of calls with a code other than OK. A code that was not seen is not an error.
    pub fn failed(&self) -> u64 {
        let ok = self.handled.get(Code::Ok as usize).copied().unwrap_or(0);
        self.handled.iter().sum::<u64>() - ok
    }

    /// The number of calls of each code that has any; last, those whose code was not seen.
    pub fn codes(&self) -> impl Iterator<Item = (Option<Code>, u64)> {
        let codes = Code::ALL.into_iter().map(Some).zip(self.handled);
        codes.chain([(None, self.handled_code_not_seen)]).filter(|(_, count)| *count > 0)
    }
}
