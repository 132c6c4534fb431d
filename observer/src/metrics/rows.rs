//! The series of a snapshot, by their labels.
//!
//! Two series may have the same labels: two processes had the same pid and name one after the other, or a peer's path
//! reads like `other`. Prometheus rejects a scrape with a duplicate series, so they are added up here, for every schema.

use std::{
    cmp::Ordering,
    collections::hash_map::Entry,
    hash::{Hash, Hasher},
    ops::Deref,
};

use rustc_hash::FxHashMap;

use super::{GrpcType, Series, Snapshot, exposition::Label};
use observer_core::{
    call::{CallProtocol, Role},
    names::{PathId, escape::escape},
    process::{Comm, Detail, Grouping, Process, ProcessId},
    statistics::Method,
};

/// The labels of a process, or of a service, and the name of the service. Only the labels are compared.
#[derive(Clone, Debug)]
pub(super) struct ProcessLabel {
    /// The pid of the process; 0 for a service.
    pub(super) pid: u32,
    /// The labels, by name.
    labels: Vec<(&'static str, String)>,
    /// The name of the service, escaped.
    pub(super) service: String,
}

impl ProcessLabel {
    /// Pid, name and the given details of a process.
    pub(super) fn new(process: &Process, details: &[Detail]) -> Self {
        let Process { pid, comm, .. } = process;
        let name = escape(comm.as_bytes()).into_owned();
        let mut labels = vec![("pid", pid.to_string()), ("process", name)];
        labels.extend(
            details.iter().map(|detail| (detail.name(), escape(detail.of(process)).into_owned())),
        );
        let service = escape(process.service.name.as_bytes()).into_owned();
        Self { pid: *pid, labels, service }
    }

    /// Name and namespace of the service of a process, and the given details; `None` if the service is not known yet.
    fn of_service(process: &Process, details: &[Detail]) -> Option<Self> {
        if !process.has_service {
            return None;
        }
        let is_other = process.pid == 0 && process.comm == Comm::OTHER;
        let name = match &*process.service.name {
            "" if is_other => "other".into(),
            // The process had exited before it was looked up.
            "" => "not_seen".into(),
            name => escape(name.as_bytes()).into_owned(),
        };
        let namespace = escape(process.service.namespace.as_bytes()).into_owned();
        let mut labels = vec![("service", name.clone()), ("service_namespace", namespace)];
        let details = details.iter();
        labels
            .extend(details.map(|detail| (detail.name(), escape(detail.of(process)).into_owned())));
        Some(Self { pid: 0, labels, service: name })
    }

    fn key(&self) -> (u32, &[(&'static str, String)]) {
        (self.pid, &self.labels)
    }

    /// The labels for the exposition.
    pub(super) fn labels(&self) -> impl Iterator<Item = Label<'_>> {
        self.labels.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// The name of the process, or of the service with its namespace, escaped.
    pub(super) fn name(&self) -> String {
        let label = |label| self.labels.iter().find(|(name, _)| *name == label);
        let value = |name| label(name).map_or("", |(_, value)| value);
        match (value("process"), value("service_namespace")) {
            ("", "") => value("service").to_owned(),
            ("", namespace) => format!("{namespace}/{}", value("service")),
            (process, _) => process.to_owned(),
        }
    }
}

impl PartialEq for ProcessLabel {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for ProcessLabel {}

impl Hash for ProcessLabel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialOrd for ProcessLabel {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ProcessLabel {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// The label values of a snapshot. Each is made once.
#[derive(Debug)]
pub(super) struct LabelValues<'a> {
    methods: FxHashMap<(CallProtocol, PathId), (Method<'a>, GrpcType)>,
    /// `None` for a process whose series cannot be published yet.
    processes: FxHashMap<ProcessId, Option<ProcessLabel>>,
    /// The processes with connections, with the names that they have now.
    connected: FxHashMap<ProcessId, Option<ProcessLabel>>,
}

impl<'a> LabelValues<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let Snapshot { statistics, paths, descriptors, processes, exposition, .. } = snapshot;
        let label = |process| match exposition.by {
            Grouping::Process => Some(ProcessLabel::new(&process, &exposition.labels)),
            Grouping::Service => ProcessLabel::of_service(&process, &exposition.labels),
        };
        let mut values = Self {
            methods: FxHashMap::default(),
            processes: FxHashMap::default(),
            connected: FxHashMap::default(),
        };
        let types = statistics.types();
        for (key, _) in statistics.series() {
            if let Entry::Vacant(process) = values.processes.entry(key.process) {
                process.insert(label(processes.process(key.process)));
            }
            values.methods.entry((key.protocol, key.path)).or_insert_with(|| {
                let path = paths.path(key.path);
                let method = Method::new(key.protocol, key.path, path);
                if key.protocol.family() != CallProtocol::Grpc {
                    return (method, GrpcType::Unknown);
                }
                let of_calls = types.get(&key.path).copied().unwrap_or(GrpcType::Unknown);
                let derived = || method.grpc_type(of_calls);
                let grpc_type = descriptors.grpc_type(path.as_bytes()).unwrap_or_else(derived);
                (method, grpc_type)
            });
        }
        for (id, _, _) in statistics.connections() {
            if let Entry::Vacant(process) = values.connected.entry(id) {
                process.insert(label(processes.now(id)));
            }
        }
        values
    }
}

/// The figures of one set of labels.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) protocol: CallProtocol,
    pub(super) role: Role,
    pub(super) method: Method<'a>,
    pub(super) grpc_type: GrpcType,
    pub(super) process: &'a ProcessLabel,
    pub(super) series: Figures<'a>,
}

/// The figures of a series, or the sum of several. Sums are rare, so they are boxed and a row takes little memory.
#[derive(Debug)]
pub(super) enum Figures<'a> {
    One(&'a Series),
    Sum(Box<Series>),
}

impl Figures<'_> {
    pub(super) fn add(&mut self, other: &Series) {
        match self {
            Self::One(series) => {
                let mut sum = Box::new(series.clone());
                sum.merge(other);
                *self = Self::Sum(sum);
            }
            Self::Sum(sum) => sum.merge(other),
        }
    }
}

impl Deref for Figures<'_> {
    type Target = Series;

    fn deref(&self) -> &Series {
        match self {
            Self::One(series) => series,
            Self::Sum(sum) => sum,
        }
    }
}

impl Row<'_> {
    /// The sort key of the row: first what selects its families.
    fn labels(&self) -> (CallProtocol, Role, Method<'_>, &ProcessLabel, CallProtocol) {
        (self.protocol.family(), self.role, self.method, self.process, self.protocol)
    }
}

/// The rows of a snapshot, one for each set of labels, sorted by labels.
pub(super) fn rows<'a>(snapshot: &'a Snapshot, values: &'a LabelValues<'_>) -> Vec<Row<'a>> {
    let mut rows: Vec<Row<'_>> = snapshot
        .statistics
        .series()
        .filter_map(|(key, series)| {
            let (method, grpc_type) = *values.methods.get(&(key.protocol, key.path))?;
            let process = values.processes.get(&key.process)?.as_ref()?;
            let (protocol, role, series) = (key.protocol, key.role, Figures::One(series));
            Some(Row { protocol, role, method, grpc_type, process, series })
        })
        .collect();
    rows.sort_unstable_by(|a, b| a.labels().cmp(&b.labels()));
    rows.dedup_by(|row, kept| {
        let same = row.labels() == kept.labels();
        if same {
            kept.series.add(&row.series);
        }
        same
    });
    rows
}

/// The open connections by side and process, sorted.
pub(super) fn connections<'a>(
    snapshot: &'a Snapshot,
    values: &'a LabelValues<'_>,
) -> Vec<(Role, &'a ProcessLabel, u64)> {
    let mut connections: Vec<(Role, &ProcessLabel, u64)> = snapshot
        .statistics
        .connections()
        .filter_map(|(process, role, count)| {
            Some((role, values.connected.get(&process)?.as_ref()?, count))
        })
        .collect();
    connections.sort_unstable();
    connections.dedup_by(|other, kept| {
        let same = (other.0, other.1) == (kept.0, kept.1);
        if same {
            kept.2 += other.2;
        }
        same
    });
    connections
}
