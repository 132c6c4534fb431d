//! Where an invocation keeps what does not fit on its 512 bytes of stack, and builds its record.

use core::arch::asm;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use observer_common::driver::{Scratch, connection::Connection};

use crate::{host::Host, maps::Values as _};

/// Slots per CPU: how deep invocations may preempt each other.
const SLOTS: u32 = 4;

/// Where invocations build their records: several to a CPU, because one may be preempted by another.
#[map]
static SCRATCH: PerCpuArray<Slot> = PerCpuArray::with_max_entries(SLOTS, 0);

/// One slot.
#[repr(C)]
pub struct Slot {
    busy: u64,
    /// What the driver works with.
    pub scratch: Scratch<Host>,
    /// What a new connection is put together in: last, as most transfers are of known ones.
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

/// Exchanges two values atomically: an invocation may be preempted between looking and claiming. rustc has
/// no compare-and-swap for BPF, the instruction set has (since Linux 5.12).
#[inline(always)]
fn exchange(place: &mut u64, mut value: u64) -> u64 {
    // SAFETY: writes only to `place`.
    unsafe {
        asm!("{value} = xchg_64({place} + 0, {value})", value = inout(reg) value, place = in(reg) place);
    }
    value
}

/// Gives the slot back.
#[inline(always)]
pub fn release(slot: &mut Slot) {
    slot.busy = 0;
}
