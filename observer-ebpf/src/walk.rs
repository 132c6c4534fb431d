//! Walks over the bytes of one call, frame by frame.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_loop, bpf_probe_read_user_buf};
use observer_common::{
    counter::{Counter, Protocol},
    frame::{FrameHeader, flag, kind},
    record::{data_flag, direction, item_kind},
    scanner::{MAX_KEPT, Message, Take, event},
};

use crate::{
    connection::{Connection, Direction, state},
    count::{count, count_protocol},
    emit,
    kernel::Address,
    maps::{MESSAGES, MessageKey},
    scratch::{COPY_MAX, RECORD_FULL, Scratch},
};

/// Most steps of one walk: a frame takes two to four. A call of 1 MiB full of nothing but empty
/// DATA frames (116,508) is within it.
const MAX_STEPS: u32 = 1 << 18;

const CONTINUE: i64 = 0;
const STOP: i64 = 1;

/// In [`Direction::cut`]: `MESSAGES` is to be asked, and an absent entry means that the message
/// framing of the stream is not known, because one could not be stored.
const CUT_LOST: u8 = 2;

/// One walk: the pointers are into map values.
#[repr(C)]
pub struct Walk {
    pub scratch: *mut Scratch,
    pub connection: *mut Connection,
    pub direction: *mut Direction,
    pub sock: Address,
    pub time_ns: u64,
    pub pid: u32,
    /// One of `record::direction`.
    pub sent: u8,
    pub _reserved: [u8; 3],
}

/// What came of a walk.
pub enum Outcome {
    /// The connection goes on.
    Walked,
    /// The first bytes were no client preface.
    NotPreface,
}

/// Walks over `total` bytes, which the scratch slot's buffers hold, and sends what was found.
/// `missed` bytes went by before them; what cannot be read of them has the given cause.
#[inline(always)]
pub fn walk(
    walk: &mut Walk,
    scratch: &mut Scratch,
    missed: u32,
    total: u64,
    unread: Counter,
) -> Outcome {
    // SAFETY: a map value, valid for the run.
    let direction = unsafe { &mut *walk.direction };
    emit::begin(walk, scratch);
    if missed != 0 {
        lose(scratch, direction, Counter::Unseen, u64::from(missed));
    }
    if direction.out_of_step != 0 {
        count(Counter::OutOfStep, total);
        direction.position += total;
    } else {
        let end = direction.position + total;
        // SAFETY: the callback takes what it is given: this walk, which outlives the loop.
        let steps = unsafe {
            bpf_loop(MAX_STEPS, step as *mut c_void, (&raw mut *walk).cast::<c_void>(), 0)
        };
        if direction.scanner.is_refused() {
            return Outcome::NotPreface;
        }
        if direction.position < end {
            let bound = steps >= i64::from(MAX_STEPS);
            let cause = if bound { Counter::LoopBound } else { unread };
            lose(scratch, direction, cause, end - direction.position);
        }
    }
    emit::send(walk, scratch);
    Outcome::Walked
}

/// Bytes went by that nobody looked at. Where they are all of one message's body, or of a frame
/// of no interest, nothing else is lost; otherwise the direction is out of step.
#[inline(always)]
fn lose(scratch: &mut Scratch, direction: &mut Direction, cause: Counter, bytes: u64) {
    count(cause, bytes);
    direction.position += bytes;
    if !direction.scanner.missed(bytes) {
        direction.out_of_step = 1;
        emit::gap(scratch, cause, bytes);
    }
}

extern "C" fn step(_: u32, walk: *mut c_void) -> i64 {
    // SAFETY: what `walk` passed.
    let walk = unsafe { &*walk.cast::<Walk>() };
    match try_step(walk) {
        Some(()) => CONTINUE,
        None => STOP,
    }
}

/// One step: the next buffer, or the next bytes that the scanner wants. `None` at the end.
#[inline(always)]
fn try_step(walk: &Walk) -> Option<()> {
    // SAFETY: map values, valid for the run.
    let (scratch, direction) = unsafe { (&mut *walk.scratch, &mut *walk.direction) };
    if scratch.buffers.left == 0 {
        if scratch.buffers.is_empty() {
            return None;
        }
        return scratch.buffers.next();
    }
    if scratch.length > RECORD_FULL {
        emit::send(walk, scratch);
    }
    let want = direction.scanner.want();
    let left = scratch.buffers.left;
    let mut n = if left < u64::from(want.length) { left as u32 } else { want.length };
    let from = scratch.buffers.base;
    match want.take {
        Take::Read => {
            n &= 15;
            let at = (want.at & 31) as usize;
            let buffer = direction.scanner.buffer.as_mut_ptr();
            // SAFETY: at + n < the buffer's length by the masks; the helper checks the address.
            unsafe {
                let to = core::slice::from_raw_parts_mut(buffer.add(at), n as usize);
                bpf_probe_read_user_buf(from as *const u8, to).ok()?;
            }
        }
        Take::Copy => {
            n = if n > COPY_MAX { COPY_MAX } else { n };
            emit::copy(scratch, &direction.scanner.frame(), from, n)?;
        }
        Take::Skip => {}
    }
    scratch.buffers.advance(n);
    direction.position += u64::from(n);
    let events = direction.scanner.took(want, n);
    if events == 0 {
        return Some(());
    }
    on_events(walk, scratch, direction, events)
}

#[inline(always)]
fn on_events(
    walk: &Walk,
    scratch: &mut Scratch,
    direction: &mut Direction,
    events: u32,
) -> Option<()> {
    if events & event::NOT_PREFACE != 0 {
        return None;
    }
    if events & event::PREFACE_END != 0 {
        // SAFETY: a map value, valid for the run.
        unsafe { (*walk.connection).state = state::WATCHED };
        count_protocol(Protocol::Http2);
        return Some(());
    }
    let frame = direction.scanner.frame();
    if frame.kind == kind::DATA {
        on_data(walk, scratch, direction, &frame, events);
    } else if frame.is_kept() {
        on_kept(walk, scratch, &frame, events);
    }
    Some(())
}

#[inline(always)]
fn on_kept(walk: &Walk, scratch: &mut Scratch, frame: &FrameHeader, events: u32) {
    if events & event::FRAME_BEGIN != 0 {
        emit::flush_data(scratch);
        emit::begin_frame(scratch, frame, item_kind::FRAME);
        if events & event::TOO_LONG != 0 {
            count(Counter::FrameTooLong, u64::from(frame.length - MAX_KEPT));
        }
    }
    if events & event::FRAME_END != 0 {
        emit::end_frame(scratch);
        // Not before: until the frame is whole the call goes on, and so may its other direction.
        if frame.kind == kind::RST_STREAM {
            forget(walk, frame.stream);
        }
    }
}

#[inline(always)]
fn on_data(
    walk: &Walk,
    scratch: &mut Scratch,
    direction: &mut Direction,
    frame: &FrameHeader,
    events: u32,
) {
    if events & event::FRAME_BEGIN != 0 && direction.cut != 0 {
        resume(walk, direction, frame.stream);
    }
    let ended = events & event::FRAME_END != 0;
    let mut flags = 0;
    if ended && direction.scanner.is_unaligned() {
        flags |= data_flag::UNALIGNED;
    }
    if ended && frame.has(flag::END_STREAM) {
        flags |= data_flag::END_STREAM;
    }
    let messages = u64::from(events & event::MESSAGE_END != 0);
    if messages != 0 || flags != 0 {
        if scratch.data.stream != frame.stream {
            emit::flush_data(scratch);
            scratch.data.stream = frame.stream;
        }
        scratch.data.messages += messages;
        scratch.data.message_bytes += messages * u64::from(direction.scanner.message_length());
        scratch.data.flags |= u32::from(flags);
    }
    if ended {
        end_data(walk, direction, frame);
    }
}

/// Keeps the message that the frame leaves unfinished, if it does, or drops the one it finished.
#[inline(always)]
fn end_data(walk: &Walk, direction: &mut Direction, frame: &FrameHeader) {
    match direction.scanner.unfinished() {
        Some(message) if !frame.has(flag::END_STREAM) => {
            keep(walk, direction, frame.stream, &message);
        }
        _ if direction.cut != 0 => {
            let _ = MESSAGES.remove(key(walk, frame.stream, walk.sent));
        }
        _ => {}
    }
}

/// Goes on with the message that the stream's last DATA frame left unfinished, if it did.
#[inline(always)]
fn resume(walk: &Walk, direction: &mut Direction, stream: u32) {
    // SAFETY: the value is copied; only this direction's calls, which the process must keep one
    // after the other, write it.
    match unsafe { MESSAGES.get(key(walk, stream, walk.sent)) } {
        Some(message) => direction.scanner.resume(message),
        None if direction.cut == CUT_LOST => direction.scanner.resume(&Message::unaligned()),
        None => {}
    }
}

#[inline(always)]
fn keep(walk: &Walk, direction: &mut Direction, stream: u32, message: &Message) {
    if direction.cut == 0 {
        direction.cut = 1;
    }
    if MESSAGES.insert(key(walk, stream, walk.sent), message, 0).is_err() {
        direction.cut = CUT_LOST;
        count(Counter::MessagesFull, 0);
    }
}

/// A stream was reset: neither direction goes on with its message.
#[inline(always)]
fn forget(walk: &Walk, stream: u32) {
    // SAFETY: a map value, valid for the run.
    let connection = unsafe { &*walk.connection };
    if connection.sent.cut | connection.received.cut != 0 {
        let _ = MESSAGES.remove(key(walk, stream, direction::SENT));
        let _ = MESSAGES.remove(key(walk, stream, direction::RECEIVED));
    }
}

#[inline(always)]
fn key(walk: &Walk, stream: u32, direction: u8) -> MessageKey {
    // SAFETY: a map value, valid for the run.
    let connection = unsafe { (*walk.connection).id };
    MessageKey { connection, sock: walk.sock, stream, direction: u32::from(direction) }
}
