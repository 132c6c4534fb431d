//! The driver's host: the process's buffers, the maps and the ring.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_loop, bpf_probe_read_kernel_buf};
use observer_common::{
    counter::{Counter, Protocol},
    driver::{
        COPY_MAX, Emitter, Memory, Messages, Opened, RECORD_CAPACITY, Scratch, Walk,
        arrival::Arrival, connection::Shared, tally, thrift, walk,
    },
    record::{DataItem, ItemHeader, OpenItem, RecordHeader, open_flag},
    scanner::{Message, Scanner},
};

use crate::{
    buffers::{Buffers, Shape},
    count::{count, count_protocol},
    filter, globals,
    kernel::ran_for,
    maps::{
        BPF_NOEXIST, Kept, MAX_MESSAGES, MESSAGES, MessageKey, PROCESSES, Renames, Values as _,
    },
    record::Record,
    ring,
    share::{self, Of},
    socket,
    transfer::Transfer,
    window::{self, SHORT, Window, read_user},
};

const CONTINUE: i64 = 0;
const STOP: i64 = 1;

/// The transfer, its buffers, and the record. `SLEEPS`: whether the invocation waits for memory that is not present.
#[repr(C)]
pub struct Host<const SLEEPS: bool = false> {
    pub transfer: Transfer,
    pub buffers: Buffers,
    pub window: Window,
    record: Record,
}

impl<const SLEEPS: bool> Host<SLEEPS> {
    #[inline(always)]
    const fn key(&self, shared: &Shared, stream: u32, direction: u8) -> MessageKey {
        let sock = self.transfer.socket.sock;
        MessageKey { connection: shared.id, sock, stream, direction: direction as u32 }
    }
}

impl<const SLEEPS: bool> Memory for Host<SLEEPS> {
    #[inline(always)]
    fn left(&self) -> u64 {
        self.buffers.left
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    #[inline(always)]
    fn next(&mut self) -> Option<()> {
        self.buffers.next()
    }

    #[inline(always)]
    fn advance(&mut self, n: u32) {
        self.buffers.advance(n);
    }

    #[inline(always)]
    fn read(&mut self, n: u32, scanner: &mut Scanner, at: u32) -> Option<()> {
        self.window.hold::<SLEEPS>(self.buffers.base, n, self.buffers.left)?;
        let at = (at & 31) as usize;
        // SAFETY: 31 and the bytes that are copied are less than the buffer's length.
        unsafe { self.window.put(scanner.buffer.as_mut_ptr().add(at)) };
        Some(())
    }

    #[inline(always)]
    fn copy(&mut self, n: u32, at: u32) -> Option<()> {
        let (from, n) = (self.buffers.base, n & COPY_MAX);
        let to = self.record.place(at);
        // SAFETY: within the record by the masks, including the padding; the helpers check the address.
        unsafe {
            let all = core::slice::from_raw_parts_mut(to, n as usize);
            match self.window.find(from, n) {
                // A helper would take longer.
                Some(from) if n <= SHORT => window::copy_short(from, to),
                Some(from) => bpf_probe_read_kernel_buf(from, all).ok()?,
                None => read_user::<SLEEPS>(from, all)?,
            }
            Record::clear_padding(to.add(n as usize));
        }
        Some(())
    }

    #[inline(always)]
    fn gap_cause(&self) -> Counter {
        match self.transfer.shape {
            _ if self.transfer.discarded => Counter::Discarded,
            // Not memory of the process: splice, sendfile, buffers of the kernel.
            Shape::Iterator { .. } | Shape::Elsewhere if !self.buffers.is_readable() => {
                Counter::Unseen
            }
            _ => Counter::Unreadable,
        }
    }
}

impl<const SLEEPS: bool> Messages for Host<SLEEPS> {
    // The program at the probes of TLS libraries is the only one that sleeps.
    const SENDS_LATE: bool = SLEEPS;

    #[inline(always)]
    fn find(&self, shared: &Shared, stream: u32, direction: u8) -> Option<&Message> {
        // Only transfers of this direction write it, and the process must not make two of these at once.
        MESSAGES.value(self.key(shared, stream, direction)).map(|kept| &kept.message)
    }

    /// Not inlined: its values would stay on the caller's stack.
    #[inline(never)]
    fn keep(&mut self, shared: &Shared, stream: u32, direction: u8, message: &Message) -> bool {
        let key = self.key(shared, stream, direction);
        let owner = shared.owner;
        // Usually a message continues in frame after frame.
        if let Some(kept) = MESSAGES.value(key) {
            kept.message = *message;
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

    /// Not inlined, for the same reason.
    #[inline(never)]
    fn remove(&mut self, shared: &Shared, stream: u32, direction: u8) {
        if MESSAGES.remove(self.key(shared, stream, direction)).is_ok() {
            share::give(shared.owner, Of::Messages);
        }
    }
}

impl<const SLEEPS: bool> Emitter for Host<SLEEPS> {
    #[inline(always)]
    fn put_header(&mut self, header: RecordHeader) {
        self.record.put(0, header);
    }

    #[inline(always)]
    fn put_item(&mut self, at: u32, item: ItemHeader) {
        self.record.put(at, item);
    }

    #[inline(always)]
    fn put_captured(&mut self, at: u32, captured: u32) {
        self.record.put_captured(at, captured);
    }

    #[inline(always)]
    fn put_data(&mut self, at: u32, data: DataItem) {
        self.record.put(at, data);
    }

    #[inline(always)]
    fn put_open(&mut self, at: u32, opened: Opened) -> bool {
        let Opened { pid, flags, pair } = opened;
        remember(pid);
        // SAFETY: as in `Record::put`. The stack has no room for it.
        let open = unsafe { &mut *self.record.place(at).cast::<OpenItem>() };
        socket::describe(self.transfer.socket.sock, open);
        open.flags = flags;
        open.pair = pair;
        if flags & open_flag::SAMPLED == 0 {
            return true;
        }
        let Some(starts) = socket::starts_of(self.transfer.socket.sock) else { return false };
        open.pair = starts;
        true
    }

    #[inline(always)]
    fn byte(&self, at: u32) -> u8 {
        self.record.byte(at)
    }

    #[inline(always)]
    fn send(&mut self, connection: u64, pid: u32, length: u32) -> bool {
        ring::output(connection, pid, &self.record, length)
    }
}

impl<const SLEEPS: bool> observer_common::driver::Host for Host<SLEEPS> {
    #[inline(always)]
    fn repeat(walk: &mut Walk<'_, Self>, iterations: u32) -> bool {
        // SAFETY: the callback takes this walk, which outlives the loop.
        let done = unsafe {
            bpf_loop(iterations, iterate::<SLEEPS> as *mut c_void, (&raw mut *walk).cast(), 0)
        };
        done >= i64::from(iterations)
    }

    #[inline(always)]
    fn repeat_thrift(walk: &mut thrift::Walk<'_, Self>, iterations: u32) -> bool {
        let step = iterate_thrift::<SLEEPS> as *mut c_void;
        // SAFETY: the callback takes this walk, which outlives the loop.
        let done = unsafe { bpf_loop(iterations, step, (&raw mut *walk).cast(), 0) };
        done >= i64::from(iterations)
    }

    #[inline(always)]
    fn follows_web(&self) -> bool {
        globals::web()
    }

    /// Not in TLS.
    #[inline(always)]
    fn follows_http1(&self) -> bool {
        !SLEEPS && globals::web()
    }

    #[inline(always)]
    fn tally(scratch: &mut Scratch<Self>) {
        let mut pointer = &raw mut *scratch;
        let step = tally_step::<SLEEPS> as *mut c_void;
        // SAFETY: the callback takes this pointer, which outlives the loop.
        unsafe { bpf_loop(RECORD_CAPACITY as u32, step, (&raw mut pointer).cast(), 0) };
    }

    #[inline(always)]
    fn sock(&self) -> u64 {
        self.transfer.socket.sock
    }

    /// Exact to a tick, which the daemon allows for.
    #[inline(always)]
    fn was_busy(&self) -> bool {
        const BUSY_NS: u64 = 2_000_000;
        ran_for() > BUSY_NS
    }

    #[inline(always)]
    fn arrival(&self, copied: u32) -> Option<(Arrival, u32)> {
        Some((socket::arrival(self.transfer.socket.sock, copied)?, globals::tick_ns()))
    }

    #[inline(always)]
    fn selects_role(&self, shared: &Shared, role: u8) -> bool {
        filter::selects_role(self.transfer.socket.sock, shared.inode, role)
    }

    #[inline(always)]
    fn count(&mut self, counter: Counter, bytes: u64) {
        count(counter, bytes);
    }

    #[inline(always)]
    fn count_protocol(&mut self, protocol: Protocol) {
        count_protocol(protocol);
    }
}

extern "C" fn iterate<const SLEEPS: bool>(_: u32, walk: *mut c_void) -> i64 {
    // SAFETY: `repeat` passes it.
    let walk = unsafe { &mut *walk.cast::<Walk<'_, Host<SLEEPS>>>() };
    if walk::iterate(walk) { CONTINUE } else { STOP }
}

extern "C" fn iterate_thrift<const SLEEPS: bool>(_: u32, walk: *mut c_void) -> i64 {
    // SAFETY: `repeat_thrift` passes it.
    let walk = unsafe { &mut *walk.cast::<thrift::Walk<'_, Host<SLEEPS>>>() };
    if thrift::iterate(walk) { CONTINUE } else { STOP }
}

extern "C" fn tally_step<const SLEEPS: bool>(_: u32, scratch: *mut c_void) -> i64 {
    // SAFETY: `tally` passes it: a map value, valid for the invocation.
    let scratch = unsafe { &mut **scratch.cast::<*mut Scratch<Host<SLEEPS>>>() };
    if tally(scratch) { CONTINUE } else { STOP }
}

/// Inserts the process into `PROCESSES`, so that its end and its new names are reported. Called before its name is
/// read, so that no new name is missed.
#[inline(always)]
fn remember(pid: u32) {
    const EEXIST: i64 = 17;
    let known = PROCESSES.insert(pid, Renames::default(), BPF_NOEXIST);
    if known.is_err_and(|error| i64::from(error) != -EEXIST) {
        count(Counter::ProcessesFull, 0);
    }
}
