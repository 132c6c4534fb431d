//! A daemon that is started while connections are in full use, beside one that was there before them.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use support::daemon::Daemon;
use support::expected::Expected;
use support::losses;
use support::openmetrics::Metrics;
use support::pace::slowness;
use support::peer::{Client, Listen, Server};
use support::report;
use support::stack::Stack;

/// Calls of a connection, and how many connections, until the late daemon has found its frames: what
/// is under way at that moment, and one call in each direction.
const CONNECTIONS: u32 = 2;
const CONCURRENCY: u32 = 4;
const UNTIL_FOUND: f64 = (3 * CONNECTIONS + 2 * CONCURRENCY) as f64;

/// Calls one after the other for longer than a daemon takes to start; then methods and codes that the
/// connections have not had before.
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

/// What the late daemon tells is true, and all that happened after its start is in it.
pub(crate) fn daemon_started_under_load_misses_only_earlier_calls(stack: &Stack) -> Result<()> {
    let server = Server::start(stack, Listen::V4)?;
    let arguments = ["--port".to_owned(), server.port()?];
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

/// A server that reads a frame's header by itself, and waits for the next one while a daemon starts: the first
/// call that begins then is counted, and so are all after it.
pub(crate) fn daemon_started_during_a_call_counts_the_next(
    server: &Stack,
    args: &[&str],
    client: &Stack,
) -> Result<()> {
    const CALLS: f64 = 4.0;
    let server = Server::start_with(server, Listen::V4, args)?;
    let arguments = ["--port".to_owned(), server.port()?];
    let always = Daemon::start(&arguments)?;
    // Each is under way for longer than a daemon takes to start.
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
            // The one under way is not seen to begin; it is counted if what ends it shows that it is gRPC's.
            let all = losses::is_as_expected(metrics, started, CALLS - before)
                && (started..=started + 1.0).contains(&ended);
            if all { Ok(()) } else { Err(format!("the {role} began {started}, ended {ended}")) }
        })?;
    }
    server.stop()?;
    Ok(())
}

/// No label has more than there is, and no call is missing that began after `before`.
fn agree(role: &str, before: &Metrics, all: &Metrics, late: &Metrics) -> Result<(), String> {
    let name = format!("grpc_{role}_handled_total");
    for (labels, seen) in late.series(&name) {
        let [method, code] = ["grpc_method", "grpc_code"]
            .map(|name| (name, labels.get(name).map_or("", String::as_str)));
        let known: Vec<_> =
            [method, code].into_iter().filter(|(_, it)| *it != "not_seen").collect();
        let there_are = all.sum(&name, &known);
        if seen > there_are {
            return Err(format!("{seen} calls of {labels:?}, but there were {there_are}"));
        }
    }
    let ended = |metrics: &Metrics| metrics.sum(&name, &[]);
    let after = ended(all) - ended(before);
    let seen = ended(late);
    if seen < after - UNTIL_FOUND || seen > ended(all) {
        return Err(format!("the {role} ended {after} calls after the start, {seen} were seen"));
    }
    let in_flight = late.sum(&format!("grpc_{role}_in_flight"), &[]);
    if in_flight > 0.0 { Err(format!("{in_flight} calls are in flight")) } else { Ok(()) }
}
