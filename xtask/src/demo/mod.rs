//! `cargo xtask demo`: the daemon, without any flag, and an ordinary gRPC service next to it.

mod children;
mod plan;
mod sum;

use std::io::{IsTerminal as _, Write as _, stdout};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::TERM_SIGNALS;

use crate::{build, exec, setup};
use children::Running;
use sum::Sum;

/// The default address of the daemon.
const DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// The names of the service and of its clients.
const SHOP: &str = "demo-shop";
const ORDERS: &str = "demo-orders";
const FEED: &str = "demo-feed";

/// Time between two tables, if there is no terminal.
const REFRESH: Duration = Duration::from_secs(5);
/// Time limit for the daemon to load its programs.
const START: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

pub(crate) fn run(limit: Option<Duration>) -> Result<()> {
    setup::ensure()?;
    println!("demo: building the daemon and a gRPC service, about 2 min the first time");
    let (daemon, peer) = build::for_demo()?;
    println!("demo: starting the daemon, the service and its clients");
    let stop = Arc::new(AtomicBool::new(false));
    for signal in TERM_SIGNALS {
        signal_hook::flag::register(*signal, Arc::clone(&stop)).context("cannot catch signals")?;
    }
    let mut demo = Demo::start(&daemon, &peer, &stop)?;
    println!("demo: the page is at {}/, metrics are at {0}/metrics", demo.url());
    let shown = demo.show(limit.map(|limit| Instant::now() + limit), &stop);
    let snapshot = shown.and_then(|()| Ok((demo.table()?, demo.sum()?)));
    demo.stop()?;
    let (table, sum) = snapshot?;
    print!("{table}");
    sum.check().with_context(|| format!("the logs are in {}", demo.directory.display()))?;
    println!("demo: {sum}");
    println!("demo: the page was at {}/; `cargo xtask run` serves your own there", demo.url());
    Ok(())
}

/// All processes, in the order in which they are stopped.
struct Demo {
    clients: Vec<(Running, Command)>,
    service: Running,
    daemon: Running,
    /// The program of the daemon, which is also `observer top`.
    program: PathBuf,
    address: SocketAddr,
    directory: PathBuf,
}

impl Demo {
    fn start(daemon: &Path, peer: &Path, stop: &AtomicBool) -> Result<Self> {
        let directory = exec::target()?.join("demo");
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let program = daemon.to_owned();
        let (mut command, address) = daemon_command(daemon)?;
        let mut daemon = Running::start("daemon", &mut command, &directory)?;
        await_watching(&mut daemon, stop)?;
        let (service, target) = start_service(peer, &directory)?;
        let plans = [(ORDERS, plan::SHORT_CALLS), (FEED, plan::STREAMS)];
        let mut clients = Vec::new();
        for (name, plan) in plans {
            let plan = plan::repeated(plan);
            let mut command = client_command(name, peer, &plan, &target, &directory)?;
            clients.push((Running::start(name, &mut command, &directory)?, command));
        }
        Ok(Self { clients, service, daemon, program, address, directory })
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `observer top` of the daemon.
    fn top(&self) -> Command {
        let mut command = exec::without_ours(Command::new(&self.program));
        command.args(["top", "--address", &self.url()]);
        command
    }

    /// The table of `observer top`, as text.
    fn table(&self) -> Result<String> {
        String::from_utf8(self.snapshot("--table")?).context("the table")
    }

    fn sum(&self) -> Result<Sum> {
        Sum::of(&self.snapshot("--json")?)
    }

    fn snapshot(&self, format: &str) -> Result<Vec<u8>> {
        let mut command = self.top();
        let output = command.args(["--once", format]).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "{}: {}", exec::shown(&command), output.status);
        Ok(output.stdout)
    }

    /// Shows what the daemon sees, until a signal or the end of the time.
    fn show(&mut self, end: Option<Instant>, stop: &AtomicBool) -> Result<()> {
        if stdout().is_terminal() { self.live(end, stop) } else { self.tables(end, stop) }
    }

    /// Runs `observer top` in the terminal, which also gets the keys, Ctrl-C among them.
    fn live(&mut self, end: Option<Instant>, stop: &AtomicBool) -> Result<()> {
        let mut top = self.top().spawn().context("cannot run observer top")?;
        let mut result = Ok(());
        while result.is_ok() && top.try_wait()?.is_none() {
            if stop.load(Ordering::Relaxed) || end.is_some_and(|end| Instant::now() >= end) {
                break;
            }
            thread::sleep(POLL);
            result = self.tend();
        }
        if top.try_wait()?.is_none() {
            // With this signal it restores the terminal.
            kill_process(Pid::from_child(&top), Signal::TERM)?;
        }
        let status = top.wait()?;
        result?;
        ensure!(status.success(), "observer top ended with {status}");
        Ok(())
    }

    /// Prints one table after the other, if there is no terminal.
    fn tables(&mut self, end: Option<Instant>, stop: &AtomicBool) -> Result<()> {
        loop {
            let next = Instant::now() + REFRESH;
            let wake = end.map_or(next, |end| end.min(next));
            while Instant::now() < wake {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                thread::sleep(POLL);
            }
            self.tend()?;
            if end.is_some_and(|end| Instant::now() >= end) {
                return Ok(());
            }
            let mut out = stdout().lock();
            writeln!(out, "{}", self.table()?)
                .and_then(|()| out.flush())
                .context("cannot print")?;
        }
    }

    /// Starts clients again that have finished. Returns an error if another process has ended.
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

    /// Stops all processes, even if one fails. Returns the first error.
    fn stop(&mut self) -> Result<()> {
        let mut result = Ok(());
        for (client, _) in &mut self.clients {
            result = result.and(client.stop());
        }
        result.and(self.service.stop()).and(self.daemon.stop())
    }
}

/// The daemon without any flag, except for the address if another program listens there.
fn daemon_command(daemon: &Path) -> Result<(Command, SocketAddr)> {
    if !exec::is_root() {
        // In the foreground, where sudo can ask for a password; it then remembers.
        exec::run(Command::new("sudo").arg("-v"))?;
    }
    let mut command = exec::daemon(daemon)?;
    command.stdout(Stdio::null());
    if TcpListener::bind(DEFAULT).is_ok() {
        return Ok((command, DEFAULT));
    }
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    let address = free.local_addr().context("no free port")?;
    println!("demo: {DEFAULT} is in use; the daemon gets --listen {address}");
    command.args(["--listen", &address.to_string()]);
    Ok((command, address))
}

fn await_watching(daemon: &mut Running, stop: &AtomicBool) -> Result<()> {
    let begun = Instant::now();
    while !daemon.says("watching") {
        daemon.check()?;
        let may_wait = begun.elapsed() < START && !stop.load(Ordering::Relaxed);
        ensure!(may_wait, "the daemon did not start to watch");
        thread::sleep(POLL);
    }
    Ok(())
}

/// Starts the service and returns its address.
fn start_service(peer: &Path, directory: &Path) -> Result<(Running, String)> {
    let mut command = named(SHOP, peer, directory)?;
    command.args(["server", "--listen", "127.0.0.1:0", "--truth"]);
    command.arg(directory.join(format!("{SHOP}.truth"))).stdout(Stdio::piped());
    let mut service = Running::start(SHOP, &mut command, directory)?;
    let line = service.first_line()?;
    let address = line
        .split_once("\"address\":\"")
        .and_then(|(_, rest)| rest.split('"').next())
        .with_context(|| format!("the service did not print its address: {line}"))?;
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

/// The peer under another name, which `observer top` shows.
fn named(name: &str, peer: &Path, directory: &Path) -> Result<Command> {
    let link = directory.join(name);
    if link.is_symlink() {
        fs::remove_file(&link).with_context(|| format!("cannot remove {}", link.display()))?;
    }
    symlink(peer, &link).with_context(|| format!("cannot write {}", link.display()))?;
    Ok(Command::new(link))
}
