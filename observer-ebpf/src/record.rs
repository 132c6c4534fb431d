//! The record that an invocation builds, item by item.

use core::{arch::asm, mem::offset_of};

use observer_common::{
    driver::RECORD_CAPACITY,
    record::{ITEM_ALIGNMENT, ItemHeader},
};

/// Highest offset of an item: the driver keeps to it, the mask shows it to the verifier.
const ITEM_MASK: u32 = (16 << 10) - 1;

/// Mask for lengths of records, and for offsets of bytes.
const LENGTH_MASK: u32 = (32 << 10) - 1;

/// The bytes of a record.
#[repr(C, align(8))]
pub struct Record([u8; RECORD_CAPACITY]);

impl Record {
    /// The address of an item, or of bytes in one.
    #[inline(always)]
    pub fn place(&mut self, at: u32) -> *mut u8 {
        // SAFETY: in bounds by the mask.
        unsafe { self.0.as_mut_ptr().add((at & ITEM_MASK) as usize) }
    }

    /// Writes a header, or the struct after one.
    #[inline(always)]
    pub fn put<T>(&mut self, at: u32, value: T) {
        const { assert!(size_of::<T>().is_multiple_of(ITEM_ALIGNMENT as usize)) };
        const { assert!(align_of::<T>() <= ITEM_ALIGNMENT as usize) };
        // SAFETY: items are aligned, and shorter than the record from the highest offset on.
        unsafe { self.place(at).cast::<T>().write(value) };
    }

    /// Writes `captured` into the item header at this offset.
    #[inline(always)]
    pub fn put_captured(&mut self, at: u32, captured: u32) {
        // SAFETY: likewise, within the item's header.
        unsafe { *self.place(at).add(offset_of!(ItemHeader, captured)).cast::<u32>() = captured };
    }

    /// Clears an item's padding, which starts at `to`: the copy may have left bytes of a message there.
    ///
    /// # Safety
    ///
    /// There is room for eight bytes at `to`.
    #[inline(always)]
    pub unsafe fn clear_padding(to: *mut u8) {
        const { assert!(ITEM_ALIGNMENT == 8) };
        // With one store, aligned or not, as in `window`.
        // SAFETY: writes eight bytes.
        unsafe { asm!("*(u64 *)({to} + 0) = {zero}", to = in(reg) to, zero = in(reg) 0_u64) };
    }

    /// The byte at an offset; 0 after the record's end.
    #[inline(always)]
    pub fn byte(&self, at: u32) -> u8 {
        let mut at = u64::from(at);
        // So that the compiler compares the same register that it adds: the verifier does not track copies.
        // SAFETY: one instruction, on a register.
        unsafe { asm!("{at} &= {mask}", at = inout(reg) at, mask = const LENGTH_MASK) };
        if at as usize >= RECORD_CAPACITY {
            return 0;
        }
        // SAFETY: in bounds.
        unsafe { *self.0.as_ptr().add(at as usize) }
    }

    /// The record's first bytes, and their number; `None` if there are not that many.
    #[inline(always)]
    pub fn first(&self, length: u32) -> Option<(*const u8, u32)> {
        let length = length & LENGTH_MASK;
        (length as usize <= RECORD_CAPACITY).then_some((self.0.as_ptr(), length))
    }
}
