//! From records to statistics: the whole user side between the ring and the scrape.
//!
//! No I/O and no clock of its own, so that a simulator can drive it: [`Pipeline::handle`] for each
//! record, [`Pipeline::tick`] about once a second, [`Pipeline::snapshot`] for a scrape.
//!
//! [`Pipeline::split`] makes several of one, for as many rings: each has the records of its own
//! connections, and those of all processes. Ids of paths and processes mean the same to all of them,
//! and bounds hold for all together, so that their snapshots add up ([`Snapshot::merge`]).

#![forbid(unsafe_code)]

mod outputs;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustc_hash::FxHashMap;

use self::outputs::Outputs;

use observer_core::{
    call::{CallKey, CallSink, Coverage, Direction, Ended, Role, SeriesId},
    ends::{Call, Waiting},
    names::{Interner, Texts},
    protocol::{Moment, Protocol as _, State, Streams, http2::Connection},
    record::{Bytes, Closed, Event, Item, Open, Peer, Record},
};

use crate::{
    failures::{self, Failures},
    metrics::{
        Connections, Daemon, ExpositionConfig, Gap, PathNames, Snapshot, Statistics, Unmeasured,
    },
    output::Names,
    process::{Asker, Comm, ProcessId, ProcessSource, Processes, Seen},
    source::Source,
};

/// Distinct paths that are remembered, of all processes together. Each takes at most 512 bytes.
const MAX_PATHS: usize = 16_384;

/// Least time between looks for paths that nothing has any more, in ns: it goes through all there is.
const PATHS_PERIOD_NS: u64 = 10_000_000_000;

/// Processes that are remembered, each as often as it has names.
const MAX_PROCESSES: usize = 16_384;

/// Memory of all workers together for what connections hold beside their own: open calls, header tables, header blocks of
/// which the rest is to come. Where a connection takes more than its share (`fair_share`) while all
/// together take more than this, what it holds is given up.
pub const MAX_MEMORY: usize = 96 << 20;

/// What a connection may always hold while there are not so many that it would be too much for all of them:
/// two header tables of the usual size, and some hundred calls.
pub const FAIR_SHARE: usize = 40 << 10;

/// Processes whose time to live is over, each with the one that goes on with its series, if there is
/// one.
pub type Expired = Arc<[(ProcessId, Option<ProcessId>)]>;

/// All state of the user side.
#[derive(Debug)]
pub struct Pipeline<S> {
    /// Boxed, as a table has up to twice the room that it needs, and three times as it grows.
    connections: FxHashMap<u64, Box<Watched>>,
    /// What they hold, added up.
    memory: usize,
    /// This pipeline's share of [`MAX_MEMORY`].
    max_memory: usize,
    interner: Interner,
    /// When paths that nothing had any more were last looked for.
    paths_ns: u64,
    /// As in [`Moment`].
    stall_free_since_ns: u64,
    processes: Processes<S>,
    outputs: Outputs,
    figures: Figures,
    series_ttl: Duration,
    exposition: Arc<ExpositionConfig>,
    waiting: Waiting,
    /// Calls that ended in the record that is being read.
    ended: Vec<Call>,
    /// There is not the memory for anything new, as of all that are [split](Self::split).
    stopped: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Watched {
    connection: Connection,
    /// As in [`Open`].
    pair: u64,
    peer: Option<Peer>,
    /// The process that the connection is counted for, and as which end, once a call was seen on it:
    /// whatever its name is by then.
    counted_for: Option<(ProcessId, Role)>,
}

/// What is counted on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Records read.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of watched streams whose record did not come.
    pub bytes_lost: u64,
    /// Header blocks that could not be decoded.
    pub bad_blocks: u64,
    /// References to header table entries that were not seen.
    pub unknown_references: u64,
    /// Connections with at least one gRPC call.
    pub grpc_connections: u64,
    /// Streams, of connections that have ended, that were not measured.
    pub unmeasured: Unmeasured,
    /// Records that are none.
    pub malformed: u64,
    /// How often what a connection held was given up: too much memory.
    pub forgotten: u64,
    /// Records of connections that were not followed: there was not the memory for another one.
    pub not_followed: u64,
}

impl<S: ProcessSource> Pipeline<S> {
    /// Nothing seen yet. `source` names processes whose records have no name.
    pub fn new(statistics: Statistics, source: S, series_ttl: Duration) -> Self {
        Self {
            connections: FxHashMap::default(),
            memory: 0,
            max_memory: MAX_MEMORY,
            interner: Interner::new(MAX_PATHS),
            paths_ns: 0,
            stall_free_since_ns: u64::MAX,
            processes: Processes::new(MAX_PROCESSES, source),
            outputs: Outputs { statistics, failures: None },
            figures: Figures::default(),
            series_ttl,
            exposition: Arc::default(),
            waiting: Waiting::default(),
            ended: Vec::new(),
            stopped: Arc::default(),
        }
    }

    /// As many pipelines as that: this one, and others without a state. Only the first is to be
    /// [ticked](Self::tick); the others [follow](Self::follow) it.
    pub fn split(mut self, count: usize) -> Vec<Self>
    where
        S: Clone,
    {
        self.max_memory /= count.max(1);
        let others: Vec<Self> = (1..count).map(|_| self.another()).collect();
        std::iter::once(self).chain(others).collect()
    }

    fn another(&self) -> Self
    where
        S: Clone,
    {
        // Taken apart so that what is new is shared or not, and not forgotten.
        let Self {
            connections: _,
            memory: _,
            max_memory,
            interner,
            paths_ns: _,
            stall_free_since_ns,
            processes,
            outputs,
            figures: _,
            series_ttl,
            exposition,
            waiting,
            ended: _,
            stopped,
        } = self;
        let mut interner = interner.sharing();
        if outputs.failures.is_some() {
            interner.texts = Texts::new(failures::MAX_TEXTS);
        }
        Self {
            connections: FxHashMap::default(),
            memory: 0,
            max_memory: *max_memory,
            interner,
            paths_ns: 0,
            stall_free_since_ns: *stall_free_since_ns,
            processes: processes.sharing(),
            outputs: outputs.sharing(),
            figures: Figures::default(),
            series_ttl: *series_ttl,
            exposition: Arc::clone(exposition),
            waiting: waiting.sharing(),
            ended: Vec::new(),
            stopped: Arc::clone(stopped),
        }
    }

    /// With other names than the default ones.
    #[must_use]
    pub fn with_exposition(mut self, exposition: ExpositionConfig) -> Self {
        self.exposition = Arc::new(exposition);
        self
    }

    /// With a line for each call that failed.
    #[must_use]
    pub fn with_failure_log(mut self, failures: Failures) -> Self {
        self.interner.texts = Texts::new(failures::MAX_TEXTS);
        self.outputs.failures = Some(failures);
        self
    }

    /// What asks the source who processes are: to be [run](Asker::run) on a thread of its own.
    pub fn asker(&mut self) -> Asker<S>
    where
        S: Clone,
    {
        self.processes.asker()
    }

    /// Nothing new is taken from now on, by none of those that are [split](Self::split), or some may be
    /// again: no series, path, process or connection, and no connection holds more than its share.
    pub fn stop(&mut self, stopped: bool) {
        self.stopped.store(stopped, Ordering::Relaxed);
        self.outputs.statistics.stop(stopped);
        self.interner.stop(stopped);
        self.processes.stop(stopped);
    }

    /// Since then threads that could run have run, until now. So long as that is not known, little is said of
    /// why calls were given up.
    pub fn set_stall_free_since(&mut self, ns: u64) {
        self.stall_free_since_ns = ns;
    }

    /// Takes the records that there are, at most `limit`, and says how many these were.
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
        self.outputs.statistics.set_time(record.time_ns);
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
        let Seen { id: process, first } = self.processes.seen_as(record.pid, record.time_ns, comm);
        self.interner.set_owner(first.0);
        self.outputs.statistics.set_owner(first);
        let (most, open_connections) = (self.max_memory, self.connections.len());
        let max_memory = if stopped { 0 } else { most };
        let watched = self.connections.entry(record.connection).or_insert_with(|| {
            Box::new(Watched {
                connection: match (open, bytes.role) {
                    (Some(Open { joined: false, .. }), Some(role)) => Connection::from_start(role),
                    (_, role) => Connection::joined_late(role),
                },
                pair: 0,
                peer: None,
                counted_for: None,
            })
        });
        watched.peer = watched.peer.or(open.map(|open| open.peer));
        if let Some(pair) =
            open.map(|open| open.pair).filter(|&pair| pair != 0 && watched.pair == 0)
        {
            watched.pair = pair;
            if bytes.role == Some(Role::Client) {
                self.waiting.ends().begins(pair);
            }
        }
        let at = Moment {
            time_ns: record.time_ns,
            process,
            stall_free_since_ns: if bytes.late { u64::MAX } else { self.stall_free_since_ns },
        };
        let Self { interner, outputs, figures, memory, waiting, ended, .. } = self;
        let statistics = &mut outputs.statistics;
        let Watched { pair, peer, .. } = **watched;
        let time_ns = record.time_ns;
        let sink = &mut Sink { time_ns, pair, peer, statistics, waiting, ended };
        *memory -= watched.connection.memory();
        let faults = watched.connection.bytes(at, bytes, interner, sink);
        let held = watched.connection.memory();
        if *memory + held > max_memory && held > fair_share(most, open_connections) {
            watched.connection.forget(record.time_ns, sink);
            figures.forgotten += 1;
        }
        *memory += watched.connection.memory();
        figures.bytes_lost = figures.bytes_lost.saturating_add(faults.records_lost);
        figures.bad_blocks += faults.blocks;
        figures.unknown_references += faults.unknown_references;
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
        // Not a sight of the process: the kernel closes the sockets of one that has exited.
        let Self { outputs: Outputs { statistics, .. }, waiting, ended, .. } = self;
        let Watched { pair, peer, .. } = *watched;
        let time_ns = record.time_ns;
        let sink = &mut Sink { time_ns, pair, peer, statistics, waiting, ended };
        watched.connection.closed(record.time_ns, closed, self.stall_free_since_ns, sink);
        add_unmeasured(&mut self.figures.unmeasured, watched.connection.state().streams);
        if let Some((process, role)) = watched.counted_for {
            self.outputs.statistics.connection_closed(process, role);
        }
        self.publish_ended();
    }

    /// Tells of calls for which what the other end says had to be waited for: to be called when all records
    /// have been taken that there are.
    pub fn settle(&mut self, now_ns: u64) {
        self.ended.extend(self.waiting.settled(now_ns));
        self.publish_ended();
    }

    /// Gives the calls that have ended to all outputs.
    fn publish_ended(&mut self) {
        let Self { outputs, interner, processes, ended, .. } = self;
        for call in ended.drain(..) {
            outputs.call(&call, &Names { interner, processes });
        }
    }

    /// Looks for processes whose exit or new name was not told: its record may not have come.
    pub fn find_unreported(&mut self) {
        self.processes.find_unreported();
    }

    /// Drops the series of processes that exited long enough ago, ends the calls that have probably
    /// ended unseen, and forgets paths that nothing has any more. Answers which processes these are, for
    /// the others of a [split](Self::split): they are to follow before their next snapshot.
    pub fn tick(&mut self, now_ns: u64) -> Expired {
        let ttl_ns = u64::try_from(self.series_ttl.as_nanos()).unwrap_or(u64::MAX);
        let expired = self.processes.expired(now_ns, ttl_ns);
        let expired: Expired = self.processes.successors(expired, &self.exposition.labels).into();
        self.follow(now_ns, &expired);
        for (process, _) in expired.iter() {
            self.processes.forget(*process);
        }
        expired
    }

    /// As [`tick`](Self::tick), but for which processes have expired.
    pub fn follow(&mut self, now_ns: u64, expired: &[(ProcessId, Option<ProcessId>)]) {
        self.outputs.tick(now_ns);
        for watched in self.connections.values_mut() {
            // Nobody saw how these ended: they are no failures.
            watched.connection.expire(now_ns, &mut self.outputs.statistics);
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
        let Self { interner, outputs: Outputs { statistics, .. }, connections, .. } = self;
        let of_connections = connections.values().flat_map(|watched| watched.connection.paths());
        interner.retain(statistics.paths().chain(of_connections));
        let known = interner.given_out();
        statistics.forget_types(|path| known.contains(&path));
    }

    /// What was counted on the way.
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// Streams so far that are counted nowhere else.
    pub fn unmeasured(&self) -> Unmeasured {
        let mut unmeasured = self.figures.unmeasured;
        for watched in self.connections.values() {
            add_unmeasured(&mut unmeasured, watched.connection.state().streams);
        }
        unmeasured
    }

    /// A copy of what a scrape needs; `daemon` is completed with what is known here. What types methods
    /// were declared with is not.
    pub fn snapshot(&self, mut daemon: Daemon) -> Snapshot {
        let Figures { records, bytes, bad_blocks, unknown_references, grpc_connections, .. } =
            self.figures;
        daemon.records = records;
        daemon.ring_bytes = bytes;
        daemon.hpack_errors = bad_blocks;
        daemon.hpack_unknown_references = unknown_references;
        daemon.connections_seen.grpc = grpc_connections;
        // The kernel programs count a connection with its preface, before its first call.
        daemon.connections_seen.http2 =
            daemon.connections_seen.http2.saturating_sub(grpc_connections);
        daemon.unmeasured = self.unmeasured();
        daemon.log_errors_dropped = self.outputs.failures.as_ref().map(Failures::dropped);
        daemon.processes_overflow = self.processes.overflow();
        daemon.lookups = self.processes.lookups();
        let events = self.figures.forgotten + self.figures.not_followed;
        daemon.gaps.push(Gap { cause: "memory_limit", events, bytes: 0 });
        daemon.connections = self.connections_by_state();
        daemon.streams =
            self.connections.values().map(|watched| watched.connection.state().open).sum();
        let resolve = |path| self.interner.resolve(path).cloned();
        Snapshot {
            paths: Arc::new(PathNames::of(&self.outputs.statistics, resolve)),
            statistics: Arc::new(self.outputs.statistics.clone()),
            descriptors: Arc::default(),
            processes: Arc::new(self.processes.names()),
            daemon: Arc::new(daemon),
            exposition: Arc::clone(&self.exposition),
        }
    }

    fn connections_by_state(&self) -> Connections {
        let mut by_state = Connections::default();
        for watched in self.connections.values() {
            let Connections { complete, joined_late, gaps, undecodable } = &mut by_state;
            let State { coverage, is_in_gap, .. } = watched.connection.state();
            *match coverage {
                _ if is_in_gap => undecodable,
                Coverage::Complete => complete,
                Coverage::JoinedLate => joined_late,
                Coverage::Gaps => gaps,
            } += 1;
        }
        by_state
    }
}

/// What each of so many connections may hold, whatever all hold together: [`FAIR_SHARE`], but not more for all
/// of them than half of the bound.
fn fair_share(max_memory: usize, connections: usize) -> usize {
    FAIR_SHARE.min(max_memory / 2 / connections.max(1))
}

fn add_unmeasured(to: &mut Unmeasured, streams: Streams) {
    let Unmeasured { not_grpc, unclear, unconfirmed, too_many } = to;
    *not_grpc += streams.not_grpc;
    *unconfirmed += streams.unconfirmed;
    *unclear += streams.unclear;
    *too_many += streams.too_many;
}

/// Adds up what happens to calls, and keeps those that have ended.
struct Sink<'a> {
    time_ns: u64,
    /// The connection's.
    pair: u64,
    peer: Option<Peer>,
    statistics: &'a mut Statistics,
    waiting: &'a mut Waiting,
    ended: &'a mut Vec<Call>,
}

impl CallSink for Sink<'_> {
    fn started(&mut self, key: CallKey) -> SeriesId {
        self.statistics.started(key)
    }

    fn joined(&mut self, key: CallKey) -> SeriesId {
        self.statistics.joined(key)
    }

    fn messages(&mut self, series: SeriesId, direction: Direction, count: u64, bytes: u64) {
        self.statistics.messages(series, direction, count, bytes);
    }

    fn second_message(&mut self, series: SeriesId, direction: Direction) {
        self.statistics.second_message(series, direction);
    }

    fn after_last_message(
        &mut self,
        series: SeriesId,
        direction: Direction,
        count: u64,
        elapsed_ns: u64,
    ) {
        self.statistics.after_last_message(series, direction, count, elapsed_ns);
    }

    fn first_message(&mut self, series: SeriesId, elapsed_ns: u64) {
        self.statistics.first_message(series, elapsed_ns);
    }

    fn ended(&mut self, series: SeriesId, ended: Ended) {
        let Self { time_ns, pair, peer, .. } = *self;
        let call = Call { pair, peer, time_ns, series, ended };
        self.ended.extend(self.waiting.ended(call));
    }
}

#[cfg(test)]
mod tests;
