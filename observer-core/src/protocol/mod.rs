//! The protocols of connections: the trait [`Protocol`] and its implementations.
//!
//! To add a protocol: implement [`Protocol`] in a module here, with the types of [`call`](crate::call).

pub mod grpc;
pub mod hpack;
pub mod http1;
pub mod http2;
pub mod thrift;

use std::ops::AddAssign;

use crate::{
    call::{CallSink, Coverage, Direction, Relatives, Role},
    names::{Interner, PathId},
    process::ProcessId,
    record::{Bytes, Closed, Waited},
};

/// One read or write on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The time of the transfer, in nanoseconds of the kernel's monotonic clock.
    pub time_ns: u64,
    /// The process that read or wrote the bytes.
    pub process: ProcessId,
    /// The direction of the bytes.
    pub direction: Direction,
    /// How long before `time_ns` the bytes may have been sent, or have arrived.
    pub waited: Waited,
    /// Since when no thread had to wait for a CPU, by the same clock; `u64::MAX` if that is not known.
    pub stall_free_since_ns: u64,
    /// The relatives of gRPC that are followed.
    pub relatives: Relatives,
}

/// The state of one end of one connection.
///
/// Order of calls: [`bytes`](Self::bytes) for each of its records, in their order; [`closed`](Self::closed) last.
pub trait Protocol {
    /// Takes a record of bytes. Returns the errors in it.
    fn bytes(
        &mut self,
        at: Transfer,
        bytes: &Bytes<'_>,
        interner: &mut Interner,
        sink: &mut impl CallSink,
    ) -> Faults;

    /// Takes the end of the connection, at this time. `stall_free_since_ns` is as in [`Transfer`].
    fn closed(
        &mut self,
        time_ns: u64,
        closed: Closed,
        stall_free_since_ns: u64,
        sink: &mut impl CallSink,
    );

    /// Ends the calls that have probably ended in a gap. To be called about once a second.
    fn expire(&mut self, now_ns: u64, sink: &mut impl CallSink);

    /// Drops the state, to free memory. Open calls end, and their codes are not seen. The connection is followed as
    /// one that joined late from here on.
    fn forget(&mut self, time_ns: u64, sink: &mut impl CallSink);

    /// The memory that the state has allocated, in bytes. O(1).
    fn memory(&self) -> usize;

    /// The paths that the state refers to.
    fn paths(&self) -> impl Iterator<Item = PathId>;

    /// The part of the state that is published. O(1).
    fn state(&self) -> State;
}

/// The published state of a connection.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// The side that the process is on.
    pub role: Role,
    /// Whether that is certain.
    pub is_role_certain: bool,
    /// How much of the connection was seen.
    pub coverage: Coverage,
    /// Whether a gap goes on in at least one direction.
    pub is_in_gap: bool,
    /// The number of open calls that are counted.
    pub open: u64,
    /// The streams so far.
    pub streams: Streams,
}

/// Numbers of streams that clients started, by what became of them. Only those that are measured are in a series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// gRPC calls.
    pub measured: u64,
    /// Streams whose content type is not gRPC's.
    pub not_grpc: u64,
    /// Streams that were started while too many were open on their connection.
    pub too_many: u64,
    /// Streams that may be gRPC calls or not: nothing that was seen shows it.
    pub unclear: u64,
    /// Streams whose frames may have been content of a message: the other end did not confirm them.
    pub unconfirmed: u64,
}

impl AddAssign for Streams {
    fn add_assign(&mut self, other: Self) {
        let Self { measured, not_grpc, too_many, unclear, unconfirmed } = other;
        self.measured += measured;
        self.not_grpc += not_grpc;
        self.too_many += too_many;
        self.unclear += unclear;
        self.unconfirmed += unconfirmed;
    }
}

/// Errors in one record, which the caller adds up, and whether the process read it late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Bytes whose record was dropped, before this record.
    pub dropped_bytes: u64,
    /// Field blocks that are invalid or too long.
    pub blocks: u64,
    /// References to entries of a dynamic table that are not known.
    pub unknown_references: u64,
    /// The bytes had certainly waited at the socket: the process reads late.
    pub read_late: bool,
}
