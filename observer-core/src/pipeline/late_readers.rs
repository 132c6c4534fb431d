//! Processes that read late what had arrived in time.

use rustc_hash::FxHashMap;

use crate::{
    call::Direction,
    process::ProcessId,
    record::{Bytes, Waited},
};

/// For how long one that was seen to read late is believed to do it again.
const FOR_NS: u64 = 10_000_000_000;

/// How long bytes may have waited of which the kernel says nothing: by two ticks of its clock, where that is slowest (100 a
/// second), it does not notice.
const UNNOTICED_US: u32 = 20_000;

/// Most of them that are remembered.
const MAX: usize = 4_096;

/// When processes were last seen to read late.
///
/// A thread that waits for bytes reads them at once. One that sleeps in a handler does not, and looks the same
/// in the kernel if it wakes up just after the bytes came. But then it has slept too long at other times.
#[derive(Debug, Default)]
pub(super) struct LateReaders(FxHashMap<ProcessId, u64>);

impl LateReaders {
    /// The process's bytes had waited at the socket.
    pub(super) fn read_late(&mut self, process: ProcessId, now_ns: u64) {
        if self.0.len() >= MAX && !self.0.contains_key(&process) {
            self.0.retain(|_, at_ns| now_ns.saturating_sub(*at_ns) < FOR_NS);
        }
        if self.0.len() < MAX || self.0.contains_key(&process) {
            self.0.insert(process, now_ns);
        }
    }

    /// How long these bytes may have waited.
    pub(super) fn waited(&self, process: ProcessId, now_ns: u64, bytes: &Bytes<'_>) -> Waited {
        let Waited { least_us, most_us } = bytes.waited;
        let is_late = bytes.direction == Direction::Received
            && !self.0.is_empty()
            && self.0.get(&process).is_some_and(|&at_ns| now_ns.saturating_sub(at_ns) < FOR_NS);
        Waited { least_us, most_us: if is_late { most_us.max(UNNOTICED_US) } else { most_us } }
    }
}
