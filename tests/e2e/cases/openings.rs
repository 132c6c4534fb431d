//! Bytes before the client preface: PROXY headers, `CONNECT` through a proxy, `101 Switching Protocols` whose sender
//! becomes the client. Also bytes that only look like these, or never end.

use anyhow::Result;
use support::raw::command::{Read, Write};
use support::raw::frames::PREFACE;
use support::raw::talk::Role::Server;
use support::raw::{Action, Address, Call, Talk};

use super::transports::{SWITCHING, begins, on_a_port, seen, then_grpc, two_calls};
use super::{NOT_FOUND, Table};

pub(super) fn add(table: &mut Table) {
    for (name, header) in proxy_headers() {
        proxied(table, name, &header);
    }
    tunnels(table);
    reversed(table);
    nothing_of_http2(table);
    hostile(table);
}

/// PROXY headers of version 1 and 2 (haproxy's proxy-protocol.txt).
fn proxy_headers() -> [(&'static str, Vec<u8>); 7] {
    let ports = [56_324_u16.to_be_bytes(), 443_u16.to_be_bytes()].concat();
    let ipv4 = [&[127, 0, 0, 1, 127, 0, 0, 1][..], &ports].concat();
    let ipv6 = [&[0x20; 32][..], &ports].concat();
    // PP2_TYPE_NOOP, whose value looks like the end of a header and the preface.
    let value: Vec<u8> =
        b"\r\n\r\nPRI * HTTP/2.0\r\n\r\n".iter().copied().cycle().take(65_520).collect();
    let [high, low] = (value.len() as u16).to_be_bytes();
    let long = [&ipv4, &[4, high, low][..], &value].concat();
    [
        ("v1", b"PROXY TCP4 127.0.0.1 127.0.0.1 56324 443\r\n".to_vec()),
        ("v1 UNKNOWN", b"PROXY UNKNOWN\r\n".to_vec()),
        ("v2", binary(0x21, 0x11, &ipv4)),
        ("v2 of IPv6", binary(0x21, 0x21, &ipv6)),
        ("v2 of Unix sockets", binary(0x21, 0x31, &[b'a'; 216])),
        ("v2 of 65,535 bytes", binary(0x21, 0x11, &long)),
        ("v2 LOCAL", binary(0x20, 0, &[])),
    ]
}

fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, rest].concat()
}

fn proxied(table: &mut Table, name: &str, header: &[u8]) {
    let bytes = header.to_vec();
    begins(table, &format!("PROXY {name}, in a write of its own"), move |talk| {
        talk.client(|f| f.bytes(&bytes))?;
        talk.open_http2()
    });
    let bytes = header.to_vec();
    begins(table, &format!("PROXY {name}, in one write with the preface"), move |talk| {
        talk.client(|f| f.bytes(&bytes).bytes(PREFACE).settings(&[(2, 0)]))?;
        talk.server(|f| f.settings(&[(3, 1 << 20)]))
    });
    let bytes = header.to_vec();
    let by_itself = format!("PROXY {name}, written with the preface, read by itself");
    begins(table, &by_itself, move |talk| {
        talk.client_unread(|f| f.bytes(&bytes).bytes(PREFACE).settings(&[]))?;
        for (how, length) in [(Read::Peek, bytes.len()), (Read::Read, PREFACE.len() + 9)] {
            talk.act(Server, Action::Read { how, length })?;
        }
        talk.server(|f| f.settings(&[]))
    });
    // A long header is cut into few pieces.
    let pieces = if header.len() > 1_000 { [700, 16_383] } else { [1, 5] };
    for pieces in pieces {
        let bytes = header.to_vec();
        begins(table, &format!("PROXY {name}, in pieces of {pieces}"), move |talk| {
            (talk.way.write, talk.way.read) = (Write::Pieces(pieces), Read::Pieces(pieces));
            talk.client(|f| f.bytes(&bytes).bytes(PREFACE).settings(&[]))?;
            talk.server(|f| f.settings(&[]))
        });
    }
}

const CONNECT: &[u8] =
    b"CONNECT 127.0.0.1:50051 HTTP/1.1\r\nHost: 127.0.0.1:50051\r\nUser-Agent: a\r\n\r\n";
const LONG: &[u8] = b"CONNECT 127.0.0.1:50051 HTTP/1.1\r\nHost: a\r\nX: ";
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// `CONNECT`, seen at the client and at the proxy's socket to it. For the server it is an ordinary connection.
fn tunnels(table: &mut Table) {
    for (name, response) in [
        ("200", ESTABLISHED),
        ("200 by HTTP/1.0, and nothing else", b"HTTP/1.0 200\r\n\r\n"),
        ("204 with fields", b"HTTP/1.1 204 No Content\r\nVia: 1.1 proxy\r\nX: \r\r\n \r\n\r\n"),
    ] {
        begins(table, &format!("CONNECT, answered by {name}"), move |talk| {
            tunnel(talk, &[CONNECT], response)
        });
    }
    begins(table, "CONNECT, the server's SETTINGS in one write with the answer", |talk| {
        talk.client(|f| f.bytes(CONNECT))?;
        talk.server(|f| f.bytes(ESTABLISHED).settings(&[(3, 100)]))?;
        talk.client(|f| f.bytes(PREFACE).settings(&[]))
    });
    begins(table, "CONNECT with a head of 60 KiB", |talk| {
        tunnel(talk, &[LONG, &vec![b'a'; 60 << 10], b"\r\n\r\n"], ESTABLISHED)
    });
    for pieces in [1, 7, 8, 12, 60] {
        begins(table, &format!("CONNECT in pieces of {pieces}"), move |talk| {
            (talk.way.write, talk.way.read) = (Write::Pieces(pieces), Read::Pieces(pieces));
            tunnel(talk, &[CONNECT], ESTABLISHED)
        });
    }
    begins(table, "CONNECT to a proxy that is sent a PROXY header first", |talk| {
        tunnel(talk, &[b"PROXY UNKNOWN\r\n", CONNECT], ESTABLISHED)
    });
    table.case("CONNECT over a Unix socket", |daemon, name| {
        let mut talk = Talk::connect(daemon, name, Address::Abstract(name.into()))?;
        tunnel(&mut talk, &[CONNECT], ESTABLISHED)?;
        two_calls(&mut talk)?;
        talk.finish()
    });
}

/// Opens HTTP/2 after a request to a proxy, in one write, and its response.
fn tunnel(talk: &mut Talk<'_>, request: &[&[u8]], response: &[u8]) -> Result<()> {
    talk.client(|f| f.bytes(&request.concat()))?;
    talk.server(|f| f.bytes(response))?;
    talk.open_http2()
}

/// Reversed connections, as docker's `/session`: the end that got the request becomes the client.
fn reversed(table: &mut Table) {
    const SESSION: &[u8] =
        b"POST /session HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\
        Content-Length: 0\r\n\r\n";
    type Begin = fn(&mut Talk<'_>) -> Result<()>;
    let ways: [(&str, Begin); 4] = [
        ("in a write of its own", |talk| {
            talk.server(|f| f.bytes(SWITCHING))?;
            talk.server(|f| f.bytes(PREFACE).settings(&[]))?;
            talk.client(|f| f.settings(&[]))
        }),
        ("in one write with the answer", |talk| {
            talk.server(|f| f.bytes(SWITCHING).bytes(PREFACE).settings(&[]))?;
            talk.client(|f| f.settings(&[]))
        }),
        ("after the other's SETTINGS", |talk| {
            talk.server(|f| f.bytes(SWITCHING))?;
            talk.client(|f| f.settings(&[(3, 100)]))?;
            talk.server(|f| f.bytes(PREFACE).settings(&[]))
        }),
        ("in pieces of 12", |talk| {
            (talk.way.write, talk.way.read) = (Write::Pieces(12), Read::Pieces(12));
            talk.server(|f| f.bytes(SWITCHING).bytes(PREFACE).settings(&[]))?;
            talk.client(|f| f.settings(&[]))
        }),
    ];
    for (name, begin) in ways {
        let name = format!("101, and then a preface by who sent it, {name}");
        table.case(name, move |daemon, name| {
            let mut talk = Talk::connect(daemon, name, Address::V4(0))?;
            talk.client(|f| f.bytes(SESSION))?;
            begin(&mut talk)?;
            for stream in [1, 3] {
                talk.server(|f| f.request(stream, "Get").last_message(stream, 5))?;
                talk.client(|f| f.response(stream).message(stream, 6).trailers(stream, NOT_FOUND))?;
            }
            talk.expect_from(Server, Call::new("Get", NOT_FOUND).unary(5, 6).times(2))?;
            talk.finish()
        });
    }
}

/// Other protocols after such bytes, on a selected port: counted by the later protocol.
fn nothing_of_http2(table: &mut Table) {
    const HELLO: &[u8] = &[22, 3, 1, 0, 5, 1, 0, 0, 1, 3];
    let kinds: [(&str, &str, [&[u8]; 3]); 7] = [
        ("CONNECT, and then TLS", "tls", [CONNECT, ESTABLISHED, HELLO]),
        ("CONNECT, and then something else", "http1", [CONNECT, ESTABLISHED, b"+PING\r\n"]),
        (
            "CONNECT, refused",
            "http1",
            [CONNECT, b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", b""],
        ),
        ("CONNECT, answered with something else", "http1", [CONNECT, b"+PONG\r\n", b""]),
        (
            "a PROXY header, and then HTTP/1.1",
            "http1",
            [b"PROXY UNKNOWN\r\n", b"", b"GET / HTTP/1.1\r\n\r\n"],
        ),
        ("a PROXY header, and then TLS", "tls", [b"PROXY UNKNOWN\r\n", b"", HELLO]),
        (
            "a PROXY header, and then something else",
            "other",
            [b"PROXY UNKNOWN\r\n", b"", b"+PING\r\n"],
        ),
    ];
    for (name, protocol, sent) in kinds {
        counted(table, name, protocol, move |talk| {
            let [request, response, then] = sent;
            talk.client(|f| f.bytes(request))?;
            talk.server(|f| f.bytes(response))?;
            talk.client(|f| f.bytes(then))
        });
    }
    counted(table, "CONNECT, never answered", "http1", |talk| {
        talk.client(|f| f.bytes(CONNECT))?;
        talk.close()
    });
}

fn counted(
    table: &mut Table,
    name: &str,
    protocol: &'static str,
    begin: impl FnOnce(&mut Talk<'_>) -> Result<()> + Send + 'static,
) {
    on_a_port(table, format!("{name}, on a selected port"), move |mut talk| {
        begin(&mut talk)?;
        seen(talk.daemon, protocol, 2)?;
        talk.daemon.wait_for_log("a selected connection", 1..=1)?;
        then_grpc(talk)
    });
}

/// Openings without an end are given up, or cost no more than their bytes.
fn hostile(table: &mut Table) {
    for (name, protocol, begin) in [
        ("a PROXY line without end", "other", &b"PROXY TCP4 "[..]),
        ("a CONNECT without end", "http1", b"CONNECT "),
    ] {
        counted(table, name, protocol, move |talk| {
            talk.client(|f| f.bytes(begin))?;
            for _ in 0..16 {
                talk.client(|f| f.bytes(&vec![b'a'; 64 << 10]))?;
            }
            Ok(())
        });
    }
    let name = "PROXY headers one after the other, 2 MiB of them, and then the preface";
    begins(table, name, |talk| {
        let header = binary(0x21, 0x11, &vec![b'\r'; 65_535]);
        (0..32).try_for_each(|_| talk.client(|f| f.bytes(&header)))?;
        talk.open_http2()
    });
}
