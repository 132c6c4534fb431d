//! HTTP/2 (RFC 9113), for one who only listens: records' items in, calls out.
//!
//! A [`Connection`] follows one end of one connection. It puts frames and header blocks together
//! ([`frames`]), decodes them ([`hpack`](super::hpack)) and hands them to the calls ([`grpc`](super::grpc)).
//! No I/O, no clock.

pub mod frames;

use observer_common::{
    frame::{FrameHeader, kind},
    scanner::MAX_KEPT,
};

use crate::{
    call::{CallSink, Flow, Role},
    names::{Interner, PathId},
    protocol::{
        Faults, Moment, Protocol, State, Streams,
        grpc::{Calls, Headers},
        hpack::{Decoder, Digester, Field},
    },
    record::{Bytes, Closed, Item, Unseen},
};
use frames::{BlockAssembly, BlockError, FrameAssembly};

/// One end of one connection.
#[derive(Debug)]
pub struct Connection {
    received: Direction,
    sent: Direction,
    calls: Calls,
    /// Nothing has shown yet which end this is: header blocks are decoded, and nothing is told.
    role_unknown: bool,
    /// Both directions have shown it, or it was seen from the beginning.
    role_agreed: bool,
}

/// One direction.
#[derive(Debug)]
struct Direction {
    /// Position in the stream after the last record.
    position: u64,
    frame: FrameAssembly,
    block: BlockAssembly,
    headers: Digester<Headers>,
    /// Which end this is, as its last header block that says so shows.
    shows: Option<Role>,
}

impl Direction {
    fn new(decoder: Decoder) -> Self {
        Self {
            position: 0,
            frame: FrameAssembly::default(),
            block: BlockAssembly::default(),
            headers: Digester::new(decoder),
            shows: None,
        }
    }

    /// Records did not come; header blocks in them inserted so many entries, if that is known.
    fn lose_records(&mut self, inserts: Option<u32>) {
        match inserts {
            Some(inserts) if !self.frame.is_open() && !self.block.is_open() => {
                self.headers.miss_inserts(inserts);
            }
            _ => self.lose_track(),
        }
    }

    fn memory(&self) -> usize {
        self.frame.memory() + self.block.memory() + self.headers.get_ref().memory()
    }

    /// A header block may have been missed.
    fn lose_track(&mut self) {
        self.frame.drop_frame();
        self.block.drop_block();
        self.headers.lose_track();
    }
}

impl Connection {
    /// A connection that is seen from its first byte.
    pub fn from_start(role: Role) -> Self {
        Self::new(Calls::new(role), Decoder::from_start, Some(role))
    }

    /// A connection that was open before it was watched, or whose first records did not come; of
    /// which this is the given end, if that is known.
    pub fn joined_late(role: Option<Role>) -> Self {
        let calls = Calls::joined_late(role.unwrap_or(Role::Server), role.is_some());
        Self::new(calls, Decoder::joined_late, role)
    }

    fn new(calls: Calls, decoder: fn() -> Decoder, role: Option<Role>) -> Self {
        Self {
            received: Direction::new(decoder()),
            sent: Direction::new(decoder()),
            calls,
            role_unknown: role.is_none(),
            role_agreed: role.is_some(),
        }
    }

    /// It is this end.
    fn agree_on_role(&mut self, role: Role, sink: &mut impl CallSink) {
        if !self.role_agreed {
            self.role_agreed = true;
            self.try_role(role, sink);
            self.calls.agree(sink);
        }
    }

    fn try_role(&mut self, role: Role, sink: &mut impl CallSink) {
        if self.role_unknown || self.calls.role() != role {
            self.role_unknown = false;
            self.calls.take_role(role, sink);
        }
    }

    /// A header block that flows this way has shown which end this is, if it was one: a peer may have written a
    /// message that looks like it. What the other direction shows agrees with it, or both are in
    /// doubt. A client that does not begin any more shows itself by what it sends of a stream that is answered;
    /// that is believed where it is this end that answers.
    fn show_role(&mut self, flow: Flow, stream: u32, role: Role, sink: &mut impl CallSink) {
        if self.role_agreed {
            return;
        }
        self.direction(flow).shows = Some(role);
        self.try_role(role, sink);
        let is_answer = flow == Flow::Sent && role == Role::Server;
        let is_agreed = match self.direction(flow.opposite()).shows {
            Some(of_other) => of_other == role,
            None => is_answer && self.calls.has_noted(flow.opposite(), stream),
        };
        if is_agreed {
            self.agree_on_role(role, sink);
        } else {
            self.direction(flow.opposite()).shows = None;
        }
    }

    /// Bytes went by in these directions, and more may, before their next record.
    fn unseen(&mut self, unseen: Unseen) {
        for flow in [Flow::Received, Flow::Sent] {
            // While nothing of a direction is seen there is nothing more to miss. What became of the
            // header table, the direction's own next record tells.
            if unseen.in_flow(flow) && !self.calls.is_unseen(flow) {
                self.calls.missed(flow);
            }
        }
    }

    fn direction(&mut self, flow: Flow) -> &mut Direction {
        match flow {
            Flow::Received => &mut self.received,
            Flow::Sent => &mut self.sent,
        }
    }

    fn missed(&mut self, flow: Flow) {
        self.direction(flow).lose_track();
        self.calls.missed(flow);
    }

    /// A frame or header block was missed, and what follows it is seen.
    fn missed_one(&mut self, flow: Flow, faults: &mut Faults) {
        faults.blocks += 1;
        self.missed(flow);
        self.calls.found(flow);
    }

    fn item<S: CallSink>(&mut self, item: Item<'_>, context: &mut Context<'_, S>) {
        let Context { at, flow, .. } = *context;
        match item {
            Item::Open(_) | Item::Lost { .. } | Item::Waited(_) => {}
            Item::Data(data) if self.role_unknown => self.calls.note(flow, data.stream),
            Item::Data(data) => self.calls.data(at, flow, &data, context.sink),
            Item::Gap { found_late } => {
                self.missed(flow);
                if found_late {
                    self.calls.found_late(flow);
                } else {
                    self.calls.found(flow);
                }
            }
            Item::Frame { header, payload } if payload.len() == header.length as usize => {
                self.whole_frame(header, payload, context);
            }
            Item::Frame { header, payload } => {
                self.unfinished_frame(flow, context.faults);
                if header.length > MAX_KEPT {
                    // The rest of it will not come.
                    self.missed_one(flow, context.faults);
                } else {
                    self.direction(flow).frame.begin(header, payload);
                }
            }
            Item::Part(payload) => {
                // Taken out for the moment, because the frame's bytes are in it.
                let mut assembly = std::mem::take(&mut self.direction(flow).frame);
                if let Some((header, payload)) = assembly.part(payload) {
                    self.frame(header, payload, context);
                }
                assembly.release();
                self.direction(flow).frame = assembly;
            }
        }
    }

    fn whole_frame<S: CallSink>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        context: &mut Context<'_, S>,
    ) {
        self.unfinished_frame(context.flow, context.faults);
        self.frame(header, payload, context);
    }

    /// A frame of which the rest did not come is followed by another one.
    fn unfinished_frame(&mut self, flow: Flow, faults: &mut Faults) {
        if self.direction(flow).frame.is_open() {
            self.missed_one(flow, faults);
        }
    }

    fn frame<S: CallSink>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        context: &mut Context<'_, S>,
    ) {
        let Context { at, flow, .. } = *context;
        match header.kind {
            kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION => {
                self.header_frame(header, payload, context);
            }
            _ if self.role_unknown => {}
            kind::RST_STREAM => {
                if let Some(error) = payload.first_chunk() {
                    let error = u32::from_be_bytes(*error);
                    self.calls.reset(at, flow, header.stream, error, context.sink);
                }
            }
            kind::GOAWAY => {
                if let Some(last_stream) = payload.first_chunk() {
                    let last_stream = u32::from_be_bytes(*last_stream) & 0x7fff_ffff;
                    self.calls.go_away(at, flow, last_stream, context.sink);
                }
            }
            _ => {}
        }
    }

    fn header_frame<S: CallSink>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        context: &mut Context<'_, S>,
    ) {
        let Context { at, flow, .. } = *context;
        let direction = match flow {
            Flow::Received => &mut self.received,
            Flow::Sent => &mut self.sent,
        };
        let block = match direction.block.frame(header, payload) {
            Ok(block) => block,
            Err(BlockError::NeedMore) => return,
            Err(BlockError::Lost) => {
                // The stream may have begun or ended with it.
                self.missed_one(flow, context.faults);
                return;
            }
        };
        let mut unknown = 0;
        let add = |headers: &mut Headers, field| {
            unknown += u64::from(field == Field::Unknown);
            headers.add(field);
        };
        let (mut headers, decoded) = direction.headers.digest(block.bytes, context.interner, add);
        context.faults.unknown_references += unknown;
        if decoded.is_err() {
            context.faults.blocks += 1;
            headers.incomplete = true;
        }
        let (stream, end_stream, promised) = (block.stream, block.end_stream, block.promised);
        direction.block.release();
        if promised {
            return;
        }
        if let Some(request) = headers.is_request() {
            let role = if request == (flow == Flow::Sent) { Role::Client } else { Role::Server };
            self.show_role(flow, stream, role, context.sink);
        }
        if !self.role_unknown {
            self.calls.headers(at, flow, stream, &headers, end_stream, context.sink);
        }
    }
}

impl Protocol for Connection {
    fn bytes(
        &mut self,
        mut at: Moment,
        bytes: &Bytes<'_>,
        interner: &mut Interner,
        sink: &mut impl CallSink,
    ) -> Faults {
        let mut faults = Faults::default();
        let flow = bytes.flow;
        if let Some(role) = bytes.role {
            self.agree_on_role(role, sink);
        }
        let direction = self.direction(flow);
        let expected = direction.position;
        direction.position = bytes.position.saturating_add(bytes.length);
        if bytes.position != expected {
            faults.records_lost = bytes.position.saturating_sub(expected);
            direction.lose_records(lost_inserts(bytes));
            self.calls.missed(flow);
        }
        self.calls.found(flow);
        // Of its own direction its position and items tell, and they tell where.
        let mut unseen = bytes.unseen;
        unseen.remove(flow);
        self.unseen(unseen);
        for item in bytes.items.clone() {
            if let Item::Waited(waited) = item {
                at.waited = waited;
            }
            let mut context = Context { at, flow, interner, sink, faults: &mut faults };
            self.item(item, &mut context);
        }
        self.calls.catch_up(sink);
        faults
    }

    fn closed(
        &mut self,
        time_ns: u64,
        closed: Closed,
        in_time_since_ns: u64,
        sink: &mut impl CallSink,
    ) {
        self.unseen(closed.unseen);
        self.calls.closed(time_ns, closed.by, in_time_since_ns, sink);
    }

    fn memory(&self) -> usize {
        self.received.memory() + self.sent.memory() + self.calls.memory()
    }

    fn forget(&mut self, time_ns: u64, sink: &mut impl CallSink) {
        for flow in [Flow::Received, Flow::Sent] {
            self.missed(flow);
            self.direction(flow).headers = Digester::new(Decoder::joined_late());
        }
        self.calls.closed(time_ns, None, 0, sink);
    }

    fn give_up(&mut self, now_ns: u64, sink: &mut impl CallSink) {
        if self.calls.is_in_doubt() {
            self.calls.give_up(now_ns, sink);
        }
    }

    /// Those of its calls, and of its header tables.
    fn paths(&self) -> impl Iterator<Item = PathId> {
        let Self { received, sent, calls, .. } = self;
        let [received, sent] =
            [received, sent].map(|direction| direction.headers.get_ref().paths());
        calls.paths().chain(received).chain(sent)
    }

    fn state(&self) -> State {
        let Self { calls, .. } = self;
        State {
            role: calls.role(),
            sight: calls.sight(),
            is_out_of_step: calls.is_unseen(Flow::Received) || calls.is_unseen(Flow::Sent),
            open: calls.open() as u64,
            streams: Streams { unclear: calls.unclear(), ..calls.streams },
        }
    }
}

/// What header blocks in records that did not come before this one did to the header table.
fn lost_inserts(bytes: &Bytes<'_>) -> Option<u32> {
    // It comes after the connection's own item, if there is one.
    bytes.items.clone().take(2).find_map(|item| match item {
        Item::Lost { inserts } => inserts,
        _ => None,
    })
}

/// What comes with an item.
struct Context<'a, S> {
    at: Moment,
    flow: Flow,
    interner: &'a mut Interner,
    sink: &'a mut S,
    faults: &'a mut Faults,
}

#[cfg(test)]
mod tests;
