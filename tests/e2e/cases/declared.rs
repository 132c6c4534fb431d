//! Declared types of methods (`--descriptor-set`): published from the first scrape on, whatever the messages show.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use protox::prost::Message as _;
use serde_json::json;
use support::daemon::Daemon;
use support::expected::Expected;
use support::openmetrics::{Metrics, label};
use support::peer::{Client, Identity, Listen, Server};
use support::stack::Stack;
use support::truth::agree;
use tempfile::TempDir;

/// The types that `echo.proto` declares.
const DECLARED: [(&str, &str); 4] = [
    ("Unary", "unary"),
    ("ServerStream", "server_stream"),
    ("ClientStream", "client_stream"),
    ("Bidi", "bidi_stream"),
];

/// Time for the plan.
const LIMIT: Duration = Duration::from_mins(1);

/// The plan has calls of one request and one response, which look unary, and later some that do not.
pub(crate) fn declared_types_are_published(stack: &Stack) -> Result<()> {
    let folder = TempDir::with_prefix("declared-").context("create a folder")?;
    let file = folder.path().join("echo.pb");
    fs::write(&file, descriptor_set()?).context("write the descriptor set")?;
    let server = Server::start(stack, Listen::V4)?;
    let file = file.to_string_lossy();
    let daemon = Daemon::start(&["--port", &server.port()?, "--descriptor-set", &file])?;
    let alike = DECLARED.map(|(rpc, _)| json!({"rpc": rpc, "count": 2, "sleep_ms": 1500}));
    let streams = DECLARED.map(|(rpc, _)| {
        let requests = if ["ClientStream", "Bidi"].contains(&rpc) { 3 } else { 1 };
        json!({"rpc": rpc, "count": 2, "requests": requests, "responses": 2})
    });
    let plan = [alike.to_vec(), streams.to_vec()];
    let mut client = Client::start(stack, &server, &plan)?;
    let ends = [("server", server.identity().clone()), ("client", client.identity().clone())];

    // The ends and methods that were reported before any response.
    let mut early = BTreeSet::new();
    let begin = Instant::now();
    while client.is_running()? {
        ensure!(begin.elapsed() < LIMIT, "the client does not end");
        let metrics = daemon.scrape()?;
        for (role, who) in &ends {
            are_as_declared(&metrics, role, who)?;
            early.extend(unanswered(&metrics, role, who).map(|method| (*role, method)));
        }
    }
    ensure!(early.len() == 2 * DECLARED.len(), "only {early:?} were seen before a response");

    let (client, did) = client.finish()?;
    let ends = Expected::of_ends(&client, server.identity(), &did);
    daemon.settle(&ends.map(|expected| expected.declared(&DECLARED)))?;
    agree(&server.stop()?, &did)?;
    daemon.stop()
}

fn descriptor_set() -> Result<Vec<u8>> {
    let protos = support::stack::package().join("peers/proto");
    let set = protox::compile(["echo.proto"], [protos]).context("compile echo.proto")?;
    Ok(set.encode_to_vec())
}

/// An error unless every series of this end has its declared type.
fn are_as_declared(metrics: &Metrics, role: &str, who: &Identity) -> Result<()> {
    let pid = who.pid.to_string();
    for family in ["started_total", "handled_total", "msg_sent_total", "msg_received_total"] {
        for (labels, _) in metrics.series(&format!("grpc_{role}_{family}")) {
            if label(labels, "pid") == pid {
                let found = (label(labels, "grpc_method"), label(labels, "grpc_type"));
                ensure!(DECLARED.contains(&found), "{family} of {who}: {found:?}");
            }
        }
    }
    Ok(())
}

/// The methods whose calls have started and have no response yet.
fn unanswered(metrics: &Metrics, role: &str, who: &Identity) -> impl Iterator<Item = &'static str> {
    let pid = who.pid.to_string();
    let responses = if role == "server" { "msg_sent_total" } else { "msg_received_total" };
    let [begun, responses] = ["started_total", responses].map(|family| {
        DECLARED.map(|(method, _)| {
            let labels = [("pid", &*pid), ("grpc_method", method)];
            metrics.sum(&format!("grpc_{role}_{family}"), &labels) > 0.0
        })
    });
    let seen = DECLARED.into_iter().zip(begun.into_iter().zip(responses));
    seen.filter_map(|((method, _), (begun, responses))| (begun && !responses).then_some(method))
}
