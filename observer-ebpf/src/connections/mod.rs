//! The table of watched connections, and what it is known by that others are none of ours.

pub mod close;
pub mod entered;
pub mod gap;
pub mod ignored;
pub mod open;
pub mod sweep;

use observer_common::driver::connection::Connection;

use crate::{
    maps::{CONNECTIONS, Values as _},
    socket::Socket,
};

/// The socket's connection, if it is watched.
#[inline(always)]
pub fn known(socket: &Socket) -> Option<&'static mut Connection> {
    let sock = socket.sock;
    let connection = CONNECTIONS.value(sock)?;
    if connection.shared.inode == socket.inode {
        return Some(connection);
    }
    // The socket was closed without our seeing it, and its memory used for this one.
    close::close_later(sock, connection);
    None
}
