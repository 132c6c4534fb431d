//! Looks up who processes are.
//!
//! A process chooses how long its files in `/proc` are, and how long it takes to read them. So neither records nor
//! the table of processes wait for the source: a [`Lookup`] has a thread of its own. Until there is an answer the
//! labels are empty, and a snapshot waits a little for [pending](super::ProcessNames::pending) ones.
//!
//! The source answers for the process that has the pid at that time. So an answer counts only if it came before the
//! process ran another program, or exited.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use rustc_hash::FxHashMap;

use super::{
    Comm, ProcessId,
    identity::Identity,
    lives::{Life, Table},
};

/// Knows about processes.
pub trait ProcessSource {
    /// The name of the process; `None` when it is gone.
    fn comm(&self, pid: u32) -> Option<Comm>;

    /// When the process began, by a clock of the source's own; `None` when it is gone. Two processes of one pid
    /// have begun at different times.
    fn began(&self, pid: u32) -> Option<u64>;

    /// What else is known of the process.
    fn identity(&self, pid: u32) -> Identity;

    /// The time of the kernel's monotonic clock: the source answers for the processes that have the pids now.
    fn now_ns(&self) -> u64;
}

/// One program that a process runs, and the source's answer about it.
#[derive(Clone, Debug, Default)]
pub(super) struct Program(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    answer: OnceLock<Answer>,
    /// When the process executed another program, or exited.
    ended_ns: AtomicU64,
    /// When the process first got another name.
    renamed_ns: AtomicU64,
}

impl Default for Inner {
    fn default() -> Self {
        let [ended_ns, renamed_ns] = [u64::MAX; 2].map(AtomicU64::new);
        Self { answer: OnceLock::new(), ended_ns, renamed_ns }
    }
}

/// The source's answer.
#[derive(Debug)]
struct Answer {
    comm: Option<Comm>,
    /// When the process began, by the source's clock.
    began: Option<u64>,
    identity: Arc<Identity>,
    /// The time of the answer.
    at_ns: u64,
}

impl Program {
    /// A program with an answer.
    #[cfg(test)]
    pub(super) fn answered(identity: Identity) -> Self {
        let program = Self::default();
        let answer = Answer { comm: None, began: None, identity: Arc::new(identity), at_ns: 0 };
        program.0.answer.set(answer).expect("new");
        program
    }

    /// Records when it ended.
    pub(super) fn ends_at(&self, time_ns: u64) {
        self.0.ended_ns.store(time_ns, Ordering::Relaxed);
    }

    /// Records when the process first got another name.
    pub(super) fn renamed_at(&self, time_ns: u64) {
        self.0.renamed_ns.store(time_ns, Ordering::Relaxed);
    }

    fn has_ended(&self) -> bool {
        self.0.ended_ns.load(Ordering::Relaxed) != u64::MAX
    }

    /// Whether all is known that will be.
    pub(super) fn is_settled(&self) -> bool {
        self.0.answer.get().is_some() || self.has_ended()
    }

    fn answer(&self) -> Option<&Answer> {
        let ended_ns = self.0.ended_ns.load(Ordering::Relaxed);
        self.0.answer.get().filter(|answer| answer.at_ns < ended_ns)
    }

    /// What is known of it; empty without an answer.
    pub(super) fn identity(&self) -> Arc<Identity> {
        self.answer().map(|answer| Arc::clone(&answer.identity)).unwrap_or_default()
    }

    /// The name that the process had first, for processes that no record named.
    pub(super) fn comm(&self) -> Option<Comm> {
        let renamed_ns = self.0.renamed_ns.load(Ordering::Relaxed);
        self.answer().filter(|answer| answer.at_ns < renamed_ns)?.comm
    }

    /// When the process began, `None` if the source did not know it. Nothing without an answer.
    #[expect(clippy::option_option, reason = "not answered, and answered with nothing")]
    pub(super) fn began(&self) -> Option<Option<u64>> {
        Some(self.answer()?.began)
    }

    /// Whether it is the same one.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether the answers about both are the same.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let same = || Some(self.answer()?.identity == other.answer()?.identity);
        self.is(other) || same().unwrap_or(false)
    }
}

/// The processes that are to be looked up: each once, with the last program that it runs.
#[derive(Debug, Default)]
pub(super) struct LookupQueue {
    programs: FxHashMap<u32, Program>,
    order: VecDeque<u32>,
    /// A search for exits and names that were not reported is requested.
    pub(super) search: bool,
    pub(super) counts: LookupCounts,
}

/// Lookups of processes, by their outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookupCounts {
    /// The source knew the process.
    pub answered: u64,
    /// The process exited, or ran another program, before it was looked up.
    pub gone: u64,
    /// A snapshot was taken before there was an answer: the labels are empty in it.
    pub late: u64,
}

impl LookupQueue {
    /// Queues the process that has the pid now.
    pub(super) fn ask(&mut self, pid: u32, program: &Program) {
        if self.programs.insert(pid, program.clone()).is_none() {
            self.order.push_back(pid);
        } else {
            self.counts.gone += 1;
        }
    }

    fn next(&mut self) -> Option<(u32, Program)> {
        let pid = self.order.pop_front()?;
        self.programs.remove(&pid).map(|program| (pid, program))
    }
}

/// Asks a source about the processes of a table.
#[derive(Debug)]
pub struct Lookup<S> {
    source: S,
    table: Arc<Mutex<Table>>,
    /// Something is to be looked up. Closes with the tables; `None` if another lookup has it.
    pub wakeups: Option<mpsc::Receiver<()>>,
}

impl<S: ProcessSource> Lookup<S> {
    pub(super) fn new(
        source: S,
        table: Arc<Mutex<Table>>,
        wakeups: Option<mpsc::Receiver<()>>,
    ) -> Self {
        Self { source, table, wakeups }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks up all that are queued.
    pub fn answer(&self) {
        loop {
            let next = self.table().queue.next();
            let Some((pid, program)) = next else { return };
            let answer = (!program.has_ended()).then(|| self.ask(pid));
            let is_answered = answer.as_ref().is_some_and(|answer| answer.began.is_some());
            if let Some(answer) = answer {
                // Asked once.
                let _ = program.0.answer.set(answer);
            }
            let mut table = self.table();
            table.queue.counts.answered += u64::from(is_answered);
            table.queue.counts.gone += u64::from(!is_answered);
        }
    }

    fn ask(&self, pid: u32) -> Answer {
        let Self { source, .. } = self;
        let (began, comm) = (source.began(pid), source.comm(pid));
        let identity = Arc::new(source.identity(pid));
        // What was read belongs together only if it is the same process still.
        let is_same = source.began(pid) == began;
        let answer = Answer { comm, began, identity, at_ns: source.now_ns() };
        if is_same { answer } else { Answer { comm: None, identity: Arc::default(), ..answer } }
    }

    /// Whether a search was [requested](super::Processes::find_unreported).
    pub fn is_search_requested(&self) -> bool {
        self.table().queue.search
    }

    /// Searches for exits and new names that were not reported. O(processes).
    pub fn search(&self) {
        let mut table = self.table();
        table.queue.search = false;
        let running = table.running();
        drop(table);
        for (pid, id, comm, began) in running {
            let now_ns = self.source.now_ns();
            let now = self.source.began(pid);
            let is_it = |life: &Life| life.is_running() && life.has(id);
            if now.is_none() || now != began {
                self.table().exit(pid, now_ns, is_it);
            } else if let Some(now) = self.source.comm(pid).filter(|now| *now != comm) {
                self.table().execute(pid, now_ns, now);
            }
            thread::yield_now();
        }
    }
}

/// A process that runs: its pid, its first id, its name, and when it began, if that is known.
pub(super) type Running = (u32, ProcessId, Comm, Option<u64>);
