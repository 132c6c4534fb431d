//! The choice of what series record.

use std::fmt;

use super::Buckets;

/// The choice of what each series records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// The bucket bounds of all histograms.
    pub buckets: Buckets,
    /// Whether each histogram also has exponential buckets, for Prometheus' native histograms.
    pub exponential: bool,
    /// Whether the durations of calls are also recorded by code.
    pub by_code: bool,
    /// Whether the times between the messages of clients' calls are recorded.
    pub between_messages: bool,
}

impl From<Buckets> for Recording {
    fn from(buckets: Buckets) -> Self {
        Self { buckets, ..Self::default() }
    }
}

/// The error of statistics whose [`Recording`]s differ: their histograms do not add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordingsDiffer;

impl fmt::Display for RecordingsDiffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the workers' histograms differ: start all workers with the same settings")
    }
}

impl std::error::Error for RecordingsDiffer {}
