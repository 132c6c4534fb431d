//! How long handlers take, by their own clocks and by the daemon's.

use std::collections::BTreeSet;
use std::iter::zip;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use crate::daemon::Daemon;
use crate::openmetrics::Metrics;
use crate::peer::{Client, Listen, Server};
use crate::report::{self, CLOCKS};
use crate::stack::Stack;

/// How long handlers sleep, and how often; the first warm the server up.
const SLEEPS: [Sleep; 4] = [
    Sleep { millis: 0, calls: 500 },
    Sleep { millis: 1, calls: 80 },
    Sleep { millis: 10, calls: 40 },
    Sleep { millis: 100, calls: 15 },
];

/// Buckets fine enough around each: (first bound, step, how many), in microseconds.
const BUCKETS: [(u32, u32, u32); 3] = [(900, 100, 21), (9_500, 250, 21), (99_000, 1000, 21)];

/// Machines that have something else to do are given another chance.
const ATTEMPTS: usize = 4;

#[derive(Clone, Copy)]
struct Sleep {
    millis: u32,
    calls: usize,
}

/// What both say of the calls of one sleep, in milliseconds.
struct Measured {
    sleep: Sleep,
    /// In ascending order.
    peer: Vec<f64>,
    /// Upper bounds, and how many calls took at most so long.
    daemon: Vec<(f64, f64)>,
}

/// The median of a server's handling time is that of its handlers', within 1 ms or 5 %, for each
/// sleep in one of the measurements at least. Where the machine leaves no time for that, the daemon
/// may tell of as much more as [`Measured::roughly_agrees`] allows, in all that is left; which is told
/// as not confirmed.
pub fn is_the_handlers(stack: &Stack) -> Result<()> {
    let mut left: BTreeSet<u32> = SLEEPS.iter().map(|sleep| sleep.millis).collect();
    // That one warms up.
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
            Some((_, count)) if count.total_cmp(&(calls as f64)).is_eq() => Ok(()),
            last => Err(format!("not {calls} calls but {last:?}")),
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

/// Upper bounds in milliseconds, ascending, and how many calls took at most so long.
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

impl Measured {
    fn agrees(&self) -> bool {
        let (peer, daemon) = (self.peer_quantile(0.5), self.daemon_quantile(0.5));
        (peer - daemon).abs() <= f64::max(1.0, peer * 0.05)
    }

    /// Handlers that wait for a processor at their two ends do not see it. A daemon that tells of
    /// half or double the time is far from this.
    fn roughly_agrees(&self) -> bool {
        let more = self.daemon_quantile(0.5) - self.peer_quantile(0.5);
        (-1.0..=4.0).contains(&more)
    }

    fn peer_quantile(&self, part: f64) -> f64 {
        let index = (part * (self.peer.len() - 1) as f64).round() as usize;
        self.peer.get(index).copied().unwrap_or(f64::NAN)
    }

    /// As Prometheus does it: as if a bucket's calls were spread evenly over it.
    fn daemon_quantile(&self, part: f64) -> f64 {
        let total = self.daemon.last().map_or(0.0, |(_, count)| *count);
        let rank = part * total;
        let (mut low, mut below) = (0.0, 0.0);
        for &(bound, count) in &self.daemon {
            if count >= rank && count > below {
                return low + (bound - low) * (rank - below) / (count - below);
            }
            (low, below) = (bound, count);
        }
        f64::NAN
    }

    fn said(&self) -> String {
        let of = |quantile: &dyn Fn(f64) -> f64| {
            [0.1, 0.5, 0.9].map(|part| format!("{:8.2}", quantile(part))).concat()
        };
        format!(
            "\n  sleep {:3}: p10, p50, p90 by the handlers' clocks{}, by the daemon's{}",
            self.sleep.millis,
            of(&|part| self.peer_quantile(part)),
            of(&|part| self.daemon_quantile(part))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Measured, Sleep};

    fn measured(peer: f64, bound: f64) -> Measured {
        let daemon = vec![(bound - 0.5, 0.0), (bound + 0.5, 10.0), (f64::INFINITY, 10.0)];
        Measured { sleep: Sleep { millis: 1, calls: 10 }, peer: vec![peer; 10], daemon }
    }

    #[test]
    fn medians_are_compared() {
        for (peer, daemon, agree) in [
            (1.0, 1.9, true),
            (1.0, 2.1, false),
            (10.0, 11.1, false),
            (100.0, 104.9, true),
            (100.0, 94.0, false),
        ] {
            assert_eq!(measured(peer, daemon).agrees(), agree, "{peer} {daemon}");
        }
    }

    #[test]
    fn what_a_busy_machine_adds_is_no_factor_of_two() {
        for (peer, daemon, agree) in
            [(1.0, 4.5, true), (10.0, 13.0, true), (10.0, 20.0, false), (100.0, 50.0, false)]
        {
            assert_eq!(measured(peer, daemon).roughly_agrees(), agree, "{peer} {daemon}");
        }
    }

    #[test]
    fn a_daemon_that_saw_nothing_does_not_agree() {
        let nothing = Measured { daemon: Vec::new(), ..measured(1.0, 1.0) };
        assert!(!nothing.agrees());
    }
}
