//! Bounds on what one process, and all together, can use of the daemon.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use support::daemon::Daemon;
use support::memory::MemoryLimit;
use support::nobody::NOBODY;
use support::openmetrics::Metrics;
use support::pace;
use support::raw::frames::frame;
use support::raw::talk::Role::{Client, Server};
use support::raw::{Action, Address, Talk};
use support::report;

use super::hostile::{Flood, Neighbour, by_nobody, connected_by_nobody, limited, within_bounds};
use super::{OK, Table};

/// The memory limit of the shipped unit and chart.
pub(super) const SHIPPED: u64 = 512 << 20;

pub(super) fn add(table: &mut Table) {
    let possible = MemoryLimit::is_possible();
    // It exists with `CONFIG_CHECKPOINT_RESTORE`, like PR_SET_MM_MAP.
    let has_memory_map = Path::new("/proc/self/timers").exists();
    table.alone_if(
        possible && has_memory_map,
        "arguments of gigabytes, of a process of nobody's",
        gigabytes_of_arguments_are_not_read,
    );
    table.alone(
        "a process of many names and methods, and one that comes later",
        one_process_of_many_names_leaves_room,
    );
    table.alone_if(
        possible,
        "as much of series and connections as may be, with the memory of the shipped unit",
        all_bounds_fit_the_shipped_memory,
    );
    table.alone_if(
        possible,
        "less memory than the bounds allow: nothing new is taken",
        short_memory_takes_nothing_new,
    );
}

/// Both ends claim arguments of 3 GiB. Their calls and those of a neighbour are reported all the same.
fn gigabytes_of_arguments_are_not_read(name: &str) -> Result<()> {
    const ARGUMENTS: u64 = 3 << 30;
    const MEMORY: u64 = 192 << 20;
    let limit = MemoryLimit::new(SHIPPED)?;
    let daemon = Daemon::start_within(&limit, &[])?;
    let mut neighbour = Neighbour::of(&daemon, name)?;
    let mut talk = connected_by_nobody(&daemon, &format!("{name} hostile"))?;
    for role in [Client, Server] {
        talk.act(role, Action::Arguments(ARGUMENTS))?;
    }
    talk.open_http2()?;
    talk.expected_call(1, "Get", OK)?;
    neighbour.calls_are_counted()?;
    let metrics = daemon.scrape()?;
    let uid = NOBODY.to_string();
    for role in [Client, Server] {
        let pid = talk.pid(role)?;
        let labels = [("pid", &*pid), ("uid", &*uid)];
        ensure!(metrics.count("observer_process_info", &labels) == 1, "not one with {labels:?}");
    }
    talk.finish()?;
    stays_within(name, &limit, MEMORY)
}

/// An error if the daemon took more than this at once, or was killed.
pub(super) fn stays_within(name: &str, limit: &MemoryLimit, bytes: u64) -> Result<()> {
    let (peak, kills) = (limit.peak()?, limit.kills()?);
    report::say(&format!("{name}: at most {} MiB at once", peak >> 20));
    ensure!(kills == 0, "{kills} processes were killed for the memory that they wanted");
    ensure!(peak <= bytes, "the daemon took {peak} bytes at once");
    Ok(())
}

/// The number of a server's series whose method is not `other`.
fn named_series(metrics: &Metrics, pid: &str) -> usize {
    let all = metrics.count("grpc_server_started_total", &[("pid", pid)]);
    all - metrics.count("grpc_server_started_total", &[("pid", pid), ("grpc_method", "other")])
}

/// A server takes one name after the other, and is called with as many methods under each as there may be series at
/// all.
fn one_process_of_many_names_leaves_room(name: &str) -> Result<()> {
    const SERIES: u32 = 400;
    const NAMES: u32 = 12;
    let (limit, daemon) = limited(&["--max-series", &SERIES.to_string()])?;
    let mut talk = by_nobody(&daemon, name)?;
    let pid = talk.pid(Server)?;
    for name in 0..NAMES {
        talk.peer(Server)?.rename(&format!("name-{name}"))?;
        begin_and_reset(&mut talk, name * SERIES, SERIES)?;
        daemon.scrape()?;
    }
    let taken = named_series(&daemon.scrape()?, &pid);
    ensure!((60..=100).contains(&taken), "{taken} of {SERIES} series are one process's");
    let mut later = Talk::begin(&daemon, &format!("{name} later"), Address::V4(0))?;
    for method in 0..20 {
        later.expected_call(2 * method + 1, &format!("Method{method}"), OK)?;
    }
    later.finish()?;
    within_bounds(name, &daemon, limit.as_ref())
}

/// Starts and resets this many calls, each of its own method.
fn begin_and_reset(talk: &mut Talk<'_>, from: u32, methods: u32) -> Result<()> {
    for first in (from..from + methods).step_by(100) {
        talk.client(|f| {
            (first..(first + 100).min(from + methods))
                .fold(f, |f, n| f.request(2 * n + 1, &format!("Method{n}")).reset(2 * n + 1, 8))
        })?;
    }
    Ok(())
}

/// Series with exemplars of more methods than allowed, with long names; connections that each hold what a connection
/// may always hold, and others; and scrapes of all formats.
fn all_bounds_fit_the_shipped_memory(name: &str) -> Result<()> {
    /// The default bound of one process.
    const METHODS: u32 = 1000;
    const TALKS: usize = 14;
    const PAIRS: usize = 7_000;
    /// As many as the usual limit on descriptors allows: 19,200 ends.
    const ALL_PAIRS: usize = 9_600;
    /// The rest of the 32,768 ends, of about 2 KiB each, has room besides.
    const MEMORY: u64 = SHIPPED / 8 * 7;
    let limit = MemoryLimit::new(SHIPPED)?;
    let daemon = Daemon::start_within(&limit, &[])?;
    let mut neighbour = Neighbour::of(&daemon, name)?;
    neighbour.calls()?;
    // Each begins with a scrape, which is still short here.
    let begin = |number| by_nobody(&daemon, &format!("{name} {number}"));
    let mut talks = (0..TALKS).map(begin).collect::<Result<Vec<_>>>()?;
    let said = |what: &str| -> Result<()> {
        report::say(&format!("{what}: at most {} MiB at once", limit.peak()? >> 20));
        ensure!(limit.kills()? == 0, "killed after {what}");
        Ok(())
    };
    said("the daemon alone")?;
    for talk in &mut talks {
        traced_calls(talk, METHODS)?;
    }
    daemon.get("/healthz")?;
    said("series")?;
    let mut flood = Flood::new()?;
    flood.as_nobody(|flood| {
        for pair in 0..ALL_PAIRS {
            flood.connect()?;
            if pair < PAIRS {
                hold_a_header_block(flood.open.last_mut().context("a connection")?)?;
            }
            if pair % 50 == 0 {
                // The daemon must read the ring, which has room for a hundred. A scrape of all series takes longer.
                sleep(pace::limit(Duration::from_millis(40)));
                daemon.get("/healthz")?;
            }
        }
        Ok(())
    })?;
    neighbour.calls()?;
    said("connections")?;
    for accept in ["application/openmetrics-text", PROTOBUF, "text/plain"] {
        for encoding in ["gzip", "identity"] {
            let answer = scrape(&daemon, accept, encoding)?;
            said(&format!("{accept}, {encoding}, {} KiB", answer.len() >> 10))?;
            if (accept, encoding) == ("text/plain", "identity") {
                is_reported(&mut neighbour, &String::from_utf8(answer)?)?;
            }
        }
    }
    stays_within(name, &limit, MEMORY)
}

/// Makes one call with a trace of each of this many methods.
fn traced_calls(talk: &mut Talk<'_>, methods: u32) -> Result<()> {
    let long = "x".repeat(40);
    for first in (0..methods).step_by(50) {
        let all = first..first + 50;
        talk.client(|f| {
            all.clone().fold(f, |f, n| {
                let trace = format!("00-{:032x}-{:016x}-01", n + 1, n + 1);
                f.request_with(2 * n + 1, &format!("{long}{n}"), &[("traceparent", &trace)])
                    .last_message(2 * n + 1, 5)
            })
        })?;
        talk.server(|f| {
            all.fold(f, |f, n| f.response(2 * n + 1).message(2 * n + 1, 6).trailers(2 * n + 1, OK))
        })?;
    }
    Ok(())
}

/// An error unless the bounds are reached and the neighbour's calls are reported all the same. It reads a few lines:
/// to parse all takes long.
fn is_reported(neighbour: &mut Neighbour<'_>, metrics: &str) -> Result<()> {
    let value = |start: &str, label: &str| {
        let mut lines = metrics.lines().filter(|line| line.starts_with(start));
        let line = lines.find(|line| line.contains(label)).context("no such series")?;
        let (_, value) = line.rsplit_once(' ').context("no value")?;
        value.parse::<f64>().context("not a number")
    };
    let series = value("observer_series ", "")?;
    ensure!((9_000.0..=10_100.0).contains(&series), "{series} series");
    let given_up = value("observer_gaps_total{", "cause=\"memory_limit\"")?;
    ensure!(given_up > 0.0, "all connections together hold less than they may");
    let pid = format!("pid=\"{}\"", neighbour.talk.pid(Server)?);
    let handled = value("grpc_server_handled_total{", &pid)?;
    ensure!(handled == 20.0, "{handled} calls of the neighbour, not 20");
    Ok(())
}

/// Connections hold what they may until the memory is short; once they are gone, others are watched.
fn short_memory_takes_nothing_new(name: &str) -> Result<()> {
    const LIMIT: u64 = 128 << 20;
    const PAIRS: usize = 4_000;
    let limit = MemoryLimit::new(LIMIT)?;
    let daemon = Daemon::start_within(&limit, &[])?;
    let mut neighbour = Neighbour::of(&daemon, name)?;
    neighbour.calls()?;
    let mut flood = Flood::new()?;
    for _ in 0..PAIRS / 500 {
        flood.as_nobody(|flood| {
            (0..500).try_for_each(|_| {
                flood.connect()?;
                hold_a_header_block(flood.open.last_mut().context("a connection")?)
            })
        })?;
        neighbour.calls()?;
    }
    let short = |wanted: f64| {
        move |metrics: &Metrics| {
            metrics.expect_sum("observer_memory_short", &[], wanted)?;
            metrics.expect_sum("observer_memory_limit_bytes", &[], LIMIT as f64)
        }
    };
    daemon.wait_until(short(1.0))?;
    let refused = daemon.scrape()?.sum("observer_gaps_total", &[("cause", "memory_limit")]);
    ensure!(refused > 0.0, "nothing was refused");
    neighbour.calls_are_counted()?;
    stays_within(name, &limit, LIMIT)?;
    flood.open.clear();
    daemon.wait_until(short(0.0))?;
    let mut later = Neighbour::of(&daemon, &format!("{name} later"))?;
    later.calls_are_counted()?;
    neighbour.is_counted()
}

const PROTOBUF: &str = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
                        encoding=delimited";

/// Sends a field block of 36 KiB without its end.
fn hold_a_header_block([client, server]: &mut [TcpStream; 2]) -> Result<()> {
    const PIECE: usize = 12 << 10;
    for kind in [frame::HEADERS, frame::CONTINUATION, frame::CONTINUATION] {
        let [_, length @ ..] = (PIECE as u32).to_be_bytes();
        let mut bytes = [&length[..], &[kind, 0, 0, 0, 0, 1], &[0; PIECE]].concat();
        client.write_all(&bytes)?;
        server.read_exact(&mut bytes)?;
    }
    Ok(())
}

fn scrape(daemon: &Daemon, accept: &str, encoding: &str) -> Result<Vec<u8>> {
    let address = daemon.address();
    let mut stream = TcpStream::connect(&address).context("connect")?;
    stream.set_read_timeout(Some(pace::limit(Duration::from_secs(30))))?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAccept: {accept}\r\n\
         Accept-Encoding: {encoding}\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read the metrics")?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "a scrape fails");
    Ok(answer)
}
