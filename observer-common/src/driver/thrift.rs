//! Walks over the bytes of one transfer of a Thrift connection, message by message.
//!
//! As [`walk`](super::walk) does for HTTP/2. A record has the kind and the name of each message, its sequence id and the
//! first field of a reply; nothing else leaves the kernel. The kind is in the items of the start and of the end, since a
//! message without a version has it after the name.

use super::{
    Host, Scratch,
    connection::{DirectionState, Shared, protocol, sender, state},
    emit::{self, RECORD_FULL},
    timed,
    walk::Outcome,
};
use crate::{
    counter::{Counter, Protocol},
    record::{ItemHeader, Waited, direction, item_kind, role},
    scanner::Take,
    sync::FrameSync,
    thrift::{Buffer, Scanner, event},
};

/// The most steps of one walk: three for each field of a message without a frame.
const MAX_STEPS: u32 = 1 << 18;

/// The scanners of both directions of a connection, by `record::direction`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Scanners {
    /// [`Shared::id`]; 0 until it is set.
    pub id: u64,
    /// The scanners.
    pub directions: [Scanner; 2],
}

impl Scanners {
    /// Those of a connection that starts.
    pub const NEW: Self = Self { id: 0, directions: [Scanner::NEW; 2] };

    /// Sets the connection. If it is older than the daemon, no message boundary is known.
    #[inline(always)]
    pub fn begin(&mut self, shared: &Shared) {
        self.id = shared.id;
        if shared.protocol == protocol::UNVERSIONED_THRIFT {
            for scanner in &mut self.directions {
                scanner.expect_unversioned();
            }
        }
        if shared.joined != 0 {
            for scanner in &mut self.directions {
                scanner.lose();
            }
        }
    }
}

/// One transfer in one direction of a Thrift connection: the context of the kernel's loop.
#[derive(Debug)]
#[repr(C)]
pub struct Walk<'a, H> {
    /// The transfer, as for HTTP/2. Of the directions' scanners only the buffer is used.
    pub walk: super::Walk<'a, H>,
    /// The place in the direction's messages.
    pub scanner: &'a mut Scanner,
}

/// Walks over the `total` bytes of a transfer, and sends the record of it.
#[inline(always)]
pub fn walk<H: Host>(walk: &mut Walk<'_, H>, total: u64) -> Outcome {
    let end = begin(walk, total);
    let bound = H::repeat_thrift(walk, MAX_STEPS);
    let Walk { walk: super::Walk { scratch, shared, own, other }, scanner } = walk;
    let refused = scanner.is_refused();
    if shared.state != state::WATCHED {
        if refused {
            return Outcome::NotPreface;
        }
    } else if scanner.is_lost() {
        // The start of the transfer was tried.
        scratch.host.count(shared.counter_out_of_sync(own), total);
        own.position = end;
        own.gap |= 1;
        return Outcome::Walked;
    }
    let mut is_gap = refused;
    if refused {
        scratch.host.count(Counter::NotFrame, end - own.position);
        own.position = end;
        scanner.lose();
    } else if own.position < end {
        own.gap_bytes = end - own.position;
        let why = if bound { Counter::LoopBound } else { scratch.host.gap_cause() };
        scratch.host.count(why, own.gap_bytes);
        is_gap = false;
    }
    if scratch.sender != sender::UNKNOWN && !scratch.host.selects_role(shared, shared.role) {
        return Outcome::NotSelected;
    }
    emit::send(scratch, shared, own, other);
    // The gap is behind this record, which clears the ones before it.
    own.gap |= u8::from(is_gap);
    Outcome::Walked
}

/// Passes over the gap before the transfer, if there is one, and begins a record. Returns the position where the transfer
/// ends.
#[inline(always)]
fn begin<H: Host>(walk: &mut Walk<'_, H>, total: u64) -> u64 {
    let Walk { walk: super::Walk { scratch, shared, own, .. }, scanner } = walk;
    scratch.sender = sender::UNKNOWN;
    scratch.streams = 0;
    scratch.timed = timed::BY_THREAD;
    scratch.waited = Waited::default();
    if own.gap_bytes != 0 {
        let bytes = own.gap_bytes;
        own.gap_bytes = 0;
        own.position += bytes;
        if !scanner.pass_gap(bytes) {
            scanner.lose();
            own.gap |= 1;
        }
    }
    // Plaintext of TLS may be missing.
    if own.sync.is_out_of_sync() {
        own.sync = FrameSync::default();
        scanner.lose();
    }
    scanner.begin_transfer();
    emit::begin(scratch, shared, own);
    own.position + total
}

/// Takes one step of a walk. Returns whether there is more.
#[inline(always)]
pub fn iterate<H: Host>(walk: &mut Walk<'_, H>) -> bool {
    // As in `walk::iterate`.
    let Walk { walk: super::Walk { scratch, shared, own, other }, scanner } = walk;
    let (scratch, shared, own) = (&mut **scratch, &mut **shared, &mut **own);
    let (other, scanner) = (&**other, &mut **scanner);
    step(scratch, shared, own, other, scanner).is_some()
        && (scanner.is_pending() || !scratch.host.is_empty())
}

/// Takes a step: to the next buffer, or over a part of a message. `None` at the end.
#[inline(always)]
fn step<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &mut Shared,
    own: &mut DirectionState,
    other: &DirectionState,
    scanner: &mut Scanner,
) -> Option<()> {
    if scratch.host.left() == 0 && !scanner.is_pending() {
        if scratch.host.is_empty() {
            return None;
        }
        return scratch.host.next();
    }
    if scratch.length > RECORD_FULL {
        emit::send(scratch, shared, own, other);
        emit::begin(scratch, shared, own);
    }
    let want = scanner.want();
    let left = scratch.host.left();
    let n = if left < u64::from(want.length) { left as u32 } else { want.length };
    match want.take {
        Take::Read => scratch.host.read(n, &mut own.scanner, want.at)?,
        Take::Copy => copy(scratch, n)?,
        Take::Skip => {}
    }
    if n != 0 && !want.stays {
        scratch.host.advance(n);
        own.position += u64::from(n);
    }
    let events = scanner.took(buffer(own), want, n);
    if events & event::BEGIN != 0 {
        begin_message(scratch, shared, own, scanner);
    }
    if events & event::NAME_END != 0 {
        emit::end_frame(scratch);
    }
    if events & event::END != 0 {
        learn_role(scratch, shared, scanner);
        let (kind, frame_kind) = (item_kind::MESSAGE_END, scanner.kind());
        let (flags, stream) = (scanner.first(), scanner.sequence());
        let end = ItemHeader { kind, frame_kind, flags, stream, ..ItemHeader::default() };
        emit::put_item(scratch, end);
    }
    (!scanner.is_refused()).then_some(())
}

/// The bytes that the scanner reads.
#[inline(always)]
fn buffer(own: &DirectionState) -> &Buffer {
    const { assert!(size_of::<Buffer>() <= crate::scanner::BUFFER_LENGTH) };
    own.scanner.buffer.first_chunk().unwrap_or(&[0; size_of::<Buffer>()])
}

/// Copies the next bytes of a message's name into the record.
#[inline(always)]
fn copy<H: Host>(scratch: &mut Scratch<H>, n: u32) -> Option<()> {
    if scratch.item == 0 {
        begin_item(scratch, ItemHeader { kind: item_kind::PART, ..ItemHeader::default() });
    }
    scratch.host.copy(n, scratch.length)?;
    scratch.length += n;
    scratch.captured += n;
    Some(())
}

/// Starts an item with bytes of a name.
#[inline(always)]
fn begin_item<H: Host>(scratch: &mut Scratch<H>, item: ItemHeader) {
    scratch.captured = 0;
    scratch.item = scratch.length;
    emit::put_item(scratch, item);
}

/// Learns by the kind of a message, if that is known, which end this is.
#[inline(always)]
fn learn_role<H: Host>(scratch: &mut Scratch<H>, shared: &mut Shared, scanner: &Scanner) {
    if shared.role == role::UNKNOWN && scanner.kind() != 0 {
        let by_this_end = scratch.sent == direction::SENT;
        let is_client = by_this_end == scanner.is_of_client();
        shared.role = if is_client { role::CLIENT } else { role::SERVER };
        scratch.sender = if is_client { sender::CLIENT } else { sender::SERVER };
    }
}

/// Handles a message's kind, and the length of its name.
#[inline(always)]
fn begin_message<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &mut Shared,
    own: &DirectionState,
    scanner: &Scanner,
) {
    if shared.state != state::WATCHED {
        if shared.tries.bytes != 0 {
            scratch.host.count(Counter::BeforeJoin, u64::from(shared.tries.bytes));
        }
        shared.state = state::WATCHED;
        scratch.host.count_protocol(Protocol::Thrift);
    }
    learn_role(scratch, shared, scanner);
    let (frame_kind, length) = (scanner.kind(), scanner.name_length());
    let (kind, stream) = (item_kind::MESSAGE, own.position as u32);
    begin_item(scratch, ItemHeader { kind, frame_kind, stream, length, ..ItemHeader::default() });
}
