//! The program: it runs what the command line says, and starts and ends the daemon in the right order.

#![forbid(unsafe_code)]

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context as _, Result};
#[cfg(feature = "kubernetes")]
use observer::kubernetes::{self, Pods};
use observer::{
    cli::{self, Action},
    config::{Backend, Config, HealthListen, Tls},
    connections,
    health::{self, Health, Supervisor},
    kernel::{Probes, TlsProbes},
    libraries::Opener,
    log,
    memory::Budget,
    metrics::{self, Descriptors, Format, MetricsExport, Snapshot},
    preconditions,
    privileges::{self, Account},
    process::ProcFs,
    reload::Reload,
    sandbox::{self, Needs},
    server::{self, Counts, Front, Pages, Protection},
    system_paths::SystemPaths,
    top::{self, Access, Address, Remote, Source},
    worker::Workers,
};
use observer_core::process::Detail;
use rustix::thread::CapabilitySet;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::MissedTickBehavior,
};
use tracing::{debug, info, warn};

/// How long `/metrics` still answers after the signal to end, for one last scrape.
const LAST_SCRAPE: Duration = Duration::from_secs(2);

/// How long the runtime waits for its tasks when everything else has ended.
const GRACE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let invocation = cli::parse();
    let outcome = match invocation.action {
        Action::Run => run(&invocation.config),
        Action::Top(options) => show(&options, &invocation.config),
        Action::Connections(options) => show_connections(&options, &invocation.config),
        Action::Check => check(&invocation.config),
        Action::Completions(shell) => print(&cli::completions(shell)),
        Action::Man => cli::manual().map_err(Into::into).and_then(|page| print(&page)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the log may not have been set up")]
            {
                eprintln!("observer: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Config) -> Result<()> {
    log::init(&config.log)?;
    log::end_at_panic();
    let account = Account::of(config.run_as.as_deref())?;
    preconditions::verify(config, &SystemPaths::default())?;
    let supervisor = Arc::new(Supervisor::of_environment());
    let listener = preconditions::bind(config.listen)?;
    let probed = config.health_listen.as_ref().map(preconditions::bind_health).transpose()?;
    let protection = Arc::new(Protection::read(config.web_config_file.as_deref())?);
    let runtime = runtime()?;
    // From here on SIGHUP does not end the process. SIGTERM and SIGINT do, until all is attached.
    let hangup = listen(&runtime, SignalKind::hangup())?;
    let reload = Arc::new(Reload::new(config));
    let needs = needs(config, &protection, &reload);
    let (workers, backend) = watch(config, account.as_ref(), &needs)?;
    let health = Arc::new(Health::default());
    let (workers, filter) = (Arc::new(workers), &config.filter);
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let mut signals = Signals::new(&runtime, hangup, reload)?;
        let url = format!("{}://{address}/", protection.scheme());
        info!("watching {filter}, backend {backend}, metrics at {url}metrics, the page at {url}");
        let counts = Arc::new(Counts::default());
        let pages = Arc::new(Figures {
            workers: Arc::clone(&workers),
            counts: Arc::clone(&counts),
            health: Arc::clone(&health),
            export: OnceLock::new(),
            #[cfg(feature = "kubernetes")]
            pods: config.kubernetes.clone().map(Pods::start).transpose()?,
        });
        #[cfg(feature = "kubernetes")]
        if let Some(choice) = &config.kubernetes {
            kubernetes::cluster::start(choice, &config.cluster)?;
        }
        if let Some(otlp) = &config.otlp {
            for warning in &otlp.warnings {
                warn!("{warning}");
            }
            let taken = Arc::clone(&pages);
            if let Some(export) = MetricsExport::start(otlp, move || taken.snapshot())? {
                // It is set only here.
                let _ = pages.export.set(export);
            }
        }
        let probed =
            probed.map(|listener| server::Health::start(listener, Arc::clone(&pages) as _));
        let _probed = probed.transpose()?;
        tokio::spawn(look(Arc::clone(&health), Arc::clone(&workers), Arc::clone(&supervisor)));
        supervisor.notify("READY=1");
        let ending = Arc::clone(&pages);
        let end = async {
            let say = || {
                health.stop();
                supervisor.notify("STOPPING=1");
            };
            end(&mut signals, &workers, say, || {
                if let Some(export) = ending.export.get() {
                    export.flush();
                }
            })
            .await;
        };
        let front = Front { protection, hosts: config.allow_hosts.clone(), counts };
        server::serve(listener, pages, front, end).await;
        Ok::<(), anyhow::Error>(())
    })?;
    runtime.shutdown_timeout(GRACE);
    Ok(())
}

/// The files and connections that this daemon opens later.
fn needs(config: &Config, protection: &Protection, reload: &Reload) -> Needs {
    let mut reads = protection.files();
    reads.extend(config.descriptor_set.clone());
    let mut needs = Needs { reads, writes: reload.outputs(), ..Needs::default() };
    if let Some(otlp) = &config.otlp {
        needs.reads.extend(otlp.files());
        needs.connects = true;
    }
    #[cfg(feature = "kubernetes")]
    if let Some(choice) = &config.kubernetes {
        needs.reads.extend(choice.token_file.iter().chain(&choice.ca_file).cloned());
        needs.connects = true;
    }
    needs
}

/// Attaches the BPF programs, drops privileges that are no longer needed, and starts the workers. To be called before
/// there is another thread.
fn watch(config: &Config, account: Option<&Account>, needs: &Needs) -> Result<(Workers, Backend)> {
    let descriptors = match &config.descriptor_set {
        Some(path) => Descriptors::read(path)?,
        None => Descriptors::default(),
    };
    // These read what the daemon may not read later.
    let (source, budget) = (ProcFs::of_this_node(), Budget::of_this_process());
    let (mut probes, rings) = Probes::attach(config)?;
    let opener = opener(&mut probes, account)?;
    let wanted = wanted(config);
    let left = privileges::give_up(|| probes.sweep(), wanted, account)?;
    debug!("capabilities left: {left:?}");
    if config.service_environment && !left.contains(wanted) {
        warn!(
            "--service-environment has no effect on other users' processes: add CAP_SYS_PTRACE and \
             CAP_DAC_READ_SEARCH"
        );
    }
    if left.contains(CapabilitySet::SYS_PTRACE) {
        // It would hide other users' processes, which this capability is for.
        debug!("Landlock does not confine files, because CAP_SYS_PTRACE is kept");
    } else if !sandbox::confine_files(needs)? {
        debug!("Landlock does not confine files: this kernel does not have it");
    }
    probes.hand_over()?;
    sandbox::confine_calls(needs)?;
    if let Some(account) = account {
        info!("now running as user {account}");
        needs.log_inaccessible(account);
    }
    let backend = probes.backend();
    info!("backend {backend}: {}", probes.reason());
    Ok((Workers::start(config, descriptors, source, budget, probes, rings, opener)?, backend))
}

/// Starts the process that opens files with TLS libraries, if the kernel and the capabilities of this process allow it.
fn opener(probes: &mut Probes, account: Option<&Account>) -> Result<Option<Opener>> {
    let tls = match probes.take_tls() {
        Ok(Some(tls)) => tls,
        Ok(None) => return Ok(None),
        Err(error) => {
            warn!("TLS connections are not followed: {error:#}; or use --tls off");
            return Ok(None);
        }
    };
    Opener::start(tls, account).map(Some)
}

/// The capabilities to keep.
fn wanted(config: &Config) -> CapabilitySet {
    let mut wanted = CapabilitySet::empty();
    // The link `exe` of other users' processes in /proc needs it.
    if config.exposition.labels.contains(&Detail::Exe) {
        wanted |= CapabilitySet::SYS_PTRACE;
    }
    // Their file `environ` also belongs to its owner alone.
    if config.service_environment {
        wanted |= CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH;
    }
    wanted
}

/// Runs `observer top`.
fn show(options: &top::Options, config: &Config) -> Result<()> {
    top::run(source("top", options.address.as_ref(), &options.access, config)?, options)
}

/// Runs `observer connections`.
fn show_connections(options: &top::ConnectionsOptions, config: &Config) -> Result<()> {
    let source = source("connections", options.address.as_ref(), &options.access, config)?;
    top::print_connections(&source, options.format)
}

/// The source of figures for the command `observer NAME`. If a filter is given, no daemon watches that selection, so this
/// process does.
fn source(
    name: &str,
    address: Option<&Address>,
    access: &Access,
    config: &Config,
) -> Result<Source> {
    let there = Address::of_this_machine(config.listen, access.ca_file.is_some());
    Ok(match address {
        Some(address) => Source::Daemon(Remote::new(address.clone(), access)?),
        None => match running(&there, access, config)? {
            Some(remote) => Source::Daemon(remote),
            None => Source::Own(own(name, config, &there)?),
        },
    })
}

/// The daemon of this machine, if one answers and no filter is given. A daemon that refuses to answer is an error:
/// the user did not mean to watch a second time.
fn running(there: &Address, access: &Access, config: &Config) -> Result<Option<Remote>> {
    if !config.filter.selects_all() {
        return Ok(None);
    }
    let remote = Remote::new(there.clone(), access)?.checked();
    let answers = remote.answers().context("the daemon of this machine refuses to answer")?;
    Ok(answers.then_some(remote))
}

/// Watches with this process, without a log: it would cover the view.
fn own(name: &str, config: &Config, there: &Address) -> Result<Workers> {
    let config = &Config {
        // Variables may ask for an export, which is a daemon's.
        otlp: None,
        // It shows the map.
        service_graph: Some(config.service_graph.clone().unwrap_or_default()),
        // Nothing names pods here, so nothing may wait for their names.
        #[cfg(feature = "kubernetes")]
        kubernetes: None,
        ..config.clone()
    };
    let needs = Needs {
        reads: config.descriptor_set.clone().into_iter().collect(),
        terminal: true,
        ..Needs::default()
    };
    let started = Account::of(config.run_as.as_deref()).and_then(|account| {
        preconditions::verify(config, &SystemPaths::default())?;
        watch(config, account.as_ref(), &needs)
    });
    let (workers, _) = started.with_context(|| {
        if config.filter.selects_all() {
            format!("no daemon answers at {there}, and this process cannot watch by itself")
        } else {
            format!(
                "with --port, --pid, --comm, --uid or --cgroup, observer {name} watches by itself, \
                 and it cannot"
            )
        }
    })?;
    Ok(workers)
}

/// The server's runtime. One thread is enough for few scrapes; slow work (rendering, passwords, samples, pages, files)
/// has threads for blocking work, one at a time for each kind.
fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .build()
        .context("cannot start the HTTP server's runtime")
}

/// Checks the workers periodically, and notifies the supervisor while they make progress.
async fn look(health: Arc<Health>, workers: Arc<Workers>, supervisor: Arc<Supervisor>) {
    let period =
        supervisor.patience.map_or(health::PERIOD, |patience| health::PERIOD.min(patience / 3));
    let mut looks = tokio::time::interval(period);
    // After the process was stopped, checks must not come in a burst.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        health.look(workers.turns().as_deref(), period);
        if supervisor.patience.is_some() && health.alive().is_ok() {
            supervisor.notify("WATCHDOG=1");
        }
    }
}

/// Waits for a signal to end and calls `say`, then detaches and calls `detached`. Leaves time for a last scrape, unless a
/// second signal comes.
async fn end(
    signals: &mut Signals,
    workers: &Arc<Workers>,
    say: impl FnOnce(),
    detached: impl FnOnce(),
) {
    let name = signals.end(workers).await;
    say();
    info!("{name}: detaching, /metrics answers for {} s more", LAST_SCRAPE.as_secs());
    let detaching = Arc::clone(workers);
    match tokio::task::spawn_blocking(move || detaching.detach()).await {
        Ok(Ok(())) => debug!("detached"),
        Ok(Err(error)) => debug!("cannot detach the BPF programs: {error:#}"),
        Err(error) => debug!("cannot detach the BPF programs: {error}"),
    }
    detached();
    tokio::select! {
        () = tokio::time::sleep(LAST_SCRAPE) => {}
        _ = signals.end(workers) => {}
    }
}

/// SIGTERM, SIGINT and SIGHUP.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    reload: Arc<Reload>,
}

impl Signals {
    fn new(runtime: &Runtime, hangup: Signal, reload: Arc<Reload>) -> Result<Self> {
        Ok(Self {
            terminate: listen(runtime, SignalKind::terminate())?,
            interrupt: listen(runtime, SignalKind::interrupt())?,
            hangup,
            reload,
        })
    }

    /// Waits for a signal that asks to end, and returns its name. SIGHUP does so only if the terminal was closed.
    async fn end(&mut self, workers: &Arc<Workers>) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => {}
            }
            if self.reload.is_terminal_gone() {
                return "SIGHUP, because the terminal was closed";
            }
            let (reload, workers) = (Arc::clone(&self.reload), Arc::clone(workers));
            // It does not panic. The files may be on a slow disk.
            let _ = tokio::task::spawn_blocking(move || reload.run(&workers)).await;
        }
    }
}

fn listen(runtime: &Runtime, kind: SignalKind) -> Result<Signal> {
    let _inside = runtime.enter();
    signal(kind).context("cannot install signal handlers")
}

/// The pages that the server publishes.
struct Figures {
    workers: Arc<Workers>,
    counts: Arc<Counts>,
    health: Arc<Health>,
    export: OnceLock<MetricsExport>,
    #[cfg(feature = "kubernetes")]
    pods: Option<Pods>,
}

impl Pages for Figures {
    fn metrics(&self, format: Format, to: &mut dyn io::Write) -> Result<(), String> {
        metrics::write(&self.snapshot()?, format, to).map_err(|error| error.to_string())
    }

    fn snapshot(&self) -> Result<Snapshot, String> {
        let mut snapshot = self.workers.snapshot().map_err(|error| format!("{error:#}"))?;
        #[cfg(feature = "kubernetes")]
        if let Some(pods) = &self.pods {
            pods.complete(&mut snapshot);
        }
        let daemon = Arc::make_mut(&mut snapshot.daemon);
        daemon.http = Some(self.counts.figures());
        daemon.otlp_metrics = self.export.get().map(MetricsExport::figures);
        Ok(snapshot)
    }

    fn connections(&self) -> Result<connections::Model, String> {
        self.workers.connections().map_err(|error| format!("{error:#}"))
    }

    fn health(&self) -> Result<(), String> {
        self.health.alive()
    }

    fn ready(&self) -> Result<(), String> {
        self.health.ready()
    }
}

/// Runs `observer check`: prints what this kernel allows.
fn check(config: &Config) -> Result<()> {
    let mut met = true;
    for finding in preconditions::findings(config, &SystemPaths::default()) {
        let mark = if finding.is_known { "ok " } else { "?? " };
        met &= report(mark, finding.subject, finding.outcome);
    }
    let user = Account::of(config.run_as.as_deref()).map(|account| match account {
        Some(account) => format!("switches to {account} after startup"),
        None => "stays the user that started it".into(),
    });
    met &= report("ok ", "user", user);
    let address = preconditions::bind(config.listen).map(|_| format!("{} is free", config.listen));
    met &= report("ok ", "address", address);
    if let Some(place) = &config.health_listen {
        let free = preconditions::bind_health(place).map(|_| {
            // Binding has created the socket's file.
            if let HealthListen::Unix(path) = place {
                let _ = std::fs::remove_file(path);
            }
            format!("{place} is free")
        });
        met &= report("ok ", "probes", free);
    }
    if let Some(otlp) = &config.otlp {
        for receiver in otlp.receivers() {
            report("ok ", "export", Ok(receiver.url.to_string()));
        }
    }
    if let Some(file) = &config.web_config_file {
        let read = Protection::read(Some(file))
            .map(|protection| format!("{}; scrapers use {}", file.display(), protection.scheme()));
        met &= report("ok ", "web config", read);
    }
    if met {
        let mut attached = Probes::attach(config);
        let tls = attached.as_mut().map(|(probes, _)| probes.take_tls());
        if let (Tls::Auto, Ok(tls)) = (config.tls, tls) {
            report_tls(tls);
        }
        let sizes: Vec<_> =
            attached.iter().flat_map(|(probes, _)| probes.sizes().to_vec()).collect();
        let backend =
            attached.map(|(probes, _)| format!("{}: {}", probes.backend(), probes.reason()));
        met = report("ok ", "backend", backend);
        for program in sizes {
            report("ok ", "program", Ok(program.to_string()));
        }
    }
    anyhow::ensure!(met, "observer cannot run here: see the lines above");
    Ok(())
}

/// Prints whether connections with TLS would be followed. The daemon also starts if not.
fn report_tls(tls: Result<Option<TlsProbes>>) {
    match tls {
        Ok(_) => report("ok ", "TLS", Ok("can be followed".into())),
        Err(error) => report("?? ", "TLS", Ok(format!("cannot be followed: {error:#}"))),
    };
}

fn print(bytes: &[u8]) -> Result<()> {
    io::stdout().write_all(bytes).context("cannot write to stdout")
}

/// Prints a line of `observer check`, with `mark` in front if the outcome is not an error. Returns whether it is not.
fn report(mark: &str, subject: &str, outcome: Result<String>) -> bool {
    let is_met = outcome.is_ok();
    let (mark, text) = match outcome {
        Ok(text) => (mark, text),
        Err(error) => ("NO ", format!("{error:#}")),
    };
    #[expect(clippy::print_stdout, reason = "it is what the command is for")]
    {
        println!("{mark} {subject:<13} {text}");
    }
    is_met
}
