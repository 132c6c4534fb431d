//! The trait [`Output`]: what is made of calls that have ended. Each output gets every call.
//!
//! To add an output: implement [`Output`], and give it to the [`Pipeline`](crate::pipeline::Pipeline).

use crate::{
    call::CallKey,
    ends::{Call, Ends},
    names::Interner,
    process::{ProcessId, Processes},
    statistics::Statistics,
};

/// The tables that resolve the ids in a call.
#[derive(Debug)]
pub struct Names<'a> {
    /// Paths and texts by their ids.
    pub interner: &'a Interner,
    /// Processes by their ids.
    pub processes: &'a Processes,
    /// The ends of connections that are watched.
    pub ends: &'a Ends,
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

    /// Whether the parents in `traceparent`, and `tracestate`, have to be kept; by default not.
    fn needs_parents(&self) -> bool {
        false
    }

    /// Whether the authorities of requests have to be kept; by default not.
    fn needs_authorities(&self) -> bool {
        false
    }

    /// Whether the services of processes have to be settled; by default not.
    fn needs_services(&self) -> bool {
        false
    }

    /// Takes a call that has ended; `key` is that of its series, if the series is still there. An output that exports a
    /// span for the call adds it to the call.
    fn call(&mut self, call: &mut Call, key: Option<CallKey>, names: &Names<'_>);

    /// Takes the time in nanoseconds of the kernel's monotonic clock, when all available records have been handled.
    fn settle(&mut self, _now_ns: u64, _names: &Names<'_>) {}

    /// Takes the time in nanoseconds of the kernel's monotonic clock, about once a second.
    fn tick(&mut self, now_ns: u64);

    /// Stops taking anything new while memory is short, or goes on with it.
    fn stop(&mut self, _stopped: bool) {}

    /// Forgets a process that has expired, or gives what is known of it to its successor.
    fn forget(&mut self, _process: ProcessId, _successor: Option<ProcessId>) {}
}

/// An output that may be off.
impl<O: Output> Output for Option<O> {
    fn sharing(&self) -> Self {
        self.as_ref().map(O::sharing)
    }

    fn max_texts(&self) -> usize {
        self.as_ref().map_or(0, O::max_texts)
    }

    fn needs_parents(&self) -> bool {
        self.as_ref().is_some_and(O::needs_parents)
    }

    fn needs_authorities(&self) -> bool {
        self.as_ref().is_some_and(O::needs_authorities)
    }

    fn needs_services(&self) -> bool {
        self.as_ref().is_some_and(O::needs_services)
    }

    fn call(&mut self, call: &mut Call, key: Option<CallKey>, names: &Names<'_>) {
        if let Some(output) = self {
            output.call(call, key, names);
        }
    }

    fn settle(&mut self, now_ns: u64, names: &Names<'_>) {
        if let Some(output) = self {
            output.settle(now_ns, names);
        }
    }

    fn tick(&mut self, now_ns: u64) {
        if let Some(output) = self {
            output.tick(now_ns);
        }
    }

    fn stop(&mut self, stopped: bool) {
        if let Some(output) = self {
            output.stop(stopped);
        }
    }

    fn forget(&mut self, process: ProcessId, successor: Option<ProcessId>) {
        if let Some(output) = self {
            output.forget(process, successor);
        }
    }
}

impl Output for Statistics {
    fn sharing(&self) -> Self {
        Self::sharing(self)
    }

    fn call(&mut self, call: &mut Call, _: Option<CallKey>, _: &Names<'_>) {
        self.ended_with(call.series, &call.ended, call.span);
    }

    fn tick(&mut self, now_ns: u64) {
        self.set_time(now_ns);
    }

    fn stop(&mut self, stopped: bool) {
        Self::stop(self, stopped);
    }

    fn forget(&mut self, process: ProcessId, successor: Option<ProcessId>) {
        match successor {
            Some(successor) => self.merge_into_successor(process, successor),
            None => self.forget_process(process),
        }
    }
}

/// Two outputs: each gets every call, the first one before the second.
impl<A: Output, B: Output> Output for (A, B) {
    fn sharing(&self) -> Self {
        (self.0.sharing(), self.1.sharing())
    }

    fn max_texts(&self) -> usize {
        self.0.max_texts().max(self.1.max_texts())
    }

    fn needs_parents(&self) -> bool {
        self.0.needs_parents() || self.1.needs_parents()
    }

    fn needs_authorities(&self) -> bool {
        self.0.needs_authorities() || self.1.needs_authorities()
    }

    fn needs_services(&self) -> bool {
        self.0.needs_services() || self.1.needs_services()
    }

    fn call(&mut self, call: &mut Call, key: Option<CallKey>, names: &Names<'_>) {
        self.0.call(call, key, names);
        self.1.call(call, key, names);
    }

    fn settle(&mut self, now_ns: u64, names: &Names<'_>) {
        self.0.settle(now_ns, names);
        self.1.settle(now_ns, names);
    }

    fn tick(&mut self, now_ns: u64) {
        self.0.tick(now_ns);
        self.1.tick(now_ns);
    }

    fn stop(&mut self, stopped: bool) {
        self.0.stop(stopped);
        self.1.stop(stopped);
    }

    fn forget(&mut self, process: ProcessId, successor: Option<ProcessId>) {
        self.0.forget(process, successor);
        self.1.forget(process, successor);
    }
}
