//! Walks over the bytes of one call, frame by frame.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use observer_common::{
    block,
    counter::{Counter, Protocol},
    frame::{FrameHeader, HEADER_LENGTH, flag, kind},
    record::{data_flag, direction, item_kind, role},
    scanner::{MAX_KEPT, Message, Take, event},
};

use crate::{
    buffers::Shape,
    connection::{Connection, Direction, GAP_FOUND, state},
    count::{count, count_protocol},
    emit,
    kernel::Address,
    maps::MESSAGES,
    messages,
    scratch::{COPY_MAX, RECORD_FULL, Scratch},
    watch::{self, Call},
};

/// Most steps of one walk: a frame takes two to four. A call of 1 MiB full of nothing but empty
/// DATA frames (116,508) is within it.
const MAX_STEPS: u32 = 1 << 18;

/// Steps for each return to the kernel's loop, which takes half as long as a step. More of them would save
/// little, and the verifier follows each.
const STEPS_AT_ONCE: u32 = 2;

const MAX_TURNS: u32 = MAX_STEPS / STEPS_AT_ONCE;

const CONTINUE: i64 = 0;
const STOP: i64 = 1;

// In `Scratch::sender`.
const SENDER_CLIENT: u32 = 1;
const SENDER_SERVER: u32 = 2;

/// One walk: the pointers are into map values.
#[repr(C)]
pub struct Walk {
    pub scratch: *mut Scratch,
    pub connection: *mut Connection,
    pub direction: *mut Direction,
    pub sock: Address,
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
    /// A connection that was open before the daemon: these bytes are no frames.
    NotFrames,
    /// Now that it is known which end it is, its port is not one that is selected.
    NotSelected,
}

/// Walks over the call's bytes, which the scratch slot's buffers hold, and sends what was found.
#[inline(always)]
pub fn walk(walk: &mut Walk, scratch: &mut Scratch, call: &Call) -> Outcome {
    let total = call.total;
    // SAFETY: map values, valid for the run.
    let (connection, direction) = unsafe { (&mut *walk.connection, &mut *walk.direction) };
    scratch.begun = 0;
    scratch.sender = 0;
    scratch.streams = 0;
    scratch.pending = 0;
    scratch.searching = 0;
    scratch.window.clear();
    scratch.dropped = direction.position;
    if direction.unread != 0 {
        let tried = direction.step.tried();
        scratch.pending = lose(direction);
        if !direction.step.is_trying() {
            lost(connection, direction, tried);
        }
    }
    emit::begin(walk, scratch);
    if direction.step.is_lost() {
        begin_search(scratch, direction);
    }
    let end = direction.position + total;
    // SAFETY: the callback takes what it is given: this walk, which outlives the loop.
    let turns =
        unsafe { bpf_loop(MAX_TURNS, steps as *mut c_void, (&raw mut *walk).cast::<c_void>(), 0) };
    let refused = direction.scanner.is_refused();
    if scratch.searching != 0 {
        let walked = !refused && direction.position == end;
        let tried = direction.step.tried();
        direction.position = end;
        if !direction.step.end(&mut direction.scanner, total, walked) {
            return still_lost(connection, direction, tried + total);
        }
        let dropped = scratch.dropped.saturating_sub(end - total);
        if dropped != 0 {
            scratch.untold = tried + dropped;
        }
    } else if refused && matches!(connection.state, state::CANDIDATE | state::UPGRADED) {
        return Outcome::NotPreface;
    } else if refused {
        count(Counter::NotFrame, end - direction.position);
        direction.position = end;
        direction.gap |= 1;
        direction.step.lose();
    } else if direction.position < end {
        let bound = turns >= i64::from(MAX_TURNS);
        direction.unread = end - direction.position;
        count(if bound { Counter::LoopBound } else { unread(call, scratch) }, direction.unread);
    }
    let shown = learn(walk, scratch, connection);
    if shown != role::UNKNOWN && !watch::selects_role(walk.sock, connection.inode, shown) {
        return Outcome::NotSelected;
    }
    // It has been found what was searched for.
    if scratch.searching != 0 {
        if connection.state != state::WATCHED {
            connection.state = state::WATCHED;
            count_protocol(Protocol::Http2);
            lost(connection, direction, u64::from(connection.tries.bytes));
        }
        lost(connection, direction, scratch.untold);
        // Without a choice, for the verifier: `GAP_FOUND` if it is not 0.
        direction.gap |= direction.gap << 1 & GAP_FOUND;
    }
    if !emit::send(walk, scratch) {
        emit::add_inserts(scratch, direction);
    }
    Outcome::Walked
}

/// Why bytes of a call could not be read.
#[inline(always)]
fn unread(call: &Call, scratch: &Scratch) -> Counter {
    match call.shape {
        _ if call.discarded => Counter::Discarded,
        // Not from or to memory of the process: splice, sendfile, buffers of the kernel.
        Shape::Iterator { .. } | Shape::Elsewhere if !scratch.buffers.is_readable() => {
            Counter::Unseen
        }
        _ => Counter::Unreadable,
    }
}

/// Goes on with the boundary that is tried, or tries the call's beginning. Of the calls before, all will be untold if
/// it is believed, but for a frame of which only the header, or a part of it, went by. A function of its own:
/// inlined, the verifier would follow the walk for each of its ways.
#[inline(never)]
fn begin_search(scratch: &mut Scratch, direction: &mut Direction) {
    scratch.searching = 1;
    direction.step.begin(&mut direction.scanner);
    let alone = direction.scanner.header_alone();
    let frame = direction.scanner.frame();
    if alone == HEADER_LENGTH && frame.is_kept() {
        emit::begin_frame(scratch, &frame, item_kind::FRAME);
    }
    scratch.untold = direction.step.tried().saturating_sub(u64::from(alone));
}

/// No boundary is believed yet: the call's bytes tell nobody anything. If none is tried any more, these are lost.
#[inline(always)]
fn still_lost(connection: &mut Connection, direction: &Direction, bytes: u64) -> Outcome {
    if direction.step.is_trying() {
        return Outcome::Walked;
    }
    lost(connection, direction, bytes);
    let trying = connection.received().step.is_trying() || connection.sent().step.is_trying();
    if connection.state != state::JOINING || trying { Outcome::Walked } else { Outcome::NotFrames }
}

/// Bytes of a direction that is out of step tell nobody anything.
#[inline(never)]
fn lost(connection: &mut Connection, direction: &Direction, bytes: u64) {
    if connection.state == state::JOINING {
        connection.tries.add(bytes);
    } else if bytes != 0 {
        count_lost(connection, direction, bytes);
    }
}

/// Counts bytes of a direction that is out of step.
#[inline(always)]
pub fn count_lost(connection: &Connection, direction: &Direction, bytes: u64) {
    let begun = connection.joined != 0 && direction.reported == 0;
    count(if begun { Counter::BeforeJoin } else { Counter::OutOfStep }, bytes);
}

/// Passes over the bytes that went by and that nobody looked at. Where they all are of one frame's
/// payload, its messages or its content are lost, or not even those; otherwise no frame boundary is
/// known any more. Answers with what they completed: bits of `event`.
#[inline(always)]
fn lose(direction: &mut Direction) -> u32 {
    let bytes = direction.unread;
    direction.unread = 0;
    direction.position += bytes;
    let frame = direction.scanner.frame();
    let of_kept = frame.is_kept() && !direction.scanner.is_at_boundary();
    let events = direction.scanner.missed(bytes);
    if of_kept || events.is_none() {
        direction.gap |= 1;
    }
    let Some(events) = events else {
        direction.step.lose();
        return 0;
    };
    if frame.kind == kind::DATA { events } else { 0 }
}

/// What the walk found of the connection itself. Answers which end that shows it to be, if it was not known.
#[inline(always)]
fn learn(walk: &Walk, scratch: &Scratch, connection: &mut Connection) -> u8 {
    if connection.joined == 0
        && !connection.received().step.has_old()
        && !connection.sent().step.has_old()
    {
        return role::UNKNOWN;
    }
    let mut shown = role::UNKNOWN;
    if connection.role == role::UNKNOWN && scratch.sender != 0 {
        let by_this_end = walk.sent == direction::SENT;
        let by_client = scratch.sender == SENDER_CLIENT;
        shown = if by_this_end == by_client { role::CLIENT } else { role::SERVER };
        if is_agreed(connection, walk.sent, scratch.sender) {
            connection.role = shown;
        }
    }
    let requests = match connection.role {
        role::CLIENT => direction::SENT,
        role::SERVER => direction::RECEIVED,
        _ => return shown,
    };
    if walk.sent == requests && scratch.begun != 0 {
        for direction in &mut connection.directions {
            direction.step.begun(scratch.begun);
        }
    }
    shown
}

/// A header block that goes this way seems to be this sender's: it may be a message that looks like one. Answers
/// whether the other direction has shown to be the other's; if it has shown to be the same one's, both are in doubt.
#[inline(always)]
fn is_agreed(connection: &mut Connection, sent: u8, sender: u32) -> bool {
    let place = |direction: u8| 2 * u32::from(direction & 1);
    let other = u32::from(connection.shown) >> place(sent ^ 1) & 3;
    let other = if other == sender { 0 } else { other };
    connection.shown = (sender << place(sent) | other << place(sent ^ 1)) as u8;
    other != 0
}

extern "C" fn steps(_: u32, walk: *mut c_void) -> i64 {
    // SAFETY: what `walk` passed.
    let walk = unsafe { &*walk.cast::<Walk>() };
    // SAFETY: a map value, valid for the run.
    if unsafe { &(*walk.direction).scanner }.is_before_frames() {
        return if step_before(walk).is_some() { CONTINUE } else { STOP };
    }
    // No loop: the compiler would read back what it has not written, which 6.1 refuses.
    if step(walk).and_then(|()| step(walk)).is_none() {
        return STOP;
    }
    // SAFETY: a map value, valid for the run.
    let buffers = unsafe { &(*walk.scratch).buffers };
    if buffers.is_empty() { STOP } else { CONTINUE }
}

/// One step: the next buffer, or the next bytes that the scanner wants. `None` at the end.
#[inline(always)]
fn step(walk: &Walk) -> Option<()> {
    // SAFETY: map values, valid for the run.
    let (scratch, direction) = unsafe { (&mut *walk.scratch, &mut *walk.direction) };
    if scratch.pending != 0 {
        let events = scratch.pending;
        scratch.pending = 0;
        return on_events(walk, scratch, direction, events);
    }
    if scratch.buffers.left == 0 {
        if scratch.buffers.is_empty() {
            return None;
        }
        return scratch.buffers.next();
    }
    if scratch.length > RECORD_FULL {
        if scratch.searching != 0 {
            scratch.dropped = direction.position;
        } else if !emit::send(walk, scratch) {
            direction.inserts = Direction::UNCLEAR;
        }
        emit::begin(walk, scratch);
    }
    let want = direction.scanner.want_in_frames();
    let left = scratch.buffers.left;
    let mut n = if left < u64::from(want.length) { left as u32 } else { want.length };
    let from = scratch.buffers.base;
    match want.take {
        Take::Read => {
            scratch.window.hold(from, n, left)?;
            let at = (want.at & 31) as usize;
            // SAFETY: 31 and what is copied is less than the buffer's length.
            unsafe { scratch.window.put(direction.scanner.buffer.as_mut_ptr().add(at)) };
        }
        Take::Copy => {
            n = if n > COPY_MAX { COPY_MAX } else { n };
            emit::copy(scratch, &direction.scanner.frame(), from, n)?;
        }
        Take::Skip => {}
    }
    scratch.buffers.advance(n);
    direction.position += u64::from(n);
    let mut events = direction.scanner.took_in_frames(want, n);
    // What is passed over next needs no step of its own: a message's body, a frame of no interest. But at the
    // beginning of a DATA frame it must first be known which message goes on.
    let next = direction.scanner.want_in_frames();
    if matches!((want.take, next.take), (Take::Read, Take::Skip))
        && u64::from(next.length) <= scratch.buffers.left
        && (events & event::FRAME_BEGIN == 0 || direction.scanner.frame().kind != kind::DATA)
    {
        scratch.buffers.advance(next.length);
        direction.position += u64::from(next.length);
        events |= direction.scanner.took_in_frames(next, next.length);
    }
    if events == 0 {
        return Some(());
    }
    on_events(walk, scratch, direction, events)
}

/// A step before the first frame. One that is not needed twice at once: the verifier follows each.
#[inline(always)]
fn step_before(walk: &Walk) -> Option<()> {
    // SAFETY: map values, valid for the run.
    let (scratch, direction) = unsafe { (&mut *walk.scratch, &mut *walk.direction) };
    if scratch.buffers.left == 0 {
        if scratch.buffers.is_empty() {
            return None;
        }
        return scratch.buffers.next();
    }
    let want = direction.scanner.want_before();
    let left = scratch.buffers.left;
    let n = if left < u64::from(want.length) { left as u32 } else { want.length };
    if let Take::Read = want.take {
        scratch.window.hold(scratch.buffers.base, n, left)?;
        let at = (want.at & 31) as usize;
        // SAFETY: 31 and what is copied is less than the buffer's length.
        unsafe { scratch.window.put(direction.scanner.buffer.as_mut_ptr().add(at)) };
    }
    scratch.buffers.advance(n);
    direction.position += u64::from(n);
    let events = direction.scanner.took_before(want, n);
    if events & event::NOT_PREFACE != 0 {
        return None;
    }
    // SAFETY: a map value, valid for the run.
    let connection = unsafe { &mut *walk.connection };
    if events & event::PREFACE_END != 0 && connection.state != state::WATCHED {
        connection.state = state::WATCHED;
        // Who sends the preface is the client.
        connection.role = if walk.sent == direction::SENT { role::CLIENT } else { role::SERVER };
        count_protocol(Protocol::Http2);
    }
    Some(())
}

#[inline(always)]
fn on_events(
    walk: &Walk,
    scratch: &mut Scratch,
    direction: &mut Direction,
    events: u32,
) -> Option<()> {
    if events & (event::NOT_PREFACE | event::NOT_FRAME) != 0 {
        return None;
    }
    if events & event::FRAME_BEGIN != 0 {
        direction.step.frame();
    }
    let frame = direction.scanner.frame();
    scratch.streams |= frame.stream;
    if frame.kind == kind::DATA {
        on_data(walk, scratch, direction, &frame, events);
    } else if frame.is_kept() {
        on_kept(walk, scratch, direction, &frame, events);
    }
    Some(())
}

#[inline(always)]
fn on_kept(
    walk: &Walk,
    scratch: &mut Scratch,
    direction: &mut Direction,
    frame: &FrameHeader,
    events: u32,
) {
    if events & event::FRAME_BEGIN != 0 {
        emit::flush_data(scratch);
        emit::begin_frame(scratch, frame, item_kind::FRAME);
        if events & event::TOO_LONG != 0 {
            count(Counter::FrameTooLong, u64::from(frame.length - MAX_KEPT));
        }
    }
    if events & event::FRAME_END != 0 {
        if frame.kind == kind::HEADERS {
            on_headers(walk, scratch, direction, frame);
        }
        emit::end_frame(scratch);
        // Not before: until the frame is whole the call goes on, and so may its other direction.
        if frame.kind == kind::RST_STREAM && scratch.searching == 0 {
            forget(walk, frame.stream);
        }
    }
}

/// Of a stream that may have begun out of sight nothing is known of where its messages begin; after
/// a HEADERS frame that does not end it the first one does.
#[inline(always)]
fn on_headers(walk: &Walk, scratch: &mut Scratch, direction: &mut Direction, frame: &FrameHeader) {
    if !direction.step.has_old() {
        return;
    }
    if scratch.sender == 0
        && let Some(first) = emit::first_of_block(scratch, frame)
        && let Some(request) = block::is_request(first)
    {
        scratch.sender = if request { SENDER_CLIENT } else { SENDER_SERVER };
    }
    if frame.has(flag::END_STREAM) {
        if direction.step.is_old(frame.stream) {
            messages::remove(walk, frame.stream, walk.sent);
        }
        return;
    }
    if scratch.begun < frame.stream {
        scratch.begun = frame.stream;
    }
    if direction.step.is_old(frame.stream) {
        keep_old(walk, direction, frame.stream, Message::default());
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
    // SAFETY: a map value, valid for the run.
    if unsafe { &*walk.connection }.is_reset(frame.stream) {
        // It was under way when the stream was reset, and may begin in the middle of a message.
        direction.scanner.resume(&Message::unaligned());
        return;
    }
    if events & event::FRAME_BEGIN != 0
        && (direction.cut != 0 || direction.step.is_old(frame.stream))
    {
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
    let unfinished = direction.scanner.unfinished();
    if direction.step.is_old(frame.stream) {
        if frame.has(flag::END_STREAM) || direction.scanner.is_unaligned() {
            messages::remove(walk, frame.stream, walk.sent);
        } else {
            keep_old(walk, direction, frame.stream, unfinished.unwrap_or_default());
        }
        return;
    }
    match unfinished {
        Some(message) if !frame.has(flag::END_STREAM) => {
            keep(walk, direction, frame.stream, message);
        }
        _ if direction.cut != 0 => messages::remove(walk, frame.stream, walk.sent),
        _ => {}
    }
}

/// Goes on with the message that the stream's last DATA frame left unfinished, if it did.
#[inline(always)]
fn resume(walk: &Walk, direction: &mut Direction, stream: u32) {
    let is_old = direction.step.is_old(stream);
    // SAFETY: the value is copied; only this direction's calls, which the process must keep one
    // after the other, write it.
    match unsafe { MESSAGES.get(messages::key(walk, stream, walk.sent)) } {
        // Before bytes went by unseen it was another message.
        Some(kept) if !is_old || kept.message.epoch == direction.step.epoch() => {
            direction.scanner.resume(&kept.message);
        }
        _ if is_old => direction.scanner.resume(&Message::unaligned()),
        _ => {}
    }
}

#[inline(always)]
fn keep(walk: &Walk, direction: &mut Direction, stream: u32, mut message: Message) {
    direction.cut = 1;
    message.epoch = direction.step.epoch();
    if !messages::keep(walk, stream, &message) {
        direction.step.forget();
        count(Counter::MessagesFull, 0);
    }
}

/// Remembers where an old stream is in its messages: an absent entry means that nobody knows.
#[inline(always)]
fn keep_old(walk: &Walk, direction: &Direction, stream: u32, mut message: Message) {
    message.epoch = direction.step.epoch();
    if !messages::keep(walk, stream, &message) {
        count(Counter::MessagesFull, 0);
    }
}

/// A stream was reset: neither direction goes on with its message.
#[inline(always)]
fn forget(walk: &Walk, stream: u32) {
    // SAFETY: a map value, valid for the run.
    let connection = unsafe { &mut *walk.connection };
    connection.reset(stream);
    let (sent, received) = (connection.sent(), connection.received());
    if sent.cut | received.cut != 0 || sent.step.has_old() || received.step.has_old() {
        messages::remove(walk, stream, direction::SENT);
        messages::remove(walk, stream, direction::RECEIVED);
    }
}
