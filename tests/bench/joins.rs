//! Whether the ends of calls are joined, on very many connections.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver as Queue, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use prost::Message;
use support::daemon::Daemon;
use support::short::Short;

use crate::figures::{Bound, Results};
use crate::otlp::Receiver;

const CONNECTIONS: u32 = 1_000_000;

/// Connections that are made before their spans are waited for.
const IN_A_ROW: u32 = 5_000;

/// Ports of clients: each is used hundreds of times.
const PORTS: u16 = 4_000;

/// Time for the spans of connections in a row.
const LIMIT: Duration = Duration::from_mins(1);

#[derive(Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<OfResource>,
}

#[derive(Message)]
struct OfResource {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<OfScope>,
}

#[derive(Message)]
struct OfScope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent: Vec<u8>,
    /// 2 for a server, 3 for a client.
    #[prost(int32, tag = "6")]
    kind: i32,
}

/// The spans of one trace, by their ids: the client's, and the server's with its parent.
#[derive(Default)]
struct Trace {
    clients: Vec<[u8; 8]>,
    servers: Vec<[u8; 8]>,
}

/// Makes a million connections of one call each, and looks at the spans of all of them.
pub(crate) fn counted(results: &mut Results) -> Result<()> {
    let (sender, requests) = channel();
    let receiver = Receiver::start(move |request| {
        // The benchmark has ended otherwise.
        let _ = sender.send(request);
    })?;
    let short = Short::listen()?;
    let endpoint = format!("http://{}", receiver.address);
    let variables = "export OTEL_BSP_SCHEDULE_DELAY=50 OTEL_METRICS_EXPORTER=none";
    let flags = ["--port", &short.port(), "--otlp-endpoint", &endpoint];
    let daemon = Daemon::start_after(&[variables], &flags)?;
    let mut traces = HashMap::<[u8; 16], Trace>::new();
    let mut spans = 0;
    let begin = Instant::now();
    for row in 1..=CONNECTIONS / IN_A_ROW {
        short.make(IN_A_ROW, PORTS)?;
        let all = 2 * u64::from(row * IN_A_ROW);
        receive(&requests, &mut traces, &mut spans, all)?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    // Nothing comes later.
    sleep(Duration::from_secs(1));
    receive(&requests, &mut traces, &mut spans, 0)?;
    daemon.stop()?;
    let calls = f64::from(CONNECTIONS);
    let is_joined = |trace: &&Trace| trace.clients.len() == 1 && trace.clients == trace.servers;
    let joined = traces.values().filter(is_joined).count() as f64;
    let several =
        traces.values().filter(|trace| trace.clients.len() > 1 || trace.servers.len() > 1);
    let none = Some(Bound::AtMost(0.0));
    results.add(
        "calls that share a trace with another call",
        "",
        none,
        vec![several.count() as f64],
    );
    let all = Some(Bound::AtLeast(1.0));
    results.add("calls with both ends joined ÷ calls", "", all, vec![joined / calls]);
    results.add("spans ÷ ends of calls", "", all, vec![spans as f64 / (2.0 * calls)]);
    results.add("connections per second", "", None, vec![calls / seconds]);
    Ok(())
}

/// Takes requests until there are this many spans, and those that are there already.
fn receive(
    requests: &Queue<Vec<u8>>,
    traces: &mut HashMap<[u8; 16], Trace>,
    spans: &mut u64,
    all: u64,
) -> Result<()> {
    loop {
        let request = match requests.try_recv() {
            Ok(request) => request,
            Err(_) if *spans >= all => return Ok(()),
            Err(_) => requests
                .recv_timeout(LIMIT)
                .with_context(|| format!("{spans} of {all} spans have arrived"))?,
        };
        let request = Request::decode(&*request).context("decode a request")?;
        let of_scopes = request.resources.into_iter().flat_map(|of| of.scopes);
        for Span { trace, id, parent, kind } in of_scopes.flat_map(|of| of.spans) {
            *spans += 1;
            let trace = trace.try_into().ok().context("a trace's id")?;
            let trace = traces.entry(trace).or_default();
            match kind {
                3 => trace.clients.push(id.try_into().ok().context("a span's id")?),
                2 => {
                    ensure!(!parent.is_empty(), "a server's span is a root");
                    trace.servers.push(parent.try_into().ok().context("a parent's id")?);
                }
                other => bail!("a span of kind {other}"),
            }
        }
    }
}
