//! Sockets that are ignored, or not watched yet.

use aya_ebpf::{macros::map, maps::LruHashMap};
use observer_common::{
    counter::Protocol,
    driver::connection::{Tries, counted},
};

#[cfg(feature = "kernel-log")]
use crate::log;
use crate::{
    count::count_other,
    filter, globals,
    kernel::Address,
    maps::Values as _,
    socket::{self, Socket},
    transfer::Transfer,
};

/// Sockets that are not watched, by `struct sock`. The least recently used ones make room; if they come back, they are
/// checked again.
#[map]
static IGNORED: LruHashMap<Address, Ignored> = LruHashMap::with_max_entries(16_384, 0);

/// A socket that is not watched.
#[derive(Clone, Copy)]
#[repr(C)]
struct Ignored {
    inode: u64,
    /// The direction in which an HTTP/1 response may still upgrade the connection to HTTP/2; or [`TRIED`],
    /// [`FOR_GOOD`].
    until: u32,
    _reserved: u32,
    /// For [`TRIED`].
    tries: Tries,
}

/// The connection may be HTTP/2: it was open before the daemon, or there was no room for it.
const TRIED: u32 = 2;
const FOR_GOOD: u32 = 3;

/// Most transfers in which a connection that was open before the daemon is searched for a frame boundary. More if the
/// user has selected ports or processes.
const TRIES: u16 = 256;
const TRIES_SELECTED: u16 = u16::MAX;

#[inline(always)]
fn get(socket: &Socket) -> Option<&'static Ignored> {
    let ignored: &Ignored = IGNORED.value(socket.sock)?;
    (ignored.inode == socket.inode).then_some(ignored)
}

/// Whether a socket that is not watched yet should be checked. Ignores it if it is not selected.
#[inline(always)]
pub fn may_be_ours(socket: &Socket, sent: u8) -> bool {
    if let Some(ignored) = get(socket) {
        return ignored.until == u32::from(sent) || ignored.until == TRIED;
    }
    let selected = is_selected(socket);
    if !selected {
        ignore(socket);
    }
    selected
}

#[inline(always)]
fn is_selected(socket: &Socket) -> bool {
    let sock = socket.sock;
    let Some(family) = socket::stream_family(sock) else {
        #[cfg(feature = "kernel-log")]
        log::not_stream(socket.inode);
        return false;
    };
    if globals::counted_only() && socket::counts_of(sock) != counted::TCP {
        #[cfg(feature = "kernel-log")]
        log::not_counted(socket.inode);
        return false;
    }
    let selected = match socket::ports(sock, family) {
        _ if !globals::filter_ports() => true,
        Some(ports) => filter::selects_ports(ports, socket::listens(socket)),
        None => false,
    };
    #[cfg(feature = "kernel-log")]
    if !selected {
        log::port_not_selected(socket.inode);
    }
    selected
}

/// The socket's transfers so far.
#[inline(always)]
pub fn tries_of(socket: &Socket) -> Tries {
    get(socket).map_or(Tries::default(), |ignored| ignored.tries)
}

/// Ignores a socket.
#[inline(always)]
pub fn ignore(socket: &Socket) {
    remember(socket, FOR_GOOD, Tries::default());
}

/// Has the socket checked again at its next transfer.
#[inline(always)]
pub fn remember_tries(socket: &Socket, tries: Tries) {
    remember(socket, TRIED, tries);
}

/// Removes a socket that is watched now, or over.
#[inline(always)]
pub fn forget(sock: Address) {
    let _ = IGNORED.remove(sock);
}

/// Stores a socket. If there is no room, it is checked again.
#[inline(always)]
fn remember(socket: &Socket, until: u32, tries: Tries) {
    #[cfg(feature = "kernel-log")]
    match until {
        FOR_GOOD => log::ignored_for_good(socket.inode),
        TRIED => log::not_watched_yet(socket.inode, tries.transfers, tries.bytes),
        _ => log::ignored_until_upgrade(socket.inode),
    }
    let _ =
        IGNORED.insert(socket.sock, Ignored { inode: socket.inode, until, _reserved: 0, tries }, 0);
}

/// Handles a transfer without frames: one of the next ones may start with a frame.
#[inline(always)]
pub fn try_again(transfer: &Transfer, mut tries: Tries) {
    let selected = globals::filter_ports() || globals::filter_processes();
    let most = if selected { TRIES_SELECTED } else { TRIES };
    if !tries.has(Tries::HTTP2) && tries.transfers >= most {
        ignore(&transfer.socket);
        count_other(Protocol::Other, transfer.pid);
        return;
    }
    tries.transfers = tries.transfers.saturating_add(1);
    tries.flags |= 1 << (transfer.sent & 1);
    remember_tries(&transfer.socket, tries);
}

/// Ignores a socket that carries another protocol than HTTP/2, and counts it once.
#[inline(always)]
pub fn not_ours(transfer: &Transfer, protocol: Protocol) {
    let again = get(&transfer.socket).is_some();
    // Only the first response may upgrade the connection.
    let may_upgrade = matches!(protocol, Protocol::Http1) && !again;
    let opposite = u32::from(transfer.sent ^ 1);
    let until = if may_upgrade { opposite } else { FOR_GOOD };
    remember(&transfer.socket, until, Tries::default());
    if !again {
        count_other(protocol, transfer.pid);
    }
}
