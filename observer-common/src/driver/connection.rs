//! The state of a watched connection.

use super::arrival::Arrivals;
use crate::{
    counter::Counter,
    record::{HELD, RecordHeader, direction, pair, record_kind, role},
    scanner::Scanner,
    sync::FrameSync,
};

/// States of a connection.
pub mod state {
    /// Its first bytes may be those of HTTP/2, or of something that may come before it. The client preface is not
    /// complete yet, or its transfer is still being handled on another CPU.
    pub const CANDIDATE: u8 = 0;
    /// It started with the client preface.
    pub const WATCHED: u8 = 1;
    /// As `CANDIDATE`, after an upgrade from HTTP/1: its protocol has been counted.
    pub const UPGRADED: u8 = 2;
    /// It was open before the daemon, and may be HTTP/2; no frame boundary is believed yet.
    pub const JOINING: u8 = 3;
}

/// What a connection carries, or may carry.
pub mod protocol {
    /// HTTP/2.
    pub const HTTP2: u8 = 0;
    /// Thrift.
    pub const THRIFT: u8 = 1;
    /// HTTP/1.1.
    pub const HTTP1: u8 = 2;
    /// Thrift, with messages that may have no version.
    pub const UNVERSIONED_THRIFT: u8 = 3;
}

/// How much the daemon knows of a connection by the `OpenItem`s of its records.
pub mod announced {
    /// None has been sent.
    pub const NOTHING: u8 = 0;
    /// Everything.
    pub const ALL: u8 = 1;
    /// Everything except where its directions start.
    pub const NO_STARTS: u8 = 2;
    /// Everything, but the next item must confirm where its directions start.
    pub const STARTS_ONCE: u8 = 3;
}

/// How a socket shows gaps: values of [`Shared::counts`].
pub mod counted {
    /// Not at all.
    pub const NOTHING: u8 = 0;
    /// TCP: by the sequence numbers of both directions.
    pub const TCP: u8 = 1;
    /// MPTCP: by the socket's counter of received bytes. The probes capture everything that is sent.
    pub const RECEIVED: u8 = 2;
    /// Unix socket: by comparing received bytes with those that its peer has sent, which the probes always capture.
    pub const BY_PEER: u8 = 3;
    /// TLS: by the records at the socket, which [`driver::tls`](crate::driver::tls) compares with the plaintext.
    pub const TLS: u8 = 4;
}

/// The transfers of a connection before it is watched: those without a frame boundary if it was open before the daemon,
/// and those for which there was no room.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Tries {
    /// Number of transfers.
    pub transfers: u16,
    /// `1 << direction` for each direction that had one, and [`Tries::REFUSED`], [`Tries::HTTP2`].
    pub flags: u16,
    /// Their bytes, which are counted once the connection turns out to be HTTP/2.
    pub bytes: u32,
}

impl Tries {
    /// There was no room to watch the connection, and that has been counted.
    pub const REFUSED: u16 = 1 << 2;
    /// It started as HTTP/2: while there is no room, the bytes of each transfer are counted at once.
    pub const HTTP2: u16 = 1 << 3;

    /// Whether the flag is set.
    #[inline(always)]
    pub const fn has(self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Adds the bytes of a transfer.
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
    /// State of both directions.
    pub shared: Shared,
    /// State of each direction, by `record::direction`.
    pub directions: [DirectionState; 2],
}

/// The state that both directions of a connection share. Two CPUs may write it at the same time, one for each
/// direction.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Shared {
    /// The connection's identifier.
    pub id: u64,
    /// The socket's inode number. It distinguishes the socket from an earlier one with the same `struct sock` address.
    pub inode: u64,
    /// Time of its end, if the record of that could not be sent yet; 0 otherwise.
    pub closed_ns: u64,
    /// Time at which the peer reset it while there was unread data, which the process may still read, or during a
    /// transfer; 0 otherwise.
    pub reset_ns: u64,
    /// `copied_seq` and `write_seq` at `reset_ns`.
    pub reset_sequences: [u32; 2],
    /// `rcv_nxt` at `reset_ns`: up to where bytes had arrived.
    pub reset_arrived: u32,
    /// Process of the last record.
    pub pid: u32,
    /// One of [`state`].
    pub state: u8,
    /// One of `record::role`.
    pub role: u8,
    /// One of [`announced`]: not 0 once a record with an `OpenItem` has been sent.
    pub announced: u8,
    /// One of [`counted`].
    pub counts: u8,
    /// Not 0 if it was open before the daemon.
    pub joined: u8,
    /// Not 0 once the peer of a Unix socket is no longer watched: `peer_sent` has its bytes.
    pub peer_ended: u8,
    /// The end that closed first: the direction in which it sends, or `direction::UNKNOWN`.
    pub ended_by: u8,
    /// While the role is not known: the side that sent the field blocks of each direction, two bits each,
    /// [`sender::CLIENT`] or [`sender::SERVER`].
    pub shown: u8,
    /// Bytes that the peer of a Unix socket had sent when `peer_ended` was set.
    pub peer_sent: u32,
    /// The process that the connection counts for in `share`.
    pub owner: u32,
    /// The `struct sock` of the other end of a Unix socket; 0 if gaps do not show by it.
    pub peer: u64,
    /// Streams that were reset last: DATA of them that was under way is not framed as messages. 0 for an empty place.
    /// For HTTP/1.1: the HEAD requests. Their responses have no bodies.
    pub resets: [u32; RESETS],
    /// Number of streams that were reset.
    pub reset_count: u32,
    /// One of [`protocol`].
    pub protocol: u8,
    /// One of `record::tie`.
    pub tie: u8,
    /// Padding.
    pub _reserved: u16,
    /// While `JOINING`: the transfers so far.
    pub tries: Tries,
    /// When bytes that a server received had arrived.
    pub arrivals: Arrivals,
}

/// Sides that send a field block.
pub mod sender {
    /// No field block was seen, or it does not show its side.
    pub const UNKNOWN: u32 = 0;
    /// Its first field is a request's.
    pub const CLIENT: u32 = 1;
    /// Its first field is a response's.
    pub const SERVER: u32 = 2;
}

/// In [`DirectionState::gap`]: a frame boundary was found after the gap.
pub const GAP_FOUND: u8 = 2;

/// Number of reset streams that are remembered: a power of two. If a client resets more streams while their DATA is
/// under way, each leaves a cut message until the connection ends.
pub const RESETS: usize = 8;

/// In [`Shared::resets`]: what was sent on the stream before the peer reset it may still be seen. No stream has this bit.
pub const SENDS_ON: u32 = 1 << 31;

impl Shared {
    /// Records that the stream was reset, with [`SENDS_ON`] if that applies. Returns what made room for it.
    #[inline(always)]
    pub fn reset(&mut self, stream: u32) -> u32 {
        let at = self.reset_count as usize & (RESETS - 1);
        self.reset_count = self.reset_count.wrapping_add(1);
        self.resets.get_mut(at).map_or(0, |slot| core::mem::replace(slot, stream))
    }

    /// Whether the stream is one of those that were reset last.
    #[inline(always)]
    pub fn is_reset(&self, stream: u32) -> bool {
        self.reset_count != 0 && self.resets.contains(&stream)
    }

    /// The end that closed first, as in [`Shared::ended_by`], for a Unix socket at `sock` that is found closed and
    /// whose transfers did not show that the peer is gone. `is_open` returns whether the peer's socket is open.
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

    /// Whether it is a TCP socket.
    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.counts == counted::TCP
    }

    /// Whether the bytes are the plaintext of a TLS connection.
    #[inline(always)]
    pub const fn is_tls(&self) -> bool {
        self.counts == counted::TLS
    }

    /// Whether it carries Thrift, or may carry it.
    #[inline(always)]
    pub const fn is_thrift(&self) -> bool {
        self.protocol & protocol::THRIFT != 0
    }

    /// Whether it carries HTTP/1.1, or may carry it, and is followed.
    #[inline(always)]
    pub const fn is_http1(&self) -> bool {
        self.protocol == protocol::HTTP1
    }

    /// A number that both ends of the connection have in common; 0 if it is not known.
    ///
    /// For TCP, it consists of the sequence numbers at which both directions start: both ends know them, and address
    /// translation does not change them. For a Unix socket at `sock`, it consists of the addresses of both ends.
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
        pair::of(one, other)
    }

    /// Whether the pair is that of the socket's counters, if it has some: the connection is not watched from its first byte,
    /// or carries TLS. Calls of Thrift need none.
    #[inline(always)]
    pub const fn samples_starts(&self) -> bool {
        self.is_tls() || self.is_tcp() && self.joined != 0 && !self.is_thrift()
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

    /// The counter for bytes of a direction that is out of sync.
    #[inline(always)]
    pub const fn counter_out_of_sync(&self, direction: &DirectionState) -> Counter {
        let is_joining = self.joined != 0 && direction.reported == 0;
        if is_joining { Counter::BeforeJoin } else { Counter::OutOfStep }
    }
}

impl Connection {
    /// Whether it started with an HTTP/1 message, and its protocol has not been counted yet.
    #[inline(always)]
    pub const fn is_only_http1(&self) -> bool {
        let has_http1 = self.received().scanner.has_http1() || self.sent().scanner.has_http1();
        self.shared.state == state::CANDIDATE && has_http1
    }

    /// Bytes that went through the sent direction. While another CPU changes it, the result may be too small, never too
    /// large: first `gap_bytes` is reduced, then `position` grows.
    #[inline(always)]
    const fn total_sent(&self) -> u32 {
        let sent = self.sent();
        (sent.position + sent.gap_bytes) as u32
    }

    /// Bytes that it has sent to the Unix socket at `sock`; `None` unless it is watched from its first byte.
    #[inline(always)]
    pub fn sent_to(&self, sock: u64) -> Option<u32> {
        // The connection of an earlier socket at the same address had another peer.
        let is_peer = self.shared.peer == sock && self.shared.closed_ns == 0;
        (is_peer && self.shared.state == state::WATCHED).then(|| self.total_sent())
    }

    /// Stores in the other end of a Unix socket how many bytes this one, at `sock`, has sent.
    #[inline(always)]
    pub fn leave_to(&self, peer: &mut Shared, sock: u64) {
        if peer.peer == sock && peer.peer_ended == 0 {
            peer.peer_sent = self.total_sent();
            peer.peer_ended = 1;
        }
    }

    /// The record of its end, with these `RecordHeader::flags`.
    #[inline(always)]
    pub fn closed(&self, flags: u8) -> RecordHeader {
        let Shared { id, closed_ns, pid, ended_by, role, .. } = self.shared;
        let held = if self.shared.is_tls() { HELD } else { 0 };
        RecordHeader {
            connection: id,
            time_ns: closed_ns,
            pid,
            kind: record_kind::CLOSED,
            direction: ended_by,
            role,
            flags: flags | held,
            ..RecordHeader::default()
        }
    }

    /// A direction, by `record::direction`.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "one of the two by the mask")]
    pub fn direction(&mut self, direction: u8) -> &mut DirectionState {
        // By an index, not a branch: the verifier follows the code after it once, not once for each direction.
        &mut self.directions[usize::from(direction & 1)]
    }

    /// The direction in which the process reads.
    #[inline(always)]
    pub const fn received(&self) -> &DirectionState {
        let [received, _] = &self.directions;
        received
    }

    /// The direction in which the process writes.
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

/// One direction of a connection.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DirectionState {
    /// The place in frames and messages.
    pub scanner: Scanner,
    /// Bytes that were moved.
    pub position: u64,
    /// Bytes before this position are in records, sent or dropped.
    pub reported: u64,
    /// Bytes after `position` that are a gap, which the next transfer passes over.
    pub gap_bytes: u64,
    /// The socket's own counter after the last transfer (`copied_seq`, `write_seq`).
    pub sequence: u32,
    /// Entries that field blocks in dropped records inserted into the dynamic table; [`DirectionState::UNCLEAR`] if
    /// not known.
    pub inserts: u32,
    /// Whether a frame boundary is known.
    pub sync: FrameSync,
    /// Not 0 once `sequence` is known.
    pub counted: u8,
    /// Not 0 once a message was cut across DATA frames: only then are messages looked up.
    pub cut: u8,
    /// Not 0 after a dropped record, until one is sent: its position shows the bytes that were dropped.
    pub dropped: u8,
    /// Not 0 once frames, or parts of one, are in a gap, until a record has reported it: 1, with [`GAP_FOUND`].
    pub gap: u8,
    /// Not 0 during a walk over a transfer.
    pub walking: u8,
    /// Padding.
    pub _reserved: [u8; 3],
}

impl DirectionState {
    /// In [`DirectionState::inserts`]: not known.
    pub const UNCLEAR: u32 = u32::MAX;

    /// Starts at position 0, at the scanner's place.
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

    /// Takes the socket's counter after a transfer of `total` bytes. Returns the length of the gap before these.
    #[inline(always)]
    pub(super) const fn count_to(&mut self, sequence: u32, total: u64) -> u32 {
        let gap = sequence.wrapping_sub(total as u32).wrapping_sub(self.sequence);
        let counted = self.counted != 0;
        self.sequence = sequence;
        self.counted = 1;
        // The counter may be behind: two threads share a direction without a lock.
        if !counted || gap > i32::MAX as u32 { 0 } else { gap }
    }

    /// The socket's counter before the first byte, if the connection is watched from its first byte.
    #[inline(always)]
    const fn first(&self) -> u32 {
        self.sequence.wrapping_sub((self.position + self.gap_bytes) as u32)
    }

    /// Whether there are bytes that no record has reported, and that the next record's position will not show.
    #[inline(always)]
    pub const fn has_gap(&self) -> bool {
        self.dropped != 0 || self.gap != 0 || self.gap_bytes != 0 || self.sync.is_out_of_sync()
    }
}
