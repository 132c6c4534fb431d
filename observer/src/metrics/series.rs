//! The figures of one method of one process in one role.

use super::Buckets;
use crate::grpc::{Code, Ended, Flow, Role};

/// Observed durations by bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64]>,
    /// 2⁶⁴ ns are 584 years of *summed* time, which 100,000 concurrent streams reach in 51 hours;
    /// 2¹²⁸ takes 2⁶⁴ observations of the longest duration there is.
    sum_ns: u128,
}

impl Histogram {
    fn new(buckets: &Buckets) -> Self {
        Self { counts: vec![0; buckets.count()].into(), sum_ns: 0 }
    }

    fn observe(&mut self, buckets: &Buckets, elapsed_ns: u64) {
        if let Some(count) = self.counts.get_mut(buckets.position(elapsed_ns)) {
            *count += 1;
            self.sum_ns += u128::from(elapsed_ns);
        }
    }

    fn merge(&mut self, other: &Self) {
        for (to, from) in self.counts.iter_mut().zip(&other.counts) {
            *to += from;
        }
        self.sum_ns += other.sum_ns;
    }

    /// Observations per bucket, each on its own (not cumulative), that of infinity last.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// All observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all observations in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }
}

/// The messages of one flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// How many.
    pub count: u64,
    /// Their lengths on the wire, without the 5-byte prefixes. Saturates: a length is what a peer
    /// claims, up to 4 GiB for a few bytes sent.
    pub bytes: u64,
}

impl Messages {
    fn add(&mut self, count: u64, bytes: u64) {
        self.count = self.count.saturating_add(count);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What one side of a method was seen to do that only a stream may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Streaming {
    /// Some call had other than one request message.
    pub(super) requests: bool,
    /// Some call had other than one response message.
    pub(super) responses: bool,
}

impl Streaming {
    /// What a run of a call's messages shows.
    fn of_messages(role: Role, flow: Flow, count: u64) -> Self {
        let requests =
            matches!((role, flow), (Role::Server, Flow::Received) | (Role::Client, Flow::Sent));
        Self { requests: requests && count > 1, responses: !requests && count > 1 }
    }

    /// What a call's end shows. No request message says something only when the client had
    /// finished sending, and no response message only when the call succeeded.
    fn of_end(ended: &Ended) -> Self {
        Self {
            requests: match ended.request_messages {
                Some(0) => ended.half_closed,
                Some(count) => count > 1,
                None => false,
            },
            responses: match ended.response_messages {
                Some(0) => ended.code == Some(Code::Ok),
                Some(count) => count > 1,
                None => false,
            },
        }
    }

    /// Adds what was learned; says whether it was new.
    pub(super) fn learn(&mut self, other: Self) -> bool {
        let before = *self;
        self.requests |= other.requests;
        self.responses |= other.responses;
        *self != before
    }
}

/// The figures of one method of one process in one role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// Calls whose request headers were seen.
    pub started: u64,
    /// Calls that were under way when they were first seen.
    pub joined: u64,
    /// Ended calls by code, in the order of [`Code::ALL`].
    pub handled: [u64; Code::ALL.len()],
    /// Ended calls whose code was not seen.
    pub handled_code_not_seen: u64,
    /// From the request headers to the end, of the calls that were seen from their start.
    pub handling: Histogram,
    /// From the request headers to the end of the first response message.
    pub first_message: Histogram,
    /// Messages that the process read.
    pub received: Messages,
    /// Messages that the process wrote.
    pub sent: Messages,
    /// What this series has contributed to its method's type; a copy that spares the look-up of the
    /// method's for all calls but the first that show something.
    streaming: Streaming,
}

impl Series {
    pub(super) fn new(buckets: &Buckets) -> Self {
        Self {
            started: 0,
            joined: 0,
            handled: [0; Code::ALL.len()],
            handled_code_not_seen: 0,
            handling: Histogram::new(buckets),
            first_message: Histogram::new(buckets),
            received: Messages::default(),
            sent: Messages::default(),
            streaming: Streaming::default(),
        }
    }

    /// All calls that ended.
    pub fn ended(&self) -> u64 {
        self.handled.iter().sum::<u64>() + self.handled_code_not_seen
    }

    /// Calls that have begun and not ended.
    pub fn in_flight(&self) -> u64 {
        (self.started + self.joined).saturating_sub(self.ended())
    }

    /// Counts messages; returns what they show if that is new to this series.
    pub(super) fn add_messages(
        &mut self,
        role: Role,
        flow: Flow,
        count: u64,
        bytes: u64,
    ) -> Option<Streaming> {
        match flow {
            Flow::Sent => self.sent.add(count, bytes),
            Flow::Received => self.received.add(count, bytes),
        }
        let shown = Streaming::of_messages(role, flow, count);
        self.streaming.learn(shown).then_some(shown)
    }

    pub(super) fn add_first_message(&mut self, buckets: &Buckets, elapsed_ns: u64) {
        self.first_message.observe(buckets, elapsed_ns);
    }

    /// Counts an end; returns what it shows if that is new to this series.
    pub(super) fn add_end(&mut self, buckets: &Buckets, ended: &Ended) -> Option<Streaming> {
        match ended.code.and_then(|code| self.handled.get_mut(code as usize)) {
            Some(handled) => *handled += 1,
            None => self.handled_code_not_seen += 1,
        }
        if let Some(elapsed_ns) = ended.elapsed_ns {
            self.handling.observe(buckets, elapsed_ns);
        }
        let shown = Streaming::of_end(ended);
        self.streaming.learn(shown).then_some(shown)
    }

    /// Adds the figures of another series with the same buckets.
    pub(super) fn merge(&mut self, other: &Self) {
        // Taken apart so that a new figure cannot be forgotten.
        let Self {
            started,
            joined,
            handled,
            handled_code_not_seen,
            handling,
            first_message,
            received,
            sent,
            streaming,
        } = other;
        self.started += started;
        self.joined += joined;
        for (to, from) in self.handled.iter_mut().zip(handled) {
            *to += from;
        }
        self.handled_code_not_seen += handled_code_not_seen;
        self.handling.merge(handling);
        self.first_message.merge(first_message);
        self.received.add(received.count, received.bytes);
        self.sent.add(sent.count, sent.bytes);
        self.streaming.learn(*streaming);
    }
}
