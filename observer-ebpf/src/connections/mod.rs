//! The table of watched connections, and what it is known by that others are none of ours.

pub mod close;
pub mod entered;
pub mod ignored;
pub mod missed;
pub mod open;
pub mod sweep;

use core::ptr::NonNull;

use observer_common::driver::connection::Connection;

use crate::{maps::CONNECTIONS, socket::Socket};

/// The socket's connection, if it is watched.
#[inline(always)]
pub fn known(socket: &Socket) -> Option<NonNull<Connection>> {
    let sock = socket.sock;
    let connection = NonNull::new(CONNECTIONS.get_ptr_mut(sock)?)?;
    // SAFETY: a map value, valid for the run.
    if unsafe { connection.as_ref() }.shared.inode == socket.inode {
        return Some(connection);
    }
    // The socket was closed without our seeing it, and its memory used for this one.
    close::close_later(sock, connection.as_ptr());
    None
}
