//! The calls of one connection: one per stream.

use rustc_hash::FxHashMap;

use super::{CallKey, CallSink, End, Ended, Flow, Headers, Role, SeriesId, rules::is_expired};
use crate::{
    hpack::{ContentType, PathId},
    process::ProcessId,
};

/// Most calls of one connection that may be open at once. HTTP/2 peers usually allow each other
/// 100 to 2³¹ streams; one that opens more than this is not followed: counted, not measured.
pub const MAX_OPEN: usize = 1 << 16;

/// When, and by which process of the watched end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Kernel's monotonic clock, in nanoseconds.
    pub time_ns: u64,
    /// The process that read or wrote the bytes.
    pub process: ProcessId,
}

/// The calls of one connection.
///
/// Order of calls: any of [`headers`](Self::headers), [`data`](Self::data),
/// [`reset`](Self::reset), [`go_away`](Self::go_away) and [`missed`](Self::missed), as they come;
/// [`closed`](Self::closed) last.
#[derive(Debug)]
pub struct Calls {
    role: Role,
    open: FxHashMap<u32, Call>,
    /// Highest stream that the client began, as far as seen.
    last_stream: u32,
    /// Bytes of the connection were not seen: calls may have begun and ended among them.
    incomplete: bool,
    /// The streams so far.
    pub streams: Streams,
}

/// Streams that clients began, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Calls.
    pub measured: u64,
    /// Their content type says that they are not gRPC.
    pub not_grpc: u64,
    /// More than [`MAX_OPEN`] were open.
    pub too_many: u64,
}

#[derive(Debug)]
struct Call {
    series: SeriesId,
    started_ns: u64,
    timeout_ns: Option<u64>,
    status: Option<u16>,
    request_messages: u64,
    response_messages: u64,
    half_closed: bool,
    /// Messages of it may not have been counted.
    uncounted: bool,
}

impl Calls {
    /// No calls yet.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            open: FxHashMap::default(),
            last_stream: 0,
            incomplete: false,
            streams: Streams::default(),
        }
    }

    /// Calls that are open.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// A header block was seen.
    pub fn headers(
        &mut self,
        at: Moment,
        flow: Flow,
        stream: u32,
        headers: &Headers,
        end_stream: bool,
        sink: &mut impl CallSink,
    ) {
        if !self.is_request(flow) {
            self.response_headers(at, stream, headers, end_stream, sink);
        } else if let Some(call) = self.open.get_mut(&stream) {
            // Trailers from a client: gRPC has none, HTTP/2 allows them.
            call.half_closed |= end_stream;
        } else {
            self.begin(at, stream, headers, end_stream, sink);
        }
    }

    fn begin(
        &mut self,
        at: Moment,
        stream: u32,
        headers: &Headers,
        end_stream: bool,
        sink: &mut impl CallSink,
    ) {
        // Client streams are odd and ascend (RFC 9113 §5.1.1): anything else begins nothing.
        if stream.is_multiple_of(2) || stream <= self.last_stream {
            return;
        }
        self.last_stream = stream;
        let is_grpc = match headers.content_type {
            Some(content_type) => content_type == ContentType::Grpc,
            None => headers.incomplete,
        };
        if !is_grpc {
            self.streams.not_grpc += 1;
            return;
        }
        if self.open.len() >= MAX_OPEN {
            self.streams.too_many += 1;
            return;
        }
        let path = headers.path.unwrap_or(PathId::NOT_SEEN);
        let series = sink.started(CallKey { process: at.process, role: self.role, path });
        let call = Call {
            series,
            started_ns: at.time_ns,
            timeout_ns: headers.timeout_ns,
            status: None,
            request_messages: 0,
            response_messages: 0,
            half_closed: end_stream,
            uncounted: false,
        };
        self.open.insert(stream, call);
        self.streams.measured += 1;
    }

    fn response_headers(
        &mut self,
        at: Moment,
        stream: u32,
        headers: &Headers,
        end_stream: bool,
        sink: &mut impl CallSink,
    ) {
        let Some(call) = self.open.get_mut(&stream) else { return };
        if end_stream {
            let end = End::trailers(call.status, headers);
            self.end(at, stream, end, sink);
        } else if headers.status.is_some_and(|status| status >= 200) {
            // Informational ones (RFC 9110 §15.2) come before the response.
            call.status = call.status.or(headers.status);
        }
    }

    /// DATA frames of a stream were seen: `messages` ended in them, with `bytes` bytes.
    pub fn data(
        &mut self,
        at: Moment,
        flow: Flow,
        data: &crate::record::Data,
        sink: &mut impl CallSink,
    ) {
        let is_request = self.is_request(flow);
        let Some(call) = self.open.get_mut(&data.stream) else { return };
        call.uncounted |= data.unaligned;
        if data.messages > 0 {
            sink.messages(call.series, flow, data.messages, data.message_bytes);
            if is_request {
                call.request_messages += data.messages;
            } else {
                if call.response_messages == 0 && !call.uncounted {
                    let elapsed = at.time_ns.saturating_sub(call.started_ns);
                    sink.first_message(call.series, elapsed);
                }
                call.response_messages += data.messages;
            }
        }
        if !data.end_stream {
            return;
        }
        if is_request {
            call.half_closed = true;
        } else {
            let status = call.status;
            // A server that ends without trailers sends no status at all.
            let end = End::Stream { status, grpc_status: None, incomplete: false };
            self.end(at, data.stream, end, sink);
        }
    }

    /// RST_STREAM was seen, from either side.
    pub fn reset(&mut self, at: Moment, stream: u32, error: u32, sink: &mut impl CallSink) {
        let Some(call) = self.open.get(&stream) else { return };
        let elapsed = at.time_ns.saturating_sub(call.started_ns);
        let expired = call.timeout_ns.is_some_and(|timeout| is_expired(elapsed, timeout));
        self.end(at, stream, End::Reset { error, expired }, sink);
    }

    /// GOAWAY was seen: what it says of streams concerns those that its receiver began.
    pub fn go_away(&mut self, at: Moment, flow: Flow, last_stream: u32, sink: &mut impl CallSink) {
        if self.is_request(flow) {
            return;
        }
        for stream in self.streams(|stream| stream > last_stream) {
            self.end(at, stream, End::GoAway, sink);
        }
    }

    /// Bytes of one of the directions were not seen.
    pub fn missed(&mut self) {
        self.incomplete = true;
        self.open.values_mut().for_each(|call| call.uncounted = true);
    }

    /// The connection ended, and with it all its calls.
    pub fn closed(&mut self, at: Moment, sink: &mut impl CallSink) {
        let incomplete = self.incomplete;
        for stream in self.streams(|_| true) {
            self.end(at, stream, End::Closed { incomplete }, sink);
        }
    }

    /// Open streams, ascending, so that what follows does not depend on the table's order.
    fn streams(&self, wanted: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut streams: Vec<u32> =
            self.open.keys().copied().filter(|&stream| wanted(stream)).collect();
        streams.sort_unstable();
        streams
    }

    fn end(&mut self, at: Moment, stream: u32, end: End, sink: &mut impl CallSink) {
        let Some(call) = self.open.remove(&stream) else { return };
        let counted = |messages| (!call.uncounted).then_some(messages);
        sink.ended(
            call.series,
            Ended {
                code: end.code(self.role),
                elapsed_ns: Some(at.time_ns.saturating_sub(call.started_ns)),
                request_messages: counted(call.request_messages),
                response_messages: counted(call.response_messages),
                half_closed: call.half_closed,
            },
        );
    }

    /// Whether what flows that way comes from the client.
    fn is_request(&self, flow: Flow) -> bool {
        match self.role {
            Role::Client => flow == Flow::Sent,
            Role::Server => flow == Flow::Received,
        }
    }
}

#[cfg(test)]
mod tests;
