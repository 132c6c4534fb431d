//! The figures of one method of one process in one role.

use super::{
    Recording,
    exemplar::{Exemplar, Exemplars},
    histogram::Histogram,
};
use crate::call::{Code, Direction, Ended, Role};

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

/// Calls by what they showed of one side of their method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// Calls that did what only a stream may: they had several messages, or none where a unary call
    /// must have one.
    stream: u64,
    /// Calls that ended as a unary one does: with one message, and complete.
    single: u64,
}

impl Shown {
    fn add(&mut self, stream: bool, single: bool) {
        self.stream += u64::from(stream);
        self.single += u64::from(single);
    }

    /// Whether that side is a stream, given whether it was taken for one so far. It becomes one when at
    /// least a fifth of the calls show it, and stops being one when less than a tenth do: calls of a
    /// stream may have one message, but those of a unary method never have more, unless a peer errs or
    /// lies. Between the two nothing changes, so that a method near a bound does not go to and fro.
    fn is_stream(self, so_far: bool) -> bool {
        let Self { stream, single } = self;
        let all = stream.saturating_add(single);
        let share = if so_far { 10 } else { 5 };
        stream > 0 && stream.saturating_mul(share) >= all
    }
}

/// Calls by what they showed of their method. Each counts once for each side, if at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    requests: Shown,
    responses: Shown,
}

impl Evidence {
    /// A call has had its second message this way.
    pub(super) fn add_second_message(&mut self, role: Role, direction: Direction) {
        let is_request = matches!(
            (role, direction),
            (Role::Server, Direction::Received) | (Role::Client, Direction::Sent)
        );
        let shown = if is_request { &mut self.requests } else { &mut self.responses };
        shown.add(true, false);
    }

    /// A call has ended. No request message, or one, says something only when the client had finished
    /// sending, and no response message, or one, only when the call succeeded.
    fn add_end(&mut self, ended: &Ended) {
        if ended.half_closed {
            let count = ended.request_messages;
            self.requests.add(count == Some(0), count == Some(1));
        }
        if ended.code == Some(Code::Ok) {
            let count = ended.response_messages;
            self.responses.add(count == Some(0), count == Some(1));
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let Self { requests, responses } = other;
        for (to, from) in [(&mut self.requests, requests), (&mut self.responses, responses)] {
            to.stream += from.stream;
            to.single += from.single;
        }
    }

    /// What that says of the method, given what was said so far.
    pub(super) fn streaming(self, so_far: Streaming) -> Streaming {
        Streaming {
            requests: self.requests.is_stream(so_far.requests),
            responses: self.responses.is_stream(so_far.responses),
        }
    }
}

/// Which sides of a method are streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Streaming {
    pub(super) requests: bool,
    pub(super) responses: bool,
}

/// How long streams were without a message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BetweenMessages {
    received: Histogram,
    sent: Histogram,
}

/// The codes, and that none was seen.
const CODES: usize = Code::ALL.len() + 1;

/// The figures of one method of one process in one role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// When it began to count, in nanoseconds of the kernel's monotonic clock.
    pub created_ns: u64,
    /// Calls whose request headers were seen.
    pub started: u64,
    /// Calls that were under way when they were first seen.
    pub joined: u64,
    /// Calls whose end nobody waits for any more: those of a forgotten process whose figures went to
    /// this series.
    abandoned: u64,
    /// Ended calls by code, in the order of [`Code::ALL`].
    pub handled: [u64; Code::ALL.len()],
    /// Ended calls whose code was not seen.
    pub handled_code_not_seen: u64,
    /// The last ended call of each code that belongs to a trace, in the order of [`Code::ALL`], that
    /// of those whose code was not seen last.
    exemplars: Exemplars,
    /// From the request headers to the end, of the calls that were seen from their start.
    pub handling: Histogram,
    /// From the request headers to the end of the first response message.
    pub first_message: Histogram,
    /// The same as in `handling` by code; those whose code was not seen have `None`. In no order, and
    /// empty unless it is recorded.
    by_code: Vec<(Option<Code>, Histogram)>,
    /// From one message to the next, or from the request headers to the first, where it is recorded.
    between_messages: Option<Box<BetweenMessages>>,
    /// Messages that the process read.
    pub received: Messages,
    /// Messages that the process wrote.
    pub sent: Messages,
    /// What its calls showed of the method's type.
    pub(super) evidence: Evidence,
}

impl Series {
    pub(super) fn new(recording: &Recording, created_ns: u64) -> Self {
        let histogram = || Histogram::new(&recording.buckets, recording.exponential);
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
            between_messages: recording
                .between_messages
                .then(|| Box::new(BetweenMessages { received: histogram(), sent: histogram() })),
            received: Messages::default(),
            sent: Messages::default(),
            evidence: Evidence::default(),
        }
    }

    /// All calls that ended.
    pub fn ended(&self) -> u64 {
        self.handled.iter().sum::<u64>() + self.handled_code_not_seen
    }

    /// Ended calls by code, as far as there are any; those whose code was not seen last.
    pub fn ends(&self) -> impl Iterator<Item = (Option<Code>, u64, Option<&Exemplar>)> {
        let codes = Code::ALL.into_iter().map(Some).zip(self.handled);
        codes
            .chain([(None, self.handled_code_not_seen)])
            .enumerate()
            .filter(|(_, (_, count))| *count > 0)
            .map(|(position, (code, count))| (code, count, self.exemplars.get(position)))
    }

    /// How long calls took by code, where that is recorded.
    pub fn by_code(&self) -> &[(Option<Code>, Histogram)] {
        &self.by_code
    }

    /// From one message that flows this way to the next, where that is recorded.
    pub fn between_messages(&self, direction: Direction) -> Option<&Histogram> {
        let BetweenMessages { received, sent } = self.between_messages.as_deref()?;
        Some(match direction {
            Direction::Received => received,
            Direction::Sent => sent,
        })
    }

    /// Messages ended at once, this long after the one before them.
    pub(super) fn add_between_messages(
        &mut self,
        recording: &Recording,
        direction: Direction,
        count: u64,
        elapsed_ns: u64,
    ) {
        let Some(between) = self.between_messages.as_deref_mut() else { return };
        let histogram = match direction {
            Direction::Received => &mut between.received,
            Direction::Sent => &mut between.sent,
        };
        histogram.observe(&recording.buckets, elapsed_ns, None);
        histogram.observe_zeros(count.saturating_sub(1));
    }

    /// Calls that have begun and not ended.
    pub fn in_flight(&self) -> u64 {
        (self.started + self.joined).saturating_sub(self.ended() + self.abandoned)
    }

    /// Adds the figures of a series that is dropped. What its calls in flight still do is told to
    /// nobody.
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

    pub(super) fn add_first_message(&mut self, recording: &Recording, elapsed_ns: u64) {
        self.first_message.observe(&recording.buckets, elapsed_ns, None);
    }

    pub(super) fn add_end(&mut self, recording: &Recording, time_ns: u64, ended: &Ended) {
        match ended.code.and_then(|code| self.handled.get_mut(code as usize)) {
            Some(handled) => *handled += 1,
            None => self.handled_code_not_seen += 1,
        }
        let elapsed_ns = ended.elapsed_ns.unwrap_or_default();
        let exemplar = ended.trace.map(|trace| Exemplar { trace, elapsed_ns, time_ns });
        if let Some(exemplar) = exemplar {
            let position = ended.code.map_or(CODES - 1, |code| code as usize);
            self.exemplars.set(position, CODES, exemplar);
        }
        if let Some(elapsed_ns) = ended.elapsed_ns {
            self.handling.observe(&recording.buckets, elapsed_ns, exemplar);
            if recording.by_code {
                let histogram = || Histogram::new(&recording.buckets, recording.exponential);
                let histogram = of_code(&mut self.by_code, ended.code, histogram);
                histogram.observe(&recording.buckets, elapsed_ns, exemplar);
            }
        }
        self.evidence.add_end(ended);
    }

    /// Adds the figures of another series with the same buckets.
    pub fn merge(&mut self, other: &Self) {
        // Taken apart so that a new figure cannot be forgotten.
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
            of_code(&mut self.by_code, *code, || histogram.empty()).merge(histogram);
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

/// The histogram of the code, made if it is the first.
fn of_code(
    by_code: &mut Vec<(Option<Code>, Histogram)>,
    code: Option<Code>,
    new: impl FnOnce() -> Histogram,
) -> &mut Histogram {
    let position = by_code.iter().position(|(of, _)| *of == code).unwrap_or_else(|| {
        by_code.push((code, new()));
        by_code.len() - 1
    });
    #[expect(clippy::indexing_slicing, reason = "found, or pushed")]
    &mut by_code[position].1
}
