//! What is known of the processes that have series: to be joined with them, by pid and process.

use std::collections::BTreeSet;

use super::{
    Snapshot,
    exposition::{Family, Kind, Sink},
    rows::ProcessLabel,
};
use crate::process::{Detail, ProcessId};

const PROCESS: Family = Family::new(
    Kind::Info,
    "observer_process",
    "What runs in a process that has series; a label is empty where nothing is known.",
);

/// Writes a series for each process that has others.
pub(super) fn write(snapshot: &Snapshot, sink: &mut dyn Sink) {
    let Snapshot { statistics, processes, .. } = snapshot;
    let of_series = statistics.series().map(|(key, _)| key.process);
    let of_connections = statistics.connections().map(|(process, ..)| process);
    // What stands for many is none of them.
    let known: BTreeSet<ProcessId> =
        of_series.chain(of_connections).filter(|&id| id != ProcessId::OTHER).collect();
    // Two that had the same pid one after the other may read the same.
    let labels: BTreeSet<ProcessLabel> =
        known.iter().map(|&id| ProcessLabel::new(&processes.process(id), &Detail::ALL)).collect();
    sink.family(&PROCESS);
    for process in &labels {
        sink.info(&process.labels().collect::<Vec<_>>());
    }
}
