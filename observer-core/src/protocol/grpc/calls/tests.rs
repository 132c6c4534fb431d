//! The rules of [`rules`](super::super::rules), through the whole life of calls, for both roles.

use super::{Calls, MAX_OPEN, pending::MAX_PENDING};
use crate::{
    call::{
        CallKey, CallProtocol, CallSink, Code, Direction, Ended, Relatives, Role, SeriesId, TraceId,
    },
    names::{ParentId, PathId},
    process::ProcessId,
    protocol::{
        Streams, Transfer,
        grpc::Headers,
        hpack::{ContentType, TraceParent},
    },
    record::{Closed, Data, Waited},
};

const MS: u64 = 1_000_000;
const PATH: PathId = PathId(7);
const BOTH: [Role; 2] = [Role::Client, Role::Server];

const NO_ERROR: u32 = 0x0;
const REFUSED_STREAM: u32 = 0x7;
const CANCEL: u32 = 0x8;

/// Events of the calls, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Started(CallKey),
    Messages(u32, Direction, u64, u64),
    FirstMessage(u32, u64),
    Ended(u32, Ended),
}

/// A sink that numbers the calls and records their events.
#[derive(Debug, Default)]
struct Recorder {
    events: Vec<Event>,
    calls: u32,
    after_last: Vec<(Direction, u64, u64)>,
    second: Vec<(u32, Direction)>,
}

impl CallSink for Recorder {
    fn started(&mut self, key: CallKey) -> SeriesId {
        self.events.push(Event::Started(key));
        self.calls += 1;
        SeriesId(self.calls - 1)
    }

    fn joined(&mut self, key: CallKey) -> SeriesId {
        panic!("{key:?}: nothing is joined late here")
    }

    fn messages(&mut self, series: SeriesId, direction: Direction, count: u64, bytes: u64) {
        self.events.push(Event::Messages(series.0, direction, count, bytes));
    }

    fn second_message(&mut self, series: SeriesId, direction: Direction) {
        self.second.push((series.0, direction));
    }

    fn after_last_message(
        &mut self,
        _: SeriesId,
        direction: Direction,
        count: u64,
        elapsed_ns: u64,
    ) {
        self.after_last.push((direction, count, elapsed_ns));
    }

    fn first_message(&mut self, series: SeriesId, elapsed_ns: u64) {
        self.events.push(Event::FirstMessage(series.0, elapsed_ns));
    }

    fn ended(&mut self, series: SeriesId, ended: Ended) {
        self.events.push(Event::Ended(series.0, ended));
    }
}

/// The calls of one connection, and a clock.
struct Fixture {
    calls: Calls,
    sink: Recorder,
    role: Role,
    at: Transfer,
}

impl Fixture {
    fn new(role: Role) -> Self {
        Self {
            calls: Calls::new(role),
            sink: Recorder::default(),
            role,
            at: Transfer {
                time_ns: 5_000 * MS,
                process: ProcessId(1),
                direction: Direction::Sent,
                waited: Waited::default(),
                stall_free_since_ns: 0,
                relatives: Relatives::default(),
            },
        }
    }

    /// The calls of a connection with an open one on stream 1.
    fn begun(role: Role) -> Self {
        let mut fixture = Self::new(role);
        fixture.request(1, &grpc(), false);
        fixture
    }

    fn to_server(&self) -> Direction {
        self.role.request_direction()
    }

    fn to_client(&self) -> Direction {
        self.to_server().opposite()
    }

    fn at(&self, direction: Direction) -> Transfer {
        Transfer { direction, ..self.at }
    }

    fn wait(&mut self, ms: u64) -> &mut Self {
        self.at.time_ns += ms * MS;
        self
    }

    fn request(&mut self, stream: u32, headers: &Headers, end_stream: bool) -> &mut Self {
        let at = self.at(self.to_server());
        self.calls.headers(at, stream, headers, end_stream, &mut self.sink);
        self
    }

    fn response(&mut self, stream: u32, headers: &Headers, end_stream: bool) -> &mut Self {
        let at = self.at(self.to_client());
        self.calls.headers(at, stream, headers, end_stream, &mut self.sink);
        self
    }

    fn request_data(&mut self, stream: u32, messages: u64, end_stream: bool) -> &mut Self {
        self.data(self.to_server(), data(stream, messages, end_stream))
    }

    fn response_data(&mut self, stream: u32, messages: u64, end_stream: bool) -> &mut Self {
        self.data(self.to_client(), data(stream, messages, end_stream))
    }

    fn data(&mut self, direction: Direction, data: Data) -> &mut Self {
        self.calls.data(self.at(direction), &data, &mut self.sink);
        self
    }

    fn client_resets(&mut self, stream: u32, error: u32) -> &mut Self {
        self.calls.reset(self.at(self.to_server()), stream, error, &mut self.sink);
        self
    }

    fn server_resets(&mut self, stream: u32, error: u32) -> &mut Self {
        self.calls.reset(self.at(self.to_client()), stream, error, &mut self.sink);
        self
    }

    fn server_goes_away(&mut self, last_stream: u32) -> &mut Self {
        self.calls.go_away(self.at(self.to_client()), last_stream, &mut self.sink);
        self
    }

    fn replay_pending(&mut self) -> &mut Self {
        self.calls.replay_pending(&mut self.sink);
        self
    }

    fn client_closes(&mut self) -> &mut Self {
        self.close(Some(self.to_server()))
    }

    fn server_closes(&mut self) -> &mut Self {
        self.close(Some(self.to_client()))
    }

    fn close(&mut self, by: Option<Direction>) -> &mut Self {
        self.ends_with(Closed { by, ..Closed::default() })
    }

    fn ends_with(&mut self, closed: Closed) -> &mut Self {
        let Transfer { time_ns, stall_free_since_ns, .. } = self.at;
        self.calls.closed(time_ns, closed, stall_free_since_ns, &mut self.sink);
        self
    }

    /// A gap in one of the directions, with an end.
    fn gap(&mut self, direction: Direction) -> &mut Self {
        self.calls.gap(direction);
        self.calls.gap_ended(direction);
        self
    }

    /// The calls that ended and their codes, in order.
    fn codes(&self) -> Vec<(u32, Option<Code>)> {
        self.ends().into_iter().map(|(call, ended)| (call, ended.code)).collect()
    }

    fn ends(&self) -> Vec<(u32, Ended)> {
        let end = |event: &Event| match *event {
            Event::Ended(call, ended) => Some((call, ended)),
            _ => None,
        };
        self.sink.events.iter().filter_map(end).collect()
    }

    /// The only call's end, which must have come.
    fn end(&self) -> Ended {
        let ends = self.ends();
        assert_eq!(ends.len(), 1, "{:?}: {ends:?}", self.role);
        assert_eq!(self.calls.open(), 0);
        ends[0].1
    }
}

/// Request headers of a gRPC call.
fn grpc() -> Headers {
    let content_type = Some(ContentType::Grpc);
    Headers { path: Some(PATH), content_type, ..Headers::default() }
}

fn with_timeout(ms: u64) -> Headers {
    Headers { timeout_ns: Some(ms * MS), ..grpc() }
}

fn status(status: u16) -> Headers {
    Headers { status: Some(status), ..Headers::default() }
}

fn trailers(code: u32) -> Headers {
    Headers { grpc_status: Some(Some(code)), ..Headers::default() }
}

fn data(stream: u32, messages: u64, end_stream: bool) -> Data {
    Data { stream, messages, message_bytes: 10 * messages, end_stream, unaligned: false }
}

/// One row of the table of rules: a name, the events of an open call, and the code it ends with.
type Row = (&'static str, Happens, Option<Code>);

/// An event of a call.
type Happens = fn(&mut Fixture) -> &mut Fixture;

fn check(role: Role, rows: &[Row]) {
    for (name, happens, code) in rows {
        let mut fixture = Fixture::begun(role);
        happens(&mut fixture);
        assert_eq!(fixture.codes(), [(0, *code)], "{role:?}: {name}");
        assert_eq!(fixture.calls.open(), 0, "{role:?}: {name}");
    }
}

#[test]
fn a_clients_messages_are_timed_each_way() {
    let mut client = Fixture::begun(Role::Client);
    client.wait(2).request_data(1, 1, false).wait(3).request_data(1, 2, true);
    client.response(1, &status(200), false).wait(4).response_data(1, 1, false);
    client.gap(Direction::Received).response_data(1, 1, false);
    let (sent, received) = (Direction::Sent, Direction::Received);
    assert_eq!(
        client.sink.after_last,
        [(sent, 1, 2 * MS), (sent, 2, 3 * MS), (received, 1, 9 * MS)],
        "not after bytes that were not seen"
    );
    let mut server = Fixture::begun(Role::Server);
    server.request_data(1, 1, true).response_data(1, 1, false);
    assert_eq!(server.sink.after_last, []);
}

#[test]
fn a_call_belongs_to_the_trace_of_its_request() {
    for role in BOTH {
        let mut fixture = Fixture::new(role);
        let of = |number| TraceParent {
            trace: TraceId([number; 16]),
            parent: ParentId::default(),
            is_sampled: true,
        };
        fixture.request(1, &Headers { trace: Some(Some(of(7))), ..grpc() }, true);
        let other = Some(Some(of(8)));
        fixture.response(1, &Headers { trace: other, status: Some(200), ..trailers(0) }, true);
        assert_eq!(fixture.end().trace, Some(TraceId([7; 16])));
        let mut fixture = Fixture::new(role);
        let not_recorded = TraceParent { is_sampled: false, ..of(7) };
        fixture.request(3, &Headers { trace: Some(Some(not_recorded)), ..grpc() }, true);
        fixture.response(3, &Headers { status: Some(200), ..trailers(0) }, true);
        assert_eq!((fixture.end().trace, fixture.end().stream), (None, 3));
    }
}

#[test]
fn each_rule_ends_a_call() {
    const ROWS: &[Row] = &[
        (
            "trailers after a message",
            |f| {
                f.response(1, &status(200), false).response_data(1, 1, false).response(
                    1,
                    &trailers(5),
                    true,
                )
            },
            Some(Code::NotFound),
        ),
        (
            "trailers-only",
            |f| f.response(1, &Headers { status: Some(200), ..trailers(7) }, true),
            Some(Code::PermissionDenied),
        ),
        (
            "trailers-only whose HTTP status says something else",
            |f| f.response(1, &Headers { status: Some(503), ..trailers(0) }, true),
            Some(Code::Ok),
        ),
        (
            "a status number that gRPC does not have",
            |f| f.response(1, &status(200), false).response(1, &trailers(99), true),
            Some(Code::Unknown),
        ),
        (
            "a status that is no number",
            |f| f.response(1, &Headers { grpc_status: Some(None), ..Headers::default() }, true),
            Some(Code::Unknown),
        ),
        (
            "trailers without a status",
            |f| f.response(1, &status(200), false).response(1, &Headers::default(), true),
            Some(Code::Unknown),
        ),
        (
            "headers only, without a status: the HTTP status",
            |f| f.response(1, &status(404), true),
            Some(Code::Unimplemented),
        ),
        (
            "the stream ends with DATA: the HTTP status",
            |f| f.response(1, &status(503), false).response_data(1, 0, true),
            Some(Code::Unavailable),
        ),
        (
            "the first HTTP status counts, not one of the trailers",
            |f| f.response(1, &status(401), false).response(1, &status(200), true),
            Some(Code::Unauthenticated),
        ),
        (
            "headers in the middle of a response are no other response",
            |f| {
                f.response(1, &status(429), false)
                    .response(1, &status(200), false)
                    .response_data(1, 0, true)
            },
            Some(Code::Unavailable),
        ),
        (
            "informational headers are no response",
            |f| {
                f.response(1, &status(103), false)
                    .response(1, &status(429), false)
                    .response_data(1, 0, true)
            },
            Some(Code::Unavailable),
        ),
        (
            "status fields that could not be decoded",
            |f| {
                let unknown = Headers { incomplete: true, ..Headers::default() };
                f.response(1, &status(200), false).response(1, &unknown, true)
            },
            None,
        ),
        (
            "the status was decoded, other fields were not",
            |f| f.response(1, &Headers { incomplete: true, ..trailers(3) }, true),
            Some(Code::InvalidArgument),
        ),
        (
            "the stream ends with DATA, and the response headers were not decoded",
            |f| {
                let unknown = Headers { incomplete: true, ..Headers::default() };
                f.response(1, &unknown, false).response_data(1, 1, true)
            },
            None,
        ),
        ("reset by the client", |f| f.client_resets(1, CANCEL), Some(Code::Canceled)),
        ("reset by the server", |f| f.server_resets(1, CANCEL), Some(Code::Canceled)),
        (
            "reset by a client that says something else",
            |f| f.client_resets(1, REFUSED_STREAM),
            Some(Code::Canceled),
        ),
        ("… or nothing", |f| f.client_resets(1, NO_ERROR), Some(Code::Canceled)),
        ("refused", |f| f.server_resets(1, REFUSED_STREAM), Some(Code::Unavailable)),
        ("reset without an error", |f| f.server_resets(1, NO_ERROR), Some(Code::Internal)),
        (
            "reset after messages, before the trailers",
            |f| f.response(1, &status(200), false).response_data(1, 3, false).server_resets(1, 0xb),
            Some(Code::ResourceExhausted),
        ),
        ("refused by GOAWAY", |f| f.server_goes_away(0), Some(Code::Unavailable)),
        ("closed by the client", |f| f.client_closes(), Some(Code::Canceled)),
        ("closed by the server", |f| f.server_closes(), Some(Code::Unavailable)),
        ("closed, not known by which end", |f| f.close(None), None),
    ];
    for role in BOTH {
        check(role, ROWS);
    }
}

#[test]
fn a_deadline_is_a_reset_with_cancel_after_the_timeout() {
    for role in BOTH {
        for (timeout_ms, after_ms, error, code) in [
            (300, 301, CANCEL, Some(Code::DeadlineExceeded)),
            (300, 300, CANCEL, Some(Code::CanceledOrDeadlineExceeded)),
            (300, 292, CANCEL, Some(Code::CanceledOrDeadlineExceeded)),
            (300, 291, CANCEL, Some(Code::Canceled)),
            (300, 0, CANCEL, Some(Code::CanceledOrDeadlineExceeded)),
            (10_000, 9_900, CANCEL, Some(Code::CanceledOrDeadlineExceeded)),
            (300, 280, REFUSED_STREAM, Some(Code::Canceled)),
            (300, 400, REFUSED_STREAM, Some(Code::DeadlineExceeded)),
        ] {
            let mut fixture = Fixture::new(role);
            fixture.request(1, &with_timeout(timeout_ms), true).wait(after_ms);
            fixture.client_resets(1, error);
            assert_eq!(fixture.end().code, code, "{after_ms} of {timeout_ms} ms");
        }
        let mut fixture = Fixture::begun(role);
        fixture.wait(1_000_000).client_resets(1, CANCEL);
        assert_eq!(fixture.end().code, Some(Code::Canceled), "without a timeout");

        let mut fixture = Fixture::new(role);
        fixture.request(1, &Headers { incomplete: true, ..grpc() }, true).client_resets(1, CANCEL);
        let ended = fixture.end();
        let either = Some(Code::CanceledOrDeadlineExceeded);
        assert_eq!(ended.code, either, "there may be one that was not decoded");
        assert!(ended.elapsed_ns.is_some());
    }
}

#[test]
fn a_server_that_leaves_bytes_unread_does_not_know_when_its_client_gave_up() {
    let end = |role: Role, unread, after_ms| {
        let mut fixture = Fixture::new(role);
        fixture.request(1, &with_timeout(300), true).wait(after_ms);
        let by = Some(fixture.to_server());
        fixture.ends_with(Closed { by, unread, ..Closed::default() }).end().code
    };
    for role in BOTH {
        assert_eq!(end(role, false, 301), Some(Code::DeadlineExceeded));
        for unread in [false, true] {
            assert_eq!(end(role, unread, 291), Some(Code::Canceled));
        }
    }
    assert_eq!(end(Role::Server, true, 301), Some(Code::CanceledOrDeadlineExceeded));
    assert_eq!(end(Role::Client, true, 301), Some(Code::DeadlineExceeded));
}

#[test]
fn whatever_follows_the_end_changes_nothing() {
    for role in BOTH {
        let mut fixture = Fixture::begun(role);
        fixture.response(1, &trailers(0), true);
        let events = fixture.sink.events.clone();
        fixture
            .server_resets(1, NO_ERROR)
            .client_resets(1, CANCEL)
            .request_data(1, 2, true)
            .response_data(1, 1, true)
            .response(1, &trailers(13), true)
            .request(1, &grpc(), true)
            .server_goes_away(0)
            .client_closes();
        assert_eq!(fixture.sink.events, events, "{role:?}");
        assert_eq!(fixture.calls.streams.measured, 1);
    }
}

#[test]
fn messages_are_counted_both_ways_and_the_first_response_is_timed() {
    for role in BOTH {
        let mut fixture = Fixture::begun(role);
        fixture
            .wait(1)
            .request_data(1, 1, false)
            .request_data(1, 0, true)
            .response(1, &status(200), false)
            .wait(2)
            .response_data(1, 2, false)
            .wait(3)
            .response_data(1, 1, false)
            .response(1, &trailers(0), true);
        let key = CallKey { protocol: CallProtocol::Grpc, process: ProcessId(1), role, path: PATH };
        let (to_server, to_client) = (fixture.to_server(), fixture.to_client());
        let ended = Ended {
            response_messages: Some(3),
            request_bytes: Some(10),
            response_bytes: Some(30),
            stream: 1,
            ..Ended::unary(Some(Code::Ok), 6 * MS)
        };
        let want = [
            Event::Started(key),
            Event::Messages(0, to_server, 1, 10),
            Event::Messages(0, to_client, 2, 20),
            Event::FirstMessage(0, 3 * MS),
            Event::Messages(0, to_client, 1, 10),
            Event::Ended(0, ended),
        ];
        assert_eq!(fixture.sink.events, want, "{role:?}");
    }
}

#[test]
fn the_client_half_closes_with_headers_data_or_trailers() {
    for role in BOTH {
        let half_closed = |happens: Happens| {
            let mut fixture = Fixture::new(role);
            happens(&mut fixture);
            fixture.response(1, &trailers(0), true).end().half_closed
        };
        assert!(!half_closed(|f| f.request(1, &grpc(), false)));
        assert!(half_closed(|f| f.request(1, &grpc(), true)));
        assert!(!half_closed(|f| f.request(1, &grpc(), false).request_data(1, 1, false)));
        assert!(half_closed(|f| f.request(1, &grpc(), false).request_data(1, 1, true)));
        let client_trailers: Happens =
            |f| f.request(1, &grpc(), false).request(1, &Headers::default(), true);
        assert!(half_closed(client_trailers));
    }
}

/// A client may read the answer in another thread before its own write has returned.
#[test]
fn an_answer_may_come_before_its_request() {
    let mut fixture = Fixture::new(Role::Client);
    fixture.response(1, &status(200), false).response_data(1, 1, false);
    fixture.response(1, &trailers(0), true);
    assert_eq!(fixture.sink.events, []);
    // In one write.
    fixture.request(1, &grpc(), false).request_data(1, 1, true).replay_pending();
    assert_eq!(fixture.codes(), [(0, Some(Code::Ok))]);
    let ended = fixture.end();
    assert_eq!((ended.request_messages, ended.response_messages), (Some(1), Some(1)));
    assert!(ended.half_closed);
    for direction in [Direction::Sent, Direction::Received] {
        assert!(
            fixture.sink.events.contains(&Event::Messages(0, direction, 1, 10)),
            "{direction:?}"
        );
    }
    assert_eq!(fixture.calls.open(), 0);
}

#[test]
fn answers_may_come_before_several_requests_of_one_write() {
    let mut fixture = Fixture::new(Role::Client);
    fixture.calls.agree(&mut fixture.sink);
    for stream in [1, 3, 5] {
        fixture.response(stream, &status(200), false).response(stream, &trailers(0), true);
    }
    for stream in [1, 3, 5] {
        fixture.request(stream, &grpc(), true);
    }
    fixture.replay_pending();
    assert_eq!(fixture.codes(), [0, 1, 2].map(|call| (call, Some(Code::Ok))));
    assert_eq!((fixture.calls.open(), fixture.calls.pending.len()), (0, 0));
}

#[test]
fn a_reset_may_come_before_its_request() {
    let mut fixture = Fixture::new(Role::Client);
    fixture.server_resets(1, REFUSED_STREAM);
    let held = fixture.calls.memory();
    assert!(held > 0, "what is kept counts");
    fixture.request(1, &grpc(), true).replay_pending();
    assert_eq!(fixture.codes(), [(0, Some(Code::Unavailable))]);
    assert_eq!((fixture.calls.open(), fixture.calls.pending.len()), (0, 0));
    // A reset of a stream that has ended is not kept.
    fixture.server_resets(1, REFUSED_STREAM).replay_pending();
    assert_eq!(fixture.calls.pending.len(), 0);
}

#[test]
fn responses_without_a_request_are_kept_and_bounded() {
    let mut fixture = Fixture::new(Role::Client);
    for stream in (1..).step_by(2).take(10_000) {
        fixture.response(stream, &trailers(0), true);
    }
    assert!(fixture.calls.pending.len() <= MAX_PENDING);
    fixture.request(99_999, &grpc(), false);
    assert_eq!((fixture.codes().len(), fixture.calls.pending.len()), (0, 0), "they began nothing");
}

#[test]
fn a_second_message_is_reported_once_for_each_direction() {
    for role in BOTH {
        let mut fixture = Fixture::new(role);
        let (to_server, to_client) = (fixture.to_server(), fixture.to_client());
        fixture.request(1, &grpc(), false).request_data(1, 1, false);
        assert_eq!(fixture.sink.second, []);
        fixture.request_data(1, 1, false).request_data(1, 5, true).response_data(1, 3, false);
        fixture.response_data(1, 1, false);
        assert_eq!(fixture.sink.second, [(0, to_server), (0, to_client)]);
        // Also if a stream turns out to be a call only later.
        let mut fixture = Fixture::new(role);
        let unclear = Headers { incomplete: true, ..Headers::default() };
        fixture.request(1, &unclear, false).request_data(1, 2, true);
        assert_eq!(fixture.sink.second, []);
        fixture.request(3, &grpc(), false);
        assert_eq!(fixture.sink.second, [(0, to_server)]);
    }
}

#[test]
fn streams_begin_once_and_ascend() {
    for role in BOTH {
        let mut fixture = Fixture::new(role);
        fixture
            .request(2, &grpc(), false)
            .request(0, &grpc(), false)
            .request(5, &grpc(), false)
            .request(5, &grpc(), false)
            .request(3, &grpc(), false)
            .request(7, &grpc(), false);
        assert_eq!(fixture.calls.open(), 2);
        assert_eq!(fixture.calls.streams, Streams { measured: 2, ..Streams::default() });
        fixture.response(5, &trailers(0), true).request(5, &grpc(), false);
        assert_eq!(fixture.calls.open(), 1, "an identifier is not used again");
        fixture.response(2, &trailers(0), true).response(3, &trailers(0), true);
        assert_eq!(fixture.codes().len(), 1, "what was not begun does not end");
    }
}

#[test]
fn a_call_belongs_to_the_process_that_saw_its_headers() {
    for role in BOTH {
        let mut fixture = Fixture::begun(role);
        fixture.at.process = ProcessId(2);
        fixture.request(3, &Headers { path: None, incomplete: true, ..grpc() }, false);
        fixture.response(1, &trailers(0), true);
        let first =
            CallKey { protocol: CallProtocol::Grpc, process: ProcessId(1), role, path: PATH };
        let second = CallKey {
            protocol: CallProtocol::Grpc,
            process: ProcessId(2),
            role,
            path: PathId::NOT_SEEN,
        };
        assert_eq!(fixture.sink.events[..2], [Event::Started(first), Event::Started(second)]);
        assert_eq!(fixture.codes(), [(0, Some(Code::Ok))]);
    }
}

#[test]
fn streams_that_are_not_grpc_are_counted_and_not_measured() {
    let with = |content_type, incomplete| Headers { content_type, incomplete, ..grpc() };
    for role in BOTH {
        for (headers, measured) in [
            (with(Some(ContentType::Grpc), false), true),
            (with(Some(ContentType::Other), false), false),
            (with(Some(ContentType::Other), true), false),
            (with(None, false), false),
        ] {
            let mut fixture = Fixture::new(role);
            fixture.request(1, &headers, false);
            let Streams { measured: calls, not_grpc, too_many, .. } = fixture.calls.streams;
            let want = (u64::from(measured), u64::from(!measured), 0);
            assert_eq!((calls, not_grpc, too_many), want, "{headers:?}");
            fixture.request_data(1, 1, true).response_data(1, 1, true);
            assert_eq!(fixture.codes().len(), usize::from(measured), "{headers:?}");
            assert_eq!(fixture.sink.events.is_empty(), !measured);
        }
    }
}

#[test]
fn more_than_the_bound_are_counted_and_not_measured() {
    let mut fixture = Fixture::new(Role::Server);
    let stream = |call: usize| 2 * call as u32 + 1;
    for call in 0..MAX_OPEN {
        fixture.request(stream(call), &grpc(), false);
    }
    fixture.request(stream(MAX_OPEN), &grpc(), false);
    assert_eq!((fixture.calls.open(), fixture.calls.streams.too_many), (MAX_OPEN, 1));
    fixture.response(stream(MAX_OPEN), &trailers(0), true);
    assert_eq!(fixture.codes(), []);
    fixture.response(1, &trailers(0), true).request(stream(MAX_OPEN + 1), &grpc(), false);
    assert_eq!((fixture.calls.open(), fixture.calls.streams.too_many), (MAX_OPEN, 1));
    fixture.client_closes();
    assert_eq!((fixture.calls.open(), fixture.codes().len()), (0, MAX_OPEN + 1));
}

#[test]
fn go_away_ends_the_calls_above_it() {
    for role in BOTH {
        let mut fixture = Fixture::begun(role);
        fixture.request(3, &grpc(), false).request(5, &grpc(), false);
        fixture.server_goes_away(0x7fff_ffff);
        assert_eq!(fixture.codes(), [], "a warning only");
        let to_server = fixture.to_server();
        fixture.calls.go_away(fixture.at(to_server), 0, &mut fixture.sink);
        assert_eq!(fixture.codes(), [], "the client's is about streams of the server");
        fixture.server_goes_away(3);
        assert_eq!(fixture.codes(), [(2, Some(Code::Unavailable))]);
        fixture.request(7, &grpc(), true);
        let crossed = (3, Some(Code::Unavailable));
        assert_eq!(fixture.codes()[1..], [crossed], "it was on its way when the server said so");
        fixture.response(1, &trailers(0), true).response(3, &trailers(5), true);
        assert_eq!(fixture.codes()[2..], [(0, Some(Code::Ok)), (1, Some(Code::NotFound))]);
        assert_eq!(fixture.calls.open(), 0);
    }
}

#[test]
fn a_close_ends_what_is_open_in_the_order_of_the_streams() {
    let mut fixture = Fixture::begun(Role::Client);
    for stream in [3, 5, 7, 9, 11] {
        fixture.request(stream, &grpc(), false);
    }
    fixture.wait(4).server_closes();
    let want: Vec<_> = (0..6).map(|call| (call, Some(Code::Unavailable))).collect();
    assert_eq!(fixture.codes(), want);
    assert!(fixture.ends().iter().all(|(_, ended)| ended.elapsed_ns == Some(4 * MS)));
}

#[test]
fn message_counts_that_may_be_too_low_are_not_reported() {
    let messages = |happens: Happens| {
        let mut fixture = Fixture::begun(Role::Server);
        happens(&mut fixture);
        let ended = fixture.response(1, &trailers(0), true).end();
        assert_eq!(ended.code, Some(Code::Ok), "trailers are trailers");
        assert!(ended.elapsed_ns.is_some());
        (ended.request_messages, ended.response_messages)
    };
    let counted = (Some(1), Some(2));
    assert_eq!(messages(|f| f.request_data(1, 1, true).response_data(1, 2, false)), counted);
    for direction in [Direction::Sent, Direction::Received] {
        let mut fixture = Fixture::begun(Role::Server);
        fixture.gap(direction).response_data(1, 2, false);
        let first =
            fixture.sink.events.iter().find(|event| matches!(event, Event::FirstMessage(..)));
        assert_eq!(first, None, "it may have come before");
        let ended = fixture.response(1, &trailers(0), true).end();
        assert_eq!((ended.request_messages, ended.response_messages), (None, None));
    }
    let unaligned: Happens = |f| {
        let data = Data { unaligned: true, ..data(1, 0, false) };
        f.data(Direction::Received, data)
    };
    assert_eq!(messages(unaligned), (None, None));
    let mut fixture = Fixture::begun(Role::Server);
    fixture.data(Direction::Sent, Data { unaligned: true, ..data(1, 1, false) });
    let first = fixture.sink.events.iter().any(|event| matches!(event, Event::FirstMessage(..)));
    assert!(first, "it came before what is no message");
    let mut before = Fixture::new(Role::Server);
    before.gap(Direction::Received).request(1, &grpc(), true).response(1, &trailers(0), true);
    assert_eq!(before.end().request_messages, Some(0), "the gap was before the call");
}

/// An end that is inferred counts only if no other end can have come before it.
#[test]
fn ends_that_may_not_be_the_first_have_no_code() {
    const CLIENT_RESETS: Happens = |f| f.client_resets(1, CANCEL);
    const SERVER_RESETS: Happens = |f| f.server_resets(1, NO_ERROR);
    const GOES_AWAY: Happens = |f| f.server_goes_away(0);
    const CLOSES: Happens = |f| f.client_closes();
    for role in BOTH {
        // The end, and whether a gap in the client's direction, or in the server's, puts it in doubt.
        for (end, client_gap, server_gap) in [
            (CLIENT_RESETS, false, true),
            (SERVER_RESETS, true, true),
            (GOES_AWAY, true, true),
            (CLOSES, true, true),
        ] {
            for (direction, is_doubtful) in [
                (Fixture::new(role).to_server(), client_gap),
                (Fixture::new(role).to_client(), server_gap),
            ] {
                let mut during = Fixture::begun(role);
                end(during.gap(direction).wait(1));
                let ended = during.end();
                let is_seen = [ended.code.is_some(), ended.elapsed_ns.is_some()];
                assert_eq!(is_seen, [!is_doubtful; 2]);

                let mut before = Fixture::new(role);
                end(before.gap(direction).request(1, &grpc(), true));
                assert!(before.end().code.is_some(), "the gap was before the call");

                let mut blind = Fixture::new(role);
                blind.calls.gap(direction);
                end(blind.request(1, &grpc(), true));
                assert_eq!(blind.end().code.is_none(), is_doubtful, "the gap goes on");
            }
        }
    }
}
