//! Counts what must not be lost silently.

use observer_common::counter::{Counter, Protocol};

use crate::maps::COUNTS;

/// Adds one event, and the bytes that it concerns.
#[inline(always)]
pub fn count(counter: Counter, bytes: u64) {
    add(counter as u32, bytes);
}

/// Counts a selected socket by what it carries.
#[inline(always)]
pub fn count_protocol(protocol: Protocol) {
    add(protocol.position(), 0);
}

#[inline(always)]
fn add(position: u32, bytes: u64) {
    if let Some(count) = COUNTS.get_ptr_mut(position) {
        // SAFETY: a slot of this CPU's own; a run that is preempted here may lose its addition
        // to the one that preempts it, which is as good as a per-CPU counter gets.
        unsafe {
            (*count)[0] += 1;
            (*count)[1] += bytes;
        }
    }
}
