//! Finds gaps by the counters of sockets: bytes of a stream that the probes did not capture.

use super::connection::{Connection, DirectionState, counted, state};
use crate::record::{UNREAD, direction};

/// A socket's own counters and state.
pub trait Socket {
    /// The socket's count of bytes read (`sent` false) or written, modulo 2³², if it has one; `counts` is one of
    /// [`counted`].
    fn sequence(&self, counts: u8, sent: bool) -> Option<u32>;

    /// Bytes that went through the socket in this direction before the last `length` ones; `None` if it does not show
    /// that.
    fn moved_before(&self, sent: bool, length: u64) -> Option<u64>;

    /// Whether this direction was shut by a FIN, which counts as a byte.
    fn is_shut(&self, sent: bool) -> bool;

    /// The other end of a Unix socket; 0 if there is none.
    fn peer(&self) -> u64;

    /// Bytes that the peer of a Unix socket has sent; `None` unless it is watched from its first byte.
    fn sent_by_peer(&self, peer: u64) -> Option<u32>;

    /// An upper bound on the bytes that wait in a Unix socket to be received; `None` if not known.
    fn waiting(&self) -> Option<u32>;
}

/// Starts a connection's counters at a transfer, which is its first.
#[inline(always)]
pub fn begin<S: Socket>(socket: &S, connection: &mut Connection, sent: u8) {
    if connection.shared.is_tcp() {
        return begin_tcp(socket, connection, sent);
    }
    // If not all gaps show in a counter, illegal frames show them.
    for direction in &mut connection.directions {
        direction.scanner.prove();
    }
    let by_peer = connection.shared.counts == counted::BY_PEER;
    // It is not known how many bytes were received before, and a Unix socket's peer does not show that.
    if connection.shared.state != state::CANDIDATE {
        if by_peer {
            connection.shared.counts = counted::NOTHING;
        }
        return;
    }
    connection.direction(direction::RECEIVED).counted = 1;
    if by_peer {
        connection.shared.peer = socket.peer();
    }
}

/// Sets the counter of the direction that is not the transfer's. If nothing went through it so far, all gaps show from
/// now on, including one before its first captured transfer. If the connection is watched from its first byte, bytes
/// that already went through it show as a gap too.
#[inline(always)]
fn begin_tcp<S: Socket>(socket: &S, connection: &mut Connection, sent: u8) {
    let other_sent = sent != direction::SENT;
    // In this order: bytes that another CPU moves in between count as captured, or the counter is not set.
    let Some(moved) = socket.moved_before(other_sent, 0) else { return };
    let Some(sequence) = socket.sequence(counted::TCP, other_sent) else { return };
    let gap = match moved {
        0 => 0,
        // The end that connected has its SYN acknowledged, which counts as a byte. At the other end the gap is one byte
        // too short: one too many would report a gap that does not exist.
        _ if connection.shared.state == state::CANDIDATE => moved as u32 - u32::from(other_sent),
        _ => return,
    };
    let other = connection.direction(sent ^ 1);
    other.sequence = sequence.wrapping_sub(gap);
    other.counted = 1;
}

/// The length of the gap before a transfer of `total` bytes. The caller adds it to [`DirectionState::gap_bytes`].
#[inline(always)]
pub fn before<S: Socket>(socket: &S, connection: &mut Connection, sent: u8, total: u64) -> u32 {
    let is_sent = sent == direction::SENT;
    let (counts, tcp) = (connection.shared.counts, connection.shared.is_tcp());
    if counts == counted::BY_PEER {
        return if is_sent { 0 } else { before_by_peer(socket, connection, total) };
    }
    let Some(sequence) = socket.sequence(counts, is_sent) else { return 0 };
    let gap = connection.direction(sent).count_to(sequence, total);
    // A FIN counts as a byte: one that was read together with the last bytes, or that another thread has sent since.
    if gap == 1 && tcp && socket.is_shut(is_sent) { 0 } else { gap }
}

/// The length of the gap before bytes that were received through a Unix socket: bytes that its peer has sent, without
/// those that wait to be received. A write may return after its bytes have been read, so there may be fewer than were
/// captured. Not inlined: its values would stay on the caller's stack.
#[inline(never)]
fn before_by_peer<S: Socket>(socket: &S, connection: &mut Connection, total: u64) -> u32 {
    let (peer, watched) = (connection.shared.peer, connection.shared.state == state::WATCHED);
    let direction = connection.direction(direction::RECEIVED);
    direction.sequence = direction.sequence.wrapping_add(total as u32);
    // If it only looks like HTTP/2, the two ends may be watched from different bytes on.
    if !watched {
        return 0;
    }
    // In this order: bytes that are sent in between count as waiting, not as received.
    let Some(sent) = socket.sent_by_peer(peer) else { return 0 };
    let Some(waiting) = socket.waiting() else { return 0 };
    let gap = sent.wrapping_sub(waiting).wrapping_sub(direction.sequence) as i32;
    if gap <= 0 {
        return 0;
    }
    direction.sequence = direction.sequence.wrapping_add(gap as u32);
    gap as u32
}

/// The number of bytes by which a direction is behind its socket's counter.
#[inline(always)]
const fn behind(direction: &DirectionState, sequence: u32) -> u32 {
    // Signed: the direction may also be ahead. One more byte is a FIN.
    let behind = sequence.wrapping_sub(direction.sequence) as i32;
    if direction.counted == 0 || behind <= 1 { 0 } else { behind as u32 }
}

/// The bytes by which a direction is behind its socket's counter, if it is: a gap that no later transfer showed.
/// `Some(0)` while another CPU handles a transfer.
#[inline(always)]
fn left<S: Socket>(socket: &S, counts: u8, direction: &DirectionState, sent: bool) -> Option<u32> {
    if direction.walking != 0 {
        return Some(0);
    }
    let gap = behind(direction, socket.sequence(counts, sent)?);
    (gap != 0).then_some(gap)
}

/// Whether a transfer may be under way, which will be captured when it returns. For example, the answer to a write may
/// be a reset, which arrives before the write has returned.
#[inline(always)]
pub fn is_moving<S: Socket>(socket: &S, connection: &Connection) -> bool {
    let counts = connection.shared.counts;
    left(socket, counts, connection.received(), false).is_some()
        || left(socket, counts, connection.sent(), true).is_some()
}

/// The directions that end with a gap, as bits of `RecordHeader::flags`, by the counters of a socket that is being
/// closed. `fin`: whether the peer's FIN has most likely been read. `count` gets the length of each gap.
#[inline(always)]
pub fn at_end<S: Socket>(
    socket: &S,
    connection: &Connection,
    fin: bool,
    count: impl Fn(u32),
) -> u8 {
    let counts = connection.shared.counts;
    let mut flags = connection.gap_flags();
    for (direction, sent, fin) in
        [(connection.received(), false, fin), (connection.sent(), true, false)]
    {
        if let Some(gap) = left(socket, counts, direction, sent) {
            flags |= 1 << u8::from(sent);
            if gap != 0 {
                count(gap - u32::from(fin));
            }
        }
    }
    flags
}

/// The directions that end with a gap, as [`at_end`] returns them, and [`UNREAD`], for a socket that may be another one
/// by now. Its counters show nothing, but if the connection was reset, they were kept then.
#[inline(always)]
pub fn at_late_end<S: Socket>(socket: &S, connection: &Connection, count: impl Fn(u32)) -> u8 {
    let shared = &connection.shared;
    let mut flags = connection.gap_flags();
    if ends_unread(socket, connection) {
        flags |= 1 << direction::RECEIVED;
    }
    if shared.reset_ns != 0 {
        let [received, sent] = shared.reset_sequences;
        for (direction, sequence, bit) in [
            (connection.received(), received, direction::RECEIVED),
            (connection.sent(), sent, direction::SENT),
        ] {
            let gap = behind(direction, sequence);
            if gap != 0 {
                flags |= 1 << bit;
                count(gap);
            }
        }
        if shared.is_tcp() && behind(connection.received(), shared.reset_arrived) != 0 {
            flags |= UNREAD;
        }
    }
    flags
}

/// Whether the peer of a Unix socket may have sent more bytes than were captured here. It is not known whether they
/// were received in a way that is not captured, or never.
#[inline(always)]
fn ends_unread<S: Socket>(socket: &S, connection: &Connection) -> bool {
    let shared = &connection.shared;
    if shared.counts != counted::BY_PEER {
        return shared.counts == counted::NOTHING;
    }
    let sent = match shared.peer_ended {
        0 => socket.sent_by_peer(shared.peer),
        _ => Some(shared.peer_sent),
    };
    let received = connection.received().sequence;
    sent.is_none_or(|sent| sent.wrapping_sub(received) as i32 > 0)
}
