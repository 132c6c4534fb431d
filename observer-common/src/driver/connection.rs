//! What is kept of a watched connection.

use super::arrival::Arrivals;
use crate::{
    counter::Counter,
    record::{direction, role},
    scanner::Scanner,
    step::Step,
};

/// States of a connection.
pub mod state {
    /// Its first bytes may be those of HTTP/2, or of what comes before it; the client preface is not complete yet,
    /// or the transfer that wrote it has not been looked at: another one may have been, on another processor.
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
    pub directions: [Direction; 2],
}

/// What both directions of a connection share. Two processors may write it at the same time, one for each direction.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Shared {
    /// The connection's identifier.
    pub id: u64,
    /// The socket's inode number: `struct sock` addresses are used again, this tells them apart.
    pub inode: u64,
    /// When it ended, if it has and the record of that could not be sent yet.
    pub closed_ns: u64,
    /// When the peer reset it while data were unread, which the process may still read, or while a
    /// transfer was under way.
    pub reset_ns: u64,
    /// `copied_seq` and `write_seq` then.
    pub reset_sequences: [u32; 2],
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
    /// How many bytes the peer had sent.
    pub peer_sent: u32,
    /// The process in whose share it is.
    pub owner: u32,
    /// The other end of a Unix socket, 0 if it is not to be asked.
    pub peer: u64,
    /// Streams that were reset last: what of them was under way is no message any more. 0: none.
    pub resets: [u32; RESETS],
    /// How many there were.
    pub reset_count: u32,
    /// While `JOINING`: what has been tried so far.
    pub tries: Tries,
    /// When what a server receives arrived.
    pub arrivals: Arrivals,
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

/// In [`Direction::gap`]: a frame boundary was found after what went by unseen.
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

    /// Whether its socket is TCP's.
    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.counts == counted::TCP
    }

    /// What both ends know of the connection: where each direction of it begins, in TCP's sequence numbers,
    /// which are told to the other end and translated by nobody on the way; or who the ends are, of a Unix
    /// socket at `sock`. 0 if it is not known.
    #[inline(always)]
    pub fn pair(&self, own: &Direction, other: &Direction, sock: u64) -> u64 {
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

    /// By what the bytes of a direction that is out of step are counted.
    #[inline(always)]
    pub const fn counter_of_lost(&self, direction: &Direction) -> Counter {
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
    /// written: first `unread` is taken back, then `position` goes on.
    #[inline(always)]
    pub const fn total_sent(&self) -> u32 {
        let sent = self.sent();
        (sent.position + sent.unread) as u32
    }

    /// One of them, by `record::direction`.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "one of the two by the mask")]
    pub fn direction(&mut self, direction: u8) -> &mut Direction {
        // By an index, not by a choice: the verifier follows what comes next once, not for each.
        &mut self.directions[usize::from(direction & 1)]
    }

    /// What the process reads.
    #[inline(always)]
    pub const fn received(&self) -> &Direction {
        let [received, _] = &self.directions;
        received
    }

    /// What the process writes.
    #[inline(always)]
    pub const fn sent(&self) -> &Direction {
        let [_, sent] = &self.directions;
        sent
    }

    /// What a record has to tell beside its positions: `RecordHeader::flags`.
    #[inline(always)]
    pub fn unseen(&self) -> u8 {
        let received = u8::from(self.received().is_unseen());
        let sent = u8::from(self.sent().is_unseen());
        received << direction::RECEIVED | sent << direction::SENT
    }
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Direction {
    /// Where in the stream it is.
    pub scanner: Scanner,
    /// Bytes that went by.
    pub position: u64,
    /// Of those, the bytes that records account for.
    pub reported: u64,
    /// Bytes after `position` that went by, of which nobody knows what they were.
    pub unread: u64,
    /// The socket's own counter after the last transfer (`copied_seq`, `write_seq`).
    pub sequence: u32,
    /// Entries that header blocks in records which could not be sent inserted into the dynamic
    /// table; [`Direction::UNCLEAR`] if nobody knows.
    pub inserts: u32,
    /// Whether a frame boundary is known.
    pub step: Step,
    /// Not 0 once `sequence` is known.
    pub counted: u8,
    /// Not 0 once a message was cut across DATA frames: from then on it is asked for.
    pub cut: u8,
    /// Not 0 once a record could not be sent, until one is: its bytes show in the position of that.
    pub lost: u8,
    /// Not 0 once frames, or parts of one, went by unseen, until a record has told of it: 1, with [`GAP_FOUND`].
    pub gap: u8,
    /// Not 0 while a transfer's bytes are walked over.
    pub walking: u8,
    /// Padding.
    pub _reserved: [u8; 3],
}

impl Direction {
    /// In [`Direction::inserts`]: nobody knows how many.
    pub const UNCLEAR: u32 = u32::MAX;

    /// From the scanner's place on.
    #[inline(always)]
    pub const fn new(scanner: Scanner, step: Step) -> Self {
        Self {
            scanner,
            position: 0,
            reported: 0,
            unread: 0,
            sequence: 0,
            inserts: 0,
            step,
            counted: 0,
            cut: 0,
            lost: 0,
            gap: 0,
            walking: 0,
            _reserved: [0; 3],
        }
    }

    /// The socket's counter is there after a transfer of so many bytes. Answers how many went by unseen before these.
    #[inline(always)]
    pub const fn count_to(&mut self, sequence: u32, total: u64) -> u32 {
        let missed = sequence.wrapping_sub(total as u32).wrapping_sub(self.sequence);
        let counted = self.counted != 0;
        self.sequence = sequence;
        self.counted = 1;
        // Behind what was seen already: two threads that share a direction without a lock.
        if !counted || missed > i32::MAX as u32 { 0 } else { missed }
    }

    /// The socket's counter before the first byte, of a connection that is seen from its beginning.
    #[inline(always)]
    const fn first(&self) -> u32 {
        self.sequence.wrapping_sub((self.position + self.unread) as u32)
    }

    /// Whether bytes went by of which neither a record told, nor a position will.
    #[inline(always)]
    pub const fn is_unseen(&self) -> bool {
        self.lost != 0 || self.gap != 0 || self.unread != 0 || self.step.is_lost()
    }
}
