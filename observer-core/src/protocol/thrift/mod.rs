//! Thrift for a listener: items of records in, events of calls out.
//!
//! A [`Connection`] follows one end of one connection. A reply belongs to the oldest open call with its sequence id.
//! Many clients always send the same id: their replies come in the order of the calls.
//!
//! After a gap, a call that was open may have been answered in the gap. Its code is then not seen, unless its reply comes
//! later. A call with the same sequence id shows that no reply comes any more: a client whose ids are all the same has
//! waited for the reply before.

mod message;

use std::collections::VecDeque;

use observer_common::thrift::{first, kind};

use self::message::{Assembly, Message};
use crate::{
    call::{
        ByDirection, CallKey, CallProtocol, CallSink, Code, Context as TraceParent, Coverage,
        Direction, Directions, Ended, Role, SeriesId,
    },
    names::{Interner, PathId},
    process::ProcessId,
    protocol::{Faults, Protocol, State, Streams, Transfer},
    record::{Bytes, Closed, Item},
};

/// Bound on the open calls of a connection that are followed.
const MAX_OPEN: usize = 4_096;

/// Bound on the replies that come before their calls.
const MAX_EARLY: usize = 64;

/// How long after a gap a reply may come: one minute, as for gRPC.
const PATIENCE_NS: u64 = 60_000_000_000;

/// One end of one Thrift connection.
#[derive(Debug)]
pub struct Connection {
    role: Option<Role>,
    directions: ByDirection<DirectionState>,
    /// The open calls, the oldest first.
    open: VecDeque<Call>,
    /// Calls after [`MAX_OPEN`] that have no reply so far. While there are any, no call is followed: their replies come
    /// after those of the calls in `open`.
    not_followed: u64,
    /// Replies whose calls have not come: two threads may have moved them, and records are in the order in which
    /// transfers return. At most [`MAX_EARLY`].
    early: Vec<Early>,
    joined_late: bool,
    had_gap: bool,
    /// The directions with a gap since their last record.
    in_gap: Directions,
}

/// The state of one direction.
#[derive(Debug, Default)]
struct DirectionState {
    /// The position in the byte stream after the last record.
    position: u64,
    assembly: Assembly,
}

/// A call whose reply has not come.
#[derive(Clone, Copy, Debug)]
struct Call {
    /// `None` until the call is complete.
    sequence: Option<u32>,
    path: PathId,
    series: SeriesId,
    /// The position of its name in its direction: no other open call has it.
    position: u32,
    started_ns: u64,
    /// The time of a gap in which it may have been answered.
    doubtful_since_ns: Option<u64>,
}

impl Call {
    /// An end of which nothing was seen.
    fn ended(&self, coverage: Coverage) -> Ended {
        // A request has no place for a `traceparent`.
        Ended { coverage, stream: self.position, context: TraceParent::Absent, ..Ended::default() }
    }
}

/// A reply whose call has not come.
#[derive(Clone, Copy, Debug)]
struct Early {
    sequence: u32,
    code: Option<Code>,
    time_ns: u64,
}

impl Connection {
    /// Creates a connection that is seen from its first byte on.
    pub fn from_start() -> Self {
        Self {
            role: None,
            directions: ByDirection::default(),
            open: VecDeque::new(),
            not_followed: 0,
            early: Vec::new(),
            joined_late: false,
            had_gap: false,
            in_gap: Directions::default(),
        }
    }

    /// Creates a connection that joined late, or whose first records were dropped.
    pub fn joined_late() -> Self {
        Self { joined_late: true, ..Self::from_start() }
    }

    fn coverage(&self) -> Coverage {
        match (self.joined_late, self.had_gap) {
            (true, _) => Coverage::JoinedLate,
            (false, true) => Coverage::Gaps,
            (false, false) => Coverage::Complete,
        }
    }

    /// Records a gap in a direction: each open call may have been answered in it, or the answer may be a later call's.
    fn gap(&mut self, direction: Direction, now_ns: u64) {
        self.had_gap = true;
        self.directions.get_mut(direction).assembly.clear();
        self.early.clear();
        for call in &mut self.open {
            call.doubtful_since_ns.get_or_insert(now_ns);
        }
    }

    fn item<S: CallSink>(&mut self, item: Item<'_>, context: &mut Context<'_, S>) {
        let at = context.at;
        let assembly = &mut self.directions.get_mut(at.direction).assembly;
        match item {
            Item::Message { kind, length, position, name } => {
                if let Some(message) = assembly.begin(kind, length, position, name, at.time_ns) {
                    self.begin(&message, context);
                }
            }
            Item::Part(name) => {
                if let Some(message) = assembly.part(name) {
                    self.begin(&message, context);
                }
            }
            Item::MessageEnd { sequence, first, kind } => {
                let Some((kind, message)) = assembly.end(kind) else { return };
                if let Some(message) = message {
                    self.begin(&message, context);
                }
                self.end(kind, sequence, first, context);
            }
            Item::Gap { .. } => self.gap(at.direction, at.time_ns),
            Item::Open(_)
            | Item::Tail { .. }
            | Item::Frame { .. }
            | Item::Head { .. }
            | Item::Data(_)
            | Item::Lost { .. }
            | Item::Waited(_) => {}
        }
    }

    /// Handles a message whose name is complete and whose kind is known.
    fn begin<S: CallSink>(&mut self, message: &Message, context: &mut Context<'_, S>) {
        let Some(role) = self.role else { return };
        let Transfer { process, direction, .. } = context.at;
        let is_call = matches!(message.kind, kind::CALL | kind::ONEWAY);
        if !is_call || direction != role.request_direction() {
            return;
        }
        let path = context.interner.intern_thrift(&message.name);
        let series = context.sink.started(key(process, role, path));
        if self.open.len() >= MAX_OPEN || self.not_followed > 0 {
            self.not_followed += u64::from(message.kind == kind::CALL);
            context.sink.ended(series, Ended { coverage: self.coverage(), ..Ended::default() });
            return;
        }
        let &Message { position, started_ns, .. } = message;
        let call =
            Call { sequence: None, path, series, position, started_ns, doubtful_since_ns: None };
        self.open.push_back(call);
    }

    /// Handles the end of a message.
    fn end<S: CallSink>(
        &mut self,
        kind: u8,
        sequence: u32,
        first: u8,
        context: &mut Context<'_, S>,
    ) {
        let Some(role) = self.role else { return };
        let is_request = context.at.direction == role.request_direction();
        match kind {
            kind::CALL if is_request => self.complete(sequence, context.sink),
            kind::ONEWAY if is_request => {
                if let Some(call) = self.open.pop_back_if(|call| call.sequence.is_none()) {
                    let ended = Ended { code: Some(Code::Oneway), ..self.ended(&call) };
                    context.sink.ended(call.series, ended);
                }
            }
            kind::REPLY | kind::EXCEPTION if !is_request => {
                let code = match (kind, first) {
                    (kind::EXCEPTION, _) => Some(Code::ApplicationException),
                    (_, first::NONE | first::RESULT) => Some(Code::Ok),
                    (_, first::EXCEPTION) => Some(Code::DeclaredException),
                    _ => None,
                };
                self.reply(sequence, code, context);
            }
            _ => {}
        }
    }

    /// Sets the sequence id of the last call.
    fn complete(&mut self, sequence: u32, sink: &mut impl CallSink) {
        let Some(mut call) = self.open.pop_back_if(|call| call.sequence.is_none()) else { return };
        // It is complete, whatever was in a gap before.
        call.sequence = Some(sequence);
        let coverage = self.coverage();
        self.open.retain(|before| {
            let is_over = before.doubtful_since_ns.is_some()
                && before.sequence.is_none_or(|of_call| of_call == sequence);
            if is_over {
                sink.ended(before.series, before.ended(coverage));
            }
            !is_over
        });
        if let Some(at) = self.early.iter().position(|early| early.sequence == sequence) {
            let Early { code, time_ns, .. } = self.early.remove(at);
            let elapsed_ns = Some(time_ns.saturating_sub(call.started_ns));
            sink.ended(call.series, Ended { code, elapsed_ns, ..self.ended(&call) });
            return;
        }
        self.open.push_back(call);
    }

    fn reply<S: CallSink>(
        &mut self,
        sequence: u32,
        code: Option<Code>,
        context: &mut Context<'_, S>,
    ) {
        let Context { at, sink, .. } = context;
        let found = self.open.iter().position(|call| call.sequence == Some(sequence));
        if let Some(call) = found.and_then(|at| self.open.remove(at)) {
            let elapsed_ns = Some(at.time_ns.saturating_sub(call.started_ns));
            sink.ended(call.series, Ended { code, elapsed_ns, ..self.ended(&call) });
        } else if self.not_followed > 0 {
            self.not_followed -= 1;
        } else if self.joined_late || self.had_gap {
            // A reply names the method, but not its service.
            let role = self.role.unwrap_or(Role::Server);
            let series = sink.joined(key(at.process, role, PathId::NOT_SEEN));
            let coverage = self.coverage();
            sink.ended(series, Ended { code, coverage, ..Ended::default() });
        } else if self.early.len() < MAX_EARLY {
            self.early.push(Early { sequence, code, time_ns: at.time_ns });
        }
    }

    fn ended(&self, call: &Call) -> Ended {
        call.ended(self.coverage())
    }

    /// Ends all open calls with what `end` returns.
    fn end_all(&mut self, sink: &mut impl CallSink, end: impl Fn(&Call) -> Ended) {
        for call in self.open.drain(..) {
            sink.ended(call.series, end(&call));
        }
    }
}

fn key(process: ProcessId, role: Role, path: PathId) -> CallKey {
    CallKey { protocol: CallProtocol::Thrift, process, role, path }
}

impl Protocol for Connection {
    fn bytes(
        &mut self,
        at: Transfer,
        bytes: &Bytes<'_>,
        interner: &mut Interner,
        sink: &mut impl CallSink,
    ) -> Faults {
        let direction = bytes.direction;
        self.role = self.role.or(bytes.role);
        let mut faults = Faults::default();
        let state = self.directions.get_mut(direction);
        let expected = state.position;
        state.position = bytes.position.saturating_add(bytes.length);
        if bytes.position != expected {
            faults.dropped_bytes = bytes.position.saturating_sub(expected);
            self.gap(direction, at.time_ns);
        }
        // A gap of its own direction shows in its position and items.
        self.in_gap.set(direction, false);
        let opposite = direction.opposite();
        if bytes.gaps.contains(opposite) && !self.in_gap.contains(opposite) {
            self.in_gap.set(opposite, true);
            self.gap(opposite, at.time_ns);
        }
        for item in bytes.items.clone() {
            self.item(item, &mut Context { at, interner, sink });
        }
        faults
    }

    fn closed(&mut self, time_ns: u64, closed: Closed, _: u64, sink: &mut impl CallSink) {
        for direction in [Direction::Received, Direction::Sent] {
            if closed.gaps.contains(direction) {
                self.gap(direction, time_ns);
            }
        }
        let coverage = self.coverage();
        self.end_all(sink, |call| match call.doubtful_since_ns {
            Some(_) => call.ended(coverage),
            None => Ended {
                code: Some(Code::NoReply),
                elapsed_ns: Some(time_ns.saturating_sub(call.started_ns)),
                ..call.ended(coverage)
            },
        });
    }

    fn expire(&mut self, now_ns: u64, sink: &mut impl CallSink) {
        let coverage = self.coverage();
        self.open.retain(|call| {
            let is_over = call
                .doubtful_since_ns
                .is_some_and(|since_ns| now_ns.saturating_sub(since_ns) >= PATIENCE_NS);
            if is_over {
                sink.ended(call.series, call.ended(coverage));
            }
            !is_over
        });
    }

    fn forget(&mut self, time_ns: u64, sink: &mut impl CallSink) {
        for direction in [Direction::Received, Direction::Sent] {
            self.gap(direction, time_ns);
        }
        let coverage = self.coverage();
        self.end_all(sink, |call| call.ended(coverage));
        self.open.shrink_to_fit();
        self.early.shrink_to_fit();
    }

    fn memory(&self) -> usize {
        let ByDirection { received, sent } = &self.directions;
        self.open.capacity() * size_of::<Call>()
            + self.early.capacity() * size_of::<Early>()
            + received.assembly.memory()
            + sent.assembly.memory()
    }

    fn paths(&self) -> impl Iterator<Item = PathId> {
        self.open.iter().map(|call| call.path)
    }

    fn state(&self) -> State {
        State {
            role: self.role.unwrap_or(Role::Server),
            is_role_certain: self.role.is_some(),
            coverage: self.coverage(),
            is_in_gap: self.in_gap.any(),
            open: self.open.len() as u64,
            streams: Streams::default(),
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
