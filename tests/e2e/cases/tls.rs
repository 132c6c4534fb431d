//! gRPC over TLS.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use support::daemon::Daemon;
use support::expected::Expected;
use support::peer::{Client, Listen, Plan, Server};
use support::stack::Stack;
use support::tls::{Certificates, Shown};
use support::truth::agree;

use super::transports::seen;
use crate::plans;

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
