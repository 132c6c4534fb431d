//! `cargo xtask demo`: the daemon, without any flag, beside a gRPC service that knows nothing of it.

mod calls;
mod children;
mod openmetrics;
mod plan;
mod scrape;
mod table;

use std::collections::{BTreeMap, VecDeque};
use std::io::{IsTerminal as _, Write as _, stdout};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, bail};
use rustix::termios::tcgetwinsize;
use signal_hook::consts::TERM_SIGNALS;

use crate::{build, exec, setup};
use calls::{Calls, Key};
use children::Running;

/// Where the daemon listens by default.
const DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// The table is of the last so many seconds.
const WINDOW: Duration = Duration::from_secs(5);
const REFRESH: Duration = Duration::from_secs(1);
/// Where it is not a terminal, each table is a new one.
const REFRESH_PLAIN: Duration = Duration::from_secs(5);
/// For the daemon to load its programs.
const START: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// Of a terminal's: title, header, "and … more", the cursor's, and two empty ones.
const OTHER_LINES: usize = 6;

const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
const OTHER_SCREEN: &str = "\x1b[?1049h\x1b[?25l";
const FIRST_SCREEN: &str = "\x1b[?1049l\x1b[?25h";

pub(crate) fn run(limit: Option<Duration>) -> Result<()> {
    setup::ensure()?;
    let daemon = build::daemon(true)?;
    let peer = build::package("peer-rust", true)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in TERM_SIGNALS {
        signal_hook::flag::register(*signal, Arc::clone(&stop)).context("cannot catch signals")?;
    }
    let mut demo = Demo::start(&daemon, &peer, &stop)?;
    println!("demo: metrics are at {}", demo.url());
    let shown = demo.show(limit.map(|limit| Instant::now() + limit), &stop);
    let stopped = demo.stop();
    let seen = shown?;
    stopped?;
    if !seen {
        bail!("not one gRPC call was seen; the logs are in {}", demo.directory.display());
    }
    println!("demo: the metrics were at {}; `cargo xtask run` serves your own there", demo.url());
    Ok(())
}

/// Everything that runs, in the order in which it is stopped.
struct Demo {
    clients: Vec<(Running, Command)>,
    service: Running,
    daemon: Running,
    address: SocketAddr,
    directory: PathBuf,
}

impl Demo {
    fn start(daemon: &Path, peer: &Path, stop: &AtomicBool) -> Result<Self> {
        let directory = exec::target()?.join("demo");
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let (mut command, address) = daemon_command(daemon)?;
        let mut daemon = Running::start("daemon", &mut command, &directory)?;
        await_metrics(&mut daemon, address, stop)?;
        let (service, target) = start_service(peer, &directory)?;
        let plans = [("demo-orders", plan::short_calls()), ("demo-feed", plan::streams())];
        let mut clients = Vec::new();
        for (name, plan) in plans {
            let mut command = client_command(name, peer, &plan, &target, &directory)?;
            clients.push((Running::start(name, &mut command, &directory)?, command));
        }
        Ok(Self { clients, service, daemon, address, directory })
    }

    fn url(&self) -> String {
        format!("http://{}/metrics", self.address)
    }

    /// Shows the table again and again until told to stop. Returns whether any call was seen.
    fn show(&mut self, end: Option<Instant>, stop: &AtomicBool) -> Result<bool> {
        let mut screen = Screen::open();
        let mut window = VecDeque::from([(Instant::now(), BTreeMap::new())]);
        let mut seen = false;
        loop {
            let next = Instant::now() + screen.refresh;
            let wake = end.map_or(next, |end| end.min(next));
            while Instant::now() < wake && !stop.load(Ordering::Relaxed) {
                thread::sleep(POLL);
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(seen);
            }
            self.tend()?;
            let text = scrape::metrics(self.address).context("the daemon's metrics")?;
            let samples = openmetrics::parse(&text).context("the daemon's metrics")?;
            let calls = calls::calls(&samples);
            seen |= !calls.is_empty();
            screen.show(&self.url(), &latest(&mut window, calls))?;
            if end.is_some_and(|end| Instant::now() >= end) {
                return Ok(seen);
            }
        }
    }

    /// Clients that have done all they had to begin anew; nothing else may end.
    fn tend(&mut self) -> Result<()> {
        self.daemon.check()?;
        self.service.check()?;
        for (client, command) in &mut self.clients {
            match client.ended()? {
                Some(status) if status.success() => {
                    *client = Running::start(client.name(), command, &self.directory)?;
                }
                _ => client.check()?,
            }
        }
        Ok(())
    }

    /// All of them, even if one gives trouble; the first trouble is returned.
    fn stop(&mut self) -> Result<()> {
        let mut result = Ok(());
        for (client, _) in &mut self.clients {
            result = result.and(client.stop());
        }
        result.and(self.service.stop()).and(self.daemon.stop())
    }
}

/// The rows of the window that ends with `now`.
fn latest(
    window: &mut VecDeque<(Instant, BTreeMap<Key, Calls>)>,
    now: BTreeMap<Key, Calls>,
) -> Vec<calls::Row> {
    let at = Instant::now();
    // The last one before the window is its begin.
    while window.get(1).is_some_and(|(then, _)| at.duration_since(*then) >= WINDOW) {
        window.pop_front();
    }
    let rows = match window.front() {
        Some((then, before)) => calls::rows(before, &now, at.duration_since(*then)),
        None => Vec::new(),
    };
    window.push_back((at, now));
    rows
}

/// Without any flag, unless another program listens where the daemon would.
fn daemon_command(daemon: &Path) -> Result<(Command, SocketAddr)> {
    if !exec::is_root() {
        // In the foreground, where sudo can ask for a password; it then remembers.
        exec::run(Command::new("sudo").arg("-v"))?;
    }
    let mut command = exec::root_command(daemon)?;
    command.stdout(Stdio::null());
    if TcpListener::bind(DEFAULT).is_ok() {
        return Ok((command, DEFAULT));
    }
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    let address = free.local_addr().context("no free port")?;
    println!("demo: {DEFAULT} is taken; the daemon gets --listen {address}");
    command.args(["--listen", &address.to_string()]);
    Ok((command, address))
}

fn await_metrics(daemon: &mut Running, address: SocketAddr, stop: &AtomicBool) -> Result<()> {
    let begun = Instant::now();
    while let Err(error) = scrape::metrics(address) {
        daemon.check()?;
        if begun.elapsed() > START || stop.load(Ordering::Relaxed) {
            return Err(error.context("the daemon does not serve its metrics"));
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Starts the service and returns its address.
fn start_service(peer: &Path, directory: &Path) -> Result<(Running, String)> {
    let mut command = named("demo-shop", peer, directory)?;
    command.args(["server", "--listen", "127.0.0.1:0", "--truth"]);
    command.arg(directory.join("demo-shop.truth")).stdout(Stdio::piped());
    let mut service = Running::start("demo-shop", &mut command, directory)?;
    let line = service.first_line()?;
    let address = line
        .split_once("\"address\":\"")
        .and_then(|(_, rest)| rest.split('"').next())
        .with_context(|| format!("the service does not say where it listens: {line}"))?;
    Ok((service, address.to_owned()))
}

fn client_command(
    name: &str,
    peer: &Path,
    plan: &str,
    target: &str,
    directory: &Path,
) -> Result<Command> {
    let file = directory.join(format!("{name}.plan"));
    fs::write(&file, plan).with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = named(name, peer, directory)?;
    command.args(["client", "--target", target, "--plan"]).arg(file);
    command.arg("--truth").arg(directory.join(format!("{name}.truth"))).stdout(Stdio::null());
    Ok(command)
}

/// The peer under another name, by which the table shows it.
fn named(name: &str, peer: &Path, directory: &Path) -> Result<Command> {
    let link = directory.join(name);
    if link.is_symlink() {
        fs::remove_file(&link).with_context(|| format!("cannot remove {}", link.display()))?;
    }
    symlink(peer, &link).with_context(|| format!("cannot write {}", link.display()))?;
    Ok(Command::new(link))
}

/// Standard output: a terminal, whose other screen is used, or something that takes text.
struct Screen {
    terminal: bool,
    refresh: Duration,
}

impl Screen {
    fn open() -> Self {
        let terminal = stdout().is_terminal();
        if terminal {
            print!("{OTHER_SCREEN}");
        }
        Self { terminal, refresh: if terminal { REFRESH } else { REFRESH_PLAIN } }
    }

    /// The rows that there is room for.
    fn rows(&self) -> usize {
        let height = tcgetwinsize(stdout()).map_or(0, |size| usize::from(size.ws_row));
        // A height of 0 is unknown.
        if self.terminal && height > 0 { height.saturating_sub(OTHER_LINES) } else { usize::MAX }
    }

    fn show(&mut self, url: &str, rows: &[calls::Row]) -> Result<()> {
        let table = table::table(rows, self.rows());
        let mut out = stdout().lock();
        let written = if self.terminal {
            let table = table.replace('\n', &format!("{CLEAR_LINE}\n"));
            let title = format!("{url}, last {} s, Ctrl-C ends", WINDOW.as_secs());
            write!(out, "{HOME}{title}{CLEAR_LINE}\n{CLEAR_LINE}\n{table}{CLEAR_BELOW}")
        } else {
            writeln!(out, "{table}")
        };
        written.and_then(|()| out.flush()).context("cannot print")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal {
            print!("{FIRST_SCREEN}");
            let _ = stdout().flush();
        }
    }
}
