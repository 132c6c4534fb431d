use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{
    Buckets, CallsByCoverage, CallsSeen, GrpcType, Limits, Messages, RecordingsDiffer, Series,
    Statistics,
    slots::{LAST_GENERATION, slot_of},
};
use crate::{
    call::{CallKey, CallProtocol, CallSink, Code, Coverage, Direction, Ended, Role, SeriesId},
    names::PathId,
    process::ProcessId,
};

const PATH: PathId = PathId(2);

fn key(process: u32, role: Role, path: u32) -> CallKey {
    CallKey { protocol: CallProtocol::Grpc, process: ProcessId(process), role, path: PathId(path) }
}

fn server(path: u32) -> CallKey {
    key(1, Role::Server, path)
}

fn statistics() -> Statistics {
    with_limits(100, 1000)
}

fn with_limits(max_methods: usize, max_series: usize) -> Statistics {
    let buckets: Buckets = "0.001,0.01".parse().unwrap();
    Statistics::new(buckets, Limits { max_methods, max_series })
}

/// A unary call's end.
fn ok(elapsed_ns: u64) -> Ended {
    Ended::unary(Some(Code::Ok), elapsed_ns)
}

fn series(statistics: &Statistics, key: CallKey) -> Option<&Series> {
    statistics.series().find(|(found, _)| *found == key).map(|(_, series)| series)
}

#[test]
fn a_call_is_counted_where_it_belongs() {
    let mut statistics = statistics();
    let id = statistics.started(server(2));
    let other = statistics.started(key(1, Role::Client, 2));
    assert_ne!(id, other);
    assert_eq!(statistics.started(server(2)), id);
    statistics.messages(id, Direction::Received, 1, 10);
    statistics.messages(id, Direction::Sent, 3, 500);
    statistics.first_message(id, 1_000_000);
    statistics.ended(id, ok(1_000_001));

    let found = series(&statistics, server(2)).unwrap();
    assert_eq!((found.started, found.joined, found.ended(), found.in_flight()), (2, 0, 1, 1));
    assert_eq!(found.received, Messages { count: 1, bytes: 10 });
    assert_eq!(found.sent, Messages { count: 3, bytes: 500 });
    assert_eq!(found.first_message.counts(), [1, 0, 0]);
    assert_eq!(found.handling.counts(), [0, 1, 0]);
    assert!((found.handling.sum_seconds() - 0.001_000_001).abs() < 1e-12);

    let other = series(&statistics, key(1, Role::Client, 2)).unwrap();
    assert_eq!((other.started, other.ended(), other.in_flight()), (1, 0, 1));
    assert_eq!(other.handling.count(), 0);
}

#[test]
fn ends_are_counted_by_code() {
    let mut statistics = statistics();
    let id = statistics.started(server(2));
    for (times, code) in Code::ALL.into_iter().enumerate() {
        for _ in 0..=times {
            statistics.ended(id, Ended { code: Some(code), ..ok(1) });
        }
    }
    statistics.ended(id, Ended { code: None, ..ok(1) });
    let series = series(&statistics, server(2)).unwrap();
    let want: Vec<u64> = (1..).take(Code::ALL.len()).collect();
    assert_eq!(series.handled, want[..]);
    assert_eq!(series.handled_code_not_seen, 1);
    assert_eq!(series.ended(), want.iter().sum::<u64>() + 1);
    assert_eq!(series.in_flight(), 0, "more ends than starts is not a negative number");
}

#[test]
fn a_joined_call_has_no_duration_but_is_in_flight_until_its_end() {
    let mut statistics = statistics();
    let id = statistics.joined(server(PathId::NOT_SEEN.0));
    let in_flight =
        |statistics: &Statistics| statistics.series().next().map(|(_, series)| series.in_flight());
    assert_eq!(in_flight(&statistics), Some(1));
    statistics.ended(id, Ended { elapsed_ns: None, ..ok(0) });
    assert_eq!(in_flight(&statistics), Some(0));
    let (_, series) = statistics.series().next().unwrap();
    assert_eq!((series.started, series.joined, series.handling.count()), (0, 1, 0));
}

#[test]
fn calls_by_what_was_seen() {
    let mut statistics = statistics();
    let known = statistics.started(server(2));
    let unknown = statistics.started(server(PathId::NOT_SEEN.0));
    statistics.ended(known, ok(1));
    statistics.ended(known, Ended { code: None, ..ok(1) });
    statistics.ended(unknown, ok(1));
    statistics.ended(unknown, Ended { code: None, ..ok(1) });
    statistics.ended(unknown, Ended { coverage: Coverage::JoinedLate, ..ok(1) });
    let want = CallsSeen { complete: 1, no_method: 1, no_code: 1, nothing: 1 };
    assert_eq!(statistics.calls().of(Coverage::Complete), want);
    let late = CallsSeen { no_method: 1, ..CallsSeen::default() };
    assert_eq!(statistics.calls().of(Coverage::JoinedLate), late);

    statistics.forget_process(ProcessId(1));
    assert_eq!(
        statistics.calls().of(Coverage::Complete),
        want,
        "a counter does not go back when a process goes"
    );
}

#[test]
fn sums_do_not_overflow() {
    let mut statistics = statistics();
    let id = statistics.started(server(2));
    for _ in 0..4 {
        statistics.ended(id, ok(u64::MAX));
        statistics.messages(id, Direction::Sent, u64::MAX, u64::MAX);
    }
    let series = series(&statistics, server(2)).unwrap();
    assert!((series.handling.sum_seconds() / (u64::MAX as f64 * 4e-9) - 1.0).abs() < 1e-9);
    assert_eq!(series.handling.counts(), [0, 0, 4]);
    assert_eq!(series.sent, Messages { count: u64::MAX, bytes: u64::MAX });
}

/// The type of a method now.
fn type_of(statistics: &Statistics, path: PathId) -> GrpcType {
    statistics.types()[&path]
}

/// Ends a call with events as its connection sends them.
fn end(statistics: &mut Statistics, id: SeriesId, role: Role, ended: Ended) {
    let requests = role.request_direction();
    for (direction, count) in
        [(requests, ended.request_messages), (requests.opposite(), ended.response_messages)]
    {
        let count = count.unwrap_or_default();
        statistics.messages(id, direction, count, 0);
        if count > 1 {
            statistics.second_message(id, direction);
        }
    }
    statistics.ended(id, ended);
}

/// A call of a server that ended like this.
fn call(statistics: &mut Statistics, process: u32, ended: Ended) {
    let id = statistics.started(key(process, Role::Server, 2));
    end(statistics, id, Role::Server, ended);
}

fn counts(request_messages: Option<u64>, response_messages: Option<u64>) -> Ended {
    Ended { request_messages, response_messages, ..ok(1) }
}

#[test]
fn the_type_follows_from_the_counts_at_the_end() {
    use GrpcType::{BidiStream, ClientStream, ServerStream, Unary};
    let failed = |ended| Ended { code: Some(Code::Internal), ..ended };
    let not_seen = |ended| Ended { code: None, ..ended };
    let open = |ended| Ended { half_closed: false, ..ended };
    let rows = [
        ("one each", counts(Some(1), Some(1)), Unary),
        ("requests", counts(Some(2), Some(1)), ClientStream),
        ("responses", counts(Some(1), Some(2)), ServerStream),
        ("both", counts(Some(2), Some(2)), BidiStream),
        ("no request, all sent", counts(Some(0), Some(1)), ClientStream),
        ("no request, not all sent", open(counts(Some(0), Some(1))), Unary),
        ("no response, OK", counts(Some(1), Some(0)), ServerStream),
        ("no response, failed", failed(counts(Some(1), Some(0))), Unary),
        ("no response, code not seen", not_seen(counts(Some(1), Some(0))), Unary),
        ("none at all, OK", counts(Some(0), Some(0)), BidiStream),
        ("cancelled at once", open(failed(counts(Some(0), Some(0)))), Unary),
        ("responses, then failed", failed(counts(Some(1), Some(3))), ServerStream),
        ("counts not seen", counts(None, None), Unary),
    ];
    for (what, ended, want) in rows {
        let mut statistics = statistics();
        call(&mut statistics, 1, ended);
        assert_eq!(type_of(&statistics, PATH), want, "{what}");
    }
}

#[test]
fn the_type_is_known_while_a_stream_lasts() {
    let rows = [
        (Role::Server, Direction::Received, GrpcType::ClientStream),
        (Role::Server, Direction::Sent, GrpcType::ServerStream),
        (Role::Client, Direction::Sent, GrpcType::ClientStream),
        (Role::Client, Direction::Received, GrpcType::ServerStream),
    ];
    for (role, direction, want) in rows {
        let mut statistics = statistics();
        let id = statistics.started(key(1, role, 2));
        statistics.messages(id, direction, 1, 5);
        assert_eq!(type_of(&statistics, PATH), GrpcType::Unary, "{role:?} {direction:?}");
        statistics.messages(id, direction, 1, 5);
        statistics.second_message(id, direction);
        assert_eq!(type_of(&statistics, PATH), want, "{role:?} {direction:?}");
    }
}

#[test]
fn one_odd_call_does_not_make_a_method_another() {
    let mut statistics = statistics();
    for _ in 0..100 {
        call(&mut statistics, 1, ok(1));
    }
    for odd in [counts(Some(2), Some(1)), counts(Some(1), Some(2)), counts(Some(0), Some(0))] {
        call(&mut statistics, 2, odd);
        assert_eq!(type_of(&statistics, PATH), GrpcType::Unary, "{odd:?}");
    }
    // Nor do a stream's calls of one message make it unary.
    let mut statistics = super::tests::statistics();
    for _ in 0..100 {
        call(&mut statistics, 1, counts(Some(1), Some(3)));
        assert_eq!(type_of(&statistics, PATH), GrpcType::ServerStream);
    }
    for _ in 0..300 {
        call(&mut statistics, 1, ok(1));
        assert_eq!(type_of(&statistics, PATH), GrpcType::ServerStream);
    }
}

/// An odd call that was the first makes a method what it is not until others have outnumbered it.
#[test]
fn the_type_changes_at_a_fifth_and_back_below_a_tenth() {
    let mut statistics = statistics();
    let mut add = |ended, calls: u64| {
        for _ in 0..calls {
            call(&mut statistics, 1, ended);
        }
        type_of(&statistics, PATH)
    };
    let odd = counts(Some(2), Some(1));
    assert_eq!(add(odd, 1), GrpcType::ClientStream, "1 of 1");
    assert_eq!(add(ok(1), 9), GrpcType::ClientStream, "1 of 10");
    assert_eq!(add(ok(1), 1), GrpcType::Unary, "1 of 11");
    assert_eq!(add(odd, 1), GrpcType::Unary, "2 of 12");
    assert_eq!(add(odd, 1), GrpcType::ClientStream, "3 of 13");
    assert_eq!(add(ok(1), 17), GrpcType::ClientStream, "3 of 30");
    assert_eq!(add(ok(1), 1), GrpcType::Unary, "3 of 31");
    // Between the two bounds the type stays as it was, and scrapes do not change it.
    assert_eq!(add(odd, 3), GrpcType::Unary, "6 of 34");
    assert_eq!(add(odd, 0), GrpcType::Unary);
}

#[test]
fn the_type_is_the_methods_and_outlives_its_processes() {
    let mut statistics = statistics();
    let stream = statistics.started(key(1, Role::Server, 2));
    let client = statistics.started(key(2, Role::Client, 2));
    statistics.started(server(3));
    statistics.second_message(stream, Direction::Sent);
    statistics.ended(client, Ended { response_messages: None, ..ok(1) });
    assert_eq!(type_of(&statistics, PATH), GrpcType::ServerStream, "over roles and processes");
    assert_eq!(type_of(&statistics, PathId(3)), GrpcType::Unary, "not over methods");

    statistics.forget_process(ProcessId(1));
    assert_eq!(type_of(&statistics, PATH), GrpcType::ServerStream);
    call(&mut statistics, 3, ok(1));
    statistics.merge_into_successor(ProcessId(3), ProcessId(2));
    assert_eq!(type_of(&statistics, PATH), GrpcType::ServerStream, "1 of 2");
    for _ in 0..9 {
        call(&mut statistics, 4, ok(1));
    }
    assert_eq!(type_of(&statistics, PATH), GrpcType::Unary, "1 of 11: all are counted");
    statistics.forget_types(|path| path != PATH);
    statistics.forget_process(ProcessId(4));
    assert_eq!(statistics.dropped.len(), 2, "that of the other path, and of process 4");
}

/// Each worker has seen a part. The type follows from the sum, and from the type before.
#[test]
fn the_type_is_that_of_all_workers() {
    let mut one = statistics();
    let mut other = one.sharing();
    for _ in 0..100 {
        call(&mut one, 1, ok(1));
    }
    let type_of_sum = |one: &Statistics, other: &Statistics| {
        let mut sum = one.clone();
        sum.merge(other).unwrap();
        type_of(&sum, PATH)
    };
    call(&mut other, 1, counts(Some(2), Some(1)));
    assert_eq!(type_of_sum(&one, &other), GrpcType::Unary, "1 of 101");
    for _ in 0..30 {
        call(&mut other, 1, counts(Some(2), Some(1)));
    }
    assert_eq!(type_of_sum(&one, &other), GrpcType::ClientStream, "31 of 131");
    for _ in 0..100 {
        call(&mut one, 1, ok(1));
    }
    let said = type_of_sum(&one, &other);
    assert_eq!(said, GrpcType::ClientStream, "31 of 231, and it was one before");
}

#[test]
fn several_methods_together_have_no_type() {
    let mut statistics = statistics();
    for path in [PathId::NOT_SEEN, PathId::OTHER] {
        let id = statistics.started(server(path.0));
        statistics.second_message(id, Direction::Sent);
        assert_eq!(type_of(&statistics, path), GrpcType::Unknown);
    }
}

#[test]
fn methods_beyond_the_bound_are_other() {
    let mut statistics = with_limits(2, 1000);
    let first = statistics.started(server(2));
    statistics.started(server(3));
    statistics.started(server(PathId::NOT_SEEN.0));
    assert_eq!(statistics.overflow(), 0, "what was not seen is no method");
    let third = statistics.started(server(4));
    assert_eq!(statistics.started(server(5)), third);
    assert_eq!(statistics.started(server(2)), first, "those that found room keep it");
    statistics.ended(third, ok(1));

    assert_eq!(statistics.overflow(), 2);
    assert_eq!(series(&statistics, server(PathId::OTHER.0)).unwrap().started, 2);
    assert!(series(&statistics, server(4)).is_none());
    // Another role, another process: bounds of their own.
    statistics.started(key(1, Role::Client, 4));
    statistics.started(key(2, Role::Server, 4));
    assert_eq!(statistics.overflow(), 2);
    // The interner's own bound is an overflow too.
    statistics.joined(key(2, Role::Server, PathId::OTHER.0));
    assert_eq!(statistics.overflow(), 3);
}

#[test]
fn series_beyond_the_bound_are_of_no_process() {
    let mut statistics = with_limits(100, 3);
    statistics.started(key(1, Role::Server, 2));
    statistics.started(key(1, Role::Server, 3));
    statistics.started(key(2, Role::Server, 2));
    let first = statistics.started(key(2, Role::Server, 3));
    let second = statistics.started(key(3, Role::Server, 2));
    let client = statistics.started(key(4, Role::Client, 2));
    assert_eq!(first, second);
    assert_ne!(first, client);
    assert_eq!((statistics.overflow(), statistics.len()), (3, 5));
    let other = key(ProcessId::OTHER.0, Role::Server, PathId::OTHER.0);
    assert_eq!(series(&statistics, other).unwrap().started, 2);

    // They stay; room that becomes free is used.
    statistics.forget_process(ProcessId::OTHER);
    assert_eq!(statistics.len(), 5);
    for process in [1, 2] {
        statistics.forget_process(ProcessId(process));
    }
    statistics.started(key(5, Role::Server, 9));
    assert!(series(&statistics, key(5, Role::Server, 9)).is_some());
}

#[test]
fn a_dropped_process_takes_its_series_along() {
    let mut statistics = with_limits(1, 1000);
    statistics.started(key(1, Role::Server, 2));
    statistics.started(key(1, Role::Server, 3));
    statistics.started(key(2, Role::Server, 2));
    statistics.connection_opened(ProcessId(1), Role::Server);
    statistics.connection_opened(ProcessId(2), Role::Server);
    statistics.forget_process(ProcessId(1));
    let keys: Vec<CallKey> = statistics.series().map(|(key, _)| key).collect();
    assert_eq!(keys, [key(2, Role::Server, 2)]);
    let connections: Vec<_> = statistics.connections().collect();
    assert_eq!(connections, [(ProcessId(2), Role::Server, 1)]);
    statistics.connection_closed(ProcessId(1), Role::Server);
    assert_eq!(statistics.connections().count(), 1);

    // Its methods no longer count towards the bound.
    statistics.started(key(1, Role::Server, 7));
    assert!(series(&statistics, key(1, Role::Server, 7)).is_some());
}

#[test]
fn an_heir_goes_on_with_the_figures() {
    let mut statistics = with_limits(2, 1000);
    statistics.set_time(10);
    let old = [2, 3].map(|path| statistics.started(key(1, Role::Server, path)));
    statistics.ended(old[0], ok(1));
    statistics.started(key(1, Role::Server, 2));
    statistics.connection_opened(ProcessId(1), Role::Server);
    statistics.set_time(20);
    let new = statistics.started(key(2, Role::Server, 2));
    statistics.merge_into_successor(ProcessId(1), ProcessId(2));

    let mut found: Vec<CallKey> = statistics.series().map(|(key, _)| key).collect();
    found.sort_unstable_by_key(|key| key.path.0);
    let keys = [2, 3].map(|path| key(2, Role::Server, path));
    assert_eq!(found, keys);
    assert_eq!(statistics.connections().count(), 0, "its connections went with it");
    let both = series(&statistics, keys[0]).unwrap();
    assert_eq!((both.created_ns, both.started, both.ended()), (10, 3, 1));
    assert_eq!(both.in_flight(), 1, "what the old one had in flight is not waited for");

    // Later events of the old one are counted where its series is.
    statistics.ended(old[0], ok(1));
    assert_eq!(statistics.late(), 1, "there it is the successor's own");
    statistics.ended(old[1], ok(1));
    statistics.ended(new, ok(1));
    let found = keys.map(|key| series(&statistics, key).unwrap().clone());
    assert_eq!(found.each_ref().map(Series::ended), [2, 1]);
    assert_eq!(found.each_ref().map(Series::in_flight), [0, 0]);

    // Inherited methods count towards the bound.
    statistics.started(key(2, Role::Server, 4));
    assert!(series(&statistics, key(2, Role::Server, 4)).is_none());
    assert_eq!(statistics.overflow(), 1);
    statistics.forget_process(ProcessId(2));
    assert!(statistics.is_empty());
}

#[test]
fn an_old_id_does_not_reach_the_series_that_took_its_slot() {
    let mut statistics = statistics();
    let old = statistics.started(key(1, Role::Server, 2));
    statistics.forget_process(ProcessId(1));
    let new = statistics.started(key(2, Role::Server, 2));
    assert_eq!(slot_of(old), slot_of(new), "the slot is used again");
    assert_ne!(old, new);

    statistics.messages(old, Direction::Sent, 5, 5);
    statistics.first_message(old, 1);
    statistics.ended(old, ok(1));
    assert_eq!(statistics.late(), 3);
    let series = series(&statistics, key(2, Role::Server, 2)).unwrap();
    assert_eq!((series.ended(), series.sent.count, series.first_message.count()), (0, 0, 0));
    assert_eq!(*statistics.calls(), CallsByCoverage::default());

    statistics.ended(SeriesId(u32::MAX - 1), ok(1));
    assert_eq!(statistics.late(), 4, "an id that was never given out");
}

#[test]
fn a_slot_is_not_used_beyond_its_last_generation() {
    let mut statistics = statistics();
    let mut ids = BTreeSet::new();
    for process in 1..=LAST_GENERATION + 3 {
        let id = statistics.started(key(process, Role::Server, 2));
        assert!(ids.insert(id), "{id:?} was given out before");
        statistics.forget_process(ProcessId(process));
    }
    let slots = ids.iter().map(|id| slot_of(*id)).collect::<BTreeSet<_>>();
    assert_eq!(slots.len(), 2);
    for id in ids {
        statistics.ended(id, ok(1));
    }
    assert_eq!(statistics.late(), u64::from(LAST_GENERATION) + 3);
}

#[test]
fn connections_open_and_close() {
    let mut statistics = statistics();
    statistics.connection_opened(ProcessId(1), Role::Client);
    statistics.connection_opened(ProcessId(1), Role::Client);
    statistics.connection_closed(ProcessId(1), Role::Client);
    statistics.connection_closed(ProcessId(1), Role::Server);
    let connections: Vec<_> = statistics.connections().collect();
    assert_eq!(connections, [(ProcessId(1), Role::Client, 1)]);
    for _ in 0..2 {
        statistics.connection_closed(ProcessId(1), Role::Client);
    }
    assert_eq!(statistics.connections().next(), Some((ProcessId(1), Role::Client, 0)));
}

#[test]
fn different_buckets_do_not_merge() {
    let mut merged = Statistics::new(Buckets::default(), Limits::default());
    let mut worker = statistics();
    worker.started(server(2));
    assert_eq!(merged.merge(&worker), Err(RecordingsDiffer));
    assert!(merged.is_empty());
}

#[test]
fn merging_adds_up_beyond_the_bounds_of_one_worker() {
    let mut first = with_limits(1, 1000);
    let mut second = with_limits(1, 1000);
    first.started(server(2));
    first.started(server(3));
    second.started(server(4));
    first.merge(&second).unwrap();
    assert_eq!(first.len(), 3);
    assert!(series(&first, server(4)).is_some());
    assert_eq!(first.overflow(), 1);
}

/// Something that happens to the calls of one process, role and path.
#[derive(Clone, Copy, Debug)]
enum Event {
    Started,
    Joined,
    Messages(Direction, u64, u64),
    SecondMessage(Direction),
    FirstMessage(u64),
    Ended(Ended),
    Opened,
    Closed,
}

fn event() -> impl Strategy<Value = Event> {
    let direction = prop_oneof![Just(Direction::Sent), Just(Direction::Received)];
    let code = proptest::option::of(0..17_u32).prop_map(|n| n.map(Code::from_number));
    let count = || proptest::option::of(0..3_u64);
    let ended = (code, proptest::option::of(0..20_000_000_u64), count(), count(), any::<bool>());
    let ended =
        ended.prop_map(|(code, elapsed_ns, request_messages, response_messages, half_closed)| {
            Event::Ended(Ended {
                code,
                elapsed_ns,
                request_messages,
                response_messages,
                half_closed,
                coverage: Coverage::Gaps,
                ..Ended::default()
            })
        });
    prop_oneof![
        3 => Just(Event::Started),
        1 => Just(Event::Joined),
        2 => (direction.clone(), 0..4_u64, 0..100_u64).prop_map(|(direction, n, b)| Event::Messages(direction, n, b)),
        1 => direction.clone().prop_map(Event::SecondMessage),
        1 => (0..20_000_000_u64).prop_map(Event::FirstMessage),
        3 => ended,
        1 => Just(Event::Opened),
        1 => Just(Event::Closed),
    ]
}

fn call_key() -> impl Strategy<Value = CallKey> {
    let role = prop_oneof![Just(Role::Client), Just(Role::Server)];
    (1..4_u32, role, 0..5_u32).prop_map(|(process, role, path)| key(process, role, path))
}

fn apply(statistics: &mut Statistics, key: CallKey, event: Event) {
    let id = statistics.ids.get(&key).copied().unwrap_or_else(|| statistics.add(key));
    match event {
        Event::Started => drop(statistics.started(key)),
        Event::Joined => drop(statistics.joined(key)),
        Event::Messages(direction, count, bytes) => {
            statistics.messages(id, direction, count, bytes);
        }
        Event::SecondMessage(direction) => statistics.second_message(id, direction),
        Event::FirstMessage(elapsed_ns) => statistics.first_message(id, elapsed_ns),
        Event::Ended(ended) => statistics.ended(id, ended),
        Event::Opened => statistics.connection_opened(key.process, key.role),
        Event::Closed => statistics.connection_closed(key.process, key.role),
    }
}

proptest! {
    /// Which worker saw what makes no difference to the sum.
    #[test]
    fn merging_workers_is_having_been_one(
        events in proptest::collection::vec((call_key(), event(), 0..3_usize), 0..200),
    ) {
        let mut one = statistics();
        let mut workers = [statistics(), statistics(), statistics()];
        for &(key, event, worker) in &events {
            apply(&mut one, key, event);
            let worker = match event {
                // A close must meet its open.
                Event::Opened | Event::Closed => key.process.0 as usize % 3,
                _ => worker,
            };
            apply(&mut workers[worker], key, event);
        }
        let mut merged = statistics();
        for worker in &workers {
            merged.merge(worker).unwrap();
        }
        let sorted = |statistics: &Statistics| {
            let mut all: Vec<(CallKey, Series)> =
                statistics.series().map(|(key, series)| (key, series.clone())).collect();
            all.sort_by_key(|(key, _)| *key);
            let mut connections: Vec<_> = statistics.connections().collect();
            connections.sort_unstable();
            (all, connections, *statistics.calls(), statistics.overflow(), statistics.late())
        };
        prop_assert_eq!(sorted(&merged), sorted(&one));
        prop_assert_eq!(merged.types(), one.types());
    }
}

#[test]
fn a_process_of_many_methods_leaves_room_for_others() {
    let mut statistics = with_limits(1000, 1000);
    let named = |statistics: &mut Statistics, first: u32, names: u32, paths: u32| {
        statistics.set_owner(ProcessId(first));
        for name in first..first + names {
            for path in 2..paths + 2 {
                statistics.started(key(name, Role::Server, path));
            }
        }
        let own = |key: &CallKey| (first..first + names).contains(&key.process.0);
        statistics.series().filter(|(key, _)| own(key) && key.path != PathId::OTHER).count()
    };
    // Under ten names, one share.
    assert_eq!(named(&mut statistics, 1, 10, 900), 200);
    // And one for the other methods of each name.
    assert_eq!((statistics.len(), statistics.overflow()), (200 + 10, 9000 - 200));
    assert_eq!(named(&mut statistics, 20, 1, 50), 50);
    for process in 1..=10 {
        statistics.forget_process(ProcessId(process));
    }
    assert_eq!(named(&mut statistics, 30, 1, 900), 190);
    statistics.stop(true);
    assert_eq!(named(&mut statistics, 40, 1, 10), 0);
    statistics.stop(false);
    assert_eq!(named(&mut statistics, 40, 1, 10), 10);
}

#[test]
fn a_successor_inherits_no_more_methods_than_it_may_have() {
    let limits = Limits { max_methods: 2, ..Limits::default() };
    let mut statistics = Statistics::new(Buckets::default(), limits);
    for (process, path) in [(1, 2), (1, 3), (2, 3), (2, 4)] {
        let id = statistics.started(key(process, Role::Server, path));
        statistics.ended(id, ok(1));
    }
    statistics.merge_into_successor(ProcessId(1), ProcessId(2));
    let mut started: Vec<_> = statistics
        .series()
        .map(|(key, series)| (key.process.0, key.path.0, series.ended()))
        .collect();
    started.sort_unstable();
    assert_eq!(started, [(2, PathId::OTHER.0, 1), (2, 3, 2), (2, 4, 1)]);
    assert_eq!(statistics.overflow(), 1);
}
