//! The threads that read the rings. Each is the only writer of its statistics.

mod lead;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use mio::Waker;
use observer_common::counter::CountsOfProcess;
use observer_core::{
    edges::{AllEdges, Edges},
    names::escape::escape,
    pipeline::OfProcess,
    process::{Expired, ProcessSource as _},
    source::Source,
};
use rustc_hash::FxHashMap;
use tracing::error;

use self::lead::Lead;
use crate::{
    clock::monotonic_ns,
    config::{self, Config, Filter},
    connections::{self, Following, Known},
    failures::{self, Failures},
    kernel::{Probes, Ring},
    libraries::{Opener, Watcher},
    memory::{self, Budget},
    metrics::{Descriptors, ExpositionConfig, Limits, Snapshot, Statistics, TlsFiles},
    otlp::{Flush, Spans},
    pipeline::{Pipeline, snapshot},
    pressure::Pressure,
    process::{self, ProcFs},
    sync::lock,
};

/// How long records may wait in a ring that is not half full.
const INTERVAL: Duration = Duration::from_millis(100);

/// The time between two ticks: sweeps, expiry of processes.
const TICK: Duration = Duration::from_secs(1);

/// Records that are read at once; a worker reads at most 64 batches between two checks for requests.
const BATCH: usize = 4096;

/// How long a snapshot waits for the lookups of its processes.
const LOOKUP_PATIENCE: Duration = Duration::from_millis(500);

/// How long a scrape waits for its snapshot.
const PATIENCE: Duration = Duration::from_secs(10);

/// The running threads. When this is dropped, they end after they have read their rings.
#[derive(Debug)]
pub struct Workers {
    /// Requests to the first worker, which asks the others.
    requests: Requests,
    threads: Vec<JoinHandle<()>>,
    /// Number of iterations of each thread's loop.
    turns: Vec<Arc<AtomicU64>>,
    descriptors: Mutex<Arc<Descriptors>>,
    /// Has the spans that wait exported at the end.
    flush: Option<Flush>,
    edges: Option<AllEdges>,
    /// How often a process was published before it was looked up.
    lookups_late: AtomicU64,
    /// Whether TLS connections are to be followed.
    tls_wanted: config::Tls,
    tls: Option<Tls>,
}

/// The thread that looks for TLS libraries, until it is stopped, and its last figures.
#[derive(Debug)]
struct Tls {
    watcher: Mutex<Option<Watcher>>,
    last: Mutex<TlsFiles>,
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
    /// Reply with the worker's number and its snapshot.
    Snapshot(mpsc::SyncSender<(usize, Snapshot)>),
    /// Reply with the connections by process.
    Connections(mpsc::SyncSender<ByProcess>),
    /// Detach, and reply once all records are read.
    Detach(mpsc::SyncSender<()>),
    /// Follow a tick of the first worker.
    Follow { now_ns: u64, expired: Arc<[Expired]> },
}

/// The connections of one worker, by process.
#[derive(Debug)]
struct ByProcess {
    watched: FxHashMap<u32, OfProcess>,
    /// Only of the first worker: sockets that are not watched.
    others: Vec<(u32, CountsOfProcess)>,
}

impl Workers {
    /// Starts a thread for each ring, and one that looks processes up with `source`.
    pub fn start(
        config: &Config,
        descriptors: Descriptors,
        source: ProcFs,
        budget: Budget,
        probes: Probes,
        rings: Vec<Ring>,
        opener: Option<Opener>,
    ) -> Result<Self> {
        let statistics = Statistics::new(
            config.recording(),
            Limits { max_methods: config.max_methods, max_series: config.max_series },
        );
        let failures = match &config.log_errors {
            Some(config) => Some(Failures::new(config, failures::to_stdout()?)),
            None => None,
        };
        let spans = config.otlp.as_ref().and_then(Spans::new);
        let edges = config.service_graph.as_ref().map(|peers| {
            Edges::new(config.recording(), config.max_series, config.series_ttl, peers.clone())
        });
        let all_edges = edges.as_ref().map(Edges::all);
        let exposition = Arc::new(config.exposition.clone());
        let outputs = (edges, (failures, spans));
        let mut pipeline = Pipeline::new(statistics, outputs, config.series_ttl)
            .with_labels(&exposition.labels)
            .grouped_by(exposition.by, config.names_pods())
            .with_relatives(config.relatives)
            .naming_services(config.service_names.clone())
            .excluding(&config.excluded)
            .without(std::process::id());
        let lookup = pipeline.lookup(source);
        let flush = match pipeline.output() {
            (_, (_, Some(spans))) => {
                let (processes, ends) = (pipeline.processes().sharing(), pipeline.ends().clone());
                if let Some(config) = config.otlp.clone() {
                    spans.start(config, processes, ends)?;
                }
                Some(spans.flush())
            }
            (_, (_, None)) => None,
        };
        thread::Builder::new()
            .name("processes".into())
            .spawn(move || process::run(&lookup))
            .context("cannot start the thread that reads /proc")?;
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
        let threads = workers.into_iter().map(State::start).collect::<Result<_>>()?;
        let descriptors = Mutex::new(Arc::new(descriptors));
        let tls = opener.map(|opener| Tls::start(opener, &config.filter)).transpose()?;
        let lookups_late = AtomicU64::new(0);
        let tls_wanted = config.tls;
        let edges = all_edges;
        Ok(Self {
            requests,
            threads,
            turns,
            descriptors,
            flush,
            edges,
            lookups_late,
            tls_wanted,
            tls,
        })
    }

    /// The connections of this moment by process, without the daemon's own. Blocks as [`snapshot`](Self::snapshot).
    pub fn connections(&self) -> Result<connections::Model> {
        let mut known: BTreeMap<u32, Known> = BTreeMap::new();
        for ByProcess { watched, others } in self.request(Request::Connections)? {
            for (pid, watched) in watched {
                known.entry(pid).or_default().watched += watched;
            }
            for (pid, others) in others {
                known.entry(pid).or_default().others = others;
            }
        }
        known.remove(&std::process::id());
        if let Some(tls) = &self.tls {
            for (pid, libraries) in tls.libraries() {
                if let Some(known) = known.get_mut(&pid) {
                    known.libraries = libraries;
                }
            }
        }
        let following = match (self.tls_wanted, &self.tls) {
            (config::Tls::Off, _) => Following::Off,
            (config::Tls::Auto, Some(_)) => Following::Auto,
            (config::Tls::Auto, None) => Following::Unavailable,
        };
        let source = ProcFs::default();
        let name = |pid| Some(escape(source.comm(pid)?.as_bytes()).into_owned());
        Ok(connections::Model::new(following, known, name))
    }

    /// Replaces the declared types of methods.
    pub fn describe(&self, descriptors: Descriptors) {
        *lock(&self.descriptors) = Arc::new(descriptors);
    }

    /// Takes a snapshot of everything that happened before this call. Blocks until the workers have read it, at most
    /// [`PATIENCE`] and [`LOOKUP_PATIENCE`].
    pub fn snapshot(&self) -> Result<Snapshot> {
        let mut parts = self.request(Request::Snapshot)?;
        // The first worker's snapshot has the figures of the whole daemon.
        parts.sort_unstable_by_key(|(number, _)| *number);
        let mut parts = parts.into_iter().map(|(_, part)| part);
        let mut snapshot = parts.next().context("there is no worker")?;
        for part in parts {
            snapshot.merge(part)?;
        }
        let late = process::settle(&snapshot.processes, LOOKUP_PATIENCE) as u64;
        let late = late + self.lookups_late.fetch_add(late, Ordering::Relaxed);
        let daemon = Arc::make_mut(&mut snapshot.daemon);
        daemon.lookups.late = late;
        daemon.tls_files = self.tls.as_ref().map(Tls::figures);
        // All workers have read what happened before this call.
        if let Some(edges) = &self.edges {
            daemon.edges_overflow = Some(edges.overflow());
            snapshot.edges = Some(Arc::new(edges.sorted()));
        }
        snapshot.descriptors = Arc::clone(&lock(&self.descriptors));
        Ok(snapshot)
    }

    /// Detaches the BPF programs and reads what they left. Snapshots remain possible.
    pub fn detach(&self) -> Result<()> {
        if let Some(tls) = &self.tls {
            tls.stop();
        }
        let detached = self.request(Request::Detach).map(drop);
        if let Some(flush) = &self.flush {
            flush.flush();
        }
        detached
    }

    /// Sends a request, and waits for the answer of each worker, at most [`PATIENCE`].
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

    /// Number of iterations of each thread's loop, several a second; `None` if a thread has ended.
    pub fn turns(&self) -> Option<Vec<u64>> {
        let all_run = !self.threads.iter().any(JoinHandle::is_finished);
        all_run.then(|| self.turns.iter().map(|turns| turns.load(Ordering::Relaxed)).collect())
    }
}

impl Tls {
    fn start(opener: Opener, filter: &Filter) -> Result<Self> {
        let watcher = Mutex::new(Some(Watcher::start(opener, filter)?));
        Ok(Self { watcher, last: Mutex::default() })
    }

    fn figures(&self) -> TlsFiles {
        match &*lock(&self.watcher) {
            Some(watcher) => watcher.figures(),
            None => lock(&self.last).clone(),
        }
    }

    /// What was found in the files of processes.
    fn libraries(&self) -> Vec<(u32, Vec<connections::Library>)> {
        lock(&self.watcher).as_ref().map(Watcher::libraries).unwrap_or_default()
    }

    /// Detaches the program from all files.
    fn stop(&self) {
        let watcher = lock(&self.watcher).take();
        if let Some(watcher) = watcher {
            *lock(&self.last) = watcher.figures();
        }
    }
}

/// The state of a worker thread.
struct State<S> {
    number: usize,
    source: S,
    pipeline: Pipeline,
    exposition: Arc<ExpositionConfig>,
    pressure: Pressure,
    incoming: mpsc::Receiver<Request>,
    /// Requests of the first worker that the others have not answered yet.
    pending: Arc<AtomicUsize>,
    turns: Arc<AtomicU64>,
    /// Only the first worker has it.
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

    /// Reads what is in the ring, at most 64 batches: a flood of records must not keep a scrape waiting.
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
        // The caller may have stopped waiting; then the answer is dropped.
        match request {
            Request::Snapshot(reply) => {
                let daemon = self.lead.as_ref().map(Lead::figures).unwrap_or_default();
                let snapshot = snapshot(&self.pipeline, daemon, Arc::clone(&self.exposition));
                let _ = reply.send((self.number, snapshot));
            }
            Request::Connections(reply) => {
                let lead = self.lead.as_ref().and_then(|lead| lead.probes.as_ref());
                let others = lead.map(Probes::others).unwrap_or_default();
                let watched = self.pipeline.connections_by_process();
                let _ = reply.send(ByProcess { watched, others });
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

    /// Stops the pipelines from taking anything new while memory is short. Only the first worker does it.
    fn look_at_memory(&mut self) {
        let Some(lead) = &mut self.lead else { return };
        if lead.budget.is_short() != lead.is_short {
            lead.is_short = !lead.is_short;
            self.pipeline.stop(lead.is_short);
            lead.log_shortage();
        }
    }

    /// Prints the log of the BPF programs. Only the first worker does it.
    #[cfg(feature = "kernel-log")]
    fn print_log(&mut self) {
        if let Some(probes) = self.lead.as_mut().and_then(|lead| lead.probes.as_mut()) {
            probes.print_log();
        }
    }

    /// Makes all workers tick. Only the first worker does it.
    fn tick(&mut self) {
        let Some(lead) = &mut self.lead else { return };
        lead.sweep();
        lead.log_protocols();
        if lead.is_short {
            // Otherwise freed memory would still count as the daemon's.
            memory::give_back();
        }
        let now_ns = monotonic_ns();
        let unreported = lead.probes.as_ref().and_then(|probes| probes.ends_unreported().ok());
        if let Some(unreported) = unreported.filter(|now| *now != lead.ends_unreported) {
            lead.ends_unreported = unreported;
            self.pipeline.find_unreported();
        }

        // The name of a process is forgotten when it expires: no worker may still publish its series.
        let expired = if self.pending.load(Ordering::Acquire) == 0 {
            self.pipeline.tick(now_ns)
        } else {
            self.pipeline.follow(now_ns, &[]);
            Arc::default()
        };
        lead.ask_others(&Request::Follow { now_ns, expired }, &self.pending);
    }
}
