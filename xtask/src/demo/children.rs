//! The processes of the demo: the daemon, a service, its clients.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::exec;

/// Time limit for a process to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// A process that is stopped when this is dropped.
pub(super) struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts the command. Its standard error goes to a file in `directory`.
    pub(super) fn start(
        name: &'static str,
        command: &mut Command,
        directory: &Path,
    ) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        // In a process group of its own, so that Ctrl-C does not end it at once.
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot run {}", exec::shown(command)))?;
        Ok(Self { name, child, log })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The first line of its standard output, which must be piped.
    pub(super) fn first_line(&mut self) -> Result<String> {
        let output = self.child.stdout.take().context("its output is not piped")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).context("cannot read its output")?;
        if line.is_empty() {
            let _ = self.child.wait();
            self.check()?;
        }
        Ok(line)
    }

    /// Whether its standard error has this text.
    pub(super) fn says(&self, text: &str) -> bool {
        std::fs::read_to_string(&self.log).is_ok_and(|log| log.contains(text))
    }

    /// Its status, if it has ended.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for the {}", self.name))
    }

    /// Returns an error with its last lines if it has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let from = log.lines().count().saturating_sub(10);
            let last: Vec<&str> = log.lines().skip(from).collect();
            bail!("the {} ended ({status}):\n{}", self.name, last.join("\n"));
        }
        Ok(())
    }

    /// Sends SIGTERM, and waits for the end.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM);
        let begun = Instant::now();
        while self.ended()?.is_none() {
            if begun.elapsed() > GRACE {
                self.signal(Signal::KILL);
                self.child.wait()?;
                bail!("the {} did not end within {} s", self.name, GRACE.as_secs());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Sends a signal unless the process has ended: another process may then have its pid.
    fn signal(&mut self, signal: Signal) {
        if !matches!(self.ended(), Ok(None)) {
            return;
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if pid.is_none_or(|pid| kill_process(pid, signal).is_err()) {
            // The process is sudo, which runs as root and passes the signal on.
            let name = if signal == Signal::KILL { "KILL" } else { "TERM" };
            let kill = ["-n", "kill", "-s", name, &self.child.id().to_string()];
            let _ = Command::new("sudo").args(kill).status();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.ended(), Ok(None)) {
            let _ = self.stop();
        }
    }
}
