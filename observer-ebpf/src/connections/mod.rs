//! The table of watched connections, and the table of sockets that are ignored.

pub mod close;
pub mod entered;
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
    // The end of an earlier socket was not captured, and this one has its memory.
    close::close_later::<false>(sock, connection);
    None
}
