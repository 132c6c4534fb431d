//! The calls of one connection: one per stream.

use rustc_hash::FxHashMap;

use super::{CallKey, CallSink, End, Ended, Flow, Headers, Role, SeriesId, rules::is_expired};
use crate::{
    hpack::{ContentType, PathId},
    process::ProcessId,
    record::Unseen,
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
/// [`reset`](Self::reset), [`go_away`](Self::go_away), [`missed`](Self::missed) and
/// [`found`](Self::found), as they come; [`closed`](Self::closed) last.
#[derive(Debug)]
pub struct Calls {
    role: Role,
    open: FxHashMap<u32, Call>,
    /// Highest stream that the client began, as far as seen.
    last_stream: u32,
    /// The server said that it will not process streams above this one.
    refused_above: Option<u32>,
    /// Directions of which nothing is seen at the moment.
    unseen: Unseen,
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
    /// There may be a timeout that was not decoded.
    timeout_unknown: bool,
    status: Option<u16>,
    request_messages: u64,
    response_messages: u64,
    half_closed: bool,
    /// Its bytes are not framed as messages, or not known to be.
    unaligned: bool,
    /// Directions of which bytes were not seen while it was open: messages of it may have been
    /// among them, and its end.
    missed: Unseen,
}

impl Call {
    /// Whether its deadline had passed by then; `None` if it may have one that was not seen.
    fn expired(&self, role: Role, time_ns: u64) -> Option<bool> {
        let elapsed = time_ns.saturating_sub(self.started_ns);
        let expired = self.timeout_ns.is_some_and(|timeout| is_expired(role, elapsed, timeout));
        (!self.timeout_unknown).then_some(expired)
    }

    /// Messages of it may not have been counted.
    fn is_uncounted(&self) -> bool {
        self.unaligned || self.missed.any()
    }
}

impl Calls {
    /// No calls yet.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            open: FxHashMap::default(),
            last_stream: 0,
            refused_above: None,
            unseen: Unseen::default(),
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
            timeout_unknown: headers.incomplete && headers.timeout_ns.is_none(),
            status: None,
            request_messages: 0,
            response_messages: 0,
            half_closed: end_stream,
            unaligned: false,
            missed: self.unseen,
        };
        self.open.insert(stream, call);
        self.streams.measured += 1;
        if self.refused_above.is_some_and(|last_stream| stream > last_stream) {
            // It crossed the GOAWAY on its way.
            self.refuse(at.time_ns, stream, sink);
        }
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
            self.end(at.time_ns, stream, end, sink);
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
        call.unaligned |= data.unaligned;
        if data.messages > 0 {
            sink.messages(call.series, flow, data.messages, data.message_bytes);
            if is_request {
                call.request_messages = call.request_messages.saturating_add(data.messages);
            } else {
                if call.response_messages == 0 && !call.is_uncounted() {
                    let elapsed = at.time_ns.saturating_sub(call.started_ns);
                    sink.first_message(call.series, elapsed);
                }
                call.response_messages = call.response_messages.saturating_add(data.messages);
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
            self.end(at.time_ns, data.stream, end, sink);
        }
    }

    /// RST_STREAM was seen, from either side.
    pub fn reset(
        &mut self,
        at: Moment,
        flow: Flow,
        stream: u32,
        error: u32,
        sink: &mut impl CallSink,
    ) {
        let Some(call) = self.open.get(&stream) else { return };
        let expired = call.expired(self.role, at.time_ns);
        // A side's RST_STREAM is the last that it sends of a stream: only the other side's, or the
        // server's trailers, may have ended the call before.
        let incomplete = if self.is_request(flow) {
            call.missed.in_flow(flow.opposite())
        } else {
            call.missed.any()
        };
        self.end(at.time_ns, stream, End::Reset { error, expired, incomplete }, sink);
    }

    /// GOAWAY was seen: what it says of streams concerns those that its receiver began.
    pub fn go_away(&mut self, at: Moment, flow: Flow, last_stream: u32, sink: &mut impl CallSink) {
        if self.is_request(flow) {
            return;
        }
        self.refused_above = Some(last_stream);
        for stream in self.streams(|stream| stream > last_stream) {
            self.refuse(at.time_ns, stream, sink);
        }
    }

    fn refuse(&mut self, time_ns: u64, stream: u32, sink: &mut impl CallSink) {
        let Some(call) = self.open.get(&stream) else { return };
        let incomplete = call.missed.any();
        self.end(time_ns, stream, End::GoAway { incomplete }, sink);
    }

    /// Bytes that flow this way were not seen, and none will be until [`found`](Self::found).
    pub fn missed(&mut self, flow: Flow) {
        self.unseen.insert(flow);
        self.open.values_mut().for_each(|call| call.missed.insert(flow));
    }

    /// Whether nothing that flows this way is seen at the moment.
    pub fn is_unseen(&self, flow: Flow) -> bool {
        self.unseen.in_flow(flow)
    }

    /// What flows this way is seen from here on.
    pub fn found(&mut self, flow: Flow) {
        self.unseen.remove(flow);
    }

    /// The connection ended, and with it all its calls.
    pub fn closed(&mut self, time_ns: u64, sink: &mut impl CallSink) {
        for stream in self.streams(|_| true) {
            let Some(call) = self.open.get(&stream) else { continue };
            let expired = call.expired(self.role, time_ns);
            let incomplete = call.missed.any();
            self.end(time_ns, stream, End::Closed { expired, incomplete }, sink);
        }
    }

    /// Open streams, ascending, so that what follows does not depend on the table's order.
    fn streams(&self, wanted: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut streams: Vec<u32> =
            self.open.keys().copied().filter(|&stream| wanted(stream)).collect();
        streams.sort_unstable();
        streams
    }

    fn end(&mut self, time_ns: u64, stream: u32, end: End, sink: &mut impl CallSink) {
        let Some(call) = self.open.remove(&stream) else { return };
        let counted = |messages| (!call.is_uncounted()).then_some(messages);
        let elapsed = time_ns.saturating_sub(call.started_ns);
        sink.ended(
            call.series,
            Ended {
                code: end.code(self.role),
                elapsed_ns: end.is_seen().then_some(elapsed),
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
