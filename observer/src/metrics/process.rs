//! The family `observer_process_info`: details of processes, to be joined with other series by pid and process.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Snapshot,
    exposition::{Family, Kind, Sink, Value},
    rows::ProcessLabel,
};
use observer_core::process::{Detail, ProcessId};

const PROCESS: Family = Family::new(
    Kind::Info,
    "observer_process",
    "Details of each process that has series; a label is empty if its value is not known.",
);

/// Writes a series for each process that has other series.
pub(super) fn write(snapshot: &Snapshot, sink: &mut dyn Sink) {
    let Snapshot { statistics, processes, .. } = snapshot;
    // The process `other` stands for many.
    let each = |ids: &mut dyn Iterator<Item = ProcessId>| -> BTreeSet<ProcessId> {
        ids.filter(|&id| id != ProcessId::OTHER).collect()
    };
    let of_series = each(&mut statistics.series().map(|(key, _)| key.process));
    let of_connections = each(&mut statistics.connections().map(|(process, ..)| process));
    let of_series = of_series.iter().map(|&id| processes.process(id));
    let of_connections = of_connections.iter().map(|&id| processes.now(id));
    // If several processes had the same pid and name one after the other, the last one counts: a join by these two
    // needs exactly one.
    let labels: BTreeMap<ProcessLabel, ProcessLabel> = of_series
        .chain(of_connections)
        .map(|process| [&[][..], &Detail::ALL].map(|details| ProcessLabel::new(&process, details)))
        .map(|[joined_by, all]| (joined_by, all))
        .collect();
    sink.family(&PROCESS, &mut |series| {
        for process in labels.values() {
            series(&process.labels().collect::<Vec<_>>(), Value::Info);
        }
    });
}
