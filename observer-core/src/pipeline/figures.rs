//! The counts of a pipeline about records and connections.

use std::{collections::BTreeMap, ops::AddAssign};

use serde::{Deserialize, Serialize};

use crate::{
    call::Coverage,
    protocol::{State, Streams},
    record::{Carried, Tie},
};

/// Counts of the records that a pipeline has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Records that were read.
    pub records: u64,
    /// Bytes of the records that were read.
    pub bytes: u64,
    /// Bytes of watched connections whose records were dropped.
    pub dropped_bytes: u64,
    /// Field blocks that could not be decoded.
    pub bad_blocks: u64,
    /// References to entries of a dynamic table that were inserted before the connection was watched, or in a gap.
    pub unknown_references: u64,
    /// HTTP/2 connections with at least one gRPC call, open and ended ones.
    pub grpc_connections: u64,
    /// Streams of connections that have ended.
    pub ended_streams: Streams,
    /// Records that could not be parsed.
    pub malformed: u64,
    /// Number of times that the state of a connection was dropped because it took too much memory.
    pub forgotten: u64,
    /// Records of connections that were not followed because memory was short.
    pub not_followed: u64,
}

/// Open connections by how much of them is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Connections that are seen from their first byte on.
    pub complete: u64,
    /// Connections that joined late: some methods may not be known.
    pub joined_late: u64,
    /// Connections that are seen from their first byte on, with gaps: some methods may not be known any more.
    pub gaps: u64,
    /// Connections with a gap that goes on, in at least one direction.
    pub undecodable: u64,
}

/// The watched connections of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfProcess {
    /// HTTP/2 connections without TLS.
    pub cleartext: Counted,
    /// HTTP/1.1 connections without TLS.
    pub http1: Counted,
    /// Thrift connections, with or without TLS.
    pub thrift: Counted,
    /// HTTP/2 connections with TLS whose plaintext is seen.
    pub tls: Counted,
}

/// Connections: the open ones, and how many have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Open connections.
    pub open: Connections,
    /// Number of connections that have ended.
    pub ended: u64,
    /// Number of connections over TLS, open and ended ones, by what ties the library's objects to the sockets.
    pub tied: BTreeMap<Tie, u64>,
}

impl OfProcess {
    pub(super) fn of(&mut self, is_tls: bool, carried: Carried) -> &mut Counted {
        match (is_tls, carried) {
            (_, Carried::Thrift) => &mut self.thrift,
            (true, _) => &mut self.tls,
            (_, Carried::Http2) => &mut self.cleartext,
            (_, Carried::Http1) => &mut self.http1,
        }
    }
}

impl AddAssign for OfProcess {
    fn add_assign(&mut self, other: Self) {
        let Self { cleartext, http1, thrift, tls } = other;
        self.cleartext += cleartext;
        self.http1 += http1;
        self.thrift += thrift;
        self.tls += tls;
    }
}

impl Counted {
    /// Counts what ties a connection over TLS.
    pub(super) fn tie(&mut self, tie: Option<Tie>) {
        if let Some(tie) = tie {
            *self.tied.entry(tie).or_default() += 1;
        }
    }
}

impl AddAssign for Counted {
    fn add_assign(&mut self, other: Self) {
        let Self { open, ended, tied } = other;
        self.open += open;
        self.ended += ended;
        for (tie, connections) in tied {
            *self.tied.entry(tie).or_default() += connections;
        }
    }
}

impl Connections {
    /// All of them.
    pub fn sum(self) -> u64 {
        let Self { complete, joined_late, gaps, undecodable } = self;
        complete + joined_late + gaps + undecodable
    }

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
