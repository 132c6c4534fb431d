//! Cases of each stack's server, besides the plans of all pairs.

use anyhow::{Result, ensure};
use serde_json::json;
use support::daemon::Daemon;
use support::expected::Expected;
use support::footprint::{status, threads};
use support::peer::{Client, Listen, Server};
use support::report::{self, TSHARK};
use support::stack::Stack;
use support::truth::{CUT, Row, Sums, Truth, agree};

use super::UNAVAILABLE;
use crate::comparison::{confirm, record, settle_both_ends};
use crate::plans::{RPCS, few, kinds, thousand};

/// Four workers share the connections, and so the calls of each method.
pub(crate) fn calls_are_shared_among_workers(stack: &Stack) -> Result<()> {
    let daemon = Daemon::start(&["--workers", "4"])?;
    let server = Server::start(stack, Listen::V4)?;
    let mut plan = kinds();
    plan.extend(thousand(50));
    plan.extend(few(20));
    let (client, did) = Client::start(stack, &server, &plan)?.finish()?;
    settle_both_ends(&daemon, server, &client, &did)?;
    let names =
        threads(daemon.pid())?.into_iter().map(|thread| status(daemon.pid(), thread, "Name"));
    let workers = names.filter_map(Result::ok).filter(|name| name.starts_with("worker-")).count();
    ensure!(workers == 4, "{workers} workers");
    daemon.stop()
}

pub(crate) fn calls_in_flight_are_counted(daemon: &Daemon, stack: &Stack) -> Result<()> {
    const CALLS: u32 = 100;
    const CONNECTIONS: u32 = 2;
    let server = Server::start(stack, Listen::V4)?;
    let plan = [vec![
        json!({"count": CALLS, "concurrency": CALLS, "connections": CONNECTIONS, "sleep_ms": 3000}),
    ]];
    let client = Client::start(stack, &server, &plan)?;
    let pids = [("server", server.pid()), ("client", client.identity().pid.to_string())];
    daemon.wait_until(|metrics| {
        pids.iter().try_for_each(|(side, pid)| {
            metrics.expect_sum(&format!("grpc_{side}_in_flight"), &[("pid", pid)], CALLS)?;
            metrics.expect_sum(&format!("grpc_{side}_connections"), &[("pid", pid)], CONNECTIONS)
        })
    })?;
    let (client, did) = client.finish()?;
    daemon.settle(&Expected::of_ends(&client, server.identity(), &did))
}

/// A call whose deadline is over before it starts is not on the wire.
pub(crate) fn calls_expired_before_they_begin_are_not_counted(
    daemon: &Daemon,
    stack: &Stack,
) -> Result<()> {
    let server = Server::start(stack, Listen::V4)?;
    let expired = RPCS.map(|rpc| json!({"rpc": rpc, "count": 3, "deadline_ms": 0}));
    let (client, did) = Client::start(stack, &server, &[expired.to_vec()])?.finish()?;
    ensure!(did.calls.iter().all(|row| row.code == 4), "not all expired: {did:?}");
    daemon.settle(&[Expected::nothing(&client), Expected::nothing(server.identity())])?;
    agree(&server.stop()?, &Truth::default())
}

/// The server sends GOAWAY several times; its clients' calls continue over new connections.
///
/// The client is not tonic: there, a call whose connection is closing may fail before it is on the wire.
pub(crate) fn calls_go_on_when_connections_age(server: &Stack, client: &Stack) -> Result<()> {
    let server = Server::start_with(server, Listen::V4, &["--max-connection-age-ms", "400"])?;
    let daemon = Daemon::start(&["--port", &server.port()?])?;
    let step = |rpc| json!({"rpc": rpc, "count": 60, "concurrency": 2, "sleep_ms": 50});
    let plan = [vec![step("Unary"), step("Bidi")]];
    let recording = record(&server)?;
    let (client, did) = Client::start(client, &server, &plan)?.finish()?;
    ensure!(did.calls.iter().all(|row| row.code == 0), "calls failed: {did:?}");
    let opened = daemon.scrape()?.sum("observer_connections_seen_total", &[("protocol", "grpc")]);
    ensure!(opened > 4.0, "{opened} ends of connections: none was aged");
    let Some(recording) = recording else {
        return settle_both_ends(&daemon, server, &client, &did);
    };
    let wire = recording.finish()?;
    let on_wire = |code| {
        let refused = wire.without_status().map(|(path, calls)| refused_calls(path, code, calls));
        Truth { calls: did.calls.iter().cloned().chain(refused).collect(), ..did }
    };
    wire.agree(&on_wire(CUT))?;
    report::confirmed(TSHARK);
    if wire.without_status().next().is_none() {
        return settle_both_ends(&daemon, server, &client, &did);
    }
    let with_refused = on_wire(UNAVAILABLE);
    daemon.settle(&[Expected::of_client(&client, &with_refused)])?;
    let identity = server.identity().clone();
    agree(&server.stop()?, &did)?;
    // A server that has closed the connection has not read the last calls.
    let of_server = [&with_refused, &did].map(|calls| Expected::of_server(&identity, calls));
    daemon.wait_until(|metrics| {
        let differences = of_server.each_ref().map(|expected| expected.difference(metrics));
        let agrees = differences.iter().any(Option::is_none);
        ensure!(agrees, differences.into_iter().flatten().collect::<Vec<_>>().join("\nor "));
        Ok(())
    })
}

/// Calls that a server refused and the client's library repeated, without its application (gRFC A6, "transparent
/// retries").
pub(super) fn refused_calls(path: &str, code: i32, calls: u64) -> Row {
    let row = Row::new(path, code, Sums { calls, ..Sums::default() });
    Row { requests_unsure: true, ..row }
}

/// Each attempt is a call on the wire, and is counted. The server's record has their number.
pub(crate) fn retries_and_hedges_count_as_calls(
    daemon: &Daemon,
    stack: &Stack,
    policy: &str,
) -> Result<()> {
    const CALLS: u32 = 5;
    const ATTEMPTS: u32 = 3;
    let settings = match policy {
        "retryPolicy" => json!({
            "maxAttempts": ATTEMPTS, "initialBackoff": "0.01s", "maxBackoff": "0.01s",
            "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"],
        }),
        _ => json!({
            "maxAttempts": ATTEMPTS, "hedgingDelay": "0.05s",
            "nonFatalStatusCodes": ["UNAVAILABLE"],
        }),
    };
    let config = json!({"methodConfig": [{"name": [{}], policy: settings}]});
    let plan = [vec![json!({"count": CALLS, "code": UNAVAILABLE, "service_config": config})]];
    let server = Server::start(stack, Listen::V4)?;
    let recording = record(&server)?;
    let (client, did) = Client::start(stack, &server, &plan)?.finish()?;
    let calls = |truth: &Truth| truth.calls.iter().map(|row| row.sums.calls).sum::<u64>();
    ensure!(calls(&did) == u64::from(CALLS), "the client reports other calls: {did:?}");
    let identity = server.identity().clone();
    let attempts = server.stop()?.mirrored();
    ensure!(calls(&attempts) == u64::from(CALLS * ATTEMPTS), "other attempts: {attempts:?}");
    daemon.settle(&[
        Expected::of_client(&client, &attempts),
        Expected::of_server(&identity, &attempts),
    ])?;
    confirm(recording, &attempts)
}

/// The daemon ends during calls, and the service does not notice.
pub(crate) fn daemon_stops_under_traffic(server: &Stack, client: &Stack) -> Result<()> {
    let server = Server::start(server, Listen::V4)?;
    let daemon = Daemon::start(&["--port", &server.port()?])?;
    let plan = [vec![json!({"count": 4000, "concurrency": 8, "connections": 2, "sleep_ms": 5})]];
    let mut client = Client::start(client, &server, &plan)?;
    daemon.wait_for_sum("grpc_server_handled_total", &[], 101.0..)?;
    daemon.stop()?;
    ensure!(client.is_running()?, "the client had done its plan before the daemon ended");
    let (_, did) = client.finish()?;
    ensure!(did.calls.iter().all(|row| row.code == 0), "calls failed: {did:?}");
    let calls: u64 = did.calls.iter().map(|row| row.sums.calls).sum();
    ensure!(calls == 4000, "{calls} of 4000 calls");
    agree(&server.stop()?, &did)
}
