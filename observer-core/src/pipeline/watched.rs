//! Watched connections, and the consumer of the events of their calls.

use super::prompt::Prompt;
use crate::{
    call::{CallKey, CallSink, Direction, Ended, Role, SeriesId},
    ends::{Call, Waiting},
    names::{Interner, PathId},
    process::ProcessId,
    protocol::{Faults, Protocol, State, Transfer, http1, http2, thrift},
    record::{Bytes, Carried, Closed, Open, Peer, Tie},
    statistics::Statistics,
};
use observer_common::record::pair;

/// Memory in bytes that the connections of all workers together may allocate: open calls, dynamic tables, incomplete
/// field blocks. While they take more, a connection that takes more than its fair share is forgotten.
pub const MAX_MEMORY: usize = 96 << 20;

/// Memory in bytes that a connection may always take, unless there are too many connections: two dynamic tables of
/// the usual size, and some hundred calls.
pub const FAIR_SHARE: usize = 40 << 10;

/// The memory that each connection may always take: [`FAIR_SHARE`], but for all of them together not more than half
/// of the bound.
pub(super) fn fair_share(max_memory: usize, connections: usize) -> usize {
    FAIR_SHARE.min(max_memory / 2 / connections.max(1))
}

/// The state of a connection, by its protocol.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most are HTTP/2, and `Watched` is boxed")]
pub(super) enum Connection {
    Http2(http2::Connection),
    Http1(http1::Connection),
    Thrift(thrift::Connection),
}

/// Calls a method of the protocol's connection.
macro_rules! of_protocol {
    ($self:expr, $connection:ident => $call:expr) => {
        match $self {
            Connection::Http2($connection) => $call,
            Connection::Http1($connection) => $call,
            Connection::Thrift($connection) => $call,
        }
    };
}

impl Connection {
    fn new(open: Option<Open>, bytes: &Bytes<'_>) -> Self {
        let is_from_start = matches!(open, Some(Open { joined: false, .. }));
        match (bytes.protocol, bytes.role) {
            (Carried::Thrift, _) if is_from_start => Self::Thrift(thrift::Connection::from_start()),
            (Carried::Thrift, _) => Self::Thrift(thrift::Connection::joined_late()),
            (Carried::Http1, Some(role)) if is_from_start => {
                Self::Http1(http1::Connection::from_start(role))
            }
            // The BPF programs always know its role.
            (Carried::Http1, role) => {
                Self::Http1(http1::Connection::joined_late(role.unwrap_or(Role::Server)))
            }
            (_, Some(role)) if is_from_start => Self::Http2(http2::Connection::from_start(role)),
            (_, role) => Self::Http2(http2::Connection::joined_late(role)),
        }
    }
}

impl Protocol for Connection {
    fn bytes(
        &mut self,
        at: Transfer,
        bytes: &Bytes<'_>,
        interner: &mut Interner,
        sink: &mut impl CallSink,
    ) -> Faults {
        of_protocol!(self, connection => connection.bytes(at, bytes, interner, sink))
    }

    fn closed(
        &mut self,
        time_ns: u64,
        closed: Closed,
        stall_free_since_ns: u64,
        sink: &mut impl CallSink,
    ) {
        of_protocol!(self, connection => {
            connection.closed(time_ns, closed, stall_free_since_ns, sink);
        });
    }

    fn expire(&mut self, now_ns: u64, sink: &mut impl CallSink) {
        of_protocol!(self, connection => connection.expire(now_ns, sink));
    }

    fn forget(&mut self, time_ns: u64, sink: &mut impl CallSink) {
        of_protocol!(self, connection => connection.forget(time_ns, sink));
    }

    fn memory(&self) -> usize {
        of_protocol!(self, connection => connection.memory())
    }

    fn paths(&self) -> impl Iterator<Item = PathId> {
        let (http2, http1, thrift) = match self {
            Self::Http2(connection) => (Some(connection.paths()), None, None),
            Self::Http1(connection) => (None, Some(connection.paths()), None),
            Self::Thrift(connection) => (None, None, Some(connection.paths())),
        };
        let others = http1.into_iter().flatten().chain(thrift.into_iter().flatten());
        http2.into_iter().flatten().chain(others)
    }

    fn state(&self) -> State {
        of_protocol!(self, connection => connection.state())
    }
}

/// Where the directions of a connection start, by its socket's counters, which may move while they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Starts {
    Unknown,
    /// The next sample must confirm it.
    Once(u64),
    Twice(u64),
}

impl Starts {
    /// What is known after another sample; 0 is none.
    fn after(self, sample: u64) -> Self {
        match self {
            Self::Once(before) if before == sample => Self::Twice(sample),
            Self::Twice(starts) => Self::Twice(starts),
            _ if sample != 0 => Self::Once(sample),
            _ => Self::Unknown,
        }
    }

    /// The pair, for a process on this side.
    fn pair(self, role: Role) -> Option<u64> {
        match self {
            Self::Twice(starts) => Some(pair::of_starts(starts, role == Role::Client)),
            Self::Unknown | Self::Once(_) => None,
        }
    }
}

/// A watched connection.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) connection: Connection,
    /// The number that both ends have in common; 0 if it is not known.
    pub(super) pair: u64,
    /// Where its directions start, until that shows the pair.
    starts: Starts,
    pub(super) peer: Option<Peer>,
    pub(super) prompt: Prompt,
    /// The process (its first id) that used it last.
    pub(super) user: ProcessId,
    /// Whether its bytes are the plaintext of TLS.
    pub(super) is_tls: bool,
    /// What ties it to its socket, if they are.
    pub(super) tie: Option<Tie>,
    /// The process (its first id) and side that the connection is counted for, once it had a call.
    pub(super) counted_for: Option<(ProcessId, Role)>,
}

impl Watched {
    /// Creates the state of a connection at its first record. It is boxed because a hash table has up to twice the
    /// room that it needs, and three times while it grows.
    pub(super) fn new(
        open: Option<Open>,
        bytes: &Bytes<'_>,
        user: ProcessId,
        is_tls: bool,
    ) -> Box<Self> {
        let connection = Connection::new(open, bytes);
        let prompt = Prompt::default();
        let counted_for = None;
        let tie = open.and_then(|open| open.tie);
        let (pair, starts, peer) = (0, Starts::Unknown, None);
        Box::new(Self { connection, pair, starts, peer, prompt, user, is_tls, tie, counted_for })
    }

    /// What it carries.
    pub(super) fn carried(&self) -> Carried {
        match self.connection {
            Connection::Http2(_) => Carried::Http2,
            Connection::Http1(_) => Carried::Http1,
            Connection::Thrift(_) => Carried::Thrift,
        }
    }

    /// Takes the connection's identity. Returns whether that makes its pair known.
    pub(super) fn open(&mut self, Open { peer, pair, is_sample, .. }: Open) -> bool {
        self.peer = self.peer.or(Some(peer));
        if is_sample {
            self.starts = self.starts.after(pair);
            return false;
        }
        let is_new = self.pair == 0 && pair != 0;
        if is_new {
            self.pair = pair;
        }
        is_new
    }

    /// Takes the pair that the starts of both directions show, once it is known which end connected. Returns whether
    /// that makes its pair known.
    pub(super) fn take_starts(&mut self, role: Option<Role>) -> bool {
        let pair = role.filter(|_| self.pair == 0).and_then(|role| self.starts.pair(role));
        self.pair = pair.unwrap_or(self.pair);
        pair.is_some()
    }

    /// The side of the process, as far as the pair needs it, and if it is certain.
    pub(super) fn certain_role(&self, bytes: &Bytes<'_>) -> Option<Role> {
        if bytes.role.is_some() || self.pair != 0 || !matches!(self.starts, Starts::Twice(_)) {
            return bytes.role;
        }
        let State { role, is_role_certain, .. } = self.connection.state();
        is_role_certain.then_some(role)
    }
}

/// Adds the events of a connection's calls to the statistics, and collects the calls that have ended.
pub(super) struct Sink<'a> {
    pub(super) time_ns: u64,
    /// The connection's identifier.
    pub(super) connection: u64,
    /// The connection's pair.
    pub(super) pair: u64,
    pub(super) peer: Option<Peer>,
    pub(super) statistics: &'a mut Statistics,
    pub(super) waiting: &'a mut Waiting,
    pub(super) ended: &'a mut Vec<Call>,
}

impl CallSink for Sink<'_> {
    fn started(&mut self, key: CallKey) -> SeriesId {
        self.statistics.started(key)
    }

    fn joined(&mut self, key: CallKey) -> SeriesId {
        self.statistics.joined(key)
    }

    fn messages(&mut self, series: SeriesId, direction: Direction, count: u64, bytes: u64) {
        self.statistics.messages(series, direction, count, bytes);
    }

    fn second_message(&mut self, series: SeriesId, direction: Direction) {
        self.statistics.second_message(series, direction);
    }

    fn after_last_message(
        &mut self,
        series: SeriesId,
        direction: Direction,
        count: u64,
        elapsed_ns: u64,
    ) {
        self.statistics.after_last_message(series, direction, count, elapsed_ns);
    }

    fn first_message(&mut self, series: SeriesId, elapsed_ns: u64) {
        self.statistics.first_message(series, elapsed_ns);
    }

    fn ended(&mut self, series: SeriesId, ended: Ended) {
        let Self { time_ns, connection, pair, peer, .. } = *self;
        let call = Call { connection, pair, peer, time_ns, series, ended, span: None };
        self.ended.extend(self.waiting.ended(call));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_samples_must_agree_before_they_show_the_pair() {
        let [right, torn] = [7, 8].map(|sent| pair::starts(sent, 9));
        let mut starts = Starts::Unknown;
        // The second one was read while the counters moved.
        for sample in [right, torn, right, 0, right] {
            starts = starts.after(sample);
            assert_eq!(starts.pair(Role::Client), None, "{starts:?}");
        }
        // Later ones change nothing.
        for sample in [right, torn, torn] {
            starts = starts.after(sample);
            assert_eq!(starts.pair(Role::Client), Some(pair::of(8, 9)));
            assert_eq!(starts.pair(Role::Server), Some(pair::of(7, 9)));
        }
    }
}
