//! Statistics of calls: series by process, side and method.
//!
//! [`Statistics`] has a single writer, the worker that owns it, so every figure is a plain integer. A scrape gets a
//! clone from each worker and [merges](Statistics::merge) them. The workers share only the bounds on series, under a
//! lock that a worker takes once for each new series.
//!
//! A call costs one hash lookup, at its start. Then its connection keeps a [`SeriesId`], which finds the series by an
//! index. Processes are dropped while connections may still hold such ids; events that come for them after that are
//! [late](Statistics::late), and are in no series.

mod buckets;
mod budget;
mod edge;
mod exemplar;
mod exponential;
mod grpc_type;
mod histogram;
mod method;
mod recording;
mod seen;
mod series;
mod sink;
mod slots;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

pub use self::{
    buckets::Buckets,
    budget::Limits,
    edge::EdgeSeries,
    exemplar::Exemplar,
    exponential::Exponential,
    grpc_type::GrpcType,
    histogram::Histogram,
    method::Method,
    recording::{Recording, RecordingsDiffer},
    seen::{CallsByCoverage, CallsSeen},
    series::{Messages, Series},
};
use self::{
    budget::{SeriesBudget, is_method},
    grpc_type::{Evidence, Streaming},
    slots::Slots,
};
use crate::{
    call::{CallKey, Role, SeriesId},
    names::PathId,
    process::ProcessId,
};

/// The statistics of one worker, or of several merged.
#[derive(Clone, Debug)]
pub struct Statistics {
    recording: Recording,
    /// The time of the present event, in nanoseconds of the kernel's monotonic clock.
    now_ns: u64,
    /// The process (its first id) whose calls start now.
    owner: ProcessId,
    limits: Limits,
    ids: FxHashMap<CallKey, SeriesId>,
    slots: Slots,
    budget: Arc<Mutex<SeriesBudget>>,
    /// The evidence from dropped series, so that a method's type does not change when a process is dropped. Bounded by
    /// the interner's paths.
    dropped: FxHashMap<PathId, Evidence>,
    /// The types as they were last published, for all statistics that share them. Bounded likewise.
    published: Arc<Mutex<FxHashMap<PathId, Streaming>>>,
    connections: FxHashMap<(ProcessId, Role), u64>,
    calls: CallsByCoverage,
    overflow: u64,
    late: u64,
    excluded: u64,
}

impl Statistics {
    /// Creates statistics without series.
    pub fn new(recording: impl Into<Recording>, limits: Limits) -> Self {
        let max_series = limits.max_series.min(Limits::MAX_SERIES);
        let limits = Limits { max_series, ..limits };
        Self {
            recording: recording.into(),
            now_ns: 0,
            owner: ProcessId::OTHER,
            limits,
            ids: FxHashMap::default(),
            slots: Slots::default(),
            budget: Arc::new(Mutex::new(SeriesBudget::new(limits))),
            dropped: FxHashMap::default(),
            published: Arc::default(),
            connections: FxHashMap::default(),
            calls: CallsByCoverage::default(),
            overflow: 0,
            late: 0,
            excluded: 0,
        }
    }

    /// Creates empty statistics for another worker. The bounds are for the sum of both; a series that both have counts
    /// once.
    #[must_use]
    pub fn sharing(&self) -> Self {
        let budget = Arc::clone(&self.budget);
        let published = Arc::clone(&self.published);
        Self { budget, published, ..Self::new(self.recording.clone(), self.limits) }
    }

    /// The key of a series; `None` if the series was dropped.
    pub fn key(&self, id: SeriesId) -> Option<CallKey> {
        self.slots.get(id).map(|(key, _)| *key)
    }

    /// The bucket bounds of all histograms.
    pub fn buckets(&self) -> &Buckets {
        &self.recording.buckets
    }

    /// Sets the time of the next events, in nanoseconds of the kernel's monotonic clock.
    pub fn set_time(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// Sets the process (its first id) whose calls start from now on. It gets no more series than its share, under all
    /// its names together.
    pub fn set_owner(&mut self, first: ProcessId) {
        self.owner = first;
    }

    /// Stops adding series, or goes on with it.
    pub fn stop(&mut self, stopped: bool) {
        lock(&self.budget).share.stop(stopped);
    }

    /// The number of series.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no series.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// All series with their keys, in no order.
    pub fn series(&self) -> impl Iterator<Item = (CallKey, &Series)> {
        self.slots.iter().map(|(key, series)| (*key, series))
    }

    /// The paths of all series.
    pub fn paths(&self) -> impl Iterator<Item = PathId> {
        self.ids.keys().map(|key| key.path)
    }

    /// Forgets the types of the paths that `is_known` refuses.
    pub fn forget_types(&mut self, is_known: impl Fn(PathId) -> bool) {
        self.dropped.retain(|path, _| is_known(*path));
        lock(&self.published).retain(|path, _| is_known(*path));
    }

    /// The number of open connections per process and side, in no order.
    pub fn connections(&self) -> impl Iterator<Item = (ProcessId, Role, u64)> {
        self.connections.iter().map(|(&(process, role), &count)| (process, role, count))
    }

    /// The number of ended calls, by what was seen of them.
    pub fn calls(&self) -> &CallsByCoverage {
        &self.calls
    }

    /// The number of calls that were counted as [`PathId::OTHER`] because a bound was reached.
    pub fn overflow(&self) -> u64 {
        self.overflow
    }

    /// The number of events of calls whose process had been dropped; they are in no series.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// The number of ended calls of [excluded](PathId::EXCLUDED) methods; they are in no series.
    pub fn excluded(&self) -> u64 {
        self.excluded
    }

    /// The types of the methods that have series, to be published. O(series).
    ///
    /// The wire does not say a type. Requests, or responses, of a method are taken for a stream when enough of its
    /// calls did what only a stream may, over all processes and sides; a single call does not change the type. The
    /// result also depends on the type that was published before.
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
            (path, GrpcType::from(*streaming))
        };
        shown.into_iter().map(type_of).collect()
    }

    /// Records a new connection of the process on this side.
    pub fn connection_opened(&mut self, process: ProcessId, role: Role) {
        *self.connections.entry((process, role)).or_default() += 1;
    }

    /// Records the end of a connection of the process on this side, unless the process was dropped.
    pub fn connection_closed(&mut self, process: ProcessId, role: Role) {
        if let Some(count) = self.connections.get_mut(&(process, role)) {
            *count = count.saturating_sub(1);
        }
    }

    /// Drops the series of a process. O(series).
    ///
    /// Ids that were given out stay safe to use: events for them are counted by [`Statistics::late`].
    pub fn forget_process(&mut self, process: ProcessId) {
        // It does not exit, and its slots are reserved.
        if process == ProcessId::OTHER {
            return;
        }
        let mut budget = lock(&self.budget);
        for (key, id) in self.ids.extract_if(|key, _| key.process == process) {
            if let Some(series) = self.slots.remove(id)
                && is_method(key.path)
            {
                self.dropped.entry(key.path).or_default().merge(&series.evidence);
            }
            budget.give_back(key);
        }
        self.connections.retain(|&(of, _), _| of != process);
    }

    /// Drops a process, and adds its figures to those of a successor whose series have the same labels, so that
    /// counters with these labels do not go back. O(series).
    pub fn merge_into_successor(&mut self, process: ProcessId, successor: ProcessId) {
        let left: Vec<_> = self.ids.extract_if(|key, _| key.process == process).collect();
        for (key, id) in left {
            let mut inherited = CallKey { process: successor, ..key };
            if !lock(&self.budget).may_inherit(inherited, self.limits) {
                inherited.path = PathId::OTHER;
                let calls =
                    self.slots.get(id).map_or(0, |(_, series)| series.started + series.joined);
                self.overflow += calls;
            }
            if let Some(&of_successor) = self.ids.get(&inherited) {
                let series = self.slots.remove(id);
                if let Some((series, (_, to))) = series.zip(self.slots.get_mut(of_successor)) {
                    to.absorb(&series);
                }
            } else {
                // Ids that were given out stay valid.
                if let Some((key, _)) = self.slots.get_mut(id) {
                    *key = inherited;
                }
                self.ids.insert(inherited, id);
                lock(&self.budget).take(inherited, successor);
            }
            lock(&self.budget).give_back(key);
        }
        self.forget_process(process);
    }

    /// Adds the figures of another worker, for a scrape: the sum does not take events of calls any more.
    ///
    /// The bounds on series hold for the sum if the workers [share](Self::sharing) them.
    pub fn merge(&mut self, other: &Self) -> Result<(), RecordingsDiffer> {
        if self.recording != other.recording {
            return Err(RecordingsDiffer);
        }
        // A series that is new here gets the creation time of the one that is added to it.
        self.now_ns = u64::MAX;
        for (key, series) in other.series() {
            let id = self.ids.get(&key).copied();
            let id = id.or_else(|| self.allocate(key)).unwrap_or_else(|| self.shared(key));
            if let Some((_, to)) = self.slots.get_mut(id) {
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
        self.excluded += other.excluded;
        Ok(())
    }

    /// Adds a series, if there is room for it.
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

    /// The series of all processes without room, on the side of this one.
    fn shared(&mut self, key: CallKey) -> SeriesId {
        let key = CallKey { process: ProcessId::OTHER, path: PathId::OTHER, ..key };
        let series = || Series::new(&self.recording, self.now_ns);
        *self.ids.entry(key).or_insert_with(|| self.slots.push(key, series()))
    }

    /// Takes a slot for the series; `None` if all are taken or used up.
    fn allocate(&mut self, key: CallKey) -> Option<SeriesId> {
        let id = self.slots.insert(key, Series::new(&self.recording, self.now_ns))?;
        self.ids.insert(key, id);
        Some(id)
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
