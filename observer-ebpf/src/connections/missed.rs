//! Bytes that went by unseen, by what the sockets count.

use observer_common::{
    counter::Counter,
    driver::{connection::Connection, gap},
};

use crate::{count::count, transfer::Transfer};

/// Counts the bytes that went by since the last transfer that was seen, by what counts them, and has them passed
/// over.
#[inline(always)]
pub fn add_missed(transfer: &Transfer, connection: &mut Connection) {
    let gap = gap::before(&transfer.socket, connection, transfer.sent, transfer.total);
    if gap != 0 {
        count(Counter::Unseen, u64::from(gap));
    }
}
