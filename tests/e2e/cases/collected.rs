//! The export by OTLP to OpenTelemetry's Collector, compared with the peers' own records and with `/metrics`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use support::collector::Span;
use support::daemon::Daemon;
use support::openmetrics::{Labels, Metrics, label};
use support::otelcol::{Otelcol, Series};
use support::peer::{Client, Identity, Listen, Server};
use support::report;
use support::stack::Stack;
use support::truth::{Truth, agree, code_name};

use crate::case::Case;
use crate::plans;

/// The name of the case, for which the Collector is prepared.
pub(crate) const NAME: &str = "otlp: a Collector, with the calls of all stacks";

/// The case; ignored without a Collector.
pub(crate) fn case(stacks: &'static [Stack], collector: Option<&'static Stack>) -> Case {
    let case = Case::new(NAME, move || {
        all_calls_arrive(stacks, collector.context("the Collector could not be prepared")?)
    });
    case.only_if(collector.is_some() && !stacks.is_empty())
}

/// Upper bounds of buckets in seconds.
const BOUNDS: [f64; 5] = [0.001, 0.01, 0.1, 1.0, 10.0];

/// A client and a server that have ended, and the client's record.
struct Pair {
    client: Identity,
    server: Identity,
    did: Truth,
}

/// The calls of a process: its number, the side, the method, and the status code as OpenTelemetry writes it.
type Key = (u64, &'static str, String, String);

/// Each stack calls the next one. The Collector has a span for each end of each call, with the right method, code, status
/// and parent, and counts and times them as the daemon does.
fn all_calls_arrive(stacks: &[Stack], collector: &Stack) -> Result<()> {
    let collector = Otelcol::start(collector, &BOUNDS)?;
    let start = |stack| Server::start(stack, Listen::V4);
    let servers = stacks.iter().map(start).collect::<Result<Vec<_>>>()?;
    let ports = servers.iter().map(Server::port).collect::<Result<Vec<_>>>()?.join(",");
    let variables = [
        "export OTEL_EXPORTER_OTLP_COMPRESSION=gzip",
        "export OTEL_BSP_SCHEDULE_DELAY=100 OTEL_METRIC_EXPORT_INTERVAL=500",
        // Traces use the other protocol.
        &format!("export OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=http://{}/v1/metrics", collector.http),
        "export OTEL_EXPORTER_OTLP_METRICS_PROTOCOL=http/protobuf",
        &format!("export OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://{}", collector.grpc),
        "export OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc",
    ];
    let buckets = BOUNDS.map(|bound| bound.to_string()).join(",");
    let daemon = Daemon::start_after(&variables, &["--port", &ports, "--buckets", &buckets])?;
    let plan = [plans::kinds(), plans::errors()].concat();
    let mut pairs = Vec::new();
    for (server, client) in servers.into_iter().zip(stacks.iter().cycle().skip(1)) {
        let (client, did) = Client::start(client, &server, &plan)?.finish()?;
        let identity = server.identity().clone();
        agree(&server.stop()?, &did)?;
        pairs.push(Pair { client, server: identity, did });
    }
    let expected = recorded(&pairs);
    let ends: u64 = expected.values().sum();
    daemon.wait_until(|metrics| {
        let of = |outcome| metrics.sum("observer_otlp_spans_total", &[("outcome", outcome)]);
        let (all, exported) = (metrics.sum("observer_otlp_spans_total", &[]), of("exported"));
        ensure!(
            [all, exported] == [ends as f64; 2],
            "{exported} of {all} are exported, not {ends}"
        );
        Ok(())
    })?;
    let spans = collector.wait_until(|collector| {
        let spans = collector.spans()?;
        ensure!(spans.len() as u64 == ends, "{} spans of {ends} ends of calls", spans.len());
        Ok(spans)
    })?;
    same("spans", &counted(&spans)?, &expected)?;
    each_is_right(&spans)?;
    each_is_joined(&spans, &pairs)?;
    let metrics = daemon.scrape()?;
    same("handled calls", &handled(&metrics)?, &expected)?;
    collector.wait_until(|collector| {
        let of_spans = collector.of_spans()?;
        let calls = of(&of_spans, "traces.span.metrics.calls");
        let number = |series: &&Series| Ok((key_of(series)?, series.count));
        same("calls by spanmetrics", &calls.iter().map(number).collect::<Result<_>>()?, &expected)?;
        same_times(&of(&of_spans, "traces.span.metrics.duration"), &metrics)
    })?;
    collector.wait_until(|collector| {
        let mut durations = BTreeMap::new();
        for series in collector.received()? {
            if ["rpc.client.call.duration", "rpc.server.call.duration"].contains(&&*series.name) {
                ensure!(durations.insert(key_of(&series)?, series.count).is_none(), "{series:?}");
            }
        }
        same("durations", &durations, &expected)
    })?;
    report::exact(4 * expected.len() + spans.len());
    daemon.stop()?;
    collector.stop()
}

/// The calls of the peers at both ends.
fn recorded(pairs: &[Pair]) -> BTreeMap<Key, u64> {
    let mut calls = BTreeMap::new();
    for Pair { client, server, did } in pairs {
        for row in did.calls.iter().filter(|row| row.sums.calls > 0) {
            let method = row.method.trim_start_matches('/');
            for (pid, side) in [(client.pid, "client"), (server.pid, "server")] {
                let key = (pid.into(), side, method.to_owned(), as_upper_case(code_name(row.code)));
                *calls.entry(key).or_default() += row.sums.calls;
            }
        }
    }
    calls
}

/// `NOT_FOUND` from `NotFound`. One code is spelled in two ways.
fn as_upper_case(code: &str) -> String {
    if ["OK", "Canceled"].contains(&code) {
        return code.replace("Canceled", "CANCELLED");
    }
    let mut name = String::new();
    for letter in code.chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// An error that shows the first differences.
fn same(what: &str, found: &BTreeMap<Key, u64>, expected: &BTreeMap<Key, u64>) -> Result<()> {
    let keys = found.keys().chain(expected.keys());
    let differences: BTreeMap<_, _> = keys
        .map(|key| (key, (found.get(key), expected.get(key))))
        .filter(|(_, (found, expected))| found != expected)
        .take(10)
        .collect();
    ensure!(differences.is_empty(), "{what}, and what the peers recorded: {differences:#?}");
    Ok(())
}

fn text<'a>(span: &'a Span, key: &str) -> &'a str {
    span.attribute(key).as_str().unwrap_or_default()
}

fn side(kind: &str) -> &'static str {
    if kind == "SPAN_KIND_CLIENT" { "client" } else { "server" }
}

fn pid(span: &Span) -> Result<u64> {
    let pid = span.resource.get("process.pid").and_then(Value::as_u64);
    pid.with_context(|| format!("no process: {span:#?}"))
}

/// The method as it was on the wire.
fn method(span: &Span) -> &str {
    match text(span, "rpc.method") {
        "_OTHER" => text(span, "rpc.method_original"),
        method => method,
    }
}

fn counted(spans: &[Span]) -> Result<BTreeMap<Key, u64>> {
    let mut counts = BTreeMap::new();
    for span in spans {
        let code = text(span, "rpc.response.status_code").to_owned();
        let key = (pid(span)?, side(&span.kind), method(span).to_owned(), code);
        *counts.entry(key).or_default() += 1;
    }
    Ok(counts)
}

/// Codes that are errors of a server; a client's are all but `OK`.
const OF_SERVERS: [&str; 6] =
    ["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"];

/// An error if a span has a wrong name, status or time.
fn each_is_right(spans: &[Span]) -> Result<()> {
    for span in spans {
        let context = || format!("a wrong span: {span:#?}");
        let code = text(span, "rpc.response.status_code");
        let is_error = match side(&span.kind) {
            "client" => code != "OK",
            _ => OF_SERVERS.contains(&code),
        };
        let status = if is_error { "STATUS_CODE_ERROR" } else { "STATUS_CODE_UNSET" };
        ensure!(span.status == status, context());
        ensure!(text(span, "error.type") == if is_error { code } else { "" }, context());
        let name = if code == "UNIMPLEMENTED" { "grpc" } else { method(span) };
        ensure!(span.name == name && span.scope == "observer", context());
        ensure!(span.start <= span.end && span.end - span.start < 120_000_000_000, context());
        // As the client named the server.
        ensure!(["127.0.0.1", "localhost"].contains(&text(span, "server.address")), context());
        ensure!(span.schema == "https://opentelemetry.io/schemas/1.44.0", context());
    }
    Ok(())
}

/// An error unless each trace has the two ends of one call, one below the other.
fn each_is_joined(spans: &[Span], pairs: &[Pair]) -> Result<()> {
    let mut traces = BTreeMap::<&str, [Option<&Span>; 2]>::new();
    for span in spans {
        let [client, server] = traces.entry(&span.trace).or_default();
        let end = if side(&span.kind) == "client" { client } else { server };
        ensure!(end.replace(span).is_none(), "two calls have one trace: {span:#?}");
    }
    for ends in traces.values() {
        let [Some(client), Some(server)] = ends else { anyhow::bail!("half a trace: {ends:#?}") };
        let context = || format!("not the ends of a call: {client:#?} {server:#?}");
        ensure!(client.parent.is_empty() && server.parent == client.span, context());
        ensure!([client.flags, server.flags] == [0x101, 0x301], context());
        let (of_client, of_server) = (pid(client)?, pid(server)?);
        let is_theirs = |pair: &Pair| {
            [u64::from(pair.client.pid), u64::from(pair.server.pid)] == [of_client, of_server]
        };
        ensure!(pairs.iter().any(is_theirs), context());
        let same = |key: &str| client.attribute(key) == server.attribute(key);
        for key in [
            "rpc.response.status_code",
            "server.address",
            "server.port",
            "observer.response.messages",
            "observer.response.bytes",
        ] {
            ensure!(same(key), context());
        }
        // A server that does not have the method may end the call before it reads the message.
        let is_early = text(server, "rpc.response.status_code") == "UNIMPLEMENTED"
            && server.attribute("observer.request.messages") == 0;
        for key in ["observer.request.messages", "observer.request.bytes"] {
            ensure!(is_early || same(key), context());
        }
        ensure!(method(client) == method(server), context());
        ensure!(client.start <= server.end && server.start <= client.end, context());
    }
    Ok(())
}

/// The calls in `/metrics`.
fn handled(metrics: &Metrics) -> Result<BTreeMap<Key, u64>> {
    let mut counts = BTreeMap::new();
    for side in ["client", "server"] {
        for (labels, calls) in metrics.series(&format!("grpc_{side}_handled_total")) {
            if calls > 0.0 {
                let (pid, method) = of_labels(labels)?;
                let code = as_upper_case(label(labels, "grpc_code"));
                counts.insert((pid, side, method, code), calls as u64);
            }
        }
    }
    Ok(counts)
}

fn of_labels(labels: &Labels) -> Result<(u64, String)> {
    let method = format!("{}/{}", label(labels, "grpc_service"), label(labels, "grpc_method"));
    Ok((label(labels, "pid").parse()?, method))
}

fn of<'a>(series: &'a [Series], name: &str) -> Vec<&'a Series> {
    series.iter().filter(|series| series.name == name).collect()
}

/// The key of a series that spanmetrics made, or that the daemon sent.
fn key_of(series: &Series) -> Result<Key> {
    let method = match series.attribute("rpc.method") {
        "_OTHER" => series.attribute("rpc.method_original"),
        method => method,
    };
    let is_of_client = series.attribute("span.kind") == "SPAN_KIND_CLIENT"
        || series.name.starts_with("rpc.client.");
    let side = if is_of_client { "client" } else { "server" };
    let code = series.attribute("rpc.response.status_code");
    Ok((series.pid()?, side, method.to_owned(), code.to_owned()))
}

/// An error unless the histograms of spanmetrics are those of `/metrics`, which has one for all codes of a method.
fn same_times(of_spans: &[&Series], metrics: &Metrics) -> Result<()> {
    let mut sums = BTreeMap::<_, (f64, Vec<u64>)>::new();
    for series in of_spans {
        let (pid, side, method, _) = key_of(series)?;
        let (sum, buckets) = sums.entry((pid, side, method)).or_default();
        *sum += series.sum;
        buckets.resize(BOUNDS.len() + 1, 0);
        for (all, count) in buckets.iter_mut().zip(&series.buckets) {
            *all += count;
        }
    }
    let mut compared = 0;
    for side in ["client", "server"] {
        let family = format!("grpc_{side}_handling_seconds");
        for (labels, seconds) in metrics.series(&format!("{family}_sum")) {
            let (pid, method) = of_labels(labels)?;
            let (sum, buckets) = sums
                .get(&(pid, side, method))
                .with_context(|| format!("spanmetrics has no durations of {labels:?}"))?;
            ensure!(
                (sum - seconds).abs() < 1e-6,
                "{sum} s by spanmetrics, {seconds} s: {labels:?}"
            );
            let labels: Vec<_> = labels.iter().map(|(key, value)| (&**key, &**value)).collect();
            let mut below = 0;
            for (bound, count) in BOUNDS.iter().map(f64::to_string).zip(buckets) {
                below += count;
                let le = if bound.contains('.') { bound } else { format!("{bound}.0") };
                let labels = [&labels[..], &[("le", &*le)]].concat();
                let name = format!("{family}_bucket");
                ensure!(metrics.count(&name, &labels) == 1, "no bucket {labels:?}");
                metrics.expect_sum(&name, &labels, below as f64)?;
            }
            compared += 1;
        }
    }
    ensure!(compared == sums.len(), "{compared} of {} histograms are in /metrics", sums.len());
    Ok(())
}
