//! Limits how much of the maps each process may fill.
//!
//! A process may have no more than [`PART`] times as many entries as there are free ones. So one that opens connections
//! without end gets three quarters, two get three sevenths each, and there is always room for one that has few
//! (Choudhury and Hahne, Dynamic Queue Length Thresholds, 1998).

use crate::{
    count::add_to,
    maps::{BPF_NOEXIST, SHARES, Share, Values as _},
};

const PART: i64 = 3;

/// The sum over all processes.
static mut ALL: Share = Share { connections: 0, messages: 0 };

/// The maps that are shared.
#[derive(Clone, Copy)]
pub enum Of {
    Connections,
    Messages,
}

impl Share {
    /// Whether the process has no entries.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.connections as i64 <= 0 && self.messages as i64 <= 0
    }
}

/// Takes room for one more entry of the process in a map of `limit` entries. Returns whether it may have it. A process
/// with a message has a connection.
#[inline(always)]
pub fn take(pid: u32, of: Of, limit: u32) -> bool {
    let mut own = SHARES.value(pid);
    if own.is_none() && matches!(of, Of::Connections) {
        let _ = SHARES.insert(pid, Share::default(), BPF_NOEXIST);
        own = SHARES.value(pid);
    }
    let Some(own) = own else { return false };
    let (all, own) = (place(all(), of), place(own, of));
    // Other CPUs may change both meanwhile: then it may be one entry too many.
    if *own as i64 >= PART * (i64::from(limit) - *all as i64) {
        return false;
    }
    add_to(all, 1);
    add_to(own, 1);
    true
}

/// Gives room for one entry back.
#[inline(always)]
pub fn give(pid: u32, of: Of) {
    add_to(place(all(), of), u64::MAX);
    if let Some(share) = SHARES.value(pid) {
        add_to(place(share, of), u64::MAX);
    }
}

#[inline(always)]
fn all() -> &'static mut Share {
    let all = &raw mut ALL;
    // SAFETY: as for values of maps: others only write integers at the same time.
    unsafe { &mut *all }
}

#[inline(always)]
const fn place(share: &mut Share, of: Of) -> &mut u64 {
    match of {
        Of::Connections => &mut share.connections,
        Of::Messages => &mut share.messages,
    }
}
