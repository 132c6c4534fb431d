//! Functions of the kprobe backend whose return was missed.

use core::ffi::c_void;

use observer_common::{
    counter::Counter,
    driver::connection::{Connection, Shared},
};

use crate::{
    count::count,
    maps::{CONNECTIONS, ENTERED, Entered, Values as _},
    socket::Socket,
};

/// Removes the function that a thread has entered. The thread is not in one now, so if there is an entry, the kernel
/// has missed the return.
#[inline(always)]
pub fn forget_entered(thread: u64) {
    // Only this thread writes it.
    let Some(&mut entered) = ENTERED.value(thread) else { return };
    let _ = ENTERED.remove(thread);
    if let Some(connection) = CONNECTIONS.value(entered.sock) {
        return_missed(connection, entered.sent);
    }
}

/// Handles a transfer of unknown length. If the socket counts its bytes, the next transfer or the end shows the gap;
/// otherwise the direction is out of sync.
#[inline(always)]
fn return_missed(connection: &mut Connection, sent: u8) {
    if connection.shared.is_tcp() {
        return;
    }
    count(Counter::Unseen, 0);
    let direction = connection.direction(sent);
    direction.gap |= 1;
    direction.sync.lose();
}

/// Handles one entry: a socket cannot be closed while a thread is in one of its functions, so if it is closed, the
/// return was missed.
pub extern "C" fn sweep_entered(
    _: *mut c_void,
    _: *const u64,
    entered: *const Entered,
    _: *mut c_void,
) -> i64 {
    // SAFETY: the helper passes it: a value of `ENTERED`.
    let Entered { sock, sent, .. } = unsafe { *entered };
    if let Some(connection) = CONNECTIONS.value(sock) {
        let Shared { closed_ns, inode, .. } = connection.shared;
        if closed_ns == 0 && !(Socket { sock, inode }).is_open() {
            return_missed(connection, sent);
        }
    }
    0
}
