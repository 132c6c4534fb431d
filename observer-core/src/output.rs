//! The trait [`Output`]: what is made of calls that have ended, next to their statistics.
//!
//! To add an output: implement [`Output`], and give it to the [`Pipeline`](crate::pipeline::Pipeline).

use crate::{ends::Call, names::Interner, process::Processes, statistics::Statistics};

/// The tables that resolve the ids in a call.
#[derive(Debug)]
pub struct Names<'a> {
    /// Paths and texts by their ids.
    pub interner: &'a Interner,
    /// Processes by their ids.
    pub processes: &'a Processes,
    /// The key of each series by its id.
    pub statistics: &'a Statistics,
}

/// A consumer of ended calls.
pub trait Output {
    /// Another output of the same kind, for another worker, with the same bounds for both together.
    #[must_use]
    fn sharing(&self) -> Self;

    /// How many texts of `grpc-message` have to be kept until their calls end; by default 0.
    fn max_texts(&self) -> usize {
        0
    }

    /// Takes a call that has ended. It is already in the statistics.
    fn call(&mut self, call: &Call, names: &Names<'_>);

    /// Takes the time in nanoseconds of the kernel's monotonic clock, about once a second.
    fn tick(&mut self, now_ns: u64);
}

/// An output that may be off.
impl<O: Output> Output for Option<O> {
    fn sharing(&self) -> Self {
        self.as_ref().map(O::sharing)
    }

    fn max_texts(&self) -> usize {
        self.as_ref().map_or(0, O::max_texts)
    }

    fn call(&mut self, call: &Call, names: &Names<'_>) {
        if let Some(output) = self {
            output.call(call, names);
        }
    }

    fn tick(&mut self, now_ns: u64) {
        if let Some(output) = self {
            output.tick(now_ns);
        }
    }
}
