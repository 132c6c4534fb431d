//! The export by OTLP, to a receiver with OpenTelemetry's own messages.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use support::collector::{Collector, Point, Protocol, Span, Tls};
use support::daemon::{Daemon, free_address};
use support::expected::Expected;
use support::footprint::Footprint;
use support::peer::{Client as Caller, Listen, Server as Service};
use support::raw::talk::Role::{Client, Server};
use support::raw::{Address, Call, Talk};
use support::report::Also::Nothing;
use support::short::Short;
use support::stack::Stack;
use support::truth::agree;

use super::protected::Protected;
use super::{INTERNAL, NOT_FOUND, OK, UNIMPLEMENTED};
use crate::case::Cases;

/// Adds the cases; `python` has the receiver, and `fast` is a stack that makes many calls.
pub(crate) fn add(cases: &mut Cases, python: Option<&'static Stack>, fast: Option<&'static Stack>) {
    for (name, protocol) in [("http/protobuf", Protocol::Http), ("grpc", Protocol::Grpc)] {
        cases.of(&format!("otlp: a span for each end of each call, {name}"), Nothing, [python], {
            move |[python]| spans(python, protocol)
        });
        cases.of(&format!("otlp: TLS, headers and gzip, {name}"), Nothing, [python], {
            move |[python]| protected(python, protocol)
        });
        cases.of(&format!("otlp: receivers that refuse, {name}"), Nothing, [python], {
            move |[python]| refusals(python, protocol)
        });
        let name = format!("otlp: a receiver that goes away and comes back, {name}");
        cases.of(&name, Nothing, [python], move |[python]| comes_back(python, protocol));
    }
    cases.of("otlp: two daemons join the ends of a call", Nothing, [python], |[python]| {
        two_daemons(python)
    });
    cases.of("otlp: a call on each of 3,000 connections, from 500 ports", Nothing, [python], {
        |[python]| short_connections(python)
    });
    cases.of("otlp: samplers", Nothing, [python], |[python]| samplers(python));
    cases.of("otlp: a receiver that is slow", Nothing, [python], |[python]| slow(python));
    for (name, protocol, kind) in [
        ("http/protobuf", Protocol::Http, "histogram"),
        ("grpc, exponential", Protocol::Grpc, "exponential_histogram"),
    ] {
        cases.of(&format!("otlp: metrics, {name}"), Nothing, [python], move |[python]| {
            metrics(python, protocol, kind)
        });
    }
    for (buckets, kind) in [("buckets", "histogram"), ("exponential", "exponential_histogram")] {
        cases.of(&format!("otlp: exemplars name spans, {buckets}"), Nothing, [python], {
            move |[python]| exemplars(python, kind)
        });
    }
    cases.add("otlp: a receiver that is not there", Nothing, not_there);
    cases.of("otlp: a receiver that reads nothing", Nothing, [fast], |[fast]| reads_nothing(fast));
}

/// Spans are sent after this many milliseconds, and nothing else is sent.
const SOON: &str = "export OTEL_BSP_SCHEDULE_DELAY=100 OTEL_METRICS_EXPORTER=none";

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const STATE: &str = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";

/// A port for a server, which only the daemon of this case selects.
fn free_port() -> Result<u16> {
    Ok(free_address()?.port())
}

/// Starts a daemon that watches a port and exports to this URL.
fn daemon(port: u16, url: &str, protocol: Protocol, variables: &[&str]) -> Result<Daemon> {
    let protocol = if protocol == Protocol::Http { "http/protobuf" } else { "grpc" };
    let port = port.to_string();
    let flags = ["--port", &port, "--otlp-endpoint", url, "--otlp-protocol", protocol];
    Daemon::start_after(&[&[SOON], variables].concat(), &flags)
}

/// The number of calls with this outcome.
fn outcome(daemon: &Daemon, outcome: &str) -> Result<f64> {
    Ok(daemon.scrape()?.sum("observer_otlp_spans_total", &[("outcome", outcome)]))
}

fn wait_for_outcome(daemon: &Daemon, outcome: &str, count: f64) -> Result<()> {
    daemon.wait_for_sum("observer_otlp_spans_total", &[("outcome", outcome)], count..=count)
}

/// Every call has one span at each end, which says what was on the wire.
fn spans(python: &Stack, protocol: Protocol) -> Result<()> {
    let (port, collector) = (free_port()?, Collector::start(python, protocol, "ok", None)?);
    let daemon = daemon(port, &format!("http://{}", collector.address), protocol, &[])?;
    let mut talk = Talk::begin(&daemon, "otlp spans", Address::V4(port))?;
    // A root, and one below a span of the application.
    talk.expected_call(1, "Get", OK)?;
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let fields = [("traceparent", &*traceparent), ("tracestate", STATE)];
    talk.client(|f| f.request_with(3, "Get", &fields).last_message(3, 5))?;
    talk.server(|f| f.response(3).message(3, 6).message(3, 7).trailers(3, OK))?;
    talk.expect(Call::new("Get", OK).requests(&[5]).responses(&[6, 7]))?;
    // An error for the client only, for both ends, and of a method that the server does not have.
    talk.client(|f| f.request(5, "Get").last_message(5, 5))?;
    let fields = [("grpc-status", "5"), ("grpc-message", "no%20such %C3%A9")];
    talk.server(|f| f.response(5).headers(5, true, &fields))?;
    talk.expect(Call::new("Get", NOT_FOUND).requests(&[5]))?;
    for (stream, method, code) in [(7, "Get", INTERNAL), (9, "Invented", UNIMPLEMENTED)] {
        talk.client(|f| f.request(stream, method).last_message(stream, 5))?;
        talk.server(|f| f.response(stream).trailers(stream, code))?;
        talk.expect(Call::new(method, code).requests(&[5]))?;
    }
    talk.compare()?;
    wait_for_outcome(&daemon, "exported", 10.0)?;
    let spans = collector.spans()?;
    ensure!(spans.len() == 10, "{} spans of 5 calls: {spans:#?}", spans.len());
    let ids: BTreeSet<&str> = spans.iter().map(|span| &*span.span).collect();
    ensure!(ids.len() == 10, "span ids are there twice: {spans:#?}");

    let service = talk.service().to_owned();
    let get = format!("{service}/Get");
    let rows = [
        (&*get, "OK", [None, None], ""),
        (&get, "OK", [None, None], ""),
        (&get, "NOT_FOUND", [Some("NOT_FOUND"), None], "no such é"),
        (&get, "INTERNAL", [Some("INTERNAL"); 2], ""),
        ("grpc", "UNIMPLEMENTED", [Some("UNIMPLEMENTED"); 2], ""),
    ];
    let pids = [talk.pid(Client)?, talk.pid(Server)?];
    let of_kind = |kind: &str| -> Vec<&Span> {
        let mut spans: Vec<_> = spans.iter().filter(|span| span.kind == kind).collect();
        spans.sort_by_key(|span| span.end);
        spans
    };
    let ends = [of_kind("SPAN_KIND_CLIENT"), of_kind("SPAN_KIND_SERVER")];
    for (number, (name, code, errors, description)) in rows.into_iter().enumerate() {
        let [client, server] = [0, 1].map(|end| ends.get(end).and_then(|of| of.get(number)));
        let (client, server) = (client.context("a client")?, server.context("a server")?);
        for ((span, error), pid) in [client, server].into_iter().zip(errors).zip(&pids) {
            let context = || format!("call {number}: {span:#?}");
            let pid: u32 = pid.parse()?;
            ensure!(span.name == name && span.scope == "observer", context());
            ensure!(span.attribute("rpc.system.name") == "grpc", context());
            ensure!(span.attribute("rpc.response.status_code") == code, context());
            ensure!(span.attribute("error.type") == &json!(error), context());
            let status = if error.is_some() { "STATUS_CODE_ERROR" } else { "STATUS_CODE_UNSET" };
            ensure!(span.status == status, context());
            let said = if error.is_some() { description } else { "" };
            ensure!(span.description == said, context());
            ensure!(span.start <= span.end && span.end - span.start < 60_000_000_000, context());
            let now = std::time::UNIX_EPOCH.elapsed()?.as_nanos() as u64;
            ensure!(now.abs_diff(span.end) < 60_000_000_000, context());
            ensure!(span.attribute("network.peer.address") == "127.0.0.1", context());
            ensure!(span.attribute("observer.request.messages") == 1, context());
            ensure!(span.attribute("observer.request.bytes") == 5, context());
            ensure!(span.resource.get("service.name") == Some(&json!("raw-peer")), context());
            ensure!(span.resource.get("process.pid") == Some(&json!(pid)), context());
            let method = if name == "grpc" { "_OTHER" } else { name };
            ensure!(span.attribute("rpc.method") == method, context());
            let original = (name == "grpc").then(|| format!("{service}/Invented"));
            ensure!(span.attribute("rpc.method_original") == &json!(original), context());
            let below = if number == 1 { Some(TRACE) } else { None };
            ensure!(below.is_none_or(|trace| span.trace == trace), context());
            ensure!(span.state == if number == 1 { STATE } else { "" }, context());
        }
        // Both ends are watched, so they are joined.
        ensure!(client.trace == server.trace, "{client:#?} {server:#?}");
        ensure!(server.parent == client.span, "{client:#?} {server:#?}");
        ensure!(client.parent == if number == 1 { PARENT } else { "" }, "{client:#?}");
        ensure!([client.flags, server.flags] == [0x101, 0x301], "{client:#?} {server:#?}");
        // The client named the server without a port.
        for span in [client, server] {
            ensure!(span.attribute("server.address") == "localhost", "{span:#?}");
            ensure!(span.attribute("server.port").is_null(), "{span:#?}");
        }
        ensure!(client.attribute("network.peer.port") == port, "{client:#?}");
        let responses = [1, 2, 0, 0, 0].get(number).copied();
        ensure!(client.attribute("observer.response.messages") == &json!(responses));
    }
    // The daemon's own export is not among the calls that it watches.
    let metrics = daemon.scrape()?;
    let own = daemon.pid().to_string();
    metrics.expect_sum("grpc_client_started_total", &[("pid", &own)], 0.0)?;
    talk.finish()?;
    daemon.stop()
}

/// A receiver that wants TLS, a certificate and a header.
fn protected(python: &Stack, protocol: Protocol) -> Result<()> {
    let files = Protected::by_password()?;
    let tls = Tls {
        certificate: files.path("daemon.crt"),
        key: files.path("daemon.key"),
        client_ca: files.path("ca.crt"),
    };
    let (port, collector) = (free_port()?, Collector::start(python, protocol, "ok", Some(&tls))?);
    let export = |name: &str, value: &str| format!("export OTEL_EXPORTER_OTLP_{name}='{value}'");
    let of_file = |name: &str, file: &str| export(name, &files.path(file).display().to_string());
    let variables = [
        of_file("CERTIFICATE", "ca.crt"),
        of_file("CLIENT_CERTIFICATE", "scraper.crt"),
        of_file("CLIENT_KEY", "scraper.key"),
        export("HEADERS", "api-key=a%20b"),
        export("COMPRESSION", "gzip"),
        "export OTEL_RESOURCE_ATTRIBUTES=host.name=node-7,deployment=blue".into(),
        "export OTEL_SEMCONV_STABILITY_OPT_IN=rpc/dup".into(),
        // The user that the daemon becomes reads the files again.
        format!("chmod -R a+rX {}", files.path("").display()),
    ];
    let variables: Vec<&str> = variables.iter().map(|text| &**text).collect();
    let (_, number) = collector.address.rsplit_once(':').context("a port")?;
    let daemon = daemon(port, &format!("https://localhost:{number}"), protocol, &variables)?;
    let mut talk = Talk::begin(&daemon, "otlp protected", Address::V4(port))?;
    talk.expected_call(1, "Get", OK)?;
    wait_for_outcome(&daemon, "exported", 2.0)?;
    for export in collector.exports()? {
        let header = |name: &str| export.headers.get(name).map(String::as_str);
        ensure!(header("api-key") == Some("a b"), "{export:#?}");
        let agent = header("user-agent").context("user-agent")?;
        ensure!(agent.starts_with("observer/"), "{agent}");
        if protocol == Protocol::Http {
            ensure!(header("content-encoding") == Some("gzip"), "{export:#?}");
            ensure!(header(":path") == Some("/v1/traces"), "{export:#?}");
        }
        for span in export.spans {
            ensure!(span.resource.get("host.name") == Some(&json!("node-7")), "{span:#?}");
            ensure!(span.resource.get("deployment") == Some(&json!("blue")), "{span:#?}");
            ensure!(span.attribute("rpc.grpc.status_code") == 0, "{span:#?}");
            ensure!(span.attribute("rpc.service") == talk.service(), "{span:#?}");
        }
    }
    talk.finish()?;
    daemon.stop()
}

/// Requests that may be sent again are, those that may not are counted, and so is each span that is left out.
fn refusals(python: &Stack, protocol: Protocol) -> Result<()> {
    let answers = "busy,later,ok,refuse,partial,ok";
    let (port, collector) = (free_port()?, Collector::start(python, protocol, answers, None)?);
    let daemon = daemon(port, &format!("http://{}", collector.address), protocol, &[])?;
    let mut talk = Talk::begin(&daemon, "otlp refusals", Address::V4(port))?;
    for (stream, outcome, count) in
        [(1, "exported", 2.0), (3, "refused", 2.0), (5, "rejected", 1.0), (7, "exported", 5.0)]
    {
        talk.expected_call(stream, "Get", OK)?;
        // Both ends of a call are in one request, if nothing comes between them.
        wait_for_outcome(&daemon, outcome, count)?;
    }
    let exports = collector.exports()?;
    let told: Vec<_> = exports.iter().map(|of| (&*of.answer, of.spans.len())).collect();
    let want = [("busy", 2), ("later", 2), ("ok", 2), ("refuse", 2), ("partial", 2), ("ok", 2)];
    ensure!(told == want, "{told:?}");
    let log = daemon.log();
    ensure!(log.matches("cannot export spans").count() == 3, "{log}");
    ensure!(log.contains("takes spans again") && log.contains("one too many"), "{log}");
    talk.finish()?;
    daemon.stop()
}

/// The traces of clients with their spans, and those of servers with their parents.
pub(super) fn joined(spans: &[Span]) -> [BTreeSet<(&str, &str)>; 2] {
    let of_kind = |kind: &str, id: fn(&Span) -> &str| {
        let those = spans.iter().filter(|span| span.kind == kind);
        those.map(|span| (&*span.trace, id(span))).collect()
    };
    [
        of_kind("SPAN_KIND_CLIENT", |span| &span.span),
        of_kind("SPAN_KIND_SERVER", |span| &span.parent),
    ]
}

/// Two daemons that know nothing of each other, each of which watches one end.
fn two_daemons(python: &Stack) -> Result<()> {
    let collector = Collector::start(python, Protocol::Http, "ok", None)?;
    let (port, url) = (free_port()?, format!("http://{}", collector.address));
    let both = daemon(port, &url, Protocol::Http, &["export OTEL_TRACES_SAMPLER=always_off"])?;
    let mut talk = Talk::connect(&both, "otlp two daemons", Address::V4(port))?;
    let [client, server] = talk.pids()?.map(|(_, pid)| pid);
    let of = |pid: &str| {
        let watched = ["--otlp-watched", "127.0.0.0/8"];
        let flags = [&["--pid", pid, "--otlp-endpoint", &url][..], &watched].concat();
        Daemon::start_after(&[SOON], &flags)
    };
    let daemons = [of(&client)?, of(&server)?];
    talk.open_http2()?;
    for stream in [1, 3, 5] {
        talk.expected_call(stream, "Get", OK)?;
    }
    for daemon in &daemons {
        wait_for_outcome(daemon, "exported", 3.0)?;
    }
    let spans = collector.spans()?;
    let [clients, servers] = joined(&spans);
    ensure!(clients.len() == 3 && clients == servers, "{spans:#?}");
    ensure!(outcome(&both, "exported")? == 0.0, "the sampler takes none");
    talk.finish()?;
    daemons.into_iter().try_for_each(Daemon::stop)?;
    both.stop()
}

/// Connections that follow each other have ids of their own, though their addresses and ports are the same.
fn short_connections(python: &Stack) -> Result<()> {
    const CONNECTIONS: u32 = 3_000;
    let (short, collector) =
        (Short::listen()?, Collector::start(python, Protocol::Http, "ok", None)?);
    let port = short.port().parse()?;
    let daemon = daemon(port, &format!("http://{}", collector.address), Protocol::Http, &[])?;
    short.make(CONNECTIONS, 500)?;
    wait_for_outcome(&daemon, "exported", 2.0 * f64::from(CONNECTIONS))?;
    let spans = collector.spans()?;
    let [clients, servers] = joined(&spans);
    let traces: BTreeSet<&str> = clients.iter().map(|(trace, _)| *trace).collect();
    ensure!(clients == servers, "the ends of some calls are not joined");
    ensure!(traces.len() == CONNECTIONS as usize, "{} traces of {CONNECTIONS}", traces.len());
    daemon.stop()
}

/// The caller's flag decides, or the sampler.
fn samplers(python: &Stack) -> Result<()> {
    let rows = [
        ("parentbased_always_on", "1", [2.0, 0.0, 2.0]),
        ("parentbased_always_off", "1", [0.0, 0.0, 2.0]),
        ("always_on", "1", [2.0; 3]),
        ("traceidratio", "0", [0.0; 3]),
    ];
    for (sampler, argument, spans) in rows {
        let collector = Collector::start(python, Protocol::Http, "ok", None)?;
        let (port, url) = (free_port()?, format!("http://{}", collector.address));
        let sampler = format!("export OTEL_TRACES_SAMPLER={sampler}");
        let argument = format!("export OTEL_TRACES_SAMPLER_ARG={argument}");
        let daemon = daemon(port, &url, Protocol::Http, &[&sampler, &argument])?;
        let mut talk = Talk::begin(&daemon, "otlp samplers", Address::V4(port))?;
        let (mut taken, mut left) = (0.0, 0.0);
        for ((stream, flag), spans) in
            [(1, None), (3, Some("00")), (5, Some("01"))].iter().zip(spans)
        {
            let field = flag.map(|flag| format!("00-{TRACE}-{PARENT}-{flag}"));
            let fields: Vec<_> = field.iter().map(|text| ("traceparent", &**text)).collect();
            talk.client(|f| f.request_with(*stream, "Get", &fields).last_message(*stream, 5))?;
            talk.server(|f| f.response(*stream).message(*stream, 6).trailers(*stream, OK))?;
            talk.expect(Call::new("Get", OK).unary(5, 6))?;
            taken += spans;
            left += 2.0 - spans;
            wait_for_outcome(&daemon, "exported", taken)?;
            wait_for_outcome(&daemon, "not_sampled", left)?;
        }
        talk.finish()?;
        daemon.stop()?;
    }
    Ok(())
}

/// A receiver that takes seconds for each answer: nothing else waits, and what finds no room is counted.
fn slow(python: &Stack) -> Result<()> {
    const CALLS: u32 = 100;
    let answers = "sleep,sleep,ok";
    let collector = Collector::start(python, Protocol::Http, answers, None)?;
    let (port, url) = (free_port()?, format!("http://{}", collector.address));
    let queue = "export OTEL_BSP_MAX_QUEUE_SIZE=20";
    let daemon = daemon(port, &url, Protocol::Http, &[queue])?;
    let mut talk = Talk::begin(&daemon, "otlp slow", Address::V4(port))?;
    talk.expected_call(1, "Get", OK)?;
    daemon.wait_until(|_| {
        ensure!(!collector.exports()?.is_empty(), "there is no request");
        Ok(())
    })?;
    for number in 1..=CALLS {
        talk.expected_call(2 * number + 1, "Get", OK)?;
    }
    let begin = Instant::now();
    talk.compare()?;
    ensure!(begin.elapsed() < Duration::from_secs(3), "scrapes wait for the receiver");
    let all = 2.0 * f64::from(1 + CALLS);
    daemon.wait_until(|metrics| {
        let of = |outcome| metrics.sum("observer_otlp_spans_total", &[("outcome", outcome)]);
        let [exported, full] = ["exported", "queue_full"].map(of);
        ensure!(exported + full == all, "{exported} are exported, {full} are not, of {all}");
        ensure!(full >= 100.0, "only {full} found the queue full");
        Ok(())
    })?;
    let exported = outcome(&daemon, "exported")?;
    ensure!(collector.spans()?.len() as f64 == exported, "not {exported}");
    talk.finish()?;
    daemon.stop()
}

/// The data points are the figures of `/metrics`, and each export has the same series.
fn metrics(python: &Stack, protocol: Protocol, kind: &str) -> Result<()> {
    let (port, collector) = (free_port()?, Collector::start(python, protocol, "ok", None)?);
    let variables = [
        "unset OTEL_METRICS_EXPORTER",
        "export OTEL_TRACES_EXPORTER=none OTEL_METRIC_EXPORT_INTERVAL=200",
    ];
    let url = format!("http://{}", collector.address);
    let name = if protocol == Protocol::Http { "http/protobuf" } else { "grpc" };
    let text = port.to_string();
    let mut flags = vec!["--port", &text, "--otlp-endpoint", &url, "--otlp-protocol", name];
    if kind == "exponential_histogram" {
        flags.push("--native-histograms");
    }
    let daemon = Daemon::start_after(&variables, &flags)?;
    let mut talk = Talk::begin(&daemon, "otlp metrics", Address::V4(port))?;
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    talk.client(|f| f.request_with(1, "Get", &[("traceparent", &traceparent)]).last_message(1, 5))?;
    talk.server(|f| f.response(1).message(1, 6).message(1, 7).trailers(1, OK))?;
    talk.expect(Call::new("Get", OK).requests(&[5]).responses(&[6, 7]))?;
    for (stream, code) in [(3, OK), (5, NOT_FOUND), (7, INTERNAL)] {
        talk.expected_call(stream, "Get", code)?;
    }
    // A call that is open.
    talk.client(|f| f.request(9, "Get").last_message(9, 5))?;
    talk.in_flight(1)?;
    let pids = talk.pids()?;
    let method = format!("{}/Get", talk.service());
    daemon.wait_until(|_| {
        let exports = collector.exports()?;
        let points = exports.iter().rev().find(|export| !export.points.is_empty());
        let points = &points.context("there is no export")?.points;
        for (side, pid) in &pids {
            let pid: u64 = pid.parse()?;
            let of = |name: &str| -> Vec<&Point> {
                let name = name.replace("SIDE", side);
                let is = |point: &&Point| {
                    let of = point.resource.get("process.pid").and_then(Value::as_u64);
                    let of_method = point.attributes.get("rpc.method") == Some(&json!(method));
                    point.name == name && of == Some(pid) && of_method
                };
                points.iter().filter(is).collect()
            };
            let number = |name: &str| of(name).iter().map(|point| point.count).sum::<u64>();
            let messages = ["grpc.SIDE.msg_received", "grpc.SIDE.msg_sent"].map(number);
            ensure!(messages == [5, 5], "{messages:?} messages at the {side}");
            ensure!(number("grpc.SIDE.in_flight") == 1, "{points:#?}");
            let [requests, responses] = [25, 6 + 7 + 18];
            let bytes = ["grpc.SIDE.msg_received_bytes", "grpc.SIDE.msg_sent_bytes"].map(number);
            let expected =
                if *side == "server" { [requests, responses] } else { [responses, requests] };
            ensure!(bytes == expected, "{bytes:?} bytes at the {side}");
            let durations = of("rpc.SIDE.call.duration");
            let by_code: Vec<_> = durations
                .iter()
                .map(|point| {
                    let text = |key: &str| point.attributes.get(key).and_then(Value::as_str);
                    (text("rpc.response.status_code"), text("error.type"), point.count)
                })
                .collect();
            let not_found = (*side == "client").then_some("NOT_FOUND");
            for expected in [
                (Some("OK"), None, 2),
                (Some("NOT_FOUND"), not_found, 1),
                (Some("INTERNAL"), Some("INTERNAL"), 1),
            ] {
                ensure!(by_code.contains(&expected), "{by_code:?} at the {side}");
            }
            ensure!(by_code.len() == 3, "{by_code:?}");
            for point in durations {
                ensure!(point.kind == kind && point.temporality == 2, "{point:#?}");
                ensure!(point.unit == "s" && (0.0..60.0).contains(&point.sum), "{point:#?}");
                ensure!(point.start < point.time, "{point:#?}");
            }
            let exemplars: BTreeSet<_> = of("rpc.SIDE.call.duration")
                .iter()
                .flat_map(|point| &point.exemplars)
                .map(|of| (&*of.trace, &*of.span))
                .collect();
            // No spans are exported.
            ensure!(exemplars == BTreeSet::from([(TRACE, "")]), "{exemplars:?}");
        }
        Ok(())
    })?;
    // A series has the same start each time.
    let starts = |exports: &[support::collector::Export]| -> BTreeSet<(String, u64, u64)> {
        let points = exports.iter().flat_map(|export| &export.points);
        let points = points.filter(|point| point.name.ends_with("in_flight"));
        let pid = |point: &Point| point.resource.get("process.pid").and_then(Value::as_u64);
        points.map(|point| (point.name.clone(), pid(point).unwrap_or(0), point.start)).collect()
    };
    daemon.wait_until(|_| {
        ensure!(collector.exports()?.len() > 5, "too few exports");
        Ok(())
    })?;
    let starts = starts(&collector.exports()?);
    ensure!(starts.len() == 2, "{starts:?}");
    let exported = daemon.scrape()?;
    let points = exported.sum("observer_otlp_data_points_total", &[("outcome", "exported")]);
    ensure!(points > 0.0, "no point is counted");
    talk.server(|f| f.response(9).trailers(9, OK))?;
    talk.expect(Call::new("Get", OK).requests(&[5]))?;
    talk.finish()?;
    daemon.stop()
}

/// An exemplar of a duration names the span that was exported for a call with this method, code and duration; without
/// a span, there is no exemplar.
fn exemplars(python: &Stack, kind: &str) -> Result<()> {
    let collector = Collector::start(python, Protocol::Http, "ok", None)?;
    let (port, url) = (free_port()?, format!("http://{}", collector.address));
    let on = "unset OTEL_METRICS_EXPORTER; export OTEL_METRIC_EXPORT_INTERVAL=200";
    let text = port.to_string();
    let mut flags = vec!["--port", &text, "--otlp-endpoint", &url];
    if kind == "exponential_histogram" {
        flags.push("--native-histograms");
    }
    let daemon = Daemon::start_after(&[SOON, on], &flags)?;
    let mut talk = Talk::begin(&daemon, "otlp exemplars", Address::V4(port))?;
    // Roots, one below a span of the application, and one whose trace is not recorded.
    talk.expected_call(1, "Get", OK)?;
    talk.expected_call(3, "List", OK)?;
    for (stream, flag, code) in [(5, "01", NOT_FOUND), (7, "00", INTERNAL)] {
        let field = format!("00-{TRACE}-{PARENT}-{flag}");
        talk.client(|f| f.request_with(stream, "Get", &[("traceparent", &field)]))?;
        talk.client(|f| f.last_message(stream, 5))?;
        talk.server(|f| f.response(stream).trailers(stream, code))?;
        talk.expect(Call::new("Get", code).requests(&[5]))?;
    }
    talk.compare()?;
    wait_for_outcome(&daemon, "exported", 6.0)?;
    let spans = collector.spans()?;
    let (service, pids) = (talk.service().to_owned(), talk.pids()?);
    let span_of = |side: &str, method: &str, code: &str| -> Result<&Span> {
        let kind = format!("SPAN_KIND_{}", side.to_uppercase());
        let method = format!("{service}/{method}");
        let mut of = spans.iter().filter(|span| {
            span.kind == kind
                && span.name == method
                && span.attribute("rpc.response.status_code") == code
        });
        let span = of.next().with_context(|| format!("{side} {method} {code}: {spans:#?}"))?;
        ensure!(of.next().is_none(), "two spans of a call: {spans:#?}");
        Ok(span)
    };
    let rows = [
        ("Get", "OK", true),
        ("List", "OK", true),
        ("Get", "NOT_FOUND", true),
        ("Get", "INTERNAL", false),
    ];
    daemon.wait_until(|_| {
        let exports = collector.exports()?;
        let points = exports.iter().rev().find(|export| !export.points.is_empty());
        let points = &points.context("there is no export")?.points;
        for ((side, pid), (method, code, has_span)) in
            pids.iter().flat_map(|end| rows.map(|row| (end, row)))
        {
            let pid: u64 = pid.parse()?;
            let name = format!("rpc.{side}.call.duration");
            let is = |point: &&Point| {
                let attribute = |key: &str| point.attributes.get(key).and_then(Value::as_str);
                point.name == name
                    && point.resource.get("process.pid").and_then(Value::as_u64) == Some(pid)
                    && attribute("rpc.method") == Some(&format!("{service}/{method}"))
                    && attribute("rpc.response.status_code") == Some(code)
            };
            let context = || format!("{method} {code} at the {side}: {points:#?}");
            let point = points.iter().find(is).with_context(context)?;
            ensure!(point.kind == kind && point.count == 1, context());
            let Some(exemplar) = point.exemplars.first().filter(|_| has_span) else {
                ensure!(point.exemplars.is_empty() && !has_span, context());
                continue;
            };
            let span = span_of(side, method, code)?;
            let (took, said) = ((span.end - span.start) as f64, exemplar.value * 1e9);
            ensure!(
                (exemplar.trace.as_str(), &*exemplar.span) == (&span.trace, &span.span),
                context()
            );
            ensure!((took - said).abs() < 1_000.0, "{took} ns, {said} ns; {}", context());
            ensure!(exemplar.time.abs_diff(span.end) < 1_000_000_000, context());
            if kind == "histogram" {
                let bucket = point.bounds.partition_point(|bound| *bound < exemplar.value);
                ensure!(point.buckets.get(bucket) == Some(&1), context());
            }
        }
        Ok(())
    })?;
    // `/metrics` has the same exemplars.
    let metrics = daemon.scrape()?;
    for (side, _) in &pids {
        for (method, code, has_span) in rows {
            let name = format!("grpc_{side}_handled_total");
            let grpc_code = match code {
                "OK" => "OK",
                "NOT_FOUND" => "NotFound",
                _ => "Internal",
            };
            let labels =
                [("grpc_service", &*service), ("grpc_method", method), ("grpc_code", grpc_code)];
            let found = metrics.exemplars().iter().filter(|exemplar| {
                let label = |(key, value): (&str, &str)| {
                    exemplar.labels.get(key).is_some_and(|of| of == value)
                };
                exemplar.name == name && labels.into_iter().all(label)
            });
            let found: Vec<_> = found.map(|of| (&*of.trace, &*of.span)).collect();
            let span = if has_span { Some(span_of(side, method, code)?) } else { None };
            let expected: Vec<_> = span.iter().map(|of| (&*of.trace, &*of.span)).collect();
            ensure!(found == expected, "{method} {code} at the {side}: {found:?}");
        }
    }
    talk.finish()?;
    daemon.stop()
}

/// Nobody listens: spans are given up after their time, and the daemon goes on.
fn not_there() -> Result<()> {
    let (port, url) = (free_port()?, format!("http://{}", free_address()?));
    let patience = "export OTEL_BSP_EXPORT_TIMEOUT=300";
    let daemon = daemon(port, &url, Protocol::Grpc, &[patience])?;
    let mut talk = Talk::begin(&daemon, "otlp not there", Address::V4(port))?;
    talk.expected_call(1, "Get", OK)?;
    wait_for_outcome(&daemon, "gave_up", 2.0)?;
    talk.expected_call(3, "Get", OK)?;
    wait_for_outcome(&daemon, "gave_up", 4.0)?;
    talk.compare()?;
    let log = daemon.log();
    ensure!(log.matches("cannot export spans").count() == 1, "{log}");
    talk.finish()?;
    daemon.stop()
}

/// The receiver ends and another one takes its place: what was not answered is sent again, and nothing is missing.
fn comes_back(python: &Stack, protocol: Protocol) -> Result<()> {
    let (port, first) = (free_port()?, Collector::start(python, protocol, "ok", None)?);
    let address = first.address.clone();
    let daemon = daemon(port, &format!("http://{address}"), protocol, &[])?;
    let mut talk = Talk::begin(&daemon, "otlp comes back", Address::V4(port))?;
    talk.expected_call(1, "Get", OK)?;
    wait_for_outcome(&daemon, "exported", 2.0)?;
    drop(first);
    talk.expected_call(3, "Get", NOT_FOUND)?;
    let failed = [("signal", "traces"), ("outcome", "failed")];
    daemon.wait_for_sum("observer_otlp_requests_total", &failed, 1.0..)?;
    // Watching goes on.
    talk.expected_call(5, "Get", OK)?;
    talk.compare()?;
    ensure!(outcome(&daemon, "exported")? == 2.0, "spans are exported to nobody");
    let second = Collector::start_at(python, protocol, "ok", None, &address)?;
    wait_for_outcome(&daemon, "exported", 6.0)?;
    let spans = second.spans()?;
    let ids: BTreeSet<&str> = spans.iter().map(|span| &*span.span).collect();
    let codes = |code: &str| {
        spans.iter().filter(|span| span.attribute("rpc.response.status_code") == code).count()
    };
    ensure!(ids.len() == 4 && spans.len() == 4, "{spans:#?}");
    ensure!([codes("NOT_FOUND"), codes("OK")] == [2, 2], "{spans:#?}");
    let log = daemon.log();
    ensure!(log.matches("cannot export spans").count() == 1, "{log}");
    ensure!(log.matches("takes spans again").count() == 1, "{log}");
    talk.finish()?;
    daemon.stop()
}

/// A receiver that accepts connections and reads nothing: more spans wait than there is room for. Memory is bounded, the
/// others are counted, and all calls are in `/metrics`.
fn reads_nothing(fast: &Stack) -> Result<()> {
    const CALLS: u32 = 40_000;
    /// The queue has 16 MiB, in a buffer that doubles when it grows.
    const AT_MOST: u64 = 48 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").context("a receiver")?;
    let server = Service::start(fast, Listen::V4)?;
    let url = format!("http://{}", listener.local_addr()?);
    // It is not given up meanwhile.
    let patience = "export OTEL_EXPORTER_OTLP_TIMEOUT=300000 OTEL_BSP_EXPORT_TIMEOUT=300000";
    let daemon = daemon(server.port()?.parse()?, &url, Protocol::Http, &[patience])?;
    let plan = [vec![json!({"count": CALLS, "concurrency": 50})]];
    let before = Footprint::of(daemon.pid())?.memory;
    let (client, did) = Caller::start(fast, &server, &plan)?.finish()?;
    daemon.settle(&Expected::of_ends(&client, server.identity(), &did))?;
    let grown = Footprint::of(daemon.pid())?.memory.saturating_sub(before);
    ensure!(grown < AT_MOST, "the daemon has grown by {grown} bytes");
    let metrics = daemon.scrape()?;
    let outcomes = ["exported", "not_seen", "gave_up", "queue_full"];
    let [exported, not_seen, gave_up, full] =
        outcomes.map(|outcome| metrics.sum("observer_otlp_spans_total", &[("outcome", outcome)]));
    ensure!([exported, not_seen, gave_up] == [0.0; 3], "{exported} {not_seen} {gave_up}");
    // All spans but those that wait, which are less than 16 MiB.
    let waiting = 2.0 * f64::from(CALLS) - full;
    ensure!((20_000.0..75_000.0).contains(&waiting) && full > 0.0, "{full} found the queue full");
    ensure!(daemon.scrape_time()? < Duration::from_secs(3), "scrapes wait for the receiver");
    agree(&server.stop()?, &did)?;
    daemon.stop()
}
