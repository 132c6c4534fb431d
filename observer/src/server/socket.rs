//! The socket of a connection, shared so that others can check whether the peer is still there.

use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A socket that is shared with [`Asker`]s. They do not keep it open.
#[derive(Debug)]
pub(super) struct Socket(Arc<TcpStream>);

/// The sender of a request.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    /// The address, or the network if one host may have any number of addresses.
    pub(super) origin: IpAddr,
    pub(super) stream: Weak<TcpStream>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(stream))
    }

    /// The peer of this socket.
    pub(super) fn asker(&self, peer: SocketAddr) -> Asker {
        Asker { origin: origin(peer.ip()), stream: Arc::downgrade(&self.0) }
    }

    /// Waits for the first byte. The end of the connection is an error.
    pub(super) async fn begins(&self) -> io::Result<()> {
        match self.0.peek(&mut [0]).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl Asker {
    /// Whether the peer has hung up, even if bytes that it sent before are not read yet: hyper does not notice that,
    /// because it reads on only after an answer.
    pub(super) fn is_gone(&self) -> bool {
        let Some(stream) = self.stream.upgrade() else { return true };
        let readiness = pin!(stream.ready(Interest::READABLE));
        let mut context = Context::from_waker(Waker::noop());
        matches!(readiness.poll(&mut context), Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }
}

/// The origin of an address. A host with an IPv6 address usually has all addresses of its /64.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address => address,
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Socket {
    fn poll_try_write(
        &self,
        context: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match write(&self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_try_write(context, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_try_write(context, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Write);
        Poll::Ready(ended.map_err(Into::into))
    }
}

#[cfg(test)]
mod tests {
    use super::origin;

    #[test]
    fn addresses_of_one_neighbour_are_one() {
        for (address, want) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::1"),
        ] {
            assert_eq!(
                origin(address.parse().expect("one")),
                want.parse::<std::net::IpAddr>().expect("one")
            );
        }
    }
}
