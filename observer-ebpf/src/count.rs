//! Counts gaps and other events, so that nothing is missing silently.

use core::arch::asm;

use observer_common::counter::{Counter, CountsOfProcess, Protocol};

use crate::maps::{BPF_NOEXIST, COUNTS, OTHERS, Values as _};

/// Adds one event, and the bytes that it concerns.
#[inline(always)]
pub fn count(counter: Counter, bytes: u64) {
    add(counter as u32, bytes);
    #[cfg(feature = "kernel-log")]
    crate::log::counted(counter, bytes);
}

/// Adds bytes to an event that was counted before.
#[inline(always)]
pub fn count_more(counter: Counter, bytes: u64) {
    if let Some([_, sum]) = COUNTS.value(counter as u32) {
        add_to(sum, bytes);
    }
}

/// Counts a selected socket by its protocol.
#[inline(always)]
pub fn count_protocol(protocol: Protocol) {
    add(protocol.position(), 0);
    #[cfg(feature = "kernel-log")]
    crate::log::carries(protocol);
}

/// Counts a socket that is not watched, by its protocol, for the process `pid` too.
#[inline(always)]
pub fn count_other(protocol: Protocol, pid: u32) {
    count_protocol(protocol);
    count_of_process(protocol as u32, pid);
}

/// Nothing was counted yet. Not on the stack, which has no room for it.
static NONE: CountsOfProcess = [0; Protocol::COUNT as usize];

/// Not inlined: its values would stay on the caller's stack.
#[inline(never)]
fn count_of_process(protocol: u32, pid: u32) {
    let none: &CountsOfProcess = &NONE;
    if !OTHERS.has(pid) {
        // Another CPU may be faster.
        let _ = OTHERS.insert(pid, none, BPF_NOEXIST);
    }
    if let Some(count) = OTHERS.value(pid).and_then(|of| of.get_mut(protocol as usize)) {
        add_to(count, 1);
    }
}

#[inline(always)]
fn add(position: u32, bytes: u64) {
    if let Some([events, sum]) = COUNTS.value(position) {
        add_to(events, 1);
        add_to(sum, bytes);
    }
}

/// Adds atomically: another invocation on the same CPU may preempt this one. The instruction set has that, rustc does
/// not for BPF.
#[inline(always)]
pub fn add_to(place: &mut u64, value: u64) {
    // SAFETY: writes only to `place`.
    unsafe {
        asm!("lock *(u64 *)({place} + 0) += {value}", place = in(reg) place, value = in(reg) value);
    }
}
