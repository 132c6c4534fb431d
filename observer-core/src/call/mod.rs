//! The vocabulary of calls, whatever the protocol: who made them, how they ended, and where they go.

mod code;

use std::fmt;

pub use code::Code;

use crate::{
    names::{PathId, TextId},
    process::ProcessId,
};

/// The end of a connection that a watched process is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It sent the client preface.
    Client,
    /// It received the client preface, or listens on the connection's local port.
    Server,
}

impl Role {
    /// Its name in texts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// The direction of bytes, as the watched process has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Written by the process.
    Sent,
    /// Read by the process.
    Received,
}

impl Direction {
    /// The other direction.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Sent => Self::Received,
            Self::Received => Self::Sent,
        }
    }
}

/// A set of directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directions {
    /// Whether bytes that the process reads are in it.
    pub received: bool,
    /// Whether bytes that the process writes are in it.
    pub sent: bool,
}

impl Directions {
    /// Both directions.
    pub const BOTH: Self = Self { received: true, sent: true };

    /// Whether it has any direction.
    pub fn any(self) -> bool {
        self.received || self.sent
    }

    /// Whether it has this direction.
    pub fn contains(self, direction: Direction) -> bool {
        match direction {
            Direction::Received => self.received,
            Direction::Sent => self.sent,
        }
    }

    /// Adds a direction, or takes it out.
    pub fn set(&mut self, direction: Direction, is_in: bool) {
        match direction {
            Direction::Received => self.received = is_in,
            Direction::Sent => self.sent = is_in,
        }
    }
}

/// The trace that a call belongs to: the `trace-id` of W3C Trace Context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// As it is in `traceparent`: 32 hexadecimal digits.
impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The key of a series of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallKey {
    /// The process that read or wrote the request headers.
    pub process: ProcessId,
    /// The end that the process is.
    pub role: Role,
    /// The interned `:path`; [`PathId::NOT_SEEN`] when it could not be decoded.
    pub path: PathId,
}

/// The series in which a call is counted; given out by [`CallSink::started`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesId(pub u32);

/// What is seen of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Coverage {
    /// All bytes from the first one on.
    #[default]
    Complete,
    /// It joined late: it was open before it was watched, and is seen from some frame on.
    JoinedLate,
    /// It had gaps since its first byte.
    Gaps,
}

impl Coverage {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Complete, Self::JoinedLate, Self::Gaps];

    /// Its name in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::JoinedLate => "joined_late",
            Self::Gaps => "gaps",
        }
    }
}

/// How a call ended; the default is one of which nothing was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The status code; `None` when the end was seen but the code was not.
    pub code: Option<Code>,
    /// Nanoseconds from the request headers to the end; `None` when one of them was not seen.
    pub elapsed_ns: Option<u64>,
    /// Messages from client to server, where all of the call was seen.
    pub request_messages: Option<u64>,
    /// Messages from server to client, where all of the call was seen.
    pub response_messages: Option<u64>,
    /// The client half-closed before the end: it had no more messages to send.
    pub half_closed: bool,
    /// What was seen of its connection.
    pub coverage: Coverage,
    /// The trace that it belongs to, if that is recorded.
    pub trace: Option<TraceId>,
    /// The server's `grpc-message`.
    pub message: Option<TextId>,
    /// Set if its client cancelled it, or its deadline expired: the code is what this end can say of that.
    pub cancellation: Option<Cancellation>,
}

/// The cancellation of a call with a timeout, of which the client's end knows better whether the deadline expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancellation {
    /// The end that it was seen from.
    pub role: Role,
    /// The stream of the call.
    pub stream: u32,
}

#[cfg(test)]
impl Ended {
    /// The end of a unary call, all of which was seen.
    pub(crate) fn unary(code: Option<Code>, elapsed_ns: u64) -> Self {
        Self {
            code,
            elapsed_ns: Some(elapsed_ns),
            request_messages: Some(1),
            response_messages: Some(1),
            half_closed: true,
            ..Self::default()
        }
    }
}

/// Takes what happens to calls, in the order in which it happens on each connection.
///
/// For each call: `started` or `joined` once, then any number of messages, then `ended` once.
pub trait CallSink {
    /// A call's request headers were seen.
    fn started(&mut self, key: CallKey) -> SeriesId;

    /// A call whose start was not seen is about to end. It has no method.
    fn joined(&mut self, key: CallKey) -> SeriesId;

    /// Whole messages were seen; `bytes` are their lengths on the wire, without the 5-byte prefixes.
    fn messages(&mut self, series: SeriesId, direction: Direction, count: u64, bytes: u64);

    /// A call has had its second message in this direction: once per direction, after
    /// [`messages`](Self::messages).
    fn second_message(&mut self, _: SeriesId, _: Direction) {}

    /// Whole messages of a client's call were seen: the first of them was complete this long after the one before it
    /// in the same direction, or after the request headers; the others at once.
    fn after_last_message(&mut self, _: SeriesId, _: Direction, _count: u64, _elapsed_ns: u64) {}

    /// The first response message was complete, this long after the request headers.
    fn first_message(&mut self, series: SeriesId, elapsed_ns: u64);

    /// A call that had `started` or `joined` ended.
    fn ended(&mut self, series: SeriesId, ended: Ended);
}
