//! The record that an invocation puts together, item by item.

use core::{arch::asm, mem::offset_of};

use observer_common::{
    driver::RECORD_CAPACITY,
    record::{ITEM_ALIGNMENT, ItemHeader},
};

/// Items begin below this: the verifier sees the mask, the driver makes it true.
const ITEM_MASK: u32 = (16 << 10) - 1;

/// No record is longer.
const LENGTH_MASK: u32 = (32 << 10) - 1;

/// Its bytes.
#[repr(C, align(8))]
pub struct Record([u8; RECORD_CAPACITY]);

impl Record {
    /// Where an item is, or bytes of one.
    #[inline(always)]
    pub fn place(&mut self, at: u32) -> *mut u8 {
        // SAFETY: in bounds by the mask.
        unsafe { self.0.as_mut_ptr().add((at & ITEM_MASK) as usize) }
    }

    /// Writes a header or what follows one.
    #[inline(always)]
    pub fn put<T>(&mut self, at: u32, value: T) {
        const { assert!(size_of::<T>().is_multiple_of(ITEM_ALIGNMENT as usize)) };
        const { assert!(align_of::<T>() <= ITEM_ALIGNMENT as usize) };
        // SAFETY: items are aligned, and shorter than what there is behind the last place.
        unsafe { self.place(at).cast::<T>().write(value) };
    }

    /// Writes how many bytes an item has.
    #[inline(always)]
    pub fn put_captured(&mut self, at: u32, captured: u32) {
        // SAFETY: likewise, of the item's header.
        unsafe { *self.place(at).add(offset_of!(ItemHeader, captured)).cast::<u32>() = captured };
    }

    /// Of what is behind a copy's end, which may be of a message, nothing is left in the item's padding.
    ///
    /// # Safety
    ///
    /// There is room for eight bytes at `to`.
    #[inline(always)]
    pub unsafe fn clear_padding(to: *mut u8) {
        const { assert!(ITEM_ALIGNMENT == 8) };
        // By one store, aligned or not, as in `window`.
        // SAFETY: writes so many bytes.
        unsafe { asm!("*(u64 *)({to} + 0) = {zero}", to = in(reg) to, zero = in(reg) 0_u64) };
    }

    /// The byte at an offset, 0 behind the record's end.
    #[inline(always)]
    pub fn byte(&self, at: u32) -> u8 {
        let mut at = u64::from(at);
        // So that the compiler compares what it adds: the verifier knows of no copies.
        // SAFETY: one instruction, on a register.
        unsafe { asm!("{at} &= {mask}", at = inout(reg) at, mask = const LENGTH_MASK) };
        if at as usize >= RECORD_CAPACITY {
            return 0;
        }
        // SAFETY: in bounds.
        unsafe { *self.0.as_ptr().add(at as usize) }
    }

    /// Its first bytes; `None` if there are fewer.
    #[inline(always)]
    pub fn first(&self, length: u32) -> Option<(*const u8, u32)> {
        let length = length & LENGTH_MASK;
        (length as usize <= RECORD_CAPACITY).then_some((self.0.as_ptr(), length))
    }
}
