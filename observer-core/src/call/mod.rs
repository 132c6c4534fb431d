//! Calls, whatever the protocol: who made them, how they ended, and who is told.
//!
//! What is below speaks of connections and bytes, what is above adds calls up and publishes them; both know these
//! words.

mod code;

use std::fmt;

pub use code::Code;

use crate::{
    names::{PathId, TextId},
    process::ProcessId,
};

/// Which end of the connection the watched process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// It sent the client preface.
    Client,
    /// It received the client preface, or listens on the connection's local port.
    Server,
}

/// Whether the watched process wrote the bytes or read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Written by the process.
    Sent,
    /// Read by the process.
    Received,
}

impl Direction {
    /// The other one.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Sent => Self::Received,
            Self::Received => Self::Sent,
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

/// What a series of calls has in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallKey {
    /// The process that read or wrote the request headers.
    pub process: ProcessId,
    /// Which end that process is.
    pub role: Role,
    /// The interned `:path`; [`PathId::NOT_SEEN`] when it could not be decoded.
    pub path: PathId,
}

/// Where a call's figures are added up; given out by [`CallSink::started`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesId(pub u32);

/// How much is seen of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Coverage {
    /// All of it, from its first byte on.
    #[default]
    Complete,
    /// All from some frame on: it was open before it was watched.
    JoinedLate,
    /// Bytes were not seen since.
    Gaps,
}

impl Coverage {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Complete, Self::JoinedLate, Self::Gaps];

    /// As in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::JoinedLate => "joined_late",
            Self::Gaps => "gaps",
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// How much was seen of its connection.
    pub coverage: Coverage,
    /// The trace it belongs to, if that is recorded.
    pub trace: Option<TraceId>,
    /// What the server said of its end.
    pub message: Option<TextId>,
    /// It had a timeout and was given up: the code is what can be said of that from this end.
    pub cancellation: Option<Cancellation>,
}

/// A call with a timeout that its client gave up, which is seen better from the client's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancellation {
    /// The end that it is seen from.
    pub role: Role,
    /// The stream that it was.
    pub stream: u32,
}

#[cfg(test)]
impl Ended {
    /// Of a unary call, all of which was seen.
    pub(crate) fn unary(code: Option<Code>, elapsed_ns: u64) -> Self {
        Self {
            code,
            elapsed_ns: Some(elapsed_ns),
            request_messages: Some(1),
            response_messages: Some(1),
            half_closed: true,
            coverage: Coverage::Complete,
            trace: None,
            message: None,
            cancellation: None,
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

    /// Whole messages went by; `bytes` are their lengths on the wire, without the 5-byte prefixes.
    fn messages(&mut self, series: SeriesId, direction: Direction, count: u64, bytes: u64);

    /// A call has more than one message that went this way: comes once for each way, after
    /// [`messages`](Self::messages).
    fn second_message(&mut self, _: SeriesId, _: Direction) {}

    /// Whole messages went by of a client's call: the first of them was complete this long after the
    /// one before it that went the same way, or after the request headers; the others at once.
    fn after_last_message(&mut self, _: SeriesId, _: Direction, _count: u64, _elapsed_ns: u64) {}

    /// The first response message was complete, this long after the request headers.
    fn first_message(&mut self, series: SeriesId, elapsed_ns: u64);

    /// A call that had `started` or `joined` ended.
    fn ended(&mut self, series: SeriesId, ended: Ended);
}
