//! Histograms of durations, with exemplars, and with exponential buckets if they are recorded.

use super::{
    Buckets, Recording,
    exemplar::{Exemplar, Exemplars},
    exponential::Exponential,
};

/// A histogram of durations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64]>,
    /// The sum in nanoseconds. 100,000 concurrent streams reach 2⁶⁴ in 51 hours; 2¹²⁸ takes 2⁶⁴ observations of the
    /// longest duration.
    sum_ns: u128,
    /// The last observation of each bucket that belongs to a trace.
    exemplars: Exemplars,
    /// The same observations in exponential buckets, if those are recorded.
    exponential: Option<Box<Exponential>>,
}

impl Histogram {
    pub(super) fn new(recording: &Recording) -> Self {
        Self {
            counts: vec![0; recording.buckets.count()].into(),
            sum_ns: 0,
            exemplars: Exemplars::default(),
            exponential: recording.exponential.then(Box::default),
        }
    }

    pub(super) fn observe(
        &mut self,
        buckets: &Buckets,
        elapsed_ns: u64,
        exemplar: Option<Exemplar>,
    ) {
        let position = buckets.position(elapsed_ns);
        let Some(count) = self.counts.get_mut(position) else { return };
        *count += 1;
        self.sum_ns += u128::from(elapsed_ns);
        if let Some(exemplar) = exemplar {
            self.exemplars.set(position, exemplar);
        }
        if let Some(exponential) = &mut self.exponential {
            exponential.observe(elapsed_ns);
        }
    }

    /// Adds `count` observations of 0 ns.
    pub(super) fn observe_zeros(&mut self, count: u64) {
        if let Some(first) = self.counts.first_mut() {
            *first += count;
        }
        if let Some(exponential) = &mut self.exponential {
            exponential.observe_zeros(count);
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let Self { counts, sum_ns, exemplars, exponential } = other;
        for (to, from) in self.counts.iter_mut().zip(counts) {
            *to += from;
        }
        self.sum_ns += sum_ns;
        self.exemplars.merge(exemplars);
        if let (Some(to), Some(from)) = (&mut self.exponential, exponential) {
            to.merge(from);
        }
    }

    /// The number of observations in each bucket alone (not cumulative); the bucket of +Inf is the last one.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all observations in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// The last observation in a bucket that belongs to a trace.
    pub fn exemplar(&self, bucket: usize) -> Option<&Exemplar> {
        self.exemplars.get(bucket)
    }

    /// The exemplars of all buckets.
    pub fn exemplars(&self) -> impl Iterator<Item = &Exemplar> {
        self.exemplars.iter()
    }

    /// The same observations in exponential buckets, if those are recorded.
    pub fn exponential(&self) -> Option<&Exponential> {
        self.exponential.as_deref()
    }
}
