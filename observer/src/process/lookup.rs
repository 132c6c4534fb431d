//! Asks the source who processes are, on a thread of its own.
//!
//! What a process makes of its files in `/proc`, and how long it takes to read them, is its own choice:
//! neither records nor the table of processes wait for it. Until there is an answer the labels are empty, and
//! a snapshot waits a little for those that are still to come ([`Names::settle`](super::Names::settle)).
//!
//! An answer is of who has the pid when it is given. So it counts only if it came before the process ran
//! another program, or was over; else nothing is known.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;

use super::{
    Comm, ProcessId, ProcessSource,
    identity::Identity,
    lives::{Known, Life},
};

/// Looking for what was not told takes at most one of so many parts of a processor's time.
const SEARCH_PART: u32 = 20;

/// A process for as long as it runs one program, and what the source says of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Look(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    answer: OnceLock<Answer>,
    /// From then on it was another program, or none.
    over_ns: AtomicU64,
    /// From then on it had another name than at first.
    renamed_ns: AtomicU64,
}

impl Default for Inner {
    fn default() -> Self {
        let [over_ns, renamed_ns] = [u64::MAX; 2].map(AtomicU64::new);
        Self { answer: OnceLock::new(), over_ns, renamed_ns }
    }
}

/// What the source says.
#[derive(Debug)]
struct Answer {
    comm: Option<Comm>,
    /// When the process began, by the source's clock.
    began: Option<u64>,
    identity: Arc<Identity>,
    /// When it had said so.
    at_ns: u64,
}

impl Look {
    /// One whose answer is known.
    #[cfg(test)]
    pub(super) fn answered(identity: Identity) -> Self {
        let look = Self::default();
        let answer = Answer { comm: None, began: None, identity: Arc::new(identity), at_ns: 0 };
        look.0.answer.set(answer).expect("new");
        look
    }

    /// From then on it is not what is looked at any more.
    pub(super) fn ends_at(&self, time_ns: u64) {
        self.0.over_ns.store(time_ns, Ordering::Relaxed);
    }

    /// From then on it has another name than at first.
    pub(super) fn is_renamed_at(&self, time_ns: u64) {
        self.0.renamed_ns.store(time_ns, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.0.over_ns.load(Ordering::Relaxed) != u64::MAX
    }

    /// Whether all is known that will be.
    pub(super) fn is_settled(&self) -> bool {
        self.0.answer.get().is_some() || self.is_over()
    }

    fn answer(&self) -> Option<&Answer> {
        let over_ns = self.0.over_ns.load(Ordering::Relaxed);
        self.0.answer.get().filter(|answer| answer.at_ns < over_ns)
    }

    /// What is known; nothing yet, or nothing at all.
    pub(super) fn identity(&self) -> Arc<Identity> {
        self.answer().map(|answer| Arc::clone(&answer.identity)).unwrap_or_default()
    }

    /// The name that it had first, where no record had it.
    pub(super) fn comm(&self) -> Option<Comm> {
        let renamed_ns = self.0.renamed_ns.load(Ordering::Relaxed);
        self.answer().filter(|answer| answer.at_ns < renamed_ns)?.comm
    }

    /// When the process began; `None` if that was not to be known. Nothing if nobody has said so yet.
    #[expect(clippy::option_option, reason = "not answered, and answered with nothing")]
    pub(super) fn began(&self) -> Option<Option<u64>> {
        Some(self.answer()?.began)
    }

    /// Whether it is the same one.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether what was said of both is the same.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let same = || Some(self.answer()?.identity == other.answer()?.identity);
        self.is(other) || same().unwrap_or(false)
    }
}

/// Processes that are to be asked about: each once, as no more than the latest of its programs can be.
#[derive(Debug, Default)]
pub(super) struct Questions {
    looks: FxHashMap<u32, Look>,
    order: VecDeque<u32>,
    /// Exits and names that were not told are to be looked for.
    search: bool,
    counts: Lookups,
}

/// What became of questions about processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lookups {
    /// The source knew the process.
    pub answered: u64,
    /// The process was over, or ran another program, before it was asked about.
    pub gone: u64,
    /// A snapshot was taken before there was an answer: the labels are empty in it.
    pub late: u64,
}

impl Questions {
    /// Asks about the process that has the pid now.
    pub(super) fn ask(&mut self, pid: u32, look: &Look) {
        if self.looks.insert(pid, look.clone()).is_none() {
            self.order.push_back(pid);
        } else {
            self.counts.gone += 1;
        }
    }

    fn next(&mut self) -> Option<(u32, Look)> {
        let pid = self.order.pop_front()?;
        self.looks.remove(&pid).map(|look| (pid, look))
    }

    /// Asks for a search.
    pub(super) fn search(&mut self) {
        self.search = true;
    }

    pub(super) fn counts(&self) -> Lookups {
        self.counts
    }
}

/// Asks the source.
#[derive(Debug)]
pub struct Asker<S> {
    source: S,
    known: Arc<Mutex<Known>>,
    /// That there is something to be asked; its end is that of the table.
    wishes: Option<mpsc::Receiver<()>>,
    /// There is no search before.
    search_at: Instant,
}

impl<S: ProcessSource> Asker<S> {
    pub(super) fn new(
        source: S,
        known: Arc<Mutex<Known>>,
        wishes: Option<mpsc::Receiver<()>>,
    ) -> Self {
        Self { source, known, wishes, search_at: Instant::now() }
    }

    /// Until nobody can have a question any more.
    pub fn run(mut self) {
        const PAUSE: Duration = Duration::from_millis(100);
        loop {
            self.answer();
            let is_wanted = self.known().questions.search;
            if is_wanted && Instant::now() >= self.search_at {
                self.search_and_rest();
                continue;
            }
            let Some(wishes) = &self.wishes else { return };
            let told = if is_wanted {
                wishes.recv_timeout(PAUSE)
            } else {
                wishes.recv().map_err(Into::into)
            };
            if told == Err(mpsc::RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks all that is to be asked.
    pub(super) fn answer(&self) {
        loop {
            let question = self.known().questions.next();
            let Some((pid, look)) = question else { return };
            let answer = (!look.is_over()).then(|| self.ask(pid));
            let is_answered = answer.as_ref().is_some_and(|answer| answer.began.is_some());
            if let Some(answer) = answer {
                // Asked once.
                let _ = look.0.answer.set(answer);
            }
            let mut known = self.known();
            known.questions.counts.answered += u64::from(is_answered);
            known.questions.counts.gone += u64::from(!is_answered);
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

    /// There is none for so many times as long as it took.
    pub(super) fn search_and_rest(&mut self) {
        let begin = Instant::now();
        self.search();
        self.search_at = Instant::now() + begin.elapsed() * SEARCH_PART;
    }

    /// Looks for processes whose exit or new name was not told. O(processes).
    fn search(&self) {
        let mut known = self.known();
        known.questions.search = false;
        let running = known.running();
        drop(known);
        for (pid, id, comm, began) in running {
            let now_ns = self.source.now_ns();
            let now = self.source.began(pid);
            let is_it = |life: &Life| life.is_running() && life.has(id);
            if now.is_none() || now != began {
                self.known().exit(pid, now_ns, is_it);
            } else if let Some(now) = self.source.comm(pid).filter(|now| *now != comm) {
                self.known().execute(pid, now_ns, now);
            }
            thread::yield_now();
        }
    }
}

#[cfg(test)]
impl<S: ProcessSource> Asker<S> {
    pub(super) fn search_if_wanted(&self) {
        if self.known().questions.search {
            self.search();
        }
    }

    pub(super) fn next_search(&self) -> Instant {
        self.search_at
    }
}

/// A process that runs, with its first id, its name, and when it began, as far as that is known.
pub(super) type Running = (u32, ProcessId, Comm, Option<u64>);
