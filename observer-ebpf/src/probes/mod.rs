//! The programs. Backends differ only in how they find the socket and the buffers of a transfer.

mod fentry;
mod function;
mod kprobe;
mod lifecycle;
mod registers;
mod socket;
mod syscall;
mod tls;
mod tracepoint;

const MSG_OOB: u32 = 0x1;
const MSG_PEEK: u32 = 0x2;
const MSG_TRUNC: u32 = 0x20;
const MSG_ERRQUEUE: u32 = 0x2000;

/// Whether a system call with these flags returns something other than the next bytes of the stream.
const fn leaves_the_stream(flags: u32) -> bool {
    flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE) != 0
}
