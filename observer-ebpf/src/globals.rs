//! Read-only globals: the daemon sets them before loading, the verifier sees constants.

use core::ptr::read_volatile;

use observer_common::layout::{Field, NOWHERE};

/// Offsets in the running kernel's structs, by [`Field`].
#[unsafe(no_mangle)]
static OFFSETS: [u32; Field::COUNT] = [0; Field::COUNT];

/// Not 0 if only the ports in the `PORTS` map are watched.
#[unsafe(no_mangle)]
static FILTER_PORTS: u32 = 0;

/// Not 0 if only sockets are watched that count their bytes.
#[unsafe(no_mangle)]
static COUNTED_ONLY: u32 = 0;

/// Not 0 if only the processes in `PIDS`, with a name in `COMMS`, of a user in `UIDS` or in a control group in
/// `CGROUPS` are watched.
#[unsafe(no_mangle)]
static FILTER_PROCESSES: u32 = 0;

/// Not 0 if there are users in `UIDS`.
#[unsafe(no_mangle)]
static FILTER_UIDS: u32 = 0;

/// Not 0 if there are names in `CGROUPS`.
#[unsafe(no_mangle)]
static FILTER_CGROUPS: u32 = 0;

/// Not 0 if the children of a selected process are selected too.
#[unsafe(no_mangle)]
static FOLLOW_CHILDREN: u32 = 0;

/// How many rings there are.
#[unsafe(no_mangle)]
static RING_COUNT: u32 = 1;

/// Bytes waiting in a ring from which on the daemon is woken at once.
#[unsafe(no_mangle)]
static WAKE_AT: u32 = 0;

/// For how many connections there is room.
#[unsafe(no_mangle)]
static MAX_CONNECTIONS: u32 = 0;

/// Which parameters the functions have that receive from a `struct sock`: [`WITH_NONBLOCK`],
/// [`WITH_ADDRESS`] or neither.
#[unsafe(no_mangle)]
static RECEIVE_PARAMETERS: u32 = 0;

/// `(sk, msg, len, nonblock, flags, addr_len)`
pub const WITH_NONBLOCK: u32 = 6;

/// `(sk, msg, len, flags, addr_len)`
pub const WITH_ADDRESS: u32 = 5;

/// Kinds of `struct iov_iter`: `ITER_IOVEC`, `ITER_UBUF`.
#[unsafe(no_mangle)]
static ITERATOR_KINDS: [u32; 2] = [0; 2];

#[inline(always)]
pub fn receive_parameters() -> u32 {
    // SAFETY: a global of this program.
    unsafe { read_volatile(&raw const RECEIVE_PARAMETERS) }
}

#[inline(always)]
fn iterator_kind(position: usize) -> u32 {
    // SAFETY: the callers' positions are in the array.
    unsafe { read_volatile((&raw const ITERATOR_KINDS).cast::<u32>().add(position)) }
}

/// `ITER_IOVEC`
#[inline(always)]
pub fn iterator_iovec() -> u8 {
    iterator_kind(0) as u8
}

/// `ITER_UBUF`, which kernels before 6.0 do not have.
#[inline(always)]
pub fn iterator_ubuf() -> Option<u8> {
    u8::try_from(iterator_kind(1)).ok()
}

#[inline(always)]
pub fn offset(field: Field) -> usize {
    // SAFETY: the field is a position in the array.
    unsafe { read_volatile((&raw const OFFSETS).cast::<u32>().add(field as usize)) as usize }
}

/// Whether this kernel has the field.
#[inline(always)]
pub fn has(field: Field) -> bool {
    offset(field) != NOWHERE as usize
}

#[inline(always)]
pub fn filter_ports() -> bool {
    // SAFETY: a global of this program.
    unsafe { read_volatile(&raw const FILTER_PORTS) != 0 }
}

#[inline(always)]
pub fn counted_only() -> bool {
    // SAFETY: a global of this program.
    unsafe { read_volatile(&raw const COUNTED_ONLY) != 0 }
}

#[inline(always)]
pub fn filter_processes() -> bool {
    // SAFETY: a global of this program.
    unsafe { read_volatile(&raw const FILTER_PROCESSES) != 0 }
}

#[inline(always)]
pub fn filter_uids() -> bool {
    // SAFETY: a global of this program.
    unsafe { read_volatile(&raw const FILTER_UIDS) != 0 }
}

#[inline(always)]
pub fn filter_cgroups() -> bool {
    // SAFETY: a global of this program.
    unsafe { read_volatile(&raw const FILTER_CGROUPS) != 0 }
}

#[inline(always)]
pub fn follow_children() -> bool {
    // SAFETY: a global of this program.
    unsafe { read_volatile(&raw const FOLLOW_CHILDREN) != 0 }
}

#[inline(always)]
pub fn rings() -> u32 {
    // SAFETY: a global of this program.
    unsafe { read_volatile(&raw const RING_COUNT) }
}

#[inline(always)]
pub fn max_connections() -> u32 {
    // SAFETY: a global of this program.
    unsafe { read_volatile(&raw const MAX_CONNECTIONS) }
}

#[inline(always)]
pub fn wake_at() -> u64 {
    // SAFETY: a global of this program.
    unsafe { u64::from(read_volatile(&raw const WAKE_AT)) }
}
