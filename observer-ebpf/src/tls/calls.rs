//! Calls of TLS libraries that are under way.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::map, maps::LruHashMap};
use observer_common::{
    record::direction,
    tls::{balance::Order, cookie::Cookie},
};

use crate::{
    buffers::Shape,
    kernel::{Address, goroutine},
    maps::{BPF_ANY, Values as _},
    socket::Socket,
};

/// The caller of a function: a thread, or a goroutine, which may change threads.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Caller {
    /// The address of the goroutine; 0 for a thread.
    goroutine: u64,
    pid: u32,
    /// 0 for a goroutine.
    thread: u32,
}

impl Caller {
    /// The current thread.
    #[inline(always)]
    pub fn thread() -> Self {
        let id = bpf_get_current_pid_tgid();
        Self { goroutine: 0, pid: (id >> 32) as u32, thread: id as u32 }
    }

    /// A goroutine of the current process.
    #[inline(always)]
    pub fn goroutine(goroutine: u64) -> Self {
        Self { goroutine, thread: 0, ..Self::thread() }
    }
}

/// A call of a probed function, for its return.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Call {
    /// The address of the library's object.
    pub handle: u64,
    pub buffer: u64,
    /// Where the function writes how many bytes it has moved; 0 if it returns that.
    pub moved: u64,
    /// The socket on which its caller has moved bytes meanwhile: [`NONE`], or [`SEVERAL`].
    pub socket: Socket,
    pub entered_ns: u64,
    /// One of `tls::cookie::routine`.
    pub routine: u64,
}

/// In [`Call::socket`]: there is none.
pub const NONE: Socket = Socket { sock: 0, inode: 0 };

/// In [`Call::socket`]: there are several.
pub const SEVERAL: Socket = Socket { sock: 1, inode: 0 };

/// Calls under way. The least recently used ones make room: then plaintext is missing, which shows.
#[map]
static TLS_CALLS: LruHashMap<Caller, Call> = LruHashMap::with_max_entries(1, 0);

/// Plaintext, and where it is from.
#[derive(Clone, Copy)]
pub struct Plaintext {
    /// The address of the library's object.
    pub handle: u64,
    pub shape: Shape,
    /// Bytes in its buffers before it.
    pub skip: u64,
    /// Not 0.
    pub length: u64,
    /// The socket on which the call has moved bytes, as in [`calls::Call`].
    pub socket: Socket,
    /// The time before which it has not moved; 0 if that is now.
    pub time_ns: u64,
    pub cookie: Cookie,
    pub order: Order,
    /// One of `record::direction`.
    pub sent: u8,
}

impl Plaintext {
    /// Of one record. The call that has it does not move bytes.
    #[inline(always)]
    pub fn of_record(handle: u64, shape: Shape, length: u64, cookie: Cookie) -> Self {
        let (order, sent) = if cookie.is_read() {
            (Order::RecordsFirst, direction::RECEIVED)
        } else {
            (Order::PlaintextFirst, direction::SENT)
        };
        Self { handle, shape, skip: 0, length, socket: NONE, time_ns: 0, cookie, order, sent }
    }
}

/// A library's object.
#[derive(Clone, Copy)]
#[repr(C)]
struct Handle {
    address: u64,
    pid: u32,
    _reserved: u32,
}

/// An object's socket, and one of `record::tie`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Tie {
    pub socket: Socket,
    pub by: u64,
}

/// Sockets of objects that do not show theirs.
#[map]
static TLS_TIES: LruHashMap<Handle, Tie> = LruHashMap::with_max_entries(1, 0);

/// The key of the connection that a thread has last read from, if it may not be known otherwise.
#[map]
static TLS_READS: LruHashMap<u32, Address> = LruHashMap::with_max_entries(1, 0);

/// Remembers a call.
#[inline(always)]
pub fn enter(caller: Caller, call: &Call) {
    let _ = TLS_CALLS.insert(caller, call, BPF_ANY);
}

/// Takes the caller's call.
#[inline(always)]
pub fn leave(caller: Caller) -> Option<Call> {
    let call = *TLS_CALLS.value(caller)?;
    let _ = TLS_CALLS.remove(caller);
    Some(call)
}

/// The current thread moves bytes of a TLS connection: if it, or its goroutine, is in a call, that is about this socket.
#[inline(always)]
pub fn moves(socket: Socket) {
    moves_in(Caller::thread(), socket);
    if let Some(goroutine) = goroutine() {
        moves_in(Caller::goroutine(goroutine), socket);
    }
}

#[inline(always)]
fn moves_in(caller: Caller, socket: Socket) {
    if let Some(call) = TLS_CALLS.value(caller) {
        if call.socket == NONE {
            call.socket = socket;
        } else if call.socket != socket {
            call.socket = SEVERAL;
        }
    }
}

/// The current thread has read from a TLS connection.
#[inline(always)]
pub fn reads(key: Address) {
    let _ = TLS_READS.insert(Caller::thread().thread, key, BPF_ANY);
}

/// The key of the connection that the current thread has last read from, if that is remembered.
#[inline(always)]
pub fn last_read() -> Option<Address> {
    TLS_READS.value(Caller::thread().thread).map(|key| *key)
}

/// Remembers the socket of an object.
#[inline(always)]
pub fn tie(address: u64, pid: u32, socket: Socket, by: u8) {
    let tie = Tie { socket, by: by.into() };
    let _ = TLS_TIES.insert(Handle { address, pid, _reserved: 0 }, tie, BPF_ANY);
}

/// The socket of an object. It may be closed.
#[inline(always)]
pub fn tied(address: u64, pid: u32) -> Option<Tie> {
    TLS_TIES.value(Handle { address, pid, _reserved: 0 }).map(|tie| *tie)
}
