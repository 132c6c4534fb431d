//! Builds a record and sends it.

use super::{
    Data, Host, Opened, Scratch,
    connection::{DirectionState, GAP_FOUND, Shared, announced, protocol, state},
    timed,
};
use crate::{
    block::Tally,
    counter::Counter,
    frame::{FrameHeader, flag},
    record::{
        DataItem, HELD, HTTP1, ITEM_ALIGNMENT, ItemHeader, LATE, OpenItem, RecordHeader, TAIL_PART,
        THRIFT, Waited, item_kind, open_flag, record_kind,
    },
    scanner::{Scanner, web::Tail},
};

/// A record of this length is sent before the next step. A step adds at most a data item, an item header and a copy.
pub(super) const RECORD_FULL: u32 = 12 << 10;

/// Most bytes that are copied in one step. Also used as a mask.
pub const COPY_MAX: u32 = 4095;

/// Longest record: one that is almost full, a data item, an item header, the longest copy, and the zeros after it.
pub const RECORD_CAPACITY: usize = (20 << 10) + ITEM_ALIGNMENT as usize;

/// Length of a record without items.
const EMPTY: u32 = size_of::<RecordHeader>() as u32;

/// Length of the item that describes the connection.
const OPEN: u32 = (size_of::<ItemHeader>() + size_of::<OpenItem>()) as u32;

/// Starts a record. It leaves room for the header and, if the connection is new or another process uses it now, for the
/// connection's description. It reports gaps and dropped records before it, and how long the bytes had waited.
#[inline(always)]
pub(super) fn begin<H: Host>(scratch: &mut Scratch<H>, shared: &Shared, own: &DirectionState) {
    let announced = shared.announced == announced::ALL && shared.pid == scratch.pid;
    scratch.item = 0;
    scratch.data = Data::default();
    scratch.length = if announced { EMPTY } else { EMPTY + OPEN };
    if own.gap != 0 {
        let flags = own.gap & GAP_FOUND | u8::from(own.sync.is_out_of_sync());
        put_item(scratch, ItemHeader { kind: item_kind::GAP, flags, ..ItemHeader::default() });
    } else if own.dropped != 0 {
        let (kind, length) = (item_kind::LOST, own.inserts);
        let flags = u8::from(length == DirectionState::UNCLEAR);
        put_item(scratch, ItemHeader { kind, flags, length, ..ItemHeader::default() });
    }
    let Waited { least_us, most_us } = scratch.waited;
    if most_us != 0 {
        let kind = item_kind::WAITED;
        let item = ItemHeader { kind, stream: least_us, length: most_us, ..ItemHeader::default() };
        put_item(scratch, item);
    }
    scratch.empty = scratch.length;
}

/// Starts an item for a frame that is kept, or for the rest of one.
#[inline(always)]
pub(super) fn begin_frame<H: Host>(scratch: &mut Scratch<H>, frame: &FrameHeader, kind: u8) {
    let FrameHeader { length, stream, kind: frame_kind, flags, .. } = *frame;
    scratch.captured = 0;
    scratch.item = scratch.length;
    let item = ItemHeader { kind, frame_kind, flags, stream, length, ..ItemHeader::default() };
    put_item(scratch, item);
}

/// Copies the next payload bytes of a frame that is kept. `None` if they cannot be read.
#[inline(always)]
pub(super) fn copy<H: Host>(scratch: &mut Scratch<H>, frame: &FrameHeader, n: u32) -> Option<()> {
    if scratch.item == 0 {
        begin_frame(scratch, frame, item_kind::PART);
    }
    scratch.host.copy(n, scratch.length)?;
    scratch.length += n;
    scratch.captured += n;
    Some(())
}

/// Starts an item for the tail of a body, or for the next part of one (`more`: [`TAIL_PART`]).
#[inline(always)]
pub(super) fn begin_tail<H: Host>(scratch: &mut Scratch<H>, scanner: &Scanner, more: u8) {
    let Tail { flags, text, length } = scanner.tail();
    scratch.captured = 0;
    scratch.item = scratch.length;
    let (kind, frame_kind, stream) = (item_kind::TAIL, flags | more, scanner.frame().stream);
    let item =
        ItemHeader { kind, frame_kind, flags: text, stream, length, ..ItemHeader::default() };
    put_item(scratch, item);
}

/// Copies the next bytes of the tail of a body. `None` if they cannot be read.
#[inline(always)]
pub(super) fn copy_tail<H: Host>(
    scratch: &mut Scratch<H>,
    scanner: &Scanner,
    n: u32,
) -> Option<()> {
    if scratch.item == 0 {
        begin_tail(scratch, scanner, TAIL_PART);
    }
    scratch.host.copy(n, scratch.length)?;
    scratch.length += n;
    scratch.captured += n;
    Some(())
}

/// Ends the open frame item, if there is one.
#[inline(always)]
pub(super) fn end_frame<H: Host>(scratch: &mut Scratch<H>) {
    if scratch.item == 0 {
        return;
    }
    scratch.host.put_captured(scratch.item, scratch.captured);
    scratch.length = (scratch.length + ITEM_ALIGNMENT - 1) & !(ITEM_ALIGNMENT - 1);
    scratch.item = 0;
}

/// Adds a data item if messages ended in DATA frames since the last one.
#[inline(always)]
pub(super) fn flush_data<H: Host>(scratch: &mut Scratch<H>) {
    let Data { message_bytes, messages, stream, flags } = scratch.data;
    if messages == 0 && flags == 0 {
        return;
    }
    let (kind, flags, captured) = (item_kind::DATA, flags as u8, size_of::<DataItem>() as u32);
    put_item(scratch, ItemHeader { kind, flags, stream, captured, ..ItemHeader::default() });
    scratch.host.put_data(scratch.length, DataItem { message_bytes, messages });
    scratch.length += captured;
    scratch.data = Data::default();
}

/// Adds an item's header.
#[inline(always)]
pub(super) fn put_item<H: Host>(scratch: &mut Scratch<H>, item: ItemHeader) {
    scratch.host.put_item(scratch.length, item);
    scratch.length += size_of::<ItemHeader>() as u32;
}

/// Ends the record and sends it, if it reports anything. Returns false if it was dropped. Not inlined: the verifier
/// need not follow it for each way to it.
#[inline(never)]
pub(super) fn send<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &mut Shared,
    own: &mut DirectionState,
    other: &DirectionState,
) -> bool {
    end_frame(scratch);
    flush_data(scratch);
    let reports = scratch.length > scratch.empty;
    // Frames of a stream are reported in order even before the transfer with the client preface has been handled: this
    // transfer may have been faster, or the server answers the request that asked for the upgrade.
    if !reports || shared.state != state::WATCHED && scratch.streams == 0 {
        return true;
    }
    let announced = write_header(scratch, shared, own, other);
    let sent = scratch.host.send(shared.id, scratch.pid, scratch.length);
    if sent {
        shared.announced = announced;
        own.dropped = 0;
        own.gap = 0;
        own.inserts = 0;
        shared.pid = scratch.pid;
    } else {
        own.dropped = 1;
        scratch.host.count(Counter::RingFull, own.position - own.reported);
    }
    own.reported = own.position;
    sent
}

/// Writes the header, and the description of the connection if there is room for it. Returns what the daemon then knows
/// of that: one of [`announced`].
#[inline(always)]
fn write_header<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &Shared,
    own: &DirectionState,
    other: &DirectionState,
) -> u8 {
    let gaps =
        u8::from(own.has_gap()) << scratch.sent | u8::from(other.has_gap()) << (scratch.sent ^ 1);
    let is_late = match scratch.timed {
        timed::BY_THREAD => scratch.host.was_busy(),
        timed => timed == timed::NOT,
    };
    let late = if is_late { LATE } else { 0 };
    let held = if shared.is_tls() { HELD } else { 0 };
    let protocol = match shared.protocol {
        protocol::THRIFT | protocol::UNVERSIONED_THRIFT => THRIFT,
        protocol::HTTP1 => HTTP1,
        _ => 0,
    };
    scratch.host.put_header(RecordHeader {
        connection: shared.id,
        time_ns: scratch.time_ns,
        position: own.reported,
        length: own.position - own.reported,
        pid: scratch.pid,
        kind: record_kind::BYTES,
        direction: scratch.sent,
        role: shared.role,
        flags: gaps | late | held | protocol,
    });
    if scratch.empty < EMPTY + OPEN {
        return shared.announced;
    }
    let item = ItemHeader {
        kind: item_kind::OPEN,
        captured: size_of::<OpenItem>() as u32,
        ..ItemHeader::default()
    };
    scratch.host.put_item(EMPTY, item);
    let samples = shared.samples_starts();
    let joined = if shared.joined != 0 { open_flag::JOINED } else { 0 };
    let sampled = if samples { open_flag::SAMPLED } else { 0 };
    let opened = Opened {
        pid: scratch.pid,
        flags: joined | sampled | u16::from(shared.tie) << 8,
        pair: shared.pair(own, other, scratch.host.sock()),
    };
    let is_whole = scratch.host.put_open(EMPTY + size_of::<ItemHeader>() as u32, opened);
    match shared.announced {
        _ if !samples => announced::ALL,
        // Another process uses it now.
        announced::ALL => announced::ALL,
        _ if !is_whole => announced::NO_STARTS,
        announced::STARTS_ONCE => announced::ALL,
        _ => announced::STARTS_ONCE,
    }
}

/// Adds the entries that the field blocks in a dropped record inserted into the dynamic table: the daemon needs their
/// number to keep its table.
#[inline(always)]
pub(super) fn add_inserts<H: Host>(scratch: &mut Scratch<H>, own: &mut DirectionState) {
    // Not on the stack, where the verifier would distinguish all of its states.
    scratch.tally = Tally::new(scratch.empty, scratch.length);
    H::tally(scratch);
    own.inserts = match scratch.tally.count() {
        Some(count) => own.inserts.saturating_add(count),
        None => DirectionState::UNCLEAR,
    };
}

/// Does one step of counting the entries that a record's field blocks inserted. Returns whether there is more; it takes
/// at most as many steps as the record has bytes.
#[inline(always)]
pub fn tally<H: Host>(scratch: &mut Scratch<H>) -> bool {
    let Scratch { tally, host, .. } = scratch;
    tally.step(|at| host.byte(at))
}

/// The first byte of the field block at the end of the record; `None` if the record does not have the frame's start.
#[inline(always)]
pub(super) fn first_of_block<H: Host>(scratch: &Scratch<H>, frame: &FrameHeader) -> Option<u8> {
    let before = if frame.has(flag::PRIORITY) { 5 } else { 0 };
    let whole = scratch.item != 0 && scratch.captured == frame.length;
    if !whole || frame.has(flag::PADDED) || scratch.captured <= before {
        return None;
    }
    Some(scratch.host.byte(scratch.item + size_of::<ItemHeader>() as u32 + before))
}
