//! The BPF programs' own figures, read by a thread that has the programs open, and nothing else.
//!
//! The kernel gives them only to who has a program open. But who has a program of a raw tracepoint open can also run
//! it, with arguments that it chooses (`BPF_PROG_TEST_RUN`), which the program takes for the kernel's: it would copy
//! what they point to. So the thread has a table of descriptors and a filter of system calls of its own. It cannot
//! call bpf(2), and the threads that can have no program open but the one that takes no arguments.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

use crate::sandbox;

/// A program's own figures, as the kernel keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramFigures {
    /// Its name.
    pub name: String,
    /// How often it ran, while `kernel.bpf_stats_enabled` is 1.
    pub runs: u64,
    /// How long, likewise.
    pub run_time_ns: u64,
    /// How often it was skipped because another program ran on that CPU.
    pub misses: u64,
}

/// For the thread to answer.
const PATIENCE: Duration = Duration::from_secs(2);

type Reply = mpsc::SyncSender<Vec<ProgramFigures>>;

/// The thread. Dropped, it has closed the programs.
#[derive(Debug)]
pub(super) struct Figures {
    requests: Option<mpsc::Sender<Reply>>,
    thread: Option<JoinHandle<()>>,
}

impl Figures {
    /// Starts it. To be called with what the daemon keeps of privileges: the thread has the same.
    pub(super) fn of(programs: Vec<(String, OwnedFd)>) -> Result<Self> {
        let (requests, asked) = mpsc::channel::<Reply>();
        let (begun, outcome) = mpsc::sync_channel(1);
        let numbers: Vec<RawFd> = programs.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
        let ours = numbers.clone();
        let serve = move || {
            let alone = keep_only(numbers).and_then(|()| sandbox::confine_reader());
            let failed = alone.is_err();
            if begun.send(alone).is_err() || failed {
                return;
            }
            for reply in asked {
                let figures = programs.iter().filter_map(|(name, fd)| figures(name, fd).ok());
                // Whoever asked may have given up waiting.
                let _ = reply.try_send(figures.collect());
            }
        };
        let thread = thread::Builder::new().name("figures".into()).spawn(serve);
        let thread = thread.context("cannot start the thread that reads program statistics")?;
        outcome.recv().map_err(|_| anyhow!("the thread that reads program statistics ended"))??;
        for number in ours {
            // SAFETY: the thread owns `programs`, whose numbers are of its own table now. What they are in ours are
            // copies that nobody owns.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    /// What the kernel says now.
    pub(super) fn read(&self) -> Result<Vec<ProgramFigures>> {
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
            // It does not panic; the programs are to be closed before this returns.
            let _ = thread.join();
        }
    }
}

/// Gives this thread a table of descriptors of its own, with these alone.
fn keep_only(mut numbers: Vec<RawFd>) -> Result<()> {
    numbers.sort_unstable();
    let mut from = 0;
    let mut ranges = Vec::new();
    for number in numbers {
        let number = number.cast_unsigned();
        ranges.extend(number.checked_sub(1).filter(|last| *last >= from).map(|last| (from, last)));
        from = number + 1;
    }
    ranges.push((from, u32::MAX));
    for (first, last) in ranges {
        // SAFETY: takes numbers. What it closes are this thread's copies, which nothing here uses: with
        // CLOSE_RANGE_UNSHARE the first call makes the table its own.
        let result =
            unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_UNSHARE) };
        if result < 0 {
            let error = io::Error::last_os_error();
            return Err(error).context("cannot unshare the file descriptors (close_range)");
        }
    }
    Ok(())
}

/// Reads a program's figures. aya has no accessor for the misses; the kernel also prints them in
/// the file descriptor's `fdinfo` (`bpf_prog_show_fdinfo`).
fn figures(name: &str, program: &OwnedFd) -> Result<ProgramFigures> {
    let text = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", program.as_raw_fd()))?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
            .unwrap_or(0)
    };
    Ok(ProgramFigures {
        name: name.to_owned(),
        runs: field("run_cnt"),
        run_time_ns: field("run_time_ns"),
        misses: field("recursion_misses"),
    })
}
