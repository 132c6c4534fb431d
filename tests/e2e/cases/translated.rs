//! Calls between network namespaces whose addresses a node in between translates, as in Kubernetes: the server's like
//! that of a Service, the client's by masquerade. A daemon in the namespace of each end knows nothing of the other.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use support::collector::{Collector, Span};
use support::daemon::Daemon;
use support::is_installed;
use support::namespaces::Translation;
use support::openmetrics::label;
use support::pace::slowness;
use support::peer::{Client, Listen, Server};
use support::report::Also::Nothing;
use support::stack::Stack;
use support::truth::{Truth, agree, code_name};

use crate::case::Cases;
use crate::plans;

/// Adds the cases; `python` has the peers and the receiver. They are ignored without nft(8) and ip(8).
pub(crate) fn add(cases: &mut Cases, python: Option<&'static Stack>) -> Result<()> {
    let possible = is_installed("nft", "-v")? && is_installed("ip", "-V")?;
    let python = python.filter(|_| possible);
    for (name, run) in [
        ("otlp: two daemons, with address translation between them", joined as fn(&Stack) -> _),
        ("otlp: daemons that join late, with address translation between them", late),
        ("the service graph: both ends of connections whose addresses are translated", edges),
    ] {
        cases.of(name, Nothing, [python], move |[python]| run(python));
    }
    Ok(())
}

/// Spans are sent after this many milliseconds, and nothing else is sent.
const SOON: &str = "export OTEL_BSP_SCHEDULE_DELAY=100 OTEL_METRICS_EXPORTER=none";

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn traceparent() -> String {
    format!("00-{TRACE}-{PARENT}-01")
}

/// A daemon in the namespace of each end, and the receivers of their spans, which are there, too. All clients at the node's
/// address are watched.
struct Daemons([(Daemon, Collector); 2]);

impl Daemons {
    fn start(net: &Translation, python: &Stack, server_pid: &str) -> Result<Self> {
        let [at_client, at_server] = net.networks();
        let start = |network, flags: &[&str]| {
            let collector = Collector::start_in(network, python)?;
            let url = format!("http://{}", collector.address);
            let flags = [flags, &["--otlp-endpoint", &url]].concat();
            anyhow::Ok((Daemon::start_in(network, &[SOON], &flags)?, collector))
        };
        let of_client = start(&at_client, &["--port", "7080"])?;
        let of_server = ["--pid", server_pid, "--otlp-watched", Translation::OF_NODE];
        Ok(Self([of_client, start(&at_server, &of_server)?]))
    }

    /// That of the client's end, and that of the server's.
    fn each(&self) -> [&Daemon; 2] {
        self.0.each_ref().map(|(daemon, _)| daemon)
    }

    /// The spans of clients, and those of servers.
    fn spans(&self) -> Result<[Vec<Span>; 2]> {
        let [clients, servers] = self.0.each_ref().map(|(_, collector)| collector.spans());
        let (clients, servers) = (clients?, servers?);
        for (spans, kind) in [(&clients, "SPAN_KIND_CLIENT"), (&servers, "SPAN_KIND_SERVER")] {
            ensure!(spans.iter().all(|span| span.kind == kind), "not only {kind}: {spans:#?}");
        }
        Ok([clients, servers])
    }

    fn stop(self) -> Result<()> {
        self.0.into_iter().try_for_each(|(daemon, _)| daemon.stop())
    }
}

/// A code as OpenTelemetry and gRPC's libraries both write it.
fn plain(code: &str) -> String {
    code.replace('_', "").to_uppercase().replace("CANCELLED", "CANCELED")
}

/// The number of spans by method and code.
fn counts(spans: &[Span]) -> BTreeMap<(String, String), u64> {
    let mut counts = BTreeMap::new();
    for span in spans {
        let text = |key| span.attribute(key).as_str().unwrap_or_default().to_owned();
        let method = match text("rpc.method_original") {
            original if original.is_empty() => text("rpc.method"),
            original => original,
        };
        *counts.entry((method, plain(&text("rpc.response.status_code")))).or_default() += 1;
    }
    counts
}

/// The calls that a peer has recorded, by method and code.
fn recorded(truth: &Truth) -> BTreeMap<(String, String), u64> {
    let mut counts = BTreeMap::new();
    for row in truth.calls.iter().filter(|row| row.sums.calls > 0) {
        let method = row.method.trim_start_matches('/').to_owned();
        *counts.entry((method, plain(code_name(row.code)))).or_default() += row.sums.calls;
    }
    counts
}

/// The outcomes of a daemon's spans that occurred.
fn outcomes(daemon: &Daemon) -> Result<BTreeMap<String, u64>> {
    let metrics = daemon.scrape()?;
    let series = metrics.series("observer_otlp_spans_total");
    let counts = series.map(|(labels, n)| (label(labels, "outcome").to_owned(), n as u64));
    Ok(counts.filter(|(_, count)| *count > 0).collect())
}

/// Each step twice, the second time with `traceparent`.
fn with_and_without(plan: &[Vec<Value>]) -> Vec<Vec<Value>> {
    let with = |step: &Value| {
        let mut step = step.clone();
        if let Some(fields) = step.as_object_mut() {
            fields.insert("traceparent".into(), json!(traceparent()));
        }
        step
    };
    let both =
        plan.iter().map(|steps| steps.iter().flat_map(|step| [step.clone(), with(step)]).collect());
    both.collect()
}

/// Every call has two spans in one trace, and the server's is the child of the client's.
fn joined(python: &Stack) -> Result<()> {
    let net = Translation::new()?;
    let server = Server::start(&net.server(python), Listen::Any)?;
    net.serve(&server.port()?)?;
    let daemons = Daemons::start(&net, python, &server.pid())?;
    // Many connections, some with several calls at the same time.
    let many = json!({"rpc": "Unary", "count": 120, "concurrency": 20, "connections": 60});
    let plan = [plans::kinds(), plans::errors(), vec![vec![many]]].concat();
    let plan = with_and_without(&plan);
    let client = Client::start_to(&net.client(python), Translation::SERVICE, &plan)?;
    let (identity, did) = client.finish()?;
    let want = recorded(&did);
    let calls: u64 = want.values().sum();
    for daemon in daemons.each() {
        daemon.wait_until(|_| {
            let (found, want) = (outcomes(daemon)?, BTreeMap::from([("exported".into(), calls)]));
            ensure!(found == want, "the outcomes are {found:?}, not {want:?}");
            Ok(())
        })?;
    }
    let [clients, servers] = daemons.spans()?;
    for (spans, pid) in [(&clients, identity.pid), (&servers, server.identity().pid)] {
        let found = counts(spans);
        ensure!(found == want, "the spans are {found:?}, not {want:?}");
        for span in spans {
            ensure!(span.resource.get("process.pid") == Some(&json!(pid)), "{span:#?}");
        }
    }
    // Neither sees the other's address.
    let (service, _) = Translation::SERVICE.split_once(':').context("a port")?;
    for (spans, peer) in [(&clients, service), (&servers, Translation::NODE)] {
        let peers: BTreeSet<_> = spans
            .iter()
            .map(|span| span.attribute("network.peer.address").as_str().unwrap_or_default())
            .collect();
        ensure!(peers == BTreeSet::from([peer]), "the peers are {peers:?}, not {peer}");
    }
    let by_id: BTreeMap<&str, &Span> = clients.iter().map(|span| (&*span.span, span)).collect();
    ensure!(by_id.len() as u64 == calls, "{} ids of {calls} clients", by_id.len());
    let parents: BTreeSet<&str> = servers.iter().map(|span| &*span.parent).collect();
    ensure!(parents.len() as u64 == calls, "{} parents of {calls} servers", parents.len());
    for server in &servers {
        let client =
            by_id.get(&*server.parent).with_context(|| format!("no parent: {server:#?}"))?;
        ensure!(server.trace == client.trace, "{client:#?} {server:#?}");
        for key in ["rpc.method", "rpc.response.status_code"] {
            ensure!(server.attribute(key) == client.attribute(key), "{client:#?} {server:#?}");
        }
    }
    // Half of the calls are below the application's span, the other half are roots of their own traces.
    let (below, roots): (Vec<&Span>, Vec<&Span>) =
        clients.iter().partition(|span| span.trace == TRACE);
    ensure!(below.iter().all(|span| span.parent == PARENT), "{below:#?}");
    ensure!(roots.iter().all(|span| span.parent.is_empty()), "{roots:#?}");
    ensure!(below.len() == roots.len(), "{} and {}", below.len(), roots.len());
    let traces: BTreeSet<&str> = roots.iter().map(|span| &*span.trace).collect();
    ensure!(traces.len() == roots.len(), "{} traces of {}", traces.len(), roots.len());
    daemons.stop()?;
    agree(&server.stop()?, &did)
}

/// Two daemons watch from the first byte, and two start while connections are open, one of each end. What the later ones
/// export belongs to what the earlier ones do, call by call.
fn late(python: &Stack) -> Result<()> {
    let net = Translation::new()?;
    let server = Server::start(&net.server(python), Listen::Any)?;
    net.serve(&server.port()?)?;
    let early = Daemons::start(&net, python, &server.pid())?;
    // One call after the other, on one connection with traceparent and one without.
    let step = json!({"rpc": "Unary", "count": 200, "sleep_ms": 30 * slowness()});
    let plan = with_and_without(&[vec![step]]);
    let mut client = Client::start_to(&net.client(python), Translation::SERVICE, &plan)?;
    for daemon in early.each() {
        daemon.wait_for_sum("observer_otlp_spans_total", &[("outcome", "exported")], 2.0..)?;
    }
    let late = Daemons::start(&net, python, &server.pid())?;
    ensure!(client.is_running()?, "the client ended before it was joined");
    let (_, did) = client.finish()?;
    let calls: u64 = recorded(&did).values().sum();
    for daemon in early.each() {
        daemon.wait_until(|_| {
            let (found, want) = (outcomes(daemon)?, BTreeMap::from([("exported".into(), calls)]));
            ensure!(found == want, "the outcomes are {found:?}, not {want:?}");
            Ok(())
        })?;
    }
    for (daemon, side) in late.each().into_iter().zip(["client", "server"]) {
        daemon.wait_until(|metrics| {
            let ended = metrics.sum(&format!("grpc_{side}_handled_total"), &[]);
            let told: u64 = outcomes(daemon)?.values().sum();
            ensure!(ended > 0.0 && told as f64 == ended, "{ended} calls have {told} outcomes");
            Ok(())
        })?;
    }
    let ([all_clients, all_servers], [clients, servers]) = (early.spans()?, late.spans()?);
    are_joined(&clients, &all_servers, "client")?;
    are_joined(&all_clients, &servers, "server")?;
    early.stop()?;
    late.stop()?;
    agree(&server.stop()?, &did)
}

/// The spans of the client and the server, one of which was joined late.
fn ends<'a>(late: &str, span: &'a Span, other: &'a Span) -> (&'a Span, &'a Span) {
    if late == "client" { (span, other) } else { (other, span) }
}

/// The spans of the end that was joined late belong to those of the other end, which has all calls. The calls of the first
/// records come before it is known which end is the client, and do not.
fn are_joined(clients: &[Span], servers: &[Span], late: &str) -> Result<()> {
    const FIRST: usize = 5;
    let is_below = |span: &Span| span.trace == TRACE;
    let (few, all) = if late == "client" { (clients, servers) } else { (servers, clients) };
    let mut unjoined = 0;
    for span in few {
        // On one connection, calls do not overlap: so the middle of a server's span is within the client's span.
        let is_partner = |other: &&Span| {
            let (client, server) = ends(late, span, other);
            let middle = server.start.midpoint(server.end);
            is_below(client) == is_below(server) && (client.start..=client.end).contains(&middle)
        };
        let partners: Vec<_> = all.iter().filter(is_partner).collect();
        let [partner] = *partners else { bail!("{} partners of {span:#?}", partners.len()) };
        let (client, server) = ends(late, span, partner);
        let context = || format!("{client:#?} {server:#?}");
        // Both are in the trace that the request names.
        ensure!(is_below(span) && server.trace == client.trace, context());
        ensure!(client.parent == PARENT, context());
        if server.parent == client.span {
            continue;
        }
        unjoined += 1;
        // It is nowhere else, either.
        ensure!(all.iter().all(|other| other.span != server.parent), context());
        ensure!(few.iter().all(|other| other.span != server.parent), context());
    }
    ensure!(few.len() > 20, "only {} calls of the {late} were seen", few.len());
    ensure!(unjoined <= FIRST, "{unjoined} of {} calls are not joined", few.len());
    Ok(())
}

/// A daemon that watches both ends knows that they belong together.
fn edges(python: &Stack) -> Result<()> {
    let net = Translation::new()?;
    let server = Server::start(&net.server(python), Listen::Any)?;
    let port = server.port()?;
    net.serve(&port)?;
    let names = format!("{}=orders", server.identity().comm);
    let ports = format!("7080,{port}");
    let flags = ["--service-graph", "--service-name", &names, "--port", &ports];
    let daemon = Daemon::start_after(&[], &flags)?;
    let plan = [plans::kinds(), plans::errors()].concat();
    let client = Client::start_to(&net.client(python), Translation::SERVICE, &plan)?;
    let (_, did) = client.finish()?;
    let calls: u64 = recorded(&did).values().sum();
    daemon.wait_until(|metrics| {
        for family in [
            "traces_service_graph_request_total",
            "traces_service_graph_request_client_seconds_count",
            "traces_service_graph_request_server_seconds_count",
        ] {
            let series = metrics.series(family);
            let found: Vec<_> = series
                .map(|(labels, n)| {
                    let [server, kind] =
                        ["server", "connection_type"].map(|key| label(labels, key));
                    (server.to_owned(), kind.to_owned(), n as u64)
                })
                .collect();
            let want = [("orders".to_owned(), String::new(), calls)];
            ensure!(found == want, "{family} is {found:?}, not {want:?}");
        }
        Ok(())
    })?;
    daemon.stop()?;
    agree(&server.stop()?, &did)
}
