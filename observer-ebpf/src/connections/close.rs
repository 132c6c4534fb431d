//! The ends of connections.

use observer_common::{
    counter::{Counter, Protocol},
    driver::connection::{Connection, Direction, Shared, counted, state},
    layout::Field,
    record::{RecordHeader, direction, record_kind},
};

use super::missed::sent_by;
use crate::{
    count::{count, count_protocol},
    kernel::{Address, now_ns, read},
    maps::{CONNECTIONS, Values as _},
    ring,
    share::{self, Of},
    socket::{self, Socket},
};

// States of `struct sock` (net/tcp_states.h).
pub const TCP_ESTABLISHED: i32 = 1;
pub const TCP_SYN_SENT: i32 = 2;
pub const TCP_FIN_WAIT1: i32 = 4;
pub const TCP_CLOSE: i32 = 7;
const TCP_CLOSE_WAIT: i32 = 8;
pub const TCP_LAST_ACK: i32 = 9;

const SHUTDOWN_MASK: u8 = 3;

/// The socket of a watched connection goes from one of TCP's states to another: that may be the end of it.
#[inline(always)]
pub fn changes_state(sock: Address, connection: &mut Connection, from: i32, to: i32) {
    if connection.shared.ended_by == direction::UNKNOWN {
        connection.shared.ended_by = ended_by(sock, from, to);
    }
    if !is_over(sock, to) || to == TCP_CLOSE && is_moving(sock, connection) {
        if to == TCP_CLOSE {
            reset(sock, &mut connection.shared);
        }
        return;
    }
    let unseen = unseen(sock, to, connection);
    close(sock, connection, unseen);
}

/// Who ends the connection, where nobody has before: the direction in which that one sends.
#[inline(always)]
fn ended_by(sock: Address, from: i32, to: i32) -> u8 {
    match (from, to) {
        // The peer's FIN came first.
        (TCP_CLOSE_WAIT, _) | (_, TCP_LAST_ACK) => direction::RECEIVED,
        (_, TCP_FIN_WAIT1) => direction::SENT,
        // Reset: by `tcp_close`, which has shut both directions by now, as there is data that nobody read; or by
        // the peer, or because it does not answer.
        (TCP_ESTABLISHED, _) if !is_shut_by_close(sock) => direction::RECEIVED,
        _ => direction::SENT,
    }
}

#[inline(always)]
fn is_shut_by_close(sock: Address) -> bool {
    read::<u8>(sock, Field::SockShutdown).unwrap_or(0) & SHUTDOWN_MASK == SHUTDOWN_MASK
}

/// Whether the process can neither read nor write any more. After a reset it may still read what
/// had arrived before; then the sweep sees it close the socket.
#[inline(always)]
fn is_over(sock: Address, state: i32) -> bool {
    if state != TCP_CLOSE {
        // `shutdown(SHUT_WR)` has shut only one direction.
        return is_shut_by_close(sock);
    }
    let next: Option<u32> = read(sock, Field::TcpRcvNxt);
    let copied: Option<u32> = read(sock, Field::TcpCopiedSeq);
    // A FIN that arrived counts as one and is no data.
    matches!((next, copied), (Some(next), Some(copied)) if next.wrapping_sub(copied) <= 1)
}

/// Whether a call may be moving bytes just now, which its return will show: the answer to a write can
/// be a reset, which arrives before the write has returned.
#[inline(always)]
fn is_moving(sock: Address, connection: &Connection) -> bool {
    let is_behind = |direction: &Direction, sent| {
        let sequence = socket::sequence(sock, connection.shared.counts, sent);
        direction.walking != 0 || sequence.is_some_and(|sequence| missed(direction, sequence) != 0)
    };
    is_behind(connection.received(), false) || is_behind(connection.sent(), true)
}

/// The peer reset the connection, but it is not over yet: the sweep sees the process close the socket.
#[inline(always)]
fn reset(sock: Address, shared: &mut Shared) {
    shared.reset_ns = now_ns();
    let counts = shared.counts;
    for (sequence, sent) in shared.reset_sequences.iter_mut().zip([false, true]) {
        *sequence = socket::sequence(sock, counts, sent).unwrap_or(0);
    }
}

/// By how many bytes what was seen of a direction is behind its socket's counter.
#[inline(always)]
fn missed(direction: &Direction, sequence: u32) -> u32 {
    // As a signed number: behind what was seen is not past it. One more is a FIN.
    let missed = sequence.wrapping_sub(direction.sequence) as i32;
    if direction.counted == 0 || missed <= 1 { 0 } else { missed as u32 }
}

/// As [`close`], of a socket that may be another one by now, whose counters say nothing: but less
/// may have been seen than had gone by when the peer reset it.
#[inline(always)]
pub fn close_later(sock: Address, connection: &mut Connection) {
    if connection.shared.ended_by == direction::UNKNOWN && !connection.shared.is_tcp() {
        connection.shared.ended_by = ended_first(sock, &connection.shared);
    }
    let mut unseen = connection.unseen();
    if ends_unread(sock, connection) {
        unseen |= 1 << direction::RECEIVED;
    }
    if connection.shared.reset_ns != 0 {
        let [received, sent] = connection.shared.reset_sequences;
        for (of, sequence, bit) in [
            (connection.received(), received, direction::RECEIVED),
            (connection.sent(), sent, direction::SENT),
        ] {
            let missed = missed(of, sequence);
            if missed != 0 {
                unseen |= 1 << bit;
                if connection.shared.closed_ns == 0 {
                    count(Counter::Unseen, u64::from(missed));
                }
            }
        }
    }
    close(sock, connection, unseen);
}

/// Who was first, of a socket without states that is found closed, where no call has told the process that
/// its peer is gone.
#[inline(always)]
fn ended_first(sock: Address, shared: &Shared) -> u8 {
    let Some(Connection { shared: peer, .. }) = CONNECTIONS.value(shared.peer) else {
        return direction::SENT;
    };
    if peer.peer != sock || peer.ended_by != direction::UNKNOWN {
        return direction::SENT;
    }
    let is_open = Socket { sock: shared.peer, inode: peer.inode }.is_open();
    let [own, peers] =
        if is_open { [direction::SENT, direction::RECEIVED] } else { [direction::UNSURE; 2] };
    peer.ended_by = peers;
    own
}

/// Whether the peer of a Unix socket may have sent more than was seen to be received: nothing says whether it
/// was never received, or in a way that is not seen.
#[inline(always)]
fn ends_unread(sock: Address, connection: &Connection) -> bool {
    let shared = &connection.shared;
    if shared.counts != counted::BY_PEER {
        return shared.counts == counted::NOTHING;
    }
    let sent = match shared.peer_ended {
        0 => sent_by(shared.peer, sock),
        _ => Some(shared.peer_sent),
    };
    let received = connection.received().sequence;
    sent.is_none_or(|sent| sent.wrapping_sub(received) as i32 > 0)
}

/// Leaves for the other end of a Unix socket how many bytes this one has sent.
#[inline(always)]
fn leave_to_peer(sock: Address, connection: &Connection) {
    if connection.shared.counts != counted::BY_PEER {
        return;
    }
    let Some(Connection { shared: peer, .. }) = CONNECTIONS.value(connection.shared.peer) else {
        return;
    };
    if peer.peer == sock && peer.peer_ended == 0 {
        peer.peer_sent = connection.total_sent();
        peer.peer_ended = 1;
    }
}

/// Tells the daemon that a connection is over, and in which directions (`RecordHeader::unseen`)
/// not all was seen, and forgets it. A function of its own: inlined, its values would be kept on the stack
/// to the caller's end.
#[inline(never)]
pub fn close(sock: Address, connection: &mut Connection, unseen: u8) {
    leave_to_peer(sock, connection);
    if connection.shared.closed_ns == 0 {
        let reset_ns = connection.shared.reset_ns;
        connection.shared.closed_ns = if reset_ns == 0 { now_ns() } else { reset_ns };
        count_untold(connection);
    }
    let shared = &connection.shared;
    if shared.announced != 0 {
        let header = RecordHeader {
            connection: shared.id,
            time_ns: shared.closed_ns,
            pid: shared.pid,
            kind: record_kind::CLOSED,
            direction: shared.ended_by,
            role: shared.role,
            flags: unseen,
            ..RecordHeader::default()
        };
        if !ring::output_header(&header) {
            // The sweep tries again.
            count(Counter::RingFull, 0);
            return;
        }
    }
    let owner = shared.owner;
    if CONNECTIONS.remove(sock).is_ok() {
        share::give(owner, Of::Connections);
    }
}

/// Counts what nothing that comes will tell of any more.
#[inline(always)]
fn count_untold(connection: &Connection) {
    if connection.is_only_http1() {
        count_protocol(Protocol::Http1);
    }
    if connection.shared.state != state::WATCHED {
        return;
    }
    for direction in &connection.directions {
        let tried = direction.step.tried();
        if tried != 0 {
            count(connection.shared.counter_of_lost(direction), tried);
        }
    }
}

/// The directions that ended unseen, by the counters of a socket that is being closed too: a call
/// may have been missed that no later one showed.
#[inline(always)]
fn unseen(sock: Address, state: i32, connection: &Connection) -> u8 {
    let mut unseen = connection.unseen();
    // The own FIN is sent once the state has changed to one of those that wait for its acknowledgement;
    // the peer's has most often been read where the process is the second to close.
    if ends_unseen(sock, connection, false, state == TCP_LAST_ACK) {
        unseen |= 1 << direction::RECEIVED;
    }
    if ends_unseen(sock, connection, true, false) {
        unseen |= 1 << direction::SENT;
    }
    unseen
}

/// Whether more bytes went through the socket than were seen, or a call is being looked at just now,
/// on another processor. Counts them, when it is first asked, without the `fin`.
#[inline(always)]
fn ends_unseen(sock: Address, connection: &Connection, sent: bool, fin: bool) -> bool {
    let direction = if sent { connection.sent() } else { connection.received() };
    if direction.walking != 0 {
        return true;
    }
    let Some(sequence) = socket::sequence(sock, connection.shared.counts, sent) else {
        return false;
    };
    let missed = missed(direction, sequence);
    if missed == 0 {
        return false;
    }
    if connection.shared.closed_ns == 0 {
        count(Counter::Unseen, u64::from(missed - u32::from(fin)));
    }
    true
}
