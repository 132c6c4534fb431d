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
        tls::{Counted, Fragments, RecordWalk, Secured, Shown, state},
    },
    record::direction,
    tls::records::{OVERRUN, Records},
};

use super::calls;
use crate::{
    buffers::Buffers,
    count::{count, count_other},
    globals,
    kernel::{Address, now_ns},
    maps::{BPF_ANY, BPF_NOEXIST, Values as _},
    ring,
    socket::{Socket, moved_before},
    transfer::Transfer,
};

/// TLS connections that may carry what is watched, by [`key`]. The daemon sets the sizes of these maps.
#[map]
static SECURED: HashMap<Address, Secured> =
    HashMap::with_max_entries(1, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// The keys of sockets that are open.
#[map]
static TLS_SOCKETS: HashMap<Address, Address> =
    HashMap::with_max_entries(1, aya_ebpf::bindings::BPF_F_NO_PREALLOC);

/// A client's random: its first half, and the process that has sent or received it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Random {
    half: [u64; 2],
    pid: u32,
    _reserved: u32,
}

/// The key of a random's connection; 0 if a process has both ends of the connection.
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

/// The key of a socket's TLS connection, in the table of these and in `CONNECTIONS`: its inode number. Not the address of
/// its `struct sock`: once that is closed, another one may have its memory before the last plaintext was seen.
#[inline(always)]
pub const fn key(inode: u64) -> Address {
    inode & MAX_KEY
}

/// The largest key.
pub const MAX_KEY: Address = 0xffff_ffff;

/// The socket's TLS connection.
#[inline(always)]
pub fn known(socket: &Socket) -> Option<&'static mut Secured> {
    let is_it = |it: &&mut Secured| it.inode == socket.inode && it.sock == socket.sock;
    SECURED.value(key(socket.inode)).filter(is_it)
}

/// The key of the TLS connection of a `struct sock` that is open.
#[inline(always)]
pub fn key_of(sock: Address) -> Option<Address> {
    TLS_SOCKETS.value(sock).map(|key| *key)
}

/// The TLS connection with a key.
#[inline(always)]
pub fn at(key: Address) -> Option<&'static mut Secured> {
    SECURED.value(key)
}

/// The socket is closed: another one may have its memory from now on.
#[inline(always)]
fn detach(secured: &Secured) {
    if key_of(secured.sock).is_some_and(|key| key == secured.key) {
        let _ = TLS_SOCKETS.remove(secured.sock);
    }
}

/// The key of the process's connection that has this random.
#[inline(always)]
pub fn of_random(half: [u64; 2], pid: u32) -> Option<Address> {
    let key = *RANDOMS.value(Random { half, pid, _reserved: 0 })?;
    let is_it = SECURED.value(key).is_some_and(|secured| secured.random == half);
    is_it.then_some(key)
}

/// Follows a socket whose first bytes are a record. `None` if it does not count its bytes, or there is no room.
#[inline(always)]
pub fn begin(transfer: &Transfer) -> Option<&'static mut Secured> {
    let Socket { sock, inode } = transfer.socket;
    transfer.socket.sequence(counted::TCP, false)?;
    let (new, key): (&Secured, _) = (&NEW, key(inode));
    // The number may be that of a socket whose end was not captured.
    let _ = SECURED.insert(key, new, BPF_ANY);
    let Some(secured) = SECURED.value(key) else {
        count(Counter::TlsNotFollowed, transfer.total);
        return None;
    };
    let _ = TLS_SOCKETS.insert(sock, key, BPF_ANY);
    secured.pid = transfer.pid;
    secured.sock = sock;
    secured.key = key;
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
    let is_shut = socket.is_shut(is_sent);
    let end = secured.begin(sent, total, Counted { sequence, moved, is_shut });
    let mut walk = RecordWalk { own: secured.direction(sent), fragments: buffers };
    // SAFETY: the callback takes this walk, which outlives the loop.
    unsafe { bpf_loop(MAX_STEPS, step as *mut c_void, (&raw mut walk).cast(), 0) };
    calls::moves(socket);
    if !is_sent && (secured.is_late() || secured.state == state::OPENING) {
        calls::reads(secured.key);
    }
    match secured.end(sent, end) {
        Shown::Nothing => return true,
        shown @ (Shown::Random | Shown::NoProtocol) => {
            let may_be_ours = match shown {
                Shown::Random => globals::grpc(),
                _ => globals::thrift(),
            };
            if may_be_ours {
                remember(secured);
                announce(secured.pid);
                return true;
            }
        }
        Shown::Cipher => count(Counter::TlsCipher, 0),
        Shown::NotHttp2 => {}
    }
    if secured.state == state::OPENING {
        count_other(Protocol::Tls, secured.pid);
    }
    remove(secured);
    false
}

/// Removes a connection without a look.
#[inline(always)]
pub fn remove(secured: &Secured) {
    detach(secured);
    let _ = SECURED.remove(secured.key);
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

/// Remembers the connection of a random. If the process has both ends of it, the random does not show which.
#[inline(always)]
fn remember(secured: &Secured) {
    let Secured { random: half, pid, key, .. } = *secured;
    let random = Random { half, pid, _reserved: 0 };
    if RANDOMS.insert(random, key, BPF_NOEXIST).is_ok() {
        return;
    }
    let is_both = RANDOMS.value(random).is_some_and(|other| {
        *other != key && SECURED.value(*other).is_some_and(|other| other.random == half)
    });
    let _ = RANDOMS.insert(random, if is_both { 0 } else { key }, BPF_ANY);
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
        count_other(Protocol::Tls, secured.pid);
    }
    secured.give_up();
}

/// Whether the TLS connection with a key, whose socket is closed, ends now. A global function, as [`tls_over`].
///
/// A transfer or a call of the library may not have returned yet (`is_first`), or may be followed by another CPU.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tls_may_end(key: Address, is_first: bool) -> bool {
    let Some(secured) = SECURED.value(key) else { return true };
    detach(secured);
    if !is_first {
        return !secured.is_busy();
    }
    // As in `gap::is_moving`.
    let socket = Socket { sock: secured.sock, inode: secured.inode };
    let counters = [false, true].map(|sent| socket.sequence(counted::TCP, sent).unwrap_or(0));
    secured.may_end(counters)
}

/// Ends the TLS connection with a key, if there is one. Returns the directions with a gap, as bits of
/// `RecordHeader::flags`.
///
/// A global function: the verifier follows it once, for all callers and whatever they know
/// (Documentation/bpf/verifier.rst; `btf_prepare_func_args`, kernel/bpf/btf.c). So its arguments are numbers.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tls_over(key: Address) -> u8 {
    let Some(secured) = SECURED.value(key) else { return 0 };
    if secured.state == state::OPENING {
        count_other(Protocol::Tls, secured.pid);
    }
    let gaps = secured.over(count);
    let is_reported = report(secured, true);
    let random = Random { half: secured.random, pid: secured.pid, _reserved: 0 };
    if RANDOMS.value(random).is_some_and(|other| *other == key) {
        let _ = RANDOMS.remove(random);
    }
    remove(secured);
    if is_reported { gaps } else { BOTH }
}

/// Gives up the TLS connection with a key without finding out what is missing: what is not proven may have a gap.
#[inline(always)]
pub fn drop(key: Address) -> u8 {
    let Some(secured) = SECURED.value(key) else { return 0 };
    report(secured, true);
    secured.give_up();
    BOTH
}

/// Both directions, as bits of `RecordHeader::flags`.
const BOTH: u8 = 1 << direction::RECEIVED | 1 << direction::SENT;

/// Reports what is proven since the last report. Returns whether that is known now: the ring had room.
#[inline(always)]
pub fn report(secured: &mut Secured, is_end: bool) -> bool {
    let socket = Socket { sock: secured.sock, inode: secured.inode };
    let written = if is_end { None } else { socket.sequence(counted::TCP, true) };
    if let Some(mut record) = secured.proven(written) {
        record.time_ns = now_ns();
        if !ring::output_header(&record) {
            return false;
        }
        secured.reported(&record);
    }
    true
}

/// The map of the connections, for the sweep.
#[inline(always)]
pub const fn table() -> *const c_void {
    (&raw const SECURED).cast()
}
