//! Where a run keeps what does not fit on its 512 bytes of stack, and builds its record.

use core::arch::asm;

use observer_common::{block::Tally, record::ITEM_ALIGNMENT};

use crate::{buffers::Buffers, connection::Connection, maps::SCRATCH, watch::Call, window::Window};

/// Slots per CPU: how deep runs may preempt each other.
pub const SLOTS: u32 = 4;

/// A record is sent before the next step once it is this long: a step adds at most the totals of
/// DATA frames, an item header and a copy.
pub const RECORD_FULL: u32 = 12 << 10;

/// Most bytes that are copied in one step.
pub const COPY_MAX: u32 = 4095;

/// Longest record: a full one less a byte, an item header, the longest copy, and what is cleared behind it.
pub const RECORD_CAPACITY: usize = (20 << 10) + ITEM_ALIGNMENT as usize;

/// One slot.
#[repr(C)]
pub struct Scratch {
    busy: u64,
    /// Length of the record so far.
    pub length: u32,
    /// Its length without items.
    pub empty: u32,
    /// Offset of the item that bytes are being copied into; 0 if none is open.
    pub item: u32,
    /// Bytes copied into it.
    pub captured: u32,
    /// When the call was looked at.
    pub time_ns: u64,
    /// What ended in DATA frames since the last item.
    pub data: Data,
    /// Position up to which what was found was dropped, because the record was full before the boundary
    /// was believed.
    pub dropped: u64,
    /// Bytes of earlier calls that will be told of in no record, if the boundary that is tried is believed.
    pub untold: u64,
    /// What bytes that went by unseen before these completed: bits of `event`.
    pub pending: u32,
    /// Last stream of which this walk found headers that do not end it; 0 if none.
    pub begun: u32,
    /// Who sent a header block in this walk: 1 the client, 2 the server, 0 not known.
    pub sender: u32,
    /// Not 0 once something of a stream was found in this walk.
    pub streams: u32,
    /// Not 0 while the direction is out of step: what is found is not told.
    pub searching: u32,
    /// The call that is walked over.
    pub call: Call,
    pub buffers: Buffers,
    pub window: Window,
    /// What is counted of a record that could not be sent.
    pub tally: Tally,
    /// What a new connection is put together in.
    pub connection: Connection,
    pub record: [u8; RECORD_CAPACITY],
}

/// What ended in DATA frames of one stream; becomes a `DataItem`.
#[repr(C)]
pub struct Data {
    pub message_bytes: u64,
    pub messages: u64,
    pub stream: u32,
    /// Bits of `data_flag`.
    pub flags: u32,
}

/// Claims a slot of this CPU, if one is free.
#[inline(always)]
pub fn claim() -> Option<&'static mut Scratch> {
    let mut index = 0;
    while index < SLOTS {
        let slot = SCRATCH.get_ptr_mut(index)?;
        // SAFETY: valid for the run, and exclusive once claimed.
        let slot = unsafe { &mut *slot };
        if exchange(&mut slot.busy, 1) == 0 {
            return Some(slot);
        }
        index += 1;
    }
    None
}

/// Exchanges two values atomically: a run may be preempted between looking and claiming. rustc has
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
pub fn release(scratch: &mut Scratch) {
    scratch.busy = 0;
}
