//! Tests of the exact text of a scrape.

#![expect(clippy::float_cmp, reason = "counts are whole numbers, exact in a double")]

use std::sync::Arc;

use proptest::prelude::*;

use super::{
    Buckets, Clock, ConnectionsByProtocol, Daemon, DroppedRecords, ExpositionConfig, Format, Gap,
    HttpFigures, Limits, OwnProcess, PathNames, Program, Recording, Schema, Schemas, Snapshot,
    Statistics, TlsFiles,
    openmetrics::{Labels, Metrics},
    render,
};
use crate::{
    failures::Dropped,
    otlp::{DeliveryFigures, OtlpFigures},
};
use observer_core::{
    call::{
        CallKey, CallProtocol, CallSink, Code, Direction, Ended, ExportedSpan, Role, SpanId,
        TraceId,
    },
    ends::Ends,
    names::{Interner, PathId, escape::escape},
    output::{Names, Output},
    pipeline::Connections,
    process::{
        Comm, Detail, Grouping, Identity, Key, LookupCounts, ProcessId, ProcessSource, Processes,
        Texts,
    },
    protocol::Streams,
};

/// Statistics with a few buckets, and the processes and paths in them.
pub(super) struct Scenario {
    statistics: Statistics,
    processes: Processes,
    /// The texts of paths, from number 2 on.
    paths: Vec<String>,
    daemon: Daemon,
    exposition: ExpositionConfig,
}

/// A snapshot with a call of a process in the pod with this UID.
#[cfg(feature = "kubernetes")]
pub(crate) fn in_a_pod(uid: &str) -> Snapshot {
    let mut scenario = Scenario::new();
    let (path, process) = (scenario.path("/s/m"), scenario.process(7, b"x"));
    let mut identity = Identity::default();
    identity.cgroup.pod_uid = uid.into();
    scenario.tell(identity);
    scenario.call(
        CallKey { protocol: CallProtocol::Grpc, process, role: Role::Server, path },
        Some(Code::Ok),
        1,
    );
    scenario.snapshot()
}

/// The source of details about the processes of a scenario.
#[derive(Debug, Default)]
struct Told(Option<Identity>);

impl ProcessSource for Told {
    fn comm(&self, _: u32) -> Option<Comm> {
        None
    }

    fn began(&self, pid: u32) -> Option<u64> {
        Some(pid.into())
    }

    fn identity(&self, pid: u32) -> Identity {
        let container = format!("0::/system.slice/docker-{pid:064x}.scope\n");
        let texts = Texts {
            exe: Some(b"/bin/\"\n"),
            cmdline: Some(b"a\0"),
            cgroup: Some(container.as_bytes()),
            status: Some(b"Uid:\t1000\t0\t0\t0\n"),
        };
        self.0.clone().unwrap_or_else(|| Identity::new(&Key::default(), texts))
    }

    fn now_ns(&self) -> u64 {
        0
    }
}

impl Scenario {
    fn new() -> Self {
        let buckets: Buckets = "0.001,0.25,1".parse().unwrap();
        Self::recording(buckets.into())
    }

    pub(super) fn recording(recording: Recording) -> Self {
        Self {
            statistics: Statistics::new(recording, Limits::default()),
            processes: Processes::new(100),
            paths: Vec::new(),
            daemon: Daemon::default(),
            exposition: ExpositionConfig::default(),
        }
    }

    fn path(&mut self, path: impl AsRef<[u8]>) -> PathId {
        self.paths.push(escape(path.as_ref()).into_owned());
        PathId(self.paths.len() as u32 + 1)
    }

    fn process(&mut self, pid: u32, comm: &[u8]) -> ProcessId {
        self.processes.seen(pid, 1, Some(Comm::truncated(comm))).id
    }

    /// Sets the details of the processes that were seen since the last call.
    fn tell(&mut self, identity: Identity) {
        self.processes.lookup(Told(Some(identity))).answer();
    }

    /// Adds a whole unary call.
    fn call(&mut self, key: CallKey, code: Option<Code>, elapsed_ns: u64) {
        let (request, response) = match key.role {
            Role::Server => (Direction::Received, Direction::Sent),
            Role::Client => (Direction::Sent, Direction::Received),
        };
        let id = self.statistics.started(key);
        self.statistics.messages(id, request, 1, 7);
        self.statistics.messages(id, response, 1, 11);
        self.statistics.first_message(id, elapsed_ns);
        let ended = unary(code, elapsed_ns);
        self.statistics.ended(id, ended);
    }

    pub(super) fn snapshot(mut self) -> Snapshot {
        self.processes.lookup(Told::default()).answer();
        Snapshot {
            daemon: Arc::new(self.daemon),
            exposition: Arc::new(self.exposition),
            ..snapshot_of(self.statistics, &self.paths, &self.processes)
        }
    }

    fn text(self) -> String {
        String::from_utf8(render(&self.snapshot(), Format::OpenMetricsText)).unwrap()
    }
}

/// A snapshot of the statistics, with these paths from number 2 on.
pub(crate) fn snapshot_of(
    statistics: Statistics,
    paths: &[impl AsRef<str>],
    processes: &Processes,
) -> Snapshot {
    let path = |id: PathId| paths.get((id.0 as usize).checked_sub(2)?).map(AsRef::as_ref);
    Snapshot {
        paths: Arc::new(PathNames::of(&statistics, path)),
        statistics: Arc::new(statistics),
        descriptors: Arc::default(),
        processes: Arc::new(processes.names()),
        edges: None,
        daemon: Arc::default(),
        exposition: Arc::default(),
    }
}

/// Parses OpenMetrics text strictly.
pub(super) fn read(text: &str) -> Metrics {
    let metrics = Metrics::parse(text).unwrap();
    metrics.is_the_daemons().unwrap();
    metrics
}

fn daemon() -> Daemon {
    Daemon {
        backend: "tracepoint".into(),
        started_ns: Some(2_000_000_000),
        clock: Clock { ahead_ns: 1_700_000_000_000_000_000 },
        records: 12,
        ring_bytes: 3456,
        gaps: vec![
            Gap { cause: "ring_full", events: 2, bytes: 900 },
            Gap { cause: "splice", events: 1, bytes: 0 },
        ],
        dropped_records: vec![DroppedRecords {
            pid: 42,
            comm: Comm::truncated(b"a\nflood"),
            records: 18,
        }],
        connections: Connections { complete: 2, joined_late: 1, gaps: 3, undecodable: 0 },
        connections_seen: ConnectionsByProtocol {
            grpc: 3,
            http2: 4,
            http1: 5,
            tls: 6,
            thrift: 8,
            yamux: 9,
            other: 7,
        },
        hpack_unknown_references: 8,
        hpack_errors: 9,
        streams: 10,
        unmeasured: Streams {
            measured: 1,
            not_grpc: 11,
            unclear: 13,
            unconfirmed: 17,
            too_many: 14,
        },
        edges_overflow: Some(6),
        processes_overflow: 15,
        lookups: LookupCounts { answered: 16, gone: 17, late: 18 },
        memory_limit_bytes: Some(512 << 20),
        memory_is_short: true,
        programs: vec![
            Program { name: "exit_read".into(), runs: 100, misses: 1, run_time_ns: 2_500_000 },
            Program { name: "exit_write".into(), runs: 50, misses: 0, run_time_ns: 0 },
        ],
        pod_requests: None,
        log_errors_dropped: Some(Dropped { rate_limit: 14, output: 15 }),
        otlp: Some(OtlpFigures {
            not_sampled: 22,
            not_seen: 23,
            queue_full: 24,
            sent: DeliveryFigures {
                exported: 21,
                refused: 25,
                rejected: 26,
                gave_up: 27,
                answered: 28,
                failed: 29,
            },
        }),
        otlp_metrics: Some(DeliveryFigures {
            exported: 31,
            answered: 32,
            ..DeliveryFigures::default()
        }),
        tls_files: Some(TlsFiles(
            [(("none", "no_library"), 19), (("openssl", "attached"), 20)].into(),
        )),
        http: Some(HttpFigures {
            password_checks: 16,
            refused: vec![("host", 17), ("cross_site", 18)],
        }),
        own: OwnProcess {
            cpu_seconds: Some(1.25),
            resident_memory_bytes: Some(4096),
            virtual_memory_bytes: Some(8192),
            open_fds: Some(17),
            max_fds: Some(1024),
            start_time_seconds: Some(1_700_000_000.5),
            threads: Some(3),
        },
    }
}

/// Some of everything.
pub(super) fn scenario() -> Scenario {
    some_calls(Scenario::new())
}

pub(super) fn some_calls(mut scenario: Scenario) -> Scenario {
    scenario.daemon = daemon();
    scenario.statistics.set_time(3_250_000_000);
    let say = scenario.path("/greet.v1.Greeter/Say");
    let list = scenario.path("/greet.v1.Greeter/List");
    let server = scenario.process(41, b"greeter");
    let client = scenario.process(42, b"caller");

    let key =
        CallKey { protocol: CallProtocol::Grpc, process: server, role: Role::Server, path: say };
    scenario.statistics.connection_opened(server, Role::Server);
    scenario.call(key, Some(Code::Ok), 1_000_000);
    scenario.call(key, Some(Code::NotFound), 2_000_000);
    scenario.call(key, None, 3_000_000_000);
    scenario.statistics.started(key);
    let not_seen = CallKey { path: PathId::NOT_SEEN, ..key };
    scenario.statistics.joined(not_seen);

    let key =
        CallKey { protocol: CallProtocol::Grpc, process: client, role: Role::Client, path: list };
    scenario.statistics.connection_opened(client, Role::Client);
    scenario.statistics.connection_opened(client, Role::Client);
    let id = scenario.statistics.started(key);
    scenario.statistics.messages(id, Direction::Sent, 1, 20);
    scenario.statistics.messages(id, Direction::Received, 2, 300);
    scenario.statistics.second_message(id, Direction::Received);
    scenario.statistics.after_last_message(id, Direction::Sent, 1, 900_000);
    scenario.statistics.after_last_message(id, Direction::Received, 2, 500_000_000);
    scenario.statistics.first_message(id, 500_000);

    scenario
}

#[test]
fn the_whole_text() {
    let snapshot = scenario().snapshot();
    let text = |format| String::from_utf8(render(&snapshot, format)).unwrap();
    read(&text(Format::OpenMetricsText));
    for (format, want) in [
        (Format::OpenMetricsText, include_str!("openmetrics.txt")),
        (Format::PrometheusText, include_str!("prometheus.txt")),
    ] {
        let text = text(format);
        let want = want.replace("VERSION", env!("CARGO_PKG_VERSION"));
        for (number, (got, want)) in text.lines().zip(want.lines()).enumerate() {
            assert_eq!(got, want, "line {} of {format:?}", number + 1);
        }
        assert_eq!(text, want);
    }
}

/// Checks the families of each schema, without those that are published with every schema.
#[test]
fn the_text_of_each_schema() {
    let rows = [
        (Schema::Python, include_str!("python.txt")),
        (Schema::Legacy, include_str!("legacy.txt")),
        (Schema::Requests, include_str!("requests.txt")),
        (Schema::Otel, include_str!("otel.txt")),
    ];
    for (schema, want) in rows {
        let schemas = Schemas::new([schema]).unwrap();
        let buckets = "0.001,0.25,1".parse().unwrap();
        let recording = schemas.recording(buckets, false);
        let mut scenario = Scenario::recording(recording);
        scenario.exposition =
            ExpositionConfig { schemas, created: false, ..ExpositionConfig::default() };
        let text = some_calls(scenario).text();
        read(&text);
        let (of_schema, of_all) = text.split_once("# HELP grpc_server_in_flight ").unwrap();
        for (number, (got, want)) in of_schema.lines().zip(want.lines()).enumerate() {
            assert_eq!(got, want, "line {} of {schema}", number + 1);
        }
        assert_eq!(of_schema, want);
        for own in ["first_message_seconds_count", "msg_sent_bytes_total", "connections"] {
            assert!(of_all.contains(&format!("grpc_server_{own}")), "{schema}: {own}");
        }
    }
}

#[test]
fn schemas_that_go_together_are_one_exposition() {
    let schemas = Schemas::new([Schema::Python, Schema::Legacy, Schema::Otel]).unwrap();
    let mut scenario = scenario();
    scenario.exposition = ExpositionConfig { schemas, ..ExpositionConfig::default() };
    let exposition = read(&scenario.text());
    let labels = [("grpc_code", "NOT_FOUND"), ("code", "NOT_FOUND")];
    assert_eq!(exposition.values("grpc_server_handled_total", &labels), [1.0]);
    assert_eq!(exposition.sum("grpc_server_handled_total", &[]), 3.0);
}

#[test]
fn exemplars_are_where_the_traced_call_is_counted() {
    let mut scenario = Scenario::new();
    scenario.daemon.clock = Clock { ahead_ns: 1_700_000_000_000_000_000 };
    let key = CallKey {
        protocol: CallProtocol::Grpc,
        process: scenario.process(7, b"x"),
        role: Role::Server,
        path: scenario.path("/s/m"),
    };
    let (interner, processes, ends) = (Interner::new(1), Processes::new(1), Ends::default());
    let names = Names { interner: &interner, processes: &processes, ends: &ends };
    let mut end = |time_ns, ended, span| {
        let series = scenario.statistics.started(key);
        scenario.statistics.set_time(time_ns);
        let (connection, pair, peer) = (1, 0, None);
        let mut call =
            observer_core::ends::Call { connection, pair, peer, time_ns, series, ended, span };
        Output::call(&mut scenario.statistics, &mut call, Some(key), &names);
    };
    let traced = |code, elapsed_ns, trace| Ended { trace, ..unary(Some(code), elapsed_ns) };
    // The third one has an exported span.
    for (number, code, elapsed_ns) in
        [(1, Code::Ok, 2_000_000), (2, Code::Ok, 3_000_000), (3, Code::Internal, 4_000_000_000)]
    {
        let time_ns = u64::from(number) * 1_500_000_000;
        let trace = TraceId([number; 16]);
        let span = (number == 3).then_some(ExportedSpan { trace, span: SpanId([0x0b; 8]) });
        let of_request = Some(trace).filter(|_| span.is_none());
        end(time_ns, traced(code, elapsed_ns, of_request), span);
        end(time_ns, traced(code, elapsed_ns + 1, None), None);
    }
    let text = scenario.text();
    let exposition = read(&text);
    let exemplars = exposition.exemplars().iter().map(|exemplar| {
        let label = |name| exemplar.labels.get(name).map_or("", String::as_str);
        let told = (label("grpc_code"), label("le"));
        let ids = (exemplar.trace.clone(), exemplar.span.clone());
        (told, ids, exemplar.value, exemplar.time)
    });
    let trace = |digits: &str| (digits.repeat(16), String::new());
    let span = |digits: &str| (digits.repeat(16), "0b".repeat(8));
    let want = [
        (("OK", ""), trace("02"), 1.0, 1_700_000_003.0),
        (("Internal", ""), span("03"), 1.0, 1_700_000_004.5),
        (("", "0.25"), trace("02"), 0.003, 1_700_000_003.0),
        (("", "+Inf"), span("03"), 4.0, 1_700_000_004.5),
    ];
    assert_eq!(exemplars.collect::<Vec<_>>(), want);
}

#[test]
fn nothing_seen_is_no_family_of_calls() {
    let text = Scenario::new().text();
    read(&text);
    assert!(!text.contains("grpc_server") && !text.contains("grpc_client"), "{text}");
    assert!(!text.contains("observer_gaps") && !text.contains("\nprocess_"), "{text}");
    assert!(!text.contains("observer_process_info"), "{text}");
    assert!(text.contains("\nobserver_records_total 0\n"));
}

/// A path and a name as bytes, and the labels for service, method and process.
type Trip<'a> = (&'a [u8], &'a [u8], &'a str, &'a str, &'a str);

#[test]
fn label_values_survive_the_trip() {
    let mut scenario = Scenario::new();
    let rows: [Trip<'_>; 8] = [
        (b"/a\"b/c\"", b"say \"x\"", "a\"b", "c\"", "say \"x\""),
        (b"/a\\b/\\", b"\\", "a\\b", "\\", "\\"),
        (b"/a/\\x0a", b"\\x0a", "a", "\\x5cx0a", "\\x5cx0a"),
        (b"/s/caf\xc3\xa9", b"\xc3\xa9", "s", "caf\u{e9}", "\u{e9}"),
        (b"/s/caf%C3%A9", b"%C3%A9", "s", "caf%C3%A9", "%C3%A9"),
        (b"/a\nb/c\n", b"x\ny", "a\\x0ab", "c\\x0a", "x\\x0ay"),
        (b"/a\xff/\xc3(", b"\xfe", "a\\xff", "\\xc3(", "\\xfe"),
        (b"no slash} 1\n# EOF\n", b"{},=", "", "no slash} 1\\x0a# EOF\\x0a", "{},="),
    ];
    for (pid, (path, comm, ..)) in (1..).zip(rows) {
        let key = CallKey {
            protocol: CallProtocol::Grpc,
            process: scenario.process(pid, comm),
            role: Role::Server,
            path: scenario.path(path),
        };
        scenario.call(key, Some(Code::Ok), 1);
    }
    let text = scenario.text();
    let exposition = read(&text);
    for (pid, (.., service, method, process)) in (1..).zip(rows) {
        let pid = pid.to_string();
        let labels = [
            ("grpc_service", service),
            ("grpc_method", method),
            ("pid", pid.as_str()),
            ("process", process),
        ];
        for name in ["grpc_server_handled_total", "grpc_server_msg_sent_bytes_total"] {
            assert_eq!(exposition.values(name, &labels).len(), 1, "{name} {labels:?}: {text}");
        }
    }
}

#[test]
fn one_pid_and_name_is_one_series() {
    let mut scenario = Scenario::new();
    let path = scenario.path("/s/m");
    let mut key = CallKey {
        protocol: CallProtocol::Grpc,
        process: scenario.process(7, b"x"),
        role: Role::Client,
        path,
    };
    scenario.call(key, Some(Code::Ok), 1);
    scenario.statistics.started(key);
    scenario.statistics.connection_opened(key.process, Role::Client);
    scenario.processes.exited(7, 2);
    key.process = scenario.processes.seen(7, 3, Some(Comm::truncated(b"x"))).id;
    scenario.call(key, Some(Code::Ok), 300_000_000);
    scenario.call(key, None, 1);
    scenario.statistics.connection_opened(key.process, Role::Client);
    // The same pid with another name is another process.
    scenario.processes.exited(7, 4);
    key.process = scenario.processes.seen(7, 5, Some(Comm::truncated(b"y"))).id;
    scenario.call(key, Some(Code::Ok), 1);

    let text = scenario.text();
    let exposition = read(&text);
    let x = [("pid", "7"), ("process", "x")];
    let rows = [
        ("grpc_client_started_total", 4.0),
        ("grpc_client_msg_sent_total", 3.0),
        ("grpc_client_msg_sent_bytes_total", 21.0),
        ("grpc_client_msg_received_bytes_total", 33.0),
        ("grpc_client_in_flight", 1.0),
        ("grpc_client_handling_seconds_count", 3.0),
        ("grpc_client_first_message_seconds_count", 3.0),
        ("grpc_client_connections", 2.0),
    ];
    for (name, want) in rows {
        assert_eq!(exposition.values(name, &x), [want], "{name}");
    }
    let handled = "grpc_client_handled_total";
    assert_eq!(exposition.values(handled, &[x[0], x[1], ("grpc_code", "OK")]), [2.0]);
    assert_eq!(exposition.values(handled, &[x[0], x[1], ("grpc_code", "not_seen")]), [1.0]);
    assert_eq!(exposition.values("grpc_client_started_total", &[("process", "y")]), [1.0]);
}

/// The first of two processes with the same labels is forgotten while the second lives.
#[test]
fn what_is_told_by_the_same_labels_never_goes_back() {
    let scrape_after = |forgotten: bool| {
        let mut scenario = Scenario::new();
        let [both, first, second] = ["/s/both", "/s/first", "/s/second"].map(|p| scenario.path(p));
        let key = |process, path| CallKey {
            protocol: CallProtocol::Grpc,
            process,
            role: Role::Server,
            path,
        };
        let old = scenario.process(7, b"x");
        scenario.statistics.set_time(1_000_000_000);
        for path in [both, first] {
            scenario.call(key(old, path), Some(Code::Ok), 1);
        }
        scenario.processes.exited(7, 2);
        let new = scenario.processes.seen(7, 3, Some(Comm::truncated(b"x"))).id;
        scenario.statistics.set_time(2_000_000_000);
        for path in [both, second] {
            scenario.call(key(new, path), Some(Code::NotFound), 300_000_000);
        }
        if forgotten {
            let expired = scenario.processes.expired(1_000, 500);
            let successors = scenario.processes.successors(expired, &[]);
            assert_eq!(successors, [(old, Some(new))]);
            scenario.statistics.merge_into_successor(old, new);
            scenario.processes.forget(old);
        }
        let text = scenario.text();
        text.lines().filter(|line| line.starts_with("grpc_")).map(str::to_owned).collect()
    };
    let (before, after): (Vec<_>, Vec<_>) = (scrape_after(false), scrape_after(true));
    assert_eq!(before, after);
    assert!(before.iter().any(|line| line.starts_with("grpc_server_started_created")));
}

#[test]
fn one_pid_and_name_is_one_process_to_join_with() {
    let mut scenario = Scenario::new();
    let path = scenario.path("/s/m");
    for (at, cgroup) in [(10, "old.service"), (20, "new.service")] {
        scenario.processes.exited(7, at - 5);
        let process = scenario.processes.seen(7, at, Some(Comm::truncated(b"x"))).id;
        let cgroup = format!("0::/system.slice/{cgroup}\n");
        let texts = Texts { cgroup: Some(cgroup.as_bytes()), ..Texts::default() };
        scenario.tell(Identity::new(&Key::default(), texts));
        scenario.call(
            CallKey { protocol: CallProtocol::Grpc, process, role: Role::Server, path },
            Some(Code::Ok),
            1,
        );
    }
    let exposition = read(&scenario.text());
    let told = |labels: &[(&str, &str)]| exposition.values("observer_process_info", labels).len();
    assert_eq!((told(&[]), told(&[("systemd_unit", "new.service")])), (1, 1));
}

/// The values of a counter of ended calls by method and code, and the number of its series.
fn handled(exposition: &Metrics, of: &[(&str, &str)]) -> Vec<((String, String), f64)> {
    let series = exposition.series_with("grpc_server_handled_total", of);
    let label = |labels: &Labels, name: &str| labels.get(name).cloned().unwrap_or_default();
    let mut values: Vec<_> = series
        .map(|(labels, value)| ((label(labels, "grpc_method"), label(labels, "grpc_code")), value))
        .collect();
    values.sort_by(|a, b| a.0.cmp(&b.0));
    values
}

#[test]
fn a_service_has_the_sums_of_its_processes_once_it_is_known() {
    let mut scenario = Scenario::new();
    scenario.exposition.by = Grouping::Service;
    let [get, list] = ["/s/Get", "/s/List"].map(|path| scenario.path(path));
    let [a, b] = [41, 42].map(|pid| scenario.process(pid, b"x"));
    let texts = Texts { cmdline: Some(b"/bin/shop\0"), ..Texts::default() };
    scenario.tell(Identity::new(&Key::default(), texts));
    scenario.processes.settle_services(0, false);
    let not_yet = scenario.process(43, b"y");
    for (process, path, code) in [
        (a, get, Code::Ok),
        (b, get, Code::NotFound),
        (b, get, Code::Ok),
        (b, list, Code::Ok),
        (not_yet, get, Code::Internal),
    ] {
        scenario.call(
            CallKey { protocol: CallProtocol::Grpc, process, role: Role::Server, path },
            Some(code),
            1,
        );
    }
    for process in [a, b, not_yet] {
        scenario.statistics.connection_opened(process, Role::Server);
    }
    let text = scenario.text();
    let exposition = read(&text);
    let shop = [("service", "shop"), ("service_namespace", "")];
    let values = handled(&exposition, &shop);
    let want = [
        ("Get", "NotFound", 1.0),
        ("Get", "OK", 2.0),
        ("List", "NotFound", 0.0),
        ("List", "OK", 1.0),
    ];
    let want = want.map(|(method, code, value)| ((method.to_owned(), code.to_owned()), value));
    assert_eq!(values, want);
    assert_eq!(exposition.values("grpc_server_connections", &[]), [2.0]);
    assert_eq!(handled(&exposition, &[]).len(), 4, "{text}");
    assert!(!text.contains("pid=\"4") && !text.contains("observer_process_info"), "{text}");
}

#[test]
fn a_method_has_a_zero_for_each_code_of_its_process() {
    let mut scenario = Scenario::new();
    let [get, list] = ["/s/Get", "/s/List"].map(|path| scenario.path(path));
    let [a, b] = [41, 42].map(|pid| scenario.process(pid, b"x"));
    let key =
        |process, path| CallKey { protocol: CallProtocol::Grpc, process, role: Role::Server, path };
    scenario.call(key(a, get), Some(Code::Internal), 1);
    scenario.call(key(a, PathId::NOT_SEEN), Some(Code::DataLoss), 1);
    scenario.statistics.started(key(a, list));
    scenario.statistics.started(key(b, list));
    let exposition = read(&scenario.text());
    let values = |pid| -> Vec<String> {
        let values = handled(&exposition, &[("pid", pid)]);
        values
            .into_iter()
            .map(|((method, code), value)| format!("{method} {code} {value}"))
            .collect()
    };
    let of_get = ["Get DataLoss 0", "Get Internal 1", "Get OK 0"];
    let of_list = ["List DataLoss 0", "List Internal 0", "List OK 0"];
    assert_eq!(values("41"), [&of_get[..], &of_list, &["not_seen DataLoss 1"]].concat());
    assert_eq!(values("42"), ["List OK 0"]);
    let counts = exposition.values("grpc_server_handling_seconds_count", &[("pid", "42")]);
    assert_eq!(counts, [0.0]);
}

#[test]
fn a_path_that_reads_like_our_words_shares_their_series() {
    let mut scenario = Scenario::new();
    let process = scenario.process(7, b"x");
    let imitation = scenario.path("/other/other");
    for path in [imitation, PathId::OTHER, PathId::NOT_SEEN] {
        let key = CallKey { protocol: CallProtocol::Grpc, process, role: Role::Server, path };
        let id = scenario.statistics.started(key);
        scenario.statistics.messages(id, Direction::Sent, 2, 0);
        scenario.statistics.second_message(id, Direction::Sent);
    }
    let text = scenario.text();
    let exposition = read(&text);
    let started = |service| {
        let labels = [("grpc_service", service), ("grpc_method", service)];
        exposition.values("grpc_server_started_total", &labels)
    };
    assert_eq!(started("other"), [2.0]);
    assert_eq!(started("not_seen"), [1.0]);
    assert_eq!(exposition.sum("grpc_server_started_total", &[("grpc_type", "unknown")]), 3.0);
}

#[test]
fn calls_of_grpc_web_have_a_label_and_those_of_grpc_do_not() {
    let text = |schema, of_web: bool| {
        let mut scenario = Scenario::new();
        scenario.exposition.schemas = Schemas::new([schema]).unwrap();
        let process = scenario.process(7, b"x");
        let path = scenario.path("/shop.Shop/Add");
        let key = |protocol| CallKey { protocol, process, role: Role::Server, path };
        scenario.call(key(CallProtocol::Grpc), Some(Code::Ok), 1);
        if of_web {
            scenario.call(key(CallProtocol::GrpcWeb), Some(Code::Internal), 1);
        }
        scenario.text()
    };
    for schema in Schema::ALL {
        let (of_grpc, text) = (text(schema, false), text(schema, true));
        assert!(!of_grpc.contains("grpc_protocol"), "{schema}");
        let exposition = read(&text);
        let is_of_call = |line: &&str| line.contains("shop.Shop/Add") || line.contains("\"Add\"");
        let of_web: Vec<&str> = text.lines().filter(is_of_call).collect();
        let (of_web, others): (Vec<&str>, Vec<&str>) =
            of_web.iter().partition(|line| line.contains("grpc_protocol=\"grpc-web\""));
        assert!(!of_web.is_empty(), "{schema}");
        // Whatever gRPC's calls had before, they still have, except for the time of the scrape.
        let before: Vec<&str> = of_grpc.lines().filter(is_of_call).collect();
        assert_eq!(others, before, "{schema}");
        if schema == Schema::Go {
            let [web, code] = [("grpc_protocol", "grpc-web"), ("grpc_code", "Internal")];
            assert_eq!(exposition.values("grpc_server_handled_total", &[web, code]), [1.0]);
            assert_eq!(exposition.sum("grpc_server_handled_total", &[]), 2.0);
        }
    }
}

#[test]
fn thrift_calls_have_families_of_their_own() {
    let mut scenario = Scenario::new();
    let schemas = Schemas::new([Schema::Go, Schema::Requests]).unwrap().and_thrift();
    scenario.exposition.schemas = schemas;
    let process = scenario.process(7, b"x");
    let [add, of_grpc] = ["Shop:add", "/shop.Shop/Add"].map(|path| scenario.path(path));
    let key = |protocol, path| CallKey { protocol, process, role: Role::Server, path };
    for code in [Code::Ok, Code::DeclaredException, Code::Oneway] {
        scenario.call(key(CallProtocol::Thrift, add), Some(code), 1);
    }
    scenario.call(key(CallProtocol::Thrift, PathId::NOT_SEEN), None, 1);
    scenario.call(key(CallProtocol::Grpc, of_grpc), Some(Code::Internal), 1);
    let text = scenario.text();
    let exposition = read(&text);
    let handled =
        |labels: &[(&str, &str)]| exposition.values("thrift_server_handled_total", labels);
    for (outcome, calls) in [("ok", 1.0), ("declared_exception", 1.0), ("oneway", 1.0)] {
        let labels =
            [("thrift_service", "Shop"), ("thrift_method", "add"), ("thrift_outcome", outcome)];
        assert_eq!(handled(&labels), [calls], "{outcome}");
    }
    assert_eq!(handled(&[("thrift_outcome", "not_seen"), ("thrift_method", "not_seen")]), [1.0]);
    assert_eq!(handled(&[]).len(), 4, "no outcome is that of a gRPC call");
    assert_eq!(exposition.sum("thrift_server_started_total", &[]), 4.0);
    assert_eq!(exposition.sum("thrift_client_started_total", &[]), 0.0);
    let failed = [("method", "Shop:add"), ("error_type", "declared_exception")];
    assert_eq!(exposition.values("thrift_errors_total", &failed), [1.0]);
    assert_eq!(exposition.sum("thrift_errors_total", &[]), 1.0, "a oneway call did not fail");
    let codes: Vec<_> =
        text.lines().filter(|line| line.starts_with("grpc_server_handled_total")).collect();
    assert_eq!(codes.len(), 2, "OK and Internal: {codes:?}");
}

#[test]
fn a_method_has_one_type_over_roles_and_processes() {
    let mut scenario = Scenario::new();
    let path = scenario.path("/s/m");
    let server = scenario.process(1, b"server");
    let client = scenario.process(2, b"client");
    let key = CallKey { protocol: CallProtocol::Grpc, process: server, role: Role::Server, path };
    scenario.call(key, Some(Code::Ok), 1);
    scenario.call(
        CallKey { protocol: CallProtocol::Grpc, process: client, role: Role::Client, path },
        Some(Code::Ok),
        1,
    );
    let id = scenario.statistics.started(key);
    scenario.statistics.messages(id, Direction::Received, 2, 0);
    scenario.statistics.second_message(id, Direction::Received);

    let text = scenario.text();
    read(&text);
    assert!(text.contains("grpc_type=\"client_stream\""), "{text}");
    assert_eq!(text.matches("grpc_type=").count(), text.matches("client_stream").count());
}

#[test]
fn a_process_that_was_forgotten_first_is_not_lost() {
    let mut scenario = Scenario::new();
    let path = scenario.path("/s/m");
    let process = scenario.process(7, b"x");
    scenario.call(
        CallKey { protocol: CallProtocol::Grpc, process, role: Role::Server, path },
        Some(Code::Ok),
        1,
    );
    scenario.processes.forget(process);
    let exposition = read(&scenario.text());
    let labels = [("pid", "0"), ("process", "other")];
    assert_eq!(exposition.values("grpc_server_started_total", &labels), [1.0]);
}

#[test]
fn default_buckets_are_rendered() {
    let mut scenario = Scenario::new();
    scenario.statistics = Statistics::new(Buckets::default(), Limits::default());
    let path = scenario.path("/s/m");
    let process = scenario.process(7, b"x");
    scenario.call(
        CallKey { protocol: CallProtocol::Grpc, process, role: Role::Server, path },
        Some(Code::Ok),
        5_000_000,
    );
    let text = scenario.text();
    let exposition = read(&text);
    let name = "grpc_server_handling_seconds_bucket";
    assert_eq!(exposition.values(name, &[("le", "0.0025")]), [0.0]);
    assert_eq!(exposition.values(name, &[("le", "0.005")]), [1.0], "le is inclusive");
    assert_eq!(exposition.values(name, &[]).len(), 17);
    assert!(text.contains("le=\"0.0001\"") && text.contains("le=\"10.0\""), "{text}");
}

/// A call, as far as the counters show it.
#[derive(Clone, Debug)]
struct Call {
    pid: u32,
    role: Role,
    path: u32,
    joined: bool,
    messages: Vec<(Direction, u64, u64)>,
    end: Option<(Option<Code>, Option<u64>)>,
}

fn call() -> impl Strategy<Value = Call> {
    let direction = prop_oneof![Just(Direction::Sent), Just(Direction::Received)];
    let code = proptest::option::of(0..17_u32).prop_map(|n| n.map(Code::from_number));
    (
        1..4_u32,
        prop_oneof![Just(Role::Client), Just(Role::Server)],
        0..6_u32,
        any::<bool>(),
        proptest::collection::vec((direction, 0..4_u64, 0..100_u64), 0..4),
        proptest::option::of((code, proptest::option::of(0..2_000_000_000_u64))),
    )
        .prop_map(|(pid, role, path, joined, messages, end)| Call {
            pid,
            role,
            path,
            joined,
            messages,
            end,
        })
}

fn feed(scenario: &mut Scenario, call: &Call) {
    // Two processes of one pid and one name among them.
    let process = scenario.processes.seen(call.pid % 2, u64::from(call.pid), None).id;
    if call.pid == 1 {
        scenario.processes.exited(1, 1);
    }
    let key =
        CallKey { protocol: CallProtocol::Grpc, process, role: call.role, path: PathId(call.path) };
    let statistics = &mut scenario.statistics;
    let id = if call.joined { statistics.joined(key) } else { statistics.started(key) };
    for &(direction, count, bytes) in &call.messages {
        statistics.messages(id, direction, count, bytes);
    }
    if let Some((code, elapsed_ns)) = call.end {
        let messages = Some(call.messages.len() as u64);
        let ended = Ended {
            code,
            elapsed_ns,
            request_messages: messages,
            response_messages: messages,
            half_closed: call.joined,
            ..Ended::default()
        };
        statistics.ended(id, ended);
    }
}

proptest! {
    /// Whatever happens and however it is labelled, the sums of a family are those of the events.
    #[test]
    fn sums_are_those_of_the_events(calls in proptest::collection::vec(call(), 0..60)) {
        let mut scenario = Scenario::new();
        for path in ["/a/b", "/a/c", "/other/other", "bad\n"] {
            scenario.path(path);
        }
        for call in &calls {
            feed(&mut scenario, call);
        }
        let text = scenario.text();
        let exposition = read(&text);
        for (role, name) in [(Role::Server, "server"), (Role::Client, "client")] {
            let calls: Vec<&Call> = calls.iter().filter(|call| call.role == role).collect();
            let sum = |rest: &str| exposition.sum(&format!("grpc_{name}_{rest}"), &[]);
            let started = calls.iter().filter(|call| !call.joined).count();
            let ends: Vec<_> = calls.iter().filter_map(|call| call.end).collect();
            prop_assert_eq!(sum("started_total"), started as f64);
            prop_assert_eq!(sum("handled_total"), ends.len() as f64);
            prop_assert_eq!(sum("in_flight"), (calls.len() - ends.len()) as f64);
            let timed: Vec<u64> = ends.iter().filter_map(|(_, elapsed_ns)| *elapsed_ns).collect();
            prop_assert_eq!(sum("handling_seconds_count"), timed.len() as f64);
            let seconds = timed.iter().sum::<u64>() as f64 / 1e9;
            prop_assert!((sum("handling_seconds_sum") - seconds).abs() < 1e-6);
            for (direction, rest) in [(Direction::Sent, "sent"), (Direction::Received, "received")] {
                let messages = calls.iter().flat_map(|call| &call.messages);
                let of_direction = messages.filter(|message| message.0 == direction);
                let (count, bytes) =
                    of_direction.fold((0, 0), |sum, message| (sum.0 + message.1, sum.1 + message.2));
                prop_assert_eq!(sum(&format!("msg_{rest}_total")), count as f64);
                prop_assert_eq!(sum(&format!("msg_{rest}_bytes_total")), bytes as f64);
            }
            for code in Code::ALL {
                let want = ends.iter().filter(|end| end.0 == Some(code)).count();
                let label = [("grpc_code", code.as_camel_case())];
                let handled = exposition.sum(&format!("grpc_{name}_handled_total"), &label);
                prop_assert_eq!(handled, want as f64);
            }
        }
    }
}

#[test]
fn more_labels_are_on_every_series_of_a_process() {
    let mut scenario = scenario();
    scenario.exposition.labels = vec![Detail::Exe, Detail::ContainerRuntime];
    let text = scenario.text();
    read(&text);
    let more = r#"exe="/bin/\"\\x0a",container_runtime="docker""#;
    for line in text.lines().filter(|line| {
        let of_daemon = ["observer_process", "observer_dropped_records"];
        line.contains("pid=") && !of_daemon.iter().any(|family| line.starts_with(family))
    }) {
        assert!(line.contains(more), "{line}");
    }
}

/// The end of a unary call that was seen completely.
pub(crate) fn unary(code: Option<Code>, elapsed_ns: u64) -> Ended {
    Ended {
        code,
        elapsed_ns: Some(elapsed_ns),
        request_messages: Some(1),
        response_messages: Some(1),
        half_closed: true,
        ..Ended::default()
    }
}
