//! What the daemon writes of failed calls.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::daemon::Daemon;
use tests::raw::talk::Role::{Client, Server};
use tests::raw::{Address, Call, Talk};

use super::{NOT_FOUND, OK, Table};

pub(super) fn add(table: &mut Table) {
    table.alone("failed calls as JSON, with --log-errors", lines);
}

/// A line at each end for a call that failed, with all that both know of it; none for one that did
/// not.
fn lines(name: &str) -> Result<()> {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let daemon = Daemon::start(&["--log-errors"])?;
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    talk.client(|f| f.request_with(1, "Get", &[("traceparent", &traceparent)]).last_message(1, 5))?;
    talk.server(|f| f.response(1).message(1, 6).trailers(1, OK))?;
    talk.expect(Call::new("Get", OK).unary(5, 6))?;
    talk.client(|f| f.request_with(3, "Get", &[("traceparent", &traceparent)]).last_message(3, 5))?;
    let fields = [("grpc-status", "5"), ("grpc-message", "nowhere%3A 100%25 gr%C3%BCn%0A")];
    talk.server(|f| f.response(3).headers(3, true, &fields))?;
    talk.expect(Call::new("Get", NOT_FOUND).requests(&[5]))?;
    talk.compare()?;
    daemon.wait_until(|_| match daemon.output() {
        text if text.lines().count() >= 2 => Ok(()),
        text => Err(format!("two lines were expected, not {text:?}")),
    })?;
    let text = daemon.output();
    let mut roles = Vec::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let text = |key: &str| line.get(key).and_then(Value::as_str).context(key.to_owned());
        let role = text("role")?;
        let end = if role == "client" { Client } else { Server };
        let seconds = line.get("duration_seconds").and_then(Value::as_f64).context("duration")?;
        ensure!((0.0..60.0).contains(&seconds), "{seconds} s");
        let peer = text("peer")?;
        ensure!(peer.starts_with("127.0.0.1:"), "{peer}");
        let told = json!({
            "time": text("time")?, "peer": peer, "duration_seconds": seconds,
            "role": role, "pid": talk.pid(end)?.parse::<u32>()?, "process": "raw-peer",
            "service": talk.service(), "method": "Get", "code": "NotFound",
            "message": "nowhere: 100% gr\u{fc}n\n", "trace_id": TRACE,
            "request_messages": 1, "response_messages": 0,
        });
        ensure!(line == told, "{line}, not {told}");
        roles.push(role.to_owned());
    }
    roles.sort_unstable();
    ensure!(roles == ["client", "server"], "lines of {roles:?}");
    talk.finish()
}
