//! The kernel's monotonic clock, and its difference from the wall clock.

use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

/// The time of the kernel's monotonic clock, in nanoseconds. All timestamps in the daemon are of this clock.
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

fn nanoseconds(id: ClockId) -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(id);
    tv_sec as u64 * 1_000_000_000 + tv_nsec as u64
}

/// The length of a tick of the kernel (a jiffy), in nanoseconds: the resolution of the coarse clock.
pub fn tick_ns() -> u32 {
    clock_getres(ClockId::MonotonicCoarse).tv_nsec as u32
}

/// The difference between the wall clock and the kernel's monotonic clock.
///
/// To be read for each exposition: the wall clock may be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// How far the wall clock is ahead, in nanoseconds.
    pub ahead_ns: u64,
}

impl Clock {
    /// Reads both clocks.
    pub fn read() -> Self {
        let monotonic = monotonic_ns();
        Self { ahead_ns: nanoseconds(ClockId::Realtime).saturating_sub(monotonic) }
    }

    /// Converts a time of the monotonic clock to the time since the Unix epoch, both in nanoseconds.
    pub fn unix_ns(self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_add(self.ahead_ns)
    }

    /// Converts a time of the monotonic clock, in nanoseconds, to seconds since the Unix epoch.
    pub fn unix_seconds(self, monotonic_ns: u64) -> f64 {
        self.unix_ns(monotonic_ns) as f64 / 1e9
    }
}
