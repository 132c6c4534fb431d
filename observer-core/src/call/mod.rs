//! Calls of any protocol: their side, direction, code and coverage, and the trait of their consumers.

mod code;

use std::fmt;

pub use code::Code;

use crate::{
    names::{PathId, TextId},
    process::ProcessId,
};

/// The side of a connection that a watched process is on.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The side that sends requests.
    Client,
    /// The side that receives requests.
    Server,
}

impl Role {
    /// The name of the side in labels and texts: `client` or `server`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    /// The direction of requests, from the view of a process on this side.
    pub fn request_direction(self) -> Direction {
        match self {
            Self::Client => Direction::Sent,
            Self::Server => Direction::Received,
        }
    }
}

/// The protocol of a call.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum CallProtocol {
    /// gRPC.
    #[default]
    Grpc,
    /// Thrift.
    Thrift,
    /// gRPC-Web.
    GrpcWeb,
    /// Connect.
    Connect,
}

impl CallProtocol {
    /// All protocols.
    pub const ALL: [Self; 4] = [Self::Grpc, Self::Thrift, Self::GrpcWeb, Self::Connect];

    /// The name on the command line, and in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Thrift => "thrift",
            Self::GrpcWeb => "grpc-web",
            Self::Connect => "connect",
        }
    }

    /// The text of a code that its calls end with, as its libraries spell it.
    pub fn status(self, code: Code) -> &'static str {
        match self.family() {
            Self::Thrift => code.as_thrift_outcome(),
            Self::Grpc | Self::GrpcWeb | Self::Connect => code.as_upper_case(),
        }
    }

    /// The protocol whose families its calls are counted in: gRPC, for those with gRPC's codes.
    #[must_use]
    pub const fn family(self) -> Self {
        match self {
            Self::Grpc | Self::GrpcWeb | Self::Connect => Self::Grpc,
            Self::Thrift => Self::Thrift,
        }
    }
}

/// The relatives of gRPC that are followed: they have its paths and codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relatives {
    /// gRPC-Web.
    pub grpc_web: bool,
    /// Connect.
    pub connect: bool,
}

impl Relatives {
    /// Those among these protocols.
    pub fn of(protocols: &[CallProtocol]) -> Self {
        let [grpc_web, connect] = [CallProtocol::GrpcWeb, CallProtocol::Connect]
            .map(|protocol| protocols.contains(&protocol));
        Self { grpc_web, connect }
    }

    /// Whether any is followed.
    pub fn any(self) -> bool {
        let Self { grpc_web, connect } = self;
        grpc_web || connect
    }
}

impl fmt::Display for CallProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The direction of bytes, from the view of the watched process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Bytes that the process writes.
    Sent,
    /// Bytes that the process reads.
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

/// A value for each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByDirection<T> {
    /// The value for bytes that the process reads.
    pub received: T,
    /// The value for bytes that the process writes.
    pub sent: T,
}

impl<T> ByDirection<T> {
    /// The value for a direction.
    pub fn get(&self, direction: Direction) -> &T {
        match direction {
            Direction::Received => &self.received,
            Direction::Sent => &self.sent,
        }
    }

    /// The value for a direction, to change it.
    pub fn get_mut(&mut self, direction: Direction) -> &mut T {
        match direction {
            Direction::Received => &mut self.received,
            Direction::Sent => &mut self.sent,
        }
    }
}

/// A set of directions: those whose value is `true`.
pub type Directions = ByDirection<bool>;

impl Directions {
    /// Both directions.
    pub const BOTH: Self = Self { received: true, sent: true };

    /// Whether the set has any direction.
    pub fn any(self) -> bool {
        self.received || self.sent
    }

    /// Whether the set has this direction.
    pub fn contains(self, direction: Direction) -> bool {
        *self.get(direction)
    }

    /// Adds a direction to the set, or removes it.
    pub fn set(&mut self, direction: Direction, is_in: bool) {
        *self.get_mut(direction) = is_in;
    }
}

/// The id of the trace that a call belongs to: `trace-id` of W3C Trace Context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// Writes the id as `traceparent` has it: 32 hexadecimal digits.
impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The id of a span: `parent-id` of W3C Trace Context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

/// Writes the id as `traceparent` has it: 16 hexadecimal digits.
impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// The span of a call that an output exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportedSpan {
    /// The trace.
    pub trace: TraceId,
    /// The span of this end of the call.
    pub span: SpanId,
}

/// What a request said in `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span that made the request.
    pub parent: SpanId,
    /// Whether the caller may have recorded the trace.
    pub is_sampled: bool,
}

/// What is known of a request's `traceparent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Context {
    /// Nothing: not all fields of the request were seen, or parents are not kept.
    #[default]
    NotSeen,
    /// The request had none, or an invalid one, which counts as none.
    Absent,
    /// This.
    Of(TraceContext),
}

/// The key of a series of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallKey {
    /// The protocol of the calls.
    pub protocol: CallProtocol,
    /// The process that read or wrote the request headers.
    pub process: ProcessId,
    /// The side that the process is on.
    pub role: Role,
    /// The interned `:path`, or the name of a Thrift method; [`PathId::NOT_SEEN`] if it could not be decoded, [`PathId::EXCLUDED`] if its
    /// calls are left out.
    pub path: PathId,
}

/// The id of the series that counts a call; given out by [`CallSink::started`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesId(pub u32);

impl SeriesId {
    /// The id for calls of excluded methods, which are in no series.
    pub const EXCLUDED: Self = Self(u32::MAX);
}

/// How much of a connection was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Coverage {
    /// All bytes, from the first one on.
    #[default]
    Complete,
    /// The bytes from some frame on: the connection joined late.
    JoinedLate,
    /// The bytes from the first one on, with gaps.
    Gaps,
}

impl Coverage {
    /// All values, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Complete, Self::JoinedLate, Self::Gaps];

    /// The name in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::JoinedLate => "joined_late",
            Self::Gaps => "gaps",
        }
    }
}

/// How a call ended, and how much of it was seen; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The status code; `None` if it was not seen.
    pub code: Option<Code>,
    /// Nanoseconds from the request headers to the end; `None` if either was not seen.
    pub elapsed_ns: Option<u64>,
    /// The number of messages from client to server; `None` if some may not have been seen.
    pub request_messages: Option<u64>,
    /// The number of messages from server to client; `None` if some may not have been seen.
    pub response_messages: Option<u64>,
    /// The sum of the lengths of those from client to server in bytes, without prefixes; `None` as above.
    pub request_bytes: Option<u64>,
    /// The sum of the lengths of those from server to client in bytes, without prefixes; `None` as above.
    pub response_bytes: Option<u64>,
    /// Whether the client half-closed before the end: it had no more messages to send.
    pub half_closed: bool,
    /// How much of its connection was seen.
    pub coverage: Coverage,
    /// The trace that the call belongs to, if the trace is recorded.
    pub trace: Option<TraceId>,
    /// What the request said of its trace.
    pub context: Context,
    /// The request's `tracestate`, if an output needs parents.
    pub trace_state: Option<TextId>,
    /// The stream of the call.
    pub stream: u32,
    /// The request's `:authority`, if an output needs it: an interned text.
    pub authority: Option<PathId>,
    /// The server's `grpc-message`.
    pub message: Option<TextId>,
    /// The cancellation, if the client cancelled the call or its deadline expired. Which of the two `code` says is
    /// only what this end can know.
    pub cancellation: Option<Cancellation>,
}

/// The cancellation of a call with a timeout. The client's end knows better than the server's whether the deadline
/// expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancellation {
    /// The side that it was seen on.
    pub role: Role,
    /// The stream of the call.
    pub stream: u32,
}

#[cfg(test)]
impl Ended {
    /// The end of a unary call that was seen whole.
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

/// A consumer of the events of calls, in the order in which they happen on each connection.
///
/// For each call: [`started`](Self::started) or [`joined`](Self::joined) once, then any number of messages, then
/// [`ended`](Self::ended) once.
pub trait CallSink {
    /// Takes the start of a call: its request headers were seen.
    fn started(&mut self, key: CallKey) -> SeriesId;

    /// Takes a call whose start was not seen, and which is about to end. Its method is not known.
    fn joined(&mut self, key: CallKey) -> SeriesId;

    /// Takes messages that were complete: their number, and their lengths on the wire in bytes, without the 5-byte
    /// prefixes.
    fn messages(&mut self, series: SeriesId, direction: Direction, count: u64, bytes: u64);

    /// Takes the second message of a call in this direction: once per direction, after
    /// [`messages`](Self::messages).
    fn second_message(&mut self, _: SeriesId, _: Direction) {}

    /// Takes the time between messages of a client's call. The first of `count` messages was complete `elapsed_ns`
    /// after the one before it in the same direction, or after the request headers; the others at once.
    fn after_last_message(&mut self, _: SeriesId, _: Direction, _count: u64, _elapsed_ns: u64) {}

    /// Takes the time from the request headers to the end of the first response message, in nanoseconds.
    fn first_message(&mut self, series: SeriesId, elapsed_ns: u64);

    /// Takes the end of a call.
    fn ended(&mut self, series: SeriesId, ended: Ended);
}
