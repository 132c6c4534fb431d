//! Closing file descriptors.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// Closes all descriptors but these (`close_range`, Linux 5.9), also if another value owns them: for a process, or a
/// thread, that uses no others from now on. With the flag `CLOSE_RANGE_UNSHARE`, a thread gets a table of its own first.
pub(crate) fn keep_only(kept: &[BorrowedFd<'_>], flags: u32) -> io::Result<()> {
    let mut numbers: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    numbers.sort_unstable();
    let mut from = 0;
    for number in numbers {
        if number > from {
            close_range(from, number - 1, flags)?;
        }
        from = number + 1;
    }
    close_range(from, u32::MAX, flags)
}

fn close_range(first: u32, last: u32, flags: u32) -> io::Result<()> {
    // SAFETY: takes numbers. Whoever calls `keep_only` says that nothing uses these descriptors any more.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
