//! A transfer: one read or write on a socket.

use crate::{buffers::Shape, socket::Socket};

/// A transfer, as a backend finds it.
#[derive(Clone, Copy)]
pub struct Transfer {
    pub socket: Socket,
    pub shape: Shape,
    /// The value that the system call returned: bytes, or messages for [`Shape::Messages`]. More than 0.
    pub returned: u64,
    /// Bytes that were moved.
    pub total: u64,
    pub pid: u32,
    /// One of `record::direction`.
    pub sent: u8,
    /// The kernel discarded the bytes instead of copying them (MSG_TRUNC).
    pub discarded: bool,
}

/// Whether this return value of a system call may show the process that the other end of its socket is gone.
#[inline(always)]
pub const fn may_be_left(returned: i32) -> bool {
    const EPIPE: i32 = 32;
    const ECONNRESET: i32 = 104;
    returned == 0 || returned == -EPIPE || returned == -ECONNRESET
}
