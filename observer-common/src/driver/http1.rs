//! Takes the lines of HTTP/1.1: heads, which are copied, and what is between the parts of a body, which is not.
//!
//! A part of a body is as a DATA frame of HTTP/2: [`walk`](super::walk) takes its payload. If it is not known any more
//! where a message begins, the connection is given up: nothing in a body shows that it is not a head.

use super::{
    Host, Scratch,
    connection::{DirectionState, Shared, state},
    emit,
};
use crate::{
    counter::Protocol,
    record::{data_flag, item_kind},
    scanner::event,
};

/// Takes a step over a part of a line, in a buffer that has bytes. `None` at the end.
#[inline(always)]
pub(super) fn step<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &mut Shared,
    own: &mut DirectionState,
    other: &DirectionState,
) -> Option<()> {
    if own.scanner.is_refused() {
        return None;
    }
    own.scanner.begin_line();
    let want = own.scanner.want_line();
    let left = scratch.host.left();
    let n = if left < u64::from(want.length) { left as u32 } else { want.length };
    scratch.host.read(n, &mut own.scanner, want.at)?;
    let stream = own.scanner.frame().stream;
    if own.scanner.is_at_head() {
        begin_head(scratch, shared, own);
    }
    let is_head = own.scanner.is_in_head();
    own.scanner.take_line(n);
    let (length, events) = own.scanner.taken();
    if is_head {
        emit::copy(scratch, &own.scanner.frame(), length)?;
    }
    scratch.host.advance(length);
    own.position += u64::from(length);
    if is_head && events & event::HEAD_END == 0 {
        return own.scanner.may_go_on(length).then_some(());
    }
    if events != 0 {
        end(scratch, shared, own, other, stream, events);
    }
    Some(())
}

#[inline(always)]
fn begin_head<H: Host>(scratch: &mut Scratch<H>, shared: &Shared, own: &mut DirectionState) {
    emit::flush_data(scratch);
    let head = own.scanner.frame();
    emit::begin_frame(scratch, &head, item_kind::HEAD);
    // So that the record is sent.
    scratch.streams |= head.stream;
    if shared.is_reset(head.stream) {
        own.scanner.has_no_body();
    }
}

/// Handles what a part of a line completed.
#[inline(always)]
fn end<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &mut Shared,
    own: &mut DirectionState,
    other: &DirectionState,
    stream: u32,
    events: u32,
) {
    if events & event::HEAD_END != 0 {
        emit::end_frame(scratch);
        if shared.state != state::WATCHED {
            shared.state = state::WATCHED;
            scratch.host.count_protocol(Protocol::Http1);
        }
    }
    if events & event::HEAD_REQUEST != 0 {
        // Its response may have been seen before it, or others may be under way.
        let forgotten = shared.reset(stream);
        let is_under_way = forgotten != 0 && other.scanner.frame().stream <= forgotten;
        if other.scanner.has_begun(stream) || is_under_way {
            own.scanner.give_up();
        }
    }
    if events & event::FRAME_BEGIN != 0 && own.cut != 0 {
        resume(scratch, shared, own, stream);
    }
    if events & event::MESSAGE_OVER != 0 {
        if scratch.data.stream != stream {
            emit::flush_data(scratch);
            scratch.data.stream = stream;
        }
        scratch.data.flags |= u32::from(data_flag::END_STREAM);
        if own.cut != 0 {
            scratch.host.remove(shared, stream, scratch.sent);
        }
    }
}

/// Goes on with the message that the part before left unfinished, if there is one.
#[inline(always)]
fn resume<H: Host>(scratch: &Scratch<H>, shared: &Shared, own: &mut DirectionState, stream: u32) {
    if let Some(message) = scratch.host.find(shared, stream, scratch.sent) {
        own.scanner.resume(message, true);
    }
}
