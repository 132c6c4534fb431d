//! Frames as RFC 9113 allows them, and system calls as programs make them: the layout of the bytes must not change
//! what is counted.

use anyhow::{Result, ensure};
use support::raw::command::{Read, Write};
use support::raw::frames::EmptyData::{End, Everywhere};
use support::raw::frames::{frame, message};
use support::raw::talk::Role::{Client, Server};
use support::raw::talk::Way;
use support::raw::{Action, Address, Call, Shape, Talk};

use super::{INVALID_ARGUMENT, NOT_FOUND, OK, Table, UNAVAILABLE};

/// Why cases with fragments are not compared with tshark.
const IN_FRAGMENTS: &str = "it does not tell which fields are of which block in fragments";

/// The length of a frame header, and of a message's prefix.
const FRAME_HEADER: usize = 9;
const PREFIX: usize = 5;

/// An indexed field that refers to the newest entry of the dynamic table (RFC 7541 §6.1).
const INDEXED_NEWEST: u8 = 0x80 + 62;

/// The largest length of a frame (RFC 9113 §4.2).
const MAX_FRAME: usize = (1 << 24) - 1;

// Settings (RFC 9113 §6.5.2).
const HEADER_TABLE_SIZE: u16 = 1;
const MAX_FRAME_SIZE: u16 = 5;

pub(super) fn add(table: &mut Table) {
    table.not_for_tshark(
        "tshark is not asked: what these are made of are too many frames, streams and bytes \
         for it to dissect in minutes, or header tables that it loses.",
    );
    table.together(|table| {
        headers(table);
        data(table);
        cuts(table);
        at_once(table, 100);
        tables(table);
        writes(table);
        reads(table);
    });
    table.unrecorded("so many frames take it minutes", many);
    large(table);
    let why = "what the daemon does not see passes the network all the same";
    table.unrecorded(why, discarded);
}

/// Makes calls of several types, two of them at the same time.
fn conversation(talk: &mut Talk<'_>) -> Result<()> {
    talk.client(|f| f.request(1, "Unary").last_message(1, 10).request(3, "Bidi").message(3, 0))?;
    talk.server(|f| f.response(3).message(3, 300).response(1).message(1, 7).trailers(1, OK))?;
    talk.client(|f| f.noise().message(3, 40_000).request(5, "Unary").last_message(5, 1))?;
    talk.server(|f| f.trailers_only(5, INVALID_ARGUMENT).message(3, 1).noise().message(3, 20_000))?;
    talk.client(|f| f.last_message(3, 2).request(7, "Unary").last_message(7, 11))?;
    talk.server(|f| f.trailers(3, NOT_FOUND).response(7).message(7, 0).trailers(7, OK))?;
    talk.expect(Call::new("Unary", OK).unary(10, 7))?;
    talk.expect(Call::new("Unary", OK).unary(11, 0))?;
    talk.expect(Call::new("Unary", INVALID_ARGUMENT).requests(&[1]))?;
    talk.expect(Call::new("Bidi", NOT_FOUND).requests(&[0, 40_000, 2]).responses(&[300, 1, 20_000]))
}

fn shaped(table: &mut Table, name: impl AsRef<str>, shape: Shape) {
    table.talk(name, move |talk| {
        talk.shape(shape);
        conversation(talk)
    });
}

fn on_the_way(table: &mut Table, name: impl AsRef<str>, way: Way) {
    table.talk(name, move |talk| {
        talk.way = way;
        conversation(talk)
    });
}

fn headers(table: &mut Table) {
    let shape = Shape::default();
    table.unrecorded(IN_FRAGMENTS, fragments);
    for padding in [0, 1, 255] {
        let padded = Shape { header_padding: Some(padding), ..shape };
        shaped(table, format!("HEADERS padded by {padding}"), padded);
    }
    shaped(table, "HEADERS with priority", Shape { priority: true, ..shape });
    table.talk("informational responses before the response", |talk| {
        talk.client(|f| f.request(1, "Get").last_message(1, 5))?;
        let link = ("link", "</style.css>; rel=preload");
        talk.server(|f| f.headers(1, false, &[(":status", "103"), link]))?;
        talk.server(|f| f.headers(1, false, &[(":status", "100")]))?;
        talk.server(|f| f.response(1).message(1, 6).trailers(1, NOT_FOUND))?;
        talk.client(|f| f.request(3, "Proxied").last_message(3, 5))?;
        talk.server(|f| f.headers(3, false, &[(":status", "103")]))?;
        talk.server(|f| f.headers(3, true, &[(":status", "503")]))?;
        talk.expect(Call::new("Get", NOT_FOUND).unary(5, 6))?;
        talk.expect(Call::new("Proxied", UNAVAILABLE).without_status().requests(&[5]))
    });
    table.talk("the reserved bit and flags without a meaning", |talk| {
        const RESERVED: u32 = 1 << 31;
        // `:status` 200, then `grpc-status` 5.
        let (response, trailers) = (b"\x88", b"\x40\x0bgrpc-status\x015");
        talk.client(|f| f.request(1, "Get"))?;
        talk.client(|f| f.frame(frame::DATA, 0xf7, 1 | RESERVED, &message(false, 5)))?;
        talk.server(|f| f.frame(frame::HEADERS, 0xd6, 1 | RESERVED, response))?;
        talk.server(|f| f.frame(frame::DATA, 0xf6, 1 | RESERVED, &message(false, 6)))?;
        talk.server(|f| f.frame(frame::HEADERS, 0xd7, 1 | RESERVED, trailers))?;
        talk.expect(Call::new("Get", NOT_FOUND).unary(5, 6))
    });
    table.talk("stream identifiers that leave some out, up to the last", |talk| {
        for stream in [1, 99, 101, 65_537, (1 << 31) - 1] {
            talk.call(stream, "Get", OK)?;
        }
        talk.expect(Call::new("Get", OK).unary(5, 6).times(5))
    });
    table.talk("trailers by the client", |talk| {
        talk.client(|f| f.request(1, "Put").message(1, 5).headers(1, true, &[("x-sum", "1")]))?;
        talk.server(|f| f.response(1).message(1, 6).trailers(1, OK))?;
        talk.expect(Call::new("Put", OK).unary(5, 6))
    });
    table.talk("PUSH_PROMISE keeps the header table in step", |talk| {
        talk.client(|f| f.request(1, "Get").last_message(1, 5))?;
        // Promises stream 2, and inserts what the trailers then refer to: `grpc-status: 5`.
        let promise = b"\0\0\0\x02\x40\x0bgrpc-status\x015";
        talk.server(|f| f.response(1).message(1, 6).frame(0x5, frame::END_HEADERS, 1, promise))?;
        talk.server(|f| f.frame(frame::HEADERS, 5, 1, &[INDEXED_NEWEST]))?;
        talk.expect(Call::new("Get", NOT_FOUND).unary(5, 6))
    });
}

fn fragments(table: &mut Table) {
    let shape = Shape::default();
    for fragments in [2, 3, 10, 50] {
        let shape = Shape { fragments, ..shape };
        shaped(table, format!("header blocks in {fragments} fragments, empty ones too"), shape);
    }
    for padding in [0, 1, 255] {
        let all = Shape { header_padding: Some(padding), priority: true, fragments: 3, ..shape };
        shaped(table, format!("HEADERS padded by {padding}, with priority, in 3 fragments"), all);
    }
}

fn data(table: &mut Table) {
    let shape = Shape::default();
    for padding in [0, 1, 255] {
        let shape = Shape { data_padding: Some(padding), ..shape };
        shaped(table, format!("DATA padded by {padding}"), shape);
    }
    shaped(table, "empty DATA between all", Shape { empty_data: Everywhere, ..shape });
    let empty_padded = Shape { empty_data: Everywhere, data_padding: Some(7), ..shape };
    shaped(table, "empty padded DATA between all", empty_padded);
    shaped(table, "END_STREAM on an empty DATA", Shape { empty_data: End, ..shape });
    shaped(table, "compressed flag set", Shape { compressed: true, ..shape });
    for max_data in [1, 2, 3, 4, 5, 6, 7, 100] {
        let shape = Shape { max_data, ..shape };
        shaped(table, format!("messages over DATA frames of {max_data} bytes"), shape);
        let padded = Shape { data_padding: Some(3), ..shape };
        shaped(table, format!("messages over padded DATA frames of {max_data} bytes"), padded);
    }
    table.talk("messages of three streams cut at each byte, mixed", |talk| {
        let streams = [1, 3, 5];
        streams.iter().try_for_each(|&stream| talk.client(|f| f.request(stream, "Bidi")))?;
        // The first part grows by a byte each time: through the prefix and the body.
        for cut in 1..20 {
            let whole = message(false, 15);
            let (first, second) = whole.split_at(cut);
            talk.client(|f| streams.iter().fold(f, |f, &stream| f.data(stream, false, first)))?;
            talk.client(|f| streams.iter().rev().fold(f, |f, &s| f.data(s, false, second)))?;
        }
        talk.client(|f| streams.iter().fold(f, |f, &stream| f.end(stream)))?;
        talk.server(|f| {
            streams.iter().fold(f, |f, &s| f.response(s).message(s, 1).trailers(s, 0))
        })?;
        talk.expect(Call::new("Bidi", OK).requests(&[15; 19]).responses(&[1]).times(3))
    });
    table.talk("1000 messages in one DATA frame", |talk| {
        let messages: Vec<u8> = (0..1000).flat_map(|_| message(false, 10)).collect();
        talk.client(|f| f.request(1, "Put").data(1, true, &messages))?;
        let empty: Vec<u8> = (0..3000).flat_map(|_| message(false, 0)).collect();
        talk.server(|f| f.response(1).data(1, false, &empty).trailers(1, OK))?;
        talk.expect(Call::new("Put", OK).requests(&[10; 1000]).responses(&vec![0; 3000]))
    });
    table.talk("a message that is cut off by END_STREAM is none", |talk| {
        talk.client(|f| f.request(1, "Put").message(1, 5))?;
        talk.client(|f| f.data(1, true, &cut_off()))?;
        talk.server(|f| f.trailers_only(1, INVALID_ARGUMENT))?;
        // It does not disturb the next stream either.
        talk.call(3, "Get", OK)?;
        talk.expect(Call::new("Put", INVALID_ARGUMENT).requests(&[5]))?;
        talk.expect(Call::new("Get", OK).unary(5, 6))
    });
    table.talk("a message of 4 GiB that never comes", |talk| {
        let begin = [0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3];
        talk.client(|f| f.request(1, "Put").data(1, false, &begin).data(1, false, &begin))?;
        talk.client(|f| f.request(3, "Get").last_message(3, 5).reset(1, 8))?;
        talk.server(|f| f.response(3).message(3, 6).data(3, false, &begin).trailers(3, NOT_FOUND))?;
        talk.expect(Call::new("Put", 1).without_status())?;
        talk.expect(Call::new("Get", NOT_FOUND).unary(5, 6))
    });
    table.talk("bytes after a message that are none", |talk| {
        talk.client(|f| f.request(1, "Put").message(1, 5).data(1, false, b"<html>"))?;
        // Later bytes that look like a message are not one either.
        talk.client(|f| f.message(1, 7).request(3, "Get").last_message(3, 5).end(1))?;
        talk.server(|f| f.trailers_only(1, INVALID_ARGUMENT).trailers_only(3, NOT_FOUND))?;
        talk.expect(Call::new("Put", INVALID_ARGUMENT).requests(&[5]))?;
        talk.expect(Call::new("Get", NOT_FOUND).requests(&[5]))
    });
    table.talk("a message that is cut off by RST_STREAM is none", |talk| {
        talk.client(|f| f.request(1, "Put").data(1, false, &cut_off()))?;
        talk.client(|f| f.reset(1, 8).request(3, "Put").message(3, 5))?;
        talk.server(|f| f.trailers_only(3, NOT_FOUND))?;
        talk.expect(Call::new("Put", 1).without_status())?;
        talk.expect(Call::new("Put", NOT_FOUND).requests(&[5]))
    });
}

/// The first half of a message.
fn cut_off() -> Vec<u8> {
    let mut message = message(false, 100);
    message.truncate(50);
    message
}

fn cuts(table: &mut Table) {
    for cut in 0..=FRAME_HEADER + PREFIX {
        let way = Way { cut: Some(cut), ..Way::default() };
        on_the_way(table, format!("each frame cut after {cut} bytes"), way);
    }
    for (where_to, cut) in [("9 and padded", FRAME_HEADER), ("its pad length", FRAME_HEADER + 1)] {
        table.talk(format!("each frame cut after {where_to}"), move |talk| {
            talk.way.cut = Some(cut);
            let (header_padding, data_padding) = (Some(9), Some(9));
            talk.shape(Shape { header_padding, data_padding, ..Shape::default() });
            conversation(talk)
        });
    }
}

fn many(table: &mut Table) {
    table.talk("10,000 calls in one write of 1 MiB", |talk| {
        const CALLS: u32 = 10_000;
        talk.way.read = Read::WaitAll;
        let streams = || (1..2 * CALLS).step_by(2);
        // HEADERS and DATA: about 104 bytes per call.
        talk.client(|f| streams().fold(f, |f, s| f.request(s, "Get").last_message(s, 76)))?;
        talk.in_flight(CALLS)?;
        talk.server(|f| streams().fold(f, |f, s| f.response(s).message(s, 50).trailers(s, OK)))?;
        talk.expect(Call::new("Get", OK).unary(76, 50).times(CALLS.into()))
    });
    table.talk("50,000 empty DATA frames and 50,000 empty messages in one write", |talk| {
        talk.way.read = Read::WaitAll;
        talk.client(|f| f.request(1, "Put"))?;
        talk.client(|f| (0..50_000).fold(f, |f, _| f.data(1, false, &[])))?;
        talk.client(|f| (0..50_000).fold(f, |f, _| f.message(1, 0)).end(1))?;
        talk.server(|f| f.trailers_only(1, NOT_FOUND))?;
        talk.expect(Call::new("Put", NOT_FOUND).requests(&vec![0; 50_000]))
    });
    table.talk("10,000 calls in partial writes of 10 MiB", |talk| {
        const CALLS: u32 = 10_000;
        talk.way.write = Write::Partial;
        let streams = || (1..2 * CALLS).step_by(2);
        talk.client(|f| streams().fold(f, |f, s| f.request(s, "Get").last_message(s, 1000)))?;
        talk.server(|f| streams().fold(f, |f, s| f.response(s).message(s, 999).trailers(s, OK)))?;
        talk.expect(Call::new("Get", OK).unary(1000, 999).times(CALLS.into()))
    });
    table.case("300,000 frames in one write are too many: a counted gap", |daemon, name| {
        const MESSAGES: u32 = 300_000;
        let mut talk = Talk::begin(daemon, name, Address::V4(0))?;
        talk.client(|f| f.request(1, "Put"))?;
        talk.client(|f| (0..MESSAGES).fold(f, |f, _| f.message(1, 0)))?;
        talk.server(|f| f.trailers_only(1, NOT_FOUND))?;
        let metrics = daemon.scrape()?;
        let (server, client) = (talk.pid(Server)?, talk.pid(Client)?);
        // The server reads fewer bytes at a time.
        let name = "grpc_server_msg_received_total";
        metrics.expect_sum(name, &[("pid", &server)], MESSAGES)?;
        let written = metrics.sum("grpc_client_msg_sent_total", &[("pid", &client)]);
        ensure!(written < f64::from(MESSAGES), "the client wrote {written} messages");
        for (role, pid) in [("server", server), ("client", client)] {
            let labels = [("pid", &*pid), ("grpc_code", "NotFound")];
            metrics.expect_sum(&format!("grpc_{role}_handled_total"), &labels, 1)?;
        }
        talk.finish_with_gaps()
    });
    at_once(table, 10_000);
    table.talk("10,000 messages at once, each cut", |talk| {
        const CALLS: u32 = 10_000;
        let streams = || (1..2 * CALLS).step_by(2);
        let whole = message(false, 20);
        let (first, second) = whole.split_at(3);
        talk.client(|f| streams().fold(f, |f, stream| f.request(stream, "Put")))?;
        talk.client(|f| streams().fold(f, |f, stream| f.data(stream, false, first)))?;
        talk.client(|f| streams().fold(f, |f, stream| f.data(stream, true, second)))?;
        talk.server(|f| streams().fold(f, |f, stream| f.trailers_only(stream, NOT_FOUND)))?;
        talk.expect(Call::new("Put", NOT_FOUND).requests(&[20]).times(CALLS.into()))
    });
}

fn at_once(table: &mut Table, calls: u32) {
    table.talk(format!("{calls} calls at once, answered in another order"), move |talk| {
        let streams = || (1..2 * calls).step_by(2);
        talk.client(|f| streams().fold(f, |f, stream| f.request(stream, "Bidi")))?;
        talk.client(|f| streams().fold(f, |f, stream| f.message(stream, 5)))?;
        talk.in_flight(calls)?;
        talk.server(|f| streams().rev().fold(f, |f, s| f.response(s).message(s, 7)))?;
        talk.client(|f| streams().fold(f, |f, stream| f.last_message(stream, 6)))?;
        talk.server(|f| streams().rev().fold(f, |f, s| f.message(s, 8).trailers(s, OK)))?;
        let call = Call::new("Bidi", OK).requests(&[5, 6]).responses(&[7, 8]);
        talk.expect(call.times(calls.into()))
    });
}

fn large(table: &mut Table) {
    table.unrecorded("so many bytes take it minutes", megabytes);
    long_block(table, 1, "one HEADERS frame");
    table.unrecorded(IN_FRAGMENTS, |table| {
        long_block(table, 5, "CONTINUATION");
        long_block(table, 1000, "1000 frames");
    });
}

fn long_block(table: &mut Table, fragments: usize, how: &str) {
    table.talk(format!("header blocks of 64 KiB in {how}"), move |talk| {
        talk.shape(Shape { fragments, ..Shape::default() });
        talk.server(|f| f.settings(&[(MAX_FRAME_SIZE, 1 << 17)]))?;
        talk.client(|f| f.settings(&[(MAX_FRAME_SIZE, 1 << 17)]))?;
        let long = "x".repeat(1 << 16);
        let more = [("x-long", &*long)];
        let trailers = [("grpc-status", "5"), ("x-long", &*long)];
        talk.client(|f| f.request_with(1, "Get", &more).last_message(1, 5))?;
        talk.server(|f| f.response(1).message(1, 6).headers(1, true, &trailers))?;
        // A field that is larger than the table has emptied it.
        talk.call(3, "Get", NOT_FOUND)?;
        talk.expect(Call::new("Get", NOT_FOUND).unary(5, 6).times(2))
    });
}

fn megabytes(table: &mut Table) {
    table.talk("a DATA frame of 16 MiB - 1", |talk| {
        talk.server(|f| f.settings(&[(MAX_FRAME_SIZE, MAX_FRAME as u32)]))?;
        let shape = Shape { max_data: MAX_FRAME, ..Shape::default() };
        talk.shape(shape);
        let length = MAX_FRAME - PREFIX;
        talk.client(|f| f.request(1, "Put").last_message(1, length))?;
        talk.server(|f| f.response(1).message(1, length).trailers(1, OK))?;
        talk.expect(Call::new("Put", OK).unary(length as u64, length as u64))
    });
    table.talk("a message of 64 MiB", |talk| {
        const LENGTH: usize = 64 << 20;
        talk.client(|f| f.request(1, "Put").last_message(1, LENGTH))?;
        talk.server(|f| f.response(1).message(1, 1).trailers(1, OK))?;
        talk.expect(Call::new("Put", OK).unary(LENGTH as u64, 1))
    });
}

fn tables(table: &mut Table) {
    table.talk("header tables of 0, 4096 and 65536, changed in mid-connection", |talk| {
        let mut stream = 1;
        for size in [4096, 0, 4096, 65_536, 100, 65_536, 0] {
            talk.server(|f| f.settings(&[(HEADER_TABLE_SIZE, size as u32)]))?;
            talk.client(|f| f.settings(&[(HEADER_TABLE_SIZE, size as u32)]))?;
            talk.client(|f| f.resize_table(size))?;
            talk.server(|f| f.resize_table(size))?;
            // More than 4096 bytes of entries, so that a table of another size differs.
            for index in 0..60 {
                let method = format!("Method{}", index % 40);
                talk.client(|f| f.request(stream, &method).last_message(stream, 5))?;
                let more = [("grpc-status", "5"), ("x-index", &*(index % 40).to_string())];
                talk.server(|f| f.response(stream).headers(stream, true, &more))?;
                talk.expect(Call::new(method, NOT_FOUND).requests(&[5]))?;
                stream += 2;
            }
        }
        Ok(())
    });
    table.talk("a header table emptied and grown in one block", |talk| {
        talk.client(|f| f.request(1, "Get").last_message(1, 5))?;
        talk.client(|f| f.resize_table(0).resize_table(4096).request(3, "Get").last_message(3, 5))?;
        talk.client(|f| f.request(5, "Get").last_message(5, 5))?;
        talk.server(|f| {
            f.trailers_only(1, 5).resize_table(0).resize_table(4096).trailers_only(3, 5)
        })?;
        talk.server(|f| f.trailers_only(5, NOT_FOUND))?;
        talk.expect(Call::new("Get", NOT_FOUND).requests(&[5]).times(3))
    });
}

fn writes(table: &mut Table) {
    for (name, write) in [
        ("write, 1 byte", Write::Pieces(1)),
        ("write, 10 bytes", Write::Pieces(10)),
        ("write, 1000 bytes", Write::Pieces(1000)),
        ("sendto", Write::Send),
        ("sendto, MSG_DONTWAIT", Write::Partial),
        ("writev, buffers of 1 byte", Write::Vector(1)),
        ("writev, buffers of 7 bytes", Write::Vector(7)),
        ("writev, buffers of 5000 bytes", Write::Vector(5000)),
        ("sendmsg, buffers of 1 byte", Write::Message(1)),
        ("sendmsg, buffers of 1000 bytes", Write::Message(1000)),
        ("sendmmsg, messages of 3 bytes", Write::Messages(3)),
        ("sendmmsg, messages of 1000 bytes", Write::Messages(1000)),
        ("sendto, MSG_ZEROCOPY", Write::ZeroCopy),
        ("pwritev2, buffers of 7 bytes", Write::Positioned(7)),
        ("pwritev2, buffers of 5000 bytes", Write::Positioned(5000)),
    ] {
        on_the_way(table, name, Way { write, ..Way::default() });
    }
}

fn reads(table: &mut Table) {
    for (name, read) in [
        ("read, 1 byte", Read::Pieces(1)),
        ("read, 10 bytes", Read::Pieces(10)),
        ("read, 1000 bytes", Read::Pieces(1000)),
        ("recvfrom", Read::Receive),
        ("recvfrom, MSG_PEEK before each read", Read::Peek),
        ("recvfrom, MSG_WAITALL", Read::WaitAll),
        ("readv, buffers of 1 byte", Read::Vector(1)),
        ("readv, buffers of 7 bytes", Read::Vector(7)),
        ("readv, buffers of 5000 bytes", Read::Vector(5000)),
        ("recvmsg, buffers of 1 byte", Read::Message(1)),
        ("recvmsg, buffers of 1000 bytes", Read::Message(1000)),
        ("recvmmsg, messages of 3 bytes", Read::Messages(3)),
        ("recvmmsg, messages of 1000 bytes", Read::Messages(1000)),
        ("preadv2, buffers of 7 bytes", Read::Positioned(7)),
        ("preadv2, buffers of 5000 bytes", Read::Positioned(5000)),
    ] {
        on_the_way(table, name, Way { read, ..Way::default() });
    }
    table.talk("read of 1 byte and a FIN", |talk| {
        talk.client(|f| f.request(1, "Get").last_message(1, 5))?;
        talk.way.read = Read::Pieces(1);
        talk.server(|f| f.response(1).message(1, 6).trailers(1, OK))?;
        talk.act(Server, Action::Shutdown)?;
        talk.expect(Call::new("Get", OK).unary(5, 6))
    });
}

fn discarded(table: &mut Table) {
    table.talk_to(
        "recvfrom, MSG_TRUNC: discarded bytes are a counted gap",
        |talk| talk.finish_with_gaps(),
        |talk| {
            talk.way.read = Read::Discard;
            talk.client(|f| f.request(1, "Get").last_message(1, 5))?;
            talk.way.read = Read::Read;
            talk.server(|f| f.trailers_only(1, NOT_FOUND))?;
            let of_server = [("pid", &*talk.pid(Server)?)];
            talk.daemon.scrape()?.expect_sum("grpc_server_started_total", &of_server, 0)
        },
    );
}
