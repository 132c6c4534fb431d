//! Functions that threads have entered, for the kprobe backend, and of which a return was missed.

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

/// Forgets what a thread has entered and, as that is so, returned from: if anything is left of it, the
/// kernel has missed the return.
#[inline(always)]
pub fn forget_entered(thread: u64) {
    // Only this thread writes it.
    let Some(&mut entered) = ENTERED.value(thread) else { return };
    let _ = ENTERED.remove(thread);
    if let Some(connection) = CONNECTIONS.value(entered.sock) {
        return_missed(connection, entered.sent);
    }
}

/// A transfer of which it is not known what it moved. Where a socket counts its bytes the next one shows it, or
/// the end; elsewhere no frame boundary is known any more.
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

/// A socket cannot be closed while a thread is in one of its functions: the return was missed.
pub extern "C" fn sweep_entered(
    _: *mut c_void,
    _: *const u64,
    entered: *const Entered,
    _: *mut c_void,
) -> i64 {
    // SAFETY: what the helper passed: a value of `ENTERED`.
    let Entered { sock, sent, .. } = unsafe { *entered };
    if let Some(connection) = CONNECTIONS.value(sock) {
        let Shared { closed_ns, inode, .. } = connection.shared;
        if closed_ns == 0 && !(Socket { sock, inode }).is_open() {
            return_missed(connection, sent);
        }
    }
    0
}
