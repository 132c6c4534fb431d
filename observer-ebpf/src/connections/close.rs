//! Ends connections, and reports and counts what is left of them.

use observer_common::{
    counter::{Counter, Protocol},
    driver::{
        connection::{Connection, Shared, counted, state},
        gap::{self, Socket as _},
        tls::Secured,
    },
    layout::Field,
    record::{UNREAD, direction},
};

use crate::{
    count::{count, count_other},
    globals,
    kernel::{Address, now_ns, read},
    maps::{CONNECTIONS, Values as _},
    ring,
    share::{self, Of},
    socket::Socket,
    thrift,
    tls::secured,
};

// States of `struct sock` (net/tcp_states.h).
pub const TCP_ESTABLISHED: i32 = 1;
pub const TCP_SYN_SENT: i32 = 2;
pub const TCP_FIN_WAIT1: i32 = 4;
pub const TCP_CLOSE: i32 = 7;
const TCP_CLOSE_WAIT: i32 = 8;
pub const TCP_LAST_ACK: i32 = 9;
pub const TCP_LISTEN: i32 = 10;

const SHUTDOWN_MASK: u8 = 3;

/// Longest time that a TLS connection whose socket is closed waits for another CPU that follows it.
const MAX_WAIT_NS: u64 = 10_000_000_000;

/// Handles that the socket of a watched connection changes its TCP state: that may end the connection.
#[inline(always)]
pub fn changes_state(sock: Address, key: Address, connection: &mut Connection, from: i32, to: i32) {
    if connection.shared.ended_by == direction::UNKNOWN {
        let by_tls = if globals::tls() && connection.shared.is_tls() {
            secured::at(key).and_then(|secured| secured.left_by())
        } else {
            None
        };
        connection.shared.ended_by = by_tls.unwrap_or_else(|| ended_by(sock, from, to));
    }
    let socket = Socket { sock, inode: connection.shared.inode };
    if !is_over(sock, to) || to == TCP_CLOSE && gap::is_moving(&socket, connection) {
        if to == TCP_CLOSE {
            reset(&socket, &mut connection.shared);
        }
        return;
    }
    // The process's FIN is sent after the state has changed. The peer's FIN has most likely been read if the process is
    // the second to close.
    let fin = to == TCP_LAST_ACK;
    let count = |gap| count_once(&connection.shared, gap);
    let flags = gap::at_end(&socket, connection, fin, count);
    close::<true>(key, connection, flags);
}

/// The end that closes first, by a change of the TCP state: the direction in which it sends.
#[inline(always)]
fn ended_by(sock: Address, from: i32, to: i32) -> u8 {
    match (from, to) {
        // The peer's FIN came first.
        (TCP_CLOSE_WAIT, _) | (_, TCP_LAST_ACK) => direction::RECEIVED,
        (_, TCP_FIN_WAIT1) => direction::SENT,
        // Reset: by `tcp_close` because of unread data, which has shut both directions by now; otherwise by the peer,
        // or because it does not answer.
        (TCP_ESTABLISHED, _) if !is_shut_by_close(sock) => direction::RECEIVED,
        _ => direction::SENT,
    }
}

#[inline(always)]
fn is_shut_by_close(sock: Address) -> bool {
    read::<u8>(sock, Field::SockShutdown).unwrap_or(0) & SHUTDOWN_MASK == SHUTDOWN_MASK
}

/// Whether the process can no longer read or write. After a reset it may still read bytes that had arrived before; then
/// the sweep finds the closed socket.
#[inline(always)]
pub fn is_over(sock: Address, state: i32) -> bool {
    if state != TCP_CLOSE {
        // `shutdown(SHUT_WR)` has shut only one direction.
        return is_shut_by_close(sock);
    }
    let next: Option<u32> = read(sock, Field::TcpRcvNxt);
    let copied: Option<u32> = read(sock, Field::TcpCopiedSeq);
    // A FIN that arrived counts as one byte.
    matches!((next, copied), (Some(next), Some(copied)) if next.wrapping_sub(copied) <= 1)
}

/// Records that the connection was reset, and is not over yet: the sweep finds the closed socket later.
#[inline(always)]
fn reset(socket: &Socket, shared: &mut Shared) {
    shared.reset_ns = now_ns();
    let counts = shared.counts;
    for (sequence, sent) in shared.reset_sequences.iter_mut().zip([false, true]) {
        *sequence = socket.sequence(counts, sent).unwrap_or(0);
    }
    let [copied, _] = shared.reset_sequences;
    shared.reset_arrived = read(socket.sock, Field::TcpRcvNxt).unwrap_or(copied);
}

/// Closes the connection of a socket that may be another one by now, so its counters show nothing any more.
#[inline(always)]
pub fn close_later<const SETTLES: bool>(sock: Address, connection: &mut Connection) {
    let has_states = connection.shared.is_tcp() || connection.shared.is_tls();
    if connection.shared.ended_by == direction::UNKNOWN && !has_states {
        connection.shared.ended_by = ended_first(sock, &connection.shared);
    }
    let count = |gap| count_once(&connection.shared, gap);
    let flags =
        gap::at_late_end(&Socket { sock, inode: connection.shared.inode }, connection, count);
    close::<SETTLES>(sock, connection, flags);
}

/// Counts a gap at the end of a connection, if it has not been counted yet.
#[inline(always)]
fn count_once(shared: &Shared, gap: u32) {
    if shared.closed_ns == 0 {
        count(Counter::Unseen, u64::from(gap));
    }
}

/// The end that closed first, as in `Shared::ended_by`, for a socket without states that is found closed.
#[inline(always)]
fn ended_first(sock: Address, shared: &Shared) -> u8 {
    let Some(Connection { shared: peer, .. }) = CONNECTIONS.value(shared.peer) else {
        return direction::SENT;
    };
    let is_open = |peer: &Shared| Socket { sock: shared.peer, inode: peer.inode }.is_open();
    Shared::ended_first(peer, sock, is_open)
}

/// Stores in the other end of a Unix socket how many bytes this one has sent.
#[inline(always)]
fn leave_to_peer(sock: Address, connection: &Connection) {
    if connection.shared.counts == counted::BY_PEER
        && let Some(peer) = CONNECTIONS.value(connection.shared.peer)
    {
        connection.leave_to(&mut peer.shared, sock);
    }
}

/// Reports that a connection is over, with these `RecordHeader::flags`, and removes it. Not inlined: its values would
/// stay on the caller's stack.
///
/// `key`: that of `CONNECTIONS`.
///
/// `SETTLES`: whether this finds out what is missing at the end of a TLS connection. Programs for transfers do not: the
/// verifier would follow that for each of their ways here.
#[inline(never)]
pub fn close<const SETTLES: bool>(key: Address, connection: &mut Connection, mut flags: u8) {
    let is_first = connection.shared.closed_ns == 0;
    leave_to_peer(key, connection);
    if connection.shared.closed_ns == 0 {
        let reset_ns = connection.shared.reset_ns;
        connection.shared.closed_ns = if reset_ns == 0 { now_ns() } else { reset_ns };
        count_unreported(connection);
    }
    if globals::tls() && connection.shared.is_tls() {
        let has_waited = now_ns() - connection.shared.closed_ns > MAX_WAIT_NS;
        // The sweep ends it.
        if SETTLES && !has_waited && !secured::tls_may_end(key, is_first) {
            return;
        }
        flags |= secure::<SETTLES>(key, connection);
    }
    if connection.shared.announced != 0 && !ring::output_header(&connection.closed(flags)) {
        // The sweep tries again.
        count(Counter::RingFull, 0);
        return;
    }
    forget(key, connection);
}

/// Removes a connection.
#[inline(always)]
pub fn forget(key: Address, connection: &Connection) {
    if globals::thrift() && connection.shared.is_thrift() {
        thrift::forget(key);
    }
    let owner = connection.shared.owner;
    if CONNECTIONS.remove(key).is_ok() {
        share::give(owner, Of::Connections);
    }
}

/// Gives a TLS connection up.
#[inline(never)]
pub fn give_up(key: Address, secured: &mut Secured) {
    secured::give_up(secured);
    if let Some(connection) = CONNECTIONS.value(key) {
        let gaps = connection.gap_flags();
        close::<false>(key, connection, gaps);
    }
}

/// Ends the TLS connection. Returns the directions with a gap.
#[inline(always)]
fn secure<const SETTLES: bool>(key: Address, connection: &mut Connection) -> u8 {
    let Shared { reset_ns, reset_arrived, .. } = connection.shared;
    let is_unread =
        reset_ns != 0 && secured::at(key).is_some_and(|secured| secured.has_unread(reset_arrived));
    let unread = if is_unread { UNREAD } else { 0 };
    let secured_gaps = if SETTLES { secured::tls_over(key) } else { secured::drop(key) };
    for (direction, bit) in connection.directions.iter_mut().zip([1, 2]) {
        if secured_gaps & bit != 0 {
            // In case that the ring is full: then this is called again.
            direction.gap |= 1;
        }
    }
    secured_gaps | unread
}

/// Counts bytes that no later record will report.
#[inline(always)]
fn count_unreported(connection: &Connection) {
    if connection.is_only_http1() {
        count_other(Protocol::Http1, connection.shared.owner);
    }
    if connection.shared.state != state::WATCHED {
        return;
    }
    for direction in &connection.directions {
        let tried = direction.sync.tried();
        if tried != 0 {
            count(connection.shared.counter_out_of_sync(direction), tried);
        }
    }
}
