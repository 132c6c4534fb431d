//! Bounds on the memory of all connections together, and nothing left of those that ended.

use std::{collections::BTreeMap, slice, time::Duration};

use observer_common::{
    frame::kind,
    record::{HELD, ItemHeader, RecordHeader, direction, item_kind, record_kind, role},
};
use zerocopy::IntoBytes as _;

use super::{Counted, FAIR_SHARE, PATHS_PERIOD_NS, Pipeline};
use crate::{
    call::{CallKey, Code, Coverage, ExportedSpan, SpanId, TraceId},
    ends::Call,
    names::Interner,
    output::{Names, Output},
    process::ProcessId,
    statistics::{Buckets, Limits, Statistics},
};

const LIMIT: usize = 1 << 20;
const END_HEADERS: u8 = 4;

const SECOND: u64 = 1_000_000_000;

/// Longer than a connection's fair share, and shorter than what is kept of a frame.
const FRAGMENT: usize = 4 * FAIR_SHARE;

/// The span that the second output exports for each call.
const SPAN: ExportedSpan = ExportedSpan { trace: TraceId([7; 16]), span: SpanId([9; 8]) };

/// The second output: the paths of the calls that it got, and how often it was ticked.
#[derive(Debug, Default)]
struct Ends {
    paths: Vec<String>,
    codes: Vec<Option<Code>>,
    ticks: usize,
}

impl Output for Ends {
    fn sharing(&self) -> Self {
        Self::default()
    }

    fn call(&mut self, call: &mut Call, key: Option<CallKey>, names: &Names<'_>) {
        self.codes.push(call.ended.code);
        let path = key.and_then(|key| names.interner.resolve(key.path));
        self.paths.push(path.map_or("", |path| path).to_owned());
        call.span = Some(SPAN);
    }

    fn tick(&mut self, _: u64) {
        self.ticks += 1;
    }
}

type TestPipeline = Pipeline<Ends>;

fn pipeline() -> TestPipeline {
    let statistics = Statistics::new(Buckets::default(), Limits::default());
    let mut pipeline = Pipeline::new(statistics, Ends::default(), Duration::from_mins(5));
    pipeline.max_memory = LIMIT;
    pipeline
}

/// A pipeline with bounds on its series and paths.
fn with_limits(limits: Limits, max_paths: usize) -> TestPipeline {
    let statistics = Statistics::new(Buckets::default(), limits);
    let outputs = (statistics, Ends::default());
    TestPipeline { outputs, interner: Interner::new(max_paths), ..pipeline() }
}

#[test]
fn all_outputs_get_every_call_that_ends() {
    let mut pipeline = pipeline();
    let items = [open(), request(1), reset(1), request(3), request(5), reset(5)];
    pipeline.handle(&record(1, record_kind::BYTES, 0, &items));
    assert_eq!(pipeline.output().paths, ["/s/1", "/s/5"]);
    assert_eq!(pipeline.statistics().calls().of(Coverage::Complete).complete, 2);
    // The statistics come last.
    for (_, series) in pipeline.statistics().series().filter(|(_, series)| series.ended() > 0) {
        for exemplar in series.handling.exemplars() {
            assert_eq!((exemplar.trace, exemplar.span), (SPAN.trace, Some(SPAN.span)));
        }
        assert_eq!(series.handling.exemplars().count(), 1);
    }
    pipeline.tick(2_000);
    assert_eq!(pipeline.output().ticks, 1);
}

#[test]
fn excluded_calls_are_counted_and_nothing_else() {
    let mut pipeline = pipeline().excluding(&["s/1".parse().unwrap(), "t/*".parse().unwrap()]);
    // By name, by a reference to the table, and one that is not excluded; the last call stays open.
    let named = [request_for(1, Some("/t/Get"), true), request_for(3, None, false), request(5)];
    let items = [&[open()][..], &named, &[reset(1), reset(3), reset(5), request(15)]].concat();
    pipeline.handle(&record(1, record_kind::BYTES, 0, &items));
    let statistics = pipeline.statistics();
    assert_eq!((statistics.excluded(), statistics.late(), statistics.len()), (2, 0, 1));
    assert_eq!(statistics.calls().total().complete, 1);
    assert_eq!(pipeline.output().paths, ["/s/5"]);
    let mut sum = statistics.clone();
    sum.merge(statistics).unwrap();
    assert_eq!(sum.excluded(), 4);
}

#[test]
fn a_process_is_to_show_first_that_it_reads_at_once() {
    const MS: u64 = 1_000_000;
    const EITHER: [Option<Code>; 1] = [Some(Code::CanceledOrDeadlineExceeded)];
    let expired_5_ms_ago = |reads: u64, late: bool| {
        let mut pipeline = pipeline();
        pipeline.set_stall_free_since(0);
        let mut position = 0;
        let mut receive = |ms: u64, items: &[Vec<u8>]| {
            let pid = std::process::id();
            let bytes = record_of(pid, ms * MS, 1, record_kind::BYTES, position, items);
            position += items.iter().map(Vec::len).sum::<usize>() as u64;
            pipeline.handle(&bytes);
        };
        receive(10_000, &[open()]);
        (2..reads).for_each(|read| receive(10_000 + read, &[]));
        if late {
            let (kind, stream, length) = (item_kind::WAITED, 40_000, 50_000);
            let waited = ItemHeader { kind, stream, length, ..ItemHeader::default() };
            receive(19_000, &[waited.as_bytes().to_vec()]);
        }
        receive(20_000, &[request_within(1, "100m")]);
        receive(20_105, &[reset(1)]);
        pipeline.output().codes.clone()
    };
    assert_eq!(expired_5_ms_ago(64, false), [Some(Code::DeadlineExceeded)]);
    assert_eq!(expired_5_ms_ago(63, false), EITHER);
    assert_eq!(expired_5_ms_ago(1_000, true), EITHER, "it may do so again");
}

/// A record of bytes that a server reads, as the BPF programs write it.
fn record(connection: u64, kind: u8, position: u64, items: &[Vec<u8>]) -> Vec<u8> {
    record_of(std::process::id(), 1_000, connection, kind, position, items)
}

/// A record of bytes that the server `pid` reads at this time.
fn record_of(
    pid: u32,
    time_ns: u64,
    connection: u64,
    kind: u8,
    position: u64,
    items: &[Vec<u8>],
) -> Vec<u8> {
    let length = items.iter().map(Vec::len).sum::<usize>() as u64;
    let header = RecordHeader {
        connection,
        time_ns,
        position,
        length,
        pid,
        kind,
        direction: direction::RECEIVED,
        role: role::SERVER,
        flags: 0,
    };
    [header.as_bytes(), &items.concat()].concat()
}

fn item(kind: u8, frame_kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let length = content.len() as u32;
    let header =
        ItemHeader { kind, frame_kind, flags, _reserved: 0, stream, length, captured: length };
    let mut bytes = [header.as_bytes(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn open() -> Vec<u8> {
    item(item_kind::OPEN, 0, 0, 0, &[0; 64])
}

/// `:path` by its number, `content-type: application/grpc`.
fn request(stream: u32) -> Vec<u8> {
    request_for(stream, Some(&format!("/s/{}", stream % 7)), false)
}

/// Such a request with a `grpc-timeout`.
fn request_within(stream: u32, timeout: &str) -> Vec<u8> {
    let path = format!("/s/{}", stream % 7);
    let block = [
        &[4, path.len() as u8],
        path.as_bytes(),
        b"\x0f\x10\x10application/grpc",
        b"\0\x0cgrpc-timeout",
        &[timeout.len() as u8],
        timeout.as_bytes(),
    ]
    .concat();
    item(item_kind::FRAME, kind::HEADERS, END_HEADERS, stream, &block)
}

fn forgotten(pipeline: &TestPipeline) -> u64 {
    pipeline.figures().forgotten
}

#[test]
fn field_blocks_that_never_end_are_given_up_and_counted() {
    const CONNECTIONS: u64 = 100;
    let mut pipeline = pipeline();
    let begun = item(item_kind::FRAME, kind::HEADERS, 0, 1, &vec![0; FRAGMENT]);
    for connection in 1..=CONNECTIONS {
        pipeline.handle(&record(connection, record_kind::BYTES, 0, &[open(), begun.clone()]));
        assert!(pipeline.memory <= LIMIT + CONNECTIONS as usize * FAIR_SHARE);
    }
    let fit = (LIMIT / FRAGMENT) as u64;
    assert_eq!(forgotten(&pipeline), CONNECTIONS - fit);
    assert_eq!(pipeline.connections().complete, fit);
}

#[test]
fn a_connection_with_its_fair_share_is_followed_whatever_others_hold() {
    let mut pipeline = pipeline();
    let begun = item(item_kind::FRAME, kind::HEADERS, 0, 1, &vec![0; FRAGMENT]);
    for connection in 1..=10 {
        pipeline.handle(&record(connection, record_kind::BYTES, 0, &[open(), begun.clone()]));
    }
    let before = forgotten(&pipeline);
    let requests: Vec<_> = (0..200).map(|call| request(2 * call + 1)).collect();
    let all = [&[open()], &*requests].concat();
    pipeline.handle(&record(1000, record_kind::BYTES, 0, &all));
    assert_eq!(forgotten(&pipeline), before);
    assert_eq!(pipeline.open_streams(), 200);
}

/// Each of them holds less than a connection may, but the more connections there are, the less each may hold.
#[test]
fn many_connections_do_not_hold_more_than_all_may() {
    const CONNECTIONS: u64 = 1000;
    let mut pipeline = pipeline();
    let begun = item(item_kind::FRAME, kind::HEADERS, 0, 1, &vec![0; FAIR_SHARE / 2]);
    for connection in 1..=CONNECTIONS {
        pipeline.handle(&record(connection, record_kind::BYTES, 0, &[open(), begun.clone()]));
        assert!(pipeline.memory <= LIMIT + LIMIT / 2, "{} bytes", pipeline.memory);
    }
    assert!(forgotten(&pipeline) > CONNECTIONS / 2);
}

/// Calls of known series go on to be counted; others are counted as beyond the bound.
#[test]
fn stopped_nothing_new_is_taken() {
    let mut pipelines = pipeline().split(2);
    one_call(&mut pipelines[0], 1, "/s/Known");
    pipelines[0].stop(true);
    // The known connection: by name, and as other.
    let requests = [request_for(3, Some("/s/Known"), false), request_for(5, Some("/s/New"), false)];
    let position = [open(), request_for(1, Some("/s/Known"), false), reset(1)];
    let position = position.iter().map(Vec::len).sum::<usize>() as u64;
    pipelines[0].handle(&record(1, record_kind::BYTES, position, &requests));
    // Other connections, of every worker, are not followed.
    one_call(&mut pipelines[1], 2, "/s/Known");
    let started = |pipelines: &[TestPipeline]| {
        let total = |count: fn(&TestPipeline) -> u64| pipelines.iter().map(count).sum::<u64>();
        let not_followed = total(|pipeline| pipeline.figures().not_followed);
        (begun(pipelines), not_followed, total(|pipeline| pipeline.connections().complete))
    };
    let want =
        |known, other| BTreeMap::from([(String::new(), other), ("/s/Known".to_owned(), known)]);
    assert_eq!(started(&pipelines), (want(2, 1), 1, 1));
    pipelines[0].stop(false);
    one_call(&mut pipelines[1], 3, "/s/Known");
    assert_eq!(started(&pipelines), (want(3, 1), 1, 2));
}

#[test]
fn calls_beyond_the_bound_end_without_a_code() {
    const CALLS: u32 = 20_000;
    let mut pipeline = pipeline();
    for connection in 1..=4 {
        let requests: Vec<_> = (0..CALLS).map(|call| request(2 * call + 1)).collect();
        let all = [&[open()], &*requests].concat();
        pipeline.handle(&record(connection, record_kind::BYTES, 0, &all));
    }
    assert!(forgotten(&pipeline) > 0);
    assert!(pipeline.open_streams() < 4 * u64::from(CALLS));
    let in_flight: u64 = pipeline.statistics().series().map(|(_, series)| series.in_flight()).sum();
    assert_eq!(in_flight, pipeline.open_streams());
}

#[test]
fn nothing_is_left_of_connections_that_ended() {
    let mut pipeline = pipeline();
    let begun = item(item_kind::FRAME, kind::HEADERS, 0, 3, &vec![0; FRAGMENT]);
    for connection in 1..=50 {
        let items = [open(), request(1), begun.clone()];
        pipeline.handle(&record(connection, record_kind::BYTES, 0, &items));
    }
    assert!(pipeline.memory > 0);
    for connection in 1..=50 {
        pipeline.handle(&record(connection, record_kind::CLOSED, 0, &[]));
    }
    assert_eq!(pipeline.memory, 0);
}

/// A day: every second a process comes, makes calls over a connection and goes, and a connection
/// that stays makes one more.
#[test]
fn a_day_in_fast_forward_leaves_nothing() {
    const DAY: u64 = 86_400;
    const STAYS: u64 = u64::MAX;
    let mut pipeline = pipeline();
    let mut position = 0;
    let mut hours = Vec::new();
    for second in 1..=DAY {
        let at = |connection, position, kind, items: &[Vec<u8>]| {
            let pid = if connection == STAYS { 1 } else { 1 + second as u32 };
            record_of(pid, second * SECOND, connection, kind, position, items)
        };
        let short = [open(), request(1), reset(1), request(3)];
        pipeline.handle(&at(second, 0, record_kind::BYTES, &short));
        pipeline.handle(&at(second, 0, record_kind::CLOSED, &[]));
        pipeline.handle(&at(0, 0, record_kind::EXITED, &[]));
        let stream = 2 * second as u32 + 1;
        let mut more = vec![request(stream), reset(stream)];
        if second == 1 {
            more.insert(0, open());
        }
        let length = more.iter().map(Vec::len).sum::<usize>() as u64;
        pipeline.handle(&at(STAYS, position, record_kind::BYTES, &more));
        position += length;
        pipeline.tick(second * SECOND);
        if second % 3600 == 0 {
            let TestPipeline { memory, connections, processes, outputs: (statistics, _), .. } =
                &pipeline;
            hours.push((*memory, connections.len(), processes.len(), statistics.len()));
        }
    }
    assert!(hours.iter().all(|hour| *hour == hours[0]), "{hours:?}");
    assert_eq!(hours[0].1, 1, "one connection is open");
    let calls = pipeline.statistics().calls().of(Coverage::Complete);
    assert_eq!(calls.complete, 3 * DAY, "{calls:?}");
    assert_eq!(pipeline.figures().dropped_bytes, 0);
}

/// The pid is used again by a process of the same name, and then the time of the first is over.
#[test]
fn counters_of_a_pid_used_again_do_not_go_back() {
    let mut pipeline = pipeline();
    let at = |second: u64, connection, kind, items: &[Vec<u8>]| {
        record_of(std::process::id(), second * SECOND, connection, kind, 0, items)
    };
    // The number of calls that started, and the time since when they are counted, by labels.
    let started = |pipeline: &TestPipeline| {
        let names = pipeline.processes().names();
        let mut started = BTreeMap::new();
        for (key, series) in pipeline.statistics().series() {
            let process = names.process(key.process);
            let labels = (process.pid, format!("{:?}", process.comm), key.path);
            let (calls, created_ns) = started.entry(labels).or_insert((0, u64::MAX));
            *calls += series.started;
            *created_ns = series.created_ns.min(*created_ns);
        }
        started.into_values().collect::<Vec<_>>()
    };
    for (second, calls) in [(1, vec![1, 3, 5]), (100, vec![1])] {
        let requests: Vec<_> = calls.into_iter().map(|call| request(7 * call)).collect();
        let all = [&[open()], &*requests].concat();
        pipeline.handle(&at(second, second, record_kind::BYTES, &all));
        pipeline.handle(&at(second, second, record_kind::CLOSED, &[]));
        if second == 1 {
            pipeline.handle(&at(second + 1, 0, record_kind::EXITED, &[]));
        }
    }
    let before = started(&pipeline);
    assert_eq!(before, [(4, SECOND)]);
    for second in [101, 302, 303, 1000] {
        pipeline.tick(second * SECOND);
        assert_eq!(started(&pipeline), before, "after {second} s");
    }
    assert_eq!(pipeline.processes.len(), 1, "the first is forgotten");

    // With the second it is all over.
    pipeline.handle(&at(1001, 0, record_kind::EXITED, &[]));
    pipeline.tick(1301 * SECOND);
    assert_eq!(started(&pipeline), []);
}

/// RST_STREAM(CANCEL).
fn reset(stream: u32) -> Vec<u8> {
    item(item_kind::FRAME, kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])
}

/// A request for `path`: its block has a literal, which the table takes if `indexed`, or refers to the
/// newest entry of the table.
fn request_for(stream: u32, path: Option<&str>, indexed: bool) -> Vec<u8> {
    let path = match path {
        Some(path) => {
            let kind = if indexed { 0x44 } else { 4 };
            [&[kind, path.len() as u8], path.as_bytes()].concat()
        }
        None => vec![0x80 + 62],
    };
    let block = [&path[..], b"\x0f\x10\x10application/grpc"].concat();
    item(item_kind::FRAME, kind::HEADERS, END_HEADERS, stream, &block)
}

/// The number of calls that started in any of these pipelines, by path; "" if there is none.
fn begun(pipelines: &[TestPipeline]) -> BTreeMap<String, u64> {
    let mut begun = BTreeMap::new();
    for (key, series) in sum(pipelines).series() {
        let path = pipelines.iter().find_map(|pipeline| pipeline.path(key.path));
        *begun.entry(path.map_or("", |path| path).to_owned()).or_default() += series.started;
    }
    begun
}

#[test]
fn paths_that_nothing_has_any_more_make_room_and_the_others_keep_their_ids() {
    let mut pipeline = with_limits(Limits { max_methods: 3, ..Limits::default() }, 8);
    let (mut position, mut stream) = (0, 1);
    let mut begin = |pipeline: &mut TestPipeline, path: Option<&str>, indexed: bool| {
        let mut items = vec![request_for(stream, path, indexed), reset(stream)];
        if stream == 1 {
            items.insert(0, open());
        }
        pipeline.handle(&record(1, record_kind::BYTES, position, &items));
        position += items.iter().map(Vec::len).sum::<usize>() as u64;
        stream += 2;
    };
    begin(&mut pipeline, Some("/kept/by-series"), false);
    begin(&mut pipeline, Some("/kept/by-table"), true);
    for round in 1..=20 {
        for number in 0..10 {
            begin(&mut pipeline, Some(&format!("/hostile/{round}-{number}")), false);
        }
        pipeline.tick(round * PATHS_PERIOD_NS);
        // The entry still means what it did.
        begin(&mut pipeline, None, false);
        assert_eq!(begun(slice::from_ref(&pipeline))["/kept/by-table"], round + 1);
    }
    let started = begun(slice::from_ref(&pipeline));
    assert_eq!((started["/kept/by-series"], started["/hostile/1-0"]), (1, 1));
    assert_eq!(started.values().sum::<u64>(), 2 + 20 * 11, "{started:?}");
    assert!(!pipeline.interner.is_crowded(), "three series, and a table's entry");
    // A call of another process.
    let items = [open(), request_for(1, Some("/later/Method"), false)];
    pipeline.handle(&record_of(1, 1_000, 2, record_kind::BYTES, 0, &items));
    assert_eq!(begun(slice::from_ref(&pipeline))["/later/Method"], 1);
}

/// A request for `path`, and its reset, on a connection of its own.
fn one_call(pipeline: &mut TestPipeline, connection: u64, path: &str) {
    let items = [open(), request_for(1, Some(path), false), reset(1)];
    pipeline.handle(&record(connection, record_kind::BYTES, 0, &items));
}

/// The statistics of several pipelines together.
fn sum(pipelines: &[TestPipeline]) -> Statistics {
    let mut sum = pipelines[0].statistics().clone();
    pipelines[1..].iter().for_each(|part| sum.merge(part.statistics()).unwrap());
    sum
}

#[test]
fn bounds_hold_for_all_workers_together() {
    let one = with_limits(Limits { max_methods: 3, ..Limits::default() }, 5);
    let mut pipelines = one.split(4);
    assert!(pipelines.iter().all(|pipeline| pipeline.max_memory == LIMIT / 4));
    let mut connection = 0;
    for round in 1..=2 {
        for (number, pipeline) in pipelines.iter_mut().enumerate() {
            for path in ["/s/Common".to_owned(), format!("/s/{number}")] {
                connection += 1;
                one_call(pipeline, connection, &path);
            }
        }
        // The first methods have their names, as with one worker; "" is all others.
        let want = [("", 2), ("/s/0", 1), ("/s/1", 1), ("/s/Common", 4)];
        let want = want.map(|(path, calls)| (path.to_owned(), round * calls));
        assert_eq!(begun(&pipelines), want.into());
        assert_eq!(sum(&pipelines).overflow(), 2 * round);
    }
    // "/s/Common" and four others.
    let known = pipelines[0].interner.given_out();
    assert_eq!(known.len(), 2 + 5);
}

#[test]
fn expired_processes_go_from_all_workers_and_make_room() {
    let mut pipelines = with_limits(Limits { max_methods: 9, max_series: 2 }, 100).split(2);
    for (number, pipeline) in pipelines.iter_mut().enumerate() {
        one_call(pipeline, number as u64, "/s/Common");
        one_call(pipeline, 10 + number as u64, "/s/Other");
        one_call(pipeline, 20 + number as u64, "/s/TooMany");
    }
    let want = [("", 2), ("/s/Common", 2), ("/s/Other", 2)];
    let want = BTreeMap::from(want.map(|(path, calls)| (path.to_owned(), calls)));
    assert_eq!(begun(&pipelines), want);
    for pipeline in &mut pipelines {
        pipeline.handle(&record(0, record_kind::EXITED, 0, &[]));
    }
    let [lead, other] = pipelines.as_mut_slice() else { panic!("there are two") };
    assert!(lead.tick(2 * SECOND).is_empty());
    let expired = lead.tick(1000 * SECOND);
    assert_eq!((expired.len(), lead.processes.len()), (1, 0));
    other.follow(1000 * SECOND, &expired);
    let left: Vec<_> = sum(&pipelines).series().map(|(key, _)| key.process).collect();
    assert_eq!(left, [ProcessId::OTHER], "what stands for all that found no room");
    // A process that comes later.
    let items = [open(), request_for(1, Some("/s/Later"), false)];
    pipelines[1].handle(&record_of(1, 1_000, 30, record_kind::BYTES, 0, &items));
    assert_eq!(begun(&pipelines)["/s/Later"], 1);
}

#[test]
fn connections_are_counted_for_their_processes() {
    let mut pipeline = pipeline();
    let (own, other) = (std::process::id(), std::process::id() + 1);
    pipeline.handle(&record_of(own, 1, 1, record_kind::BYTES, 0, &[open()]));
    pipeline.handle(&record_of(own, 2, 2, record_kind::BYTES, 0, &[open()]));
    pipeline.handle(&record_of(other, 3, 3, record_kind::BYTES, 0, &[open()]));
    pipeline.handle(&record_of(own, 4, 1, record_kind::CLOSED, 0, &[]));
    let counts = |pipeline: &TestPipeline, pid: u32| {
        let of = pipeline.connections_by_process().remove(&pid)?;
        assert_eq!(of.tls, Counted::default());
        Some((of.cleartext.open.sum(), of.cleartext.ended))
    };
    assert_eq!(counts(&pipeline, own), Some((1, 1)));
    assert_eq!(counts(&pipeline, other), Some((1, 0)));
    // A process that has exited is left out, even if its pid is in use again.
    pipeline.handle(&record_of(own, 5, 0, record_kind::EXITED, 0, &[]));
    assert_eq!(counts(&pipeline, own), None);
    pipeline.handle(&record_of(own, 6, 4, record_kind::BYTES, 0, &[open()]));
    assert_eq!(counts(&pipeline, own), Some((1, 0)));
    pipeline.tick(400 * SECOND);
    assert_eq!(pipeline.ended_of.len(), 0);
}

#[test]
fn plaintext_of_tls_is_counted_as_such() {
    let mut pipeline = pipeline();
    let mut bytes = record_of(9, 1, 1, record_kind::BYTES, 0, &[open()]);
    let flags = std::mem::offset_of!(RecordHeader, flags);
    bytes[flags] |= HELD;
    pipeline.handle(&bytes);
    let of = |pipeline: &TestPipeline| pipeline.connections_by_process().remove(&9);
    assert_eq!(of(&pipeline), None, "nothing is proven");
    let length = u64::MAX / 2;
    let proven = RecordHeader {
        connection: 1,
        position: length,
        length,
        kind: record_kind::PROVEN,
        ..RecordHeader::default()
    };
    pipeline.handle(proven.as_bytes());
    let of = of(&pipeline).unwrap();
    assert_eq!((of.tls.open.sum(), of.cleartext.open.sum()), (1, 0));
}
