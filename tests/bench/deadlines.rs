//! Calls that expired or were canceled: the reported codes, compared with the clients' records.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::slice;
use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use support::daemon::Daemon;
use support::openmetrics::Metrics;
use support::peer::{Client, Identity, Listen, Server};
use support::stack::Stack;
use support::truth::{Truth, code_name};
use tempfile::TempDir;

use crate::Peers;
use crate::figures::{Bound, Results};

const TIMEOUTS_MS: [u64; 4] = [20, 50, 200, 1_000];

/// The calls of each timeout: 3,000 in total.
const CALLS: u64 = 750;

/// The calls of each timeout where each takes the server 150 ms.
const FEW_CALLS: u64 = 75;

/// Time for a server to read everything that was written to it.
const READ_LIMIT: Duration = Duration::from_mins(1);

const CANCELED: i32 = 1;
const DEADLINE_EXCEEDED: i32 = 4;
const EITHER: i32 = 17;

/// Time after which a daemon knows whether threads waited for a CPU: it knows little about the second before its
/// start.
const SETTLING: Duration = Duration::from_millis(1_500);

/// The load besides the calls.
enum Beside {
    Nothing,
    /// Two busy loops for each CPU.
    Loops,
    /// Handlers that block their threads first, with this flag of the server.
    Handlers(&'static str),
}

pub(crate) fn told(peers: &Peers, results: &mut Results) -> Result<()> {
    for (named, beside) in [
        ("nothing else runs", Beside::Nothing),
        ("busy loops", Beside::Loops),
        ("handlers compute 150 ms", Beside::Handlers("--computes-ms=150")),
        ("handlers sleep 150 ms", Beside::Handlers("--sleeps-ms=150")),
    ] {
        for name in ["python-asyncio", "grpc-go", "grpc-js", "tonic"] {
            told_beside(&peers.stack(name)?, named, &beside, results)?;
        }
    }
    Ok(())
}

/// The ends that are compared: of a daemon that watches both, and of one that watches the server alone, as if the
/// client were on another node.
const ENDS: [&str; 3] = ["client", "server", "server alone"];

/// The numbers of calls that are reported at one end.
#[derive(Clone, Copy, Default)]
struct Told {
    calls: f64,
    wrong: f64,
    undecided: f64,
    /// Calls that the server ended itself, with the status DEADLINE_EXCEEDED.
    answered: f64,
}

fn told_beside(stack: &Stack, named: &str, beside: &Beside, results: &mut Results) -> Result<()> {
    let args = if let Beside::Handlers(flag) = beside { slice::from_ref(flag) } else { &[] };
    // If handlers block, calls wait for each other, long after their clients have given up.
    let calls = if args.is_empty() { CALLS } else { FEW_CALLS };
    let _loops = match beside {
        Beside::Loops => Loops::start()?,
        _ => Loops(Vec::new()),
    };
    for kind in ["expired", "canceled"] {
        let mut wrong = [0.0; ENDS.len()];
        let mut answered = [0.0; ENDS.len()];
        let mut undecided = Vec::new();
        for timeout_ms in TIMEOUTS_MS {
            let server = Server::start_with(stack, Listen::V4, args)?;
            let told = of_one(stack, &server, kind, timeout_ms, calls)?;
            for ((wrong, answered), told) in wrong.iter_mut().zip(&mut answered).zip(told) {
                *wrong += told.wrong;
                *answered += told.answered;
            }
            undecided.push((timeout_ms, told));
        }
        for (end, wrong) in ENDS.into_iter().zip(wrong) {
            let all = calls * TIMEOUTS_MS.len() as u64;
            let name = format!("{} {end}, {named}: wrong of {all} {kind}", stack.name);
            results.add(name, "calls", Some(Bound::AtMost(0.0)), vec![wrong]);
        }
        for (end, answered) in ENDS.into_iter().zip(answered).filter(|_| kind == "canceled") {
            let name = format!(
                "{} {end}, {named}: expired by the server's own status, of those canceled",
                stack.name
            );
            results.add(name, "calls", None, vec![answered]);
        }
        for (timeout_ms, told) in undecided {
            let is_bound = timeout_ms >= 200 && matches!(beside, Beside::Nothing);
            for (end, told) in ENDS.into_iter().zip(told) {
                let name =
                    format!("{} {end}, {named}: undecided, {kind} of {timeout_ms} ms", stack.name);
                let bound = is_bound.then_some(Bound::AtMost(5.0));
                results.add(name, "%", bound, vec![100.0 * told.undecided / told.calls]);
            }
        }
    }
    Ok(())
}

/// Runs one plan, and compares each end with the client's record.
fn of_one(
    stack: &Stack,
    server: &Server,
    kind: &str,
    timeout_ms: u64,
    calls: u64,
) -> Result<[Told; ENDS.len()]> {
    let (port, pid) = (server.port()?, server.identity().pid.to_string());
    let lines = TempDir::with_prefix("failures-").context("create a folder")?;
    let files = ["both", "alone"].map(|name| lines.path().join(name));
    let [file, file_of_server] = &files;
    let daemon = daemon_with_lines(file, &["--port", &port])?;
    let of_server = daemon_with_lines(file_of_server, &["--pid", &pid])?;
    sleep(SETTLING);
    let cancel_within_ms = (kind == "canceled").then_some(timeout_ms);
    let step = json!({
        "rpc": "ServerStream", "count": calls, "concurrency": 8, "sleep_ms": 60_000,
        "deadline_ms": timeout_ms, "cancel_within_ms": cancel_within_ms,
    });
    let plan = [vec![step]];
    let (client, truth) = Client::start(stack, server, &plan)?.finish()?;
    let begun = |metrics: &Metrics| metrics.sum("grpc_server_started_total", &[("pid", &pid)]);
    let end = Instant::now() + READ_LIMIT;
    while begun(&daemon.scrape()?) < calls as f64 && Instant::now() < end {
        sleep(SETTLING);
    }
    sleep(SETTLING);
    let [both, alone] = [daemon.scrape()?, of_server.scrape()?];
    daemon.stop()?;
    of_server.stop()?;
    let server = server.identity();
    let [answered, answered_alone] =
        [answered_by_server(file)?, answered_by_server(file_of_server)?];
    let ends = [
        ("client", &both, &answered, &client),
        ("server", &both, &answered, server),
        ("server", &alone, &answered_alone, server),
    ];
    Ok(ends.map(|(role, metrics, answered, who)| {
        let answered =
            answered.iter().filter(|line| line["role"] == role && line["pid"] == who.pid);
        Told { answered: answered.count() as f64, ..compared(metrics, role, who, &truth) }
    }))
}

/// A daemon that writes the lines of failed calls to a file.
fn daemon_with_lines(file: &Path, args: &[&str]) -> Result<Daemon> {
    let to_file = format!("exec >{}", file.display());
    Daemon::start_after(&[&to_file], &[args, &["--log-errors", "--log-errors-rate=10000"]].concat())
}

/// The lines of calls that the server ended itself because they had expired. Only a status has a message, a reset has none.
fn answered_by_server(lines: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(lines).with_context(|| format!("read {}", lines.display()))?;
    let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
    let mut lines = lines.context("read the lines of failed calls")?;
    lines.retain(|line| {
        let has_message = line["message"].as_str().is_some_and(|text| !text.is_empty());
        has_message && line["code"] == code_name(DEADLINE_EXCEEDED)
    });
    Ok(lines)
}

fn compared(metrics: &Metrics, role: &str, who: &Identity, truth: &Truth) -> Told {
    let name = format!("grpc_{role}_handled_total");
    let told =
        |code| metrics.sum(&name, &[("pid", &who.pid.to_string()), ("grpc_code", code_name(code))]);
    let known = |code| -> u64 {
        truth.calls.iter().filter(|row| row.code == code).map(|row| row.sums.calls).sum()
    };
    // If a code has more calls than the client made, the others have a wrong code.
    let too_many = |code| (told(code) - known(code) as f64).max(0.0);
    Told {
        calls: truth.calls.iter().map(|row| row.sums.calls).sum::<u64>() as f64,
        wrong: too_many(CANCELED) + too_many(DEADLINE_EXCEEDED),
        undecided: told(EITHER),
        answered: 0.0,
    }
}

/// Busy loops, which end when this is dropped.
struct Loops(Vec<Child>);

impl Loops {
    fn start() -> Result<Self> {
        let mut loops = Self(Vec::new());
        for _ in 0..2 * available_parallelism()?.get() {
            let child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn();
            loops.0.push(child.context("start a shell")?);
        }
        Ok(loops)
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may be gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
