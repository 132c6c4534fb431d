//! How calls end.

use rustc_hash::FxHashMap;

use super::{Calls, Messages, Proof, ResponsePart};
use crate::{
    call::{CallSink, Cancellation, Direction, Ended, Role},
    protocol::{
        Transfer,
        grpc::{
            End,
            deadline::{Reason, Timeout},
        },
    },
    record::Closed,
};

impl Calls {
    /// Takes RST_STREAM, from either side; `error` is the HTTP/2 error code.
    pub fn reset(&mut self, at: Transfer, stream: u32, error: u32, sink: &mut impl CallSink) {
        self.now_ns = at.time_ns;
        self.saw(at.direction, stream, sink);
        let Some(call) = self.open.get(&stream) else {
            if !self.is_request(at.direction) && !self.gap_streams.contains(stream) {
                self.keep_pending(at, stream, ResponsePart::Reset { error });
            }
            return;
        };
        let reason = match call.reason(at.waited.before(at.time_ns), at.stall_free_since_ns) {
            // The reset is in one transfer with the request headers, so its time says nothing.
            _ if at.time_ns == call.started_ns && call.timeout != Timeout::Absent => {
                Reason::Unclear
            }
            reason => reason,
        };
        if call.is_answered() {
            let end = call.end_of_stream();
            self.end(at.time_ns, stream, end, sink);
            return;
        }
        let by = self.sender(at.direction);
        // RST_STREAM is the last frame that a side sends on a stream. Only the other side's reset, or the server's
        // trailers, may have ended the call before.
        let incomplete = if self.is_request(at.direction) {
            call.gaps.contains(at.direction.opposite())
        } else {
            call.gaps.any()
        };
        self.end(at.time_ns, stream, End::Reset { by, error, reason, incomplete }, sink);
    }

    /// Takes GOAWAY. A server's ends the calls on streams above `last_stream`; a client's concerns no calls.
    pub fn go_away(&mut self, at: Transfer, last_stream: u32, sink: &mut impl CallSink) {
        if self.is_request(at.direction) {
            return;
        }
        self.refused_above = Some(last_stream);
        for stream in self.streams(|stream, _| stream > last_stream) {
            self.refuse(at.time_ns, stream, sink);
        }
    }

    /// Ends a call that the server will not process.
    pub(super) fn refuse(&mut self, time_ns: u64, stream: u32, sink: &mut impl CallSink) {
        let Some(call) = self.open.get(&stream) else { return };
        let incomplete = call.gaps.any();
        self.end(time_ns, stream, End::GoAway { incomplete }, sink);
    }

    /// Ends all calls with the connection, whose gaps are known; `stall_free_since_ns` is as in [`Transfer`].
    pub fn closed(
        &mut self,
        time_ns: u64,
        Closed { by, unread, .. }: Closed,
        stall_free_since_ns: u64,
        sink: &mut impl CallSink,
    ) {
        let by = by.map(|direction| self.sender(direction));
        self.end_pending(sink);
        // A server that did not read everything may not have read that its client gave the calls up before.
        let earliest_ns = if unread && self.is_request(Direction::Received) { 0 } else { time_ns };
        for stream in self.streams(|_, _| true) {
            let Some(call) = self.open.get(&stream) else { continue };
            let reason = call.reason([earliest_ns, time_ns], stall_free_since_ns);
            let incomplete = call.gaps.any();
            let end = if call.is_answered() {
                call.end_of_stream()
            } else {
                End::Closed { by, reason, incomplete }
            };
            self.end(time_ns, stream, end, sink);
        }
        self.open = FxHashMap::default();
    }

    /// Ends a call, if there is one on the stream.
    pub(super) fn end(&mut self, time_ns: u64, stream: u32, end: End, sink: &mut impl CallSink) {
        let Some(call) = self.open.remove(&stream) else { return };
        if call.proof == Proof::Assumed {
            // The server may still answer.
            self.gap_streams.ended(stream);
        }
        let Some(series) = call.series else {
            if call.proof == Proof::Awaited {
                self.unanswered -= 1;
                self.streams.unconfirmed += 1;
            } else {
                self.streams.unclear += 1;
            }
            return;
        };
        let counted = |messages: Messages| (!call.is_uncounted()).then_some(messages);
        let [requests, responses] = [call.requests, call.responses].map(counted);
        let elapsed = time_ns.saturating_sub(call.started_ns);
        let has_client_code = call.timeout != Timeout::Absent && end.is_cancellation();
        let ended = Ended {
            code: end.code(),
            elapsed_ns: end.is_seen().then_some(elapsed),
            request_messages: requests.map(|of| of.count),
            response_messages: responses.map(|of| of.count),
            request_bytes: requests.map(|of| of.bytes),
            response_bytes: responses.map(|of| of.bytes),
            half_closed: call.half_closed,
            coverage: self.coverage,
            trace: call.trace,
            context: call.context,
            trace_state: call.trace_state,
            stream,
            message: call.message,
            authority: call.authority,
            cancellation: has_client_code.then_some(Cancellation { role: self.role, stream }),
        };
        sink.ended(series, ended);
    }

    /// The side that sends in this direction.
    fn sender(&self, direction: Direction) -> Role {
        if self.is_request(direction) { Role::Client } else { Role::Server }
    }
}
