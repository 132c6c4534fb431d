//! The calls of one connection: one per stream.

use rustc_hash::FxHashMap;

use super::{
    End, Headers,
    deadline::{Deadline, Reason, Timeout},
    gap_streams::GapStreams,
    recent::Recent,
};
use crate::{
    call::{CallKey, CallSink, Cancellation, Coverage, Direction, Ended, Role, SeriesId, TraceId},
    names::{PathId, TextId},
    protocol::{
        Moment, Streams,
        hpack::{ContentType, RequestMethod},
    },
    record::{Data, Directions, Waited},
};

/// Most calls of one connection that may be open at once. HTTP/2 peers usually allow each other
/// 100 to 2³¹ streams; one that opens more than this is not followed: counted, not measured.
pub const MAX_OPEN: usize = 1 << 16;

/// A call of which bytes were not seen may have ended in them. When nothing of it was seen for this
/// long since, it is told as ended, its code not seen: so that it is not in flight for ever.
pub const GAP_TIMEOUT_NS: u64 = 60_000_000_000;

/// The calls of one connection.
///
/// Order of calls: any of [`headers`](Self::headers), [`data`](Self::data),
/// [`reset`](Self::reset), [`go_away`](Self::go_away), [`gap`](Self::gap),
/// [`gap_ended`](Self::gap_ended) and [`expire`](Self::expire), as they come, and
/// [`replay_pending`](Self::replay_pending) after all that one call moved; [`closed`](Self::closed) last.
///
/// # What is gRPC
///
/// The request's content type says it. Where that could not be decoded, calls are not told of
/// until the connection has shown that it carries gRPC: by any field that only gRPC has, or by a
/// call that looks like nothing else: a POST of whole messages with gRPC's prefixes, answered with
/// headers and, after them, trailers.
///
/// # What is a frame
///
/// Where a direction's frame boundary was [found](Self::found_late) and not followed from the beginning, what
/// looks like frames may be content of a message: a peer chooses what it sends at once, and so where a boundary is
/// found. The other end, which has read the frames as they are, does not answer what is none. So a call that
/// such a frame began is told of once the server has said something of its stream; until then only as many as the
/// server has answered so far. Likewise, an end of a stream that began out of sight is told of once
/// the client has shown that it has begun it. What that never comes of is counted as
/// [unconfirmed](crate::protocol::Streams::unconfirmed).
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub struct Calls {
    role: Role,
    /// Both directions have shown which end this is.
    agreed: bool,
    /// Directions whose frame boundary was found.
    resynced: Directions,
    /// How many calls may be told of before the server has said something of them.
    credit: u64,
    /// Open calls that are not told of yet, for want of an answer.
    unanswered: usize,
    /// Streams that were last seen in each direction: received, sent.
    recent: [Recent; 2],
    open: FxHashMap<u32, Call>,
    /// Highest stream that the client began, as far as seen; and the highest of those that are proven, below which it
    /// begins none any more.
    last_stream: u32,
    last_proven: u32,
    gap_streams: GapStreams,
    /// What the server sent of streams that the client was not seen to begin yet, in its order.
    pending: Vec<PendingResponse>,
    /// The client has begun one of those, and [`replay_pending`](Self::replay_pending) is to come.
    pending_ready: bool,
    coverage: Coverage,
    /// The connection has carried gRPC for certain.
    shows_grpc: bool,
    /// Some open calls may have ended unseen.
    has_doubtful: bool,
    /// When something was last seen.
    now_ns: u64,
    /// The server said that it will not process streams above this one.
    refused_above: Option<u32>,
    /// Directions of which nothing is seen at the moment.
    in_gap: Directions,
    /// The streams so far.
    pub streams: Streams,
}

/// Whether what began a call is known to have been a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Given,
    /// It is told of in advance: others were answered.
    Assumed,
    /// It is not told of.
    Awaited,
}

#[derive(Debug)]
struct Call {
    /// `None` until the connection has shown that it carries gRPC, and while proof is wanted.
    series: Option<SeriesId>,
    proof: Proof,
    /// Its request has a field that only gRPC has.
    shows_grpc: bool,
    key: CallKey,
    started_ns: u64,
    /// How long before it may have begun.
    waited: Waited,
    /// When something of it was last seen.
    touched_ns: u64,
    trace: Option<TraceId>,
    message: Option<TextId>,
    timeout: Timeout,
    status: Option<u16>,
    requests: Messages,
    responses: Messages,
    /// When the first response message was complete, if that is known.
    first_message_ns: Option<u64>,
    half_closed: bool,
    /// Its bytes are not framed as messages, or not known to be.
    unaligned: bool,
    /// Directions of which bytes were not seen while it was open: messages of it may have been
    /// among them, and its end.
    gaps: Directions,
}

/// Something that the server sent of a stream before the client was seen to begin it. Either that was
/// not seen, and will not be; or the client reads the answer in another thread before its own write
/// has returned to where the kernel programs look.
#[derive(Debug)]
struct PendingResponse {
    at: Moment,
    stream: u32,
    what: ResponsePart,
}

#[derive(Debug)]
enum ResponsePart {
    Headers { headers: Headers, end_stream: bool },
    Data(Data),
    Reset { error: u32 },
}

/// Most of what comes early that is kept: the answers to the calls of some threads.
const MAX_PENDING: usize = 256;

/// The messages of one direction of a call.
#[derive(Clone, Copy, Debug, Default)]
struct Messages {
    count: u64,
    bytes: u64,
    /// When the last one was complete; before the first, when the call began.
    last_ns: u64,
}

impl Call {
    /// Tells of it, and of what was seen of it before it was known to be a call.
    fn start(&mut self, sink: &mut impl CallSink) {
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

    /// Why it was given up between these times, if it was.
    fn reason(&self, given_up_ns: [u64; 2], stall_free_since_ns: u64) -> Reason {
        let Self { started_ns, waited, timeout, .. } = *self;
        let started_ns = waited.before(started_ns);
        Deadline { started_ns, timeout }.reason(given_up_ns, stall_free_since_ns)
    }

    /// Messages of it may not have been counted.
    fn is_uncounted(&self) -> bool {
        self.unaligned || self.gaps.any()
    }

    /// Whether it looks like a gRPC call and nothing else, now that trailers end it.
    fn looks_like_grpc(&self) -> bool {
        self.status.is_some() && self.requests.count > 0 && self.half_closed && !self.unaligned
    }
}

/// Which way requests flow.
fn request_direction(role: Role) -> Direction {
    match role {
        Role::Client => Direction::Sent,
        Role::Server => Direction::Received,
    }
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
            recent: [Recent::default(); 2],
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

    /// Of a connection that was open before it was watched. `agreed` says whether its role is certain.
    pub fn joined_late(role: Role, agreed: bool) -> Self {
        let resynced = Directions::both();
        let mut calls =
            Self { coverage: Coverage::JoinedLate, agreed, resynced, ..Self::new(role) };
        calls.gap(Direction::Received);
        calls.gap(Direction::Sent);
        calls
    }

    /// It turns out to be the other end: what was taken for calls so far was none.
    pub fn take_role(&mut self, role: Role, sink: &mut impl CallSink) {
        for stream in self.streams(|_| true) {
            self.end(self.now_ns, stream, End::NotSeen, sink);
        }
        let Self { recent, now_ns, in_gap, streams, .. } = *self;
        let unconfirmed = streams.unconfirmed + self.pending_ends();
        let streams = Streams { unconfirmed, ..streams };
        *self = Self { recent, now_ns, in_gap, streams, ..Self::joined_late(role, false) };
    }

    /// Both directions have shown that its role is this.
    pub fn agree(&mut self, sink: &mut impl CallSink) {
        if !self.agreed {
            self.agreed = true;
            self.join_pending(self.last_stream, sink);
        }
    }

    /// Calls that are open and have been told of.
    pub fn open(&self) -> usize {
        if self.shows_grpc { self.open.len() - self.unanswered } else { 0 }
    }

    /// Streams so far, open ones too, of which nothing says whether they are calls.
    pub fn unclear(&self) -> u64 {
        let open = if self.shows_grpc { 0 } else { self.open.len() - self.unanswered };
        self.streams.unclear + open as u64
    }

    /// The paths of what is open, and of what came early.
    pub fn paths(&self) -> impl Iterator<Item = PathId> {
        let pending = self.pending.iter().filter_map(|pending| match &pending.what {
            ResponsePart::Headers { headers, .. } => headers.path,
            ResponsePart::Data(_) | ResponsePart::Reset { .. } => None,
        });
        self.open.values().map(|call| call.key.path).chain(pending)
    }

    /// Which end of the connection the process is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// How much is seen of the connection.
    pub fn coverage(&self) -> Coverage {
        self.coverage
    }

    /// A header block was seen.
    pub fn headers(
        &mut self,
        at: Moment,
        direction: Direction,
        stream: u32,
        headers: &Headers,
        end_stream: bool,
        sink: &mut impl CallSink,
    ) {
        self.now_ns = at.time_ns;
        let is_request = self.is_request(direction);
        if headers.shows_grpc() && !(is_request && self.resynced.contains(direction)) {
            self.show_grpc(sink);
        }
        self.saw(direction, stream, sink);
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
        at: Moment,
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

    /// Whether what begins a call now is known to be a frame.
    fn proof(&mut self) -> Proof {
        if !self.resynced.contains(request_direction(self.role)) {
            return Proof::Given;
        }
        let Some(left) = self.credit.checked_sub(1) else { return Proof::Awaited };
        self.credit = left;
        Proof::Assumed
    }

    /// Something of a stream was seen.
    fn saw(&mut self, direction: Direction, stream: u32, sink: &mut impl CallSink) {
        if !self.resynced.any() {
            return;
        }
        self.note(direction, stream);
        if !self.is_request(direction) {
            self.answered(stream, sink);
        } else if self.agreed && self.gap_streams.contains(stream) {
            self.join_where(sink, |pending| pending.stream == stream);
        }
    }

    /// Something of a stream was seen, of whatever end.
    pub fn note(&mut self, direction: Direction, stream: u32) {
        let [received, sent] = &mut self.recent;
        let recent = if direction == Direction::Received { received } else { sent };
        recent.add(stream);
    }

    /// Whether something of the stream was seen lately that flows this way.
    pub fn has_noted(&self, direction: Direction, stream: u32) -> bool {
        let [received, sent] = &self.recent;
        let recent = if direction == Direction::Received { received } else { sent };
        recent.contains(stream)
    }

    /// The server says something of the stream: so what began it was a frame.
    fn answered(&mut self, stream: u32, sink: &mut impl CallSink) {
        let Some(call) = self.open.get_mut(&stream) else { return };
        self.credit += match std::mem::replace(&mut call.proof, Proof::Given) {
            Proof::Given => return,
            Proof::Assumed => 2,
            Proof::Awaited => {
                self.unanswered -= 1;
                if self.shows_grpc {
                    call.start(sink);
                    self.streams.measured += 1;
                }
                1
            }
        };
        self.last_proven = self.last_proven.max(stream);
        if call.shows_grpc {
            self.show_grpc(sink);
        }
    }

    /// Whether the client is yet to show that it has begun a stream, out of sight.
    fn is_unconfirmed(&self, stream: u32) -> bool {
        let requests = request_direction(self.role);
        let is_begun = stream < self.last_proven || self.has_noted(requests, stream);
        self.resynced.contains(requests.opposite()) && !(self.agreed && is_begun)
    }

    fn response_headers(
        &mut self,
        at: Moment,
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

    /// Keeps what the server sent, if the client may still be seen to begin the stream.
    fn keep_pending(&mut self, at: Moment, stream: u32, what: ResponsePart) {
        let may_begin = stream > self.last_stream && !stream.is_multiple_of(2);
        if may_begin && self.pending.len() < MAX_PENDING {
            self.pending.push(PendingResponse { at, stream, what });
        }
    }

    /// Keeps the end of a stream that began out of sight.
    fn keep_pending_end(&mut self, at: Moment, stream: u32, headers: &Headers) {
        if self.pending.len() < MAX_PENDING {
            let what = ResponsePart::Headers { headers: *headers, end_stream: true };
            self.pending.push(PendingResponse { at, stream, what });
        } else {
            self.streams.unconfirmed += 1;
        }
    }

    /// How many such ends are kept.
    fn pending_ends(&self) -> u64 {
        let is_end = |pending: &&PendingResponse| {
            matches!(pending.what, ResponsePart::Headers { end_stream: true, .. })
                && self.gap_streams.contains(pending.stream)
        };
        self.pending.iter().filter(is_end).count() as u64
    }

    /// The client was seen to begin streams, and to send what it did of them in the same call: what
    /// came early of them comes now.
    pub fn replay_pending(&mut self, sink: &mut impl CallSink) {
        if !std::mem::take(&mut self.pending_ready) {
            return;
        }
        let direction = request_direction(self.role).opposite();
        let Self { pending, open, .. } = self;
        let begun: Vec<PendingResponse> =
            pending.extract_if(.., |pending| open.contains_key(&pending.stream)).collect();
        for PendingResponse { at, stream, what } in begun {
            match what {
                ResponsePart::Headers { headers, end_stream } => {
                    self.answered(stream, sink);
                    self.response_headers(at, stream, &headers, end_stream, sink);
                }
                ResponsePart::Data(data) => self.data(at, direction, &data, sink),
                ResponsePart::Reset { error } => self.reset(at, direction, stream, error, sink),
            }
        }
    }

    /// The client begins streams in their order, so those below this one it will not be seen to begin:
    /// what came of them is told as far as it can be.
    fn join_pending(&mut self, below: u32, sink: &mut impl CallSink) {
        self.join_where(sink, |pending| pending.stream < below);
    }

    /// Tells of what came early, as far as it can be.
    fn join_where(
        &mut self,
        sink: &mut impl CallSink,
        is_wanted: impl Fn(&PendingResponse) -> bool,
    ) {
        if self.pending.is_empty() {
            return;
        }
        let wanted: Vec<PendingResponse> =
            self.pending.extract_if(.., |pending| is_wanted(pending)).collect();
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
        for PendingResponse { at, stream, what } in wanted {
            if let ResponsePart::Headers { headers, end_stream: true } = what
                && self.gap_streams.contains(stream)
            {
                self.join(at, stream, &headers, sink);
            }
        }
    }

    /// The connection carries gRPC for certain: its open calls are calls.
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

    /// The server ended a stream that began unseen. Only that is told of it: it happens once, and
    /// nothing else says that the call had not ended before.
    fn join(&mut self, at: Moment, stream: u32, headers: &Headers, sink: &mut impl CallSink) {
        let may_be_grpc = headers.grpc_status.is_some() || headers.incomplete;
        // It ends once, whatever the server writes.
        if !self.shows_grpc || !may_be_grpc || self.gap_streams.has_ended(stream) {
            return;
        }
        self.gap_streams.ended(stream);
        self.streams.measured += 1;
        let path = PathId::NOT_SEEN;
        let series = sink.joined(CallKey { process: at.process, role: self.role, path });
        sink.ended(
            series,
            Ended {
                code: End::trailers(None, headers).code(),
                elapsed_ns: None,
                request_messages: None,
                response_messages: None,
                half_closed: false,
                coverage: self.coverage,
                trace: None,
                message: headers.message,
                cancellation: None,
            },
        );
    }

    /// DATA frames of a stream were seen: `messages` ended in them, with `bytes` bytes.
    pub fn data(
        &mut self,
        at: Moment,
        direction: Direction,
        data: &Data,
        sink: &mut impl CallSink,
    ) {
        let is_request = self.is_request(direction);
        self.now_ns = at.time_ns;
        self.saw(direction, data.stream, sink);
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
                sink.messages(series, direction, data.messages, data.message_bytes);
                if second {
                    sink.second_message(series, direction);
                }
                if is_whole && self.role == Role::Client {
                    sink.after_last_message(series, direction, data.messages, after_last_ns);
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

    /// RST_STREAM was seen, from either side.
    pub fn reset(
        &mut self,
        at: Moment,
        direction: Direction,
        stream: u32,
        error: u32,
        sink: &mut impl CallSink,
    ) {
        self.now_ns = at.time_ns;
        self.saw(direction, stream, sink);
        let Some(call) = self.open.get(&stream) else {
            if !self.is_request(direction) && !self.gap_streams.contains(stream) {
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
        let by = self.sender(direction);
        // A side's RST_STREAM is the last that it sends of a stream: only the other side's, or the
        // server's trailers, may have ended the call before.
        let incomplete = if self.is_request(direction) {
            call.gaps.contains(direction.opposite())
        } else {
            call.gaps.any()
        };
        self.end(at.time_ns, stream, End::Reset { by, error, reason, incomplete }, sink);
    }

    /// GOAWAY was seen: what it says of streams concerns those that its receiver began.
    pub fn go_away(
        &mut self,
        at: Moment,
        direction: Direction,
        last_stream: u32,
        sink: &mut impl CallSink,
    ) {
        if self.is_request(direction) {
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

    /// Bytes that flow this way were not seen, and none will be until [`gap_ended`](Self::gap_ended).
    pub fn gap(&mut self, direction: Direction) {
        self.in_gap.insert(direction);
        if self.coverage == Coverage::Complete {
            self.coverage = Coverage::Gaps;
        }
        if self.is_request(direction) {
            if self.resynced.contains(direction) {
                self.discard_unproven();
            }
            self.gap_streams.gap(self.last_stream);
        }
        for call in self.open.values_mut() {
            call.gaps.insert(direction);
            call.touched_ns = self.now_ns;
        }
        self.has_doubtful = !self.open.is_empty();
    }

    /// Whether there are calls for [`expire`](Self::expire) to look at.
    pub fn may_expire(&self) -> bool {
        self.has_doubtful
    }

    /// Ends the calls that may have ended unseen, and of which nothing was seen for [`GAP_TIMEOUT_NS`].
    pub fn expire(&mut self, now_ns: u64, sink: &mut impl CallSink) {
        let is_doubtful = |call: &Call| call.gaps.any();
        let long_ago = now_ns.saturating_sub(GAP_TIMEOUT_NS);
        for stream in self.streams(|call| is_doubtful(call) && call.touched_ns <= long_ago) {
            self.end(now_ns, stream, End::NotSeen, sink);
        }
        self.has_doubtful = self.open.values().any(is_doubtful);
    }

    /// Whether nothing that flows this way is seen at the moment.
    pub fn is_in_gap(&self, direction: Direction) -> bool {
        self.in_gap.contains(direction)
    }

    /// What flows this way is seen from here on.
    pub fn gap_ended(&mut self, direction: Direction) {
        self.in_gap.remove(direction);
    }

    /// Likewise, from a frame boundary on that was found.
    pub fn resynced(&mut self, direction: Direction) {
        self.gap_ended(direction);
        self.resynced.insert(direction);
    }

    /// What the client sends is not seen any more, from a boundary on that was found: it may have been none. What
    /// it showed and was not answered is void.
    fn discard_unproven(&mut self) {
        self.open.retain(|_, call| call.proof != Proof::Awaited);
        self.streams.unconfirmed += std::mem::take(&mut self.unanswered) as u64;
        self.last_stream = self.last_proven;
    }

    /// The connection ended, and with it all its calls. `by` is whose end of it that was, where what it
    /// sends flows that way; `stall_free_since_ns` as in [`Moment`].
    pub fn closed(
        &mut self,
        time_ns: u64,
        by: Option<Direction>,
        stall_free_since_ns: u64,
        sink: &mut impl CallSink,
    ) {
        let by = by.map(|direction| self.sender(direction));
        for PendingResponse { at, stream, what } in std::mem::take(&mut self.pending) {
            let ResponsePart::Headers { headers, end_stream: true } = what else { continue };
            if self.is_unconfirmed(stream) {
                self.streams.unconfirmed += 1;
            } else if self.gap_streams.contains(stream) {
                self.join(at, stream, &headers, sink);
            }
        }
        for stream in self.streams(|_| true) {
            let Some(call) = self.open.get(&stream) else { continue };
            let reason = call.reason([time_ns; 2], stall_free_since_ns);
            let incomplete = call.gaps.any();
            self.end(time_ns, stream, End::Closed { by, reason, incomplete }, sink);
        }
        self.open = FxHashMap::default();
    }

    /// The memory that the open calls take, in bytes, with the table's own byte for each; and what
    /// came early.
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

    /// Who sends what flows that way.
    fn sender(&self, direction: Direction) -> Role {
        if self.is_request(direction) { Role::Client } else { Role::Server }
    }

    /// Whether what flows that way comes from the client.
    fn is_request(&self, direction: Direction) -> bool {
        direction == request_direction(self.role)
    }
}

#[cfg(test)]
mod tests;
