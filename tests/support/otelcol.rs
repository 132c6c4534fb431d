//! OpenTelemetry's Collector (`tests/peers/collector`), which writes what it receives to files, and makes metrics from
//! spans.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::collector::Span;
use crate::daemon::{Log, free_address};
use crate::pace;
use crate::process::Process;
use crate::stack::Stack;

/// Time to start, to write a file, or to end.
const LIMIT: Duration = Duration::from_secs(30);

/// A Collector that is running.
#[derive(Debug)]
pub struct Otelcol {
    process: Process,
    log: Log,
    folder: TempDir,
    /// Its address for OTLP over HTTP.
    pub http: SocketAddr,
    /// Its address for OTLP over gRPC.
    pub grpc: SocketAddr,
}

/// A histogram or a sum of one series, as the Collector has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The name of the metric.
    pub name: String,
    /// The attributes of the resource.
    pub resource: BTreeMap<String, Value>,
    /// The attributes of the series.
    pub attributes: BTreeMap<String, Value>,
    /// The value of a sum, or the count of a histogram.
    pub count: u64,
    /// The sum of a histogram.
    pub sum: f64,
    /// The counts of a histogram's buckets, which are not cumulative.
    pub buckets: Vec<u64>,
}

impl Series {
    /// An attribute of the series, or an empty text.
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// The number of the process.
    pub fn pid(&self) -> Result<u64> {
        let pid = self.resource.get("process.pid").and_then(Value::as_u64);
        pid.with_context(|| format!("no process: {self:?}"))
    }
}

impl Otelcol {
    /// Starts a Collector and waits until it listens. Histograms of spans have these bounds, in seconds.
    pub fn start(stack: &Stack, bounds: &[f64]) -> Result<Self> {
        let program = stack.server.first().context("a Collector without a program")?;
        let folder = TempDir::with_prefix("otelcol-").context("create a folder")?;
        let (http, grpc) = (free_address()?, free_address()?);
        let file = folder.path().join("config.yaml");
        fs::write(&file, configuration(folder.path(), http, grpc, bounds))
            .with_context(|| format!("write {}", file.display()))?;
        let mut command = Command::new(program);
        command.arg("--config").arg(file).stdout(Stdio::null());
        let (process, log) = Process::logged(&mut command)?;
        let mut collector = Self { process, log, folder, http, grpc };
        pace::wait_for(LIMIT, || {
            let is_running = collector.process.is_running()?;
            ensure!(is_running, "the Collector ended: {}", collector.log.text());
            let connect = |address| TcpStream::connect(address).map(drop);
            let listens = connect(http).and_then(|()| connect(grpc));
            Ok(listens.with_context(|| format!("it does not listen: {}", collector.log.text())))
        })?;
        Ok(collector)
    }

    /// Polls its files until `condition` holds; then its last error is returned, with the log.
    pub fn wait_until<T>(&self, condition: impl Fn(&Self) -> Result<T>) -> Result<T> {
        pace::wait_for(LIMIT, || Ok(condition(self).with_context(|| self.log.text())))
    }

    /// The spans that it received.
    pub fn spans(&self) -> Result<Vec<Span>> {
        let mut spans = Vec::new();
        for line in self.lines::<TracesLine>("traces")? {
            for of in line.resource_spans {
                let resource = of.resource.attributes()?;
                for scope in of.scope_spans {
                    for span in scope.spans {
                        spans.push(span.read(&scope.schema_url, &scope.scope.name, &resource)?);
                    }
                }
            }
        }
        Ok(spans)
    }

    /// The metrics that it received, as they were last.
    pub fn received(&self) -> Result<Vec<Series>> {
        self.series("metrics")
    }

    /// The metrics that it made from spans (spanmetrics), as they were last.
    pub fn of_spans(&self) -> Result<Vec<Series>> {
        self.series("spanmetrics")
    }

    fn series(&self, file: &str) -> Result<Vec<Series>> {
        let mut last = BTreeMap::new();
        for line in self.lines::<MetricsLine>(file)? {
            for of in line.resource_metrics {
                let resource = of.resource.attributes()?;
                for metric in of.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                    let points = [metric.sum, metric.gauge, metric.histogram];
                    for point in points.into_iter().flatten().flat_map(|of| of.data_points) {
                        let series = point.read(&metric.name, &resource)?;
                        let Series { name, resource, attributes, .. } = &series;
                        last.insert(format!("{name} {resource:?} {attributes:?}"), series);
                    }
                }
            }
        }
        Ok(last.into_values().collect())
    }

    /// The whole lines of a file, each with the content of one request.
    fn lines<T: for<'a> Deserialize<'a>>(&self, file: &str) -> Result<Vec<T>> {
        let path = self.folder.path().join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let read = |line: &str| serde_json::from_str(line).with_context(|| line.to_owned());
        whole.lines().map(read).collect()
    }

    /// Ends it by SIGTERM; an error if it logged a problem.
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(LIMIT).with_context(|| self.log.text())?;
        let log = self.log.text();
        ensure!(status.success() && log.is_empty(), "the Collector ended with {status}: {log}");
        Ok(())
    }
}

/// It logs only problems, and does not listen for anything else.
fn configuration(folder: &Path, http: SocketAddr, grpc: SocketAddr, bounds: &[f64]) -> String {
    let bounds: Vec<String> = bounds.iter().map(|bound| format!("{bound}s")).collect();
    let file = |name: &str| {
        format!(
            "  file/{name}:\n    path: {}\n    flush_interval: 100ms\n",
            folder.join(name).display()
        )
    };
    format!(
        "receivers:\n  otlp:\n    protocols:\n      http:\n        endpoint: {http}\n      grpc:\n        \
         endpoint: {grpc}\n\
         exporters:\n{}{}{}\
         connectors:\n  span_metrics:\n    histogram:\n      unit: s\n      explicit:\n        buckets: [{}]\n    \
         dimensions: [{{name: rpc.method}}, {{name: rpc.method_original}}, {{name: rpc.response.status_code}}]\n    \
         metrics_flush_interval: 200ms\n\
         service:\n  telemetry:\n    metrics: {{level: none}}\n    logs: {{level: warn}}\n  pipelines:\n    \
         traces: {{receivers: [otlp], exporters: [file/traces, span_metrics]}}\n    \
         metrics: {{receivers: [otlp], exporters: [file/metrics]}}\n    \
         metrics/spans: {{receivers: [span_metrics], exporters: [file/spanmetrics]}}\n",
        file("traces"),
        file("metrics"),
        file("spanmetrics"),
        bounds.join(", "),
    )
}

// OTLP as JSON: 64-bit integers are texts, and enumerations are numbers.

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TracesLine {
    #[serde(default)]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans {
    resource: Attributed,
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScopeSpans {
    scope: Scope,
    spans: Vec<JsonSpan>,
    schema_url: String,
}

#[derive(Deserialize)]
struct Scope {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonSpan {
    trace_id: String,
    span_id: String,
    #[serde(default)]
    trace_state: String,
    #[serde(default)]
    parent_span_id: String,
    #[serde(default)]
    flags: u32,
    name: String,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    #[serde(flatten)]
    of: Attributed,
    status: JsonStatus,
}

#[derive(Deserialize)]
struct JsonStatus {
    #[serde(default)]
    code: u8,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricsLine {
    #[serde(default)]
    resource_metrics: Vec<ResourceMetrics>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceMetrics {
    resource: Attributed,
    scope_metrics: Vec<ScopeMetrics>,
}

#[derive(Deserialize)]
struct ScopeMetrics {
    metrics: Vec<JsonMetric>,
}

#[derive(Deserialize)]
struct JsonMetric {
    name: String,
    sum: Option<Points>,
    gauge: Option<Points>,
    histogram: Option<Points>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Points {
    data_points: Vec<JsonPoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonPoint {
    #[serde(flatten)]
    of: Attributed,
    as_int: Option<String>,
    count: Option<String>,
    #[serde(default)]
    sum: f64,
    #[serde(default)]
    bucket_counts: Vec<String>,
}

#[derive(Deserialize)]
struct Attributed {
    #[serde(default)]
    attributes: Vec<JsonAttribute>,
}

#[derive(Deserialize)]
struct JsonAttribute {
    key: String,
    value: JsonValue,
}

#[derive(Deserialize)]
enum JsonValue {
    #[serde(rename = "stringValue")]
    Text(String),
    #[serde(rename = "intValue")]
    Number(String),
    #[serde(rename = "boolValue")]
    Flag(bool),
}

impl Attributed {
    fn attributes(&self) -> Result<BTreeMap<String, Value>> {
        let read = |JsonAttribute { key, value }: &JsonAttribute| {
            let value = match value {
                JsonValue::Text(text) => text.as_str().into(),
                JsonValue::Number(number) => number.parse::<i64>()?.into(),
                JsonValue::Flag(value) => (*value).into(),
            };
            Ok((key.clone(), value))
        };
        self.attributes.iter().map(read).collect()
    }
}

impl JsonSpan {
    fn read(self, schema: &str, scope: &str, resource: &BTreeMap<String, Value>) -> Result<Span> {
        let kind = match self.kind {
            2 => "SPAN_KIND_SERVER",
            3 => "SPAN_KIND_CLIENT",
            other => bail!("a span of kind {other}"),
        };
        let status = match self.status.code {
            0 => "STATUS_CODE_UNSET",
            2 => "STATUS_CODE_ERROR",
            other => bail!("a span with status {other}"),
        };
        Ok(Span {
            schema: schema.to_owned(),
            scope: scope.to_owned(),
            resource: resource.clone(),
            trace: self.trace_id,
            span: self.span_id,
            state: self.trace_state,
            parent: self.parent_span_id,
            name: self.name,
            kind: kind.to_owned(),
            start: self.start_time_unix_nano.parse()?,
            end: self.end_time_unix_nano.parse()?,
            attributes: self.of.attributes()?,
            status: status.to_owned(),
            description: self.status.message,
            flags: self.flags,
        })
    }
}

impl JsonPoint {
    fn read(self, name: &str, resource: &BTreeMap<String, Value>) -> Result<Series> {
        let count = self.as_int.or(self.count).context("a point without a value")?;
        let buckets = self.bucket_counts.iter().map(|count| Ok(count.parse()?));
        Ok(Series {
            name: name.to_owned(),
            resource: resource.clone(),
            attributes: self.of.attributes()?,
            count: count.parse()?,
            sum: self.sum,
            buckets: buckets.collect::<Result<_>>()?,
        })
    }
}
