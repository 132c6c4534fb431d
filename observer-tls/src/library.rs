//! What is found in a file.

use crate::hook::Hook;
use crate::machine::Machine;
use crate::refusal::Refusal;

/// A file with one or more TLS libraries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// What it was compiled for.
    pub machine: Machine,
    /// The libraries that can be probed.
    pub libraries: Vec<Library>,
    /// Those that cannot, and why.
    pub refused: Vec<(Kind, Refusal)>,
}

/// A TLS library in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Which one it is.
    pub kind: Kind,
    /// Its version, if the file has it: "3.0.19", "go1.26.8", "0.23.46".
    pub version: Option<String>,
    /// Where its objects have what ties them to a connection.
    pub layout: Layout,
    /// All the places to probe. With one of them missing, bytes go by.
    pub hooks: Vec<Hook>,
}

/// A TLS library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// OpenSSL, and others with its interface and errors.
    OpenSsl,
    /// BoringSSL.
    BoringSsl,
    /// crypto/tls of Go.
    Go,
    /// rustls.
    Rustls,
}

/// Where the objects of a library have what ties them to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Fields of `SSL`.
    OpenSsl {
        /// The 32 bytes that the ClientHello has, too.
        client_random: Option<Field>,
        /// The file descriptor of its socket, unless the program moves the bytes itself.
        socket: Option<SocketBio>,
    },
    /// Fields of `SSL`.
    BoringSsl {
        /// The 32 bytes that the ClientHello has, too.
        client_random: Field,
        /// How many records were received since the key changed, 64 bits.
        read_sequence: Field,
        /// The same of those that were sent.
        write_sequence: Field,
    },
    /// Nothing is read of Go's objects: the goroutine that reads and writes is the one that makes the system call.
    Go,
    /// Nothing is read of rustls' objects. Their addresses and the numbers of records are arguments.
    Rustls,
}

/// A place in an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Where the object has a pointer to what has the field; if there is none, the object has it itself.
    pub pointer: Option<u32>,
    /// The offset of the field.
    pub offset: u32,
}

/// How to find a file descriptor in an `SSL`: `ssl→read_bio→number`, if `ssl→read_bio→method→type` is that of
/// a socket (0x0505). The type is the first 32 bits of the method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketBio {
    /// Where `SSL` has the pointer to the `BIO` that it reads from.
    pub read_bio: u32,
    /// Where `BIO` has the pointer to its method.
    pub method: u32,
    /// Where `BIO` has the descriptor, 32 bits.
    pub number: u32,
}
