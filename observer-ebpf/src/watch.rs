//! From a transfer to the connection, if it is one that is watched.

use core::{arch::asm, ptr};

use observer_common::{
    counter::{Counter, Protocol},
    driver::{
        Walk,
        connection::{Connection, DirectionState, state},
        opening::protocol_of,
        walk::{self, Outcome},
    },
    record::direction,
};

use crate::{
    connections::{
        close,
        gap::add_gap,
        ignored::{ignore, may_be_ours, try_again},
        known,
        open::{insert, open},
    },
    count::{count, count_protocol},
    kernel::{Address, now_ns},
    maps::{CONNECTIONS, Values as _},
    scratch::{self, Slot},
    socket::{self, Socket},
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

/// Likewise, where [`known`] and [`may_be_ours`] have been asked. `complete` says what of the transfer is not
/// known yet; `None` if it is not to be watched.
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
    // What is read back from the map the verifier knows nothing of, so it follows what comes next
    // once, not once for each kind of transfer.
    let transfer = opaque(&raw mut host.transfer);
    // SAFETY: written just now, and not written again in this invocation.
    let transfer = unsafe { &*transfer };
    host.buffers.begin(transfer.shape, transfer.returned);
    try_walk(transfer, known, slot)
}

/// A system call has returned that (`transfer::may_be_left`). TCP's states tell who was first to end a connection, other
/// sockets have none. A function of its own: inlined, its values would be kept on the stack to the caller's end.
#[inline(never)]
pub fn leave(sock: Address, returned: i32) {
    let Some(Connection { shared, .. }) = CONNECTIONS.value(sock) else { return };
    // Its memory may be another socket's by now.
    if !(Socket { sock, inode: shared.inode }).is_open() {
        return;
    }
    // Who asks for no bytes gets none.
    let is_left = returned != 0 || socket::is_shut(sock, false);
    if is_left && !shared.is_tcp() && shared.ended_by == direction::UNKNOWN {
        shared.ended_by = direction::RECEIVED;
    }
}

/// The same pointer, of which the compiler does not know where it comes from: so it neither knows what was
/// written there, nor makes a copy of what comes next for each of the ways here.
#[inline(always)]
fn opaque<T>(mut pointer: *mut T) -> *mut T {
    // SAFETY: one instruction, on a register.
    unsafe { asm!("{pointer} += 0", pointer = inout(reg) pointer) };
    pointer
}

/// Nobody looks at the bytes, which are counted and, at the next transfer, a gap.
#[inline(always)]
fn busy(transfer: &Transfer, connection: Option<&mut Connection>) {
    let mut bytes = 0;
    if let Some(connection) = connection {
        // So that the socket's counter does not show them once more.
        add_gap(transfer, connection);
        bytes = transfer.total;
        connection.direction(transfer.sent).gap_bytes += bytes;
    }
    count(Counter::ScratchBusy, bytes);
}

#[inline(always)]
fn try_walk(transfer: &Transfer, known: Option<&mut Connection>, slot: &mut Slot) -> Option<()> {
    let readable = slot.scratch.host.buffers.is_readable();
    let connection = if let Some(connection) = known {
        connection
    } else {
        open(transfer, slot)?;
        insert(transfer, &mut slot.connection)?
    };
    // SAFETY: the same.
    let connection = unsafe { &mut *opaque(connection) };
    // What is not in the process's memory a thread of the kernel may move, which is not whose the
    // connection is.
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
    let outcome = walk::walk(&mut walk, transfer.total);
    walk.own.walking = 0;
    #[cfg(feature = "kernel-log")]
    crate::log::walked(walk.shared, walk.own, transfer, outcome);
    if let Outcome::Walked = outcome {
        return Some(());
    }
    leave_alone(transfer, connection, outcome);
    Some(())
}

/// A connection turned out to be none of ours, or not to be known as one yet.
/// A function of its own: inlined, its values would be kept on the stack to the caller's end.
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
    close::close(transfer.socket.sock, connection, gaps);
    match outcome {
        Outcome::NotFrames => try_again(transfer, tries),
        Outcome::NotSelected => ignore(&transfer.socket),
        // What looked like a server's SETTINGS may have been those of a connection already open; or it is
        // another protocol's, as the zeros by which threads wake each other.
        _ if !tcp && !counted && matches!(protocol, Protocol::Other) => {
            tries.add(moved);
            try_again(transfer, tries);
        }
        _ => {
            ignore(&transfer.socket);
            if !counted {
                count_protocol(protocol);
            }
        }
    }
}
