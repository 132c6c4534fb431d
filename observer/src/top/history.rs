//! What the last minutes had, second by second; kept here, so that a daemon need not.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::metrics::view::{Counts, Model, Row};
use observer_core::call::Role;

/// So many seconds.
pub(super) const SECONDS: usize = 120;

/// What tells rows apart: [`Row::key`].
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

/// Calls of the seconds in which there were any, by the number of the second.
#[derive(Debug, Default)]
pub(super) struct Histories {
    rows: FxHashMap<Key, VecDeque<(u64, Counts)>>,
    second: u64,
}

impl Histories {
    /// Takes a sample, so many seconds after the one before.
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

    /// The seconds with calls, by how long ago they were: 0 is the last one.
    pub(super) fn of(&self, row: &Row) -> impl Iterator<Item = (usize, &Counts)> {
        let history = self.rows.get(&Key::of(row)).into_iter().flatten();
        history.map(|(second, counts)| ((self.second - second) as usize, counts))
    }

    /// Calls that ended in each of the last seconds, oldest first.
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
