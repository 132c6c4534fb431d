//! Exemplars: observations that belong to a trace, the last one per bucket or code.

use crate::call::{SpanId, TraceId};

/// An observed duration that belongs to a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exemplar {
    /// The id of the trace.
    pub trace: TraceId,
    /// The span of the call, if one is exported.
    pub span: Option<SpanId>,
    /// The observed duration, in nanoseconds.
    pub elapsed_ns: u64,
    /// The time of the observation, in nanoseconds of the kernel's monotonic clock.
    pub time_ns: u64,
}

impl Exemplar {
    /// The observed duration in seconds.
    pub fn seconds(&self) -> f64 {
        self.elapsed_ns as f64 / 1e9
    }
}

/// The last exemplar at each position that has any, in the order of positions. It allocates no memory until there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Exemplars(Vec<(usize, Exemplar)>);

impl Exemplars {
    /// Replaces the exemplar at a position: that of a bucket, or of a code.
    pub(super) fn set(&mut self, position: usize, exemplar: Exemplar) {
        match self.find(position) {
            Ok(at) => {
                if let Some((_, place)) = self.0.get_mut(at) {
                    *place = exemplar;
                }
            }
            Err(at) => {
                // A position comes for the first time once, so the memory need not grow ahead.
                self.0.reserve_exact(1);
                self.0.insert(at, (position, exemplar));
            }
        }
    }

    /// The exemplar at a position.
    pub(super) fn get(&self, position: usize) -> Option<&Exemplar> {
        let at = self.find(position).ok()?;
        self.0.get(at).map(|(_, exemplar)| exemplar)
    }

    /// All exemplars.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Exemplar> {
        self.0.iter().map(|(_, exemplar)| exemplar)
    }

    /// Keeps the later exemplar of each position.
    pub(super) fn merge(&mut self, other: &Self) {
        for (position, exemplar) in &other.0 {
            if self.get(*position).is_none_or(|own| own.time_ns < exemplar.time_ns) {
                self.set(*position, *exemplar);
            }
        }
    }

    fn find(&self, position: usize) -> Result<usize, usize> {
        self.0.binary_search_by_key(&position, |(of, _)| *of)
    }
}

#[cfg(test)]
mod tests {
    use super::{Exemplar, Exemplars};
    use crate::call::TraceId;

    fn at(time_ns: u64) -> Exemplar {
        Exemplar { trace: TraceId([7; 16]), span: None, elapsed_ns: 1, time_ns }
    }

    #[test]
    fn the_last_of_each_position_is_kept() {
        let mut exemplars = Exemplars::default();
        assert_eq!((exemplars.get(0), exemplars.iter().count()), (None, 0));
        exemplars.set(3, at(1));
        exemplars.set(1, at(2));
        exemplars.set(3, at(3));
        assert_eq!(
            [0, 1, 2, 3].map(|of| exemplars.get(of).map(|of| of.time_ns)),
            [None, Some(2), None, Some(3)]
        );
        assert_eq!(exemplars.iter().copied().collect::<Vec<_>>(), [at(2), at(3)]);
    }

    #[test]
    fn the_later_one_of_two_is_kept() {
        let (mut one, mut other) = (Exemplars::default(), Exemplars::default());
        one.set(0, at(5));
        one.set(1, at(5));
        other.set(1, at(4));
        other.set(2, at(6));
        one.merge(&other);
        assert_eq!(one.iter().copied().collect::<Vec<_>>(), [at(5), at(5), at(6)]);
        one.merge(&Exemplars::default());
        assert_eq!(one.iter().count(), 3);
    }
}
