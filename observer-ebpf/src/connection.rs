//! What is kept of a watched connection.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use observer_common::{record::direction, scanner::Scanner};

/// States of a connection.
pub mod state {
    /// Its first bytes may be those of HTTP/2; the client preface is not complete yet.
    pub const CANDIDATE: u8 = 0;
    /// It opened with the client preface.
    pub const WATCHED: u8 = 1;
    /// As `CANDIDATE`, after an upgrade from HTTP/1: it has been counted as that.
    pub const UPGRADED: u8 = 2;
}

/// One end of a connection: a socket of a process on this node.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Connection {
    pub id: u64,
    /// The socket's inode number: `struct sock` addresses are used again, this tells them apart.
    pub inode: u64,
    /// When it ended, if it has and the record of that could not be sent yet.
    pub closed_ns: u64,
    /// When the peer reset it while data were unread, which the process may still read.
    pub reset_ns: u64,
    /// Process of the last record.
    pub pid: u32,
    pub state: u8,
    /// One of `record::role`.
    pub role: u8,
    /// Not 0 once a record with an `OpenItem` has been sent.
    pub announced: u8,
    /// Not 0 if the socket counts its bytes: TCP.
    pub tcp: u8,
    pub received: Direction,
    pub sent: Direction,
}

impl Connection {
    #[inline(always)]
    pub fn direction(&mut self, direction: u8) -> &mut Direction {
        if direction == direction::SENT { &mut self.sent } else { &mut self.received }
    }

    /// What a record has to tell beside its positions: `RecordHeader::unseen`.
    #[inline(always)]
    pub fn unseen(&self) -> u8 {
        let received = self.received.lost | self.received.out_of_step;
        let sent = self.sent.lost | self.sent.out_of_step;
        received << direction::RECEIVED | sent << direction::SENT
    }
}

/// One direction of a connection.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Direction {
    pub scanner: Scanner,
    /// Bytes that went by.
    pub position: u64,
    /// Of those, the bytes that records account for.
    pub reported: u64,
    /// The socket's own counter after the last call (`copied_seq`, `write_seq`).
    pub sequence: u32,
    /// Not 0 once `sequence` is known.
    pub counted: u8,
    /// Not 0 if no frame boundary is known any more.
    pub out_of_step: u8,
    /// Not 0 once a message was cut across DATA frames: from then on `MESSAGES` is asked.
    pub cut: u8,
    /// Not 0 once a record could not be sent, until one is: its bytes show in the position of that.
    pub lost: u8,
}

impl Direction {
    pub const fn new(scanner: Scanner) -> Self {
        Self {
            scanner,
            position: 0,
            reported: 0,
            sequence: 0,
            counted: 0,
            out_of_step: 0,
            cut: 0,
            lost: 0,
        }
    }
}

/// An identifier that no other connection gets while the programs are loaded: inode numbers are
/// given out one after the other, 2³² of them, and the clock tells one round from the next.
#[inline(always)]
pub fn identifier(inode: u64) -> u64 {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    (inode << 32) | ((now >> 16) & 0xffff_ffff)
}
