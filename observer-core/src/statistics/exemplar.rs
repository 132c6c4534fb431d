//! Exemplars: observations that belong to a trace, the last one per bucket or code.

use crate::call::TraceId;

/// An observed duration that belongs to a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exemplar {
    /// The id of the trace.
    pub trace: TraceId,
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

/// The last exemplar at each position. It allocates no memory until there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Exemplars(Option<Box<[Option<Exemplar>]>>);

impl Exemplars {
    /// Replaces the exemplar at a position below `positions`, which is the same in each call.
    pub(super) fn set(&mut self, position: usize, positions: usize, exemplar: Exemplar) {
        let exemplars = self.0.get_or_insert_with(|| vec![None; positions].into());
        if let Some(place) = exemplars.get_mut(position) {
            *place = Some(exemplar);
        }
    }

    /// The exemplar at a position.
    pub(super) fn get(&self, position: usize) -> Option<&Exemplar> {
        self.0.as_ref()?.get(position)?.as_ref()
    }

    /// All exemplars.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Exemplar> {
        self.0.iter().flatten().flatten()
    }

    /// Keeps the later exemplar of each position.
    pub(super) fn merge(&mut self, other: &Self) {
        let Some(others) = &other.0 else { return };
        for (position, exemplar) in others.iter().enumerate() {
            if let Some(exemplar) = exemplar
                && self.get(position).is_none_or(|own| own.time_ns < exemplar.time_ns)
            {
                self.set(position, others.len(), *exemplar);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Exemplar, Exemplars};
    use crate::call::TraceId;

    fn at(time_ns: u64) -> Exemplar {
        Exemplar { trace: TraceId([7; 16]), elapsed_ns: 1, time_ns }
    }

    #[test]
    fn the_last_of_each_position_is_kept() {
        let mut exemplars = Exemplars::default();
        assert_eq!((exemplars.get(0), exemplars.iter().count()), (None, 0));
        exemplars.set(1, 3, at(1));
        exemplars.set(1, 3, at(2));
        exemplars.set(3, 3, at(3));
        assert_eq!(
            (exemplars.get(0), exemplars.get(1), exemplars.get(3)),
            (None, Some(&at(2)), None)
        );
        assert_eq!(exemplars.iter().count(), 1);
    }

    #[test]
    fn the_later_one_of_two_is_kept() {
        let (mut one, mut other) = (Exemplars::default(), Exemplars::default());
        one.set(0, 3, at(5));
        one.set(1, 3, at(5));
        other.set(1, 3, at(4));
        other.set(2, 3, at(6));
        one.merge(&other);
        assert_eq!(one.iter().copied().collect::<Vec<_>>(), [at(5), at(5), at(6)]);
        one.merge(&Exemplars::default());
        assert_eq!(one.iter().count(), 3);
    }
}
