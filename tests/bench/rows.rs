//! Series, text and memory of a scrape, by schema and by the number of rows: a row is a method of a process on one side.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Range;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use support::daemon::Daemon;
use support::footprint::Footprint;
use support::raw::{Address, Talk};

use crate::figures::Results;

/// For figures that do not depend on how many rows there are.
const ROWS: u32 = 1_000;

const SCRAPES: usize = 7;

/// More than any of the cases has.
const ROOM: [&str; 2] = ["--max-methods", "10000"];

const SCHEMAS: [&[&str]; 6] = [
    &["--schema", "go"],
    &["--schema", "go", "--created=false"],
    &["--schema", "go", "--buckets", "0.01,0.1,1"],
    &["--schema", "python"],
    &["--schema", "requests"],
    &["--schema", "otel"],
];

pub(crate) fn schemas(results: &mut Results) -> Result<()> {
    for flags in SCHEMAS {
        let daemon = started(flags)?;
        // The text about the daemon itself is not the rows'.
        let (text_before, gzip_before) = (text(&daemon)?, packed(&daemon)?);
        let mut talk = Talk::begin(&daemon, "rows", Address::V4(0))?;
        calls(&mut talk, ROWS, false)?;
        let name = format!("`{}`", flags.join(" "));
        for (what, sum, unit) in [
            ("series per row", series(&daemon)?, ""),
            ("text per row", text(&daemon)? - text_before, "B"),
            ("text per row with gzip", packed(&daemon)? - gzip_before, "B"),
        ] {
            results.add(format!("{name}: {what}"), unit, None, vec![sum as f64 / f64::from(ROWS)]);
        }
        talk.end_peers()?;
        daemon.stop()?;
    }
    Ok(())
}

pub(crate) fn scrapes(results: &mut Results) -> Result<()> {
    let cases = [
        ("200 rows", 200, false, &[][..]),
        ("1,000 rows", ROWS, false, &[]),
        ("2,000 rows", 2 * ROWS, false, &[]),
        ("1,000 rows, all calls traced", ROWS, true, &[]),
        ("1,000 rows, `--native-histograms`", ROWS, false, &["--native-histograms"]),
    ];
    for (name, rows, is_traced, flags) in cases {
        measure(name, rows, is_traced, flags, results)?;
    }
    Ok(())
}

/// The memory of an edge of the service graph, by how much more a daemon with a service graph grows when the same calls are
/// made. Both ends of the calls are watched, so each method is an edge, and two rows.
pub(crate) fn edges(results: &mut Results) -> Result<()> {
    /// One process gets a fifth of the room for paths, 16,384.
    const EDGES: u32 = 3_000;
    const REPEATS: usize = 3;
    /// Longer than the ends of a connection wait for each other, and than a service takes to be known.
    const SETTLED: Duration = Duration::from_secs(3);
    // One process gets a quarter of what is free.
    let room = ["--max-methods", "10000", "--max-series", "100000"];
    let grown = |flags: &[&str], edges: usize| {
        let daemon = Daemon::start(&[&room[..], flags].concat())?;
        let before = Footprint::of(daemon.pid())?.memory;
        let mut talk = Talk::begin(&daemon, "edges", Address::V4(0))?;
        // Few edges have room until the services of both processes are known.
        calls_of(&mut talk, 0..1, false)?;
        sleep(SETTLED);
        calls_of(&mut talk, 1..EDGES, false)?;
        sleep(SETTLED);
        // A scrape takes memory of its own.
        let grown = Footprint::of(daemon.pid())?.memory.saturating_sub(before);
        // Others on this machine may have edges, too.
        let service = [("grpc_service", talk.service())];
        let found = daemon.scrape()?.count("grpc_edge_handled_total", &service);
        ensure!(found == edges, "{found} edges, not {edges}");
        talk.end_peers()?;
        daemon.stop()?;
        Ok(grown as f64)
    };
    for (name, flags) in
        [("an edge", &[][..]), ("an edge with `--native-histograms`", &["--native-histograms"])]
    {
        let sample = || {
            let without = grown(flags, 0)?;
            let with = grown(&[flags, &["--service-graph"]].concat(), EDGES as usize)?;
            Ok((with - without) / f64::from(EDGES))
        };
        let samples = (0..REPEATS).map(|_| sample()).collect::<Result<_>>()?;
        results.add(name, "B", None, samples);
    }
    Ok(())
}

fn started(flags: &[&str]) -> Result<Daemon> {
    Daemon::start(&[&ROOM, flags].concat())
}

fn measure(
    name: &str,
    rows: u32,
    is_traced: bool,
    flags: &[&str],
    results: &mut Results,
) -> Result<()> {
    const KIB: f64 = 1024.0;
    let daemon = started(flags)?;
    let mut talk = Talk::begin(&daemon, "rows", Address::V4(0))?;
    calls(&mut talk, rows, is_traced)?;
    let (series, text) = (series(&daemon)?, text(&daemon)?);
    let time = || Ok(daemon.scrape_time()?.as_secs_f64() * 1e3);
    let times = (0..SCRAPES).map(|_| time()).collect::<Result<_>>()?;
    let memory = Footprint::of(daemon.pid())?.memory as f64 / KIB / KIB;
    results.add(format!("{name}: series"), "", None, vec![series as f64]);
    results.add(format!("{name}: text"), "MB", None, vec![text as f64 / 1e6]);
    results.add(format!("{name}: scrape"), "ms", None, times);
    results.add(format!("{name}: the daemon's own memory (RssAnon)"), "MiB", None, vec![memory]);
    talk.end_peers()?;
    daemon.stop()
}

/// One call of each method, which is a row at each end.
fn calls(talk: &mut Talk<'_>, rows: u32, is_traced: bool) -> Result<()> {
    calls_of(talk, 0..rows / 2, is_traced)
}

/// One call of each of these methods.
fn calls_of(talk: &mut Talk<'_>, methods: Range<u32>, is_traced: bool) -> Result<()> {
    const AT_ONCE: u32 = 50;
    let all: Vec<u32> = methods.map(|number| 2 * number + 1).collect();
    for streams in all.chunks(AT_ONCE as usize) {
        talk.client(|frames| {
            streams.iter().fold(frames, |frames, &stream| {
                let trace = format!("00-{stream:032x}-{stream:016x}-01");
                let fields = [("traceparent", &*trace)];
                let fields = if is_traced { &fields[..] } else { &[] };
                let method = format!("Method{stream}");
                frames.request_with(stream, &method, fields).last_message(stream, 5)
            })
        })?;
        talk.server(|frames| {
            streams.iter().fold(frames, |frames, &stream| {
                frames.response(stream).message(stream, 6).trailers(stream, 0)
            })
        })?;
    }
    Ok(())
}

/// How many series of calls a scrape has.
fn series(daemon: &Daemon) -> Result<usize> {
    let metrics = daemon.scrape()?;
    Ok(metrics.series_count("grpc_") + metrics.series_count("rpc_"))
}

/// The length of a scrape's text, in bytes.
fn text(daemon: &Daemon) -> Result<usize> {
    Ok(daemon.get("/metrics")?.len())
}

/// How many bytes a scrape with gzip moves, headers included.
fn packed(daemon: &Daemon) -> Result<usize> {
    let mut stream = TcpStream::connect(daemon.address()).context("connect to the daemon")?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAccept: application/openmetrics-text\r\n\
         Accept-Encoding: gzip\r\n\r\n",
        daemon.address()
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read a scrape")?;
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "a scrape with gzip fails");
    Ok(answer.len())
}
