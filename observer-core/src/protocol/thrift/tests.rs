//! The life of calls, for both roles.

use observer_common::{
    record::{ItemHeader, OpenItem, RecordHeader, THRIFT, direction, item_kind, record_kind, role},
    thrift::{first, kind},
};
use proptest::prelude::*;
use zerocopy::IntoBytes as _;

use super::{Connection, MAX_OPEN, PATIENCE_NS};
use crate::{
    call::{CallKey, CallSink, Code, Coverage, Direction, Ended, Relatives, Role, SeriesId},
    names::{Interner, PathId},
    process::ProcessId,
    protocol::{Protocol as _, Transfer},
    record::{Closed, Event, Record, Waited},
};

const MS: u64 = 1_000_000;

/// The calls that have started and ended, by their methods.
#[derive(Default)]
struct Calls {
    started: Vec<PathId>,
    ended: Vec<(PathId, Option<Code>, Option<u64>)>,
    streams: Vec<u32>,
    coverage: Option<Coverage>,
}

impl CallSink for Calls {
    fn started(&mut self, key: CallKey) -> SeriesId {
        self.started.push(key.path);
        SeriesId(key.path.0)
    }

    fn joined(&mut self, key: CallKey) -> SeriesId {
        SeriesId(key.path.0)
    }

    fn messages(&mut self, _: SeriesId, _: Direction, _: u64, _: u64) {}

    fn first_message(&mut self, _: SeriesId, _: u64) {}

    fn ended(&mut self, series: SeriesId, ended: Ended) {
        let Ended { code, elapsed_ns, coverage, stream, .. } = ended;
        self.streams.push(stream);
        self.ended.push((PathId(series.0), code, elapsed_ns));
        self.coverage = Some(coverage);
    }
}

/// A connection, and what records say of it.
struct Talk {
    connection: Connection,
    role: Role,
    interner: Interner,
    calls: Calls,
    now_ns: u64,
    positions: [u64; 2],
}

impl Talk {
    fn new(role: Role) -> Self {
        Self::of(role, Connection::from_start())
    }

    fn of(role: Role, connection: Connection) -> Self {
        let (interner, calls) = (Interner::new(100), Calls::default());
        Self { connection, role, interner, calls, now_ns: 0, positions: [0; 2] }
    }

    fn name(&mut self, name: &str) -> PathId {
        self.interner.intern(name.as_bytes())
    }

    /// A record of one millisecond later, with these items. `gaps`: its flags.
    fn record(&mut self, by_client: bool, items: &[Vec<u8>], gaps: u8) {
        self.now_ns += MS;
        let is_sent = by_client == (self.role == Role::Client);
        let position = &mut self.positions[usize::from(is_sent)];
        let header = RecordHeader {
            position: *position,
            length: 100,
            kind: record_kind::BYTES,
            direction: if is_sent { direction::SENT } else { direction::RECEIVED },
            role: if self.role == Role::Client { role::CLIENT } else { role::SERVER },
            flags: THRIFT | gaps,
            ..RecordHeader::default()
        };
        *position += 100;
        let bytes = [header.as_bytes(), &items.concat()].concat();
        let Some(Record { event: Event::Bytes(bytes), .. }) = Record::parse(&bytes) else {
            panic!("it is a record of bytes")
        };
        let at = Transfer {
            time_ns: self.now_ns,
            process: ProcessId(1),
            direction: bytes.direction,
            waited: Waited::default(),
            stall_free_since_ns: u64::MAX,
            relatives: Relatives::default(),
        };
        self.connection.bytes(at, &bytes, &mut self.interner, &mut self.calls);
    }

    /// A message in one record.
    fn message(&mut self, kind: u8, name: &str, sequence: u32, first: u8) {
        let by_client = matches!(kind, kind::CALL | kind::ONEWAY);
        self.record(by_client, &[begin(kind, name), end(sequence, first)], 0);
    }

    fn call(&mut self, name: &str, sequence: u32) {
        self.message(kind::CALL, name, sequence, first::NOT_SEEN);
    }

    fn reply(&mut self, sequence: u32) {
        self.message(kind::REPLY, "any", sequence, first::RESULT);
    }

    fn gap(&mut self, by_client: bool) {
        let gap = ItemHeader { kind: item_kind::GAP, ..ItemHeader::default() };
        self.record(by_client, &[item(gap, &[])], 0);
    }

    fn close(&mut self, closed: Closed) {
        self.now_ns += MS;
        self.connection.closed(self.now_ns, closed, 0, &mut self.calls);
    }

    /// The ends since the last time: methods, codes, and milliseconds.
    fn ends(&mut self) -> Vec<(PathId, Option<Code>, Option<u64>)> {
        let ended = std::mem::take(&mut self.calls.ended);
        ended.into_iter().map(|(path, code, ns)| (path, code, ns.map(|ns| ns / MS))).collect()
    }
}

fn item(header: ItemHeader, content: &[u8]) -> Vec<u8> {
    let header = ItemHeader { captured: content.len() as u32, ..header };
    let mut bytes = [header.as_bytes(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn begin(kind: u8, name: &str) -> Vec<u8> {
    begin_of(kind, name.len() as u32, name)
}

fn begin_of(kind: u8, length: u32, name: &str) -> Vec<u8> {
    let header =
        ItemHeader { kind: item_kind::MESSAGE, frame_kind: kind, length, ..ItemHeader::default() };
    item(header, name.as_bytes())
}

/// A call's message with its name at this position.
fn begin_at(position: u32, name: &str) -> Vec<u8> {
    let (kind, length) = (item_kind::MESSAGE, name.len() as u32);
    let header = ItemHeader { kind, frame_kind: kind::CALL, length, ..ItemHeader::default() };
    item(ItemHeader { stream: position, ..header }, name.as_bytes())
}

fn part(name: &str) -> Vec<u8> {
    item(ItemHeader { kind: item_kind::PART, ..ItemHeader::default() }, name.as_bytes())
}

fn end(sequence: u32, first: u8) -> Vec<u8> {
    end_of(0, sequence, first)
}

/// The end of a message that shows its kind.
fn end_of(frame_kind: u8, sequence: u32, first: u8) -> Vec<u8> {
    let kind = item_kind::MESSAGE_END;
    let header = ItemHeader { kind, frame_kind, flags: first, ..ItemHeader::default() };
    item(ItemHeader { stream: sequence, ..header }, &[])
}

const BOTH: [Role; 2] = [Role::Client, Role::Server];

#[test]
fn outcomes_by_reply() {
    for role in BOTH {
        let rows = [
            (kind::REPLY, first::RESULT, Some(Code::Ok)),
            (kind::REPLY, first::NONE, Some(Code::Ok)),
            (kind::REPLY, first::EXCEPTION, Some(Code::DeclaredException)),
            (kind::REPLY, first::NOT_SEEN, None),
            (kind::REPLY, 99, None),
            (kind::EXCEPTION, first::NOT_SEEN, Some(Code::ApplicationException)),
        ];
        for (of, first, code) in rows {
            let mut talk = Talk::new(role);
            let add = talk.name("Shop:add");
            talk.call("Shop:add", 7);
            assert_eq!(talk.connection.state().open, 1);
            talk.message(of, "add", 7, first);
            assert_eq!(talk.ends(), [(add, code, Some(1))], "{role:?}, {of}, {first}");
            assert_eq!(
                (&talk.calls.started[..], talk.calls.coverage),
                (&[add][..], Some(Coverage::Complete))
            );
            talk.close(Closed::default());
            assert_eq!(talk.ends(), []);
        }
    }
}

#[test]
fn oneway_calls_end_at_once_and_others_with_the_connection() {
    for role in BOTH {
        let mut talk = Talk::new(role);
        let (note, add) = (talk.name("note"), talk.name("add"));
        talk.call("add", 0);
        talk.message(kind::ONEWAY, "note", 0, first::NOT_SEEN);
        assert_eq!(talk.ends(), [(note, Some(Code::Oneway), None)]);
        talk.close(Closed::default());
        assert_eq!(talk.ends(), [(add, Some(Code::NoReply), Some(2))]);
    }
}

#[test]
fn a_kind_may_be_known_at_the_end_only() {
    for role in BOTH {
        let mut talk = Talk::new(role);
        let (add, note) = (talk.name("add"), talk.name("note"));
        talk.record(true, &[begin(0, "ad")[..8].to_vec()], 0);
        talk.record(true, &[begin(0, "add")], 0);
        assert_eq!(talk.connection.state().open, 0, "it may be anything");
        talk.record(true, &[end_of(kind::CALL, 7, first::NOT_SEEN)], 0);
        assert_eq!(talk.connection.state().open, 1);
        talk.record(true, &[begin(0, "note"), end_of(kind::ONEWAY, 8, first::NOT_SEEN)], 0);
        assert_eq!(talk.ends(), [(note, Some(Code::Oneway), None)]);
        talk.record(false, &[begin(0, "add"), end_of(kind::REPLY, 7, first::RESULT)], 0);
        assert_eq!(talk.ends(), [(add, Some(Code::Ok), Some(3))]);
        // A gap between start and end, a kind that is none, an end without a start.
        talk.record(true, &[begin(0, "add")], 0);
        talk.positions[usize::from(role == Role::Client)] += 1;
        talk.record(true, &[end_of(kind::CALL, 9, first::NOT_SEEN)], 0);
        talk.record(true, &[begin(0, "add"), end_of(0, 9, first::NOT_SEEN)], 0);
        talk.record(true, &[begin(0, "add"), end_of(99, 9, first::NOT_SEEN)], 0);
        assert_eq!((talk.connection.state().open, talk.ends()), (0, vec![]));
        assert_eq!(talk.calls.started, [add, note]);
    }
}

#[test]
fn replies_by_sequence_id_or_by_order() {
    let mut talk = Talk::new(Role::Server);
    let [a, b] = ["a", "b"].map(|name| talk.name(name));
    talk.call("a", 1);
    talk.call("b", 2);
    talk.reply(2);
    talk.reply(1);
    assert_eq!(talk.ends(), [(b, Some(Code::Ok), Some(1)), (a, Some(Code::Ok), Some(3))]);
    talk.call("a", 0);
    talk.call("b", 0);
    talk.reply(0);
    talk.reply(0);
    assert_eq!(talk.ends(), [(a, Some(Code::Ok), Some(2)), (b, Some(Code::Ok), Some(2))]);
}

#[test]
fn a_record_of_a_reply_may_come_before_that_of_its_call() {
    let mut talk = Talk::new(Role::Client);
    let add = talk.name("add");
    talk.reply(3);
    assert_eq!(talk.ends(), []);
    talk.call("add", 3);
    assert_eq!(talk.ends(), [(add, Some(Code::Ok), Some(0))]);
}

#[test]
fn ends_name_the_call_by_its_position() {
    let mut talk = Talk::new(Role::Client);
    talk.record(true, &[begin_at(12, "a"), end(0, 0), begin_at(40, "b"), end(0, 0)], 0);
    talk.record(true, &[begin_at(70, "c"), end(9, 0), begin_at(90, "d"), end(0, 0)], 0);
    talk.reply(9);
    talk.reply(0);
    talk.gap(true);
    talk.close(Closed::default());
    assert_eq!(talk.calls.streams, [70, 12, 40, 90]);
}

#[test]
fn names_may_be_cut() {
    let mut talk = Talk::new(Role::Server);
    let add = talk.name("Shop:add");
    talk.record(true, &[begin_of(kind::CALL, 8, "Sho")], 0);
    talk.record(true, &[part("p:a")], 0);
    talk.record(true, &[part("dd"), end(1, 0)], 0);
    talk.reply(1);
    assert_eq!(talk.ends(), [(add, Some(Code::Ok), Some(3))], "from its first byte on");
    // More than there may be is not a name.
    talk.record(true, &[begin_of(kind::CALL, 4, "a"), part("bcdefg"), end(2, 0)], 0);
    talk.record(true, &[begin_of(kind::CALL, 1 << 20, "a"), end(3, 0), part("b")], 0);
    assert_eq!(talk.calls.started, [add]);
}

#[test]
fn a_call_that_is_open_at_a_gap_is_not_seen_to_end_unless_it_is_answered() {
    for by_client in [false, true] {
        let mut talk = Talk::new(Role::Client);
        let [a, b] = ["a", "b"].map(|name| talk.name(name));
        talk.call("a", 0);
        talk.gap(by_client);
        talk.reply(0);
        assert_eq!(talk.ends(), [(a, Some(Code::Ok), Some(2))], "its reply comes");
        talk.call("a", 0);
        talk.gap(by_client);
        talk.call("b", 0);
        assert_eq!(talk.ends(), [(a, None, None)], "it was answered in the gap");
        talk.reply(0);
        assert_eq!(talk.ends(), [(b, Some(Code::Ok), Some(1))]);
        assert_eq!(talk.calls.coverage, Some(Coverage::Gaps));
        talk.call("a", 5);
        talk.gap(by_client);
        talk.call("b", 6);
        talk.reply(6);
        talk.reply(5);
        assert_eq!(talk.ends(), [(b, Some(Code::Ok), Some(1)), (a, Some(Code::Ok), Some(4))]);
        talk.call("a", 0);
        talk.gap(by_client);
        talk.connection.expire(talk.now_ns + PATIENCE_NS - 1, &mut talk.calls);
        assert_eq!(talk.ends(), []);
        talk.connection.expire(talk.now_ns + PATIENCE_NS, &mut talk.calls);
        assert_eq!(talk.ends(), [(a, None, None)]);
        talk.call("a", 0);
        talk.gap(by_client);
        talk.close(Closed::default());
        assert_eq!(talk.ends(), [(a, None, None)]);
    }
}

#[test]
fn replies_to_calls_that_were_not_seen() {
    let mut talk = Talk::of(Role::Server, Connection::joined_late());
    talk.reply(3);
    assert_eq!(talk.ends(), [(PathId::NOT_SEEN, Some(Code::Ok), None)]);
    assert_eq!(talk.calls.coverage, Some(Coverage::JoinedLate));
    let mut talk = Talk::new(Role::Server);
    let a = talk.name("a");
    talk.call("a", 4);
    talk.positions[0] += 50;
    talk.call("a", 6);
    talk.reply(5);
    talk.reply(6);
    let ok = Some(Code::Ok);
    assert_eq!(talk.ends(), [(PathId::NOT_SEEN, ok, None), (a, ok, Some(2))], "a dropped record");
}

#[test]
fn open_calls_are_bounded_and_replies_keep_their_order() {
    let mut talk = Talk::new(Role::Server);
    for _ in 0..MAX_OPEN {
        talk.call("followed", 0);
    }
    talk.call("too_many", 0);
    let [followed, too_many] = ["followed", "too_many"].map(|name| talk.name(name));
    assert_eq!(talk.ends(), [(too_many, None, None)]);
    talk.reply(0);
    talk.call("too_many", 0);
    assert_eq!(talk.ends().len(), 2, "the first is answered, and this one is behind the others");
    for _ in 0..MAX_OPEN - 1 {
        talk.reply(0);
    }
    assert!(talk.ends().iter().all(|(path, code, _)| (*path, *code) == (followed, Some(Code::Ok))));
    talk.reply(0);
    talk.reply(0);
    assert_eq!(talk.ends(), []);
    talk.call("followed", 0);
    talk.reply(0);
    assert_eq!(talk.ends(), [(followed, Some(Code::Ok), Some(1))]);
}

#[test]
fn forgetting_ends_all_calls_and_frees_memory() {
    let mut talk = Talk::new(Role::Client);
    for _ in 0..100 {
        talk.call("a", 0);
    }
    assert!(talk.connection.memory() > 0);
    talk.connection.forget(talk.now_ns, &mut talk.calls);
    assert_eq!((talk.ends().len(), talk.connection.memory()), (100, 0));
    talk.reply(0);
    assert_eq!(talk.ends(), [(PathId::NOT_SEEN, Some(Code::Ok), None)]);
}

#[test]
fn messages_in_the_wrong_direction_are_not_calls() {
    let mut talk = Talk::new(Role::Server);
    talk.record(false, &[begin(kind::CALL, "a"), end(1, 0)], 0);
    talk.record(true, &[begin(kind::REPLY, "a"), end(1, 2)], 0);
    talk.record(true, &[begin(9, "a"), end(1, 2), end(1, 2), part("a")], 0);
    talk.close(Closed::default());
    assert_eq!((talk.ends(), talk.calls.started.len()), (Vec::new(), 0));
}

proptest! {
    /// Whatever records say, each call that has started ends once.
    #[test]
    fn any_items_end_each_call_once(
        records in prop::collection::vec(
            (any::<bool>(), 0_u8..9, 0_u8..6, 0_u32..3, 0_u8..4),
            0..60,
        ),
    ) {
        let mut talk = Talk::new(Role::Server);
        let mut joined = 0;
        for (by_client, what, kind, sequence, flags) in records {
            let open = OpenItem::default();
            let items = match what {
                0..3 => vec![begin(kind, "add"), end(sequence, flags)],
                3 => vec![begin(kind, "add")],
                4 => vec![end(sequence, flags)],
                5 => vec![begin_of(kind, 5, "add"), part("xy")],
                6 => vec![part("x"), end(sequence, flags)],
                7 => vec![item(ItemHeader { kind: item_kind::GAP, ..ItemHeader::default() }, &[])],
                _ => vec![item(ItemHeader { kind: item_kind::OPEN, ..ItemHeader::default() }, open.as_bytes())],
            };
            talk.record(by_client, &items, flags);
        }
        let open = talk.connection.state().open;
        talk.close(Closed::default());
        for (path, ..) in &talk.calls.ended {
            joined += u64::from(*path == PathId::NOT_SEEN);
        }
        prop_assert!(open <= talk.calls.started.len() as u64);
        prop_assert_eq!(talk.calls.ended.len() as u64, talk.calls.started.len() as u64 + joined);
    }
}
