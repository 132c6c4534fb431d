//! What the calls add up to, and how Prometheus is told.
//!
//! [`Statistics`] is what a worker writes into; [`Daemon`] holds the daemon's own figures. A
//! scrape takes a [`Snapshot`] of both and [`render`]s it.

#![forbid(unsafe_code)]

mod buckets;
mod daemon;
mod descriptors;
mod family;
mod labels;
mod rows;
pub mod schema;
mod series;
mod statistics;

use std::{collections::hash_map::Entry, fmt, sync::Arc};

use prometheus_client::{encoding::text, registry::Registry};
use rustc_hash::FxHashMap;

pub use self::{
    buckets::{Buckets, BucketsError},
    daemon::{Connections, ConnectionsByProtocol, Daemon, Gap, OwnProcess, Program},
    descriptors::Descriptors,
    series::{Histogram, Messages, Series},
    statistics::{BucketsDiffer, CallsBySight, CallsSeen, GrpcType, Limits, Statistics},
};
use crate::{hpack::PathId, process::Names};

/// The `content-type` of what [`render`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The interned paths of some statistics, spelled out; the interner itself stays with its worker.
#[derive(Clone, Debug, Default)]
pub struct PathNames(FxHashMap<PathId, Box<[u8]>>);

impl PathNames {
    /// Spells out the paths that the statistics have now, as they came from the peers.
    pub fn of<'a>(statistics: &Statistics, resolve: impl Fn(PathId) -> Option<&'a [u8]>) -> Self {
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
    pub fn path(&self, path: PathId) -> &[u8] {
        self.0.get(&path).map_or(b"", |path| path)
    }
}

/// All that a scrape needs, as of one moment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The calls, of all workers.
    pub statistics: Arc<Statistics>,
    /// Spells out the paths in `statistics`.
    pub paths: Arc<PathNames>,
    /// What types the methods were declared with, where that was given.
    pub descriptors: Arc<Descriptors>,
    /// Says who the processes in `statistics` are.
    pub processes: Arc<Names>,
    /// The daemon's own figures.
    pub daemon: Arc<Daemon>,
}

/// The text of a scrape, in the OpenMetrics format; its type is [`CONTENT_TYPE`].
///
/// Families and series come in a fixed order. A family without series is left out.
/// O(series · log series), and about a line per histogram bucket of each.
pub fn render(snapshot: &Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    // A collector has to own what it renders.
    registry.register_collector(Box::new(schema::go::Calls::new(snapshot.clone())));
    registry.register_collector(Box::new(daemon::Figures::new(snapshot.clone())));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[cfg(test)]
mod openmetrics;
#[cfg(test)]
mod tests;
