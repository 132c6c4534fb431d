//! The bounds of the latency histograms.

use std::{fmt, num::ParseFloatError, str::FromStr, sync::Arc};

/// Upper bounds of histogram buckets, strictly increasing; the bucket beyond the last is implied.
///
/// A bound is inclusive, as `le` is in the exposition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// In nanoseconds.
    bounds: Arc<[u64]>,
}

impl Buckets {
    /// As many bounds as may be given: each is one more series per method and histogram.
    pub const MAX: usize = 64;

    /// The number of buckets, the one beyond the last bound included.
    pub fn count(&self) -> usize {
        self.bounds.len() + 1
    }

    /// Which bucket an observation falls into, from 0; below [`Buckets::count`]. O(log bounds).
    pub fn position(&self, elapsed_ns: u64) -> usize {
        self.bounds.partition_point(|&bound| bound < elapsed_ns)
    }

    /// The bounds in seconds, without infinity.
    pub fn seconds(&self) -> impl Iterator<Item = f64> {
        // Bounds are below 2^53 ns (104 days) in practice, so that the quotient is the double
        // nearest to the decimal that was given, and prints as it.
        self.bounds.iter().map(|&bound| bound as f64 / 1e9)
    }
}

impl Buckets {
    /// With these bounds too, in microseconds.
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
    /// Those of go-grpc-prometheus (`prometheus.DefBuckets`), and finer ones below 5 ms, where
    /// most calls between services are.
    fn default() -> Self {
        const MICROSECONDS: [u64; 16] = [
            100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
            1_000_000, 2_500_000, 5_000_000, 10_000_000,
        ];
        Self { bounds: MICROSECONDS.iter().map(|bound| bound * 1_000).collect() }
    }
}

/// Why a list of bounds was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BucketsError {
    /// There is nothing between two commas, or nothing at all.
    Empty,
    /// More than [`Buckets::MAX`].
    TooMany(usize),
    /// Not a number.
    NotANumber(String, ParseFloatError),
    /// Infinite, not a number, below a nanosecond or beyond 2⁶⁴ ns.
    OutOfRange(String),
    /// Not above the one before it.
    NotIncreasing(String, String),
}

impl fmt::Display for BucketsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(
                f,
                "a bucket bound is empty: give seconds separated by commas, for example 0.001,0.01,1"
            ),
            Self::TooMany(count) => {
                write!(f, "{count} bucket bounds: give at most {}", Buckets::MAX)
            }
            Self::NotANumber(text, error) => write!(
                f,
                "bucket bound `{text}` is not a number of seconds ({error}): write it like 0.25"
            ),
            Self::OutOfRange(text) => write!(
                f,
                "bucket bound `{text}` is out of range: give finite seconds above zero, at least \
                 1e-9; the +Inf bucket is always there"
            ),
            Self::NotIncreasing(before, text) => write!(
                f,
                "bucket bound `{text}` comes after `{before}`: give the bounds in increasing \
                 order, each once"
            ),
        }
    }
}

impl std::error::Error for BucketsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotANumber(_, error) => Some(error),
            _ => None,
        }
    }
}

impl FromStr for Buckets {
    type Err = BucketsError;

    /// Parses seconds separated by commas: `0.001,0.01,1`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let count = text.split(',').count();
        if count > Self::MAX {
            return Err(BucketsError::TooMany(count));
        }
        let mut bounds: Vec<u64> = Vec::with_capacity(count);
        let mut before = "";
        for bound in text.split(',').map(str::trim) {
            let nanoseconds = parse_bound(bound)?;
            if bounds.last().is_some_and(|&last| last >= nanoseconds) {
                return Err(BucketsError::NotIncreasing(before.into(), bound.into()));
            }
            bounds.push(nanoseconds);
            before = bound;
        }
        Ok(Self { bounds: bounds.into() })
    }
}

fn parse_bound(text: &str) -> Result<u64, BucketsError> {
    if text.is_empty() {
        return Err(BucketsError::Empty);
    }
    let seconds: f64 =
        text.parse().map_err(|error| BucketsError::NotANumber(text.into(), error))?;
    let nanoseconds = (seconds * 1e9).round();
    // NaN is in no range.
    if (1.0..u64::MAX as f64).contains(&nanoseconds) {
        Ok(nanoseconds as u64)
    } else {
        Err(BucketsError::OutOfRange(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Buckets, BucketsError};

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
    fn refuses_what_is_no_list_of_bounds() {
        let parse = |text: &str| text.parse::<Buckets>().unwrap_err();
        assert_eq!(parse(""), BucketsError::Empty);
        assert_eq!(parse("0.1,,1"), BucketsError::Empty);
        assert_eq!(parse("0.1,"), BucketsError::Empty);
        for text in ["0", "-1", "0.1,inf", "NaN", "1e300", "1e-10", "2e10"] {
            assert!(matches!(parse(text), BucketsError::OutOfRange(_)), "{text}");
        }
        for text in ["1", "0.5", "1.0000000001"] {
            let error = parse(&format!("1,{text}"));
            assert_eq!(error, BucketsError::NotIncreasing("1".into(), text.into()));
        }
        assert!(matches!(parse("5ms"), BucketsError::NotANumber(..)));

        let at_most: Vec<String> = (1..=64).map(|bound| bound.to_string()).collect();
        assert_eq!(at_most.join(",").parse::<Buckets>().unwrap().count(), 65);
        assert_eq!(parse(&(at_most.join(",") + ",65")), BucketsError::TooMany(65));
    }

    #[test]
    fn errors_say_what_to_do() {
        let text = |buckets: &str| buckets.parse::<Buckets>().unwrap_err().to_string();
        assert_eq!(
            text("5ms"),
            "bucket bound `5ms` is not a number of seconds (invalid float literal): write it like \
             0.25"
        );
        assert_eq!(
            text("1,0.5"),
            "bucket bound `0.5` comes after `1`: give the bounds in increasing order, each once"
        );
    }
}
