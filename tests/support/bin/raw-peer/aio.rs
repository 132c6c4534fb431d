//! Linux AIO (io_submit(2)), on a socket.

use std::os::fd::OwnedFd;

use rustix::fd::AsRawFd as _;
use rustix::io::Errno;

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;

/// `struct iocb` (linux/aio_abi.h) on a little-endian machine.
#[repr(C)]
#[derive(Default)]
struct Request {
    data: u64,
    key: u32,
    flags: u32,
    operation: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    length: u64,
    offset: i64,
    _reserved: u64,
    more_flags: u32,
    event_fd: u32,
}

/// `struct io_event`
#[repr(C)]
#[derive(Default)]
struct Event {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

pub(crate) fn write(socket: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    submit(socket, IOCB_CMD_PWRITE, bytes.as_ptr().expose_provenance(), bytes.len())
}

pub(crate) fn read(socket: &OwnedFd, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    submit(socket, IOCB_CMD_PREAD, buffer.as_mut_ptr().expose_provenance(), buffer.len())
}

fn submit(socket: &OwnedFd, operation: u16, at: usize, length: usize) -> rustix::io::Result<usize> {
    let mut context: libc::c_ulong = 0;
    checked(system_call(libc::SYS_io_setup, [1, (&raw mut context).expose_provenance(), 0, 0, 0]))?;
    let request = Request {
        operation,
        fd: socket.as_raw_fd() as u32,
        buffer: at as u64,
        length: length as u64,
        ..Request::default()
    };
    let requests = [&raw const request];
    let mut event = Event::default();
    let all = context as usize;
    let done = checked(system_call(
        libc::SYS_io_submit,
        [all, 1, requests.as_ptr().expose_provenance(), 0, 0],
    ))
    .and_then(|_| {
        let events = (&raw mut event).expose_provenance();
        checked(system_call(libc::SYS_io_getevents, [all, 1, 1, events, 0]))
    });
    system_call(libc::SYS_io_destroy, [all, 0, 0, 0, 0]);
    done?;
    checked(event.result)
}

fn system_call(number: libc::c_long, arguments: [usize; 5]) -> i64 {
    let [first, second, third, fourth, fifth] = arguments;
    // SAFETY: what the callers point to lives until the call has ended.
    unsafe { libc::syscall(number, first, second, third, fourth, fifth) }
}

fn checked(returned: i64) -> rustix::io::Result<usize> {
    usize::try_from(returned).map_err(|_| match returned {
        -1 => Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO),
        error => Errno::from_raw_os_error(-error as i32),
    })
}
