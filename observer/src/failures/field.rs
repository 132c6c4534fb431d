//! The fields of a line, besides its time.

use clap::ValueEnum;

/// A field of a line: a key of its JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Field {
    /// The status code: `NotFound`.
    Code,
    /// Seconds from the request headers to the end.
    DurationSeconds,
    /// `grpc-message`, decoded; at most 512 bytes before that.
    Message,
    /// The value of the label `grpc_method`.
    Method,
    /// The peer's address and port, or `unix`.
    Peer,
    /// The pid of the watched process.
    Pid,
    /// The name of the watched process.
    Process,
    /// Number of messages from client to server.
    RequestMessages,
    /// Number of messages from server to client.
    ResponseMessages,
    /// The side of the process: `client` or `server`.
    Role,
    /// The value of the label `grpc_service`.
    Service,
    /// The name of the process's service.
    ServiceName,
    /// The trace ID of `traceparent`, if the trace is recorded.
    TraceId,
}

impl Field {
    /// The key.
    pub fn name(self) -> String {
        let value = self.to_possible_value().expect("every field can be omitted");
        value.get_name().to_owned()
    }
}
