//! Processes from their start to their exit, under all their names.

use std::collections::{VecDeque, hash_map::Entry};

use rustc_hash::FxHashMap;

use super::{
    Comm, Process, ProcessId,
    lookup::{LookupQueue, Program, Running},
    service::{Service, ServiceNames},
};

/// Bound on the names of one process. Calls under further names count for [`Comm::OTHER`].
const MAX_NAMES: usize = 16;

/// Bound on the changes of a process's name that are remembered, for rings that are read later than others.
const MAX_CHANGES: usize = 32;

/// A process under one of its names.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) pid: u32,
    pub(super) comm: Comm,
    pub(super) program: Program,
    pub(super) exited_ns: Option<u64>,
}

impl Named {
    /// The process as it is known now.
    pub(super) fn process(&self, services: &ServiceNames) -> Process {
        let Self { pid, comm, ref program, exited_ns } = *self;
        let (comm, identity) = (name_of(comm, program), program.identity());
        let service = Service::of(services, comm, &identity);
        let has_service = program.has_service();
        Process { pid, comm, identity, service, has_service, exited_ns }
    }

    pub(super) fn nameless(pid: u32, exited_ns: Option<u64>) -> Self {
        Self { pid, comm: Comm::NONE, program: Program::default(), exited_ns }
    }
}

/// The process's name from a record; if no record had it, from the source.
fn name_of(comm: Comm, program: &Program) -> Comm {
    if comm == Comm::NONE { program.comm().unwrap_or(comm) } else { comm }
}

/// A process from its start to its exit. Each name under which it makes calls has an id of its own, so that calls
/// stay with the name that made them.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) exited_ns: Option<u64>,
    /// The ids in the order in which they were given out; never empty.
    pub(super) ids: Vec<ProcessId>,
    /// The names, ascending by time; never empty, the first is valid from 0 on.
    pub(super) names: VecDeque<Name>,
}

/// The name and program of a process from some time on.
#[derive(Clone, Debug)]
pub(super) struct Name {
    from_ns: u64,
    pub(super) comm: Comm,
    pub(super) program: Program,
}

impl Name {
    fn of(process: &Named) -> Self {
        Self { from_ns: 0, comm: process.comm, program: process.program.clone() }
    }

    pub(super) fn is_of(&self, process: &Named) -> bool {
        self.comm == process.comm && self.program.is_like(&process.program)
    }
}

impl Life {
    pub(super) fn is_at(&self, time_ns: u64) -> bool {
        self.exited_ns.is_none_or(|at_ns| time_ns <= at_ns)
    }

    pub(super) fn is_running(&self) -> bool {
        self.exited_ns.is_none()
    }

    pub(super) fn has(&self, id: ProcessId) -> bool {
        self.ids.contains(&id)
    }

    /// The id of its first name.
    pub(super) fn first(&self) -> Option<ProcessId> {
        self.ids.first().copied()
    }

    /// The index of the name that it had at this time.
    fn name_at(&self, time_ns: u64) -> usize {
        self.names.partition_point(|name| name.from_ns <= time_ns).saturating_sub(1)
    }

    /// Whether it still runs under the name that it had at this time.
    pub(super) fn is_latest(&self, time_ns: u64) -> bool {
        self.is_running() && self.name_at(time_ns) + 1 == self.names.len()
    }

    /// Records a new name and program from this time on; `to` makes them from the previous ones. `None` if the change
    /// is known: each ring reports it.
    pub(super) fn change(
        &mut self,
        from_ns: u64,
        to: impl FnOnce(&Name) -> (Comm, Program),
    ) -> Option<&Name> {
        let at = self.name_at(from_ns);
        let before = self.names.get(at).filter(|before| before.from_ns != from_ns)?;
        let (comm, program) = to(before);
        self.names.insert(at + 1, Name { from_ns, comm, program });
        let mut at = at + 1;
        if self.names.len() > MAX_CHANGES {
            self.names.pop_front();
            at -= 1;
        }
        self.names.front_mut()?.from_ns = 0;
        self.end_programs();
        self.names.get(at)
    }

    /// Records the end of each program: when the next one was executed, or with the process.
    fn end_programs(&self) {
        let mut over_ns = self.exited_ns;
        let mut later: Option<&Name> = None;
        for name in self.names.iter().rev() {
            match later {
                Some(later) if later.program.is(&name.program) => {
                    name.program.renamed_at(later.from_ns);
                }
                Some(later) => over_ns = Some(later.from_ns),
                None => {}
            }
            if let Some(over_ns) = over_ns {
                name.program.ends_at(over_ns);
            }
            later = Some(name);
        }
    }
}

/// The processes by their ids, one for each name.
#[derive(Debug)]
pub(super) struct Ids {
    limit: usize,
    pub(super) processes: FxHashMap<ProcessId, Named>,
    /// The next id. Ids are never used again: 2³² watched processes are out of reach.
    next: u32,
    pub(super) overflow: u64,
    /// Whether adding is stopped.
    pub(super) stopped: bool,
}

impl Ids {
    pub(super) fn new(limit: usize) -> Self {
        let next = ProcessId::OTHER.0 + 1;
        Self { limit, processes: FxHashMap::default(), next, overflow: 0, stopped: false }
    }

    pub(super) fn is_full(&self) -> bool {
        self.stopped || self.processes.len() >= self.limit || self.next == u32::MAX
    }

    /// Gives out a new id, if there is room.
    fn add(&mut self, process: impl FnOnce() -> Named) -> Option<(ProcessId, &Named)> {
        if self.is_full() {
            self.overflow += 1;
            return None;
        }
        let id = ProcessId(self.next);
        self.next += 1;
        Some((id, self.processes.entry(id).or_insert_with(process)))
    }

    /// The id of the process with this name, if one was given out.
    fn find(&self, life: &Life, name: &Name) -> Option<ProcessId> {
        let is_it = |id: &ProcessId| self.processes.get(id).is_some_and(|known| name.is_of(known));
        life.ids.iter().copied().find(is_it)
    }

    /// The id of a process under the name that it had at this time; a new id if there is none and there is room.
    /// `comm` is the name if none is known so far.
    pub(super) fn at(
        &mut self,
        life: &mut Life,
        time_ns: u64,
        comm: Option<Comm>,
    ) -> Option<ProcessId> {
        let at = life.name_at(time_ns);
        let mut name = life.names.get(at)?.clone();
        let first = self.processes.get_mut(&life.first()?)?;
        // Records of later times may be read first.
        if at == 0 && name.comm == Comm::NONE && first.comm == name.comm {
            name.comm = comm.unwrap_or(name.comm);
            first.comm = name.comm;
        }
        let first = first.clone();
        let mut found = self.find(life, &name);
        if found.is_none() && life.ids.len() >= MAX_NAMES {
            self.overflow += 1;
            name = Name { comm: Comm::OTHER, program: first.program.clone(), ..name };
            found = self.find(life, &name);
        }
        let Name { comm, ref program, .. } = name;
        let program = program.clone();
        *life.names.get_mut(at)? = name;
        if found.is_none() {
            let (id, _) = self.add(|| Named { comm, program, ..first })?;
            life.ids.push(id);
            found = Some(id);
        }
        found
    }
}

/// The watched processes, of all tables that [share](super::Processes::sharing) them.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) ids: Ids,
    /// The processes of each pid, one after the other. They stay after their exit, because records of different
    /// rings are not in order: a record from before the exit may be read after it.
    pub(super) of_pid: FxHashMap<u32, Vec<Life>>,
    pub(super) queue: LookupQueue,
    pub(super) services: ServiceNames,
}

impl Table {
    pub(super) fn new(max_processes: usize) -> Self {
        let ids = Ids::new(max_processes);
        let services = ServiceNames::default();
        Self { ids, of_pid: FxHashMap::default(), queue: LookupQueue::default(), services }
    }

    /// The process that had the pid at this time: the first one that had not exited.
    pub(super) fn at(&mut self, pid: u32, time_ns: u64) -> Option<&mut Life> {
        self.of_pid.get_mut(&pid)?.iter_mut().find(|life| life.is_at(time_ns))
    }

    /// Adds a process, if there is room, and queues its lookup if it has not exited.
    pub(super) fn add(&mut self, process: impl FnOnce() -> Named) -> Option<&mut Life> {
        let (id, process) = self.ids.add(process)?;
        let names = VecDeque::from([Name::of(process)]);
        let life = Life { exited_ns: process.exited_ns, ids: vec![id], names };
        life.end_programs();
        if life.is_running() {
            self.queue.ask(process.pid, &process.program);
        }
        let lives = self.of_pid.entry(process.pid).or_default();
        lives.push(life);
        lives.last_mut()
    }

    /// Records the exit of the process that `is_it` selects; `None` if there is none.
    pub(super) fn exit(
        &mut self,
        pid: u32,
        time_ns: u64,
        is_it: impl Fn(&Life) -> bool,
    ) -> Option<()> {
        let Self { ids, of_pid, .. } = self;
        let life = of_pid.get_mut(&pid)?.iter_mut().find(|life| is_it(life))?;
        life.exited_ns = Some(time_ns);
        life.end_programs();
        for id in &life.ids {
            if let Some(process) = ids.processes.get_mut(id) {
                process.exited_ns = Some(time_ns);
            }
        }
        Some(())
    }

    /// Records that the process runs another program from this time on, under this name; nothing if that is known.
    pub(super) fn execute(&mut self, pid: u32, time_ns: u64, comm: Comm) {
        let Some(life) = self.at(pid, time_ns).filter(|life| life.is_running()) else { return };
        let Some(now) = life.change(time_ns, |_| (comm, Program::default())) else { return };
        let program = now.program.clone();
        self.queue.ask(pid, &program);
    }

    /// The running processes that the source has answered about.
    pub(super) fn running(&self) -> Vec<Running> {
        let lives = self.of_pid.values().flatten().filter(|life| life.is_running());
        let running = |life: &Life| {
            let (first, name) = (life.first()?, life.names.back()?);
            let pid = self.ids.processes.get(&first)?.pid;
            let began = life.names.iter().rev().find_map(|name| name.program.began())?;
            Some((pid, first, name_of(name.comm, &name.program), began))
        };
        lives.filter_map(running).collect()
    }

    /// Removes the process under one of its names.
    pub(super) fn forget(&mut self, id: ProcessId) {
        if let Some(process) = self.ids.processes.remove(&id)
            && let Entry::Occupied(mut of_pid) = self.of_pid.entry(process.pid)
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
