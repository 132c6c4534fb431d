//! Daemons that come and go, and the last one, which is left in peace.

use std::fmt::{self, Display};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use support::daemon::Daemon;
use support::footprint::{Footprint, children};

use crate::load::{Peers, Round};

/// The time of a daemon, on average: 200 in half an hour.
const EACH: Duration = Duration::from_secs(9);

/// Time until the libraries of all stacks are probed.
pub(crate) const ATTACHED: Duration = Duration::from_mins(1);

/// One of so many daemons ends by SIGKILL.
const KILLED: usize = 3;

/// One of so many ends while it attaches.
const EARLY: usize = 4;

/// The libraries that the stacks use.
const LIBRARIES: [&str; 4] = ["boringssl", "go", "openssl", "rustls"];

/// Bound on the memory of a daemon with its process that opens files, in bytes.
const MEMORY: u64 = 64 << 20;

/// Bound on the growth of the last daemon's memory while it is left in peace, in bytes.
const GROWTH: u64 = 16 << 20;

const MIB: u64 = 1 << 20;

/// The daemons that have come and gone.
#[derive(Default)]
pub(crate) struct Lives {
    all: usize,
    killed: usize,
    early: usize,
    /// The most memory of one, in bytes.
    memory: u64,
    /// The longest time until the libraries were probed.
    attached: Duration,
}

impl Display for Lives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { all, killed, early, memory, attached } = self;
        write!(
            f,
            "{all} daemons, {killed} ended by SIGKILL, {early} while they attached; libraries were probed within \
             {attached:.1?}; at most {} MiB",
            memory.div_ceil(MIB)
        )
    }
}

/// Starts one daemon after the other for this time, and until there were as many as belong to it, or until `over`.
pub(crate) fn come_and_go(peers: &Peers, time: Duration, over: &AtomicBool) -> Result<Lives> {
    let begin = Instant::now();
    let mut lives = Lives::default();
    let is_short = |all: usize| begin.elapsed() < time || EACH * (all as u32) < time;
    while is_short(lives.all) && !over.load(Ordering::Relaxed) {
        let number = lives.all;
        lives.live(peers).with_context(|| format!("daemon {number}"))?;
        peers.are_running()?;
        if lives.all.is_multiple_of(20) {
            println!("soak: {} min: {lives}", begin.elapsed().as_secs() / 60);
        }
    }
    Ok(lives)
}

impl Lives {
    fn live(&mut self, peers: &Peers) -> Result<()> {
        let begin = Instant::now();
        let daemon = Daemon::start(&["--tls", "auto", "--log-errors"])?;
        let is_early = self.all % EARLY == EARLY - 1;
        if is_early {
            // At another moment each time.
            sleep(Duration::from_millis(100 * (self.all as u64 % 23)));
        } else {
            await_libraries(&daemon)?;
            self.attached = self.attached.max(begin.elapsed());
            sleep(EACH.saturating_sub(begin.elapsed()));
            let metrics = daemon.scrape()?;
            peers.have_no_other_status(&metrics).with_context(|| {
                let own = metrics.nonzero("observer_");
                format!("{own}\n{}\n{}", daemon.log(), daemon.output())
            })?;
        }
        self.memory = self.memory.max(memory(&daemon)?);
        ensure!(self.memory < MEMORY, "the daemon takes {} MiB", self.memory / MIB);
        let is_killed = self.all.is_multiple_of(KILLED);
        if is_killed {
            daemon.kill()?;
        } else {
            daemon.stop()?;
        }
        self.all += 1;
        self.killed += usize::from(is_killed);
        self.early += usize::from(is_early);
        Ok(())
    }
}

/// Waits until a file of each library is probed.
fn await_libraries(daemon: &Daemon) -> Result<()> {
    let begin = Instant::now();
    loop {
        let metrics = daemon.scrape()?;
        let is_missing = |library: &&&str| {
            let labels = [("library", **library), ("result", "attached")];
            metrics.sum("observer_tls_files_total", &labels) == 0.0
        };
        let missing: Vec<_> = LIBRARIES.iter().filter(is_missing).collect();
        if missing.is_empty() {
            return Ok(());
        }
        ensure!(begin.elapsed() < ATTACHED, "not probed: {missing:?}: {}", daemon.log());
        sleep(Duration::from_millis(100));
    }
}

/// The memory of a daemon with its process that opens files, in bytes.
fn memory(daemon: &Daemon) -> Result<u64> {
    let mut sum = Footprint::of(daemon.pid())?.memory;
    for child in children(daemon.pid())? {
        // A process that parses a file may just have ended.
        sum += Footprint::of(child).map_or(0, |of| of.memory);
    }
    Ok(sum)
}

/// The last daemon.
pub(crate) struct Last(Daemon);

impl Last {
    pub(crate) fn start() -> Result<Self> {
        // The series of clients stay after their ends.
        Ok(Self(Daemon::start(&["--tls", "auto", "--series-ttl", "1h", "--buckets", "1"])?))
    }

    /// Leaves it in peace for this time, or until `over`. An error if its memory grows too much.
    pub(crate) fn watch(&self, time: Duration, over: &AtomicBool) -> Result<()> {
        let begin = Instant::now();
        let mut before = None;
        while begin.elapsed() < time && !over.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(500));
            let now = memory(&self.0)?;
            if begin.elapsed() > time / 4 {
                let before = *before.get_or_insert(now);
                ensure!(
                    now < before + GROWTH && now < MEMORY,
                    "the memory of the last daemon grows from {} to {} MiB",
                    before / MIB,
                    now / MIB
                );
            }
        }
        Ok(())
    }

    /// Waits until all numbers of these rounds are exact.
    pub(crate) fn settle(&self, peers: &Peers, rounds: &[Round]) -> Result<()> {
        self.0.settle(&peers.expected(rounds))
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.0.stop()
    }
}
