//! The processes of raw peers.

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
use crate::nobody::{BECOME_NOBODY, Reachable};
use crate::peer::Identity;
use crate::process::Process;

/// Time for a process to end once its stdin is closed.
const END_LIMIT: Duration = Duration::from_secs(10);

/// The options of a peer's process.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// A program, with its first arguments, that starts the peer: `unshare`, for example.
    pub through: Vec<String>,
    /// The descriptor of a listener that the process inherits.
    pub listener: Option<i32>,
    /// The peer's program at another place.
    pub program: Option<Arc<Reachable>>,
}

impl Start {
    /// A process of the user nobody.
    pub fn by_nobody() -> Result<Self> {
        let program = Some(Arc::new(Reachable::copy_of(&program()?)?));
        Ok(Self { program, ..Self::through(&[&["setpriv"][..], &BECOME_NOBODY].concat()) })
    }

    /// A process with this name.
    pub fn named(name: &str) -> Result<Self> {
        Ok(Self { program: Some(Arc::new(named(name)?)), ..Self::default() })
    }

    /// A process that this program starts, after its first arguments.
    pub fn through(words: &[&str]) -> Self {
        let through = words.iter().map(|word| (*word).to_owned()).collect();
        Self { through, ..Self::default() }
    }

    /// A process that loads the library at this path.
    pub fn loading(library: &Path) -> Self {
        Self::through(&["env", &format!("LD_PRELOAD={}", library.display())])
    }

    /// A process in the control group with this folder.
    pub fn in_group(folder: &Path) -> Self {
        let enter = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", folder.display());
        Self::through(&["sh", "-c", &enter, "sh"])
    }
}

/// The raw peers' program with another name.
pub fn named(name: &str) -> Result<Reachable> {
    Reachable::named(name, &program()?)
}

/// A raw peer's process.
#[derive(Debug)]
pub struct Peer {
    identity: Identity,
    process: Process,
    /// Its stdin, until it must end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts a peer; `name` is for errors.
    pub fn start(name: &str, start: &Start) -> Result<Self> {
        let program = start.program.as_ref().map_or_else(program, |it| Ok(it.path().to_owned()))?;
        let mut words: Vec<PathBuf> = start.through.iter().map(PathBuf::from).collect();
        words.push(program.clone());
        if let Some(listener) = start.listener {
            words.extend(["listener".into(), listener.to_string().into()]);
        }
        let (first, rest) = words.split_first().context("a program")?;
        let mut command = Program::new(first);
        command.args(rest).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command)?;
        let (input, output) = (process.stdin(), BufReader::new(process.stdout()?));
        let identity = Identity { name: name.to_owned(), pid: process.pid(), comm: comm(&program) };
        Ok(Self { identity, process, input, output })
    }

    /// Its process.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Sends it a command; [`Self::answer`] must follow.
    pub fn tell(&mut self, socket: usize, action: Action, payload: &[u8]) -> Result<()> {
        let command = Command { action, socket, payload: payload.len() };
        let mut line = serde_json::to_vec(&command)?;
        line.push(b'\n');
        let input = self.input.as_mut().context("the peer has ended")?;
        input.write_all(&line).and_then(|()| input.write_all(payload)).context("write to a peer")
    }

    /// Waits for the answer to a command; an error if its action failed.
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

    /// Sends it a command without a payload, and waits for the answer.
    pub fn ask(&mut self, socket: usize, action: Action) -> Result<Answer> {
        self.tell(socket, action, &[])?;
        self.answer()
    }

    /// Has it listen, and returns the address.
    pub fn listen(&mut self, address: Address) -> Result<Address> {
        if let Address::Inherited(address) = address {
            return Ok(*address);
        }
        self.ask(0, Action::Listen(address))?.address.context("it listens nowhere")
    }

    /// Has it fork: from here on its child is the peer.
    pub fn fork(&mut self) -> Result<()> {
        self.identity.pid = self.ask(0, Action::Fork)?.pid;
        Ok(())
    }

    /// Has it run the program at this path (execve(2)), with its open sockets.
    pub fn exec(&mut self, program: &Path) -> Result<()> {
        self.ask(0, Action::Exec(program.to_string_lossy().into_owned()))?;
        self.identity.comm = comm(program);
        Ok(())
    }

    /// Gives its main thread a name, from the main thread.
    pub fn rename(&mut self, name: &str) -> Result<()> {
        self.ask(0, Action::Rename(name.to_owned()))?;
        name.clone_into(&mut self.identity.comm);
        Ok(())
    }

    /// Gives its main thread a name, from another thread.
    pub fn rename_main(&mut self, name: &str) -> Result<()> {
        self.ask(0, Action::RenameMain(name.to_owned()))?;
        name.clone_into(&mut self.identity.comm);
        Ok(())
    }

    /// Finds its number, if it was started through a process that waits for it.
    pub fn find_child(&mut self) -> Result<()> {
        let pid = self.process.pid();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        self.identity.pid = children.trim().parse().context("not one child")?;
        Ok(())
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.wait(END_LIMIT)?;
        self.input = None;
        Ok(())
    }

    /// Has it close its sockets and end.
    pub fn end(&mut self) -> Result<()> {
        // It ends with its stdin. A peer that was killed has none.
        if self.input.take().is_none() {
            return Ok(());
        }
        let status = self.process.wait(END_LIMIT)?;
        ensure!(status.success(), "{} ended with {status}", self.identity);
        Ok(())
    }
}

/// The raw peers' program, which cargo builds with the tests.
pub fn program() -> Result<PathBuf> {
    let tests = env::current_exe().context("find the tests' own binary")?;
    let profile =
        tests.ancestors().nth(2).context("the tests' binary is not in a target directory")?;
    Ok(profile.join("raw-peer"))
}

/// The name that execve(2) gives a process: the program's, cut.
fn comm(program: &Path) -> String {
    const MOST: usize = 15;
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    name.chars().take(MOST).collect()
}
