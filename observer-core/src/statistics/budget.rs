//! How many series there may be.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use crate::{
    call::{CallKey, Role},
    names::{PathId, Share},
    process::ProcessId,
};

/// Bits of a [`SeriesId`](crate::call::SeriesId) that say the slot; those above say the generation.
pub(super) const SLOT_BITS: u32 = 20;

/// One per role for [`ProcessId::OTHER`], which always finds room.
const RESERVED_SLOTS: usize = 2;

/// Bounds on what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bound on the methods of one process in one role; calls of further ones count as [`PathId::OTHER`].
    pub max_methods: usize,
    /// Bound on the series of all processes, at most [`Limits::MAX_SERIES`]; calls beyond them, or beyond the share that
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
        Self { max_methods: 1_000, max_series: 10_000 }
    }
}

/// The series of all statistics that [share](super::Statistics::sharing) the bounds.
#[derive(Debug)]
pub(super) struct SeriesBudget {
    /// Each series with the number of statistics that have it, and its owner.
    holders: FxHashMap<CallKey, (u32, ProcessId)>,
    /// The shares of processes, by their first ids: one that takes many names has one share.
    pub(super) share: Share<ProcessId>,
    /// How many methods of a process count towards [`Limits::max_methods`].
    methods: FxHashMap<(ProcessId, Role), usize>,
}

impl SeriesBudget {
    pub(super) fn new(limits: Limits) -> Self {
        let share = Share::of(limits.max_series);
        Self { holders: FxHashMap::default(), share, methods: FxHashMap::default() }
    }

    /// Takes room for a series, if there is room, or if other statistics have the series.
    pub(super) fn admit(&mut self, key: CallKey, owner: ProcessId, limits: Limits) -> bool {
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

    pub(super) fn take(&mut self, key: CallKey, owner: ProcessId) {
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

    pub(super) fn give_back(&mut self, key: CallKey) {
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

/// Whether it counts towards [`Limits::max_methods`].
pub(super) fn is_method(path: PathId) -> bool {
    path != PathId::NOT_SEEN && path != PathId::OTHER
}
