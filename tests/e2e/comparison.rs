//! Runs plans, and compares every number of both ends with the peers' records, and calls with what tshark sees.

use anyhow::{Context as _, Result};
use support::daemon::Daemon;
use support::expected::Expected;
use support::peer::{Client, Identity, Listen, Plan, Server};
use support::report::{self, TSHARK};
use support::stack::Stack;
use support::truth::{Truth, agree};
use support::tshark::{self, Recording};

/// Runs a plan of a stack with itself, and a daemon that watches only the server's port; `recorded`: with tshark.
pub(crate) fn run_on_a_selected_port(
    stack: &Stack,
    listen: Listen,
    plan: &Plan,
    recorded: bool,
) -> Result<()> {
    let server = Server::start(stack, listen)?;
    let daemon = Daemon::start(&["--port", &server.port()?])?;
    let recording = if recorded { record(&server)? } else { None };
    let (client, did) = Client::start(stack, &server, plan)?.finish()?;
    settle_both_ends(&daemon, server, &client, &did)?;
    confirm(recording, &did)
}

/// Runs a plan of a stack with itself over a Unix socket, and a daemon that watches everything.
pub(crate) fn run_over_a_unix_socket(stack: &Stack, plan: &Plan) -> Result<()> {
    let server = Server::start(stack, Listen::Unix)?;
    let daemon = Daemon::start(&[])?;
    let (client, did) = Client::start(stack, &server, plan)?.finish()?;
    if !daemon.watches_uncounted() {
        return daemon.settle(&[Expected::nothing(&client), Expected::nothing(server.identity())]);
    }
    settle_both_ends(&daemon, server, &client, &did)
}

/// Starts to record the traffic of a server's port, if tshark is installed.
pub(crate) fn record(server: &Server) -> Result<Option<Recording>> {
    Ok(if tshark::is_there()? { Some(Recording::of_port(&server.port()?)?) } else { None })
}

/// An error if tshark sees other calls than the clients report.
pub(crate) fn confirm(recording: Option<Recording>, clients: &Truth) -> Result<()> {
    if let Some(recording) = recording {
        recording.finish()?.agree(clients)?;
        report::confirmed(TSHARK);
    }
    Ok(())
}

/// Runs a plan, and compares both ends and tshark's calls. `means` turns the client's record into what was on the
/// wire.
pub(crate) fn run_recorded(
    daemon: &Daemon,
    server: &Stack,
    client: &Stack,
    plan: &Plan,
    means: fn(Truth) -> Truth,
) -> Result<()> {
    let server = Server::start(server, Listen::V4)?;
    let recording = record(&server)?;
    let (client, did) = Client::start(client, &server, plan)?.finish()?;
    let did = means(did);
    settle_both_ends(daemon, server, &client, &did)?;
    confirm(recording, &did)
}

/// Compares both ends with the client's record while connections are open and once they are closed.
pub(crate) fn settle_both_ends(
    daemon: &Daemon,
    server: Server,
    client: &Identity,
    did: &Truth,
) -> Result<()> {
    let expected = Expected::of_ends(client, server.identity(), did);
    let settled = daemon.settle(&expected);
    // If the peers do not agree, the daemon is not to blame.
    agree(&server.stop()?, did)?;
    settled?;
    daemon.settle(&expected).context("once all connections are closed")
}
