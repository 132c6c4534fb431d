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

use std::{
    collections::{VecDeque, hash_map::Entry},
    fmt, fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustc_hash::FxHashMap;

pub use self::{
    detail::Detail,
    identity::{Cgroup, Identity, Pod},
};

/// A process by one of its names, for as long as the daemon runs: a pid that is used again is another
/// one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(pub u32);

impl ProcessId {
    /// More processes than the bound; all that came after share this one.
    pub const OTHER: Self = Self(0);
}

/// A process's name as the kernel keeps it: at most 15 bytes, any bytes, then NULs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Comm([u8; 16]);

impl Comm {
    const OTHER: Self = Self(*b"other\0\0\0\0\0\0\0\0\0\0\0");

    /// Takes what the kernel has in `task_struct.comm`; what follows the first NUL is not kept,
    /// because the kernel does not clear it, so that equal names are equal.
    pub fn new(task_comm: [u8; 16]) -> Self {
        Self::truncated(&task_comm)
    }

    /// Takes a name of any length; what is beyond the kernel's own bound is not kept.
    pub fn truncated(name: &[u8]) -> Self {
        let mut comm = [0; 16];
        let name = name.iter().take_while(|&&byte| byte != 0);
        for (to, from) in comm.iter_mut().zip(name) {
            *to = *from;
        }
        Self(comm)
    }

    /// The name without the NULs.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.split(|&byte| byte == 0).next().unwrap_or_default()
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

/// Who can be asked about a process.
pub trait ProcessSource {
    /// The name of the process; `None` when it is gone.
    fn comm(&self, pid: u32) -> Option<Comm>;

    /// When it began, by a clock of the source's own; `None` when it is gone. Two processes of one
    /// number have begun at different times.
    fn began(&self, pid: u32) -> Option<u64>;

    /// What else is known of it: nothing, unless the source says more.
    fn identity(&self, pid: u32) -> Identity {
        let _ = pid;
        Identity::default()
    }
}

/// Asks `/proc`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcFs;

impl ProcessSource for ProcFs {
    fn comm(&self, pid: u32) -> Option<Comm> {
        let text = fs::read(format!("/proc/{pid}/comm")).ok()?;
        Some(Comm::truncated(text.strip_suffix(b"\n").unwrap_or(&text)))
    }

    fn began(&self, pid: u32) -> Option<u64> {
        let process = procfs::process::Process::new(i32::try_from(pid).ok()?).ok()?;
        Some(process.stat().ok()?.starttime)
    }

    fn identity(&self, pid: u32) -> Identity {
        use std::os::unix::ffi::OsStrExt as _;
        let directory = Path::new("/proc").join(pid.to_string());
        // For the process's own user, or with CAP_SYS_PTRACE (ptrace(2)).
        let exe = fs::read_link(directory.join("exe")).ok();
        let cmdline = fs::read(directory.join("cmdline")).ok();
        let cgroup = fs::read(directory.join("cgroup")).ok();
        let exe = exe.as_ref().map(|exe| exe.as_os_str().as_bytes());
        Identity::new(exe, cmdline.as_deref(), cgroup.as_deref())
    }
}

/// What is known about one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The number that the kernel knows it by; 0 for [`ProcessId::OTHER`].
    pub pid: u32,
    /// Its name.
    pub comm: Comm,
    /// What runs in it.
    pub identity: Arc<Identity>,
    /// When it began, as its source says; `None` if it was gone when it was first seen.
    pub began: Option<u64>,
    /// When it exited.
    pub exited_ns: Option<u64>,
}

/// The processes by their ids, as of one moment; what a scrape needs.
#[derive(Clone, Debug)]
pub struct Names {
    processes: FxHashMap<ProcessId, Process>,
    /// Those that have another name now than when they were first seen, by their first id.
    renamed: FxHashMap<ProcessId, Process>,
}

impl Names {
    /// The process, with the name of this id; that of [`ProcessId::OTHER`] when it was forgotten.
    pub fn process(&self, id: ProcessId) -> Process {
        self.processes.get(&id).cloned().unwrap_or_else(Process::other)
    }

    /// The process with the name that it has now, by its [first](Processes::first_of) id.
    pub fn now(&self, first: ProcessId) -> Process {
        self.renamed.get(&first).cloned().unwrap_or_else(|| self.process(first))
    }

    /// Adds the names of others.
    pub(crate) fn extend(&mut self, other: Self) {
        self.processes.extend(other.processes);
        self.renamed.extend(other.renamed);
    }

    /// Asks for the names of each process's pod, by its UID.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn tell_pods(&mut self, mut pod: impl FnMut(&str) -> Option<Arc<Pod>>) {
        for process in self.processes.values_mut().chain(self.renamed.values_mut()) {
            let uid = &process.identity.cgroup.pod_uid;
            if !uid.is_empty()
                && let Some(pod) = pod(uid)
            {
                Arc::make_mut(&mut process.identity).pod = Some(pod);
            }
        }
    }
}

impl Process {
    fn other() -> Self {
        Self { comm: Comm::OTHER, ..Self::nameless() }
    }

    fn nameless() -> Self {
        let (comm, identity) = (Comm([0; 16]), Arc::default());
        Self { pid: 0, comm, identity, began: None, exited_ns: None }
    }

    fn is_told_like(&self, other: &Self, details: &[Detail]) -> bool {
        let same = |detail: &Detail| detail.of(&self.identity) == detail.of(&other.identity);
        self.pid == other.pid && self.comm == other.comm && details.iter().all(same)
    }
}

/// Names under which a process has made calls; those under any further one are [`Comm::OTHER`]'s.
const MAX_NAMES: usize = 16;

/// Changes of a process's name that are remembered, for rings that are read later than others.
const MAX_CHANGES: usize = 64;

/// A process from its start to its exit, whatever its names are: each under which it does something has
/// an id of its own, so that what was done stays with the name that did it.
#[derive(Debug)]
struct Life {
    exited_ns: Option<u64>,
    /// In the order in which they were given out; never empty.
    ids: Vec<ProcessId>,
    /// Ascending by their times; never empty, the first is from 0 on.
    names: VecDeque<Name>,
}

/// What a process is from some time on.
#[derive(Clone, Debug)]
struct Name {
    from_ns: u64,
    comm: Comm,
    identity: Arc<Identity>,
}

impl Name {
    fn of(process: &Process) -> Self {
        let Process { comm, identity, .. } = process;
        Self { from_ns: 0, comm: *comm, identity: Arc::clone(identity) }
    }

    fn is_of(&self, process: &Process) -> bool {
        self.comm == process.comm
            && (Arc::ptr_eq(&self.identity, &process.identity) || self.identity == process.identity)
    }
}

impl Life {
    fn is_at(&self, time_ns: u64) -> bool {
        self.exited_ns.is_none_or(|at_ns| time_ns <= at_ns)
    }

    /// Which of its names it had at this time.
    fn name_at(&self, time_ns: u64) -> usize {
        self.names.partition_point(|name| name.from_ns <= time_ns).saturating_sub(1)
    }

    /// From this time on it is what `to` makes of what it was before; nothing if that is known, as each
    /// ring tells it.
    fn change(
        &mut self,
        from_ns: u64,
        to: impl FnOnce(&Name) -> (Comm, Arc<Identity>),
    ) -> Option<()> {
        let at = self.name_at(from_ns);
        let before = self.names.get(at).filter(|before| before.from_ns != from_ns)?;
        let (comm, identity) = to(before);
        self.names.insert(at + 1, Name { from_ns, comm, identity });
        if self.names.len() > MAX_CHANGES {
            self.names.pop_front();
        }
        self.names.front_mut()?.from_ns = 0;
        Some(())
    }
}

/// Processes by their ids, one for each name.
#[derive(Debug)]
struct Ids {
    limit: usize,
    processes: FxHashMap<ProcessId, Process>,
    /// Ids are never used again: 2³² watched processes are not to be reached.
    next: u32,
    overflow: u64,
}

impl Ids {
    fn is_full(&self) -> bool {
        self.processes.len() >= self.limit || self.next == u32::MAX
    }

    /// A new id, if there is room.
    fn add(&mut self, process: impl FnOnce() -> Process) -> Option<(ProcessId, &Process)> {
        if self.is_full() {
            self.overflow += 1;
            return None;
        }
        let id = ProcessId(self.next);
        self.next += 1;
        Some((id, self.processes.entry(id).or_insert_with(process)))
    }

    /// That of a process with this name, if it has been given out.
    fn find(&self, life: &Life, name: &Name) -> Option<ProcessId> {
        let is_it = |id: &ProcessId| self.processes.get(id).is_some_and(|known| name.is_of(known));
        life.ids.iter().copied().find(is_it)
    }

    /// That of a process at this time. `comm` is its name if nothing told it so far.
    fn at(&mut self, life: &mut Life, time_ns: u64, comm: Option<Comm>) -> Option<ProcessId> {
        let at = life.name_at(time_ns);
        let mut name = life.names.get(at)?.clone();
        let first = self.processes.get_mut(life.ids.first()?)?;
        // It was known by what came later.
        if at == 0 && name.comm.as_bytes().is_empty() && first.comm == name.comm {
            name.comm = comm.unwrap_or(name.comm);
            first.comm = name.comm;
        }
        let first = first.clone();
        let mut found = self.find(life, &name);
        if found.is_none() && life.ids.len() >= MAX_NAMES {
            self.overflow += 1;
            name = Name { comm: Comm::OTHER, identity: Arc::clone(&first.identity), ..name };
            found = self.find(life, &name);
        }
        let Name { comm, ref identity, .. } = name;
        let identity = Arc::clone(identity);
        *life.names.get_mut(at)? = name;
        if found.is_none() {
            let (id, _) = self.add(|| Process { comm, identity, ..first })?;
            life.ids.push(id);
            found = Some(id);
        }
        found
    }
}

/// The watched processes, as of all tables that [share](Processes::sharing) them.
#[derive(Debug)]
struct Known {
    ids: Ids,
    /// Those of each pid, one after the other. They stay after their exit, because records of different
    /// rings are not in order: what was seen before the exit may be read after it.
    of_pid: FxHashMap<u32, Vec<Life>>,
}

impl Known {
    /// The process that had the pid at this time, as far as is known: the first that had not exited.
    fn at(&mut self, pid: u32, time_ns: u64) -> Option<&mut Life> {
        self.of_pid.get_mut(&pid)?.iter_mut().find(|life| life.is_at(time_ns))
    }

    /// A new process, if there is room.
    fn add(&mut self, process: impl FnOnce() -> Process) -> Option<&mut Life> {
        let (id, process) = self.ids.add(process)?;
        let names = VecDeque::from([Name::of(process)]);
        let life = Life { exited_ns: process.exited_ns, ids: vec![id], names };
        let lives = self.of_pid.entry(process.pid).or_default();
        lives.push(life);
        lives.last_mut()
    }

    /// The process that has the pid of this id, and is it.
    fn life_of(&self, id: ProcessId) -> Option<&Life> {
        let pid = self.ids.processes.get(&id)?.pid;
        self.of_pid.get(&pid)?.iter().find(|life| life.ids.contains(&id))
    }

    /// The first ids of those that are not known to have exited.
    fn living(&self) -> Vec<ProcessId> {
        let living = self.of_pid.values().flatten().filter(|life| life.exited_ns.is_none());
        living.filter_map(|life| life.ids.first().copied()).collect()
    }

    /// The process has exited at this time, if that was not known.
    fn exit(&mut self, pid: u32, time_ns: u64, is_it: impl Fn(&Life) -> bool) -> Option<()> {
        let Self { ids, of_pid } = self;
        let life = of_pid.get_mut(&pid)?.iter_mut().find(|life| is_it(life))?;
        life.exited_ns = Some(time_ns);
        for id in &life.ids {
            if let Some(process) = ids.processes.get_mut(id) {
                process.exited_ns = Some(time_ns);
            }
        }
        Some(())
    }
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
    latest: FxHashMap<u32, ProcessId>,
    /// Of a [search](Self::find_untold) that is not over.
    to_look_at: Vec<ProcessId>,
    shared: Arc<Mutex<Known>>,
}

impl<S: ProcessSource> Processes<S> {
    /// An empty table.
    pub fn new(max_processes: usize, source: S) -> Self {
        let ids = Ids {
            limit: max_processes,
            processes: FxHashMap::default(),
            next: ProcessId::OTHER.0 + 1,
            overflow: 0,
        };
        let known = Known { ids, of_pid: FxHashMap::default() };
        let (latest, shared) = (FxHashMap::default(), Arc::new(Mutex::new(known)));
        Self { source, latest, to_look_at: Vec::new(), shared }
    }

    /// Another table of the same processes, for what is read from another ring: each is to be told of
    /// exits, in the order of its ring.
    #[must_use]
    pub fn sharing(&self) -> Self
    where
        S: Clone,
    {
        let (source, shared) = (self.source.clone(), Arc::clone(&self.shared));
        Self { source, latest: FxHashMap::default(), to_look_at: Vec::new(), shared }
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

    /// What is known about the process.
    pub fn process(&self, id: ProcessId) -> Option<Process> {
        if id == ProcessId::OTHER {
            return Some(Process::other());
        }
        self.shared().ids.processes.get(&id).cloned()
    }

    /// The id that the process had first: the same for all its names.
    pub fn first_of(&self, id: ProcessId) -> ProcessId {
        self.shared().life_of(id).and_then(|life| life.ids.first().copied()).unwrap_or(id)
    }

    /// A copy of what a scrape needs.
    pub fn names(&self) -> Names {
        let known = self.shared();
        let renamed = |life: &Life| {
            let (first, name) = (*life.ids.first()?, life.names.back()?);
            let process = known.ids.processes.get(&first).filter(|first| !name.is_of(first))?;
            let Name { comm, identity, .. } = name.clone();
            Some((first, Process { comm, identity, ..process.clone() }))
        };
        let renamed = known.of_pid.values().flatten().filter_map(renamed).collect();
        Names { processes: known.ids.processes.clone(), renamed }
    }

    /// The pid did something at this time; `comm` is its main thread's name, where the record has it.
    ///
    /// The first sight gives the name; after that [`Processes::renamed`] and [`Processes::executed`] do.
    pub fn seen(&mut self, pid: u32, now_ns: u64, comm: Option<Comm>) -> ProcessId {
        match self.latest.get(&pid) {
            Some(&id) => id,
            None => self.look_up(pid, now_ns, comm),
        }
    }

    #[cold]
    fn look_up(&mut self, pid: u32, now_ns: u64, comm: Option<Comm>) -> ProcessId {
        let Self { source, latest, shared, .. } = self;
        let mut known = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if known.at(pid, now_ns).is_none() {
            known.add(|| {
                let comm = comm.filter(|comm| !comm.as_bytes().is_empty());
                let comm = comm.or_else(|| source.comm(pid)).unwrap_or(Comm::truncated(b""));
                let identity = Arc::new(source.identity(pid));
                Process { pid, comm, identity, began: source.began(pid), exited_ns: None }
            });
        }
        let Known { ids, of_pid } = &mut *known;
        let lives = of_pid.get_mut(&pid).map(|lives| lives.iter_mut());
        let Some(life) = lives.and_then(|mut lives| lives.find(|life| life.is_at(now_ns))) else {
            return ProcessId::OTHER;
        };
        let Some(id) = ids.at(life, now_ns, comm) else { return ProcessId::OTHER };
        if life.exited_ns.is_none() && life.name_at(now_ns) + 1 == life.names.len() {
            latest.insert(pid, id);
        }
        id
    }

    /// The process runs another program from this time on (`execve`), by this name: the source says
    /// what it is.
    pub fn executed(&mut self, pid: u32, now_ns: u64, comm: Comm) {
        self.latest.remove(&pid);
        let mut known = self.shared();
        if let Some(life) = known.at(pid, now_ns).filter(|life| life.exited_ns.is_none()) {
            life.change(now_ns, |_| (comm, Arc::new(self.source.identity(pid))));
        }
    }

    /// The process has this name from this time on; `None` if nobody can say which, so fast do they
    /// change.
    pub fn renamed(&mut self, pid: u32, now_ns: u64, comm: Option<Comm>) {
        self.latest.remove(&pid);
        let mut known = self.shared();
        if known.at(pid, now_ns).is_none() && !known.ids.is_full() {
            // What it did before may be in other rings, or come next: that will give the name.
            let (began, identity) = (self.source.began(pid), Arc::new(self.source.identity(pid)));
            known.add(|| Process { pid, identity, began, ..Process::nameless() });
        }
        let Some(life) = known.at(pid, now_ns) else { return };
        let name = comm.unwrap_or(Comm::OTHER);
        let changed = life.change(now_ns, |before| (name, Arc::clone(&before.identity)));
        known.ids.overflow += u64::from(comm.is_none() && changed.is_some());
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
            known.add(|| Process { pid, exited_ns: Some(now_ns), ..Process::nameless() });
        }
    }

    /// Looks for processes whose exit or new name was not told, one after the other until time `is_up`: called again,
    /// it goes on there. Says whether it has looked at all of them. O(processes), with two reads for each.
    pub fn find_untold(&mut self, now_ns: u64, mut is_up: impl FnMut() -> bool) -> bool {
        if self.to_look_at.is_empty() {
            let living = self.shared().living();
            self.to_look_at = living;
        }
        while let Some(id) = self.to_look_at.pop() {
            self.look_at(id, now_ns);
            if is_up() {
                break;
            }
        }
        self.ask_again();
        self.to_look_at.is_empty()
    }

    fn look_at(&mut self, id: ProcessId, now_ns: u64) -> Option<()> {
        let known = self.shared();
        let life = known.life_of(id).filter(|life| life.exited_ns.is_none())?;
        let comm = life.names.back()?.comm;
        let Process { pid, began, .. } = *known.ids.processes.get(&id)?;
        // Not while others wait for the table.
        drop(known);
        let now = self.source.began(pid);
        if now.is_none() || now != began {
            let is_it = |life: &Life| life.exited_ns.is_none() && life.ids.contains(&id);
            self.shared().exit(pid, now_ns, is_it);
        } else if let Some(comm) = self.source.comm(pid).filter(|now| *now != comm) {
            self.executed(pid, now_ns, comm);
        }
        Some(())
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
    pub fn heirs(
        &self,
        of: Vec<ProcessId>,
        details: &[Detail],
    ) -> Vec<(ProcessId, Option<ProcessId>)> {
        let known = self.shared();
        let Known { ids: Ids { processes, .. }, of_pid } = &*known;
        let heir = |id: ProcessId| {
            let process = processes.get(&id)?;
            let same_pid = of_pid.get(&process.pid)?.iter().flat_map(|life| &life.ids).copied();
            let is_like = |other: &ProcessId| {
                processes.get(other).is_some_and(|other| other.is_told_like(process, details))
            };
            same_pid.filter(|&other| other > id).filter(is_like).max()
        };
        of.into_iter().map(|id| (id, heir(id))).collect()
    }

    /// What runs in the process is this.
    #[cfg(test)]
    pub(crate) fn tell(&mut self, id: ProcessId, identity: Identity) {
        self.shared().ids.processes.get_mut(&id).expect("known").identity = Arc::new(identity);
    }

    /// Drops the process.
    pub fn forget(&mut self, id: ProcessId) {
        let mut known = self.shared();
        if let Some(process) = known.ids.processes.remove(&id)
            && let Entry::Occupied(mut of_pid) = known.of_pid.entry(process.pid)
        {
            for life in of_pid.get_mut() {
                life.ids.retain(|&other| other != id);
            }
            of_pid.get_mut().retain(|life| !life.ids.is_empty());
            if of_pid.get().is_empty() {
                of_pid.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::{Comm, Detail, Identity, ProcFs, ProcessId, ProcessSource, Processes};

    /// Names every process after its pid; knows none from 1000 on.
    #[derive(Clone)]
    struct Numbered;

    impl ProcessSource for Numbered {
        fn comm(&self, pid: u32) -> Option<Comm> {
            (pid < 1000).then(|| Comm::truncated(format!("proc-{pid}").as_bytes()))
        }

        fn began(&self, pid: u32) -> Option<u64> {
            let begun = BEGUN.get();
            begun.iter().rev().find(|(of, _)| *of == pid).map_or(Some(1), |(_, began)| *began)
        }

        fn identity(&self, pid: u32) -> Identity {
            Identity::new(Some(format!("/bin/{pid}").as_bytes()), None, None)
        }
    }

    thread_local! {
        /// When processes began, where that is not 1; the later of two counts.
        static BEGUN: Cell<&'static [(u32, Option<u64>)]> = const { Cell::new(&[]) };
    }

    fn comm(name: &str) -> Comm {
        Comm::truncated(name.as_bytes())
    }

    fn name(processes: &Processes<Numbered>, id: ProcessId) -> String {
        let process = processes.process(id).unwrap();
        String::from_utf8(process.comm.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn comm_ends_at_the_first_nul() {
        assert_eq!(Comm::new(*b"sh\0garbage\0\0\0\0\0\0"), comm("sh"));
        assert_eq!(Comm::new([b'x'; 16]).as_bytes(), [b'x'; 16]);
        assert_eq!(comm("").as_bytes(), b"");
        assert_eq!(comm("longer than the kernel keeps").as_bytes(), b"longer than the ");
        assert_eq!(format!("{:?}", Comm::truncated(b"\"\xff")), r#""\"\xff""#);
    }

    #[test]
    fn one_process_is_one_id() {
        let mut processes = Processes::new(8, Numbered);
        let id = processes.seen(7, 10, None);
        assert_eq!(processes.seen(7, 20, Some(comm("a-thread"))), id);
        assert_ne!(processes.seen(8, 20, None), id);
        assert_eq!(processes.len(), 2);
        assert_eq!(name(&processes, id), "proc-7");
    }

    #[test]
    fn the_name_is_the_records_then_the_sources_then_empty() {
        let mut processes = Processes::new(8, Numbered);
        let cases = [
            (1, Some(comm("given")), "given"),
            (2, None, "proc-2"),
            (3, Some(comm("")), "proc-3"),
            (1000, None, ""),
        ];
        for (pid, given, want) in cases {
            let id = processes.seen(pid, 1, given);
            assert_eq!(name(&processes, id), want, "pid {pid}");
        }
    }

    #[test]
    fn a_pid_used_again_is_another_process() {
        let mut processes = Processes::new(8, Numbered);
        let first = processes.seen(7, 10, None);
        processes.exited(7, 100);
        assert_eq!(processes.seen(7, 100, None), first, "read late, but from before the exit");
        let second = processes.seen(7, 101, Some(comm("again")));
        assert_ne!(second, first);
        assert_eq!(name(&processes, first), "proc-7");
        assert_eq!(name(&processes, second), "again");

        // A second exit is the second process's, not the first's again.
        processes.exited(7, 200);
        assert_eq!(processes.process(first).unwrap().exited_ns, Some(100));
        assert_eq!(processes.process(second).unwrap().exited_ns, Some(200));
    }

    #[test]
    fn a_late_report_of_an_exit_does_not_move_it() {
        let mut processes = Processes::new(8, Numbered);
        let id = processes.seen(7, 10, Some(comm("given")));
        processes.exited(7, 100);
        processes.exited(7, 900);
        processes.executed(7, 900, comm("new"));
        let process = processes.process(id).unwrap();
        assert_eq!((process.pid, process.comm), (7, comm("given")));
        assert_eq!(process.exited_ns, Some(100));
    }

    #[test]
    fn what_rings_tell_in_another_order_is_of_the_same_processes() {
        let mut one = Processes::new(8, Numbered);
        let mut other = one.sharing();
        // Read from the one ring: the exit of a process that only the other has seen, and the pid again.
        one.exited(7, 100);
        let second = one.seen(7, 110, Some(comm("second")));
        one.exited(7, 200);
        let third = one.seen(7, 210, Some(comm("third")));
        // And from the other.
        let first = other.seen(7, 90, Some(comm("first")));
        assert_eq!(other.seen(7, 95, None), first);
        other.exited(7, 100);
        assert_eq!(other.seen(7, 150, Some(comm("a-thread"))), second);
        other.exited(7, 200);
        assert_eq!((other.seen(7, 220, None), one.seen(7, 230, None)), (third, third));
        assert_eq!([first, second, third].map(|id| name(&one, id)), ["first", "second", "third"]);
        let exits = [first, second, third].map(|id| other.process(id).unwrap().exited_ns);
        assert_eq!((exits, other.len()), ([Some(100), Some(200), None], 3));
    }

    #[test]
    fn an_exit_that_only_another_ring_told_is_known_when_it_is_asked_again() {
        let mut one = Processes::new(8, Numbered);
        let mut other = one.sharing();
        let first = one.seen(7, 10, Some(comm("given")));
        assert_eq!(other.seen(7, 20, Some(comm("a-thread"))), first);
        one.exited(7, 100);
        assert_eq!(other.seen(7, 99, None), first);
        other.ask_again();
        assert_eq!(other.seen(7, 100, None), first);
        assert_ne!(other.seen(7, 101, None), first);
    }

    #[test]
    fn an_exit_that_was_not_told_is_found() {
        let mut processes = Processes::new(8, Numbered);
        let [stays, goes, is_replaced] = [1, 2, 3].map(|pid| processes.seen(pid, 10, None));
        assert!(processes.find_untold(50, || false));
        assert_eq!(processes.expired(u64::MAX, 0), []);
        BEGUN.set(&[(2, None), (3, Some(40))]);
        assert!(processes.find_untold(60, || false));
        assert_eq!(processes.expired(60, 0), [goes, is_replaced]);
        assert_eq!(processes.seen(1, 70, None), stays);
        assert_ne!(processes.seen(3, 70, None), is_replaced, "another process has the number");
        assert!(processes.find_untold(80, || false));
        assert_eq!(processes.expired(80, 20), [goes, is_replaced], "the first finding stands");
    }

    #[test]
    fn a_search_whose_time_is_up_goes_on_where_it_stopped() {
        let mut processes = Processes::new(8, Numbered);
        let ids = [1, 2, 3, 4].map(|pid| processes.seen(pid, 10, None));
        BEGUN.set(&[(1, None), (2, None), (3, None), (4, None)]);
        let mut left = 3;
        let is_up = || {
            left -= 1;
            left == 0
        };
        assert!(!processes.find_untold(50, is_up));
        assert_eq!(processes.expired(50, 0).len(), 3);
        assert!(processes.find_untold(60, || true), "one is left");
        assert_eq!(processes.expired(60, 0), ids);
        assert_eq!(processes.expired(60, 10).len(), 3);
        assert!(processes.find_untold(70, || true), "none is left");
    }

    #[test]
    fn proc_tells_when_a_process_began() {
        let own = ProcFs.began(std::process::id());
        assert!(own.is_some_and(|began| began > 0));
        assert_eq!(ProcFs.began(u32::MAX), None);
    }

    #[test]
    fn exec_makes_it_another_program_and_what_was_before_stays() {
        let mut processes = Processes::new(8, Numbered);
        let shell = processes.seen(7, 10, Some(comm("sh")));
        processes.tell(shell, Identity::new(Some(b"/bin/sh"), None, None));
        processes.executed(7, 20, comm("orders"));
        processes.executed(8, 20, comm("orders"));
        let orders = processes.seen(7, 21, None);
        assert_ne!(orders, shell);
        assert_eq!(
            (name(&processes, shell), name(&processes, orders)),
            ("sh".into(), "orders".into())
        );
        let exe = |id| processes.process(id).unwrap().identity.exe.to_vec();
        assert_eq!((exe(shell), exe(orders)), (b"/bin/sh".to_vec(), b"/bin/7".to_vec()));
        assert_eq!(processes.names().process(orders).comm, comm("orders"));
        // Of both the connections are the process's, as it is now.
        assert_eq!((processes.first_of(orders), processes.first_of(shell)), (shell, shell));
        assert_eq!(processes.names().now(shell).comm, comm("orders"));
        assert_eq!(processes.len(), 2);
        processes.exited(7, 30);
        assert_eq!(processes.expired(90, 60), [shell, orders], "with the process");
        processes.forget(shell);
        processes.forget(orders);
        assert!(processes.is_empty());
    }

    #[test]
    fn a_new_name_is_of_what_comes_after_it_in_whatever_order_it_is_told() {
        let mut one = Processes::new(8, Numbered);
        let mut other = one.sharing();
        let a = one.seen(7, 10, Some(comm("a")));
        assert_eq!(other.seen(7, 11, None), a);
        for _ in 0..2 {
            one.renamed(7, 20, Some(comm("b")));
        }
        let b = one.seen(7, 20, None);
        assert_ne!(b, a);
        assert_eq!(one.seen(7, 19, None), b, "known here: its ring is in order");
        one.ask_again();
        assert_eq!(one.seen(7, 19, None), a);
        assert_eq!(one.seen(7, 25, None), b);
        // The other ring has not come that far.
        assert_eq!(other.seen(7, 15, None), a);
        one.renamed(7, 30, Some(comm("a")));
        other.ask_again();
        assert_eq!(other.seen(7, 19, None), a);
        other.renamed(7, 20, Some(comm("b")));
        assert_eq!(other.seen(7, 29, None), b);
        other.renamed(7, 30, Some(comm("a")));
        assert_eq!([one.seen(7, 31, None), other.seen(7, 31, None)], [a, a], "the name again");
        assert_eq!(one.len(), 2);
        // Another process has names of its own.
        one.exited(7, 40);
        assert_ne!(one.seen(7, 41, Some(comm("a"))), a);
    }

    #[test]
    fn a_new_name_may_be_told_before_the_process_is_seen() {
        let mut processes = Processes::new(8, Numbered);
        processes.renamed(7, 20, Some(comm("new")));
        let new = processes.seen(7, 21, Some(comm("old")));
        assert_eq!(name(&processes, new), "new");
        let old = processes.seen(7, 10, Some(comm("old")));
        processes.ask_again();
        let old_again = processes.seen(7, 10, Some(comm("old")));
        assert_eq!((old, name(&processes, old_again)), (new, "old".into()));
    }

    #[test]
    fn names_are_bounded() {
        let mut processes = Processes::new(1000, Numbered);
        let first = processes.seen(7, 0, Some(comm("first")));
        for at in 1..=10_000 {
            processes.renamed(7, at, Some(comm(&at.to_string())));
        }
        assert_eq!(processes.len(), 1, "under none of these has it done anything");
        let mut ids = Vec::new();
        for at in 10_001..11_000 {
            processes.renamed(7, at, Some(comm(&at.to_string())));
            ids.push(processes.seen(7, at, None));
        }
        ids.dedup();
        assert_eq!((ids.len(), processes.len()), (16, 17));
        assert_eq!(name(&processes, ids[15]), "other");
        assert_eq!(
            (processes.process(ids[15]).unwrap().pid, processes.first_of(ids[15])),
            (7, first)
        );
        assert_eq!(processes.overflow(), 999 - 15);
        processes.renamed(7, 20_000, None);
        processes.renamed(7, 20_000, None);
        assert_eq!(processes.seen(7, 20_001, None), ids[15], "they change too fast to be told");
        assert_eq!(processes.overflow(), 999 - 15 + 1);
        processes.renamed(7, 30_000, Some(comm("first")));
        assert_eq!(processes.seen(7, 30_001, None), first);
        processes.exited(7, 40_000);
        assert_eq!(processes.expired(40_000, 0).len(), 17);
    }

    #[test]
    fn a_name_that_was_not_told_is_found() {
        let mut processes = Processes::new(8, Numbered);
        let id = processes.seen(7, 10, Some(comm("given")));
        assert!(processes.find_untold(20, || false));
        let now = processes.seen(7, 21, None);
        assert_eq!(
            (name(&processes, id), name(&processes, now)),
            ("given".into(), "proc-7".into())
        );
    }

    #[test]
    fn expires_after_the_time_to_live_and_keeps_its_name_until_forgotten() {
        let mut processes = Processes::new(8, Numbered);
        let gone = processes.seen(7, 10, None);
        let alive = processes.seen(8, 10, None);
        processes.exited(7, 100);
        assert_eq!(processes.expired(159, 60), []);
        assert_eq!(processes.expired(50, 60), [], "a clock that is behind");
        assert_eq!(processes.expired(160, 60), [gone]);
        assert_eq!(processes.names().process(gone).pid, 7);

        let again = processes.seen(7, 170, None);
        processes.forget(gone);
        assert_eq!(processes.process(gone), None);
        assert_eq!(processes.names().process(gone).comm, comm("other"));
        assert_eq!(processes.seen(7, 180, None), again, "the pid's new process is still known");
        assert_eq!(processes.seen(8, 180, None), alive);
        assert_eq!(processes.expired(u64::MAX, 60), []);
    }

    #[test]
    fn the_last_that_has_the_same_labels_is_the_heir() {
        let mut processes = Processes::new(8, Numbered);
        let mut at = 0;
        let mut begin = |name| {
            at += 10;
            processes.exited(7, at - 5);
            processes.seen(7, at, Some(comm(name)))
        };
        let [a, b, other, last] = ["a", "a", "b", "a"].map(&mut begin);
        let neighbour = processes.seen(8, 100, Some(comm("a")));
        let all = vec![a, b, other, last, neighbour];
        let want = [(a, Some(last)), (b, Some(last)), (other, None), (last, None)];
        assert_eq!(processes.heirs(all.clone(), &[])[..4], want);
        assert_eq!(processes.heirs(vec![neighbour], &[]), [(neighbour, None)]);
        assert_eq!(processes.heirs(all.clone(), &[Detail::Exe])[..4], want, "the same file");

        // Where a label tells them apart they are two.
        processes.tell(last, Identity::new(Some(b"/bin/new"), None, None));
        assert_eq!(processes.heirs(vec![a], &[Detail::Exe]), [(a, Some(b))]);
        assert_eq!(processes.heirs(vec![a], &[Detail::CmdlineHash]), [(a, Some(last))]);
        processes.forget(last);
        assert_eq!(processes.heirs(vec![a, b], &[]), [(a, Some(b)), (b, None)]);
    }

    #[test]
    fn beyond_the_bound_all_are_other() {
        let mut processes = Processes::new(2, Numbered);
        let first = processes.seen(1, 1, None);
        processes.seen(2, 1, None);
        assert_eq!(processes.seen(3, 1, None), ProcessId::OTHER);
        assert_eq!(processes.seen(4, 1, None), ProcessId::OTHER);
        assert_eq!(processes.seen(1, 2, None), first);
        assert_eq!((processes.len(), processes.overflow()), (2, 2));
        assert_eq!(name(&processes, ProcessId::OTHER), "other");

        processes.exited(1, 3);
        processes.forget(first);
        assert_ne!(processes.seen(3, 4, None), ProcessId::OTHER);
    }
}
