//! What the kernel programs do with the bytes of each call, on the host: `walk`, `emit` and `watch`
//! of observer-ebpf, with maps that are collections and faults that come at random.
//!
//! The scanner is the same code. The rest is to be kept like the programs, part by part.

use std::collections::{HashMap, HashSet, VecDeque};

use observer_common::{
    frame::{FrameHeader, HEADER_LENGTH, PREFACE, flag, kind},
    record::{RecordHeader, data_flag, direction, item_kind, record_kind, role},
    scanner::{Message, Scanner, Take, event},
};

use crate::{
    emit::{HEADER_SIZE, Scratch, bytes_of, empty_length, open_item},
    random::Random,
};

const RECORD_FULL: usize = 12 << 10;
const RECORD_CAPACITY: usize = 20 << 10;
const COPY_MAX: u32 = 4095;

/// What goes wrong, in so many of a thousand cases.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The ring fills, and has no room for some records.
    pub ring_full: u64,
    /// A call is not seen at all (the program was skipped); only where the socket counts.
    pub unseen: u64,
    /// A buffer cannot be read from some byte on.
    pub unreadable: u64,
    /// A message that was cut cannot be remembered.
    pub messages_full: u64,
    /// A call takes more steps than a run may: it may take 20.
    pub few_steps: u64,
}

impl Faults {
    pub fn any(&self) -> bool {
        let Self { ring_full, unseen, unreadable, messages_full, few_steps } = *self;
        ring_full + unseen + unreadable + messages_full + few_steps > 0
    }
}

/// A call that moved bytes.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub sock: u64,
    pub sent: bool,
    pub pid: u32,
    pub comm: [u8; 16],
    pub time_ns: u64,
    pub buffers: &'a [&'a [u8]],
}

/// Bytes of a direction of a socket of which no record tells.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    pub sock: u64,
    pub sent: bool,
    pub begin: u64,
    pub end: u64,
}

#[derive(Debug)]
pub struct Kernel {
    connections: HashMap<u64, Connection>,
    messages: HashMap<(u64, u32, usize), Message>,
    processes: HashSet<u32>,
    pub ring: VecDeque<Vec<u8>>,
    /// Records for which there will be no room.
    full_for: usize,
    pub faults: Faults,
    random: Random,
    next_id: u64,
    /// For the model: what no record tells of.
    pub lost: Vec<Lost>,
}

#[derive(Clone, Debug)]
struct Connection {
    id: u64,
    pid: u32,
    watched: bool,
    role: u8,
    announced: bool,
    tcp: bool,
    /// By `record::direction`.
    directions: [Direction; 2],
}

#[derive(Clone, Debug)]
struct Direction {
    scanner: Scanner,
    position: u64,
    reported: u64,
    /// Bytes that went through the socket.
    passed: u64,
    /// The socket's own counter, and what it was after the last call that was seen.
    socket_sequence: u32,
    sequence: u32,
    counted: bool,
    out_of_step: bool,
    /// A record was lost since the last one that was not.
    lost: bool,
    cut: Cut,
}

/// Whether messages were cut across DATA frames, and whether one of them could not be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Never,
    Stored,
    Lost,
}

impl Direction {
    fn new(scanner: Scanner) -> Self {
        Self {
            scanner,
            position: 0,
            reported: 0,
            passed: 0,
            // Soon wraps around.
            socket_sequence: u32::MAX - 300,
            sequence: 0,
            counted: false,
            out_of_step: false,
            lost: false,
            cut: Cut::Never,
        }
    }
}

impl Kernel {
    pub fn new(random: Random, faults: Faults) -> Self {
        Self {
            connections: HashMap::new(),
            messages: HashMap::new(),
            processes: HashSet::new(),
            ring: VecDeque::new(),
            full_for: 0,
            faults,
            random,
            next_id: 1,
            lost: Vec::new(),
        }
    }

    /// A call returns. Says whether it was seen; a call that was not shows in the socket's counter.
    pub fn call(&mut self, call: &Call<'_>, tcp: bool) -> bool {
        let total: usize = call.buffers.iter().map(|buffer| buffer.len()).sum();
        let d = usize::from(call.sent);
        let mut connection = match self.connections.remove(&call.sock) {
            Some(connection) => connection,
            None => self.open(call, tcp),
        };
        let direction = &mut connection.directions[d];
        direction.socket_sequence = direction.socket_sequence.wrapping_add(total as u32);
        direction.passed += total as u64;
        let (begin, end) = (direction.passed - total as u64, direction.passed);
        let counted = connection.watched && tcp && direction.counted;
        let seen = !(counted && self.random.chance(self.faults.unseen));
        if seen {
            self.walk(&mut connection, call, total);
        } else {
            self.lost.push(Lost { sock: call.sock, sent: call.sent, begin, end });
        }
        self.connections.insert(call.sock, connection);
        seen
    }

    /// `first_bytes`, where all is HTTP/2: who sends the preface is the client.
    fn open(&mut self, call: &Call<'_>, tcp: bool) -> Connection {
        let first: Vec<u8> = call.buffers.concat().into_iter().take(8).collect();
        let client = PREFACE.starts_with(&first) == call.sent;
        let (received, sent, role) = if client {
            (Scanner::at_frame(), Scanner::at_preface(), role::CLIENT)
        } else {
            (Scanner::at_preface(), Scanner::at_frame(), role::SERVER)
        };
        self.next_id += 1;
        Connection {
            id: self.next_id,
            pid: 0,
            watched: false,
            role,
            announced: false,
            tcp,
            directions: [Direction::new(received), Direction::new(sent)],
        }
    }

    fn walk(&mut self, connection: &mut Connection, call: &Call<'_>, total: usize) {
        let watched = connection.watched;
        let direction = &mut connection.directions[usize::from(call.sent)];
        let before = direction.socket_sequence.wrapping_sub(total as u32);
        let missed = before.wrapping_sub(direction.sequence);
        let missed = if connection.tcp && direction.counted { missed } else { 0 };
        direction.sequence = direction.socket_sequence;
        direction.counted = true;
        let is_unreadable = watched && self.random.chance(self.faults.unreadable);
        let readable = if is_unreadable { self.random.below(total) } else { total };
        let few_steps = watched && self.random.chance(self.faults.few_steps);
        let mut walk = Walk {
            kernel: self,
            direction: usize::from(call.sent),
            scratch: Scratch::begin(connection.announced),
            connection,
            call,
            buffers: call.buffers.iter().copied().collect(),
            readable,
        };
        walk.run(missed.into(), total as u64, if few_steps { 20 } else { usize::MAX });
    }

    /// The process closed the socket; the sweep tells it again until there is room.
    pub fn close(&mut self, sock: u64, time_ns: u64) {
        let Some(connection) = self.connections.remove(&sock) else { return };
        self.messages.retain(|key, _| key.0 != connection.id);
        if connection.announced {
            let unseen = |d: usize| {
                let Direction { sequence, socket_sequence, counted, .. } = connection.directions[d];
                connection.is_unseen(d) || counted && sequence != socket_sequence
            };
            let header = RecordHeader {
                connection: connection.id,
                time_ns,
                pid: connection.pid,
                kind: record_kind::CLOSED,
                role: connection.role,
                unseen: u8::from(unseen(0)) | u8::from(unseen(1)) << 1,
                ..RecordHeader::default()
            };
            self.ring.push_back(bytes_of(header));
        }
    }

    /// The last thread of a process exits.
    pub fn exit(&mut self, pid: u32, time_ns: u64) {
        if self.processes.remove(&pid) {
            let kind = record_kind::EXITED;
            self.ring.push_back(bytes_of(RecordHeader {
                time_ns,
                pid,
                kind,
                ..Default::default()
            }));
        }
    }

    fn output(&mut self, record: Vec<u8>) -> bool {
        assert!(record.len() <= RECORD_CAPACITY, "{} bytes do not fit", record.len());
        if self.full_for == 0 && self.random.chance(self.faults.ring_full) {
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

impl Connection {
    /// Whether bytes went by of which neither a record told, nor a position will.
    fn is_unseen(&self, direction: usize) -> bool {
        self.directions[direction].lost || self.directions[direction].out_of_step
    }
}

/// One walk over the bytes of a call.
struct Walk<'a> {
    kernel: &'a mut Kernel,
    connection: &'a mut Connection,
    call: &'a Call<'a>,
    /// Position in [`Connection::directions`].
    direction: usize,
    scratch: Scratch,
    buffers: VecDeque<&'a [u8]>,
    /// Bytes until the first that cannot be read.
    readable: usize,
}

impl Walk<'_> {
    fn run(&mut self, missed: u64, total: u64, max_steps: usize) {
        if missed != 0 {
            self.lose(missed);
        }
        if self.direction().out_of_step {
            self.direction().position += total;
        } else {
            let end = self.direction().position + total;
            let mut steps = 0;
            while steps < max_steps && self.step().is_some() {
                steps += 1;
            }
            assert!(!self.direction().scanner.is_refused());
            let left = end - self.direction().position;
            if left > 0 {
                self.lose(left);
            }
        }
        self.send();
    }

    fn direction(&mut self) -> &mut Direction {
        &mut self.connection.directions[self.direction]
    }

    fn lose(&mut self, bytes: u64) {
        let direction = self.direction();
        let begin = direction.position;
        direction.position += bytes;
        if !direction.scanner.missed(bytes) {
            direction.out_of_step = true;
            self.scratch.gap(bytes);
            self.lost(begin, u64::MAX);
        }
    }

    fn lost(&mut self, begin: u64, end: u64) {
        let Call { sock, sent, .. } = *self.call;
        self.kernel.lost.push(Lost { sock, sent, begin, end });
    }

    fn step(&mut self) -> Option<()> {
        while self.buffers.front()?.is_empty() {
            self.buffers.pop_front();
        }
        if self.scratch.record.len() > RECORD_FULL {
            self.send();
        }
        let want = self.direction().scanner.want();
        let buffer = *self.buffers.front()?;
        let mut n = buffer.len().min(want.length as usize);
        match want.take {
            Take::Read => {
                assert!(n <= HEADER_LENGTH as usize && want.at as usize + n <= 32, "{want:?}");
                if n > self.readable {
                    return None;
                }
                let at = want.at as usize;
                self.direction().scanner.buffer[at..at + n].copy_from_slice(&buffer[..n]);
            }
            Take::Copy => {
                n = n.min(COPY_MAX as usize);
                if self.scratch.item.is_none() {
                    let frame = self.direction().scanner.frame();
                    self.scratch.begin_frame(frame, item_kind::PART);
                }
                if n > self.readable {
                    return None;
                }
                self.scratch.record.extend_from_slice(&buffer[..n]);
            }
            Take::Skip => {}
        }
        self.readable = self.readable.saturating_sub(n);
        self.buffers[0] = &buffer[n..];
        self.direction().position += n as u64;
        let events = self.direction().scanner.took(want, n as u32);
        self.on_events(events);
        Some(())
    }

    fn on_events(&mut self, events: u32) {
        if events & event::PREFACE_END != 0 {
            self.connection.watched = true;
            return;
        }
        let frame = self.direction().scanner.frame();
        if frame.kind == kind::DATA {
            self.on_data(frame, events);
        } else if frame.is_kept() {
            if events & event::FRAME_BEGIN != 0 {
                self.scratch.flush_data();
                self.scratch.begin_frame(frame, item_kind::FRAME);
            }
            if events & event::FRAME_END != 0 {
                self.scratch.end_frame();
                if frame.kind == kind::RST_STREAM {
                    self.forget(frame.stream);
                }
            }
        }
    }

    fn forget(&mut self, stream: u32) {
        for direction in [direction::RECEIVED, direction::SENT] {
            let key = (self.connection.id, stream, usize::from(direction));
            self.kernel.messages.remove(&key);
        }
    }

    fn on_data(&mut self, frame: FrameHeader, events: u32) {
        let key = (self.connection.id, frame.stream, self.direction);
        if events & event::FRAME_BEGIN != 0 && self.direction().cut != Cut::Never {
            let lost = self.direction().cut == Cut::Lost;
            let stored = self.kernel.messages.get(&key).copied();
            if let Some(message) = stored.or(lost.then(Message::unaligned)) {
                self.direction().scanner.resume(&message);
            }
        }
        let ended = events & event::FRAME_END != 0;
        let scanner = self.direction().scanner;
        let mut flags = 0;
        if ended && scanner.is_unaligned() {
            flags |= data_flag::UNALIGNED;
        }
        if ended && frame.has(flag::END_STREAM) {
            flags |= data_flag::END_STREAM;
        }
        let messages = u64::from(events & event::MESSAGE_END != 0);
        if messages != 0 || flags != 0 {
            if self.scratch.data_stream != frame.stream {
                self.scratch.flush_data();
                self.scratch.data_stream = frame.stream;
            }
            self.scratch.data.messages += messages;
            self.scratch.data.message_bytes += messages * u64::from(scanner.message_length());
            self.scratch.data_flags |= flags;
        }
        if !ended {
            return;
        }
        match scanner.unfinished() {
            Some(message) if !frame.has(flag::END_STREAM) => self.keep(key, message),
            _ if self.direction().cut != Cut::Never => drop(self.kernel.messages.remove(&key)),
            _ => {}
        }
    }

    fn keep(&mut self, key: (u64, u32, usize), message: Message) {
        if self.direction().cut == Cut::Never {
            self.direction().cut = Cut::Stored;
        }
        if self.kernel.random.chance(self.kernel.faults.messages_full)
            && !self.kernel.messages.contains_key(&key)
        {
            self.direction().cut = Cut::Lost;
        } else {
            self.kernel.messages.insert(key, message);
        }
    }

    fn send(&mut self) {
        self.scratch.end_frame();
        self.scratch.flush_data();
        let announced = self.connection.announced;
        if self.connection.watched && self.scratch.record.len() > empty_length(announced) {
            let record = self.record();
            let Direction { reported, position, .. } = *self.direction();
            if self.kernel.output(record) {
                self.connection.announced = true;
                self.direction().lost = false;
            } else {
                self.direction().lost = true;
                self.lost(reported, position);
            }
            if self.connection.pid != self.call.pid {
                self.connection.pid = self.call.pid;
                self.kernel.processes.insert(self.call.pid);
            }
            self.direction().reported = position;
        }
        self.scratch = Scratch::begin(self.connection.announced);
    }

    fn record(&mut self) -> Vec<u8> {
        let Direction { reported, position, out_of_step, .. } = *self.direction();
        let other = self.connection.is_unseen(1 - self.direction);
        let header = RecordHeader {
            connection: self.connection.id,
            time_ns: self.call.time_ns,
            position: reported,
            length: position - reported,
            pid: self.call.pid,
            kind: record_kind::BYTES,
            direction: self.direction as u8,
            role: self.connection.role,
            unseen: u8::from(out_of_step) << self.direction
                | u8::from(other) << (1 - self.direction),
        };
        let mut record = std::mem::take(&mut self.scratch.record);
        record[..HEADER_SIZE].copy_from_slice(&bytes_of(header));
        if !self.connection.announced {
            let open = open_item(self.call.comm);
            record[HEADER_SIZE..HEADER_SIZE + open.len()].copy_from_slice(&open);
        }
        record
    }
}
