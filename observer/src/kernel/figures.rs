//! The BPF programs' own figures, read by a thread that has the programs open, and nothing else.
//!
//! The kernel shows these figures only to a process that has the program open. But such a process can also run a
//! program of a raw tracepoint with arguments that it chooses (`BPF_PROG_TEST_RUN`). The program takes them for the
//! kernel's, and would copy what they point to. So this thread has a table of file descriptors and a system call filter
//! of its own. It cannot call bpf(2). The threads that can call it have no program open but the one without arguments.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

use crate::{descriptors, metrics::Program, sandbox};

/// How long to wait for the thread's answer.
const PATIENCE: Duration = Duration::from_secs(2);

type Reply = mpsc::SyncSender<Vec<Program>>;

/// The thread that has the programs open. When this is dropped, they are closed.
#[derive(Debug)]
pub(super) struct Figures {
    requests: Option<mpsc::Sender<Reply>>,
    thread: Option<JoinHandle<()>>,
}

impl Figures {
    /// Starts the thread. To be called after privileges are dropped: the thread inherits what is left.
    pub(super) fn of(programs: Vec<(String, OwnedFd)>) -> Result<Self> {
        let (requests, asked) = mpsc::channel::<Reply>();
        let (begun, outcome) = mpsc::sync_channel(1);
        let ours: Vec<RawFd> = programs.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
        let serve = move || {
            let own: Vec<BorrowedFd<'_>> = programs.iter().map(|(_, fd)| fd.as_fd()).collect();
            // The other threads keep their table.
            let alone = descriptors::keep_only(&own, libc::CLOSE_RANGE_UNSHARE)
                .context("cannot unshare the file descriptors (close_range)")
                .and_then(|()| sandbox::confine_reader());
            let failed = alone.is_err();
            if begun.send(alone).is_err() || failed {
                return;
            }
            for reply in asked {
                let figures = programs.iter().filter_map(|(name, fd)| figures(name, fd).ok());
                // The caller may have stopped waiting.
                let _ = reply.try_send(figures.collect());
            }
        };
        let thread = thread::Builder::new().name("figures".into()).spawn(serve);
        let thread = thread.context("cannot start the thread that reads program statistics")?;
        outcome.recv().map_err(|_| anyhow!("the thread that reads program statistics ended"))??;
        for number in ours {
            // SAFETY: the thread owns `programs`, whose numbers are in its own table now. In this table they are
            // copies without an owner.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    /// Reads the present figures of all programs. Waits at most [`PATIENCE`].
    pub(super) fn read(&self) -> Result<Vec<Program>> {
        let (reply, answer) = mpsc::sync_channel(1);
        let requests = self.requests.as_ref().context("not started")?;
        requests.send(reply).map_err(|_| anyhow!("the thread has ended"))?;
        answer.recv_timeout(PATIENCE).context("the thread that reads program statistics is late")
    }
}

impl Drop for Figures {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // It does not panic; the programs must be closed before this returns.
            let _ = thread.join();
        }
    }
}

/// Reads a program's figures from the file descriptor's `fdinfo` (`bpf_prog_show_fdinfo`): aya has no accessor for the
/// misses.
fn figures(name: &str, program: &OwnedFd) -> Result<Program> {
    let text = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", program.as_raw_fd()))?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
            .unwrap_or(0)
    };
    Ok(Program {
        name: name.to_owned(),
        runs: field("run_cnt"),
        run_time_ns: field("run_time_ns"),
        misses: field("recursion_misses"),
    })
}
