//! Clients that connect through an HTTP proxy by `CONNECT`, as their libraries do if the environment has one.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use support::daemon::Daemon;
use support::expected::Expected;
use support::losses;
use support::peer::{Client, Identity, Listen, Server};
use support::stack::Stack;
use support::truth::agree;

/// The server's name, which only the proxy knows: libraries connect to loopback addresses without a proxy.
const NAME: &str = "peer.test";

/// The calls of such a client are counted at all four sockets, without a gap.
pub(crate) fn calls_through_a_connect_proxy_are_counted(
    server: &Stack,
    client: &Stack,
    plan: &[Vec<Value>],
) -> Result<()> {
    let server = Server::start(server, Listen::V4)?;
    let port = server.port()?;
    let (proxy, address) = start(port.parse().context("a port")?)?;
    let daemon = Daemon::start(&["--port", &format!("{},{port}", address.port())])?;
    let target = format!("{NAME}:{port}");
    let (client, did) =
        Client::start_through(client, &format!("http://{address}"), &target, plan)?.finish()?;
    let expected = [
        Expected::of_client(&client, &did),
        Expected::of_server(server.identity(), &did),
        Expected::of_client(&proxy, &did).and(Expected::of_server(&proxy, &did)),
    ];
    let settled = daemon.settle(&expected);
    // If the peers do not agree, the daemon is not to blame.
    agree(&server.stop()?, &did)?;
    settled?;
    let metrics = daemon.scrape()?;
    let gaps = metrics.sum("observer_gaps_total", &[]);
    ensure!(gaps == 0.0 || losses::skipped_programs(&metrics).is_some(), "{gaps} gaps");
    Ok(())
}

/// Starts a proxy in this process, for connections to this port.
fn start(port: u16) -> Result<(Identity, SocketAddr)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("listen as a proxy")?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("proxy".into()).spawn(move || {
        for client in listener.incoming().flatten() {
            let name = "tunnel".into();
            // The client reports a tunnel that does not work.
            let _ = thread::Builder::new().name(name).spawn(move || serve(client, port));
        }
    })?;
    Ok((Identity::of_the_tests("a proxy")?, address))
}

fn serve(mut client: TcpStream, port: u16) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut piece = [0; 512];
        let n = client.read(&mut piece)?;
        ensure!(n > 0, "a head that ends early");
        head.extend(piece.get(..n).unwrap_or_default());
    }
    let asked = format!("CONNECT {NAME}:{port} HTTP/1.1\r\n");
    ensure!(head.starts_with(asked.as_bytes()), "{}", head.escape_ascii());
    let server = TcpStream::connect(("127.0.0.1", port))?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (from, to) = (client.try_clone()?, server.try_clone()?);
    let requests = thread::Builder::new().spawn(move || relay(from, to))?;
    let answered = relay(server, client);
    let _ = requests.join();
    answered
}

/// Copies bytes with read(2) and write(2) until the end.
fn relay(mut from: TcpStream, mut to: TcpStream) -> Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Ok(to.shutdown(Shutdown::Write)?);
        }
        to.write_all(buffer.get(..n).unwrap_or_default())?;
    }
}
