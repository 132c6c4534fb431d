//! The comparison of the displayed figures besides counts with the peers' records: rates, error ratios, calls in
//! flight, handling times, connections.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::wait_for;
use crate::daemon::{Daemon, free_address, http_get};
use crate::peer::{Client, Listen, Server};
use crate::raw::command::Write;
use crate::raw::{Address, Talk};
use crate::report;
use crate::stack::Stack;
use crate::truth::Truth;

/// The column of calls per second.
pub const RATE: &str = "rate";
/// The column of the share of calls that fail.
pub const ERRORS: &str = "errors";
/// The column of calls that have started and not ended.
pub const IN_FLIGHT: &str = "in flight";
/// The column of the median handling time.
pub const P50: &str = "p50";
/// The column of the 90th percentile of handling times.
pub const P90: &str = "p90";
/// The column of the 99th percentile of handling times.
pub const P99: &str = "p99";

/// The key of a row: the process's number, its side, the method without its service.
pub type Who = (u32, String, String);

/// The figures that are displayed at a moment.
#[derive(Debug, Default)]
pub struct Figures {
    /// The texts of each row, by column.
    pub rows: BTreeMap<Who, BTreeMap<&'static str, String>>,
    /// The numbers of connections, above the rows.
    pub connections: Connections,
}

/// The numbers of ends of open connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Seen from their start, without a gap.
    pub complete: u64,
    /// Joined late: older than the daemon.
    pub joined_late: u64,
    /// With a gap.
    pub gaps: u64,
    /// With field blocks that cannot be decoded.
    pub undecodable: u64,
}

/// A display of the daemon's figures.
pub trait Look {
    /// The columns that it displays.
    fn columns(&self) -> &'static [&'static str];
    /// The figures that it displays now.
    fn figures(&self) -> Result<Figures>;
    /// The number of open connections of a row's process, from the row's detail view.
    fn connections_of(&mut self, row: &Who) -> Result<u64>;
}

const BOUNDS: [f64; 7] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Unary calls: their number, the milliseconds that their handler sleeps, their code. A quarter fails; p50, p90 and
/// p99 are in three buckets.
const STEPS: [(u64, u32, i32); 4] = [(18, 30, 0), (10, 30, 5), (9, 150, 0), (3, 700, 0)];
const CALLS: u64 = 40;
const FAILED_SHARE: &str = "25.0 %";

/// The number of calls that stay open, and of their connections.
const HELD: u64 = 3;
const HOLDING: u64 = 2;

/// Milliseconds for all calls to be made, and compared.
const HOLD_MS: u32 = 15_000;

/// The expected value of a figure.
#[derive(Debug)]
enum Want {
    Text(String),
    PerSecond(RangeInclusive<f64>),
    Seconds(RangeInclusive<f64>),
}

/// An error unless the display that `open` returns has the figures of the peers' calls.
pub fn are_true<L: Look>(stack: &Stack, open: impl FnOnce(&Daemon) -> Result<L>) -> Result<()> {
    let (server, other) = (Server::start(stack, Listen::V4)?, Server::start(stack, Listen::V4)?);
    let early = early(stack, &other)?;
    let raw = free_address()?.port();
    let ports = [server.port()?, other.port()?, raw.to_string()].join(",");
    let bounds = BOUNDS.map(|bound| bound.to_string()).join(",");
    let daemon = Daemon::start(&["--port", &ports, "--buckets", &bounds])?;
    let mut look = open(&daemon)?;
    let mut with_gap = with_gap(&daemon, raw)?;
    window_is_full(&daemon)?;
    let holding = json!({"rpc": "Bidi", "count": HELD, "concurrency": HELD, "holds": true,
        "connections": HOLDING, "cancel_after_ms": HOLD_MS});
    let holder = Client::start(stack, &server, &[vec![holding]])?;
    let held: [Who; 2] = [(holder.identity().pid, "client"), (server.identity().pid, "server")]
        .map(|(pid, role)| (pid, role.into(), "Bidi".into()));
    let (busy, truth) = Client::start(stack, &server, &[steps()])?.finish()?;
    let mut wanted = BTreeMap::new();
    for (pid, role) in [(busy.pid, "client"), (server.identity().pid, "server")] {
        wanted.insert((pid, role.to_owned(), "Unary".to_owned()), of_calls(&truth)?);
    }
    wanted.extend(held.clone().map(|who| (who, of_held(HELD))));
    // The other end of the connection with a gap has read everything.
    let connections =
        Connections { complete: 2 * HOLDING + 1, joined_late: 2, gaps: 1, undecodable: 0 };
    let mut compared = 0;
    wait_for(|| {
        let shown = look.figures()?;
        if shown.connections != connections {
            return Ok(Err(anyhow!("{:?} are shown, not {connections:?}", shown.connections)));
        }
        Ok(compare(&shown, &wanted, look.columns()).map(|numbers| compared = numbers + 4))
    })?;
    for row in &held {
        let open = look.connections_of(row)?;
        ensure!(open == HOLDING, "{row:?} shows {open} connections of its process, not {HOLDING}");
    }
    report::exact(compared + held.len());
    let _ = holder.finish()?;
    let ended: BTreeMap<_, _> = held.map(|who| (who, of_held(0))).into();
    wait_for(|| Ok(compare(&look.figures()?, &ended, &[IN_FLIGHT]).map(drop)))?;
    drop(early);
    with_gap.end_peers()?;
    server.stop()?;
    daemon.stop()
}

/// A client whose connection is open, and used, before the daemon of the display starts.
fn early(stack: &Stack, server: &Server) -> Result<Client> {
    let daemon = Daemon::start(&["--port", &server.port()?])?;
    let plan = [vec![json!({"rpc": "Unary", "count": 100_000, "sleep_ms": 20})]];
    let client = Client::start(stack, server, &plan)?;
    daemon.wait_for_sum("grpc_client_handled_total", &[], 1.0..)?;
    daemon.kill()?;
    Ok(client)
}

/// A connection with a gap in what its client writes; the bytes after it start with a frame.
fn with_gap(daemon: &Daemon, port: u16) -> Result<Talk<'_>> {
    let mut talk = Talk::begin(daemon, "a gap", Address::V4(port))?;
    talk.way.write = Write::Splice;
    talk.client(|f| f.request(1, "Get").last_message(1, 5))?;
    talk.way.write = Write::Write;
    talk.server(|f| f.response(1).message(1, 6).trailers(1, 0))?;
    talk.call(3, "Get", 0)?;
    Ok(talk)
}

/// Waits until rates are over ten seconds: the daemon computes them only while a display is open.
fn window_is_full(daemon: &Daemon) -> Result<()> {
    wait_for(|| {
        let (_, body) = http_get(daemon.address().parse()?, "/api/v1/view")?;
        let model: Value = serde_json::from_str(&body)?;
        let window = model.get("window_seconds").and_then(Value::as_f64);
        let full = window.is_some_and(|seconds| seconds >= 10.0);
        Ok(full.then_some(()).with_context(|| format!("the window is of {window:?} s")))
    })
}

fn steps() -> Vec<Value> {
    let step = |(count, sleep, code): (u64, u32, i32)| json!({"rpc": "Unary", "count": count, "concurrency": 3, "sleep_ms": sleep, "code": code});
    STEPS.map(step).to_vec()
}

/// The expected figures of the calls; handling times are between the handler's sleep and the client's own clock.
fn of_calls(truth: &Truth) -> Result<Vec<(&'static str, Want)>> {
    let mut by_clock: Vec<u64> =
        truth.calls.iter().flat_map(|row| row.handling_us.clone()).collect();
    let mut slept: Vec<u64> = STEPS
        .iter()
        .flat_map(|&(count, ms, _)| (0..count).map(move |_| u64::from(ms) * 1000))
        .collect();
    ensure!(by_clock.len() == slept.len(), "{} calls were made", by_clock.len());
    by_clock.sort_unstable();
    slept.sort_unstable();
    let quantile = |share: f64| -> Result<Want> {
        let rank = (share * slept.len() as f64).ceil() as usize - 1;
        let at = |times: &[u64]| times.get(rank).map(|&us| us as f64 / 1e6).context("a call");
        let (least, most) = (at(&slept)?, at(&by_clock)?);
        let below = BOUNDS.iter().rfind(|&&bound| bound <= least).context("too short a sleep")?;
        let above = BOUNDS.iter().find(|&&bound| bound >= most).context("too long a call")?;
        Ok(Want::Seconds(*below..=*above))
    };
    // The window ends with the first sample after ten seconds; a figure is rounded.
    let (least, most) = (CALLS as f64 / 12.0 - 0.05, CALLS as f64 / 10.0 + 0.05);
    Ok(vec![
        (RATE, Want::PerSecond(least..=most)),
        (ERRORS, Want::Text(FAILED_SHARE.into())),
        (IN_FLIGHT, Want::Text("0".into())),
        (P50, quantile(0.5)?),
        (P90, quantile(0.9)?),
        (P99, quantile(0.99)?),
    ])
}

/// The expected figures of open calls.
fn of_held(calls: u64) -> Vec<(&'static str, Want)> {
    let text = |text: &str| Want::Text(text.into());
    vec![
        (RATE, text("0")),
        (ERRORS, text("–")),
        (IN_FLIGHT, text(&calls.to_string())),
        (P50, text("–")),
        (P90, text("–")),
        (P99, text("–")),
    ]
}

/// The number of figures that were compared; an error if one is not as expected.
fn compare(
    shown: &Figures,
    wanted: &BTreeMap<Who, Vec<(&'static str, Want)>>,
    columns: &[&str],
) -> Result<usize> {
    let mut compared = 0;
    for (who, figures) in wanted {
        let row = shown.rows.get(who).with_context(|| format!("no row of {who:?}: {shown:?}"))?;
        for (column, want) in figures.iter().filter(|(column, _)| columns.contains(column)) {
            let text = row.get(column).with_context(|| format!("{who:?} has no {column}"))?;
            ensure!(want.admits(text), "{column} of {who:?} is {text:?}, not {want:?}: {row:?}");
            compared += 1;
        }
    }
    Ok(compared)
}

impl Want {
    fn admits(&self, text: &str) -> bool {
        match self {
            Self::Text(wanted) => wanted == text,
            Self::PerSecond(range) => text.parse().is_ok_and(|number| range.contains(&number)),
            Self::Seconds(range) => seconds(text).is_some_and(|number| range.contains(&number)),
        }
    }
}

/// Parses a duration such as `95 µs`, `1.25 ms` or `2.5 s`, in seconds.
fn seconds(text: &str) -> Option<f64> {
    let (number, unit) = text.split_once(' ')?;
    let unit = match unit {
        "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * unit)
}

#[cfg(test)]
mod tests {
    use super::{Want, seconds};

    #[test]
    fn durations_are_read() {
        assert_eq!(seconds("2.5 s"), Some(2.5));
        assert!(seconds("480 ms").is_some_and(|s| (0.479..0.481).contains(&s)));
        for text in ["–", "≥10 s", "10", "1 h"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn a_figure_that_is_not_as_wanted_is_seen() {
        assert!(Want::Text("0".into()).admits("0"));
        assert!(!Want::Text("0".into()).admits("1"));
        assert!(Want::PerSecond(3.3..=4.1).admits("4.0"));
        for text in ["3.2", "4.2", "–"] {
            assert!(!Want::PerSecond(3.3..=4.1).admits(text), "{text}");
        }
        assert!(Want::Seconds(0.025..=0.05).admits("37.5 ms"));
        assert!(!Want::Seconds(0.025..=0.05).admits("51 ms"));
    }
}
