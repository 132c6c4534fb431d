//! Messages that are compressed: on the wire is their compressed length, which tshark knows and the
//! libraries keep to themselves.

use anyhow::{Result, bail, ensure};
use serde_json::json;
use support::daemon::Daemon;
use support::expected::Expected;
use support::peer::{Client, Listen, Server};
use support::report::{self, TSHARK};
use support::stack::Stack;
use support::truth::{Row, Truth, agree};
use support::tshark::{self, Messages, Recording};

/// The peers know how many messages there were, and tshark knows their bytes too.
pub(crate) fn compressed_messages_count_as_on_the_wire(
    daemon: &Daemon,
    stack: &Stack,
) -> Result<()> {
    if !tshark::is_there()? {
        return Ok(());
    }
    let server = Server::start_with(stack, Listen::V4, &["--compression", "gzip"])?;
    let port = server.port()?;
    let recording = Recording::of_port(&port)?;
    // Of one method, whose messages are then all that tshark sees.
    let plan = [vec![json!({
        "rpc": "Bidi", "count": 10, "concurrency": 2, "requests": 3, "responses": 2,
        "payload": 1000, "response_size": 70_000, "gzip": true,
    })]];
    let (client, did) = Client::start(stack, &server, &plan)?.finish()?;
    let identity = server.identity().clone();
    agree(&server.stop()?, &did)?;

    let [requests, responses] = recording.finish_messages(&port)?;
    let compressed = if stack.plain_responses { 0 } else { responses.count };
    ensure!(requests.compressed == requests.count, "requests are not compressed: {requests:?}");
    ensure!(responses.compressed == compressed, "{compressed} are to be compressed: {responses:?}");
    let on_the_wire = on_the_wire(did, &requests, &responses)?;
    daemon.settle(&Expected::of_ends(&client, &identity, &on_the_wire))?;
    report::confirmed(TSHARK);
    Ok(())
}

/// What the client did, with the bytes that tshark saw.
fn on_the_wire(mut did: Truth, requests: &Messages, responses: &Messages) -> Result<Truth> {
    let [Row { sums, .. }] = &mut *did.calls else { bail!("not one method and code: {did:?}") };
    let messages = (sums.sent, sums.received);
    ensure!(
        messages == (requests.count, responses.count),
        "{messages:?} messages, but {requests:?} and {responses:?} to tshark"
    );
    ensure!(requests.bytes < sums.sent_bytes, "{requests:?} are not smaller than {sums:?}");
    (sums.sent_bytes, sums.received_bytes) = (requests.bytes, responses.bytes);
    Ok(did)
}
