//! Processes and connections on one machine, the records of its BPF programs, and the daemon's pipeline.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use observer::{
    metrics::{Buckets, Daemon, Format, Limits, Snapshot, Statistics, render},
    pipeline::{self, Pipeline},
};
use observer_core::{
    record::{Bytes, Event, Item, Record},
    source::Source,
};

use crate::{
    connection::{Connection, Socket},
    host::Transfer,
    kernel::{Faults, Kernel},
    model::{At, End, Process, Truth},
    random::Random,
    writer::BODY,
};

const SERIES_TTL: Duration = Duration::from_mins(1);

/// A process that runs or ran, under one of its names.
struct Running {
    pid: u32,
    alive: bool,
}

/// The name of a process. Each has its own, which distinguishes it from the next one with the same pid.
pub fn name_of(process: Process) -> String {
    format!("process-{process}")
}

fn comm_of(process: Process) -> [u8; 16] {
    let mut comm = [0; 16];
    comm[..name_of(process).len()].copy_from_slice(name_of(process).as_bytes());
    comm
}

fn print(record: &[u8]) {
    let Some(Record { connection, time_ns, pid, event, held: _ }) = Record::parse(record) else {
        return;
    };
    eprintln!("{time_ns:>14} pid {pid} record of connection {connection}");
    let Event::Bytes(Bytes { direction, position, length, gaps, items, .. }) = event else {
        return eprintln!("    {event:?}");
    };
    eprintln!("    {direction:?} {position} + {length}, {gaps:?}");
    for item in items {
        match item {
            Item::Frame { header, payload } => {
                eprintln!("    {header:?}, {} bytes of it", payload.len());
            }
            Item::Part(payload) => eprintln!("    {} bytes more", payload.len()),
            other => eprintln!("    {other:?}"),
        }
    }
}

pub struct World {
    random: Random,
    now_ns: u64,
    processes: Vec<Running>,
    connections: Vec<Connection>,
    next_sock: u64,
    pub kernel: Kernel,
    pub truth: Truth,
    pub pipeline: Pipeline,
    /// Invariants are checked after each record, too: that takes a snapshot for each.
    each_record: bool,
    /// Only some worlds have workers, because they take longest.
    workers: Option<Workers>,
}

/// A ring whose records are also passed to `tap`.
struct Tapped<'a, T> {
    ring: &'a mut VecDeque<Vec<u8>>,
    tap: T,
}

impl<T: FnMut(&[u8])> Source for Tapped<'_, T> {
    fn drain(&mut self, limit: usize, mut take: impl FnMut(&[u8])) -> usize {
        let some = limit.min(self.ring.len());
        for record in self.ring.drain(..some) {
            (self.tap)(&record);
            take(&record);
        }
        some
    }

    fn wait(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }
}

/// The same records in several rings, and a pipeline for each ring. The rings are read in any order.
struct Workers {
    pipelines: Vec<Pipeline>,
    rings: Vec<VecDeque<Vec<u8>>>,
    random: Random,
}

impl Workers {
    fn new(pipeline: Pipeline, mut random: Random) -> Self {
        let count = random.between(2, 4) as usize;
        Self { pipelines: pipeline.split(count), rings: vec![VecDeque::new(); count], random }
    }

    /// Sends a record of a connection to the connection's ring, and a record of a process to every ring.
    fn send(&mut self, record: &[u8]) {
        let Some(Record { connection, event, .. }) = Record::parse(record) else { return };
        let of_process = matches!(event, Event::Exited | Event::Executed(_) | Event::Renamed(_));
        let ring = connection as usize % self.rings.len();
        for (number, queue) in self.rings.iter_mut().enumerate() {
            if of_process || number == ring {
                queue.push_back(record.to_owned());
            }
        }
    }

    fn drain(&mut self) {
        while self.rings.iter().any(|ring| !ring.is_empty()) {
            let number = self.random.below(self.rings.len());
            let ring = &mut self.rings[number];
            let some = self.random.below(ring.len() + 1);
            self.pipelines[number].read(&mut Tapped { ring, tap: |_: &[u8]| {} }, some);
        }
    }

    fn tick(&mut self, now_ns: u64) {
        let expired = self.pipelines[0].tick(now_ns);
        for pipeline in &mut self.pipelines[1..] {
            pipeline.follow(now_ns, &expired);
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut parts = self.pipelines.iter().map(snapshot_of);
        let mut snapshot = parts.next().unwrap();
        for part in parts {
            snapshot.merge(part).unwrap();
        }
        snapshot
    }
}

fn snapshot_of(pipeline: &Pipeline) -> Snapshot {
    pipeline::snapshot(pipeline, Daemon::default(), Arc::default())
}

/// A scrape without two metrics that differ with several rings: the number of records, because every ring has those of
/// processes; and the number of lookups in `/proc`, because a process's end may be read before or after its first call.
fn published(snapshot: &Snapshot) -> String {
    let text = String::from_utf8(render(snapshot, Format::OpenMetricsText)).unwrap();
    let differ = ["observer_r", "observer_process_lookups"];
    let is_same = |line: &&str| !differ.iter().any(|name| line.contains(name));
    text.lines().filter(is_same).collect::<Vec<_>>().join("\n")
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> Self {
        let mut random = Random::new(seed);
        let buckets: Buckets = "0.001,1".parse().unwrap();
        let pipeline = || {
            let statistics = Statistics::new(buckets.clone(), Limits::default());
            let mut pipeline = Pipeline::new(statistics, (None, (None, None)), SERIES_TTL);
            pipeline.set_stall_free_since(0);
            pipeline
        };
        let prints = std::env::var_os("OBSERVER_SEED").is_some();
        let workers =
            (seed % 16 == 8 || prints).then(|| Workers::new(pipeline(), Random::new(!seed)));
        let mut world = Self {
            kernel: Kernel::new(Random::new(random.next()), faults),
            now_ns: 1_000_000_000,
            processes: Vec::new(),
            connections: Vec::new(),
            next_sock: 1,
            truth: Truth { prints, ..Truth::default() },
            pipeline: pipeline(),
            workers,
            random,
            each_record: seed.is_multiple_of(16) || prints,
        };
        for pid in 0..world.random.between(1, 4) {
            world.spawn(100 + pid as u32);
        }
        world
    }

    fn spawn(&mut self, pid: u32) {
        // The daemon reads the ring ten times a second; a pid is not used again as fast.
        self.drain();
        self.processes.push(Running { pid, alive: true });
    }

    /// Does something, somewhere.
    pub fn step(&mut self) {
        self.now_ns += self.random.between(1_000, 2_000_000);
        let open: Vec<usize> = self.open_connections();
        match self.random.below(1000) {
            0..10 if open.len() < 4 => self.connect(),
            10..12 => self.exit_some(),
            12..14 if self.processes.len() < 12 => self.spawn(100 + self.processes.len() as u32),
            14..16 if !open.is_empty() => {
                let side = self.random.below(2);
                let connection = self.random.pick(&open);
                self.close(connection, side);
            }
            // A process has at most so many names.
            16..19 if self.processes.len() < 16 => self.rename_some(),
            _ if open.is_empty() => self.connect(),
            n => {
                let connection = self.random.pick(&open);
                let side = self.random.below(2);
                match n % 10 {
                    0..4 => {
                        let connection = &mut self.connections[connection];
                        self.now_ns += connection.act(&mut self.random, side);
                    }
                    4..7 => self.write(connection, side, false),
                    _ => self.read(connection, side, false),
                }
            }
        }
        if self.random.chance(50) {
            self.drain();
        }
    }

    fn open_connections(&self) -> Vec<usize> {
        let is_open =
            |at: &usize| self.connections[*at].sockets.iter().any(|socket: &Socket| socket.is_open);
        (0..self.connections.len()).filter(is_open).collect()
    }

    fn alive(&self) -> Vec<Process> {
        (0..self.processes.len()).filter(|&at| self.processes[at].alive).collect()
    }

    fn some_alive(&mut self) -> Option<Process> {
        let alive = self.alive();
        (!alive.is_empty()).then(|| self.random.pick(&alive))
    }

    fn connect(&mut self) {
        let alive = self.alive();
        if alive.is_empty() {
            return self.spawn(100 + self.processes.len() as u32);
        }
        let watched = self.random.pick(&[[true, true], [true, true], [true, false], [false, true]]);
        let sockets = [false, true].map(|server| {
            let mut owners = vec![self.random.pick(&alive)];
            if self.random.chance(150) {
                owners.push(self.random.pick(&alive));
            }
            self.next_sock += 1;
            let end = End::new(self.next_sock, server);
            let watched = watched[usize::from(server)];
            Socket { owners, watched, is_open: true, end, written: 0, read: 0 }
        });
        let tcp = self.random.chance(700);
        self.connections.push(Connection::new(&mut self.random, sockets, tcp));
    }

    /// One end writes some or all of its bytes.
    fn write(&mut self, connection: usize, side: usize, all: bool) {
        let Connection { writers, sockets, .. } = &mut self.connections[connection];
        let left = writers[side].bytes.len();
        if left == 0 || !sockets[side].is_open {
            return;
        }
        let n = if all { left } else { self.random.part_of(left) };
        let bytes: Vec<u8> = writers[side].bytes.drain(..n).collect();
        let process = self.random.pick(&sockets[side].owners);
        self.pass(connection, side, true, process, &bytes);
        let Connection { writers, sockets, pipes, .. } = &mut self.connections[connection];
        sockets[side].written += n as u64;
        let (end, at) = (sockets[side].written, At { time_ns: self.now_ns, process });
        while writers[side].marks.front().is_some_and(|mark| mark.end <= end)
            && let Some(mark) = writers[side].marks.pop_front()
        {
            if sockets[side].watched {
                sockets[side].end.observe(&mut self.truth, at, &mark);
            }
            pipes[side].marks.push_back(mark);
        }
        pipes[side].bytes.extend(bytes);
    }

    /// One end reads some or all of the bytes that there are.
    fn read(&mut self, connection: usize, side: usize, all: bool) {
        let Connection { sockets, pipes, .. } = &mut self.connections[connection];
        let left = pipes[1 - side].bytes.len();
        if left == 0 || !sockets[side].is_open {
            return;
        }
        let n = if all { left } else { self.random.part_of(left) };
        let bytes: Vec<u8> = pipes[1 - side].bytes.drain(..n).collect();
        let process = self.random.pick(&sockets[side].owners);
        self.pass(connection, side, false, process, &bytes);
        let this = &mut self.connections[connection];
        this.sockets[side].read += n as u64;
        let (end, at) = (this.sockets[side].read, At { time_ns: self.now_ns, process });
        while this.pipes[1 - side].marks.front().is_some_and(|mark| mark.end <= end)
            && let Some(mark) = this.pipes[1 - side].marks.pop_front()
        {
            if this.sockets[side].watched {
                this.sockets[side].end.observe(&mut self.truth, at, &mark);
            }
            this.hear(side, &mark.happening);
        }
    }

    /// Passes the bytes of a transfer to the BPF programs.
    fn pass(&mut self, connection: usize, side: usize, sent: bool, process: Process, bytes: &[u8]) {
        let Connection { sockets, tcp, .. } = &mut self.connections[connection];
        let socket = &mut sockets[side];
        if !socket.watched {
            return;
        }
        let mut buffers = Vec::new();
        let mut rest = bytes;
        while self.random.chance(300) {
            let (buffer, after) = rest.split_at(self.random.below(rest.len() + 1));
            buffers.push(buffer);
            rest = after;
        }
        buffers.push(rest);
        let transfer = Transfer {
            sock: socket.end.sock,
            sent,
            pid: self.processes[process].pid,
            comm: comm_of(process),
            time_ns: self.now_ns,
            buffers: &buffers,
        };
        let seen = self.kernel.transfer(&transfer, *tcp);
        socket.end.was_seen(sent, seen);
    }

    fn close(&mut self, connection: usize, side: usize) {
        let socket = &mut self.connections[connection].sockets[side];
        if !std::mem::take(&mut socket.is_open) || !socket.watched {
            return;
        }
        socket.end.close(&mut self.truth, self.now_ns);
        self.kernel.close(socket.end.sock, self.now_ns);
    }

    fn exit_some(&mut self) {
        let Some(process) = self.some_alive() else { return };
        self.exit(process);
        if self.random.chance(500) {
            let pid = self.processes[process].pid;
            self.now_ns += 1_000_000;
            self.spawn(pid);
        }
    }

    /// Renames a process: in the figures, it is another process with the same pid.
    fn rename_some(&mut self) {
        let Some(old) = self.some_alive() else { return };
        let new = self.processes.len();
        let pid = self.processes[old].pid;
        self.processes[old].alive = false;
        self.processes.push(Running { pid, alive: true });
        self.kernel.rename(pid, comm_of(new), self.now_ns);
        for socket in self.connections.iter_mut().flat_map(|connection| &mut connection.sockets) {
            for owner in socket.owners.iter_mut().filter(|owner| **owner == old) {
                *owner = new;
            }
            socket.end.rename(&mut self.truth, old, new);
        }
    }

    fn exit(&mut self, process: Process) {
        self.processes[process].alive = false;
        self.kernel.exit(self.processes[process].pid, self.now_ns);
        self.now_ns += 1_000;
        for connection in 0..self.connections.len() {
            for side in 0..2 {
                let owners = &mut self.connections[connection].sockets[side].owners;
                owners.retain(|&owner| owner != process);
                if owners.is_empty() {
                    self.close(connection, side);
                }
            }
        }
    }

    /// Ends all connections; the bytes that are under way may arrive before that.
    pub fn end(&mut self) {
        for connection in self.open_connections() {
            if self.random.chance(700) {
                for side in [0, 1] {
                    self.now_ns += 1_000_000;
                    self.write(connection, side, true);
                    self.read(connection, 1 - side, true);
                }
            }
            let first = self.random.below(2);
            self.close(connection, first);
            self.close(connection, 1 - first);
        }
        self.drain();
    }

    /// Has all processes exit, and checks that they leave no series after their time to live.
    pub fn outlive(&mut self) {
        for process in self.alive() {
            self.exit(process);
        }
        self.drain();
        let ttl_ns = SERIES_TTL.as_nanos() as u64;
        let now_ns = self.now_ns + ttl_ns;
        self.pipeline.tick(now_ns);
        if let Some(workers) = &mut self.workers {
            workers.tick(now_ns);
        }
        self.check_workers();
        assert_eq!(self.snapshot().statistics.len(), 0, "processes that are gone leave nothing");
    }

    /// The daemon reads the ring until it is empty.
    pub fn drain(&mut self) {
        loop {
            let Self { kernel, pipeline, workers, truth, .. } = self;
            let tap = |record: &[u8]| {
                let body = record.windows(8).any(|bytes| bytes == [BODY; 8]);
                assert!(!body, "a message's body is in a record");
                if truth.prints {
                    print(record);
                }
                if let Some(workers) = workers {
                    workers.send(record);
                }
            };
            if pipeline.read(&mut Tapped { ring: &mut kernel.maps.ring, tap }, 1) == 0 {
                break;
            }
            if self.each_record {
                self.check_invariants();
            }
        }
        if let Some(workers) = &mut self.workers {
            workers.drain();
        }
        self.check_invariants();
        self.check_workers();
    }

    fn check_invariants(&self) {
        let snapshot = self.snapshot();
        let mut in_flight = 0;
        for (key, series) in snapshot.statistics.series() {
            let begun = series.started + series.joined;
            assert!(series.ended() <= begun, "{key:?}: {} of {begun} ended", series.ended());
            assert!(series.handling.count() <= series.started, "{key:?}");
            in_flight += begun - series.ended();
        }
        assert_eq!(in_flight, snapshot.daemon.streams, "calls in flight, and open streams");
        assert_eq!(snapshot.statistics.late(), 0);
        assert_eq!(self.pipeline.figures().malformed, 0);
        // After a gap, a CONTINUATION may be without its HEADERS.
        let bad_blocks = self.pipeline.figures().bad_blocks;
        assert!(self.kernel.faults.any() || bad_blocks == 0, "all blocks are well-formed");
    }

    pub fn snapshot(&self) -> Snapshot {
        snapshot_of(&self.pipeline)
    }

    /// Checks that several workers publish the same as one.
    fn check_workers(&self) {
        if let Some(workers) = &self.workers {
            let several = published(&workers.snapshot());
            assert_eq!(several, published(&self.snapshot()), "several workers, and one");
        }
    }
}
