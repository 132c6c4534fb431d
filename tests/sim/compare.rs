//! Compares what the daemon counted with what is true.

use std::collections::BTreeMap;

use observer::metrics::{GrpcType, Snapshot};
use observer_core::{call::Role, pipeline::Connections, process};

use crate::{
    model::{Figures, Label, METHODS, Process, Truth},
    world::{World, name_of},
};

/// The daemon's figures of one series.
#[derive(Clone, Debug, Default)]
struct Counted {
    figures: Figures,
    code_not_seen: u64,
    handling_seconds: f64,
    handling_count: u64,
}

/// Series by process, whether it is the server, and method; `None` where the path was not seen.
type Counts = BTreeMap<(Process, bool, Option<usize>), Counted>;

fn number_of(process: &process::Process) -> Process {
    let comm = String::from_utf8(process.comm.as_bytes().to_vec()).unwrap();
    let number = comm.strip_prefix("process-").and_then(|number| number.parse().ok());
    let process = number.unwrap_or_else(|| panic!("no such process: {process:?}"));
    assert_eq!(name_of(process), comm);
    process
}

fn counted(snapshot: &Snapshot) -> Counts {
    let mut counts = Counts::new();
    for (key, series) in snapshot.statistics.series() {
        let path = match snapshot.paths.path(key.path) {
            "" => None,
            path => {
                let known = METHODS.iter().position(|(method, _)| *method == path);
                Some(known.unwrap_or_else(|| panic!("no such path: {path}")))
            }
        };
        let process = number_of(&snapshot.processes.process(key.process));
        let label = (process, key.role == Role::Server, path);
        let counted = Counted {
            figures: Figures {
                started: series.started,
                handled: series.handled,
                received: (series.received.count, series.received.bytes),
                sent: (series.sent.count, series.sent.bytes),
                handling_ns: 0,
                first_messages: series.first_message.count(),
            },
            code_not_seen: series.handled_code_not_seen,
            handling_seconds: series.handling.sum_seconds(),
            handling_count: series.handling.count(),
        };
        // Only series without a path have calls that started before the daemon.
        assert!(series.joined == 0 || path.is_none(), "{label:?}: {} joined", series.joined);
        assert!(counts.insert(label, counted).is_none(), "{label:?} twice");
    }
    counts
}

/// Checks that all figures are exact.
pub fn exactly(world: &World) {
    let snapshot = world.snapshot();
    let mut counts = counted(&snapshot);
    for (&(process, server, method), truth) in &world.truth.figures {
        let label = (process, server, Some(method));
        let Some(counted) = counts.remove(&label) else { panic!("{label:?} was not counted") };
        let Counted { figures, code_not_seen, handling_seconds, handling_count } = counted;
        assert_eq!(figures, Figures { handling_ns: 0, ..truth.clone() }, "{label:?}");
        assert_eq!(code_not_seen, 0, "{label:?}");
        assert_eq!(handling_count, truth.handled.iter().sum::<u64>(), "{label:?}");
        let seconds = truth.handling_ns as f64 / 1e9;
        assert!((handling_seconds - seconds).abs() < 1e-6, "{label:?}: {handling_seconds} s");
    }
    assert!(counts.is_empty(), "{counts:?} is not true");
    assert_eq!(snapshot.daemon.streams, world.truth.in_flight);
    assert_eq!(connections(&snapshot), open_connections(&world.truth));
}

fn connections(snapshot: &Snapshot) -> BTreeMap<(Process, bool), u64> {
    let connections = snapshot.statistics.connections().filter(|(.., count)| *count > 0);
    connections
        .map(|(id, role, count)| {
            ((number_of(&snapshot.processes.now(id)), role == Role::Server), count)
        })
        .collect()
}

fn open_connections(truth: &Truth) -> BTreeMap<(Process, bool), u64> {
    truth.connections.iter().filter(|(_, count)| **count > 0).map(|(&at, &n)| (at, n)).collect()
}

/// Checks that all connections are closed, and that each method has the right type.
pub fn nothing_is_open(world: &World) {
    let snapshot = world.snapshot();
    let connections = snapshot.daemon.connections;
    assert_eq!(connections, Connections::default());
    assert_eq!(snapshot.daemon.streams, 0);
    assert_eq!(self::connections(&snapshot), BTreeMap::new());
    let types = snapshot.statistics.types();
    for (&path, &shown) in &types {
        let path = snapshot.paths.path(path);
        for (method, (name, streams)) in METHODS.iter().enumerate() {
            if *name == path
                && let Some(may) = *streams
            {
                let all_seen = world.kernel.lost.is_empty() && !world.kernel.faults.any();
                let truth = world.truth.types.get(&method).copied().unwrap_or_default();
                let [requests, responses] =
                    truth.map(|(stream, single)| stream > 0 && 5 * stream >= stream + single);
                check_type(name, shown, may, all_seen.then_some((requests, responses)));
            }
        }
    }
}

/// Checks a method's type: the one that its calls showed, and never one that they cannot have shown.
fn check_type(name: &str, shown: GrpcType, may: (bool, bool), truth: Option<(bool, bool)>) {
    let shown = match shown {
        GrpcType::Unary => (false, false),
        GrpcType::ClientStream => (true, false),
        GrpcType::ServerStream => (false, true),
        GrpcType::BidiStream => (true, true),
        GrpcType::Unknown => panic!("{name} has a path, but no type"),
    };
    assert!((!shown.0 || may.0) && (!shown.1 || may.1), "{name}: {shown:?}, but it is {may:?}");
    if let Some(truth) = truth {
        assert_eq!(shown, truth, "{name}");
    }
}

/// Checks that no series has more than is true.
pub fn nothing_untrue(world: &World) {
    for (&(process, server, path), counted) in &counted(&world.snapshot()) {
        if let Some(method) = path {
            no_more_than_true(&world.truth, (process, server, method), &counted.figures);
        }
    }
}

/// Checks that no series has more than is true, and that only calls in gaps and dropped records are missing.
pub fn within_losses(world: &World) {
    nothing_untrue(world);
    let mut started: BTreeMap<(Process, bool), u64> = BTreeMap::new();
    for (&(process, server, _), counted) in &counted(&world.snapshot()) {
        *started.entry((process, server)).or_default() += counted.figures.started;
    }
    // Streams that may be calls or not.
    let streams = world.pipeline.streams();
    let unclear = streams.unclear + streams.unconfirmed;
    for (at, begun) in begun(&world.truth) {
        let seen = started.get(&at).copied().unwrap_or(0);
        let lost = lost_starts(world, at);
        assert!(
            seen + lost + unclear >= begun,
            "{at:?}: {seen} of {begun} calls; {lost} were not reported, {unclear} are unclear"
        );
    }
}

fn no_more_than_true(truth: &Truth, label: Label, counted: &Figures) {
    let tolerance = truth.tolerance.get(&label).cloned().unwrap_or_default();
    let truth = truth.figures.get(&label).cloned().unwrap_or_default();
    let started = truth.started + tolerance.any;
    assert!(counted.started <= started, "{label:?}: {} of {started} began", counted.started);
    for code in 0..17 {
        let most = truth.handled[code] + tolerance.handled[code] + tolerance.any;
        let handled = counted.handled[code];
        assert!(handled <= most, "{label:?}: {handled} ended with {code}, at most {most} did");
    }
    if METHODS[label.2].1.is_some() {
        for (counted, truth, after) in [
            (counted.received, truth.received, tolerance.received),
            (counted.sent, truth.sent, tolerance.sent),
        ] {
            let most = counted.0 <= truth.0 + after.0 && counted.1 <= truth.1 + after.1;
            assert!(most, "{label:?}: {counted:?} messages and bytes, but there were {truth:?}");
        }
        assert!(
            counted.first_messages
                <= truth.first_messages + tolerance.sent.0 + tolerance.received.0
        );
    }
}

fn begun(truth: &Truth) -> BTreeMap<(Process, bool), u64> {
    let mut begun = BTreeMap::new();
    for (&(process, server, _), figures) in &truth.figures {
        *begun.entry((process, server)).or_default() += figures.started;
    }
    begun
}

/// The number of calls whose request headers have bytes that no record reports.
fn lost_starts(world: &World, (process, server): (Process, bool)) -> u64 {
    let of = world.truth.starts.iter().filter(|s| (s.process, s.server) == (process, server));
    let is_lost = |start: &&crate::model::Start| {
        let sent = !start.server;
        world.kernel.lost.iter().any(|lost| {
            (lost.sock, lost.sent) == (start.sock, sent)
                && lost.begin < start.end
                && start.begin < lost.end
        })
    };
    of.filter(is_lost).count() as u64
}
