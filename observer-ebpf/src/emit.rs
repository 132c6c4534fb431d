//! Puts a record together in the scratch slot and sends it.

use core::{arch::asm, ffi::c_void, mem::offset_of};

use aya_ebpf::helpers::{
    bpf_loop, bpf_probe_read_kernel_buf, bpf_probe_read_user_buf, bpf_ringbuf_output,
    generated::bpf_ringbuf_query,
};
use observer_common::{
    block::Tally,
    counter::Counter,
    frame::{FrameHeader, flag},
    record::{
        DataItem, ITEM_ALIGNMENT, ItemHeader, LATE, MAX_RINGS, OpenItem, RecordHeader, item_kind,
        record_kind,
    },
    writer::{self, Writer},
};

use crate::{
    connection::{Direction, GAP_FOUND, state},
    count::{add_to, count},
    filter, globals,
    kernel::{process_name, ran_for},
    maps::{PROCESSES, RINGS, Renames, WRITERS},
    scratch::{COPY_MAX, RECORD_CAPACITY, Scratch},
    socket,
    walk::Walk,
    window::{self, SHORT},
};

const BPF_RB_NO_WAKEUP: u64 = 1;
const BPF_RB_FORCE_WAKEUP: u64 = 2;
const BPF_RB_AVAIL_DATA: u64 = 0;
const BPF_RB_CONS_POS: u64 = 2;

/// What a ring takes for each record (`BPF_RINGBUF_HDR_SZ`).
const RING_HEADER: u64 = 8;

/// Length of a record without items.
const EMPTY: u32 = size_of::<RecordHeader>() as u32;

/// Length of the item that tells who the connection is.
const OPEN: u32 = (size_of::<ItemHeader>() + size_of::<OpenItem>()) as u32;

/// Offsets are below this: the verifier sees the mask, `RECORD_FULL` makes it true.
const OFFSET_MASK: u32 = (16 << 10) - 1;

/// Begins a record: room for its header and, if the connection is new or another process uses it
/// now, for what it is; and what records before it that could not be sent leave to be told.
#[inline(always)]
pub fn begin(walk: &Walk, scratch: &mut Scratch) {
    // SAFETY: map values, valid for the run.
    let (connection, direction) = unsafe { (&*walk.connection, &*walk.direction) };
    let announced = connection.announced != 0 && connection.pid == walk.pid;
    scratch.item = 0;
    scratch.data.messages = 0;
    scratch.data.message_bytes = 0;
    scratch.data.flags = 0;
    scratch.length = if announced { EMPTY } else { EMPTY + OPEN };
    if direction.gap != 0 {
        let flags = direction.gap & GAP_FOUND | u8::from(direction.step.is_lost());
        put(scratch, ItemHeader { kind: item_kind::GAP, flags, ..ItemHeader::default() });
    } else if direction.lost != 0 {
        let unclear = direction.inserts == Direction::UNCLEAR;
        let item = ItemHeader {
            kind: item_kind::LOST,
            flags: u8::from(unclear),
            length: direction.inserts,
            ..ItemHeader::default()
        };
        put(scratch, item);
    }
    scratch.empty = scratch.length;
}

/// Begins an item for a frame that is kept, or for the rest of one.
#[inline(always)]
pub fn begin_frame(scratch: &mut Scratch, frame: &FrameHeader, kind: u8) {
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
    put(scratch, item);
}

/// Copies the next payload bytes of a frame that is kept. `None` if they cannot be read.
#[inline(always)]
pub fn copy(scratch: &mut Scratch, frame: &FrameHeader, from: u64, n: u32) -> Option<()> {
    if scratch.item == 0 {
        begin_frame(scratch, frame, item_kind::PART);
    }
    let at = (scratch.length & OFFSET_MASK) as usize;
    let n = n & COPY_MAX;
    // SAFETY: within the record by the masks, with what is cleared; the helpers check the address.
    unsafe {
        let to = scratch.record.as_mut_ptr().add(at);
        let all = core::slice::from_raw_parts_mut(to, n as usize);
        match scratch.window.find(from, n) {
            // A helper would take longer.
            Some(from) if n <= SHORT => window::copy_short(from, to),
            Some(from) => bpf_probe_read_kernel_buf(from, all).ok()?,
            None => bpf_probe_read_user_buf(from as *const u8, all).ok()?,
        }
        clear_8(to.add(n as usize));
    }
    scratch.length += n;
    scratch.captured += n;
    Some(())
}

/// Of what is behind a copy's end, which may be of a message, nothing is left in the item's padding.
///
/// # Safety
///
/// There is room for eight bytes.
#[inline(always)]
unsafe fn clear_8(to: *mut u8) {
    const { assert!(ITEM_ALIGNMENT == 8) };
    // By one store, aligned or not, as in `window`.
    // SAFETY: writes so many bytes.
    unsafe { asm!("*(u64 *)({to} + 0) = {zero}", to = in(reg) to, zero = in(reg) 0_u64) };
}

/// Ends the open frame item, if there is one.
#[inline(always)]
pub fn end_frame(scratch: &mut Scratch) {
    if scratch.item == 0 {
        return;
    }
    let at = (scratch.item & OFFSET_MASK) as usize + offset_of!(ItemHeader, captured);
    // SAFETY: in bounds by the mask; items are aligned.
    unsafe { *scratch.record.as_mut_ptr().add(at).cast::<u32>() = scratch.captured };
    scratch.length = (scratch.length + ITEM_ALIGNMENT - 1) & !(ITEM_ALIGNMENT - 1);
    scratch.item = 0;
}

/// Puts what ended in DATA frames into the record, if anything did.
#[inline(always)]
pub fn flush_data(scratch: &mut Scratch) {
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
    put(scratch, item);
    let totals =
        DataItem { message_bytes: scratch.data.message_bytes, messages: scratch.data.messages };
    put(scratch, totals);
    scratch.data.messages = 0;
    scratch.data.message_bytes = 0;
    scratch.data.flags = 0;
}

/// Appends a struct whose size is a multiple of the alignment of items.
#[inline(always)]
fn put<T>(scratch: &mut Scratch, value: T) {
    const { assert!(size_of::<T>().is_multiple_of(ITEM_ALIGNMENT as usize)) };
    let at = (scratch.length & OFFSET_MASK) as usize;
    // SAFETY: in bounds by the mask; items are aligned.
    unsafe { scratch.record.as_mut_ptr().add(at).cast::<T>().write(value) };
    scratch.length += size_of::<T>() as u32;
}

/// Ends the record and sends it, if it tells anything. Answers whether nothing was lost.
#[inline(never)]
pub fn send(walk: &Walk, scratch: &mut Scratch) -> bool {
    end_frame(scratch);
    flush_data(scratch);
    // SAFETY: a map value, valid for the run.
    let connection = unsafe { &mut *walk.connection };
    let tells = scratch.length > scratch.empty;
    let mut sent = true;
    // What is of a stream has its place in the order of all, even where the call that wrote the client
    // preface has not been looked at yet: another one may have been faster, or the server answers the
    // request that asked for the upgrade.
    if tells && (connection.state == state::WATCHED || scratch.streams != 0) {
        write_header(walk, scratch);
        // SAFETY: a map value, valid for the run.
        let direction = unsafe { &mut *walk.direction };
        sent = output(connection.id, walk.pid, scratch);
        if sent {
            connection.announced = 1;
            direction.lost = 0;
            direction.gap = 0;
            direction.inserts = 0;
            connection.pid = walk.pid;
        } else {
            direction.lost = 1;
            count(Counter::RingFull, direction.position - direction.reported);
        }
        // SAFETY: a map value, valid for the run.
        unsafe { (*walk.direction).reported = (*walk.direction).position };
    }
    sent
}

/// Adds up what the header blocks in a record that could not be sent inserted into the dynamic
/// table: so what the daemon knows of that is not lost with the record.
#[inline(always)]
pub fn add_inserts(scratch: &mut Scratch, direction: &mut Direction) {
    // Not on the stack, where the verifier would tell every two of its states apart.
    scratch.tally = Tally::new(scratch.empty, scratch.length);
    let mut pointer = &raw mut *scratch;
    let step = tally_step as *mut c_void;
    // SAFETY: the callback takes what it is given, which outlives the loop.
    unsafe { bpf_loop(RECORD_CAPACITY as u32, step, (&raw mut pointer).cast(), 0) };
    direction.inserts = match scratch.tally.count() {
        Some(count) => direction.inserts.saturating_add(count),
        None => Direction::UNCLEAR,
    };
}

extern "C" fn tally_step(_: u32, scratch: *mut c_void) -> i64 {
    // SAFETY: what `add_inserts` passed: a map value, valid for the run.
    let scratch = unsafe { &mut **scratch.cast::<*mut Scratch>() };
    let record = (&raw const scratch.record).cast::<u8>();
    let read = |at: u32| {
        let mut at = u64::from(at);
        // So that the compiler compares what it adds: the verifier knows of no copies.
        // SAFETY: one instruction, on a register.
        unsafe { asm!("{at} &= 0x7fff", at = inout(reg) at) };
        if at as usize >= RECORD_CAPACITY {
            return 0;
        }
        // SAFETY: in bounds.
        unsafe { *record.add(at as usize) }
    };
    i64::from(!scratch.tally.step(read))
}

/// The first byte of the header block that ends the record so far; `None` if it is not there: the
/// frame's beginning may be in an earlier record.
#[inline(always)]
pub fn first_of_block(scratch: &Scratch, frame: &FrameHeader) -> Option<u8> {
    let before = if frame.has(flag::PRIORITY) { 5 } else { 0 };
    let whole = scratch.item != 0 && scratch.captured == frame.length;
    if !whole || frame.has(flag::PADDED) || scratch.captured <= before {
        return None;
    }
    let at = (scratch.item + size_of::<ItemHeader>() as u32 + before) & OFFSET_MASK;
    // SAFETY: in bounds by the mask.
    Some(unsafe { *scratch.record.as_ptr().add(at as usize) })
}

/// Whether the thread was busy before the call. Between two ticks nobody knows: that much the daemon allows.
#[inline(always)]
fn late() -> u8 {
    const BUSY_NS: u64 = 2_000_000;
    if ran_for() > BUSY_NS { LATE } else { 0 }
}

#[inline(always)]
fn write_header(walk: &Walk, scratch: &mut Scratch) {
    // SAFETY: map values, valid for the run.
    let (connection, direction) = unsafe { (&*walk.connection, &*walk.direction) };
    let header = RecordHeader {
        connection: connection.id,
        time_ns: scratch.time_ns,
        position: direction.reported,
        length: direction.position - direction.reported,
        pid: walk.pid,
        kind: record_kind::BYTES,
        direction: walk.sent,
        role: connection.role,
        flags: connection.unseen() | late(),
    };
    let record = scratch.record.as_mut_ptr();
    // SAFETY: within the record; aligned as the struct is.
    unsafe { record.cast::<RecordHeader>().write(header) };
    if scratch.empty < EMPTY + OPEN {
        return;
    }
    let item = ItemHeader {
        kind: item_kind::OPEN,
        captured: size_of::<OpenItem>() as u32,
        ..ItemHeader::default()
    };
    remember(walk.pid);
    // SAFETY: within the record, which `begin` left this room in; aligned.
    unsafe {
        record.add(EMPTY as usize).cast::<ItemHeader>().write(item);
        let open = record.add(EMPTY as usize + size_of::<ItemHeader>()).cast::<OpenItem>();
        socket::describe(walk.sock, &mut *open);
        (*open).joined = u16::from(connection.joined);
        (*open).pair = connection.pair(walk.sock);
    }
}

/// Has the process's end and its new names told: before its name is read, so that none is missed.
#[inline(always)]
fn remember(pid: u32) {
    const BPF_NOEXIST: u64 = 1;
    const EEXIST: i64 = 17;
    let known = PROCESSES.insert(pid, Renames::default(), BPF_NOEXIST);
    if known.is_err_and(|error| i64::from(error) != -EEXIST) {
        count(Counter::ProcessesFull, 0);
    }
}

#[inline(always)]
fn output(connection: u64, pid: u32, scratch: &Scratch) -> bool {
    let length = scratch.length & 0x7fff;
    if length as usize > RECORD_CAPACITY {
        return false;
    }
    output_bytes(ring_of(connection), pid, scratch.record.as_ptr(), length)
}

/// Sends a record of a connection that has no items.
#[inline(always)]
pub fn output_header(header: &RecordHeader) -> bool {
    output_bytes(ring_of(header.connection), header.pid, (&raw const *header).cast(), EMPTY)
}

/// Sends a record of a process: to every ring, as each may have its connections. Answers whether all have
/// it.
#[inline(always)]
pub fn output_to_all<T>(record: &T, pid: u32) -> bool {
    let mut sent = true;
    for ring in 0..MAX_RINGS {
        if ring >= globals::rings() {
            break;
        }
        sent &= output_bytes(ring, pid, (&raw const *record).cast(), size_of::<T>() as u32);
    }
    sent
}

/// The ring of a connection: always the same one, so that its records stay in order.
#[inline(always)]
fn ring_of(connection: u64) -> u32 {
    // The inode number. They are given out one after the other; multiplied by 2³² ÷ φ they are spread
    // evenly (Knuth, The Art of Computer Programming, 6.4).
    let spread = ((connection >> 32) as u32).wrapping_mul(0x9e37_79b9);
    ((u64::from(spread) * u64::from(globals::rings())) >> 32) as u32
}

/// Sends bytes that a process has to do with. The daemon looks at the ring by its own clock; it is woken only when
/// the ring is half full, so that a record costs no wake-up. Of the last quarter processes have shares.
#[inline(always)]
fn output_bytes(number: u32, pid: u32, bytes: *const u8, length: u32) -> bool {
    let Some(ring) = RINGS.get(number) else { return false };
    let ring = (&raw const *ring).cast_mut().cast::<c_void>();
    // SAFETY: a map of this program.
    let waiting = unsafe { bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) };
    let mut flags = BPF_RB_NO_WAKEUP;
    let half = globals::wake_at();
    if waiting >= half {
        flags = BPF_RB_FORCE_WAKEUP;
    }
    if waiting >= half + half / 2 {
        // SAFETY: likewise.
        let read = unsafe { bpf_ringbuf_query(ring, BPF_RB_CONS_POS) };
        if !may_write(number, pid, length, waiting, read) {
            return false;
        }
    }
    // SAFETY: likewise; the caller has the bytes.
    let sent =
        unsafe { bpf_ringbuf_output(ring, bytes.cast_mut().cast(), u64::from(length), flags) };
    sent == 0
}

/// Whether a process may write so many bytes into a ring of which three quarters are full. It may, so long as it has
/// not written more than is left since another half was read: who fills the ring gets half of the last quarter, and
/// there is always something left for others (as in `share`). A function of its own: it is rarely called.
#[inline(never)]
fn may_write(ring: u32, pid: u32, length: u32, waiting: u64, read: u64) -> bool {
    let half = globals::wake_at();
    let Some(writer) = writer_of(writer::key(ring, pid)) else { return true };
    // SAFETY: a map value, valid for the run, which other processors may change meanwhile: by a record each.
    let writer = unsafe { &mut *writer };
    let halves = read.checked_div(half).unwrap_or(0);
    if writer.halves != halves {
        writer.halves = halves;
        writer.bytes = 0;
    }
    let left = (2 * half).saturating_sub(waiting + 1);
    // As the kernel counts it.
    let length = (u64::from(length) + RING_HEADER + 7) & !7;
    if writer.bytes + length > left {
        add_to(&mut writer.dropped, 1);
        // In an interrupt it is not the process that runs.
        if filter::current_pid() == pid {
            process_name(&mut writer.comm);
        }
        return false;
    }
    add_to(&mut writer.bytes, length);
    true
}

/// Not on the stack, which has no room for it.
static NOTHING_WRITTEN: Writer =
    Writer { halves: 0, bytes: 0, dropped: 0, exited: 0, comm: [0; 16] };

#[inline(always)]
fn writer_of(key: u64) -> Option<*mut Writer> {
    if let Some(writer) = WRITERS.get_ptr_mut(key)
        // SAFETY: a map value, valid for the run.
        && unsafe { (*writer).exited } == 0
    {
        return Some(writer);
    }
    let none: &Writer = &NOTHING_WRITTEN;
    let _ = WRITERS.insert(key, none, 0);
    WRITERS.get_ptr_mut(key)
}
