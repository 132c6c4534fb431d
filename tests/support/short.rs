//! Many short connections of this process with itself, each with one call.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};

use crate::raw::frames::{Frames, PREFACE, Shape};

/// The service of the calls.
pub const SERVICE: &str = "observer.test.v1.Short";

/// The end that closes a connection, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    ByClient,
    ByServer,
    /// The client resets the connection, so both of its ports are free at once.
    Reset,
}

impl Close {
    /// A port cannot be used for a second after the client has closed the connection, so that is the least frequent.
    fn of(number: u32) -> Self {
        match number % 8 {
            0 => Self::ByClient,
            1..4 => Self::ByServer,
            _ => Self::Reset,
        }
    }
}

/// Connections to one port, from an address of their own.
#[derive(Debug)]
pub struct Short {
    listener: TcpListener,
    server: SocketAddr,
}

impl Short {
    /// Listens.
    pub fn listen() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        let server = listener.local_addr()?;
        Ok(Self { listener, server })
    }

    /// The port, as an argument.
    pub fn port(&self) -> String {
        self.server.port().to_string()
    }

    /// Makes this many connections, one after the other. They come from few ports, which are used again and again, as
    /// soon as the kernel allows. Both ends close connections, in turns.
    pub fn make(&self, count: u32, ports: u16) -> Result<()> {
        let (request, response) = (request(), response());
        thread::scope(|scope| {
            let server = scope.spawn(|| {
                (0..count).try_for_each(|number| self.serve(number, request.len(), &response))
            });
            let made = (0..count).try_for_each(|number| {
                call(number, ports, self.server, &request, response.len())
                    .with_context(|| format!("connection {number}"))
            });
            if made.is_err() {
                // The server waits for the next connection.
                let _ = TcpStream::connect(self.server);
            }
            let served = server.join().map_err(|_| anyhow!("the server panicked"))?;
            made.and(served)
        })
    }

    fn serve(&self, number: u32, length: usize, response: &[u8]) -> Result<()> {
        let (mut stream, _) = self.listener.accept().context("accept")?;
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).context("read a request")?;
        stream.write_all(response).context("write a response")?;
        if Close::of(number) != Close::ByServer {
            match stream.read(&mut bytes) {
                Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn call(number: u32, ports: u16, server: SocketAddr, request: &[u8], length: usize) -> Result<()> {
    let mut stream = connected(number, ports, server)?;
    stream.write_all(request).context("write a request")?;
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).context("read a response")?;
    match Close::of(number) {
        Close::ByClient => {}
        Close::ByServer => drop(stream.read(&mut bytes)),
        Close::Reset => sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?,
    }
    Ok(())
}

/// A connection from the next of the ports that the kernel allows: others are still in use, or wait after a connection
/// that this end has closed first.
fn connected(number: u32, ports: u16, server: SocketAddr) -> Result<TcpStream> {
    const FIRST: u16 = 20_000;
    let start = (number % u32::from(ports)) as u16;
    for next in 0..ports {
        // An address that nobody else connects from.
        let port = FIRST + (start + next) % ports;
        let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 77), port);
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        match bind(&socket, &from).and_then(|()| connect(&socket, &server)) {
            Ok(()) => return Ok(socket.into()),
            Err(Errno::ADDRINUSE | Errno::ADDRNOTAVAIL) => {}
            Err(error) => return Err(error).context("connect"),
        }
    }
    Err(anyhow!("none of {ports} ports is free"))
}

fn request() -> Vec<u8> {
    let mut frames = Frames::of(SERVICE, Shape::default());
    frames.bytes(PREFACE).settings(&[]);
    frames.request(1, "Get").last_message(1, 5).take().0
}

fn response() -> Vec<u8> {
    let mut frames = Frames::default();
    frames.settings(&[]).response(1).message(1, 6).trailers(1, 0).take().0
}
