//! Sockets of all kinds of addresses.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{self, UnixListener, UnixStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, ipproto, sockopt};
use support::pace;
use support::raw::command::Address;

/// A peer that waits longer than this waits for nothing.
const LIMIT: Duration = Duration::from_secs(8);

pub(crate) fn listen(address: &Address) -> Result<(OwnedFd, Address)> {
    let tcp = |address: SocketAddr| -> Result<(OwnedFd, u16)> {
        let listener = TcpListener::bind(address).context("listen")?;
        let port = listener.local_addr()?.port();
        Ok((listener.into(), port))
    };
    Ok(match address {
        Address::V4(port) => {
            let (listener, port) = tcp((Ipv4Addr::LOCALHOST, *port).into())?;
            (listener, Address::V4(port))
        }
        Address::V6(port) => {
            let (listener, port) = tcp((Ipv6Addr::LOCALHOST, *port).into())?;
            (listener, Address::V6(port))
        }
        Address::Mapped(port) => {
            let (listener, port) = tcp((Ipv6Addr::UNSPECIFIED, *port).into())?;
            (listener, Address::Mapped(port))
        }
        Address::Shared(port) => {
            let (listener, port) = listen_shared(*port)?;
            (listener, Address::Shared(port))
        }
        Address::Multipath(port) => {
            let (listener, port) = listen_at(multipath()?, *port)?;
            (listener, Address::Multipath(port))
        }
        Address::Unix(path) => (UnixListener::bind(path)?.into(), address.clone()),
        Address::Abstract(name) => {
            let at = net::SocketAddr::from_abstract_name(name)?;
            (UnixListener::bind_addr(&at)?.into(), address.clone())
        }
        Address::Inherited(_) => bail!("an inherited listener listens already"),
    })
}

fn listen_shared(port: u16) -> Result<(OwnedFd, u16)> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    listen_at(socket, port)
}

/// An MPTCP socket.
fn multipath() -> Result<OwnedFd> {
    rustix::net::socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::MPTCP))
        .context("an MPTCP socket")
}

fn listen_at(socket: OwnedFd, port: u16) -> Result<(OwnedFd, u16)> {
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    rustix::net::listen(&socket, 16)?;
    let listener = TcpListener::from(socket);
    let port = listener.local_addr()?.port();
    Ok((listener.into(), port))
}

pub(crate) fn connect(address: &Address) -> Result<OwnedFd> {
    let tcp = |address: SocketAddr| -> Result<OwnedFd> {
        let stream = TcpStream::connect(address).context("connect")?;
        stream.set_nodelay(true)?;
        Ok(stream.into())
    };
    let socket = match address {
        Address::V4(port) | Address::Shared(port) => tcp((Ipv4Addr::LOCALHOST, *port).into()),
        Address::V6(port) => tcp((Ipv6Addr::LOCALHOST, *port).into()),
        Address::Mapped(port) => tcp((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), *port).into()),
        Address::Multipath(port) => {
            let socket = multipath()?;
            rustix::net::connect(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, *port)))?;
            Ok(socket)
        }
        Address::Unix(path) => Ok(UnixStream::connect(path)?.into()),
        Address::Abstract(name) => {
            let at = net::SocketAddr::from_abstract_name(name)?;
            Ok(UnixStream::connect_addr(&at)?.into())
        }
        Address::Inherited(address) => connect(address),
    }?;
    limit(&socket)?;
    Ok(socket)
}

/// To a server of IPv4, from a port that the socket is bound to.
pub(crate) fn connect_from(port: u16, address: &Address) -> Result<OwnedFd> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    // An earlier connection from there may not be over.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    let to = address.port().context("not an address of TCP")?;
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    rustix::net::connect(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, to)))?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    limit(&socket)?;
    Ok(socket)
}

/// On loopback a connection is there once connect(2) has returned.
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
