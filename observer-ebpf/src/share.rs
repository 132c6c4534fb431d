//! How much of the maps each process may fill.
//!
//! A process may have no more than [`PART`] times what is free. So one that opens connections without end gets
//! three quarters, two get three sevenths each, and there is always room for one that has few
//! (Choudhury and Hahne, Dynamic Queue Length Thresholds, 1998).

use crate::{
    count::add_to,
    maps::{SHARES, Share, Values as _},
};

const PART: i64 = 3;

const BPF_NOEXIST: u64 = 1;

/// What all processes have together.
static mut ALL: Share = Share { connections: 0, messages: 0 };

/// Of which map.
#[derive(Clone, Copy)]
pub enum Of {
    Connections,
    Messages,
}

impl Share {
    /// Whether the process has nothing any more.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.connections as i64 <= 0 && self.messages as i64 <= 0
    }
}

/// Takes room for one more entry of the process in a map of `limit`; says whether it may have it. Who has a
/// message has a connection.
#[inline(always)]
pub fn take(pid: u32, of: Of, limit: u32) -> bool {
    let mut own = SHARES.value(pid);
    if own.is_none() && matches!(of, Of::Connections) {
        let _ = SHARES.insert(pid, Share::default(), BPF_NOEXIST);
        own = SHARES.value(pid);
    }
    let Some(own) = own else { return false };
    let (all, own) = (place(&raw mut ALL, of), place(own, of));
    // SAFETY: map values, valid for the invocation, which others may change meanwhile: then it may be one too many.
    let (taken, had) = unsafe { (*all as i64, *own as i64) };
    if had >= PART * (i64::from(limit) - taken) {
        return false;
    }
    add(all, 1);
    add(own, 1);
    true
}

/// Gives back what was taken.
#[inline(always)]
pub fn give(pid: u32, of: Of) {
    add(place(&raw mut ALL, of), u64::MAX);
    if let Some(share) = SHARES.value(pid) {
        add(place(share, of), u64::MAX);
    }
}

#[inline(always)]
fn place(share: *mut Share, of: Of) -> *mut u64 {
    // SAFETY: a map value, valid for the invocation.
    unsafe {
        match of {
            Of::Connections => &raw mut (*share).connections,
            Of::Messages => &raw mut (*share).messages,
        }
    }
}

#[inline(always)]
fn add(place: *mut u64, value: u64) {
    // SAFETY: in a map value, valid for the invocation.
    add_to(unsafe { &mut *place }, value);
}
