//! The system calls that read and write bytes: exactly the ones that are named.

use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{cmp, fs, mem, ptr, thread};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::AsRawFd as _;
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::mount::MountFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg,
};
use support::pace;
use support::raw::command::{REFUSED_WITH, Read, Write};

use crate::{aio, compat, ring};

/// The most buffers of one system call (`UIO_MAXIOV`), without the empty ones.
const MAX_BUFFERS: usize = 500;

/// The most messages of one system call.
const MAX_MESSAGES: usize = 100;

/// Time for a socket to have room, or for a system call to wait for room.
const LIMIT: Duration = Duration::from_secs(8);

/// The most bytes of a read without a size of its own.
const LARGE: usize = 1 << 20;

/// Writes all bytes.
pub(crate) fn write(socket: &OwnedFd, how: Write, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let n = match how {
            Write::Write => rustix::io::write(socket, bytes),
            Write::Send => rustix::net::send(socket, bytes, SendFlags::NOSIGNAL),
            Write::Partial => send_partially(socket, bytes),
            Write::Pieces(size) => {
                let piece = bytes.chunks(size).next().unwrap_or_default();
                rustix::io::write(socket, piece)
            }
            Write::Vector(size) => {
                let buffers = buffers_to_write(bytes, size);
                retry_on_intr(|| rustix::io::writev(socket, &buffers))
            }
            Write::Message(size) => {
                let (buffers, mut none) =
                    (buffers_to_write(bytes, size), SendAncillaryBuffer::default());
                retry_on_intr(|| sendmsg(socket, &buffers, &mut none, SendFlags::NOSIGNAL))
            }
            Write::Messages(size) => {
                messages(socket, &mut messages_to_write(bytes, size), libc_sendmmsg)
            }
            Write::Splice => splice(socket, bytes),
            Write::SendFile => send_file(socket, bytes),
            Write::Ring => ring::send(socket, bytes),
            Write::ZeroCopy => zero_copy(socket, bytes),
            Write::Positioned(size) => {
                let (buffers, flags) = (buffers_to_write(bytes, size), ReadWriteFlags::empty());
                retry_on_intr(|| rustix::io::pwritev2(socket, &buffers, NEXT, flags))
            }
            Write::Aio => aio::write(socket, bytes),
            Write::Compat(call) => compat::write(socket, call, bytes),
            Write::Tls(..) => Err(Errno::NOTCONN),
        };
        let n = n.with_context(|| format!("{how:?}"))?;
        bytes = bytes.get(n..).context("more written than there is")?;
    }
    Ok(())
}

/// Reads exactly this many bytes, and drops them.
pub(crate) fn read(socket: &OwnedFd, how: Read, length: usize) -> Result<()> {
    let mut buffer = vec![0; cmp::min(length, LARGE)];
    let mut left = length;
    while left > 0 {
        let most = cmp::min(left, buffer.len());
        let buffer = buffer.get_mut(..most).context("a buffer")?;
        let n = match how {
            Read::Read => rustix::io::read(socket, buffer),
            Read::Receive => receive(socket, buffer, RecvFlags::empty()),
            Read::Pieces(size) => {
                rustix::io::read(socket, buffer.chunks_mut(size).next().unwrap_or_default())
            }
            Read::Vector(size) => {
                let mut buffers = buffers_to_read(buffer, size);
                retry_on_intr(|| rustix::io::readv(socket, &mut buffers))
            }
            Read::Message(size) => {
                let (mut buffers, mut none) =
                    (buffers_to_read(buffer, size), RecvAncillaryBuffer::default());
                let flags = RecvFlags::empty();
                retry_on_intr(|| Ok(recvmsg(socket, &mut buffers, &mut none, flags)?.bytes))
            }
            Read::Messages(size) => {
                messages(socket, &mut messages_to_read(buffer, size), libc_recvmmsg)
            }
            Read::Peek => receive(socket, buffer, RecvFlags::PEEK)
                .and_then(|_| rustix::io::read(socket, buffer)),
            Read::WaitAll => receive(socket, buffer, RecvFlags::WAITALL),
            Read::Ring => ring::receive(socket, buffer),
            Read::Discard => receive(socket, buffer, RecvFlags::TRUNC),
            Read::Positioned(size) => {
                let (mut buffers, flags) = (buffers_to_read(buffer, size), ReadWriteFlags::empty());
                retry_on_intr(|| rustix::io::preadv2(socket, &mut buffers, NEXT, flags))
            }
            Read::Aio => aio::read(socket, buffer),
            Read::Splice => splice_from(socket, buffer),
            Read::Compat(call) => compat::read(socket, call, buffer),
            Read::Tls(..) => Err(Errno::NOTCONN),
        };
        // Nothing was read.
        if n == Err(Errno::INTR) {
            continue;
        }
        match n.with_context(|| format!("{how:?}, {left} of {length} bytes left"))? {
            0 => bail!("the stream ends with {left} of {length} bytes left"),
            n => left -= n,
        }
    }
    Ok(())
}

fn receive(socket: &OwnedFd, buffer: &mut [u8], flags: RecvFlags) -> rustix::io::Result<usize> {
    rustix::net::recv(socket, buffer, flags).map(|(n, _)| n)
}

fn send_partially(socket: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    let limit = Timespec::try_from(pace::limit(LIMIT)).map_err(|_| Errno::INVAL)?;
    loop {
        match rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN) => {
                let mut writable = [PollFd::new(socket, PollFlags::OUT)];
                rustix::event::poll(&mut writable, Some(&limit))?;
            }
            sent => return sent,
        }
    }
}

/// The result of a system call.
fn returned(value: isize) -> rustix::io::Result<usize> {
    usize::try_from(value).map_err(|_| {
        let error = std::io::Error::last_os_error().raw_os_error();
        Errno::from_raw_os_error(error.unwrap_or_default())
    })
}

// Buffers.

fn buffers_to_write(bytes: &[u8], size: usize) -> Vec<IoSlice<'_>> {
    let pieces = bytes.chunks(size).take(MAX_BUFFERS);
    pieces.flat_map(|piece| [IoSlice::new(&[]), IoSlice::new(piece)]).collect()
}

fn buffers_to_read(bytes: &mut [u8], size: usize) -> Vec<IoSliceMut<'_>> {
    let pieces = bytes.chunks_mut(size).take(MAX_BUFFERS);
    pieces.flat_map(|piece| [IoSliceMut::new(&mut []), IoSliceMut::new(piece)]).collect()
}

fn messages_to_write(bytes: &[u8], size: usize) -> Vec<Vec<IoSlice<'_>>> {
    let third = cmp::max(size / 3, 1);
    bytes.chunks(size).take(MAX_MESSAGES).map(|piece| buffers_to_write(piece, third)).collect()
}

fn messages_to_read(bytes: &mut [u8], size: usize) -> Vec<Vec<IoSliceMut<'_>>> {
    let third = cmp::max(size / 3, 1);
    let pieces = bytes.chunks_mut(size).take(MAX_MESSAGES);
    pieces.map(|piece| buffers_to_read(piece, third)).collect()
}

/// The position of the next byte, -1: sockets have no positions.
const NEXT: u64 = u64::MAX;

// System calls with several messages.

/// Runs a system call with several messages, each with its buffers, which are laid out as `struct iovec`.
fn messages<B>(
    socket: &OwnedFd,
    buffers: &mut [Vec<B>],
    call: fn(i32, &mut [libc::mmsghdr]) -> isize,
) -> rustix::io::Result<usize> {
    let header = |buffers: &mut Vec<B>| {
        // SAFETY: a struct of integers and pointers, for which zeros are valid.
        let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
        header.msg_hdr.msg_iov = buffers.as_mut_ptr().cast();
        header.msg_hdr.msg_iovlen = buffers.len();
        header
    };
    let mut headers: Vec<_> = buffers.iter_mut().map(header).collect();
    let n = retry_on_intr(|| returned(call(socket.as_raw_fd(), &mut headers)))?;
    Ok(headers.iter().take(n).map(|header| header.msg_len as usize).sum())
}

fn libc_sendmmsg(fd: i32, headers: &mut [libc::mmsghdr]) -> isize {
    // SAFETY: the buffers point into slices that the caller has.
    unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), headers.len() as u32, 0) as isize }
}

fn libc_recvmmsg(fd: i32, headers: &mut [libc::mmsghdr]) -> isize {
    // Without waiting for as many messages as fit.
    let flags = libc::MSG_WAITFORONE;
    let (messages, count) = (headers.as_mut_ptr(), headers.len() as u32);
    // SAFETY: the buffers point into a mutable slice that the caller has.
    unsafe { libc::recvmmsg(fd, messages, count, flags, ptr::null_mut()) as isize }
}

// Transfers by other system calls.

fn splice(socket: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    const PIPE: usize = 1 << 16;
    let (reader, writer) = rustix::pipe::pipe()?;
    let piece = bytes.chunks(PIPE).next().unwrap_or_default();
    let n = rustix::io::write(writer, piece)?;
    rustix::pipe::splice(reader, None, socket, None, n, rustix::pipe::SpliceFlags::empty())
}

fn splice_from(socket: &OwnedFd, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    let (reader, writer) = rustix::pipe::pipe()?;
    let flags = rustix::pipe::SpliceFlags::empty();
    let n = rustix::pipe::splice(socket, None, writer, None, buffer.len(), flags)?;
    let piece = buffer.get_mut(..n).ok_or(Errno::OVERFLOW)?;
    if n == 0 { Ok(0) } else { rustix::io::read(reader, piece) }
}

fn send_file(socket: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    let file = rustix::fs::memfd_create("raw-peer", rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::io::write(&file, bytes)?;
    rustix::fs::sendfile(socket, file, Some(&mut 0), bytes.len())
}

fn zero_copy(socket: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    let on: libc::c_int = 1;
    let (option, size) = (ptr::from_ref(&on).cast(), size_of_val(&on) as libc::socklen_t);
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ZEROCOPY);
    // SAFETY: an option that is an int.
    returned(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, option, size) } as isize)?;
    let flags = SendFlags::from_bits_retain(libc::MSG_ZEROCOPY as u32);
    // The reader is on the same machine, so the kernel copies the bytes before this returns.
    rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | flags)
}

/// Writes with one write(2) in another thread, and unmaps the first bytes once that waits for room: when it returns
/// they cannot be read any more.
pub(crate) fn write_unmapped(socket: &OwnedFd, bytes: &[u8]) -> Result<JoinHandle<Result<()>>> {
    /// It is copied first, so the write does not fail.
    const GONE: usize = 4096;
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: memory of its own.
    let memory = unsafe { mmap_anonymous(ptr::null_mut(), bytes.len(), protection, flags)? };
    // SAFETY: it is as long as the bytes.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), memory.cast(), bytes.len()) };
    let (socket, address, length) = (socket.try_clone()?, memory.expose_provenance(), bytes.len());
    let (tell, told) = mpsc::channel();
    let writer = thread::Builder::new().spawn(move || {
        tell.send(rustix::thread::gettid())?;
        let from = ptr::with_exposed_provenance(address);
        // SAFETY: the kernel checks that the bytes are mapped.
        let n = returned(unsafe { libc::write(socket.as_raw_fd(), from, length) })?;
        ensure!(n == length, "{n} of {length} bytes written");
        Ok(())
    })?;
    let call = format!("/proc/self/task/{}/syscall", told.recv()?.as_raw_nonzero());
    let waiting = format!("{} ", libc::SYS_write);
    let begun = Instant::now();
    while !fs::read_to_string(&call)?.starts_with(&waiting) {
        ensure!(begun.elapsed() < pace::limit(LIMIT), "the write does not wait");
        thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: nothing refers to it.
    unsafe { munmap(memory, GONE)? };
    Ok(writer)
}

/// Mounts 9P over the socket: threads of the kernel write to it and read from it, with memory of the kernel. The
/// server must refuse.
pub(crate) fn mount(socket: &OwnedFd) -> Result<JoinHandle<Result<()>>> {
    let socket = socket.try_clone()?;
    let fd = socket.as_raw_fd();
    let options = CString::new(format!("trans=fd,rfdno={fd},wfdno={fd},version=9p2000.L"))?;
    Ok(thread::Builder::new().spawn(move || {
        let mounted = rustix::mount::mount("none", "/", "9p", MountFlags::empty(), Some(&*options));
        let refused = Err(Errno::from_raw_os_error(REFUSED_WITH));
        ensure!(mounted == refused, "mount: {mounted:?}");
        // The kernel has set O_NONBLOCK.
        Ok(rustix::io::ioctl_fionbio(&socket, false)?)
    })?)
}

// Processes.

/// Forks; returns the child's number in the parent, `None` in the child.
pub(crate) fn fork() -> Result<Option<i32>> {
    // SAFETY: this process has one thread, so the child can do what its parent can.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        child => {
            ensure!(child > 0, "fork: {}", std::io::Error::last_os_error());
            Ok(Some(child))
        }
    }
}

/// Waits for the end of a child.
pub(crate) fn wait_for(child: i32) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(child).context("a child")?;
    let options = rustix::process::WaitOptions::empty();
    retry_on_intr(|| rustix::process::waitpid(Some(pid), options)).context("wait for a child")?;
    Ok(())
}

/// The argument of `PR_SET_MM_MAP` (`struct prctl_mm_map` in linux/prctl.h).
#[repr(C)]
struct MemoryMap {
    /// The bounds of code, data, heap and stack, as in `/proc/PID/stat`.
    places: [u64; 7],
    arguments: [u64; 2],
    environment: [u64; 2],
    auxiliary: u64,
    auxiliary_size: u32,
    exe: u32,
}

/// Sets zeros as the process's arguments: they take no memory until they are read.
pub(crate) fn set_arguments(length: u64) -> Result<()> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("a name")?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    // By the numbers of proc(5); the first here is the third.
    let field = |number: usize| -> Result<u64> {
        fields.get(number - 3).context("a field")?.parse().context("a number")
    };
    let (flags, none) = (MapFlags::PRIVATE | MapFlags::NORESERVE, ptr::null_mut());
    // SAFETY: memory of its own, which stays.
    let begin = unsafe { mmap_anonymous(none, length as usize, ProtFlags::READ, flags)? };
    let begin = begin.expose_provenance() as u64;
    // SAFETY: moves nothing.
    let brk = unsafe { libc::sbrk(0) }.expose_provenance() as u64;
    let map = MemoryMap {
        places: [field(26)?, field(27)?, field(45)?, field(46)?, field(47)?, brk, field(28)?],
        arguments: [begin, begin + length],
        environment: [field(50)?, field(51)?],
        auxiliary: 0,
        auxiliary_size: 0,
        exe: u32::MAX,
    };
    let size = size_of::<MemoryMap>();
    // SAFETY: reads the map.
    let set =
        unsafe { libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP, &raw const map, size, 0_usize) };
    ensure!(set == 0, "prctl: {}", std::io::Error::last_os_error());
    Ok(())
}
