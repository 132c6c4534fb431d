//! An open call.

use super::{Messages, tails::Trailers};
use crate::{
    call::{CallKey, CallSink, Context, Directions, SeriesId, TraceId},
    names::{PathId, TextId},
    protocol::grpc::{
        End, Kind,
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
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
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
    pub(super) kind: Kind,
    /// Whether the content type of the response is JSON.
    pub(super) answers_json: bool,
    /// The status in the body, or of gRPC-Web one in the headers of the response.
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
        let status = self.status;
        let is_ok = status == Some(200);
        let (grpc_status, incomplete) = match (self.kind, self.trailers) {
            (Kind::ConnectUnary, _) if is_ok => (Some(Some(0)), false),
            (_, Some(Trailers { grpc_status, incomplete, .. })) => (grpc_status, incomplete),
            (Kind::Grpc, None) => (None, false),
            // It may be among bytes that were not seen, or not followed.
            (Kind::GrpcWeb, None) if is_ok => (None, self.is_uncounted()),
            (Kind::ConnectStream, None) if is_ok => (None, true),
            (Kind::GrpcWeb | Kind::ConnectStream, None) => (None, self.gaps.any()),
            // An error in JSON has a code. Without one, the status decides.
            (Kind::ConnectUnary, None) => (None, self.answers_json || self.gaps.any()),
        };
        End::Stream { status, grpc_status, incomplete }
    }

    /// Whether the client has the code of a call that has not ended yet: it may not want the rest of the body.
    pub(super) fn is_answered(&self) -> bool {
        let is_error = self.status.is_some_and(|status| status != 200);
        match self.kind {
            Kind::Grpc => false,
            Kind::GrpcWeb | Kind::ConnectStream => is_error || self.trailers.is_some(),
            Kind::ConnectUnary => is_error && (self.trailers.is_some() || !self.answers_json),
        }
    }

    /// Whether only gRPC looks like it, given that trailers end it.
    pub(super) fn looks_like_grpc(&self) -> bool {
        self.status.is_some() && self.requests.count > 0 && self.half_closed && !self.unaligned
    }
}
