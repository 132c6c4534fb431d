//! Status codes: the forms in which servers send them, and calls without one.

use anyhow::Result;
use support::raw::{Call, Talk};

use super::{
    INTERNAL, NOT_FOUND, OK, PERMISSION_DENIED, Table, UNAUTHENTICATED, UNAVAILABLE, UNIMPLEMENTED,
    UNKNOWN,
};

pub(super) fn add(table: &mut Table) {
    table.together(statuses);
}

fn statuses(table: &mut Table) {
    table.talk("all of them, trailers-only", |talk| all(talk, trailers_only));
    for messages in [0, 1, 100] {
        table.talk(format!("all of them, in trailers after {messages} messages"), move |talk| {
            all(talk, |talk, stream, method, code| trailers(talk, stream, method, code, messages))
        });
    }

    for (status, code) in [
        (200, UNKNOWN),
        (400, INTERNAL),
        (401, UNAUTHENTICATED),
        (403, PERMISSION_DENIED),
        (404, UNIMPLEMENTED),
        (429, UNAVAILABLE),
        (500, UNKNOWN),
        (502, UNAVAILABLE),
        (503, UNAVAILABLE),
        (504, UNAVAILABLE),
        // Two of the others.
        (302, UNKNOWN),
        (418, UNKNOWN),
    ] {
        table.talk(format!("no grpc-status, HTTP status {status}"), move |talk| {
            no_grpc_status(talk, &status.to_string(), code)
        });
    }

    for (value, code) in [
        ("99", UNKNOWN),
        ("17", UNKNOWN),
        ("-1", UNKNOWN),
        ("4294967296", UNKNOWN),
        ("", UNKNOWN),
        ("NOT_FOUND", UNKNOWN),
        ("+5", NOT_FOUND),
    ] {
        table.talk(format!("grpc-status {value:?}"), move |talk| odd_status(talk, value, code));
    }

    table.talk("grpc-status beside an HTTP status that is not 200", |talk| {
        let unavailable = [(":status", "503"), ("grpc-status", "5")];
        talk.client(|f| f.request(1, "Get").last_message(1, 3))?;
        talk.server(|f| f.headers(1, true, &unavailable))?;
        talk.client(|f| f.request(3, "Get").last_message(3, 3))?;
        talk.server(|f| f.headers(3, false, &[(":status", "503")]).trailers(3, NOT_FOUND))?;
        talk.expect(Call::new("Get", NOT_FOUND).requests(&[3]).times(2))
    });
    table.talk("grpc-status twice: the last counts", |talk| {
        let twice = [("grpc-status", "0"), ("grpc-status", "13")];
        talk.client(|f| f.request(1, "Get").last_message(1, 3))?;
        talk.server(|f| f.response(1).message(1, 4).headers(1, true, &twice))?;
        talk.client(|f| f.request(3, "Get").last_message(3, 3))?;
        talk.server(|f| f.response(3).message(3, 4).headers(3, true, &[twice[1], twice[0]]))?;
        talk.expect(Call::new("Get", INTERNAL).unary(3, 4))?;
        talk.expect(Call::new("Get", OK).unary(3, 4))
    });
    table.talk("grpc-message, percent-encoded", |talk| {
        let message = ("grpc-message", "nowhere%3A 100%25 gr%C3%BCn%0A");
        talk.client(|f| f.request(1, "Get").last_message(1, 3))?;
        talk.server(|f| f.response(1).headers(1, true, &[("grpc-status", "5"), message]))?;
        talk.client(|f| f.request(3, "Get").last_message(3, 3))?;
        talk.server(|f| f.response(3).headers(3, true, &[message, ("grpc-status", "5")]))?;
        talk.expect(Call::new("Get", NOT_FOUND).requests(&[3]).times(2))
    });
    table.talk("trailers with more than gRPC's fields", |talk| {
        let more = [("grpc-status", "0"), ("x-trace", "abc"), ("grpc-status-details-bin", "CAU")];
        talk.client(|f| f.request(1, "Get").last_message(1, 3))?;
        talk.server(|f| f.response(1).message(1, 4).headers(1, true, &more))?;
        talk.expect(Call::new("Get", OK).unary(3, 4))
    });
    table.talk("an answer before the request has ended", |talk| {
        talk.client(|f| f.request(1, "Put").message(1, 3))?;
        talk.server(|f| f.trailers_only(1, NOT_FOUND).reset(1, 0))?;
        talk.expect(Call::new("Put", NOT_FOUND).requests(&[3]))
    });
    table.unrecorded("the wire has a status that is not the call's", status_too_early);
}

fn status_too_early(table: &mut Table) {
    table.talk("grpc-status in headers that end nothing, then an empty DATA that does", |talk| {
        let headers =
            [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "5")];
        talk.client(|f| f.request(1, "Get").last_message(1, 3))?;
        talk.server(|f| f.headers(1, false, &headers).data(1, true, b""))?;
        talk.expect(Call::new("Get", UNKNOWN).without_status().requests(&[3]))
    });
}

/// Makes a call for each code.
fn all(
    talk: &mut Talk<'_>,
    call: impl Fn(&mut Talk<'_>, u32, &str, i32) -> Result<()>,
) -> Result<()> {
    (0..17).try_for_each(|code| call(talk, 2 * code as u32 + 1, &format!("Code{code}"), code))
}

fn trailers_only(talk: &mut Talk<'_>, stream: u32, method: &str, code: i32) -> Result<()> {
    talk.client(|f| f.request(stream, method).last_message(stream, 10))?;
    talk.server(|f| f.trailers_only(stream, code))?;
    talk.expect(Call::new(method, code).requests(&[10]))
}

fn trailers(
    talk: &mut Talk<'_>,
    stream: u32,
    method: &str,
    code: i32,
    messages: usize,
) -> Result<()> {
    talk.client(|f| f.request(stream, method).last_message(stream, 10))?;
    talk.server(|f| {
        f.response(stream);
        (0..messages).for_each(|_| _ = f.message(stream, 7));
        f.trailers(stream, code)
    })?;
    talk.expect(Call::new(method, code).requests(&[10]).responses(&vec![7; messages]))
}

/// Answers without a `grpc-status`, as proxies send them.
fn no_grpc_status(talk: &mut Talk<'_>, status: &str, code: i32) -> Result<()> {
    let fields = [(":status", status), ("content-type", "text/html")];
    talk.client(|f| f.request(1, "HeadersOnly").last_message(1, 10))?;
    talk.server(|f| f.headers(1, true, &fields))?;
    talk.client(|f| f.request(3, "Page").last_message(3, 10))?;
    talk.server(|f| f.headers(3, false, &fields).data(3, true, b"<html>no</html>"))?;
    talk.client(|f| f.request(5, "Trailers").last_message(5, 10))?;
    talk.server(|f| f.headers(5, false, &fields).headers(5, true, &[("x-proxy", "p1")]))?;
    for method in ["HeadersOnly", "Page", "Trailers"] {
        talk.expect(Call::new(method, code).without_status().requests(&[10]))?;
    }
    Ok(())
}

fn odd_status(talk: &mut Talk<'_>, value: &str, code: i32) -> Result<()> {
    talk.client(|f| f.request(1, "Get").last_message(1, 10))?;
    talk.server(|f| f.response(1).message(1, 5).headers(1, true, &[("grpc-status", value)]))?;
    talk.expect(Call::new("Get", code).unary(10, 5))
}
