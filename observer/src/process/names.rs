//! The processes as a scrape needs them.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;

use super::{
    Process, ProcessId,
    identity::Pod,
    lives::{Known, Life, Named},
};

/// The processes by their ids, as of one moment; what a scrape needs.
#[derive(Clone, Debug)]
pub struct Names {
    processes: FxHashMap<ProcessId, Named>,
    /// Those that have another name now than when they were first seen, by their first id.
    renamed: FxHashMap<ProcessId, Named>,
    /// What Kubernetes calls their pods, by their UIDs.
    pods: FxHashMap<Box<str>, Arc<Pod>>,
}

impl Names {
    pub(super) fn of(known: &Known) -> Self {
        let renamed = |life: &Life| {
            let (first, name) = (life.first()?, life.names.back()?);
            let process = known.ids.processes.get(&first).filter(|first| !name.is_of(first))?;
            Some((first, Named { comm: name.comm, look: name.look.clone(), ..process.clone() }))
        };
        let renamed = known.of_pid.values().flatten().filter_map(renamed).collect();
        Self { processes: known.ids.processes.clone(), renamed, pods: FxHashMap::default() }
    }

    /// The process, with the name of this id; that of [`ProcessId::OTHER`] when it was forgotten.
    pub fn process(&self, id: ProcessId) -> Process {
        self.processes.get(&id).map_or_else(Process::other, |process| self.told(process))
    }

    /// The process with the name that it has now, by its [first](super::Processes::first_of) id.
    pub fn now(&self, first: ProcessId) -> Process {
        self.renamed.get(&first).map_or_else(|| self.process(first), |process| self.told(process))
    }

    fn told(&self, process: &Named) -> Process {
        let mut process = process.process();
        if let Some(pod) = self.pods.get(&process.identity.cgroup.pod_uid) {
            Arc::make_mut(&mut process.identity).pod = Some(Arc::clone(pod));
        }
        process
    }

    /// Adds the names of others.
    pub(crate) fn extend(&mut self, other: Self) {
        self.processes.extend(other.processes);
        self.renamed.extend(other.renamed);
    }

    /// Waits until the source has been asked about all of them, but no longer than that. Answers how many
    /// are left, of which there is less to tell now than later.
    pub(crate) fn settle(&self, patience: Duration) -> usize {
        const PAUSE: Duration = Duration::from_millis(2);
        let deadline = Instant::now() + patience;
        loop {
            let all = self.processes.values().chain(self.renamed.values());
            let left = all.filter(|process| !process.look.is_settled()).count();
            if left == 0 || Instant::now() >= deadline {
                return left;
            }
            thread::sleep(PAUSE);
        }
    }

    /// Asks for the names of each process's pod, by its UID.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn tell_pods(&mut self, mut pod: impl FnMut(&str) -> Option<Arc<Pod>>) {
        for process in self.processes.values().chain(self.renamed.values()) {
            let uid = &process.look.identity().cgroup.pod_uid;
            if !uid.is_empty()
                && let Some(pod) = pod(uid)
            {
                self.pods.insert(uid.clone(), pod);
            }
        }
    }
}
