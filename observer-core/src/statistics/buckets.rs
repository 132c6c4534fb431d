//! The bucket bounds of histograms of durations.

use std::{str::FromStr, sync::Arc};

/// Upper bounds of histogram buckets, strictly increasing; the bucket beyond the last bound is implied.
///
/// A bound is inclusive, like `le` in the exposition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// The bounds in nanoseconds.
    bounds: Arc<[u64]>,
}

impl Buckets {
    /// The largest number of bounds in a list. Each bound is one more series per method and histogram.
    pub const MAX: usize = 64;

    /// The number of buckets, including the one beyond the last bound.
    pub fn count(&self) -> usize {
        self.bounds.len() + 1
    }

    /// The bucket of a duration in nanoseconds, from 0, below [`Buckets::count`]. O(log bounds).
    pub fn position(&self, elapsed_ns: u64) -> usize {
        self.bounds.partition_point(|&bound| bound < elapsed_ns)
    }

    /// The bounds in seconds, without +Inf.
    pub fn seconds(&self) -> impl Iterator<Item = f64> {
        // In practice bounds are below 2^53 ns (104 days). Then the quotient is the double nearest to the decimal that
        // was given, and prints like it.
        self.bounds.iter().map(|&bound| bound as f64 / 1e9)
    }

    /// The same buckets with more bounds, in microseconds.
    #[must_use]
    pub fn and_microseconds(&self, more: impl IntoIterator<Item = u64>) -> Self {
        let more = more.into_iter().map(|bound| bound * 1_000);
        let mut bounds: Vec<u64> = self.bounds.iter().copied().chain(more).collect();
        bounds.sort_unstable();
        bounds.dedup();
        Self { bounds: bounds.into() }
    }
}

impl Default for Buckets {
    /// The buckets of go-grpc-prometheus (`prometheus.DefBuckets`), and finer ones below 5 ms, where most calls between
    /// services are.
    fn default() -> Self {
        const MICROSECONDS: [u64; 16] = [
            100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
            1_000_000, 2_500_000, 5_000_000, 10_000_000,
        ];
        Self { bounds: MICROSECONDS.iter().map(|bound| bound * 1_000).collect() }
    }
}

impl FromStr for Buckets {
    /// The error in the list, with what to write instead.
    type Err = String;

    /// Parses at most [`Buckets::MAX`] bounds in seconds, separated by commas: `0.001,0.01,1`.
    fn from_str(text: &str) -> Result<Self, String> {
        let count = text.split(',').count();
        if count > Self::MAX {
            return Err(format!("{count} bucket bounds: give at most {}", Self::MAX));
        }
        let mut bounds: Vec<u64> = Vec::with_capacity(count);
        let mut before = "";
        for bound in text.split(',').map(str::trim) {
            let nanoseconds = parse_bound(bound)?;
            if bounds.last().is_some_and(|&last| last >= nanoseconds) {
                return Err(format!(
                    "bucket bound `{bound}` comes after `{before}`: give the bounds in increasing \
                     order, each once"
                ));
            }
            bounds.push(nanoseconds);
            before = bound;
        }
        Ok(Self { bounds: bounds.into() })
    }
}

/// A bound in nanoseconds, from its text in seconds.
fn parse_bound(text: &str) -> Result<u64, String> {
    if text.is_empty() {
        return Err("a bucket bound is empty: give seconds separated by commas, for example \
                    0.001,0.01,1"
            .into());
    }
    let seconds: f64 = text.parse().map_err(|error| {
        format!("bucket bound `{text}` is not a number of seconds ({error}): write it like 0.25")
    })?;
    let nanoseconds = (seconds * 1e9).round();
    // A range does not contain NaN.
    if (1.0..u64::MAX as f64).contains(&nanoseconds) {
        Ok(nanoseconds as u64)
    } else {
        Err(format!(
            "bucket bound `{text}` is out of range: give finite seconds above zero, at least \
             1e-9; the +Inf bucket is always there"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::Buckets;

    #[test]
    fn default_bounds() {
        let seconds: Vec<f64> = Buckets::default().seconds().collect();
        let want = [
            0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
            2.5, 5.0, 10.0,
        ];
        assert_eq!(seconds, want);
        assert_eq!(Buckets::default().count(), want.len() + 1);
    }

    #[test]
    fn bounds_are_inclusive() {
        let buckets: Buckets = "0.001, 0.01,1".parse().unwrap();
        let rows = [
            (0, 0),
            (999_999, 0),
            (1_000_000, 0),
            (1_000_001, 1),
            (10_000_000, 1),
            (10_000_001, 2),
            (1_000_000_000, 2),
            (1_000_000_001, 3),
            (u64::MAX, 3),
        ];
        for (elapsed_ns, position) in rows {
            assert_eq!(buckets.position(elapsed_ns), position, "{elapsed_ns} ns");
        }
        assert_eq!(buckets.count(), 4);
    }

    #[test]
    fn bounds_come_back_as_given() {
        let text = "1e-9,0.000123456,0.3,1,86400";
        let buckets: Buckets = text.parse().unwrap();
        let want: Vec<f64> = text.split(',').map(|bound| bound.parse().unwrap()).collect();
        assert_eq!(buckets.seconds().collect::<Vec<_>>(), want);
    }

    #[test]
    fn invalid_lists_are_refused_with_what_to_do() {
        const EMPTY: &str =
            "a bucket bound is empty: give seconds separated by commas, for example 0.001,0.01,1";
        const ORDER: &str = "give the bounds in increasing order, each once";
        let refused = |text: &str, reason: &str| {
            assert_eq!(text.parse::<Buckets>().unwrap_err(), reason, "{text}");
        };
        for text in ["", "0.1,,1", "0.1,"] {
            refused(text, EMPTY);
        }
        for bound in ["0", "-1", "inf", "NaN", "1e300", "1e-10", "2e10"] {
            let reason = format!(
                "bucket bound `{bound}` is out of range: give finite seconds above zero, at least \
                 1e-9; the +Inf bucket is always there"
            );
            refused(bound, &reason);
            refused(&format!("1e-9,{bound}"), &reason);
        }
        for bound in ["1", "0.5", "1.0000000001"] {
            let reason = format!("bucket bound `{bound}` comes after `1`: {ORDER}");
            refused(&format!("1,{bound}"), &reason);
        }
        refused(
            "5ms",
            "bucket bound `5ms` is not a number of seconds (invalid float literal): write it like \
             0.25",
        );
        let at_most: Vec<String> = (1..=64).map(|bound| bound.to_string()).collect();
        assert_eq!(at_most.join(",").parse::<Buckets>().unwrap().count(), 65);
        refused(&(at_most.join(",") + ",65"), "65 bucket bounds: give at most 64");
    }
}
