//! Who a pid is.
//!
//! [`Processes`] gives every process that is watched a [`ProcessId`]: [`Processes::seen`] when a
//! connection is attributed, [`Processes::executed`] and [`Processes::exited`] when the kernel says
//! so. Some time after its exit a process is [`Processes::expired`]; once its series have been
//! dropped, [`Processes::forget`] it. All times are kernel nanoseconds of one clock.

#![forbid(unsafe_code)]

mod detail;
mod identity;

use std::{collections::hash_map::Entry, fmt, fs, path::Path, sync::Arc};

use rustc_hash::FxHashMap;

pub use self::{
    detail::Detail,
    identity::{Cgroup, Identity, Pod},
};

/// A process, for as long as the daemon runs: a pid that is used again is another one.
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
pub struct Names(FxHashMap<ProcessId, Process>);

impl Names {
    /// The process; that of [`ProcessId::OTHER`] when it was forgotten.
    pub fn process(&self, id: ProcessId) -> Process {
        self.0.get(&id).cloned().unwrap_or_else(Process::other)
    }

    /// Asks for the names of each process's pod, by its UID.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn tell_pods(&mut self, mut pod: impl FnMut(&str) -> Option<Arc<Pod>>) {
        for process in self.0.values_mut() {
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
        let identity = Arc::default();
        Self { pid: 0, comm: Comm::OTHER, identity, began: None, exited_ns: None }
    }

    fn is_told_like(&self, other: &Self, details: &[Detail]) -> bool {
        let same = |detail: &Detail| detail.of(&self.identity) == detail.of(&other.identity);
        self.pid == other.pid && self.comm == other.comm && details.iter().all(same)
    }
}

/// The table of watched processes.
///
/// Bounded: it keeps up to `max_processes`, those that exited included until they are forgotten;
/// calls of any further one go to [`ProcessId::OTHER`] and are counted by
/// [`Processes::overflow`]. Everything is O(1) but [`Processes::expired`], which is O(processes).
#[derive(Clone, Debug)]
pub struct Processes<S = ProcFs> {
    source: S,
    limit: usize,
    /// The latest process of each pid; it stays after its exit, because records of different rings
    /// are not in order: what was seen before the exit may be read after it.
    latest: FxHashMap<u32, ProcessId>,
    known: FxHashMap<ProcessId, Process>,
    /// Ids are never used again: 2³² watched processes are not to be reached.
    next: u32,
    overflow: u64,
}

impl<S: ProcessSource> Processes<S> {
    /// An empty table.
    pub fn new(max_processes: usize, source: S) -> Self {
        Self {
            source,
            limit: max_processes,
            latest: FxHashMap::default(),
            known: FxHashMap::default(),
            next: ProcessId::OTHER.0 + 1,
            overflow: 0,
        }
    }

    /// How many processes it knows.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// How often a process did not find room.
    pub fn overflow(&self) -> u64 {
        self.overflow
    }

    /// What is known about the process.
    pub fn process(&self, id: ProcessId) -> Option<Process> {
        if id == ProcessId::OTHER { Some(Process::other()) } else { self.known.get(&id).cloned() }
    }

    /// A copy of what a scrape needs.
    pub fn names(&self) -> Names {
        Names(self.known.clone())
    }

    /// The pid did something at this time; `comm` is its name, where the record has it.
    ///
    /// The first sight gives the name. Later ones do not change it: what the kernel has at hand is
    /// the thread's name, and a label that follows it would split a process into many.
    pub fn seen(&mut self, pid: u32, now_ns: u64, comm: Option<Comm>) -> ProcessId {
        if let Some(&id) = self.latest.get(&pid)
            && let Some(process) = self.known.get(&id)
            && process.exited_ns.is_none_or(|exited_ns| now_ns <= exited_ns)
        {
            return id;
        }
        if self.known.len() >= self.limit || self.next == u32::MAX {
            self.overflow += 1;
            return ProcessId::OTHER;
        }
        let id = ProcessId(self.next);
        self.next += 1;
        let comm = comm.filter(|comm| !comm.as_bytes().is_empty());
        let comm = comm.or_else(|| self.source.comm(pid)).unwrap_or(Comm::truncated(b""));
        let identity = Arc::new(self.source.identity(pid));
        let began = self.source.began(pid);
        self.known.insert(id, Process { pid, comm, identity, began, exited_ns: None });
        self.latest.insert(pid, id);
        id
    }

    /// The process runs another program now (`execve`): the source says who it is.
    pub fn executed(&mut self, pid: u32) {
        if let Some(process) = self.latest.get(&pid).and_then(|id| self.known.get_mut(id))
            && process.exited_ns.is_none()
            && let Some(comm) = self.source.comm(pid)
        {
            process.comm = comm;
            process.identity = Arc::new(self.source.identity(pid));
        }
    }

    /// The process exited; a later sight of its pid is another process.
    pub fn exited(&mut self, pid: u32, now_ns: u64) {
        if let Some(process) = self.latest.get(&pid).and_then(|id| self.known.get_mut(id))
            && process.exited_ns.is_none()
        {
            process.exited_ns = Some(now_ns);
        }
    }

    /// Looks for processes that exited without being told of. O(processes).
    pub fn find_exited(&mut self, now_ns: u64) {
        let Self { source, known, .. } = self;
        for process in known.values_mut().filter(|process| process.exited_ns.is_none()) {
            let began = source.began(process.pid);
            if began.is_none() || began != process.began {
                process.exited_ns = Some(now_ns);
            }
        }
    }

    /// The processes that exited at least this long ago. They stay until [`Processes::forget`], so
    /// that their series never lose their names before they are dropped.
    pub fn expired(&self, now_ns: u64, ttl_ns: u64) -> Vec<ProcessId> {
        let mut expired: Vec<ProcessId> = self
            .known
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
    /// it either: that has its pid and its name, and so the labels of its series. O(processes).
    pub fn heirs(
        &self,
        of: Vec<ProcessId>,
        details: &[Detail],
    ) -> Vec<(ProcessId, Option<ProcessId>)> {
        if of.is_empty() {
            return Vec::new();
        }
        let mut by_pid: FxHashMap<u32, Vec<ProcessId>> = FxHashMap::default();
        for (&id, process) in &self.known {
            by_pid.entry(process.pid).or_default().push(id);
        }
        let heir = |id: ProcessId| {
            let process = self.known.get(&id)?;
            let same_pid = by_pid.get(&process.pid)?.iter().copied();
            let is_like = |other: &ProcessId| {
                self.known.get(other).is_some_and(|other| other.is_told_like(process, details))
            };
            same_pid.filter(|&other| other > id).filter(is_like).max()
        };
        of.into_iter().map(|id| (id, heir(id))).collect()
    }

    /// What runs in the process is this.
    #[cfg(test)]
    pub(crate) fn tell(&mut self, id: ProcessId, identity: Identity) {
        self.known.get_mut(&id).expect("known").identity = Arc::new(identity);
    }

    /// Drops the process.
    pub fn forget(&mut self, id: ProcessId) {
        if let Some(process) = self.known.remove(&id)
            && let Entry::Occupied(latest) = self.latest.entry(process.pid)
            && *latest.get() == id
        {
            latest.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, sync::Arc};

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
        processes.executed(7);
        let process = processes.process(id).unwrap();
        assert_eq!((process.pid, process.comm), (7, comm("given")));
        assert_eq!(process.exited_ns, Some(100));
        processes.exited(9999, 1);
        assert_eq!(processes.len(), 1);
    }

    #[test]
    fn an_exit_that_was_not_told_is_found() {
        let mut processes = Processes::new(8, Numbered);
        let [stays, goes, is_replaced] = [1, 2, 3].map(|pid| processes.seen(pid, 10, None));
        processes.find_exited(50);
        assert_eq!(processes.expired(u64::MAX, 0), []);
        BEGUN.set(&[(2, None), (3, Some(40))]);
        processes.find_exited(60);
        assert_eq!(processes.expired(60, 0), [goes, is_replaced]);
        assert_eq!(processes.seen(1, 70, None), stays);
        assert_ne!(processes.seen(3, 70, None), is_replaced, "another process has the number");
        processes.find_exited(80);
        assert_eq!(processes.expired(80, 20), [goes, is_replaced], "the first finding stands");
    }

    #[test]
    fn proc_tells_when_a_process_began() {
        let own = ProcFs.began(std::process::id());
        assert!(own.is_some_and(|began| began > 0));
        assert_eq!(ProcFs.began(u32::MAX), None);
    }

    #[test]
    fn exec_makes_it_another_program() {
        let mut processes = Processes::new(8, Numbered);
        let id = processes.seen(7, 10, Some(comm("sh")));
        let before = processes.process(id).unwrap().identity;
        assert_eq!(&*before.exe, b"/bin/7");
        processes.executed(7);
        processes.executed(8);
        assert_eq!(name(&processes, id), "proc-7");
        assert!(!Arc::ptr_eq(&before, &processes.process(id).unwrap().identity));
        assert_eq!(processes.names().process(id).comm, comm("proc-7"));
        assert_eq!(processes.len(), 1);
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
