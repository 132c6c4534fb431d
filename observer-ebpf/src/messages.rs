//! Messages that are cut across DATA frames, each in the share of the process whose connection it is of.

use observer_common::scanner::Message;

use crate::{
    maps::{Kept, MAX_MESSAGES, MESSAGES, MessageKey},
    share::{self, Of},
    walk::Walk,
};

const BPF_NOEXIST: u64 = 1;

/// Remembers the message that a stream's last frame of this walk left unfinished; says whether there was room: if not,
/// nothing is remembered of the stream. A function of its own: inlined, its values would be kept on the stack to the caller's end.
#[inline(never)]
pub fn keep(walk: &Walk, stream: u32, message: &Message) -> bool {
    let key = key(walk, stream, walk.sent);
    // SAFETY: a map value, valid for the run.
    let owner = unsafe { (*walk.connection).owner };
    // Most often it goes on in one frame after the other.
    if let Some(kept) = MESSAGES.get_ptr_mut(key) {
        // SAFETY: a map value, valid for the run; only this direction's calls write it.
        unsafe { (*kept).message = *message };
        return true;
    }
    if !share::take(owner, Of::Messages, MAX_MESSAGES) {
        return false;
    }
    let is_kept = MESSAGES.insert(key, Kept { message: *message, owner }, BPF_NOEXIST).is_ok();
    if !is_kept {
        share::give(owner, Of::Messages);
    }
    is_kept
}

/// Forgets a message, if there is one. A function of its own, likewise.
#[inline(never)]
pub fn remove(walk: &Walk, stream: u32, direction: u8) {
    if MESSAGES.remove(key(walk, stream, direction)).is_ok() {
        // SAFETY: a map value, valid for the run.
        share::give(unsafe { (*walk.connection).owner }, Of::Messages);
    }
}

#[inline(always)]
pub fn key(walk: &Walk, stream: u32, direction: u8) -> MessageKey {
    // SAFETY: a map value, valid for the run.
    let connection = unsafe { (*walk.connection).id };
    MessageKey { connection, sock: walk.sock, stream, direction: u32::from(direction) }
}
