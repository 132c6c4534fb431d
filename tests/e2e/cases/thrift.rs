//! Thrift: each library's client with each library's server, and messages byte by byte.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use support::collector::{Collector, Protocol};
use support::daemon::Daemon;
use support::openmetrics::{Metrics, label};
use support::pace;
use support::peer::{Client, Identity, Listen, Server};
use support::report::{self, Also::Nothing};
use support::stack::Stack;
use support::tls::{Certificates, Shown};
use support::truth::Truth;

use super::connections;
use super::otlp::joined;
use crate::case::Cases;

/// The flag that has the daemon watch Thrift.
const PROTOCOL: [&str; 2] = ["--protocol", "grpc,thrift"];

/// Time until a daemon follows the connections of a program that it does not know.
const FOLLOW_LIMIT: Duration = Duration::from_secs(30);

/// The function of a case without stacks.
type Run = fn() -> Result<()>;

/// How messages are sent: a name, and the arguments of both ends.
const WAYS: [(&str, &[&str]); 8] = [
    ("buffered", &["--transport", "buffered"]),
    ("framed", &["--transport", "framed"]),
    ("buffered, multiplexed", &["--transport", "buffered", "--multiplexed"]),
    ("framed, multiplexed", &["--transport", "framed", "--multiplexed"]),
    ("compact", &["--protocol", "compact", "--transport", "buffered"]),
    (
        "compact, framed, multiplexed",
        &["--protocol", "compact", "--transport", "framed", "--multiplexed"],
    ),
    ("header, multiplexed", &["--transport", "header", "--multiplexed"]),
    ("header, compact", &["--protocol", "compact", "--transport", "header"]),
];

/// The ways in which a library meets only itself: the others show what libraries have in common.
const WITH_ITSELF: [&str; 2] = ["framed", "buffered, multiplexed"];

/// The ways in which the library in Java meets others: its virtual machines take long to start. It meets itself in these
/// and in [`WITH_ITSELF`].
const JAVA_WITH_OTHERS: [&str; 2] = ["buffered", "compact, framed, multiplexed"];

const JAVA: &str = "thrift-java";

/// Messages without a version: a client, a server, and how they are sent.
const UNVERSIONED: [(&str, &str, &[&str]); 2] = [
    ("thrift-python", "thriftpy2", &["--transport", "buffered"]),
    ("thriftpy2", "thrift-python", &["--transport", "framed", "--multiplexed"]),
];

/// Whether there is a case with these two in this way.
fn meet(server: &Stack, client: &Stack, way: &str) -> bool {
    let is_java = server.name == JAVA || client.name == JAVA;
    if WITH_ITSELF.contains(&way) {
        return server.name == client.name;
    }
    !is_java || JAVA_WITH_OTHERS.contains(&way)
}

/// Whether a library can send messages in this way.
fn speaks(stack: &Stack, way: &str) -> bool {
    let without: &[&str] = match &*stack.name {
        "thriftpy2" | "thrift-node" | JAVA => &["header"],
        // In the compact protocol its client loses maps.
        "thriftpy2-asyncio" => &["header", "compact", "multiplexed"],
        _ => &[],
    };
    !without.iter().any(|word| way.contains(word))
}

pub(crate) fn add(cases: &mut Cases, stacks: &'static [Stack], python: Option<&'static Stack>) {
    cases.together("Thrift", |cases| {
        for (way, args) in WAYS {
            each(cases, stacks, way, args);
        }
    });
    for stack in stacks {
        // The library in Java does not have them.
        if stack.name != JAVA {
            cases.of_server("Thrift, Unix socket", stack, Nothing, |stack| {
                calls_are_counted(stack, stack, Listen::Unix)
            });
        }
        cases.of_server("Thrift, without --protocol", stack, Nothing, nothing_without_the_flag);
    }
    let speaking = stacks.iter().find(|stack| says_oneway(stack));
    cases.of(
        "Thrift: spans and metrics by OTLP",
        Nothing,
        [python, speaking],
        |[python, stack]| calls_are_exported(python, stack),
    );
    let named = |name: &str| stacks.iter().find(|stack| stack.name == name);
    for (client, server, transport) in UNVERSIONED {
        let name = format!("Thrift without a version: {client} -> {server}");
        cases.of(&name, Nothing, [named(server), named(client)], move |stacks| {
            let args = [&["--protocol", "unversioned"], transport].concat();
            let [server, client] = stacks.map(|stack| stack.with(&args));
            calls_are_counted(&server, &client, Listen::V4)
        });
    }
    for (client, server) in [("thrift-python", "thrift-go"), ("thrift-go", "thrift-python")] {
        let name = format!("Thrift over TLS: {client} -> {server}");
        cases.of(&name, Nothing, [named(server), named(client)], |[server, client]| {
            calls_over_tls_are_counted(server, client)
        });
    }
    cases.of("Thrift without gRPC", Nothing, [python, speaking], |[grpc, stack]| {
        grpc_is_not_watched(grpc, stack)
    });
    let alone: [(&str, Run); 6] = [
        ("Thrift: several messages in a write, and one in many", messages_are_cut_anywhere),
        ("Thrift: replies in any order", replies_may_be_in_any_order),
        ("Thrift: a connection that is older than the daemon", older_connections_join_late),
        ("Thrift: bytes that the kernel discards", discarded_bytes_are_a_gap),
        ("Thrift: bytes that are not messages", hostile_bytes_are_a_gap),
        ("Thrift: calls of excluded methods", excluded_methods_are_only_counted),
    ];
    for (name, run) in alone {
        cases.add(name, Nothing, run);
    }
}

/// Each client with each server that send messages in this way. The daemon of a case watches only its port.
fn each(cases: &mut Cases, stacks: &'static [Stack], way: &str, args: &'static [&'static str]) {
    let speaking = || stacks.iter().filter(|stack| speaks(stack, way));
    let pairs = speaking().flat_map(|server| speaking().map(move |client| (server, client)));
    for (server, client) in pairs {
        if !meet(server, client, way) {
            continue;
        }
        let name = format!("Thrift, {way}: {} -> {}", client.name, server.name);
        cases.add(&name, Nothing, move || {
            calls_are_counted(&server.with(args), &client.with(args), Listen::V4)
        });
    }
}

/// Whether a client's oneway calls look different from others on the wire. Those of Apache Thrift's client in Go do not.
fn says_oneway(client: &Stack) -> bool {
    client.name != "thrift-go"
}

/// These calls as they are on the wire, if oneway calls look like calls that are not answered.
fn without_oneway(calls: &Calls) -> Calls {
    let outcome = |outcome| if outcome == "oneway" { "no_reply" } else { outcome };
    calls.iter().map(|((name, of), calls)| ((name.clone(), outcome(*of)), *calls)).collect()
}

/// All methods and outcomes: on one connection, on several at once, and messages longer than a buffer.
fn plan(with_oneway: bool) -> Vec<Vec<Value>> {
    let methods = ["add", "ping", "echo", "order", "first", "none", "note", "missing"];
    let methods = methods.into_iter().filter(|method| with_oneway || *method != "note");
    let methods: Vec<_> = methods.collect();
    let calls =
        |times: u32| methods.iter().map(|method| json!([method, times])).collect::<Vec<_>>();
    let of = |times: u32, size: u32| json!({ "calls": calls(times), "size": size });
    vec![
        vec![of(3, 10)],
        vec![of(20, 5), of(20, 50), of(20, 500)],
        vec![json!({ "calls": [["echo", 2], ["order", 2]], "size": 1_500 })],
    ]
}

/// A stage whose calls have no reply, or an exception of the library.
fn crashes() -> Vec<Value> {
    vec![json!({ "calls": [["crash", 2], ["add", 1]] })]
}

/// Every call of both ends is counted, with its outcome.
fn calls_are_counted(server_stack: &Stack, client: &Stack, listen: Listen) -> Result<()> {
    let server = Server::start(server_stack, listen)?;
    let port = (listen != Listen::Unix).then(|| server.port()).transpose()?;
    let ports = port.iter().flat_map(|port| ["--port", port]);
    let is_unversioned = server_stack.server.iter().any(|word| word == "unversioned");
    let expected = port.iter().filter(|_| is_unversioned).flat_map(|port| ["--thrift-port", port]);
    let flags: Vec<_> = PROTOCOL.into_iter().chain(ports).chain(expected).collect();
    let daemon = Daemon::start(&flags)?;
    let says_oneway = says_oneway(client);
    let mut plan = plan(says_oneway || listen != Listen::Unix);
    // A Unix socket does not always show that nothing was missed before its end.
    if listen != Listen::Unix {
        plan.push(crashes());
    }
    let (client, did) = Client::start(client, &server, &plan)?.finish()?;
    let of_server = server.identity().clone();
    let client_saw = calls(&did);
    let on_wire = if says_oneway { client_saw.clone() } else { without_oneway(&client_saw) };
    daemon.wait_until(|metrics| {
        agree(metrics, "client", &client, &on_wire)?;
        agree(metrics, "server", &of_server, &on_wire)?;
        metrics.expect_sum("grpc_server_started_total", &[], 0)
    })?;
    report::exact(4 * client_saw.len());
    // A server's handler does not see calls of a method that it does not have.
    let handled: Calls =
        client_saw.into_iter().filter(|((method, _), _)| !method.ends_with("missing")).collect();
    let did = calls(&server.stop()?);
    ensure!(did == handled, "the server handled {did:?}, not {handled:?}");
    daemon.stop()
}

/// Every call of both ends is counted over TLS: without frames, and with multiplexed services in frames.
fn calls_over_tls_are_counted(server: &Stack, client: &Stack) -> Result<()> {
    let certificates = Certificates::new()?;
    let daemon = Daemon::start(&[&PROTOCOL[..], &["--tls", "auto"]].concat())?;
    let [server, client] = [server, client].map(|it| certificates.stack(it, Shown::ByServer));
    follow(&daemon, &server, &client)?;
    let plan = [plan(says_oneway(&client)), vec![crashes()]].concat();
    for way in [&["--transport", "buffered"][..], &["--transport", "framed", "--multiplexed"]] {
        let server = Server::start(&server.with(way), Listen::V4)?;
        let (client, did) = Client::start(&client.with(way), &server, &plan)?.finish()?;
        let want = calls(&did);
        daemon
            .wait_until(|metrics| {
                agree(metrics, "client", &client, &want)?;
                agree(metrics, "server", server.identity(), &want)
            })
            .with_context(|| daemon.get("/connections").unwrap_or_default())?;
        report::exact(4 * want.len());
        server.stop()?;
    }
    daemon.stop()
}

/// Makes calls until the daemon follows both ends.
fn follow(daemon: &Daemon, server: &Stack, client: &Stack) -> Result<()> {
    let server = Server::start(server, Listen::V4)?;
    let of_server = server.identity().clone();
    let begin = Instant::now();
    while begin.elapsed() < pace::limit(FOLLOW_LIMIT) {
        let before = daemon.scrape()?;
        let (client, did) = Client::start(client, &server, &[crashes()])?.finish()?;
        let all = calls(&did).values().sum::<u64>() as f64;
        sleep(pace::limit(Duration::from_secs(2)));
        let after = daemon.scrape()?;
        let handled = |metrics: &Metrics, side: &str, of: &Identity| {
            let pid = of.pid.to_string();
            metrics.sum(&format!("thrift_{side}_handled_total"), &[("pid", &pid)])
        };
        let new = handled(&after, "server", &of_server) - handled(&before, "server", &of_server);
        if new == all && handled(&after, "client", &client) == all {
            server.stop()?;
            return Ok(());
        }
    }
    bail!("the daemon does not follow {} and {of_server}", client.name)
}

/// Numbers of calls, by the name of the method and the outcome.
type Calls = BTreeMap<(String, &'static str), u64>;

fn calls(truth: &Truth) -> Calls {
    let rows = truth.calls.iter();
    rows.map(|row| ((row.method.clone(), outcome(row.code)), row.sums.calls)).collect()
}

/// The outcome that a peer's number stands for.
fn outcome(code: i32) -> &'static str {
    match code {
        0 => "ok",
        18 => "declared_exception",
        19 => "application_exception",
        20 => "oneway",
        21 => "no_reply",
        _ => "invalid",
    }
}

/// The outcome with this name.
fn known(name: &str) -> &'static str {
    let all = [0, 18, 19, 20, 21].map(outcome);
    all.into_iter().find(|known| *known == name).unwrap_or("not known")
}

/// Compares all numbers of a process on one side.
fn agree(metrics: &Metrics, side: &str, process: &Identity, want: &Calls) -> Result<()> {
    let pid = process.pid.to_string();
    let of = [("pid", &*pid), ("process", &*process.comm)];
    let family = |name: &str| format!("thrift_{side}_{name}");
    let by_method = |name: &str| -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (labels, value) in metrics.series_with(&family(name), &of) {
            *sums.entry(method(labels)).or_default() += value as u64;
        }
        sums
    };
    let handled: Calls = metrics
        .series_with(&family("handled_total"), &of)
        .filter(|(_, value)| *value > 0.0)
        .map(|(labels, value)| {
            ((method(labels), known(label(labels, "thrift_outcome"))), value as u64)
        })
        .collect();
    ensure!(handled == *want, "{side} {process}: handled {handled:?}, not {want:?}");
    let mut started: BTreeMap<String, u64> = BTreeMap::new();
    let mut timed = started.clone();
    for ((method, outcome), calls) in want {
        *started.entry(method.clone()).or_default() += calls;
        // There is no end of a oneway call.
        *timed.entry(method.clone()).or_default() += if *outcome == "oneway" { 0 } else { *calls };
    }
    for (name, want) in [("started_total", started), ("handling_seconds_count", timed)] {
        let got = by_method(name);
        ensure!(got == want, "{side} {process}: {name} {got:?}, not {want:?}");
    }
    let in_flight = by_method("in_flight");
    ensure!(in_flight.values().all(|calls| *calls == 0), "{side} {process}: {in_flight:?}");
    Ok(())
}

/// Every call has a span at each end, joined by its place on the connection, and is in the metrics of both.
fn calls_are_exported(python: &Stack, stack: &Stack) -> Result<()> {
    let collector = Collector::start(python, Protocol::Http, "ok", None)?;
    let (server, url) =
        (Server::start(stack, Listen::V4)?, format!("http://{}", collector.address));
    let port = server.port()?;
    let flags = [&PROTOCOL[..], &["--port", &port, "--otlp-endpoint", &url]].concat();
    let soon = "export OTEL_BSP_SCHEDULE_DELAY=100 OTEL_METRIC_EXPORT_INTERVAL=200";
    let daemon = Daemon::start_after(&[soon], &flags)?;
    let mut plan = plan(true);
    plan.push(crashes());
    let (_, did) = Client::start(stack, &server, &plan)?.finish()?;
    let want = calls(&did);
    let count = want.values().sum::<u64>() as usize;
    let exported = [("outcome", "exported")];
    let ends = 2.0 * count as f64;
    daemon.wait_for_sum("observer_otlp_spans_total", &exported, ends..=ends)?;
    let spans = collector.spans()?;
    let what = |of: &BTreeMap<String, Value>| -> Result<(String, &'static str)> {
        let text = |key: &str| of.get(key).and_then(Value::as_str).with_context(|| key.to_owned());
        ensure!(text("rpc.system.name")? == "thrift", "{of:?}");
        Ok((text("rpc.method")?.to_owned(), known(text("rpc.response.status_code")?)))
    };
    let mut by_kind: HashMap<&str, Calls> = HashMap::new();
    let mut by_id = HashMap::new();
    for span in &spans {
        let of = what(&span.attributes)?;
        ensure!(span.name == of.0 && span.start <= span.end, "{span:#?}");
        *by_kind.entry(&span.kind).or_default().entry(of.clone()).or_default() += 1;
        by_id.insert(&span.span, of);
    }
    for kind in ["SPAN_KIND_CLIENT", "SPAN_KIND_SERVER"] {
        let got = by_kind.remove(kind).unwrap_or_default();
        ensure!(got == want, "{kind}: {got:?}, not {want:?}");
    }
    let [clients, servers] = joined(&spans);
    ensure!(clients.len() == count && clients == servers, "the ends of some calls are not joined");
    for span in spans.iter().filter(|span| !span.parent.is_empty()) {
        let (own, parent) = (by_id.get(&span.span), by_id.get(&span.parent));
        ensure!(own == parent, "a call of {parent:?} is joined with one of {own:?}");
    }
    daemon.wait_until(|_| {
        let exports = collector.exports()?;
        let last = exports.iter().rev().find(|export| !export.points.is_empty());
        for side in ["client", "server"] {
            let mut got = Calls::new();
            for point in &last.context("there is no export")?.points {
                if point.name == format!("rpc.{side}.call.duration") {
                    *got.entry(what(&point.attributes)?).or_default() += point.count;
                }
                ensure!(!point.name.starts_with("grpc."), "{point:#?}");
                ensure!(!point.name.ends_with(".in_flight") || point.count == 0, "{point:#?}");
            }
            // The time of a oneway call is not known.
            let timed = want.clone().into_iter().filter(|((_, outcome), _)| *outcome != "oneway");
            let timed: Calls = timed.collect();
            ensure!(got == timed, "{side}: {got:?}, not {timed:?}");
        }
        Ok(())
    })?;
    report::exact(4 * want.len());
    server.stop()?;
    daemon.stop()
}

/// The name of a method on the wire, from its labels.
fn method(labels: &BTreeMap<String, String>) -> String {
    match (label(labels, "thrift_service"), label(labels, "thrift_method")) {
        ("", method) => method.to_owned(),
        (service, method) => format!("{service}:{method}"),
    }
}

/// Without the flag there are no metrics of Thrift, and its connections are others.
fn nothing_without_the_flag(stack: &Stack) -> Result<()> {
    let server = Server::start(stack, Listen::V4)?;
    let daemon = Daemon::start(&["--port", &server.port()?])?;
    let plan = [vec![json!({ "calls": [["add", 3]] })]];
    Client::start(stack, &server, &plan)?.finish()?;
    let other = [("protocol", "other")];
    daemon.wait_for_sum("observer_connections_seen_total", &other, 2.0..=2.0)?;
    let metrics = daemon.scrape()?;
    ensure!(metrics.series_count("thrift_") == 0, "there are metrics of Thrift");
    server.stop()?;
    daemon.stop()
}

/// With Thrift alone, connections of gRPC are counted by their protocol, and gRPC has no metrics.
fn grpc_is_not_watched(grpc: &Stack, stack: &Stack) -> Result<()> {
    let (of_grpc, server) = (Server::start(grpc, Listen::V4)?, Server::start(stack, Listen::V4)?);
    let ports = [of_grpc.port()?, server.port()?].join(",");
    let daemon = Daemon::start(&["--protocol", "thrift", "--port", &ports])?;
    let calls_of_grpc = [vec![json!({ "rpc": "Unary", "count": 3 })]];
    let (client_of_grpc, _) = Client::start(grpc, &of_grpc, &calls_of_grpc)?.finish()?;
    let (client, did) = Client::start(stack, &server, &[crashes()])?.finish()?;
    let (want, of_server) = (calls(&did), server.identity().clone());
    daemon.wait_until(|metrics| {
        agree(metrics, "client", &client, &want)?;
        agree(metrics, "server", &of_server, &want)?;
        metrics.expect_sum("observer_connections_seen_total", &[("protocol", "http2")], 2)?;
        metrics.expect_sum("observer_connections_seen_total", &[("protocol", "grpc")], 0)
    })?;
    let families = daemon.scrape()?;
    let of_grpc_calls = families.families().keys().find(|family| family.starts_with("grpc_"));
    ensure!(of_grpc_calls.is_none(), "there is the family {of_grpc_calls:?}");
    report::exact(4 * want.len());
    let entries = connections::list(&daemon)?.to_string();
    ensure!(entries.contains("http2_not_watched"), "{client_of_grpc} is not in {entries}");
    of_grpc.stop()?;
    server.stop()?;
    daemon.stop()
}

/// Both ends of a connection, which this process has.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn new(listener: &TcpListener) -> Result<Self> {
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
        }
        Ok(Self { client, server })
    }

    /// Sends the bytes from one end to the other, in one write and one read for each of `parts`.
    fn moves(&mut self, by_client: bool, parts: &[&[u8]]) -> Result<()> {
        let (from, to) = if by_client {
            (&mut self.client, &mut self.server)
        } else {
            (&mut self.server, &mut self.client)
        };
        for part in parts {
            from.write_all(part)?;
            to.read_exact(&mut vec![0; part.len()])?;
        }
        Ok(())
    }

    fn client(&mut self, bytes: &[u8]) -> Result<()> {
        self.moves(true, &[bytes])
    }

    fn server(&mut self, bytes: &[u8]) -> Result<()> {
        self.moves(false, &[bytes])
    }
}

const CALL: u8 = 1;
const REPLY: u8 = 2;
const EXCEPTION: u8 = 3;
const ONEWAY: u8 = 4;

/// [`message`] and [`unversioned`].
type Encode = fn(u8, &str, u32, &[u8]) -> Vec<u8>;

/// A message without a frame, with these fields.
fn message(kind: u8, name: &str, sequence: u32, fields: &[u8]) -> Vec<u8> {
    let length = (name.len() as u32).to_be_bytes();
    let sequence = sequence.to_be_bytes();
    [&[0x80, 1, 0, kind][..], &length, name.as_bytes(), &sequence, fields, &[0]].concat()
}

/// The same without a version.
fn unversioned(kind: u8, name: &str, sequence: u32, fields: &[u8]) -> Vec<u8> {
    let length = (name.len() as u32).to_be_bytes();
    let sequence = sequence.to_be_bytes();
    [&length[..], name.as_bytes(), &[kind], &sequence, fields, &[0]].concat()
}

/// The same in the compact protocol. The numbers are below 128.
fn compact(kind: u8, name: &str, sequence: u8, fields: &[u8]) -> Vec<u8> {
    let head = [0x82, kind << 5 | 1, sequence, name.len() as u8];
    [&head[..], name.as_bytes(), fields, &[0]].concat()
}

/// A field of the compact protocol with this id, 0 or 1: a list of structs with a map, numbers and a bool in each.
fn compact_nested(id: u8) -> Vec<u8> {
    let element = [0x1b, 2, 0x86, 1, b'k', 0x80, 1, 0, 7, 0x11, 0x19, 0x35, 1, 0xff, 1, 2, 0];
    let first: &[u8] = if id == 0 { &[0x09, 0] } else { &[0x19] };
    [first, &[0x2c], &element, &element].concat()
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes()[..], message].concat()
}

/// The field 1 of a call, or 0 of a result: a list of structs with a map in each.
fn nested(id: u8) -> Vec<u8> {
    let map = [&[13, 0, 3, 11, 10][..], &[0, 0, 0, 2], &[0, 0, 0, 1, b'k'], &[0; 8]].concat();
    let map = [map, [&[0, 0, 0, 0][..], &[0; 8]].concat()].concat();
    let element = [&[2, 0, 1, 1][..], &map, &[0]].concat();
    [&[15, 0, id, 12, 0, 0, 0, 2][..], &element, &element].concat()
}

/// The fields of a result that is a declared exception with a text.
fn declared(text: &str) -> Vec<u8> {
    let length = (text.len() as u32).to_be_bytes();
    [&[12, 0, 1, 11, 0, 1][..], &length, text.as_bytes(), &[0]].concat()
}

/// Waits for the numbers of this process on both sides.
fn both_sides(daemon: &Daemon, want: &[(&str, &'static str, u64)]) -> Result<()> {
    let want: Calls = want
        .iter()
        .map(|(name, outcome, calls)| (((*name).to_owned(), *outcome), *calls))
        .collect();
    let own = Identity::of_the_tests("both ends")?;
    daemon.wait_until(|metrics| {
        agree(metrics, "client", &own, &want)?;
        agree(metrics, "server", &own, &want)
    })?;
    report::exact(4 * want.len());
    Ok(())
}

/// A daemon that watches a new listener's port.
fn watched() -> Result<(TcpListener, Daemon)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let daemon = Daemon::start(&[&PROTOCOL[..], &["--port", &port]].concat())?;
    Ok((listener, daemon))
}

/// The same, where messages may have no version.
fn watched_unversioned() -> Result<(TcpListener, Daemon)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let ports = ["--port", &port, "--thrift-port", &port];
    Ok((listener, Daemon::start(&[&PROTOCOL[..], &ports].concat())?))
}

/// Messages are found in any pieces: several in a write, and each byte in a write of its own.
fn messages_are_cut_anywhere() -> Result<()> {
    let (listener, daemon) = watched_unversioned()?;
    let in_binary = |message: Encode| {
        let calls = [
            message(CALL, "a", 0, &nested(1)),
            message(ONEWAY, "Of:note", 0, &nested(1)),
            message(CALL, "b", 0, &[]),
            message(CALL, "c", 0, &[8, 0, 1, 0, 0, 0, 9]),
        ];
        let replies = [
            message(REPLY, "a", 0, &nested(0)),
            message(REPLY, "b", 0, &declared("no")),
            message(EXCEPTION, "c", 0, &declared("internal")),
        ];
        (calls, replies)
    };
    let (binary_calls, binary_replies) = in_binary(message);
    let (unversioned_calls, unversioned_replies) = in_binary(unversioned);
    let compact_calls = [
        compact(CALL, "a", 0, &compact_nested(1)),
        compact(ONEWAY, "Of:note", 0, &compact_nested(1)),
        compact(CALL, "b", 0, &[]),
        compact(CALL, "c", 0, &[0x15, 9]),
    ];
    let compact_replies = [
        compact(REPLY, "a", 0, &compact_nested(0)),
        compact(REPLY, "b", 0, &[0x1c, 0x18, 2, b'n', b'o', 0]),
        compact(EXCEPTION, "c", 0, &[0x18, 2, b'n', b'o']),
    ];
    for (calls, replies, is_framed) in [
        (&binary_calls, &binary_replies, false),
        (&binary_calls, &binary_replies, true),
        (&unversioned_calls, &unversioned_replies, false),
        (&unversioned_calls, &unversioned_replies, true),
        // A server answers as it is set, whatever the client sends.
        (&unversioned_calls, &binary_replies, true),
        (&compact_calls, &compact_replies, false),
        (&compact_calls, &compact_replies, true),
    ] {
        let wrap = |messages: &[Vec<u8>]| -> Vec<u8> {
            messages.iter().flat_map(|it| if is_framed { framed(it) } else { it.clone() }).collect()
        };
        let (calls, replies) = (wrap(calls), wrap(replies));
        let mut together = Pair::new(&listener)?;
        together.client(&calls)?;
        together.server(&replies)?;
        // Not the first four bytes: fewer do not show the protocol.
        let bytes = |all: &[u8]| -> Vec<Vec<u8>> {
            let (first, rest) = all.split_at(4);
            [first].into_iter().chain(rest.chunks(1)).map(<[u8]>::to_vec).collect()
        };
        let mut single = Pair::new(&listener)?;
        for (by_client, all) in [(true, &calls), (false, &replies)] {
            let parts = bytes(all);
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            single.moves(by_client, &parts)?;
        }
    }
    both_sides(
        &daemon,
        &[
            ("a", "ok", 14),
            ("b", "declared_exception", 14),
            ("c", "application_exception", 14),
            ("Of:note", "oneway", 14),
        ],
    )?;
    daemon.stop()
}

/// Replies belong to calls by their sequence ids, and by their order if these are the same.
fn replies_may_be_in_any_order() -> Result<()> {
    let (listener, daemon) = watched()?;
    let mut pair = Pair::new(&listener)?;
    for (name, sequence) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
        pair.client(&framed(&message(CALL, name, sequence, &[])))?;
    }
    pair.server(&framed(&message(EXCEPTION, "c", 3, &[])))?;
    pair.server(&framed(&message(REPLY, "b", 2, &declared("no"))))?;
    pair.server(&framed(&message(REPLY, "a", 1, &[])))?;
    for name in ["x", "y", "z"] {
        pair.client(&framed(&message(CALL, name, 0, &[])))?;
    }
    pair.server(&framed(&message(EXCEPTION, "x", 0, &[])))?;
    pair.server(&framed(&message(REPLY, "y", 0, &[])))?;
    drop(pair);
    both_sides(
        &daemon,
        &[
            ("a", "ok", 1),
            ("b", "declared_exception", 1),
            ("c", "application_exception", 1),
            ("d", "no_reply", 1),
            ("x", "application_exception", 1),
            ("y", "ok", 1),
            ("z", "no_reply", 1),
        ],
    )?;
    daemon.stop()
}

/// Calls of excluded methods are in no metric but the one that counts them.
fn excluded_methods_are_only_counted() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let exclude = ["--port", &port, "--exclude", "*/left,Of/*"];
    let daemon = Daemon::start(&[&PROTOCOL[..], &exclude].concat())?;
    let mut pair = Pair::new(&listener)?;
    for name in ["left", "kept", "Of:kept", "Other:left", "Other:kept"] {
        pair.client(&message(CALL, name, 0, &[]))?;
        pair.server(&message(REPLY, name, 0, &[]))?;
        pair.client(&framed(&compact(ONEWAY, name, 0, &[])))?;
    }
    drop(pair);
    both_sides(
        &daemon,
        &[
            ("kept", "ok", 1),
            ("kept", "oneway", 1),
            ("Other:kept", "ok", 1),
            ("Other:kept", "oneway", 1),
        ],
    )?;
    daemon.wait_for_sum("observer_excluded_calls_total", &[], 12.0..=12.0)?;
    daemon.stop()
}

/// The number of series of this process with a value, of one outcome and method.
fn handled(metrics: &Metrics, side: &str, name: &str, outcome: &str) -> Result<f64> {
    let own = Identity::of_the_tests("both ends")?;
    let pid = own.pid.to_string();
    let labels = [("pid", &*pid), ("thrift_method", name), ("thrift_outcome", outcome)];
    Ok(metrics.sum(&format!("thrift_{side}_handled_total"), &labels))
}

/// Calls that begin after the daemon are counted; a reply to an earlier call is that of a call that was not seen.
fn older_connections_join_late() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let mut pairs = Vec::new();
    for (is_framed, is_compact) in [(false, false), (true, false), (false, true), (true, true)] {
        let of = move |kind: u8, name: &str| {
            let id = u8::from(kind == CALL);
            let message = if is_compact {
                compact(kind, name, 0, &compact_nested(id))
            } else {
                message(kind, name, 0, &nested(id))
            };
            if is_framed { framed(&message) } else { message }
        };
        let mut pair = Pair::new(&listener)?;
        pair.client(&of(CALL, "before"))?;
        pair.server(&of(REPLY, "before"))?;
        pair.client(&of(CALL, "before"))?;
        pairs.push((pair, of));
    }
    let daemon = Daemon::start(&[&PROTOCOL[..], &["--port", &port]].concat())?;
    for (pair, of) in &mut pairs {
        pair.server(&of(REPLY, "before"))?;
        for _ in 0..3 {
            pair.client(&of(CALL, "after"))?;
            pair.server(&of(REPLY, "after"))?;
        }
    }
    daemon.wait_until(|metrics| {
        for side in ["client", "server"] {
            for (name, calls) in [("after", 12.0), ("not_seen", 4.0), ("before", 0.0)] {
                let ok = handled(metrics, side, name, "ok")?;
                ensure!(ok == calls, "{side}: {ok} of {name}, not {calls}");
            }
        }
        Ok(())
    })?;
    report::exact(6);
    daemon.stop()
}

/// After a gap, what was open may have been answered, and later calls are counted again.
fn discarded_bytes_are_a_gap() -> Result<()> {
    let (listener, daemon) = watched()?;
    let mut pair = Pair::new(&listener)?;
    let answered = |pair: &mut Pair, name: &str| {
        pair.client(&message(CALL, name, 0, &nested(1)))?;
        pair.server(&message(REPLY, name, 0, &nested(0)))
    };
    answered(&mut pair, "before")?;
    pair.client(&message(CALL, "open", 0, &nested(1)))?;
    let reply = message(REPLY, "open", 0, &nested(0));
    pair.server.write_all(&reply)?;
    discard(&pair.client, reply.len())?;
    answered(&mut pair, "after")?;
    daemon.wait_until(|metrics| {
        for (side, name, outcome) in [
            ("client", "before", "ok"),
            ("client", "open", "not_seen"),
            ("client", "after", "ok"),
            ("server", "before", "ok"),
            ("server", "open", "ok"),
            ("server", "after", "ok"),
        ] {
            let calls = handled(metrics, side, name, outcome)?;
            ensure!(calls == 1.0, "{side}: {calls} of {name} with {outcome}");
        }
        let cause = [("cause", "discarded")];
        ensure!(metrics.sum("observer_gaps_total", &cause) > 0.0, "no gap is counted");
        Ok(())
    })?;
    report::exact(6);
    daemon.stop()
}

/// Receives bytes without reading them: the kernel discards them.
fn discard(stream: &TcpStream, bytes: usize) -> Result<()> {
    let mut left = bytes;
    while left > 0 {
        let mut buffer = vec![0; left];
        let flags = rustix::net::RecvFlags::TRUNC;
        let (_, received) = rustix::net::recv(stream, &mut buffer[..], flags)?;
        ensure!(received > 0, "the connection has ended");
        left = left.checked_sub(received).context("more than was sent")?;
    }
    Ok(())
}

/// Bytes that are not messages end nothing but what they are in.
fn hostile_bytes_are_a_gap() -> Result<()> {
    let (listener, daemon) = watched_unversioned()?;
    let deep: Vec<u8> = [12, 0, 1].repeat(40);
    let many = [&[15, 0, 1, 12][..], &[0x7f, 0xff, 0xff, 0xff], &vec![0; 50_000]].concat();
    let fields: [&[u8]; 5] =
        [&deep, &many, &[99, 0, 1], &[15, 0, 1, 99, 0, 0, 0, 1], &[13, 0, 1, 0, 0, 0xff]];
    let messages = fields.map(|fields| message(CALL, "hostile", 0, fields));
    let of_no_kind = [0, 9, 0xff].map(|kind| unversioned(kind, "hostile", 0, &[]));
    let long = unversioned(CALL, &"hostile".repeat(80), 0, &[]);
    let all = messages.into_iter().chain(of_no_kind).chain([long]);
    let good_calls = all.clone().count() as f64;
    for hostile in all {
        let mut pair = Pair::new(&listener)?;
        pair.client(&hostile)?;
        drop(pair);
        let mut pair = Pair::new(&listener)?;
        pair.client(&message(CALL, "good", 0, &[]))?;
        pair.server(&message(REPLY, "good", 0, &[]))?;
    }
    daemon.wait_until(|metrics| {
        for side in ["client", "server"] {
            let good = handled(metrics, side, "good", "ok")?;
            ensure!(good == good_calls, "{side}: {good} good calls");
            let answered = handled(metrics, side, "hostile", "ok")?;
            ensure!(answered == 0.0, "{side}: a call without a reply has ended well");
        }
        Ok(())
    })?;
    if !daemon.is_ready()? {
        bail!("the daemon is not ready");
    }
    daemon.stop()
}
