//! Transports of HTTP/2, and other protocols on them.

use std::path::Path;

use anyhow::{Context as _, Result};
use support::daemon::{Daemon, free_address};
use support::losses;
use support::raw::command::{Read, Write};
use support::raw::frames::PREFACE;
use support::raw::talk::Role::{Client, Server};
use support::raw::{Action, Address, Call, Talk};

use super::{NOT_FOUND, OK, Table, UNIX, openings};

/// Why these cases are not compared with tshark: it must be given the ports that carry HTTP/2, which is the question.
const NOT_HTTP2_AT_FIRST: &str = "not all of what is sent is HTTP/2, or gRPC's";

/// The answer to `Upgrade: h2c` (RFC 7540 §3.2).
pub(super) const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";

pub(super) fn add(table: &mut Table) {
    table.not_for_tshark(
        "tshark cannot tell: Unix sockets pass no network interface, and which bytes are \
         HTTP/2, which is the question here, is what it is told.",
    );
    table.together(|table| {
        addresses(table);
        beginnings(table);
        table.unrecorded(NOT_HTTP2_AT_FIRST, upgrades);
        table.unrecorded(NOT_HTTP2_AT_FIRST, openings::add);
        content_types(table);
    });
    table.unrecorded(NOT_HTTP2_AT_FIRST, others);
}

/// Makes two calls, so that the second one's field block refers to the first one's fields.
pub(super) fn two_calls(talk: &mut Talk<'_>) -> Result<()> {
    for stream in [1, 3] {
        talk.call(stream, "Get", NOT_FOUND)?;
    }
    talk.expect(Call::new("Get", NOT_FOUND).unary(5, 6).times(2))
}

fn addresses(table: &mut Table) {
    for (name, address) in [
        ("IPv4", Address::V4(0)),
        ("IPv6", Address::V6(0)),
        ("IPv4 mapped to IPv6", Address::Mapped(0)),
    ] {
        table.case(name, move |daemon, name| over(daemon, name, address));
    }
    table.unrecorded(UNIX, unix_sockets);
    let multipath = Path::new("/proc/sys/net/mptcp").exists();
    table.alone_if(multipath, "MPTCP", |name| {
        over(&Daemon::start(&[])?, name, Address::Multipath(0))
    });
    for (is_there, name, address) in [
        (multipath, "MPTCP, with --port", Address::Multipath as fn(u16) -> Address),
        (true, "IPv4, with --port", Address::V4),
        (true, "IPv4 mapped to IPv6, with --port", Address::Mapped),
    ] {
        table.alone_if(is_there, name, move |name| {
            let (daemon, port) = with_a_port()?;
            over(&daemon, name, address(port))
        });
    }
}

fn unix_sockets(table: &mut Table) {
    table.case("a Unix socket with a path", |daemon, name| {
        let folder = tempfile::TempDir::with_prefix("raw-").context("create a folder")?;
        let path = folder.path().join("socket").to_string_lossy().into_owned();
        over(daemon, name, Address::Unix(path))
    });
    table.case("an abstract Unix socket", |daemon, name| {
        over(daemon, name, Address::Abstract(name.into()))
    });
    table.case("a Unix socket, bytes one by one", |daemon, name| {
        let mut talk = Talk::begin(daemon, name, Address::Abstract(name.into()))?;
        (talk.way.write, talk.way.read) = (Write::Pieces(1), Read::Pieces(1));
        two_calls(&mut talk)?;
        talk.finish()
    });
}

fn over(daemon: &Daemon, name: &str, address: Address) -> Result<()> {
    let mut talk = Talk::begin(daemon, name, address)?;
    two_calls(&mut talk)?;
    talk.finish()
}

fn beginnings(table: &mut Table) {
    begins(table, "the server's SETTINGS before the preface", |talk| {
        talk.server(|f| f.settings(&[(3, 100)]))?;
        talk.client(|f| f.bytes(PREFACE).settings(&[]))
    });
    begins(table, "the server's empty SETTINGS before the preface", |talk| {
        talk.server(|f| f.settings(&[]))?;
        talk.client(|f| f.bytes(PREFACE).settings(&[]))
    });
    table.unrecorded("it knows a preface only in one piece", prefaces_in_pieces);
    table.case("preface, SETTINGS and calls in one write", |daemon, name| {
        let mut talk = Talk::connect(daemon, name, Address::V4(0))?;
        talk.client(|f| {
            f.bytes(PREFACE).settings(&[(2, 0)]).request(1, "Get").last_message(1, 5);
            f.request(3, "Get").last_message(3, 5)
        })?;
        talk.server(|f| f.settings(&[]).trailers_only(3, NOT_FOUND).trailers_only(1, NOT_FOUND))?;
        talk.expect(Call::new("Get", NOT_FOUND).requests(&[5]).times(2))?;
        talk.finish()
    });
}

fn prefaces_in_pieces(table: &mut Table) {
    begins(table, "the server's SETTINGS before the preface, both byte by byte", |talk| {
        (talk.way.write, talk.way.read) = (Write::Pieces(1), Read::Pieces(1));
        talk.server(|f| f.settings(&[(3, 100)]))?;
        talk.client(|f| f.bytes(PREFACE).settings(&[]))
    });
    begins(table, "the preface byte by byte", |talk| {
        (talk.way.write, talk.way.read) = (Write::Pieces(1), Read::Pieces(1));
        talk.client(|f| f.bytes(PREFACE).settings(&[]))
    });
    for pieces in [2, 7, 8, 9, 23] {
        begins(table, &format!("the preface in pieces of {pieces}"), move |talk| {
            (talk.way.write, talk.way.read) = (Write::Pieces(pieces), Read::Pieces(pieces));
            talk.open_http2()
        });
    }
}

/// Adds a case with a connection that begins like this, and two calls on it.
pub(super) fn begins(
    table: &mut Table,
    name: &str,
    begin: impl FnOnce(&mut Talk<'_>) -> Result<()> + Send + 'static,
) {
    table.case(name, move |daemon, name| {
        let mut talk = Talk::connect(daemon, name, Address::V4(0))?;
        begin(&mut talk)?;
        two_calls(&mut talk)?;
        talk.finish()
    });
}

fn upgrades(table: &mut Table) {
    table.case("h2c upgrade: what was asked in HTTP/1.1 is no call", |daemon, name| {
        let mut talk = Talk::connect(daemon, name, Address::V4(0))?;
        upgrade(&mut talk)?;
        calls_after_upgrade(&mut talk)?;
        talk.finish()
    });
    table.case("h2c upgrade by 12 bytes, and then byte by byte", |daemon, name| {
        let mut talk = Talk::connect(daemon, name, Address::V4(0))?;
        // The daemon compares the first bytes with `HTTP/1.1 101` once.
        (talk.way.write, talk.way.read) = (Write::Pieces(12), Read::Pieces(12));
        upgrade(&mut talk)?;
        (talk.way.write, talk.way.read) = (Write::Pieces(1), Read::Pieces(1));
        calls_after_upgrade(&mut talk)?;
        talk.finish()
    });
    on_a_port(table, "h2c upgrade refused", |mut talk| {
        request_upgrade(&mut talk)?;
        talk.server(|f| f.bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno"))?;
        seen(talk.daemon, "http1", 2)?;
        talk.finish()
    });
}

fn request_upgrade(talk: &mut Talk<'_>) -> Result<()> {
    talk.client(|f| {
        f.bytes(
            b"GET /index HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n\
              Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        )
    })
}

fn upgrade(talk: &mut Talk<'_>) -> Result<()> {
    request_upgrade(talk)?;
    talk.server(|f| f.bytes(SWITCHING).settings(&[(3, 100)]))?;
    talk.client(|f| f.bytes(PREFACE).settings(&[]))
}

/// Answers the request of HTTP/1.1 on stream 1, and makes two calls.
fn calls_after_upgrade(talk: &mut Talk<'_>) -> Result<()> {
    talk.server(|f| f.headers(1, false, &[(":status", "200"), ("content-type", "text/html")]))?;
    talk.client(|f| f.request(3, "Get").last_message(3, 5))?;
    talk.server(|f| f.data(1, true, b"<html></html>").response(3).message(3, 6))?;
    talk.server(|f| f.trailers(3, NOT_FOUND))?;
    talk.call(5, "Get", NOT_FOUND)?;
    talk.expect(Call::new("Get", NOT_FOUND).unary(5, 6).times(2))
}

fn content_types(table: &mut Table) {
    for content_type in
        ["application/grpc+proto", "application/grpc+json", "application/grpc;charset=utf-8"]
    {
        table.talk(format!("{content_type} is gRPC"), move |talk| {
            let path = format!("/{}/Get", talk.service());
            let fields = [(":method", "POST"), (":path", &path), ("content-type", content_type)];
            talk.client(|f| f.headers(1, false, &fields).last_message(1, 5))?;
            talk.server(|f| f.response(1).message(1, 6).trailers(1, OK))?;
            talk.expect(Call::new("Get", OK).unary(5, 6))
        });
    }
}

/// Other protocols on a selected port: connections are counted, and nothing is measured.
fn others(table: &mut Table) {
    on_a_port(table, "HTTP/2 that is not gRPC on a selected port", |mut talk| {
        talk.open_http2()?;
        let html = [(":status", "200"), ("content-type", "text/html")];
        for (stream, content_type) in [(1, "application/json"), (3, "application/grpcx")] {
            let fields =
                [(":method", "POST"), (":path", "/api/v1"), ("content-type", content_type)];
            talk.client(|f| f.headers(stream, false, &fields).data(stream, true, b"{}"))?;
            talk.server(|f| f.headers(stream, false, &html).data(stream, true, b"<html>"))?;
        }
        talk.client(|f| f.headers(5, true, &[(":method", "GET"), (":path", "/")]))?;
        talk.server(|f| f.headers(5, true, &html))?;
        seen(talk.daemon, "http2", 2)?;
        // The same connection may carry both.
        talk.expected_call(7, "Get", OK)?;
        seen(talk.daemon, "grpc", 2)?;
        seen(talk.daemon, "http2", 0)?;
        talk.finish()
    });
    for content_type in ["application/grpc-web", "application/grpc-web+proto"] {
        let name = format!("{content_type} over HTTP/2 on a selected port");
        on_a_port(table, name, move |mut talk| {
            talk.open_http2()?;
            let kind = ("content-type", content_type);
            talk.client(|f| {
                f.headers(1, false, &[(":method", "POST"), (":path", "/a.B/C"), kind]);
                f.data(1, true, b"\0\0\0\0\x01x")
            })?;
            talk.server(|f| {
                f.headers(1, false, &[(":status", "200"), kind]);
                f.data(1, true, b"\0\0\0\0\x01x\x80\0\0\0\x0fgrpc-status:0\r\n")
            })?;
            seen(talk.daemon, "http2", 2)?;
            talk.finish()
        });
    }
    on_a_port(table, "gRPC-Web over HTTP/1.1 on a selected port", |mut talk| {
        talk.client(|f| {
            f.bytes(
                b"POST /a.B/C HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\
                  Content-Type: application/grpc-web+proto\r\n\r\n\0\0\0\0\x01x",
            )
        })?;
        talk.server(|f| f.bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))?;
        seen(talk.daemon, "http1", 2)?;
        then_grpc(talk)
    });
    on_a_port(table, "HTTP/1.1 on a selected port", |mut talk| {
        for _ in 0..3 {
            talk.client(|f| f.bytes(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))?;
            talk.server(|f| f.bytes(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))?;
        }
        seen(talk.daemon, "http1", 2)?;
        then_grpc(talk)
    });
    on_a_port(table, "something else on a selected port", |mut talk| {
        talk.client(|f| f.bytes(b"PRI * HTTP/1.0\r\n\r\n"))?;
        talk.server(|f| f.bytes(b"+OK\r\n"))?;
        seen(talk.daemon, "other", 2)?;
        then_grpc(talk)
    });
    table.alone("zeros over a Unix socket, as threads wake each other, are given up", |name| {
        let daemon = Daemon::start(&[])?;
        let (seen, others) = ("observer_connections_seen_total", [("protocol", "other")]);
        let before = daemon.scrape()?.sum(seen, &others);
        let mut talk = Talk::connect(&daemon, name, Address::Abstract(name.into()))?;
        talk.way.write = Write::Pieces(1);
        // Nine zeros are not the header of a SETTINGS frame. That is tried 256 times at each end, with reads of five
        // bytes and writes of one.
        for _ in 0..600 {
            talk.client(|f| f.bytes(&[0; 5]))?;
        }
        if talk.is_watched() {
            daemon.wait_for_sum(seen, &others, before + 2.0..)?;
        }
        then_grpc(talk)
    });
    // As few bytes at a time as suffice to recognize the protocol.
    for (protocol, pieces, first) in [
        ("http1", 4, &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..]),
        ("tls", 2, &[22, 3, 1, 0, 5, 1, 0, 0, 1, 3]),
        // A stream is opened, and data is sent on it.
        ("yamux", 12, &[0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]),
    ] {
        let name = format!("{protocol} by {pieces} bytes on a selected port");
        on_a_port(table, name, move |mut talk| {
            (talk.way.write, talk.way.read) = (Write::Pieces(pieces), Read::Pieces(pieces));
            talk.client(|f| f.bytes(first))?;
            seen(talk.daemon, protocol, 2)?;
            talk.finish()
        });
    }
    on_a_port(table, "TLS on a selected port, counted, said once", |mut talk| {
        for connections in [2, 4, 6] {
            // A ClientHello and a ServerHello of TLS 1.2; those of TLS 1.3 look the same.
            talk.client(|f| f.bytes(&[22, 3, 1, 0, 5, 1, 0, 0, 1, 3]))?;
            talk.server(|f| f.bytes(&[22, 3, 3, 0, 5, 2, 0, 0, 1, 3]))?;
            seen(talk.daemon, "tls", connections)?;
            talk.reconnect()?;
        }
        let daemon = talk.daemon;
        daemon.wait_for_log("carries TLS", 1..=1)?;
        talk.open_http2()?;
        two_calls(&mut talk)?;
        talk.finish()?;
        daemon.wait_for_log("carries TLS", 1..=1)
    });
    on_a_port(table, "TLS on a selected port, half-closed, counted once", half_closed);
}

/// TLS, whose ends close one direction and still read the other one.
fn half_closed(mut talk: Talk<'_>) -> Result<()> {
    const HELLO: &[u8] = &[22, 3, 1, 0, 5, 1, 0, 0, 1, 3];
    const ALERT: &[u8] = &[21, 3, 3, 0, 2, 1, 0];
    talk.client(|f| f.bytes(HELLO))?;
    talk.server(|f| f.bytes(HELLO))?;
    seen(talk.daemon, "tls", 2)?;
    talk.act(Client, Action::Shutdown)?;
    talk.server(|f| f.bytes(ALERT))?;
    talk.server_unread(|f| f.bytes(ALERT))?;
    talk.act(Server, Action::Shutdown)?;
    let read = Action::Read { how: talk.way.read, length: ALERT.len() };
    talk.act(Client, read)?;
    let daemon = talk.daemon;
    then_grpc(talk)?;
    seen(daemon, "tls", 2)
}

/// Makes calls on another connection of the same processes to the same port, which are measured.
pub(super) fn then_grpc(mut talk: Talk<'_>) -> Result<()> {
    talk.reopen()?;
    two_calls(&mut talk)?;
    talk.finish()
}

/// Adds a case with a daemon that watches one port, and a connection to it without bytes.
pub(super) fn on_a_port(
    table: &mut Table,
    name: impl AsRef<str>,
    run: impl FnOnce(Talk<'_>) -> Result<()> + Send + 'static,
) {
    table.alone(name, move |name| {
        let (daemon, port) = with_a_port()?;
        run(Talk::connect(&daemon, name, Address::V4(port))?)
    });
}

/// Starts a daemon that watches a free port.
fn with_a_port() -> Result<(Daemon, u16)> {
    let port = free_address()?.port();
    Ok((Daemon::start(&["--port", &port.to_string()])?, port))
}

/// Waits until the daemon has counted this many ends of connections with this protocol.
pub(super) fn seen(daemon: &Daemon, protocol: &str, ends: u32) -> Result<()> {
    daemon.wait_until(|metrics| {
        // Their first bytes may be in a gap.
        if losses::skipped_programs(metrics).is_some() {
            return Ok(());
        }
        metrics.expect_sum("observer_connections_seen_total", &[("protocol", protocol)], ends)
    })
}
