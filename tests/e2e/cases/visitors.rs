//! Clients at the port of the daemon's own server, which anyone may reach: the user nobody, in all cases.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use support::daemon::Daemon;
use support::footprint;
use support::nobody;
use support::openmetrics::Metrics;
use support::raw::talk::Role::Server;
use support::raw::{Address, Talk};
use support::report;
use tempfile::TempDir;

use super::protected::{PASSWORD, Protected, USER};
use super::{OK, Table};

/// Time for an answer: longer than the daemon waits for an idle client, and shorter than a kubelet waits for a probe.
const SOON: Duration = Duration::from_secs(5);

pub(super) fn add(table: &mut Table) {
    table.alone("passwords of those who hang up", passwords_of_those_who_hang_up);
    table.alone("connections that say nothing", silent_connections);
    table.alone("a large scrape, which takes no memory for its text", large_scrape);
}

/// Sends a request with these lines, and returns the answer.
fn answer(mut stream: impl std::io::Read + std::io::Write, lines: &[&str]) -> Result<String> {
    let head = [lines, &["Host: localhost", "Connection: close", "", ""]].concat().join("\r\n");
    stream.write_all(head.as_bytes()).context("ask")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read the answer")?;
    String::from_utf8(answer).context("an answer that is not UTF-8")
}

fn connect(daemon: &Daemon) -> Result<TcpStream> {
    let stream = TcpStream::connect(daemon.address()).context("connect")?;
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

fn authorization(password: &str) -> String {
    format!("Authorization: Basic {}", BASE64_STANDARD.encode(format!("{USER}:{password}")))
}

/// A check of a password runs to its end. But it does not start for a client that has gone, so other clients wait for
/// one check at most, and known clients for none.
fn passwords_of_those_who_hang_up(_: &str) -> Result<()> {
    const TIMES: usize = 80;
    let protected = Protected::by_password()?;
    let daemon = protected.daemon()?;
    let scrape = || -> Result<Metrics> {
        let right = authorization(PASSWORD);
        let accept = "Accept: application/openmetrics-text";
        let text = answer(connect(&daemon)?, &["GET /metrics HTTP/1.0", accept, &right])?;
        let (head, body) = text.split_once("\r\n\r\n").context("no body")?;
        ensure!(head.starts_with("HTTP/1.0 200"), "{head}");
        Metrics::parse(body)
    };
    let checks = |metrics: &Metrics| metrics.sum("observer_http_password_checks_total", &[]);
    let before = checks(&scrape()?);
    ensure!((1.0..2.0).contains(&before), "{before} checks of one password");
    nobody::in_a_thread(|| -> Result<()> {
        for _ in 0..TIMES {
            // A second request hides the end from a server that reads one request at a time.
            let wrong = authorization("wrong");
            let request = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{wrong}\r\n\r\n");
            connect(&daemon)?.write_all(request.repeat(2).as_bytes()).context("ask")?;
        }
        Ok(())
    })??;
    let begun = Instant::now();
    let after = checks(&scrape()?) - before;
    let took = begun.elapsed();
    ensure!(after < TIMES as f64 / 4.0, "{after} checks for {TIMES} who have hung up");
    report::say(&format!(
        "{TIMES} passwords of those who hang up: {after} were checked, and a scrape took {} ms",
        took.as_millis()
    ));
    daemon.stop()
}

/// More connections than the server takes. Probes and scrapes are answered all the same, and probes have their own
/// listener.
fn silent_connections(_: &str) -> Result<()> {
    const TIMES: usize = 300;
    let folder = TempDir::with_prefix("health-").context("create a folder")?;
    let socket = folder.path().join("health.sock");
    let place = format!("unix:{}", socket.display());
    let daemon = Daemon::start(&["--health-listen", &place])?;
    let (mut idle, mut probes) = nobody::in_a_thread(|| -> Result<_> {
        let mut idle = Vec::new();
        let mut probes = Vec::new();
        for number in 0..TIMES {
            let mut stream = connect(&daemon)?;
            if number % 2 == 0 {
                // The server may have closed it already.
                let _ = stream.write_all(b"GET /metr");
            }
            idle.push(stream);
        }
        for _ in 0..100 {
            probes.push(UnixStream::connect(&socket).context("connect to the socket for probes")?);
        }
        Ok((idle, probes))
    })??;
    for path in ["/healthz", "/readyz", "/metrics"] {
        let begun = Instant::now();
        // While connections are replaced, one more may be refused: like a kubelet, it tries again.
        let is_answered = || {
            let text = answer(connect(&daemon)?, &[&format!("GET {path} HTTP/1.1")])?;
            ensure!(text.starts_with("HTTP/1.1 200"), "{path}: {text}");
            Ok(())
        };
        while let Err(error) = is_answered() {
            ensure!(begun.elapsed() < SOON, "{error:#}");
        }
    }
    let refused = daemon.scrape()?.sum("observer_http_refused_total", &[("reason", "connections")]);
    ensure!(refused > 0.0, "no connection was refused");
    ensure!(daemon.log().contains("HTTP connection limit reached"), "{}", daemon.log());
    for path in ["/healthz", "/readyz"] {
        let stream = nobody::in_a_thread(|| UnixStream::connect(&socket))?.context("connect")?;
        stream.set_read_timeout(Some(SOON))?;
        let text = answer(stream, &[&format!("GET {path} HTTP/1.1")])?;
        ensure!(text.starts_with("HTTP/1.1 200") && text.ends_with("ok\n"), "{path}: {text}");
    }
    idle.clear();
    probes.clear();
    daemon.stop()?;
    // It may not remove the socket, so the next daemon replaces it.
    let next = Daemon::start(&["--health-listen", &place])?;
    UnixStream::connect(&socket).context("connect to the next one")?;
    next.stop()
}

/// The daemon's peak grows by only a part of the text, with a client that reads it and one that does not.
fn large_scrape(name: &str) -> Result<()> {
    const METHODS: u32 = 600;
    let buckets = (1..=64).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let daemon = Daemon::start(&["--buckets", &buckets])?;
    let mut talk = Talk::begin(&daemon, name, Address::V4(0))?;
    let streams = || (0..METHODS).map(|method| 2 * method + 1);
    talk.client(|f| {
        streams().fold(f, |f, s| f.request(s, &format!("Method{s}")).last_message(s, 5))
    })?;
    talk.server(|f| streams().fold(f, |f, s| f.response(s).message(s, 6).trailers(s, OK)))?;
    let pid = talk.pid(Server)?;
    let all = f64::from(METHODS);
    daemon.wait_for_sum("grpc_server_handled_total", &[("pid", &pid)], all..=all)?;
    let peak = || -> Result<u64> {
        let pid = daemon.pid();
        let kib = footprint::status(pid, pid, "VmHWM")?;
        Ok(kib.trim_end_matches(" kB").parse::<u64>().context("no number")? << 10)
    };
    // This takes a snapshot, as scrapes do.
    daemon.get("/api/v1/view")?;
    fs::write(format!("/proc/{}/clear_refs", daemon.pid()), "5").context("forget the peak")?;
    daemon.get("/api/v1/view")?;
    let before = peak()?;
    let mut slow = nobody::in_a_thread(|| connect(&daemon))??;
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    slow.write_all(request.as_bytes()).context("ask")?;
    slow.read_exact(&mut [0]).context("a slow scraper's answer")?;
    let length = daemon.metrics_as("text/plain; version=0.0.4")?.len() as u64;
    let grown = peak()?.saturating_sub(before);
    report::say(&format!("a scrape of {length} bytes: the daemon's peak grows by {grown}"));
    ensure!(grown < length / 4, "the peak grows by {grown} for a text of {length} bytes");
    drop(slow);
    talk.end_peers()
}
