//! A plan carried out, and every number of both ends compared with what the peers know; tshark asked as well.

use anyhow::{Context as _, Result};
use support::daemon::Daemon;
use support::expected::Expected;
use support::peer::{Client, Identity, Listen, Plan, Server};
use support::report::{self, TSHARK};
use support::stack::Stack;
use support::truth::{Truth, agree};
use support::tshark::{self, Recording};

/// A stack with itself, and a daemon that watches only the server's port; tshark sees the same, if it is to be asked.
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

/// Likewise, and a daemon that watches everything.
pub(crate) fn run_without_flags(stack: &Stack, listen: Listen, plan: &Plan) -> Result<()> {
    let server = Server::start(stack, listen)?;
    let daemon = Daemon::start::<&str>(&[])?;
    let (client, did) = Client::start(stack, &server, plan)?.finish()?;
    if listen == Listen::Unix && !daemon.watches_uncounted() {
        return daemon.settle(&[Expected::nothing(&client), Expected::nothing(server.identity())]);
    }
    settle_both_ends(&daemon, server, &client, &did)
}

/// What goes over a server's port from now on, if tshark is installed.
pub(crate) fn record(server: &Server) -> Result<Option<Recording>> {
    Ok(if tshark::is_there()? { Some(Recording::of_port(&server.port()?)?) } else { None })
}

/// tshark sees the same calls.
pub(crate) fn confirm(recording: Option<Recording>, clients: &Truth) -> Result<()> {
    if let Some(recording) = recording {
        recording.finish()?.agree(clients)?;
        report::confirmed(TSHARK);
    }
    Ok(())
}

/// The daemon tells all of a plan, of both ends, and tshark the same of what went over the port.
/// `means` is what the client's truth says of the wire.
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

pub(crate) fn settle_both_ends(
    daemon: &Daemon,
    server: Server,
    client: &Identity,
    did: &Truth,
) -> Result<()> {
    let expected = Expected::of_ends(client, server.identity(), did);
    let settled = daemon.settle(&expected);
    // Before the daemon is blamed.
    agree(&server.stop()?, did)?;
    settled?;
    daemon.settle(&expected).context("once all connections are closed")
}
