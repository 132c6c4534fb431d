//! The threads that read the rings, each the single writer of its statistics.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use mio::Waker;
use observer_common::counter::Protocol;
use observer_core::{
    process::{Comm, Expired, Lookup},
    source::Source,
};
use tracing::{error, info, warn};

use crate::{
    clock::{Clock, monotonic_ns},
    config::Config,
    failures::{self, Failures},
    kernel::{Dropped, Probes, Ring},
    memory::{self, Budget},
    metrics::{
        Daemon, Descriptors, DroppedRecords, ExpositionConfig, Gap, Limits, OwnProcess, Program,
        Snapshot, Statistics,
    },
    pipeline::{Pipeline, snapshot},
    pressure::Pressure,
    process::{self, ProcFs},
};

/// How long records may wait in the ring while it does not fill.
const INTERVAL: Duration = Duration::from_millis(100);

/// How often the kernel programs look for connections that ended without a tracepoint, and everything else
/// that only time brings about.
const TICK: Duration = Duration::from_secs(1);

/// Looking through connections takes at most one of so many parts of a processor's time: where there are tens
/// of thousands it is done less often.
const SWEEP_PART: u32 = 200;

/// Ends that only show so are told this late at most.
const SWEEP_LIMIT: Duration = Duration::from_secs(10);

/// So many processes are named whose records found no room.
const MOST_DROPPED: usize = 10;

/// Records between looks at the requests.
const BATCH: usize = 4096;

/// A snapshot waits so long for who its processes are.
const LOOKUP_PATIENCE: Duration = Duration::from_millis(500);

/// A scrape waits this long for its snapshot.
const PATIENCE: Duration = Duration::from_secs(10);

/// The running threads. Dropped, they end when they have read what is in their rings.
#[derive(Debug)]
pub struct Workers {
    /// To the first worker, which asks the others.
    requests: Requests,
    threads: Vec<JoinHandle<()>>,
    /// How often each has gone round.
    turns: Vec<Arc<AtomicU64>>,
    descriptors: Mutex<Arc<Descriptors>>,
    /// How often a process was told of before it was known who it is.
    lookups_late: AtomicU64,
}

/// What is to be read of the machine before the right to do so is given up.
#[derive(Debug)]
pub struct Surroundings {
    source: ProcFs,
    budget: Budget,
}

impl Surroundings {
    /// Reads it.
    pub fn read() -> Self {
        Self { source: ProcFs::of_this_node(), budget: Budget::of_this_process() }
    }
}

/// Of one worker.
#[derive(Debug)]
struct Requests {
    sender: mpsc::Sender<Request>,
    waker: Arc<Waker>,
}

impl Requests {
    fn send(&self, request: Request) -> Result<()> {
        self.sender.send(request).map_err(|_| anyhow!("a worker has ended"))?;
        self.waker.wake().context("cannot wake a worker")
    }
}

#[derive(Clone, Debug)]
enum Request {
    /// With the worker's number.
    Snapshot(mpsc::SyncSender<(usize, Snapshot)>),
    /// Detach, and say when that is done and all records are read.
    Detach(mpsc::SyncSender<()>),
    /// A tick of the first worker.
    Follow { now_ns: u64, expired: Arc<[Expired]> },
}

impl Workers {
    /// Starts a thread for each ring.
    pub fn start(
        config: &Config,
        descriptors: Descriptors,
        surroundings: Surroundings,
        probes: Probes,
        rings: Vec<Ring>,
    ) -> Result<Self> {
        let Surroundings { source, budget } = surroundings;
        let statistics = Statistics::new(
            config.exposition.schemas.recording(config.buckets.clone(), config.native_histograms),
            Limits { max_methods: config.max_methods, max_series: config.max_series },
        );
        let failures = match &config.log_errors {
            Some(config) => Some(Failures::new(config, failures::to_stdout()?)),
            None => None,
        };
        let exposition = Arc::new(config.exposition.clone());
        let mut pipeline =
            Pipeline::new(statistics, failures, config.series_ttl).with_labels(&exposition.labels);
        look_processes_up(pipeline.lookup(source))?;
        let pending = Arc::new(AtomicUsize::new(0));
        let mut requests = Vec::new();
        let mut workers = Vec::new();
        let pipelines = pipeline.split(rings.len());
        for (number, (ring, pipeline)) in rings.into_iter().zip(pipelines).enumerate() {
            let (sender, incoming) = mpsc::channel();
            requests.push(Requests { sender, waker: ring.waker() });
            let pending = Arc::clone(&pending);
            workers.push(State {
                number,
                source: ring,
                pipeline,
                exposition: Arc::clone(&exposition),
                pressure: Pressure::open(),
                incoming,
                lead: None,
                pending,
                turns: Arc::default(),
            });
        }
        let others = requests.split_off(1);
        let requests = requests.pop().context("there is no ring")?;
        let mut says = Vec::new();
        if !config.filter.selects_all() {
            says.push(Protocol::Tls);
        }
        // A process may have other connections, and usually has.
        if !config.filter.ports.is_empty() {
            says.extend([Protocol::Http1, Protocol::Other]);
        }
        let lead = Lead {
            others,
            ends_unreported: 0,
            says,
            sweep_at: Instant::now(),
            backend: probes.backend().to_string(),
            started_ns: monotonic_ns(),
            probes: Some(probes),
            last: Daemon::default(),
            budget,
            is_short: false,
        };
        if let Some(first) = workers.first_mut() {
            first.lead = Some(lead);
        }
        let turns = workers.iter().map(|worker| Arc::clone(&worker.turns)).collect();
        let threads: Result<_> = workers.into_iter().map(State::start).collect();
        let descriptors = Mutex::new(Arc::new(descriptors));
        let lookups_late = AtomicU64::new(0);
        Ok(Self { requests, threads: threads?, turns, descriptors, lookups_late })
    }

    /// Has methods told by other types than at the start.
    pub fn describe(&self, descriptors: Descriptors) {
        *self.descriptors.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(descriptors);
    }

    /// Everything that happened before this call, as figures. Blocks until the workers have read it.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let mut parts = self.request(Request::Snapshot)?;
        // The first one's has what is of the whole daemon.
        parts.sort_unstable_by_key(|(number, _)| *number);
        let mut parts = parts.into_iter().map(|(_, part)| part);
        let mut snapshot = parts.next().context("there is no worker")?;
        for part in parts {
            snapshot.merge(part)?;
        }
        let late = process::settle(&snapshot.processes, LOOKUP_PATIENCE) as u64;
        let late = late + self.lookups_late.fetch_add(late, Ordering::Relaxed);
        Arc::make_mut(&mut snapshot.daemon).lookups.late = late;
        let descriptors = self.descriptors.lock().unwrap_or_else(PoisonError::into_inner);
        snapshot.descriptors = Arc::clone(&descriptors);
        Ok(snapshot)
    }

    /// Detaches the kernel programs and reads what they left. Snapshots remain possible.
    pub fn detach(&self) -> Result<()> {
        self.request(Request::Detach).map(drop)
    }

    /// What each worker answers.
    fn request<T>(&self, request: impl FnOnce(mpsc::SyncSender<T>) -> Request) -> Result<Vec<T>> {
        let (reply, answers) = mpsc::sync_channel(self.threads.len());
        self.requests.send(request(reply))?;
        let deadline = Instant::now() + PATIENCE;
        let answer = |_| {
            let left = deadline.saturating_duration_since(Instant::now());
            answers.recv_timeout(left).context("a worker does not answer")
        };
        self.threads.iter().map(answer).collect()
    }

    /// How often each thread has gone round, which it does several times a second; `None` if one has ended.
    pub fn turns(&self) -> Option<Vec<u64>> {
        let all_run = !self.threads.iter().any(JoinHandle::is_finished);
        all_run.then(|| self.turns.iter().map(|turns| turns.load(Ordering::Relaxed)).collect())
    }
}

/// Starts the thread that looks processes up, for as long as there are workers.
fn look_processes_up(lookup: Lookup<ProcFs>) -> Result<()> {
    let thread = thread::Builder::new().name("processes".into());
    let run = move || process::run(&lookup);
    thread.spawn(run).map(drop).context("cannot start the thread that reads /proc")
}

/// What a thread owns.
struct State<S> {
    number: usize,
    source: S,
    pipeline: Pipeline,
    exposition: Arc<ExpositionConfig>,
    pressure: Pressure,
    incoming: mpsc::Receiver<Request>,
    /// What the first worker asked of the others, and they have not done yet.
    pending: Arc<AtomicUsize>,
    turns: Arc<AtomicU64>,
    /// Of the first worker.
    lead: Option<Lead>,
}

/// What the first worker has beside. It alone has to do with the kernel programs, and decides which
/// processes have expired. The others hear from nobody else, so that at each snapshot all have dropped
/// the same processes.
struct Lead {
    others: Vec<Requests>,
    backend: String,
    /// When the kernel programs had been attached, by the kernel's monotonic clock.
    started_ns: u64,
    /// `None` once detached.
    probes: Option<Probes>,
    /// The kernel programs' figures when they were detached.
    last: Daemon,
    sweep_at: Instant,
    /// How often the end of a process, or its new name, may not have been told, when that was last asked.
    ends_unreported: u64,
    /// What is still to be told of, once, where it is found instead of HTTP/2.
    says: Vec<Protocol>,
    budget: Budget,
    /// There was not the memory for anything new, when that was last looked at.
    is_short: bool,
}

impl<S: Source + Send + 'static> State<S> {
    fn start(self) -> Result<JoinHandle<()>> {
        thread::Builder::new()
            .name(format!("worker-{}", self.number))
            .spawn(move || self.run())
            .context("cannot start a worker thread")
    }

    fn run(mut self) {
        let mut ticked = Instant::now();
        let mut looked = ticked;
        loop {
            self.turns.fetch_add(1, Ordering::Relaxed);
            self.drain();
            loop {
                match self.incoming.try_recv() {
                    Ok(request) => self.answer(request),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
            if looked.elapsed() >= INTERVAL {
                looked = Instant::now();
                self.look_at_memory();
                #[cfg(feature = "kernel-log")]
                self.print_log();
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick();
            }
            if let Err(error) = self.source.wait(INTERVAL) {
                error!("the worker stops, because it cannot wait for records: {error}");
                return;
            }
        }
    }

    /// Reads what is in the ring, but no more than it can hold at once: a flood of records must
    /// not keep a scrape waiting.
    fn drain(&mut self) {
        const ROUNDS: usize = 64;
        let Self { source, pipeline, pressure, .. } = self;
        pipeline.set_stall_free_since(pressure.stall_free_since(monotonic_ns()));
        for _ in 0..ROUNDS {
            if pipeline.read(source, BATCH) < BATCH {
                break;
            }
        }
        pipeline.settle(monotonic_ns());
    }

    fn answer(&mut self, request: Request) {
        if let Some(lead) = &mut self.lead {
            if let Request::Detach(_) = request {
                lead.detach();
            }
            lead.ask_others(&request, &self.pending);
        }
        self.drain();
        // Whoever asked may have given up waiting: then nobody takes the answer.
        match request {
            Request::Snapshot(reply) => {
                let daemon = self.lead.as_ref().map(Lead::figures).unwrap_or_default();
                let snapshot = snapshot(&self.pipeline, daemon, Arc::clone(&self.exposition));
                let _ = reply.send((self.number, snapshot));
            }
            Request::Detach(reply) => {
                let _ = reply.send(());
            }
            Request::Follow { now_ns, expired } => self.pipeline.follow(now_ns, &expired),
        }
        if self.lead.is_none() {
            self.pending.fetch_sub(1, Ordering::Release);
        }
    }

    /// Of the first worker, for all.
    fn look_at_memory(&mut self) {
        let Some(lead) = &mut self.lead else { return };
        if lead.budget.is_short() != lead.is_short {
            lead.is_short = !lead.is_short;
            self.pipeline.stop(lead.is_short);
            lead.tell_shortage();
        }
    }

    /// Of the first worker.
    #[cfg(feature = "kernel-log")]
    fn print_log(&mut self) {
        if let Some(probes) = self.lead.as_mut().and_then(|lead| lead.probes.as_mut()) {
            probes.print_log();
        }
    }

    /// Of the first worker.
    fn tick(&mut self) {
        let Some(lead) = &mut self.lead else { return };
        lead.sweep();
        lead.tell_protocols();
        if lead.is_short {
            // So that what has become free counts.
            memory::give_back();
        }
        let now_ns = monotonic_ns();
        let untold = lead.probes.as_ref().and_then(|probes| probes.ends_untold().ok());
        if let Some(untold) = untold.filter(|untold| *untold != lead.ends_unreported) {
            lead.ends_unreported = untold;
            self.pipeline.find_unreported();
        }

        // A process's name is forgotten as it expires: nobody may be about to tell its series.
        let expired = if self.pending.load(Ordering::Acquire) == 0 {
            self.pipeline.tick(now_ns)
        } else {
            self.pipeline.follow(now_ns, &[]);
            Arc::default()
        };
        lead.ask_others(&Request::Follow { now_ns, expired }, &self.pending);
    }
}

impl Lead {
    fn ask_others(&self, request: &Request, pending: &AtomicUsize) {
        for other in &self.others {
            pending.fetch_add(1, Ordering::Relaxed);
            // One that has ended is noticed by who waits for its answer.
            let _ = other.send(request.clone());
        }
    }

    /// Looks for connections that ended without a tracepoint.
    fn sweep(&mut self) {
        let Some(probes) = &self.probes else { return };
        let begin = Instant::now();
        if begin < self.sweep_at {
            return;
        }
        if let Err(error) = probes.sweep() {
            warn!("cannot sweep for ended connections: {error:#}");
        }
        let pause = begin.elapsed().saturating_mul(SWEEP_PART).min(SWEEP_LIMIT);
        self.sweep_at = begin + pause;
    }

    fn detach(&mut self) {
        self.last = self.figures();
        self.probes = None;
    }

    fn tell_shortage(&self) {
        let limit = self.budget.limit().unwrap_or_default() >> 20;
        if self.is_short {
            warn!(
                "memory is near the limit of {limit} MiB: the daemon takes no new methods, \
                 processes and connections, but counts them (observer_series_overflow_total, \
                 observer_processes_overflow_total, observer_gaps_total{{cause=\"memory_limit\"}})"
            );
        } else {
            info!("memory is no longer near the limit of {limit} MiB: new ones are taken again");
        }
    }

    /// Whoever selects a port or a process expects its calls, and should read why there are none.
    fn tell_protocols(&mut self) {
        let Some(probes) = self.probes.as_ref().filter(|_| !self.says.is_empty()) else { return };
        let protocols = probes.protocols().unwrap_or_default();
        self.says.retain(|says| {
            let is_seen = protocols.iter().any(|(protocol, seen)| protocol == says && *seen > 0);
            if is_seen {
                let what = match says {
                    Protocol::Tls => "TLS, which observer does not decode",
                    Protocol::Http1 => "HTTP/1, which is measured only after an upgrade to HTTP/2",
                    Protocol::Http2 | Protocol::Other => "a protocol other than HTTP/2",
                };
                info!(
                    "a selected connection carries {what}: counted in \
                     observer_connections_seen_total{{protocol=\"{}\"}}",
                    says.label()
                );
            }
            !is_seen
        });
    }

    /// What the kernel programs and the system say of the daemon.
    fn figures(&self) -> Daemon {
        let mut daemon = match &self.probes {
            Some(probes) => of_kernel(probes).unwrap_or_else(|error| {
                warn!("cannot read the statistics of the BPF programs: {error:#}");
                self.last.clone()
            }),
            None => self.last.clone(),
        };
        daemon.backend.clone_from(&self.backend);
        daemon.started_ns = Some(self.started_ns);
        daemon.clock = Clock::read();
        daemon.own = OwnProcess::read();
        daemon.memory_limit_bytes = self.budget.limit();
        daemon.memory_is_short = self.is_short;
        daemon
    }
}

/// What the kernel programs count.
fn of_kernel(probes: &Probes) -> Result<Daemon> {
    let mut daemon = Daemon::default();
    for (counter, count) in probes.counts()? {
        daemon.gaps.push(Gap { cause: counter.label(), events: count.events, bytes: count.bytes });
    }
    daemon.dropped_records = probes
        .dropped(MOST_DROPPED)?
        .into_iter()
        .map(|Dropped { pid, comm, records }| {
            let comm = Comm::new(comm);
            DroppedRecords { pid, comm, records }
        })
        .collect();
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
        .programs()?
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
