//! What the kernel programs do with the bytes of each call, on the host: `walk`, `emit` and `watch`
//! of observer-ebpf, with maps that are collections and faults that come at random.
//!
//! The scanner is the same code. The rest is to be kept like the programs, part by part.

use std::collections::{HashMap, HashSet, VecDeque};

use observer_common::{
    block::{Tally, is_request},
    frame::{FrameHeader, HEADER_LENGTH, PREFACE, flag, kind},
    record::{ItemHeader, RecordHeader, data_flag, direction, item_kind, record_kind, role},
    scanner::{Message, OVERRUN, Scanner, Take, event},
    step::Step,
};

use crate::{
    emit::{HEADER_SIZE, Scratch, bytes_of, open_item},
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
    /// A connection is open, and in use, before the daemon is there.
    pub late: u64,
}

impl Faults {
    pub fn any(&self) -> bool {
        let Self { ring_full, unseen, unreadable, messages_full, few_steps, late } = *self;
        ring_full + unseen + unreadable + messages_full + few_steps + late > 0
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
    /// Sockets that are not watched yet.
    before: HashMap<u64, Before>,
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

/// A socket before its connection is watched.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    /// Calls until the daemon comes.
    calls: usize,
    /// Bytes that went through it, by `record::direction`.
    passed: [u64; 2],
    /// In which directions calls since then were no frames.
    refused: [bool; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Candidate,
    Watched,
    Joining,
}

#[derive(Clone, Debug)]
struct Connection {
    id: u64,
    pid: u32,
    state: State,
    role: u8,
    announced: bool,
    tcp: bool,
    joined: bool,
    refused: [bool; 2],
    /// Whether header blocks of each direction showed to be a client's, if they did.
    shown: [Option<bool>; 2],
    /// By `record::direction`.
    directions: [Direction; 2],
}

impl Connection {
    /// Whether a record of this process has told of it.
    fn is_known_of(&self, pid: u32) -> bool {
        self.announced && self.pid == pid
    }
}

#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "as in the kernel programs")]
struct Direction {
    scanner: Scanner,
    position: u64,
    reported: u64,
    /// Bytes that went through the socket, and how many before the first position.
    passed: u64,
    before: u64,
    /// The socket's own counter, and what it was after the last call that was seen.
    socket_sequence: u32,
    sequence: u32,
    counted: bool,
    /// Bytes after `position` of which nobody knows what they were.
    unread: u64,
    /// What headers in lost records inserted; `None` if nobody knows.
    inserts: Option<u32>,
    step: Step,
    /// A record was lost since the last one that was not.
    lost: bool,
    /// Frames went by unseen since then.
    gap: bool,
    /// And a boundary was found after them.
    found: bool,
    /// A message was cut across DATA frames.
    cut: bool,
}

impl Direction {
    fn new(scanner: Scanner, step: Step, passed: u64) -> Self {
        Self {
            scanner,
            step,
            position: 0,
            reported: 0,
            passed,
            before: passed,
            unread: 0,
            inserts: Some(0),
            gap: false,
            found: false,
            // Soon wraps around.
            socket_sequence: u32::MAX - 300,
            sequence: 0,
            counted: false,
            lost: false,
            cut: false,
        }
    }
}

impl Kernel {
    pub fn new(random: Random, faults: Faults) -> Self {
        Self {
            connections: HashMap::new(),
            before: HashMap::new(),
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
        let Some(mut connection) =
            self.connections.remove(&call.sock).or_else(|| self.open(call, tcp))
        else {
            let before = self.before.entry(call.sock).or_default();
            before.passed[d] += total as u64;
            let end = before.passed[d];
            let begin = end - total as u64;
            self.lost.push(Lost { sock: call.sock, sent: call.sent, begin, end });
            return false;
        };
        let direction = &mut connection.directions[d];
        direction.socket_sequence = direction.socket_sequence.wrapping_add(total as u32);
        direction.passed += total as u64;
        let (begin, end) = (direction.passed - total as u64, direction.passed);
        let counted = connection.state == State::Watched && tcp && direction.counted;
        let mut seen = !(counted && self.random.chance(self.faults.unseen));
        if seen {
            seen = self.walk(&mut connection, call, total);
        } else {
            self.lost.push(Lost { sock: call.sock, sent: call.sent, begin, end });
        }
        let trying = connection.directions.iter().any(|direction| direction.step.is_trying());
        if connection.state == State::Joining && !trying {
            let passed = connection.directions.map(|direction| direction.passed);
            let mut refused = connection.refused;
            refused[d] = true;
            self.before.insert(call.sock, Before { calls: 0, passed, refused });
        } else {
            self.connections.insert(call.sock, connection);
        }
        seen
    }

    /// All is HTTP/2: who sends the preface is the client, unless it was sent before the daemon came.
    fn open(&mut self, call: &Call<'_>, tcp: bool) -> Option<Connection> {
        let first: Vec<u8> = call.buffers.concat().into_iter().take(9).collect();
        self.next_id += 1;
        if !self.before.contains_key(&call.sock) && self.random.chance(self.faults.late) {
            let calls = 1 + self.random.below(40);
            self.before.insert(call.sock, Before { calls, ..Before::default() });
        }
        let Some(before) = self.before.get_mut(&call.sock) else {
            let first = &first[..first.len().min(8)];
            let client = PREFACE.starts_with(first) == call.sent;
            let (received, sent, role) = if client {
                (Scanner::at_frame(), Scanner::at_preface(), role::CLIENT)
            } else {
                (Scanner::at_preface(), Scanner::at_frame(), role::SERVER)
            };
            let new = |scanner| Direction::new(scanner, Step::default(), 0);
            return Some(Connection {
                id: self.next_id,
                pid: 0,
                state: State::Candidate,
                role,
                announced: false,
                tcp,
                joined: false,
                refused: [false; 2],
                shown: [None; 2],
                directions: [new(received), new(sent)],
            });
        };
        if before.calls > 0 {
            before.calls -= 1;
            return None;
        }
        let frame = <[u8; 9]>::try_from(first).ok().map(FrameHeader::parse);
        let follows = |frame: FrameHeader| frame.may_follow(&FrameHeader::default());
        if !frame.is_some_and(|frame| frame.is_plausible() && follows(frame)) {
            before.refused[usize::from(call.sent)] = true;
            return None;
        }
        let Before { refused, passed, .. } = *before;
        let new = |d: usize| {
            let step = Step::joined_late(refused[d]);
            Direction::new(Scanner::at_unproven_frame(), step, passed[d])
        };
        Some(Connection {
            id: self.next_id,
            pid: 0,
            state: State::Joining,
            role: role::UNKNOWN,
            announced: false,
            tcp,
            joined: true,
            refused,
            shown: [None; 2],
            directions: [new(0), new(1)],
        })
    }

    /// Says whether what was found is told.
    fn walk(&mut self, connection: &mut Connection, call: &Call<'_>, total: usize) -> bool {
        let watched = connection.state == State::Watched;
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
            scratch: Scratch::begin(connection.is_known_of(call.pid)),
            connection,
            call,
            buffers: call.buffers.iter().copied().collect(),
            readable,
            searching: false,
            dropped: 0,
            begun: 0,
            from_client: None,
        };
        walk.run(missed.into(), total as u64, if few_steps { 20 } else { usize::MAX })
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
                // The peer did so before.
                direction: direction::RECEIVED,
                role: connection.role,
                flags: u8::from(unseen(0)) | u8::from(unseen(1)) << 1,
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

    /// The process has another name, from now on.
    pub fn rename(&mut self, pid: u32, comm: [u8; 16], time_ns: u64) {
        if self.processes.contains(&pid) {
            let kind = record_kind::RENAMED;
            let header = RecordHeader { time_ns, pid, kind, ..Default::default() };
            self.ring.push_back([&bytes_of(header)[..], &comm].concat());
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
        let Direction { lost, gap, unread, step, .. } = &self.directions[direction];
        *lost || *gap || *unread != 0 || step.is_lost()
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
    /// The direction is out of step: what is found is not told.
    searching: bool,
    /// What was found up to this position was dropped.
    dropped: u64,
    /// Last stream with headers that do not end it; 0 if none.
    begun: u32,
    /// Who sent a header block, if one showed it.
    from_client: Option<bool>,
}

impl Walk<'_> {
    fn run(&mut self, missed: u64, total: u64, max_steps: usize) -> bool {
        self.direction().unread += missed;
        let pending = if self.direction().unread == 0 { 0 } else { self.lose() };
        if self.direction().step.is_lost() {
            self.searching = true;
            let Direction { step, scanner, .. } = self.direction();
            step.begin(scanner);
        }
        self.begin_record();
        if pending != 0 {
            self.on_events(pending);
        }
        let begin = self.direction().position;
        let end = begin + total;
        let mut steps = 0;
        while steps < max_steps && self.step().is_some() {
            steps += 1;
        }
        let refused = self.direction().scanner.is_refused();
        if self.searching {
            let walked = !refused && self.direction().position == end;
            let Direction { position, step, scanner, .. } = self.direction();
            *position = end;
            if !step.end(scanner, total, walked) {
                self.lost(begin, end);
                return false;
            }
            self.searching = false;
            let dropped = self.dropped;
            self.lost(begin, dropped);
            self.connection.state = State::Watched;
            self.direction().found |= self.direction().gap;
        } else if refused {
            assert!(self.connection.state == State::Watched, "all is HTTP/2");
            let position = std::mem::replace(&mut self.direction().position, end);
            self.direction().gap = true;
            self.direction().step.lose();
            self.lost(position, end);
        } else {
            self.direction().unread = end - self.direction().position;
            let position = self.direction().position;
            self.lost(position, end);
        }
        self.learn();
        if !self.send() {
            let inserts = self.inserts();
            let so_far = &mut self.direction().inserts;
            *so_far = so_far.zip(inserts).map(|(one, other)| one + other);
        }
        true
    }

    fn direction(&mut self) -> &mut Direction {
        &mut self.connection.directions[self.direction]
    }

    /// Passes over what was not seen; what that completed.
    fn lose(&mut self) -> u32 {
        let direction = self.direction();
        let bytes = std::mem::take(&mut direction.unread);
        let begin = direction.position;
        direction.position += bytes;
        let frame = direction.scanner.frame();
        let of_kept = frame.is_kept() && !direction.scanner.is_at_boundary();
        let events = direction.scanner.missed(bytes);
        direction.gap |= of_kept || events.is_none();
        if events.is_none() {
            direction.step.lose();
        }
        self.lost(begin, begin + bytes);
        if frame.kind == kind::DATA { events.unwrap_or(0) } else { 0 }
    }

    fn lost(&mut self, begin: u64, end: u64) {
        let before = self.direction().before;
        let (begin, end) = (before + begin, before + end);
        if begin < end {
            let Call { sock, sent, .. } = *self.call;
            self.kernel.lost.push(Lost { sock, sent, begin, end });
        }
    }

    fn learn(&mut self) {
        if let (role::UNKNOWN, Some(from_client)) = (self.connection.role, self.from_client) {
            let other = self.connection.shown[1 - self.direction];
            self.connection.shown[self.direction] = Some(from_client);
            if other == Some(from_client) {
                self.connection.shown[1 - self.direction] = None;
            } else if other.is_some() {
                let client = from_client == self.call.sent;
                self.connection.role = if client { role::CLIENT } else { role::SERVER };
            }
        }
        let requests = match self.connection.role {
            role::CLIENT => self.call.sent,
            role::SERVER => !self.call.sent,
            _ => return,
        };
        if requests && self.begun != 0 {
            let begun = self.begun;
            self.connection.directions.iter_mut().for_each(|direction| direction.step.begun(begun));
        }
    }

    /// Entries that the blocks in the record insert.
    fn inserts(&self) -> Option<u32> {
        let record = &self.scratch.record;
        let mut tally = Tally::new(self.scratch.empty as u32, record.len() as u32);
        while tally.step(|at| record.get(at as usize).copied().unwrap_or(0)) {}
        tally.count()
    }

    fn begin_record(&mut self) {
        self.scratch = Scratch::begin(self.connection.is_known_of(self.call.pid));
        let Direction { gap, found, step, lost, inserts, .. } = *self.direction();
        if gap {
            let flags = u8::from(found || step.is_lost());
            let item = ItemHeader { kind: item_kind::GAP, flags, ..ItemHeader::default() };
            self.scratch.put_item(item);
        } else if lost {
            self.scratch.put_item(ItemHeader {
                kind: item_kind::LOST,
                flags: u8::from(inserts.is_none()),
                length: inserts.unwrap_or(u32::MAX),
                ..ItemHeader::default()
            });
        }
        self.scratch.empty = self.scratch.record.len();
    }

    fn step(&mut self) -> Option<()> {
        while self.buffers.front()?.is_empty() {
            self.buffers.pop_front();
        }
        if self.scratch.record.len() > RECORD_FULL {
            if self.searching {
                self.dropped = self.direction().position;
            } else if !self.send() {
                self.direction().inserts = None;
            }
            self.begin_record();
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
                self.direction().scanner.buffer[at..at + OVERRUN].fill(0xa5);
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
        if events & event::NOT_FRAME != 0 {
            return None;
        }
        self.on_events(events);
        Some(())
    }

    fn on_events(&mut self, events: u32) {
        if events & event::PREFACE_END != 0 {
            self.connection.state = State::Watched;
            return;
        }
        if events & event::FRAME_BEGIN != 0 {
            self.direction().step.frame();
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
                if frame.kind == kind::HEADERS {
                    self.on_headers(frame);
                }
                self.scratch.end_frame();
                if frame.kind == kind::RST_STREAM && !self.searching {
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

    fn on_headers(&mut self, frame: FrameHeader) {
        let key = (self.connection.id, frame.stream, self.direction);
        let step = self.direction().step;
        if !step.has_old() {
            return;
        }
        if self.from_client.is_none() {
            self.from_client = self.scratch.first_of_block(frame).and_then(is_request);
        }
        if frame.has(flag::END_STREAM) {
            if step.is_old(frame.stream) {
                self.kernel.messages.remove(&key);
            }
            return;
        }
        self.begun = self.begun.max(frame.stream);
        if step.is_old(frame.stream) {
            self.keep_old(key, Message::default());
        }
    }

    fn keep_old(&mut self, key: (u64, u32, usize), mut message: Message) {
        message.epoch = self.direction().step.epoch();
        if self.kernel.random.chance(self.kernel.faults.messages_full) {
            self.kernel.messages.remove(&key);
        } else {
            self.kernel.messages.insert(key, message);
        }
    }

    fn resume(&mut self, key: (u64, u32, usize), stream: u32) {
        let is_old = self.direction().step.is_old(stream);
        let epoch = self.direction().step.epoch();
        let stored = self.kernel.messages.get(&key).copied();
        let message = match stored {
            Some(message) if !is_old || message.epoch == epoch => message,
            _ if is_old => Message::unaligned(),
            _ => return,
        };
        self.direction().scanner.resume(&message);
    }

    fn on_data(&mut self, frame: FrameHeader, events: u32) {
        let key = (self.connection.id, frame.stream, self.direction);
        let is_old = self.direction().step.is_old(frame.stream);
        if events & event::FRAME_BEGIN != 0 && (self.direction().cut || is_old) {
            self.resume(key, frame.stream);
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
        if is_old {
            if frame.has(flag::END_STREAM) || scanner.is_unaligned() {
                self.kernel.messages.remove(&key);
            } else {
                self.keep_old(key, scanner.unfinished().unwrap_or_default());
            }
            return;
        }
        match scanner.unfinished() {
            Some(message) if !frame.has(flag::END_STREAM) => self.keep(key, message),
            _ if self.direction().cut => drop(self.kernel.messages.remove(&key)),
            _ => {}
        }
    }

    fn keep(&mut self, key: (u64, u32, usize), mut message: Message) {
        self.direction().cut = true;
        message.epoch = self.direction().step.epoch();
        if self.kernel.random.chance(self.kernel.faults.messages_full)
            && !self.kernel.messages.contains_key(&key)
        {
            self.direction().step.forget();
        } else {
            self.kernel.messages.insert(key, message);
        }
    }

    /// Says whether nothing was lost.
    fn send(&mut self) -> bool {
        self.scratch.end_frame();
        self.scratch.flush_data();
        let tells = self.scratch.record.len() > self.scratch.empty;
        if self.connection.state != State::Watched || !tells {
            return true;
        }
        let record = self.record();
        let Direction { reported, position, .. } = *self.direction();
        let sent = self.kernel.output(record);
        if sent {
            self.connection.announced = true;
            self.connection.pid = self.call.pid;
            let direction = self.direction();
            (direction.lost, direction.gap, direction.inserts) = (false, false, Some(0));
            direction.found = false;
        } else {
            self.direction().lost = true;
            self.lost(reported, position);
        }
        self.direction().reported = position;
        sent
    }

    fn record(&mut self) -> Vec<u8> {
        let Direction { reported, position, .. } = *self.direction();
        let unseen = |d| u8::from(self.connection.is_unseen(d)) << d;
        let unseen = unseen(0) | unseen(1);
        let header = RecordHeader {
            connection: self.connection.id,
            time_ns: self.call.time_ns,
            position: reported,
            length: position - reported,
            pid: self.call.pid,
            kind: record_kind::BYTES,
            direction: self.direction as u8,
            role: self.connection.role,
            flags: unseen,
        };
        // The scratch slot keeps it, should it be lost.
        let mut record = self.scratch.record.clone();
        record[..HEADER_SIZE].copy_from_slice(&bytes_of(header));
        if !self.connection.is_known_of(self.call.pid) {
            self.kernel.processes.insert(self.call.pid);
            let open = open_item(self.call.comm, self.connection.joined);
            record[HEADER_SIZE..HEADER_SIZE + open.len()].copy_from_slice(&open);
        }
        record
    }
}
