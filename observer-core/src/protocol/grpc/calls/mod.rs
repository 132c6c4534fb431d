//! The calls of one connection: one per stream.

mod call;
mod gap_streams;
mod gaps;
mod pending;
mod proof;
mod recent;

use rustc_hash::FxHashMap;

use self::{
    call::{Call, Messages, Proof},
    gap_streams::GapStreams,
    pending::{PendingResponse, ResponsePart},
    recent::RecentStreams,
};
use super::{
    End, Headers,
    deadline::{Reason, Timeout},
};
use crate::{
    call::{CallKey, CallSink, Cancellation, Coverage, Direction, Directions, Ended, Role},
    names::PathId,
    protocol::{
        Streams, Transfer,
        hpack::{ContentType, RequestMethod},
    },
    record::Data,
};

/// Bound on the open calls of one connection. HTTP/2 peers usually allow each other 100 to 2³¹ streams; calls beyond
/// the bound are counted, not measured.
pub const MAX_OPEN: usize = 1 << 16;

/// How long a call that may have ended in a gap stays open while nothing is seen of it. Then it ends, its code not
/// seen, so that it is not in flight for ever.
pub const GAP_TIMEOUT_NS: u64 = 60_000_000_000;

/// The calls of one connection.
///
/// Order of calls: any of [`headers`](Self::headers), [`data`](Self::data), [`reset`](Self::reset),
/// [`go_away`](Self::go_away), [`gap`](Self::gap), [`gap_ended`](Self::gap_ended) and [`expire`](Self::expire), as they
/// come; [`replay_pending`](Self::replay_pending) after each transfer; [`closed`](Self::closed) last.
///
/// # What is gRPC
///
/// The content type of the request says it. Where that could not be decoded, calls do not count until the
/// connection has shown that it carries gRPC: with any field that only gRPC has, or with a call that looks like
/// nothing else: a POST of whole messages with gRPC's prefixes, answered with headers and, after them, trailers.
///
/// # What is a frame
///
/// Where a direction's frame boundary was [found again](Self::resynced) and not followed from the beginning, what looks
/// like frames may be content of a message: a peer chooses what it sends at once, and so where a boundary is found.
/// The other end has read the frames as they are, and does not answer what is not one. So a call that begins with
/// such a frame counts once the server has answered on its stream; before that only as many count as the server
/// has answered so far. Likewise, the end of a stream that began in a gap counts once the client has shown that
/// it has begun the stream. What is never shown is counted as
/// [unconfirmed](crate::protocol::Streams::unconfirmed).
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub struct Calls {
    role: Role,
    /// Both directions have shown which end this is.
    agreed: bool,
    /// Directions whose frame boundary was lost and found again.
    resynced: Directions,
    /// How many calls may count before the server has answered.
    credit: u64,
    /// Open calls that do not count, as they are not answered yet.
    unanswered: usize,
    /// The streams that were last seen.
    recent: RecentStreams,
    open: FxHashMap<u32, Call>,
    /// The highest stream that the client was seen to begin; and the highest proven one, below which it does not
    /// begin streams any more.
    last_stream: u32,
    last_proven: u32,
    gap_streams: GapStreams,
    /// Responses on streams that the client was not seen to begin yet, in their order.
    pending: Vec<PendingResponse>,
    /// The client has begun one of those, and [`replay_pending`](Self::replay_pending) is to come.
    pending_ready: bool,
    coverage: Coverage,
    /// The connection has carried gRPC for certain.
    shows_grpc: bool,
    /// Some open calls may have ended in a gap.
    has_doubtful: bool,
    /// When the last frame was seen.
    now_ns: u64,
    /// The server said that it will not process streams above this one.
    refused_above: Option<u32>,
    /// Directions with a gap that goes on.
    in_gap: Directions,
    /// The streams so far.
    pub streams: Streams,
}

impl Calls {
    /// No calls yet.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            agreed: true,
            resynced: Directions::default(),
            credit: 0,
            unanswered: 0,
            recent: RecentStreams::default(),
            open: FxHashMap::default(),
            last_stream: 0,
            last_proven: 0,
            gap_streams: GapStreams::default(),
            pending: Vec::new(),
            pending_ready: false,
            coverage: Coverage::Complete,
            shows_grpc: false,
            has_doubtful: false,
            now_ns: 0,
            refused_above: None,
            in_gap: Directions::default(),
            streams: Streams::default(),
        }
    }

    /// The calls of a connection that joined late. `agreed` says whether its role is certain.
    pub fn joined_late(role: Role, agreed: bool) -> Self {
        let resynced = Directions::BOTH;
        let mut calls =
            Self { coverage: Coverage::JoinedLate, agreed, resynced, ..Self::new(role) };
        calls.gap(Direction::Received);
        calls.gap(Direction::Sent);
        calls
    }

    /// Changes the role: what was taken for calls so far was not.
    pub fn take_role(&mut self, role: Role, sink: &mut impl CallSink) {
        for stream in self.streams(|_| true) {
            self.end(self.now_ns, stream, End::NotSeen, sink);
        }
        let Self { recent, now_ns, in_gap, streams, .. } = *self;
        let unconfirmed = streams.unconfirmed + self.pending_ends();
        let streams = Streams { unconfirmed, ..streams };
        *self = Self { recent, now_ns, in_gap, streams, ..Self::joined_late(role, false) };
    }

    /// Records that both directions have shown the role.
    pub fn agree(&mut self, sink: &mut impl CallSink) {
        if !self.agreed {
            self.agreed = true;
            self.join_pending(self.last_stream, sink);
        }
    }

    /// How many calls are open and counted.
    pub fn open(&self) -> usize {
        if self.shows_grpc { self.open.len() - self.unanswered } else { 0 }
    }

    /// How many streams so far, open ones too, may be calls or not.
    pub fn unclear(&self) -> u64 {
        let open = if self.shows_grpc { 0 } else { self.open.len() - self.unanswered };
        self.streams.unclear + open as u64
    }

    /// The paths of open calls and pending responses.
    pub fn paths(&self) -> impl Iterator<Item = PathId> {
        let pending = self.pending.iter().filter_map(PendingResponse::path);
        self.open.values().map(|call| call.key.path).chain(pending)
    }

    /// The end of the connection that the process is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// How much is seen of the connection.
    pub fn coverage(&self) -> Coverage {
        self.coverage
    }

    /// Takes a header block.
    pub fn headers(
        &mut self,
        at: Transfer,
        stream: u32,
        headers: &Headers,
        end_stream: bool,
        sink: &mut impl CallSink,
    ) {
        self.now_ns = at.time_ns;
        let is_request = self.is_request(at.direction);
        if headers.shows_grpc() && !(is_request && self.resynced.contains(at.direction)) {
            self.show_grpc(sink);
        }
        self.saw(at.direction, stream, sink);
        if !is_request {
            self.response_headers(at, stream, headers, end_stream, sink);
        } else if let Some(call) = self.open.get_mut(&stream) {
            // Trailers from a client: gRPC has none, HTTP/2 allows them.
            call.half_closed |= end_stream;
            call.touched_ns = at.time_ns;
        } else {
            self.begin(at, stream, headers, end_stream, sink);
        }
    }

    fn begin(
        &mut self,
        at: Transfer,
        stream: u32,
        headers: &Headers,
        end_stream: bool,
        sink: &mut impl CallSink,
    ) {
        // Client streams are odd and ascend (RFC 9113 §5.1.1): anything else begins nothing.
        if stream.is_multiple_of(2) || stream <= self.last_proven {
            return;
        }
        self.last_stream = self.last_stream.max(stream);
        if !self.resynced.contains(request_direction(self.role)) {
            self.last_proven = stream;
        }
        if self.agreed {
            self.join_pending(stream, sink);
        }
        self.gap_streams.began(stream);
        if self.gap_streams.has_ended(stream) {
            return;
        }
        let may_be_grpc = match headers.content_type {
            Some(content_type) => content_type == ContentType::Grpc,
            None => headers.incomplete && headers.method != Some(RequestMethod::Get),
        };
        if !may_be_grpc {
            self.streams.not_grpc += 1;
            return;
        }
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
            key: CallKey { process: at.process, role: self.role, path },
            started_ns: at.time_ns,
            waited: at.waited,
            touched_ns: at.time_ns,
            trace: headers.trace.flatten(),
            message: None,
            timeout: match headers.timeout_ns {
                Some(ns) => Timeout::Of(ns),
                None if headers.incomplete => Timeout::Unknown,
                None => Timeout::Absent,
            },
            status: None,
            requests: Messages { last_ns: at.time_ns, ..Messages::default() },
            responses: Messages { last_ns: at.time_ns, ..Messages::default() },
            first_message_ns: None,
            half_closed: end_stream,
            unaligned: false,
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
            // It crossed the GOAWAY on its way.
            self.refuse(at.time_ns, stream, sink);
        }
    }

    fn response_headers(
        &mut self,
        at: Transfer,
        stream: u32,
        headers: &Headers,
        end_stream: bool,
        sink: &mut impl CallSink,
    ) {
        let Some(call) = self.open.get_mut(&stream) else {
            if !self.gap_streams.contains(stream) {
                self.keep_pending(
                    at,
                    stream,
                    ResponsePart::Headers { headers: *headers, end_stream },
                );
            } else if end_stream && self.is_unconfirmed(stream) {
                self.keep_pending_end(at, stream, headers);
            } else if end_stream {
                self.join(at, stream, headers, sink);
            }
            return;
        };
        call.touched_ns = at.time_ns;
        if call.series.is_none() && headers.content_type.is_some() {
            // Not gRPC's: that would have shown it.
            self.open.remove(&stream);
            self.streams.not_grpc += 1;
        } else if end_stream {
            call.message = headers.message;
            let end = End::trailers(call.status, headers);
            if call.looks_like_grpc() {
                self.show_grpc(sink);
            }
            self.end(at.time_ns, stream, end, sink);
        } else if headers.status.is_some_and(|status| status >= 200) {
            // Informational ones (RFC 9110 §15.2) come before the response.
            call.status = call.status.or(headers.status);
        }
    }

    /// Records that the connection carries gRPC for certain: its open calls count.
    fn show_grpc(&mut self, sink: &mut impl CallSink) {
        if self.shows_grpc {
            return;
        }
        self.shows_grpc = true;
        for stream in self.streams(|call| call.proof != Proof::Awaited && call.series.is_none()) {
            if let Some(call) = self.open.get_mut(&stream) {
                call.start(sink);
                self.streams.measured += 1;
            }
        }
    }

    /// DATA frames of a stream were seen: `messages` ended in them, with `bytes` bytes.
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
        if data.messages > 0 {
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
        // The messages were before.
        call.unaligned |= data.unaligned;
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

    /// Takes RST_STREAM, from either side.
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
            // In one transfer with what began the call: that says nothing of when it was given up.
            _ if at.time_ns == call.started_ns && call.timeout != Timeout::Absent => {
                Reason::Unclear
            }
            reason => reason,
        };
        let by = self.sender(at.direction);
        // A side's RST_STREAM is the last that it sends of a stream: only the other side's, or the
        // server's trailers, may have ended the call before.
        let incomplete = if self.is_request(at.direction) {
            call.gaps.contains(at.direction.opposite())
        } else {
            call.gaps.any()
        };
        self.end(at.time_ns, stream, End::Reset { by, error, reason, incomplete }, sink);
    }

    /// Takes GOAWAY, which concerns the streams that its receiver began.
    pub fn go_away(&mut self, at: Transfer, last_stream: u32, sink: &mut impl CallSink) {
        if self.is_request(at.direction) {
            return;
        }
        self.refused_above = Some(last_stream);
        for stream in self.streams_above(last_stream) {
            self.refuse(at.time_ns, stream, sink);
        }
    }

    fn refuse(&mut self, time_ns: u64, stream: u32, sink: &mut impl CallSink) {
        let Some(call) = self.open.get(&stream) else { return };
        let incomplete = call.gaps.any();
        self.end(time_ns, stream, End::GoAway { incomplete }, sink);
    }

    /// Ends all calls with the connection. `by` is the direction in which the end that closed it sends;
    /// `stall_free_since_ns` as in [`Transfer`].
    pub fn closed(
        &mut self,
        time_ns: u64,
        by: Option<Direction>,
        stall_free_since_ns: u64,
        sink: &mut impl CallSink,
    ) {
        let by = by.map(|direction| self.sender(direction));
        self.end_pending(sink);
        for stream in self.streams(|_| true) {
            let Some(call) = self.open.get(&stream) else { continue };
            let reason = call.reason([time_ns; 2], stall_free_since_ns);
            let incomplete = call.gaps.any();
            self.end(time_ns, stream, End::Closed { by, reason, incomplete }, sink);
        }
        self.open = FxHashMap::default();
    }

    /// The memory of open calls, with the table's own byte for each, and of pending responses, in bytes.
    pub fn memory(&self) -> usize {
        self.open.capacity() * (size_of::<(u32, Call)>() + 1)
            + self.pending.capacity() * size_of::<PendingResponse>()
    }

    /// Open streams, ascending, so that what follows does not depend on the table's order.
    fn streams(&self, wanted: impl Fn(&Call) -> bool) -> Vec<u32> {
        let mut streams: Vec<u32> =
            self.open.iter().filter(|(_, call)| wanted(call)).map(|(&stream, _)| stream).collect();
        streams.sort_unstable();
        streams
    }

    fn streams_above(&self, last_stream: u32) -> Vec<u32> {
        let mut streams = self.streams(|_| true);
        streams.retain(|&stream| stream > last_stream);
        streams
    }

    fn end(&mut self, time_ns: u64, stream: u32, end: End, sink: &mut impl CallSink) {
        let Some(call) = self.open.remove(&stream) else { return };
        if call.proof == Proof::Assumed {
            // The server may answer yet.
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
        let counted = |messages: Messages| (!call.is_uncounted()).then_some(messages.count);
        let elapsed = time_ns.saturating_sub(call.started_ns);
        sink.ended(
            series,
            Ended {
                code: end.code(),
                elapsed_ns: end.is_seen().then_some(elapsed),
                request_messages: counted(call.requests),
                response_messages: counted(call.responses),
                half_closed: call.half_closed,
                coverage: self.coverage,
                trace: call.trace,
                message: call.message,
                cancellation: (call.timeout != Timeout::Absent && end.is_cancellation())
                    .then_some(Cancellation { role: self.role, stream }),
            },
        );
    }

    /// The sender in this direction.
    fn sender(&self, direction: Direction) -> Role {
        if self.is_request(direction) { Role::Client } else { Role::Server }
    }

    /// Whether this is the direction of requests.
    fn is_request(&self, direction: Direction) -> bool {
        direction == request_direction(self.role)
    }
}

/// The direction of requests.
fn request_direction(role: Role) -> Direction {
    match role {
        Role::Client => Direction::Sent,
        Role::Server => Direction::Received,
    }
}

#[cfg(test)]
mod tests;
