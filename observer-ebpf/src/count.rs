//! Counts what must not be lost silently.

use core::arch::asm;

use observer_common::counter::{Counter, Protocol};

use crate::maps::{COUNTS, Values as _};

/// Adds one event, and the bytes that it concerns.
#[inline(always)]
pub fn count(counter: Counter, bytes: u64) {
    add(counter as u32, bytes);
    #[cfg(feature = "kernel-log")]
    crate::log::counted(counter, bytes);
}

/// Adds bytes to an event that has been counted.
#[inline(always)]
pub fn count_more(counter: Counter, bytes: u64) {
    if let Some([_, sum]) = COUNTS.value(counter as u32) {
        add_to(sum, bytes);
    }
}

/// Counts a selected socket by what it carries.
#[inline(always)]
pub fn count_protocol(protocol: Protocol) {
    add(protocol.position(), 0);
    #[cfg(feature = "kernel-log")]
    crate::log::carries(protocol);
}

#[inline(always)]
fn add(position: u32, bytes: u64) {
    if let Some([events, sum]) = COUNTS.value(position) {
        add_to(events, 1);
        add_to(sum, bytes);
    }
}

/// An invocation may be preempted by another one on its CPU. rustc has no atomic addition for BPF, the
/// instruction set has.
#[inline(always)]
pub fn add_to(place: &mut u64, value: u64) {
    // SAFETY: writes only to `place`.
    unsafe {
        asm!("lock *(u64 *)({place} + 0) += {value}", place = in(reg) place, value = in(reg) value);
    }
}
