//! Sockets of every kind of [`Address`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{self, UnixListener, UnixStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, ipproto, sockopt};
use support::pace;
use support::raw::command::Address;

/// Time for a transfer on a socket.
const LIMIT: Duration = Duration::from_secs(8);

/// Listens; returns the address with the port that it got.
pub(crate) fn listen(address: &Address) -> Result<(OwnedFd, Address)> {
    let tcp = |ip: IpAddr, port: u16| TcpListener::bind((ip, port)).context("listen");
    let (listener, with_port): (_, fn(u16) -> Address) = match address {
        Address::V4(port) => (tcp(Ipv4Addr::LOCALHOST.into(), *port)?, Address::V4),
        Address::V6(port) => (tcp(Ipv6Addr::LOCALHOST.into(), *port)?, Address::V6),
        Address::Mapped(port) => (tcp(Ipv6Addr::UNSPECIFIED.into(), *port)?, Address::Mapped),
        Address::Shared(port) => {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            sockopt::set_socket_reuseport(&socket, true)?;
            (listen_at(socket, *port)?, Address::Shared)
        }
        Address::Multipath(port) => (listen_at(multipath()?, *port)?, Address::Multipath),
        Address::Unix(path) => return Ok((UnixListener::bind(path)?.into(), address.clone())),
        Address::Abstract(name) => {
            let at = net::SocketAddr::from_abstract_name(name)?;
            return Ok((UnixListener::bind_addr(&at)?.into(), address.clone()));
        }
        Address::Inherited(_) => bail!("an inherited listener listens already"),
    };
    let port = listener.local_addr()?.port();
    Ok((listener.into(), with_port(port)))
}

/// An MPTCP socket.
fn multipath() -> Result<OwnedFd> {
    rustix::net::socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::MPTCP))
        .context("an MPTCP socket")
}

fn listen_at(socket: OwnedFd, port: u16) -> Result<TcpListener> {
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket.into())
}

/// Connects to a server.
pub(crate) fn connect(address: &Address) -> Result<OwnedFd> {
    let tcp = |ip: IpAddr, port: u16| -> Result<OwnedFd> {
        let stream = TcpStream::connect((ip, port)).context("connect")?;
        stream.set_nodelay(true)?;
        Ok(stream.into())
    };
    let socket = match address {
        Address::V4(port) | Address::Shared(port) => tcp(Ipv4Addr::LOCALHOST.into(), *port)?,
        Address::V6(port) => tcp(Ipv6Addr::LOCALHOST.into(), *port)?,
        Address::Mapped(port) => tcp(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), *port)?,
        Address::Multipath(port) => {
            let socket = multipath()?;
            rustix::net::connect(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, *port)))?;
            socket
        }
        Address::Unix(path) => UnixStream::connect(path)?.into(),
        Address::Abstract(name) => {
            let at = net::SocketAddr::from_abstract_name(name)?;
            UnixStream::connect_addr(&at)?.into()
        }
        Address::Inherited(address) => connect(address)?,
    };
    limit(&socket)?;
    Ok(socket)
}

/// Connects to an IPv4 server from this local port.
pub(crate) fn connect_from(port: u16, address: &Address) -> Result<OwnedFd> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    // An earlier connection from this port may not be over.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    let to = address.port().context("not an address of TCP")?;
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    rustix::net::connect(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, to)))?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    limit(&socket)?;
    Ok(socket)
}

/// Accepts a connection, if there is one: on loopback there is once connect(2) has returned.
pub(crate) fn accept(listener: &OwnedFd) -> Result<Option<OwnedFd>> {
    rustix::io::ioctl_fionbio(listener, true)?;
    let socket = match rustix::net::accept(listener) {
        Ok(socket) => socket,
        Err(Errno::AGAIN) => return Ok(None),
        Err(error) => return Err(error).context("accept"),
    };
    limit(&socket)?;
    Ok(Some(socket))
}

fn limit(socket: &OwnedFd) -> Result<()> {
    for timeout in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
        sockopt::set_socket_timeout(socket, timeout, Some(pace::limit(LIMIT)))?;
    }
    Ok(())
}
