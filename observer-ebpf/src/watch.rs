//! Finds the connection of a transfer, and walks over the transfer if the connection is watched.

use core::ptr;

use observer_common::{
    counter::{Counter, Protocol},
    driver::{
        Walk,
        connection::{Connection, DirectionState, state},
        gap::{self, Socket as _},
        opening::protocol_of,
        tls::Secured,
        walk::{self, Outcome},
    },
    record::direction,
};

use crate::{
    connections::{
        close,
        ignored::{ignore, may_be_ours, not_ours, try_again},
        known,
        open::{Opened, insert, open},
    },
    count::{count, count_other},
    globals,
    host::Host,
    kernel::{Address, now_ns},
    maps::{CONNECTIONS, Values as _},
    scratch::{self, Slot, opaque},
    socket::Socket,
    thrift,
    tls::secured,
    transfer::Transfer,
};

/// Watches a transfer: finds its connection and walks over its bytes.
#[inline(always)]
pub fn watch(transfer: &Transfer) -> Option<()> {
    let known = known(&transfer.socket);
    if known.is_none() && !may_be_ours(&transfer.socket, transfer.sent) {
        return None;
    }
    watch_known(transfer, known, |_| Some(()))
}

/// Watches a transfer after [`known`] and [`may_be_ours`] were called. `complete` sets the rest of the transfer, or
/// returns `None` if it is not to be watched.
#[inline(always)]
pub fn watch_known(
    transfer: &Transfer,
    known: Option<&mut Connection>,
    complete: impl FnOnce(&mut Transfer) -> Option<()>,
) -> Option<()> {
    let known = opaque(known.map_or(ptr::null_mut(), |known| &raw mut *known));
    // SAFETY: the same.
    let known = unsafe { known.as_mut() };
    let Some(slot) = scratch::claim() else {
        busy(transfer, known);
        return None;
    };
    let walked = watch_in(slot, transfer, known, complete);
    scratch::release(slot);
    walked
}

#[inline(always)]
fn watch_in(
    slot: &mut Slot,
    transfer: &Transfer,
    known: Option<&mut Connection>,
    complete: impl FnOnce(&mut Transfer) -> Option<()>,
) -> Option<()> {
    let host = &mut slot.scratch.host;
    host.transfer = *transfer;
    complete(&mut host.transfer)?;
    // Read back from the map: the verifier does not know what it holds, so it follows the code after this once, not
    // once for each kind of transfer.
    let transfer = opaque(&raw mut host.transfer);
    // SAFETY: written just now, and not written again in this invocation.
    let transfer = unsafe { &*transfer };
    host.buffers.begin(transfer.shape, transfer.returned);
    let mut secured =
        if globals::tls() && known.is_none() { secured::known(&transfer.socket) } else { None };
    let mut opened = Opened::Nothing;
    if known.is_none() && secured.is_none() {
        opened = open(transfer, slot);
        if globals::tls() && opened == Opened::Secured {
            secured = secured::known(&transfer.socket);
        }
    }
    if let Some(secured) = secured {
        watch_secured(transfer, secured, &mut slot.scratch.host);
        return Some(());
    }
    try_walk(transfer, known, opened, slot)
}

/// Follows the records of a TLS connection. Its plaintext is seen elsewhere.
#[inline(always)]
fn watch_secured(transfer: &Transfer, secured: &mut Secured, host: &mut Host) {
    if transfer.discarded || !host.buffers.is_readable() {
        host.buffers.clear();
    }
    if !secured::watch(transfer, secured, &mut host.buffers) {
        let key = secured::key(transfer.socket.inode);
        if let Some(connection) = CONNECTIONS.value(key) {
            let gaps = connection.gap_flags();
            close::close::<false>(key, connection, gaps);
        }
        ignore(&transfer.socket);
    }
}

/// Handles a return value that may show the process that the other end is gone (`transfer::may_be_left`): that end
/// closed first. TCP's states show that too; other sockets have no states. Not inlined: its values would stay on the
/// caller's stack.
#[inline(never)]
pub fn leave(sock: Address, returned: i32) {
    let Some(Connection { shared, .. }) = CONNECTIONS.value(sock) else { return };
    let socket = Socket { sock, inode: shared.inode };
    // Its memory may be another socket's by now.
    if !socket.is_open() {
        return;
    }
    // A read of no bytes also returns 0.
    let is_left = returned != 0 || socket.is_shut(false);
    if is_left && !shared.is_tcp() && shared.ended_by == direction::UNKNOWN {
        shared.ended_by = direction::RECEIVED;
    }
}

/// Counts the gap since the last transfer that was captured; the walk passes over it.
#[inline(always)]
fn add_gap(transfer: &Transfer, connection: &mut Connection) {
    let gap = u64::from(gap::before(&transfer.socket, connection, transfer.sent, transfer.total));
    if gap != 0 {
        count(Counter::Unseen, gap);
        connection.direction(transfer.sent).gap_bytes += gap;
    }
}

/// Counts the bytes of a transfer for which there is no slot. The next transfer passes over them as a gap.
#[inline(always)]
fn busy(transfer: &Transfer, connection: Option<&mut Connection>) {
    let mut bytes = 0;
    // For a TLS connection, the socket's counter shows them.
    if let Some(connection) = connection {
        // So that the socket's counter does not show them a second time.
        add_gap(transfer, connection);
        bytes = transfer.total;
        connection.direction(transfer.sent).gap_bytes += bytes;
    }
    count(Counter::ScratchBusy, bytes);
}

#[inline(always)]
fn try_walk(
    transfer: &Transfer,
    known: Option<&mut Connection>,
    opened: Opened,
    slot: &mut Slot,
) -> Option<()> {
    let readable = slot.scratch.host.buffers.is_readable();
    let connection = if let Some(connection) = known {
        connection
    } else if opened == Opened::Connection {
        insert(transfer, &mut slot.connection)?
    } else {
        return None;
    };
    // SAFETY: the same.
    let connection = unsafe { &mut *opaque(connection) };
    // Bytes that are not in the process's memory may be moved by a kernel thread, which does not own the connection.
    let of_kernel = !readable && connection.shared.announced != 0;
    let pid = if of_kernel { connection.shared.pid } else { transfer.pid };
    add_gap(transfer, connection);
    let scratch = &mut slot.scratch;
    scratch.time_ns = now_ns();
    scratch.pid = pid;
    scratch.sent = transfer.sent;
    scratch.host.window.clear();
    if transfer.discarded || !readable {
        scratch.host.buffers.clear();
    }
    let directions = (&raw mut connection.directions).cast::<DirectionState>();
    let own = usize::from(transfer.sent & 1);
    // By an index, as in `Connection::direction`.
    // SAFETY: one of the two by the mask, and the other one.
    let (own, other) = unsafe { (&mut *directions.add(own), &mut *directions.add(own ^ 1)) };
    let mut walk = Walk { scratch, shared: &mut connection.shared, own, other };
    walk.own.walking = 1;
    let outcome = if globals::thrift() && walk.shared.is_thrift() {
        thrift::walk(&mut walk, transfer.socket.sock, transfer.total)
    } else {
        walk::walk(&mut walk, transfer.total)
    };
    walk.own.walking = 0;
    #[cfg(feature = "kernel-log")]
    crate::log::walked(walk.shared, walk.own, transfer, outcome);
    if let Outcome::Walked = outcome {
        return Some(());
    }
    leave_alone(transfer, connection, outcome);
    Some(())
}

/// Stops watching a connection that turned out not to be HTTP/2, not to be selected, or not to have a frame boundary so
/// far. Not inlined: its values would stay on the caller's stack.
#[inline(never)]
fn leave_alone(transfer: &Transfer, connection: &mut Connection, outcome: Outcome) {
    let (mut tries, tcp) = (connection.shared.tries, connection.shared.is_tcp());
    let moved = connection.received().position + connection.sent().position;
    let counted = connection.shared.state == state::UPGRADED;
    let protocol = match protocol_of(&connection.direction(transfer.sent).scanner.buffer) {
        Protocol::Other if connection.is_only_http1() => Protocol::Http1,
        protocol => protocol,
    };
    if let Outcome::NotPreface = outcome {
        connection.shared.state = state::UPGRADED;
    }
    let gaps = connection.gap_flags();
    close::close::<false>(transfer.socket.sock, connection, gaps);
    match outcome {
        Outcome::NotFrames => try_again(transfer, tries),
        Outcome::NotSelected | Outcome::GivenUp => ignore(&transfer.socket),
        // Bytes that looked like a server's SETTINGS may be from a connection that was open before, or from another
        // protocol, such as the zeros with which threads wake each other.
        _ if !tcp && !counted && matches!(protocol, Protocol::Other) => {
            tries.add(moved);
            try_again(transfer, tries);
        }
        // The response may upgrade it to HTTP/2.
        _ if globals::web() && !counted && matches!(protocol, Protocol::Http1) => {
            not_ours(transfer, protocol);
        }
        _ => {
            ignore(&transfer.socket);
            if !counted {
                count_other(protocol, transfer.pid);
            }
        }
    }
}
