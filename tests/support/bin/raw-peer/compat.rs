//! System calls of 32-bit processes: interrupt 0x80, which any process on x86-64 may use, with addresses and structs
//! of 32 bits.

use std::arch::asm;
use std::ptr;

use rustix::fd::AsRawFd as _;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::os::fd::OwnedFd;
use support::raw::command::Compat;

/// The numbers of the system calls (asm/unistd_32.h), by direction: received, sent.
mod number {
    pub(super) const PLAIN: [u32; 2] = [3, 4];
    pub(super) const VECTOR: [u32; 2] = [145, 146];
    pub(super) const POSITIONED: [u32; 2] = [378, 379];
    pub(super) const ADDRESSED: [u32; 2] = [371, 369];
    pub(super) const MESSAGE: [u32; 2] = [372, 370];
    pub(super) const MESSAGES: [u32; 2] = [337, 345];
    pub(super) const SOCKETCALL: u32 = 102;
    /// The first argument of `socketcall`: recv and send, recvmsg and sendmsg.
    pub(super) const SOCKETCALL_BUFFER: [u32; 2] = [10, 9];
    pub(super) const SOCKETCALL_MESSAGE: [u32; 2] = [17, 16];
}

/// The most bytes of one system call, and the bytes of the mapping for its structs.
const ROOM: usize = 64 << 10;
const STRUCTS: usize = 4 << 10;

/// The number of buffers of a vector.
const BUFFERS: usize = 3;

/// For `recvmmsg`: does not wait for more messages after the first.
const MSG_WAITFORONE: u32 = 0x1_0000;

/// Memory below 4 GiB: the structs, then the bytes.
struct Low(*mut u8);

impl Low {
    fn new() -> rustix::io::Result<Self> {
        const BELOW_4_GIB: MapFlags = MapFlags::from_bits_retain(libc::MAP_32BIT as u32);
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: memory of its own.
        let memory = unsafe {
            mmap_anonymous(ptr::null_mut(), STRUCTS + ROOM, protection, flags | BELOW_4_GIB)?
        };
        Ok(Self(memory.cast()))
    }

    fn address(&self, offset: usize) -> u32 {
        (self.0.addr() + offset) as u32
    }

    fn put(&self, offset: usize, words: &[u32]) {
        for (n, word) in words.iter().enumerate() {
            // SAFETY: structs take less than `STRUCTS`.
            unsafe { self.0.add(offset + 4 * n).cast::<u32>().write_unaligned(*word) };
        }
    }

    fn word(&self, offset: usize) -> u32 {
        // SAFETY: structs take less than `STRUCTS`.
        unsafe { self.0.add(offset).cast::<u32>().read_unaligned() }
    }
}

impl Drop for Low {
    fn drop(&mut self) {
        // SAFETY: nothing refers to it.
        let _ = unsafe { munmap(self.0.cast(), STRUCTS + ROOM) };
    }
}

pub(crate) fn write(socket: &OwnedFd, how: Compat, bytes: &[u8]) -> rustix::io::Result<usize> {
    let low = Low::new()?;
    let n = bytes.len().min(ROOM);
    // SAFETY: there is so much room.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), low.0.add(STRUCTS), n) };
    call(socket, how, &low, n, true)
}

pub(crate) fn read(socket: &OwnedFd, how: Compat, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    let low = Low::new()?;
    call(socket, how, &low, buffer.len().min(ROOM), false)
}

fn call(
    socket: &OwnedFd,
    how: Compat,
    low: &Low,
    length: usize,
    is_sent: bool,
) -> rustix::io::Result<usize> {
    const VECTOR: usize = 0;
    const HEADER: usize = 256;
    const ARGUMENTS: usize = 1024;
    let fd = socket.as_raw_fd() as u32;
    let bytes = low.address(STRUCTS);
    let buffers = vector(low, VECTOR, length);
    // name, its length, iov, how many, control, its length, flags
    let header = [0, 0, low.address(VECTOR), buffers, 0, 0, 0];
    low.put(HEADER, &header);
    let of = |[received, sent]: [u32; 2]| if is_sent { sent } else { received };
    let (vector, message) = (low.address(VECTOR), low.address(HEADER));
    let socketcall = |number, arguments: &[u32]| {
        low.put(ARGUMENTS, arguments);
        interrupt(number::SOCKETCALL, [number, low.address(ARGUMENTS), 0, 0, 0])
    };
    let all = length as u32;
    let returned = match how {
        Compat::Plain => interrupt(of(number::PLAIN), [fd, bytes, all, 0, 0]),
        Compat::Vector => interrupt(of(number::VECTOR), [fd, vector, buffers, 0, 0]),
        Compat::Positioned => {
            interrupt(of(number::POSITIONED), [fd, vector, buffers, u32::MAX, u32::MAX])
        }
        Compat::Addressed => interrupt(of(number::ADDRESSED), [fd, bytes, all, 0, 0]),
        Compat::Message => interrupt(of(number::MESSAGE), [fd, message, 0, 0, 0]),
        Compat::SocketcallBuffer => socketcall(of(number::SOCKETCALL_BUFFER), &[fd, bytes, all, 0]),
        Compat::SocketcallMessage => socketcall(of(number::SOCKETCALL_MESSAGE), &[fd, message, 0]),
        Compat::Messages => return messages(low, fd, length, of(number::MESSAGES)),
    };
    result(returned)
}

/// Writes a vector of adjacent buffers; returns their number.
fn vector(low: &Low, at: usize, length: usize) -> u32 {
    let each = length.div_ceil(BUFFERS);
    let mut buffers = 0;
    for from in (0..length).step_by(each.max(1)) {
        let piece = each.min(length - from) as u32;
        low.put(at + 8 * buffers, &[low.address(STRUCTS + from), piece]);
        buffers += 1;
    }
    buffers as u32
}

/// A message for each third of the bytes.
fn messages(low: &Low, fd: u32, length: usize, number: u32) -> rustix::io::Result<usize> {
    const HEADERS: usize = 512;
    const SIZE: usize = 32;
    const LENGTH: usize = 28;
    let count = vector(low, 0, length);
    for n in 0..count as usize {
        low.put(HEADERS + SIZE * n, &[0, 0, low.address(8 * n), 1, 0, 0, 0, 0]);
    }
    let arguments = [fd, low.address(HEADERS), count, MSG_WAITFORONE, 0];
    let done = result(interrupt(number, arguments))?;
    Ok((0..done).map(|n| low.word(HEADERS + SIZE * n + LENGTH) as usize).sum())
}

fn result(returned: i32) -> rustix::io::Result<usize> {
    usize::try_from(returned).map_err(|_| Errno::from_raw_os_error(-returned))
}

fn interrupt(number: u32, [first, second, third, fourth, fifth]: [u32; 5]) -> i32 {
    let returned: u32;
    // SAFETY: the calls read and write only what they are given, which is in a mapping of ours. The
    // compiler keeps rbx and rbp for itself; the latter is the sixth argument, the flags of preadv2.
    unsafe {
        asm!(
            "xchg rbx, {first}",
            "xchg rbp, {sixth}",
            "int 0x80",
            "xchg rbp, {sixth}",
            "xchg rbx, {first}",
            first = inout(reg) u64::from(first) => _,
            sixth = inout(reg) 0_u64 => _,
            inout("eax") number => returned,
            in("ecx") second,
            in("edx") third,
            in("esi") fourth,
            in("edi") fifth,
        );
    }
    returned.cast_signed()
}
