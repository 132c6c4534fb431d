//! `--port` selects the port that a server listens on, not a client's own port.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType};
use support::daemon::{Daemon, free_address};
use support::raw::frames::PREFACE;
use support::raw::process::Start;
use support::raw::talk::Role::{Client, Server};
use support::raw::{Address, Talk};

use super::reports::{NOT_SEEN, reports_calls, reports_calls_of};
use super::{OK, Table};

pub(super) fn add(table: &mut Table) {
    table.alone("--port, and a client that connects from it", |name| {
        let own = free_address()?.port();
        let daemon = Daemon::start(&["--port", &own.to_string()])?;
        let mut talk = Talk::connect(&daemon, name, Address::V4(0))?;
        talk.client_port = Some(own);
        talk.reopen()?;
        talk.call(1, "Get", OK)?;
        talk.call(3, "Get", OK)?;
        reports_calls(&mut talk, &[], 0, 0)?;
        talk.finish()
    });
    table.case("--port, and a client that has connected from it before", |early, name| {
        let own = free_address()?.port();
        let mut talk = Talk::connect(early, name, Address::V4(0))?;
        talk.client_port = Some(own);
        talk.reopen()?;
        talk.call(1, "Get", OK)?;
        let daemon = Daemon::start(&["--port", &own.to_string()])?;
        talk.daemon = &daemon;
        for stream in [3, 5, 7] {
            talk.call(stream, "New", OK)?;
        }
        reports_calls(&mut talk, &[], 0, 0)?;
        daemon.scrape()?.expect_sum("observer_connections_seen_total", &[], 0)?;
        talk.end_peers()
    });
    table.case("--port of a server that was connected to before", |early, name| {
        let mut talk = Talk::begin(early, name, Address::V4(0))?;
        talk.call(1, "Get", OK)?;
        let port = talk.address().port().context("a port")?.to_string();
        let daemon = Daemon::start(&["--port", &port])?;
        talk.daemon = &daemon;
        for stream in [3, 5, 7] {
            talk.call(stream, "New", OK)?;
        }
        reports_calls(&mut talk, &[("New", NOT_SEEN, 3)], 3, 0)?;
        talk.end_peers()
    });
    for backlog in [0, 16] {
        table.alone(format!("--port of a listener with a queue of {backlog}"), move |name| {
            let listener = listen(backlog)?;
            let server = Start { listener: Some(listener.as_raw_fd()), ..Start::default() };
            let port = listener.local_addr()?.port();
            let daemon = Daemon::start(&["--port", &port.to_string()])?;
            let address = Address::Inherited(Box::new(Address::V4(port)));
            let mut talk = Talk::begin_from(&daemon, name, address, [&Start::default(), &server])?;
            talk.expected_call(1, "Get", OK)?;
            talk.expected_call(3, "Get", OK)?;
            talk.finish()
        });
    }
    // The end that connected serves, but the other one listens on the port.
    table.alone("--port, and a client that serves", |name| {
        let own = free_address()?.port();
        let early = Daemon::start(&["--port", &own.to_string()])?;
        let mut talk = Talk::connect(&early, name, Address::V4(0))?;
        let port = talk.address().port().context("a port")?.to_string();
        let listened = Daemon::start(&["--port", &port])?;
        talk.client_port = Some(own);
        talk.reconnect()?;
        talk.server(|f| f.bytes(PREFACE).settings(&[(2, 0)]))?;
        talk.client(|f| f.settings(&[(3, 1 << 20)]))?;
        talk.server(|f| f.request(1, "Get").last_message(1, 5))?;
        talk.client(|f| f.response(1).message(1, 6).trailers(1, OK))?;
        let [listens, connects] = [talk.pid(Server)?, talk.pid(Client)?];
        for (daemon, calls) in [(&listened, 1.0), (&early, 0.0)] {
            daemon.wait_until(|metrics| {
                metrics.expect_sum("grpc_client_handled_total", &[("pid", &listens)], calls)?;
                metrics.expect_sum("grpc_server_handled_total", &[("pid", &connects)], calls)
            })?;
        }
        reports_calls_of(&mut talk, Client, &[], 0, 0)?;
        talk.end_peers()
    });
}

fn listen(backlog: i32) -> Result<TcpListener> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    rustix::net::listen(&socket, backlog)?;
    fcntl_setfd(&socket, FdFlags::empty())?;
    Ok(socket.into())
}
