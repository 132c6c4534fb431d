//! Finds the connections whose end no tracepoint showed, and what connections and processes have left behind.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::bpf_for_each_map_elem;
use observer_common::driver::connection::{Connection, Shared};

use super::{close::close_later, entered::sweep_entered};
use crate::{
    kernel::Address,
    maps::{CONNECTIONS, ENTERED, Kept, MESSAGES, MessageKey, SHARES, Share, Values as _},
    share::{self, Of},
    socket::Socket,
};

/// Goes over the maps.
#[inline(always)]
pub fn sweep() {
    each(&raw const ENTERED, sweep_entered as *mut c_void);
    each(&raw const CONNECTIONS, sweep_connection as *mut c_void);
    each(&raw const MESSAGES, sweep_message as *mut c_void);
    each(&raw const SHARES, sweep_share as *mut c_void);
}

/// Has the callback called for each of a map's entries.
#[inline(always)]
fn each<M>(map: *const M, callback: *mut c_void) {
    // SAFETY: the callbacks take what the helper passes for maps of these types.
    unsafe { bpf_for_each_map_elem(map.cast_mut().cast(), callback, ptr::null_mut(), 0) };
}

extern "C" fn sweep_connection(
    _: *mut c_void,
    sock: *const Address,
    connection: *mut Connection,
    _: *mut c_void,
) -> i64 {
    // SAFETY: what the helper passed: key and value of `CONNECTIONS`.
    let (sock, connection) = unsafe { (*sock, &mut *connection) };
    let Shared { inode, closed_ns, .. } = connection.shared;
    if closed_ns != 0 || !(Socket { sock, inode }).is_open() {
        close_later(sock, connection);
    }
    0
}

/// Drops what closed connections left behind.
extern "C" fn sweep_message(
    _: *mut c_void,
    key: *const MessageKey,
    kept: *mut Kept,
    _: *mut c_void,
) -> i64 {
    // SAFETY: what the helper passed: key and value of `MESSAGES`.
    let (key, in_share_of) = unsafe { (*key, (*kept).owner) };
    let owner = CONNECTIONS.value(key.sock);
    let is_left = owner.is_none_or(|owner| owner.shared.id != key.connection);
    if is_left && MESSAGES.remove(key).is_ok() {
        share::give(in_share_of, Of::Messages);
    }
    0
}

/// Drops what processes that have nothing any more left behind.
extern "C" fn sweep_share(
    _: *mut c_void,
    pid: *const u32,
    share: *const Share,
    _: *mut c_void,
) -> i64 {
    // SAFETY: what the helper passed: key and value of `SHARES`.
    let (pid, share) = unsafe { (*pid, *share) };
    if share.is_empty() {
        let _ = SHARES.remove(pid);
    }
    0
}
