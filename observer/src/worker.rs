//! The thread that reads the ring: the single writer of the statistics.

use std::{
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use mio::Waker;
use observer_common::counter::Protocol;
use rustix::time::{ClockId, clock_gettime};
use tracing::{error, info, warn};

use crate::{
    config::Config,
    failures::{Failures, Output},
    kernel::{Probes, Ring},
    metrics::{Clock, Daemon, Descriptors, Gap, Limits, OwnProcess, Program, Snapshot, Statistics},
    pipeline::Pipeline,
    process::ProcFs,
};

/// How long records may wait in the ring while it does not fill.
const INTERVAL: Duration = Duration::from_millis(100);

/// How often the kernel programs look for connections that ended without a tracepoint.
const TICK: Duration = Duration::from_secs(1);

/// Records between looks at the requests.
const BATCH: usize = 4096;

/// A scrape waits this long for its snapshot.
const PATIENCE: Duration = Duration::from_secs(10);

/// The running thread. Dropped, it goes on; see [`Worker::stop`].
#[derive(Debug)]
pub struct Worker {
    requests: mpsc::Sender<Request>,
    waker: Arc<Waker>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Request {
    Snapshot(mpsc::SyncSender<Snapshot>),
    /// Detach, and say when that is done and all records are read.
    Detach(mpsc::SyncSender<()>),
}

impl Worker {
    /// Starts the thread.
    pub fn start(
        config: &Config,
        descriptors: Descriptors,
        probes: Probes,
        ring: Ring,
    ) -> Result<Self> {
        let statistics = Statistics::new(
            config.telling.schemas.recording(config.buckets.clone(), config.native_histograms),
            Limits { max_methods: config.max_methods, max_series: config.max_series },
        );
        let pipeline = Pipeline::new(statistics, ProcFs, config.series_ttl)
            .described_by(descriptors)
            .told_by(config.telling.clone());
        let pipeline = match &config.log_errors {
            Some(choice) => pipeline.telling_failures(Failures::new(choice, Output::stdout()?)),
            None => pipeline,
        };
        let (requests, incoming) = mpsc::channel();
        let waker = ring.waker();
        let state = State {
            ends_untold: 0,
            says_tls: !config.filter.selects_all(),
            backend: probes.backend().to_string(),
            started_ns: monotonic_ns(),
            probes: Some(probes),
            last: Daemon::default(),
            ring,
            pipeline,
            incoming,
        };
        let thread = thread::Builder::new()
            .name("worker".into())
            .spawn(move || state.run())
            .context("cannot start the worker thread")?;
        Ok(Self { requests, waker, thread })
    }

    /// Everything that happened before this call, as figures. Blocks until the worker has read it.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.request(Request::Snapshot)
    }

    /// Detaches the kernel programs and reads what they left. Snapshots remain possible.
    pub fn detach(&self) -> Result<()> {
        self.request(Request::Detach)
    }

    fn request<T>(&self, request: impl FnOnce(mpsc::SyncSender<T>) -> Request) -> Result<T> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.requests.send(request(reply)).map_err(|_| anyhow!("the worker has ended"))?;
        self.waker.wake().context("cannot wake the worker")?;
        answer.recv_timeout(PATIENCE).context("the worker does not answer")
    }

    /// Whether the thread runs.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }
}

/// What the thread owns.
struct State {
    backend: String,
    /// When the kernel programs had been attached, by the kernel's monotonic clock.
    started_ns: u64,
    /// `None` once detached.
    probes: Option<Probes>,
    /// The kernel programs' figures when they were detached.
    last: Daemon,
    ring: Ring,
    pipeline: Pipeline<ProcFs>,
    /// How often the end of a process may not have been told, when that was last asked.
    ends_untold: u64,
    /// TLS where cleartext was asked for is still to be told, once.
    says_tls: bool,
    incoming: mpsc::Receiver<Request>,
}

impl State {
    fn run(mut self) {
        let mut ticked = Instant::now();
        loop {
            self.drain();
            loop {
                match self.incoming.try_recv() {
                    Ok(request) => self.answer(request),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick();
            }
            if let Err(error) = self.ring.wait(INTERVAL) {
                error!("cannot wait for the ring buffer, so the daemon ends: {error}");
                return;
            }
        }
    }

    /// Reads what is in the ring, but no more than it can hold at once: a flood of records must
    /// not keep a scrape waiting.
    fn drain(&mut self) {
        const ROUNDS: usize = 64;
        let Self { ring, pipeline, .. } = self;
        for _ in 0..ROUNDS {
            if ring.drain(BATCH, |bytes| pipeline.handle(bytes)) < BATCH {
                return;
            }
        }
    }

    fn answer(&mut self, request: Request) {
        self.drain();
        // Whoever asked may have given up waiting: then nobody takes the answer.
        match request {
            Request::Snapshot(reply) => {
                let daemon = self.figures();
                let _ = reply.send(self.pipeline.snapshot(daemon));
            }
            Request::Detach(reply) => {
                self.last = self.figures();
                self.probes = None;
                self.drain();
                let _ = reply.send(());
            }
        }
    }

    fn tick(&mut self) {
        if let Some(probes) = &self.probes
            && let Err(error) = probes.sweep()
        {
            warn!("connections that ended unseen are not looked for: {error:#}");
        }
        self.tell_tls();
        let now_ns = monotonic_ns();
        let untold = self.probes.as_ref().and_then(|probes| probes.ends_untold().ok());
        if let Some(untold) = untold.filter(|untold| *untold != self.ends_untold) {
            self.ends_untold = untold;
            self.pipeline.find_exited(now_ns);
        }
        self.pipeline.tick(now_ns);
    }

    /// Whoever selects a port or a process expects its calls, and should read why there are none.
    fn tell_tls(&mut self) {
        let Some(probes) = self.probes.as_ref().filter(|_| self.says_tls) else { return };
        let protocols = probes.protocols().unwrap_or_default();
        if protocols.iter().any(|&(protocol, seen)| protocol == Protocol::Tls && seen > 0) {
            self.says_tls = false;
            info!(
                "a selected connection carries TLS, which cannot be read: counted in \
                 observer_connections_seen_total{{protocol=\"tls\"}}, not measured"
            );
        }
    }

    /// What the kernel programs and the system say of the daemon.
    fn figures(&self) -> Daemon {
        let mut daemon = match &self.probes {
            Some(probes) => of_kernel(probes).unwrap_or_else(|error| {
                warn!("the kernel programs' figures cannot be read: {error:#}");
                self.last.clone()
            }),
            None => self.last.clone(),
        };
        daemon.backend.clone_from(&self.backend);
        daemon.started_ns = Some(self.started_ns);
        daemon.clock = Clock::read();
        daemon.own = OwnProcess::read();
        daemon
    }
}

/// The time of the kernel's monotonic clock.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64) * 1_000_000_000 + now.tv_nsec as u64
}

/// What the kernel programs count.
fn of_kernel(probes: &Probes) -> Result<Daemon> {
    let mut daemon = Daemon::default();
    for (counter, count) in probes.counts()? {
        daemon.gaps.push(Gap { cause: counter.label(), events: count.events, bytes: count.bytes });
    }
    for (protocol, count) in probes.protocols()? {
        let seen = &mut daemon.connections_seen;
        match protocol {
            Protocol::Http2 => seen.http2 = count,
            Protocol::Http1 => seen.http1 = count,
            Protocol::Tls => seen.tls = count,
            Protocol::Other => seen.other = count,
        }
    }
    daemon.programs = probes
        .programs()
        .into_iter()
        .map(|program| Program {
            name: program.name,
            runs: program.runs,
            misses: program.misses,
            run_time_ns: program.run_time_ns,
        })
        .collect();
    Ok(daemon)
}
