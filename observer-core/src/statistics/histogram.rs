//! Observed durations: by bucket, finer on request, with the traces of some.

use super::{
    Buckets,
    exemplar::{Exemplar, Exemplars},
    exponential::Exponential,
};

/// Observed durations by bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64]>,
    /// 2⁶⁴ ns are 584 years of *summed* time, which 100,000 concurrent streams reach in 51 hours;
    /// 2¹²⁸ takes 2⁶⁴ observations of the longest duration there is.
    sum_ns: u128,
    /// The last one of each bucket that belongs to a trace.
    exemplars: Exemplars,
    /// The same observations by exponential buckets, where those are kept.
    exponential: Option<Box<Exponential>>,
}

impl Histogram {
    pub(super) fn new(buckets: &Buckets, exponential: bool) -> Self {
        Self {
            counts: vec![0; buckets.count()].into(),
            sum_ns: 0,
            exemplars: Exemplars::default(),
            exponential: exponential.then(Box::default),
        }
    }

    /// One with the same buckets and nothing in them.
    pub(super) fn empty(&self) -> Self {
        Self {
            counts: vec![0; self.counts.len()].into(),
            sum_ns: 0,
            exemplars: Exemplars::default(),
            exponential: self.exponential.as_ref().map(|_| Box::default()),
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
            self.exemplars.set(position, self.counts.len(), exemplar);
        }
        if let Some(exponential) = &mut self.exponential {
            exponential.observe(elapsed_ns);
        }
    }

    /// A histogram of so many observations of no duration.
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

    /// Observations per bucket, each on its own (not cumulative), that of infinity last.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// How many observations there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all observations in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// The last observation in the bucket that belongs to a trace.
    pub fn exemplar(&self, bucket: usize) -> Option<&Exemplar> {
        self.exemplars.get(bucket)
    }

    /// The sum of the observations.
    pub fn exemplars(&self) -> impl Iterator<Item = &Exemplar> {
        self.exemplars.iter()
    }

    /// The same by exponential buckets, where those are kept.
    pub fn exponential(&self) -> Option<&Exponential> {
        self.exponential.as_deref()
    }
}
