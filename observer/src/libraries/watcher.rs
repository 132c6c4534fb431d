//! The daemon's side: it decides which processes are looked at, and keeps the opener busy.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    panic, process,
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};
use observer_core::{names::escape::escape, process::ProcessSource as _};
use observer_tls::Refusal;
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
    process::{Pid, WaitOptions, waitpid},
};
use tracing::{debug, info, warn};
use zerocopy::IntoBytes as _;

use super::{
    looks::Looks,
    messages::{Failure, FileReport, Outcome, Report, Request, Told, library_label},
    opener,
};
use crate::{
    config::Filter,
    connections::Library,
    descriptors,
    kernel::{Method, TlsProbes, Uprobes},
    memory,
    metrics::TlsFiles,
    privileges::{self, Account},
    process::ProcFs,
    sandbox,
    sync::lock,
};

/// Requests that the opener has not answered yet, at most: few, since it answers them in their order, and a process that is
/// about to use TLS waits for them.
const MAX_ASKED: usize = 2;

/// Processes that wait for being looked at, at most.
const MAX_WAITING: usize = 65_536;

/// Libraries that are remembered for a process, at most.
const MAX_LIBRARIES: usize = 16;

/// How long the watcher waits for messages, and between two looks at the ring: its BPF program need not wake anybody.
const INTERVAL: Duration = Duration::from_millis(50);

/// The time between two searches for processes that are new.
const SEARCH: Duration = Duration::from_secs(2);

/// How long the end of the opener is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

const SOCKET: Token = Token(0);
const RING: Token = Token(1);
const WAKE: Token = Token(2);

/// The opener, as the daemon sees it: a process, and the daemon's end of a socket.
pub struct Opener {
    pid: Pid,
    socket: OwnedFd,
    pids: RingBuf<MapData>,
}

impl Opener {
    /// Starts the process. To be called before privileges are given up, and before there is another thread.
    pub fn start(probes: TlsProbes, account: Option<&Account>) -> Result<Self> {
        let TlsProbes { uprobes, pids } = probes;
        let flags = SocketFlags::CLOEXEC;
        let (ours, its) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .context("cannot create a pair of sockets")?;
        // SAFETY: this process has one thread, so no lock is held that the new one needs.
        match unsafe { libc::fork() } {
            0 => {
                let code = match be_opener(its.as_fd(), uprobes, account) {
                    Ok(()) => 0,
                    Err(error) => {
                        warn!("TLS: the process that opens files cannot start: {error:#}");
                        1
                    }
                };
                // SAFETY: ends this process, without what the daemon has to do at its end.
                unsafe { libc::_exit(code) }
            }
            pid => {
                let pid = Pid::from_raw(pid).filter(|_| pid > 0);
                let pid = pid.context("cannot start the process that opens files")?;
                rustix::io::ioctl_fionbio(&ours, true).context("cannot use the socket")?;
                Ok(Self { pid, socket: ours, pids })
            }
        }
    }
}

/// The opener: confines itself and answers until the daemon ends.
fn be_opener(socket: BorrowedFd<'_>, uprobes: Uprobes, account: Option<&Account>) -> Result<()> {
    panic::set_hook(Box::new(|_| process::abort()));
    // Whoever ends the daemon ends this process with it, but not before.
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: no handler runs.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let log = io::stderr();
    descriptors::keep_only(&[socket, uprobes.program(), log.as_fd()], 0)
        .context("cannot close files")?;
    opener::raise_limit();
    let method = uprobes.method();
    privileges::reduce_to(method.capabilities(), account)?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("cannot follow the daemon's end")?;
    memory::give_back();
    sandbox::confine_opener(matches!(method, Method::PerfEvents(_)))?;
    opener::run(socket, uprobes);
    Ok(())
}

/// The thread that asks the opener. When this is dropped, nothing is probed any more.
#[derive(Debug)]
pub struct Watcher {
    figures: Arc<Mutex<TlsFiles>>,
    found: Arc<Mutex<HashMap<u32, Vec<Library>>>>,
    waker: Arc<Waker>,
    stop: mpsc::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts the thread.
    pub fn start(opener: Opener, filter: &Filter) -> Result<Self> {
        let poll = Poll::new().context("cannot create an epoll instance")?;
        for (fd, token) in [(opener.socket.as_raw_fd(), SOCKET), (opener.pids.as_raw_fd(), RING)] {
            poll.registry()
                .register(&mut SourceFd(&fd), token, Interest::READABLE)
                .context("cannot wait for the process that opens files")?;
        }
        let waker = Arc::new(Waker::new(poll.registry(), WAKE).context("cannot create a waker")?);
        let figures = Arc::new(Mutex::new(TlsFiles::default()));
        let found = Arc::new(Mutex::new(HashMap::new()));
        let (stop, stopped) = mpsc::channel();
        let state = State {
            opener,
            figures: Arc::clone(&figures),
            found: Arc::clone(&found),
            finding: HashMap::new(),
            filter: filter.clone(),
            waiting: VecDeque::new(),
            is_waiting: HashSet::new(),
            again: VecDeque::new(),
            seen: HashSet::new(),
            looks: Looks::default(),
            asked: 0,
            has_warned: false,
        };
        let thread = thread::Builder::new()
            .name("tls-files".into())
            .spawn(move || state.run(poll, &stopped))
            .context("cannot start the thread that looks for TLS libraries")?;
        Ok(Self { figures, found, waker, stop, thread: Some(thread) })
    }

    /// The files that were searched, by library and result.
    pub fn figures(&self) -> TlsFiles {
        lock(&self.figures).clone()
    }

    /// The libraries of processes, by pid, and files that may have one.
    pub fn libraries(&self) -> Vec<(u32, Vec<Library>)> {
        lock(&self.found).iter().map(|(pid, found)| (*pid, found.clone())).collect()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // If the thread has ended, it has closed the socket.
        let _ = self.stop.send(());
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct State {
    opener: Opener,
    figures: Arc<Mutex<TlsFiles>>,
    /// What was found in the files of processes when they were last looked at.
    found: Arc<Mutex<HashMap<u32, Vec<Library>>>>,
    /// What is being found in those that are looked at.
    finding: HashMap<u32, Vec<Library>>,
    filter: Filter,
    /// Processes to be looked at.
    waiting: VecDeque<u32>,
    is_waiting: HashSet<u32>,
    /// Processes to be looked at once more, and when: they may not have loaded their libraries yet.
    again: VecDeque<(Instant, u32)>,
    /// The processes of the last search.
    seen: HashSet<u32>,
    looks: Looks,
    asked: usize,
    /// Whether it was logged that a capability is missing.
    has_warned: bool,
}

impl State {
    fn run(mut self, mut poll: Poll, stopped: &mpsc::Receiver<()>) {
        let mut events = Events::with_capacity(8);
        let mut search_at = Instant::now();
        let is_over = loop {
            if stopped.try_recv().is_ok() {
                break false;
            }
            if Instant::now() >= search_at {
                let begin = Instant::now();
                self.search();
                // At most a twentieth of one CPU's time.
                search_at = Instant::now() + SEARCH.max(begin.elapsed() * 20);
            }
            self.take_pids();
            self.take_again();
            if self.take_reports().is_err() || self.ask().is_err() {
                break true;
            }
            match poll.poll(&mut events, Some(INTERVAL)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => break true,
                _ => {}
            }
        };
        if is_over {
            warn!(
                "TLS: the process that opens files has ended, so the plaintext of TLS connections \
                 is no longer seen; restart the daemon"
            );
        }
        self.close();
    }

    /// Ends the opener, and waits until it has detached its probes.
    fn close(self) {
        let Self { opener: Opener { pid, socket, pids: _ }, .. } = self;
        drop(socket);
        let deadline = Instant::now() + PATIENCE;
        while matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None))
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn add(&mut self, pid: u32) {
        if self.waiting.len() >= MAX_WAITING {
            self.count(None, Outcome::Failed(Failure::Limit));
        } else if self.is_waiting.insert(pid) {
            self.waiting.push_back(pid);
        }
    }

    /// Takes processes that the BPF programs have reported. They are about to use TLS, so they go first.
    fn take_pids(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.opener.pids.next() {
            let Some(pid) = entry.first_chunk().map(|pid| u32::from_ne_bytes(*pid)) else {
                continue;
            };
            if self.looks.wanted(pid, now) && self.is_waiting.insert(pid) {
                self.waiting.push_front(pid);
            }
        }
        for pid in self.looks.due(now) {
            self.add(pid);
        }
    }

    fn take_again(&mut self) {
        let now = Instant::now();
        while let Some(&(at, pid)) = self.again.front()
            && at <= now
        {
            self.again.pop_front();
            self.add(pid);
        }
    }

    /// Looks for processes that are new.
    fn search(&mut self) {
        let Ok(entries) = fs::read_dir("/proc") else { return };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let present: HashSet<u32> = names.filter_map(|name| name.parse().ok()).collect();
        let new: Vec<u32> = present.difference(&self.seen).copied().collect();
        self.looks.keep(&present);
        self.finding.retain(|pid, _| present.contains(pid));
        lock(&self.found).retain(|pid, _| present.contains(pid));
        self.seen = present;
        let own = process::id();
        for pid in new {
            if pid != own
                && pid != self.opener.pid.as_raw_pid().cast_unsigned()
                && self.selects(pid)
            {
                self.add(pid);
                self.again.push_back((Instant::now() + SEARCH, pid));
            }
        }
    }

    /// Whether connections of the process may be selected. The BPF programs decide whether they are.
    fn selects(&self, pid: u32) -> bool {
        let Filter { ports: _, pids, comms, uids, cgroups, children } = &self.filter;
        // Who descends from whom only the BPF programs know.
        if self.filter.selects_all_processes() || *children || pids.contains(&pid) {
            return true;
        }
        let is_named = || {
            let comm = ProcFs::default().comm(pid);
            comm.is_some_and(|comm| {
                comms.iter().any(|name| name.as_str().as_bytes() == comm.as_bytes())
            })
        };
        if !comms.is_empty() && is_named() {
            return true;
        }
        if uids.is_empty() && cgroups.is_empty() {
            return false;
        }
        let identity = ProcFs::default().identity(pid);
        uids.iter().any(|uid| *identity.uid == *uid.to_string())
            || cgroups
                .iter()
                .any(|name| identity.cgroup.path.split('/').any(|of| of == name.as_str()))
    }

    /// Asks the opener to look at processes. An error if it has ended.
    fn ask(&mut self) -> Result<(), Errno> {
        while self.asked < MAX_ASKED {
            let Some(pid) = self.waiting.pop_front() else { break };
            match send(&self.opener.socket, Request::new(pid).as_bytes(), SendFlags::NOSIGNAL) {
                Ok(_) => {
                    self.is_waiting.remove(&pid);
                    self.asked += 1;
                }
                Err(Errno::AGAIN | Errno::INTR) => {
                    self.waiting.push_front(pid);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes what the opener has found out. An error if it has ended.
    fn take_reports(&mut self) -> Result<(), Errno> {
        let mut message = [0_u8; size_of::<Report>() + 1];
        loop {
            let length = match recv(&self.opener.socket, &mut message, RecvFlags::empty()) {
                Ok((0, _)) => return Err(Errno::PIPE),
                Ok((_, length)) => length,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error),
            };
            match message.get(..length).and_then(Report::read) {
                Some(Told::Done { pid }) => {
                    self.is_looked_at(pid);
                    self.asked = self.asked.saturating_sub(1);
                    self.ask()?;
                }
                Some(Told::File(report)) => self.take(&report),
                None => {
                    warn!("TLS: the process that opens files has sent a message that is not valid");
                }
            }
        }
    }

    fn take(&mut self, report: &FileReport) {
        let FileReport { pid, kind, outcome, version, path, hooks, again } = report;
        self.note(report);
        if *again {
            return;
        }
        self.count(Some(report), *outcome);
        self.looks.found(*pid);
        let (library, path) = (library_label(*kind), escape(path));
        let space = if version.is_empty() { "" } else { " " };
        match outcome {
            Outcome::Attached => {
                info!(
                    "TLS: {library}{space}{version} in {path}: {hooks} places probed (pid {pid})"
                );
            }
            Outcome::Failed(Failure::Denied) if !self.has_warned => {
                self.has_warned = true;
                warn!(
                    "TLS: cannot open the files of process {pid}: add CAP_SYS_PTRACE, \
                     CAP_DAC_READ_SEARCH and CAP_CHECKPOINT_RESTORE. In a container, AppArmor may \
                     also forbid it"
                );
            }
            _ if kind.is_some() => info!(
                "TLS: {library}{space}{version} in {path} is not probed: {} (pid {pid})",
                outcome.label()
            ),
            _ => debug!("TLS: {path}: {} (pid {pid})", outcome.label()),
        }
    }

    /// Remembers what was found in a file of a process that is being looked at.
    fn note(&mut self, report: &FileReport) {
        let nothing = [Refusal::NoLibrary, Refusal::NotElf].map(Outcome::Refused);
        let found = self.finding.entry(report.pid).or_default();
        if found.len() < MAX_LIBRARIES && !nothing.contains(&report.outcome) {
            found.push(Library {
                library: library_label(report.kind).into(),
                version: report.version.clone(),
                path: escape(&report.path).into_owned(),
                result: report.outcome.label().into(),
            });
        }
    }

    /// Handles that all files of a process were looked at.
    fn is_looked_at(&mut self, pid: u32) {
        match self.finding.remove(&pid) {
            Some(found) if !found.is_empty() => lock(&self.found).insert(pid, found),
            _ => lock(&self.found).remove(&pid),
        };
    }

    fn count(&self, report: Option<&FileReport>, outcome: Outcome) {
        let library = library_label(report.and_then(|report| report.kind));
        *lock(&self.figures).0.entry((library, outcome.label())).or_default() += 1;
    }
}
