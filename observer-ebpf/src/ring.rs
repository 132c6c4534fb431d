//! The rings, and how much each process may write into them.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_ringbuf_output, generated::bpf_ringbuf_query};
use observer_common::{
    record::RecordHeader,
    writer::{self, Writer},
};

use crate::{
    count::add_to,
    globals,
    kernel::{current_pid, process_name},
    maps::{RINGS, Values as _, WRITERS},
    record::Record,
};

const BPF_RB_NO_WAKEUP: u64 = 1;
const BPF_RB_FORCE_WAKEUP: u64 = 2;
const BPF_RB_AVAIL_DATA: u64 = 0;
const BPF_RB_CONS_POS: u64 = 2;

/// Length of the ring's own header for each record (`BPF_RINGBUF_HDR_SZ`).
const RING_HEADER: u64 = 8;

/// Sends a record of a connection. Returns whether the ring had room.
#[inline(always)]
pub fn output(connection: u64, pid: u32, record: &Record, length: u32) -> bool {
    let Some((bytes, length)) = record.first(length) else { return false };
    output_bytes(ring_of(connection), pid, bytes, length)
}

/// Sends a record of a connection, without items. Returns whether the ring had room.
#[inline(always)]
pub fn output_header(header: &RecordHeader) -> bool {
    output_bytes(
        ring_of(header.connection),
        header.pid,
        (&raw const *header).cast(),
        size_of::<RecordHeader>() as u32,
    )
}

/// Sends a record of a process to every ring, because each may have its connections. Returns whether all had room.
#[inline(always)]
pub fn output_to_all<T>(record: &T, pid: u32) -> bool {
    let mut sent = true;
    for ring in 0..globals::rings() {
        sent &= output_bytes(ring, pid, (&raw const *record).cast(), size_of::<T>() as u32);
    }
    sent
}

/// The ring of a connection: always the same one, so that its records stay in order.
#[inline(always)]
fn ring_of(connection: u64) -> u32 {
    // The inode number. The kernel assigns consecutive ones; multiplied by 2³² ÷ φ, they are spread evenly
    // (Knuth, The Art of Computer Programming, 6.4).
    let spread = ((connection >> 32) as u32).wrapping_mul(0x9e37_79b9);
    ((u64::from(spread) * u64::from(globals::rings())) >> 32) as u32
}

/// Sends a record that counts for this process. The daemon reads the ring at regular times and is woken only if the
/// ring is half full, so a record costs no wake-up. In the last quarter, each process has a share.
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
    // SAFETY: likewise; the bytes are the caller's.
    let sent =
        unsafe { bpf_ringbuf_output(ring, bytes.cast_mut().cast(), u64::from(length), flags) };
    sent == 0
}

/// Whether a process may write `length` bytes into a ring that is three quarters full. It may, as long as the bytes
/// that it wrote since another half was read are not more than the room that is left. So a process that fills the ring
/// gets half of the last quarter, and there is always room for others (as in `share`). Not inlined: it is rarely
/// called.
#[inline(never)]
fn may_write(ring: u32, pid: u32, length: u32, waiting: u64, read: u64) -> bool {
    let half = globals::wake_at();
    // Other CPUs may change it meanwhile, by a record each.
    let Some(writer) = writer_of(writer::key(ring, pid)) else { return true };
    let halves = read.checked_div(half).unwrap_or(0);
    if writer.halves != halves {
        writer.halves = halves;
        writer.bytes = 0;
    }
    let left = (2 * half).saturating_sub(waiting + 1);
    // With header and padding, as the kernel counts it.
    let length = (u64::from(length) + RING_HEADER + 7) & !7;
    if writer.bytes + length > left {
        add_to(&mut writer.dropped, 1);
        // In an interrupt it is not the process that runs.
        if current_pid() == pid {
            process_name(&mut writer.comm);
        }
        return false;
    }
    add_to(&mut writer.bytes, length);
    true
}

/// A new writer. Not on the stack, which has no room for it.
static NOTHING_WRITTEN: Writer =
    Writer { halves: 0, bytes: 0, dropped: 0, exited: 0, comm: [0; 16] };

#[inline(always)]
fn writer_of(key: u64) -> Option<&'static mut Writer> {
    if let Some(writer) = WRITERS.value(key)
        && writer.exited == 0
    {
        return Some(writer);
    }
    let none: &Writer = &NOTHING_WRITTEN;
    let _ = WRITERS.insert(key, none, 0);
    WRITERS.value(key)
}
