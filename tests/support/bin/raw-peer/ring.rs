//! Sends and receives by io_uring, with a new ring for each.

use std::io;
use std::os::fd::OwnedFd;

use io_uring::squeue::Entry;
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};
use rustix::fd::AsRawFd as _;
use rustix::io::Errno;

pub(crate) fn send(socket: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    let socket = Fd(socket.as_raw_fd());
    submit(&opcode::Send::new(socket, bytes.as_ptr(), bytes.len() as u32).build())
}

pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    let socket = Fd(socket.as_raw_fd());
    submit(&opcode::Recv::new(socket, buffer.as_mut_ptr(), buffer.len() as u32).build())
}

/// Submits one entry, and waits for its result.
fn submit(entry: &Entry) -> rustix::io::Result<usize> {
    let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut ring = IoUring::new(1).map_err(errno)?;
    // SAFETY: the socket and the bytes are there until this returns.
    unsafe { ring.submission().push(entry) }.map_err(|_| Errno::NOBUFS)?;
    ring.submit_and_wait(1).map_err(errno)?;
    let result = ring.completion().next().ok_or(Errno::IO)?.result();
    usize::try_from(result).map_err(|_| Errno::from_raw_os_error(-result))
}
