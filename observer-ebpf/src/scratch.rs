//! Memory for an invocation's state and record, which do not fit on its 512 bytes of stack.

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::{macros::map, maps::PerCpuArray};
use observer_common::driver::{Scratch, connection::Connection};

use crate::{host::Host, maps::Values as _, tls::calls::Plaintext};

/// Slots per CPU: how deep invocations may preempt each other.
const SLOTS: u32 = 4;

/// Slots of invocations: several for each CPU, because one invocation may be preempted by another.
#[map]
static SCRATCH: PerCpuArray<Slot> = PerCpuArray::with_max_entries(SLOTS, 0);

/// Slots per CPU for invocations that may sleep: meanwhile others run.
const SLEEPABLE_SLOTS: u32 = 8;

/// Slots of these invocations. The daemon sets the size.
#[map]
static TLS_SCRATCH: PerCpuArray<Slot<true>> = PerCpuArray::with_max_entries(1, 0);

/// The memory of one invocation, which may sleep or not.
#[repr(C)]
pub struct Slot<const SLEEPS: bool = false> {
    busy: u64,
    /// The driver's state.
    pub scratch: Scratch<Host<SLEEPS>>,
    /// Plaintext of a TLS library that is being walked over, if there is some.
    pub plaintext: MaybeUninit<Plaintext>,
    /// A connection that is new. Last, because most transfers are on known ones.
    pub connection: Connection,
}

/// Claims a slot of this CPU, if one is free.
#[inline(always)]
pub fn claim() -> Option<&'static mut Slot> {
    claim_in(&SCRATCH, SLOTS)
}

/// Claims a slot for an invocation that may sleep.
#[inline(always)]
pub fn claim_sleepable() -> Option<&'static mut Slot<true>> {
    claim_in(&TLS_SCRATCH, SLEEPABLE_SLOTS)
}

#[inline(always)]
fn claim_in<const SLEEPS: bool>(
    slots: &PerCpuArray<Slot<SLEEPS>>,
    count: u32,
) -> Option<&'static mut Slot<SLEEPS>> {
    let mut index = 0;
    while index < count {
        let slot = slots.value(index)?;
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
pub fn release<const SLEEPS: bool>(slot: &mut Slot<SLEEPS>) {
    slot.busy = 0;
}

/// The same pointer, with an origin that the compiler does not know. So it does not know what was written there, and
/// does not copy the code after this for each way to it.
#[inline(always)]
pub fn opaque<T>(mut pointer: *mut T) -> *mut T {
    // SAFETY: one instruction, on a register.
    unsafe { asm!("{pointer} += 0", pointer = inout(reg) pointer) };
    pointer
}
