//! What a header block says to gRPC.

use crate::hpack::{ContentType, Field, PathId, RequestMethod, TextId, TraceId};

/// The fields of one header block that matter to a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// `:method`
    pub method: Option<RequestMethod>,
    /// `:path`
    pub path: Option<PathId>,
    /// `:status`
    pub status: Option<u16>,
    /// `content-type`
    pub content_type: Option<ContentType>,
    /// `grpc-status`; the inner `None` is one that is not a number.
    pub grpc_status: Option<Option<u32>>,
    /// `grpc-timeout` in nanoseconds
    pub timeout_ns: Option<u64>,
    /// The trace of `traceparent`, if that says that it is recorded.
    pub trace: Option<TraceId>,
    /// `grpc-message`
    pub message: Option<TextId>,
    /// There were fields that could not be decoded: what is absent here may have been there.
    pub incomplete: bool,
}

impl Headers {
    /// Takes one field. Of a field that is there twice the first counts.
    pub fn add(&mut self, field: Field) {
        match field {
            Field::Method(method) => set(&mut self.method, method),
            Field::Path(path) => set(&mut self.path, path),
            Field::Status(status) => set(&mut self.status, status),
            Field::ContentType(content_type) => set(&mut self.content_type, content_type),
            Field::GrpcStatus(status) => set(&mut self.grpc_status, status),
            Field::GrpcTimeout(Some(timeout)) => set(&mut self.timeout_ns, timeout.nanoseconds()),
            Field::TraceParent(Some(trace)) => set(&mut self.trace, trace),
            Field::GrpcMessage(message) => set(&mut self.message, message),
            Field::Unknown => self.incomplete = true,
            Field::GrpcTimeout(None) | Field::TraceParent(None) | Field::Other => {}
        }
    }

    /// Whether they are a request's, which has other pseudo-header fields than a response (RFC 9113
    /// §8.3); `None` where none was seen.
    pub fn is_request(&self) -> Option<bool> {
        if self.status.is_some() {
            return Some(false);
        }
        (self.method.is_some() || self.path.is_some()).then_some(true)
    }

    /// Whether they have a field that only gRPC has.
    pub fn shows_grpc(&self) -> bool {
        self.content_type == Some(ContentType::Grpc)
            || self.grpc_status.is_some()
            || self.timeout_ns.is_some()
    }
}

fn set<T>(place: &mut Option<T>, value: T) {
    place.get_or_insert(value);
}
