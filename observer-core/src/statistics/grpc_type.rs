//! Whether a method's requests and responses are streams. The wire does not say it: it follows from what calls did.

use crate::call::{Code, Direction, Ended, Role};

/// Whether a method's requests and responses are streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GrpcType {
    /// One request message, one response message.
    Unary,
    /// A stream of request messages.
    ClientStream,
    /// A stream of response messages.
    ServerStream,
    /// A stream of request messages, and one of response messages.
    BidiStream,
    /// The type of several methods together: all whose path was not seen, or all beyond a bound.
    Unknown,
}

impl GrpcType {
    /// The spelling of go-grpc-prometheus.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ClientStream => "client_stream",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
            Self::Unknown => "unknown",
        }
    }
}

/// Calls by what they showed about the requests, or the responses, of their method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shown {
    /// Calls that did what only a stream may: they had several messages, or none where a unary call
    /// must have one.
    stream: u64,
    /// Calls that ended as a unary one does: with one message, and complete.
    single: u64,
}

impl Shown {
    fn add(&mut self, stream: bool, single: bool) {
        self.stream += u64::from(stream);
        self.single += u64::from(single);
    }

    /// Whether they are a stream, given whether they were taken for one so far. They become one when at
    /// least a fifth of the calls show it, and stop being one when less than a tenth do: calls of a
    /// stream may have one message, but those of a unary method never have more, unless a peer errs or
    /// lies. Between the two nothing changes, so that a method near a bound does not go to and fro.
    fn is_stream(self, so_far: bool) -> bool {
        let Self { stream, single } = self;
        let all = stream.saturating_add(single);
        let share = if so_far { 10 } else { 5 };
        stream > 0 && stream.saturating_mul(share) >= all
    }
}

/// Calls by what they showed about the type of their method: each counts at most once for requests, and at most once
/// for responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    requests: Shown,
    responses: Shown,
}

impl Evidence {
    /// Adds a call's second message in this direction.
    pub(super) fn add_second_message(&mut self, role: Role, direction: Direction) {
        let is_request = direction == role.request_direction();
        let shown = if is_request { &mut self.requests } else { &mut self.responses };
        shown.add(true, false);
    }

    /// Adds the end of a call. No request message, or one, shows something only if the client had finished
    /// sending; no response message, or one, only if the call succeeded.
    pub(super) fn add_end(&mut self, ended: &Ended) {
        if ended.half_closed {
            let count = ended.request_messages;
            self.requests.add(count == Some(0), count == Some(1));
        }
        if ended.code == Some(Code::Ok) {
            let count = ended.response_messages;
            self.responses.add(count == Some(0), count == Some(1));
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let Self { requests, responses } = other;
        for (to, from) in [(&mut self.requests, requests), (&mut self.responses, responses)] {
            to.stream += from.stream;
            to.single += from.single;
        }
    }

    /// The streams of the method, given those so far.
    pub(super) fn streaming(self, so_far: Streaming) -> Streaming {
        Streaming {
            requests: self.requests.is_stream(so_far.requests),
            responses: self.responses.is_stream(so_far.responses),
        }
    }
}

/// Whether the requests of a method are a stream, and whether its responses are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Streaming {
    requests: bool,
    responses: bool,
}

impl From<Streaming> for GrpcType {
    fn from(Streaming { requests, responses }: Streaming) -> Self {
        match (requests, responses) {
            (false, false) => Self::Unary,
            (true, false) => Self::ClientStream,
            (false, true) => Self::ServerStream,
            (true, true) => Self::BidiStream,
        }
    }
}
