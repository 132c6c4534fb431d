//! The commands that a test sends to the process of a raw peer, line by line in JSON on its stdin, and the answers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A command; its line may be followed by a payload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Command {
    /// The action.
    pub action: Action,
    /// The number of the socket: sockets are numbered in the order in which they are opened.
    pub socket: usize,
    /// The number of bytes that follow the line.
    pub payload: usize,
}

/// An action of a raw peer, with the socket of its [`Command`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Action {
    /// Listens, and answers with the address.
    Listen(Address),
    Connect(Address),
    /// Connects from this local port.
    ConnectFrom(u16, Address),
    /// Accepts a connection without waiting; answers without a socket if there is none.
    Accept,
    /// Writes the payload.
    Write(Write),
    /// Writes the payload with one write(2), and unmaps its memory while that waits for room: the payload must be
    /// more than there is room for. Answers then, and the write goes on.
    WriteUnmapped,
    /// Mounts 9P over the socket (mount(2), `trans=fd`): a thread of the kernel writes [`GREETING`] bytes, and reads
    /// the answer. Answers at once; the mount goes on until the answer, which must refuse it ([`refusal`]).
    Mount,
    /// Reads this many bytes.
    Read {
        how: Read,
        length: usize,
    },
    /// Reads the end of the connection, and no bytes.
    ReadEnd,
    /// Begins TLS. The client sends the payload as early data (RFC 8446 §2.3), if there is one.
    Secure(Box<Secure>),
    /// Does something that TLS allows, and writes the payload behind it.
    Protocol(Protocol),
    /// Closes the socket.
    Close,
    /// Closes the socket with a reset (SO_LINGER 0).
    Reset,
    /// Closes one direction (SHUT_WR).
    Shutdown,
    /// Continues in another thread.
    Thread,
    /// Continues in a child process; the parent keeps its sockets and waits.
    Fork,
    /// Continues after execve(2) of this program.
    Exec(String),
    /// Gives the calling thread a name (prctl(2) with PR_SET_NAME).
    Rename(String),
    /// Sets this many bytes of zeros as the process's arguments (prctl(2) with PR_SET_MM_MAP).
    Arguments(u64),
    /// Gives the main thread a name, from any thread (`/proc/self/comm`).
    RenameMain(String),
}

/// The length of the first message of 9P: `size[4] Tversion tag[2] msize[4] version[s]`, of version
/// `9P2000.L`.
pub const GREETING: usize = 4 + 1 + 2 + 4 + 2 + 8;

/// The error number of [`refusal`]: EPROTO.
pub const REFUSED_WITH: i32 = 71;

/// The answer that refuses a mount: `size[4] Rlerror tag[2] ecode[4]`. The kernel reads its header and its rest
/// separately.
pub fn refusal() -> ([u8; 7], [u8; 4]) {
    const RLERROR: u8 = 7;
    // `NOTAG`, as in the message that it answers.
    ([11, 0, 0, 0, RLERROR, 0xff, 0xff], REFUSED_WITH.to_le_bytes())
}

/// An address that a server listens on and clients connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Address {
    /// 127.0.0.1 and a port; 0 to listen on a free one.
    V4(u16),
    /// `::1` and a port.
    V6(u16),
    /// A port at all addresses, IPv4 and IPv6; clients connect to `::ffff:127.0.0.1`.
    Mapped(u16),
    /// Like `V4`, with SO_REUSEPORT.
    Shared(u16),
    /// Like `V4`, with MPTCP.
    Multipath(u16),
    Unix(String),
    /// A Unix socket without a file.
    Abstract(String),
    /// A listener at this address, which the process inherited.
    Inherited(Box<Address>),
}

impl Address {
    /// The port, if it is an address of TCP.
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

    /// Whether its sockets count their bytes.
    pub(crate) fn counts(&self) -> bool {
        match self {
            Self::V4(_) | Self::V6(_) | Self::Mapped(_) | Self::Shared(_) => true,
            Self::Multipath(_) | Self::Unix(_) | Self::Abstract(_) => false,
            Self::Inherited(address) => address.counts(),
        }
    }
}

/// How a connection uses TLS, for both ends. The library is OpenSSL's `libssl.so.3`, which the process must have loaded.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Secure {
    /// The files with the server's certificate and its key; empty for the client.
    pub certificate: Vec<PathBuf>,
    /// OpenSSL's name of the cipher suite. Those of TLS 1.3 begin with `TLS_`.
    pub suite: String,
    /// Whether the library has buffers in memory instead of the socket.
    pub in_memory: bool,
    /// CBC suites: whether the MAC is encrypted, too, instead of RFC 7366.
    pub encrypts_mac: bool,
    /// TLS 1.3: records are padded to a multiple of this many bytes.
    pub padding: usize,
    /// TLS 1.2: whether the server renegotiates.
    pub renegotiates: bool,
    /// The number of tickets that the server sends after the handshake.
    pub tickets: usize,
    /// The client resumes the session of its last connection, and the server reads this many bytes as early data.
    pub resumed: Option<usize>,
}

/// What an end may do in the middle of a TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// Changes its key (RFC 8446 §4.6.3).
    KeyUpdate {
        /// Whether the other end must do the same.
        answered: bool,
    },
    /// Sends a ticket (RFC 8446 §4.6.1).
    Ticket,
    /// Asks for another handshake (RFC 5246 §7.4.1), and waits until it is over.
    Renegotiate,
    /// The same, which must be refused.
    RenegotiateInVain,
}

/// How an end of a TLS connection passes plaintext to the library, or takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Through {
    /// `SSL_write`, `SSL_read`
    Plain,
    /// `SSL_write_ex`, `SSL_read_ex`
    Extended,
    /// `BIO_write` and `BIO_read` on a `BIO_f_ssl`, which call no function that observer probes.
    Bio,
}

/// The system call that writes bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    /// write(2)
    #[default]
    Write,
    /// sendto(2)
    Send,
    /// sendto(2) with MSG_DONTWAIT, as often as necessary.
    Partial,
    /// write(2), this many bytes at a time.
    Pieces(usize),
    /// writev(2) with buffers of this many bytes, an empty one before each.
    Vector(usize),
    /// sendmsg(2) with buffers of this many bytes, an empty one before each.
    Message(usize),
    /// sendmmsg(2): messages of this many bytes in buffers of a third of that.
    Messages(usize),
    /// write(2) into a pipe and splice(2) from there.
    Splice,
    /// sendfile(2)
    SendFile,
    /// io_uring
    Ring,
    /// sendto(2) with MSG_ZEROCOPY.
    ZeroCopy,
    /// pwritev2(2) with buffers of this many bytes, an empty one before each.
    Positioned(usize),
    /// Linux AIO
    Aio,
    /// A system call of 32-bit processes.
    Compat(Compat),
    /// As plaintext of TLS, this many bytes at a time.
    Tls(Through, usize),
}

/// The system calls of 32-bit processes, for both directions.
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
    /// All variants.
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

/// The system call that reads bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Read {
    /// read(2)
    #[default]
    Read,
    /// recvfrom(2)
    Receive,
    /// read(2), this many bytes at a time.
    Pieces(usize),
    /// readv(2) with buffers of this many bytes, an empty one before each.
    Vector(usize),
    /// recvmsg(2) with buffers of this many bytes, an empty one before each.
    Message(usize),
    /// recvmmsg(2): messages of this many bytes in buffers of a third of that.
    Messages(usize),
    /// recvfrom(2) with MSG_PEEK, then read(2).
    Peek,
    /// recvfrom(2) with MSG_WAITALL.
    WaitAll,
    /// io_uring
    Ring,
    /// recvfrom(2) with MSG_TRUNC: the kernel discards the bytes.
    Discard,
    /// preadv2(2) with buffers of this many bytes, an empty one before each.
    Positioned(usize),
    /// Linux AIO
    Aio,
    /// splice(2) into a pipe, and read(2) from there.
    Splice,
    /// A system call of 32-bit processes.
    Compat(Compat),
    /// As plaintext of TLS, this many bytes at a time.
    Tls(Through, usize),
}

/// A peer's answer to a command.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// The number of the process, in its own PID namespace.
    pub pid: u32,
    /// The address that it listens on.
    pub address: Option<Address>,
    /// The number of the new socket.
    pub socket: Option<usize>,
    /// The error, if the action failed.
    pub error: Option<String>,
}
