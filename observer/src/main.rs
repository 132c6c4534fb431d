//! The daemon: what was asked for, and the order of start and end.

#![forbid(unsafe_code)]

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
#[cfg(feature = "kubernetes")]
use observer::kubernetes::Pods;
use observer::{
    cli::{self, Action},
    config::{Backend, Config, HealthListen},
    health::{self, Health, Supervisor},
    kernel::Probes,
    log,
    metrics::{self, Descriptors, Format, Snapshot},
    preconditions,
    privileges::{self, Account},
    reload::Reload,
    sandbox::{self, Needs},
    server::{self, Counts, Front, Pages, Protection},
    system_paths::SystemPaths,
    top::{self, Address, Remote, Source},
    worker::{Surroundings, Workers},
};
use rustix::thread::CapabilitySet;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::MissedTickBehavior,
};
use tracing::{debug, info};

/// After the signal to end, `/metrics` still answers for this long: one last scrape.
const LAST_SCRAPE: Duration = Duration::from_secs(2);

/// For what is still running when everything else has ended.
const GRACE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let invocation = cli::parse();
    let outcome = match invocation.action {
        Action::Run => run(&invocation.config),
        Action::Top(options) => show(&options, &invocation.config),
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
    // From here on it does not end the process; what asks to end does until all is attached.
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
            #[cfg(feature = "kubernetes")]
            pods: config.kubernetes.clone().map(Pods::start).transpose()?,
        });
        let probed =
            probed.map(|listener| server::Health::start(listener, Arc::clone(&pages) as _));
        let _probed = probed.transpose()?;
        tokio::spawn(look(Arc::clone(&health), Arc::clone(&workers), Arc::clone(&supervisor)));
        supervisor.tell("READY=1");
        let end = async {
            end(&mut signals, &workers, || {
                health.stop();
                supervisor.tell("STOPPING=1");
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

/// What this daemon goes on to open.
fn needs(config: &Config, protection: &Protection, reload: &Reload) -> Needs {
    let mut reads = protection.files();
    reads.extend(config.descriptor_set.clone());
    #[cfg(feature = "kubernetes")]
    let connects = config.kubernetes.as_ref().is_some_and(|choice| {
        reads.extend(choice.token_file.iter().chain(&choice.ca_file).cloned());
        true
    });
    #[cfg(not(feature = "kubernetes"))]
    let connects = false;
    Needs { reads, writes: reload.outputs(), connects, terminal: false }
}

/// Attaches the kernel programs, gives up what is not needed any more, and starts to count. To be
/// called before there is another thread.
fn watch(config: &Config, account: Option<&Account>, needs: &Needs) -> Result<(Workers, Backend)> {
    let descriptors = match &config.descriptor_set {
        Some(path) => Descriptors::read(path)?,
        None => Descriptors::default(),
    };
    let surroundings = Surroundings::read();
    let (mut probes, rings) = Probes::attach(config)?;
    let left = privileges::give_up(|| probes.sweep(), &config.exposition.labels, account)?;
    debug!("capabilities left: {left:?}");
    if left.contains(CapabilitySet::SYS_PTRACE) {
        // It would keep what this capability is for from the daemon: other users' processes.
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
    Ok((Workers::start(config, descriptors, surroundings, probes, rings)?, backend))
}

/// `observer top`. What is selected for this call is watched by nobody yet.
fn show(options: &top::Options, config: &Config) -> Result<()> {
    let there = Address::of_this_machine(config.listen, options.access.ca_file.is_some());
    let source = match &options.address {
        Some(address) => Source::Daemon(Remote::new(address.clone(), &options.access)?),
        None => match running(&there, options, config)? {
            Some(remote) => Source::Daemon(remote),
            None => Source::Own(own(config, &there)?),
        },
    };
    top::run(source, options)
}

/// The daemon of this machine, if there is one that sees what is asked for. One that refuses is an
/// error: its user did not mean to watch a second time.
fn running(there: &Address, options: &top::Options, config: &Config) -> Result<Option<Remote>> {
    if !config.filter.selects_all() {
        return Ok(None);
    }
    let remote = Remote::new(there.clone(), &options.access)?.checked();
    let answers = remote.answers().context("the daemon of this machine refuses to answer")?;
    Ok(answers.then_some(remote))
}

/// The log would be in the way of what is shown.
fn own(config: &Config, there: &Address) -> Result<Workers> {
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
            "with --port, --pid, --comm, --uid or --cgroup, observer top watches by itself, and it \
             cannot"
                .into()
        }
    })?;
    Ok(workers)
}

/// The server's threads: one, as scrapes are few; what takes long (rendering, passwords, samples, pages, files),
/// of each one at a time, has others.
fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .build()
        .context("cannot start the HTTP server's runtime")
}

/// Looks at the workers again and again, and tells the supervisor as long as they are well.
async fn look(health: Arc<Health>, workers: Arc<Workers>, supervisor: Arc<Supervisor>) {
    let period =
        supervisor.patience.map_or(health::PERIOD, |patience| health::PERIOD.min(patience / 3));
    let mut looks = tokio::time::interval(period);
    // Not several at once, after a time in which the process stood still.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        health.look(workers.turns().as_deref(), period);
        if supervisor.patience.is_some() && health.alive().is_ok() {
            supervisor.tell("WATCHDOG=1");
        }
    }
}

/// Waits for the signal to end and says so; detaches; leaves time for a last scrape, unless told twice.
async fn end(signals: &mut Signals, workers: &Arc<Workers>, say: impl FnOnce()) {
    let name = signals.end(workers).await;
    say();
    info!("{name}: detaching, /metrics answers for {} s more", LAST_SCRAPE.as_secs());
    let detaching = Arc::clone(workers);
    match tokio::task::spawn_blocking(move || detaching.detach()).await {
        Ok(Ok(())) => debug!("detached"),
        Ok(Err(error)) => debug!("cannot detach the BPF programs: {error:#}"),
        Err(error) => debug!("cannot detach the BPF programs: {error}"),
    }
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

    /// The next one that asks to end. SIGHUP does so only when a terminal is gone.
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
            // It does not panic, and the files may be on a disk that is slow.
            let _ = tokio::task::spawn_blocking(move || reload.run(&workers)).await;
        }
    }
}

fn listen(runtime: &Runtime, kind: SignalKind) -> Result<Signal> {
    let _inside = runtime.enter();
    signal(kind).context("cannot install signal handlers")
}

/// What the server publishes.
struct Figures {
    workers: Arc<Workers>,
    counts: Arc<Counts>,
    health: Arc<Health>,
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
        Arc::make_mut(&mut snapshot.daemon).http = Some(self.counts.figures());
        Ok(snapshot)
    }

    fn health(&self) -> Result<(), String> {
        self.health.alive()
    }

    fn ready(&self) -> Result<(), String> {
        self.health.ready()
    }
}

/// Says what this kernel allows, without staying.
fn check(config: &Config) -> Result<()> {
    let mut met = true;
    for finding in preconditions::findings(config, &SystemPaths::default()) {
        if finding.is_known {
            report(finding.subject, &finding.outcome);
        } else {
            report_as("?? ", finding.subject, &finding.outcome);
        }
        met &= finding.outcome.is_ok();
    }
    let user = Account::of(config.run_as.as_deref()).map(|account| match account {
        Some(account) => format!("switches to {account} after startup"),
        None => "stays the user that started it".into(),
    });
    report("user", &user);
    met &= user.is_ok();
    let address = preconditions::bind(config.listen).map(|_| format!("{} is free", config.listen));
    report("address", &address);
    met &= address.is_ok();
    if let Some(place) = &config.health_listen {
        // It is gone again, and with it a socket's name.
        let free = preconditions::bind_health(place).map(|_| {
            if let HealthListen::Unix(path) = place {
                let _ = std::fs::remove_file(path);
            }
            format!("{place} is free")
        });
        report("probes", &free);
        met &= free.is_ok();
    }
    if let Some(file) = &config.web_config_file {
        let read = Protection::read(Some(file))
            .map(|protection| format!("{}; scrapers use {}", file.display(), protection.scheme()));
        report("web config", &read);
        met &= read.is_ok();
    }
    if met {
        let attached = Probes::attach(config);
        met = attached.is_ok();
        let told = attached
            .as_ref()
            .map(|(probes, _rings)| format!("{}: {}", probes.backend(), probes.reason()));
        report("backend", &told.map_err(|error| anyhow::anyhow!("{error:#}")));
        for program in attached.iter().flat_map(|(probes, _rings)| probes.sizes()) {
            report("program", &Ok(program.to_string()));
        }
    }
    anyhow::ensure!(met, "observer cannot run here: see the lines above");
    Ok(())
}

fn print(bytes: &[u8]) -> Result<()> {
    io::stdout().write_all(bytes).context("cannot write to stdout")
}

fn report(subject: &str, outcome: &Result<String>) {
    report_as("ok ", subject, outcome);
}

/// With another mark if it is no error.
fn report_as(mark: &str, subject: &str, outcome: &Result<String>) {
    let (mark, text) = match outcome {
        Ok(text) => (mark, text.clone()),
        Err(error) => ("NO ", format!("{error:#}")),
    };
    #[expect(clippy::print_stdout, reason = "it is what the command is for")]
    {
        println!("{mark} {subject:<13} {text}");
    }
}
