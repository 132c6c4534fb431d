//! A daemon that watches, and what that costs.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use support::daemon::Daemon;
use support::footprint::threads;
use support::openmetrics::Metrics;

/// The daemon looks at the ring ten times a second, so what happened has been read after this.
const SETTLE: Duration = Duration::from_millis(250);

/// For all that was read to be in a scrape.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// A daemon that watches.
pub(crate) struct Watch {
    pub(crate) daemon: Daemon,
}

/// What was spent, or counted, up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reading {
    /// Processor time of the daemon's threads, in nanoseconds.
    pub(crate) cpu_ns: f64,
    /// Run time of the kernel programs, if the kernel measures it ([`Timed`]), in nanoseconds.
    pub(crate) programs_ns: f64,
    pub(crate) program_runs: f64,
    pub(crate) records: f64,
    pub(crate) ring_bytes: f64,
    /// Ends of calls, of servers and clients.
    pub(crate) ends: f64,
    /// Of those, with method and code.
    pub(crate) complete: f64,
    pub(crate) messages: f64,
}

impl Watch {
    pub(crate) fn start(args: &[&str]) -> Result<Self> {
        let daemon = Daemon::start(args)?;
        // Its own start is no cost of what comes.
        sleep(SETTLE);
        Ok(Self { daemon })
    }

    /// Where it is. Reading costs the daemon a scrape: it is no part of what lies between two readings.
    pub(crate) fn begin(&self) -> Result<Reading> {
        let metrics = self.daemon.scrape()?;
        sleep(SETTLE);
        Ok(Reading::of(&metrics, cpu_ns(self.daemon.pid())?))
    }

    /// What was spent and counted since.
    pub(crate) fn since(&self, begin: Reading) -> Result<Reading> {
        sleep(SETTLE);
        let cpu_ns = cpu_ns(self.daemon.pid())?;
        Ok(Reading::of(&self.daemon.scrape()?, cpu_ns).less(begin))
    }

    /// Likewise, once so many calls have ended at all watched ends, or long enough has been waited for
    /// that.
    pub(crate) fn since_ends(&self, begin: Reading, ends: f64) -> Result<Reading> {
        let waited = Instant::now();
        loop {
            let reading = self.since(begin)?;
            if reading.ends >= ends || waited.elapsed() > SETTLE_LIMIT {
                return Ok(reading);
            }
        }
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.daemon.stop()
    }
}

impl Reading {
    fn of(metrics: &Metrics, cpu_ns: f64) -> Self {
        let sum = |name: &str| metrics.sum(name, &[]);
        let both = |name: &str| {
            sum(&format!("grpc_server_{name}_total")) + sum(&format!("grpc_client_{name}_total"))
        };
        Self {
            cpu_ns,
            programs_ns: sum("observer_program_run_seconds_total") * 1e9,
            program_runs: sum("observer_program_runs_total"),
            records: sum("observer_records_total"),
            ring_bytes: sum("observer_ring_bytes_total"),
            ends: both("handled"),
            complete: metrics.sum("observer_calls_total", &[("seen", "complete")]),
            messages: both("msg_received") + both("msg_sent"),
        }
    }

    fn less(self, begin: Self) -> Self {
        let Self {
            cpu_ns,
            programs_ns,
            program_runs,
            records,
            ring_bytes,
            ends,
            complete,
            messages,
        } = self;
        Self {
            cpu_ns: cpu_ns - begin.cpu_ns,
            programs_ns: programs_ns - begin.programs_ns,
            program_runs: program_runs - begin.program_runs,
            records: records - begin.records,
            ring_bytes: ring_bytes - begin.ring_bytes,
            ends: ends - begin.ends,
            complete: complete - begin.complete,
            messages: messages - begin.messages,
        }
    }
}

/// Processor time of all threads that a process has (proc(5), `schedstat`), in nanoseconds.
pub(crate) fn cpu_ns(pid: u32) -> Result<f64> {
    let mut sum = 0.0;
    for thread in threads(pid)? {
        let path = format!("/proc/{pid}/task/{thread}/schedstat");
        // A thread may have ended just now.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let first = text.split(' ').next().and_then(|word| word.parse::<f64>().ok());
        sum += first.with_context(|| format!("no time in {path}"))?;
    }
    Ok(sum)
}

/// The kernel measures how long its programs run, until this is dropped. That itself takes some
/// time of each run.
pub(crate) struct Timed {
    before: String,
}

const BPF_STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl Timed {
    pub(crate) fn begin() -> Result<Self> {
        let before = fs::read_to_string(BPF_STATS).context("read kernel.bpf_stats_enabled")?;
        fs::write(BPF_STATS, "1").context("set kernel.bpf_stats_enabled")?;
        Ok(Self { before })
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        // There is nothing else to be done about it.
        let _ = fs::write(BPF_STATS, self.before.trim());
    }
}
