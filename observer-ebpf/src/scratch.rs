//! Memory for an invocation's state and record, which do not fit on its 512 bytes of stack.

use core::arch::asm;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use observer_common::driver::{Scratch, connection::Connection};

use crate::{host::Host, maps::Values as _};

/// Slots per CPU: how deep invocations may preempt each other.
const SLOTS: u32 = 4;

/// Slots of invocations: several for each CPU, because one invocation may be preempted by another.
#[map]
static SCRATCH: PerCpuArray<Slot> = PerCpuArray::with_max_entries(SLOTS, 0);

/// The memory of one invocation.
#[repr(C)]
pub struct Slot {
    busy: u64,
    /// The driver's state.
    pub scratch: Scratch<Host>,
    /// A connection that is new. Last, because most transfers are on known ones.
    pub connection: Connection,
}

/// Claims a slot of this CPU, if one is free.
#[inline(always)]
pub fn claim() -> Option<&'static mut Slot> {
    let mut index = 0;
    while index < SLOTS {
        let slot = SCRATCH.value(index)?;
        if exchange(&mut slot.busy, 1) == 0 {
            return Some(slot);
        }
        index += 1;
    }
    None
}

/// Exchanges two values atomically: an invocation may be preempted between a check and a write. The instruction set has
/// that (since Linux 5.12), rustc does not for BPF.
#[inline(always)]
fn exchange(place: &mut u64, mut value: u64) -> u64 {
    // SAFETY: writes only to `place`.
    unsafe {
        asm!("{value} = xchg_64({place} + 0, {value})", value = inout(reg) value, place = in(reg) place);
    }
    value
}

/// Releases a slot.
#[inline(always)]
pub fn release(slot: &mut Slot) {
    slot.busy = 0;
}
