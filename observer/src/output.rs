//! What is made of calls that have ended.
//!
//! [`Outputs`] gives each call to all of them. To add one: implement [`Output`], and name it there.

#![forbid(unsafe_code)]

use observer_core::{
    call::{CallKey, CallSink as _},
    ends::Call,
    names::Interner,
    process::ProcessId,
    statistics::Statistics,
};

use crate::{
    failures::Failures,
    process::{ProcessSource, Processes},
};

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

    /// Nothing is to be known of a process any more, or what was known of it is the heir's.
    fn forget(&mut self, process: ProcessId, heir: Option<ProcessId>);
}

impl Output for Statistics {
    fn call<S: ProcessSource>(&mut self, call: &Call, _: Option<CallKey>, _: &Names<'_, S>) {
        self.ended(call.series, call.ended);
    }

    fn tick(&mut self, now_ns: u64) {
        self.set_time(now_ns);
    }

    fn forget(&mut self, process: ProcessId, heir: Option<ProcessId>) {
        match heir {
            Some(heir) => self.hand_over(process, heir),
            None => self.forget_process(process),
        }
    }
}

/// All outputs of one worker.
#[derive(Debug)]
pub struct Outputs {
    /// What Prometheus, the page and `top` are told.
    pub statistics: Statistics,
    /// Lines of failed calls (`--log-errors`).
    pub failures: Option<Failures>,
}

impl Outputs {
    /// For another worker: bounds and pace are those of both.
    #[must_use]
    pub fn sharing(&self) -> Self {
        let Self { statistics, failures } = self;
        Self {
            statistics: statistics.sharing(),
            failures: failures.as_ref().map(Failures::sharing),
        }
    }

    /// A call has ended.
    pub fn call<S: ProcessSource>(&mut self, call: &Call, names: &Names<'_, S>) {
        let Self { statistics, failures } = self;
        if let Some(failures) = failures {
            failures.call(call, statistics.key(call.series), names);
        }
        statistics.call(call, None, names);
    }

    /// As [`Output::tick`].
    pub fn tick(&mut self, now_ns: u64) {
        let Self { statistics, failures } = self;
        statistics.tick(now_ns);
        if let Some(failures) = failures {
            failures.tick(now_ns);
        }
    }

    /// As [`Output::forget`].
    pub fn forget(&mut self, process: ProcessId, heir: Option<ProcessId>) {
        let Self { statistics, failures } = self;
        statistics.forget(process, heir);
        if let Some(failures) = failures {
            failures.forget(process, heir);
        }
    }
}
