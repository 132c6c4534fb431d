//! A transfer: bytes that a process has moved through a socket, in one direction.

use crate::{buffers::Shape, socket::Socket};

/// A transfer, as a backend describes it.
#[derive(Clone, Copy)]
pub struct Transfer {
    pub socket: Socket,
    pub shape: Shape,
    /// What the system call returned: bytes, or messages for [`Shape::Messages`]. More than 0.
    pub returned: u64,
    /// Bytes that were moved.
    pub total: u64,
    pub pid: u32,
    /// One of `record::direction`.
    pub sent: u8,
    /// The kernel discarded the bytes instead of copying them out.
    pub discarded: bool,
}

/// Whether what a system call returned may show the process that the other end of its socket is gone.
#[inline(always)]
pub const fn may_be_left(returned: i32) -> bool {
    const EPIPE: i32 = 32;
    const ECONNRESET: i32 = 104;
    returned == 0 || returned == -EPIPE || returned == -ECONNRESET
}
