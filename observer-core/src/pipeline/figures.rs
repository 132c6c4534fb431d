//! What a pipeline counts beside calls.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::{
    call::Coverage,
    protocol::{State, Streams},
};

/// Counts of the records that a pipeline has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Records read.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of watched streams whose records were dropped.
    pub dropped_bytes: u64,
    /// Header blocks that could not be decoded.
    pub bad_blocks: u64,
    /// References to header table entries that were inserted before the connection was seen, or in a gap.
    pub unknown_references: u64,
    /// Connections with at least one gRPC call.
    pub grpc_connections: u64,
    /// Streams of connections that have ended.
    pub ended_streams: Streams,
    /// Records that could not be parsed.
    pub malformed: u64,
    /// Times that the state of a connection was dropped because it took too much memory.
    pub forgotten: u64,
    /// Records of connections that were not followed because memory was short.
    pub not_followed: u64,
}

/// Open connections by what is seen of their calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Seen from their first byte.
    pub complete: u64,
    /// Seen from some frame on: some methods may not be known.
    pub joined_late: u64,
    /// Seen from their first byte, with gaps since: some methods may not be known any more.
    pub gaps: u64,
    /// Not readable at the moment, in one direction at least: no frame boundary is known.
    pub undecodable: u64,
}

impl Connections {
    pub(super) fn add(&mut self, state: State) {
        *match state.coverage {
            _ if state.is_in_gap => &mut self.undecodable,
            Coverage::Complete => &mut self.complete,
            Coverage::JoinedLate => &mut self.joined_late,
            Coverage::Gaps => &mut self.gaps,
        } += 1;
    }
}

impl AddAssign for Connections {
    fn add_assign(&mut self, other: Self) {
        let Self { complete, joined_late, gaps, undecodable } = other;
        self.complete += complete;
        self.joined_late += joined_late;
        self.gaps += gaps;
        self.undecodable += undecodable;
    }
}
