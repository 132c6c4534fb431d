//! `cargo xtask demo`: the daemon, without any flag, and an ordinary gRPC service next to it. With `--tls`: the daemon
//! with `--tls auto`, and services over TLS of three languages.

mod children;
mod plan;
mod sum;
mod tls;

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
use serde::Deserialize;
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

/// How to run a server or a client of the demo, without the arguments that are different each time.
struct Program {
    /// The name of its log.
    name: &'static str,
    command: Command,
}

/// A service and its clients.
struct Pair {
    server: Program,
    /// Each with its plan.
    clients: Vec<(Program, &'static str)>,
}

/// What the demo shows.
struct Shown {
    /// The program of the daemon, and its flags.
    daemon: PathBuf,
    flags: &'static [&'static str],
    pairs: Vec<Pair>,
    /// The names of processes of which calls must be seen.
    processes: Vec<&'static str>,
}

/// Time between two tables, if there is no terminal.
const REFRESH: Duration = Duration::from_secs(5);
/// Time limit for the daemon to load its programs.
const START: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

pub(crate) fn run(limit: Option<Duration>, with_tls: bool) -> Result<()> {
    setup::ensure()?;
    let directory = exec::target()?.join("demo");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    println!("demo: building the daemon and gRPC services, about 2 min the first time");
    let shown = if with_tls { tls::shown(&directory)? } else { cleartext(&directory)? };
    let processes = shown.processes.clone();
    println!("demo: starting the daemon, services and their clients");
    let stop = Arc::new(AtomicBool::new(false));
    for signal in TERM_SIGNALS {
        signal_hook::flag::register(*signal, Arc::clone(&stop)).context("cannot catch signals")?;
    }
    let mut demo = Demo::start(shown, directory, &stop)?;
    println!("demo: the page is at {}/, metrics are at {0}/metrics", demo.url());
    let end = limit.map(|limit| Instant::now() + limit);
    let snapshot = demo.show(end, &stop).and_then(|()| Ok((demo.table()?, demo.sum()?)));
    demo.stop()?;
    let (table, sum) = snapshot?;
    print!("{table}");
    sum.check(&processes)
        .with_context(|| format!("the logs are in {}", demo.directory.display()))?;
    println!("demo: {sum}");
    println!("demo: the page was at {}/; `cargo xtask run` serves your own there", demo.url());
    Ok(())
}

/// One service without TLS, and two clients.
fn cleartext(directory: &Path) -> Result<Shown> {
    let (daemon, peer) = build::for_demo()?;
    let program = |name, side: &str| {
        let mut command = named(name, &peer, directory)?;
        command.arg(side);
        Ok::<_, anyhow::Error>(Program { name, command })
    };
    let clients = vec![
        (program(ORDERS, "client")?, plan::SHORT_CALLS),
        (program(FEED, "client")?, plan::STREAMS),
    ];
    let pairs = vec![Pair { server: program(SHOP, "server")?, clients }];
    Ok(Shown { daemon, flags: &[], pairs, processes: vec![SHOP, ORDERS, FEED] })
}

/// All processes, in the order in which they are stopped.
struct Demo {
    clients: Vec<(Running, Command)>,
    services: Vec<Running>,
    daemon: Running,
    /// The program of the daemon, which is also `observer top`.
    program: PathBuf,
    address: SocketAddr,
    directory: PathBuf,
}

impl Demo {
    fn start(shown: Shown, directory: PathBuf, stop: &AtomicBool) -> Result<Self> {
        let program = shown.daemon;
        let (mut command, address) = daemon_command(&program)?;
        let mut daemon = Running::start("daemon", command.args(shown.flags), &directory)?;
        await_watching(&mut daemon, stop)?;
        let (mut services, mut clients) = (Vec::new(), Vec::new());
        for Pair { server, clients: of_server } in shown.pairs {
            let (service, target) = start_service(server, &directory)?;
            services.push(service);
            for (client, plan) in of_server {
                let plan = plan::repeated(plan);
                let name = client.name;
                let mut command = client_command(client, &plan, &target, &directory)?;
                clients.push((Running::start(name, &mut command, &directory)?, command));
            }
        }
        Ok(Self { clients, services, daemon, program, address, directory })
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
        for service in &mut self.services {
            service.check()?;
        }
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
        for service in &mut self.services {
            result = result.and(service.stop());
        }
        result.and(self.daemon.stop())
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

/// Starts a service and returns its address.
fn start_service(server: Program, directory: &Path) -> Result<(Running, String)> {
    let Program { name, mut command } = server;
    command.args(["--listen", "127.0.0.1:0", "--truth"]);
    command.arg(directory.join(format!("{name}.truth"))).stdout(Stdio::piped());
    let mut service = Running::start(name, &mut command, directory)?;
    let line = service.first_line()?;
    // The peers write it in different ways.
    let of: Listening = serde_json::from_str(&line)
        .with_context(|| format!("the service did not print its address: {line}"))?;
    Ok((service, of.address))
}

/// The line that a server prints once it listens.
#[derive(Deserialize)]
struct Listening {
    address: String,
}

fn client_command(client: Program, plan: &str, target: &str, directory: &Path) -> Result<Command> {
    let Program { name, mut command } = client;
    let file = directory.join(format!("{name}.plan"));
    fs::write(&file, plan).with_context(|| format!("cannot write {}", file.display()))?;
    command.args(["--target", target, "--plan"]).arg(file);
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
