//! A daemon that watches, and its cost.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use support::daemon::Daemon;
use support::footprint::threads;
use support::openmetrics::Metrics;

/// Time after which the daemon has read all records: it reads the ring ten times per second.
const SETTLE: Duration = Duration::from_millis(250);

/// Time for all calls to be in a scrape.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// A running daemon that is measured.
pub(crate) struct Watch {
    pub(crate) daemon: Daemon,
}

/// The cost and the counters up to a moment, or between two.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reading {
    /// The CPU time of the daemon's threads, in nanoseconds.
    pub(crate) cpu_ns: f64,
    /// The run time of the BPF programs, if the kernel measures it ([`Timed`]), in nanoseconds.
    pub(crate) programs_ns: f64,
    pub(crate) program_runs: f64,
    pub(crate) records: f64,
    pub(crate) ring_bytes: f64,
    /// The ended calls of servers and of clients.
    pub(crate) ends: f64,
    /// Those with method and code.
    pub(crate) complete: f64,
    pub(crate) messages: f64,
    /// The spans that a receiver of OTLP accepted.
    pub(crate) spans: f64,
}

impl Watch {
    pub(crate) fn start(args: &[&str]) -> Result<Self> {
        Ok(Self::of(Daemon::start(args)?))
    }

    /// Starts another build of the daemon.
    pub(crate) fn start_program(program: &Path) -> Result<Self> {
        Ok(Self::of(Daemon::start_program(program)?))
    }

    /// Starts a daemon from a shell that runs `commands` first.
    pub(crate) fn start_after(commands: &[&str], args: &[&str]) -> Result<Self> {
        Ok(Self::of(Daemon::start_after(commands, args)?))
    }

    fn of(daemon: Daemon) -> Self {
        // The cost of its start does not count.
        sleep(SETTLE);
        Self { daemon }
    }

    /// Takes a reading. Its scrape is not part of the cost between two readings.
    pub(crate) fn begin(&self) -> Result<Reading> {
        let metrics = self.daemon.scrape()?;
        sleep(SETTLE);
        Ok(Reading::of(&metrics, cpu_ns(self.daemon.pid())?))
    }

    /// The cost and the counters since `begin`.
    pub(crate) fn since(&self, begin: Reading) -> Result<Reading> {
        sleep(SETTLE);
        let cpu_ns = cpu_ns(self.daemon.pid())?;
        Ok(Reading::of(&self.daemon.scrape()?, cpu_ns).less(begin))
    }

    /// Like [`Self::since`], once this many calls have ended at all watched ends, or after 20 s.
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
            spans: metrics.sum("observer_otlp_spans_total", &[("outcome", "exported")]),
        }
    }

    fn less(self, begin: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns - begin.cpu_ns,
            programs_ns: self.programs_ns - begin.programs_ns,
            program_runs: self.program_runs - begin.program_runs,
            records: self.records - begin.records,
            ring_bytes: self.ring_bytes - begin.ring_bytes,
            ends: self.ends - begin.ends,
            complete: self.complete - begin.complete,
            messages: self.messages - begin.messages,
            spans: self.spans - begin.spans,
        }
    }
}

/// The CPU time of a process's threads (proc(5), `schedstat`), in nanoseconds.
pub(crate) fn cpu_ns(pid: u32) -> Result<f64> {
    let mut sum = 0.0;
    for thread in threads(pid)? {
        let path = format!("/proc/{pid}/task/{thread}/schedstat");
        // A thread may just have ended.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let first = text.split(' ').next().and_then(|word| word.parse::<f64>().ok());
        sum += first.with_context(|| format!("no time in {path}"))?;
    }
    Ok(sum)
}

/// Has the kernel measure the run time of BPF programs until this is dropped, which makes each invocation a little
/// slower.
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
        // Nothing can be done about a failure.
        let _ = fs::write(BPF_STATS, self.before.trim());
    }
}
