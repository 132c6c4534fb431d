//! How calls start, and when they count.

use super::{Call, Calls, Headers, Kind, MAX_OPEN, Messages, Proof};
use crate::{
    call::{CallKey, CallSink},
    names::PathId,
    protocol::{Transfer, grpc::deadline::Timeout, hpack::RequestMethod},
};

impl Calls {
    /// Starts a call with the headers of a request, if the stream is a new one and may be a gRPC call.
    pub(super) fn begin(
        &mut self,
        at: Transfer,
        stream: u32,
        headers: &Headers,
        end_stream: bool,
        sink: &mut impl CallSink,
    ) {
        // A client's streams are odd and ascend (RFC 9113 §5.1.1).
        if stream.is_multiple_of(2) || stream <= self.last_proven {
            return;
        }
        self.last_stream = self.last_stream.max(stream);
        if !self.resynced.contains(self.role.request_direction()) {
            self.last_proven = stream;
        }
        if self.agreed {
            self.join_pending(stream, sink);
        }
        self.gap_streams.began(stream);
        if self.gap_streams.has_ended(stream) {
            return;
        }
        let may_be_grpc = headers.content_type.is_none()
            && headers.incomplete
            && headers.method != Some(RequestMethod::Get);
        let Some(kind) = headers.kind().or(may_be_grpc.then_some(Kind::Grpc)) else {
            self.streams.not_grpc += 1;
            return;
        };
        if self.open.len() >= MAX_OPEN {
            self.streams.too_many += 1;
            return;
        }
        let path = headers.path.unwrap_or(PathId::NOT_SEEN);
        let proof = self.proof();
        let mut call = Call {
            series: None,
            proof,
            shows_grpc: headers.shows_grpc(),
            key: CallKey { protocol: kind.protocol(), process: at.process, role: self.role, path },
            started_ns: at.time_ns,
            waited: at.waited,
            touched_ns: at.time_ns,
            trace: headers.recorded_trace(),
            context: headers.context,
            trace_state: headers.trace_state.flatten(),
            message: None,
            authority: headers.authority,
            timeout: match headers.timeout_ns {
                Some(ns) => Timeout::Of(ns),
                None if headers.incomplete => Timeout::Unknown,
                None => Timeout::Absent,
            },
            status: None,
            kind,
            answers_json: false,
            trailers: None,
            requests: Messages { last_ns: at.time_ns, ..Messages::default() },
            responses: Messages { last_ns: at.time_ns, ..Messages::default() },
            first_message_ns: None,
            half_closed: end_stream,
            // Its bodies are not framed as messages.
            unaligned: kind == Kind::ConnectUnary,
            gaps: self.in_gap,
        };
        self.has_doubtful |= call.gaps.any();
        if proof == Proof::Awaited {
            self.unanswered += 1;
        } else if self.shows_grpc {
            call.start(sink);
            self.streams.measured += 1;
        }
        self.open.insert(stream, call);
        if self.pending.iter().any(|pending| pending.stream == stream) {
            self.pending_ready = true;
        } else if self.refused_above.is_some_and(|last_stream| stream > last_stream) {
            // The request and the GOAWAY crossed.
            self.refuse(at.time_ns, stream, sink);
        }
    }

    /// Records that the connection carries gRPC for certain, and counts its open calls.
    pub(super) fn show_grpc(&mut self, sink: &mut impl CallSink) {
        if self.shows_grpc {
            return;
        }
        self.shows_grpc = true;
        for stream in self.streams(|_, call| call.proof != Proof::Awaited && call.series.is_none())
        {
            if let Some(call) = self.open.get_mut(&stream) {
                call.start(sink);
                self.streams.measured += 1;
            }
        }
    }
}
