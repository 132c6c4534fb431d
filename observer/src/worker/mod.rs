//! The threads that read the rings, each the single writer of its statistics.

mod lead;

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
use observer_core::{
    process::{Expired, Lookup},
    source::Source,
};
use tracing::error;

use self::lead::Lead;
use crate::{
    clock::monotonic_ns,
    config::Config,
    failures::{self, Failures},
    kernel::{Probes, Ring},
    memory::{self, Budget},
    metrics::{Descriptors, ExpositionConfig, Limits, Snapshot, Statistics},
    pipeline::{Pipeline, snapshot},
    pressure::Pressure,
    process::{self, ProcFs},
};

/// How long records may wait in the ring while it does not fill.
const INTERVAL: Duration = Duration::from_millis(100);

/// How often there is a sweep, and everything else that only time brings about.
const TICK: Duration = Duration::from_secs(1);

/// Records that are read between two looks at the requests.
const BATCH: usize = 4096;

/// How long a snapshot waits until its processes are looked up.
const LOOKUP_PATIENCE: Duration = Duration::from_millis(500);

/// How long a scrape waits for its snapshot.
const PATIENCE: Duration = Duration::from_secs(10);

/// The running threads. When this is dropped, they end after they have read their rings.
#[derive(Debug)]
pub struct Workers {
    /// To the first worker, which asks the others.
    requests: Requests,
    threads: Vec<JoinHandle<()>>,
    /// How many turns each thread has made.
    turns: Vec<Arc<AtomicU64>>,
    descriptors: Mutex<Arc<Descriptors>>,
    /// How often a process was published before it was looked up.
    lookups_late: AtomicU64,
}

/// What has to be read of the machine before privileges are dropped.
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

/// The requests to one worker.
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
        let lead = Lead::new(config, probes, others, budget);
        if let Some(first) = workers.first_mut() {
            first.lead = Some(lead);
        }
        let turns = workers.iter().map(|worker| Arc::clone(&worker.turns)).collect();
        let threads: Result<_> = workers.into_iter().map(State::start).collect();
        let descriptors = Mutex::new(Arc::new(descriptors));
        let lookups_late = AtomicU64::new(0);
        Ok(Self { requests, threads: threads?, turns, descriptors, lookups_late })
    }

    /// Replaces the declared types of methods.
    pub fn describe(&self, descriptors: Descriptors) {
        *self.descriptors.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(descriptors);
    }

    /// The figures of everything that happened before this call. Blocks until the workers have read it.
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

    /// Detaches the BPF programs and reads what they left. Snapshots remain possible.
    pub fn detach(&self) -> Result<()> {
        self.request(Request::Detach).map(drop)
    }

    /// Sends a request, and waits for the answer of each worker.
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

    /// How many turns each thread has made, several a second; `None` if one has ended.
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

/// The state of a thread.
struct State<S> {
    number: usize,
    source: S,
    pipeline: Pipeline,
    exposition: Arc<ExpositionConfig>,
    pressure: Pressure,
    incoming: mpsc::Receiver<Request>,
    /// How many requests of the first worker the others have not answered yet.
    pending: Arc<AtomicUsize>,
    turns: Arc<AtomicU64>,
    /// The part of the first worker.
    lead: Option<Lead>,
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

    /// Stops all workers, or lets them go on, as memory is short or not. The first worker does it.
    fn look_at_memory(&mut self) {
        let Some(lead) = &mut self.lead else { return };
        if lead.budget.is_short() != lead.is_short {
            lead.is_short = !lead.is_short;
            self.pipeline.stop(lead.is_short);
            lead.log_shortage();
        }
    }

    /// Prints the log of the BPF programs. The first worker does it.
    #[cfg(feature = "kernel-log")]
    fn print_log(&mut self) {
        if let Some(probes) = self.lead.as_mut().and_then(|lead| lead.probes.as_mut()) {
            probes.print_log();
        }
    }

    /// Ticks all workers. The first one does it.
    fn tick(&mut self) {
        let Some(lead) = &mut self.lead else { return };
        lead.sweep();
        lead.log_protocols();
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

        // A process's name is forgotten as it expires: its series must not be about to be published.
        let expired = if self.pending.load(Ordering::Acquire) == 0 {
            self.pipeline.tick(now_ns)
        } else {
            self.pipeline.follow(now_ns, &[]);
            Arc::default()
        };
        lead.ask_others(&Request::Follow { now_ns, expired }, &self.pending);
    }
}
