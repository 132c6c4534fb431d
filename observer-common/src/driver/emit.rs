//! Puts a record together and has it sent.

use super::{
    Host, Opened, Scratch,
    connection::{DirectionState, GAP_FOUND, Shared, state},
    timed,
};
use crate::{
    block::Tally,
    counter::Counter,
    frame::{FrameHeader, flag},
    record::{
        DataItem, ITEM_ALIGNMENT, ItemHeader, LATE, OpenItem, RecordHeader, Waited, item_kind,
        record_kind,
    },
};

/// A record is sent before the next step once it is this long: a step adds at most the totals of
/// DATA frames, an item header and a copy.
pub(super) const RECORD_FULL: u32 = 12 << 10;

/// Most bytes that are copied in one step: a mask, too.
pub const COPY_MAX: u32 = 4095;

/// Longest record: a full one less a byte, an item header, the longest copy, and the zeros behind it.
pub const RECORD_CAPACITY: usize = (20 << 10) + ITEM_ALIGNMENT as usize;

/// Length of a record without items.
const EMPTY: u32 = size_of::<RecordHeader>() as u32;

/// Length of the item that says who the connection is.
const OPEN: u32 = (size_of::<ItemHeader>() + size_of::<OpenItem>()) as u32;

/// Begins a record: room for its header and, if the connection is new or another process uses it
/// now, for what it is; and what records before it that could not be sent leave to be reported.
#[inline(always)]
pub(super) fn begin<H: Host>(scratch: &mut Scratch<H>, shared: &Shared, own: &DirectionState) {
    let announced = shared.announced != 0 && shared.pid == scratch.pid;
    scratch.item = 0;
    scratch.data.messages = 0;
    scratch.data.message_bytes = 0;
    scratch.data.flags = 0;
    scratch.length = if announced { EMPTY } else { EMPTY + OPEN };
    if own.gap != 0 {
        let flags = own.gap & GAP_FOUND | u8::from(own.sync.is_out_of_sync());
        put_item(scratch, ItemHeader { kind: item_kind::GAP, flags, ..ItemHeader::default() });
    } else if own.dropped != 0 {
        let unclear = own.inserts == DirectionState::UNCLEAR;
        let item = ItemHeader {
            kind: item_kind::LOST,
            flags: u8::from(unclear),
            length: own.inserts,
            ..ItemHeader::default()
        };
        put_item(scratch, item);
    }
    let Waited { least_us, most_us } = scratch.waited;
    if most_us != 0 {
        let kind = item_kind::WAITED;
        let item = ItemHeader { kind, stream: least_us, length: most_us, ..ItemHeader::default() };
        put_item(scratch, item);
    }
    scratch.empty = scratch.length;
}

/// Begins an item for a frame that is kept, or for the rest of one.
#[inline(always)]
pub(super) fn begin_frame<H: Host>(scratch: &mut Scratch<H>, frame: &FrameHeader, kind: u8) {
    let item = ItemHeader {
        kind,
        frame_kind: frame.kind,
        flags: frame.flags,
        _reserved: 0,
        stream: frame.stream,
        length: frame.length,
        captured: 0,
    };
    scratch.captured = 0;
    scratch.item = scratch.length;
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

/// Puts what ended in DATA frames into the record, if anything did.
#[inline(always)]
pub(super) fn flush_data<H: Host>(scratch: &mut Scratch<H>) {
    if scratch.data.messages == 0 && scratch.data.flags == 0 {
        return;
    }
    let item = ItemHeader {
        kind: item_kind::DATA,
        frame_kind: 0,
        flags: scratch.data.flags as u8,
        _reserved: 0,
        stream: scratch.data.stream,
        length: 0,
        captured: size_of::<DataItem>() as u32,
    };
    put_item(scratch, item);
    let totals =
        DataItem { message_bytes: scratch.data.message_bytes, messages: scratch.data.messages };
    scratch.host.put_data(scratch.length, totals);
    scratch.length += size_of::<DataItem>() as u32;
    scratch.data.messages = 0;
    scratch.data.message_bytes = 0;
    scratch.data.flags = 0;
}

#[inline(always)]
fn put_item<H: Host>(scratch: &mut Scratch<H>, item: ItemHeader) {
    scratch.host.put_item(scratch.length, item);
    scratch.length += size_of::<ItemHeader>() as u32;
}

/// Ends the record and sends it, if it reports anything. Answers whether it was not dropped. A function of its own: the
/// verifier need not follow it for each way to it.
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
    let mut sent = true;
    // What is of a stream has its place in the order of all, even where the transfer that wrote the client
    // preface has not been looked at yet: another one may have been faster, or the server answers the
    // request that asked for the upgrade.
    if reports && (shared.state == state::WATCHED || scratch.streams != 0) {
        write_header(scratch, shared, own, other);
        sent = scratch.host.send(shared.id, scratch.pid, scratch.length);
        if sent {
            shared.announced = 1;
            own.dropped = 0;
            own.gap = 0;
            own.inserts = 0;
            shared.pid = scratch.pid;
        } else {
            own.dropped = 1;
            scratch.host.count(Counter::RingFull, own.position - own.reported);
        }
        own.reported = own.position;
    }
    sent
}

#[inline(always)]
fn write_header<H: Host>(
    scratch: &mut Scratch<H>,
    shared: &Shared,
    own: &DirectionState,
    other: &DirectionState,
) {
    let gaps =
        u8::from(own.has_gap()) << scratch.sent | u8::from(other.has_gap()) << (scratch.sent ^ 1);
    let is_late = match scratch.timed {
        timed::BY_THREAD => scratch.host.was_busy(),
        timed => timed == timed::NOT,
    };
    let late = if is_late { LATE } else { 0 };
    scratch.host.put_header(RecordHeader {
        connection: shared.id,
        time_ns: scratch.time_ns,
        position: own.reported,
        length: own.position - own.reported,
        pid: scratch.pid,
        kind: record_kind::BYTES,
        direction: scratch.sent,
        role: shared.role,
        flags: gaps | late,
    });
    if scratch.empty < EMPTY + OPEN {
        return;
    }
    let item = ItemHeader {
        kind: item_kind::OPEN,
        captured: size_of::<OpenItem>() as u32,
        ..ItemHeader::default()
    };
    scratch.host.put_item(EMPTY, item);
    let opened = Opened {
        pid: scratch.pid,
        joined: u16::from(shared.joined),
        pair: shared.pair(own, other, scratch.host.sock()),
    };
    scratch.host.put_open(EMPTY + size_of::<ItemHeader>() as u32, opened);
}

/// Adds up what the header blocks in a record that could not be sent inserted into the dynamic
/// table: so what the daemon knows of that is not lost with the record.
#[inline(always)]
pub(super) fn add_inserts<H: Host>(scratch: &mut Scratch<H>, own: &mut DirectionState) {
    // Not on the stack, where the verifier would tell every two of its states apart.
    scratch.tally = Tally::new(scratch.empty, scratch.length);
    H::tally(scratch);
    own.inserts = match scratch.tally.count() {
        Some(count) => own.inserts.saturating_add(count),
        None => DirectionState::UNCLEAR,
    };
}

/// One step of adding up what a record's header blocks inserted. Answers whether there is more, which takes no more steps
/// than the record has bytes.
#[inline(always)]
pub fn tally<H: Host>(scratch: &mut Scratch<H>) -> bool {
    let Scratch { tally, host, .. } = scratch;
    tally.step(|at| host.byte(at))
}

/// The first byte of the header block that ends the record so far; `None` if it is not there: the
/// frame's beginning may be in an earlier record.
#[inline(always)]
pub(super) fn first_of_block<H: Host>(scratch: &Scratch<H>, frame: &FrameHeader) -> Option<u8> {
    let before = if frame.has(flag::PRIORITY) { 5 } else { 0 };
    let whole = scratch.item != 0 && scratch.captured == frame.length;
    if !whole || frame.has(flag::PADDED) || scratch.captured <= before {
        return None;
    }
    Some(scratch.host.byte(scratch.item + size_of::<ItemHeader>() as u32 + before))
}
