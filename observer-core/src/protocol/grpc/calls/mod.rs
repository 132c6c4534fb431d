//! The gRPC calls of one connection: one per stream.

mod begin;
mod call;
mod end;
mod gap_streams;
mod gaps;
mod messages;
mod pending;
mod proof;
mod recent;
mod tails;

use rustc_hash::FxHashMap;

use self::{
    call::{Call, Proof},
    gap_streams::GapStreams,
    messages::Messages,
    pending::{PendingResponse, ResponsePart},
    recent::RecentStreams,
    tails::{Tails, Trailers},
};
use super::{End, Headers, Kind};
use crate::{
    call::{ByDirection, CallSink, Coverage, Direction, Directions, Role},
    names::PathId,
    protocol::{Streams, Transfer, hpack::ContentType},
};

/// Bound on the open calls of one connection. Calls beyond it are counted, not measured. HTTP/2 peers usually allow
/// each other 100 to 2³¹ streams.
pub const MAX_OPEN: usize = 1 << 16;

/// How long a call that may have ended in a gap stays open while nothing of it is seen: a minute. Then it ends without
/// a code, so that it is not in flight for ever.
pub const GAP_TIMEOUT_NS: u64 = 60_000_000_000;

/// The calls of one connection.
///
/// Order of calls: any of [`headers`](Self::headers), [`data`](Self::data), [`reset`](Self::reset),
/// [`go_away`](Self::go_away), [`gap`](Self::gap), [`gap_ended`](Self::gap_ended) and [`expire`](Self::expire), as they
/// come; [`replay_pending`](Self::replay_pending) after each transfer; [`closed`](Self::closed) last.
///
/// # Streams that are gRPC
///
/// The content type of the request shows it. If that could not be decoded, calls do not count until the connection has
/// shown that it carries gRPC: with any field that only gRPC uses, or with a call that looks like nothing else: a POST
/// of whole messages with gRPC's prefixes, answered with headers and, after them, trailers.
///
/// # Frames that are certain
///
/// If a direction's frame boundary was [found again](Self::resynced) and not followed from the start, bytes that look
/// like frames may be content of a message: a peer chooses what it sends at once, and so where a boundary is found.
/// The other end has read the real frames, and does not answer others. So a call that starts with such a frame counts
/// once the server has answered on its stream; before that only as many count as the server has answered so far.
/// Likewise, the end of a stream that started in a gap counts once the client has shown that it started the stream.
/// Streams that are never confirmed count as [unconfirmed](crate::protocol::Streams::unconfirmed).
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub struct Calls {
    role: Role,
    /// Both directions have shown the role, or the connection was seen from its start.
    agreed: bool,
    /// The directions that were out of sync and resynced.
    resynced: Directions,
    /// How many calls may count before the server has answered.
    credit: u64,
    /// Open calls that do not count, because they are not answered yet.
    unanswered: usize,
    /// The last streams with a frame, by direction.
    recent: ByDirection<RecentStreams>,
    open: FxHashMap<u32, Call>,
    /// The highest stream that the client was seen to start.
    last_stream: u32,
    /// The highest stream that the client started for certain: it starts none below.
    last_proven: u32,
    gap_streams: GapStreams,
    /// Responses on streams that the client was not seen to start yet, in their order.
    pending: Vec<PendingResponse>,
    /// Trailers in bodies that are not complete yet.
    tails: Tails,
    /// The client has started one of those streams, and [`replay_pending`](Self::replay_pending) is to come.
    pending_ready: bool,
    coverage: Coverage,
    /// The connection has carried gRPC for certain.
    shows_grpc: bool,
    /// Some open calls may have ended in a gap.
    has_doubtful: bool,
    /// The time of the last frame.
    now_ns: u64,
    /// The server's GOAWAY: it will not process streams above this one.
    refused_above: Option<u32>,
    /// The directions with a gap that goes on.
    in_gap: Directions,
    /// The streams so far.
    pub streams: Streams,
}

impl Calls {
    /// Creates the calls of a connection that is seen from its start.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            agreed: true,
            resynced: Directions::default(),
            credit: 0,
            unanswered: 0,
            recent: ByDirection::default(),
            open: FxHashMap::default(),
            last_stream: 0,
            last_proven: 0,
            gap_streams: GapStreams::default(),
            pending: Vec::new(),
            tails: Tails::default(),
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

    /// Creates the calls of a connection that joined late; `agreed` if its role is certain.
    pub fn joined_late(role: Role, agreed: bool) -> Self {
        let resynced = Directions::BOTH;
        let mut calls =
            Self { coverage: Coverage::JoinedLate, agreed, resynced, ..Self::new(role) };
        calls.gap(Direction::Received);
        calls.gap(Direction::Sent);
        calls
    }

    /// Changes the role, and drops the calls so far: they were not calls.
    pub fn take_role(&mut self, role: Role, sink: &mut impl CallSink) {
        for stream in self.streams(|_, _| true) {
            self.end(self.now_ns, stream, End::NotSeen, sink);
        }
        let Self { recent, now_ns, in_gap, streams, .. } = *self;
        let unconfirmed = streams.unconfirmed + self.pending_ends();
        let streams = Streams { unconfirmed, ..streams };
        *self = Self { recent, now_ns, in_gap, streams, ..Self::joined_late(role, false) };
    }

    /// Whether the role is certain: both directions have shown it, or the connection was seen from its start.
    pub fn is_agreed(&self) -> bool {
        self.agreed
    }

    /// Records that the role is certain.
    pub fn agree(&mut self, sink: &mut impl CallSink) {
        self.agreed = true;
        self.join_pending(self.last_stream, sink);
    }

    /// The number of open calls that are counted.
    pub fn open(&self) -> usize {
        if self.shows_grpc { self.open.len() - self.unanswered } else { 0 }
    }

    /// The number of streams so far, open ones too, that may be gRPC calls or not.
    pub fn unclear(&self) -> u64 {
        let open = if self.shows_grpc { 0 } else { self.open.len() - self.unanswered };
        self.streams.unclear + open as u64
    }

    /// The paths of open calls and pending responses.
    pub fn paths(&self) -> impl Iterator<Item = PathId> {
        let pending = self.pending.iter().filter_map(PendingResponse::path);
        let of_call = |call: &Call| [Some(call.key.path), call.authority];
        self.open.values().flat_map(of_call).flatten().chain(pending)
    }

    /// The side that the process is on.
    pub fn role(&self) -> Role {
        self.role
    }

    /// How much of the connection was seen.
    pub fn coverage(&self) -> Coverage {
        self.coverage
    }

    /// Takes a field block of a stream, from either side; `end_stream` if it ends the stream.
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
            // A client's trailers: gRPC does not use them, but HTTP/2 allows them.
            call.half_closed |= end_stream;
            call.touched_ns = at.time_ns;
        } else {
            self.begin(at, stream, headers, end_stream, sink);
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
                let part = ResponsePart::Headers { headers: *headers, end_stream };
                self.keep_pending(at, stream, part);
            } else if end_stream && self.is_unconfirmed(stream) {
                self.keep_pending_end(at, stream, headers);
            } else if end_stream {
                self.join(at, stream, headers, sink);
            }
            return;
        };
        call.touched_ns = at.time_ns;
        if call.series.is_none() && headers.content_type.is_some() {
            // It is not gRPC's content type, which would have given the call a series.
            self.open.remove(&stream);
            self.streams.not_grpc += 1;
        } else if end_stream {
            let of_body = call.trailers.filter(|_| headers.grpc_status.is_none());
            call.message = of_body.map_or(headers.message, |trailers| trailers.message);
            let is_connect = matches!(call.kind, Kind::ConnectUnary | Kind::ConnectStream);
            let end = if of_body.is_some() || is_connect && !headers.incomplete {
                call.status = call.status.or(headers.status);
                call.end_of_stream()
            } else {
                End::trailers(call.status, headers)
            };
            if call.looks_like_grpc() {
                self.show_grpc(sink);
            }
            self.end(at.time_ns, stream, end, sink);
        } else if headers.status.is_some_and(|status| status >= 200) {
            // Informational responses (RFC 9110 §15.2) come before the response.
            call.status = call.status.or(headers.status);
            call.answers_json = headers.content_type == Some(ContentType::Json);
            if call.kind == Kind::GrpcWeb && headers.grpc_status.is_some() {
                call.trailers = Some(Trailers::of(call.kind, headers));
            }
        }
    }

    /// The memory of open calls and pending responses, in bytes; the hash table has a byte of its own for each call.
    pub fn memory(&self) -> usize {
        self.open.capacity() * (size_of::<(u32, Call)>() + 1)
            + self.pending.capacity() * size_of::<PendingResponse>()
            + self.tails.memory()
    }

    /// The wanted open streams, ascending, so that the order of events does not depend on the hash table's.
    fn streams(&self, wanted: impl Fn(u32, &Call) -> bool) -> Vec<u32> {
        let wanted = self.open.iter().filter(|&(&stream, call)| wanted(stream, call));
        let mut streams: Vec<u32> = wanted.map(|(&stream, _)| stream).collect();
        streams.sort_unstable();
        streams
    }

    /// Whether this is the direction of requests.
    fn is_request(&self, direction: Direction) -> bool {
        direction == self.role.request_direction()
    }
}

#[cfg(test)]
mod tests;
