//! The driver's host over slices.

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem::offset_of;

use observer_common::{
    counter::{Counter, Protocol},
    driver::{
        self, Emitter, Memory, Opened, RECORD_CAPACITY, Scratch, Walk,
        arrival::Arrival,
        connection::{Connection, Shared},
        tally, thrift,
        walk::{self, Outcome},
    },
    record::{DataItem, ItemHeader, OpenItem, RecordHeader},
    scanner::{Message, OVERRUN, Scanner},
};
use zerocopy::{Immutable, IntoBytes};

use super::random::Random;

/// One read or write on a socket.
pub struct Transfer<'a> {
    pub sock: u64,
    pub sent: bool,
    pub pid: u32,
    pub comm: [u8; 16],
    pub time_ns: u64,
    pub buffers: &'a [&'a [u8]],
}

/// The state that all walks share, and its faults.
pub struct Maps {
    pub messages: Messages,
    pub processes: HashSet<u32>,
    pub ring: VecDeque<Vec<u8>>,
    /// Number of next records that find no room.
    full_for: usize,
    /// How often some records, and a message, find no room, in a thousand cases.
    ring_full: u64,
    messages_full: u64,
    pub random: Random,
    /// Whether bodies of gRPC-Web are followed.
    pub web: bool,
    /// Whether HTTP/1.1 is followed.
    pub http1: bool,
}

impl Maps {
    pub fn new(random: Random, [ring_full, messages_full]: [u64; 2]) -> Self {
        let (messages, processes, ring) = Default::default();
        Self {
            messages,
            processes,
            ring,
            full_for: 0,
            ring_full,
            messages_full,
            random,
            web: false,
            http1: false,
        }
    }

    fn output(&mut self, record: Vec<u8>) -> bool {
        if self.full_for == 0 && self.random.chance(self.ring_full) {
            self.full_for = self.random.part_of(20);
        }
        if self.full_for > 0 {
            self.full_for -= 1;
            return false;
        }
        self.ring.push_back(record);
        true
    }
}

/// The environment of a walk over one transfer.
pub struct Host<'a> {
    transfer: &'a Transfer<'a>,
    maps: &'a mut Maps,
    buffers: VecDeque<&'a [u8]>,
    record: Vec<u8>,
    header: RecordHeader,
    /// Number of bytes before the first that cannot be read.
    pub readable: usize,
    /// Most iterations of the walk.
    pub iterations: u32,
    /// Position at which the transfer ends.
    end: u64,
    /// Positions of bytes that no record reports: start and end.
    pub lost: Vec<(u64, u64)>,
}

impl<'a> Host<'a> {
    pub fn new(transfer: &'a Transfer<'a>, maps: &'a mut Maps) -> Self {
        Self {
            transfer,
            maps,
            buffers: transfer.buffers.iter().copied().collect(),
            record: vec![0; RECORD_CAPACITY],
            header: RecordHeader::default(),
            readable: usize::MAX,
            iterations: u32::MAX,
            end: 0,
            lost: Vec::new(),
        }
    }

    /// Walks over the transfer's bytes.
    pub fn walk(mut self, connection: &mut Connection) -> (Outcome, Scratch<Self>) {
        let Transfer { sent, pid, time_ns, buffers, .. } = *self.transfer;
        let total = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        let Connection { shared, directions: [received, written] } = connection;
        let (own, other) = if sent { (written, received) } else { (received, written) };
        self.end = own.position + own.gap_bytes + total;
        let mut scratch = Scratch::new(self);
        (scratch.time_ns, scratch.pid, scratch.sent) = (time_ns, pid, sent.into());
        let outcome = walk::walk(&mut Walk { scratch: &mut scratch, shared, own, other }, total);
        (outcome, scratch)
    }

    fn next_bytes(&self, n: u32) -> Option<&'a [u8]> {
        let n = n as usize;
        (n <= self.readable).then(|| &self.buffers[0][..n])
    }

    fn put(&mut self, at: u32, value: &(impl IntoBytes + Immutable + ?Sized)) {
        let bytes = value.as_bytes();
        self.record[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }
}

impl Memory for Host<'_> {
    fn left(&self) -> u64 {
        self.buffers.front().map_or(0, |buffer| buffer.len() as u64)
    }

    fn is_empty(&self) -> bool {
        self.buffers.iter().all(|buffer| buffer.is_empty())
    }

    fn next(&mut self) -> Option<()> {
        self.buffers.pop_front().map(drop)
    }

    fn advance(&mut self, n: u32) {
        self.readable = self.readable.saturating_sub(n as usize);
        self.buffers[0] = &self.buffers[0][n as usize..];
    }

    fn read(&mut self, n: u32, scanner: &mut Scanner, at: u32) -> Option<()> {
        assert!(n < OVERRUN as u32 && at + n <= 32, "{n} bytes at {at}");
        let (bytes, to) = (self.next_bytes(n)?, &mut scanner.buffer[at as usize..]);
        to[..OVERRUN].fill(0xa5);
        to[..bytes.len()].copy_from_slice(bytes);
        Some(())
    }

    fn copy(&mut self, n: u32, at: u32) -> Option<()> {
        self.put(at, self.next_bytes(n)?);
        self.put(at + n, &[0_u8; 8]);
        Some(())
    }

    fn gap_cause(&self) -> Counter {
        Counter::Unreadable
    }
}

/// Unfinished messages, by connection, stream and direction.
pub type Messages = HashMap<(u64, u32, u8), Message>;

impl driver::Messages for Host<'_> {
    const SENDS_LATE: bool = false;

    fn find(&self, shared: &Shared, stream: u32, direction: u8) -> Option<&Message> {
        self.maps.messages.get(&(shared.id, stream, direction))
    }

    fn keep(&mut self, shared: &Shared, stream: u32, direction: u8, message: &Message) -> bool {
        let Maps { messages, messages_full, random, .. } = &mut *self.maps;
        let key = (shared.id, stream, direction);
        if !messages.contains_key(&key) && random.chance(*messages_full) {
            return false;
        }
        messages.insert(key, *message);
        true
    }

    fn remove(&mut self, shared: &Shared, stream: u32, direction: u8) {
        self.maps.messages.remove(&(shared.id, stream, direction));
    }
}

impl Emitter for Host<'_> {
    fn put_header(&mut self, header: RecordHeader) {
        self.header = header;
        self.put(0, &header);
    }

    fn put_item(&mut self, at: u32, item: ItemHeader) {
        self.put(at, &item);
    }

    fn put_captured(&mut self, at: u32, captured: u32) {
        self.put(at + offset_of!(ItemHeader, captured) as u32, &captured);
    }

    fn put_data(&mut self, at: u32, data: DataItem) {
        self.put(at, &data);
    }

    /// `pair` is left out: no two ends find each other.
    fn put_open(&mut self, at: u32, Opened { pid, flags, .. }: Opened) -> bool {
        self.maps.processes.insert(pid);
        let comm = self.transfer.comm;
        self.put(at, &OpenItem { flags, comm, ..OpenItem::default() });
        true
    }

    fn byte(&self, at: u32) -> u8 {
        self.record.get(at as usize).copied().unwrap_or(0)
    }

    fn send(&mut self, _: u64, _: u32, length: u32) -> bool {
        let sent = self.maps.output(self.record[..length as usize].to_vec());
        if !sent {
            let RecordHeader { position, length, .. } = self.header;
            self.lost.push((position, position + length));
        }
        sent
    }
}

impl driver::Host for Host<'_> {
    fn repeat(walk: &mut Walk<'_, Self>, iterations: u32) -> bool {
        let iterations = iterations.min(walk.scratch.host.iterations);
        let mut done = 1;
        while done < iterations && walk::iterate(walk) {
            done += 1;
        }
        done == iterations
    }

    fn repeat_thrift(walk: &mut thrift::Walk<'_, Self>, iterations: u32) -> bool {
        let iterations = iterations.min(walk.walk.scratch.host.iterations);
        let mut done = 1;
        while done < iterations && thrift::iterate(walk) {
            done += 1;
        }
        done == iterations
    }

    fn follows_web(&self) -> bool {
        self.maps.web
    }

    fn follows_http1(&self) -> bool {
        self.maps.http1
    }

    fn tally(scratch: &mut Scratch<Self>) {
        while tally(scratch) {}
    }

    fn sock(&self) -> u64 {
        self.transfer.sock
    }

    fn was_busy(&self) -> bool {
        false
    }

    fn arrival(&self, _: u32) -> Option<(Arrival, u32)> {
        None
    }

    fn selects_role(&self, _: &Shared, _: u8) -> bool {
        true
    }

    fn count(&mut self, counter: Counter, bytes: u64) {
        // These bytes are at the transfer's end.
        if matches!(counter, Counter::NotFrame | Counter::LoopBound | Counter::Unreadable) {
            self.lost.push((self.end - bytes, self.end));
        }
    }

    fn count_protocol(&mut self, _: Protocol) {}
}
