//! Bytes that went by unseen, by what the sockets count.

use observer_common::{
    counter::Counter,
    driver::connection::{Connection, counted, state},
    record::direction,
};

use crate::{
    count::count,
    kernel::Address,
    maps::{CONNECTIONS, Values as _},
    socket,
    transfer::Transfer,
};

/// Counts the bytes that went by since the last transfer that was seen, by what counts them, and has them passed
/// over.
#[inline(always)]
pub fn add_missed(transfer: &Transfer, connection: &mut Connection) {
    let missed = u64::from(missed(transfer, connection));
    if missed != 0 {
        count(Counter::Unseen, missed);
        connection.direction(transfer.sent).unread += missed;
    }
}

/// How many there are.
#[inline(always)]
fn missed(transfer: &Transfer, connection: &mut Connection) -> u32 {
    let sent = transfer.sent == direction::SENT;
    let (counts, tcp) = (connection.shared.counts, connection.shared.is_tcp());
    if counts == counted::BY_PEER {
        return if sent { 0 } else { missed_of_peer(transfer, connection) };
    }
    let Some(sequence) = socket::sequence(transfer.socket.sock, counts, sent) else { return 0 };
    let missed = connection.direction(transfer.sent).count_to(sequence, transfer.total);
    // A FIN that was read along with the last bytes counts as one, and so does one that another
    // thread has sent since.
    if missed == 1 && tcp && socket::is_shut(transfer.socket.sock, sent) { 0 } else { missed }
}

/// Likewise, of what was received through a Unix socket: what its peer has sent, without what waits to be
/// received. As a write may return after its bytes have been read, that may be less than was seen.
/// A function of its own: inlined, its values would be kept on the stack to the caller's end.
#[inline(never)]
fn missed_of_peer(transfer: &Transfer, connection: &mut Connection) -> u32 {
    let sock = transfer.socket.sock;
    let (peer, watched) = (connection.shared.peer, connection.shared.state == state::WATCHED);
    let direction = connection.direction(direction::RECEIVED);
    direction.sequence = direction.sequence.wrapping_add(transfer.total as u32);
    // What only looks like HTTP/2 the two ends may take for it from different bytes on.
    if !watched {
        return 0;
    }
    // In this order: what is sent in between waits, and is not taken for received.
    let Some(sent) = sent_by(peer, sock) else { return 0 };
    let Some(waiting) = socket::waiting_in_unix(sock) else { return 0 };
    let missed = sent.wrapping_sub(waiting).wrapping_sub(direction.sequence) as i32;
    if missed <= 0 {
        return 0;
    }
    direction.sequence = direction.sequence.wrapping_add(missed as u32);
    missed as u32
}

/// How many bytes the peer of a Unix socket has sent, if that is known to be watched from its beginning too.
#[inline(always)]
pub fn sent_by(peer: Address, sock: Address) -> Option<u32> {
    let connection = CONNECTIONS.value(peer)?;
    // An earlier socket's, at the peer's address, had another peer.
    let is_peer = connection.shared.peer == sock && connection.shared.closed_ns == 0;
    (is_peer && connection.shared.state == state::WATCHED).then(|| connection.total_sent())
}
