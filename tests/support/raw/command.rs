//! What a test tells the process of a raw peer, line by line in JSON over its standard input, and
//! what that answers.

use serde::{Deserialize, Serialize};

/// The name of the bytes that a [`Command`] line may be followed by.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Command {
    /// What to do.
    pub action: Action,
    /// Which of the process's sockets: they are numbered as they come.
    pub socket: usize,
    /// How many bytes follow the line.
    pub payload: usize,
}

/// What to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Action {
    /// Answers with where.
    Listen(Address),
    Connect(Address),
    /// Connects from this port of its own.
    ConnectFrom(u16, Address),
    /// Answers with no socket if nobody is connecting, and does not wait.
    Accept,
    /// Writes the payload.
    Write(Write),
    /// Writes the payload by one write(2), whose memory is unmapped while it waits for room: it must be
    /// more than there is room for. Answers then, and the call goes on.
    WriteUnmapped,
    /// Has the kernel take the socket for that of a file server (mount(2) of 9P, `trans=fd`): one of its
    /// own threads writes [`GREETING`] bytes, and reads the answer. Answers then, and the call goes on until
    /// that has come, and refuses ([`refusal`]).
    Mount,
    /// Reads so many bytes.
    Read {
        how: Read,
        length: usize,
    },
    /// Reads that the other end has closed the connection, and nothing else.
    ReadEnd,
    /// Closes the socket.
    Close,
    /// Closes the socket with a reset (SO_LINGER 0).
    Reset,
    /// Closes one direction (SHUT_WR).
    Shutdown,
    /// Goes on in another thread.
    Thread,
    /// Goes on in a child process; the parent keeps its sockets and waits.
    Fork,
    /// Goes on after execve(2) of this program.
    Exec(String),
    /// Gives the calling thread a name (prctl(2) with PR_SET_NAME).
    Rename(String),
    /// Says that so many bytes of zeros are its arguments (prctl(2) with PR_SET_MM_MAP).
    Arguments(u64),
    /// Gives the main thread a name, whichever thread does it (`/proc/self/comm`).
    RenameMain(String),
}

/// Length of the first message of 9P: `size[4] Tversion tag[2] msize[4] version[s]`, of version
/// `9P2000.L`.
pub const GREETING: usize = 4 + 1 + 2 + 4 + 2 + 8;

/// What the server refuses with, of Linux' numbers: EPROTO.
pub const REFUSED_WITH: i32 = 71;

/// The answer to it that refuses: `size[4] Rlerror tag[2] ecode[4]`. The kernel reads its header and the
/// rest by a call each.
pub fn refusal() -> ([u8; 7], [u8; 4]) {
    const RLERROR: u8 = 7;
    // `NOTAG`, as that of the message answered.
    ([11, 0, 0, 0, RLERROR, 0xff, 0xff], REFUSED_WITH.to_le_bytes())
}

/// Where a server listens, and clients find it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Address {
    /// 127.0.0.1 and a port; 0 to listen on a free one.
    V4(u16),
    /// `::1` and a port.
    V6(u16),
    /// A port of all addresses, IPv4 and IPv6; clients connect to `::ffff:127.0.0.1`.
    Mapped(u16),
    /// As `V4`, with SO_REUSEPORT.
    Shared(u16),
    /// As `V4`, by MPTCP.
    Multipath(u16),
    Unix(String),
    /// A Unix socket without a file.
    Abstract(String),
    /// A listener that the process was started with, at this address.
    Inherited(Box<Address>),
}

impl Address {
    /// Of TCP.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::V4(port)
            | Self::V6(port)
            | Self::Mapped(port)
            | Self::Shared(port)
            | Self::Multipath(port) => Some(*port),
            Self::Inherited(address) => address.port(),
            Self::Unix(_) | Self::Abstract(_) => None,
        }
    }

    /// Whether its sockets count the bytes that go through them.
    pub(crate) fn counts(&self) -> bool {
        match self {
            Self::V4(_) | Self::V6(_) | Self::Mapped(_) | Self::Shared(_) => true,
            Self::Multipath(_) | Self::Unix(_) | Self::Abstract(_) => false,
            Self::Inherited(address) => address.counts(),
        }
    }
}

/// How bytes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    /// write(2)
    #[default]
    Write,
    /// sendto(2)
    Send,
    /// sendto(2) without waiting: as much as there is room for, again and again.
    Partial,
    /// write(2), so many bytes at a time.
    Pieces(usize),
    /// writev(2) with buffers of so many bytes, an empty one before each.
    Vector(usize),
    /// sendmsg(2), likewise.
    Message(usize),
    /// sendmmsg(2): messages of so many bytes in buffers of a third of that.
    Messages(usize),
    /// write(2) into a pipe and splice(2) from there.
    Splice,
    /// sendfile(2)
    SendFile,
    /// io_uring
    Ring,
    /// sendto(2) with MSG_ZEROCOPY.
    ZeroCopy,
    /// pwritev2(2) with buffers of so many bytes, an empty one before each.
    Positioned(usize),
    /// Linux AIO
    Aio,
    /// As a 32-bit process writes.
    Compat(Compat),
}

/// The calls by which a 32-bit process reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compat {
    /// read, write
    Plain,
    /// readv, writev
    Vector,
    /// preadv2, pwritev2
    Positioned,
    /// recvfrom, sendto
    Addressed,
    /// recvmsg, sendmsg
    Message,
    /// recvmmsg, sendmmsg
    Messages,
    /// socketcall: recv, send
    SocketcallBuffer,
    /// socketcall: recvmsg, sendmsg
    SocketcallMessage,
}

impl Compat {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Plain,
        Self::Vector,
        Self::Positioned,
        Self::Addressed,
        Self::Message,
        Self::Messages,
        Self::SocketcallBuffer,
        Self::SocketcallMessage,
    ];
}

/// How bytes are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Read {
    /// read(2)
    #[default]
    Read,
    /// recvfrom(2)
    Receive,
    /// read(2), so many bytes at a time.
    Pieces(usize),
    /// readv(2) with buffers of so many bytes, an empty one before each.
    Vector(usize),
    /// recvmsg(2), likewise.
    Message(usize),
    /// recvmmsg(2): messages of so many bytes in buffers of a third of that.
    Messages(usize),
    /// recvfrom(2) with MSG_PEEK, then read(2).
    Peek,
    /// recvfrom(2) with MSG_WAITALL.
    WaitAll,
    /// io_uring
    Ring,
    /// recvfrom(2) with MSG_TRUNC: the kernel discards the bytes.
    Discard,
    /// preadv2(2) with buffers of so many bytes, an empty one before each.
    Positioned(usize),
    /// Linux AIO
    Aio,
    /// splice(2) into a pipe, and read(2) from there.
    Splice,
    /// As a 32-bit process reads.
    Compat(Compat),
}

/// What a peer answers to each command.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// The process, as it knows itself.
    pub pid: u32,
    /// Where it listens.
    pub address: Option<Address>,
    /// The number of the socket that is new.
    pub socket: Option<usize>,
    /// What did not work.
    pub error: Option<String>,
}
