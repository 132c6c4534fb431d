//! As much of io_uring as sending and receiving take.

use std::os::fd::{FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{io, mem, ptr};

use rustix::fd::AsRawFd as _;
use rustix::io::Errno;

/// `IORING_OP_SEND`
const SEND: u8 = 26;
/// `IORING_OP_RECV`
const RECEIVE: u8 = 27;
const GET_EVENTS: u32 = 1;
const OFFSET_COMPLETIONS: i64 = 0x800_0000;
const OFFSET_ENTRIES: i64 = 0x1000_0000;
const PAGE: usize = 4096;

/// `struct io_sqring_offsets`
#[derive(Default)]
#[repr(C)]
struct SubmissionOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    reserved: u32,
    user_address: u64,
}

/// `struct io_cqring_offsets`
#[derive(Default)]
#[repr(C)]
struct CompletionOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    overflow: u32,
    cqes: u32,
    flags: u32,
    reserved: u32,
    user_address: u64,
}

/// `struct io_uring_params`
#[derive(Default)]
#[repr(C)]
struct Parameters {
    entries: u32,
    completion_entries: u32,
    flags: u32,
    thread_cpu: u32,
    thread_idle: u32,
    features: u32,
    queue: u32,
    reserved: [u32; 3],
    submission: SubmissionOffsets,
    completion: CompletionOffsets,
}

/// The beginning of `struct io_uring_sqe`
#[repr(C)]
struct Entry {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    length: u32,
    rest: [u32; 9],
}

const _: () = assert!(size_of::<Entry>() == 64 && size_of::<Parameters>() == 120);

/// Sends by one ring of its own, which is gone afterwards.
pub(crate) fn send(socket: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    submit(SEND, socket, bytes.as_ptr() as u64, bytes.len())
}

/// Receives likewise.
pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    submit(RECEIVE, socket, buffer.as_mut_ptr() as u64, buffer.len())
}

/// Has one thing done with these bytes, and waits for it.
fn submit(opcode: u8, socket: &OwnedFd, address: u64, length: usize) -> rustix::io::Result<usize> {
    let mut parameters = Parameters::default();
    // SAFETY: the kernel writes to a struct of the size that it has.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, &raw mut parameters) };
    let ring = returned(ring)? as i32;
    // SAFETY: a new descriptor, nobody else's.
    let owned = unsafe { OwnedFd::from_raw_fd(ring) };
    let (submissions, completions, entries) =
        (map(ring, 0)?, map(ring, OFFSET_COMPLETIONS)?, map(ring, OFFSET_ENTRIES)?);
    // SAFETY: zeros are valid.
    let mut entry: Entry = unsafe { mem::zeroed() };
    entry.opcode = opcode;
    entry.fd = socket.as_raw_fd();
    entry.address = address;
    entry.length = length as u32;
    let Parameters { submission, completion, .. } = &parameters;
    // SAFETY: within the mappings, at the offsets that the kernel gave; one entry of one.
    let result = unsafe {
        entries.cast::<Entry>().write(entry);
        submissions.byte_add(submission.array as usize).cast::<u32>().write(0);
        let tail = submissions.byte_add(submission.tail as usize).cast::<AtomicU32>();
        (*tail).store(1, Ordering::Release);
        let entered = libc::syscall(
            libc::SYS_io_uring_enter,
            ring,
            1,
            1,
            GET_EVENTS,
            ptr::null::<libc::sigset_t>(),
            0,
        );
        returned(entered)?;
        // `struct io_uring_cqe`: user_data, then the result.
        completions.byte_add(completion.cqes as usize + 8).cast::<i32>().read()
    };
    for mapping in [submissions, completions, entries] {
        // SAFETY: nothing points there any more.
        unsafe { libc::munmap(mapping, PAGE) };
    }
    drop(owned);
    usize::try_from(result).map_err(|_| Errno::from_raw_os_error(-result))
}

fn map(ring: i32, offset: i64) -> rustix::io::Result<*mut libc::c_void> {
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a new mapping, of a ring that fits into a page.
    let mapping = unsafe { libc::mmap(ptr::null_mut(), PAGE, access, flags, ring, offset) };
    if mapping == libc::MAP_FAILED { Err(last_error()) } else { Ok(mapping) }
}

fn returned(value: i64) -> rustix::io::Result<i64> {
    if value < 0 { Err(last_error()) } else { Ok(value) }
}

fn last_error() -> Errno {
    Errno::from_raw_os_error(io::Error::last_os_error().raw_os_error().unwrap_or_default())
}
