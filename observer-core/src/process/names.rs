//! A copy of the table of processes, for a scrape.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{
    Process, ProcessId,
    identity::Pod,
    lives::{Life, Named, Table},
    service::ServiceNames,
};

/// The answer to a question for a pod.
#[derive(Clone, Debug)]
pub enum PodAnswer {
    /// The pod.
    Known(Arc<Pod>),
    /// There is no pod with this UID.
    Unknown,
    /// It is not known yet.
    Pending,
}

/// The processes by their ids, at one time.
#[derive(Clone, Debug)]
pub struct ProcessNames {
    processes: FxHashMap<ProcessId, Named>,
    /// The processes whose latest name is not their first one, by their first id.
    renamed: FxHashMap<ProcessId, Named>,
    services: ServiceNames,
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
        let (processes, services) = (table.ids.processes.clone(), table.services.clone());
        Self { processes, renamed, services }
    }

    /// The process with this id; that of [`ProcessId::OTHER`] if it was forgotten.
    pub fn process(&self, id: ProcessId) -> Process {
        self.processes
            .get(&id)
            .map_or_else(Process::other, |process| process.process(&self.services))
    }

    /// The process with this [first](super::Seen::first) id, under its latest name.
    pub fn now(&self, first: ProcessId) -> Process {
        match self.renamed.get(&first) {
            Some(process) => process.process(&self.services),
            None => self.process(first),
        }
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

    /// Adds the pods of the processes, here and in the table. `pod` finds a pod by its UID. The first answer about a
    /// process counts: its pod does not change.
    pub fn set_pods(&self, mut pod: impl FnMut(&str) -> PodAnswer) {
        for process in self.processes.values().chain(self.renamed.values()) {
            let uid = &process.program.identity().cgroup.pod_uid;
            if uid.is_empty() {
                continue;
            }
            match pod(uid) {
                PodAnswer::Known(pod) => process.program.set_pod(pod),
                PodAnswer::Unknown => process.program.has_no_pod(),
                PodAnswer::Pending => {}
            }
        }
    }
}
