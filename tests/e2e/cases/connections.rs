//! The connections of each process, and why some are not measured: `observer connections`, `observer top` and
//! `/api/v1/connections`.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use support::daemon::{Daemon, command};
use support::expected::Expected;
use support::look::terminal::Terminal;
use support::look::top::{ENTER, top};
use support::peer::{self, Listen};
use support::raw::{Address, Talk};
use support::stack::Stack;
use support::tls::{Certificates, Shown};

use super::transports::{on_a_port, two_calls};
use super::{OK, Table};
use crate::plans;

/// Time for the list to follow the connections.
const LIMIT: Duration = Duration::from_secs(10);

/// A ClientHello and a ServerHello, as far as they are needed to recognize TLS.
const HELLOS: [&[u8]; 2] = [&[22, 3, 1, 0, 5, 1, 0, 0, 1, 3], &[22, 3, 3, 0, 5, 2, 0, 0, 1, 3]];

pub(super) fn add(table: &mut Table) {
    table.not_for_tshark("tshark does not know the processes of connections.");
    on_a_port(table, "each protocol is listed for its process", each_protocol);
    table.alone("connections older than the daemon are listed as such", joined_late);
    table.alone("without a daemon, the command watches by itself", by_itself);
}

/// The entry of one kind of a process's connections.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) seen: u64,
    pub(crate) open: Option<u64>,
    pub(crate) joined_late: u64,
    pub(crate) advice: String,
}

/// The connections of a process, by kind, in a list; nothing if the process is not in it.
pub(crate) fn listed(list: &Value, pid: &str) -> Result<Vec<(String, Entry)>> {
    let processes = list.get("processes").and_then(Value::as_array).context("no processes")?;
    let number = |of: &Value, name: &str| of.get(name).and_then(Value::as_u64);
    let pid: u64 = pid.parse()?;
    let mut entries = Vec::new();
    for process in processes.iter().filter(|process| number(process, "pid") == Some(pid)) {
        let connections = process.get("connections").and_then(Value::as_array);
        for of in connections.context("a process without connections")? {
            let text = |name: &str| of.get(name).and_then(Value::as_str).unwrap_or_default();
            let entry = Entry {
                seen: number(of, "seen").context("no number")?,
                open: number(of, "open"),
                joined_late: number(of, "joined_late").context("no number")?,
                advice: text("advice").to_owned(),
            };
            entries.push((text("kind").to_owned(), entry));
        }
    }
    Ok(entries)
}

/// The daemon's list.
pub(crate) fn list(daemon: &Daemon) -> Result<Value> {
    Ok(serde_json::from_str(&daemon.get("/api/v1/connections")?)?)
}

/// Waits until the daemon lists these numbers of seen and open connections for a process, and no others.
fn expect(daemon: &Daemon, pid: &str, want: &[(&str, u64, Option<u64>)]) -> Result<()> {
    let begin = Instant::now();
    loop {
        let listed = listed(&list(daemon)?, pid)?;
        let have: Vec<_> =
            listed.iter().map(|(kind, entry)| (&**kind, entry.seen, entry.open)).collect();
        if have == want {
            return Ok(());
        }
        ensure!(begin.elapsed() < LIMIT, "process {pid} has {have:?}, not {want:?}");
        sleep(Duration::from_millis(100));
    }
}

fn each_protocol(mut talk: Talk<'_>) -> Result<()> {
    let daemon = talk.daemon;
    let pids = talk.pids()?.map(|(_, pid)| pid);
    talk.client(|f| f.bytes(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))?;
    talk.server(|f| f.bytes(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))?;
    for _ in 0..2 {
        talk.reconnect()?;
        let [client, server] = HELLOS;
        talk.client(|f| f.bytes(client))?;
        talk.server(|f| f.bytes(server))?;
    }
    talk.reconnect()?;
    talk.client(|f| f.bytes(b"PRI * HTTP/1.0\r\n\r\n"))?;
    talk.server(|f| f.bytes(b"+OK\r\n"))?;
    let others = [("tls_not_followed", 2, None), ("http1", 1, None), ("other", 1, None)];
    for pid in &pids {
        expect(daemon, pid, &others)?;
    }
    talk.reopen()?;
    two_calls(&mut talk)?;
    for pid in &pids {
        expect(daemon, pid, &[&[("http2", 1, Some(1))][..], &others].concat())?;
    }
    advises(daemon, &pids)?;
    talk.close()?;
    for pid in &pids {
        expect(daemon, pid, &[&[("http2", 1, Some(0))][..], &others].concat())?;
    }
    talk.end_peers()?;
    for pid in &pids {
        expect(daemon, pid, &[])?;
    }
    Ok(())
}

/// Each kind that is not measured says what to do; the table has the same as the JSON.
fn advises(daemon: &Daemon, pids: &[String]) -> Result<()> {
    let address = format!("http://{}", daemon.address());
    let asked = |more: &[&str]| {
        let mut command = command(&[&["connections", "--address", &address], more].concat())?;
        output(command.env("COLUMNS", "200"))
    };
    let json: Value = serde_json::from_str(&asked(&["--json"])?)?;
    let table = asked(&[])?;
    ensure!(json.get("tls").and_then(Value::as_str) == Some("off"), "{json}");
    for pid in pids {
        ensure!(table.contains(&format!("({pid})")), "no process {pid} in:\n{table}");
        for (kind, entry) in listed(&json, pid)? {
            let wanted = match &*kind {
                "http2" => "",
                "tls_not_followed" => "start the daemon with --tls auto",
                "http1" => "gRPC needs HTTP/2",
                _ => "it is not HTTP/2",
            };
            let is_there = entry.advice.contains(wanted) && table.contains(&entry.advice);
            ensure!(is_there, "{kind} has the advice {:?} in:\n{table}", entry.advice);
            ensure!(entry.advice.is_empty() == wanted.is_empty(), "{kind}: {entry:?}");
        }
    }
    let page = daemon.get("/connections")?;
    ensure!(pids.iter().all(|pid| page.contains(&format!("<small>{pid}</small>"))), "{page}");
    top_lists(daemon, &table, pids)
}

/// `observer top` shows the lines of the table, and with a filter only one process.
fn top_lists(daemon: &Daemon, table: &str, pids: &[String]) -> Result<()> {
    let mut terminal = Terminal::start(&mut top(daemon, &[])?, 200, 50)?;
    terminal.shows(" live")?;
    terminal.press("o")?;
    // The first line names the daemon, which the screen does at its top.
    let expected: Vec<&str> = table.lines().skip(1).collect();
    terminal.wait_until(|lines| {
        let shown: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
        let is_there = shown.windows(expected.len()).any(|lines| lines == expected);
        ensure!(is_there, "it is not the table:\n{table}");
        Ok(())
    })?;
    let [one, other] = pids else { bail!("two processes") };
    terminal.press(&format!("/{one}{ENTER}"))?;
    terminal.wait_until(|lines| {
        let has = |pid: &str| lines.iter().any(|line| line.contains(&format!("({pid})")));
        ensure!(has(one) && !has(other), "only process {one} is wanted");
        Ok(())
    })?;
    terminal.press("o")?;
    terminal.shows("METHOD")?;
    terminal.end(Some("q"))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().context("run observer connections")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "observer connections ended with {}: {errors}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn joined_late(name: &str) -> Result<()> {
    let earlier = Daemon::start(&[])?;
    let mut talk = Talk::begin(&earlier, name, Address::V4(0))?;
    talk.call(1, "Get", OK)?;
    let pids = talk.pids()?.map(|(_, pid)| pid);
    let daemon = Daemon::start(&[])?;
    talk.call(3, "Get", OK)?;
    for pid in &pids {
        expect(&daemon, pid, &[("http2", 1, Some(1))])?;
        let listed = listed(&list(&daemon)?, pid)?;
        let [(_, entry)] = &*listed else { bail!("{listed:?}") };
        ensure!(entry.joined_late == 1, "{entry:?}");
        ensure!(entry.advice.contains("1 joined late"), "{entry:?}");
        expect(&earlier, pid, &[("http2", 1, Some(1))])?;
    }
    talk.close()?;
    daemon.stop()?;
    earlier.stop()
}

fn by_itself(name: &str) -> Result<()> {
    let daemon = Daemon::start(&["--pid", "1"])?;
    let mut talk = Talk::connect(&daemon, name, Address::V4(0))?;
    let pids = talk.pids()?.map(|(_, pid)| pid);
    let mut command = command(&["connections", "--json", "--pid", &pids.join(",")])?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("run observer connections")?;
    // It watches for three seconds once its programs are attached.
    let begin = Instant::now();
    let mut connections = 0;
    while child.try_wait()?.is_none() {
        ensure!(begin.elapsed() < Duration::from_mins(1), "observer connections does not end");
        talk.client(|f| f.bytes(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))?;
        connections += 1;
        talk.reconnect()?;
        sleep(Duration::from_millis(50));
    }
    let output = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "observer connections ended with {}: {errors}", output.status);
    let json: Value = serde_json::from_slice(&output.stdout)?;
    for pid in &pids {
        let listed = listed(&json, pid)?;
        let [(kind, entry)] = &*listed else { bail!("{pid} has {listed:?}") };
        ensure!(kind == "http1" && (1..=connections).contains(&entry.seen), "{kind}: {entry:?}");
    }
    talk.close()?;
    daemon.stop()
}

/// A connection over TLS is listed with the library in which it is followed, and with what ties that to the socket.
pub(crate) fn followed_tls_is_listed(stack: &Stack, library: &str, tie: &str) -> Result<()> {
    let certificates = Certificates::new()?;
    let stack = certificates.stack(stack, Shown::ByServer);
    let server = peer::Server::start(&stack, Listen::V4)?;
    let pid = server.pid();
    let daemon = Daemon::start(&["--tls", "auto", "--pid", &pid])?;
    let labels = [("library", library), ("result", "attached")];
    daemon.wait_for_sum("observer_tls_files_total", &labels, 1.0..)?;
    peer::Client::start(&stack, &server, &plans::few(1))?.finish()?;
    // The plan has two steps, each with a connection of its own.
    expect(&daemon, &pid, &[("tls_followed", 2, Some(0))])?;
    let list = list(&daemon)?;
    let is_there = |of: &Value| {
        let text = |name: &str| of.get(name).and_then(Value::as_str);
        text("library") == Some(library) && text("result") == Some("attached")
    };
    let libraries = list.pointer("/processes/0/libraries").and_then(Value::as_array);
    ensure!(libraries.is_some_and(|all| all.iter().any(is_there)), "{list}");
    let tied = list.pointer("/processes/0/connections/0/tied");
    ensure!(tied == Some(&json!({ tie: 2 })), "{list}");
    server.stop()?;
    daemon.stop()
}

/// Connections over the Java runtime's own TLS are listed with this as the reason why they are not followed.
pub(crate) fn tls_of_the_java_runtime_is_listed(java: &Stack) -> Result<()> {
    let certificates = Certificates::new()?;
    let mut stack = certificates.stack(java, Shown::ByServer);
    for end in [&mut stack.server, &mut stack.client] {
        end.extend(["--tls-provider", "JDK"].map(String::from));
    }
    let server = peer::Server::start(&stack, Listen::V4)?;
    let pid = server.pid();
    let daemon = Daemon::start(&["--tls", "auto", "--pid", &pid])?;
    let labels = [("library", "none"), ("result", "jvm")];
    daemon.wait_for_sum("observer_tls_files_total", &labels, 1.0..)?;
    peer::Client::start(&stack, &server, &plans::few(1))?.finish()?;
    // The plan has two steps, each with a connection of its own.
    expect(&daemon, &pid, &[("tls_not_followed", 2, None)])?;
    let listed = listed(&list(&daemon)?, &pid)?;
    ensure!(listed.iter().all(|(_, entry)| entry.advice.contains("JSSE")), "{listed:?}");
    daemon.wait_for_sum("observer_gaps_total", &[("cause", "tls_not_followed")], 1.0..)?;
    daemon.settle(&[Expected::nothing(server.identity())])?;
    server.stop()?;
    daemon.stop()
}

/// An error if the daemon does not list so many TLS connections of a process that are not followed, and what to do.
pub(crate) fn expect_not_followed(daemon: &Daemon, pid: &str, seen: u64) -> Result<()> {
    expect(daemon, pid, &[("tls_not_followed", seen, None)])?;
    let listed = listed(&list(daemon)?, pid)?;
    let has = |(_, entry): &(String, Entry)| entry.advice.contains("--tls auto");
    ensure!(listed.iter().all(has), "{listed:?}");
    Ok(())
}
