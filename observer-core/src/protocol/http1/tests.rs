//! Calls over HTTP/1.1, by the bytes of both directions: through the driver of the BPF programs.

use observer_common::record::direction;
use proptest::prelude::*;

use self::drive::Driver;
use super::Connection;
use crate::{
    call::{
        CallKey, CallProtocol, CallSink, Code, Direction, Directions, Ended, Relatives, Role,
        SeriesId,
    },
    names::{Interner, PathId},
    process::ProcessId,
    protocol::{Protocol as _, Transfer},
    record::{Closed, Event, Record},
};

#[path = "../../../../observer-common/src/scanner/tests/drive.rs"]
#[expect(dead_code, reason = "other tests read more with it")]
mod drive;
#[path = "../../../../tests/sim/host.rs"]
mod host;
#[path = "../../../../tests/sim/random.rs"]
#[expect(dead_code, reason = "a simulation asks it more")]
mod random;

#[derive(Default)]
struct Recorder {
    started: Vec<(PathId, CallProtocol)>,
    ended: Vec<(SeriesId, Ended)>,
    messages: [u64; 2],
}

impl CallSink for Recorder {
    fn started(&mut self, key: CallKey) -> SeriesId {
        self.started.push((key.path, key.protocol));
        SeriesId(self.started.len() as u32 - 1)
    }

    fn joined(&mut self, key: CallKey) -> SeriesId {
        self.started(key)
    }

    fn messages(&mut self, _: SeriesId, direction: Direction, count: u64, _: u64) {
        self.messages[usize::from(direction == Direction::Sent)] += count;
    }

    fn first_message(&mut self, _: SeriesId, _: u64) {}

    fn ended(&mut self, series: SeriesId, ended: Ended) {
        self.ended.push((series, ended));
    }
}

/// A server's end of a connection.
struct Fixture {
    driver: Driver,
    connection: Connection,
    interner: Interner,
    sink: Recorder,
    time_ns: u64,
    /// Most bytes of a transfer.
    cut: usize,
}

impl Fixture {
    fn new() -> Self {
        let mut driver = Driver::of_http1(false);
        driver.maps.web = true;
        let mut interner = Interner::new(100);
        interner.cuts_queries = true;
        let connection = Connection::from_start(Role::Server);
        let sink = Recorder::default();
        Self { driver, connection, interner, sink, time_ns: 0, cut: usize::MAX }
    }

    fn transfer(&mut self, way: u8, bytes: &[u8]) {
        for piece in bytes.chunks(self.cut) {
            self.time_ns += 1;
            for record in self.driver.transfer(way, piece) {
                let record = Record::parse(&record).expect("a record");
                let Event::Bytes(bytes) = record.event else { panic!("{record:?}") };
                let at = Transfer {
                    time_ns: self.time_ns,
                    process: ProcessId(1),
                    direction: bytes.direction,
                    waited: bytes.waited,
                    stall_free_since_ns: 0,
                    relatives: Relatives { grpc_web: true, connect: true },
                };
                let faults = self.connection.bytes(at, &bytes, &mut self.interner, &mut self.sink);
                assert_eq!(faults.dropped_bytes, 0);
            }
        }
    }

    fn request(&mut self, bytes: impl AsRef<[u8]>) {
        self.transfer(direction::RECEIVED, bytes.as_ref());
    }

    fn respond(&mut self, bytes: impl AsRef<[u8]>) {
        self.transfer(direction::SENT, bytes.as_ref());
    }

    fn close(&mut self) {
        let gaps = Directions { received: self.driver.refused, sent: self.driver.refused };
        let closed = Closed { by: Some(Direction::Received), gaps, unread: false };
        self.connection.closed(self.time_ns, closed, 0, &mut self.sink);
        assert_eq!(self.connection.state().open, 0);
        assert_eq!(self.sink.started.len(), self.sink.ended.len());
    }

    /// The paths, protocols and codes of calls that ended.
    fn ends(&self) -> Vec<(String, CallProtocol, Option<Code>)> {
        let of = |&(SeriesId(series), ended): &(SeriesId, Ended)| {
            let (path, protocol) = self.sink.started[series as usize];
            let path = self.interner.resolve(path).map_or_else(String::new, ToString::to_string);
            (path, protocol, ended.code)
        };
        self.sink.ended.iter().map(of).collect()
    }
}

/// A message with the length before it.
fn with_length(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("{head}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

/// A message in chunks of this size.
fn in_chunks(head: &str, body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = format!("{head}\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    for chunk in body.chunks(size) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
        bytes.extend([chunk, b"\r\n"].concat());
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

fn prefixed(flags: u8, content: &[u8]) -> Vec<u8> {
    [&[flags][..], &(content.len() as u32).to_be_bytes(), content].concat()
}

const GRPC_WEB: &str =
    "POST /shop.Shop/Buy HTTP/1.1\r\nHost: shop\r\nContent-Type: application/grpc-web+proto";
const UNARY: &str = "POST /shop.Shop/Buy HTTP/1.1\r\ncontent-type: application/proto\r\nConnect-Protocol-Version: 1";
const STREAM: &str = "POST /shop.Shop/Buy HTTP/1.1\r\ncontent-type: application/connect+proto\r\nconnect-protocol-version: 1";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: x/y";

/// A call: the request, the response, and the code.
type Call = (Vec<u8>, Vec<u8>, CallProtocol, Option<Code>);

/// Calls of every kind.
fn calls() -> Vec<Call> {
    use CallProtocol::{Connect, GrpcWeb};
    let web = |trailers: &str| [prefixed(0, b"abc"), prefixed(0x80, trailers.as_bytes())].concat();
    let stream = |end: &str| [prefixed(0, b"abc"), prefixed(2, end.as_bytes())].concat();
    let error = |status: &str, kind: &str| {
        with_length(
            &format!("HTTP/1.1 {status}\r\ncontent-type: {kind}"),
            br#"{"code":"failed_precondition","message":"x"}"#,
        )
    };
    let empty = |status: &str| with_length(&format!("HTTP/1.1 {status}"), b"");
    let unary = || with_length(UNARY, b"\x0a\x03abc");
    let get =
        b"GET /shop.Shop/Buy?connect=v1&encoding=json&message=%7B%7D HTTP/1.1\r\nhost: x\r\n\r\n";
    let request = || with_length(GRPC_WEB, &prefixed(0, b"abcd"));
    let requests = || in_chunks(STREAM, &[prefixed(0, b"abcd"), prefixed(0, b"")].concat(), 4);
    let only_headers = "HTTP/1.1 200 OK\r\ngrpc-status: 7\r\ncontent-type: application/grpc-web";
    let text = b"AAAAAANhYmM=gAAAAA9ncnBjLXN0YXR1czogNQ0K";
    vec![
        (request(), in_chunks(OK, &web("grpc-status: 0\r\n"), 5), GrpcWeb, Some(Code::Ok)),
        (request(), with_length(OK, &web("grpc-status:5\r\n")), GrpcWeb, Some(Code::NotFound)),
        (request(), in_chunks(OK, text, 7), GrpcWeb, Some(Code::NotFound)),
        (request(), with_length(only_headers, b""), GrpcWeb, Some(Code::PermissionDenied)),
        (request(), empty("503 Service Unavailable"), GrpcWeb, Some(Code::Unavailable)),
        (request(), with_length(OK, &prefixed(0, b"abc")), GrpcWeb, Some(Code::Unknown)),
        (unary(), with_length(OK, b"\x0a\x01x"), Connect, Some(Code::Ok)),
        (unary(), empty("200 OK"), Connect, Some(Code::Ok)),
        (unary(), error("400 Bad", "application/json"), Connect, Some(Code::FailedPrecondition)),
        (unary(), error("404 Not Found", "text/html"), Connect, Some(Code::FailedPrecondition)),
        (unary(), empty("404 Not Found"), Connect, Some(Code::Unimplemented)),
        (unary(), empty("429 Too Many"), Connect, Some(Code::Unavailable)),
        (get.to_vec(), in_chunks(OK, b"{}", 1), Connect, Some(Code::Ok)),
        (requests(), in_chunks(OK, &stream("{}"), 9), Connect, Some(Code::Ok)),
        (
            requests(),
            in_chunks(OK, &stream(r#"{"error":{"code":"aborted"}}"#), 1000),
            Connect,
            Some(Code::Aborted),
        ),
        (requests(), empty("415 Unsupported"), Connect, Some(Code::Unknown)),
        // Where a stream has no last message, its code is not known.
        (requests(), with_length(OK, &prefixed(0, b"abc")), Connect, None),
    ]
}

#[test]
fn calls_of_every_kind_end_with_their_code() {
    for cut in [usize::MAX, 1, 7] {
        let mut fixture = Fixture { cut, ..Fixture::new() };
        let mut want = Vec::new();
        for (request, response, protocol, code) in calls() {
            fixture.request(&request);
            fixture.respond(&response);
            want.push(("/shop.Shop/Buy".to_owned(), protocol, code));
            assert_eq!(fixture.ends(), want);
        }
        // Those of gRPC-Web calls and of streams.
        assert_eq!(fixture.sink.messages, [6 + 4 * 2, 4 + 3]);
        fixture.close();
        assert_eq!(fixture.ends().len(), want.len());
    }
}

#[test]
fn requests_may_come_before_the_responses_to_others() {
    let mut fixture = Fixture::new();
    for (request, ..) in calls() {
        fixture.request(&request);
    }
    for (_, response, ..) in calls() {
        fixture.respond(b"HTTP/1.1 103 Early Hints\r\n\r\n");
        fixture.respond(&response);
    }
    let codes: Vec<_> = calls().into_iter().map(|(.., code)| code).collect();
    assert_eq!(fixture.ends().into_iter().map(|(.., code)| code).collect::<Vec<_>>(), codes);
}

#[test]
fn other_requests_are_not_calls() {
    let mut fixture = Fixture::new();
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "OPTIONS /shop.Shop/Buy HTTP/1.1\r\naccess-control-request-method: POST\r\n\r\n",
        "POST /a/b HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
        "POST /a/b HTTP/1.1\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n",
        "HEAD /a/b HTTP/1.1\r\n\r\n",
    ] {
        fixture.request(request);
        fixture.respond("HTTP/1.1 204 No Content\r\n\r\n");
    }
    fixture.request(with_length(UNARY, b""));
    fixture.respond(with_length(OK, b""));
    assert_eq!(fixture.ends().len(), 1);
    let streams = fixture.connection.state().streams;
    assert_eq!((streams.not_grpc, streams.measured), (5, 1));
}

#[test]
fn a_client_that_closes_the_connection_cancels() {
    let mut fixture = Fixture::new();
    fixture.request(with_length(UNARY, b""));
    fixture.close();
    assert_eq!(fixture.ends()[0].2, Some(Code::Canceled));
}

#[test]
fn what_is_not_followed_has_no_code() {
    for response in [
        "HTTP/1.1 200 OK\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        "garbage of a peer",
    ] {
        let mut fixture = Fixture::new();
        fixture.request(with_length(UNARY, b""));
        fixture.respond(response);
        assert!(fixture.driver.refused);
        fixture.close();
        assert_eq!(fixture.ends()[0].2, None, "{response:?}");
    }
}

#[test]
fn a_head_of_any_length_takes_bounded_memory() {
    let mut fixture = Fixture::new();
    fixture.request(format!("POST /{} HTTP/1.1\r\nx: {}", "a".repeat(30_000), "b".repeat(30_000)));
    assert!(fixture.connection.memory() < 70_000, "{}", fixture.connection.memory());
    assert!(!fixture.driver.refused);
}

proptest! {
    #[test]
    fn any_bytes_are_taken(
        turns in prop::collection::vec((0..2_u8, prop::collection::vec(any::<u8>(), 0..60), 0..20_usize), 0..12),
    ) {
        let mut fixture = Fixture::new();
        for (way, bytes, call) in turns {
            if let Some((request, response, ..)) = calls().into_iter().nth(call) {
                fixture.transfer(way, if way == direction::RECEIVED { &request } else { &response });
            }
            fixture.transfer(way, &bytes);
        }
        fixture.close();
    }
}
