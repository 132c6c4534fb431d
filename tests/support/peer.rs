//! Server and client processes of gRPC stacks.

use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::footprint::{children, status};
use crate::pace;
use crate::process::{Process, comm_in, signal};
use crate::stack::Stack;
use crate::truth::Truth;

/// Time for a server to finish its calls and write its record.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Time for a client to start and to connect.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Time for a client's plan.
const PLAN_LIMIT: Duration = Duration::from_mins(2);

/// A client's stages, one after the other, each with steps at the same time. `DEFAULTS` in
/// `tests/peers/python/client.py` lists what a step can contain.
pub type Plan = [Vec<Value>];

/// The kind of address that a server listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A free port of 127.0.0.1.
    V4,
    /// A free port of `::1`.
    V6,
    /// A free port of all addresses, IPv4.
    Any,
    /// A Unix socket.
    Unix,
}

/// A process that metrics are about.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The stack and the side, for errors.
    pub name: String,
    /// The number of the process.
    pub pid: u32,
    /// The name of its main thread: the label `process`.
    pub comm: String,
}

impl Identity {
    /// The process of the tests.
    pub fn of_the_tests(name: &str) -> Result<Self> {
        Ok(Self { name: name.to_owned(), pid: std::process::id(), comm: comm_in("self")? })
    }
}

impl Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, pid, comm } = self;
        write!(f, "{name} (pid {pid}, {comm})")
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    identity: Identity,
    address: String,
    process: Process,
    folder: Folder,
}

impl Server {
    /// Starts a server and waits until it listens.
    pub fn start(stack: &Stack, listen: Listen) -> Result<Self> {
        Self::start_with(stack, listen, &[])
    }

    /// Like [`Self::start`], with more arguments.
    pub fn start_with(stack: &Stack, listen: Listen, args: &[&str]) -> Result<Self> {
        let folder = Folder::new()?;
        let listen = match listen {
            Listen::V4 => "127.0.0.1:0".into(),
            Listen::V6 => "[::1]:0".into(),
            Listen::Any => "0.0.0.0:0".into(),
            Listen::Unix => format!("unix:{}", folder.path("socket").display()),
        };
        let mut command = command(&stack.server, stack, &folder)?;
        command.arg("--listen").arg(listen).args(args).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command)?;
        let mut line = String::new();
        BufReader::new(process.stdout()?).read_line(&mut line)?;
        let listening: Listening = serde_json::from_str(&line)
            .with_context(|| format!("{} did not start: {}", stack.name, folder.log()))?;
        let name = format!("{} server", stack.name);
        let identity = if listening.pid == process.pid() {
            Identity { name, pid: process.pid(), comm: process.comm()? }
        } else {
            let pid = in_namespace(process.pid(), listening.pid)?;
            Identity { name, pid, comm: comm_in(&pid.to_string())? }
        };
        Ok(Self { identity, address: listening.address, process, folder })
    }

    /// Its process.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The number of its process, as an argument.
    pub fn pid(&self) -> String {
        self.identity.pid.to_string()
    }

    /// Its port, as an argument; an error for a Unix socket.
    pub fn port(&self) -> Result<String> {
        let (_, port) = self.address.rsplit_once(':').context("an address without port")?;
        Ok(port.to_owned())
    }

    /// Waits until a client has connected to its port.
    pub fn wait_for_connection(&self) -> Result<()> {
        // proc_pid_net(5): the number of the line, the local address, the other one, the state.
        const ESTABLISHED: &str = "01";
        let port = format!(":{:04X}", self.port()?.parse::<u16>()?);
        pace::wait_for(START_LIMIT, || {
            // gRPC's core has sockets of IPv6 for addresses of IPv4.
            let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
            let is_there = tables.iter().flatten().flat_map(|table| table.lines()).any(|line| {
                let mut words = line.split_whitespace().skip(1);
                words.next().is_some_and(|local| local.ends_with(&port))
                    && words.nth(1) == Some(ESTABLISHED)
            });
            Ok(if is_there {
                Ok(())
            } else {
                Err(anyhow!("no client of {} connected", self.identity))
            })
        })
    }

    /// Stops it and returns its record.
    pub fn stop(mut self) -> Result<Truth> {
        signal(self.identity.pid, Signal::TERM)?;
        let status = self.process.wait(STOP_LIMIT)?;
        ensure!(status.success(), "{} ended with {status}: {}", self.identity, self.folder.log());
        self.folder.truth()
    }
}

/// The line that a server prints once it listens.
#[derive(Deserialize)]
struct Listening {
    pid: u32,
    address: String,
}

/// A running client.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    process: Process,
    folder: Folder,
}

impl Client {
    /// Starts a client that carries out a plan.
    pub fn start(stack: &Stack, server: &Server, plan: &Plan) -> Result<Self> {
        Self::start_to(stack, &server.address, plan)
    }

    /// Like [`Self::start`], for a server at this address.
    pub fn start_to(stack: &Stack, server: &str, plan: &Plan) -> Result<Self> {
        let folder = Folder::new()?;
        let plan_file = folder.path("plan");
        fs::write(&plan_file, serde_json::to_vec(plan)?).context("write the plan")?;
        let mut command = command(&stack.client, stack, &folder)?;
        command.args(["--target", server, "--plan"]).arg(plan_file);
        let process = Process::spawn(command.stdout(Stdio::null()))?;
        let name = format!("{} client", stack.name);
        let identity = Identity { name, pid: process.pid(), comm: process.comm()? };
        Ok(Self { identity, process, folder })
    }

    /// Like [`Self::start_to`], through this HTTP proxy.
    pub fn start_through(stack: &Stack, proxy: &str, server: &str, plan: &Plan) -> Result<Self> {
        let mut stack = stack.clone();
        for name in ["http_proxy", "https_proxy", "grpc_proxy"] {
            stack.env.insert(name.into(), proxy.into());
        }
        Self::start_to(&stack, server, plan)
    }

    /// Its process.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether it still carries out its plan.
    pub fn is_running(&mut self) -> Result<bool> {
        self.process.is_running()
    }

    /// Waits until the plan is carried out, and returns the client's record; an error after 2 minutes.
    pub fn finish(mut self) -> Result<(Identity, Truth)> {
        let status = self.process.wait(PLAN_LIMIT).with_context(|| self.folder.log())?;
        ensure!(status.success(), "{} ended with {status}: {}", self.identity, self.folder.log());
        let truth = self.folder.truth()?;
        ensure!(truth.pid == self.identity.pid, "{} says it is {}", self.identity, truth.pid);
        Ok((self.identity, truth))
    }
}

/// The child of a process that has this number in its own PID namespace.
fn in_namespace(parent: u32, number: u32) -> Result<u32> {
    // proc_pid_status(5): the numbers, the one in the innermost namespace last.
    let is_it = |child: &u32| {
        let numbers = status(*child, *child, "NSpid");
        numbers.is_ok_and(|all| all.split_whitespace().last() == Some(&number.to_string()))
    };
    let found = children(parent)?.into_iter().find(is_it);
    found.with_context(|| format!("process {parent} has no child that is {number} for itself"))
}

fn command(words: &[String], stack: &Stack, folder: &Folder) -> Result<Command> {
    let [program, args @ ..] = words else { bail!("{} has an empty command", stack.name) };
    let log = File::create(folder.path("log")).context("create a peer's log")?;
    let mut command = Command::new(program);
    command.args(args).envs(&stack.env).arg("--truth").arg(folder.path("truth"));
    command.stdin(Stdio::null()).stderr(log);
    Ok(command)
}

/// The files of a peer: its plan, its record, its log.
#[derive(Debug)]
struct Folder(TempDir);

impl Folder {
    fn new() -> Result<Self> {
        Ok(Self(TempDir::with_prefix("peer-").context("create a peer's folder")?))
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(self.0.path(), name)
    }

    fn truth(&self) -> Result<Truth> {
        let truth = fs::read(self.path("truth")).context("read a peer's truth")?;
        serde_json::from_slice(&truth).context("parse a peer's truth")
    }

    /// The last lines of its stderr.
    fn log(&self) -> String {
        const LINES: usize = 15;
        let log = fs::read(self.path("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n")
    }
}
