//! New connections.

use aya_ebpf::helpers::bpf_probe_read_user_buf;
use observer_common::{
    counter::{Counter, Protocol},
    driver::{
        connection::{Connection, Tries},
        gap,
        opening::{Beginning, Detected, FIRST_MAX, First, begins_http2},
    },
    record::direction,
};

use super::ignored::{ignore, not_ours, remember_tries, tries_of, try_again};
use crate::{
    buffers::Buffers,
    count::{count, count_more},
    filter, globals,
    kernel::{Address, now_ns},
    maps::{BPF_EXIST, BPF_NOEXIST, CONNECTIONS, Values as _},
    scratch::Slot,
    share::{self, Of},
    socket::{self, Socket},
    tls::secured,
    transfer::Transfer,
};

/// Most empty buffers that are passed over to find the first byte.
const EMPTY_BUFFERS: u32 = 8;

/// What a new socket is, by its first bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// Nothing that is watched, or not yet.
    Nothing,
    /// A connection, which is in the slot now.
    Connection,
    /// A TLS connection, which is in the table of these now.
    Secured,
}

/// Checks the first bytes of a new socket. Not inlined: its values would stay on the caller's stack.
#[inline(never)]
pub fn open(transfer: &Transfer, slot: &mut Slot) -> Opened {
    try_open(transfer, slot).unwrap_or(Opened::Nothing)
}

#[inline(always)]
fn try_open(transfer: &Transfer, slot: &mut Slot) -> Option<Opened> {
    let mut first = [0; 16];
    let connection = &mut slot.connection;
    connection.shared.tries = tries_of(&transfer.socket);
    let known = connection.shared.tries.has(Tries::HTTP2);
    let Some(n) = peek(&mut slot.scratch.host.buffers, &mut first) else {
        if known {
            count_more(Counter::ConnectionsFull, transfer.total);
        }
        return None;
    };
    // `None` if the socket does not show it.
    let sent = transfer.sent == direction::SENT;
    let late =
        socket::moved_before(transfer.socket.sock, sent, transfer.total).map(|bytes| bytes != 0);
    let thrift = if globals::thrift() && !known {
        Beginning::thrift(&first, n, late, filter::is_thrift_port(&transfer.socket))
    } else {
        None
    };
    let detected = match thrift {
        _ if known => Detected::Late,
        Some(new) => Detected::New(new),
        None if !globals::grpc() => Detected::without_http2(&first, n, late),
        None => Detected::of(&first, n, transfer.sent, late),
    };
    let detected = match detected {
        Detected::Other(Protocol::Http1) if globals::web() && late == Some(false) => {
            Detected::New(Beginning::http1(&first, sent))
        }
        detected => detected,
    };
    let new = match detected {
        Detected::New(new)
            if !filter::selects_role(transfer.socket.sock, transfer.socket.inode, new.role) =>
        {
            ignore(&transfer.socket);
            return None;
        }
        Detected::New(new) => {
            // In case that there is no room.
            if begins_http2(&first, n) {
                connection.shared.tries.flags |= Tries::HTTP2;
            }
            new
        }
        Detected::Late => join(transfer, &mut connection.shared.tries, &first, n)?,
        Detected::Other(Protocol::Tls) if globals::tls() => {
            return secure(transfer, &first, late);
        }
        Detected::Other(protocol) => {
            not_ours(transfer, protocol);
            return None;
        }
    };
    connection.begin(new);
    let shared = &mut connection.shared;
    shared.id = identifier(transfer.socket.inode);
    shared.inode = transfer.socket.inode;
    shared.counts = socket::counts_of(transfer.socket.sock);
    shared.owner = transfer.pid;
    gap::begin(&transfer.socket, connection, transfer.sent);
    Some(Opened::Connection)
}

/// Follows a TLS connection, if it may carry what is watched: from its first bytes on, or from a record of application data on.
#[inline(always)]
fn secure(transfer: &Transfer, first: &First, late: Option<bool>) -> Option<Opened> {
    // Content types (RFC 8446 §5.1).
    const HANDSHAKE: u8 = 22;
    const APPLICATION_DATA: u8 = 23;
    let begins = match late {
        Some(false) => first[0] == HANDSHAKE,
        Some(true) => first[0] == APPLICATION_DATA,
        None => false,
    };
    if !begins || secured::begin(transfer).is_none() {
        not_ours(transfer, Protocol::Tls);
        return None;
    }
    if late == Some(true) {
        secured::announce(transfer.pid);
    }
    Some(Opened::Secured)
}

/// An identifier that no other connection gets while the programs are loaded: the kernel assigns 2³² consecutive inode
/// numbers before it repeats one, and the clock distinguishes the rounds.
#[inline(always)]
pub fn identifier(inode: u64) -> u64 {
    (inode << 32) | ((now_ns() >> 16) & 0xffff_ffff)
}

/// The start of a connection that was open before the daemon, if this transfer may start with a frame of HTTP/2.
#[inline(always)]
fn join(transfer: &Transfer, tries: &mut Tries, first: &First, n: u32) -> Option<Beginning> {
    let new = if globals::grpc() { Beginning::late(first, n, *tries) } else { None };
    if new.is_none() {
        if tries.has(Tries::HTTP2) {
            count_more(Counter::ConnectionsFull, transfer.total);
        } else {
            tries.add(transfer.total);
        }
        try_again(transfer, *tries);
    }
    new
}

/// Inserts a connection, unless another CPU has just done so: a socket's first write and its first read may return at
/// the same time, and the second one must not replace the state of the first. By reference: the stack has no room for
/// a copy. Not inlined: its values would stay on the caller's stack.
#[inline(never)]
pub fn insert(transfer: &Transfer, connection: &mut Connection) -> Option<&'static mut Connection> {
    let Socket { sock, inode } = transfer.socket;
    let owner = connection.shared.owner;
    let key = if connection.shared.is_tls() { secured::key(inode) } else { sock };
    if !share::take(owner, Of::Connections, globals::max_connections()) {
        replace(key, connection);
    } else if add(key, connection, BPF_NOEXIST).is_err() {
        share::give(owner, Of::Connections);
        replace(key, connection);
    }
    let inserted = CONNECTIONS.value(key);
    if inserted.is_some() {
        #[cfg(feature = "kernel-log")]
        crate::log::watched(&connection.shared);
        super::ignored::forget(sock);
    } else {
        refuse(transfer, connection.shared.tries);
    }
    inserted
}

/// By reference, as in [`insert`].
#[inline(always)]
fn add(key: Address, connection: &Connection, flags: u64) -> Result<(), i32> {
    CONNECTIONS.insert(key, connection, flags)
}

/// Replaces the connection of an earlier socket, whose end found the ring full, and takes over its share.
#[inline(always)]
fn replace(key: Address, connection: &mut Connection) {
    if let Some(there) = CONNECTIONS.value(key)
        && there.shared.inode != connection.shared.inode
    {
        connection.shared.owner = there.shared.owner;
        let _ = add(key, connection, BPF_EXIST);
    }
}

/// Handles that there is no room for the connection, or that its process has its share: its next transfer tries again.
#[inline(always)]
fn refuse(transfer: &Transfer, mut tries: Tries) {
    let counted = tries.has(Tries::REFUSED);
    tries.flags |= Tries::REFUSED;
    let mut bytes = transfer.total;
    if !tries.has(Tries::HTTP2) {
        // Counted once it turns out to be HTTP/2.
        tries.add(bytes);
        bytes = 0;
    }
    if counted {
        count_more(Counter::ConnectionsFull, bytes);
    } else {
        count(Counter::ConnectionsFull, bytes);
    }
    remember_tries(&transfer.socket, tries);
}

/// Copies up to [`FIRST_MAX`] of the transfer's first bytes. Returns how many.
#[inline(always)]
pub fn peek(buffers: &mut Buffers, first: &mut First) -> Option<u32> {
    let mut passed = 0;
    while buffers.left == 0 && passed < EMPTY_BUFFERS {
        if buffers.is_empty() {
            return None;
        }
        buffers.next()?;
        passed += 1;
    }
    let left = buffers.left;
    let n = if left < u64::from(FIRST_MAX) { left as u32 } else { FIRST_MAX } & 15;
    // SAFETY: n ≤ 15 by the mask; the helper checks the address.
    unsafe {
        let to = core::slice::from_raw_parts_mut(first.as_mut_ptr(), n as usize);
        bpf_probe_read_user_buf(buffers.base as *const u8, to).ok()?;
    }
    Some(n)
}
