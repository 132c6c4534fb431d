//! Connections from their records, as the BPF programs write them.

use observer_common::{
    frame::{FrameHeader, flag, kind},
    record::{
        DataItem, ItemHeader, RecordHeader, TAIL_PART, data_flag, direction, item_kind,
        record_kind, role,
    },
    scanner::{MAX_KEPT, web::Tail},
};
use proptest::prelude::*;
use zerocopy::IntoBytes as _;

use super::{Connection, frames::MAX_BLOCK};
use crate::{
    call::{
        CallKey, CallProtocol, CallSink, Code, Coverage, Direction, Directions, Ended, Relatives,
        Role, SeriesId,
    },
    names::{Interner, PathId},
    process::ProcessId,
    protocol::{Faults, Protocol as _, Transfer, grpc::GAP_TIMEOUT_NS},
    record::{Closed, Event, Record, Waited},
};

/// Paths and codes of the calls that ended, in order; `None` where they were not seen.
type Ends = Vec<(Option<String>, Option<Code>)>;

#[derive(Debug, Default)]
struct Recorder {
    paths: Vec<PathId>,
    protocols: Vec<CallProtocol>,
    ended: Vec<(PathId, Ended)>,
    messages: [u64; 2],
}

impl CallSink for Recorder {
    fn started(&mut self, key: CallKey) -> SeriesId {
        self.paths.push(key.path);
        self.protocols.push(key.protocol);
        SeriesId(self.paths.len() as u32 - 1)
    }

    fn joined(&mut self, key: CallKey) -> SeriesId {
        self.started(key)
    }

    fn messages(&mut self, _: SeriesId, direction: Direction, count: u64, _: u64) {
        // Garbage may have any number.
        let messages = &mut self.messages[usize::from(direction == Direction::Sent)];
        *messages = messages.saturating_add(count);
    }

    fn first_message(&mut self, _: SeriesId, _: u64) {}

    fn ended(&mut self, series: SeriesId, ended: Ended) {
        self.ended.push((self.paths[series.0 as usize], ended));
    }
}

/// One direction's writer: an encoder, the record that is being put together, and a position.
struct Writer {
    direction: Direction,
    encoder: loona_hpack::Encoder<'static>,
    items: Vec<u8>,
    position: u64,
    length: u64,
}

impl Writer {
    fn new(direction: Direction) -> Self {
        let encoder = loona_hpack::Encoder::new();
        Self { direction, encoder, items: Vec::new(), position: 0, length: 0 }
    }

    fn item(&mut self, kind: u8, frame: FrameHeader, content: &[u8]) -> &mut Self {
        let FrameHeader { length, stream, kind: frame_kind, flags, .. } = frame;
        let captured = content.len() as u32;
        let item = ItemHeader { kind, frame_kind, flags, _reserved: 0, stream, length, captured };
        self.items.extend(item.as_bytes());
        self.items.extend_from_slice(content);
        self.items.resize(self.items.len().next_multiple_of(8), 0);
        self.length += content.len() as u64;
        self
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> &mut Self {
        self.frame_of_length(kind, flags, stream, payload.len(), payload)
    }

    /// A frame with only its first bytes in this record.
    fn frame_of_length(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        length: usize,
        payload: &[u8],
    ) -> &mut Self {
        let header = FrameHeader { length: length as u32, stream, kind, flags, _reserved: 0 };
        self.length += 9;
        self.item(item_kind::FRAME, header, payload)
    }

    fn part(&mut self, payload: &[u8]) -> &mut Self {
        self.item(item_kind::PART, FrameHeader::default(), payload)
    }

    fn gap(&mut self, bytes: u32) -> &mut Self {
        self.length += u64::from(bytes);
        self.item(item_kind::GAP, FrameHeader::default(), &[])
    }

    /// A gap after which a frame boundary was found again.
    fn gap_found(&mut self) -> &mut Self {
        self.item(item_kind::GAP, FrameHeader { flags: 1, ..FrameHeader::default() }, &[])
    }

    fn block(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        self.encoder.encode(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    fn headers(&mut self, flags: u8, stream: u32, fields: &[(&str, &str)]) -> &mut Self {
        let block = self.block(fields);
        self.frame(kind::HEADERS, flag::END_HEADERS | flags, stream, &block)
    }

    fn request(&mut self, stream: u32, path: &str) -> &mut Self {
        self.headers(0, stream, &request(path))
    }

    fn trailers(&mut self, stream: u32, code: &str) -> &mut Self {
        self.headers(flag::END_STREAM, stream, &[("grpc-status", code)])
    }

    /// Messages of ten bytes that ended.
    fn data(&mut self, stream: u32, messages: u64, flags: u8) -> &mut Self {
        let header = FrameHeader { stream, flags, ..FrameHeader::default() };
        let totals = DataItem { message_bytes: 10 * messages, messages };
        self.item(item_kind::DATA, header, totals.as_bytes())
    }

    /// Records before this one were dropped.
    fn lost(&mut self, inserts: Option<u32>) -> &mut Self {
        let length = inserts.unwrap_or(u32::MAX);
        let flags = u8::from(inserts.is_none());
        self.item(item_kind::LOST, FrameHeader { length, flags, ..FrameHeader::default() }, &[])
    }

    /// The record's bytes had been at the socket for this long.
    fn waited(&mut self, Waited { least_us, most_us }: Waited) -> &mut Self {
        let header = FrameHeader { stream: least_us, length: most_us, ..FrameHeader::default() };
        self.item(item_kind::WAITED, header, &[])
    }

    /// Trailers that refer to no table.
    fn literal_trailers(&mut self, stream: u32, code: &str) -> &mut Self {
        let mut block = [&[0x00, 11], &b"grpc-status"[..], &[code.len() as u8]].concat();
        block.extend(code.as_bytes());
        self.frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &block)
    }

    /// A request whose content type is not seen, once `te` is in a table that was not.
    fn unclear_request(&mut self, stream: u32, path: &str) -> &mut Self {
        let mut fields = request(path);
        fields.retain(|(name, _)| *name != "content-type");
        self.headers(0, stream, &fields)
    }

    /// The record of the items so far; begins the next record.
    fn record(&mut self, time_ns: u64, gaps: u8) -> Vec<u8> {
        let header = RecordHeader {
            connection: 1,
            time_ns,
            position: self.position,
            length: self.length,
            pid: 1,
            kind: record_kind::BYTES,
            direction: direction_of(self.direction),
            role: role::UNKNOWN,
            flags: gaps,
        };
        self.position += std::mem::take(&mut self.length);
        [header.as_bytes(), &std::mem::take(&mut self.items)].concat()
    }

    /// The record is dropped.
    fn lose(&mut self) {
        self.record(0, 0);
    }
}

fn direction_of(direction: Direction) -> u8 {
    match direction {
        Direction::Received => direction::RECEIVED,
        Direction::Sent => direction::SENT,
    }
}

fn request(path: &str) -> Vec<(&str, &str)> {
    vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "test/1.0"),
    ]
}

const RESPONSE: &[(&str, &str)] = &[(":status", "200"), ("content-type", "application/grpc")];

/// A server's end of a connection: `client` writes what it receives, `server` what it sends.
struct Fixture {
    connection: Connection,
    interner: Interner,
    sink: Recorder,
    client: Writer,
    server: Writer,
    time_ns: u64,
    faults: Faults,
    relatives: Relatives,
}

impl Fixture {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            interner: Interner::new(100),
            sink: Recorder::default(),
            client: Writer::new(Direction::Received),
            server: Writer::new(Direction::Sent),
            time_ns: 0,
            faults: Faults::default(),
            relatives: Relatives::default(),
        }
    }

    fn from_start() -> Self {
        Self::new(Connection::from_start(Role::Server))
    }

    fn take(&mut self, record: &[u8]) {
        let record = Record::parse(record).expect("a record");
        let Event::Bytes(bytes) = record.event else { panic!("{record:?}") };
        let at = Transfer {
            time_ns: record.time_ns,
            process: ProcessId(record.pid),
            direction: bytes.direction,
            waited: bytes.waited,
            stall_free_since_ns: 0,
            relatives: self.relatives,
        };
        let Self { connection, interner, sink, faults, .. } = self;
        let Faults { dropped_bytes, blocks, unknown_references, read_late } =
            connection.bytes(at, &bytes, interner, sink);
        faults.dropped_bytes += dropped_bytes;
        faults.blocks += blocks;
        faults.unknown_references += unknown_references;
        faults.read_late |= read_late;
    }

    /// The server reads the client's record.
    fn receive(&mut self) -> &mut Self {
        self.receive_with(0)
    }

    fn receive_with(&mut self, gaps: u8) -> &mut Self {
        self.time_ns += 1;
        let record = self.client.record(self.time_ns, gaps);
        self.take(&record);
        self
    }

    /// The server writes its record.
    fn send(&mut self) -> &mut Self {
        self.time_ns += 1;
        let record = self.server.record(self.time_ns, 0);
        self.take(&record);
        self
    }

    fn call(&mut self, stream: u32, path: &str, code: &str) -> &mut Self {
        self.client.request(stream, path);
        self.receive();
        self.server.headers(0, stream, RESPONSE).trailers(stream, code);
        self.send()
    }

    fn close(&mut self, gaps: Directions) -> Ends {
        let closed = Closed { by: Some(Direction::Received), gaps, unread: false };
        self.connection.closed(self.time_ns, closed, 0, &mut self.sink);
        assert_eq!(self.connection.calls.open(), 0);
        assert_eq!(self.sink.paths.len(), self.sink.ended.len());
        self.ends()
    }

    fn ends(&self) -> Ends {
        let path = |path| self.interner.resolve(path).map(ToString::to_string);
        self.sink.ended.iter().map(|&(id, ended)| (path(id), ended.code)).collect()
    }
}

fn end(path: &str, code: Code) -> (Option<String>, Option<Code>) {
    (Some(path.to_owned()), Some(code))
}

#[test]
fn how_long_bytes_had_been_at_the_socket_decides_whether_a_call_expired() {
    const MS: u64 = 1_000_000;
    const CANCEL: &[u8] = &8_u32.to_be_bytes();
    let mut fixture = Fixture::from_start();
    fixture.time_ns = 10_000 * MS;
    let mut fields = request("/waited/Method");
    fields.push(("grpc-timeout", "100m"));
    for (stream, waited_ms, code) in [
        (1, None, Code::DeadlineExceeded),
        (3, Some([120, 130]), Code::Canceled),
        (5, Some([0, 130]), Code::CanceledOrDeadlineExceeded),
        (7, Some([0, 40]), Code::DeadlineExceeded),
    ] {
        fixture.client.headers(0, stream, &fields);
        fixture.receive();
        fixture.time_ns += 150 * MS;
        if let Some([least_us, most_us]) = waited_ms.map(|ms| ms.map(|ms| ms * 1_000)) {
            fixture.client.waited(Waited { least_us, most_us });
        }
        fixture.client.frame(kind::RST_STREAM, 0, stream, CANCEL);
        fixture.receive();
        let (_, ended) = fixture.sink.ended.last().expect("an end");
        assert_eq!(ended.code, Some(code), "{waited_ms:?}");
    }
}

#[test]
fn calls_one_after_the_other_with_warm_tables() {
    let mut fixture = Fixture::from_start();
    for (stream, path, code) in [(1, "/a.A/One", "0"), (3, "/a.A/Two", "5"), (5, "/a.A/One", "0")] {
        fixture.call(stream, path, code);
    }
    let want =
        [end("/a.A/One", Code::Ok), end("/a.A/Two", Code::NotFound), end("/a.A/One", Code::Ok)];
    assert_eq!(fixture.ends(), want);
    assert_eq!(fixture.faults, Faults::default());
    assert_eq!(fixture.connection.calls.coverage(), Coverage::Complete);
}

#[test]
fn a_block_cut_into_continuation_frames_anywhere() {
    let whole = Writer::new(Direction::Received).block(&request("/a.A/Cut"));
    for cut in 0..=whole.len() {
        let mut fixture = Fixture::from_start();
        let (first, rest) = whole.split_at(cut);
        let (second, third) = rest.split_at(rest.len() / 2);
        fixture.client.frame(kind::HEADERS, flag::END_STREAM, 1, first);
        fixture.client.frame(kind::CONTINUATION, 0, 1, second);
        fixture.receive();
        assert_eq!(fixture.connection.calls.open(), 0, "the block goes on");
        fixture.client.frame(kind::CONTINUATION, flag::END_HEADERS, 1, third);
        fixture.receive();
        fixture.server.headers(flag::END_STREAM, 1, &[("grpc-status", "3")]);
        fixture.send();
        assert_eq!(fixture.ends(), [end("/a.A/Cut", Code::InvalidArgument)], "cut at {cut}");
        assert!(fixture.sink.ended[0].1.half_closed, "END_STREAM is on the HEADERS frame");
    }
}

#[test]
fn a_frame_over_several_records_cut_anywhere() {
    let mut client = Writer::new(Direction::Received);
    let blocks = [client.block(&request("/a.A/First")), client.block(&request("/a.A/Second"))];
    for cut in 0..blocks[0].len() {
        let mut fixture = Fixture::from_start();
        let (first, rest) = blocks[0].split_at(cut);
        let flags = flag::END_HEADERS;
        fixture.client.frame_of_length(kind::HEADERS, flags, 1, blocks[0].len(), first);
        fixture.receive();
        let (second, third) = rest.split_at(rest.len() / 2);
        fixture.client.part(second);
        fixture.receive().client.part(third).frame(kind::HEADERS, flags, 3, &blocks[1]);
        fixture.receive().server.trailers(3, "0").trailers(1, "1");
        fixture.send();
        let want = [end("/a.A/Second", Code::Ok), end("/a.A/First", Code::Canceled)];
        assert_eq!(fixture.ends(), want, "cut at {cut}");
        assert_eq!(fixture.faults, Faults::default());
    }
}

#[test]
fn a_promise_changes_the_dynamic_table_and_is_not_a_call() {
    let mut fixture = Fixture::from_start();
    fixture.client.request(1, "/a.A/One");
    fixture.receive();
    // Both insert, and the trailers refer to what came with the promise.
    let promised = fixture.server.block(&[(":path", "/pushed"), ("grpc-status", "9")]);
    let payload = [&2_u32.to_be_bytes()[..], &promised].concat();
    fixture.server.frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &payload);
    fixture.server.headers(flag::END_STREAM, 2, RESPONSE);
    fixture.server.headers(0, 1, RESPONSE).trailers(1, "9");
    fixture.send();
    assert_eq!(fixture.ends(), [end("/a.A/One", Code::FailedPrecondition)]);
    assert_eq!(fixture.connection.calls.streams.measured, 1);
}

#[test]
fn resets_and_go_away() {
    let mut fixture = Fixture::from_start();
    for stream in [1, 3, 5, 7] {
        fixture.client.request(stream, "/a.A/One");
    }
    fixture.client.frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    fixture.client.frame(kind::RST_STREAM, 0, 3, &[0, 0]);
    fixture.receive();
    // The reserved bit of the last stream is set, and debug data follows.
    fixture.server.frame(kind::GOAWAY, 0, 0, b"\x80\0\0\x03\0\0\0\0bye");
    fixture.server.frame(kind::GOAWAY, 0, 0, b"\0\0\0");
    fixture.send();
    let codes: Vec<_> = fixture.ends().into_iter().map(|(_, code)| code).collect();
    assert_eq!(codes, [Some(Code::Canceled), Some(Code::Unavailable), Some(Code::Unavailable)]);
    assert_eq!(fixture.connection.calls.open(), 1);
    assert_eq!(fixture.close(Directions::default())[3], end("/a.A/One", Code::Canceled));
}

#[test]
fn after_a_dropped_record_nothing_is_taken_for_something_else() {
    let mut fixture = Fixture::from_start();
    fixture.call(1, "/a.A/One", "0");
    fixture.client.request(3, "/a.A/Two");
    fixture.receive();
    let path = fixture.client.block(&[(":path", "/a.A/Lost"), ("x", "inserted")]);
    fixture.client.frame(kind::HEADERS, flag::END_HEADERS, 5, &path);
    let lost = fixture.client.length;
    fixture.client.lose();
    fixture.client.request(7, "/a.A/Three");
    fixture.receive();
    assert_eq!(fixture.faults.dropped_bytes, lost);
    assert_eq!(fixture.connection.calls.coverage(), Coverage::Gaps);
    for stream in [3, 5, 7] {
        fixture.server.headers(0, stream, RESPONSE).trailers(stream, "0");
    }
    fixture.send();
    // The start of stream 5 was not seen. The literal path is certain; its content type is an index into
    // a table that moved unseen.
    let want = [
        end("/a.A/One", Code::Ok),
        end("/a.A/Two", Code::Ok),
        (None, Some(Code::Ok)),
        end("/a.A/Three", Code::Ok),
    ];
    assert_eq!(fixture.ends(), want);
    assert!(fixture.faults.unknown_references > 0);
}

#[test]
fn a_path_in_a_table_before_a_gap_is_not_seen_until_it_is_inserted_again() {
    let mut fixture = Fixture::from_start();
    // An encoder that inserts the path, unlike loona's.
    let inserted = [&b"\x83\x86\x44\x08/a.A/One"[..], b"\x5f\x10application/grpc"].concat();
    let indexed = b"\x83\x86\xbf\xbe";
    let flags = flag::END_HEADERS | flag::END_STREAM;
    fixture.client.frame(kind::HEADERS, flags, 1, &inserted);
    fixture.client.frame(kind::HEADERS, flags, 3, indexed);
    fixture.receive().client.frame(kind::HEADERS, flags, 5, indexed);
    fixture.client.lose();
    fixture.client.frame(kind::HEADERS, flags, 7, indexed);
    fixture.receive().client.frame(kind::HEADERS, flags, 9, &inserted);
    fixture.client.frame(kind::HEADERS, flags, 11, indexed);
    fixture.receive();
    let Fixture { interner, sink, .. } = fixture;
    let path = |path| interner.resolve(path).map(|path| &**path);
    let paths: Vec<_> = sink.paths.into_iter().map(path).collect();
    let known = Some("/a.A/One");
    assert_eq!(paths, [known, known, None, known, known]);
}

#[test]
fn a_gap_item_puts_open_calls_in_doubt() {
    for in_response in [false, true] {
        let mut fixture = Fixture::from_start();
        fixture.client.request(1, "/a.A/One");
        fixture.receive();
        if in_response {
            fixture.server.gap(100).headers(0, 1, RESPONSE);
            fixture.send();
        } else {
            fixture.client.gap(100).frame(kind::SETTINGS, 0, 0, &[]);
            fixture.receive();
        }
        assert_eq!(fixture.connection.calls.coverage(), Coverage::Gaps);
        // No field refers to the table that is not known any more.
        let fields = [(":path", "/a.A/Two"), ("content-type", "application/grpc")];
        fixture.client.headers(0, 3, &fields);
        fixture.receive();
        let want = [(Some("/a.A/One".into()), None), end("/a.A/Two", Code::Canceled)];
        assert_eq!(fixture.close(Directions::default()), want);
    }
}

/// A dropped record without a later one in its direction: the other direction's record reports it.
#[test]
fn a_dropped_record_without_a_later_one() {
    const SENT: u8 = 1 << direction::SENT;
    let open = || {
        let mut fixture = Fixture::from_start();
        fixture.client.request(1, "/a.A/One");
        fixture.receive();
        fixture.server.headers(0, 1, RESPONSE).trailers(1, "0");
        fixture.server.lose();
        fixture
    };
    let not_seen = (Some("/a.A/One".into()), None);

    let mut closed = open();
    let gaps = Directions { sent: true, ..Directions::default() };
    assert_eq!(closed.close(gaps), std::slice::from_ref(&not_seen));

    let mut reset = open();
    reset.client.frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 0]);
    assert_eq!(reset.receive_with(SENT).ends(), [not_seen]);
    // The next call starts in a gap of the server's direction, but its end is seen.
    reset.client.request(3, "/a.A/Two");
    reset.receive_with(SENT).server.headers(flag::END_STREAM, 3, &[(":status", "404")]);
    assert_eq!(reset.send().ends()[1], end("/a.A/Two", Code::Unimplemented));
    reset.client.request(5, "/a.A/Three").frame(kind::RST_STREAM, 0, 5, &[0, 0, 0, 8]);
    assert_eq!(reset.receive().ends()[2], end("/a.A/Three", Code::Canceled), "seen again");
}

/// A connection that joined late, after a call, and with another one open on stream 3.
fn joined_late(role: Option<Role>) -> Fixture {
    let mut fixture = Fixture::new(Connection::joined_late(role));
    fixture.client.request(1, "/a.A/Before").request(3, "/a.A/Before").lose();
    fixture.server.headers(0, 1, RESPONSE).trailers(1, "0").headers(0, 3, RESPONSE).lose();
    fixture
}

#[test]
fn joined_late_only_certain_calls_and_codes_are_reported() {
    let mut fixture = joined_late(Some(Role::Server));
    fixture.client.unclear_request(5, "/a.A/After").data(5, 1, data_flag::END_STREAM);
    fixture.receive();
    assert_eq!(fixture.sink.paths.len(), 0, "its content type is in the table: gRPC or not?");
    fixture.server.headers(0, 5, &RESPONSE[..1]).data(5, 1, 0).trailers(5, "0").trailers(3, "0");
    fixture.send();
    assert_eq!(fixture.connection.calls.coverage(), Coverage::JoinedLate);
    // Only gRPC looks like this. `grpc-status: 0` is in the server's table.
    assert_eq!(fixture.ends(), [(Some("/a.A/After".into()), None), (None, None)]);
    assert_eq!(fixture.sink.messages, [1, 1], "also of the call that did not count at first");
    fixture.client.unclear_request(7, "/a.A/Again");
    fixture.receive().server.literal_trailers(7, "13");
    fixture.send();
    assert_eq!(fixture.ends()[2], end("/a.A/Again", Code::Internal));
}

#[test]
fn a_stream_that_started_in_a_gap_ends_once() {
    let mut fixture = joined_late(Some(Role::Server));
    fixture.server.literal_trailers(3, "5").frame(kind::RST_STREAM, 0, 3, &[0; 4]);
    fixture.send().client.frame(kind::RST_STREAM, 0, 3, &[0, 0, 0, 8]);
    fixture.receive().client.request(3, "/a.A/ReadLate");
    fixture.receive();
    assert_eq!(fixture.ends(), [(None, Some(Code::NotFound))]);
    assert_eq!(fixture.connection.calls.open(), 0);
    assert_eq!(fixture.close(Directions::default()).len(), 1);
}

#[test]
fn joined_late_streams_that_do_not_look_like_grpc_do_not_count() {
    let mut fixture = joined_late(Some(Role::Server));
    for (stream, flags, messages) in [(5, data_flag::UNALIGNED, 0), (7, 0, 0)] {
        let end = flags | data_flag::END_STREAM;
        fixture.client.unclear_request(stream, "/api").data(stream, messages, end);
        fixture.receive().server.headers(0, stream, &RESPONSE[..1]).data(stream, 0, flags);
        fixture.server.headers(flag::END_STREAM, stream, &[("x", "y")]);
        fixture.send();
    }
    // Answered without trailers.
    fixture.client.unclear_request(9, "/api").data(9, 1, data_flag::END_STREAM);
    fixture.receive().server.headers(0, 9, &RESPONSE[..1]).data(9, 1, data_flag::END_STREAM);
    fixture.send();
    fixture.client.headers(flag::END_STREAM, 11, &[(":method", "GET"), ("te", "trailers")]);
    fixture.receive().server.headers(flag::END_STREAM, 11, &RESPONSE[..1]);
    fixture.send();
    // Answered with another content type.
    fixture.client.unclear_request(13, "/api").data(13, 1, data_flag::END_STREAM);
    fixture.receive().server.headers(0, 13, &[(":status", "200"), ("content-type", "text/html")]);
    fixture.server.trailers(13, "0");
    fixture.send();
    assert_eq!(fixture.ends(), []);
    let streams = fixture.connection.calls.streams;
    assert_eq!((streams.measured, streams.unclear, streams.not_grpc), (0, 3, 2));
}

#[test]
fn a_field_block_shows_the_role() {
    for (direction, role) in [(Direction::Received, Role::Server), (Direction::Sent, Role::Client)]
    {
        let mut fixture = joined_late(None);
        (fixture.client.direction, fixture.server.direction) = (direction, direction.opposite());
        // Nothing shows the role yet.
        fixture.server.trailers(3, "0");
        fixture.send();
        assert_eq!(fixture.sink.paths.len(), 0);
        fixture.client.request(5, "/a.A/After").data(5, 1, data_flag::END_STREAM);
        fixture.receive();
        assert_eq!(fixture.connection.calls.role(), role);
        fixture.server.headers(0, 5, RESPONSE).literal_trailers(5, "11");
        fixture.send();
        assert_eq!(fixture.ends(), [end("/a.A/After", Code::OutOfRange)]);
    }
}

/// A call as the client of a connection joined late writes it, with no entry of a table.
fn literal_request(writer: &mut Writer, stream: u32, path: &str) {
    let path = [&[0x04, path.len() as u8], path.as_bytes()].concat();
    let block = [b"\x83\x86".as_slice(), &path, b"\x0f\x10\x10application/grpc"].concat();
    writer.frame(kind::HEADERS, flag::END_HEADERS, stream, &block);
}

/// The same for a response.
fn literal_response(writer: &mut Writer, stream: u32) {
    let block = b"\x88\x0f\x10\x10application/grpc";
    writer.frame(kind::HEADERS, flag::END_HEADERS, stream, block);
}

#[test]
fn forged_frames_in_a_message_are_not_calls() {
    for role in [None, Some(Role::Server)] {
        let mut fixture = joined_late(role);
        // Its server reads a message of stream 3.
        for stream in [5, 7, 99] {
            literal_request(&mut fixture.client, stream, "/a.A/Forged");
            fixture.client.data(stream, 1, data_flag::END_STREAM);
            fixture.receive().client.frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]);
            fixture.receive();
        }
        literal_request(&mut fixture.client, 101, "/a.A/Forged");
        fixture.receive();
        assert_eq!(fixture.connection.calls.open(), 0);
        // The message ends with bytes that are not a frame, and a boundary is found again.
        fixture.client.gap_found();
        literal_request(&mut fixture.client, 5, "/a.A/Real");
        fixture.client.data(5, 1, data_flag::END_STREAM);
        fixture.receive();
        literal_response(&mut fixture.server, 5);
        fixture.server.literal_trailers(5, "5");
        fixture.send();
        assert_eq!(fixture.ends(), [end("/a.A/Real", Code::NotFound)]);
        assert_eq!(fixture.connection.calls.streams.unconfirmed, 4);
        assert_eq!(fixture.close(Directions::default()).len(), 1);
    }
}

#[test]
fn a_client_that_forges_responses_does_not_make_a_client_of_its_server() {
    let mut fixture = joined_late(None);
    for stream in [5, 7] {
        literal_response(&mut fixture.client, stream);
        fixture.client.literal_trailers(stream, "13");
        fixture.receive();
    }
    // The server answers what it was asked before.
    literal_response(&mut fixture.server, 3);
    fixture.server.literal_trailers(3, "0");
    fixture.send();
    assert_eq!((fixture.connection.calls.role(), fixture.ends().len()), (Role::Server, 0));
    fixture.client.gap_found();
    literal_request(&mut fixture.client, 9, "/a.A/Real");
    fixture.receive();
    literal_response(&mut fixture.server, 9);
    fixture.server.literal_trailers(9, "5");
    fixture.send();
    assert_eq!(fixture.ends(), [(None, Some(Code::Ok)), end("/a.A/Real", Code::NotFound)]);
    assert_eq!(fixture.connection.calls.streams.unconfirmed, 2);
}

#[test]
fn as_many_calls_count_in_advance_as_were_answered() {
    let mut fixture = joined_late(Some(Role::Server));
    let request = |fixture: &mut Fixture, stream| {
        literal_request(&mut fixture.client, stream, "/a.A/Get");
        fixture.receive();
        fixture.connection.calls.open()
    };
    assert_eq!(request(&mut fixture, 5), 0);
    literal_response(&mut fixture.server, 5);
    fixture.server.literal_trailers(5, "0");
    fixture.send();
    assert_eq!(fixture.ends(), [end("/a.A/Get", Code::Ok)]);
    assert_eq!([7, 9, 11].map(|stream| request(&mut fixture, stream)), [1, 1, 1]);
    literal_response(&mut fixture.server, 9);
    assert_eq!(fixture.send().connection.calls.open(), 2);
    // In the other order: the first one counts, the last one does not.
    for stream in [7, 11] {
        fixture.client.frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]);
    }
    assert_eq!(fixture.receive().ends()[1..], [end("/a.A/Get", Code::Canceled)]);
    assert_eq!(fixture.connection.calls.streams.unconfirmed, 1);
}

#[test]
fn ends_of_streams_that_the_client_has_not_started_do_not_count() {
    let mut fixture = joined_late(Some(Role::Server));
    for stream in [5, 7, 5, 99] {
        fixture.server.literal_trailers(stream, "13");
        fixture.send();
    }
    assert_eq!(fixture.ends(), []);
    // It had started those below this one.
    literal_request(&mut fixture.client, 9, "/a.A/Get");
    fixture.receive();
    assert_eq!(fixture.ends(), [(None, Some(Code::Internal)), (None, Some(Code::Internal))]);
    assert_eq!(fixture.close(Directions::default()).len(), 2);
    assert_eq!(fixture.connection.calls.streams.unconfirmed, 2, "9 and 99");
}

#[test]
fn dropped_records_that_inserted_nothing_cost_no_label() {
    let mut fixture = Fixture::from_start();
    fixture.call(1, "/a.A/One", "0").call(3, "/a.A/One", "0");
    fixture.client.request(5, "/a.A/One").lose();
    fixture.server.headers(0, 5, RESPONSE).trailers(5, "0").lose();
    fixture.client.lost(Some(0)).request(7, "/a.A/One");
    fixture.receive().server.lost(Some(0)).headers(0, 7, RESPONSE).trailers(7, "0");
    fixture.send();
    assert_eq!(fixture.ends()[2..], [end("/a.A/One", Code::Ok)]);
    assert_eq!(fixture.faults.unknown_references, 0);
}

#[test]
fn only_entries_that_dropped_records_inserted_are_unknown() {
    let mut fixture = Fixture::from_start();
    fixture.call(1, "/a.A/One", "0");
    // loona-hpack's encoder inserts each of these.
    let fields = [("x-first", "1"), ("x-second", "2"), ("x-third", "3")];
    fixture.client.headers(0, 3, &fields).lose();
    fixture.client.lost(Some(3)).headers(0, 5, &[&request("/a.A/One")[..], &fields].concat());
    fixture.receive().server.headers(0, 5, RESPONSE).trailers(5, "0");
    fixture.send();
    assert_eq!(fixture.ends()[1], end("/a.A/One", Code::Ok));
    assert_eq!(fixture.faults.unknown_references, 3);
    // The number is not known: all entries are unknown.
    fixture.client.headers(0, 7, &[("x-fourth", "4")]).lose();
    fixture.client.lost(None).request(9, "/a.A/One");
    fixture.receive().server.headers(0, 9, RESPONSE).trailers(9, "0");
    fixture.send();
    assert_eq!(fixture.ends()[2], end("/a.A/One", Code::Ok));
    assert_eq!(fixture.faults.unknown_references, 4, "te");
}

#[test]
fn a_call_that_may_have_ended_in_a_gap_ends_after_a_minute() {
    let mut fixture = Fixture::from_start();
    fixture.client.request(1, "/a.A/Lost").request(3, "/a.A/Streams");
    fixture.receive().server.headers(0, 1, RESPONSE).headers(0, 3, RESPONSE);
    fixture.send().server.trailers(1, "0").lose();
    fixture.server.data(3, 1, 0);
    fixture.send().time_ns += GAP_TIMEOUT_NS / 2;
    fixture.server.data(3, 1, 0);
    fixture.send();
    let Fixture { connection, sink, time_ns, .. } = &mut fixture;
    connection.expire(*time_ns, sink);
    assert_eq!(connection.calls.open(), 2);
    connection.expire(*time_ns + GAP_TIMEOUT_NS / 2, sink);
    assert_eq!(connection.calls.open(), 1);
    assert_eq!(fixture.ends(), [(Some("/a.A/Lost".into()), None)]);
    fixture.server.literal_trailers(3, "0").literal_trailers(1, "0");
    fixture.send();
    assert_eq!(fixture.ends()[1..], [end("/a.A/Streams", Code::Ok)]);
}

#[test]
fn a_frame_longer_than_what_is_kept_is_a_gap() {
    let mut fixture = Fixture::from_start();
    fixture.call(1, "/a.A/One", "0");
    fixture.client.request(3, "/a.A/Two");
    fixture.receive();
    // The response headers, with END_STREAM.
    let flags = flag::END_HEADERS | flag::END_STREAM;
    let length = MAX_KEPT as usize + 1;
    fixture.server.frame_of_length(kind::HEADERS, flags, 3, length, &[0; 1000]);
    fixture.send();
    let part = vec![0; 1 << 15];
    for _ in 0..MAX_KEPT as usize / part.len() {
        fixture.server.part(&part);
        fixture.send();
    }
    assert_eq!(fixture.faults.blocks, 1);
    assert_eq!(fixture.connection.directions.sent.frame.memory(), 0);
    assert_eq!(fixture.connection.calls.coverage(), Coverage::Gaps);
    fixture.call(5, "/a.A/Three", "0");
    assert_eq!(fixture.sink.ended[1].0, fixture.sink.paths[2]);
    assert_eq!(fixture.close(Directions::default())[2], (Some("/a.A/Two".into()), None));
}

#[test]
fn a_frame_without_its_rest_is_a_gap() {
    let mut fixture = Fixture::from_start();
    fixture.client.request(1, "/a.A/One");
    fixture.receive();
    fixture.server.frame_of_length(kind::HEADERS, flag::END_STREAM, 1, 100, &[0; 10]);
    fixture.server.frame(kind::SETTINGS, 0, 0, &[]);
    fixture.send();
    assert_eq!(fixture.faults.blocks, 1);
    assert_eq!(fixture.close(Directions::default()), [(Some("/a.A/One".into()), None)]);
}

#[test]
fn a_block_that_never_ends_takes_no_more_than_its_bound() {
    let mut fixture = Fixture::from_start();
    fixture.client.frame(kind::HEADERS, 0, 1, &[]);
    for _ in 0..2 * MAX_BLOCK / (1 << 14) {
        fixture.client.frame(kind::CONTINUATION, 0, 1, &[0; 1 << 14]);
        fixture.receive();
        assert!(fixture.connection.directions.received.block.memory() <= 2 * MAX_BLOCK);
    }
    assert_eq!(fixture.connection.directions.received.block.memory(), 0);
    assert!(fixture.faults.blocks > 0);
    assert_eq!(fixture.connection.calls.coverage(), Coverage::Gaps);
}

#[test]
fn an_invalid_block_is_counted_and_its_fields_are_not_seen() {
    let mut fixture = Fixture::from_start();
    fixture.client.request(1, "/a.A/One");
    fixture.receive();
    // Index 0 (RFC 7541 section 6.1).
    fixture.server.frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &[0x80]);
    fixture.send();
    assert_eq!(fixture.faults.blocks, 1);
    assert_eq!(fixture.ends(), [(Some("/a.A/One".into()), None)]);
}

/// Items of any kind, with frames of any kind on few streams.
fn any_items() -> impl Strategy<Value = Vec<u8>> {
    let content = prop::collection::vec(any::<u8>(), 0..60);
    let kinds = (1..=6_u8, 0..11_u8, any::<u8>(), 0..6_u32, any::<prop::sample::Index>());
    let item = (kinds, content).prop_map(|((kind, frame_kind, flags, stream, length), content)| {
        let mut writer = Writer::new(Direction::Sent);
        // Mostly whole frames, some cut, some that claim to be longer than anything.
        let length = match length.index(8) {
            0 => 1 << 24,
            1 => content.len() + 7,
            _ => content.len(),
        };
        let header =
            FrameHeader { length: length as u32, stream, kind: frame_kind, flags, _reserved: 0 };
        writer.item(kind, header, &content);
        writer.items
    });
    prop::collection::vec(item, 0..12).prop_map(|items| items.concat())
}

proptest! {
    /// Whatever the records hold, no call ends twice or without a start, and memory is bounded.
    #[test]
    fn any_records(
        records in prop::collection::vec((any::<bool>(), 0..4_u8, any_items(), 0..3_u64), 0..20),
        late in any::<bool>(),
    ) {
        let connection = if late {
            Connection::joined_late(Some(Role::Client))
        } else {
            Connection::from_start(Role::Client)
        };
        let mut fixture = Fixture::new(connection);
        let mut count = 0;
        for (sent, gaps, items, jump) in records {
            let writer = if sent { &mut fixture.server } else { &mut fixture.client };
            count += items.len() / size_of::<ItemHeader>();
            writer.items = items;
            writer.position += jump;
            let record = writer.record(fixture.time_ns, gaps);
            fixture.take(&record);
            let Recorder { paths, ended, .. } = &fixture.sink;
            prop_assert_eq!(paths.len() - ended.len(), fixture.connection.calls.open());
            prop_assert!(paths.len() <= count);
            for direction in [Direction::Received, Direction::Sent] {
                let state = fixture.connection.directions.get(direction);
                prop_assert!(state.frame.memory() + state.block.memory() <= 8192);
            }
        }
        fixture.close(Directions::default());
    }
}

impl Writer {
    /// Trailers in the body of a response, or a part of them.
    fn tail(&mut self, stream: u32, flags: u8, text: u8, length: usize, bytes: &[u8]) -> &mut Self {
        let length = length as u32;
        let header = FrameHeader { length, stream, kind: flags, flags: text, _reserved: 0 };
        self.item(item_kind::TAIL, header, bytes)
    }

    fn web_request(&mut self, stream: u32, content_type: &'static str) -> &mut Self {
        let mut fields = request("/w.W/Get");
        fields.retain(|(name, _)| *name != "content-type");
        fields.push(("content-type", content_type));
        self.headers(0, stream, &fields).data(stream, 1, data_flag::END_STREAM)
    }

    fn web_response(&mut self, stream: u32) -> &mut Self {
        let fields = [(":status", "200"), ("content-type", "application/grpc-web+proto")];
        self.headers(0, stream, &fields)
    }
}

/// A server's end of a connection whose daemon follows gRPC-Web.
fn following_web() -> Fixture {
    let mut fixture = Fixture::from_start();
    fixture.relatives.grpc_web = true;
    fixture
}

#[test]
fn trailers_in_the_body_have_the_status() {
    const BINARY: &[u8] = b"grpc-status:5\r\ngrpc-message:no\r\n";
    // "grpc-status: 7\r\n"
    const TEXT: &[u8] = b"Z3JwYy1zdGF0dXM6IDcNCg";
    // The same after two octets: two bits are left of the three characters before it.
    const SHIFTED: &[u8] = b"ncnBjLXN0YXR1czogNw0K";
    type Answer = fn(&mut Writer, u32) -> &mut Writer;
    let rows: [(Answer, Option<Code>); 11] = [
        (|w, s| w.tail(s, 0x80, 0, BINARY.len(), BINARY), Some(Code::NotFound)),
        (|w, s| w.tail(s, 0x80, Tail::TEXT, TEXT.len(), TEXT), Some(Code::PermissionDenied)),
        (
            |w, s| {
                let text = Tail::TEXT | 3 << Tail::PLACE | 1;
                w.tail(s, 0x80, text, SHIFTED.len(), SHIFTED)
            },
            Some(Code::PermissionDenied),
        ),
        (
            |w, s| {
                w.tail(s, 0x80, 0, BINARY.len(), &BINARY[..9]);
                w.tail(s, 0x80 | TAIL_PART, 0, BINARY.len(), &BINARY[9..])
            },
            Some(Code::NotFound),
        ),
        (|w, s| w.tail(s, 0x80, 0, 14, b"GRPC-Status: 0"), Some(Code::Ok)),
        (|w, s| w.tail(s, 0x80, 0, 14, b"grpc-status: x"), Some(Code::Unknown)),
        (|w, s| w.tail(s, 0x80, 0, 0, b""), Some(Code::Unknown)),
        (|w, _| w, Some(Code::Unknown)),
        (|w, s| w.tail(s, 0x81, 0, 4, b"zzzz"), None),
        (
            |w, s| w.tail(s, 0x80, 0, BINARY.len(), &BINARY[..9]).data(s, 0, data_flag::UNALIGNED),
            None,
        ),
        (|w, s| w.data(s, 0, data_flag::UNALIGNED), None),
    ];
    let mut fixture = following_web();
    for (at, (answer, code)) in rows.into_iter().enumerate() {
        let stream = 2 * at as u32 + 1;
        fixture.client.web_request(stream, "application/grpc-web-text");
        fixture.receive();
        fixture.server.web_response(stream).data(stream, 1, 0);
        answer(&mut fixture.server, stream).data(stream, 0, data_flag::END_STREAM);
        fixture.send();
        let (path, got) = fixture.ends().pop().expect("an end");
        assert_eq!((path.as_deref(), got), (Some("/w.W/Get"), code), "row {at}");
    }
    assert!(fixture.sink.protocols.iter().all(|of| *of == CallProtocol::GrpcWeb));
}

#[test]
fn a_status_in_the_headers_of_a_web_response_counts() {
    let mut fixture = following_web();
    let headers =
        [(":status", "200"), ("grpc-status", "12"), ("content-type", "application/grpc-web")];
    for (stream, flags) in [(1, flag::END_STREAM), (3, 0)] {
        fixture.client.web_request(stream, "application/grpc-web");
        fixture.receive();
        fixture.server.headers(flags, stream, &headers);
        if flags == 0 {
            fixture.server.data(stream, 0, data_flag::END_STREAM);
        }
        fixture.send();
    }
    assert_eq!(fixture.ends(), vec![end("/w.W/Get", Code::Unimplemented); 2]);
}

#[test]
fn an_answer_of_grpc_web_may_come_before_its_request() {
    let mut fixture = Fixture::new(Connection::from_start(Role::Client));
    fixture.relatives.grpc_web = true;
    // The client reads what `server` writes.
    (fixture.client.direction, fixture.server.direction) = (Direction::Sent, Direction::Received);
    fixture.server.web_response(1).data(1, 1, 0).tail(1, 0x80, 0, 13, b"grpc-status:9");
    fixture.server.data(1, 0, data_flag::END_STREAM);
    fixture.send();
    fixture.client.web_request(1, "application/grpc-web");
    fixture.receive();
    assert_eq!(fixture.ends(), [end("/w.W/Get", Code::FailedPrecondition)]);
}

#[test]
fn grpc_web_is_not_followed_unless_it_is_asked_for() {
    let mut fixture = Fixture::from_start();
    fixture.client.web_request(1, "application/grpc-web");
    fixture.receive();
    fixture.server.web_response(1).tail(1, 0x80, 0, 13, b"grpc-status:9");
    fixture.server.data(1, 0, data_flag::END_STREAM);
    fixture.send();
    assert_eq!(fixture.ends(), []);
    assert_eq!(fixture.connection.state().streams.not_grpc, 1);
}

/// A server's end of a connection whose daemon follows Connect.
fn following_connect() -> Fixture {
    let mut fixture = Fixture::from_start();
    fixture.relatives.connect = true;
    fixture.interner.cuts_queries = true;
    fixture
}

/// The code that a call ends with. `request` and the fields of the response, and what else is written.
fn connect_call(
    fixture: &mut Fixture,
    stream: u32,
    request: &[(&str, &str)],
    response: &[(&str, &str)],
    answer: impl FnOnce(&mut Writer),
) -> Option<Code> {
    let mut fields = vec![(":method", "POST"), (":path", "/c.C/Get")];
    fields.retain(|(name, _)| request.iter().all(|(of, _)| of != name));
    fields.extend(request);
    fixture.client.headers(0, stream, &fields).data(stream, 0, data_flag::END_STREAM);
    fixture.receive();
    let ends = fixture.sink.ended.len();
    fixture.server.headers(0, stream, response);
    answer(&mut fixture.server);
    fixture.server.data(stream, 0, data_flag::END_STREAM | data_flag::UNALIGNED);
    fixture.send();
    assert_eq!(fixture.sink.ended.len(), ends + 1, "it has ended");
    let (path, code) = fixture.ends().pop().expect("an end");
    assert_eq!(path.as_deref(), Some("/c.C/Get"));
    assert_eq!(fixture.sink.protocols.last(), Some(&CallProtocol::Connect));
    code
}

#[test]
fn unary_calls_of_connect_have_the_status_of_http_or_a_code() {
    const PROTO: &[(&str, &str)] =
        &[("content-type", "application/proto"), ("connect-protocol-version", "1")];
    const GET: &[(&str, &str)] =
        &[(":method", "GET"), (":path", "/c.C/Get?connect=v1&encoding=json&message=%7B%7D")];
    let json = |status: &'static str| [(":status", status), ("content-type", "application/json")];
    let text = |status: &'static str| [(":status", status), ("content-type", "text/plain")];
    for (at, request) in [PROTO, GET].into_iter().enumerate() {
        let mut fixture = following_connect();
        let rows = [
            (json("200"), None, Some(Code::Ok)),
            // A message may look like an error.
            (json("200"), Some(5), Some(Code::Ok)),
            (text("200"), None, Some(Code::Ok)),
            (json("404"), Some(5), Some(Code::NotFound)),
            (json("400"), Some(11), Some(Code::OutOfRange)),
            (json("500"), Some(15), Some(Code::DataLoss)),
            (json("404"), None, None),
            (text("404"), None, Some(Code::Unimplemented)),
            (text("503"), None, Some(Code::Unavailable)),
        ];
        for (row, (response, error, code)) in rows.into_iter().enumerate() {
            let stream = 2 * row as u32 + 1;
            let got = connect_call(&mut fixture, stream, request, &response, |server| {
                if let Some(number) = error {
                    server.tail(stream, Tail::ERROR, number, 0, b"");
                }
            });
            assert_eq!(got, code, "request {at}, row {row}");
        }
        let (_, ended) = fixture.sink.ended.last().expect("an end");
        assert_eq!((ended.request_messages, ended.response_messages), (None, None));
    }
}

#[test]
fn streams_of_connect_have_the_code_in_their_last_message() {
    const STREAM: &[(&str, &str)] = &[("content-type", "application/connect+proto")];
    const GZIP: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\x4a\x2d\x2a\xca\x2f\x52\xb2\xaa\x56\x4a\xce\x4f\x49\x55\xb2\x52\xca\x2f\x2d\x89\xcf\x4f\x8b\x2f\x4a\xcc\x4b\x4f\x55\xd2\x51\xca\x4d\x2d\x2e\x4e\x4c\x07\x49\x54\x28\xd5\x82\xb8\x25\x89\x29\x89\x25\x89\x20\x0d\x40\x22\x5a\x29\x49\x29\xb6\xb6\x16\x00\xcc\xb9\xe5\x55\x46\x00\x00\x00";
    let response = [(":status", "200"), ("content-type", "application/connect+proto")];
    let rows: [(u8, &[u8], Option<Code>); 9] = [
        (2, b"{}", Some(Code::Ok)),
        (2, br#"{"metadata":{"error":["x"]}}"#, Some(Code::Ok)),
        (
            2,
            br#"{ "metadata": {}, "error": { "message": "x", "code": "not_found" } }"#,
            Some(Code::NotFound),
        ),
        (2, br#"{"error":{"code":"n\u006ft_found"}}"#, Some(Code::NotFound)),
        (2, br#"{"error":{"code":"no_such_code"}}"#, Some(Code::Unknown)),
        (2, br#"{"error":{}}"#, Some(Code::Unknown)),
        (2, br#"{"error":"#, None),
        (3, GZIP, Some(Code::OutOfRange)),
        (3, b"\x1f\x8b\x08\0\0\0\0\0\0\0not gzip", None),
    ];
    let mut fixture = following_connect();
    for (row, (flags, bytes, code)) in rows.into_iter().enumerate() {
        let stream = 2 * row as u32 + 1;
        let got = connect_call(&mut fixture, stream, STREAM, &response, |server| {
            server.tail(stream, flags, 0, bytes.len(), bytes);
        });
        assert_eq!(got, code, "row {row}");
    }
    // Without one, or with one that is another protocol's.
    assert_eq!(connect_call(&mut fixture, 101, STREAM, &response, |_| {}), None);
    let of_web = |server: &mut Writer| {
        server.tail(103, 0x80, 0, 13, b"grpc-status:9");
    };
    assert_eq!(connect_call(&mut fixture, 103, STREAM, &response, of_web), None);
    let response = [(":status", "404"), ("content-type", "text/plain")];
    let code = connect_call(&mut fixture, 105, STREAM, &response, |_| {});
    assert_eq!(code, Some(Code::Unimplemented));
}

#[test]
fn a_call_of_connect_that_is_reset_after_its_timeout_has_expired() {
    const MS: u64 = 1_000_000;
    let mut fixture = following_connect();
    fixture.time_ns = 10_000 * MS;
    for (stream, after_ms, code) in [(1, 50, Code::Canceled), (3, 150, Code::DeadlineExceeded)] {
        let fields = [
            (":method", "POST"),
            (":path", "/c.C/Get"),
            ("content-type", "application/proto"),
            ("connect-protocol-version", "1"),
            ("connect-timeout-ms", "100"),
        ];
        fixture.client.headers(0, stream, &fields);
        fixture.receive();
        fixture.time_ns += after_ms * MS;
        fixture.client.frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        fixture.receive();
        assert_eq!(fixture.ends().pop(), Some(end("/c.C/Get", code)));
    }
}

#[test]
fn a_client_may_reset_a_call_of_connect_once_it_has_the_error() {
    let fields = [
        (":method", "POST"),
        (":path", "/c.C/Get"),
        ("content-type", "application/proto"),
        ("connect-protocol-version", "1"),
    ];
    let mut fixture = following_connect();
    for (stream, status, content_type, error, code) in [
        (1, "404", "text/plain", None, Code::Unimplemented),
        (3, "404", "application/json", Some(5), Code::NotFound),
        (5, "404", "application/json", None, Code::Canceled),
        (7, "200", "application/proto", None, Code::Canceled),
    ] {
        fixture.client.headers(0, stream, &fields);
        fixture.receive();
        let response = [(":status", status), ("content-type", content_type)];
        fixture.server.headers(0, stream, &response);
        if let Some(number) = error {
            fixture.server.tail(stream, Tail::ERROR, number, 0, b"");
        }
        fixture.send();
        fixture.client.frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        fixture.receive();
        assert_eq!(fixture.ends().pop(), Some(end("/c.C/Get", code)), "{stream}");
    }
}

#[test]
fn a_client_may_reset_a_stream_of_connect_once_it_has_the_last_message() {
    let fields =
        [(":method", "POST"), (":path", "/c.C/Get"), ("content-type", "application/connect+proto")];
    let mut fixture = following_connect();
    // The last one is open when the client closes the connection.
    for (stream, last, code) in
        [(1, true, Code::Aborted), (3, false, Code::Canceled), (5, true, Code::Aborted)]
    {
        fixture.client.headers(0, stream, &fields);
        fixture.receive();
        fixture.server.headers(0, stream, &[(":status", "200")]);
        if last {
            let json = br#"{"error":{"code":"aborted"}}"#;
            fixture.server.tail(stream, 2, 0, json.len(), json);
        }
        fixture.send();
        if stream == 5 {
            fixture.close(Directions::default());
        } else {
            fixture.client.frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            fixture.receive();
        }
        assert_eq!(fixture.ends().pop(), Some(end("/c.C/Get", code)), "{stream}");
    }
}

#[test]
fn connect_is_not_followed_unless_it_is_asked_for() {
    let mut fixture = Fixture::from_start();
    for (stream, content_type) in [(1, "application/connect+proto"), (3, "application/proto")] {
        let fields = [
            (":method", "POST"),
            (":path", "/c.C/Get"),
            ("content-type", content_type),
            ("connect-protocol-version", "1"),
            ("connect-timeout-ms", "100"),
        ];
        fixture.client.headers(0, stream, &fields).data(stream, 1, data_flag::END_STREAM);
        fixture.receive();
    }
    assert_eq!(fixture.connection.state().streams.not_grpc, 2);
    // Nor are other requests of HTTP taken for it.
    let mut fixture = following_connect();
    for (stream, path) in [(1, "/c.C/Get"), (3, "/c.C/Get?connect=v2"), (5, "/?q=connect=v1")] {
        fixture.client.headers(flag::END_STREAM, stream, &[(":method", "GET"), (":path", path)]);
        fixture.receive();
    }
    assert_eq!(fixture.connection.state().streams.not_grpc, 3);
}

#[test]
fn trailers_that_never_end_are_bounded() {
    let mut fixture = following_web();
    for stream in (1..4_000).step_by(2) {
        fixture.client.web_request(stream, "application/grpc-web");
        fixture.receive();
        fixture.server.web_response(stream).tail(stream, 0x80, 0, 2_000, &[b'x'; 1_000]);
        fixture.send();
    }
    let calls = fixture.connection.calls.open();
    assert_eq!(calls, 2_000);
    fixture.client.frame(kind::GOAWAY, 0, 0, &[0; 8]);
    fixture.receive();
    fixture.connection.forget(fixture.time_ns, &mut fixture.sink);
    assert!(fixture.connection.memory() < 100 << 10, "{}", fixture.connection.memory());
}
