//! gRPC-Web: its calls have the metrics of gRPC, with a label of their own.

use anyhow::Result;
use serde_json::{Value, json};
use support::daemon::Daemon;
use support::expected::Expected;
use support::peer::{Client, Listen, Server};
use support::report::{self, Also::Nothing};
use support::stack::Stack;
use support::truth::agree;

use super::NOT_FOUND;
use crate::case::Cases;

/// The flag that has the daemon follow gRPC-Web.
const PROTOCOL: [&str; 2] = ["--protocol", "grpc,grpc-web"];

/// The label of calls of gRPC-Web.
const LABEL: [(&str, &str); 1] = [("grpc_protocol", "grpc-web")];

pub(crate) fn add(cases: &mut Cases, tonic: Option<&'static Stack>, node: Option<&'static Stack>) {
    let server = [tonic];
    cases.of("gRPC-Web, HTTP/2: tonic -> tonic", Nothing, server, |[tonic]| {
        calls_are_counted(tonic, &tonic.with(&["--web"]))
    });
    for kind in ["binary", "text"] {
        let name = format!("gRPC-Web, HTTP/2, {kind}: Node -> tonic");
        cases.of(&name, Nothing, [tonic, node], move |[tonic, node]| {
            calls_are_counted(tonic, &node.with(&["--web", kind]))
        });
    }
    cases.of("gRPC-Web, without --protocol", Nothing, server, nothing_without_the_flag);
    cases.of("gRPC-Web and gRPC on one port", Nothing, server, both_on_one_port);
}

/// Calls with one request: messages of all sizes, streams of responses, and all codes.
fn plan() -> Vec<Vec<Value>> {
    let of = |code: i32, responses: u32| json!({"rpc": "ServerStream", "responses": responses, "code": code, "detail": "no such"});
    let unary =
        |code: i32| json!({"rpc": "Unary", "code": code, "detail": "50% grün\n", "count": 2});
    vec![
        vec![
            json!({"rpc": "Unary", "count": 50, "concurrency": 5, "payload": 100, "response_size": 50}),
            json!({"rpc": "ServerStream", "count": 10, "concurrency": 2, "responses": 5, "response_size": 10}),
        ],
        vec![
            json!({"rpc": "Unary", "count": 20, "concurrency": 5, "connections": 3, "response_size": 1}),
        ],
        vec![json!({"rpc": "ServerStream", "responses": 0})],
        (1..=16).filter(|code| *code != 12).map(unary).collect(),
        vec![of(NOT_FOUND, 0), of(NOT_FOUND, 1), of(NOT_FOUND, 3)],
        vec![json!({"unknown_method": true, "count": 3})],
        // Many frames per message, and those of several calls mixed.
        vec![
            json!({"rpc": "ServerStream", "count": 8, "concurrency": 4, "responses": 3, "payload": 100_000, "response_size": 150_001}),
        ],
    ]
}

/// Every number of both ends is counted, and each call has the label.
fn calls_are_counted(server: &Stack, client: &Stack) -> Result<()> {
    let server = Server::start_with(server, Listen::V4, &["--web"])?;
    let daemon = Daemon::start(&[&PROTOCOL[..], &["--port", &server.port()?]].concat())?;
    let (client, did) = Client::start(client, &server, &plan())?.finish()?;
    let identity = server.identity().clone();
    let settled = daemon.settle(&Expected::of_ends(&client, &identity, &did));
    // If the peers do not agree, the daemon is not to blame.
    agree(&server.stop()?, &did)?;
    settled?;
    let calls: u64 = did.calls.iter().map(|row| row.sums.calls).sum();
    let metrics = daemon.scrape()?;
    for name in ["grpc_server_handled_total", "grpc_client_handled_total"] {
        metrics.expect_sum(name, &[], calls as f64)?;
        metrics.expect_sum(name, &LABEL, calls as f64)?;
    }
    report::exact(4);
    daemon.stop()
}

/// Without the flag its calls are streams of something else.
fn nothing_without_the_flag(stacks: [&Stack; 1]) -> Result<()> {
    let [tonic] = stacks;
    let server = Server::start_with(tonic, Listen::V4, &["--web"])?;
    let daemon = Daemon::start(&["--port", &server.port()?])?;
    let plan = [vec![json!({"rpc": "Unary", "count": 7})]];
    Client::start(&tonic.with(&["--web"]), &server, &plan)?.finish()?;
    let not_grpc = [("reason", "not_grpc")];
    daemon.wait_for_sum("observer_unmeasured_streams_total", &not_grpc, 14.0..=14.0)?;
    let metrics = daemon.scrape()?;
    metrics.expect_sum("grpc_server_started_total", &[], 0.0)?;
    server.stop()?;
    daemon.stop()
}

/// Only calls of gRPC-Web have the label.
fn both_on_one_port(stacks: [&Stack; 1]) -> Result<()> {
    let [tonic] = stacks;
    let server = Server::start_with(tonic, Listen::V4, &["--web"])?;
    let daemon = Daemon::start(&[&PROTOCOL[..], &["--port", &server.port()?]].concat())?;
    let plan = |count: u32| -> [Vec<Value>; 1] { [vec![json!({"rpc": "Unary", "count": count})]] };
    Client::start(tonic, &server, &plan(3))?.finish()?;
    Client::start(&tonic.with(&["--web"]), &server, &plan(4))?.finish()?;
    daemon.wait_until(|metrics| {
        for name in ["grpc_server_handled_total", "grpc_client_handled_total"] {
            metrics.expect_sum(name, &[], 7.0)?;
            metrics.expect_sum(name, &LABEL, 4.0)?;
        }
        Ok(())
    })?;
    report::exact(4);
    server.stop()?;
    daemon.stop()
}
