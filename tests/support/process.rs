//! Child processes, which end with the tests at the latest.

use std::fs;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::Log;
use crate::pace::{self, POLL};

/// Time for a child to get its own name; one with its parent's name keeps it.
const NAME_LIMIT: Duration = Duration::from_secs(1);

/// Whether a program is installed. With `CI` in the environment it must be.
pub fn is_installed(program: &str, version: &str) -> Result<bool> {
    let there = runs(program, version);
    ensure!(there || std::env::var_os("CI").is_none(), "{program} is not installed");
    Ok(there)
}

/// Whether a program runs and ends with success if it is asked for its version.
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
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let child = command.spawn();
        let child = child.with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self { child })
    }

    /// Starts a program without stdin, and reads its stderr.
    pub(crate) fn logged(command: &mut Command) -> Result<(Self, Log)> {
        let mut process = Self::spawn(command.stdin(Stdio::null()).stderr(Stdio::piped()))?;
        let log = Log::of(process.child.stderr.take().context("a program without stderr")?);
        Ok((process, log))
    }

    /// Its stdin, if it is piped and was not taken before.
    pub(crate) fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Its stdout, which must be piped and not taken before.
    pub(crate) fn stdout(&mut self) -> Result<ChildStdout> {
        self.child.stdout.take().context("a program without stdout")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The name of its main thread, once it is its own: the kernel lets the parent go on in the
    /// middle of execve(2), before it gives the child its name (`begin_new_exec`).
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
        self::signal(self.pid(), signal)
    }

    /// Waits for its end; an error if that takes longer than `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        pace::wait_for(limit, || {
            let status = self.child.try_wait().context("wait for a process")?;
            Ok(status.with_context(|| format!("process {} still runs after {limit:?}", self.pid())))
        })
    }
}

/// Sends a signal to a process.
pub(crate) fn signal(pid: u32, signal: Signal) -> Result<()> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process")?;
    kill_process(number, signal).with_context(|| format!("send {signal:?} to process {pid}"))
}

/// The name of a process, by its number, `self` or `thread-self`.
pub(crate) fn comm_in(process: &str) -> Result<String> {
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
