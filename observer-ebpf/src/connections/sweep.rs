//! Sweeps the maps: finds connections whose end no tracepoint reported, and entries that ended connections and
//! processes have left.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::bpf_for_each_map_elem;
use observer_common::{
    counter::Protocol,
    driver::{
        connection::{Connection, Shared},
        tls::{Secured, Settled, state},
    },
};

use super::{
    close::{self, close_later},
    entered::sweep_entered,
    ignored::ignore,
};
use crate::{
    count::{count, count_other},
    globals,
    kernel::Address,
    maps::{CONNECTIONS, ENTERED, Kept, MESSAGES, MessageKey, SHARES, Share, Values as _},
    share::{self, Of},
    socket::Socket,
    thrift,
    tls::secured,
};

/// Sweeps all maps.
#[inline(always)]
pub fn sweep() {
    each(&raw const ENTERED, sweep_entered as *mut c_void);
    each(&raw const CONNECTIONS, sweep_connection as *mut c_void);
    each(&raw const MESSAGES, sweep_message as *mut c_void);
    if globals::tls() {
        each(secured::table(), sweep_secured as *mut c_void);
    }
    if globals::thrift() {
        each(thrift::table(), thrift::sweep_scanners as *mut c_void);
    }
    each(&raw const SHARES, sweep_share as *mut c_void);
}

/// Calls the callback for each entry of a map.
#[inline(always)]
fn each<M>(map: *const M, callback: *mut c_void) {
    // SAFETY: the callbacks take keys and values of these maps.
    unsafe { bpf_for_each_map_elem(map.cast_mut().cast(), callback, ptr::null_mut(), 0) };
}

extern "C" fn sweep_connection(
    _: *mut c_void,
    key: *const Address,
    connection: *mut Connection,
    _: *mut c_void,
) -> i64 {
    // SAFETY: the helper passes them: key and value of `CONNECTIONS`.
    let (key, connection) = unsafe { (*key, &mut *connection) };
    let Shared { inode, closed_ns, .. } = connection.shared;
    let sock = if globals::tls() && connection.shared.is_tls() {
        secured::at(key).map_or(0, |secured| secured.sock)
    } else {
        key
    };
    if closed_ns != 0 || !(Socket { sock, inode }).is_open() {
        close_later::<true>(key, connection);
    }
    0
}

/// Looks at a TLS connection.
extern "C" fn sweep_secured(
    _: *mut c_void,
    key: *const Address,
    secured: *mut Secured,
    _: *mut c_void,
) -> i64 {
    // SAFETY: the helper passes them: key and value of `SECURED`.
    let (key, secured) = unsafe { (*key, &mut *secured) };
    let socket = Socket { sock: secured.sock, inode: secured.inode };
    if secured.state != state::FOLLOWED && !socket.is_open() {
        secured::tls_over(key);
        return 0;
    }
    match secured.settle(count) {
        Settled::GoesOn => {}
        Settled::NotFollowed => count_other(Protocol::Tls, secured.pid),
        Settled::OneSided => close::give_up(key, secured),
    }
    secured::report(secured, false);
    if secured.state == state::NOT_FOLLOWED && secured.is_late() {
        // It is not known whether it is HTTP/2.
        ignore(&socket);
        secured::remove(secured);
    }
    0
}

/// Removes a message of a connection that is closed.
extern "C" fn sweep_message(
    _: *mut c_void,
    key: *const MessageKey,
    kept: *mut Kept,
    _: *mut c_void,
) -> i64 {
    // SAFETY: the helper passes them: key and value of `MESSAGES`.
    let (key, in_share_of) = unsafe { (*key, (*kept).owner) };
    let is_left = |sock| {
        let owner = CONNECTIONS.value(sock);
        owner.is_none_or(|owner| owner.shared.id != key.connection)
    };
    // An identifier begins with the inode number.
    if is_left(key.sock)
        && (!globals::tls() || is_left(secured::key(key.connection >> 32)))
        && MESSAGES.remove(key).is_ok()
    {
        share::give(in_share_of, Of::Messages);
    }
    0
}

/// Removes the share of a process that has no entries any more.
extern "C" fn sweep_share(
    _: *mut c_void,
    pid: *const u32,
    share: *const Share,
    _: *mut c_void,
) -> i64 {
    // SAFETY: the helper passes them: key and value of `SHARES`.
    let (pid, share) = unsafe { (*pid, *share) };
    if share.is_empty() {
        let _ = SHARES.remove(pid);
    }
    0
}
