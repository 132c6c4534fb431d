//! The messages of calls.

use super::{Calls, Kind, ResponsePart};
use crate::{
    call::{CallSink, Role},
    protocol::Transfer,
    record::Data,
};

/// The messages of one direction of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Messages {
    pub(super) count: u64,
    pub(super) bytes: u64,
    /// The time when the last one was complete; before the first one, the start of the call.
    pub(super) last_ns: u64,
}

impl Calls {
    /// Takes DATA frames of a stream, from either side.
    pub fn data(&mut self, at: Transfer, data: &Data, sink: &mut impl CallSink) {
        let is_request = self.is_request(at.direction);
        self.now_ns = at.time_ns;
        self.saw(at.direction, data.stream, sink);
        let Some(call) = self.open.get_mut(&data.stream) else {
            if !is_request && !self.gap_streams.contains(data.stream) {
                self.keep_pending(at, data.stream, ResponsePart::Data(*data));
            }
            return;
        };
        call.touched_ns = at.time_ns;
        if data.messages > 0 && call.kind != Kind::ConnectUnary {
            let is_whole = !call.is_uncounted();
            let first = !is_request && call.responses.count == 0 && is_whole;
            let messages = if is_request { &mut call.requests } else { &mut call.responses };
            let had = messages.count;
            messages.count = messages.count.saturating_add(data.messages);
            let second = had <= 1 && messages.count > 1;
            messages.bytes = messages.bytes.saturating_add(data.message_bytes);
            let after_last_ns = at.time_ns.saturating_sub(messages.last_ns);
            messages.last_ns = at.time_ns;
            if first {
                call.first_message_ns = Some(at.time_ns);
            }
            if let Some(series) = call.series {
                sink.messages(series, at.direction, data.messages, data.message_bytes);
                if second {
                    sink.second_message(series, at.direction);
                }
                if is_whole && self.role == Role::Client {
                    sink.after_last_message(series, at.direction, data.messages, after_last_ns);
                }
                if first {
                    sink.first_message(series, at.time_ns.saturating_sub(call.started_ns));
                }
            }
        }
        // The bytes that are not known to be messages came after these messages.
        call.unaligned |= data.unaligned;
        if !data.end_stream {
            return;
        }
        if is_request {
            call.half_closed = true;
        } else {
            // A server that ends the stream without trailers sends no `grpc-status`, except in gRPC-Web.
            let end = call.end_of_stream();
            if let Some(trailers) = call.trailers {
                call.message = trailers.message;
            }
            self.end(at.time_ns, data.stream, end, sink);
        }
    }
}
