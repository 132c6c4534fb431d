//! HTTP/2 (RFC 9113) for a listener: items of records in, events of calls out.
//!
//! A [`Connection`] follows one end of one connection. It puts frames and field blocks together ([`frames`]), decodes
//! them ([`hpack`](super::hpack)) and passes them to the calls ([`grpc`](super::grpc)). No I/O, no clock.

pub mod frames;

use observer_common::{
    frame::{FrameHeader, kind},
    scanner::MAX_KEPT,
};

use crate::{
    call::{ByDirection, CallSink, Direction, Directions, Role},
    names::{Interner, PathId},
    protocol::{
        Faults, Protocol, State, Streams, Transfer,
        grpc::{Calls, Headers},
        hpack::{Decoder, Digester, Field},
    },
    record::{Bytes, Closed, Item},
};
use frames::{BlockAssembly, BlockError, BlockHead, FrameAssembly};

/// One end of one HTTP/2 connection.
#[derive(Debug)]
pub struct Connection {
    directions: ByDirection<DirectionState>,
    calls: Calls,
    /// The role is not known yet: field blocks are decoded, and nothing is counted.
    role_unknown: bool,
}

/// The state of one direction.
#[derive(Debug)]
struct DirectionState {
    /// The position in the byte stream after the last record.
    position: u64,
    frame: FrameAssembly,
    block: BlockAssembly,
    headers: Digester<Headers>,
    /// The role that the last field block has shown.
    shows: Option<Role>,
}

impl DirectionState {
    fn new(decoder: Decoder) -> Self {
        Self {
            position: 0,
            frame: FrameAssembly::default(),
            block: BlockAssembly::default(),
            headers: Digester::new(decoder),
            shows: None,
        }
    }

    /// Records that records were dropped. Field blocks in them inserted `inserts` entries, if that is known.
    fn records_dropped(&mut self, inserts: Option<u32>) {
        match inserts {
            Some(inserts) if !self.frame.is_open() && !self.block.is_open() => {
                self.headers.decoder.inserts_dropped(inserts);
            }
            _ => self.gap(),
        }
    }

    fn memory(&self) -> usize {
        self.frame.memory() + self.block.memory() + self.headers.decoder.memory()
    }

    /// Records a gap, which may have a field block in it.
    fn gap(&mut self) {
        self.frame.clear();
        self.block.clear();
        self.headers.decoder.gap();
    }
}

impl Connection {
    /// Creates a connection that is seen from its first byte on.
    pub fn from_start(role: Role) -> Self {
        Self::new(Calls::new(role), Decoder::from_start, Some(role))
    }

    /// Creates a connection that joined late, or whose first records were dropped; `role` is the process's side, if
    /// that is known.
    pub fn joined_late(role: Option<Role>) -> Self {
        let calls = Calls::joined_late(role.unwrap_or(Role::Server), role.is_some());
        Self::new(calls, Decoder::joined_late, role)
    }

    fn new(calls: Calls, decoder: fn() -> Decoder, role: Option<Role>) -> Self {
        let [received, sent] = [decoder(), decoder()].map(DirectionState::new);
        let directions = ByDirection { received, sent };
        Self { directions, calls, role_unknown: role.is_none() }
    }

    /// Records that the role is certain.
    fn agree_on_role(&mut self, role: Role, sink: &mut impl CallSink) {
        if !self.calls.is_agreed() {
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

    /// Takes the role that a field block in this direction has shown. A peer may have written a message that looks like
    /// one, so the other direction has to agree. A client that does not start streams any more shows itself by frames
    /// on a stream that is answered, which counts if this end answers.
    fn show_role(
        &mut self,
        direction: Direction,
        stream: u32,
        role: Role,
        sink: &mut impl CallSink,
    ) {
        if self.calls.is_agreed() {
            return;
        }
        self.directions.get_mut(direction).shows = Some(role);
        self.try_role(role, sink);
        let is_answer = direction == Direction::Sent && role == Role::Server;
        let is_agreed = match self.directions.get_mut(direction.opposite()).shows {
            Some(of_other) => of_other == role,
            None => is_answer && self.calls.has_noted(direction.opposite(), stream),
        };
        if is_agreed {
            self.agree_on_role(role, sink);
        } else {
            self.directions.get_mut(direction.opposite()).shows = None;
        }
    }

    /// Begins gaps in these directions, up to their next record.
    fn apply_gaps(&mut self, gaps: Directions) {
        for direction in [Direction::Received, Direction::Sent] {
            // The direction's own next record shows what became of the dynamic table.
            if gaps.contains(direction) && !self.calls.is_in_gap(direction) {
                self.calls.gap(direction);
            }
        }
    }

    fn gap(&mut self, direction: Direction) {
        self.directions.get_mut(direction).gap();
        self.calls.gap(direction);
    }

    /// Records a gap of one frame or field block.
    fn short_gap(&mut self, direction: Direction, faults: &mut Faults) {
        faults.blocks += 1;
        self.gap(direction);
        self.calls.gap_ended(direction);
    }

    fn item<S: CallSink>(&mut self, item: Item<'_>, context: &mut Context<'_, S>) {
        let at = context.at;
        let direction = at.direction;
        match item {
            Item::Open(_)
            | Item::Lost { .. }
            | Item::Waited(_)
            | Item::Message { .. }
            | Item::MessageEnd { .. }
            | Item::Head { .. } => {}
            Item::Tail { .. } if self.role_unknown => {}
            Item::Tail { stream, tail, is_part, bytes } => {
                self.calls.tail(at, stream, tail, is_part, bytes, context.interner);
            }
            Item::Data(data) if self.role_unknown => self.calls.note(direction, data.stream),
            Item::Data(data) => self.calls.data(at, &data, context.sink),
            Item::Gap { resynced } => {
                self.gap(direction);
                if resynced {
                    self.calls.resynced(direction);
                } else {
                    self.calls.gap_ended(direction);
                }
            }
            Item::Frame { header, payload } => {
                // The rest of the frame before is in a gap.
                if self.directions.get_mut(direction).frame.is_open() {
                    self.short_gap(direction, context.faults);
                }
                if payload.len() == header.length as usize {
                    self.frame(header, payload, context);
                } else if header.length > MAX_KEPT {
                    // The BPF programs cut off its rest.
                    self.short_gap(direction, context.faults);
                } else {
                    self.directions.get_mut(direction).frame.begin(header, payload);
                }
            }
            Item::Part(payload) => {
                // Taken out because the frame's bytes are in it.
                let mut assembly = std::mem::take(&mut self.directions.get_mut(direction).frame);
                if let Some((header, payload)) = assembly.part(payload) {
                    self.frame(header, payload, context);
                }
                assembly.release();
                self.directions.get_mut(direction).frame = assembly;
            }
        }
    }

    fn frame<S: CallSink>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        context: &mut Context<'_, S>,
    ) {
        let at = context.at;
        match header.kind {
            kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION => {
                self.header_frame(header, payload, context);
            }
            _ if self.role_unknown => {}
            kind::RST_STREAM => {
                if let Some(error) = payload.first_chunk() {
                    let error = u32::from_be_bytes(*error);
                    self.calls.reset(at, header.stream, error, context.sink);
                }
            }
            kind::GOAWAY => {
                if let Some(last_stream) = payload.first_chunk() {
                    let last_stream = u32::from_be_bytes(*last_stream) & 0x7fff_ffff;
                    self.calls.go_away(at, last_stream, context.sink);
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
        let at = context.at;
        let direction = at.direction;
        let state = self.directions.get_mut(direction);
        let (BlockHead { stream, end_stream, promised }, bytes) =
            match state.block.frame(header, payload) {
                Ok(block) => block,
                Err(BlockError::NeedMore) => return,
                Err(BlockError::Lost) => {
                    // The stream may have started or ended with it.
                    self.short_gap(direction, context.faults);
                    return;
                }
            };
        let mut unknown = 0;
        let add = |headers: &mut Headers, field| {
            unknown += u64::from(field == Field::Unknown);
            headers.add(field);
        };
        let (mut headers, decoded) = state.headers.digest(bytes, context.interner, add);
        context.faults.unknown_references += unknown;
        if decoded.is_err() {
            context.faults.blocks += 1;
            headers.incomplete = true;
        }
        headers.find_context(&context.interner.parents);
        headers.keep(at.relatives);
        state.block.release();
        if promised {
            return;
        }
        if let Some(request) = headers.is_request() {
            let role =
                if request == (direction == Direction::Sent) { Role::Client } else { Role::Server };
            self.show_role(direction, stream, role, context.sink);
        }
        if !self.role_unknown {
            self.calls.headers(at, stream, &headers, end_stream, context.sink);
        }
    }
}

impl Protocol for Connection {
    fn bytes(
        &mut self,
        mut at: Transfer,
        bytes: &Bytes<'_>,
        interner: &mut Interner,
        sink: &mut impl CallSink,
    ) -> Faults {
        let mut faults = Faults::default();
        let direction = bytes.direction;
        if let Some(role) = bytes.role {
            self.agree_on_role(role, sink);
        }
        let state = self.directions.get_mut(direction);
        let expected = state.position;
        state.position = bytes.position.saturating_add(bytes.length);
        if bytes.position != expected {
            faults.dropped_bytes = bytes.position.saturating_sub(expected);
            state.records_dropped(dropped_inserts(bytes));
            self.calls.gap(direction);
        }
        self.calls.gap_ended(direction);
        // A gap of its own direction shows in its position and items.
        let mut gaps = bytes.gaps;
        gaps.set(direction, false);
        self.apply_gaps(gaps);
        for item in bytes.items.clone() {
            if let Item::Waited(waited) = item {
                at.waited = waited;
                faults.read_late = waited.least_us > 0;
            }
            let mut context = Context { at, interner, sink, faults: &mut faults };
            self.item(item, &mut context);
        }
        self.calls.replay_pending(sink);
        faults
    }

    fn closed(
        &mut self,
        time_ns: u64,
        closed: Closed,
        stall_free_since_ns: u64,
        sink: &mut impl CallSink,
    ) {
        self.apply_gaps(closed.gaps);
        self.calls.closed(time_ns, closed, stall_free_since_ns, sink);
    }

    fn memory(&self) -> usize {
        let ByDirection { received, sent } = &self.directions;
        received.memory() + sent.memory() + self.calls.memory()
    }

    fn forget(&mut self, time_ns: u64, sink: &mut impl CallSink) {
        for direction in [Direction::Received, Direction::Sent] {
            self.gap(direction);
            self.directions.get_mut(direction).headers = Digester::new(Decoder::joined_late());
        }
        self.calls.closed(time_ns, Closed::default(), 0, sink);
    }

    fn expire(&mut self, now_ns: u64, sink: &mut impl CallSink) {
        self.calls.expire(now_ns, sink);
    }

    /// The paths of its calls and of its header tables.
    fn paths(&self) -> impl Iterator<Item = PathId> {
        let ByDirection { received, sent } = &self.directions;
        let [received, sent] = [received, sent].map(|state| state.headers.decoder.paths());
        self.calls.paths().chain(received).chain(sent)
    }

    fn state(&self) -> State {
        let Self { calls, .. } = self;
        State {
            role: calls.role(),
            is_role_certain: !self.role_unknown && calls.is_agreed(),
            coverage: calls.coverage(),
            is_in_gap: calls.is_in_gap(Direction::Received) || calls.is_in_gap(Direction::Sent),
            open: calls.open() as u64,
            streams: Streams { unclear: calls.unclear(), ..calls.streams },
        }
    }
}

/// The number of entries that records which were dropped before this one inserted into the dynamic table.
fn dropped_inserts(bytes: &Bytes<'_>) -> Option<u32> {
    // The item is the first one, or comes after the connection's identity.
    bytes.items.clone().take(2).find_map(|item| match item {
        Item::Lost { inserts } => inserts,
        _ => None,
    })
}

/// The transfer of an item, and the tables and sinks for it.
struct Context<'a, S> {
    at: Transfer,
    interner: &'a mut Interner,
    sink: &'a mut S,
    faults: &'a mut Faults,
}

#[cfg(test)]
mod tests;
