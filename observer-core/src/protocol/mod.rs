//! The protocols of connections.
//!
//! To add a protocol: implement [`Protocol`] in a module here, on the words of [`call`](crate::call).

pub mod grpc;
pub mod hpack;
pub mod http2;

use std::ops::AddAssign;

use crate::{
    call::{CallSink, Coverage, Direction, Role},
    names::{Interner, PathId},
    process::ProcessId,
    record::{Bytes, Closed, Waited},
};

/// A read or write on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Kernel's monotonic clock, in nanoseconds.
    pub time_ns: u64,
    /// The process that read or wrote the bytes.
    pub process: ProcessId,
    /// The direction of the bytes.
    pub direction: Direction,
    /// How long before `time_ns` it may have happened.
    pub waited: Waited,
    /// Since when no thread had to wait for a CPU; `u64::MAX` if that is not known.
    pub stall_free_since_ns: u64,
}

/// One end of one connection.
///
/// Order of calls: [`bytes`](Self::bytes) for each of its records, as they come; [`closed`](Self::closed) last.
pub trait Protocol {
    /// Takes a record of bytes.
    fn bytes(
        &mut self,
        at: Transfer,
        bytes: &Bytes<'_>,
        interner: &mut Interner,
        sink: &mut impl CallSink,
    ) -> Faults;

    /// Takes the end of the connection.
    fn closed(
        &mut self,
        time_ns: u64,
        closed: Closed,
        stall_free_since_ns: u64,
        sink: &mut impl CallSink,
    );

    /// Ends the calls that have probably ended in a gap.
    fn expire(&mut self, now_ns: u64, sink: &mut impl CallSink);

    /// Drops the state, to free memory. Open calls end, their codes not seen. What begins after that is followed as if
    /// the connection had joined now.
    fn forget(&mut self, time_ns: u64, sink: &mut impl CallSink);

    /// The memory that it has allocated, in bytes. O(1).
    fn memory(&self) -> usize;

    /// The paths that it refers to.
    fn paths(&self) -> impl Iterator<Item = PathId>;

    /// The state that is published. O(1).
    fn state(&self) -> State;
}

/// The published state of a connection.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// The end of the connection that the process is.
    pub role: Role,
    /// What is seen of it.
    pub coverage: Coverage,
    /// A gap goes on in one direction at least.
    pub is_in_gap: bool,
    /// Open calls that are counted.
    pub open: u64,
    /// Its streams so far.
    pub streams: Streams,
}

/// Streams that clients began, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Calls, which are in a series. The others are in none.
    pub measured: u64,
    /// Their content type says that they are not gRPC.
    pub not_grpc: u64,
    /// More were open on their connection than are followed.
    pub too_many: u64,
    /// Nothing that was seen says whether they are gRPC calls.
    pub unclear: u64,
    /// What looked like their frames may have been content of a message: the other end did not confirm them.
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

/// Decoding errors in a record, and whether it was late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Bytes whose record was dropped.
    pub dropped_bytes: u64,
    /// Header blocks that are invalid or too long.
    pub blocks: u64,
    /// References to header table entries that are not known.
    pub unknown_references: u64,
    /// The bytes had certainly waited at the socket: the process reads late.
    pub read_late: bool,
}
