//! Finds the socket of a file descriptor, and reads what the kernel knows about a socket.

use observer_common::{
    driver::{arrival::Arrival, connection::counted, gap},
    layout::Field,
    record::{OpenItem, pair},
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

/// A socket: its `struct sock`, and the inode number, which distinguishes it from an earlier one at the same address.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Socket {
    pub sock: Address,
    pub inode: u64,
}

impl Socket {
    /// The socket of a file descriptor of the current task; `None` for any other file.
    ///
    /// `current->files->fdt->fd[fd]->private_data` is a `struct socket` if the file's inode is at the place where
    /// `struct socket_alloc` has it: next to that socket.
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

    /// The socket of a `struct sock`; `None` once it is closed.
    #[inline(always)]
    pub fn of_sock(sock: Address) -> Option<Self> {
        if globals::has(Field::SockInode) {
            let inode = read(sock, Field::SockInode)?;
            return (inode != 0).then_some(Self { sock, inode });
        }
        let socket: Address = read(sock, Field::SockSocket)?;
        Some(Self { sock, inode: read(inode_of(socket), Field::InodeNumber)? })
    }

    /// The socket of a `struct socket`.
    #[inline(always)]
    pub fn of_socket(socket: Address) -> Option<Self> {
        let sock: Address = read(socket, Field::SocketSk)?;
        Some(Self { sock, inode: read(inode_of(socket), Field::InodeNumber)? })
    }

    /// Whether this socket is still open, and its `struct sock` not yet another socket's.
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        let Some(socket) = read::<Address>(self.sock, Field::SockSocket) else { return false };
        socket != 0
            && read(socket, Field::SocketSk) == Some(self.sock)
            && read(inode_of(socket), Field::InodeNumber) == Some(self.inode)
    }
}

impl gap::Socket for Socket {
    /// TCP's sequence numbers, or MPTCP's counter of received bytes.
    #[inline(always)]
    fn sequence(&self, counts: u8, sent: bool) -> Option<u32> {
        let field = if sent { Field::TcpWriteSeq } else { Field::TcpCopiedSeq };
        match counts {
            counted::TCP => read(self.sock, field),
            // For the verifier: it refuses a read that can only fail.
            counted::RECEIVED if !sent && globals::has(Field::MptcpConsumed) => {
                read::<u64>(self.sock, Field::MptcpConsumed).map(|bytes| bytes as u32)
            }
            _ => None,
        }
    }

    #[inline(always)]
    fn moved_before(&self, sent: bool, length: u64) -> Option<u64> {
        moved_before(self.sock, sent, length)
    }

    #[inline(always)]
    fn is_shut(&self, sent: bool) -> bool {
        const RCV_SHUTDOWN: u8 = 1;
        const SEND_SHUTDOWN: u8 = 2;
        let bit = if sent { SEND_SHUTDOWN } else { RCV_SHUTDOWN };
        read::<u8>(self.sock, Field::SockShutdown).unwrap_or(0) & bit != 0
    }

    #[inline(always)]
    fn peer(&self) -> Address {
        if !globals::has(Field::UnixPeer) {
            return 0;
        }
        read(self.sock, Field::UnixPeer).unwrap_or(0)
    }

    #[inline(always)]
    fn sent_by_peer(&self, peer: Address) -> Option<u32> {
        CONNECTIONS.value(peer)?.sent_to(self.sock)
    }

    #[inline(always)]
    fn waiting(&self) -> Option<u32> {
        if globals::has(Field::UnixWaiting) {
            return read(self.sock, Field::UnixWaiting);
        }
        let queued: u32 = read(self.sock, Field::SockQueued)?;
        (queued == 0).then_some(0)
    }
}

/// The address at which `struct socket_alloc` has the inode of a socket.
#[inline(always)]
fn inode_of(socket: Address) -> Address {
    socket + globals::offset(Field::SocketAllocInode) as u64
}

/// The address family of a stream socket; `None` for other sockets, and for families that do not carry gRPC.
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

/// The end of a connection that listens.
#[derive(Clone, Copy)]
pub enum Listens {
    Here,
    There,
    Unknown,
}

/// The end of the socket's connection that listens.
#[inline(always)]
pub fn listens(socket: &Socket) -> Listens {
    // An accepted socket is a copy of its listener (`sk_clone`), with the length of its queue. That is 0 for a socket
    // that connects, for one whose listener has a queue of 0, and for MPTCP.
    if read::<u32>(socket.sock, Field::SockBacklog).is_some_and(|backlog| backlog != 0) {
        return Listens::Here;
    }
    match CONNECTED.value(socket.sock) {
        Some(inode) if *inode == socket.inode => Listens::There,
        _ => Listens::Unknown,
    }
}

/// How the socket shows gaps: one of [`counted`].
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

/// SYN and FIN count as a byte each.
const SYN_AND_FIN: i64 = 2;

/// Bytes that went through a TCP socket in this direction before the last `length` ones, by its own statistics, which
/// count SYN and FIN: so two bytes or fewer are returned as 0. `None` for other sockets. Not inlined: its values would
/// stay on the caller's stack.
#[inline(never)]
pub fn moved_before(sock: Address, sent: bool, length: u64) -> Option<u64> {
    if counts_of(sock) != counted::TCP {
        return None;
    }
    // In this order, bytes that are acknowledged or arrive meanwhile make the sum too small, not too large.
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

/// Where the two directions of a TCP connection start ([`pair::starts`]) by its socket's counters, at any time; 0 for other
/// sockets, and `None` if they moved meanwhile.
///
/// The kernel changes a counter of bytes before the sequence number that belongs to it (`tcp_snd_una_update`,
/// `tcp_rcv_nxt_update`), and no lock of ours is held. So all are read twice. Not inlined: its values would stay on the
/// caller's stack.
#[inline(never)]
pub fn starts_of(sock: Address) -> Option<u64> {
    if counts_of(sock) != counted::TCP {
        return Some(0);
    }
    let sent = start_of(sock, Field::TcpSndUna, Field::TcpBytesAcked)?;
    let received = start_of(sock, Field::TcpRcvNxt, Field::TcpBytesReceived)?;
    Some(pair::starts(sent, received))
}

/// The sequence number at which a direction starts.
#[inline(always)]
fn start_of(sock: Address, next: Field, bytes: Field) -> Option<u32> {
    let (sequence, count): (u32, u64) = (read(sock, next)?, read(sock, bytes)?);
    let is_same = read(sock, next) == Some(sequence) && read(sock, bytes) == Some(count);
    is_same.then_some(sequence.wrapping_sub(count as u32))
}

/// A TCP socket's figures about the arrival of its bytes; `copied` is its `copied_seq` after the transfer.
#[inline(always)]
pub fn arrival(sock: Address, copied: u32) -> Option<Arrival> {
    let last: u32 = read(sock, Field::TcpLastReceived)?;
    let segments = read(sock, Field::TcpSegments)?;
    // Last: bytes that arrive meanwhile do not count as read.
    let next: u32 = read(sock, Field::TcpRcvNxt)?;
    Some(Arrival { ticks: ticks().wrapping_sub(last), segments, drained: next == copied })
}

/// Writes a connection's description: addresses, ports, family and the process's name. In place: the stack has no room
/// for it.
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
