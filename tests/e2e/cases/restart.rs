//! A daemon that starts while connections are in use, compared with one that is older than them.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use support::daemon::Daemon;
use support::expected::Expected;
use support::losses;
use support::openmetrics::{Metrics, label};
use support::pace::slowness;
use support::peer::{Client, Listen, Server};
use support::report;
use support::stack::Stack;

/// The most calls that the late daemon misses, until it has found the frame boundaries of each connection: those that
/// are open at that moment, and one in each direction.
const CONNECTIONS: u32 = 2;
const CONCURRENCY: u32 = 4;
const UNTIL_FOUND: f64 = (3 * CONNECTIONS + 2 * CONCURRENCY) as f64;

/// Calls that take longer than a daemon takes to start; then methods and codes that are new on the connections.
fn plan() -> Vec<Vec<Value>> {
    let common = json!({"concurrency": CONCURRENCY, "connections": CONNECTIONS});
    let step = |more: Value| {
        let mut step = common.clone();
        if let (Some(step), Value::Object(more)) = (step.as_object_mut(), more) {
            step.extend(more);
        }
        step
    };
    vec![
        vec![step(json!({
            "rpc": "Unary", "count": 1200, "sleep_ms": 20, "payload": 50, "response_size": 50,
        }))],
        vec![step(json!({"rpc": "ServerStream", "count": 40, "responses": 2}))],
        vec![step(json!({"rpc": "Bidi", "count": 40, "requests": 2, "code": 5}))],
    ]
}

/// The late daemon's numbers must be true, and include all later calls.
pub(crate) fn daemon_started_under_load_misses_only_earlier_calls(stack: &Stack) -> Result<()> {
    let server = Server::start(stack, Listen::V4)?;
    let arguments = ["--port", &server.port()?];
    let always = Daemon::start(&arguments)?;
    let plan = plan();
    let mut client = Client::start(stack, &server, &plan)?;
    always.wait_for_sum("grpc_server_handled_total", &[], 101.0..)?;
    let late = Daemon::start(&arguments)?;
    let before = always.scrape()?;
    ensure!(client.is_running()?, "the client had done its plan before the second daemon watched");
    let (client, did) = client.finish()?;
    always.settle(&Expected::of_ends(&client, server.identity(), &did))?;
    let all = always.scrape()?;
    for role in ["client", "server"] {
        late.wait_until(|seen| agree(role, &before, &all, seen))?;
    }
    let seen = late.scrape()?;
    let of = |what| seen.sum("observer_calls_total", &[("seen", what)]);
    let [complete, no_method, no_code, nothing] =
        ["complete", "no_method", "no_code", "nothing"].map(of);
    report::say(&format!(
        "joined late, {}: of {} calls the method and code of {complete} were seen, the code of \
         {no_method} more, the method of {no_code} more",
        stack.name,
        complete + no_method + no_code + nothing,
    ));
    server.stop()?;
    Ok(())
}

/// A server that reads a frame's header by itself, and waits for the next one while a daemon starts: the first call
/// after the start is counted, and so are all later ones.
pub(crate) fn daemon_started_during_a_call_counts_the_next(
    server: &Stack,
    args: &[&str],
    client: &Stack,
) -> Result<()> {
    const CALLS: f64 = 4.0;
    let server = Server::start_with(server, Listen::V4, args)?;
    let arguments = ["--port", &server.port()?];
    let always = Daemon::start(&arguments)?;
    // Each takes longer than a daemon takes to start.
    let plan =
        vec![vec![json!({"rpc": "Unary", "count": CALLS as u32, "sleep_ms": 2_000 * slowness()})]];
    let client = Client::start(client, &server, &plan)?;
    let begun = |metrics: &Metrics| metrics.sum("grpc_server_started_total", &[]);
    always.wait_for_sum("grpc_server_started_total", &[], 2.0..)?;
    let before = begun(&always.scrape()?);
    let late = Daemon::start(&arguments)?;
    ensure!(begun(&always.scrape()?) <= before, "a call began while the second daemon started");
    let (client, did) = client.finish()?;
    always.settle(&Expected::of_ends(&client, server.identity(), &did))?;
    for role in ["client", "server"] {
        late.wait_until(|metrics| {
            let started = metrics.sum(&format!("grpc_{role}_started_total"), &[]);
            let ended = metrics.sum(&format!("grpc_{role}_handled_total"), &[]);
            // The start of the open call is missing. It is counted if its end shows that it is gRPC.
            let all = losses::is_as_expected(metrics, started, CALLS - before)
                && (started..=started + 1.0).contains(&ended);
            ensure!(all, "the {role} started {started}, ended {ended}");
            Ok(())
        })?;
    }
    server.stop()?;
    Ok(())
}

/// An error if the late daemon has too many calls of a label, or misses calls that started after `before`.
fn agree(role: &str, before: &Metrics, all: &Metrics, late: &Metrics) -> Result<()> {
    let name = format!("grpc_{role}_handled_total");
    for (labels, seen) in late.series(&name) {
        let both = ["grpc_method", "grpc_code"].map(|name| (name, label(labels, name)));
        let known: Vec<_> = both.into_iter().filter(|(_, it)| *it != "not_seen").collect();
        let there_are = all.sum(&name, &known);
        ensure!(seen <= there_are, "{seen} calls of {labels:?}, but there were {there_are}");
    }
    let ended = |metrics: &Metrics| metrics.sum(&name, &[]);
    let after = ended(all) - ended(before);
    let seen = ended(late);
    let is_in_range = (after - UNTIL_FOUND..=ended(all)).contains(&seen);
    ensure!(is_in_range, "the {role} ended {after} calls after the start, {seen} were seen");
    late.expect_sum(&format!("grpc_{role}_in_flight"), &[], 0)
}
