//! The processes as a scrape needs them.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{
    Process, ProcessId,
    identity::Pod,
    lives::{Life, Named, Table},
};

/// The processes by their ids, as of one moment.
#[derive(Clone, Debug)]
pub struct ProcessNames {
    processes: FxHashMap<ProcessId, Named>,
    /// Processes that have another name now than at first, by their first id.
    renamed: FxHashMap<ProcessId, Named>,
    /// Their pods, by UID.
    pods: FxHashMap<Box<str>, Arc<Pod>>,
}

impl ProcessNames {
    pub(super) fn of(table: &Table) -> Self {
        let renamed = |life: &Life| {
            let (first, name) = (life.first()?, life.names.back()?);
            let process = table.ids.processes.get(&first).filter(|first| !name.is_of(first))?;
            Some((
                first,
                Named { comm: name.comm, program: name.program.clone(), ..process.clone() },
            ))
        };
        let renamed = table.of_pid.values().flatten().filter_map(renamed).collect();
        Self { processes: table.ids.processes.clone(), renamed, pods: FxHashMap::default() }
    }

    /// The process with the name of this id; that of [`ProcessId::OTHER`] when it was forgotten.
    pub fn process(&self, id: ProcessId) -> Process {
        self.processes.get(&id).map_or_else(Process::other, |process| self.with_pod(process))
    }

    /// The process with the name that it has now, by its [first](super::Seen::first) id.
    pub fn now(&self, first: ProcessId) -> Process {
        self.renamed
            .get(&first)
            .map_or_else(|| self.process(first), |process| self.with_pod(process))
    }

    fn with_pod(&self, process: &Named) -> Process {
        let mut process = process.process();
        if let Some(pod) = self.pods.get(&process.identity.cgroup.pod_uid) {
            Arc::make_mut(&mut process.identity).pod = Some(Arc::clone(pod));
        }
        process
    }

    /// Adds the names of another table.
    pub fn extend(&mut self, other: Self) {
        self.processes.extend(other.processes);
        self.renamed.extend(other.renamed);
    }

    /// How many processes the source is still to be asked about: more will be known of them later. O(processes).
    pub fn pending(&self) -> usize {
        let all = self.processes.values().chain(self.renamed.values());
        all.filter(|process| !process.program.is_settled()).count()
    }

    /// Adds the pods of the processes; `pod` finds one by its UID.
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
