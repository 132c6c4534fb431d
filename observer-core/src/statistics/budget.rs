//! Bounds on the number of series.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use super::slots::Slots;
use crate::{
    call::{CallKey, CallProtocol, Role},
    names::{PathId, Share},
    process::ProcessId,
};

/// Bounds on the number of series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The bound on the methods of one process on one side. Calls of further methods count as [`PathId::OTHER`].
    pub max_methods: usize,
    /// The bound on the series of all processes, at most [`Limits::MAX_SERIES`].
    ///
    /// Calls beyond it, or beyond the share that one process may have, count as [`PathId::OTHER`] of their process. If
    /// there is no room for that either, they count as [`PathId::OTHER`] of [`ProcessId::OTHER`]. A series takes about
    /// 0.7 kB with the default buckets; docs/scale.md has more.
    pub max_series: usize,
}

impl Limits {
    /// The largest bound on series.
    pub const MAX_SERIES: usize = Slots::MAX;
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_methods: 1_000, max_series: 10_000 }
    }
}

/// The series of all statistics that [share](super::Statistics::sharing) the bounds.
#[derive(Debug)]
pub(super) struct SeriesBudget {
    /// Each series with the number of statistics that have it, and its owner.
    holders: FxHashMap<CallKey, (u32, ProcessId)>,
    /// The shares of processes, by their first ids: a process that takes many names has one share.
    pub(super) share: Share<ProcessId>,
    /// The number of methods of a process that count for [`Limits::max_methods`].
    methods: FxHashMap<(CallProtocol, ProcessId, Role), usize>,
}

impl SeriesBudget {
    pub(super) fn new(limits: Limits) -> Self {
        let share = Share::of(limits.max_series);
        Self { holders: FxHashMap::default(), share, methods: FxHashMap::default() }
    }

    /// Takes room for a series, if there is room or other statistics have the series. Returns whether it did.
    pub(super) fn admit(&mut self, key: CallKey, owner: ProcessId, limits: Limits) -> bool {
        let methods = self.methods.get(&owner_of(key)).copied().unwrap_or(0);
        // A process has at most two other series of each protocol on each side: the rest of its methods, and those not seen.
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

    /// Whether a process may have another's series: it has no more than its bound of methods, so that one which many
    /// processes leave their methods to does not get ever more.
    pub(super) fn may_inherit(&self, key: CallKey, limits: Limits) -> bool {
        let methods = self.methods.get(&owner_of(key)).copied().unwrap_or(0);
        !is_method(key.path) || methods < limits.max_methods || self.holders.contains_key(&key)
    }

    /// Takes room for a series, without a bound.
    pub(super) fn take(&mut self, key: CallKey, owner: ProcessId) {
        let (holders, owner) = self.holders.entry(key).or_insert((0, owner));
        *holders += 1;
        if *holders > 1 {
            return;
        }
        self.share.take(*owner);
        if is_method(key.path) {
            *self.methods.entry(owner_of(key)).or_default() += 1;
        }
    }

    /// Gives back the room of a series, once no statistics have it any more.
    pub(super) fn give_back(&mut self, key: CallKey) {
        let Some((holders, owner)) = self.holders.get_mut(&key) else { return };
        *holders -= 1;
        if *holders > 0 {
            return;
        }
        self.share.give_back(*owner);
        self.holders.remove(&key);
        if is_method(key.path)
            && let Entry::Occupied(mut methods) = self.methods.entry(owner_of(key))
        {
            *methods.get_mut() -= 1;
            if *methods.get() == 0 {
                methods.remove();
            }
        }
    }
}

/// What the bound on methods is for.
fn owner_of(key: CallKey) -> (CallProtocol, ProcessId, Role) {
    (key.protocol, key.process, key.role)
}

/// Whether the path is a single method, which counts for [`Limits::max_methods`].
pub(super) fn is_method(path: PathId) -> bool {
    path != PathId::NOT_SEEN && path != PathId::OTHER
}
