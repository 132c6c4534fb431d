//! There are system calls of 32-bit processes on x86-64 only.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use support::raw::command::Compat;

pub(crate) fn write(_: &OwnedFd, _: Compat, _: &[u8]) -> rustix::io::Result<usize> {
    Err(Errno::NOSYS)
}

pub(crate) fn read(_: &OwnedFd, _: Compat, _: &mut [u8]) -> rustix::io::Result<usize> {
    Err(Errno::NOSYS)
}
