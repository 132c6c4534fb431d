//! One call.

use super::request_direction;
use crate::{
    call::{CallKey, CallSink, Directions, SeriesId, TraceId},
    names::TextId,
    protocol::grpc::deadline::{Deadline, Reason, Timeout},
    record::Waited,
};

/// Whether what began a call is known to have been a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// It is known: the call counts.
    Given,
    /// The call counts in advance, as others were answered.
    Assumed,
    /// The call does not count until it is answered.
    Awaited,
}

/// A call that is open.
#[derive(Debug)]
pub(super) struct Call {
    /// `None` until the connection has shown that it carries gRPC, and while proof is awaited.
    pub(super) series: Option<SeriesId>,
    pub(super) proof: Proof,
    /// The request has a field that only gRPC has.
    pub(super) shows_grpc: bool,
    pub(super) key: CallKey,
    pub(super) started_ns: u64,
    /// How long before it may have begun.
    pub(super) waited: Waited,
    /// When a frame of it was last seen.
    pub(super) touched_ns: u64,
    pub(super) trace: Option<TraceId>,
    pub(super) message: Option<TextId>,
    pub(super) timeout: Timeout,
    pub(super) status: Option<u16>,
    pub(super) requests: Messages,
    pub(super) responses: Messages,
    /// When the first response message was complete, if that is known.
    pub(super) first_message_ns: Option<u64>,
    pub(super) half_closed: bool,
    /// Its bytes are not framed as messages, or that is not known.
    pub(super) unaligned: bool,
    /// Directions with gaps while it was open: its end, and messages of it, may be in them.
    pub(super) gaps: Directions,
}

/// The messages of one direction of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Messages {
    pub(super) count: u64,
    pub(super) bytes: u64,
    /// When the last one was complete; before the first, when the call began.
    pub(super) last_ns: u64,
}

impl Call {
    /// Counts the call, and what was seen of it before it was known to be one.
    pub(super) fn start(&mut self, sink: &mut impl CallSink) {
        let series = sink.started(self.key);
        self.series = Some(series);
        let requests = request_direction(self.key.role);
        for (direction, messages) in
            [(requests, self.requests), (requests.opposite(), self.responses)]
        {
            if messages.count > 0 {
                sink.messages(series, direction, messages.count, messages.bytes);
            }
            if messages.count > 1 {
                sink.second_message(series, direction);
            }
        }
        if let Some(at_ns) = self.first_message_ns {
            sink.first_message(series, at_ns.saturating_sub(self.started_ns));
        }
    }

    /// Why it was cancelled between these times, if it was.
    pub(super) fn reason(&self, cancelled_ns: [u64; 2], stall_free_since_ns: u64) -> Reason {
        let Self { started_ns, waited, timeout, .. } = *self;
        let started_ns = waited.before(started_ns);
        Deadline { started_ns, timeout }.reason(cancelled_ns, stall_free_since_ns)
    }

    /// Whether messages of it may not have been counted.
    pub(super) fn is_uncounted(&self) -> bool {
        self.unaligned || self.gaps.any()
    }

    /// Whether it looks like gRPC and nothing else, as trailers end it.
    pub(super) fn looks_like_grpc(&self) -> bool {
        self.status.is_some() && self.requests.count > 0 && self.half_closed && !self.unaligned
    }
}
