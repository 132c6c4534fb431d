//! Lookups of the names and identities of processes.
//!
//! A process chooses how long its files in `/proc` are, and how long it takes to read them. So neither records nor
//! the table of processes wait for the source: a [`Lookup`] runs in a thread of its own. Until there is an answer the
//! labels are empty, and a snapshot waits a short time for [pending](super::ProcessNames::pending) answers.
//!
//! The source answers about the process that has the pid at that time. So an answer counts only if it came before the
//! process ran another program, or exited.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use rustc_hash::FxHashMap;

use super::{
    Comm, ProcessId,
    identity::{Identity, Pod},
    lives::{Life, Table},
};

/// How long a service waits for the name of its pod: five minutes. Kubernetes may not answer at all.
pub(super) const POD_PATIENCE_NS: u64 = 300_000_000_000;

/// A source of facts about processes, such as `/proc`.
pub trait ProcessSource {
    /// The name of the process; `None` if it is gone.
    fn comm(&self, pid: u32) -> Option<Comm>;

    /// The start time of the process, by a clock of the source's own; `None` if it is gone. Two processes with the
    /// same pid have different start times.
    fn began(&self, pid: u32) -> Option<u64>;

    /// The identity of the process; the default if it is gone.
    fn identity(&self, pid: u32) -> Identity;

    /// The time in nanoseconds of the kernel's monotonic clock: answers are about the processes at this time.
    fn now_ns(&self) -> u64;
}

/// One program that a process runs, and the source's answer about it.
#[derive(Clone, Debug, Default)]
pub(super) struct Program(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    answer: OnceLock<Answer>,
    /// The pod of the process, once Kubernetes has answered.
    pod: OnceLock<Arc<Pod>>,
    /// Kubernetes does not know the pod.
    is_podless: AtomicBool,
    /// What counts for the service of the process, once that does not change any more.
    settled: OnceLock<Arc<Identity>>,
    /// The time when the process executed another program, or exited; `u64::MAX` before.
    ended_ns: AtomicU64,
    /// The time when the process first got another name; `u64::MAX` before.
    renamed_ns: AtomicU64,
}

impl Default for Inner {
    fn default() -> Self {
        let [ended_ns, renamed_ns] = [u64::MAX; 2].map(AtomicU64::new);
        Self {
            answer: OnceLock::new(),
            pod: OnceLock::new(),
            is_podless: AtomicBool::new(false),
            settled: OnceLock::new(),
            ended_ns,
            renamed_ns,
        }
    }
}

/// The source's answer.
#[derive(Debug)]
struct Answer {
    comm: Option<Comm>,
    /// The start time of the process, by the source's clock.
    began: Option<u64>,
    identity: Arc<Identity>,
    /// The time of the answer, by the kernel's monotonic clock.
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

    /// Records the time when it ended.
    pub(super) fn ends_at(&self, time_ns: u64) {
        self.0.ended_ns.store(time_ns, Ordering::Relaxed);
    }

    /// Records the time when the process first got another name.
    pub(super) fn renamed_at(&self, time_ns: u64) {
        self.0.renamed_ns.store(time_ns, Ordering::Relaxed);
    }

    fn has_ended(&self) -> bool {
        self.0.ended_ns.load(Ordering::Relaxed) != u64::MAX
    }

    /// Whether nothing more will be known about it.
    pub(super) fn is_settled(&self) -> bool {
        self.0.answer.get().is_some() || self.has_ended()
    }

    fn answer(&self) -> Option<&Answer> {
        let ended_ns = self.0.ended_ns.load(Ordering::Relaxed);
        self.0.answer.get().filter(|answer| answer.at_ns < ended_ns)
    }

    /// The identity of the process that runs it; empty without an answer.
    pub(super) fn identity(&self) -> Arc<Identity> {
        if let Some(settled) = self.0.settled.get() {
            return Arc::clone(settled);
        }
        let Some(answer) = self.answer() else { return Arc::default() };
        let mut identity = Arc::clone(&answer.identity);
        if let Some(pod) = self.0.pod.get() {
            Arc::make_mut(&mut identity).pod = Some(Arc::clone(pod));
        }
        identity
    }

    /// Records the pod of the process.
    pub(super) fn set_pod(&self, pod: Arc<Pod>) {
        // The first answer counts.
        let _ = self.0.pod.set(pod);
    }

    /// Records that Kubernetes does not know the pod of the process.
    pub(super) fn has_no_pod(&self) {
        self.0.is_podless.store(true, Ordering::Relaxed);
    }

    /// Settles the identity if it cannot change any more: all reports from before `read_ns` have been read. With
    /// `pods`, the identity of a process in a pod waits for the pod, but not for ever.
    pub(super) fn settle(&self, read_ns: u64, pods: bool) {
        let identity = match self.0.answer.get() {
            Some(answer) if answer.at_ns <= read_ns => {
                let identity = self.identity();
                let is_asked = pods && !identity.cgroup.pod_uid.is_empty();
                let is_known =
                    self.0.pod.get().is_some() || self.0.is_podless.load(Ordering::Relaxed);
                if is_asked && !is_known && read_ns - answer.at_ns < POD_PATIENCE_NS {
                    return;
                }
                identity
            }
            None if self.has_ended() => Arc::default(),
            _ => return,
        };
        // If it was set already, that stays.
        let _ = self.0.settled.set(identity);
    }

    /// Whether it is [settled](Self::settle).
    pub(super) fn has_service(&self) -> bool {
        self.0.settled.get().is_some()
    }

    /// The first name of the process under this program, for processes that no record named.
    pub(super) fn comm(&self) -> Option<Comm> {
        let renamed_ns = self.0.renamed_ns.load(Ordering::Relaxed);
        self.answer().filter(|answer| answer.at_ns < renamed_ns)?.comm
    }

    /// The start time of the process; the inner `None` if the source did not know it, the outer one without an answer.
    #[expect(clippy::option_option, reason = "not answered, and answered with nothing")]
    pub(super) fn began(&self) -> Option<Option<u64>> {
        Some(self.answer()?.began)
    }

    /// Whether both are the same program of the same process.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether the answers about both are the same.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let same = || Some(self.answer()?.identity == other.answer()?.identity);
        self.is(other) || same().unwrap_or(false)
    }
}

/// The queue of processes to look up: each once, with the last program that it runs.
#[derive(Debug, Default)]
pub(super) struct LookupQueue {
    programs: FxHashMap<u32, Program>,
    order: VecDeque<u32>,
    /// A search for exits and names that were not reported is requested.
    pub(super) search: bool,
    pub(super) counts: LookupCounts,
}

/// Numbers of lookups of processes, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookupCounts {
    /// Lookups that the source answered.
    pub answered: u64,
    /// Lookups of processes that had exited, or ran another program, before.
    pub gone: u64,
    /// Lookups without an answer when a snapshot was taken: the labels are empty in it.
    pub late: u64,
}

impl LookupQueue {
    /// Queues a lookup of the program that the process runs now.
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

/// Lookups in a source `S`, for the processes of a table and all tables that share them.
#[derive(Debug)]
pub struct Lookup<S> {
    source: S,
    table: Arc<Mutex<Table>>,
    /// A channel that gets a message when a lookup is queued or a search is requested. It closes with the tables;
    /// `None` if another lookup has it.
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

    /// Looks up all processes that are queued.
    pub fn answer(&self) {
        loop {
            let next = self.table().queue.next();
            let Some((pid, program)) = next else { return };
            let answer = (!program.has_ended()).then(|| self.ask(pid));
            let is_answered = answer.as_ref().is_some_and(|answer| answer.began.is_some());
            if let Some(answer) = answer {
                // It is not set yet: each program is queued once.
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
        // The answers belong together only if it is still the same process.
        let is_same = source.began(pid) == began;
        let answer = Answer { comm, began, identity, at_ns: source.now_ns() };
        if is_same { answer } else { Answer { comm: None, identity: Arc::default(), ..answer } }
    }

    /// Whether a [search](Self::search) was [requested](super::Processes::find_unreported).
    pub fn is_search_requested(&self) -> bool {
        self.table().queue.search
    }

    /// Searches for exits and new names that no record reported. O(processes).
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

/// A running process: its pid, its first id, its name, and its start time, if that is known.
pub(super) type Running = (u32, ProcessId, Comm, Option<u64>);
