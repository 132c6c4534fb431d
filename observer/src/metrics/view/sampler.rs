//! Turns snapshots into models.

use std::{
    borrow::Cow, cmp::Reverse, collections::VecDeque, ops::AddAssign, sync::Arc, time::Duration,
};

use rustc_hash::FxHashMap;

use super::{
    CallsOfCode, ConnectionsOf, Counts, DaemonFigures, Edge, Loss, Model, Quantiles, Recent, Row,
    Summary, Totals, Traffic, quantile,
};
use crate::metrics::{
    Daemon, ExpositionConfig, GrpcType, Messages, Series, Snapshot, edges,
    rows::{self, LabelValues, connections, rows},
};
use observer_core::{
    call::{CallProtocol, Code, Role},
    statistics::EdgeSeries,
};

/// The window of recent figures: short enough to show what happens, long enough for quantiles.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Maximum number of rows in a model: many viewers get one every second.
pub const MAX_ROWS: usize = 1000;

/// Maximum number of edges in a model.
pub const MAX_EDGES: usize = 500;

/// Turns snapshots into models.
///
/// It keeps the totals of each series, and what was added to them within the [`WINDOW`]: about 0.3 kB for each series, and
/// as much again for each second in which it had calls.
#[derive(Debug, Default)]
pub struct Sampler {
    instance: u32,
    samples: u64,
    /// The times of samples: the last one before the window, and those within it.
    times: VecDeque<(u64, Duration)>,
    tracks: FxHashMap<Key, Track<Counts>>,
    edges: FxHashMap<edges::Ends, Track<Counts>>,
    losses: FxHashMap<&'static str, Track<u64>>,
    cpu: Track<f64>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    protocol: CallProtocol,
    role: Role,
    pid: u32,
    process: String,
    service: String,
    method: String,
}

impl Key {
    fn of(row: &rows::Row<'_>) -> Self {
        Self {
            protocol: row.protocol,
            role: row.role,
            pid: row.process.pid,
            process: row.process.name(),
            service: row.method.service.into(),
            method: row.method.method.into(),
        }
    }
}

/// The type of a row of Thrift calls.
const THRIFT: &str = CallProtocol::Thrift.as_str();

/// A total, and what was added to it in each sample of the window in which it grew.
#[derive(Debug, Default)]
struct Track<T> {
    total: T,
    added: VecDeque<(u64, T)>,
}

/// Figures that add up.
trait Additive: Default + for<'a> AddAssign<&'a Self> {
    fn is_zero(&self) -> bool;
    /// The difference from an earlier total. If that is larger, the count has started again, and all of it is new.
    fn since(&self, before: &Self) -> Self;
}

impl Sampler {
    /// Creates a sampler whose models have this [`DaemonFigures::instance`].
    pub fn new(instance: u32) -> Self {
        Self { instance, ..Self::default() }
    }

    /// Takes a sample. `now` is the time of any clock that never goes back.
    pub fn sample(&mut self, snapshot: &Snapshot, now: Duration) -> Model {
        let first = self.samples == 0;
        self.samples += 1;
        self.times.push_back((self.samples, now));
        while self.times.get(1).is_some_and(|&(_, then)| now.saturating_sub(then) >= WINDOW) {
            self.times.pop_front();
        }
        let (base, then) = self.times.front().copied().unwrap_or_default();
        let moment = Moment {
            sample: self.samples,
            base,
            first,
            window_seconds: (!first).then(|| now.saturating_sub(then).as_secs_f64()),
        };
        let bounds_seconds: Vec<f64> = snapshot.statistics.buckets().seconds().collect();
        let snapshot = &without_details(snapshot);
        let values = LabelValues::new(snapshot);
        let all = self.rows(&rows(snapshot, &values), moment, &bounds_seconds);
        let mut summary = sums(&all, moment);
        let (rows, rows_left_out) = most_active(all);
        summary.find_worst(&rows);
        let (edges, edges_left_out) = self.edges(snapshot, moment, &bounds_seconds);
        Model {
            sample: self.samples,
            window_seconds: moment.window_seconds,
            bounds_seconds,
            summary,
            rows,
            rows_left_out,
            edges,
            edges_left_out,
            connections: connections(snapshot, &values)
                .into_iter()
                .filter(|&(_, _, open)| open > 0)
                .map(|(role, process, open)| ConnectionsOf {
                    process: process.name(),
                    pid: process.pid,
                    role,
                    open,
                })
                .collect(),
            daemon: self.daemon(snapshot, moment),
        }
    }

    /// The rows of a sample. Forgets series that are gone.
    fn rows(&mut self, rows: &[rows::Row<'_>], moment: Moment, bounds: &[f64]) -> Vec<Row> {
        let mut before = std::mem::take(&mut self.tracks);
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            let key = Key::of(row);
            let track = before.remove(&key);
            // All calls of a series that is new since the first sample are new too.
            let seen = track.is_some() || !moment.first;
            let mut track = track.unwrap_or_default();
            let last = track.advance(counts(&row.series), moment, seen);
            let recent = recent(&track, moment, bounds);
            let Key { protocol, role, pid, process, service, method } = &key;
            all.push(Row {
                process: process.clone(),
                pid: *pid,
                service_name: row.process.service.clone(),
                role: *role,
                service: service.clone(),
                method: method.clone(),
                grpc_type: match protocol {
                    CallProtocol::Grpc => row.grpc_type.as_str().into(),
                    CallProtocol::Thrift => THRIFT.into(),
                    CallProtocol::GrpcWeb | CallProtocol::Connect => {
                        format!("{} {}", protocol.as_str(), row.grpc_type.as_str()).into()
                    }
                },
                in_flight: row.series.in_flight(),
                total: totals(&row.series, bounds),
                recent,
                last: without_zeros(last),
            });
            self.tracks.insert(key, track);
        }
        all
    }

    /// The edges of a sample with most calls, and the number of the others. Forgets edges that are gone.
    fn edges(
        &mut self,
        snapshot: &Snapshot,
        moment: Moment,
        bounds: &[f64],
    ) -> (Option<Vec<Edge>>, usize) {
        let Some(all) = &snapshot.edges else { return (None, 0) };
        let mut before = std::mem::take(&mut self.edges);
        let mut edges = Vec::new();
        for row in edges::by_services(all) {
            let edges::Row { ends, series, .. } = row;
            let track = before.remove(&ends);
            let seen = track.is_some() || !moment.first;
            let mut track = track.unwrap_or_default();
            let counts = counts_of_edge(&series);
            track.advance(counts.clone(), moment, seen);
            let Recent { counts: now, rate, error_ratio, quantiles } =
                recent(&track, moment, bounds);
            let p95 = quantile(0.95, bounds, &now.latency);
            let [client, server] = ends.names();
            edges.push(Edge {
                client,
                server,
                is_watched: !ends.is_virtual,
                calls: counts.ended,
                failed: counts.failed,
                recent_calls: now.ended,
                recent_failed: now.failed,
                rate,
                error_ratio,
                p50: quantiles.p50,
                p95,
                p99: quantiles.p99,
            });
            self.edges.insert(ends, track);
        }
        let left_out = edges.len().saturating_sub(MAX_EDGES);
        if left_out > 0 {
            // Stable: they stay in the order of their names.
            let mut order: Vec<usize> = (0..edges.len()).collect();
            let activity = |edge: &Edge| (edge.recent_failed, edge.recent_calls, edge.calls);
            order.sort_by_key(|&at| edges.get(at).map(|edge| Reverse(activity(edge))));
            order.truncate(MAX_EDGES);
            order.sort_unstable();
            edges = order.into_iter().filter_map(|at| edges.get(at).cloned()).collect();
        }
        (Some(edges), left_out)
    }

    fn daemon(&mut self, snapshot: &Snapshot, moment: Moment) -> DaemonFigures {
        let Daemon { backend, records, connections, connections_seen, streams, own, .. } =
            snapshot.daemon.as_ref();
        let cpu_ratio = own.cpu_seconds.and_then(|total| {
            self.cpu.advance(total, moment, !moment.first);
            moment
                .window_seconds
                .filter(|window| *window > 0.0)
                .map(|window| self.cpu.recent() / window)
        });
        DaemonFigures {
            instance: self.instance,
            version: env!("CARGO_PKG_VERSION").into(),
            backend: backend.clone(),
            start_time_seconds: own.start_time_seconds,
            cpu_seconds: own.cpu_seconds,
            cpu_ratio,
            resident_memory_bytes: own.resident_memory_bytes,
            records: *records,
            streams: *streams,
            connections: *connections,
            connections_seen: *connections_seen,
            calls: snapshot.statistics.calls().total(),
            losses: self.losses(snapshot, moment),
        }
    }

    fn losses(&mut self, snapshot: &Snapshot, moment: Moment) -> Vec<Loss> {
        let Daemon { gaps, hpack_errors, unmeasured, processes_overflow, programs, .. } =
            snapshot.daemon.as_ref();
        let misses = programs.iter().map(|program| program.misses).sum();
        let others = [
            ("hpack_errors", *hpack_errors),
            ("unclear_streams", unmeasured.unclear),
            ("unconfirmed_streams", unmeasured.unconfirmed),
            ("too_many_streams", unmeasured.too_many),
            ("processes_overflow", *processes_overflow),
            ("program_misses", misses),
            ("series_overflow", snapshot.statistics.overflow()),
            ("series_late_events", snapshot.statistics.late()),
        ];
        let gaps = gaps.iter().map(|gap| (gap.cause, gap.events, gap.bytes));
        let all = gaps.chain(others.map(|(cause, events)| (cause, events, 0)));
        let mut losses = Vec::new();
        for (cause, events, bytes) in all {
            let track = self.losses.entry(cause).or_default();
            track.advance(events, moment, !moment.first);
            if events > 0 {
                let recent = track.recent();
                losses.push(Loss { cause: cause.into(), events, recent, bytes });
            }
        }
        losses
    }
}

#[derive(Clone, Copy, Debug)]
struct Moment {
    sample: u64,
    /// The sample at the start of the window.
    base: u64,
    first: bool,
    window_seconds: Option<f64>,
}

impl<T: Additive + Clone> Track<T> {
    /// Takes the present total. Returns what was added: nothing if the previous total was not `seen`.
    fn advance(&mut self, total: T, moment: Moment, seen: bool) -> T {
        while self.added.front().is_some_and(|&(sample, _)| sample <= moment.base) {
            self.added.pop_front();
        }
        let added = if seen { total.since(&self.total) } else { T::default() };
        if !added.is_zero() {
            self.added.push_back((moment.sample, added.clone()));
        }
        self.total = total;
        added
    }

    /// The counts within the window.
    fn recent(&self) -> T {
        let mut sum = T::default();
        for (_, added) in &self.added {
            sum += added;
        }
        sum
    }
}

impl Additive for u64 {
    fn is_zero(&self) -> bool {
        *self == 0
    }

    fn since(&self, before: &Self) -> Self {
        self.checked_sub(*before).unwrap_or(*self)
    }
}

impl Additive for f64 {
    fn is_zero(&self) -> bool {
        *self <= 0.0
    }

    fn since(&self, before: &Self) -> Self {
        (self - before).max(0.0)
    }
}

impl AddAssign<&Self> for Counts {
    fn add_assign(&mut self, other: &Self) {
        let Self { ended, failed, code_not_seen, latency } = other;
        self.ended += ended;
        self.failed += failed;
        self.code_not_seen += code_not_seen;
        self.latency.resize(latency.len().max(self.latency.len()), 0);
        for (to, from) in self.latency.iter_mut().zip(latency) {
            *to += from;
        }
    }
}

impl Additive for Counts {
    fn is_zero(&self) -> bool {
        self.ended == 0
    }

    fn since(&self, before: &Self) -> Self {
        if self.ended < before.ended {
            return self.clone();
        }
        let before_of = before.latency.iter().copied().chain(std::iter::repeat(0));
        Self {
            ended: self.ended - before.ended,
            failed: self.failed.saturating_sub(before.failed),
            code_not_seen: self.code_not_seen.saturating_sub(before.code_not_seen),
            latency: self
                .latency
                .iter()
                .zip(before_of)
                .map(|(now, before)| now.saturating_sub(before))
                .collect(),
        }
    }
}

/// The snapshot without further labels: a row is for a name and a pid, whatever labels the series of a scrape have.
fn without_details(snapshot: &Snapshot) -> Snapshot {
    let exposition =
        ExpositionConfig { labels: Vec::new(), ..snapshot.exposition.as_ref().clone() };
    Snapshot { exposition: Arc::new(exposition), ..snapshot.clone() }
}

fn counts(series: &Series) -> Counts {
    let ends = Code::ALL.into_iter().zip(series.handled);
    Counts {
        ended: series.ended(),
        // A code that was not seen is not an error.
        failed: ends.filter(|(code, _)| code.is_failure()).map(|(_, calls)| calls).sum(),
        code_not_seen: series.handled_code_not_seen,
        latency: series.handling.counts().to_vec(),
    }
}

/// The calls of an edge. If another daemon counts them, they are those that the server's end has seen.
fn counts_of_edge(series: &EdgeSeries) -> Counts {
    let latency = if series.client.count() > 0 { &series.client } else { &series.server };
    let ended = series.ended();
    Counts {
        ended: if ended > 0 { ended } else { latency.count() },
        failed: series.failed(),
        code_not_seen: if ended > 0 { series.handled_code_not_seen } else { latency.count() },
        latency: latency.counts().to_vec(),
    }
}

fn without_zeros(mut counts: Counts) -> Counts {
    if counts.latency.iter().all(|&count| count == 0) {
        counts.latency.clear();
    }
    counts
}

fn recent(track: &Track<Counts>, moment: Moment, bounds: &[f64]) -> Recent {
    let counts = track.recent();
    let code_seen = counts.ended - counts.code_not_seen;
    let window = moment.window_seconds.filter(|window| *window > 0.0);
    Recent {
        rate: window.map(|window| counts.ended as f64 / window),
        error_ratio: (code_seen > 0).then(|| counts.failed as f64 / code_seen as f64),
        quantiles: quantiles(bounds, &counts.latency),
        counts: without_zeros(counts),
    }
}

fn quantiles(bounds: &[f64], latency: &[u64]) -> Quantiles {
    let of = |share| quantile(share, bounds, latency);
    Quantiles { p50: of(0.5), p90: of(0.9), p99: of(0.99) }
}

fn totals(series: &Series, bounds: &[f64]) -> Totals {
    let codes = Code::ALL.into_iter().map(Code::as_camel_case).zip(series.handled);
    let not_seen = ("not_seen", series.handled_code_not_seen);
    let traffic = |of: Messages| Traffic { messages: of.count, bytes: of.bytes };
    Totals {
        started: series.started,
        codes: codes
            .chain([not_seen])
            .filter(|&(_, calls)| calls > 0)
            .map(|(code, calls)| CallsOfCode { code: Cow::Borrowed(code), calls })
            .collect(),
        quantiles: quantiles(bounds, series.handling.counts()),
        counts: without_zeros(counts(series)),
        received: traffic(series.received),
        sent: traffic(series.sent),
    }
}

/// The most active rows, at most [`MAX_ROWS`], in their order; and the number of those that were left out.
fn most_active(mut rows: Vec<Row>) -> (Vec<Row>, usize) {
    let left_out = rows.len().saturating_sub(MAX_ROWS);
    if left_out > 0 {
        rows.sort_by_key(|row| {
            let Recent { counts, .. } = &row.recent;
            Reverse((counts.failed, counts.ended, row.in_flight, row.total.counts.ended))
        });
        rows.truncate(MAX_ROWS);
        rows.sort_by(|a, b| a.key().cmp(&b.key()));
    }
    (rows, left_out)
}

fn sums(rows: &[Row], moment: Moment) -> Summary {
    let mut summary = Summary {
        server_rate: moment.window_seconds.map(|_| 0.0),
        client_rate: moment.window_seconds.map(|_| 0.0),
        ..Summary::default()
    };
    for row in rows {
        let (rate, in_flight) = match row.role {
            Role::Server => (&mut summary.server_rate, &mut summary.server_in_flight),
            Role::Client => (&mut summary.client_rate, &mut summary.client_in_flight),
        };
        *rate = rate.zip(row.recent.rate).map(|(sum, rate)| sum + rate);
        *in_flight += row.in_flight;
        summary.failing_rows += usize::from(row.recent.counts.failed > 0);
    }
    summary
}

impl Summary {
    /// Finds the rows to look at first. Methods with streams are left out as slowest: streams may last.
    pub fn find_worst(&mut self, rows: &[Row]) {
        let rows = || rows.iter().enumerate();
        let failed = |row: &Row| row.recent.counts.failed;
        self.most_failing = rows()
            .filter(|(_, row)| failed(row) > 0)
            .max_by_key(|(at, row)| (failed(row), Reverse(*at)))
            .map(|(at, _)| at);
        self.slowest_unary = rows()
            .filter(|(_, row)| {
                row.grpc_type.ends_with(GrpcType::Unary.as_str()) || row.grpc_type == THRIFT
            })
            .filter_map(|(at, row)| Some((row.recent.quantiles.p99?, Reverse(at))))
            .max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
            .map(|(_, Reverse(at))| at);
    }
}
