//! Child processes: told to stop by signal, never outliving the tests.

use std::fs;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::Log;
use crate::pace::{self, POLL};

/// For a child to get its name; one that has its parent's keeps it.
const NAME_LIMIT: Duration = Duration::from_secs(1);

/// Whether a program runs, asked for its version. With `CI` in the environment it must.
pub(crate) fn is_installed(program: &str, version: &str) -> Result<bool> {
    let there = runs(program, version);
    ensure!(there || std::env::var_os("CI").is_none(), "{program} is not installed");
    Ok(there)
}

/// Whether a program runs, asked for its version.
pub(crate) fn runs(program: &str, version: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(version).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A child process that is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    pub(crate) fn new(child: Child) -> Self {
        Self { child }
    }

    /// Starts a program, and reads what it says on stderr.
    pub(crate) fn logged(command: &mut Command) -> Result<(Self, Log)> {
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child =
            child.with_context(|| format!("start {}", command.get_program().display()))?;
        let log = Log::of(child.stderr.take().context("a program without stderr")?);
        Ok((Self::new(child), log))
    }

    /// What it says on stdout, which must be piped, to whoever asks first.
    pub(crate) fn stdout(&mut self) -> Result<ChildStdout> {
        self.child.stdout.take().context("a program without stdout")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The name of its main thread, once it is its own: the kernel lets the parent go on in the
    /// midst of execve(2), before it gives the child its name (`begin_new_exec`).
    pub(crate) fn comm(&self) -> Result<String> {
        let begin = Instant::now();
        let ours = comm_in("thread-self")?;
        loop {
            let comm = comm_in(&self.pid().to_string())?;
            if comm != ours || begin.elapsed() > pace::limit(NAME_LIMIT) {
                return Ok(comm);
            }
            sleep(POLL);
        }
    }

    pub(crate) fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("wait for a process")?.is_none())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("send {signal:?} to process {}", self.pid()))
    }

    /// Its end, or an error when it does not come in time.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        pace::wait_for(limit, || {
            let status = self.child.try_wait().context("wait for a process")?;
            Ok(status.ok_or_else(|| format!("process {} runs on after {limit:?}", self.pid())))
        })
    }
}

/// The tests' own.
pub(crate) fn own_comm() -> Result<String> {
    comm_in("self")
}

fn comm_in(process: &str) -> Result<String> {
    let path = format!("/proc/{process}/comm");
    let comm = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    Ok(comm.trim_end().to_owned())
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
