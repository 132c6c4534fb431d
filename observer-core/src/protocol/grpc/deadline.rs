//! Whether the deadline of a call had passed when its client gave it up, or whether the client cancelled it.
//!
//! On the wire both are the same reset. The time of the reset distinguishes them: a deadline cannot pass before its
//! time, and a client that cancels at any time hardly does it just then. But the wire shows neither the client's clock
//! nor its intention, only when the bytes passed a socket:
//!
//! ```text
//!  the client          the headers are           the deadline, at the     the headers' time
//!  counts from here    written                   client: unknown          + grpc-timeout
//!        │── a wait ───────│                           │                        │
//! ───────┴─────────────────┴───────────── … ───────────┴────────────────────────┴─────▶
//!                                            cancelled │  undecided             │ expired
//! ```
//!
//! - The deadline comes *early*: by the time that the client took to write the headers, and by as much as its library
//!   rounded `grpc-timeout` up. Counted from the headers on: at most 1 ms with grpc-go, 2 ms with tonic, 6.7 ms with
//!   grpc-js, 1 % of the timeout with the C core.
//! - A cancel comes *late*: by the time that the client took to write the reset.
//!
//! The time when the bytes passed the socket is known to lie between two times: a server may read late what arrived in
//! time, and TCP shows when it arrived, to some ticks of the kernel's clock. The answer is one that holds for both.
//!
//! Both bounds hold while each thread that can run does run. When CPUs are short no bound holds (of 20 ms all 20, of
//! 1 s 709 ms, with two busy loops for each CPU), and most calls are undecided.

const MS: u64 = 1_000_000;

/// How early a deadline may come, at least.
const EARLY_NS: u64 = 8 * MS;

/// How early it may come as a part of the timeout, because libraries round it: a hundredth.
const ROUNDED: u64 = 100;

/// How late a cancel may come.
const LATE_NS: u64 = MS / 2;

/// How early or late both may come when CPUs are short.
const SHORT_NS: u64 = 2_000 * MS;

/// How long before a call no CPU may have been short, so that the client was not late when it started the call.
const BEFORE_NS: u64 = 1_000 * MS;

/// The reason why a client gave a call up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The client cancelled the call: the deadline had not passed.
    Canceled,
    /// The deadline had passed.
    DeadlineExceeded,
    /// Undecided: one of the two.
    Unclear,
}

/// The timeout of a call (`grpc-timeout`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// The call has no timeout.
    Absent,
    /// The call may have a timeout, which could not be decoded.
    Unknown,
    /// The timeout in nanoseconds.
    Of(u64),
}

/// The start and the timeout of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The time when the request headers passed the socket: between these two.
    pub started_ns: [u64; 2],
    /// The timeout, from then on.
    pub timeout: Timeout,
}

impl Deadline {
    /// The reason why the call was cancelled, by a reset that passed the socket between those two times.
    /// `stall_free_since` is the time since when each thread that could run has run.
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

/// The timeout before the C core rounded it. The C core adds a millisecond and keeps three digits: 1 s becomes 1010 ms,
/// and 10 s become 10100 ms. Other libraries hardly ever have such timeouts.
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
    fn early_it_is_a_cancel_and_late_the_deadline() {
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
    fn when_cpus_are_short_most_are_undecided() {
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
    fn the_answer_holds_for_both_times() {
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
        // A server that reads the headers late.
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
    fn timeouts_that_the_c_core_rounded() {
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
