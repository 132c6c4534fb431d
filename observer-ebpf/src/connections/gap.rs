//! Gaps that show in what the sockets count.

use observer_common::{
    counter::Counter,
    driver::{connection::Connection, gap},
};

use crate::{count::count, transfer::Transfer};

/// Counts the gap since the last transfer that was seen, and has it passed over.
#[inline(always)]
pub fn add_gap(transfer: &Transfer, connection: &mut Connection) {
    let gap = gap::before(&transfer.socket, connection, transfer.sent, transfer.total);
    if gap != 0 {
        count(Counter::Unseen, u64::from(gap));
    }
}
