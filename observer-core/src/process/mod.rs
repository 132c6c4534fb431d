//! The table of watched processes: ids for pids and names, also where pids are used again.
//!
//! [`Processes`] gives every watched process a [`ProcessId`]. Order of calls: [`Processes::seen`] for each record of
//! bytes; [`Processes::executed`], [`Processes::renamed`] and [`Processes::exited`] when a record reports it. A process
//! that takes another name gets another id: calls stay with the name that made them. Some time after its exit a
//! process is [expired](Processes::expired); once its series have been dropped, it is
//! [forgotten](Processes::forget). All times are nanoseconds of the kernel's monotonic clock.
//!
//! The name, if no record had it, and the identity of a process come from a [`ProcessSource`]: see [`Lookup`].

mod detail;
mod id;
mod identity;
mod lives;
mod lookup;
mod names;
mod service;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use rustc_hash::FxHashMap;

pub use self::{
    detail::Detail,
    id::{Comm, ProcessId},
    identity::{Cgroup, Identity, Key, Pod, Texts},
    lookup::{Lookup, LookupCounts, ProcessSource},
    names::{PodAnswer, ProcessNames},
    service::{Resource, Runs, Service, ServiceName, ServiceNames},
};
use self::{
    lives::{Named, Table},
    lookup::POD_PATIENCE_NS,
};

/// A process under one of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The pid in the initial PID namespace; 0 for [`ProcessId::OTHER`].
    pub pid: u32,
    /// The name of the main thread.
    pub comm: Comm,
    /// The program, user, container, unit and pod; empty until they have been looked up.
    pub identity: Arc<Identity>,
    /// The service, as far as it is known.
    pub service: Service,
    /// Whether the service will not change any more ([`Processes::settle_services`]).
    pub has_service: bool,
    /// The time of the exit; `None` while the process runs.
    pub exited_ns: Option<u64>,
}

impl Process {
    fn other() -> Self {
        let (identity, service) = (Arc::default(), Service::default());
        let (has_service, exited_ns) = (true, None);
        Self { pid: 0, comm: Comm::OTHER, identity, service, has_service, exited_ns }
    }

    fn has_labels_of(&self, other: &Self, details: &[Detail]) -> bool {
        let same = |detail: &Detail| detail.of(self) == detail.of(other);
        self.pid == other.pid && self.comm == other.comm && details.iter().all(same)
    }
}

/// What has series of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grouping {
    /// Each process.
    #[default]
    Process,
    /// Each service: all processes with the same name and namespace of their service.
    Service,
}

/// The ids of a process at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The id under the name that the process had then.
    pub id: ProcessId,
    /// The id under its first name.
    pub first: ProcessId,
}

/// The labels of a service: its name, its namespace, and details of its processes.
type Labels = Vec<Box<[u8]>>;

/// How long a process of a service keeps its own figures after its exit: ten seconds, for records that come late.
const GRACE_NS: u64 = 10_000_000_000;

/// An expired process, and the process that continues its series, if there is one.
pub type Expired = (ProcessId, Option<ProcessId>);

/// The table of watched processes.
///
/// It keeps up to `max_processes`, each as often as it has names, including those that exited and are not forgotten
/// yet. Calls of further processes go to [`ProcessId::OTHER`] and are counted by [`Processes::overflow`]. Methods are
/// O(1) unless they say otherwise.
#[derive(Debug)]
pub struct Processes {
    /// The processes that were seen here and did not exit, by pid: for these `shared` need not be locked.
    latest: FxHashMap<u32, Seen>,
    shared: Arc<Mutex<Table>>,
    /// Wakes the [`Lookup`].
    wake: mpsc::SyncSender<()>,
    /// The other end of `wake`, until the [`Lookup`] takes it.
    wakeups: Option<mpsc::Receiver<()>>,
}

impl Processes {
    /// Creates a table without processes.
    pub fn new(max_processes: usize) -> Self {
        // One wakeup is enough: everything is looked up then.
        let (wake, wakeups) = mpsc::sync_channel(1);
        let shared = Arc::new(Mutex::new(Table::new(max_processes)));
        Self { latest: FxHashMap::default(), shared, wake, wakeups: Some(wakeups) }
    }

    /// Gives the services of processes these names, in all tables that share the processes.
    pub fn name_services(&mut self, names: ServiceNames) {
        self.shared().services = names;
    }

    /// Creates another table of the same processes, for the records of another ring. Each table needs all reports of
    /// exits, new names and new programs, in the order of its ring.
    #[must_use]
    pub fn sharing(&self) -> Self {
        let (shared, wake) = (Arc::clone(&self.shared), self.wake.clone());
        Self { latest: FxHashMap::default(), shared, wake, wakeups: None }
    }

    /// Creates the lookup of processes in this source, for all tables that share them.
    pub fn lookup<S: ProcessSource>(&mut self, source: S) -> Lookup<S> {
        Lookup::new(source, Arc::clone(&self.shared), self.wakeups.take())
    }

    fn wake(&self) {
        // If the channel is full, the lookup is awake already. If it is closed, there is no lookup.
        let _ = self.wake.try_send(());
    }

    fn shared(&self) -> MutexGuard<'_, Table> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shared().ids.processes.len()
    }

    /// The number of times that a process, or a name, found no room.
    pub fn overflow(&self) -> u64 {
        self.shared().ids.overflow
    }

    /// The numbers of lookups by outcome, of all tables that share the processes.
    pub fn lookups(&self) -> LookupCounts {
        self.shared().queue.counts
    }

    /// Stops adding processes, or goes on with it.
    pub fn stop(&mut self, stopped: bool) {
        self.shared().ids.stopped = stopped;
    }

    /// The process with this id; `None` if it was forgotten.
    pub fn process(&self, id: ProcessId) -> Option<Process> {
        if id == ProcessId::OTHER {
            return Some(Process::other());
        }
        let table = self.shared();
        table.ids.processes.get(&id).map(|process| process.process(&table.services))
    }

    /// A copy of all processes, for a scrape. O(processes).
    pub fn names(&self) -> ProcessNames {
        ProcessNames::of(&self.shared())
    }

    /// Returns the ids of the process that had the pid at this time; adds the process if it is new.
    ///
    /// `comm` is the name of its main thread, if the record has it. It counts for a process without a name; after that
    /// [`Processes::renamed`] and [`Processes::executed`] change the name.
    pub fn seen(&mut self, pid: u32, now_ns: u64, comm: Option<Comm>) -> Seen {
        match self.latest.get(&pid) {
            Some(&seen) => seen,
            None => self.look_up(pid, now_ns, comm),
        }
    }

    #[cold]
    fn look_up(&mut self, pid: u32, now_ns: u64, comm: Option<Comm>) -> Seen {
        const OTHER: Seen = Seen { id: ProcessId::OTHER, first: ProcessId::OTHER };
        let mut table = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if table.at(pid, now_ns).is_none() {
            let process = Named::nameless(pid, None);
            table.add(|| Named { comm: comm.unwrap_or(process.comm), ..process });
            self.wake();
        }
        let Table { ids, of_pid, .. } = &mut *table;
        let mut lives = of_pid.get_mut(&pid).into_iter().flatten();
        let Some(life) = lives.find(|life| life.is_at(now_ns)) else { return OTHER };
        let Some(id) = ids.at(life, now_ns, comm) else { return OTHER };
        let seen = Seen { id, first: life.first().unwrap_or(id) };
        if life.is_latest(now_ns) {
            self.latest.insert(pid, seen);
        }
        seen
    }

    /// Records that the process runs another program from this time on (`execve`), under this name.
    pub fn executed(&mut self, pid: u32, now_ns: u64, comm: Comm) {
        self.latest.remove(&pid);
        self.shared().execute(pid, now_ns, comm);
        self.wake();
    }

    /// Records that the process has this name from this time on; `None` if its names change too often to know it.
    pub fn renamed(&mut self, pid: u32, now_ns: u64, comm: Option<Comm>) {
        self.latest.remove(&pid);
        let mut table = self.shared();
        if table.at(pid, now_ns).is_none() && !table.ids.is_full() {
            // Its records from before may be in other rings, or come next: they will have its name.
            table.add(|| Named::nameless(pid, None));
        }
        let Some(life) = table.at(pid, now_ns) else { return };
        let name = comm.unwrap_or(Comm::OTHER);
        let changed = life.change(now_ns, |before| (name, before.program.clone())).is_some();
        table.ids.overflow += u64::from(comm.is_none() && changed);
        drop(table);
        self.wake();
    }

    /// Records that the process exited at this time: later records of its pid belong to another process.
    pub fn exited(&mut self, pid: u32, now_ns: u64) {
        self.latest.remove(&pid);
        let mut table = self.shared();
        // Each ring reports it, and the first report counts. A search finds an exit later than its report.
        let exited = table.exit(pid, now_ns, |life| life.is_at(now_ns));
        if exited.is_none() && !table.ids.is_full() {
            // All its records may be in other rings, and its pid may be used again here before those are read. They
            // will have its name.
            table.add(|| Named::nameless(pid, Some(now_ns)));
        }
    }

    /// Requests a [search](Lookup::search) for exits and new names that no record reported. They are known here after
    /// the next [`ask_again`](Self::ask_again).
    pub fn find_unreported(&mut self) {
        self.shared().queue.search = true;
        self.wake();
    }

    /// Has all processes looked up in the shared table again: their exit, or new name, may have been reported to
    /// another table. To be called about once a second.
    pub fn ask_again(&mut self) {
        self.latest.clear();
    }

    /// The processes that exited at least `ttl_ns` ago, in ascending order. O(processes).
    ///
    /// They stay until [`Processes::forget`], so that their series do not lose their names before they are dropped.
    pub fn expired(&self, now_ns: u64, ttl_ns: u64) -> Vec<ProcessId> {
        let table = self.shared();
        let is_expired = |process: &Named| {
            let age_ns = process.exited_ns.map(|exited_ns| now_ns.saturating_sub(exited_ns));
            age_ns.is_some_and(|age_ns| age_ns >= ttl_ns)
        };
        let processes = table.ids.processes.iter().filter(|(_, process)| is_expired(process));
        let mut expired: Vec<ProcessId> = processes.map(|(&id, _)| id).collect();
        expired.sort_unstable();
        expired
    }

    /// Each of these processes with its successor: the last process after it that has the same pid, name and
    /// `details`, and so the same labels.
    pub fn successors(&self, of: Vec<ProcessId>, details: &[Detail]) -> Vec<Expired> {
        let table = self.shared();
        let Table { ids, of_pid, services, .. } = &*table;
        let process =
            |id: &ProcessId| ids.processes.get(id).map(|process| process.process(services));
        let successor = |id: ProcessId| {
            let of = process(&id)?;
            let same_pid = of_pid.get(&of.pid)?.iter().flat_map(|life| &life.ids).copied();
            let is_like =
                |other: &ProcessId| process(other).is_some_and(|is| is.has_labels_of(&of, details));
            same_pid.filter(|&other| other > id).filter(is_like).max()
        };
        of.into_iter().map(|id| (id, successor(id))).collect()
    }

    /// Settles the services that cannot change any more: all reports from before `read_ns` have been read, by all tables.
    /// With `pods`, [`ProcessNames::set_pods`] names the pods of processes. O(processes).
    pub fn settle_services(&mut self, read_ns: u64, pods: bool) {
        for process in self.shared().ids.processes.values() {
            process.program.settle(read_ns, pods);
        }
    }

    /// The processes whose figures go to another process of their service, and those whose service has ended, in
    /// ascending order. O(processes).
    ///
    /// A process with the same service and `details` inherits the figures, if it exits later, or runs. The last process
    /// of a service stays for `ttl_ns` after its exit.
    pub fn expired_of_services(
        &self,
        now_ns: u64,
        ttl_ns: u64,
        details: &[Detail],
    ) -> Vec<Expired> {
        let table = self.shared();
        let ages = |exited_ns: u64| now_ns.saturating_sub(exited_ns);
        let grace_ns = ttl_ns.min(GRACE_NS);
        let exits = table.ids.processes.values().filter_map(|process| process.exited_ns);
        if !exits.into_iter().any(|exited_ns| ages(exited_ns) >= grace_ns) {
            return Vec::new();
        }
        let mut expired = Vec::new();
        let mut services: FxHashMap<Labels, Vec<(u64, ProcessId)>> = FxHashMap::default();
        for (&id, named) in &table.ids.processes {
            let process = named.process(&table.services);
            if process.has_service {
                let Service { name, namespace, .. } = &process.service;
                let labels = details.iter().map(|detail| detail.of(&process));
                let labels = [name.as_bytes(), namespace.as_bytes()].into_iter().chain(labels);
                let labels = labels.map(Into::into).collect();
                let end_ns = named.exited_ns.unwrap_or(u64::MAX);
                services.entry(labels).or_default().push((end_ns, id));
            } else if named.exited_ns.is_some_and(|at| ages(at) >= ttl_ns.max(POD_PATIENCE_NS)) {
                // It was never published.
                expired.push((id, None));
            }
        }
        for processes in services.into_values() {
            let Some(&(end_ns, last)) = processes.iter().max() else { continue };
            let is_over = end_ns != u64::MAX && ages(end_ns) >= ttl_ns;
            let heir = (!is_over).then_some(last);
            let exited = processes.iter().filter(|&&(end_ns, id)| {
                is_over || id != last && end_ns != u64::MAX && ages(end_ns) >= grace_ns
            });
            expired.extend(exited.map(|&(_, id)| (id, heir)));
        }
        expired.sort_unstable();
        expired
    }

    /// The services of the processes that run, or exited after `since_ns`. O(processes).
    pub fn services(&self, since_ns: u64) -> Vec<Service> {
        let table = self.shared();
        let processes = table.ids.processes.values();
        let there = processes.filter(|it| it.exited_ns.is_none_or(|at_ns| at_ns > since_ns));
        there.map(|process| process.process(&table.services).service).collect()
    }

    /// Removes the process with this id.
    pub fn forget(&mut self, id: ProcessId) {
        self.shared().forget(id);
    }
}

#[cfg(test)]
mod tests;
