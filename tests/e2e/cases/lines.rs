//! The lines that the daemon writes about failed calls.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use support::daemon::Daemon;
use support::raw::talk::Role::{Client, Server};
use support::raw::{Address, Call, Talk};
use tempfile::TempDir;

use super::hostile::by_nobody;
use super::{NOT_FOUND, OK, Table};

pub(super) fn add(table: &mut Table) {
    table.not_for_tshark("tshark cannot tell: what the daemon writes is not on the wire.");
    table.alone("failed calls as JSON, with --log-errors", lines);
    table.alone("calls of excluded methods, which are only counted", excluded);
    table.alone("failed calls as JSON, on a disk that is full for a while", full_disk);
}

/// A failed call has a line at each end, with all its fields; a call with OK has none.
fn lines(name: &str) -> Result<()> {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let daemon = Daemon::start(&["--log-errors"])?;
    let mut talk = by_nobody(&daemon, name)?;
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    talk.client(|f| f.request_with(1, "Get", &[("traceparent", &traceparent)]).last_message(1, 5))?;
    talk.server(|f| f.response(1).message(1, 6).trailers(1, OK))?;
    talk.expect(Call::new("Get", OK).unary(5, 6))?;
    talk.client(|f| f.request_with(3, "Get", &[("traceparent", &traceparent)]).last_message(3, 5))?;
    let fields = [
        ("grpc-status", "5"),
        ("grpc-message", "nowhere%3A 100%25 gr%C3%BCn%0A%E2%80%AE%C2%9B2J%E2%80%A8"),
    ];
    talk.server(|f| f.response(3).headers(3, true, &fields))?;
    talk.expect(Call::new("Get", NOT_FOUND).requests(&[5]))?;
    talk.compare()?;
    daemon.wait_until(|_| {
        let text = daemon.output();
        ensure!(text.lines().count() >= 2, "two lines were expected, not {text:?}");
        Ok(())
    })?;
    let text = daemon.output();
    // A terminal or an editor would not show these, or show something else.
    let unseen = |c: char| c != '\n' && (c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c));
    ensure!(!text.contains(unseen), "{}", text.escape_debug());
    let mut roles = Vec::new();
    for line in text.lines() {
        let mut line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        // The process may not have been looked up when the call failed.
        let service = line.as_object_mut().and_then(|line| line.remove("service_name"));
        ensure!(service.is_none_or(|name| name.is_string()), "the service is not a text");
        let text = |key: &str| line.get(key).and_then(Value::as_str).context(key.to_owned());
        let role = text("role")?;
        let end = if role == "client" { Client } else { Server };
        let seconds = line.get("duration_seconds").and_then(Value::as_f64).context("duration")?;
        ensure!((0.0..60.0).contains(&seconds), "{seconds} s");
        let peer = text("peer")?;
        ensure!(peer.starts_with("127.0.0.1:"), "{peer}");
        let want = json!({
            "time": text("time")?, "peer": peer, "duration_seconds": seconds,
            "role": role, "pid": talk.pid(end)?.parse::<u32>()?, "process": "raw-peer",
            "service": talk.service(), "method": "Get", "code": "NotFound",
            "message": "nowhere: 100% gr\u{fc}n\n\u{202e}\u{9b}2J\u{2028}", "trace_id": TRACE,
            "request_messages": 1, "response_messages": 0,
        });
        ensure!(line == want, "{line}, not {want}");
        roles.push(role.to_owned());
    }
    roles.sort_unstable();
    ensure!(roles == ["client", "server"], "lines of {roles:?}");
    talk.finish()
}

/// Calls of an excluded method, also those that fail and those of a connection that has another method, are in one
/// counter and nowhere else.
fn excluded(name: &str) -> Result<()> {
    let daemon = Daemon::start(&["--log-errors", "--exclude", "grpc.health.v1.*,*/Left*"])?;
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    talk.call(1, "LeftOut", OK)?;
    talk.expected_call(3, "Kept", OK)?;
    talk.call(5, "LeftOut", NOT_FOUND)?;
    talk.expected_call(7, "Kept", NOT_FOUND)?;
    talk.compare()?;
    let metrics = daemon.scrape()?;
    let counted = metrics.sum("observer_excluded_calls_total", &[]);
    ensure!(counted == 4.0, "{counted} ends of excluded calls, not 4");
    let all = metrics.sum("observer_calls_total", &[]);
    ensure!(all == 4.0, "{all} ends of calls, not 4");
    daemon.wait_until(|_| {
        let text = daemon.output();
        ensure!(text.lines().count() == 2, "two lines were expected, not {text:?}");
        ensure!(!text.contains("LeftOut"), "{text}");
        Ok(())
    })?;
    talk.finish()
}

/// The daemon's disk becomes full: lines that can wait are written once there is room, the rest is counted, and the
/// daemon works otherwise.
fn full_disk(name: &str) -> Result<()> {
    const CALLS: u32 = 800;
    // The line that is being written, and those that wait.
    const WAITING: f64 = 1025.0;
    let folder = TempDir::with_prefix("disk-").context("create a folder")?;
    let shown = folder.path().display();
    let mount = format!("mount -t tmpfs -o size=2m tmpfs {shown}");
    let stdout = format!("exec >{shown}/lines");
    let flags = ["--log-errors", "--log-errors-rate", "10000"];
    let daemon = Daemon::start_after(&[&mount, &stdout], &flags)?;
    // The daemon's own mount of it.
    let disk = Path::new("/proc").join(daemon.pid().to_string()).join("root");
    let disk = disk.join(folder.path().strip_prefix("/")?);
    let (lines, filler) = (disk.join("lines"), disk.join("filler"));
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    let fail = |talk: &mut Talk<'_>, first: u32, calls: u32| -> Result<()> {
        let streams = (first..first + calls).map(|number| 2 * number + 1);
        let requests = streams.clone();
        talk.client(|f| requests.fold(f, |f, s| f.request(s, "Get").last_message(s, 5)))?;
        talk.server(|f| streams.fold(f, |f, s| f.response(s).trailers(s, NOT_FOUND)))?;
        talk.expect(Call::new("Get", NOT_FOUND).requests(&[5]).times(calls.into()))
    };
    fail(&mut talk, 0, 1)?;
    daemon.wait_until(|_| match fs::read_to_string(&lines) {
        Ok(text) if text.lines().count() == 2 => Ok(()),
        other => bail!("two lines were expected, not {other:?}"),
    })?;

    fill(&filler)?;
    fail(&mut talk, 1, CALLS)?;
    talk.compare()?;
    daemon.wait_for_log("cannot write to stdout: No space left on device", 1..)?;
    let dropped = |reason: &str| -> Result<f64> {
        let labels = [("reason", reason)];
        Ok(daemon.scrape()?.sum("observer_log_errors_dropped_total", &labels))
    };
    let (lost, all) = (dropped("output")?, 2.0 * f64::from(1 + CALLS));
    // Lines that fitted on the last page did not wait.
    let written = fs::read_to_string(&lines)?.lines().count();
    ensure!(lost > 0.0 && lost <= all - WAITING, "{lost} of {all} lines are dropped");
    ensure!(dropped("rate_limit")? == 0.0, "lines are dropped by the rate limit");
    ensure!(written < 20, "{written} lines on a full disk");

    fs::remove_file(&filler).context("make room")?;
    let wait_for = |ends: f64| {
        daemon.wait_until(|_| {
            let text = fs::read_to_string(&lines)?;
            let told = text.lines().filter(|line| line.contains("\"code\"")).count() as f64;
            ensure!(told + lost == ends, "{told} lines, {lost} of {ends} dropped");
            Ok(())
        })
    };
    wait_for(all)?;
    fail(&mut talk, 1 + CALLS, 1)?;
    wait_for(all + 2.0)?;
    let text = fs::read_to_string(&lines)?;
    let mut suppressed = 0;
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        suppressed += line.get("suppressed").and_then(Value::as_u64).unwrap_or_default();
    }
    ensure!(suppressed as f64 == lost, "{suppressed} lines are suppressed, not {lost}");
    ensure!(daemon.log().contains("stdout works again"), "{}", daemon.log());
    talk.finish()?;
    daemon.stop()
}

/// Fills the disk to the last byte.
fn fill(file: &Path) -> Result<()> {
    let mut filler = fs::File::create(file).context("create a file")?;
    let mut length = 1 << 16;
    while length > 0 {
        match filler.write(&vec![0; length]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => length /= 2,
            Err(error) => return Err(error).context("fill the disk"),
        }
    }
    Ok(())
}
