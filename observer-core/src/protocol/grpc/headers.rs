//! What a header block says to gRPC.

use crate::{
    call::TraceId,
    names::{PathId, TextId},
    protocol::hpack::{ContentType, Field, RequestMethod},
};

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
    /// `traceparent`; the inner `None` is one that says that its trace is not recorded, or is malformed.
    pub trace: Option<Option<TraceId>>,
    /// `grpc-message`
    pub message: Option<TextId>,
    /// There were fields that could not be decoded: what is absent here may have been there.
    pub incomplete: bool,
}

impl Headers {
    /// Takes one field. Of one that is there twice the first counts; of what trailers say the last, as in
    /// grpcio and grpc-go; and two `traceparent` are none (Trace Context §3.2).
    pub fn add(&mut self, field: Field) {
        match field {
            Field::Method(method) => set(&mut self.method, method),
            Field::Path(path) => set(&mut self.path, path),
            Field::Status(status) => set(&mut self.status, status),
            Field::ContentType(content_type) => set(&mut self.content_type, content_type),
            Field::GrpcStatus(status) => self.grpc_status = Some(status),
            Field::GrpcTimeout(Some(timeout)) => set(&mut self.timeout_ns, timeout.nanoseconds()),
            Field::TraceParent(trace) => {
                self.trace = Some(trace.filter(|_| self.trace.is_none()));
            }
            Field::GrpcMessage(message) => self.message = Some(message),
            Field::Unknown => self.incomplete = true,
            Field::GrpcTimeout(None) | Field::Other => {}
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

#[cfg(test)]
mod tests {
    use super::Headers;
    use crate::{call::TraceId, protocol::hpack::Field};

    fn of(fields: &[Field]) -> Headers {
        let mut headers = Headers::default();
        for field in fields {
            headers.add(*field);
        }
        headers
    }

    #[test]
    fn of_two_statuses_the_last_counts() {
        let status = |status| Field::GrpcStatus(status);
        assert_eq!(of(&[status(Some(0)), status(Some(13))]).grpc_status, Some(Some(13)));
        assert_eq!(of(&[status(Some(13)), status(None)]).grpc_status, Some(None));
        assert_eq!(of(&[Field::Status(200), Field::Status(503)]).status, Some(200));
    }

    #[test]
    fn two_traces_are_none() {
        let trace = Some(TraceId([7; 16]));
        assert_eq!(of(&[Field::TraceParent(trace)]).trace, Some(trace));
        for second in [None, trace, Some(TraceId([8; 16]))] {
            let two = [Field::TraceParent(trace), Field::TraceParent(second)];
            assert_eq!(of(&two).trace, Some(None));
            let three = [two[0], two[1], Field::TraceParent(trace)];
            assert_eq!(of(&three).trace, Some(None));
        }
    }
}
