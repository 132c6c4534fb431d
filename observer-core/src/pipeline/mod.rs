//! The state of one worker: everything between a source of records and a scrape.
//!
//! No I/O and no clock, so that a simulator can drive it: [`Pipeline::handle`] for each record, [`Pipeline::settle`]
//! when all available records have been handled, [`Pipeline::tick`] about once a second.
//!
//! [`Pipeline::split`] makes several of one, for several rings: each gets the records of its own connections, and
//! those about all processes. Ids of paths and processes mean the same in all of them, and bounds hold for all
//! together, so that their statistics [add up](Statistics::merge).

mod figures;
mod held;
mod prompt;
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
    figures::{Connections, Counted, Figures, OfProcess},
    watched::{FAIR_SHARE, MAX_MEMORY},
};
use self::{
    held::Held,
    watched::{Sink, Watched, fair_share},
};
use crate::{
    call::{CallSink as _, Direction, Relatives, SeriesId},
    ends::{Call, End as WatchedEnd, Ends, Waiting},
    names::{Interner, Parents, PathId, Pattern, Texts},
    output::{Names, Output},
    process::{
        Comm, Detail, Expired, Grouping, Lookup, ProcessId, ProcessSource, Processes, Seen,
        ServiceNames,
    },
    protocol::{Protocol as _, State, Streams, Transfer},
    record::{Bytes, Carried, Closed, Event, Item, Record},
    source::Source,
    statistics::Statistics,
};

/// Bound on the distinct paths of all processes together, of at most 512 bytes each.
const MAX_PATHS: usize = 16_384;

/// Maximum number of `tracestate` texts that are kept until their calls end: 2 MiB.
const MAX_STATES: usize = 4096;

/// The shortest time between searches for paths that are not used any more: 10 s, because a search visits everything.
const PATHS_PERIOD_NS: u64 = 10_000_000_000;

/// Bound on the processes. A process counts once for each of its names.
const MAX_PROCESSES: usize = 16_384;

/// Bound on the records of TLS connections that wait until they are proven, in bytes.
const MAX_HELD: usize = 32 << 20;

/// The state of one worker: connections, processes, statistics, and another output `O`.
#[derive(Debug)]
pub struct Pipeline<O> {
    connections: FxHashMap<u64, Box<Watched>>,
    /// Connections that have ended, by the first id of their process.
    ended_of: FxHashMap<ProcessId, OfProcess>,
    /// The memory that the connections have allocated, in bytes.
    memory: usize,
    /// This pipeline's share of [`MAX_MEMORY`].
    max_memory: usize,
    interner: Interner,
    relatives: Relatives,
    /// The time of the last search for unused paths.
    paths_ns: u64,
    /// As in [`Transfer`].
    stall_free_since_ns: u64,
    processes: Processes,
    outputs: (Statistics, O),
    figures: Figures,
    series_ttl: Duration,
    /// The labels that every series has from its process, in addition to pid and name.
    labels: Arc<[Detail]>,
    grouping: Grouping,
    /// Whether the names of pods will be known.
    pods: bool,
    /// The time of the last [`tick`](Self::tick).
    ticked_ns: u64,
    waiting: Waiting,
    /// The process whose connections are not followed.
    ignored: Option<u32>,
    held: Held,
    /// Calls that ended in the record that is being handled.
    ended: Vec<Call>,
    /// Memory is short; shared by all pipelines that were [split](Self::split).
    stopped: Arc<AtomicBool>,
}

impl<O: Output> Pipeline<O> {
    /// Creates a pipeline without connections. The series of a process are dropped `series_ttl` after its exit.
    pub fn new(statistics: Statistics, output: O, series_ttl: Duration) -> Self {
        let mut interner = Interner::new(MAX_PATHS);
        let outputs = (statistics, output);
        interner.texts = Texts::new(outputs.max_texts());
        interner.parents = Parents::new(outputs.needs_parents());
        interner.states = Texts::new(if outputs.needs_parents() { MAX_STATES } else { 0 });
        interner.keeps_authorities = outputs.needs_authorities();
        Self {
            connections: FxHashMap::default(),
            ended_of: FxHashMap::default(),
            memory: 0,
            max_memory: MAX_MEMORY,
            interner,
            relatives: Relatives::default(),
            paths_ns: 0,
            stall_free_since_ns: u64::MAX,
            processes: Processes::new(MAX_PROCESSES),
            outputs,
            figures: Figures::default(),
            series_ttl,
            labels: Arc::default(),
            grouping: Grouping::default(),
            pods: false,
            ticked_ns: 0,
            waiting: Waiting::default(),
            ignored: None,
            held: Held::new(MAX_HELD),
            ended: Vec::new(),
            stopped: Arc::default(),
        }
    }

    /// Sets the labels that every series has from its process, in addition to pid and name.
    #[must_use]
    pub fn with_labels(self, labels: &[Detail]) -> Self {
        Self { labels: labels.into(), ..self }
    }

    /// Does not follow the connections of the process with this pid: the daemon's own, whose export would make calls to
    /// export.
    #[must_use]
    pub fn without(self, pid: u32) -> Self {
        Self { ignored: Some(pid), ..self }
    }

    /// Follows calls of these relatives of gRPC, too.
    #[must_use]
    pub fn with_relatives(mut self, relatives: Relatives) -> Self {
        self.relatives = relatives;
        self.interner.cuts_queries = relatives.connect;
        self
    }

    /// Sets what has series of its own. With `pods`, the services of processes in pods wait for
    /// [`ProcessNames::set_pods`](crate::process::ProcessNames::set_pods).
    #[must_use]
    pub fn grouped_by(self, grouping: Grouping, pods: bool) -> Self {
        Self { grouping, pods, ..self }
    }

    /// Gives the services of processes these names.
    #[must_use]
    pub fn naming_services(mut self, names: ServiceNames) -> Self {
        self.processes.name_services(names);
        self
    }

    /// Leaves out calls of methods that these patterns stand for, as in [`Interner::exclude`]: no output gets them, and
    /// they are in no series.
    #[must_use]
    pub fn excluding(mut self, methods: &[Pattern]) -> Self {
        self.interner.exclude(methods);
        self
    }

    /// Splits the pipeline into `count`: this one, and others without connections. [`tick`](Self::tick) is for the
    /// first one only; the others [`follow`](Self::follow) it.
    pub fn split(mut self, count: usize) -> Vec<Self> {
        self.max_memory /= count.max(1);
        self.held.divide(count);
        let others: Vec<Self> = (1..count).map(|_| self.another()).collect();
        std::iter::once(self).chain(others).collect()
    }

    fn another(&self) -> Self {
        Self {
            max_memory: self.max_memory,
            interner: self.interner.sharing(),
            relatives: self.relatives,
            stall_free_since_ns: self.stall_free_since_ns,
            processes: self.processes.sharing(),
            labels: Arc::clone(&self.labels),
            ignored: self.ignored,
            waiting: self.waiting.sharing(),
            held: self.held.another(),
            stopped: Arc::clone(&self.stopped),
            ..Self::new(self.outputs.0.sharing(), self.outputs.1.sharing(), self.series_ttl)
        }
    }

    /// Stops adding series, paths, processes and connections, in all pipelines that were [split](Self::split), and
    /// lets no connection take more than its fair share of memory; or goes on with it.
    pub fn stop(&mut self, stopped: bool) {
        self.stopped.store(stopped, Ordering::Relaxed);
        Output::stop(&mut self.outputs, stopped);
        self.interner.stop(stopped);
        self.processes.stop(stopped);
    }

    /// Sets since when no thread had to wait for a CPU, in nanoseconds of the kernel's monotonic clock; `u64::MAX` if
    /// that is not known. While it is not known, most expired and cancelled calls are undecided.
    pub fn set_stall_free_since(&mut self, ns: u64) {
        self.stall_free_since_ns = ns;
    }

    /// Handles the available records of a source, at most `limit`. Returns their number.
    pub fn read(&mut self, source: &mut impl Source, limit: usize) -> usize {
        source.drain(limit, |bytes| self.handle(bytes))
    }

    /// Handles one record of a BPF program; counts it if it cannot be parsed.
    pub fn handle(&mut self, bytes: &[u8]) {
        self.figures.records += 1;
        self.figures.bytes += bytes.len() as u64;
        let Some(mut record) = Record::parse(bytes) else {
            self.figures.malformed += 1;
            return;
        };
        let connection = record.connection;
        match record.event {
            Event::Bytes(_) if record.held => {
                self.held.push(&record, bytes);
                self.release(connection);
            }
            Event::Proof(proof) => {
                self.held.proof(connection, proof);
                self.release(connection);
            }
            Event::Closed(ref mut closed) if record.held => {
                self.held.ends(connection);
                self.release(connection);
                let dropped = self.held.end(connection);
                closed.gaps.received |= dropped.received;
                closed.gaps.sent |= dropped.sent;
                self.apply(&record);
            }
            _ => self.apply(&record),
        }
    }

    /// Applies the records of a TLS connection that are proven.
    fn release(&mut self, connection: u64) {
        while let Some(bytes) = self.held.pop(connection) {
            if let Some(record) = Record::parse(&bytes) {
                self.apply(&record);
            }
        }
    }

    fn apply(&mut self, record: &Record<'_>) {
        self.outputs.0.set_time(record.time_ns);
        match record.event {
            Event::Bytes(_) if self.ignored == Some(record.pid) => {}
            Event::Bytes(ref bytes) => self.bytes(record, bytes),
            Event::Closed(closed) => self.closed(record, closed),
            Event::Proof(_) => {}
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
        // It is the first item, if there is one.
        let open = match bytes.items.clone().next() {
            Some(Item::Open(open)) => Some(open),
            _ => None,
        };
        let stopped = self.stopped.load(Ordering::Relaxed);
        if stopped && !self.connections.contains_key(&record.connection) {
            // Once there is room, the connection joins late.
            self.figures.not_followed += 1;
            return;
        }
        let comm = open.map(|open| Comm::new(open.comm));
        let Seen { id: process, first } = self.processes.seen(record.pid, record.time_ns, comm);
        let (most, open_connections) = (self.max_memory, self.connections.len());
        let max_memory = if stopped { 0 } else { most };
        let watched = self.connections.entry(record.connection);
        let watched = watched.or_insert_with(|| Watched::new(open, bytes, first, record.held));
        watched.user = first;
        let at = Transfer {
            time_ns: record.time_ns,
            process,
            direction: bytes.direction,
            waited: watched.prompt.waited(bytes),
            relatives: self.relatives,
            stall_free_since_ns: self.stall_free_since_ns,
        };
        let role = watched.certain_role(bytes);
        let is_opened = open.is_some_and(|open| watched.open(open));
        if (is_opened || watched.take_starts(role))
            && let Some(role) = role
        {
            let connection = record.connection;
            let end = WatchedEnd { process, connection, since_ns: record.time_ns };
            self.waiting.ends().begins(watched.pair, role, end);
        }
        let Self { interner, outputs: (statistics, _), figures, memory, waiting, ended, .. } = self;
        interner.set_owner(first.0);
        statistics.set_owner(first);
        let Watched { pair, peer, .. } = **watched;
        let sink = &mut Sink {
            time_ns: at.time_ns,
            connection: record.connection,
            pair,
            peer,
            statistics,
            waiting,
            ended,
        };
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
        if at.direction == Direction::Received {
            watched.prompt.read(faults.read_late);
        }
        if watched.counted_for.is_none() {
            let State { role, streams, .. } = watched.connection.state();
            if streams.measured > 0 {
                watched.counted_for = Some((first, role));
                statistics.connection_opened(first, role);
                // HTTP/1.1 is counted as such.
                if watched.carried() == Carried::Http2 {
                    figures.grpc_connections += 1;
                }
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
        let connection = record.connection;
        let sink = &mut Sink { time_ns, connection, pair, peer, statistics, waiting, ended };
        watched.connection.closed(time_ns, closed, self.stall_free_since_ns, sink);
        self.figures.ended_streams += watched.connection.state().streams;
        let of = self.ended_of.entry(watched.user).or_default();
        let counted = of.of(watched.is_tls, watched.carried());
        counted.ended += 1;
        counted.tie(watched.tie);
        if let Some((process, role)) = watched.counted_for {
            statistics.connection_closed(process, role);
        }
        self.publish_ended();
    }

    /// Counts the calls that waited for the code of the client's end, once it is known or after half a second. To be
    /// called when all available records have been handled.
    pub fn settle(&mut self, now_ns: u64) {
        self.ended.extend(self.waiting.settled(now_ns));
        self.publish_ended();
        let Self { outputs, interner, processes, waiting, .. } = self;
        outputs.settle(now_ns, &Names { interner, processes, ends: waiting.ends() });
    }

    /// Gives the calls that have ended to the outputs.
    fn publish_ended(&mut self) {
        let Self { outputs, interner, processes, ended, waiting, .. } = self;
        let names = Names { interner, processes, ends: waiting.ends() };
        for mut call in ended.drain(..) {
            if call.series == SeriesId::EXCLUDED {
                outputs.0.ended(call.series, call.ended);
                continue;
            }
            let key = outputs.0.key(call.series);
            // The statistics come last: an exemplar names the span of its call.
            outputs.1.call(&mut call, key, &names);
            outputs.0.call(&mut call, key, &names);
        }
    }

    /// Requests a search for processes whose exit or new name was not reported: its record may have been dropped.
    pub fn find_unreported(&mut self) {
        self.processes.find_unreported();
    }

    /// Drops the series of expired processes, ends calls that have probably ended in a gap, and forgets unused paths.
    ///
    /// Returns the expired processes. The other pipelines that were [split](Self::split) have to
    /// [`follow`](Self::follow) before their next snapshot, and before the next tick.
    pub fn tick(&mut self, now_ns: u64) -> Arc<[Expired]> {
        let ttl_ns = u64::try_from(self.series_ttl.as_nanos()).unwrap_or(u64::MAX);
        if self.grouping == Grouping::Service || self.outputs.needs_services() {
            // Since the last tick, all pipelines have read their records from before it.
            self.processes.settle_services(self.ticked_ns, self.pods);
        }
        let expired = match self.grouping {
            Grouping::Process => {
                let expired = self.processes.expired(now_ns, ttl_ns);
                self.processes.successors(expired, &self.labels)
            }
            Grouping::Service => self.processes.expired_of_services(now_ns, ttl_ns, &self.labels),
        };
        self.ticked_ns = now_ns;
        let expired: Arc<[Expired]> = expired.into();
        self.follow(now_ns, &expired);
        for (process, _) in expired.iter() {
            self.processes.forget(*process);
        }
        expired
    }

    /// Does the same as [`tick`](Self::tick), with the processes that expired there.
    pub fn follow(&mut self, now_ns: u64, expired: &[Expired]) {
        self.outputs.tick(now_ns);
        let connections = &self.connections;
        self.held.expire(now_ns, |connection| connections.contains_key(&connection));
        for watched in self.connections.values_mut() {
            // The outputs do not get these calls: it was not seen how they ended, so they are not failures.
            watched.connection.expire(now_ns, &mut self.outputs.0);
        }
        for &(process, successor) in expired {
            self.outputs.forget(process, successor);
            self.ended_of.remove(&process);
        }
        if !expired.is_empty() {
            // A connection may have ended after its process was forgotten.
            self.ended_of.retain(|process, _| self.processes.process(*process).is_some());
        }
        self.processes.ask_again();
        if self.interner.is_crowded() && now_ns >= self.paths_ns + PATHS_PERIOD_NS {
            self.paths_ns = now_ns;
            self.free_paths();
        }
    }

    /// Forgets the paths that are not used any more: peers choose them, and may choose many.
    fn free_paths(&mut self) {
        let Self { interner, outputs: (statistics, _), connections, .. } = self;
        let of_connections = connections.values().flat_map(|watched| watched.connection.paths());
        interner.retain(statistics.paths().chain(of_connections));
        let known = interner.given_out();
        statistics.forget_types(|path| known.contains(&path));
    }

    /// Returns the lookup of processes in this source, for all pipelines that are [split](Self::split) from this one.
    pub fn lookup<S: ProcessSource>(&mut self, source: S) -> Lookup<S> {
        self.processes.lookup(source)
    }

    /// The table of processes.
    pub fn processes(&self) -> &Processes {
        &self.processes
    }

    /// The statistics of this pipeline's calls so far.
    pub fn statistics(&self) -> &Statistics {
        &self.outputs.0
    }

    /// The ends of connections that are watched.
    pub fn ends(&self) -> &Ends {
        self.waiting.ends()
    }

    /// The output that gets each ended call, next to the statistics.
    pub fn output(&self) -> &O {
        &self.outputs.1
    }

    /// The text of a path that this pipeline knows, as in [`Interner::resolve`].
    pub fn path(&self, path: PathId) -> Option<&Arc<str>> {
        self.interner.resolve(path)
    }

    /// The counts about records and connections.
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// The number of open connections, by how much of them is seen. O(connections).
    pub fn connections(&self) -> Connections {
        let mut connections = Connections::default();
        self.states().for_each(|state| connections.add(state));
        connections
    }

    /// The connections of each process that has not exited, by its pid. O(connections + processes).
    pub fn connections_by_process(&self) -> FxHashMap<u32, OfProcess> {
        let mut of = self.ended_of.clone();
        for watched in self.connections.values() {
            let counted = of.entry(watched.user).or_default().of(watched.is_tls, watched.carried());
            counted.open.add(watched.connection.state());
            counted.tie(watched.tie);
        }
        let mut by_pid: FxHashMap<u32, OfProcess> = FxHashMap::default();
        for (process, counts) in of {
            let running = self.processes.process(process).filter(|of| of.exited_ns.is_none());
            if let Some(process) = running.filter(|process| process.pid != 0) {
                *by_pid.entry(process.pid).or_default() += counts;
            }
        }
        by_pid
    }

    /// The number of open calls that are counted. O(connections).
    pub fn open_streams(&self) -> u64 {
        self.states().map(|state| state.open).sum()
    }

    /// The number of streams so far, by what became of them. O(connections).
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
