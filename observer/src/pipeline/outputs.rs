//! All outputs of one worker.

use observer_core::{ends::Call, process::ProcessId, statistics::Statistics};

use crate::{
    failures::Failures,
    output::{Names, Output as _},
    process::ProcessSource,
};

/// All outputs of one worker.
#[derive(Debug)]
pub(super) struct Outputs {
    /// What Prometheus, the page and `top` are told.
    pub(super) statistics: Statistics,
    /// Lines of failed calls (`--log-errors`).
    pub(super) failures: Option<Failures>,
}

impl Outputs {
    /// For another worker: bounds and pace are those of both.
    #[must_use]
    pub(super) fn sharing(&self) -> Self {
        let Self { statistics, failures } = self;
        Self {
            statistics: statistics.sharing(),
            failures: failures.as_ref().map(Failures::sharing),
        }
    }

    /// A call has ended.
    pub(super) fn call<S: ProcessSource>(&mut self, call: &Call, names: &Names<'_, S>) {
        let Self { statistics, failures } = self;
        if let Some(failures) = failures {
            failures.call(call, statistics.key(call.series), names);
        }
        statistics.call(call, None, names);
    }

    /// As [`Output::tick`].
    pub(super) fn tick(&mut self, now_ns: u64) {
        let Self { statistics, failures } = self;
        statistics.tick(now_ns);
        if let Some(failures) = failures {
            failures.tick(now_ns);
        }
    }

    /// As [`Output::forget`].
    pub(super) fn forget(&mut self, process: ProcessId, successor: Option<ProcessId>) {
        let Self { statistics, failures } = self;
        statistics.forget(process, successor);
        if let Some(failures) = failures {
            failures.forget(process, successor);
        }
    }
}
