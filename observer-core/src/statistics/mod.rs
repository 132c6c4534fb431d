//! What the calls add up to.
//!
//! [`Statistics`] has a single writer, the worker that owns it, so that every figure is a plain
//! integer. A scrape gets a clone, and [`Statistics::merge`]s those of several workers. Only which
//! series there are is asked of all of them, once for each: the bounds are for their sum.
//!
//! Per call there is one hash look-up, at its start; then its figures are found by the
//! [`SeriesId`] that the connection keeps. Processes are dropped while connections that once
//! served them may still hold such an id, therefore an id is a slot and a generation: a slot that
//! is used again has another generation, and what comes late for the old one is counted as late
//! and nowhere else. A slot whose generations are used up is not used again.

mod buckets;
mod exemplar;
mod exponential;
mod histogram;
mod method;
mod series;

use std::{
    collections::hash_map::Entry,
    fmt,
    ops::AddAssign,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use self::series::{Evidence, Streaming};
pub use self::{
    buckets::{Buckets, BucketsError},
    exemplar::Exemplar,
    exponential::Exponential,
    histogram::Histogram,
    method::Method,
    series::{Messages, Series},
};
use crate::{
    call::{CallKey, CallSink, Coverage, Direction, Ended, Role, SeriesId},
    names::{PathId, Share},
    process::ProcessId,
};

/// Bits of a [`SeriesId`] that say the slot; those above say the generation.
const SLOT_BITS: u32 = 20;
const LAST_GENERATION: u32 = u32::MAX >> SLOT_BITS;
/// One per role for [`ProcessId::OTHER`], which always finds room.
const RESERVED_SLOTS: usize = 2;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Methods of one process in one role; calls of any further one count as [`PathId::OTHER`].
    pub max_methods: usize,
    /// Series of all processes, at most [`Limits::MAX_SERIES`]; calls beyond them, or beyond the share that
    /// one process may have of them, count as [`PathId::OTHER`] of their process or, when even that is too
    /// many, of [`ProcessId::OTHER`]. A series takes about 0.7 kB with the default buckets; docs/scale.md has
    /// the rest.
    pub max_series: usize,
}

impl Limits {
    /// The most series there can be.
    pub const MAX_SERIES: usize = (1 << SLOT_BITS) - RESERVED_SLOTS;
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_methods: 500, max_series: 10_000 }
    }
}

/// What is kept of the calls of each series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// The bounds of all histograms.
    pub buckets: Buckets,
    /// Every histogram also has exponential buckets, for Prometheus' native histograms.
    pub exponential: bool,
    /// How long calls took is also kept by code.
    pub by_code: bool,
    /// From message to message: how long that took at clients is kept.
    pub between_messages: bool,
}

impl From<Buckets> for Recording {
    fn from(buckets: Buckets) -> Self {
        Self { buckets, ..Self::default() }
    }
}

/// Whether a method's requests and responses are streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GrpcType {
    /// One request message, one response message.
    Unary,
    /// A stream of request messages.
    ClientStream,
    /// A stream of response messages.
    ServerStream,
    /// Both.
    BidiStream,
    /// Not one method: all whose path was not seen, or all beyond a bound.
    Unknown,
}

impl GrpcType {
    /// The spelling of go-grpc-prometheus.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ClientStream => "client_stream",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
            Self::Unknown => "unknown",
        }
    }
}

/// Ended calls by what was seen of them. They outlive the series they were counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallsSeen {
    /// The method and the code.
    pub complete: u64,
    /// The code, but not the method.
    pub no_method: u64,
    /// The method, but not the code.
    pub no_code: u64,
    /// Neither.
    pub nothing: u64,
}

impl AddAssign for CallsSeen {
    fn add_assign(&mut self, other: Self) {
        let Self { complete, no_method, no_code, nothing } = other;
        self.complete += complete;
        self.no_method += no_method;
        self.no_code += no_code;
        self.nothing += nothing;
    }
}

/// Ended calls by what was seen of their connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallsByCoverage([CallsSeen; Coverage::ALL.len()]);

impl CallsByCoverage {
    /// The calls of connections with this coverage.
    pub fn of(&self, coverage: Coverage) -> CallsSeen {
        self.0.get(coverage as usize).copied().unwrap_or_default()
    }

    fn add(&mut self, ended: &Ended, path: PathId) {
        let Some(calls) = self.0.get_mut(ended.coverage as usize) else { return };
        *match (path, ended.code) {
            (PathId::NOT_SEEN, None) => &mut calls.nothing,
            (PathId::NOT_SEEN, Some(_)) => &mut calls.no_method,
            (_, None) => &mut calls.no_code,
            (_, Some(_)) => &mut calls.complete,
        } += 1;
    }

    /// Ended calls whatever was seen of their connection.
    pub fn total(&self) -> CallsSeen {
        let mut total = CallsSeen::default();
        self.0.iter().for_each(|calls| total += *calls);
        total
    }

    fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(to, from)| *to += from);
    }
}

/// The statistics keep different things, so that their histograms do not add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordingsDiffer;

impl fmt::Display for RecordingsDiffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the workers' histograms differ: start all with the same")
    }
}

impl std::error::Error for RecordingsDiffer {}

#[derive(Clone, Debug, Default)]
struct Slot {
    generation: u32,
    taken: Option<(CallKey, Series)>,
}

impl Slot {
    /// Whether the id was given out in its present generation.
    fn is_of(&self, id: SeriesId) -> bool {
        self.generation == id.0 >> SLOT_BITS
    }
}

/// The series of all statistics that [share](Statistics::sharing) the bounds.
#[derive(Debug)]
struct SeriesBudget {
    /// How many statistics have it, and whose it is.
    holders: FxHashMap<CallKey, (u32, ProcessId)>,
    /// By the first ids of processes: one that takes many names has one share.
    share: Share<ProcessId>,
    /// Methods that count towards [`Limits::max_methods`].
    methods: FxHashMap<(ProcessId, Role), usize>,
}

impl SeriesBudget {
    fn new(limits: Limits) -> Self {
        let share = Share::of(limits.max_series);
        Self { holders: FxHashMap::default(), share, methods: FxHashMap::default() }
    }

    /// Takes room for a series, if there is any: there is if others have the series.
    fn admit(&mut self, key: CallKey, owner: ProcessId, limits: Limits) -> bool {
        let methods = self.methods.get(&(key.process, key.role)).copied().unwrap_or(0);
        // What stands for the rest of a process's methods is one in each role.
        let fits = || {
            if is_method(key.path) {
                self.share.admits(owner) && methods < limits.max_methods
            } else {
                self.share.has_room()
            }
        };
        let fits = self.holders.contains_key(&key) || fits();
        if fits {
            self.take(key, owner);
        }
        fits
    }

    fn take(&mut self, key: CallKey, owner: ProcessId) {
        let (holders, owner) = self.holders.entry(key).or_insert((0, owner));
        *holders += 1;
        if *holders > 1 {
            return;
        }
        self.share.take(*owner);
        if is_method(key.path) {
            *self.methods.entry((key.process, key.role)).or_default() += 1;
        }
    }

    fn give_back(&mut self, key: CallKey) {
        let Some((holders, owner)) = self.holders.get_mut(&key) else { return };
        *holders -= 1;
        if *holders > 0 {
            return;
        }
        self.share.give_back(*owner);
        self.holders.remove(&key);
        if is_method(key.path)
            && let Entry::Occupied(mut methods) = self.methods.entry((key.process, key.role))
        {
            *methods.get_mut() -= 1;
            if *methods.get() == 0 {
                methods.remove();
            }
        }
    }
}

/// The statistics of one worker, or of several merged.
#[derive(Clone, Debug)]
pub struct Statistics {
    recording: Recording,
    /// The time of what happens, by the kernel's monotonic clock.
    now_ns: u64,
    /// Whose the calls are that begin, by the first id.
    owner: ProcessId,
    limits: Limits,
    ids: FxHashMap<CallKey, SeriesId>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    budget: Arc<Mutex<SeriesBudget>>,
    /// What calls of series that were dropped had shown of their methods, so that a method's type does
    /// not change when a process is dropped; bounded by the interner's paths.
    dropped: FxHashMap<PathId, Evidence>,
    /// The types as they were last published, of all statistics that share them; likewise bounded.
    published: Arc<Mutex<FxHashMap<PathId, Streaming>>>,
    connections: FxHashMap<(ProcessId, Role), u64>,
    calls: CallsByCoverage,
    overflow: u64,
    late: u64,
}

impl Statistics {
    /// Empty statistics.
    pub fn new(recording: impl Into<Recording>, limits: Limits) -> Self {
        let max_series = limits.max_series.min(Limits::MAX_SERIES);
        let limits = Limits { max_series, ..limits };
        Self {
            recording: recording.into(),
            now_ns: 0,
            owner: ProcessId::OTHER,
            limits,
            ids: FxHashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            budget: Arc::new(Mutex::new(SeriesBudget::new(limits))),
            dropped: FxHashMap::default(),
            published: Arc::default(),
            connections: FxHashMap::default(),
            calls: CallsByCoverage::default(),
            overflow: 0,
            late: 0,
        }
    }

    /// Empty statistics for another worker: the bounds are for the sum of both, in which a series that
    /// both have is one.
    #[must_use]
    pub fn sharing(&self) -> Self {
        let budget = Arc::clone(&self.budget);
        let published = Arc::clone(&self.published);
        Self { budget, published, ..Self::new(self.recording.clone(), self.limits) }
    }

    /// What the calls of a series have in common; `None` when it was dropped.
    pub fn key(&self, id: SeriesId) -> Option<CallKey> {
        let slot = self.slots.get(slot_of(id)).filter(|slot| slot.is_of(id))?;
        slot.taken.as_ref().map(|(key, _)| *key)
    }

    /// The bounds of all histograms.
    pub fn buckets(&self) -> &Buckets {
        &self.recording.buckets
    }

    /// What is told from now on happened at this time of the kernel's monotonic clock.
    pub fn set_time(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// Calls that begin from now on are of the process that had this id first: it gets no more series than
    /// its share, whatever names it takes.
    pub fn set_owner(&mut self, first: ProcessId) {
        self.owner = first;
    }

    /// No series is added from now on, or some may be again.
    pub fn stop(&mut self, stopped: bool) {
        lock(&self.budget).share.stop(stopped);
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// All series, in no order.
    pub fn series(&self) -> impl Iterator<Item = (CallKey, &Series)> {
        self.slots.iter().filter_map(|slot| slot.taken.as_ref().map(|(key, series)| (*key, series)))
    }

    /// The paths of all series.
    pub fn paths(&self) -> impl Iterator<Item = PathId> {
        self.ids.keys().map(|key| key.path)
    }

    /// Forgets the types of paths that are not known any more.
    pub fn forget_types(&mut self, is_known: impl Fn(PathId) -> bool) {
        self.dropped.retain(|path, _| is_known(*path));
        lock(&self.published).retain(|path, _| is_known(*path));
    }

    /// Open connections per process and role, in no order.
    pub fn connections(&self) -> impl Iterator<Item = (ProcessId, Role, u64)> {
        self.connections.iter().map(|(&(process, role), &count)| (process, role, count))
    }

    /// Ended calls by what was seen of them.
    pub fn calls(&self) -> &CallsByCoverage {
        &self.calls
    }

    /// Calls that were counted as [`PathId::OTHER`] because a bound was reached.
    pub fn overflow(&self) -> u64 {
        self.overflow
    }

    /// Events of calls whose process had been dropped; they are in no series.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// The types of the methods that have series, to be published: from what the calls of all processes
    /// and roles have shown by now, and from what was published before. O(series).
    ///
    /// Nothing on the wire says a type. Either side of a method is taken for a stream when enough of its
    /// calls did what only a stream may, so that no single one makes a method another:
    /// [`Shown::is_stream`](super::series::Shown) has the shares.
    pub fn types(&self) -> FxHashMap<PathId, GrpcType> {
        let mut shown: FxHashMap<PathId, Evidence> = FxHashMap::default();
        for (key, series) in self.series() {
            let of_dropped = || self.dropped.get(&key.path).copied().unwrap_or_default();
            shown.entry(key.path).or_insert_with(of_dropped).merge(&series.evidence);
        }
        let mut published = lock(&self.published);
        let type_of = |(path, evidence): (PathId, Evidence)| {
            if !is_method(path) {
                return (path, GrpcType::Unknown);
            }
            let streaming = published.entry(path).or_default();
            *streaming = evidence.streaming(*streaming);
            let grpc_type = match *streaming {
                Streaming { requests: false, responses: false } => GrpcType::Unary,
                Streaming { requests: true, responses: false } => GrpcType::ClientStream,
                Streaming { requests: false, responses: true } => GrpcType::ServerStream,
                Streaming { requests: true, responses: true } => GrpcType::BidiStream,
            };
            (path, grpc_type)
        };
        shown.into_iter().map(type_of).collect()
    }

    /// The process has one connection more in this role.
    pub fn connection_opened(&mut self, process: ProcessId, role: Role) {
        *self.connections.entry((process, role)).or_default() += 1;
    }

    /// The process has one connection less in this role; nothing when it was dropped meanwhile.
    pub fn connection_closed(&mut self, process: ProcessId, role: Role) {
        if let Some(count) = self.connections.get_mut(&(process, role)) {
            *count = count.saturating_sub(1);
        }
    }

    /// Drops the series of a process. O(series). Ids that were given out stay safe to use: what
    /// comes for them is counted by [`Statistics::late`].
    pub fn forget_process(&mut self, process: ProcessId) {
        // It has no exit, and its slots are reserved.
        if process == ProcessId::OTHER {
            return;
        }
        let Self { ids, slots, free, budget, dropped, .. } = self;
        let mut budget = lock(budget);
        ids.retain(|key, id| {
            if key.process != process {
                return true;
            }
            if let Some(series) = vacate(slots, free, *id)
                && is_method(key.path)
            {
                dropped.entry(key.path).or_default().merge(&series.evidence);
            }
            budget.give_back(*key);
            false
        });
        self.connections.retain(|&(of, _), _| of != process);
    }

    /// Drops a process whose series have the same labels as those of another, which goes on with its
    /// figures: what is told by these labels does not go back. O(series).
    pub fn merge_into_successor(&mut self, process: ProcessId, successor: ProcessId) {
        let left: Vec<_> = self.ids.iter().filter(|(key, _)| key.process == process).collect();
        let left: Vec<_> = left.into_iter().map(|(&key, &id)| (key, id)).collect();
        for (key, id) in left {
            let inherited = CallKey { process: successor, ..key };
            if let Some(&of_successor) = self.ids.get(&inherited) {
                let Some(series) = vacate(&mut self.slots, &mut self.free, id) else { continue };
                if let Some((_, to)) = taken(&mut self.slots, of_successor) {
                    to.absorb(&series);
                }
            } else {
                // Ids that were given out go on to be good.
                if let Some((key, _)) = taken(&mut self.slots, id) {
                    *key = inherited;
                }
                self.ids.insert(inherited, id);
                lock(&self.budget).take(inherited, successor);
            }
            self.ids.remove(&key);
            lock(&self.budget).give_back(key);
        }
        self.forget_process(process);
    }

    /// Adds the figures of another worker, for a scrape: no call is to be told to the sum. The bounds on
    /// series hold for it where the workers [share](Self::sharing) them.
    pub fn merge(&mut self, other: &Self) -> Result<(), RecordingsDiffer> {
        if self.recording != other.recording {
            return Err(RecordingsDiffer);
        }
        // A series that is new here begins when that which is added to it did.
        self.now_ns = u64::MAX;
        for (key, series) in other.series() {
            let id = self.ids.get(&key).copied();
            let id = id.or_else(|| self.allocate(key)).unwrap_or_else(|| self.shared(key.role));
            if let Some((_, to)) = taken(&mut self.slots, id) {
                to.merge(series);
            }
        }
        for (&path, evidence) in &other.dropped {
            self.dropped.entry(path).or_default().merge(evidence);
        }
        for (&key, count) in &other.connections {
            *self.connections.entry(key).or_default() += count;
        }
        self.calls.merge(&other.calls);
        self.overflow += other.overflow;
        self.late += other.late;
        Ok(())
    }

    /// The series of a call that begins.
    fn find(&mut self, key: CallKey) -> SeriesId {
        let id = match self.ids.get(&key) {
            Some(&id) => id,
            None => self.add(key),
        };
        if self.key(id).is_some_and(|key| key.path == PathId::OTHER) {
            self.overflow += 1;
        }
        id
    }

    /// A new series if there is room for it, else one of those that stand for the rest.
    #[cold]
    fn add(&mut self, key: CallKey) -> SeriesId {
        let other = CallKey { path: PathId::OTHER, ..key };
        if let Some(id) = self.admit(key) {
            return id;
        }
        if let Some(&id) = self.ids.get(&other) {
            return id;
        }
        self.admit(other).unwrap_or_else(|| self.shared(key.role))
    }

    /// A new series, if there is room for it.
    fn admit(&mut self, key: CallKey) -> Option<SeriesId> {
        if !lock(&self.budget).admit(key, self.owner, self.limits) {
            return None;
        }
        let id = self.allocate(key);
        if id.is_none() {
            lock(&self.budget).give_back(key);
        }
        id
    }

    /// The series of all that found no room elsewhere.
    fn shared(&mut self, role: Role) -> SeriesId {
        let key = CallKey { process: ProcessId::OTHER, role, path: PathId::OTHER };
        match self.ids.get(&key) {
            Some(&id) => id,
            None => self.push(key),
        }
    }

    /// A slot for the series: a free one, else a new one; `None` when all are taken or used up.
    fn allocate(&mut self, key: CallKey) -> Option<SeriesId> {
        let series = Series::new(&self.recording, self.now_ns);
        if let Some(index) = self.free.pop() {
            let slot = self.slots.get_mut(index as usize)?;
            slot.taken = Some((key, series));
            let id = SeriesId(slot.generation << SLOT_BITS | index);
            self.ids.insert(key, id);
            return Some(id);
        }
        (self.slots.len() < Limits::MAX_SERIES).then(|| self.push(key))
    }

    fn push(&mut self, key: CallKey) -> SeriesId {
        let id = SeriesId(self.slots.len() as u32);
        let series = Series::new(&self.recording, self.now_ns);
        self.slots.push(Slot { generation: 0, taken: Some((key, series)) });
        self.ids.insert(key, id);
        id
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether it counts towards [`Limits::max_methods`].
fn is_method(path: PathId) -> bool {
    path != PathId::NOT_SEEN && path != PathId::OTHER
}

/// Takes what is in a slot out of it; what still comes for it is late.
fn vacate(slots: &mut [Slot], free: &mut Vec<u32>, id: SeriesId) -> Option<Series> {
    let index = slot_of(id);
    let slot = slots.get_mut(index)?;
    if slot.generation < LAST_GENERATION {
        slot.generation += 1;
        free.push(index as u32);
    }
    slot.taken.take().map(|(_, series)| series)
}

fn slot_of(id: SeriesId) -> usize {
    (id.0 & ((1 << SLOT_BITS) - 1)) as usize
}

/// The series behind an id, unless its process was dropped.
fn taken(slots: &mut [Slot], id: SeriesId) -> Option<&mut (CallKey, Series)> {
    slots.get_mut(slot_of(id)).filter(|slot| slot.is_of(id))?.taken.as_mut()
}

impl CallSink for Statistics {
    fn started(&mut self, key: CallKey) -> SeriesId {
        let id = self.find(key);
        if let Some((_, series)) = taken(&mut self.slots, id) {
            series.started += 1;
        }
        id
    }

    fn joined(&mut self, key: CallKey) -> SeriesId {
        let id = self.find(key);
        if let Some((_, series)) = taken(&mut self.slots, id) {
            series.joined += 1;
        }
        id
    }

    fn messages(&mut self, series: SeriesId, direction: Direction, count: u64, bytes: u64) {
        match taken(&mut self.slots, series) {
            Some((_, series)) => series.add_messages(direction, count, bytes),
            None => self.late += 1,
        }
    }

    fn second_message(&mut self, series: SeriesId, direction: Direction) {
        // Late messages are counted where they are.
        if let Some((key, series)) = taken(&mut self.slots, series) {
            series.evidence.add_second_message(key.role, direction);
        }
    }

    fn after_last_message(
        &mut self,
        series: SeriesId,
        direction: Direction,
        count: u64,
        elapsed_ns: u64,
    ) {
        match taken(&mut self.slots, series) {
            Some((_, series)) => {
                series.add_between_messages(&self.recording, direction, count, elapsed_ns);
            }
            None => self.late += 1,
        }
    }

    fn first_message(&mut self, series: SeriesId, elapsed_ns: u64) {
        match taken(&mut self.slots, series) {
            Some((_, series)) => series.add_first_message(&self.recording, elapsed_ns),
            None => self.late += 1,
        }
    }

    fn ended(&mut self, series: SeriesId, ended: Ended) {
        let Some((key, series)) = taken(&mut self.slots, series) else {
            self.late += 1;
            return;
        };
        let path = key.path;
        series.add_end(&self.recording, self.now_ns, &ended);
        self.calls.add(&ended, path);
    }
}

#[cfg(test)]
mod tests;
