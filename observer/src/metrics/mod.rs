//! The sums of calls, and their exposition for Prometheus.
//!
//! A worker writes into [`Statistics`]; [`Daemon`] has the daemon's own figures. A scrape takes a [`Snapshot`] of both
//! and [`write`]s it.

#![forbid(unsafe_code)]

mod daemon;
mod descriptors;
mod edges;
mod exposition;
mod otlp;
mod process;
mod rows;
mod schema;
pub mod view;

use std::{collections::hash_map::Entry, io, sync::Arc};

use rustc_hash::FxHashMap;

use self::exposition::Sink;
pub use self::{
    daemon::{
        ConnectionsByProtocol, Daemon, DroppedRecords, Gap, HttpFigures, OwnProcess, PodRequests,
        Program, TlsFiles,
    },
    descriptors::Descriptors,
    exposition::{Clock, Format},
    otlp::MetricsExport,
    schema::{Clash, Schema, Schemas},
};
pub use observer_core::statistics::{
    self, Buckets, CallsByCoverage, CallsSeen, GrpcType, Histogram, Limits, Messages, Recording,
    RecordingsDiffer, Series, Statistics,
};
use observer_core::{
    edges::EdgeFigures,
    names::PathId,
    process::{Detail, Grouping, ProcessNames},
};

/// The texts of the interned paths in some statistics. The interner itself stays with its worker.
#[derive(Clone, Debug, Default)]
pub struct PathNames(FxHashMap<PathId, Arc<str>>);

impl PathNames {
    /// Resolves the paths in the statistics, escaped like in labels.
    pub fn of<T: Into<Arc<str>>>(
        statistics: &Statistics,
        resolve: impl Fn(PathId) -> Option<T>,
    ) -> Self {
        let mut names = FxHashMap::default();
        for (key, _) in statistics.series() {
            if let Entry::Vacant(name) = names.entry(key.path)
                && let Some(path) = resolve(key.path)
            {
                name.insert(path.into());
            }
        }
        Self(names)
    }

    /// The text of a path; empty if it is not known.
    pub fn path(&self, path: PathId) -> &str {
        self.0.get(&path).map_or("", |path| path)
    }
}

/// The data of a scrape, as of one moment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The sums of calls.
    pub statistics: Arc<Statistics>,
    /// The texts of the paths in `statistics`.
    pub paths: Arc<PathNames>,
    /// The declared types of methods; empty without `--descriptor-set`.
    pub descriptors: Arc<Descriptors>,
    /// The names and details of the processes in `statistics`.
    pub processes: Arc<ProcessNames>,
    /// The calls between services, sorted; `None` without `--service-graph`.
    pub edges: Option<Arc<Vec<EdgeFigures>>>,
    /// The daemon's own figures.
    pub daemon: Arc<Daemon>,
    /// The names and labels of the exposition.
    pub exposition: Arc<ExpositionConfig>,
}

impl Snapshot {
    /// Adds the figures and names of another worker's snapshot. Figures of the whole daemon must be in only one of the
    /// snapshots.
    pub fn merge(&mut self, other: Self) -> Result<(), RecordingsDiffer> {
        let Self { statistics, paths, processes, daemon, .. } = other;
        Arc::make_mut(&mut self.statistics).merge(&statistics)?;
        Arc::make_mut(&mut self.paths).0.extend(Arc::unwrap_or_clone(paths).0);
        Arc::make_mut(&mut self.processes).extend(Arc::unwrap_or_clone(processes));
        Arc::make_mut(&mut self.daemon).merge(&daemon);
        Ok(())
    }
}

/// How the statistics are exposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpositionConfig {
    /// The schemas of names and labels.
    pub schemas: Schemas,
    /// Whether OpenMetrics text has creation times. A Prometheus that does not know them stores each as a series of its
    /// own. Protobuf always has them.
    pub created: bool,
    /// Further labels of the process on every series, next to pid and name; unique.
    pub labels: Vec<Detail>,
    /// What has series of its own.
    pub by: Grouping,
}

impl Default for ExpositionConfig {
    fn default() -> Self {
        Self {
            schemas: Schemas::default(),
            created: true,
            labels: Vec::new(),
            by: Grouping::default(),
        }
    }
}

/// Writes the answer to a scrape in a format, in chunks. Returns the writer's error, if it has one.
///
/// Families and series have a fixed order. A family without series is left out. O(series · log series), and about a line
/// for each histogram bucket of each series.
pub fn write(snapshot: &Snapshot, format: Format, to: &mut dyn io::Write) -> io::Result<()> {
    exposition::encode(snapshot, format, to)
}

/// Writes all families, always in the same order.
fn write_families(snapshot: &Snapshot, sink: &mut dyn Sink) {
    schema::write(snapshot, sink);
    edges::write(snapshot, sink);
    // A process that may be gone soon is not worth a series then.
    if snapshot.exposition.by == Grouping::Process {
        process::write(snapshot, sink);
    }
    daemon::write(snapshot, sink);
}

/// Renders the answer to a scrape as one text, for few series.
pub fn render(snapshot: &Snapshot, format: Format) -> Vec<u8> {
    let mut text = Vec::new();
    // Writing to a vector does not fail.
    let _ = write(snapshot, format, &mut text);
    text
}

#[cfg(test)]
#[expect(dead_code, reason = "the end-to-end tests use the rest of it")]
#[path = "../../../tests/support/openmetrics.rs"]
mod openmetrics;
#[cfg(test)]
mod tests;
#[cfg(all(test, feature = "kubernetes"))]
pub(crate) use self::tests::in_a_pod;
#[cfg(test)]
pub(crate) use self::tests::{snapshot_of, unary};
