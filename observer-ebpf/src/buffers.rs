//! The buffers of a process that a transfer read into or wrote from.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_loop, bpf_probe_read_kernel, bpf_probe_read_user};
use observer_common::layout::Field;

use crate::{
    globals,
    kernel::{Address, read},
};

/// How a transfer's buffers are described.
#[derive(Clone, Copy)]
pub enum Shape {
    /// One buffer: read, recvfrom, write, sendto.
    Flat { base: u64 },
    /// An array of `struct iovec`: readv, writev.
    Vector { iov: u64, iovecs: Iovecs },
    /// A `struct user_msghdr`: recvmsg, sendmsg.
    Message { header: u64, iovecs: Iovecs },
    /// An array of `struct mmsghdr`: recvmmsg, sendmmsg.
    Messages { headers: u64, iovecs: Iovecs },
    /// The kernel's own `struct iov_iter`, after the transfer.
    Iterator { iterator: Address },
    /// Not memory of the process, or not known.
    Elsewhere,
}

/// The memory and width of a transfer's `struct iovec`, and of the structs that point to them.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Iovecs {
    /// The process's, which has 64 bits.
    Native,
    /// The process's, which has 32 bits.
    Compat,
    /// The kernel's.
    Kernel,
}

/// `struct iovec`
#[derive(Clone, Copy)]
#[repr(C)]
struct Iovec {
    base: u64,
    length: u64,
}

/// The start of `struct user_msghdr`
#[derive(Clone, Copy)]
#[repr(C)]
struct MessageHeader {
    name: u64,
    name_length: u64,
    iov: u64,
    iov_length: u64,
}

/// The start of `struct compat_msghdr`
#[derive(Clone, Copy)]
#[repr(C)]
struct CompatMessageHeader {
    name: u32,
    name_length: u32,
    iov: u32,
    iov_length: u32,
}

/// `sizeof(struct mmsghdr)`, and the offset of `msg_len` in it
const MMSGHDR_SIZE: u64 = 64;
const MMSGHDR_LENGTH: u64 = 56;

/// `sizeof(struct compat_mmsghdr)`
const COMPAT_MMSGHDR_SIZE: u64 = 32;

/// The buffers that are still to be walked over.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Buffers {
    /// Next byte.
    pub base: u64,
    /// Bytes that are left in the current buffer.
    pub left: u64,
    /// Bytes of the current message in later buffers.
    later: u64,
    /// Next `struct iovec`.
    iov: u64,
    /// Next `struct mmsghdr`, and how many are left.
    headers: u64,
    headers_left: u64,
    /// Bytes of the transfer before `iov`, while the array is still walked backwards; 0 after that.
    behind: u64,
    /// An [`Iovecs`].
    iovecs: u32,
    /// Not 0 if the buffers were found.
    readable: u32,
}

/// Number of `struct iovec` that are walked backwards at first. Each step of the walk does one more.
const BEHIND_AT_ONCE: u32 = 16;

impl Buffers {
    /// Starts with the buffers of a transfer of `length` bytes or, for [`Shape::Messages`], `length` messages.
    #[inline(always)]
    pub fn begin(&mut self, shape: Shape, length: u64) {
        self.clear();
        self.readable = u32::from(self.try_begin(shape, length).is_some());
    }

    /// Whether the buffers are memory of the process, and their description could be read.
    #[inline(always)]
    pub fn is_readable(&self) -> bool {
        self.readable != 0
    }

    #[inline(always)]
    fn try_begin(&mut self, shape: Shape, length: u64) -> Option<()> {
        match shape {
            Shape::Flat { base } => {
                self.base = base;
                self.left = length;
            }
            Shape::Vector { iov, iovecs } => {
                self.iov = iov;
                self.iovecs = iovecs as u32;
                self.later = length;
            }
            Shape::Message { header, iovecs } => {
                self.iov = message(header, iovecs)?.0;
                self.iovecs = iovecs as u32;
                self.later = length;
            }
            // Only for 64-bit processes: see `message_at`.
            Shape::Messages { headers, .. } => {
                self.headers = headers;
                self.headers_left = length;
            }
            Shape::Iterator { iterator } => return self.begin_iterator(iterator, length),
            Shape::Elsewhere => return None,
        }
        Some(())
    }

    /// Starts `length` bytes before the place of a `struct iov_iter`. `None` if it is not over memory of the process.
    #[inline(never)]
    fn begin_iterator(&mut self, iterator: Address, length: u64) -> Option<()> {
        let kind: u8 = read(iterator, Field::IteratorType)?;
        let is = |position| u32::from(kind) == globals::iterator_kind(position);
        let offset: u64 = read(iterator, Field::IteratorOffset)?;
        let pointer: u64 = read(iterator, Field::IteratorIovec)?;
        if is(globals::ITER_UBUF) {
            self.base = (pointer + offset).wrapping_sub(length);
            self.left = length;
            return Some(());
        }
        if !is(globals::ITER_IOVEC) {
            return None;
        }
        self.iovecs = Iovecs::Kernel as u32;
        self.iov = pointer;
        self.later = length;
        if offset >= length {
            let iovec = self.iovec()?;
            self.iov += iovec_size(self.iovecs);
            self.base = iovec.base + (offset - length);
            self.left = length;
            self.later = 0;
            return Some(());
        }
        self.behind = length - offset;
        let mut steps = 0;
        while self.behind != 0 && steps < BEHIND_AT_ONCE {
            self.back()?;
            steps += 1;
        }
        Some(())
    }

    /// Goes back by one `struct iovec`.
    #[inline(never)]
    fn back(&mut self) -> Option<()> {
        self.iov -= iovec_size(self.iovecs);
        let iovec = self.iovec()?;
        if iovec.length < self.behind {
            self.behind -= iovec.length;
            return Some(());
        }
        self.base = iovec.base + (iovec.length - self.behind);
        self.left = if self.behind < self.later { self.behind } else { self.later };
        self.later -= self.left;
        self.behind = 0;
        self.iov += iovec_size(self.iovecs);
        Some(())
    }

    #[inline(always)]
    fn iovec(&self) -> Option<Iovec> {
        if self.iovecs == Iovecs::Kernel as u32 {
            // SAFETY: the helper checks the address.
            return unsafe { bpf_probe_read_kernel(self.iov as *const Iovec) }.ok();
        }
        iovec_at(self.iov, self.iovecs)
    }

    /// Whether all bytes have been walked.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.left == 0 && self.later == 0 && self.headers_left == 0
    }

    /// Moves to the next buffer. `None` if its description cannot be read.
    #[inline(always)]
    pub fn next(&mut self) -> Option<()> {
        if self.later == 0 {
            let header: MessageHeader = read_user(self.headers)?;
            let length: u32 = read_user(self.headers + MMSGHDR_LENGTH)?;
            self.iov = header.iov;
            self.later = u64::from(length);
            self.headers += MMSGHDR_SIZE;
            self.headers_left -= 1;
            return Some(());
        }
        if self.behind != 0 {
            return self.back();
        }
        let iovec = self.iovec()?;
        self.iov += iovec_size(self.iovecs);
        self.base = iovec.base;
        self.left = if iovec.length < self.later { iovec.length } else { self.later };
        self.later -= self.left;
        Some(())
    }

    /// Passes over bytes of the current buffer.
    #[inline(always)]
    pub fn advance(&mut self, n: u32) {
        self.base += u64::from(n);
        self.left -= u64::from(n);
    }

    /// Passes over the first `n` bytes of all. `None` if they are in too many buffers, or if these cannot be read.
    #[inline(always)]
    pub fn skip(&mut self, mut n: u64) -> Option<()> {
        const MAX: u32 = 32;
        let mut steps = 0;
        while n != 0 {
            if steps == MAX {
                return None;
            }
            steps += 1;
            if self.left == 0 {
                self.next()?;
            }
            let passed = if n < self.left { n } else { self.left };
            self.base += passed;
            self.left -= passed;
            n -= passed;
        }
        Some(())
    }

    /// Removes all buffers.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.left = 0;
        self.later = 0;
        self.headers_left = 0;
        self.behind = 0;
        self.iovecs = Iovecs::Native as u32;
    }
}

/// The address of the `n`th of an array of `struct mmsghdr`, which starts with a `struct user_msghdr`.
#[inline(always)]
pub const fn message_at(headers: u64, n: u64, iovecs: Iovecs) -> u64 {
    let size = match iovecs {
        Iovecs::Compat => COMPAT_MMSGHDR_SIZE,
        Iovecs::Native | Iovecs::Kernel => MMSGHDR_SIZE,
    };
    headers.wrapping_add(n.wrapping_mul(size))
}

/// The array of `struct iovec` of a `struct user_msghdr`, and its length.
#[inline(always)]
fn message(header: u64, iovecs: Iovecs) -> Option<(u64, u64)> {
    if iovecs == Iovecs::Compat {
        let header: CompatMessageHeader = read_user(header)?;
        return Some((u64::from(header.iov), u64::from(header.iov_length)));
    }
    let header: MessageHeader = read_user(header)?;
    Some((header.iov, header.iov_length))
}

/// `sizeof(struct iovec)`, for an [`Iovecs`].
#[inline(always)]
const fn iovec_size(iovecs: u32) -> u64 {
    if iovecs == Iovecs::Compat as u32 { 8 } else { size_of::<Iovec>() as u64 }
}

/// A `struct iovec` of the process.
#[inline(always)]
fn iovec_at(address: u64, iovecs: u32) -> Option<Iovec> {
    if iovecs == Iovecs::Compat as u32 {
        let [base, length] = read_user::<[u32; 2]>(address)?.map(u64::from);
        return Some(Iovec { base, length });
    }
    read_user(address)
}

/// A sum of lengths.
#[repr(C)]
struct Sum {
    /// Address of the struct with the next length.
    next: u64,
    iovecs: u32,
    unreadable: u32,
    bytes: u64,
}

impl Sum {
    /// Adds up the lengths in `n` structs from this address on. `None` if one cannot be read.
    #[inline(always)]
    fn of(next: u64, n: u64, iovecs: Iovecs, add: *mut c_void) -> Option<u64> {
        // `UIO_MAXIOV`, which is also the most messages of a system call.
        const MAX: u64 = 1024;
        let n = if n < MAX { n } else { MAX };
        let mut sum = Self { next, iovecs: iovecs as u32, unreadable: 0, bytes: 0 };
        // SAFETY: the callbacks take this sum, which outlives the loop.
        unsafe { bpf_loop(n as u32, add, (&raw mut sum).cast(), 0) };
        (sum.unreadable == 0).then_some(sum.bytes)
    }

    #[inline(always)]
    fn add(&mut self, length: Option<u64>, size: u64) -> i64 {
        match length {
            Some(length) => self.bytes = self.bytes.wrapping_add(length),
            None => self.unreadable = 1,
        }
        self.next += size;
        0
    }
}

/// Bytes that fit into the buffers of a `struct user_msghdr`; `None` if it cannot be read.
#[inline(always)]
pub fn message_room(header: u64, iovecs: Iovecs) -> Option<u64> {
    let (iov, n) = message(header, iovecs)?;
    Sum::of(iov, n, iovecs, add_room as *mut c_void)
}

extern "C" fn add_room(_: u32, sum: *mut c_void) -> i64 {
    // SAFETY: `Sum::of` passes it.
    let sum = unsafe { &mut *sum.cast::<Sum>() };
    let length = iovec_at(sum.next, sum.iovecs).map(|iovec| iovec.length);
    sum.add(length, iovec_size(sum.iovecs))
}

/// Bytes that a system call on several messages moved; `None` if an array of `struct mmsghdr` cannot be read.
#[inline(always)]
pub fn messages_length(headers: u64, messages: u64) -> Option<u64> {
    Sum::of(headers, messages, Iovecs::Native, add_message as *mut c_void)
}

extern "C" fn add_message(_: u32, sum: *mut c_void) -> i64 {
    // SAFETY: `Sum::of` passes it.
    let sum = unsafe { &mut *sum.cast::<Sum>() };
    let length = read_user::<u32>(sum.next + MMSGHDR_LENGTH).map(u64::from);
    sum.add(length, MMSGHDR_SIZE)
}

#[inline(always)]
fn read_user<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(address as *const T) }.ok()
}
