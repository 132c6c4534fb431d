//! Walks over the bytes of one transfer, frame by frame.

use super::{
    Host, Scratch, Walk,
    connection::{DirectionState, GAP_FOUND, SENDS_ON, Shared, sender, state},
    emit::{self, COPY_MAX, RECORD_FULL},
    http1, timed,
};
use crate::{
    block,
    counter::{Counter, Protocol},
    frame::{FrameHeader, HEADER_LENGTH, flag, kind},
    record::{Waited, data_flag, direction, item_kind, role},
    scanner::{MAX_KEPT, Message, Take, event},
};

/// The most steps of one walk. A frame takes one to three; 1 MiB of empty messages (209,715) fits.
const MAX_STEPS: u32 = 1 << 18;

/// The result of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The connection goes on.
    Walked,
    /// The first bytes were not the client preface.
    NotPreface,
    /// The connection is older than the daemon, and these bytes are not frames.
    NotFrames,
    /// It is known now which side the socket is, and the port of that side is not selected.
    NotSelected,
    /// It is not known any more where the messages of HTTP/1.1 begin.
    GivenUp,
}

/// Walks over the `total` bytes of a transfer, and sends the record of it.
#[inline(always)]
pub fn walk<H: Host>(walk: &mut Walk<'_, H>, total: u64) -> Outcome {
    let end = begin(walk, total);
    let bound = H::repeat(walk, MAX_STEPS);
    let Walk { scratch, shared, own, other } = walk;
    let refused = own.scanner.is_refused();
    if scratch.searching != 0 {
        let walked = !refused && own.position == end;
        let tried = own.sync.tried();
        own.position = end;
        if !own.sync.end(&mut own.scanner, total, walked) {
            return still_out_of_sync(scratch, shared, own, other, tried + total);
        }
        let dropped = scratch.dropped.saturating_sub(end - total);
        if dropped != 0 {
            scratch.unreported = tried + dropped;
        }
    } else if refused && matches!(shared.state, state::CANDIDATE | state::UPGRADED) {
        return Outcome::NotPreface;
    } else if refused {
        scratch.host.count(Counter::NotFrame, end - own.position);
        own.position = end;
        own.sync.lose();
    } else if own.position < end {
        own.gap_bytes = end - own.position;
        let why = if bound { Counter::LoopBound } else { scratch.host.gap_cause() };
        scratch.host.count(why, own.gap_bytes);
    }
    let shown = learn(scratch, shared, own, other);
    if shown != role::UNKNOWN && !scratch.host.selects_role(shared, shown) {
        return Outcome::NotSelected;
    }
    // A frame boundary was found.
    if scratch.searching != 0 {
        if shared.state != state::WATCHED {
            shared.state = state::WATCHED;
            scratch.host.count_protocol(Protocol::Http2);
            count_lost(scratch, shared, own, u64::from(shared.tries.bytes));
        }
        count_lost(scratch, shared, own, scratch.unreported);
        // `GAP_FOUND` if it is not 0. Without a branch, which the verifier would follow.
        own.gap |= own.gap << 1 & GAP_FOUND;
    }
    if !emit::send(scratch, shared, own, other) {
        emit::add_inserts(scratch, own);
    }
    // The gap is behind this record, which clears the ones before it.
    own.gap |= u8::from(refused);
    if refused && scratch.host.follows_http1() && shared.is_http1() {
        return Outcome::GivenUp;
    }
    Outcome::Walked
}

/// Passes over the gap before the transfer, if there is one, and begins a record. Returns the position where the transfer
/// ends.
#[inline(always)]
fn begin<H: Host>(walk: &mut Walk<'_, H>, total: u64) -> u64 {
    let Walk { scratch, shared, own, .. } = walk;
    scratch.begun = 0;
    scratch.sender = sender::UNKNOWN;
    scratch.streams = 0;
    scratch.pending = 0;
    scratch.searching = 0;
    scratch.dropped = own.position;
    time(scratch, shared, own);
    if own.gap_bytes != 0 {
        let tried = own.sync.tried();
        scratch.pending = pass_gap(own);
        if !own.sync.is_trying() {
            count_lost(scratch, shared, own, tried);
        }
    }
    emit::begin(scratch, shared, own);
    if own.sync.is_out_of_sync() {
        if scratch.host.follows_http1() && shared.is_http1() {
            own.scanner.give_up();
        } else {
            begin_search(scratch, own);
        }
    }
    own.position + total
}

/// Computes how long bytes that may be requests had been at the socket: the time of a reset decides between a deadline and
/// a cancel.
#[inline(always)]
fn time<H: Host>(scratch: &mut Scratch<H>, shared: &mut Shared, own: &DirectionState) {
    scratch.timed = timed::BY_THREAD;
    scratch.waited = Waited::default();
    if scratch.sent != direction::RECEIVED || shared.role == role::CLIENT {
        return;
    }
    scratch.timed = timed::NOT;
    if !shared.is_tcp() || own.counted == 0 {
        return;
    }
    let Some((arrival, tick_ns)) = scratch.host.arrival(own.sequence) else { return };
    let was_busy = || scratch.host.was_busy();
    scratch.waited = shared.arrivals.waited(scratch.time_ns, tick_ns, arrival, was_busy);
    scratch.timed = timed::BY_SOCKET;
}

/// Goes on with the boundary that is being tried, or tries the beginning of the transfer.
///
/// If the boundary is believed, no record reports the transfers before this one, except for a frame that only began in
/// them. Not inlined: the verifier would follow the walk once for each path through it.
#[inline(never)]
fn begin_search<H: Host>(scratch: &mut Scratch<H>, own: &mut DirectionState) {
    scratch.searching = 1;
    own.sync.begin(&mut own.scanner);
    let alone = own.scanner.header_alone();
    let frame = own.scanner.frame();
    if alone == HEADER_LENGTH && frame.is_kept() {
        emit::begin_frame(scratch, &frame, item_kind::FRAME);
    }
    scratch.unreported = own.sync.tried().saturating_sub(u64::from(alone));
}

/// No boundary is believed yet, so the transfer is not reported. If no boundary is being tried any more, its bytes are a
/// gap.
#[inline(always)]
fn still_out_of_sync<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &mut Shared,
    own: &DirectionState,
    other: &DirectionState,
    bytes: u64,
) -> Outcome {
    if own.sync.is_trying() {
        return Outcome::Walked;
    }
    count_lost(scratch, shared, own, bytes);
    if shared.state != state::JOINING || other.sync.is_trying() {
        Outcome::Walked
    } else {
        Outcome::NotFrames
    }
}

/// Counts bytes of a direction that is out of sync as a gap. Not inlined, because it has several callers.
#[inline(never)]
fn count_lost<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &mut Shared,
    own: &DirectionState,
    bytes: u64,
) {
    if shared.state == state::JOINING {
        shared.tries.add(bytes);
    } else if bytes != 0 {
        scratch.host.count(shared.counter_out_of_sync(own), bytes);
    }
}

/// Passes over the gap before a transfer. Returns the bits of `event` that it completed.
///
/// If all its bytes belong to the payload of one frame, at most the messages or the content of that frame are missing.
/// Otherwise the direction is out of sync.
#[inline(always)]
fn pass_gap(own: &mut DirectionState) -> u32 {
    let bytes = own.gap_bytes;
    own.gap_bytes = 0;
    own.position += bytes;
    let frame = own.scanner.frame();
    let of_kept = frame.is_kept() && !own.scanner.is_at_boundary();
    let events = own.scanner.pass_gap(bytes);
    if of_kept || events.is_none() {
        own.gap |= 1;
    }
    let Some(events) = events else {
        own.sync.lose();
        return 0;
    };
    if frame.kind == kind::DATA { events } else { 0 }
}

/// Takes over what the walk showed about the connection. Returns its side, if that was not known before.
#[inline(always)]
fn learn<H>(
    scratch: &Scratch<H>,
    shared: &mut Shared,
    own: &mut DirectionState,
    other: &mut DirectionState,
) -> u8 {
    if shared.joined == 0 && !own.sync.has_old() && !other.sync.has_old() {
        return role::UNKNOWN;
    }
    let mut shown = role::UNKNOWN;
    if shared.role == role::UNKNOWN && scratch.sender != sender::UNKNOWN {
        let by_this_end = scratch.sent == direction::SENT;
        let by_client = scratch.sender == sender::CLIENT;
        shown = if by_this_end == by_client { role::CLIENT } else { role::SERVER };
        if is_agreed(shared, scratch.sent, scratch.sender) {
            shared.role = shown;
        }
    }
    let Some(requests) = shared.requests() else { return shown };
    if scratch.sent == requests && scratch.begun != 0 {
        own.sync.begun(scratch.begun);
        other.sync.begun(scratch.begun);
    }
    shown
}

/// Remembers that a field block in this direction seems to be from this sender; bytes of a message may look like one.
///
/// Returns whether the other direction seems to be from the other sender. If it seems to be from the same one, both are
/// in doubt.
#[inline(always)]
fn is_agreed(shared: &mut Shared, sent: u8, sender: u32) -> bool {
    let place = |direction: u8| 2 * u32::from(direction & 1);
    let other = u32::from(shared.shown) >> place(sent ^ 1) & 3;
    let other = if other == sender { 0 } else { other };
    shared.shown = (sender << place(sent) | other << place(sent ^ 1)) as u8;
    other != 0
}

/// Takes one step of a walk. Returns whether there is more. Two steps at once would save the host a call, but the verifier
/// would follow both.
#[inline(always)]
pub fn iterate<H: Host>(walk: &mut Walk<'_, H>) -> bool {
    // So each pointer is loaded once, and not again after each write.
    let Walk { scratch, shared, own, other } = walk;
    let (scratch, shared, own, other) = (&mut **scratch, &mut **shared, &mut **own, &**other);
    if own.scanner.is_before_frames() {
        return step_before(scratch, shared, own).is_some();
    }
    step(scratch, shared, own, other).is_some() && !scratch.host.is_empty()
}

/// Takes a step: to the next buffer, or over a frame's header and the next part of its payload. `None` at the end.
#[inline(always)]
fn step<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &mut Shared,
    own: &mut DirectionState,
    other: &DirectionState,
) -> Option<()> {
    if scratch.pending != 0 {
        let events = scratch.pending;
        scratch.pending = 0;
        end_part(scratch, shared, own, other, events);
        return Some(());
    }
    let web = scratch.host.follows_web();
    if web && own.scanner.has_queued() {
        let events = own.scanner.took_queued();
        end_web(scratch, shared, own, other, events);
        return Some(());
    }
    if scratch.host.left() == 0 {
        if scratch.host.is_empty() {
            return None;
        }
        return scratch.host.next();
    }
    if scratch.length > RECORD_FULL {
        if scratch.searching != 0 {
            scratch.dropped = own.position;
        } else if !emit::send(scratch, shared, own, other) {
            own.inserts = DirectionState::UNCLEAR;
        }
        emit::begin(scratch, shared, own);
    }
    if scratch.host.follows_http1() && shared.is_http1() && own.scanner.is_in_lines() {
        return http1::step(scratch, shared, own, other);
    }
    let mut events = 0;
    if own.scanner.is_in_header() {
        let want = own.scanner.want_header();
        let n = at_most(scratch.host.left(), want.length);
        scratch.host.read(n, &mut own.scanner, want.at)?;
        pass(scratch, own, n);
        events = own.scanner.took_header(n);
        if events & event::FRAME_BEGIN == 0 {
            return (events & event::NOT_FRAME == 0).then_some(());
        }
        begin_frame(scratch, shared, own, events);
    }
    if web && own.scanner.is_in_web() {
        return step_web(scratch, shared, own, other, events);
    }
    if events & event::FRAME_END == 0 && scratch.host.left() != 0 {
        events |= take_payload(scratch, own)?;
    }
    if web && events & event::TAIL != 0 {
        end_web(scratch, shared, own, other, events);
        return Some(());
    }
    if events & (event::MESSAGE_END | event::FRAME_END) != 0 {
        end_part(scratch, shared, own, other, events);
    }
    Some(())
}

/// Takes the next part of a tail, or of text. `events`: those of the frame's header.
#[inline(always)]
fn step_web<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &mut Shared,
    own: &mut DirectionState,
    other: &DirectionState,
    events: u32,
) -> Option<()> {
    if events & event::FRAME_END != 0 || scratch.host.left() == 0 {
        end_web(scratch, shared, own, other, events);
        return Some(());
    }
    let want = own.scanner.want_web();
    let mut n = at_most(scratch.host.left(), want.length);
    match want.take {
        Take::Read => scratch.host.read(n, &mut own.scanner, want.at)?,
        Take::Copy => {
            n = if n > COPY_MAX { COPY_MAX } else { n };
            emit::copy_tail(scratch, &own.scanner, n)?;
        }
        Take::Skip => {}
    }
    pass(scratch, own, n);
    let events = own.scanner.took_web(want, n);
    end_web(scratch, shared, own, other, events);
    Some(())
}

/// Handles what a part of a tail, or of text, completed.
#[inline(always)]
fn end_web<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &mut Shared,
    own: &mut DirectionState,
    other: &DirectionState,
    events: u32,
) {
    if events & event::TAIL != 0 {
        emit::end_frame(scratch);
        emit::flush_data(scratch);
        emit::begin_tail(scratch, &own.scanner, 0);
    }
    if events & event::FRAME_END != 0 || !own.scanner.is_in_tail() {
        emit::end_frame(scratch);
    }
    if events & (event::MESSAGE_END | event::FRAME_END) != 0 {
        end_part(scratch, shared, own, other, events);
    }
}

/// Takes the next part of a frame's payload. Returns the bits of `event` that it completed.
#[inline(always)]
fn take_payload<H: Host>(scratch: &mut Scratch<H>, own: &mut DirectionState) -> Option<u32> {
    let want = own.scanner.want_payload();
    let mut n = at_most(scratch.host.left(), want.length);
    match want.take {
        Take::Read => scratch.host.read(n, &mut own.scanner, want.at)?,
        Take::Copy => {
            n = if n > COPY_MAX { COPY_MAX } else { n };
            emit::copy(scratch, &own.scanner.frame(), n)?;
        }
        Take::Skip => {}
    }
    pass(scratch, own, n);
    let web = scratch.host.follows_web();
    let events = own.scanner.took_payload(want, n, web);
    // A message's body needs no step of its own.
    let next = own.scanner.want_payload();
    if matches!((want.take, next.take), (Take::Read, Take::Skip))
        && u64::from(next.length) <= scratch.host.left()
    {
        pass(scratch, own, next.length);
        return Some(events | own.scanner.took_payload(next, next.length, web));
    }
    Some(events)
}

#[inline(always)]
fn pass<H: Host>(scratch: &mut Scratch<H>, own: &mut DirectionState, n: u32) {
    scratch.host.advance(n);
    own.position += u64::from(n);
}

#[inline(always)]
const fn at_most(left: u64, length: u32) -> u32 {
    if left < length as u64 { left as u32 } else { length }
}

/// Takes a step before the first frame.
#[inline(always)]
fn step_before<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &mut Shared,
    own: &mut DirectionState,
) -> Option<()> {
    if scratch.host.left() == 0 {
        if scratch.host.is_empty() {
            return None;
        }
        return scratch.host.next();
    }
    let want = own.scanner.want_before();
    let n = at_most(scratch.host.left(), want.length);
    if let Take::Read = want.take {
        scratch.host.read(n, &mut own.scanner, want.at)?;
    }
    pass(scratch, own, n);
    let events = own.scanner.took_before(want, n);
    if events & event::NOT_PREFACE != 0 {
        return None;
    }
    if events & event::PREFACE_END != 0 && shared.state != state::WATCHED {
        shared.state = state::WATCHED;
        // The client sends the preface.
        let sent = scratch.sent == direction::SENT;
        shared.role = if sent { role::CLIENT } else { role::SERVER };
        scratch.host.count_protocol(Protocol::Http2);
    }
    Some(())
}

/// Handles a frame header that is complete.
#[inline(always)]
fn begin_frame<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &Shared,
    own: &mut DirectionState,
    events: u32,
) {
    own.sync.frame();
    let frame = own.scanner.frame();
    scratch.streams |= frame.stream;
    if frame.kind == kind::DATA {
        if own.cut != 0 || own.sync.is_old(frame.stream) {
            resume(scratch, shared, own, frame.stream);
        }
    } else if frame.is_kept() {
        emit::flush_data(scratch);
        emit::begin_frame(scratch, &frame, item_kind::FRAME);
        if events & event::TOO_LONG != 0 {
            scratch.host.count(Counter::FrameTooLong, u64::from(frame.length - MAX_KEPT));
        }
    }
}

/// Handles the end of a message, or of a frame.
#[inline(always)]
fn end_part<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &mut Shared,
    own: &mut DirectionState,
    other: &DirectionState,
    events: u32,
) {
    let frame = own.scanner.frame();
    scratch.streams |= frame.stream;
    if frame.kind == kind::DATA {
        on_data(scratch, shared, own, &frame, events);
    } else if frame.is_kept() {
        end_kept(scratch, shared, own, other, &frame);
    }
}

#[inline(always)]
fn end_kept<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &mut Shared,
    own: &DirectionState,
    other: &DirectionState,
    frame: &FrameHeader,
) {
    if frame.kind == kind::HEADERS {
        on_headers(scratch, shared, own, frame);
    }
    emit::end_frame(scratch);
    // Not earlier: until the frame is complete the call goes on, and its other direction may go on as well.
    if frame.kind == kind::RST_STREAM && scratch.searching == 0 {
        forget(scratch, shared, own, other, frame.stream);
    }
}

/// Handles a HEADERS frame of a stream whose beginning may not have been seen. It is not known where the messages of such
/// a stream begin; but after a HEADERS frame that does not end the stream, a message begins.
#[inline(always)]
fn on_headers<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &Shared,
    own: &DirectionState,
    frame: &FrameHeader,
) {
    if !own.sync.has_old() {
        return;
    }
    if scratch.sender == sender::UNKNOWN
        && let Some(first) = emit::first_of_block(scratch, frame)
        && let Some(request) = block::is_request(first)
    {
        scratch.sender = if request { sender::CLIENT } else { sender::SERVER };
    }
    if frame.has(flag::END_STREAM) {
        if own.sync.is_old(frame.stream) {
            scratch.host.remove(shared, frame.stream, scratch.sent);
        }
        return;
    }
    if scratch.begun < frame.stream {
        scratch.begun = frame.stream;
    }
    if own.sync.is_old(frame.stream) {
        keep_old(scratch, shared, own, frame.stream, Message::default());
    }
}

#[inline(always)]
fn on_data<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &Shared,
    own: &mut DirectionState,
    frame: &FrameHeader,
    events: u32,
) {
    if shared.is_reset(frame.stream) {
        // The frame was on its way when the stream was reset, and may begin in the middle of a message.
        own.scanner.resume(&Message::unaligned(), false);
        return;
    }
    let ended = events & event::FRAME_END != 0;
    let mut flags = 0;
    if ended && own.scanner.is_unaligned() {
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
        scratch.data.message_bytes += messages * u64::from(own.scanner.message_length());
        scratch.data.flags |= u32::from(flags);
    }
    if ended {
        end_data(scratch, shared, own, frame);
    }
}

/// Keeps the message that the frame leaves unfinished, or drops the message that it finished.
#[inline(always)]
fn end_data<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &Shared,
    own: &mut DirectionState,
    frame: &FrameHeader,
) {
    let unfinished = own.scanner.unfinished();
    if own.sync.is_old(frame.stream) {
        if frame.has(flag::END_STREAM) || own.scanner.is_unaligned() {
            scratch.host.remove(shared, frame.stream, scratch.sent);
        } else {
            keep_old(scratch, shared, own, frame.stream, unfinished.unwrap_or_default());
        }
        return;
    }
    match unfinished {
        Some(message) if !frame.has(flag::END_STREAM) => {
            keep(scratch, shared, own, frame.stream, message);
        }
        _ if own.cut != 0 => scratch.host.remove(shared, frame.stream, scratch.sent),
        _ => {}
    }
}

/// Goes on with the message that the stream's last DATA frame left unfinished, if there is one.
#[inline(always)]
fn resume<H: Host>(scratch: &Scratch<H>, shared: &Shared, own: &mut DirectionState, stream: u32) {
    let is_old = own.sync.is_old(stream);
    match scratch.host.find(shared, stream, scratch.sent) {
        // A message from before a gap is not this one.
        Some(message) if !is_old || message.epoch == own.sync.epoch() => {
            own.scanner.resume(message, scratch.host.follows_web());
        }
        _ if is_old => own.scanner.resume(&Message::unaligned(), false),
        _ => {}
    }
}

#[inline(always)]
fn keep<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &Shared,
    own: &mut DirectionState,
    stream: u32,
    mut message: Message,
) {
    own.cut = 1;
    message.epoch = own.sync.epoch();
    if !scratch.host.keep(shared, stream, scratch.sent, &message) {
        own.sync.forget();
        scratch.host.count(Counter::MessagesFull, 0);
    }
}

/// Remembers how far an old stream is in its messages. For an old stream, no entry means that this is not known.
#[inline(always)]
fn keep_old<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &Shared,
    own: &DirectionState,
    stream: u32,
    mut message: Message,
) {
    message.epoch = own.sync.epoch();
    if !scratch.host.keep(shared, stream, scratch.sent, &message) {
        scratch.host.count(Counter::MessagesFull, 0);
    }
}

/// Forgets the messages of a stream that was reset, in both directions.
///
/// If what was sent may be seen after the peer's reset ([`Messages::SENDS_LATE`](super::Messages::SENDS_LATE)), the sent
/// messages stay until some more streams were reset.
#[inline(always)]
fn forget<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &mut Shared,
    own: &DirectionState,
    other: &DirectionState,
    stream: u32,
) {
    let may_go_on = H::SENDS_LATE && scratch.sent == direction::RECEIVED;
    let gone = shared.reset(if may_go_on { stream | SENDS_ON } else { stream });
    if own.cut | other.cut == 0 && !own.sync.has_old() && !other.sync.has_old() {
        return;
    }
    if H::SENDS_LATE && gone & SENDS_ON != 0 {
        scratch.host.remove(shared, gone & !SENDS_ON, direction::SENT);
    }
    if !may_go_on {
        scratch.host.remove(shared, stream, direction::SENT);
    }
    scratch.host.remove(shared, stream, direction::RECEIVED);
}
