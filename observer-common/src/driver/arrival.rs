//! Works out when the bytes that a server read arrived at its socket.
//!
//! A server that computes or sleeps reads late. By the time of the read, calls that were cancelled in time would look
//! expired. TCP keeps two figures for each socket that show more: when the last segment with data arrived, in ticks
//! of the kernel's clock, and how many such segments arrived so far.
//!
//! ```text
//!  all had been read      a segment      another one        the transfer
//!  ───────┴───────────────────┴──────────────┴───────────────────┴──────▶
//!         after_ns                           │◀─── ticks ───────▶│
//! ```
//!
//! - If one segment arrived since everything had been read, the bytes are its bytes: they arrived when it did.
//! - If several did, the bytes arrived after everything had been read, and not later than the last segment.

use crate::record::Waited;

/// The figures of a socket after a transfer that received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Ticks since the last segment with data arrived.
    pub ticks: u32,
    /// Segments with data that arrived so far, modulo 2³².
    pub segments: u32,
    /// Whether the process has read all that had arrived.
    pub drained: bool,
}

/// State of a connection: its last transfer after which everything that had arrived was read.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Arrivals {
    /// Time of that transfer, in nanoseconds of the kernel's monotonic clock; 0 if there was none.
    after_ns: u64,
    /// Segments with data that had arrived by then.
    segments: u32,
    /// Padding.
    _reserved: u32,
}

/// A thread that reads within this time is not late: clients themselves are not more exact.
const AT_ONCE_NS: u64 = 500_000;

/// Ticks by which the difference of two readings may be wrong: one because each reading was somewhere in its tick, and
/// one for a CPU that takes the tick late.
const TICKS_UNSURE: u32 = 2;

impl Arrivals {
    /// Returns how long the bytes of a transfer had been at the socket. `arrival` is what the socket shows at `now_ns`,
    /// after the transfer; a tick is `tick_ns` long; `was_busy` returns whether the thread was busy before it.
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
            // Another thread has read too, and its transfer was handled first.
            0 => u64::MAX,
            1 if ticks < TICKS_UNSURE && !was_busy() => 0,
            1 => since_ns.min((u64::from(ticks) + 1) * tick_ns),
            _ => since_ns,
        };
        if most_ns <= AT_ONCE_NS {
            return Waited::default();
        }
        let least_ns = u64::from(ticks.saturating_sub(TICKS_UNSURE)) * tick_ns;
        let us = |ns: u64| u32::try_from(ns / 1_000).unwrap_or(u32::MAX);
        Waited { least_us: us(least_ns.min(most_ns)), most_us: us(most_ns) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Arrival, Arrivals, Waited};

    const TICK_NS: u32 = 4_000_000;
    const MS: u64 = 1_000_000;
    const NEVER: Waited = Waited { least_us: 0, most_us: u32::MAX };
    const AT_ONCE: Waited = Waited { least_us: 0, most_us: 0 };

    /// Everything is read at this time.
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
        assert_eq!(read(&mut arrivals, 1_000, 0, 2), ms(0, 1_000), "nothing is known before it");
        assert_eq!(read(&mut arrivals, 1_150, 0, 4), ms(0, 150));
        assert_eq!(read(&mut arrivals, 1_152, 0, 9), ms(0, 2));
        assert_eq!(read(&mut arrivals, 1_300, 10, 11), ms(32, 148));
    }

    #[test]
    fn unread_bytes_are_older_than_the_next_transfer() {
        let mut arrivals = Arrivals::default();
        read(&mut arrivals, 1_000, 0, 1);
        let mut part = |at_ms: u64, segments, drained| {
            let arrival = Arrival { ticks: 0, segments, drained };
            arrivals.waited(at_ms * MS, TICK_NS, arrival, || false)
        };
        assert_eq!(part(1_100, 4, false), ms(0, 100));
        assert_eq!(part(1_120, 4, true), ms(0, 120));
        assert_eq!(part(1_220, 5, false), AT_ONCE, "one segment arrived");
        assert_eq!(part(1_230, 6, true), ms(0, 110));
    }

    #[test]
    fn a_busy_thread_may_have_read_as_late_as_the_tick_leaves_open() {
        let mut arrivals = Arrivals::default();
        read(&mut arrivals, 1_000, 0, 1);
        let arrival = Arrival { ticks: 1, segments: 2, drained: true };
        assert_eq!(arrivals.waited(1_500 * MS, TICK_NS, arrival, || true), ms(0, 8));
    }

    #[test]
    fn nothing_is_known_if_another_thread_has_read_too() {
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
