//! Calls that end without trailers: by resets, GOAWAY, closed connections and killed processes.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use support::daemon::Daemon;
use support::losses;
use support::raw::command::{Read, Write};
use support::raw::frames::frame;
use support::raw::process::Start;
use support::raw::talk::Role::{self, Client, Server};
use support::raw::{Action, Address, Call, Talk};

use super::{
    CANCELED, DEADLINE_EXCEEDED, EITHER, INTERNAL, NOT_FOUND, OK, PERMISSION_DENIED,
    RESOURCE_EXHAUSTED, Table, UNAVAILABLE, UNIX, UNKNOWN,
};

// The HTTP/2 error codes that the cases name (RFC 9113 §7).
const NO_ERROR: u32 = 0x0;
const PROTOCOL_ERROR: u32 = 0x1;
const REFUSED_STREAM: u32 = 0x7;
const CANCEL: u32 = 0x8;

/// The most open calls of a connection that the daemon follows.
const MAX_OPEN: u32 = 65_536;

/// The highest stream: a GOAWAY with it ends no call (RFC 9113 §6.8).
const ALL_STREAMS: u32 = (1 << 31) - 1;

/// An end by name, and the other end.
const BOTH: [(&str, Role, Role); 2] = [("server", Server, Client), ("client", Client, Server)];

pub(super) fn add(table: &mut Table) {
    resets(table);
    deadlines(table);
    go_aways(table);
    connections(table);
    processes(table);
}

fn resets(table: &mut Table) {
    // gRPC over HTTP2, "Errors".
    for (error, name, code) in [
        (0x0, "NO_ERROR", INTERNAL),
        (0x1, "PROTOCOL_ERROR", INTERNAL),
        (0x2, "INTERNAL_ERROR", INTERNAL),
        (0x3, "FLOW_CONTROL_ERROR", INTERNAL),
        (0x4, "SETTINGS_TIMEOUT", INTERNAL),
        // It has no code there, so it is unknown.
        (0x5, "STREAM_CLOSED", UNKNOWN),
        (0x6, "FRAME_SIZE_ERROR", INTERNAL),
        (0x7, "REFUSED_STREAM", UNAVAILABLE),
        (0x8, "CANCEL", CANCELED),
        (0x9, "COMPRESSION_ERROR", INTERNAL),
        (0xa, "CONNECT_ERROR", INTERNAL),
        (0xb, "ENHANCE_YOUR_CALM", RESOURCE_EXHAUSTED),
        (0xc, "INADEQUATE_SECURITY", PERMISSION_DENIED),
        (0xd, "HTTP_1_1_REQUIRED", UNKNOWN),
        (0xdead, "an unknown error", UNKNOWN),
    ] {
        table.talk(format!("RST_STREAM by the server, {name}"), move |talk| {
            talk.client(|f| f.request(1, "AtOnce").request(3, "Late").message(3, 5))?;
            talk.server(|f| f.reset(1, error).response(3).message(3, 6).reset(3, error))?;
            talk.expect(Call::new("AtOnce", code).without_status())?;
            talk.expect(Call::new("Late", code).without_status().unary(5, 6))
        });
    }
    // Server libraries ignore the client's error code: it has given the call up.
    table.talk("RST_STREAM by the client, each error", |talk| {
        let errors = (0x0..=0xd).chain([0xdead]);
        for (stream, error) in (1..).step_by(2).zip(errors) {
            talk.client(|f| f.request(stream, "Get").message(stream, 5).reset(stream, error))?;
        }
        talk.expect(Call::new("Get", CANCELED).without_status().requests(&[5]).times(15))
    });
    table.talk("RST_STREAM(NO_ERROR) after trailers", |talk| {
        talk.client(|f| f.request(1, "Put").message(1, 5))?;
        talk.server(|f| f.trailers_only(1, OK).reset(1, NO_ERROR))?;
        talk.client(|f| f.reset(1, CANCEL))?;
        talk.expect(Call::new("Put", OK).requests(&[5]))
    });
    table.talk("RST_STREAM of streams that are not open", |talk| {
        talk.client(|f| f.request(1, "Get").last_message(1, 5).reset(7, CANCEL))?;
        talk.server(|f| f.reset(9, CANCEL).response(1).message(1, 6).trailers(1, OK))?;
        talk.client(|f| f.reset(1, CANCEL))?;
        talk.expect(Call::new("Get", OK).unary(5, 6))
    });
    table.talk("REFUSED_STREAM and a second attempt are two calls", |talk| {
        talk.client(|f| f.request(1, "Get").last_message(1, 5))?;
        talk.server(|f| f.reset(1, REFUSED_STREAM))?;
        let again = [("grpc-previous-rpc-attempts", "1")];
        talk.client(|f| f.request_with(3, "Get", &again).last_message(3, 5))?;
        talk.server(|f| f.response(3).message(3, 6).trailers(3, OK))?;
        talk.expect(Call::new("Get", UNAVAILABLE).without_status().requests(&[5]))?;
        talk.expect(Call::new("Get", OK).unary(5, 6))
    });
}

fn deadlines(table: &mut Table) {
    table.talk("RST_STREAM(CANCEL) by the client", |talk| {
        talk.client(|f| f.request(1, "BeforeMessage").reset(1, CANCEL))?;
        talk.client(|f| f.request(3, "BetweenMessages").message(3, 5))?;
        talk.server(|f| f.response(3).message(3, 6))?;
        talk.client(|f| f.reset(3, CANCEL))?;
        talk.client(|f| f.request(5, "HalfClosed").last_message(5, 5).reset(5, CANCEL))?;
        // The server had written this already.
        talk.server(|f| f.message(3, 7).trailers(3, OK).trailers_only(5, OK))?;
        talk.expect(Call::new("BeforeMessage", CANCELED).without_status())?;
        talk.expect(Call::new("BetweenMessages", CANCELED).without_status().unary(5, 6))?;
        talk.expect(Call::new("HalfClosed", CANCELED).without_status().requests(&[5]))
    });
    table.talk("RST_STREAM(CANCEL) by the client, deadlines not expired", |talk| {
        for (stream, timeout) in [(1, "10S"), (3, "1H"), (5, "99999999H"), (7, "5000m")] {
            let timeout = [("grpc-timeout", timeout)];
            talk.client(|f| f.request_with(stream, "Get", &timeout).last_message(stream, 5))?;
            talk.client(|f| f.reset(stream, CANCEL))?;
        }
        talk.expect(Call::new("Get", CANCELED).without_status().requests(&[5]).times(4))
    });
    table.talk("RST_STREAM(CANCEL) by the client, deadlines expired", |talk| {
        let timeouts = ["60m", "60000u", "60000000n"];
        for (stream, timeout) in (1..).step_by(2).zip(timeouts) {
            let timeout = [("grpc-timeout", timeout)];
            talk.client(|f| f.request_with(stream, "Get", &timeout).last_message(stream, 5))?;
        }
        sleep(Duration::from_millis(65));
        talk.client(|f| f.reset(1, CANCEL).reset(3, CANCEL).reset(5, CANCEL))?;
        talk.expect(Call::new("Get", DEADLINE_EXCEEDED).without_status().requests(&[5]).times(3))
    });
    for (name, by, error) in [
        ("RST_STREAM(CANCEL) by the server, deadline expired", Server, CANCEL),
        ("RST_STREAM by the client, deadline expired, another error", Client, PROTOCOL_ERROR),
    ] {
        table.talk(name, move |talk| {
            let timeout = [("grpc-timeout", "20m")];
            talk.client(|f| f.request_with(1, "Get", &timeout).last_message(1, 5))?;
            sleep(Duration::from_millis(25));
            talk.send(by, |f| f.reset(1, error))?;
            talk.expect(Call::new("Get", DEADLINE_EXCEEDED).without_status().requests(&[5]))
        });
    }
    table.talk(
        "RST_STREAM by the client at once, with a deadline: nobody knows when it gave up",
        |talk| {
            let timeout = [("grpc-timeout", "10S")];
            talk.client(|f| {
                f.request_with(1, "Get", &timeout).last_message(1, 5).reset(1, CANCEL)
            })?;
            talk.expect(Call::new("Get", EITHER).without_status().requests(&[5]))
        },
    );
    table.case("given up while the server, which alone is watched, does not read", read_late);
    let name = "given up, and reset unread by the server, which alone is watched";
    table.case(name, never_read);
    table.talk("RST_STREAM(CANCEL) by the client, deadlines that are none", |talk| {
        let timeouts = ["", "m", "1", "-1m", "1x", "123456789n", "1 m", "0x1m"];
        for (stream, timeout) in (1..).step_by(2).zip(timeouts) {
            let timeout = [("grpc-timeout", timeout)];
            talk.client(|f| f.request_with(stream, "Get", &timeout).reset(stream, CANCEL))?;
        }
        talk.expect(Call::new("Get", CANCELED).without_status().times(8))
    });
    table.talk("DEADLINE_EXCEEDED by the server", |talk| {
        let timeout = [("grpc-timeout", "10S")];
        talk.client(|f| f.request_with(1, "Get", &timeout).last_message(1, 5))?;
        talk.server(|f| f.trailers_only(1, DEADLINE_EXCEEDED))?;
        talk.expect(Call::new("Get", DEADLINE_EXCEEDED).requests(&[5]))
    });
    table.talk("an answer after the deadline", |talk| {
        let timeout = [("grpc-timeout", "10m")];
        talk.client(|f| f.request_with(1, "Get", &timeout).last_message(1, 5))?;
        sleep(Duration::from_millis(30));
        talk.server(|f| f.response(1).message(1, 6).trailers(1, OK))?;
        talk.client(|f| f.reset(1, CANCEL))?;
        talk.expect(Call::new("Get", OK).unary(5, 6))
    });
}

fn go_aways(table: &mut Table) {
    table.talk("GOAWAY, last stream below and above open calls", |talk| {
        for stream in [1, 3, 5, 7] {
            talk.client(|f| f.request(stream, "Get").last_message(stream, 5))?;
        }
        talk.server(|f| f.go_away(3, NO_ERROR))?;
        talk.in_flight(2)?;
        talk.server(|f| f.response(3).message(3, 6).trailers(3, OK).trailers_only(1, NOT_FOUND))?;
        talk.expect(Call::new("Get", UNAVAILABLE).without_status().requests(&[5]).times(2))?;
        talk.expect(Call::new("Get", OK).unary(5, 6))?;
        talk.expect(Call::new("Get", NOT_FOUND).requests(&[5]))
    });
    table.talk("GOAWAY in two steps, as a graceful server ends", |talk| {
        talk.client(|f| f.request(1, "Get").message(1, 5))?;
        talk.server(|f| f.go_away(ALL_STREAMS, NO_ERROR).noise())?;
        // This crosses the first GOAWAY, and is served.
        talk.client(|f| f.request(3, "Get").message(3, 5))?;
        talk.server(|f| f.go_away(3, NO_ERROR))?;
        // This crosses the second, and is not.
        talk.client(|f| f.request(5, "TooLate").message(5, 5))?;
        talk.in_flight(2)?;
        talk.server(|f| f.trailers_only(1, OK).trailers_only(3, OK))?;
        talk.expect(Call::new("Get", OK).requests(&[5]).times(2))?;
        talk.expect(Call::new("TooLate", UNAVAILABLE).without_status())
    });
    table.talk("GOAWAY with debug data", |talk| {
        talk.client(|f| f.request(1, "Get").message(1, 5).request(3, "Get").message(3, 5))?;
        // Last stream 1, ENHANCE_YOUR_CALM.
        let payload = [&[0, 0, 0, 1, 0, 0, 0, 11][..], &b"too_many_pings".repeat(100)].concat();
        talk.server(|f| f.frame(frame::GOAWAY, 0, 0, &payload).trailers_only(1, NOT_FOUND))?;
        talk.expect(Call::new("Get", NOT_FOUND).requests(&[5]))?;
        talk.expect(Call::new("Get", UNAVAILABLE).without_status().requests(&[5]))
    });
    table.talk("GOAWAY by the client concerns no call", |talk| {
        talk.client(|f| f.request(1, "Get").last_message(1, 5).go_away(0, NO_ERROR))?;
        talk.server(|f| f.response(1).message(1, 6).trailers(1, OK))?;
        talk.expect(Call::new("Get", OK).unary(5, 6))
    });
}

fn connections(table: &mut Table) {
    for (name, first, second) in BOTH {
        table.closed_talk(format!("connection closed by the {name}"), move |talk| {
            three_open_calls(talk, first)?;
            talk.act(first, Action::Close)?;
            talk.act(second, Action::Close)
        });
    }
    table.closed_talk("one direction closed by the client, answers in the other", |talk| {
        talk.client(|f| f.request(1, "Get").last_message(1, 5).request(3, "Open"))?;
        talk.act(Client, Action::Shutdown)?;
        talk.in_flight(2)?;
        talk.server(|f| f.response(1).message(1, 6).trailers(1, OK))?;
        talk.expect(Call::new("Get", OK).unary(5, 6))?;
        talk.expect(Call::cut(Client, "Open"))?;
        talk.act(Server, Action::Close)?;
        talk.act(Client, Action::Close)
    });
    for (name, first, second) in BOTH {
        table.closed_talk(format!("connection reset by the {name}"), move |talk| {
            three_open_calls(talk, first)?;
            talk.act(first, Action::Reset)?;
            talk.act(second, Action::Close)
        });
    }
    table.closed_talk("connection reset by the client, an answer unread", |talk| {
        talk.client(|f| f.request(1, "Get").last_message(1, 5))?;
        answer_unread(talk)?;
        talk.act(Client, Action::Reset)?;
        talk.act(Server, Action::Close)
    });
    let name = "an answer to a client that is gone, whose reset comes within the write";
    table.closed_talk(name, |talk| {
        talk.client(|f| f.request(1, "Get").last_message(1, 5))?;
        talk.in_flight(1)?;
        talk.act(Client, Action::Close)?;
        answer_unread(talk)?;
        talk.act(Server, Action::Close)
    });
    table.closed_talk("connection reset by the server, a request unread", |talk| {
        talk.client(|f| f.request(1, "Get").message(1, 5))?;
        talk.client_unread(|f| f.message(1, 7))?;
        talk.expect(Call::cut(Server, "Get").requests(&[5, 7]).requests_read(1))?;
        talk.act(Server, Action::Close)?;
        talk.act(Client, Action::Close)
    });
    table.talk("half-closed calls that never end stay in flight", |talk| {
        talk.client(|f| f.request(1, "Get").last_message(1, 5))?;
        talk.client(|f| f.request(3, "Get").last_message(3, 5))?;
        talk.server(|f| f.response(3).message(3, 6))?;
        talk.in_flight(2)?;
        for stream in (5..1005).step_by(2) {
            talk.client(|f| f.request(stream, "Other").last_message(stream, 1))?;
            talk.server(|f| f.trailers_only(stream, OK))?;
        }
        talk.in_flight(2)?;
        talk.expect(Call::new("Other", OK).requests(&[1]).times(500))?;
        talk.expect(Call::cut(Client, "Get").requests(&[5]))?;
        talk.expect(Call::cut(Client, "Get").unary(5, 6))
    });
    let why = "more is on the wire than is counted";
    table.unrecorded(why, beyond_the_bound);
    table.unrecorded(UNIX, over_unix_sockets);
}

/// The server answers, and the client does not read it.
fn answer_unread(talk: &mut Talk<'_>) -> Result<()> {
    talk.server_unread(|f| f.response(1).message(1, 6).trailers(1, NOT_FOUND))?;
    let call = Call::new("Get", CANCELED).server_code(NOT_FOUND);
    talk.expect(call.unary(5, 6).responses_read(0))
}

/// The time at which the bytes arrived shows when the client gave up, not the time of the read. Everything is two
/// seconds apart, which is enough also if threads wait for a CPU.
fn read_late(_: &Daemon, name: &str) -> Result<()> {
    const COMM: &str = "raw-late";
    let ends = [&Start::default(), &Start::named(COMM)?];
    let daemon = Daemon::start(&["--comm", COMM])?;
    let begin = || Talk::begin_from(&daemon, name, Address::V4(0), ends);
    let [mut cancelled, mut expired, mut several] = [begin()?, begin()?, begin()?];
    let of_3s = [("grpc-timeout", "3S")];
    let give_up = |talk: &mut Talk<'_>, method| -> Result<u64> {
        talk.client(|f| f.request_with(1, method, &of_3s))?;
        let read = talk.written(Client);
        talk.client_unread(|f| f.reset(1, CANCEL))?;
        Ok(read)
    };
    let cancelled_read = give_up(&mut cancelled, "Cancelled")?;
    let several_read = give_up(&mut several, "Several")?;
    let expired_read = expired.written(Client);
    expired.client_unread(|f| f.request_with(1, "Expired", &[("grpc-timeout", "1S")]))?;
    sleep(Duration::from_millis(3_200));
    read_from(&mut expired, expired_read)?;
    expired.client(|f| f.reset(1, CANCEL))?;
    sleep(Duration::from_secs(2));
    read_from(&mut cancelled, cancelled_read)?;
    several.client_unread(|f| f.request(3, "Other"))?;
    read_from(&mut several, several_read)?;
    for (mut talk, method, code) in [
        (cancelled, "Cancelled", "Canceled"),
        (expired, "Expired", "DeadlineExceeded"),
        (several, "Several", "CanceledOrDeadlineExceeded"),
    ] {
        let pid = talk.pid(Server)?;
        daemon.wait_until(|metrics| {
            let labels = [("pid", &*pid), ("grpc_method", method), ("grpc_code", code)];
            metrics.expect_sum("grpc_server_handled_total", &labels[..2], 1)?;
            metrics.expect_sum("grpc_server_handled_total", &labels, 1)
        })?;
        talk.end_peers()?;
    }
    daemon.stop()
}

/// A client gives up a call in time and exits after the deadline, and the server reads none of that. The end of the
/// connection does not show when the client gave up.
fn never_read(_: &Daemon, name: &str) -> Result<()> {
    const COMM: &str = "raw-unread";
    let ends = [&Start::default(), &Start::named(COMM)?];
    let daemon = Daemon::start(&["--comm", COMM])?;
    let begin = || Talk::begin_from(&daemon, name, Address::V4(0), ends);
    let [mut unread, mut read] = [begin()?, begin()?];
    for talk in [&mut unread, &mut read] {
        let timeout = [("grpc-timeout", "1S")];
        talk.client(|f| f.request_with(1, "Get", &timeout).last_message(1, 5))?;
    }
    unread.client_unread(|f| f.reset(1, CANCEL))?;
    sleep(Duration::from_millis(3_200));
    for (mut talk, code) in [(unread, "CanceledOrDeadlineExceeded"), (read, "DeadlineExceeded")] {
        let pid = talk.pid(Server)?;
        talk.act(Client, Action::Reset)?;
        talk.act(Server, Action::Close)?;
        daemon.wait_until(|metrics| {
            let labels = [("pid", &*pid), ("grpc_method", "Get"), ("grpc_code", code)];
            metrics.expect_sum("grpc_server_handled_total", &labels[..2], 1)?;
            metrics.expect_sum("grpc_server_handled_total", &labels, 1)
        })?;
        talk.end_peers()?;
    }
    daemon.stop()
}

/// Has the server read the client's bytes from this one on.
fn read_from(talk: &mut Talk<'_>, byte: u64) -> Result<()> {
    let length = usize::try_from(talk.written(Client) - byte)?;
    talk.act(Server, Action::Read { how: Read::Read, length })
}

fn beyond_the_bound(table: &mut Table) {
    table.talk("half-closed calls beyond the bound of a connection", |talk| {
        const OPENED: u32 = 70_000;
        let streams: Vec<u32> = (1..2 * OPENED).step_by(2).collect();
        talk.way.write = Write::Pieces(1 << 16);
        // The ring has no room for all records, so it is read in between.
        for streams in streams.chunks(10_000) {
            talk.client(|f| {
                streams.iter().fold(f, |f, &s| f.request(s, "Get").last_message(s, 1))
            })?;
            talk.daemon.scrape()?;
        }
        talk.in_flight(MAX_OPEN)?;
        // Two calls end. One of them is followed, and makes room for another.
        talk.server(|f| f.trailers_only(1, NOT_FOUND).trailers_only(2 * OPENED - 1, NOT_FOUND))?;
        talk.in_flight(MAX_OPEN - 1)?;
        for stream in [2 * OPENED + 1, 2 * OPENED + 3] {
            talk.client(|f| f.request(stream, "Get").last_message(stream, 1))?;
        }
        talk.in_flight(MAX_OPEN)?;
        talk.expect(Call::new("Get", NOT_FOUND).requests(&[1]))?;
        talk.expect(Call::cut(Client, "Get").requests(&[1]).times(MAX_OPEN.into()))
    });
    // If a start is missing, a call beyond the bound takes its place.
    table.only_if(!losses::kernel_may_skip_programs());
}

fn over_unix_sockets(table: &mut Table) {
    for (name, first, second) in BOTH {
        let closed = format!("connection over a Unix socket closed by the {name}");
        table.case(closed, move |daemon, name| {
            let mut talk = Talk::begin(daemon, name, Address::Abstract(name.into()))?;
            three_open_calls(&mut talk, first)?;
            talk.act(first, Action::Close)?;
            talk.act(second, Action::ReadEnd)?;
            talk.act(second, Action::Close)?;
            talk.finish_closed()
        });
        table.case(format!("{name} at a Unix socket killed in mid-stream"), move |daemon, name| {
            let mut talk = Talk::begin(daemon, name, Address::Abstract(name.into()))?;
            three_open_calls(&mut talk, first)?;
            talk.peer(first)?.kill()?;
            talk.act(second, Action::ReadEnd)?;
            talk.act(second, Action::Close)?;
            talk.finish_closed()
        });
    }
}

fn processes(table: &mut Table) {
    for (name, killed, other) in BOTH {
        table.closed_talk(format!("{name} killed in mid-stream"), move |talk| {
            three_open_calls(talk, killed)?;
            talk.peer(killed)?.kill()?;
            talk.act(other, Action::Close)
        });
        table.closed_talk(format!("{name} killed in the middle of a frame"), move |talk| {
            three_open_calls(talk, killed)?;
            // The first half of a frame of 100 bytes, and of a message.
            talk.client(|f| f.bytes(&[0, 0, 100, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 95, 1, 2, 3]))?;
            talk.server(|f| f.bytes(&[0, 0, 100, 1]))?;
            talk.peer(killed)?.kill()?;
            talk.act(other, Action::Close)
        });
    }
}

/// Opens a call in each state, before this end closes the connection.
fn three_open_calls(talk: &mut Talk<'_>, by: Role) -> Result<()> {
    talk.client(|f| f.request(1, "Begun").request(3, "HalfClosed").last_message(3, 5))?;
    talk.client(|f| f.request(5, "Answered").message(5, 5))?;
    talk.server(|f| f.response(5).message(5, 6).message(5, 7))?;
    talk.in_flight(3)?;
    talk.expect(Call::cut(by, "Begun"))?;
    talk.expect(Call::cut(by, "HalfClosed").requests(&[5]))?;
    talk.expect(Call::cut(by, "Answered").requests(&[5]).responses(&[6, 7]))
}
