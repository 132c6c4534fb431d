//! Events of calls, counted in their series.

use super::Statistics;
use crate::{
    call::{CallKey, CallSink, Direction, Ended, ExportedSpan, SeriesId},
    names::PathId,
};

impl Statistics {
    /// Finds the series of a call that starts.
    fn find(&mut self, key: CallKey) -> SeriesId {
        if key.path == PathId::EXCLUDED {
            return SeriesId::EXCLUDED;
        }
        let id = match self.ids.get(&key) {
            Some(&id) => id,
            None => self.add(key),
        };
        if self.key(id).is_some_and(|key| key.path == PathId::OTHER) {
            self.overflow += 1;
        }
        id
    }

    /// Adds a series, if there is room for it; otherwise finds the one for calls beyond the bound.
    #[cold]
    pub(super) fn add(&mut self, key: CallKey) -> SeriesId {
        let other = CallKey { path: PathId::OTHER, ..key };
        if let Some(id) = self.admit(key) {
            return id;
        }
        if let Some(&id) = self.ids.get(&other) {
            return id;
        }
        self.admit(other).unwrap_or_else(|| self.shared(key))
    }

    /// Takes the end of a call for which this span is exported.
    pub(crate) fn ended_with(
        &mut self,
        series: SeriesId,
        ended: &Ended,
        span: Option<ExportedSpan>,
    ) {
        let Some((key, of_call)) = self.slots.get_mut(series) else {
            self.excluded += u64::from(series == SeriesId::EXCLUDED);
            self.count_late(series);
            return;
        };
        let path = key.path;
        of_call.add_end(&self.recording, self.now_ns, ended, span);
        self.calls.add(ended, path);
    }

    /// Counts an event of a call that has no series any more.
    fn count_late(&mut self, series: SeriesId) {
        self.late += u64::from(series != SeriesId::EXCLUDED);
    }
}

impl CallSink for Statistics {
    fn started(&mut self, key: CallKey) -> SeriesId {
        let id = self.find(key);
        if let Some((_, series)) = self.slots.get_mut(id) {
            series.started += 1;
        }
        id
    }

    fn joined(&mut self, key: CallKey) -> SeriesId {
        let id = self.find(key);
        if let Some((_, series)) = self.slots.get_mut(id) {
            series.joined += 1;
        }
        id
    }

    fn messages(&mut self, series: SeriesId, direction: Direction, count: u64, bytes: u64) {
        match self.slots.get_mut(series) {
            Some((_, of_call)) => of_call.add_messages(direction, count, bytes),
            None => self.count_late(series),
        }
    }

    fn second_message(&mut self, series: SeriesId, direction: Direction) {
        // `messages` has counted it as late.
        if let Some((key, series)) = self.slots.get_mut(series) {
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
        match self.slots.get_mut(series) {
            Some((_, of_call)) => {
                of_call.add_between_messages(&self.recording, direction, count, elapsed_ns);
            }
            None => self.count_late(series),
        }
    }

    fn first_message(&mut self, series: SeriesId, elapsed_ns: u64) {
        match self.slots.get_mut(series) {
            Some((_, of_call)) => {
                of_call.first_message.observe(&self.recording.buckets, elapsed_ns, None);
            }
            None => self.count_late(series),
        }
    }

    fn ended(&mut self, series: SeriesId, ended: Ended) {
        self.ended_with(series, &ended, None);
    }
}
