//! Tests with invented calls, second by second. The figures are exact in a double.

use std::{sync::Arc, time::Duration};

use super::{CallsOfCode, Counts, Filter, Loss, MAX_EDGES, MAX_ROWS, Model, Order, Row, Sampler};
use crate::metrics::{
    Buckets, Daemon, Gap, Limits, OwnProcess, Recording, Snapshot, Statistics, snapshot_of, unary,
};
use observer_core::{
    call::{CallKey, CallProtocol, CallSink as _, Code, Role},
    edges::{EdgeFigures, EdgeKey, Node},
    names::PathId,
    process::{Comm, ProcessId, Processes},
    statistics::EdgeSeries,
};

const MS: u64 = 1_000_000;

/// The statistics of a daemon, and a sampler.
struct Scenario {
    statistics: Statistics,
    processes: Processes,
    paths: Vec<String>,
    daemon: Daemon,
    sampler: Sampler,
}

impl Scenario {
    fn new() -> Self {
        let limits = Limits { max_methods: 2 * MAX_ROWS, ..Limits::default() };
        Self {
            statistics: Statistics::new("0.1,0.2,1".parse::<Buckets>().unwrap(), limits),
            processes: Processes::new(100),
            paths: Vec::new(),
            daemon: Daemon::default(),
            sampler: Sampler::default(),
        }
    }

    fn key(&mut self, role: Role, path: &str) -> CallKey {
        let at = self.paths.iter().position(|known| known == path).unwrap_or_else(|| {
            self.paths.push(path.to_owned());
            self.paths.len() - 1
        });
        let process = self.processes.seen(7, 1, Some(Comm::truncated(b"shop"))).id;
        CallKey { protocol: CallProtocol::Grpc, process, role, path: PathId(at as u32 + 2) }
    }

    fn calls(&mut self, path: &str, code: Option<Code>, elapsed_ns: u64, times: u64) {
        let key = self.key(Role::Server, path);
        for _ in 0..times {
            let id = self.statistics.started(key);
            let ended = unary(code, elapsed_ns);
            self.statistics.ended(id, ended);
        }
    }

    fn sample(&mut self, seconds: u64) -> Model {
        let snapshot = Snapshot {
            daemon: Arc::new(self.daemon.clone()),
            ..snapshot_of(self.statistics.clone(), &self.paths, &self.processes)
        };
        self.sampler.sample(&snapshot, Duration::from_secs(seconds))
    }

    fn row(&mut self, seconds: u64) -> Row {
        let mut model = self.sample(seconds);
        assert_eq!(model.rows.len(), 1, "{model:?}");
        model.rows.remove(0)
    }
}

#[test]
fn totals_are_known_at_once_and_rates_from_the_second_sample_on() {
    let mut scenario = Scenario::new();
    scenario.calls("/a.B/C", Some(Code::Ok), 50 * MS, 8);
    scenario.calls("/a.B/C", Some(Code::NotFound), 150 * MS, 2);
    let key = scenario.key(Role::Server, "/a.B/C");
    scenario.statistics.started(key);
    let model = scenario.sample(100);
    assert_eq!((model.sample, model.window_seconds), (1, None));
    let row = &model.rows[0];
    assert_eq!(row.key(), (Role::Server, "a.B", "C", "shop", 7));
    assert_eq!((row.total.started, row.total.counts.ended, row.in_flight), (11, 10, 1));
    assert_eq!((row.total.counts.failed, row.total.counts.code_not_seen), (2, 0));
    assert_eq!(row.total.counts.latency, [8, 2, 0, 0]);
    assert_eq!(row.total.quantiles.p50, Some(0.0625));
    let codes =
        [("OK", 8), ("NotFound", 2)].map(|(code, calls)| CallsOfCode { code: code.into(), calls });
    assert_eq!(row.total.codes, codes);
    assert_eq!((row.recent.rate, row.recent.error_ratio), (None, None));
    assert_eq!(row.recent.quantiles.p50, None);
    assert_eq!(row.last, Counts::default());

    scenario.calls("/a.B/C", Some(Code::Ok), 150 * MS, 3);
    scenario.calls("/a.B/C", Some(Code::Internal), 150 * MS, 1);
    let row = scenario.row(102);
    assert_eq!(row.total.counts.ended, 14);
    assert_eq!((row.recent.rate, row.recent.error_ratio), (Some(2.0), Some(0.25)));
    let counts = Counts { ended: 4, failed: 1, code_not_seen: 0, latency: vec![0, 4, 0, 0] };
    assert_eq!((&row.last, &row.recent.counts), (&counts, &counts));
    assert!((row.recent.quantiles.p50.unwrap() - 0.15).abs() < 1e-12);
}

#[test]
fn recent_figures_are_of_ten_seconds_and_last_ones_of_one() {
    let mut scenario = Scenario::new();
    scenario.calls("/a.B/C", Some(Code::Ok), MS, 1);
    scenario.sample(0);
    for second in 1..=10 {
        scenario.calls("/a.B/C", Some(Code::Ok), MS, second);
        let row = scenario.row(second);
        assert_eq!(row.last.ended, second);
        assert_eq!(row.recent.counts.ended, second * (second + 1) / 2);
    }
    // The first second is over, then the second one.
    assert_eq!(scenario.row(11).recent.counts.ended, 54);
    assert_eq!(scenario.row(12).recent.counts.ended, 52);
    let row = scenario.row(13);
    assert_eq!((row.recent.rate, row.last.ended), (Some(4.9), 0));
    // There was no sample for a while: the next one covers the time since the last one.
    let row = scenario.row(63);
    assert_eq!((row.recent.counts.ended, row.recent.rate), (0, Some(0.0)));
    assert_eq!((row.recent.error_ratio, row.recent.quantiles.p99), (None, None));
    assert_eq!(row.total.counts.ended, 56);
}

#[test]
fn a_method_that_is_called_for_the_first_time_has_a_rate_at_once() {
    let mut scenario = Scenario::new();
    scenario.sample(0);
    scenario.calls("/a.B/C", Some(Code::Ok), MS, 6);
    assert_eq!(scenario.row(2).recent.rate, Some(3.0));
}

#[test]
fn a_code_that_was_not_seen_is_neither_success_nor_error() {
    let mut scenario = Scenario::new();
    scenario.sample(0);
    scenario.calls("/a.B/C", None, MS, 6);
    let row = scenario.row(1);
    assert_eq!((row.recent.counts.ended, row.recent.counts.code_not_seen), (6, 6));
    assert_eq!((row.recent.error_ratio, row.recent.counts.failed), (None, 0));
    scenario.calls("/a.B/C", Some(Code::Unavailable), MS, 1);
    scenario.calls("/a.B/C", Some(Code::Ok), MS, 1);
    assert_eq!(scenario.row(2).recent.error_ratio, Some(0.5));
}

#[test]
fn figures_that_begin_anew_are_taken_from_there() {
    let mut scenario = Scenario::new();
    scenario.calls("/a.B/C", Some(Code::Ok), MS, 50);
    scenario.sample(0);
    let process = scenario.key(Role::Server, "/a.B/C").process;
    assert_ne!(process, ProcessId::OTHER);
    scenario.statistics.forget_process(process);
    scenario.calls("/a.B/C", Some(Code::Ok), MS, 3);
    let row = scenario.row(1);
    assert_eq!((row.total.counts.ended, row.last.ended), (3, 3));
}

#[test]
fn rows_that_do_most_are_kept_where_there_are_too_many() {
    let mut scenario = Scenario::new();
    for number in 0..MAX_ROWS + 5 {
        scenario.calls(&format!("/a.B/M{number:05}"), Some(Code::Ok), MS, 1);
    }
    scenario.sample(0);
    scenario.calls("/a.B/M01004", Some(Code::Ok), MS, 1);
    scenario.calls("/a.B/M01003", Some(Code::Aborted), MS, 1);
    let model = scenario.sample(1);
    assert_eq!((model.rows.len(), model.rows_left_out), (MAX_ROWS, 5));
    let names: Vec<&str> = model.rows.iter().map(|row| row.method.as_str()).collect();
    assert!(names.is_sorted());
    assert!(names.ends_with(&["M01003", "M01004"]), "{:?}", names.last());
}

#[test]
fn the_daemon_tells_of_itself() {
    let mut scenario = Scenario::new();
    scenario.daemon = Daemon {
        backend: "tracepoint".into(),
        gaps: vec![
            Gap { cause: "ring_full", events: 2, bytes: 100 },
            Gap { cause: "unseen", events: 0, bytes: 0 },
        ],
        own: OwnProcess { cpu_seconds: Some(5.0), ..OwnProcess::default() },
        ..Daemon::default()
    };
    let daemon = scenario.sample(0).daemon;
    let loss = |events, recent, bytes| Loss { cause: "ring_full".into(), events, recent, bytes };
    assert_eq!(daemon.losses, [loss(2, 0, 100)]);
    assert_eq!(daemon.cpu_ratio, None);
    scenario.daemon.gaps[0].events = 5;
    scenario.daemon.own.cpu_seconds = Some(5.5);
    let daemon = scenario.sample(2).daemon;
    assert_eq!(daemon.losses, [loss(5, 3, 100)]);
    assert_eq!(daemon.cpu_ratio, Some(0.25));
}

#[test]
fn json_has_all_of_it() {
    let mut scenario = Scenario::new();
    scenario.calls("/a.B/<script>\"'", Some(Code::Ok), MS, 3);
    scenario.sample(0);
    let model = scenario.sample(1);
    let json = serde_json::to_string(&model).unwrap();
    assert_eq!(serde_json::from_str::<Model>(&json).unwrap(), model);
}

/// Two methods: one fails, one is slow, each otherwise quiet.
fn trouble() -> Model {
    let mut scenario = Scenario::new();
    scenario.calls("/shop.Orders/Idle", Some(Code::Ok), MS, 9);
    scenario.sample(0);
    scenario.calls("/shop.Orders/Busy", Some(Code::Ok), MS, 100);
    scenario.calls("/shop.Orders/Failing", Some(Code::Internal), MS, 2);
    scenario.calls("/shop.Orders/Slow", Some(Code::Ok), 900 * MS, 1);
    let key = scenario.key(Role::Client, "/shop.Orders/Busy");
    scenario.statistics.started(key);
    scenario.sample(1)
}

#[test]
fn the_summary_points_at_what_fails_and_what_is_slow() {
    let model = trouble();
    let method = |at: Option<usize>| at.map(|at| model.rows[at].method.as_str());
    let summary = model.summary;
    assert_eq!(method(summary.most_failing), Some("Failing"));
    assert_eq!(method(summary.slowest_unary), Some("Slow"));
    assert_eq!((summary.server_rate, summary.client_rate), (Some(103.0), Some(0.0)));
    assert_eq!((summary.server_in_flight, summary.client_in_flight), (0, 1));
    assert_eq!(summary.failing_rows, 1);
}

#[test]
fn rows_are_sorted_by_what_was_chosen() {
    let model = trouble();
    let first = |order| {
        let rows = model.ordered(order, &Filter::default());
        assert_eq!(rows.len(), 5);
        (rows[0].role, rows[0].method.as_str())
    };
    assert_eq!(first(Order::Errors), (Role::Server, "Failing"));
    assert_eq!(first(Order::Rate), (Role::Server, "Busy"));
    assert_eq!(first(Order::Calls), (Role::Server, "Busy"));
    assert_eq!(first(Order::P99), (Role::Server, "Slow"));
    assert_eq!(first(Order::InFlight), (Role::Client, "Busy"));
    assert_eq!(first(Order::Method), (Role::Client, "Busy"));
}

#[test]
fn a_filter_needs_all_its_words() {
    let model = trouble();
    let admitted = |text| model.ordered(Order::Errors, &Filter::new(text)).len();
    assert_eq!(admitted(""), 5);
    assert_eq!(admitted(" orders/busy "), 2);
    assert_eq!(admitted("BUSY server"), 1);
    assert_eq!(admitted("shop[7]"), 5);
    assert_eq!(admitted("unary slow"), 1);
    assert_eq!(admitted("busy slow"), 0);
}

#[test]
fn edges_have_rates_errors_and_quantiles_of_the_last_seconds() {
    let recording = Recording::from("0.1,0.2,1".parse::<Buckets>().unwrap());
    let mut series = EdgeSeries::new(&recording, 0);
    let key = |server: &str| {
        let node = |name: &str| Arc::new(Node { name: name.into(), namespace: "prod".into() });
        EdgeKey { client: node("web"), server: node(server), is_virtual: true, path: PathId(9) }
    };
    let scenario = Scenario::new();
    let mut sampler = Sampler::default();
    let mut sample = |series: &EdgeSeries, seconds: u64| {
        let snapshot = snapshot_of(scenario.statistics.clone(), &[""; 0], &scenario.processes);
        // Two methods of one edge are one.
        let figures = |path: u32| EdgeFigures {
            key: EdgeKey { path: PathId(path), ..key("shop") },
            text: Some(format!("/s/{path}").into()),
            series: series.clone(),
        };
        let edges = Some(Arc::new(vec![figures(9), figures(10)]));
        sampler.sample(&Snapshot { edges, ..snapshot }, Duration::from_secs(seconds))
    };
    series.add(&recording, Role::Client, true, Some(Code::Ok), Some(50 * MS));
    let model = sample(&series, 0);
    let edge = &model.edges.unwrap()[0];
    assert_eq!((edge.calls, edge.recent_calls, edge.rate), (2, 0, None));
    for code in [Some(Code::Internal), Some(Code::Ok), None, Some(Code::Ok)] {
        series.add(&recording, Role::Client, true, code, Some(150 * MS));
        series.add(&recording, Role::Server, false, code, Some(50 * MS));
    }
    let model = sample(&series, 2);
    let edges = model.edges.unwrap();
    assert_eq!(edges.len(), 1);
    let edge = &edges[0];
    assert_eq!((&*edge.client, &*edge.server, edge.is_watched), ("prod/web", "prod/shop", false));
    assert_eq!((edge.calls, edge.failed, edge.recent_calls, edge.recent_failed), (10, 2, 8, 2));
    assert_eq!((edge.rate, edge.error_ratio), (Some(4.0), Some(2.0 / 6.0)));
    // As the client's end has seen them.
    assert!((edge.p95.unwrap() - 0.195).abs() < 1e-12);
    let calls = |server: &EdgeKey| {
        let mut series = EdgeSeries::new(&recording, 0);
        series.add(&recording, Role::Server, false, Some(Code::Ok), Some(50 * MS));
        EdgeFigures { key: server.clone(), text: None, series }
    };
    let many: Vec<_> = (0..=MAX_EDGES).map(|at| calls(&key(&format!("s{at:04}")))).collect();
    let snapshot = snapshot_of(scenario.statistics.clone(), &[""; 0], &scenario.processes);
    let edges = Some(Arc::new(many));
    let model = sampler.sample(&Snapshot { edges, ..snapshot }, Duration::from_secs(3));
    assert_eq!((model.edges.unwrap().len(), model.edges_left_out), (MAX_EDGES, 1));
}
