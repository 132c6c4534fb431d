//! What a header block says to gRPC.

use crate::hpack::{ContentType, Field, PathId};

/// The fields of one header block that matter to a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
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
    /// There were fields that could not be decoded: what is absent here may have been there.
    pub incomplete: bool,
}

impl Headers {
    /// Takes one field. Of a field that is there twice the first counts.
    pub fn add(&mut self, field: Field) {
        match field {
            Field::Path(path) => set(&mut self.path, path),
            Field::Status(status) => set(&mut self.status, status),
            Field::ContentType(content_type) => set(&mut self.content_type, content_type),
            Field::GrpcStatus(status) => set(&mut self.grpc_status, status),
            Field::GrpcTimeout(Some(timeout)) => set(&mut self.timeout_ns, timeout),
            Field::Unknown => self.incomplete = true,
            Field::Method(_) | Field::GrpcTimeout(None) | Field::Other => {}
        }
    }
}

fn set<T>(place: &mut Option<T>, value: T) {
    place.get_or_insert(value);
}
