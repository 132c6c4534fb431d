//! A copy of the table of processes, for a scrape.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{
    Process, ProcessId,
    identity::Pod,
    lives::{Life, Named, Table},
};

/// The processes by their ids, at one time.
#[derive(Clone, Debug)]
pub struct ProcessNames {
    processes: FxHashMap<ProcessId, Named>,
    /// The processes whose latest name is not their first one, by their first id.
    renamed: FxHashMap<ProcessId, Named>,
    /// The pods of the processes, by UID.
    pods: FxHashMap<Box<str>, Arc<Pod>>,
}

impl ProcessNames {
    pub(super) fn of(table: &Table) -> Self {
        let renamed = |life: &Life| {
            let (first, name) = (life.first()?, life.names.back()?);
            let process = table.ids.processes.get(&first).filter(|first| !name.is_of(first))?;
            let program = name.program.clone();
            Some((first, Named { comm: name.comm, program, ..process.clone() }))
        };
        let renamed = table.of_pid.values().flatten().filter_map(renamed).collect();
        Self { processes: table.ids.processes.clone(), renamed, pods: FxHashMap::default() }
    }

    /// The process with this id; that of [`ProcessId::OTHER`] if it was forgotten.
    pub fn process(&self, id: ProcessId) -> Process {
        self.processes.get(&id).map_or_else(Process::other, |process| self.with_pod(process))
    }

    /// The process with this [first](super::Seen::first) id, under its latest name.
    pub fn now(&self, first: ProcessId) -> Process {
        match self.renamed.get(&first) {
            Some(process) => self.with_pod(process),
            None => self.process(first),
        }
    }

    fn with_pod(&self, process: &Named) -> Process {
        let mut process = process.process();
        if let Some(pod) = self.pods.get(&process.identity.cgroup.pod_uid) {
            Arc::make_mut(&mut process.identity).pod = Some(Arc::clone(pod));
        }
        process
    }

    /// Adds the processes of another copy.
    pub fn extend(&mut self, other: Self) {
        self.processes.extend(other.processes);
        self.renamed.extend(other.renamed);
    }

    /// The number of processes whose lookup has no answer yet. O(processes).
    pub fn pending(&self) -> usize {
        let all = self.processes.values().chain(self.renamed.values());
        all.filter(|process| !process.program.is_settled()).count()
    }

    /// Adds the pods of the processes. `pod` finds a pod by its UID.
    pub fn set_pods(&mut self, mut pod: impl FnMut(&str) -> Option<Arc<Pod>>) {
        for process in self.processes.values().chain(self.renamed.values()) {
            let uid = &process.program.identity().cgroup.pod_uid;
            if !uid.is_empty()
                && let Some(pod) = pod(uid)
            {
                self.pods.insert(uid.clone(), pod);
            }
        }
    }
}
