//! The calls of the last minutes by second, kept here so that a daemon need not keep them.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::metrics::view::{Counts, Model, Row};
use observer_core::call::Role;

/// The number of seconds in a history.
pub(super) const SECONDS: usize = 120;

/// The key of a row: an owned [`Row::key`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    role: Role,
    service: String,
    method: String,
    process: String,
    pid: u32,
}

impl Key {
    pub(super) fn of(row: &Row) -> Self {
        let (role, service, method, process, pid) = row.key();
        Self {
            role,
            service: service.to_owned(),
            method: method.to_owned(),
            process: process.to_owned(),
            pid,
        }
    }

    pub(super) fn is(&self, row: &Row) -> bool {
        row.key() == (self.role, &self.service, &self.method, &self.process, self.pid)
    }
}

/// The histories of all rows: the seconds with calls, by number.
#[derive(Debug, Default)]
pub(super) struct Histories {
    rows: FxHashMap<Key, VecDeque<(u64, Counts)>>,
    second: u64,
}

impl Histories {
    /// Adds a sample, `seconds` after the previous one.
    pub(super) fn add(&mut self, model: &Model, seconds: u64) {
        self.second += seconds.max(1);
        let mut before = std::mem::take(&mut self.rows);
        for row in &model.rows {
            let key = Key::of(row);
            let mut history = before.remove(&key).unwrap_or_default();
            if row.last.ended > 0 {
                history.push_back((self.second, row.last.clone()));
            }
            let old = |&(second, _): &(u64, Counts)| second + SECONDS as u64 <= self.second;
            while history.front().is_some_and(old) {
                history.pop_front();
            }
            self.rows.insert(key, history);
        }
    }

    /// The seconds with calls, by their age: 0 is the last second.
    pub(super) fn of(&self, row: &Row) -> impl Iterator<Item = (usize, &Counts)> {
        let history = self.rows.get(&Key::of(row)).into_iter().flatten();
        history.map(|(second, counts)| ((self.second - second) as usize, counts))
    }

    /// Calls that ended in each of the last `seconds`, the oldest first.
    pub(super) fn ended(&self, row: &Row, seconds: usize) -> Vec<u64> {
        let mut ended = vec![0; seconds];
        for (ago, counts) in self.of(row) {
            if let Some(at) = seconds.checked_sub(ago + 1).and_then(|at| ended.get_mut(at)) {
                *at = counts.ended;
            }
        }
        ended
    }
}
