//! What is spoken on connections.
//!
//! To add a protocol: implement [`Protocol`] in a module here, on the words of [`call`](crate::call).

pub mod grpc;
pub mod hpack;
pub mod http2;

use std::ops::AddAssign;

use crate::{
    call::{CallSink, Coverage, Role},
    names::{Interner, PathId},
    process::ProcessId,
    record::{Bytes, Closed, Waited},
};

/// When, and by which process of the watched end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Kernel's monotonic clock, in nanoseconds.
    pub time_ns: u64,
    /// The process that read or wrote the bytes.
    pub process: ProcessId,
    /// How long before `time_ns` it may have happened.
    pub waited: Waited,
    /// Since when threads that could run have run; `u64::MAX` if that is not known.
    pub stall_free_since_ns: u64,
}

/// One end of one connection.
///
/// Order of calls: [`bytes`](Self::bytes) for each of its records, as they come; [`closed`](Self::closed) last.
pub trait Protocol {
    /// Takes a record of bytes.
    fn bytes(
        &mut self,
        at: Moment,
        bytes: &Bytes<'_>,
        interner: &mut Interner,
        sink: &mut impl CallSink,
    ) -> Faults;

    /// The connection ended.
    fn closed(
        &mut self,
        time_ns: u64,
        closed: Closed,
        stall_free_since_ns: u64,
        sink: &mut impl CallSink,
    );

    /// Ends the calls that have probably ended unseen.
    fn expire(&mut self, now_ns: u64, sink: &mut impl CallSink);

    /// Gives up all that is known of it, and the memory: its open calls end, unseen. What begins
    /// after that is followed as if the connection had been joined now.
    fn forget(&mut self, time_ns: u64, sink: &mut impl CallSink);

    /// The memory that it holds beside its own, in bytes. O(1).
    fn memory(&self) -> usize;

    /// The paths that it knows.
    fn paths(&self) -> impl Iterator<Item = PathId>;

    /// How it stands. O(1).
    fn state(&self) -> State;
}

/// How a connection stands.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// Which end it is.
    pub role: Role,
    /// How much of it is seen.
    pub coverage: Coverage,
    /// There is a direction of which nothing is seen at the moment.
    pub is_in_gap: bool,
    /// Calls that are open and have been told of.
    pub open: u64,
    /// What became of its streams so far.
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

/// What went wrong, added up by the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Bytes whose record was dropped.
    pub dropped_bytes: u64,
    /// Header blocks that are invalid or too long.
    pub blocks: u64,
    /// References to header table entries from before they were seen.
    pub unknown_references: u64,
}
