//! Who a pid is.
//!
//! [`Processes`] gives every process that is watched a [`ProcessId`]: [`Processes::seen`] when a
//! connection is attributed, [`Processes::executed`], [`Processes::renamed`] and
//! [`Processes::exited`] when the kernel says so. One that has another name from then on has another
//! id: calls stay with the name that made them. Some time after its exit a process is [`Processes::expired`]; once its series have been
//! dropped, [`Processes::forget`] it. All times are kernel nanoseconds of one clock.

#![forbid(unsafe_code)]

mod detail;
mod identity;
mod lives;
mod lookup;
mod names;
mod source;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use rustc_hash::FxHashMap;

use self::lives::{Known, Named};
pub use observer_core::process::{Comm, ProcessId};

pub use self::{
    detail::Detail,
    identity::{Cgroup, Identity, Key, Pod, Texts},
    lookup::{Asker, Lookups},
    names::Names,
    source::{ProcFs, ProcessSource},
};

/// What is known about one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The number that the kernel knows it by; 0 for [`ProcessId::OTHER`].
    pub pid: u32,
    /// Its name.
    pub comm: Comm,
    /// What runs in it.
    pub identity: Arc<Identity>,
    /// When it exited.
    pub exited_ns: Option<u64>,
}

impl Process {
    fn other() -> Self {
        Self { pid: 0, comm: Comm::OTHER, identity: Arc::default(), exited_ns: None }
    }

    fn is_told_like(&self, other: &Self, details: &[Detail]) -> bool {
        let same = |detail: &Detail| detail.of(&self.identity) == detail.of(&other.identity);
        self.pid == other.pid && self.comm == other.comm && details.iter().all(same)
    }
}

/// A process as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// With the name that it had.
    pub id: ProcessId,
    /// The id that it had first: the same for all its names.
    pub first: ProcessId,
}

/// The table of watched processes.
///
/// Bounded: it keeps up to `max_processes`, those that exited included until they are forgotten;
/// calls of any further one go to [`ProcessId::OTHER`] and are counted by
/// [`Processes::overflow`]. Everything is O(1) but [`Processes::expired`], which is O(processes).
#[derive(Debug)]
pub struct Processes<S = ProcFs> {
    source: S,
    /// By pid, those that were seen here and whose exit was not: of these `shared` need not be asked.
    latest: FxHashMap<u32, Seen>,
    shared: Arc<Mutex<Known>>,
    /// That there is something to be asked.
    wish: mpsc::SyncSender<()>,
    /// For the [asker](Self::asker).
    wishes: Option<mpsc::Receiver<()>>,
}

impl<S: ProcessSource> Processes<S> {
    /// An empty table.
    pub fn new(max_processes: usize, source: S) -> Self {
        // One wish is enough: all is asked then.
        let (wish, wishes) = mpsc::sync_channel(1);
        let shared = Arc::new(Mutex::new(Known::new(max_processes)));
        Self { source, latest: FxHashMap::default(), shared, wish, wishes: Some(wishes) }
    }

    /// Another table of the same processes, for what is read from another ring: each is to be told of
    /// exits, in the order of its ring.
    #[must_use]
    pub fn sharing(&self) -> Self
    where
        S: Clone,
    {
        let (source, shared) = (self.source.clone(), Arc::clone(&self.shared));
        Self { source, latest: FxHashMap::default(), shared, wish: self.wish.clone(), wishes: None }
    }

    /// What is to be [run](Asker::run) on a thread of its own, once, for all tables that share the
    /// processes.
    pub fn asker(&mut self) -> Asker<S>
    where
        S: Clone,
    {
        Asker::new(self.source.clone(), Arc::clone(&self.shared), self.wishes.take())
    }

    fn wish(&self) {
        // Full: it is awake already. Closed: nobody is there to be asked.
        let _ = self.wish.try_send(());
    }

    fn shared(&self) -> MutexGuard<'_, Known> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many processes it knows, each as often as it had names.
    pub fn len(&self) -> usize {
        self.shared().ids.processes.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often a process, or a name, did not find room.
    pub fn overflow(&self) -> u64 {
        self.shared().ids.overflow
    }

    /// What became of questions about processes.
    pub fn lookups(&self) -> Lookups {
        self.shared().questions.counts()
    }

    /// No process is added from now on, or some may be again.
    pub fn stop(&mut self, stopped: bool) {
        self.shared().ids.stopped = stopped;
    }

    /// What is known about the process.
    pub fn process(&self, id: ProcessId) -> Option<Process> {
        if id == ProcessId::OTHER {
            return Some(Process::other());
        }
        self.shared().ids.processes.get(&id).map(Named::process)
    }

    /// The id that the process had first: the same for all its names.
    pub fn first_of(&self, id: ProcessId) -> ProcessId {
        self.shared().life_of(id).and_then(lives::Life::first).unwrap_or(id)
    }

    /// A copy of what a scrape needs.
    pub fn names(&self) -> Names {
        Names::of(&self.shared())
    }

    /// The pid did something at this time; `comm` is its main thread's name, where the record has it.
    ///
    /// The first sight gives the name; after that [`Processes::renamed`] and [`Processes::executed`] do.
    pub fn seen(&mut self, pid: u32, now_ns: u64, comm: Option<Comm>) -> ProcessId {
        self.seen_as(pid, now_ns, comm).id
    }

    /// Likewise, with the id that stands for all its names.
    pub fn seen_as(&mut self, pid: u32, now_ns: u64, comm: Option<Comm>) -> Seen {
        match self.latest.get(&pid) {
            Some(&seen) => seen,
            None => self.look_up(pid, now_ns, comm),
        }
    }

    #[cold]
    fn look_up(&mut self, pid: u32, now_ns: u64, comm: Option<Comm>) -> Seen {
        const OTHER: Seen = Seen { id: ProcessId::OTHER, first: ProcessId::OTHER };
        let mut known = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if known.at(pid, now_ns).is_none() {
            let process = Named::nameless(pid, None);
            known.add(|| Named { comm: comm.unwrap_or(process.comm), ..process });
            self.wish();
        }
        let Known { ids, of_pid, .. } = &mut *known;
        let lives = of_pid.get_mut(&pid).map(|lives| lives.iter_mut());
        let Some(life) = lives.and_then(|mut lives| lives.find(|life| life.is_at(now_ns))) else {
            return OTHER;
        };
        let Some(id) = ids.at(life, now_ns, comm) else { return OTHER };
        let seen = Seen { id, first: life.first().unwrap_or(id) };
        if life.is_latest(now_ns) {
            self.latest.insert(pid, seen);
        }
        seen
    }

    /// The process runs another program from this time on (`execve`), by this name: the source says
    /// what it is.
    pub fn executed(&mut self, pid: u32, now_ns: u64, comm: Comm) {
        self.latest.remove(&pid);
        self.shared().execute(pid, now_ns, comm);
        self.wish();
    }

    /// The process has this name from this time on; `None` if nobody can say which, so fast do they
    /// change.
    pub fn renamed(&mut self, pid: u32, now_ns: u64, comm: Option<Comm>) {
        self.latest.remove(&pid);
        let mut known = self.shared();
        if known.at(pid, now_ns).is_none() && !known.ids.is_full() {
            // What it did before may be in other rings, or come next: that will give the name.
            known.add(|| Named::nameless(pid, None));
        }
        let Some(life) = known.at(pid, now_ns) else { return };
        let name = comm.unwrap_or(Comm::OTHER);
        let changed = life.change(now_ns, |before| (name, before.look.clone())).is_some();
        known.ids.overflow += u64::from(comm.is_none() && changed);
        drop(known);
        self.wish();
    }

    /// The process exited; a later sight of its pid is another process.
    pub fn exited(&mut self, pid: u32, now_ns: u64) {
        self.latest.remove(&pid);
        let mut known = self.shared();
        // Once is enough, and each ring tells it. What was found out is later than what is told.
        let exited = known.exit(pid, now_ns, |life| life.is_at(now_ns));
        if exited.is_none() && !known.ids.is_full() {
            // All that it did may be in other rings, and its pid may be used again here before they
            // are read: they will give the name.
            known.add(|| Named::nameless(pid, Some(now_ns)));
        }
    }

    /// Has processes looked for whose exit or new name was not told. That takes its time: what is found is
    /// known here when it is [asked again](Self::ask_again).
    pub fn find_unreported(&mut self) {
        self.shared().questions.search();
        self.wish();
    }

    /// Forgets what need not be asked: the exit of a process, or its new name, may have been told
    /// elsewhere, and not here. To be called about once a second.
    pub fn ask_again(&mut self) {
        self.latest.clear();
    }

    /// The processes that exited at least this long ago. They stay until [`Processes::forget`], so
    /// that their series never lose their names before they are dropped.
    pub fn expired(&self, now_ns: u64, ttl_ns: u64) -> Vec<ProcessId> {
        let mut expired: Vec<ProcessId> = self
            .shared()
            .ids
            .processes
            .iter()
            .filter(|(_, process)| {
                process
                    .exited_ns
                    .is_some_and(|exited_ns| now_ns.saturating_sub(exited_ns) >= ttl_ns)
            })
            .map(|(&id, _)| id)
            .collect();
        expired.sort_unstable();
        expired
    }

    /// Each of these and the last process after it, if there is one, that `details` do not tell from
    /// it either: that has its pid and its name, and so the labels of its series.
    pub fn successors(
        &self,
        of: Vec<ProcessId>,
        details: &[Detail],
    ) -> Vec<(ProcessId, Option<ProcessId>)> {
        let known = self.shared();
        let Known { ids, of_pid, .. } = &*known;
        let process = |id: &ProcessId| ids.processes.get(id).map(Named::process);
        let successor = |id: ProcessId| {
            let of = process(&id)?;
            let same_pid = of_pid.get(&of.pid)?.iter().flat_map(|life| &life.ids).copied();
            let is_like =
                |other: &ProcessId| process(other).is_some_and(|is| is.is_told_like(&of, details));
            same_pid.filter(|&other| other > id).filter(is_like).max()
        };
        of.into_iter().map(|id| (id, successor(id))).collect()
    }

    /// What runs in the process is this.
    #[cfg(test)]
    pub(crate) fn tell(&mut self, id: ProcessId, identity: Identity) {
        let look = lookup::Look::answered(identity);
        self.shared().ids.processes.get_mut(&id).expect("known").look = look;
    }

    /// Asks all that is to be asked, and looks for what was not told, without a thread.
    #[cfg(test)]
    pub(crate) fn ask(&mut self)
    where
        S: Clone,
    {
        let asker = Asker::new(self.source.clone(), Arc::clone(&self.shared), None);
        asker.answer();
        asker.search_if_wanted();
        asker.answer();
    }

    /// Drops the process.
    pub fn forget(&mut self, id: ProcessId) {
        self.shared().forget(id);
    }
}

#[cfg(test)]
mod tests;
