//! The processes of raw peers, as a test has them.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command as Program, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;

use super::command::{Action, Address, Answer, Command};
use crate::nobody::{NOBODY, Reachable};
use crate::peer::Identity;
use crate::process::Process;

/// For a process to end once its input has.
const END_LIMIT: Duration = Duration::from_secs(10);

/// How a peer's process is started.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// A program, and its first arguments, that starts the peer: `unshare`, say.
    pub through: Vec<String>,
    /// The descriptor of a listener, which it inherits.
    pub listener: Option<i32>,
    /// The program under another name.
    pub program: Option<PathBuf>,
    /// A copy of the program where everybody reaches it, if that is to be run.
    pub reachable: Option<Arc<Reachable>>,
}

impl Start {
    /// Run by nobody.
    pub fn by_nobody() -> Result<Self> {
        let reachable = Reachable::copy_of(&program()?)?;
        let user = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
        let words = ["setpriv".to_owned()].into_iter().chain(user);
        Ok(Self {
            through: words.chain(["--clear-groups".to_owned()]).collect(),
            listener: None,
            program: Some(reachable.path().to_owned()),
            reachable: Some(Arc::new(reachable)),
        })
    }
}

/// A raw peer's process.
#[derive(Debug)]
pub struct Peer {
    identity: Identity,
    process: Process,
    /// `None` once the peer is told to end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts it in the role of this name.
    pub fn start(name: &str, start: &Start) -> Result<Self> {
        let program = start.program.clone().map_or_else(program, Ok)?;
        let mut words: Vec<PathBuf> = start.through.iter().map(PathBuf::from).collect();
        words.push(program.clone());
        if let Some(listener) = start.listener {
            words.extend(["listener".into(), listener.to_string().into()]);
        }
        let (first, rest) = words.split_first().context("a program")?;
        let mut command = Program::new(first);
        command.args(rest).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("a peer without stdout")?);
        let process = Process::new(child);
        let identity = Identity { name: name.to_owned(), pid: process.pid(), comm: comm(&program) };
        Ok(Self { identity, process, input, output })
    }

    /// Its process.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Tells it to do something with a socket. What came of it: [`Self::answer`].
    pub fn tell(&mut self, socket: usize, action: Action, payload: &[u8]) -> Result<()> {
        let command = Command { action, socket, payload: payload.len() };
        let mut line = serde_json::to_vec(&command)?;
        line.push(b'\n');
        let input = self.input.as_mut().context("the peer was told to end")?;
        input.write_all(&line).and_then(|()| input.write_all(payload)).context("tell a peer")
    }

    /// Waits until what it was told is done.
    pub fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let identity = &self.identity;
        let answer: Answer =
            serde_json::from_str(&line).with_context(|| format!("{identity} does not answer"))?;
        if let Some(error) = answer.error {
            bail!("{identity}: {error}");
        }
        Ok(answer)
    }

    /// Tells it something and waits until it is done.
    pub fn ask(&mut self, socket: usize, action: Action) -> Result<Answer> {
        self.tell(socket, action, &[])?;
        self.answer()
    }

    /// Has it listen, and says where.
    pub fn listen(&mut self, address: Address) -> Result<Address> {
        if let Address::Inherited(address) = address {
            return Ok(*address);
        }
        self.ask(0, Action::Listen(address))?.address.context("it listens nowhere")
    }

    /// What was told it from here on, its child does.
    pub fn fork(&mut self) -> Result<()> {
        self.identity.pid = self.ask(0, Action::Fork)?.pid;
        Ok(())
    }

    /// It goes on as another program, which is found at this path, with the open sockets.
    pub fn exec(&mut self, program: &Path) -> Result<()> {
        self.ask(0, Action::Exec(program.to_string_lossy().into_owned()))?;
        self.identity.comm = comm(program);
        Ok(())
    }

    /// Its main thread, which has to be the one that does what it is told, gives itself a name.
    pub fn rename(&mut self, name: &str) -> Result<()> {
        self.ask(0, Action::Rename(name.to_owned()))?;
        name.clone_into(&mut self.identity.comm);
        Ok(())
    }

    /// Another thread than its main thread does what it is told: it gives the main thread a name.
    pub fn rename_main(&mut self, name: &str) -> Result<()> {
        self.ask(0, Action::RenameMain(name.to_owned()))?;
        name.clone_into(&mut self.identity.comm);
        Ok(())
    }

    /// The process was started through one that waits for it: this is its number, as we have it.
    pub fn find_child(&mut self) -> Result<()> {
        let pid = self.process.pid();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        self.identity.pid = children.trim().parse().context("not one child")?;
        Ok(())
    }

    /// Ends it as nobody can prevent.
    pub fn kill(&mut self) -> Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.wait(END_LIMIT)?;
        self.input = None;
        Ok(())
    }

    /// Has it close its sockets and end.
    pub fn end(&mut self) -> Result<()> {
        // It ends with its input. One that was killed has none.
        if self.input.take().is_none() {
            return Ok(());
        }
        let status = self.process.wait(END_LIMIT)?;
        ensure!(status.success(), "{} ended with {status}", self.identity);
        Ok(())
    }
}

/// The program of the raw peers, which cargo builds along with the tests.
pub fn program() -> Result<PathBuf> {
    let tests = env::current_exe().context("find the tests' own binary")?;
    let profile =
        tests.ancestors().nth(2).context("the tests' binary is in no target directory")?;
    Ok(profile.join("raw-peer"))
}

/// The name that execve(2) gives a process.
fn comm(program: &Path) -> String {
    const MOST: usize = 15;
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    name.chars().take(MOST).collect()
}
