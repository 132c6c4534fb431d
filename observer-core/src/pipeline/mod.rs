//! From records to statistics: everything between a source and a scrape.
//!
//! No I/O and no clock, so that a simulator can drive it: [`Pipeline::handle`] for each record, [`Pipeline::tick`]
//! about once a second.
//!
//! [`Pipeline::split`] makes several of one, for as many rings: each has the records of its own connections, and
//! those of all processes. Ids of paths and processes mean the same to all of them, and bounds hold for all
//! together, so that their statistics [add up](Statistics::merge).

mod figures;
mod late_readers;
mod watched;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustc_hash::FxHashMap;

pub use self::{
    figures::{Connections, Figures},
    watched::{FAIR_SHARE, MAX_MEMORY},
};
use self::{
    late_readers::LateReaders,
    watched::{Sink, Watched, fair_share},
};
use crate::{
    call::Role,
    ends::{Call, Waiting},
    names::{Interner, PathId, Texts},
    output::{Names, Output},
    process::{Comm, Detail, Expired, Lookup, ProcessSource, Processes, Seen},
    protocol::{Protocol as _, State, Streams, Transfer},
    record::{Bytes, Closed, Event, Item, Record},
    source::Source,
    statistics::Statistics,
};

/// Bound on the distinct paths of all processes together. Each takes at most 512 bytes.
const MAX_PATHS: usize = 16_384;

/// Least time between searches for paths that are not used any more, in ns: a search visits everything.
const PATHS_PERIOD_NS: u64 = 10_000_000_000;

/// Bound on the processes, each counted as often as it has names.
const MAX_PROCESSES: usize = 16_384;

/// The state of one worker; `O` is the output beside the statistics.
#[derive(Debug)]
pub struct Pipeline<O> {
    connections: FxHashMap<u64, Box<Watched>>,
    /// The memory that they take.
    memory: usize,
    /// This pipeline's share of [`MAX_MEMORY`].
    max_memory: usize,
    interner: Interner,
    /// When the last search for unused paths was.
    paths_ns: u64,
    /// As in [`Transfer`].
    stall_free_since_ns: u64,
    processes: Processes,
    outputs: (Statistics, O),
    figures: Figures,
    series_ttl: Duration,
    /// The labels that every series has of its process, beside pid and name.
    labels: Arc<[Detail]>,
    waiting: Waiting,
    late_readers: LateReaders,
    /// Calls that ended in the record that is being read.
    ended: Vec<Call>,
    /// Memory is short, for all that are [split](Self::split).
    stopped: Arc<AtomicBool>,
}

impl<O: Output> Pipeline<O> {
    /// An empty pipeline. Series of a process are dropped `series_ttl` after its exit.
    pub fn new(statistics: Statistics, output: O, series_ttl: Duration) -> Self {
        let outputs = (statistics, output);
        let mut interner = Interner::new(MAX_PATHS);
        interner.texts = Texts::new(outputs.max_texts());
        Self {
            connections: FxHashMap::default(),
            memory: 0,
            max_memory: MAX_MEMORY,
            interner,
            paths_ns: 0,
            stall_free_since_ns: u64::MAX,
            processes: Processes::new(MAX_PROCESSES),
            outputs,
            figures: Figures::default(),
            series_ttl,
            labels: Arc::default(),
            waiting: Waiting::default(),
            late_readers: LateReaders::default(),
            ended: Vec::new(),
            stopped: Arc::default(),
        }
    }

    /// With these labels of its process on every series.
    #[must_use]
    pub fn with_labels(self, labels: &[Detail]) -> Self {
        Self { labels: labels.into(), ..self }
    }

    /// As many pipelines as that: this one, and others without a state. Only the first is to be
    /// [ticked](Self::tick); the others [follow](Self::follow) it.
    pub fn split(mut self, count: usize) -> Vec<Self> {
        self.max_memory /= count.max(1);
        let others: Vec<Self> = (1..count).map(|_| self.another()).collect();
        std::iter::once(self).chain(others).collect()
    }

    fn another(&self) -> Self {
        Self {
            connections: FxHashMap::default(),
            memory: 0,
            max_memory: self.max_memory,
            interner: self.interner.sharing(),
            paths_ns: 0,
            stall_free_since_ns: self.stall_free_since_ns,
            processes: self.processes.sharing(),
            outputs: self.outputs.sharing(),
            figures: Figures::default(),
            series_ttl: self.series_ttl,
            labels: Arc::clone(&self.labels),
            waiting: self.waiting.sharing(),
            late_readers: LateReaders::default(),
            ended: Vec::new(),
            stopped: Arc::clone(&self.stopped),
        }
    }

    /// Stops adding series, paths, processes and connections, for all that are [split](Self::split), and lets no
    /// connection take more than its fair share of memory; or goes on.
    pub fn stop(&mut self, stopped: bool) {
        self.stopped.store(stopped, Ordering::Relaxed);
        self.outputs.0.stop(stopped);
        self.interner.stop(stopped);
        self.processes.stop(stopped);
    }

    /// Sets since when threads did not have to wait for a CPU, until now. While that is not known, little is said
    /// of why calls were cancelled.
    pub fn set_stall_free_since(&mut self, ns: u64) {
        self.stall_free_since_ns = ns;
    }

    /// Takes the records that there are, at most `limit`. Returns how many these were.
    pub fn read(&mut self, source: &mut impl Source, limit: usize) -> usize {
        source.drain(limit, |bytes| self.handle(bytes))
    }

    /// Takes a record.
    pub fn handle(&mut self, bytes: &[u8]) {
        self.figures.records += 1;
        self.figures.bytes += bytes.len() as u64;
        let Some(record) = Record::parse(bytes) else {
            self.figures.malformed += 1;
            return;
        };
        self.outputs.0.set_time(record.time_ns);
        match record.event {
            Event::Bytes(ref bytes) => self.bytes(&record, bytes),
            Event::Closed(closed) => self.closed(&record, closed),
            Event::Exited => self.processes.exited(record.pid, record.time_ns),
            Event::Executed(comm) => {
                self.processes.executed(record.pid, record.time_ns, Comm::new(comm));
            }
            Event::Renamed(comm) => {
                self.processes.renamed(record.pid, record.time_ns, comm.map(Comm::new));
            }
        }
    }

    fn bytes(&mut self, record: &Record<'_>, bytes: &Bytes<'_>) {
        // It comes first, if at all; the others are for the connection to read.
        let open = match bytes.items.clone().next() {
            Some(Item::Open(open)) => Some(open),
            _ => None,
        };
        let stopped = self.stopped.load(Ordering::Relaxed);
        if stopped && !self.connections.contains_key(&record.connection) {
            // Once there is room, it is one that is joined late.
            self.figures.not_followed += 1;
            return;
        }
        let comm = open.map(|open| Comm::new(open.comm));
        let Seen { id: process, first } = self.processes.seen(record.pid, record.time_ns, comm);
        let at = Transfer {
            time_ns: record.time_ns,
            process,
            direction: bytes.direction,
            waited: self.late_readers.waited(first, record.time_ns, bytes),
            stall_free_since_ns: self.stall_free_since_ns,
        };
        let (most, open_connections) = (self.max_memory, self.connections.len());
        let max_memory = if stopped { 0 } else { most };
        let watched = self.connections.entry(record.connection);
        let watched = watched.or_insert_with(|| Watched::new(open, bytes));
        if open.is_some_and(|open| watched.open(open)) && bytes.role == Some(Role::Client) {
            self.waiting.ends().begins(watched.pair);
        }
        let Self { interner, outputs: (statistics, _), figures, memory, waiting, ended, .. } = self;
        interner.set_owner(first.0);
        statistics.set_owner(first);
        let Watched { pair, peer, .. } = **watched;
        let sink = &mut Sink { time_ns: at.time_ns, pair, peer, statistics, waiting, ended };
        *memory -= watched.connection.memory();
        let faults = watched.connection.bytes(at, bytes, interner, sink);
        let taken = watched.connection.memory();
        if *memory + taken > max_memory && taken > fair_share(most, open_connections) {
            watched.connection.forget(at.time_ns, sink);
            figures.forgotten += 1;
        }
        *memory += watched.connection.memory();
        figures.dropped_bytes = figures.dropped_bytes.saturating_add(faults.dropped_bytes);
        figures.bad_blocks += faults.blocks;
        figures.unknown_references += faults.unknown_references;
        if faults.read_late {
            self.late_readers.read_late(first, record.time_ns);
        }
        if watched.counted_for.is_none() {
            let State { role, streams, .. } = watched.connection.state();
            if streams.measured > 0 {
                watched.counted_for = Some((first, role));
                statistics.connection_opened(first, role);
                figures.grpc_connections += 1;
            }
        }
        self.publish_ended();
    }

    fn closed(&mut self, record: &Record<'_>, closed: Closed) {
        let Some(mut watched) = self.connections.remove(&record.connection) else { return };
        self.memory -= watched.connection.memory();
        // This does not show that the process runs: the kernel closes the sockets of one that has exited.
        let Self { outputs: (statistics, _), waiting, ended, .. } = self;
        let Watched { pair, peer, .. } = *watched;
        let time_ns = record.time_ns;
        let sink = &mut Sink { time_ns, pair, peer, statistics, waiting, ended };
        watched.connection.closed(time_ns, closed, self.stall_free_since_ns, sink);
        self.figures.ended_streams += watched.connection.state().streams;
        if let Some((process, role)) = watched.counted_for {
            statistics.connection_closed(process, role);
        }
        self.publish_ended();
    }

    /// Publishes the calls that had to wait for what the other end says: to be called when all records that there
    /// are have been taken.
    pub fn settle(&mut self, now_ns: u64) {
        self.ended.extend(self.waiting.settled(now_ns));
        self.publish_ended();
    }

    /// Gives the calls that have ended to all outputs.
    fn publish_ended(&mut self) {
        let Self { outputs, interner, processes, ended, .. } = self;
        for call in ended.drain(..) {
            let key = outputs.0.key(call.series);
            outputs.call(&call, key, &Names { interner, processes });
        }
    }

    /// Has processes searched whose exit or new name was not reported: its record may have been dropped.
    pub fn find_unreported(&mut self) {
        self.processes.find_unreported();
    }

    /// Drops the series of processes that exited long enough ago, ends calls that have probably ended in a gap, and
    /// forgets paths that are not used any more. Returns the processes that have expired: pipelines that were
    /// [split](Self::split) off are to [follow](Self::follow) before their next snapshot.
    pub fn tick(&mut self, now_ns: u64) -> Arc<[Expired]> {
        let ttl_ns = u64::try_from(self.series_ttl.as_nanos()).unwrap_or(u64::MAX);
        let expired = self.processes.expired(now_ns, ttl_ns);
        let expired: Arc<[Expired]> = self.processes.successors(expired, &self.labels).into();
        self.follow(now_ns, &expired);
        for (process, _) in expired.iter() {
            self.processes.forget(*process);
        }
        expired
    }

    /// Does what [`tick`](Self::tick) does, with the processes that expired there.
    pub fn follow(&mut self, now_ns: u64, expired: &[Expired]) {
        self.outputs.tick(now_ns);
        for watched in self.connections.values_mut() {
            // How these ended was not seen: they are no failures.
            watched.connection.expire(now_ns, &mut self.outputs.0);
        }
        for &(process, successor) in expired {
            self.outputs.forget(process, successor);
        }
        self.processes.ask_again();
        if self.interner.is_crowded() && now_ns >= self.paths_ns + PATHS_PERIOD_NS {
            self.paths_ns = now_ns;
            self.free_paths();
        }
    }

    /// Makes room for other paths: peers choose them, and may choose many.
    fn free_paths(&mut self) {
        let Self { interner, outputs: (statistics, _), connections, .. } = self;
        let of_connections = connections.values().flat_map(|watched| watched.connection.paths());
        interner.retain(statistics.paths().chain(of_connections));
        let known = interner.given_out();
        statistics.forget_types(|path| known.contains(&path));
    }

    /// Asks this source who processes are, for all pipelines that are [split](Self::split).
    pub fn lookup<S: ProcessSource>(&mut self, source: S) -> Lookup<S> {
        self.processes.lookup(source)
    }

    /// The table of processes.
    pub fn processes(&self) -> &Processes {
        &self.processes
    }

    /// The statistics of the calls so far.
    pub fn statistics(&self) -> &Statistics {
        &self.outputs.0
    }

    /// The output beside the statistics.
    pub fn output(&self) -> &O {
        &self.outputs.1
    }

    /// The text of a path in the statistics.
    pub fn path(&self, path: PathId) -> Option<&Arc<str>> {
        self.interner.resolve(path)
    }

    /// What was counted beside calls.
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// The open connections. O(connections).
    pub fn connections(&self) -> Connections {
        let mut connections = Connections::default();
        self.states().for_each(|state| connections.add(state));
        connections
    }

    /// The open streams of calls. O(connections).
    pub fn open_streams(&self) -> u64 {
        self.states().map(|state| state.open).sum()
    }

    /// The streams so far, by what became of them. O(connections).
    pub fn streams(&self) -> Streams {
        let mut streams = self.figures.ended_streams;
        self.states().for_each(|state| streams += state.streams);
        streams
    }

    fn states(&self) -> impl Iterator<Item = State> {
        self.connections.values().map(|watched| watched.connection.state())
    }
}

#[cfg(test)]
mod tests;
