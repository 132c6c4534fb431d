//! The BPF programs, simulated: their driver over slices, with collections as maps, and with random faults.

use std::collections::HashMap;

use observer_common::{
    driver::{
        Scratch,
        connection::{Connection, DirectionState, Shared, Tries, counted, state},
        gap,
        opening::{Beginning, Detected, FIRST_MAX, First},
        walk::Outcome,
    },
    record::{NamedRecord, RecordHeader, direction, record_kind},
    scanner::Scanner,
    sync::FrameSync,
};
use zerocopy::{Immutable, IntoBytes};

use super::{
    host::{Host, Maps, Transfer},
    random::Random,
};

/// How often each fault happens, in a thousand cases.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    /// The ring has no room for some records.
    pub ring_full: u64,
    /// A transfer is not captured (the program was skipped); only if the socket counts its bytes.
    pub unseen: u64,
    /// A buffer cannot be read from some byte on.
    pub unreadable: u64,
    /// A message that was cut finds no room.
    pub messages_full: u64,
    /// An invocation may only take 10 iterations.
    pub few_iterations: u64,
    /// A connection is open, and in use, before the daemon.
    pub late: u64,
}

impl Faults {
    pub fn any(&self) -> bool {
        let Self { ring_full, unseen, unreadable, messages_full, few_iterations, late } = *self;
        ring_full + unseen + unreadable + messages_full + few_iterations + late > 0
    }
}

/// Bytes of a direction of a socket that no record reports.
pub struct Lost {
    pub sock: u64,
    pub sent: bool,
    pub begin: u64,
    pub end: u64,
}

pub struct Kernel {
    sockets: HashMap<u64, Socket>,
    /// Sockets that are not watched yet.
    before: HashMap<u64, Before>,
    pub maps: Maps,
    pub faults: Faults,
    next_id: u64,
    /// For the model: bytes that no record reports.
    pub lost: Vec<Lost>,
}

/// A socket before its connection is watched.
#[derive(Default)]
struct Before {
    /// Transfers until the daemon comes.
    transfers: usize,
    /// Bytes that went through it, by `record::direction`.
    passed: [u64; 2],
    tries: Tries,
}

/// A socket whose connection is watched.
struct Socket {
    connection: Connection,
    counters: Counters,
    /// Bytes before the first position, by `record::direction`.
    before: [u64; 2],
}

/// A TCP socket's own counters; arrays are by `record::direction`.
struct Counters {
    /// Bytes that went through the socket.
    passed: [u64; 2],
    sequences: [u32; 2],
}

impl gap::Socket for Counters {
    fn sequence(&self, counts: u8, sent: bool) -> Option<u32> {
        (counts == counted::TCP).then(|| self.sequences[usize::from(sent)])
    }

    fn moved_before(&self, sent: bool, length: u64) -> Option<u64> {
        Some(self.passed[usize::from(sent)] - length)
    }

    fn is_shut(&self, _: bool) -> bool {
        false
    }

    fn peer(&self) -> u64 {
        0
    }

    fn sent_by_peer(&self, _: u64) -> Option<u32> {
        None
    }

    fn waiting(&self) -> Option<u32> {
        None
    }
}

impl Kernel {
    pub fn new(random: Random, faults: Faults) -> Self {
        Self {
            sockets: HashMap::new(),
            before: HashMap::new(),
            maps: Maps::new(random, [faults.ring_full, faults.messages_full]),
            faults,
            next_id: 1,
            lost: Vec::new(),
        }
    }

    /// Handles that a transfer returns. Returns whether it was captured.
    pub fn transfer(&mut self, transfer: &Transfer<'_>, tcp: bool) -> bool {
        let Transfer { sock, sent, .. } = *transfer;
        let total = transfer.buffers.iter().map(|buffer| buffer.len() as u64).sum::<u64>();
        let d = usize::from(sent);
        let Some(mut socket) = self.sockets.remove(&sock).or_else(|| self.open(transfer, tcp))
        else {
            let before = self.before.entry(sock).or_default();
            before.passed[d] += total;
            let end = before.passed[d];
            self.lost.push(Lost { sock, sent, begin: end - total, end });
            return false;
        };
        let Counters { passed, sequences } = &mut socket.counters;
        sequences[d] = sequences[d].wrapping_add(total as u32);
        passed[d] += total;
        let passed = *passed;
        let Connection { shared, directions } = &socket.connection;
        let counted =
            shared.state == state::WATCHED && shared.is_tcp() && directions[d].counted != 0;
        if counted && self.maps.random.chance(self.faults.unseen) {
            let end = passed[d];
            self.lost.push(Lost { sock, sent, begin: end - total, end });
            self.sockets.insert(sock, socket);
            return false;
        }
        let (outcome, seen) = self.walk(&mut socket, transfer, total);
        match outcome {
            Outcome::Walked => drop(self.sockets.insert(sock, socket)),
            Outcome::NotFrames => {
                let mut tries = socket.connection.shared.tries;
                tries.flags |= 1 << d;
                self.before.insert(sock, Before { transfers: 0, passed, tries });
            }
            Outcome::NotPreface | Outcome::NotSelected | Outcome::GivenUp => {
                panic!("all is HTTP/2, and selected")
            }
        }
        seen
    }

    /// Opens a connection, unless it is older than the daemon and no frame boundary is known. Everything is HTTP/2.
    fn open(&mut self, transfer: &Transfer<'_>, tcp: bool) -> Option<Socket> {
        let sock = transfer.sock;
        let mut first: First = [0; 16];
        let bytes = transfer.buffers.concat();
        let n = bytes.len().min(FIRST_MAX as usize);
        first[..n].copy_from_slice(&bytes[..n]);
        self.next_id += 1;
        if !self.before.contains_key(&sock) && self.maps.random.chance(self.faults.late) {
            let transfers = 1 + self.maps.random.below(40);
            self.before.insert(sock, Before { transfers, ..Before::default() });
        }
        let (new, passed, tries) = match self.before.get_mut(&sock) {
            None => match Detected::of(&first, n as u32, transfer.sent.into(), Some(false)) {
                Detected::New(new) => (new, [0; 2], Tries::default()),
                other => panic!("all is HTTP/2: {other:?}"),
            },
            Some(before) if before.transfers > 0 => {
                before.transfers -= 1;
                return None;
            }
            Some(before) => {
                let Some(new) = Beginning::late(&first, n as u32, before.tries) else {
                    before.tries.flags |= 1 << u8::from(transfer.sent);
                    return None;
                };
                (new, before.passed, before.tries)
            }
        };
        let shared = Shared { tries, ..Shared::default() };
        let blank = DirectionState::new(Scanner::at_frame(), FrameSync::default());
        let mut connection = Connection { shared, directions: [blank; 2] };
        connection.begin(new);
        connection.shared.id = self.next_id;
        connection.shared.counts = if tcp { counted::TCP } else { counted::NOTHING };
        // Soon wraps around.
        let counters = Counters { passed, sequences: [u32::MAX - 300; 2] };
        gap::begin(&counters, &mut connection, transfer.sent.into());
        Some(Socket { connection, counters, before: passed })
    }

    /// Also returns whether the frames that were found are reported.
    fn walk(
        &mut self,
        socket: &mut Socket,
        transfer: &Transfer<'_>,
        total: u64,
    ) -> (Outcome, bool) {
        let Transfer { sock, sent, .. } = *transfer;
        let d = usize::from(sent);
        let watched = socket.connection.shared.state == state::WATCHED;
        let gap = gap::before(&socket.counters, &mut socket.connection, sent.into(), total);
        let own = socket.connection.direction(sent.into());
        own.gap_bytes += u64::from(gap);
        let gap = (own.position, own.position + own.gap_bytes);
        let end = gap.1 + total;
        let Faults { unreadable, few_iterations, .. } = self.faults;
        let is_unreadable = watched && self.maps.random.chance(unreadable);
        let readable = is_unreadable.then(|| self.maps.random.below(total as usize));
        let has_few_iterations = watched && self.maps.random.chance(few_iterations);
        let mut host = Host::new(transfer, &mut self.maps);
        host.readable = readable.unwrap_or(usize::MAX);
        host.iterations = if has_few_iterations { 10 } else { u32::MAX };
        let (outcome, scratch) = host.walk(&mut socket.connection);
        let Scratch { searching, dropped, host: Host { mut lost, .. }, .. } = scratch;
        let is_out_of_sync = socket.connection.direction(sent.into()).sync.is_out_of_sync();
        let seen = searching == 0 || !is_out_of_sync;
        lost.push(gap);
        if searching != 0 {
            lost.push((end - total, if is_out_of_sync { end } else { dropped }));
        }
        let before = socket.before[d];
        let ranges = lost.into_iter().filter(|(begin, end)| begin < end);
        self.lost.extend(ranges.map(|(begin, end)| Lost {
            sock,
            sent,
            begin: before + begin,
            end: before + end,
        }));
        (outcome, seen)
    }

    /// Handles that the process closes the socket.
    pub fn close(&mut self, sock: u64, time_ns: u64) {
        let Some(mut socket) = self.sockets.remove(&sock) else { return };
        let gaps = gap::at_end(&socket.counters, &socket.connection, false, |_| {});
        let shared = &mut socket.connection.shared;
        self.maps.messages.retain(|key, _| key.0 != shared.id);
        shared.closed_ns = time_ns;
        // The peer did so before.
        shared.ended_by = direction::RECEIVED;
        if shared.announced != 0 {
            self.send(&socket.connection.closed(gaps));
        }
    }

    /// Handles that the last thread of a process exits.
    pub fn exit(&mut self, pid: u32, time_ns: u64) {
        if self.maps.processes.remove(&pid) {
            let kind = record_kind::EXITED;
            self.send(&RecordHeader { time_ns, pid, kind, ..RecordHeader::default() });
        }
    }

    /// Handles that the process takes another name.
    pub fn rename(&mut self, pid: u32, comm: [u8; 16], time_ns: u64) {
        if self.maps.processes.contains(&pid) {
            let kind = record_kind::RENAMED;
            let header = RecordHeader { time_ns, pid, kind, ..RecordHeader::default() };
            self.send(&NamedRecord { header, comm });
        }
    }

    /// Sends a record that always finds room.
    fn send(&mut self, record: &(impl IntoBytes + Immutable)) {
        self.maps.ring.push_back(record.as_bytes().to_vec());
    }
}
