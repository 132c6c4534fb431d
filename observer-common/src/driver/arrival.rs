//! When the bytes that a server has read arrived at its socket.
//!
//! A server that computes or sleeps reads late: by the time at which it reads, calls that were cancelled in time look
//! expired. TCP keeps two figures about each socket that say more: when the last segment with data arrived, in ticks
//! of the kernel's clock, and how many such segments arrived so far.
//!
//! ```text
//!  all had been read      a segment      another one        the transfer
//!  ───────┴───────────────────┴──────────────┴───────────────────┴──────▶
//!         after_ns                           │◀─── ticks ───────▶│
//! ```
//!
//! - If one segment arrived since all had been read, the bytes are its bytes: they arrived when it did.
//! - If several did, the bytes arrived after all had been read, and not later than the last segment.

use crate::record::Waited;

/// What a socket shows of a transfer that has received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Ticks since the last segment with data arrived.
    pub ticks: u32,
    /// Segments with data that arrived so far, modulo 2³².
    pub segments: u32,
    /// Whether the process has read all that had arrived.
    pub drained: bool,
}

/// What is kept of a connection to work that out.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Arrivals {
    /// When the process had read all that had arrived, in nanoseconds of the kernel's monotonic clock; 0 if it was not
    /// seen to.
    after_ns: u64,
    /// Segments with data that had arrived then.
    segments: u32,
    /// Padding.
    _reserved: u32,
}

/// A thread that reads within this time has not been late: clients themselves are not more exact.
const AT_ONCE_NS: u64 = 500_000;

/// Ticks that a difference of two readings may be off: one for where in its tick each was, and one for a processor
/// that takes the tick late.
const TICKS_UNSURE: u32 = 2;

impl Arrivals {
    /// Takes what the socket shows after a transfer, looked at `now_ns`; a tick is `tick_ns` long. `was_busy` says
    /// whether the thread that made the transfer had done something else before it.
    #[inline(always)]
    pub fn waited(
        &mut self,
        now_ns: u64,
        tick_ns: u32,
        arrival: Arrival,
        was_busy: impl FnOnce() -> bool,
    ) -> Waited {
        let Arrival { ticks, segments, drained } = arrival;
        let since_ns = now_ns.saturating_sub(self.after_ns);
        let new = segments.wrapping_sub(self.segments);
        if drained {
            self.after_ns = now_ns;
            self.segments = segments;
        }
        let tick_ns = u64::from(tick_ns);
        let most_ns = match new {
            // Another thread has read as well, and was looked at first.
            0 => u64::MAX,
            1 if ticks < TICKS_UNSURE && !was_busy() => 0,
            1 => since_ns.min((u64::from(ticks) + 1) * tick_ns),
            _ => since_ns,
        };
        if most_ns <= AT_ONCE_NS {
            return Waited::default();
        }
        let least_ns = u64::from(ticks.saturating_sub(TICKS_UNSURE)) * tick_ns;
        Waited { least_us: microseconds(least_ns.min(most_ns)), most_us: microseconds(most_ns) }
    }
}

#[inline(always)]
const fn microseconds(ns: u64) -> u32 {
    let us = ns / 1_000;
    if us < u32::MAX as u64 { us as u32 } else { u32::MAX }
}

#[cfg(test)]
mod tests {
    use super::{Arrival, Arrivals, Waited};

    const TICK_NS: u32 = 4_000_000;
    const MS: u64 = 1_000_000;
    const NEVER: Waited = Waited { least_us: 0, most_us: u32::MAX };
    const AT_ONCE: Waited = Waited { least_us: 0, most_us: 0 };

    /// Read at these milliseconds, all of it.
    fn read(arrivals: &mut Arrivals, at_ms: u64, ticks: u32, segments: u32) -> Waited {
        let arrival = Arrival { ticks, segments, drained: true };
        arrivals.waited(at_ms * MS, TICK_NS, arrival, || false)
    }

    fn ms(least: u32, most: u32) -> Waited {
        Waited { least_us: least * 1_000, most_us: most * 1_000 }
    }

    #[test]
    fn one_segment_arrived_when_the_last_did() {
        let mut arrivals = Arrivals::default();
        assert_eq!(read(&mut arrivals, 1_000, 0, 1), AT_ONCE, "the connection's first");
        assert_eq!(read(&mut arrivals, 2_000, 1, 2), AT_ONCE);
        assert_eq!(read(&mut arrivals, 3_000, 2, 3), ms(0, 12));
        assert_eq!(read(&mut arrivals, 4_000, 37, 4), ms(140, 152));
        assert_eq!(read(&mut arrivals, 4_100, 37, 5), ms(100, 100), "not before all had been read");
    }

    #[test]
    fn several_segments_arrived_since_all_had_been_read() {
        let mut arrivals = Arrivals::default();
        assert_eq!(read(&mut arrivals, 1_000, 0, 2), ms(0, 1_000), "of the first nothing is known");
        assert_eq!(read(&mut arrivals, 1_150, 0, 4), ms(0, 150));
        assert_eq!(read(&mut arrivals, 1_152, 0, 9), ms(0, 2));
        assert_eq!(read(&mut arrivals, 1_300, 10, 11), ms(32, 148));
    }

    #[test]
    fn what_is_left_unread_is_older_than_the_next_transfer() {
        let mut arrivals = Arrivals::default();
        read(&mut arrivals, 1_000, 0, 1);
        let mut part = |at_ms: u64, segments, drained| {
            let arrival = Arrival { ticks: 0, segments, drained };
            arrivals.waited(at_ms * MS, TICK_NS, arrival, || false)
        };
        assert_eq!(part(1_100, 4, false), ms(0, 100));
        assert_eq!(part(1_120, 4, true), ms(0, 120));
        assert_eq!(part(1_220, 5, false), AT_ONCE, "of the one segment that arrived");
        assert_eq!(part(1_230, 6, true), ms(0, 110));
    }

    #[test]
    fn a_busy_thread_may_have_kept_it_waiting_for_as_long_as_the_tick_leaves_open() {
        let mut arrivals = Arrivals::default();
        read(&mut arrivals, 1_000, 0, 1);
        let arrival = Arrival { ticks: 1, segments: 2, drained: true };
        assert_eq!(arrivals.waited(1_500 * MS, TICK_NS, arrival, || true), ms(0, 8));
    }

    #[test]
    fn of_what_another_thread_has_read_too_nothing_is_known() {
        let mut arrivals = Arrivals::default();
        read(&mut arrivals, 1_000, 0, 1);
        assert_eq!(read(&mut arrivals, 1_001, 0, 1), NEVER);
        let arrival = Arrival { ticks: u32::MAX, segments: 0, drained: false };
        assert_eq!(
            arrivals.waited(u64::MAX, u32::MAX, arrival, || true),
            Waited { least_us: u32::MAX, most_us: u32::MAX }
        );
    }
}
