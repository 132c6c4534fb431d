//! TLS connections: their records at the socket, and their plaintext at probes of TLS libraries.
//!
//! `secured` has the connections and follows the records of their transfers. `calls` has the calls of probed functions
//! that are under way, and what ties the objects of a library to sockets. `plaintext` walks over the plaintext that these
//! functions return or take. No key and no byte of a message leaves the kernel.

pub mod calls;
pub mod plaintext;
pub mod secured;
