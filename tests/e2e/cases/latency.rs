//! Handling times by the handlers' own clocks and by the daemon.

use std::collections::BTreeSet;
use std::iter::zip;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use support::daemon::Daemon;
use support::latency::{Measured, Sleep};
use support::openmetrics::Metrics;
use support::peer::{Client, Listen, Server};
use support::report::{self, CLOCKS};
use support::stack::Stack;

/// The sleeps of handlers, in order; the first calls warm the server up.
const SLEEPS: [Sleep; 4] = [
    Sleep { millis: 0, calls: 500 },
    Sleep { millis: 1, calls: 80 },
    Sleep { millis: 10, calls: 40 },
    Sleep { millis: 100, calls: 15 },
];

/// Fine buckets around each sleep: first bound and step in microseconds, and the number of buckets.
const BUCKETS: [(u32, u32, u32); 3] = [(900, 100, 21), (9_500, 250, 21), (99_000, 1000, 21)];

/// The most measurements, for machines that are busy for a while.
const ATTEMPTS: usize = 4;

/// The median of a server's handling time must be that of its handlers, within 1 ms or 5 %, for each sleep in at
/// least one measurement. On a busy machine the rest may differ as [`Measured::roughly_agrees`] allows; then the case
/// is reported as not confirmed.
pub(crate) fn handling_time_is_the_handlers(stack: &Stack) -> Result<()> {
    let mut left: BTreeSet<u32> = SLEEPS.iter().map(|sleep| sleep.millis).collect();
    left.remove(&0);
    let mut roughly = BTreeSet::new();
    for _ in 0..ATTEMPTS {
        let measured = measure(stack)?;
        let said: String = measured.iter().map(Measured::said).collect();
        report::say(&format!("handling time at a {} server, ms{said}", stack.name));
        for measured in measured {
            if measured.agrees() {
                left.remove(&measured.sleep.millis);
            } else if measured.roughly_agrees() {
                roughly.insert(measured.sleep.millis);
            }
        }
        if left.is_empty() {
            break;
        }
    }
    ensure!(left.is_subset(&roughly), "the medians differ in each of {ATTEMPTS} measurements");
    if left.is_empty() {
        report::confirmed(CLOCKS);
    } else {
        report::say(&format!("  not within 1 ms or 5 % in any measurement: sleeps of {left:?} ms"));
        report::unconfirmed(CLOCKS);
    }
    Ok(())
}

fn measure(stack: &Stack) -> Result<Vec<Measured>> {
    let server = Server::start(stack, Listen::V4)?;
    let bounds = BUCKETS.iter().flat_map(|&(first, step, count)| {
        (0..count).map(move |index| format!("{:.6}", f64::from(first + index * step) / 1e6))
    });
    let buckets = bounds.collect::<Vec<_>>().join(",");
    let daemon = Daemon::start(&["--port", &server.port()?, "--buckets", &buckets])?;
    let mut seen = Vec::new();
    let mut calls = 0;
    for sleep in SLEEPS {
        let plan = [vec![json!({"count": sleep.calls, "sleep_ms": sleep.millis})]];
        Client::start(stack, &server, &plan)?.finish()?;
        calls += sleep.calls;
        daemon.wait_until(|metrics| match distribution(metrics).last() {
            Some((_, count)) if *count == calls as f64 => Ok(()),
            last => bail!("not {calls} calls but {last:?}"),
        })?;
        seen.push(distribution(&daemon.scrape()?));
    }
    let truth = server.stop()?;
    let [row] = &*truth.calls else { bail!("not one method and code: {truth:?}") };
    ensure!(row.handling_us.len() == calls, "{} times of {calls} calls", row.handling_us.len());
    of_each_sleep(&row.handling_us, &seen)
}

fn of_each_sleep(peer: &[u64], seen: &[Vec<(f64, f64)>]) -> Result<Vec<Measured>> {
    let mut rest = peer;
    let mut measured = Vec::new();
    let mut before: &[(f64, f64)] = &[];
    for (sleep, seen) in zip(SLEEPS, seen) {
        let (peer, after) = rest.split_at_checked(sleep.calls).context("too few times")?;
        rest = after;
        let mut peer: Vec<f64> = peer.iter().map(|us| *us as f64 / 1e3).collect();
        peer.sort_by(f64::total_cmp);
        let earlier = before.iter().map(|(_, count)| *count).chain([0.0].into_iter().cycle());
        let daemon = zip(seen, earlier).map(|((bound, count), earlier)| (*bound, count - earlier));
        let daemon = daemon.collect();
        before = seen;
        if sleep.millis > 0 {
            measured.push(Measured { sleep, peer, daemon });
        }
    }
    Ok(measured)
}

/// Upper bounds in milliseconds, ascending, and the number of calls up to each.
fn distribution(metrics: &Metrics) -> Vec<(f64, f64)> {
    let series = metrics.series("grpc_server_handling_seconds_bucket");
    let mut buckets: Vec<(f64, f64)> = series
        .filter_map(|(labels, count)| {
            let bound = labels.get("le")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound * 1e3, count))
        })
        .collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    buckets
}
