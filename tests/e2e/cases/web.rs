//! gRPC-Web and Connect: their calls have the metrics of gRPC, with a label of their own.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use support::daemon::Daemon;
use support::expected::Expected;
use support::look::browser::{self, Browser};
use support::openmetrics::{Metrics, label};
use support::peer::{Client, Identity, Listen, Server};
use support::proxy::{self, Program, Proxy};
use support::report::{self, Also::Nothing};
use support::stack::Stack;
use support::truth::{Truth, agree, code_name};

use super::NOT_FOUND;
use super::payload::no_payload_of_relatives_leaves_the_kernel;
use crate::case::Cases;

/// The flag that has the daemon follow gRPC-Web.
const PROTOCOL: [&str; 2] = ["--protocol", "grpc,grpc-web"];

/// The flag that has the daemon follow both.
const BOTH: [&str; 2] = ["--protocol", "grpc,grpc-web,connect"];

/// A stack, if it is there.
type Maybe = Option<&'static Stack>;

/// The label of calls of gRPC-Web.
const LABEL: [(&str, &str); 1] = [("grpc_protocol", "grpc-web")];

pub(crate) fn add(cases: &mut Cases, tonic: Maybe, node: Maybe, go: Maybe) -> Result<()> {
    let mut proxied = Vec::new();
    for program in &proxy::HTTP1 {
        // Ignored if it is not installed.
        proxied.push((program, if program.is_there()? { go } else { None }));
    }
    cases.together("gRPC-Web and Connect", |cases| each(cases, [tonic, node, go], proxied));
    for (kind, text, server, args) in [
        ("text", "gRPC-Web as text", tonic, &["--web"][..]),
        ("binary", "gRPC-Web", tonic, &["--web"]),
        ("connect", "Connect", go, &["--web", "connect"]),
        ("connect-json", "Connect with JSON", go, &["--web", "connect"]),
        ("text-http1", "gRPC-Web as text, HTTP/1.1", tonic, &["--web"]),
        ("binary-http1", "gRPC-Web, HTTP/1.1", tonic, &["--web"]),
        ("connect-http1", "Connect, HTTP/1.1", go, &["--web", "connect-http1"]),
        ("connect-json-http1", "Connect with JSON, HTTP/1.1", go, &["--web", "connect-http1"]),
    ] {
        let name = format!("no payload leaves the kernel: {text}");
        cases.of(&name, Nothing, [server, node], move |[server, node]| {
            let client = node.with(&["--web", kind]);
            no_payload_of_relatives_leaves_the_kernel(server, args, &client)
        });
    }
    let name = "gRPC-Web and Connect, HTTP/1.1: fetch in Chromium";
    cases.of(name, Nothing, [go], |[go]| a_browser_fetches(go));
    cases.of("gRPC-Web, without --protocol", Nothing, [tonic], nothing_without_the_flag);
    cases.of("gRPC-Web and gRPC on one port", Nothing, [tonic], both_on_one_port);
    Ok(())
}

/// Each client with each server, also through proxies. The daemon of a case watches only its ports.
fn each(cases: &mut Cases, [tonic, node, go]: [Maybe; 3], proxied: Vec<(&'static Program, Maybe)>) {
    let stacks = [("tonic", tonic), ("connect-go", go), ("connect-node", node)];
    for (server_name, server) in stacks {
        for (client_name, client) in stacks {
            let name = format!("gRPC-Web, HTTP/2: {client_name} -> {server_name}");
            cases.of(&name, Nothing, [server, client], |[server, client]| {
                let of_client = client.with(of_grpc_web(client, Http::Two));
                calls_are_counted(server, &of_client, Http::Two)
            });
            if client_name != "tonic" {
                let name = format!("gRPC-Web, HTTP/1.1: {client_name} -> {server_name}");
                cases.of(&name, Nothing, [server, client], |[server, client]| {
                    let of_client = client.with(of_grpc_web(client, Http::One));
                    calls_are_counted(server, &of_client, Http::One)
                });
            }
            if [server_name, client_name].contains(&"tonic") {
                continue;
            }
            for kind in ["connect", "connect-plain", "connect-json", "connect-get"] {
                let name = format!("Connect, HTTP/2, {kind}: {client_name} -> {server_name}");
                cases.of(&name, Nothing, [server, client], move |[server, client]| {
                    connect_is_counted(server, &client.with(&["--web", kind]), Http::Two)
                });
            }
            for kind in
                ["connect-http1", "connect-plain-http1", "connect-json-http1", "connect-get-http1"]
            {
                let name = format!("Connect, HTTP/1.1, {kind}: {client_name} -> {server_name}");
                cases.of(&name, Nothing, [server, client], move |[server, client]| {
                    connect_is_counted(server, &client.with(&["--web", kind]), Http::One)
                });
            }
        }
    }
    for kind in ["binary", "text"] {
        let name = format!("gRPC-Web, HTTP/2, {kind}: Node -> tonic");
        cases.of(&name, Nothing, [tonic, node], move |[tonic, node]| {
            calls_are_counted(tonic, &node.with(&["--web", kind]), Http::Two)
        });
    }
    for kind in ["binary-http1", "text-http1"] {
        let name = format!("gRPC-Web, HTTP/1.1, {kind}: Node -> tonic");
        cases.of(&name, Nothing, [tonic, node], move |[tonic, node]| {
            calls_are_counted(tonic, &node.with(&["--web", kind]), Http::One)
        });
    }
    for (http, kind) in [("HTTP/2", "connect"), ("HTTP/1.1", "connect-http1")] {
        let name = format!("Connect, {http}: calls that expire");
        cases.of(&name, Nothing, [go], move |[go]| connect_calls_expire(go, kind));
        let name = format!("Connect, {http}: calls that are cancelled");
        cases.of(&name, Nothing, [go], move |[go]| connect_calls_are_cancelled(go, kind));
    }
    for (program, server) in proxied {
        for (name, client) in [("connect-go", go), ("connect-node", node)] {
            let name = format!("gRPC-Web, HTTP/1.1: {name} -> {} -> connect-go", program.name);
            cases.of(&name, Nothing, [server, client], move |[server, client]| {
                calls_pass_a_proxy(program, server, &client.with(of_grpc_web(client, Http::One)))
            });
        }
    }
}

/// The arguments of a client for calls of gRPC-Web. Responses are not compressed: peers know only their length before.
fn of_grpc_web(client: &Stack, http: Http) -> &'static [&'static str] {
    match http {
        _ if client.name == "tonic" => &["--web"],
        Http::One => &["--web", "grpc-web-plain-http1"],
        Http::Two => &["--web", "grpc-web-plain"],
    }
}

/// The version of HTTP.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Http {
    One,
    Two,
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
fn calls_are_counted(server: &Stack, client: &Stack, http: Http) -> Result<()> {
    // connect-node's client may report `Internal` for a method that tonic does not have.
    let differs = http == Http::One && server.name == "tonic" && client.name == "grpc-js";
    let server = Server::start_with(server, Listen::V4, of_grpc_web(server, http))?;
    let daemon = Daemon::start(&[&PROTOCOL[..], &["--port", &server.port()?]].concat())?;
    let mut plan = plan();
    // tonic's client takes a text about a missing method for messages.
    if client.name == "tonic" || differs {
        let is_missing = |step: &Value| step.get("unknown_method").is_some();
        plan.retain(|stage| !stage.iter().any(is_missing));
    }
    let (client, did) = Client::start(client, &server, &plan)?.finish()?;
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

/// A proxy uses connections for the calls of several clients. Every number of both its sides is counted, too.
fn calls_pass_a_proxy(program: &'static Program, server: &Stack, client: &Stack) -> Result<()> {
    let server = Server::start_with(server, Listen::V4, of_grpc_web(server, Http::One))?;
    let proxy = Proxy::start(program, &format!("127.0.0.1:{}", server.port()?))?;
    let ports = format!("{},{}", proxy.ports(), server.port()?);
    let daemon = Daemon::start(&[&PROTOCOL[..], &["--port", &ports]].concat())?;
    let (client, did) = Client::start_to(client, &proxy.address(), &plan())?.finish()?;
    let identity = proxy.identity()?;
    let between = Expected::of_server(&identity, &did)
        .and(Expected::of_client(&identity, &did))
        .with(proxy.pids().iter().copied());
    let settled = daemon.settle(&[
        Expected::of_client(&client, &did),
        between,
        Expected::of_server(server.identity(), &did),
    ]);
    proxy.stop()?;
    agree(&server.stop()?, &did)?;
    settled?;
    let calls: u64 = did.calls.iter().map(|row| row.sums.calls).sum();
    let metrics = daemon.scrape()?;
    for name in ["grpc_server_handled_total", "grpc_client_handled_total"] {
        metrics.expect_sum(name, &LABEL, 2.0 * calls as f64)?;
    }
    report::exact(2);
    daemon.stop()
}

/// Numbers of calls, by method and code.
type Calls = BTreeMap<(String, String), u64>;

/// Every call of both ends is counted, with its code. Messages are counted for streams only.
fn connect_is_counted(server: &Stack, client: &Stack, http: Http) -> Result<()> {
    let args = ["--web", if http == Http::One { "connect-http1" } else { "connect" }];
    let server = Server::start_with(server, Listen::V4, &args)?;
    let daemon = Daemon::start(&[&BOTH[..], &["--port", &server.port()?]].concat())?;
    let streams = [NOT_FOUND, 0].map(|code| {
        let of = |rpc: &&str| json!({"rpc": rpc, "requests": 3, "responses": 2, "code": code, "count": 2});
        // Streams in both directions at once need HTTP/2.
        let rpcs = if http == Http::One { &["ClientStream"][..] } else { &["ClientStream", "Bidi"] };
        rpcs.iter().map(of).collect()
    });
    let plan = [plan(), streams.to_vec()].concat();
    let (client, did) = Client::start(client, &server, &plan)?.finish()?;
    let of_server = server.identity().clone();
    let settled = daemon.wait_until(|metrics| {
        connect_agrees(metrics, "client", &client, &did)?;
        connect_agrees(metrics, "server", &of_server, &did)
    });
    agree(&server.stop()?, &did)?;
    settled?;
    report::exact(2 * did.calls.len());
    daemon.stop()
}

/// Compares calls and messages of a process on one side.
fn connect_agrees(metrics: &Metrics, side: &str, process: &Identity, did: &Truth) -> Result<()> {
    let pid = process.pid.to_string();
    let of = [("pid", &*pid), ("process", &*process.comm), ("grpc_protocol", "connect")];
    let path = |labels: &BTreeMap<String, String>| {
        format!("/{}/{}", label(labels, "grpc_service"), label(labels, "grpc_method"))
    };
    let of_family = |name: &str, code: bool| -> Calls {
        let mut sums = Calls::new();
        for (labels, value) in metrics.series_with(&format!("grpc_{side}_{name}"), &of) {
            let code = if code { label(labels, "grpc_code") } else { "" };
            *sums.entry((path(labels), code.to_owned())).or_default() += value as u64;
        }
        sums.retain(|_, calls| *calls > 0);
        sums
    };
    let (mut handled, mut started, mut messages) = (Calls::new(), Calls::new(), Calls::new());
    for row in &did.calls {
        let method = || row.method.clone();
        *handled.entry((method(), code_name(row.code).to_owned())).or_default() += row.sums.calls;
        *started.entry((method(), String::new())).or_default() += row.sums.calls;
        if !["Unary", "Missing"].iter().any(|name| row.method.ends_with(name)) {
            // What the client received, the server has sent.
            *messages.entry((method(), String::new())).or_default() += row.sums.received;
        }
    }
    messages.retain(|_, messages| *messages > 0);
    let of_responses = if side == "client" { "msg_received_total" } else { "msg_sent_total" };
    for (name, code, want) in [
        ("handled_total", true, &handled),
        ("started_total", false, &started),
        ("handling_seconds_count", false, &started),
        (of_responses, false, &messages),
        ("in_flight", false, &Calls::new()),
    ] {
        let got = of_family(name, code);
        ensure!(got == *want, "{side} {process}: {name} {got:?}, not {want:?}");
    }
    Ok(())
}

/// A call with a timeout that expires ends with that code, however its end is seen.
fn connect_calls_expire(go: &Stack, kind: &'static str) -> Result<()> {
    let server = Server::start_with(go, Listen::V4, &["--web", kind])?;
    let daemon = Daemon::start(&[&BOTH[..], &["--port", &server.port()?]].concat())?;
    let step = |rpc: &str| json!({"rpc": rpc, "count": 3, "sleep_ms": 60_000, "deadline_ms": 400});
    let plan = [vec![step("Unary"), step("ServerStream")]];
    Client::start(&go.with(&["--web", kind]), &server, &plan)?.finish()?;
    daemon.wait_until(|metrics| {
        for side in ["client", "server"] {
            let name = format!("grpc_{side}_handled_total");
            let of =
                |code| metrics.sum(&name, &[("grpc_protocol", "connect"), ("grpc_code", code)]);
            let mut expired = of("DeadlineExceeded") + of("CanceledOrDeadlineExceeded");
            if kind == "connect-http1" && side == "server" {
                // The client closes the connection. A server that notices that first answers so.
                expired += of("Canceled");
            }
            ensure!(expired as u64 == 6, "{side}: {expired} expired");
            metrics.expect_sum(&name, &[], 6.0)?;
        }
        Ok(())
    })?;
    server.stop()?;
    daemon.stop()
}

/// A call that the client gives up is cancelled on both sides, and its time counts.
fn connect_calls_are_cancelled(go: &Stack, kind: &'static str) -> Result<()> {
    let server = Server::start_with(go, Listen::V4, &["--web", kind])?;
    let daemon = Daemon::start(&[&BOTH[..], &["--port", &server.port()?]].concat())?;
    let step =
        |rpc: &str| json!({"rpc": rpc, "count": 3, "sleep_ms": 60_000, "cancel_after_ms": 300});
    let plan = [vec![step("Unary"), step("ServerStream")], vec![json!({"rpc": "Unary"})]];
    Client::start(&go.with(&["--web", kind]), &server, &plan)?.finish()?;
    daemon.wait_until(|metrics| {
        for side in ["client", "server"] {
            let name = format!("grpc_{side}_handled_total");
            for (code, calls) in [("Canceled", 6.0), ("OK", 1.0)] {
                let of = [("grpc_protocol", "connect"), ("grpc_code", code)];
                metrics.expect_sum(&name, &of, calls)?;
            }
            metrics.expect_sum(&name, &[], 7.0)?;
            let seconds = format!("grpc_{side}_handling_seconds_sum");
            let seconds = metrics.sum(&seconds, &[("grpc_protocol", "connect")]);
            ensure!((1.7..30.0).contains(&seconds), "{side}: {seconds} s in all");
        }
        Ok(())
    })?;
    report::exact(4);
    server.stop()?;
    daemon.stop()
}

/// A page's calls count at the browser and at the server; loading the page is no call.
fn a_browser_fetches(go: &Stack) -> Result<()> {
    const SCRIPT: &str = "
        const call = async (type, body) => {
            const headers = {'content-type': `application/${type}`, 'connect-protocol-version': '1'};
            const url = '/observer.test.v1.Echo/Unary';
            const response = await fetch(url, {method: 'POST', headers, body});
            await response.arrayBuffer();
            return response.status;
        };
        return (async () => {
            const statuses = [];
            for (let turn = 0; turn < 3; turn++) {
                statuses.push(await call('json', '{}'));
                statuses.push(await call('json', JSON.stringify({code: 5, detail: 'no'})));
                statuses.push(await call('grpc-web+proto', new Uint8Array(5)));
            }
            return statuses;
        })();";
    if !browser::is_there()? {
        return Ok(());
    }
    let server = Server::start_with(go, Listen::V4, &["--web", "connect-http1"])?;
    let port = server.port()?;
    let daemon = Daemon::start(&[&BOTH[..], &["--port", &port]].concat())?;
    let browser = Browser::start()?;
    // There is no such page, but this is the site whose scripts may call the service.
    browser.open(&format!("http://127.0.0.1:{port}/"))?;
    let statuses = browser.run(SCRIPT)?;
    let want = [200, 404, 200].repeat(3);
    ensure!(statuses == json!(want), "the calls were answered with {statuses}");
    daemon.wait_until(|metrics| {
        for name in ["grpc_server_handled_total", "grpc_client_handled_total"] {
            for (protocol, code) in [("connect", "OK"), ("connect", "NotFound"), ("grpc-web", "OK")]
            {
                let of = [("grpc_protocol", protocol), ("grpc_code", code)];
                metrics.expect_sum(name, &of, 3.0)?;
            }
            metrics.expect_sum(name, &[], 9.0)?;
        }
        Ok(())
    })?;
    let not_grpc =
        daemon.scrape()?.sum("observer_unmeasured_streams_total", &[("reason", "not_grpc")]);
    ensure!(not_grpc >= 2.0, "{not_grpc} requests for the page");
    report::exact(8);
    server.stop()?;
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
