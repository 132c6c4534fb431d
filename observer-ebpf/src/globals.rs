//! Read-only globals: the daemon sets them before loading, the verifier sees constants.

use core::ptr::read_volatile;

use observer_common::layout::Field;

/// Offsets in the running kernel's structs, by [`Field`].
#[unsafe(no_mangle)]
static OFFSETS: [u32; Field::COUNT] = [0; Field::COUNT];

/// Not 0 if only the ports in the `PORTS` map are watched.
#[unsafe(no_mangle)]
static FILTER_PORTS: u32 = 0;

/// Not 0 if only the processes in `PIDS` or with a name in `COMMS` are watched.
#[unsafe(no_mangle)]
static FILTER_PROCESSES: u32 = 0;

/// Not 0 if the children of a selected process are selected too.
#[unsafe(no_mangle)]
static FOLLOW_CHILDREN: u32 = 0;

/// Bytes waiting in the ring from which on the daemon is woken at once.
#[unsafe(no_mangle)]
static WAKE_AT: u32 = 0;

#[inline(always)]
pub fn offset(field: Field) -> usize {
    // SAFETY: the field is a position in the array.
    unsafe { read_volatile((&raw const OFFSETS).cast::<u32>().add(field as usize)) as usize }
}

#[inline(always)]
pub fn filter_ports() -> bool {
    // SAFETY: a global of this program.
    unsafe { read_volatile(&raw const FILTER_PORTS) != 0 }
}

#[inline(always)]
pub fn filter_processes() -> bool {
    // SAFETY: a global of this program.
    unsafe { read_volatile(&raw const FILTER_PROCESSES) != 0 }
}

#[inline(always)]
pub fn follow_children() -> bool {
    // SAFETY: a global of this program.
    unsafe { read_volatile(&raw const FOLLOW_CHILDREN) != 0 }
}

#[inline(always)]
pub fn wake_at() -> u64 {
    // SAFETY: a global of this program.
    unsafe { u64::from(read_volatile(&raw const WAKE_AT)) }
}
