//! What is kept of a watched connection.

use super::arrival::Arrivals;
use crate::{
    counter::Counter,
    record::{RecordHeader, direction, record_kind, role},
    scanner::Scanner,
    sync::FrameSync,
};

/// States of a connection.
pub mod state {
    /// Its first bytes may be those of HTTP/2, or of what comes before it; the client preface is not complete yet,
    /// or the transfer that wrote it has not been looked at: another one may have been, on another CPU.
    pub const CANDIDATE: u8 = 0;
    /// It opened with the client preface.
    pub const WATCHED: u8 = 1;
    /// As `CANDIDATE`, after an upgrade from HTTP/1: what it carries has been counted.
    pub const UPGRADED: u8 = 2;
    /// It was open before the daemon, and may be HTTP/2; no frame boundary is believed yet.
    pub const JOINING: u8 = 3;
}

/// How a socket shows the bytes that were not seen: [`Shared::counts`].
pub mod counted {
    /// It does not.
    pub const NOTHING: u8 = 0;
    /// TCP: by the sequence numbers of both directions.
    pub const TCP: u8 = 1;
    /// MPTCP: what was received shows, by the socket's counter. What is sent is always seen.
    pub const RECEIVED: u8 = 2;
    /// A Unix socket: what was received shows by what its peer has sent, which is always seen.
    pub const BY_PEER: u8 = 3;
}

/// Transfers of a connection that was open before the daemon in which no frames were found, or for which there was no
/// room.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Tries {
    /// How many.
    pub transfers: u16,
    /// `1 << direction` for each that had any, and [`Tries::REFUSED`], [`Tries::HTTP2`].
    pub flags: u16,
    /// What they moved: counted once the connection turns out to be HTTP/2.
    pub bytes: u32,
}

impl Tries {
    /// There was no room to watch the connection, which has been counted.
    pub const REFUSED: u16 = 1 << 2;
    /// It opened HTTP/2: for as long as there is no room its bytes are counted as they come.
    pub const HTTP2: u16 = 1 << 3;

    /// Whether the flag is set.
    #[inline(always)]
    pub const fn has(self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Adds bytes that a transfer moved.
    #[inline(always)]
    pub const fn add(&mut self, bytes: u64) {
        let bytes = if bytes < u32::MAX as u64 { bytes as u32 } else { u32::MAX };
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// One end of a connection: a socket of a process on this node.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Connection {
    /// What both directions share.
    pub shared: Shared,
    /// By `record::direction`.
    pub directions: [DirectionState; 2],
}

/// What both directions of a connection share. Two CPUs may write it at the same time, one for each direction.
/// What each transfer needs comes last, next to the directions: cache lines cost more than what is done with them.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Shared {
    /// When it ended, if it has and the record of that could not be sent yet.
    pub closed_ns: u64,
    /// When the peer reset it while data were unread, which the process may still read, or while a
    /// transfer was under way.
    pub reset_ns: u64,
    /// `copied_seq` and `write_seq` then.
    pub reset_sequences: [u32; 2],
    /// The other end of a Unix socket, 0 if it is not to be asked.
    pub peer: u64,
    /// While `JOINING`: what has been tried so far.
    pub tries: Tries,
    /// How many bytes the peer had sent.
    pub peer_sent: u32,
    /// The process in whose share it is.
    pub owner: u32,
    /// Streams that were reset last: what of them was under way is no message any more. 0: none.
    pub resets: [u32; RESETS],
    /// When what a server receives arrived.
    pub arrivals: Arrivals,
    /// The connection's identifier.
    pub id: u64,
    /// The socket's inode number: `struct sock` addresses are used again, this tells them apart.
    pub inode: u64,
    /// Process of the last record.
    pub pid: u32,
    /// One of [`state`].
    pub state: u8,
    /// One of `record::role`.
    pub role: u8,
    /// Not 0 once a record with an `OpenItem` has been sent.
    pub announced: u8,
    /// One of [`counted`].
    pub counts: u8,
    /// Not 0 if it was open before the daemon.
    pub joined: u8,
    /// Not 0 once the peer of a Unix socket is forgotten, of which `peer_sent` is left.
    pub peer_ended: u8,
    /// Who ended it first: the direction in which that one sends, or `direction::UNKNOWN`.
    pub ended_by: u8,
    /// While the role is not known, whose header blocks of each direction are: two bits each, [`sender::CLIENT`] or
    /// [`sender::SERVER`].
    pub shown: u8,
    /// How many streams were reset.
    pub reset_count: u32,
}

/// Who sent a header block.
pub mod sender {
    /// It has not been seen.
    pub const UNKNOWN: u32 = 0;
    /// Its first field is a request's.
    pub const CLIENT: u32 = 1;
    /// Its first field is a response's.
    pub const SERVER: u32 = 2;
}

/// In [`DirectionState::gap`]: a frame boundary was found after the gap.
pub const GAP_FOUND: u8 = 2;

/// How many reset streams are remembered: a power of two. A client that resets more than these in the
/// time that DATA is under way leaves a cut message for each, until the connection ends.
pub const RESETS: usize = 8;

impl Shared {
    /// The stream was reset.
    #[inline(always)]
    pub fn reset(&mut self, stream: u32) {
        let at = self.reset_count as usize & (RESETS - 1);
        if let Some(slot) = self.resets.get_mut(at) {
            *slot = stream;
        }
        self.reset_count = self.reset_count.wrapping_add(1);
    }

    /// Whether the stream is one of those that were reset last.
    #[inline(always)]
    pub fn is_reset(&self, stream: u32) -> bool {
        self.reset_count != 0 && self.resets.contains(&stream)
    }

    /// Who was first to end it, of a Unix socket at `sock` that is found closed, where no transfer has shown the process that
    /// its peer is gone. `is_open` says whether the peer's is open.
    #[inline(always)]
    pub fn ended_first(peer: &mut Self, sock: u64, is_open: impl FnOnce(&Self) -> bool) -> u8 {
        if peer.peer != sock || peer.ended_by != direction::UNKNOWN {
            return direction::SENT;
        }
        let [own, peers] = if is_open(peer) {
            [direction::SENT, direction::RECEIVED]
        } else {
            [direction::UNSURE; 2]
        };
        peer.ended_by = peers;
        own
    }

    /// Whether its socket is TCP's.
    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.counts == counted::TCP
    }

    /// What both ends know of the connection: where each direction of it begins, in TCP's sequence numbers,
    /// which are sent to the other end and not translated on the way; or who the ends are, of a Unix
    /// socket at `sock`. 0 if it is not known.
    #[inline(always)]
    pub fn pair(&self, own: &DirectionState, other: &DirectionState, sock: u64) -> u64 {
        let [one, other] = match self.counts {
            counted::TCP if own.counted & other.counted != 0 => [own.first(), other.first()],
            counted::BY_PEER if self.peer != 0 => [sock, self.peer].map(|end| (end >> 3) as u32),
            _ => return 0,
        };
        if self.joined != 0 {
            return 0;
        }
        let [low, high] = if one < other { [one, other] } else { [other, one] };
        u64::from(high) << 32 | u64::from(low)
    }

    /// The direction that requests go in; `None` while the process's role is not known.
    #[inline(always)]
    pub const fn requests(&self) -> Option<u8> {
        match self.role {
            role::CLIENT => Some(direction::SENT),
            role::SERVER => Some(direction::RECEIVED),
            _ => None,
        }
    }

    /// By what the bytes of a direction that is out of sync are counted.
    #[inline(always)]
    pub const fn counter_out_of_sync(&self, direction: &DirectionState) -> Counter {
        let begun = self.joined != 0 && direction.reported == 0;
        if begun { Counter::BeforeJoin } else { Counter::OutOfStep }
    }
}

impl Connection {
    /// Whether it began with a message of HTTP/1, and has not been counted yet.
    #[inline(always)]
    pub const fn is_only_http1(&self) -> bool {
        let has_http1 = self.received().scanner.has_http1() || self.sent().scanner.has_http1();
        self.shared.state == state::CANDIDATE && has_http1
    }

    /// How many bytes went through the sent direction. A number that only grows, also while it is
    /// written: first `gap_bytes` is taken back, then `position` goes on.
    #[inline(always)]
    const fn total_sent(&self) -> u32 {
        let sent = self.sent();
        (sent.position + sent.gap_bytes) as u32
    }

    /// How many bytes it has sent to the Unix socket at `sock`, if both ends are known to be watched from their beginning.
    #[inline(always)]
    pub fn sent_to(&self, sock: u64) -> Option<u32> {
        // An earlier socket's, at the same address, had another peer.
        let is_peer = self.shared.peer == sock && self.shared.closed_ns == 0;
        (is_peer && self.shared.state == state::WATCHED).then(|| self.total_sent())
    }

    /// Leaves for the other end of a Unix socket how many bytes this one, at `sock`, has sent.
    #[inline(always)]
    pub fn leave_to(&self, peer: &mut Shared, sock: u64) {
        if peer.peer == sock && peer.peer_ended == 0 {
            peer.peer_sent = self.total_sent();
            peer.peer_ended = 1;
        }
    }

    /// The record of its end, which has gaps in these directions.
    #[inline(always)]
    pub fn closed(&self, gaps: u8) -> RecordHeader {
        let Shared { id, closed_ns, pid, ended_by, role, .. } = self.shared;
        RecordHeader {
            connection: id,
            time_ns: closed_ns,
            pid,
            kind: record_kind::CLOSED,
            direction: ended_by,
            role,
            flags: gaps,
            ..RecordHeader::default()
        }
    }

    /// One of them, by `record::direction`.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "one of the two by the mask")]
    pub fn direction(&mut self, direction: u8) -> &mut DirectionState {
        // By an index, not by a choice: the verifier follows what comes next once, not for each.
        &mut self.directions[usize::from(direction & 1)]
    }

    /// What the process reads.
    #[inline(always)]
    pub const fn received(&self) -> &DirectionState {
        let [received, _] = &self.directions;
        received
    }

    /// What the process writes.
    #[inline(always)]
    pub const fn sent(&self) -> &DirectionState {
        let [_, sent] = &self.directions;
        sent
    }

    /// The directions with gaps, for `RecordHeader::flags`.
    #[inline(always)]
    pub fn gap_flags(&self) -> u8 {
        let received = u8::from(self.received().has_gap());
        let sent = u8::from(self.sent().has_gap());
        received << direction::RECEIVED | sent << direction::SENT
    }
}

/// One direction of a connection. What a transfer in the other one looks at comes first.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DirectionState {
    /// Bytes that were moved.
    pub position: u64,
    /// Of those, the bytes that records account for.
    pub reported: u64,
    /// Bytes after `position` that are a gap, which the next transfer passes over.
    pub gap_bytes: u64,
    /// The socket's own counter after the last transfer (`copied_seq`, `write_seq`).
    pub sequence: u32,
    /// Entries that header blocks in records which could not be sent inserted into the dynamic
    /// table; [`DirectionState::UNCLEAR`] if it is not known.
    pub inserts: u32,
    /// Whether a frame boundary is known.
    pub sync: FrameSync,
    /// Not 0 once `sequence` is known.
    pub counted: u8,
    /// Not 0 once a message was cut across DATA frames: from then on it is asked for.
    pub cut: u8,
    /// Not 0 once a record could not be sent, until one is: its bytes show in the position of that.
    pub dropped: u8,
    /// Not 0 once frames, or parts of one, are in a gap, until a record has reported it: 1, with [`GAP_FOUND`].
    pub gap: u8,
    /// Not 0 while a transfer's bytes are walked over.
    pub walking: u8,
    /// Padding.
    pub _reserved: [u8; 3],
    /// Where in the stream it is.
    pub scanner: Scanner,
}

impl DirectionState {
    /// In [`DirectionState::inserts`]: it is not known how many.
    pub const UNCLEAR: u32 = u32::MAX;

    /// From the scanner's place on.
    #[inline(always)]
    pub const fn new(scanner: Scanner, sync: FrameSync) -> Self {
        Self {
            scanner,
            position: 0,
            reported: 0,
            gap_bytes: 0,
            sequence: 0,
            inserts: 0,
            sync,
            counted: 0,
            cut: 0,
            dropped: 0,
            gap: 0,
            walking: 0,
            _reserved: [0; 3],
        }
    }

    /// The socket's counter is there after a transfer of so many bytes. Answers how long the gap before these is.
    #[inline(always)]
    pub(super) const fn count_to(&mut self, sequence: u32, total: u64) -> u32 {
        let gap = sequence.wrapping_sub(total as u32).wrapping_sub(self.sequence);
        let counted = self.counted != 0;
        self.sequence = sequence;
        self.counted = 1;
        // Behind what was seen already: two threads that share a direction without a lock.
        if !counted || gap > i32::MAX as u32 { 0 } else { gap }
    }

    /// The socket's counter before the first byte, of a connection that is seen from its beginning.
    #[inline(always)]
    const fn first(&self) -> u32 {
        self.sequence.wrapping_sub((self.position + self.gap_bytes) as u32)
    }

    /// Whether there are bytes that no record has reported, and that no position will show.
    #[inline(always)]
    pub const fn has_gap(&self) -> bool {
        self.dropped != 0 || self.gap != 0 || self.gap_bytes != 0 || self.sync.is_out_of_sync()
    }
}
