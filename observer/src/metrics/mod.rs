//! What the calls add up to, and how Prometheus is told.
//!
//! [`Statistics`] is what a worker writes into; [`Daemon`] holds the daemon's own figures. A
//! scrape takes a [`Snapshot`] of both and [`render`]s it.

#![forbid(unsafe_code)]

mod daemon;
mod descriptors;
mod exposition;
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
        Program,
    },
    descriptors::Descriptors,
    exposition::{Clock, Format},
    schema::{Clash, Schema, Schemas},
};
pub use observer_core::statistics::{
    self, Buckets, CallsByCoverage, CallsSeen, GrpcType, Histogram, Limits, Messages, Recording,
    RecordingsDiffer, Series, Statistics,
};
use observer_core::{
    names::PathId,
    process::{Detail, ProcessNames},
};

/// The interned paths of some statistics, spelled out; the interner itself stays with its worker.
#[derive(Clone, Debug, Default)]
pub struct PathNames(FxHashMap<PathId, Arc<str>>);

impl PathNames {
    /// Spells out the paths that the statistics have now, as labels do.
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

    /// The path; empty when it is not known.
    pub fn path(&self, path: PathId) -> &str {
        self.0.get(&path).map_or("", |path| path)
    }
}

/// Everything that a scrape needs, as of one moment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The calls, of all workers.
    pub statistics: Arc<Statistics>,
    /// Spells out the paths in `statistics`.
    pub paths: Arc<PathNames>,
    /// The declared types of methods, if descriptors were given.
    pub descriptors: Arc<Descriptors>,
    /// Says who the processes in `statistics` are.
    pub processes: Arc<ProcessNames>,
    /// The daemon's own figures.
    pub daemon: Arc<Daemon>,
    /// How all this is exposed.
    pub exposition: Arc<ExpositionConfig>,
}

impl Snapshot {
    /// Adds what another worker has: its figures, and the names that it uses. What the kernel and the
    /// system tell of the daemon is for one of the snapshots to have.
    pub fn merge(&mut self, other: Self) -> Result<(), RecordingsDiffer> {
        let Self { statistics, paths, descriptors: _, processes, daemon, exposition: _ } = other;
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
    /// Whether OpenMetrics text has creation times. Each is a series of its own there, to a
    /// Prometheus that does not take them for what they are. Protobuf always has them.
    pub created: bool,
    /// Labels that every series has of its process beside pid and name, each once.
    pub labels: Vec<Detail>,
}

impl Default for ExpositionConfig {
    fn default() -> Self {
        Self { schemas: Schemas::default(), created: true, labels: Vec::new() }
    }
}

/// Writes the answer to a scrape, in a format, in chunks; its type is [`Format::content_type`]. An error is that
/// of the writer.
///
/// Families and series come in a fixed order. A family without series is left out.
/// O(series · log series), and about a line per histogram bucket of each.
pub fn write(snapshot: &Snapshot, format: Format, to: &mut dyn io::Write) -> io::Result<()> {
    exposition::encode(snapshot, format, to)
}

/// Writes all families, always in the same order.
fn write_families(snapshot: &Snapshot, sink: &mut dyn Sink) {
    schema::write(snapshot, sink);
    process::write(snapshot, sink);
    daemon::write(snapshot, sink);
}

/// The answer to a scrape as one text: for few series.
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
