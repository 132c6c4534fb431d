//! Whether a call that its client gave up had run out of time, or was cancelled.
//!
//! On the wire both are the same reset. What tells them apart is when it comes: a deadline cannot pass
//! before its time, and who cancels at any time hardly does it just then. But neither the client's clock
//! nor its thought is on the wire, only when the bytes passed a socket:
//!
//! ```text
//!  the client          the headers are           the deadline, at the     the headers' time
//!  counts from here    written                   client: unknown          + grpc-timeout
//!        │── a wait ───────│                           │                        │
//! ───────┴─────────────────┴───────────── … ───────────┴────────────────────────┴─────▶
//!                                            cancelled │  one of the two        │ expired
//! ```
//!
//! - The deadline comes *early* by what the client took to write the headers, and by what its library
//!   rounded `grpc-timeout` up. Seen from the headers on: at most 1 ms with grpc-go, 2 ms with tonic, 6.7 ms
//!   with grpc-js, 1 % of the timeout with the C core.
//! - A cancel comes *late* by what the client took to write the reset.
//!
//! When the bytes passed the socket is known to lie between two times: a server may read late what arrived in time, and
//! TCP shows when it arrived, to some ticks of the kernel's clock. What is certain for both is said.
//!
//! Both hold while a thread that can run does run. Where processors are short of time no bound holds (of
//! 20 ms all 20, of 1 s 709 ms, with two busy loops for each processor), and little is said.

const MS: u64 = 1_000_000;

/// How early a deadline may come, at least.
const EARLY_NS: u64 = 8 * MS;

/// … and by which part of the timeout, as libraries round it.
const ROUNDED: u64 = 100;

/// How late a cancel may come.
const LATE_NS: u64 = MS / 2;

/// Both, where processors are short of time.
const SHORT_NS: u64 = 2_000 * MS;

/// For so long before a call none may have been short, for it to have begun in time.
const BEFORE_NS: u64 = 1_000 * MS;

/// Why a client gave a call up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The deadline had not passed.
    Canceled,
    /// It had.
    DeadlineExceeded,
    /// One of the two.
    Unclear,
}

/// What is known of `grpc-timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// There is none.
    Absent,
    /// There may be one, which was not decoded.
    Unknown,
    /// In nanoseconds.
    Of(u64),
}

/// What is known of a call's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// When its request headers passed the socket: not before the first, nor after the second.
    pub started_ns: [u64; 2],
    /// How long it was given from then on.
    pub timeout: Timeout,
}

impl Deadline {
    /// Why the call was cancelled, by a reset that passed the socket between those times; `stall_free_since` is since when
    /// threads that could run have run.
    pub fn reason(self, cancelled_ns: [u64; 2], stall_free_since: u64) -> Reason {
        let timeout_ns = match self.timeout {
            Timeout::Absent => return Reason::Canceled,
            Timeout::Unknown => return Reason::Unclear,
            Timeout::Of(ns) => ns,
        };
        let [started_first_ns, started_last_ns] = self.started_ns;
        let [cancelled_first_ns, cancelled_last_ns] = cancelled_ns;
        let (early_ns, late_ns) = if started_last_ns >= stall_free_since.saturating_add(BEFORE_NS) {
            (EARLY_NS.max(timeout_ns / ROUNDED), LATE_NS)
        } else {
            (SHORT_NS.max(timeout_ns / ROUNDED), SHORT_NS)
        };
        let most_ns = cancelled_last_ns.saturating_sub(started_first_ns);
        let least_ns = cancelled_first_ns.saturating_sub(started_last_ns);
        if most_ns < timeout_ns.saturating_sub(early_ns) {
            Reason::Canceled
        } else if least_ns >= not_rounded(timeout_ns).saturating_add(late_ns) {
            Reason::DeadlineExceeded
        } else {
            Reason::Unclear
        }
    }
}

/// The timeout as it was before the C core rounded it. That adds a millisecond and keeps three digits, so
/// of a second it makes 1010 ms, and of ten 10100 ms; hardly anybody else has such timeouts.
fn not_rounded(timeout_ns: u64) -> u64 {
    [1_000 * MS, 10_000 * MS]
        .into_iter()
        .find(|&least| {
            let step = least / 100;
            (least..10 * least).contains(&timeout_ns) && timeout_ns % (10 * step) == step
        })
        .map_or(timeout_ns, |least| timeout_ns - least / 100)
}

#[cfg(test)]
mod tests {
    use super::{Deadline, MS, Reason, Timeout, not_rounded};

    const START: u64 = 100_000 * MS;

    fn reason(timeout_us: u64, elapsed_us: u64, stall_free_since: u64) -> Reason {
        let timeout = Timeout::Of(timeout_us * 1_000);
        let deadline = Deadline { started_ns: [START; 2], timeout };
        deadline.reason([START + elapsed_us * 1_000; 2], stall_free_since)
    }

    #[test]
    fn who_gives_up_early_cancels_and_late_has_no_time_left() {
        for (timeout, early) in [(20_000, 8_000), (200_000, 8_000), (2_000_000, 20_000)] {
            let reason = |elapsed| reason(timeout, elapsed, 0);
            assert_eq!(reason(0), Reason::Canceled, "{timeout}");
            assert_eq!(reason(timeout - early - 1), Reason::Canceled, "{timeout}");
            assert_eq!(reason(timeout - early), Reason::Unclear, "{timeout}");
            assert_eq!(reason(timeout + 499), Reason::Unclear, "{timeout}");
            assert_eq!(reason(timeout + 500), Reason::DeadlineExceeded, "{timeout}");
        }
        assert_eq!(reason(5_000, 1, 0), Reason::Unclear, "shorter than what may be early");
    }

    #[test]
    fn where_processors_are_short_little_is_said() {
        let short = START - 999 * MS;
        let reason = |elapsed| reason(10_000_000, elapsed, short);
        assert_eq!(reason(7_999_999), Reason::Canceled);
        assert_eq!(reason(8_000_000), Reason::Unclear);
        assert_eq!(reason(11_999_999), Reason::Unclear);
        assert_eq!(reason(12_000_000), Reason::DeadlineExceeded);
        assert_eq!(super::tests::reason(20_000, 1, short), Reason::Unclear);
        assert_eq!(super::tests::reason(20_000, 1, START - 1_000 * MS), Reason::Canceled);
    }

    #[test]
    fn only_what_holds_for_both_times_is_said() {
        let timeout = Timeout::Of(200 * MS);
        let reason = |started: [u64; 2], cancellation: [u64; 2]| {
            let started_ns = started.map(|ms| START + ms * MS);
            Deadline { started_ns, timeout }.reason(cancellation.map(|ms| START + ms * MS), 0)
        };
        // A server that reads the reset late: it arrived in time, or may have.
        assert_eq!(reason([0, 0], [90, 150]), Reason::Canceled);
        assert_eq!(reason([0, 0], [90, 192]), Reason::Unclear);
        assert_eq!(reason([0, 0], [190, 300]), Reason::Unclear);
        assert_eq!(reason([0, 0], [201, 300]), Reason::DeadlineExceeded);
        // One that reads the headers late.
        assert_eq!(reason([0, 100], [250, 250]), Reason::Unclear);
        assert_eq!(reason([0, 100], [191, 191]), Reason::Canceled);
        assert_eq!(reason([0, 100], [301, 301]), Reason::DeadlineExceeded);
        assert_eq!(reason([0, 100], [50, 50]), Reason::Canceled);
    }

    #[test]
    fn without_a_timeout_it_is_a_cancel_and_with_an_unknown_one_either() {
        let reason =
            |timeout| Deadline { started_ns: [START; 2], timeout }.reason([u64::MAX; 2], 0);
        assert_eq!(reason(Timeout::Absent), Reason::Canceled);
        assert_eq!(reason(Timeout::Unknown), Reason::Unclear);
        assert_eq!(reason(Timeout::Of(u64::MAX)), Reason::Unclear);
    }

    #[test]
    fn what_the_c_core_rounded() {
        for (wire, meant) in [(1_010, 1_000), (5_010, 5_000), (1_020, 1_020), (1_000, 1_000)] {
            assert_eq!(not_rounded(wire * MS), meant * MS);
        }
        for (wire, meant) in [(10_100, 10_000), (60_100, 60_000), (60_010, 60_010)] {
            assert_eq!(not_rounded(wire * MS), meant * MS);
        }
        assert_eq!(not_rounded(1_010 * MS + 1), 1_010 * MS + 1);
        assert_eq!(not_rounded(201 * MS), 201 * MS);
        // The C core's for 200 ms is 201: shorter timeouts keep their millisecond.
        assert_eq!(reason(1_010_000, 1_000_500, 0), Reason::DeadlineExceeded);
        assert_eq!(reason(1_010_000, 1_000_499, 0), Reason::Unclear);
    }
}
