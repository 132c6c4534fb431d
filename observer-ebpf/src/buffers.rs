//! The process's buffers of one call, one after the other.

use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user};
use observer_common::layout::Field;

use crate::{
    globals,
    kernel::{Address, read},
};

/// How the call named its buffers.
#[derive(Clone, Copy)]
pub enum Shape {
    /// One buffer: read, recvfrom, write, sendto.
    Flat { base: u64 },
    /// An array of `struct iovec`: readv, writev.
    Vector { iov: u64 },
    /// A `struct user_msghdr`: recvmsg, sendmsg.
    Message { header: u64 },
    /// An array of `struct mmsghdr`: recvmmsg, sendmmsg.
    Messages { headers: u64 },
    /// The kernel's own `struct iov_iter`, which has come past them.
    Iterator { iterator: Address },
}

/// `struct iovec`
#[derive(Clone, Copy)]
#[repr(C)]
struct Iovec {
    base: u64,
    length: u64,
}

/// The beginning of `struct user_msghdr`
#[derive(Clone, Copy)]
#[repr(C)]
struct MessageHeader {
    name: u64,
    name_length: u64,
    iov: u64,
    iov_length: u64,
}

/// `sizeof(struct mmsghdr)`, and the offset of `msg_len` in it
const MMSGHDR_SIZE: u64 = 64;
const MMSGHDR_LENGTH: u64 = 56;

/// Buffers still to be walked.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Buffers {
    /// Next byte.
    pub base: u64,
    /// Bytes of the current buffer from there on.
    pub left: u64,
    /// Bytes of the current message in later buffers.
    later: u64,
    /// Next `struct iovec`.
    iov: u64,
    /// Next `struct mmsghdr`, and how many there are from there on.
    headers: u64,
    headers_left: u64,
    /// Bytes before `iov` that the call moved, as long as the array is still walked backwards.
    behind: u64,
    /// Not 0 if the `struct iovec` are the kernel's, not the process's.
    of_kernel: u32,
    /// Not 0 if they could be found.
    readable: u32,
}

/// How many `struct iovec` are walked backwards at once: as many more as the walk has steps.
const BEHIND_AT_ONCE: u32 = 16;

impl Buffers {
    /// Begins with the buffers of a call that moved `length` bytes, or, for
    /// [`Shape::Messages`], `length` messages.
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
            Shape::Vector { iov } => {
                self.iov = iov;
                self.later = length;
            }
            Shape::Message { header } => {
                self.iov = read_user::<MessageHeader>(header)?.iov;
                self.later = length;
            }
            Shape::Messages { headers } => {
                self.headers = headers;
                self.headers_left = length;
            }
            Shape::Iterator { iterator } => return self.begin_iterator(iterator, length),
        }
        Some(())
    }

    /// Goes back by `length` bytes from where a `struct iov_iter` is. `None` if it is not one over
    /// memory of the process.
    #[inline(never)]
    fn begin_iterator(&mut self, iterator: Address, length: u64) -> Option<()> {
        let kind = read::<u8>(iterator, Field::IteratorType)?;
        let offset: u64 = read(iterator, Field::IteratorOffset)?;
        let pointer: u64 = read(iterator, Field::IteratorIovec)?;
        if globals::iterator_ubuf() == Some(kind) {
            self.base = (pointer + offset).wrapping_sub(length);
            self.left = length;
            return Some(());
        }
        if kind != globals::iterator_iovec() {
            return None;
        }
        self.of_kernel = 1;
        self.iov = pointer;
        self.later = length;
        if offset >= length {
            let iovec = self.iovec()?;
            self.iov += size_of::<Iovec>() as u64;
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
        self.iov -= size_of::<Iovec>() as u64;
        let iovec = self.iovec()?;
        if iovec.length < self.behind {
            self.behind -= iovec.length;
            return Some(());
        }
        self.base = iovec.base + (iovec.length - self.behind);
        self.left = if self.behind < self.later { self.behind } else { self.later };
        self.later -= self.left;
        self.behind = 0;
        self.iov += size_of::<Iovec>() as u64;
        Some(())
    }

    #[inline(always)]
    fn iovec(&self) -> Option<Iovec> {
        if self.of_kernel != 0 {
            // SAFETY: the helper checks the address.
            return unsafe { bpf_probe_read_kernel(self.iov as *const Iovec) }.ok();
        }
        read_user(self.iov)
    }

    /// Whether all bytes have been walked.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.left == 0 && self.later == 0 && self.headers_left == 0
    }

    /// Goes on to the next buffer. `None` if its description cannot be read.
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
        self.iov += size_of::<Iovec>() as u64;
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

    /// Nothing can be walked.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.left = 0;
        self.later = 0;
        self.headers_left = 0;
        self.behind = 0;
        self.of_kernel = 0;
    }
}

/// Length of one message of an array of `struct mmsghdr`.
#[inline(always)]
pub fn message_length(headers: u64, index: u64) -> Option<u32> {
    read_user(headers + index * MMSGHDR_SIZE + MMSGHDR_LENGTH)
}

#[inline(always)]
fn read_user<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(address as *const T) }.ok()
}
