//! Whether a call expired or was canceled: what is told, and what the clients know.

use std::process::{Child, Command};
use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;
use support::daemon::Daemon;
use support::openmetrics::Metrics;
use support::peer::{Client, Identity, Listen, Server};
use support::stack::Stack;
use support::truth::{Truth, code_name};

use crate::Peers;
use crate::figures::{Bound, Results};

const TIMEOUTS_MS: [u64; 4] = [20, 50, 200, 1_000];

/// Of each timeout: together 3,000.
const CALLS: u64 = 750;

/// Likewise, where each takes the server 150 ms.
const FEW_CALLS: u64 = 75;

/// For a server to read all that was written to it.
const READ_LIMIT: Duration = Duration::from_mins(1);

const CANCELED: i32 = 1;
const DEADLINE_EXCEEDED: i32 = 4;
const EITHER: i32 = 17;

/// A daemon says little of the second before it began.
const SETTLING: Duration = Duration::from_millis(1_500);

/// What the machine does beside.
enum Beside {
    Nothing,
    /// Two loops for each processor that never wait.
    Loops,
    /// The server's handlers keep their threads for so long before they do anything: this flag says how.
    Handlers(&'static str),
}

pub(crate) fn told(peers: &Peers, results: &mut Results) -> Result<()> {
    for name in ["python-asyncio", "grpc-go", "grpc-js", "tonic"] {
        let stack = peers.stack(name)?;
        told_beside(&stack, "nothing else runs", &Beside::Nothing, results)?;
        told_beside(&stack, "busy loops", &Beside::Loops, results)?;
        for (named, flag) in [
            ("handlers compute 150 ms", "--computes-ms=150"),
            ("handlers sleep 150 ms", "--sleeps-ms=150"),
        ] {
            told_beside(&stack, named, &Beside::Handlers(flag), results)?;
        }
    }
    Ok(())
}

/// What is watched: both ends, or the server alone, whose client may as well be on another node.
const ENDS: [&str; 3] = ["client", "server", "server alone"];

/// Calls that one end tells.
#[derive(Clone, Copy, Default)]
struct Told {
    calls: f64,
    wrong: f64,
    undecided: f64,
}

fn told_beside(stack: &Stack, named: &str, beside: &Beside, results: &mut Results) -> Result<()> {
    let args = match beside {
        Beside::Handlers(flag) => vec![*flag],
        _ => Vec::new(),
    };
    // Where handlers block, calls wait for one another, long after their clients have gone.
    let calls = if matches!(beside, Beside::Handlers(_)) { FEW_CALLS } else { CALLS };
    let _loops = match beside {
        Beside::Loops => Loops::start()?,
        _ => Loops(Vec::new()),
    };
    for kind in ["expired", "canceled"] {
        let mut wrong = [0.0; ENDS.len()];
        let mut undecided = Vec::new();
        for timeout_ms in TIMEOUTS_MS {
            let server = Server::start_with(stack, Listen::V4, &args)?;
            let told = of_one(stack, &server, kind, timeout_ms, calls)?;
            for (wrong, told) in wrong.iter_mut().zip(told) {
                *wrong += told.wrong;
            }
            undecided.push((timeout_ms, told));
        }
        for (end, wrong) in ENDS.into_iter().zip(wrong) {
            let all = calls * TIMEOUTS_MS.len() as u64;
            let name = format!("{} {end}, {named}: wrong of {all} {kind}", stack.name);
            results.add(name, "calls", Some(Bound::AtMost(0.0)), vec![wrong]);
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

/// What client and server are told to have done, beside what the client knows.
fn of_one(
    stack: &Stack,
    server: &Server,
    kind: &str,
    timeout_ms: u64,
    calls: u64,
) -> Result<[Told; ENDS.len()]> {
    let (port, pid) = (server.port()?, server.identity().pid.to_string());
    let daemon = Daemon::start(&["--port", &port])?;
    let of_server = Daemon::start(&["--pid", &pid])?;
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
    let ends = [("client", &both, &client), ("server", &both, server), ("server", &alone, server)];
    Ok(ends.map(|(role, metrics, who)| compared(metrics, role, who, &truth)))
}

fn compared(metrics: &Metrics, role: &str, who: &Identity, truth: &Truth) -> Told {
    let name = format!("grpc_{role}_handled_total");
    let told =
        |code| metrics.sum(&name, &[("pid", &who.pid.to_string()), ("grpc_code", code_name(code))]);
    let known = |code| -> u64 {
        truth.calls.iter().filter(|row| row.code == code).map(|row| row.sums.calls).sum()
    };
    // More than there were of it: others must have been told as that.
    let too_many = |code| (told(code) - known(code) as f64).max(0.0);
    Told {
        calls: truth.calls.iter().map(|row| row.sums.calls).sum::<u64>() as f64,
        wrong: too_many(CANCELED) + too_many(DEADLINE_EXCEEDED),
        undecided: told(EITHER),
    }
}

/// Ended when they are dropped.
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
