//! The next bytes of a process's buffer, read at once: one read of its memory takes longer than everything else that is
//! done for a frame.

use core::{arch::asm, ffi::c_void, ptr::read_volatile};

use aya_ebpf::helpers::{bpf_probe_read_user_buf, generated::bpf_copy_from_user};
use observer_common::scanner::OVERRUN;

/// Most bytes that are read at once: a few small RPCs. Also used as a mask.
const LENGTH: u32 = 255;

/// Number of bytes that [`copy_short`] copies: most field blocks are not longer.
pub const SHORT: u32 = 64;

/// Bytes of the process's memory from an address on.
#[repr(C)]
pub struct Window {
    from: u64,
    length: u64,
    /// Offset of the bytes of the last [`Window::hold`].
    at: u64,
    /// At the end, [`SHORT`] bytes that may be copied but have no meaning.
    bytes: [u8; (LENGTH + SHORT) as usize],
    _reserved: [u8; 1],
}

const _: () = assert!(OVERRUN <= SHORT as usize);

impl Window {
    /// Empties the window for the next transfer: the memory may have changed.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// The offset of these bytes of the process, if the window has all of them.
    #[inline(always)]
    fn place(&self, from: u64, n: u32) -> Option<u64> {
        let at = from.wrapping_sub(self.from);
        (at < self.length && at + u64::from(n) <= self.length).then_some(at)
    }

    /// The address of these bytes of the process in the window, if it has all of them.
    #[inline(always)]
    pub fn find(&self, from: u64, n: u32) -> Option<*const u8> {
        let at = self.place(from, n)? & u64::from(LENGTH);
        // SAFETY: in bounds by the mask.
        Some(unsafe { self.bytes.as_ptr().add(at as usize) })
    }

    /// Reads these `n` bytes of the process into the window, unless it has them already. `left`: the bytes from there
    /// to the end of the buffer. `None` if they cannot be read.
    #[inline(always)]
    pub fn hold<const SLEEPS: bool>(&mut self, from: u64, n: u32, left: u64) -> Option<()> {
        if let Some(at) = self.place(from, n) {
            self.at = at;
            return Some(());
        }
        self.at = 0;
        self.from = from;
        self.length = 0;
        let length = if left < u64::from(LENGTH) { left as u32 } else { LENGTH };
        // The bytes after them may be on a page that is not present.
        self.fill::<SLEEPS>(length).or_else(|| self.fill::<SLEEPS>(n))
    }

    #[inline(always)]
    fn fill<const SLEEPS: bool>(&mut self, length: u32) -> Option<()> {
        let length = length & LENGTH;
        // SAFETY: in bounds by the mask; the helper checks the address.
        unsafe {
            let to = core::slice::from_raw_parts_mut(self.bytes.as_mut_ptr(), length as usize);
            read_user::<SLEEPS>(self.from, to)?;
        }
        self.length = u64::from(length);
        Some(())
    }

    /// Copies the bytes of the last [`Window::hold`] and those after them, [`OVERRUN`] bytes in all.
    ///
    /// # Safety
    ///
    /// There is as much room at `to`.
    #[inline(always)]
    pub unsafe fn put(&self, to: *mut u8) {
        // Read back from the map: so the verifier follows the code after this once, not once for each place.
        // SAFETY: a field of this struct.
        let at = unsafe { read_volatile(&raw const self.at) } & u64::from(LENGTH);
        // SAFETY: in bounds by the mask; the caller has the room.
        unsafe { copy_16(self.bytes.as_ptr().add(at as usize), to) };
    }
}

/// Reads memory of the process. An invocation that `SLEEPS` waits until it is there.
///
/// # Safety
///
/// Other invocations fail if the program may sleep, and the other way round.
#[inline(always)]
pub unsafe fn read_user<const SLEEPS: bool>(from: u64, to: &mut [u8]) -> Option<()> {
    if SLEEPS {
        let (at, n) = (to.as_mut_ptr().cast(), to.len() as u32);
        // SAFETY: the helper writes that many bytes, and checks the address.
        return (unsafe { bpf_copy_from_user(at, n, from as *const c_void) } == 0).then_some(());
    }
    // SAFETY: likewise.
    unsafe { bpf_probe_read_user_buf(from as *const u8, to) }.ok()
}

/// Copies [`SHORT`] bytes, even if fewer are wanted.
///
/// # Safety
///
/// `from` is from [`Window::find`], and there is as much room at `to`.
#[inline(always)]
pub unsafe fn copy_short(from: *const u8, to: *mut u8) {
    const { assert!(SHORT == 4 * 16) };
    // SAFETY: the window has as many bytes after its last place; the caller has the room.
    unsafe {
        copy_16(from, to);
        copy_16(from.add(16), to.add(16));
        copy_16(from.add(32), to.add(32));
        copy_16(from.add(48), to.add(48));
    }
}

/// Copies 16 bytes that may be unaligned: the compiler would copy them one by one.
///
/// # Safety
///
/// Both are valid for 16 bytes.
#[inline(always)]
unsafe fn copy_16(from: *const u8, to: *mut u8) {
    // SAFETY: reads and writes 16 bytes.
    unsafe {
        asm!(
            "{first} = *(u64 *)({from} + 0)",
            "{second} = *(u64 *)({from} + 8)",
            "*(u64 *)({to} + 0) = {first}",
            "*(u64 *)({to} + 8) = {second}",
            from = in(reg) from,
            to = in(reg) to,
            first = out(reg) _,
            second = out(reg) _,
        );
    }
}
