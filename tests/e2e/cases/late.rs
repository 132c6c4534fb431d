//! Connections that are joined late: the reported numbers are true, and what cannot be known is `not_seen`.

use std::cell::OnceCell;

use anyhow::{Context as _, Result, ensure};
use support::daemon::{Daemon, free_address};
use support::losses;
use support::raw::command::{Read, Write};
use support::raw::frames::Frames;
use support::raw::talk::Role::{self, Client, Server};
use support::raw::{Address, Talk};
use support::truth::code_name;

/// The length of a frame header.
const FRAME_HEADER: usize = 9;

use super::hostile::by_nobody;
use super::reports::{NOT_SEEN, ended_calls, flush_tables, not_found_label, reports_calls};
use super::{INTERNAL, NOT_FOUND, OK, Table};

pub(super) fn add(table: &mut Table) {
    table.not_for_tshark(
        "tshark cannot tell: these begin before they are watched, which is the question.",
    );
    labels(table);
    under_way(table);
    boundaries(table);
    headers_alone(table);
    forged(table);
    others(table);
}

/// Adds a case whose daemon joins the connection between `before` and `after`.
fn late(
    table: &mut Table,
    name: impl AsRef<str>,
    begin: impl for<'a> FnOnce(&'a Daemon, &str) -> Result<Talk<'a>> + Send + 'static,
    before: impl FnOnce(&mut Talk<'_>) -> Result<()> + Send + 'static,
    after: impl FnOnce(&mut Talk<'_>) -> Result<()> + Send + 'static,
) {
    table.case(name, move |early, name| {
        let joining = OnceCell::new();
        let mut talk = begin(early, name)?;
        before(&mut talk)?;
        let daemon = Daemon::start(&["--buckets", "1"])?;
        talk.daemon = joining.get_or_init(|| daemon);
        after(&mut talk)?;
        talk.end_peers()
    });
}

fn v4<'a>(daemon: &'a Daemon, name: &str) -> Result<Talk<'a>> {
    Talk::begin(daemon, name, Address::V4(0))
}

/// Makes two calls, so that the dynamic tables have all their fields.
fn warm(talk: &mut Talk<'_>) -> Result<()> {
    talk.call(1, "Get", OK)?;
    talk.call(3, "Get", OK)
}

fn labels(table: &mut Table) {
    late(table, "warm header tables: nothing is guessed", v4, warm, |talk| {
        for stream in [5, 7, 9] {
            talk.call(stream, "Get", OK)?;
        }
        reports_calls(talk, &[(NOT_SEEN, NOT_SEEN, 3)], 3, 0)
    });
    late(table, "what is inserted later is known", v4, warm, |talk| {
        for stream in [5, 7] {
            talk.call(stream, "New", OK)?;
        }
        talk.call(9, "New", NOT_FOUND)?;
        reports_calls(talk, &[("New", NOT_SEEN, 2), ("New", not_found_label(), 1)], 3, 0)
    });
    late(table, "tables that are filled anew are known", v4, warm, |talk| {
        talk.call(5, "Get", OK)?;
        talk.client(|f| flush_tables(f).request(7, "Get").last_message(7, 5))?;
        talk.server(|f| flush_tables(f).response(7).message(7, 6).trailers(7, OK))?;
        talk.call(9, "Get", OK)?;
        talk.call(11, "Get", NOT_FOUND)?;
        let want = [(NOT_SEEN, NOT_SEEN, 1), ("Get", "OK", 2), ("Get", not_found_label(), 1)];
        reports_calls(talk, &want, 4, 0)
    });
    late(table, "a header table of size 0 is known at once", v4, tableless, |talk| {
        talk.call(5, "Get", OK)?;
        talk.call(7, "Put", INTERNAL)?;
        reports_calls(talk, &[("Get", "OK", 1), ("Put", code_name(INTERNAL), 1)], 2, 0)
    });
}

/// Makes two calls, with dynamic tables of size 0.
fn tableless(talk: &mut Talk<'_>) -> Result<()> {
    talk.client(|f| f.resize_table(0).request(1, "Get").last_message(1, 5))?;
    talk.server(|f| f.resize_table(0).response(1).message(1, 6).trailers(1, OK))?;
    talk.call(3, "Get", OK)
}

fn under_way(table: &mut Table) {
    let open = |talk: &mut Talk<'_>| {
        warm(talk)?;
        talk.client(|f| f.request(5, "Stream").message(5, 5))?;
        talk.server(|f| f.response(5).message(5, 6))
    };
    late(table, "a call under way ends without a method", v4, open, |talk| {
        talk.client(|f| flush_tables(f).request(7, "Get").last_message(7, 5))?;
        talk.client(|f| f.message(5, 5).end(5))?;
        talk.server(|f| flush_tables(f).message(5, 6).trailers(5, NOT_FOUND))?;
        talk.server(|f| f.response(7).message(7, 6).trailers(7, OK))?;
        reports_calls(talk, &[(NOT_SEEN, not_found_label(), 1), ("Get", "OK", 1)], 1, 0)
    });
    late(table, "a call under way that is reset, or not ended, is not told of", v4, open, |talk| {
        talk.client(|f| flush_tables(f).request(7, "Get").last_message(7, 5).reset(5, 8))?;
        talk.server(|f| flush_tables(f).response(7).message(7, 6).trailers(7, OK))?;
        reports_calls(talk, &[("Get", "OK", 1)], 1, 0)
    });
    late(table, "a call that began before and never ends", v4, open, |talk| {
        talk.client(|f| flush_tables(f).request(7, "Get").last_message(7, 5))?;
        talk.server(|f| flush_tables(f).message(5, 6).response(7).message(7, 6).trailers(7, OK))?;
        reports_calls(talk, &[("Get", "OK", 1)], 1, 0)
    });
}

fn boundaries(table: &mut Table) {
    type Begin = for<'a> fn(&'a Daemon, &str) -> Result<Talk<'a>>;
    let addresses: [(&str, Begin); 2] = [
        ("a Unix socket", |daemon, name| Talk::begin(daemon, name, Address::Abstract(name.into()))),
        ("IPv6", |daemon, name| Talk::begin(daemon, name, Address::V6(0))),
    ];
    for (name, begin) in addresses {
        late(table, name, begin, tableless, |talk| {
            talk.call(5, "Get", OK)?;
            reports_calls(talk, &[("Get", "OK", 1)], 1, 0)
        });
    }
    // The message's bytes are frames: if they were taken for the stream's, there would be calls that were not made.
    late(table, "a large message half way, made of frames", v4, half_way, |talk| {
        for part in message_of_frames().chunks(7_001).skip(2) {
            talk.client(|f| f.bytes(part))?;
        }
        talk.server(|f| f.response(5).message(5, 6).trailers(5, NOT_FOUND))?;
        for stream in (7..27).step_by(2) {
            talk.call(stream, "Get", OK)?;
        }
        // The server's side is found at once, the client's after three whole calls.
        reports_calls(
            talk,
            &[(NOT_SEEN, not_found_label(), 1), (NOT_SEEN, "OK", 2), ("Get", "OK", 8)],
            8,
            0,
        )
    });
    late(table, "calls that are cut in the middle of frames", v4, tableless, |talk| {
        (talk.way.write, talk.way.read) = (Write::Pieces(20), Read::Pieces(20));
        for stream in (5..45).step_by(2) {
            talk.call(stream, "Get", OK)?;
        }
        (talk.way.write, talk.way.read) = (Write::Write, Read::Read);
        // The frames are found during these calls. Here they certainly are.
        for stream in (45..51).step_by(2) {
            talk.call(stream, "Put", OK)?;
        }
        let put = (String::from("Put"), String::from("OK"));
        for role in [Client, Server] {
            let pid = talk.pid(role)?;
            talk.daemon.wait_until(|metrics| {
                let calls = ended_calls(metrics, role, &pid).get(&put).copied().unwrap_or_default();
                let all = losses::is_as_expected(metrics, calls, 3.0);
                ensure!(all, "the {role:?} has {calls} of 3 calls");
                Ok(())
            })?;
        }
        Ok(())
    });
}

/// Reads of a frame's header by itself, and then of its payload, as in Go's net/http.
fn headers_alone(table: &mut Table) {
    let by_header = |talk: &mut Talk<'_>| {
        (talk.way.cut, talk.way.apart) = (Some(FRAME_HEADER), true);
    };
    late(table, "headers of frames by themselves: the first call is counted", v4, tableless, {
        move |talk| {
            by_header(talk);
            talk.call(5, "Get", OK)?;
            talk.call(7, "Put", NOT_FOUND)?;
            reports_calls(talk, &[("Get", "OK", 1), ("Put", not_found_label(), 1)], 2, 0)?;
            before_join(talk, 0)
        }
    });
    // The daemon joins between the header and the payload of a client's HEADERS.
    let in_between = |talk: &mut Talk<'_>| {
        tableless(talk)?;
        let request = request(5);
        let (header, _) = request.split_at(FRAME_HEADER);
        talk.client(|f| f.bytes(header))
    };
    late(table, "headers of frames by themselves: begun before a payload", v4, in_between, {
        move |talk| {
            let request = request(5);
            let (_, rest) = request.split_at(FRAME_HEADER);
            talk.client(|f| f.bytes(rest))?;
            by_header(talk);
            talk.server(|f| f.trailers_only(5, NOT_FOUND))?;
            talk.call(7, "Put", OK)?;
            reports_calls(talk, &[(NOT_SEEN, not_found_label(), 1), ("Put", "OK", 1)], 1, 0)?;
            // At both ends.
            before_join(talk, 2 * rest.len())
        }
    });
    // No program reads like this. But all missing bytes are counted.
    late(table, "headers of frames in two pieces", v4, tableless, |talk| {
        let before = talk.written(Client);
        let request = request(5);
        let (first, rest) = request.split_at(3);
        let (second, payload) = rest.split_at(6);
        for piece in [first, second, payload] {
            talk.client(|f| f.bytes(piece))?;
        }
        talk.server(|f| f.trailers_only(5, NOT_FOUND))?;
        // After a transfer that does not start with a frame, a boundary is believed only after whole calls, which are
        // not reported.
        for stream in [7, 9] {
            talk.call(stream, "Put", OK)?;
        }
        let lost = talk.written(Client) - before;
        for stream in [11, 13, 15] {
            talk.call(stream, "Put", OK)?;
        }
        reports_calls(
            talk,
            &[(NOT_SEEN, not_found_label(), 1), (NOT_SEEN, "OK", 2), ("Put", "OK", 3)],
            3,
            0,
        )?;
        before_join(talk, 2 * lost as usize)
    });
}

/// Builds frames that a message of stream 5 contains; each is written by itself.
type Forgery = fn(&mut Frames, u32);

/// The streams of forged frames: that of the message, some that may come next, and the last.
const FORGED: [u32; 5] = [7, 5, 9, 99, 0x7fff_ffff];

fn forged_calls(f: &mut Frames, stream: u32) {
    f.request(stream, "Forged").last_message(stream, 5).reset(stream, 8);
}

fn forged_requests(f: &mut Frames, stream: u32) {
    f.request(stream, "Forged").last_message(stream, 5);
}

fn forged_answers(f: &mut Frames, stream: u32) {
    f.response(stream).message(stream, 6).trailers(stream, INTERNAL);
}

/// Both ends are processes of the user nobody. The client has started to write a message when the daemon joins.
fn forged(table: &mut Table) {
    for (name, forgery) in [
        ("a client that forges calls in a message", forged_calls as Forgery),
        ("a client that forges requests in a message", forged_requests),
        ("a client that forges answers in a message", forged_answers),
    ] {
        late(table, name, by_nobody, upload, move |talk| {
            let left = forge(talk, Client, forgery)?;
            // The message ends with zeros, and the server, which has read only this, answers.
            talk.client(|f| f.bytes(&vec![0; left]))?;
            talk.client(|f| f.end(5))?;
            talk.server(|f| f.response(5).message(5, 6).trailers(5, NOT_FOUND))?;
            for stream in [7, 9, 11, 13] {
                talk.call(stream, "Get", OK)?;
            }
            reports_calls(talk, &[(NOT_SEEN, not_found_label(), 1), ("Get", "OK", 4)], 4, 0)
        });
    }
    // Together, two ends can forge calls: they could make them as well.
    let both = |talk: &mut Talk<'_>| {
        upload(talk)?;
        talk.server(|f| f.response(5).bytes(&DATA_OF_5))
    };
    late(table, "both ends that forge calls in messages", by_nobody, both, |talk| {
        forge(talk, Client, forged_requests)?;
        forge(talk, Server, forged_answers)?;
        reports_calls(talk, &[("Forged", code_name(INTERNAL), 5)], 5, 0)
    });
}

/// The header of a DATA frame of stream 5 with the default length, and the prefix of a message that fills it.
const DATA_OF_5: [u8; 14] = [0, 0x40, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0x3f, 0xfb];

/// Has the client start to write a message, with dynamic tables of size 0.
fn upload(talk: &mut Talk<'_>) -> Result<()> {
    tableless(talk)?;
    talk.client(|f| f.request(5, "Large").bytes(&DATA_OF_5))
}

/// Writes frames into the message, each by itself; returns the length of the message's rest.
fn forge(talk: &mut Talk<'_>, role: Role, forgery: Forgery) -> Result<usize> {
    let mut left = 0x3ffb;
    let service = talk.service().to_owned();
    for stream in FORGED {
        let mut frames = Frames::of(&service, support::raw::Shape::default());
        frames.resize_table(0);
        forgery(&mut frames, stream);
        let (bytes, starts) = frames.take();
        let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
        for (start, end) in starts.iter().zip(ends) {
            let frame = bytes.get(*start..end).context("frames that overlap")?;
            left -= frame.len();
            talk.send(role, |f| f.bytes(frame))?;
        }
    }
    Ok(left)
}

/// A request without a message, whose field block has no references to the dynamic table.
fn request(stream: u32) -> Vec<u8> {
    let mut frames = Frames::of("late", support::raw::Shape::default());
    frames.resize_table(0);
    let path = [(":method", "POST"), (":scheme", "http"), (":path", "/late/Get")];
    frames.headers(stream, true, &[&path[..], &[("content-type", "application/grpc")]].concat());
    frames.take().0
}

/// Waits until gaps with the cause `before_join` have this many bytes.
fn before_join(talk: &Talk<'_>, bytes: usize) -> Result<()> {
    let cause = [("cause", "before_join")];
    talk.daemon.wait_until(|metrics| {
        let seen = metrics.sum("observer_gap_bytes_total", &cause);
        let same = losses::is_as_expected(metrics, seen, bytes as f64);
        ensure!(same, "{seen} bytes before the join, not {bytes}");
        Ok(())
    })
}

/// Writes the client's first 14,002 bytes of a call with a large message.
fn half_way(talk: &mut Talk<'_>) -> Result<()> {
    tableless(talk)?;
    for part in message_of_frames().chunks(7_001).take(2) {
        talk.client(|f| f.bytes(part))?;
    }
    Ok(())
}

/// Request headers, and a message that contains whole calls.
fn message_of_frames() -> Vec<u8> {
    let mut inner = Frames::of("no.such.Service", support::raw::Shape::default());
    inner.resize_table(0);
    for stream in (1..2_001).step_by(2) {
        inner.request(stream, "Never").last_message(stream, 5).trailers(stream, INTERNAL);
    }
    let (inner, _) = inner.take();
    let mut outer = Frames::of("late", support::raw::Shape::default());
    let path = [(":method", "POST"), (":scheme", "http"), (":path", "/late/Large")];
    outer.headers(5, false, &[&path[..], &[("content-type", "application/grpc")]].concat());
    let message = [&[0][..], &(inner.len() as u32).to_be_bytes(), &inner].concat();
    for part in message.chunks(16_384) {
        outer.data(5, false, part);
    }
    outer.end(5);
    outer.take().0
}

fn others(table: &mut Table) {
    let rest = |talk: &mut Talk<'_>| exchange(talk, 1);
    late(table, "HTTP/2 that is not gRPC, its content type in the tables", v4, rest, |talk| {
        for stream in [3, 5, 7] {
            exchange(talk, stream)?;
        }
        reports_calls(talk, &[], 0, 0)?;
        unclear(talk, 3)?;
        // The same connection may carry both.
        talk.client(|f| flush_tables(f).request(9, "Get").last_message(9, 5))?;
        talk.server(|f| flush_tables(f).response(9).message(9, 6).trailers(9, OK))?;
        reports_calls(talk, &[("Get", "OK", 1)], 1, 0)
    });
    table.case("something else that was open before is given up", |early, name| {
        let joining = OnceCell::new();
        let address = Address::V4(free_address()?.port());
        let mut talk = Talk::connect(early, name, address)?;
        talk.client(|f| f.bytes(b"+PING\r\n"))?;
        talk.server(|f| f.bytes(b"+PONG\r\n"))?;
        let daemon = Daemon::start(&["--buckets", "1"])?;
        talk.daemon = joining.get_or_init(|| daemon);
        for _ in 0..300 {
            talk.client(|f| f.bytes(b"+PING\r\n"))?;
            talk.server(|f| f.bytes(b"+PONG\r\n"))?;
        }
        // Other connections of the machine may be given up too.
        let others = [("protocol", "other")];
        talk.daemon.wait_for_sum("observer_connections_seen_total", &others, 2.0..)?;
        reports_calls(&mut talk, &[], 0, 0)?;
        talk.end_peers()
    });
}

/// Makes a request over HTTP/2 that is not gRPC.
fn exchange(talk: &mut Talk<'_>, stream: u32) -> Result<()> {
    let request = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/api/v1"),
        ("content-type", "application/json"),
        ("x-request", "1"),
    ];
    let response = [(":status", "200"), ("content-type", "application/json"), ("x-served", "1")];
    talk.client(|f| f.headers(stream, false, &request).data(stream, true, b"{\"a\": 1}"))?;
    talk.server(|f| f.headers(stream, false, &response).data(stream, true, b"{}"))
}

/// Waits until the daemon reports this many streams, at each end, whose protocol is not known, or, if the kernel may
/// skip programs, gaps.
fn unclear(talk: &mut Talk<'_>, streams: u32) -> Result<()> {
    talk.daemon.wait_until(|metrics| {
        let seen = metrics.sum("observer_unmeasured_streams_total", &[("reason", "unclear")]);
        let want = f64::from(2 * streams);
        // Other connections of the machine may have some.
        ensure!(seen >= want || talk.is_excused(metrics), "{seen} of {want} streams are unclear");
        Ok(())
    })
}
