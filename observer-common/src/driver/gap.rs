//! Gaps that show in what sockets count: bytes of a stream that the probes did not capture.

use super::connection::{Connection, DirectionState, counted, state};
use crate::record::direction;

/// What a socket shows of itself.
pub trait Socket {
    /// Its own count of the bytes read (`sent` false) or written, if it has one; `counts` is one of [`counted`].
    fn sequence(&self, counts: u8, sent: bool) -> Option<u32>;

    /// How many bytes went through it in this direction before the `length` ones that just did; `None` if it does not
    /// show it.
    fn moved_before(&self, sent: bool, length: u64) -> Option<u64>;

    /// Whether this direction has been shut, by a FIN, which counts as a byte.
    fn is_shut(&self, sent: bool) -> bool;

    /// The other end of a Unix socket, 0 if there is none.
    fn peer(&self) -> u64;

    /// How many bytes the peer of a Unix socket has sent, if that is known to be watched from its beginning too.
    fn sent_by_peer(&self, peer: u64) -> Option<u32>;

    /// At least as many bytes as wait in a Unix socket to be received; `None` if that is not known.
    fn waiting(&self) -> Option<u32>;
}

/// A connection begins with this transfer, and so does what its socket counts of it.
#[inline(always)]
pub fn begin<S: Socket>(socket: &S, connection: &mut Connection, sent: u8) {
    if connection.shared.is_tcp() {
        return begin_tcp(socket, connection, sent);
    }
    // Where not all gaps show in a counter, frames that cannot be show them.
    for direction in &mut connection.directions {
        direction.scanner.prove();
    }
    let by_peer = connection.shared.counts == counted::BY_PEER;
    // What was received before is not known, and a Unix socket's peer cannot say.
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

/// Of the direction that the transfer is not of: if nothing went through it so far, then whatever goes
/// through it from now on shows, also before the first transfer that is seen. So does what went through it
/// already, where the connection is seen from its beginning.
#[inline(always)]
fn begin_tcp<S: Socket>(socket: &S, connection: &mut Connection, sent: u8) {
    let other_sent = sent != direction::SENT;
    // In this order: what another CPU moves meanwhile is taken for seen, or leaves it at that.
    let Some(moved) = socket.moved_before(other_sent, 0) else { return };
    let Some(sequence) = socket.sequence(counted::TCP, other_sent) else { return };
    let gap = match moved {
        0 => 0,
        // The SYN is acknowledged to who has connected. At the other end one byte too few is taken for
        // a gap: one too many would be one where there is none.
        _ if connection.shared.state == state::CANDIDATE => moved as u32 - u32::from(other_sent),
        _ => return,
    };
    let other = connection.direction(sent ^ 1);
    other.sequence = sequence.wrapping_sub(gap);
    other.counted = 1;
}

/// The gap before a transfer of `total` bytes, which is passed over. Answers how long it is.
#[inline(always)]
pub fn before<S: Socket>(socket: &S, connection: &mut Connection, sent: u8, total: u64) -> u32 {
    let gap = length(socket, connection, sent, total);
    if gap != 0 {
        connection.direction(sent).gap_bytes += u64::from(gap);
    }
    gap
}

#[inline(always)]
fn length<S: Socket>(socket: &S, connection: &mut Connection, sent: u8, total: u64) -> u32 {
    let is_sent = sent == direction::SENT;
    let (counts, tcp) = (connection.shared.counts, connection.shared.is_tcp());
    if counts == counted::BY_PEER {
        return if is_sent { 0 } else { length_by_peer(socket, connection, total) };
    }
    let Some(sequence) = socket.sequence(counts, is_sent) else { return 0 };
    let gap = connection.direction(sent).count_to(sequence, total);
    // A FIN that was read along with the last bytes counts as one, and so does one that another
    // thread has sent since.
    if gap == 1 && tcp && socket.is_shut(is_sent) { 0 } else { gap }
}

/// Likewise, of what was received through a Unix socket: what its peer has sent, without what waits to be
/// received. As a write may return after its bytes have been read, that may be less than was seen.
/// A function of its own: inlined, its values would be kept on the stack to the caller's end.
#[inline(never)]
fn length_by_peer<S: Socket>(socket: &S, connection: &mut Connection, total: u64) -> u32 {
    let (peer, watched) = (connection.shared.peer, connection.shared.state == state::WATCHED);
    let direction = connection.direction(direction::RECEIVED);
    direction.sequence = direction.sequence.wrapping_add(total as u32);
    // What only looks like HTTP/2 the two ends may take for it from different bytes on.
    if !watched {
        return 0;
    }
    // In this order: what is sent in between waits, and is not taken for received.
    let Some(sent) = socket.sent_by_peer(peer) else { return 0 };
    let Some(waiting) = socket.waiting() else { return 0 };
    let gap = sent.wrapping_sub(waiting).wrapping_sub(direction.sequence) as i32;
    if gap <= 0 {
        return 0;
    }
    direction.sequence = direction.sequence.wrapping_add(gap as u32);
    gap as u32
}

/// By how many bytes what was seen of a direction is behind its socket's counter.
#[inline(always)]
const fn behind(direction: &DirectionState, sequence: u32) -> u32 {
    // As a signed number: behind what was seen is not past it. One more is a FIN.
    let behind = sequence.wrapping_sub(direction.sequence) as i32;
    if direction.counted == 0 || behind <= 1 { 0 } else { behind as u32 }
}

/// What a direction is behind its socket's counter, if it is: a transfer may have been missed that no later one showed. 0
/// while one is being looked at, on another CPU.
#[inline(always)]
fn left<S: Socket>(socket: &S, counts: u8, direction: &DirectionState, sent: bool) -> Option<u32> {
    if direction.walking != 0 {
        return Some(0);
    }
    let gap = behind(direction, socket.sequence(counts, sent)?);
    (gap != 0).then_some(gap)
}

/// Whether a transfer may be under way, which its return will show: the answer to a write can
/// be a reset, which arrives before the write has returned.
#[inline(always)]
pub fn is_moving<S: Socket>(socket: &S, connection: &Connection) -> bool {
    let counts = connection.shared.counts;
    left(socket, counts, connection.received(), false).is_some()
        || left(socket, counts, connection.sent(), true).is_some()
}

/// The directions that end with a gap, as bits of `RecordHeader::flags`, by the counters of a socket that is being closed
/// too. `fin` says whether the peer's has most likely been read; `count` is given how long they are.
#[inline(always)]
pub fn at_end<S: Socket>(
    socket: &S,
    connection: &Connection,
    fin: bool,
    count: impl Fn(u32),
) -> u8 {
    let counts = connection.shared.counts;
    let mut flags = connection.gap_flags();
    if let Some(gap) = left(socket, counts, connection.received(), false) {
        flags |= 1 << direction::RECEIVED;
        if gap != 0 {
            count(gap - u32::from(fin));
        }
    }
    if let Some(gap) = left(socket, counts, connection.sent(), true) {
        flags |= 1 << direction::SENT;
        if gap != 0 {
            count(gap);
        }
    }
    flags
}

/// Likewise, of a socket that may be another one by now, whose counters say nothing: but less
/// may have been seen than had gone by when the peer reset it.
#[inline(always)]
pub fn at_late_end<S: Socket>(socket: &S, connection: &Connection, count: impl Fn(u32)) -> u8 {
    let shared = &connection.shared;
    let mut flags = connection.gap_flags();
    if ends_unread(socket, connection) {
        flags |= 1 << direction::RECEIVED;
    }
    if shared.reset_ns != 0 {
        let [received, sent] = shared.reset_sequences;
        for (of, sequence, bit) in [
            (connection.received(), received, direction::RECEIVED),
            (connection.sent(), sent, direction::SENT),
        ] {
            let gap = behind(of, sequence);
            if gap != 0 {
                flags |= 1 << bit;
                count(gap);
            }
        }
    }
    flags
}

/// Whether the peer of a Unix socket may have sent more than was seen to be received: nothing says whether it
/// was never received, or in a way that is not seen.
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
