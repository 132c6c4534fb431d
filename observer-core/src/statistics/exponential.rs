//! Exponential buckets, as in Prometheus' native histograms: the bounds are all powers of one base, so no bounds have
//! to be chosen, and the relative error is the same everywhere.
//!
//! Source: `histogram.go` of client_golang. The bucket with resolution (there: schema) `r` and index `i` has the
//! durations above 2^((i−1)/2^r) and up to 2^(i/2^r) seconds. The first resolution is 3: bounds are 9 % apart. When
//! there would be more than [`Exponential::MAX_BUCKETS`] buckets, each two become one, and the resolution goes down by
//! one. So the memory is bounded for any observations.

/// The finest resolution.
const FINEST: i8 = 3;

/// 2^(i/8 − 1): the bounds of the finest resolution between two powers of two.
const BOUNDS: [f64; 1 << FINEST] = [
    0.5,
    0.545_253_866_332_628_8,
    0.594_603_557_501_360_5,
    0.648_419_777_325_504_8,
    0.707_106_781_186_547_5,
    0.771_105_412_703_970_4,
    0.840_896_415_253_714_4,
    0.917_004_043_204_671_1,
];

/// A histogram of durations with exponential buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exponential {
    /// At most [`FINEST`]; below 0, each bucket spans several powers of two.
    resolution: i8,
    /// Observations of 0 ns, which are not in the buckets.
    zeros: u64,
    /// The buckets with observations: their index and count, ascending.
    buckets: Vec<(i16, u64)>,
}

impl Default for Exponential {
    fn default() -> Self {
        Self { resolution: FINEST, zeros: 0, buckets: Vec::new() }
    }
}

impl Exponential {
    /// Bound on the number of buckets. From a nanosecond to 584 years there are 64 powers of two, so a resolution of 0
    /// always fits.
    pub const MAX_BUCKETS: usize = 100;

    /// The resolution `r`: each power of two has 2^r buckets. Prometheus calls it schema.
    pub fn resolution(&self) -> i8 {
        self.resolution
    }

    /// The number of observations of 0 ns.
    pub fn zeros(&self) -> u64 {
        self.zeros
    }

    /// The index and count of each bucket with observations, ascending.
    pub fn buckets(&self) -> &[(i16, u64)] {
        &self.buckets
    }

    /// Adds an observation in nanoseconds. O(buckets) for the first one in a bucket, else O(log buckets).
    pub fn observe(&mut self, elapsed_ns: u64) {
        if elapsed_ns == 0 {
            self.zeros += 1;
        } else {
            self.add(coarser(index(elapsed_ns), FINEST - self.resolution), 1);
        }
    }

    /// Adds `count` observations of 0 ns.
    pub(super) fn observe_zeros(&mut self, count: u64) {
        self.zeros += count;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let Self { resolution, zeros, buckets } = other;
        self.zeros += zeros;
        while self.resolution > *resolution {
            self.halve();
        }
        for &(index, count) in buckets {
            // Adding may have made it coarser still.
            self.add(coarser(index, resolution - self.resolution), count);
        }
    }

    fn add(&mut self, index: i16, count: u64) {
        match self.buckets.binary_search_by_key(&index, |bucket| bucket.0) {
            Ok(position) => {
                if let Some(bucket) = self.buckets.get_mut(position) {
                    bucket.1 += count;
                }
            }
            Err(position) => {
                if self.buckets.len() == self.buckets.capacity() {
                    self.buckets.reserve_exact(8);
                }
                self.buckets.insert(position, (index, count));
                while self.buckets.len() > Self::MAX_BUCKETS {
                    self.halve();
                }
            }
        }
    }

    /// Makes one bucket of each two, which halves their number per power of two.
    fn halve(&mut self) {
        self.resolution -= 1;
        for bucket in &mut self.buckets {
            bucket.0 = coarser(bucket.0, 1);
        }
        self.buckets.dedup_by(|bucket, kept| {
            let same = bucket.0 == kept.0;
            if same {
                kept.1 += bucket.1;
            }
            same
        });
    }
}

/// The index of a bucket after `times` halvings.
fn coarser(index: i16, times: i8) -> i16 {
    // The upper bound stays a bound if its index is even, else the next one's is: rounded up.
    (0..times).fold(index, |index, _| (index + 1) >> 1)
}

/// The index of a duration above zero, in the finest resolution.
fn index(elapsed_ns: u64) -> i16 {
    let seconds = elapsed_ns as f64 / 1e9;
    let (fraction, exponent) = split(seconds);
    let within = BOUNDS.partition_point(|&bound| bound < fraction) as i16;
    within + ((exponent - 1) << FINEST)
}

/// Splits `value` into fraction · 2^exponent, with a fraction from 0.5 to below 1. The value has to be a normal number
/// above zero, as all nanoseconds in seconds are.
fn split(value: f64) -> (f64, i16) {
    const EXPONENT: u64 = 0x7ff << 52;
    let bits = value.to_bits();
    let exponent = ((bits & EXPONENT) >> 52) as i16 - 1022;
    (f64::from_bits(bits & !EXPONENT | 1022 << 52), exponent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Exponential, FINEST, index, split};

    const SECOND: u64 = 1_000_000_000;

    /// The bound above which a bucket begins, in seconds.
    fn bound(index: i16, resolution: i8) -> f64 {
        (f64::from(index) * (-f64::from(resolution)).exp2()).exp2()
    }

    #[test]
    fn bounds_are_inclusive() {
        let rows = [
            (SECOND, 0),
            (SECOND + 1, 1),
            (SECOND - 1, 0),
            (2 * SECOND, 8),
            (2 * SECOND + 1, 9),
            (SECOND / 2, -8),
            (SECOND / 4 + 1, -15),
            // 2^(1/8) s is 1.09050773266… s.
            (1_090_507_732, 1),
            (1_090_507_733, 2),
            // 2^-29 s is 1.86 ns.
            (1, -239),
            (u64::MAX, 273),
        ];
        for (elapsed_ns, want) in rows {
            assert_eq!(index(elapsed_ns), want, "{elapsed_ns}");
        }
        assert_eq!(split(0.75), (0.75, 0));
        assert_eq!(split(1.0), (0.5, 1));
    }

    #[test]
    fn memory_is_bounded_and_all_observations_count() {
        let mut exponential = Exponential::default();
        let mut observed = 0;
        for power in 0..64 {
            for step in 0..8_u64 {
                exponential.observe((1_u64 << power) + (1_u64 << power) / 8 * step);
                observed += 1;
            }
        }
        exponential.observe(0);
        let in_buckets: u64 = exponential.buckets().iter().map(|bucket| bucket.1).sum();
        assert_eq!((in_buckets, exponential.zeros()), (observed, 1));
        assert!(exponential.buckets().len() <= Exponential::MAX_BUCKETS);
        assert!(exponential.buckets.capacity() <= Exponential::MAX_BUCKETS + 8);
        assert_eq!(exponential.resolution(), 0);
    }

    proptest! {
        /// At any resolution each observation is between the bounds of a bucket that counts it, and merged
        /// histograms are equal to one that observed all.
        #[test]
        fn observations_are_within_their_bounds(
            first in proptest::collection::vec(1..u64::MAX, 0..200),
            second in proptest::collection::vec(1..10_000_000_u64, 0..200),
        ) {
            let (mut one, mut other, mut both) =
                (Exponential::default(), Exponential::default(), Exponential::default());
            for (histogram, observed) in [(&mut one, &first), (&mut other, &second)] {
                for &ns in observed {
                    histogram.observe(ns);
                    both.observe(ns);
                }
            }
            one.merge(&other);
            prop_assert_eq!(&one, &both);
            let resolution = both.resolution();
            prop_assert!((-4..=FINEST).contains(&resolution));
            for &(index, count) in both.buckets() {
                let (low, high) = (bound(index - 1, resolution), bound(index, resolution));
                let within = |&&ns: &&u64| {
                    let seconds = ns as f64 / 1e9;
                    low * (1.0 - 1e-12) < seconds && seconds <= high * (1.0 + 1e-12)
                };
                let observed = first.iter().chain(&second).filter(within).count() as u64;
                prop_assert!(observed >= count, "{} of {}", observed, count);
            }
        }
    }
}
