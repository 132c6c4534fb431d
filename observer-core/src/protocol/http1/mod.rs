//! HTTP/1.1 (RFC 9112) for a listener, as far as gRPC-Web and Connect need it: items of records in, events of calls out.
//!
//! The BPF programs find the messages, and number them like streams of HTTP/2
//! ([`scanner::http1`](observer_common::scanner::http1)). A [`Connection`] follows one end of one connection: it reads the
//! heads, and passes them to the calls ([`grpc`](super::grpc)), with what else is known of bodies. No I/O, no clock.

mod head;

use self::head::Head;
use crate::{
    call::{ByDirection, CallSink, Direction, Directions, Role},
    names::{Interner, PathId},
    protocol::{
        Faults, Protocol, State, Streams, Transfer,
        grpc::{Calls, Headers},
    },
    record::{Bytes, Closed, Item},
};

/// One end of one HTTP/1.1 connection.
#[derive(Debug)]
pub struct Connection {
    directions: ByDirection<DirectionState>,
    calls: Calls,
}

/// The state of one direction.
#[derive(Debug, Default)]
struct DirectionState {
    /// The position in the byte stream after the last record.
    position: u64,
    /// The head that is not complete.
    head: Option<Head>,
}

impl Connection {
    /// Creates a connection that is seen from its first byte on.
    pub fn from_start(role: Role) -> Self {
        Self { directions: ByDirection::default(), calls: Calls::new(role) }
    }

    /// Creates a connection whose first records were dropped.
    pub fn joined_late(role: Role) -> Self {
        Self { directions: ByDirection::default(), calls: Calls::joined_late(role, true) }
    }

    fn gap(&mut self, direction: Direction) {
        self.directions.get_mut(direction).head = None;
        self.calls.gap(direction);
    }

    /// Begins gaps in these directions, up to their next record.
    fn apply_gaps(&mut self, gaps: Directions) {
        for direction in [Direction::Received, Direction::Sent] {
            if gaps.contains(direction) && !self.calls.is_in_gap(direction) {
                self.gap(direction);
            }
        }
    }

    fn item<S: CallSink>(&mut self, item: Item<'_>, context: &mut Context<'_, S>) {
        let at = context.at;
        match item {
            Item::Head { stream, bytes } => {
                // The rest of the head before is in a gap.
                if self.directions.get(at.direction).head.is_some() {
                    self.gap(at.direction);
                    self.calls.gap_ended(at.direction);
                }
                self.directions.get_mut(at.direction).head = Some(Head::new(stream));
                self.head(bytes, context);
            }
            Item::Part(bytes) => self.head(bytes, context),
            Item::Data(data) => self.calls.data(at, &data, context.sink),
            Item::Tail { stream, tail, is_part, bytes } => {
                self.calls.tail(at, stream, tail, is_part, bytes, context.interner);
            }
            Item::Gap { .. } => {
                self.gap(at.direction);
                self.calls.gap_ended(at.direction);
            }
            Item::Open(_)
            | Item::Frame { .. }
            | Item::Lost { .. }
            | Item::Waited(_)
            | Item::Message { .. }
            | Item::MessageEnd { .. } => {}
        }
    }

    /// Takes the next bytes of a head.
    fn head<S: CallSink>(&mut self, bytes: &[u8], context: &mut Context<'_, S>) {
        let at = context.at;
        let state = self.directions.get_mut(at.direction);
        let Some(mut head) = state.head.take() else { return };
        let is_request = at.direction == self.calls.role().request_direction();
        let Some(mut headers) = head.take(bytes, is_request, context.interner) else {
            state.head = Some(head);
            return;
        };
        headers.find_context(&context.interner.parents);
        headers.keep(at.relatives);
        if !is_request && headers.status.is_none() {
            headers.incomplete = true;
        }
        self.calls.headers(at, head.stream(), &headers, false, context.sink);
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
        let state = self.directions.get_mut(direction);
        let expected = state.position;
        state.position = bytes.position.saturating_add(bytes.length);
        if bytes.position != expected {
            faults.dropped_bytes = bytes.position.saturating_sub(expected);
            self.gap(direction);
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
            self.item(item, &mut Context { at, interner, sink });
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

    fn expire(&mut self, now_ns: u64, sink: &mut impl CallSink) {
        self.calls.expire(now_ns, sink);
    }

    fn forget(&mut self, time_ns: u64, sink: &mut impl CallSink) {
        for direction in [Direction::Received, Direction::Sent] {
            self.gap(direction);
        }
        self.calls.closed(time_ns, Closed::default(), 0, sink);
    }

    fn memory(&self) -> usize {
        let ByDirection { received, sent } = &self.directions;
        let heads: usize = [received, sent]
            .into_iter()
            .filter_map(|state| state.head.as_ref().map(Head::memory))
            .sum();
        heads + self.calls.memory()
    }

    fn paths(&self) -> impl Iterator<Item = PathId> {
        let ByDirection { received, sent } = &self.directions;
        let heads = [received, sent].into_iter().filter_map(|state| state.head.as_ref());
        self.calls.paths().chain(heads.flat_map(Head::paths))
    }

    fn state(&self) -> State {
        let Self { calls, .. } = self;
        State {
            role: calls.role(),
            is_role_certain: true,
            coverage: calls.coverage(),
            is_in_gap: calls.is_in_gap(Direction::Received) || calls.is_in_gap(Direction::Sent),
            open: calls.open() as u64,
            streams: Streams { unclear: calls.unclear(), ..calls.streams },
        }
    }
}

/// The transfer of an item, and the tables and sinks for it.
struct Context<'a, S> {
    at: Transfer,
    interner: &'a mut Interner,
    sink: &'a mut S,
}

#[cfg(test)]
mod tests;
