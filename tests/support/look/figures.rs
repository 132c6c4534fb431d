//! What is shown beside counts (rates, error ratios, calls in flight, handling times, connections and
//! what is known of them), compared with what the peers know.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::wait_for;
use crate::daemon::{Daemon, free_address, http_get};
use crate::peer::{Client, Listen, Server};
use crate::raw::command::Write;
use crate::raw::{Address, Talk};
use crate::report;
use crate::stack::Stack;
use crate::truth::Truth;

/// The column of calls a second.
pub const RATE: &str = "rate";
/// The column of the share of calls that fail.
pub const ERRORS: &str = "errors";
/// The column of calls that have begun and not ended.
pub const IN_FLIGHT: &str = "in flight";
/// The column of the median handling time.
pub const P50: &str = "p50";
/// The column of the 90th percentile of handling times.
pub const P90: &str = "p90";
/// The column of the 99th percentile of handling times.
pub const P99: &str = "p99";

/// A row: the process's number, its role, the method without its service.
pub type Who = (u32, String, String);

/// What is shown at a moment.
#[derive(Debug, Default)]
pub struct Figures {
    /// The texts of each row, by column.
    pub rows: BTreeMap<Who, BTreeMap<&'static str, String>>,
    /// Above the rows.
    pub connections: Connections,
}

/// Ends of connections that are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Seen from their beginning, without a gap.
    pub complete: u64,
    /// Older than the daemon.
    pub joined_late: u64,
    /// With bytes that were not seen.
    pub gaps: u64,
    /// Whose header blocks cannot be decoded.
    pub undecodable: u64,
}

/// Something that people look at.
pub trait Look {
    /// The columns that it has.
    fn columns(&self) -> &'static [&'static str];
    /// What it shows now.
    fn figures(&self) -> Result<Figures>;
    /// Open connections of a row's process, from the row's detail.
    fn connections_of(&mut self, row: &Who) -> Result<u64>;
}

const BOUNDS: [f64; 7] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Unary calls: how many, how long their handler sleeps, their code. A quarter fails; the median, the
/// 90th and the 99th of a hundred are of three buckets.
const STEPS: [(u64, u32, i32); 4] = [(18, 30, 0), (10, 30, 5), (9, 150, 0), (3, 700, 0)];
const CALLS: u64 = 40;
const FAILED_SHARE: &str = "25.0 %";

/// Calls that stay open, by connections that do.
const HELD: u64 = 3;
const HOLDING: u64 = 2;

/// For all calls to be made, and looked at.
const HOLD_MS: u32 = 15_000;

/// What one figure is to be.
enum Want {
    Text(String),
    PerSecond(RangeInclusive<f64>),
    Seconds(RangeInclusive<f64>),
}

/// Peers do what is known; what is looked at must tell the same.
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
            return Ok(Err(format!("{:?} are shown, not {connections:?}", shown.connections)));
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

/// A client whose connection is open, and used, before the daemon that is looked at starts.
fn early(stack: &Stack, server: &Server) -> Result<Client> {
    let daemon = Daemon::start(&["--port", &server.port()?])?;
    let plan = [vec![json!({"rpc": "Unary", "count": 100_000, "sleep_ms": 20})]];
    let client = Client::start(stack, server, &plan)?;
    daemon.wait_for_sum("grpc_client_handled_total", &[], 1.0..)?;
    daemon.kill()?;
    Ok(client)
}

/// A connection of which the daemon does not see all that its client writes; what comes then begins
/// with a frame.
fn with_gap(daemon: &Daemon, port: u16) -> Result<Talk<'_>> {
    let mut talk = Talk::begin(daemon, "a gap", Address::V4(port))?;
    talk.way.write = Write::Splice;
    talk.client(|f| f.request(1, "Get").last_message(1, 5))?;
    talk.way.write = Write::Write;
    talk.server(|f| f.response(1).message(1, 6).trailers(1, 0))?;
    talk.call(3, "Get", 0)?;
    Ok(talk)
}

/// The rate is of ten seconds only once somebody has looked for that long.
fn window_is_full(daemon: &Daemon) -> Result<()> {
    wait_for(|| {
        let (_, body) = http_get(daemon.address().parse()?, "/api/v1/view")?;
        let model: Value = serde_json::from_str(&body)?;
        let window = model.get("window_seconds").and_then(Value::as_f64);
        let full = window.is_some_and(|seconds| seconds >= 10.0);
        Ok(if full { Ok(()) } else { Err(format!("the window is of {window:?} s")) })
    })
}

fn steps() -> Vec<Value> {
    let step = |(count, sleep, code): (u64, u32, i32)| json!({"rpc": "Unary", "count": count, "concurrency": 3, "sleep_ms": sleep, "code": code});
    STEPS.map(step).to_vec()
}

/// Handling times are between what the handler slept and what the client's own clock says.
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

/// None has ended, so there is no more to tell.
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

/// How many figures are as wanted; or which is not.
fn compare(
    shown: &Figures,
    wanted: &BTreeMap<Who, Vec<(&'static str, Want)>>,
    columns: &[&str],
) -> Result<usize, String> {
    let mut compared = 0;
    for (who, figures) in wanted {
        let row = shown.rows.get(who).ok_or_else(|| format!("no row of {who:?}: {shown:?}"))?;
        for (column, want) in figures.iter().filter(|(column, _)| columns.contains(column)) {
            let text = row.get(column).ok_or_else(|| format!("{who:?} has no {column}"))?;
            want.admits(text).map_err(|wanted| {
                format!("{column} of {who:?} is {text:?}, not {wanted}; it shows {row:?}")
            })?;
            compared += 1;
        }
    }
    Ok(compared)
}

impl Want {
    fn admits(&self, text: &str) -> Result<(), String> {
        let within = |range: &RangeInclusive<f64>, number: Option<f64>| {
            number.filter(|number| range.contains(number)).map(drop).ok_or(format!("{range:?}"))
        };
        match self {
            Self::Text(wanted) if wanted == text => Ok(()),
            Self::Text(wanted) => Err(wanted.clone()),
            Self::PerSecond(range) => within(range, text.parse().ok()),
            Self::Seconds(range) => within(range, seconds(text)),
        }
    }
}

/// `95 µs`, `1.25 ms`, `2.5 s`.
fn seconds(text: &str) -> Option<f64> {
    let (number, unit) = text.split_once(' ')?;
    let unit = match unit {
        "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    // The figure has three digits: what is at a bound may be beyond it.
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
        assert!(Want::Text("0".into()).admits("0").is_ok());
        assert!(Want::Text("0".into()).admits("1").is_err());
        assert!(Want::PerSecond(3.3..=4.1).admits("4.0").is_ok());
        for text in ["3.2", "4.2", "–"] {
            assert!(Want::PerSecond(3.3..=4.1).admits(text).is_err(), "{text}");
        }
        assert!(Want::Seconds(0.025..=0.05).admits("37.5 ms").is_ok());
        assert!(Want::Seconds(0.025..=0.05).admits("51 ms").is_err());
    }
}
