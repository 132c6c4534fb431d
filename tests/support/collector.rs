//! A receiver of OTLP with OpenTelemetry's own messages: `tests/peers/python/collector.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::daemon::Log;
use crate::namespaces::Network;
use crate::pace;
use crate::process::Process;
use crate::stack::Stack;

/// Time for the receiver to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The protocol of a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Protobuf over HTTP/1.1.
    Http,
    /// gRPC.
    Grpc,
}

/// The files of a receiver with TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Its certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The CA of its clients.
    pub client_ca: PathBuf,
}

/// A receiver that is running.
#[derive(Debug)]
pub struct Collector {
    process: Process,
    output: Log,
    log: Log,
    /// Its address and port.
    pub address: String,
}

/// A request that the receiver got.
#[derive(Clone, Debug, Deserialize)]
pub struct Export {
    /// How it was answered.
    pub answer: String,
    /// The headers, with names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The spans.
    pub spans: Vec<Span>,
    /// The data points of metrics.
    pub points: Vec<Point>,
}

/// A span as OpenTelemetry's messages have it. Ids are in hexadecimal digits.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are OpenTelemetry's")]
pub struct Span {
    pub schema: String,
    pub scope: String,
    pub resource: BTreeMap<String, Value>,
    pub trace: String,
    pub span: String,
    pub state: String,
    pub parent: String,
    pub name: String,
    pub kind: String,
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, Value>,
    pub status: String,
    pub description: String,
    pub flags: u32,
}

/// A data point as OpenTelemetry's messages have it.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are OpenTelemetry's")]
pub struct Point {
    pub resource: BTreeMap<String, Value>,
    pub name: String,
    pub unit: String,
    pub kind: String,
    pub temporality: u8,
    pub monotonic: bool,
    pub attributes: BTreeMap<String, Value>,
    pub start: u64,
    pub time: u64,
    /// The value of a sum or gauge, or the count of a histogram.
    pub count: u64,
    pub sum: f64,
    pub buckets: Vec<u64>,
    /// The bounds; of an exponential histogram scale and offset.
    pub bounds: Vec<f64>,
    /// The exemplars.
    pub exemplars: Vec<Exemplar>,
}

/// An exemplar as OpenTelemetry's messages have it. Ids are in hexadecimal digits.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the names are OpenTelemetry's")]
pub struct Exemplar {
    pub trace: String,
    pub span: String,
    pub value: f64,
    pub time: u64,
}

impl Span {
    /// An attribute; null if it is not there.
    pub fn attribute(&self, key: &str) -> &Value {
        self.attributes.get(key).unwrap_or(&Value::Null)
    }
}

impl Collector {
    /// Starts a receiver with the Python of a stack. Its answers are those that the script lists.
    pub fn start(
        python: &Stack,
        protocol: Protocol,
        answers: &str,
        tls: Option<&Tls>,
    ) -> Result<Self> {
        Self::start_at(python, protocol, answers, tls, "127.0.0.1:0")
    }

    /// Starts a receiver of HTTP in a network namespace. It accepts everything.
    pub fn start_in(network: &Network, python: &Stack) -> Result<Self> {
        Self::run(Some(network), python, Protocol::Http, "ok", None, "127.0.0.1:0")
    }

    /// Like [`Self::start`], at the address of a receiver that has ended.
    pub fn start_at(
        python: &Stack,
        protocol: Protocol,
        answers: &str,
        tls: Option<&Tls>,
        address: &str,
    ) -> Result<Self> {
        Self::run(None, python, protocol, answers, tls, address)
    }

    fn run(
        network: Option<&Network>,
        python: &Stack,
        protocol: Protocol,
        answers: &str,
        tls: Option<&Tls>,
        address: &str,
    ) -> Result<Self> {
        let (_, port) = address.rsplit_once(':').context("an address without a port")?;
        let [interpreter, script, ..] = &*python.server else {
            anyhow::bail!("{} has no script", python.name)
        };
        let mut command = network
            .map_or_else(|| Command::new(interpreter), |network| network.command(interpreter));
        command.arg(Path::new(script).with_file_name("collector.py")).envs(&python.env);
        let protocol = if protocol == Protocol::Http { "http" } else { "grpc" };
        command.args(["--protocol", protocol, "--answers", answers, "--port", port]);
        if let Some(Tls { certificate, key, client_ca }) = tls {
            command.arg("--certificate").arg(certificate).arg("--key").arg(key);
            command.arg("--client-ca").arg(client_ca);
        }
        let (mut process, log) = Process::logged(command.stdout(Stdio::piped()))?;
        let output = Log::of(process.stdout()?);
        let mut collector = Self { process, output, log, address: String::new() };
        collector.address = pace::wait_for(START_LIMIT, || {
            ensure!(collector.process.is_running()?, "it ended: {}", collector.log.text());
            let text = collector.output.text();
            let line = text.lines().next().context("the receiver does not listen");
            Ok(line.map(str::to_owned))
        })
        .and_then(|line| {
            let line: Value = serde_json::from_str(&line)?;
            let address = line.get("address").and_then(Value::as_str).context("no address")?;
            Ok(address.to_owned())
        })?;
        Ok(collector)
    }

    /// The requests so far.
    pub fn exports(&self) -> Result<Vec<Export>> {
        let text = self.output.text();
        // The reader of the pipe has whole lines only.
        let lines = text.lines().skip(1);
        let exports = lines.map(|line| serde_json::from_str(line).with_context(|| line.to_owned()));
        exports.collect::<Result<_>>().with_context(|| self.log.text())
    }

    /// The spans of all requests that were accepted.
    pub fn spans(&self) -> Result<Vec<Span>> {
        let exports = self.exports()?.into_iter();
        let accepted = exports.filter(|export| ["ok", "sleep"].contains(&&*export.answer));
        Ok(accepted.flat_map(|export| export.spans).collect())
    }
}
