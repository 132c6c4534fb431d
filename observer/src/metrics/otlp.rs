//! The export of the sums of calls by OTLP: the same figures as in `/metrics`, for each process.
//!
//! A thread takes a snapshot once a minute (`OTEL_METRIC_EXPORT_INTERVAL`), and sends it in requests of a bounded size, one
//! after the other. What could not be sent is not kept: the next snapshot has newer figures of the same series.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use observer_core::{
    call::{CallProtocol, Role, SpanId},
    process::{Grouping, ProcessId},
    statistics::{Exemplar, Exponential, Histogram, Method, Series},
};
use prost::Message as _;
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::{Clock, Snapshot, rows::Figures};
use crate::{
    clock::monotonic_ns,
    otlp::{
        Delivery, DeliveryCounts, DeliveryFigures, MetricsConfig, OtlpConfig, REQUEST_AT_MOST,
        Resources,
        message::{self, Data, KeyValue, Resource, attribute},
        names, scope,
    },
};

/// Room for the points of one row, which are not cut.
const ROW_AT_MOST: usize = 64 << 10;

/// The export, which runs until the process ends.
#[derive(Clone, Debug)]
pub struct MetricsExport {
    counts: Arc<DeliveryCounts>,
    /// Has a last snapshot sent.
    ending: Arc<Notify>,
}

impl MetricsExport {
    /// Starts the thread, if there is a receiver of metrics. `snapshot` takes a snapshot, and may block.
    pub fn start(
        config: &OtlpConfig,
        snapshot: impl Fn() -> Result<Snapshot, String> + Send + 'static,
    ) -> Result<Option<Self>> {
        let Some(metrics) = config.metrics.clone() else { return Ok(None) };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // For name lookups.
            .max_blocking_threads(1)
            .build()
            .context("cannot start the runtime of the export")?;
        let export = Self { counts: Arc::default(), ending: Arc::default() };
        info!("exporting metrics to {}", metrics.receiver.url);
        let resources = Resources::new(&config.resource);
        let running = export.clone();
        thread::Builder::new()
            .name("otlp-metrics".into())
            .spawn(move || runtime.block_on(running.run(metrics, &resources, snapshot)))
            .context("cannot start the thread that exports metrics")?;
        Ok(Some(export))
    }

    /// The figures of the export.
    pub fn figures(&self) -> DeliveryFigures {
        self.counts.figures()
    }

    /// Has a last snapshot sent, because the daemon ends.
    pub fn flush(&self) {
        self.ending.notify_one();
    }

    async fn run(
        self,
        config: MetricsConfig,
        resources: &Resources,
        snapshot: impl Fn() -> Result<Snapshot, String>,
    ) {
        let MetricsConfig { receiver, interval: period, patience } = config;
        let mut delivery = Delivery::new(receiver, "metrics");
        // The start of a series must be the same in each export.
        let started = Clock::read();
        let mut ticks = interval(period.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick comes at once.
        ticks.tick().await;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.ending.notified() => {}
            }
            match snapshot() {
                Err(error) => warn!("cannot export metrics: {error}"),
                Ok(snapshot) => {
                    let mut points = Points::of(&snapshot, resources, started);
                    while let Some((request, count)) = points.next_request() {
                        delivery.deliver(&request, count, patience, &self.counts).await;
                    }
                }
            }
        }
    }
}

/// The figures of one method of one process.
struct Row<'a> {
    figures: Figures<'a>,
    process: ProcessId,
}

/// What distinguishes rows: pid and name of the process, side, method. Two processes may have the same pid and name one
/// after the other; as series of one resource, they would be the same. Of a service (`--by service`), the pid is 0, and the
/// name has the namespace in front.
type RowKey<'a> = (u32, String, Role, Method<'a>, CallProtocol);

/// The data points of a snapshot, to be taken in requests.
struct Points<'a> {
    snapshot: &'a Snapshot,
    resources: &'a Resources,
    rows: btree_map::IntoIter<RowKey<'a>, Row<'a>>,
    bounds: Vec<f64>,
    started: Clock,
    now_unix_ns: u64,
}

impl<'a> Points<'a> {
    fn of(snapshot: &'a Snapshot, resources: &'a Resources, started: Clock) -> Self {
        let mut rows: BTreeMap<RowKey<'a>, Row<'a>> = BTreeMap::new();
        for (key, series) in snapshot.statistics.series() {
            let process = snapshot.processes.process(key.process);
            let (pid, name) = match snapshot.exposition.by {
                Grouping::Process => {
                    (process.pid, String::from_utf8_lossy(process.comm.as_bytes()).into_owned())
                }
                // Its figures may still go to those of another service.
                Grouping::Service if !process.has_service => continue,
                Grouping::Service => {
                    (0, format!("{}/{}", process.service.namespace, process.service.name))
                }
            };
            let method = Method::new(key.protocol, key.path, snapshot.paths.path(key.path));
            let row = rows.entry((pid, name, key.role, method, key.protocol));
            row.and_modify(|row| {
                row.figures.add(series);
                row.process = row.process.max(key.process);
            })
            .or_insert(Row { figures: Figures::One(series), process: key.process });
        }
        Self {
            snapshot,
            resources,
            rows: rows.into_iter(),
            bounds: snapshot.statistics.buckets().seconds().collect(),
            started,
            now_unix_ns: Clock::read().unix_ns(monotonic_ns()),
        }
    }

    /// A request of at most [`REQUEST_AT_MOST`] bytes, and the number of its points; `None` once there are no more.
    fn next_request(&mut self) -> Option<(message::ExportMetricsRequest, u64)> {
        let mut request = message::ExportMetricsRequest::default();
        let (mut bytes, mut count, mut last) = (0, 0, None);
        while bytes + ROW_AT_MOST <= REQUEST_AT_MOST
            && let Some(((pid, name, role, method, protocol), row)) = self.rows.next()
        {
            let process = (pid, name);
            if last.as_ref() != Some(&process) {
                let of = self.snapshot.processes.process(row.process);
                let resource = match self.snapshot.exposition.by {
                    Grouping::Process => self.resources.of(Some(of)),
                    Grouping::Service => self.resources.of_service(&of),
                };
                bytes += resource.encoded_len() + 2 * names::SCHEMA_URL.len() + 100;
                request.resource_metrics.push(of_resource(resource));
                last = Some(process);
            }
            let scope = request.resource_metrics.last_mut()?.scope_metrics.last_mut()?;
            for (metric, point_bytes) in self.metrics(role, method, protocol, &row.figures) {
                bytes += point_bytes;
                count += 1;
                add(&mut scope.metrics, metric, &mut bytes);
            }
        }
        (count > 0).then_some((request, count))
    }

    /// The metrics of a row, each with one point, and the size of the point.
    fn metrics(
        &self,
        role: Role,
        method: Method<'_>,
        protocol: CallProtocol,
        series: &Series,
    ) -> Vec<(message::Metric, usize)> {
        let start = self.started.unix_ns(series.created_ns);
        let system = names::system(protocol);
        let of_method = || {
            let mut attributes = vec![
                attribute(names::SYSTEM, system),
                attribute(names::METHOD, &*method.qualified()),
            ];
            if protocol != protocol.family() {
                attributes.push(attribute(names::GRPC_PROTOCOL, protocol.as_str()));
            }
            attributes
        };
        let mut metrics = Vec::new();
        for (code, histogram) in series.by_code().iter().filter(|(_, of)| of.count() > 0) {
            let mut attributes = of_method();
            let text = code.map_or("not_seen", |code| protocol.status(code));
            attributes.push(attribute(names::STATUS_CODE, text));
            if code.is_some_and(|code| code.is_error_for(role)) {
                attributes.push(attribute(names::ERROR_TYPE, text));
            }
            metrics.push(self.duration(role, histogram, attributes, start));
        }
        let side = role.as_str();
        let number = |name: &str, unit: &str, value: u64, is_sum: bool| {
            let point = message::NumberDataPoint {
                attributes: of_method(),
                start_unix_ns: start,
                time_unix_ns: self.now_unix_ns,
                value: Some(i64::try_from(value).unwrap_or(i64::MAX)),
            };
            let bytes = point.encoded_len() + 4;
            let data = if is_sum {
                Data::Sum(message::Sum {
                    data_points: vec![point],
                    temporality: message::CUMULATIVE,
                    is_monotonic: true,
                })
            } else {
                Data::Gauge(message::Gauge { data_points: vec![point] })
            };
            let name = format!("{system}.{side}.{name}");
            (message::Metric { name, unit: unit.into(), data: Some(data) }, bytes)
        };
        metrics.push(number("in_flight", "{call}", series.in_flight(), false));
        if protocol.family() == CallProtocol::Thrift {
            return metrics;
        }
        metrics.extend([
            number("msg_received", "{message}", series.received.count, true),
            number("msg_sent", "{message}", series.sent.count, true),
            number("msg_received_bytes", "By", series.received.bytes, true),
            number("msg_sent_bytes", "By", series.sent.bytes, true),
        ]);
        metrics
    }

    fn duration(
        &self,
        role: Role,
        histogram: &Histogram,
        attributes: Vec<KeyValue>,
        start: u64,
    ) -> (message::Metric, usize) {
        let exemplars = histogram.exemplars().map(|of| self.exemplar(of)).collect();
        let (count, sum) = (histogram.count(), Some(histogram.sum_seconds()));
        let (time_unix_ns, temporality) = (self.now_unix_ns, message::CUMULATIVE);
        let (data, bytes) = match histogram.exponential() {
            None => {
                let point = message::HistogramDataPoint {
                    attributes,
                    start_unix_ns: start,
                    time_unix_ns,
                    count,
                    sum,
                    bucket_counts: histogram.counts().to_vec(),
                    explicit_bounds: self.bounds.clone(),
                    exemplars,
                };
                let bytes = point.encoded_len() + 4;
                let data_points = vec![point];
                (Data::Histogram(message::Histogram { data_points, temporality }), bytes)
            }
            Some(exponential) => {
                let point = message::ExponentialDataPoint {
                    attributes,
                    start_unix_ns: start,
                    time_unix_ns,
                    count,
                    sum,
                    scale: exponential.resolution().into(),
                    zero_count: exponential.zeros(),
                    positive: Some(buckets(exponential)),
                    exemplars,
                };
                let bytes = point.encoded_len() + 4;
                let data_points = vec![point];
                let data = message::ExponentialHistogram { data_points, temporality };
                (Data::Exponential(data), bytes)
            }
        };
        let name = format!("rpc.{}.call.duration", role.as_str());
        (message::Metric { name, unit: "s".into(), data: Some(data) }, bytes)
    }

    fn exemplar(&self, of: &Exemplar) -> message::Exemplar {
        message::Exemplar {
            time_unix_ns: self.snapshot.daemon.clock.unix_ns(of.time_ns),
            seconds: Some(of.seconds()),
            span_id: of.span.map(|SpanId(id)| id.into()).unwrap_or_default(),
            trace_id: of.trace.0.into(),
        }
    }
}

/// OpenTelemetry's bucket with index `i` has the durations above 2^(i/2^scale): one less than ours.
fn buckets(exponential: &Exponential) -> message::Buckets {
    let mut of = message::Buckets::default();
    for &(index, count) in exponential.buckets() {
        let index = i32::from(index) - 1;
        if of.bucket_counts.is_empty() {
            of.offset = index;
        }
        let position = usize::try_from(index - of.offset).unwrap_or_default();
        of.bucket_counts.resize(position, 0);
        of.bucket_counts.push(count);
    }
    of
}

fn of_resource(resource: Resource) -> message::ResourceMetrics {
    let schema_url = names::SCHEMA_URL.to_owned();
    message::ResourceMetrics {
        resource: Some(resource),
        scope_metrics: vec![message::ScopeMetrics {
            scope: Some(scope()),
            metrics: Vec::new(),
            schema_url: schema_url.clone(),
        }],
        schema_url,
    }
}

/// Adds the point of a metric to the metric with its name.
fn add(metrics: &mut Vec<message::Metric>, metric: message::Metric, bytes: &mut usize) {
    let Some(same) = metrics.iter_mut().find(|of| of.name == metric.name) else {
        *bytes += metric.name.len() + 40;
        metrics.push(metric);
        return;
    };
    match (&mut same.data, metric.data) {
        (Some(Data::Gauge(of)), Some(Data::Gauge(more))) => of.data_points.extend(more.data_points),
        (Some(Data::Sum(of)), Some(Data::Sum(more))) => of.data_points.extend(more.data_points),
        (Some(Data::Histogram(of)), Some(Data::Histogram(more))) => {
            of.data_points.extend(more.data_points);
        }
        (Some(Data::Exponential(of)), Some(Data::Exponential(more))) => {
            of.data_points.extend(more.data_points);
        }
        // All points of a name have one kind.
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use observer_core::{
        call::{CallKey, CallProtocol, CallSink as _, Code},
        names::PathId,
        process::{Comm, Processes},
    };

    use super::*;
    use crate::metrics::{
        Buckets, Limits, Recording, Statistics,
        tests::{scenario, snapshot_of, unary},
    };

    fn requests(snapshot: &Snapshot) -> Vec<(message::ExportMetricsRequest, u64)> {
        let resources = Resources::new(&[]);
        let mut points = Points::of(snapshot, &resources, Clock::default());
        std::iter::from_fn(|| points.next_request()).collect()
    }

    /// The points of the numbers with this name.
    fn numbers(request: &message::ExportMetricsRequest, name: &str) -> Vec<i64> {
        let scopes = request.resource_metrics.iter().flat_map(|of| &of.scope_metrics);
        let metrics = scopes.flat_map(|of| &of.metrics).filter(|of| of.name == name);
        let points = metrics.flat_map(|of| match &of.data {
            Some(Data::Gauge(of)) => of.data_points.clone(),
            Some(Data::Sum(of)) => of.data_points.clone(),
            _ => Vec::new(),
        });
        points.filter_map(|point| point.value).collect()
    }

    #[test]
    fn each_series_has_its_points() {
        let snapshot = scenario().snapshot();
        let [(request, count)] = &*requests(&snapshot) else { panic!("not one request") };
        let sum = |role, of: fn(&Series) -> u64| {
            let of_role = snapshot.statistics.series().filter(|(key, _)| key.role == role);
            of_role.map(|(_, series)| of(series)).sum::<u64>()
        };
        for (role, side) in [(Role::Server, "server"), (Role::Client, "client")] {
            let name = |name: &str| format!("grpc.{side}.{name}");
            let exported = |of: &str| numbers(request, &name(of)).iter().sum::<i64>() as u64;
            assert_eq!(exported("in_flight"), sum(role, Series::in_flight));
            assert_eq!(exported("msg_received"), sum(role, |of| of.received.count));
            assert_eq!(exported("msg_sent_bytes"), sum(role, |of| of.sent.bytes));
            assert!(!numbers(request, &name("msg_sent")).is_empty());
        }
        assert!(*count > 0);
    }

    #[test]
    fn requests_have_a_bound() {
        const METHODS: usize = 4000;
        let recording = Recording { by_code: true, ..Recording::from(Buckets::default()) };
        let limits = Limits { max_methods: 10_000, max_series: 10_000 };
        let mut statistics = Statistics::new(recording, limits);
        let mut processes = Processes::new(10);
        let process = processes.seen(7, 1, Some(Comm::truncated(b"x"))).id;
        statistics.set_owner(process);
        let paths: Vec<String> = (0..METHODS).map(|number| format!("/s/{number:0100}")).collect();
        for number in 0..METHODS {
            let path = PathId(number as u32 + 2);
            let id = statistics.started(CallKey {
                protocol: CallProtocol::Grpc,
                process,
                role: Role::Server,
                path,
            });
            statistics.ended(id, unary(Some(Code::Ok), 5));
        }
        let snapshot = snapshot_of(statistics, &paths, &processes);
        let series = snapshot.statistics.len();
        let requests = requests(&snapshot);
        assert!(requests.len() > 1, "{} requests", requests.len());
        let mut in_flight = 0;
        for (request, count) in requests {
            assert!(request.encoded_len() <= REQUEST_AT_MOST, "{}", request.encoded_len());
            let numbers = numbers(&request, "grpc.server.in_flight");
            assert_eq!(count, 6 * numbers.len() as u64);
            in_flight += numbers.len();
        }
        assert_eq!(in_flight, series);
    }

    #[test]
    fn buckets_are_dense_and_one_lower() {
        let mut exponential = Exponential::default();
        // 1 s is 2^0, the upper bound of index 0; 2 s is that of index 8.
        for seconds in [1, 2, 2] {
            exponential.observe(seconds * 1_000_000_000);
        }
        let of = buckets(&exponential);
        assert_eq!((of.offset, of.bucket_counts), (-1, vec![1, 0, 0, 0, 0, 0, 0, 0, 2]));
        assert_eq!(buckets(&Exponential::default()), message::Buckets::default());
    }
}
