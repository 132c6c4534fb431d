//! What is made of calls that have ended: each output gets every one.
//!
//! To add one: implement [`Output`], and name it in `pipeline/outputs.rs`.

#![forbid(unsafe_code)]

use observer_core::{
    call::{CallKey, CallSink as _},
    ends::Call,
    names::Interner,
    process::ProcessId,
    statistics::Statistics,
};

use crate::process::{ProcessSource, Processes};

/// Spells out the ids in a call.
#[derive(Debug)]
pub struct Names<'a, S> {
    /// Paths and texts.
    pub interner: &'a Interner,
    /// Processes.
    pub processes: &'a Processes<S>,
}

/// Something that is made of calls that have ended.
pub trait Output {
    /// A call has ended; `key` is that of its series, if that is still there.
    fn call<S: ProcessSource>(&mut self, call: &Call, key: Option<CallKey>, names: &Names<'_, S>);

    /// So late it is now: comes about once a second.
    fn tick(&mut self, now_ns: u64);

    /// Forgets a process whose time to live is over, or passes what is known of it on to its heir.
    fn forget(&mut self, process: ProcessId, successor: Option<ProcessId>);
}

impl Output for Statistics {
    fn call<S: ProcessSource>(&mut self, call: &Call, _: Option<CallKey>, _: &Names<'_, S>) {
        self.ended(call.series, call.ended);
    }

    fn tick(&mut self, now_ns: u64) {
        self.set_time(now_ns);
    }

    fn forget(&mut self, process: ProcessId, successor: Option<ProcessId>) {
        match successor {
            Some(successor) => self.merge_into_successor(process, successor),
            None => self.forget_process(process),
        }
    }
}
