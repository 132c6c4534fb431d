//! The table of TLS connections, and the records in their transfers.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::{
    helpers::{bpf_loop, bpf_probe_read_user_buf},
    macros::map,
    maps::{HashMap, LruHashMap, RingBuf},
};
use observer_common::{
    counter::{Counter, Protocol},
    driver::{
        connection::counted,
        gap::Socket as _,
        tls::{Fragments, RecordWalk, Secured, Shown, state},
    },
    record::direction,
    tls::records::{OVERRUN, Records},
};

use super::calls;
use crate::{
    buffers::Buffers,
    count::{count, count_protocol},
    kernel::{Address, now_ns},
    maps::{BPF_ANY, BPF_EXIST, BPF_NOEXIST, Values as _},
    ring,
    socket::{Socket, moved_before},
    transfer::Transfer,
};

/// TLS connections that may be gRPC, by `struct sock`. The daemon sets the sizes of these maps.
#[map]
static SECURED: HashMap<Address, Secured> =
    HashMap::with_max_entries(1, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// A client's random: its first half, and the process that has sent or received it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Random {
    half: [u64; 2],
    pid: u32,
    _reserved: u32,
}

/// The socket of a random; 0 if a process has both ends of the connection.
#[map]
static RANDOMS: LruHashMap<Random, Address> = LruHashMap::with_max_entries(1, 0);

/// Processes with a new TLS connection, for the daemon: it finds their libraries.
#[map]
static TLS_PIDS: RingBuf = RingBuf::with_byte_size(64 << 10, 0);

/// When a process was last put into [`TLS_PIDS`].
#[map]
static TLS_ANNOUNCED: LruHashMap<u32, u64> = LruHashMap::with_max_entries(1, 0);

/// A process is put into [`TLS_PIDS`] at most this often: it may load another library.
const ANNOUNCED_FOR_NS: u64 = 1_000_000_000;

/// Most steps of a walk: two for each record. 1 MiB of records of 16 bytes fits.
const MAX_STEPS: u32 = 1 << 17;

/// A new connection. Not on the stack, which has no room for it.
static NEW: Secured = Secured::NEW;

/// The socket's TLS connection.
#[inline(always)]
pub fn known(socket: &Socket) -> Option<&'static mut Secured> {
    SECURED.value(socket.sock).filter(|secured| secured.inode == socket.inode)
}

/// The TLS connection of a `struct sock`.
#[inline(always)]
pub fn at(sock: Address) -> Option<&'static mut Secured> {
    SECURED.value(sock)
}

/// The socket of the process's connection that has this random.
#[inline(always)]
pub fn of_random(half: [u64; 2], pid: u32) -> Option<Address> {
    let sock = *RANDOMS.value(Random { half, pid, _reserved: 0 })?;
    let is_it = SECURED.value(sock).is_some_and(|secured| secured.random == half);
    is_it.then_some(sock)
}

/// Follows a socket whose first bytes are a handshake record. `None` if it does not count its bytes, or there is no room.
#[inline(always)]
pub fn begin(transfer: &Transfer) -> Option<&'static mut Secured> {
    let Socket { sock, inode } = transfer.socket;
    transfer.socket.sequence(counted::TCP, false)?;
    let new: &Secured = &NEW;
    if SECURED.insert(sock, new, BPF_NOEXIST).is_err()
        && let Some(there) = SECURED.value(sock)
        && there.inode != 0
        && there.inode != inode
    {
        // The end of an earlier socket was not captured.
        let _ = SECURED.insert(sock, new, BPF_EXIST);
    }
    let Some(secured) = SECURED.value(sock) else {
        count(Counter::TlsNotFollowed, transfer.total);
        return None;
    };
    secured.pid = transfer.pid;
    secured.inode = inode;
    Some(secured)
}

/// Follows the records in a transfer. Returns whether the socket goes on as a TLS connection. Not inlined: it has two
/// callers.
#[inline(never)]
pub fn watch(transfer: &Transfer, secured: &mut Secured, buffers: &mut Buffers) -> bool {
    let Transfer { socket, total, sent, .. } = *transfer;
    let is_sent = sent == direction::SENT;
    let Some(sequence) = socket.sequence(counted::TCP, is_sent) else { return true };
    let moved = if secured.is_first(sent) {
        moved_before(socket.sock, is_sent, total).unwrap_or(0)
    } else {
        0
    };
    let end = secured.begin(sent, total, sequence, moved);
    let mut walk = RecordWalk { own: secured.direction(sent), fragments: buffers };
    // SAFETY: the callback takes this walk, which outlives the loop.
    unsafe { bpf_loop(MAX_STEPS, step as *mut c_void, (&raw mut walk).cast(), 0) };
    calls::moves(socket.sock);
    match secured.end(sent, end) {
        Shown::Nothing => return true,
        Shown::Random => {
            remember(socket.sock, secured);
            announce(secured.pid);
            return true;
        }
        Shown::Cipher => count(Counter::TlsCipher, 0),
        Shown::NotHttp2 => {}
    }
    if secured.state == state::OPENING {
        count_protocol(Protocol::Tls);
    }
    let _ = SECURED.remove(socket.sock);
    false
}

extern "C" fn step(_: u32, walk: *mut c_void) -> i64 {
    // SAFETY: `watch` passes it.
    let walk = unsafe { &mut *walk.cast::<RecordWalk<'_, Buffers>>() };
    i64::from(!walk.step())
}

impl Fragments for Buffers {
    #[inline(always)]
    fn left(&self) -> u64 {
        self.left
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }

    #[inline(always)]
    fn next(&mut self) -> Option<()> {
        Self::next(self)
    }

    #[inline(always)]
    fn advance(&mut self, n: u32) {
        Self::advance(self, n);
    }

    #[inline(always)]
    fn read(&mut self, n: u32, records: &mut Records, at: u32) -> Option<()> {
        const { assert!(OVERRUN == 16) };
        let (mut at, mut n) = (u64::from(at), u64::from(n));
        // So that the compiler uses the registers that the verifier has bounds for.
        // SAFETY: two instructions, on registers.
        unsafe { asm!("{at} &= 63", "{n} &= 31", at = inout(reg) at, n = inout(reg) n) };
        // SAFETY: the masks keep both within the struct, of which the buffer is the first part; the driver keeps within the
        // buffer. The helper checks the address.
        unsafe {
            let to = (&raw mut *records).cast::<u8>().add(at as usize);
            let to = core::slice::from_raw_parts_mut(to, n as usize);
            bpf_probe_read_user_buf(self.base as *const u8, to).ok()
        }
    }
}

/// Remembers the socket of a random. If the process has both ends of the connection, the random does not show which.
#[inline(always)]
fn remember(sock: Address, secured: &Secured) {
    let key = Random { half: secured.random, pid: secured.pid, _reserved: 0 };
    if RANDOMS.insert(key, sock, BPF_NOEXIST).is_ok() {
        return;
    }
    let is_both = RANDOMS.value(key).is_some_and(|other| {
        *other != sock && SECURED.value(*other).is_some_and(|other| other.random == secured.random)
    });
    let _ = RANDOMS.insert(key, if is_both { 0 } else { sock }, BPF_ANY);
}

/// Puts a process into [`TLS_PIDS`]. If there is no room, its next connection does that.
#[inline(always)]
pub fn announce(pid: u32) {
    let now = now_ns();
    if TLS_ANNOUNCED.value(pid).is_some_and(|last| now - *last < ANNOUNCED_FOR_NS) {
        return;
    }
    if TLS_PIDS.output::<u32>(pid, 0).is_ok() {
        let _ = TLS_ANNOUNCED.insert(pid, now, BPF_ANY);
    }
}

/// Gives a connection up: its plaintext is not followed, or no more.
#[inline(always)]
pub fn give_up(secured: &mut Secured) {
    if secured.state == state::OPENING {
        count_protocol(Protocol::Tls);
    }
    secured.state = state::NOT_FOLLOWED;
}

/// Whether nothing is missing if the TLS connection of a `struct sock` ends now. Not inlined, as [`over`].
#[inline(never)]
pub fn may_end(sock: Address) -> bool {
    SECURED.value(sock).is_none_or(Secured::may_end)
}

/// Ends the TLS connection of a `struct sock`, if there is one. Returns the directions with a gap, as bits of
/// `RecordHeader::flags`. Not inlined: its values would stay on the caller's stack.
#[inline(never)]
pub fn over(sock: Address) -> u8 {
    let Some(secured) = SECURED.value(sock) else { return 0 };
    if secured.state == state::OPENING {
        count_protocol(Protocol::Tls);
    }
    let gaps = secured.over(count);
    report(secured);
    let key = Random { half: secured.random, pid: secured.pid, _reserved: 0 };
    if RANDOMS.value(key).is_some_and(|other| *other == sock) {
        let _ = RANDOMS.remove(key);
    }
    let _ = SECURED.remove(sock);
    gaps
}

/// Forgets the TLS connection of a `struct sock` without finding out what is missing: what is not proven may have a gap.
#[inline(always)]
pub fn drop(sock: Address) -> u8 {
    let Some(secured) = SECURED.value(sock) else { return 0 };
    report(secured);
    let _ = SECURED.remove(sock);
    1 << direction::RECEIVED | 1 << direction::SENT
}

/// Reports what is proven since the last report.
#[inline(always)]
pub fn report(secured: &mut Secured) {
    if let Some(mut record) = secured.proven() {
        record.time_ns = now_ns();
        if ring::output_header(&record) {
            secured.reported(&record);
        }
    }
}

/// Looks at one connection, about once a second.
pub extern "C" fn sweep_secured(
    _: *mut c_void,
    sock: *const Address,
    secured: *mut Secured,
    _: *mut c_void,
) -> i64 {
    // SAFETY: the helper passes them: key and value of `SECURED`.
    let (sock, secured) = unsafe { (*sock, &mut *secured) };
    if secured.state != state::FOLLOWED && !(Socket { sock, inode: secured.inode }).is_open() {
        over(sock);
        return 0;
    }
    if secured.settle(count) {
        count_protocol(Protocol::Tls);
    }
    report(secured);
    0
}

/// The map of the connections, for the sweep.
#[inline(always)]
pub const fn table() -> *const c_void {
    (&raw const SECURED).cast()
}
