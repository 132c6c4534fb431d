//! What a line tells beside its time.

use std::str::FromStr;

/// A key of the line's object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// `NotFound`
    Code,
    /// Seconds from the request headers to the end.
    DurationSeconds,
    /// `grpc-message`, decoded; at most 512 bytes before that.
    Message,
    /// The value of the label.
    Method,
    /// The other end's address and port, or `unix`.
    Peer,
    /// The watched process.
    Pid,
    /// The name of the field in a line.
    Process,
    /// From client to server.
    RequestMessages,
    /// From server to client.
    ResponseMessages,
    /// The role of the process: `client`, `server`.
    Role,
    /// The value of the label.
    Service,
    /// The trace id of `traceparent`, if the trace is recorded.
    TraceId,
}

impl Field {
    /// All fields.
    pub const ALL: [Self; 12] = [
        Self::Code,
        Self::DurationSeconds,
        Self::Message,
        Self::Method,
        Self::Peer,
        Self::Pid,
        Self::Process,
        Self::RequestMessages,
        Self::ResponseMessages,
        Self::Role,
        Self::Service,
        Self::TraceId,
    ];

    /// The key.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::DurationSeconds => "duration_seconds",
            Self::Message => "message",
            Self::Method => "method",
            Self::Peer => "peer",
            Self::Pid => "pid",
            Self::Process => "process",
            Self::RequestMessages => "request_messages",
            Self::ResponseMessages => "response_messages",
            Self::Role => "role",
            Self::Service => "service",
            Self::TraceId => "trace_id",
        }
    }
}

impl FromStr for Field {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|field| field.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("'{name}' is not a field of the lines: write one or more of {names}")
        })
    }
}
