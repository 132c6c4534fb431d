//! From a file descriptor to the socket behind it, and what there is to know of a socket.

use observer_common::{
    driver::{arrival::Arrival, connection::counted, gap},
    layout::Field,
    record::OpenItem,
};

use crate::{
    globals,
    kernel::{Address, current_task, load, process_name, read, read_into, ticks},
    maps::{CONNECTED, CONNECTIONS, Values as _},
};

pub const AF_UNIX: u16 = 1;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
const SOCK_STREAM: u16 = 1;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_MPTCP: u16 = 262;

/// A socket: `struct sock` and what tells it from an earlier one at the same address.
#[derive(Clone, Copy)]
pub struct Socket {
    pub sock: Address,
    pub inode: u64,
}

impl Socket {
    /// The socket behind a file descriptor of the current task; `None` for any other file.
    ///
    /// `current->files->fdt->fd[fd]->private_data` is a `struct socket` if the file's inode lies
    /// where `struct socket_alloc` has it: beside that socket.
    #[inline(always)]
    pub fn of_fd(fd: u32) -> Option<Self> {
        let files: *const u8 = load(current_task().cast(), Field::TaskFiles);
        if files.is_null() {
            return None;
        }
        let fdt: *const u8 = load(files, Field::FilesFdt);
        if fdt.is_null() || fd >= load::<u32>(fdt, Field::FdtMaxFds) {
            return None;
        }
        let slots: u64 = load(fdt, Field::FdtFd);
        let slot = slots + u64::from(fd) * 8;
        // SAFETY: the helper checks the address.
        let file: Address =
            unsafe { aya_ebpf::helpers::bpf_probe_read_kernel(slot as *const u64) }.ok()?;
        let socket: Address = read(file, Field::FilePrivateData)?;
        // Most files have nothing there.
        if socket == 0 {
            return None;
        }
        let inode: Address = read(file, Field::FileInode)?;
        if inode != inode_of(socket) {
            return None;
        }
        let sock: Address = read(socket, Field::SocketSk)?;
        Some(Self { sock, inode: read(inode, Field::InodeNumber)? })
    }

    /// The socket that a `struct sock` belongs to; `None` once it is closed.
    #[inline(always)]
    pub fn of_sock(sock: Address) -> Option<Self> {
        if globals::has(Field::SockInode) {
            let inode = read(sock, Field::SockInode)?;
            return (inode != 0).then_some(Self { sock, inode });
        }
        let socket: Address = read(sock, Field::SockSocket)?;
        Some(Self { sock, inode: read(inode_of(socket), Field::InodeNumber)? })
    }

    /// The socket that is a `struct socket`.
    #[inline(always)]
    pub fn of_socket(socket: Address) -> Option<Self> {
        let sock: Address = read(socket, Field::SocketSk)?;
        Some(Self { sock, inode: read(inode_of(socket), Field::InodeNumber)? })
    }

    /// Whether this is still the open socket that it was.
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        let Some(socket) = read::<Address>(self.sock, Field::SockSocket) else { return false };
        socket != 0
            && read(socket, Field::SocketSk) == Some(self.sock)
            && read(inode_of(socket), Field::InodeNumber) == Some(self.inode)
    }
}

impl gap::Socket for Socket {
    #[inline(always)]
    fn sequence(&self, counts: u8, sent: bool) -> Option<u32> {
        sequence(self.sock, counts, sent)
    }

    #[inline(always)]
    fn moved_before(&self, sent: bool, length: u64) -> Option<u64> {
        moved_before(self.sock, sent, length)
    }

    #[inline(always)]
    fn is_shut(&self, sent: bool) -> bool {
        is_shut(self.sock, sent)
    }

    #[inline(always)]
    fn peer(&self) -> Address {
        peer_of_unix(self.sock)
    }

    #[inline(always)]
    fn sent_by_peer(&self, peer: Address) -> Option<u32> {
        CONNECTIONS.value(peer)?.sent_to(self.sock)
    }

    #[inline(always)]
    fn waiting(&self) -> Option<u32> {
        waiting_in_unix(self.sock)
    }
}

/// Where `struct socket_alloc` has the inode of a socket.
#[inline(always)]
fn inode_of(socket: Address) -> Address {
    socket + globals::offset(Field::SocketAllocInode) as u64
}

/// Address family, if it is a stream socket of a family that carries gRPC.
#[inline(always)]
pub fn stream_family(sock: Address) -> Option<u16> {
    let family = read(sock, Field::SockFamily)?;
    let known = matches!(family, AF_INET | AF_INET6 | AF_UNIX);
    (known && read(sock, Field::SockType) == Some(SOCK_STREAM)).then_some(family)
}

/// Local and remote port, in the machine's byte order; `None` for a family without ports.
#[inline(always)]
pub fn ports(sock: Address, family: u16) -> Option<(u16, u16)> {
    if family == AF_UNIX {
        return None;
    }
    let local = read(sock, Field::SockLocalPort)?;
    let remote: u16 = read(sock, Field::SockRemotePort)?;
    Some((local, u16::from_be(remote)))
}

/// Which end of a connection listens.
#[derive(Clone, Copy)]
pub enum Listens {
    Here,
    There,
    Unknown,
}

/// Which end of the socket's connection listens, by how it came about.
#[inline(always)]
pub fn listens(socket: &Socket) -> Listens {
    // A socket that was accepted is a copy of its listener (`sk_clone`), with the length of its queue. It is 0 for
    // one that connects, for one whose listener has the shortest queue, and for MPTCP.
    if read::<u32>(socket.sock, Field::SockBacklog).is_some_and(|backlog| backlog != 0) {
        return Listens::Here;
    }
    match CONNECTED.value(socket.sock) {
        Some(inode) if *inode == socket.inode => Listens::There,
        _ => Listens::Unknown,
    }
}

/// One of [`counted`].
#[inline(always)]
pub fn counts_of(sock: Address) -> u8 {
    match (read(sock, Field::SockFamily), read(sock, Field::SockProtocol)) {
        (Some(AF_INET | AF_INET6), Some(IPPROTO_TCP)) => counted::TCP,
        (Some(AF_INET | AF_INET6), Some(IPPROTO_MPTCP)) if globals::has(Field::MptcpConsumed) => {
            counted::RECEIVED
        }
        (Some(AF_UNIX), _) if globals::has(Field::UnixPeer) => counted::BY_PEER,
        _ => counted::NOTHING,
    }
}

/// The socket's own count of the bytes read (`sent` false) or written, if it has one: TCP's
/// sequence numbers, or what MPTCP counts. `counts` is one of [`counted`].
#[inline(always)]
fn sequence(sock: Address, counts: u8, sent: bool) -> Option<u32> {
    match counts {
        counted::TCP => read(sock, if sent { Field::TcpWriteSeq } else { Field::TcpCopiedSeq }),
        // Asked here as well, for the verifier: it refuses a read that can only fail.
        counted::RECEIVED if !sent && globals::has(Field::MptcpConsumed) => {
            read::<u64>(sock, Field::MptcpConsumed).map(|bytes| bytes as u32)
        }
        _ => None,
    }
}

/// The other end of a Unix socket, 0 if there is none.
#[inline(always)]
fn peer_of_unix(sock: Address) -> Address {
    if globals::has(Field::UnixPeer) { read(sock, Field::UnixPeer).unwrap_or(0) } else { 0 }
}

/// At least as many bytes as wait in a Unix socket to be received; `None` if that is not known.
#[inline(always)]
fn waiting_in_unix(sock: Address) -> Option<u32> {
    if globals::has(Field::UnixWaiting) {
        return read(sock, Field::UnixWaiting);
    }
    let queued: u32 = read(sock, Field::SockQueued)?;
    (queued == 0).then_some(0)
}

/// SYN and FIN count as a byte each.
const SYN_AND_FIN: i64 = 2;

/// How many bytes went through the socket in this direction before the `length` ones that just did, by
/// its own statistics, where a SYN counts as one; `None` if it has none. As few as SYN and FIN are no bytes.
/// A function of its own: inlined, its values would be kept on the stack to the caller's end.
#[inline(never)]
pub fn moved_before(sock: Address, sent: bool, length: u64) -> Option<u64> {
    if counts_of(sock) != counted::TCP {
        return None;
    }
    // Read in this order, what is acknowledged or arrives meanwhile makes the sum too small, not too
    // large.
    let (settled, under_way): (u64, u32) = if sent {
        let acknowledged = read(sock, Field::TcpBytesAcked)?;
        let first: u32 = read(sock, Field::TcpSndUna)?;
        let end: u32 = read(sock, Field::TcpWriteSeq)?;
        (acknowledged, end.wrapping_sub(first))
    } else {
        let received = read(sock, Field::TcpBytesReceived)?;
        let end: u32 = read(sock, Field::TcpRcvNxt)?;
        let first: u32 = read(sock, Field::TcpCopiedSeq)?;
        (received, first.wrapping_sub(end))
    };
    let all = (settled as i64).wrapping_add(i64::from(under_way as i32));
    let before = all.wrapping_sub(length as i64);
    Some(if before > SYN_AND_FIN { before as u64 } else { 0 })
}

/// When what a TCP socket has received arrived; `copied` is its `copied_seq` after the transfer.
#[inline(always)]
pub fn arrival(sock: Address, copied: u32) -> Option<Arrival> {
    let last: u32 = read(sock, Field::TcpLastReceived)?;
    let segments = read(sock, Field::TcpSegments)?;
    // Last: what arrives meanwhile is not taken for read.
    let next: u32 = read(sock, Field::TcpRcvNxt)?;
    Some(Arrival { ticks: ticks().wrapping_sub(last), segments, drained: next == copied })
}

/// Whether this direction has been shut: by a FIN, which counts as one in `copied_seq` and
/// `write_seq`.
#[inline(always)]
pub fn is_shut(sock: Address, sent: bool) -> bool {
    const RCV_SHUTDOWN: u8 = 1;
    const SEND_SHUTDOWN: u8 = 2;
    let bit = if sent { SEND_SHUTDOWN } else { RCV_SHUTDOWN };
    read::<u8>(sock, Field::SockShutdown).unwrap_or(0) & bit != 0
}

/// What the first record of a connection says of it. Read to where it belongs: the stack has no
/// room for it.
#[inline(always)]
pub fn describe(sock: Address, item: &mut OpenItem) {
    let family = read(sock, Field::SockFamily).unwrap_or(0);
    item.family = family;
    process_name(&mut item.comm);
    let (local, remote) = ports(sock, family).unwrap_or((0, 0));
    item.local_port = local;
    item.remote_port = remote;
    item.local = [0; 16];
    item.remote = [0; 16];
    if family == AF_INET6 {
        read_into(sock, Field::SockLocalV6, &mut item.local);
        read_into(sock, Field::SockRemoteV6, &mut item.remote);
    } else if family == AF_INET {
        read_mapped(sock, Field::SockLocalV4, &mut item.local);
        read_mapped(sock, Field::SockRemoteV4, &mut item.remote);
    }
}

/// Reads an IPv4 address as a v4-mapped IPv6 address (RFC 4291 §2.5.5.2).
#[inline(always)]
fn read_mapped(sock: Address, field: Field, address: &mut [u8; 16]) {
    let [_, _, _, _, _, _, _, _, _, _, ones @ .., a, b, c, d] = address;
    *ones = [0xff; 2];
    [*a, *b, *c, *d] = read(sock, field).unwrap_or_default();
}
