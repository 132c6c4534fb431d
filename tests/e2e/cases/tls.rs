//! gRPC over TLS.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use support::daemon::Daemon;
use support::expected::Expected;
use support::openmetrics::Metrics;
use support::pace;
use support::peer::{Client, Listen, Plan, Server};
use support::stack::Stack;
use support::tls::{Certificates, Shown};
use support::truth::agree;
use tempfile::TempDir;

use super::connections::expect_not_followed;
use super::transports::seen;
use crate::{comparison, plans};

/// Time until a daemon follows the connections of a program that it does not know.
const FOLLOW_LIMIT: Duration = Duration::from_secs(30);

/// Calls over TLS are counted as those without it: all kinds, errors, cancelled and expired.
pub(crate) fn calls_over_tls_are_counted(
    daemon: &Daemon,
    server: &Stack,
    client: &Stack,
) -> Result<()> {
    let certificates = Certificates::new()?;
    let [server, client] = [server, client].map(|stack| certificates.stack(stack, Shown::ByServer));
    let plan =
        [plans::kinds(), plans::errors(), plans::cancelled(), plans::expired(&server)].concat();
    counted(daemon, &server, &client, &plan)
}

/// The cipher suite of TLS 1.2 between two stacks: tonic's peers can be told which one to use. `None` if neither is one.
///
/// RFC 8422: the certificates' keys are of elliptic curves. gRPC's core and grpc-java do not offer ChaCha20 for these.
pub(crate) fn suite_of_1_2(server: &Stack, client: &Stack) -> Option<&'static str> {
    match (&*client.name, &*server.name) {
        (_, "tonic") => Some("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
        ("tonic", "grpc-go" | "grpc-js") => Some("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
        ("tonic", _) => Some("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
        _ => None,
    }
}

/// Likewise with this suite of TLS 1.2, if both ends show certificates.
pub(crate) fn calls_over_tls_1_2_are_counted(
    daemon: &Daemon,
    server: &Stack,
    client: &Stack,
    suite: &str,
) -> Result<()> {
    let certificates = Certificates::new()?;
    let [mut server, mut client] =
        [server, client].map(|stack| certificates.stack(stack, Shown::ByBoth));
    let chosen = ["--tls-suite", suite].map(String::from);
    if server.name == "tonic" {
        server.server.extend(chosen);
    } else {
        client.client.extend(chosen);
    }
    counted(daemon, &server, &client, &[plans::kinds(), plans::errors()].concat())
}

/// tshark, which has the keys of the connections, sees the same calls over TLS. The client is Node's, which writes the keys.
pub(crate) fn calls_over_tls_are_those_of_tshark(
    daemon: &Daemon,
    server: &Stack,
    client: &Stack,
) -> Result<()> {
    let certificates = Certificates::new()?;
    let [server, mut client] =
        [server, client].map(|stack| certificates.stack(stack, Shown::ByServer));
    let first = Server::start(&server, Listen::V4)?;
    follow(daemon, &first, &client)?;
    first.stop()?;
    let server = Server::start(&server, Listen::V4)?;
    let folder = TempDir::with_prefix("keys-").context("create a folder")?;
    let keys = folder.path().join("keys");
    client.env.insert("NODE_OPTIONS".into(), format!("--tls-keylog={}", keys.display()));
    let recording = comparison::record(&server)?.map(|recording| recording.with_keys(&keys));
    let plan = [plans::kinds(), plans::errors()].concat();
    let (client, did) = Client::start(&client, &server, &plan)?.finish()?;
    comparison::settle_both_ends(daemon, server, &client, &did)?;
    comparison::confirm(recording, &did)
}

fn counted(daemon: &Daemon, server: &Stack, client: &Stack, plan: &Plan) -> Result<()> {
    let first = Server::start(server, Listen::V4)?;
    follow(daemon, &first, client)?;
    first.stop()?;
    let server = Server::start(server, Listen::V4)?;
    let (client, did) = Client::start(client, &server, plan)?.finish()?;
    comparison::settle_both_ends(daemon, server, &client, &did)
        .with_context(|| daemon.get("/connections").unwrap_or_default())
}

/// Makes calls until the daemon follows both ends from the start of a connection.
pub(super) fn follow(daemon: &Daemon, server: &Server, client: &Stack) -> Result<()> {
    let end = Instant::now() + pace::limit(FOLLOW_LIMIT);
    while Instant::now() < end {
        let before = daemon.scrape()?;
        let (client, _) = Client::start(client, server, &plans::few(1))?.finish()?;
        let handled = |metrics: &Metrics, role: &str, pid: u32| {
            metrics.sum(&format!("grpc_{role}_handled_total"), &[("pid", &pid.to_string())])
        };
        sleep(pace::limit(Duration::from_secs(2)));
        let after = daemon.scrape()?;
        let of_server = server.identity().pid;
        let new = handled(&after, "server", of_server) - handled(&before, "server", of_server);
        if new == 2.0 && handled(&after, "client", client.pid) == 2.0 {
            return Ok(());
        }
    }
    bail!("the daemon does not follow {} and {}", client.name, server.identity().name)
}

/// Connections with certificates of both ends are counted as TLS, and nothing else of them is.
pub(crate) fn tls_is_counted_and_not_decoded(stack: &Stack) -> Result<()> {
    let certificates = Certificates::new()?;
    let stack = certificates.stack(stack, Shown::ByBoth);
    let plan = plans::kinds();
    let server = Server::start(&stack, Listen::V4)?;
    let daemon = Daemon::start(&["--port", &server.port()?])?;
    let (client, did) = Client::start(&stack, &server, &plan)?.finish()?;
    seen(&daemon, "tls", 2 * connections(&plan)?)?;
    for protocol in ["grpc", "http2", "http1", "other"] {
        seen(&daemon, protocol, 0)?;
    }
    expect_not_followed(&daemon, &server.pid(), connections(&plan)?.into())?;
    daemon.settle(&[Expected::nothing(&client), Expected::nothing(server.identity())])?;
    agree(&server.stop()?, &did)?;
    daemon.stop()
}

/// The number of connections that a client opens for a plan.
fn connections(plan: &Plan) -> Result<u32> {
    let of_step = |step: &Value| step.get("connections").map_or(Some(1), Value::as_u64);
    let sum: Option<u64> = plan.iter().flatten().map(of_step).sum();
    let sum = sum.context("a number of connections is not a number")?;
    ensure!(sum > 0, "a plan without connections");
    Ok(u32::try_from(sum)?)
}
