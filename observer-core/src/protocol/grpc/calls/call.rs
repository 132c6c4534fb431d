//! An open call.

use super::{Messages, tails::Trailers};
use crate::{
    call::{CallKey, CallProtocol, CallSink, Context, Directions, SeriesId, TraceId},
    names::{PathId, TextId},
    protocol::grpc::{
        End,
        deadline::{Deadline, Reason, Timeout},
    },
    record::Waited,
};

/// Whether it is certain that a call started with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// It is certain: the call counts.
    Given,
    /// It is not certain, but the call counts in advance, because others were answered.
    Assumed,
    /// It is not certain, and the call does not count until it is answered.
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
    /// How long before `started_ns` it may have started.
    pub(super) waited: Waited,
    /// The time of its last frame.
    pub(super) touched_ns: u64,
    /// Its trace, if it is recorded: one that is not cannot be found.
    pub(super) trace: Option<TraceId>,
    pub(super) context: Context,
    pub(super) trace_state: Option<TextId>,
    pub(super) message: Option<TextId>,
    pub(super) authority: Option<PathId>,
    pub(super) timeout: Timeout,
    pub(super) status: Option<u16>,
    /// Of gRPC-Web: the trailers in the body, or a status in the headers of the response.
    pub(super) trailers: Option<Trailers>,
    pub(super) requests: Messages,
    pub(super) responses: Messages,
    /// The time when the first response message was complete, if that is known.
    pub(super) first_message_ns: Option<u64>,
    pub(super) half_closed: bool,
    /// It is not known how its bytes are framed as messages.
    pub(super) unaligned: bool,
    /// The directions with gaps while it was open. Its end, and messages of it, may be in them.
    pub(super) gaps: Directions,
}

impl Call {
    /// Counts the call, and its messages so far.
    pub(super) fn start(&mut self, sink: &mut impl CallSink) {
        let series = sink.started(self.key);
        self.series = Some(series);
        let requests = self.key.role.request_direction();
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

    /// The reason of a cancellation that happened between these two times.
    pub(super) fn reason(&self, cancelled_ns: [u64; 2], stall_free_since_ns: u64) -> Reason {
        let Self { started_ns, waited, timeout, .. } = *self;
        let started_ns = waited.before(started_ns);
        Deadline { started_ns, timeout }.reason(cancelled_ns, stall_free_since_ns)
    }

    /// Whether some of its messages may not have been counted.
    pub(super) fn is_uncounted(&self) -> bool {
        self.unaligned || self.gaps.any()
    }

    /// The end of the stream by the server, without trailers of HTTP/2.
    pub(super) fn end_of_stream(&self) -> End {
        let is_web = self.key.protocol == CallProtocol::GrpcWeb;
        match self.trailers {
            Some(Trailers { grpc_status, incomplete, .. }) => {
                End::Stream { status: self.status, grpc_status, incomplete }
            }
            None => End::Stream {
                status: self.status,
                grpc_status: None,
                // They may be among bytes that were not seen, or not followed.
                incomplete: is_web && self.is_uncounted(),
            },
        }
    }

    /// Whether only gRPC looks like it, given that trailers end it.
    pub(super) fn looks_like_grpc(&self) -> bool {
        self.status.is_some() && self.requests.count > 0 && self.half_closed && !self.unaligned
    }
}
