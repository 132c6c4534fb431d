//! The common part of the backends that watch kernel functions.

use observer_common::{layout::Field, record::direction};

use super::MSG_TRUNC;
use crate::{
    buffers::Shape,
    filter, globals,
    kernel::{Address, current_pid, read},
    socket::Socket,
    transfer::{Transfer, may_be_left},
    watch::{self, watch},
};

/// The socket argument of a kernel function.
#[derive(Clone, Copy)]
pub enum Handle {
    /// As a `struct sock`.
    Sock(Address),
    /// As a `struct socket`.
    Socket(Address),
}

impl Handle {
    /// The `struct sock`.
    #[inline(always)]
    pub fn sock(&self) -> Option<Address> {
        match *self {
            Self::Sock(sock) => Some(sock),
            Self::Socket(socket) => read(socket, Field::SocketSk),
        }
    }
}

/// A kernel function that has returned.
pub struct Returned {
    pub handle: Handle,
    /// Its `struct msghdr`.
    pub message: Address,
    pub flags: u32,
    pub returned: i32,
    /// One of `record::direction`.
    pub sent: u8,
}

/// Watches the transfer of a function that has returned.
#[inline(always)]
pub fn leave(function: &Returned) -> i32 {
    if function.returned > 0 {
        let _ = try_leave(function);
    } else if may_be_left(function.returned)
        && let Some(sock) = function.handle.sock()
    {
        watch::leave(sock, function.returned);
    }
    0
}

#[inline(always)]
fn try_leave(function: &Returned) -> Option<()> {
    let pid = current_pid();
    if !filter::selects_process(pid) {
        return None;
    }
    let received = function.sent == direction::RECEIVED;
    if received && super::leaves_the_stream(function.flags) {
        return None;
    }
    let socket = match function.handle {
        Handle::Sock(sock) => Socket::of_sock(sock)?,
        Handle::Socket(socket) => Socket::of_socket(socket)?,
    };
    let returned = function.returned as u64;
    watch(&Transfer {
        socket,
        shape: Shape::Iterator {
            iterator: function.message + globals::offset(Field::MessageIterator) as u64,
        },
        returned,
        total: returned,
        pid,
        sent: function.sent,
        discarded: received && function.flags & MSG_TRUNC != 0,
    })
}
