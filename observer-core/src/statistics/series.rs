//! The figures of one method of one process on one side.

use super::{
    Recording,
    exemplar::{Exemplar, Exemplars},
    grpc_type::Evidence,
    histogram::Histogram,
};
use crate::call::{ByDirection, Code, Direction, Ended, ExportedSpan};

/// The messages of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// The number of messages.
    pub count: u64,
    /// The sum of their lengths on the wire in bytes, without the 5-byte prefixes. It saturates, because a peer may
    /// claim 4 GiB for a few bytes.
    pub bytes: u64,
}

impl Messages {
    fn add(&mut self, count: u64, bytes: u64) {
        self.count = self.count.saturating_add(count);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// The number of codes, with one for a code that was not seen.
const CODES: usize = Code::ALL.len() + 1;

/// The figures of one method of one process on one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// The time when the series was created, in nanoseconds of the kernel's monotonic clock.
    pub created_ns: u64,
    /// The number of calls whose request headers were seen.
    pub started: u64,
    /// The number of calls whose start was not seen.
    pub joined: u64,
    /// The number of calls whose end does not count any more: open ones of a forgotten process whose figures went to
    /// this series.
    abandoned: u64,
    /// The number of ended calls by code, in the order of [`Code::ALL`].
    pub handled: [u64; Code::ALL.len()],
    /// The number of ended calls whose code was not seen.
    pub handled_code_not_seen: u64,
    /// The last ended call of each code that belongs to a trace, in the order of [`Code::ALL`]; the last place is for
    /// codes that were not seen.
    exemplars: Exemplars,
    /// The durations of calls whose start was seen: from the request headers to the end.
    pub handling: Histogram,
    /// The times from the request headers to the end of the first response message.
    pub first_message: Histogram,
    /// The durations of `handling` by code; `None` if the code was not seen. In no order, and empty unless recorded.
    by_code: Vec<(Option<Code>, Histogram)>,
    /// The times from one message to the next, or from the request headers to the first one, if they are recorded.
    between_messages: Option<Box<ByDirection<Histogram>>>,
    /// The messages that the process read.
    pub received: Messages,
    /// The messages that the process wrote.
    pub sent: Messages,
    /// The evidence of its calls for the method's type.
    pub(super) evidence: Evidence,
}

impl Series {
    pub(super) fn new(recording: &Recording, created_ns: u64) -> Self {
        let histogram = || Histogram::new(recording);
        let between = || ByDirection { received: histogram(), sent: histogram() };
        Self {
            created_ns,
            started: 0,
            joined: 0,
            abandoned: 0,
            handled: [0; Code::ALL.len()],
            handled_code_not_seen: 0,
            exemplars: Exemplars::default(),
            handling: histogram(),
            first_message: histogram(),
            by_code: Vec::new(),
            between_messages: recording.between_messages.then(|| Box::new(between())),
            received: Messages::default(),
            sent: Messages::default(),
            evidence: Evidence::default(),
        }
    }

    /// The number of ended calls.
    pub fn ended(&self) -> u64 {
        self.handled.iter().sum::<u64>() + self.handled_code_not_seen
    }

    /// The number of ended calls of each code that has any, with an exemplar; last, those whose code was not seen.
    pub fn ends(&self) -> impl Iterator<Item = (Option<Code>, u64, Option<&Exemplar>)> {
        self.ends_with(|_| false)
    }

    /// Like [`ends`](Self::ends), with the codes that are `known` even if no call has ended with them.
    pub fn ends_with(
        &self,
        known: impl Fn(Option<Code>) -> bool,
    ) -> impl Iterator<Item = (Option<Code>, u64, Option<&Exemplar>)> {
        let codes = Code::ALL.into_iter().map(Some).zip(self.handled);
        codes
            .chain([(None, self.handled_code_not_seen)])
            .enumerate()
            .filter(move |(_, (code, count))| *count > 0 || known(*code))
            .map(|(position, (code, count))| (code, count, self.exemplars.get(position)))
    }

    /// The durations of calls by code, if they are recorded; `None` is a code that was not seen.
    pub fn by_code(&self) -> &[(Option<Code>, Histogram)] {
        &self.by_code
    }

    /// The times from one message in this direction to the next, if they are recorded.
    pub fn between_messages(&self, direction: Direction) -> Option<&Histogram> {
        Some(self.between_messages.as_ref()?.get(direction))
    }

    /// Adds messages that were complete at once, `elapsed_ns` after the one before them.
    pub(super) fn add_between_messages(
        &mut self,
        recording: &Recording,
        direction: Direction,
        count: u64,
        elapsed_ns: u64,
    ) {
        let Some(between) = &mut self.between_messages else { return };
        let histogram = between.get_mut(direction);
        histogram.observe(&recording.buckets, elapsed_ns, None);
        histogram.observe_zeros(count.saturating_sub(1));
    }

    /// The number of calls that have started and not ended.
    pub fn in_flight(&self) -> u64 {
        (self.started + self.joined).saturating_sub(self.ended() + self.abandoned)
    }

    /// Adds the figures of a series that is dropped. Later events of its open calls do not count.
    pub(super) fn absorb(&mut self, other: &Self) {
        self.merge(other);
        self.abandoned += other.in_flight();
    }

    pub(super) fn add_messages(&mut self, direction: Direction, count: u64, bytes: u64) {
        match direction {
            Direction::Sent => self.sent.add(count, bytes),
            Direction::Received => self.received.add(count, bytes),
        }
    }

    pub(super) fn add_end(
        &mut self,
        recording: &Recording,
        time_ns: u64,
        ended: &Ended,
        span: Option<ExportedSpan>,
    ) {
        match ended.code.and_then(|code| self.handled.get_mut(code as usize)) {
            Some(handled) => *handled += 1,
            None => self.handled_code_not_seen += 1,
        }
        let elapsed_ns = ended.elapsed_ns.unwrap_or_default();
        let trace = span.map(|of| of.trace).or(ended.trace);
        let span = span.map(|of| of.span);
        let exemplar = trace.map(|trace| Exemplar { trace, span, elapsed_ns, time_ns });
        if let Some(exemplar) = exemplar {
            let position = ended.code.map_or(CODES - 1, |code| code as usize);
            self.exemplars.set(position, exemplar);
        }
        if let Some(elapsed_ns) = ended.elapsed_ns {
            self.handling.observe(&recording.buckets, elapsed_ns, exemplar);
            if recording.by_code {
                let known = self.by_code.iter().position(|(code, _)| *code == ended.code);
                let position = known.unwrap_or(self.by_code.len());
                if known.is_none() {
                    self.by_code.push((ended.code, Histogram::new(recording)));
                }
                if let Some((_, histogram)) = self.by_code.get_mut(position) {
                    histogram.observe(&recording.buckets, elapsed_ns, exemplar);
                }
            }
        }
        self.evidence.add_end(ended);
    }

    /// Adds the figures of another series with the same buckets.
    pub fn merge(&mut self, other: &Self) {
        // Destructured so that a new figure cannot be forgotten.
        let Self {
            created_ns,
            started,
            joined,
            abandoned,
            handled,
            handled_code_not_seen,
            exemplars,
            handling,
            first_message,
            by_code,
            between_messages,
            received,
            sent,
            evidence,
        } = other;
        self.created_ns = self.created_ns.min(*created_ns);
        self.started += started;
        self.joined += joined;
        self.abandoned += abandoned;
        for (to, from) in self.handled.iter_mut().zip(handled) {
            *to += from;
        }
        self.handled_code_not_seen += handled_code_not_seen;
        self.exemplars.merge(exemplars);
        self.handling.merge(handling);
        self.first_message.merge(first_message);
        for (code, histogram) in by_code {
            match self.by_code.iter_mut().find(|(own, _)| own == code) {
                Some((_, to)) => to.merge(histogram),
                None => self.by_code.push((*code, histogram.clone())),
            }
        }
        if let (Some(to), Some(from)) = (&mut self.between_messages, between_messages) {
            to.received.merge(&from.received);
            to.sent.merge(&from.sent);
        }
        self.received.add(received.count, received.bytes);
        self.sent.add(sent.count, sent.bytes);
        self.evidence.merge(evidence);
    }
}
