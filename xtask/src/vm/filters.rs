//! The cases that are run: parts of their names, with `|` between them.

/// Few cases for `cargo xtask ci`, one or two minutes for each kernel and backend.
pub(crate) const FEW: &str = "four kinds of call: tonic -> tonic|\
    raw codes: all of them, trailers-only|raw codes: no grpc-status, HTTP status 503|\
    raw frames: writev, buffers of 7 bytes|raw frames: readv, buffers of 7 bytes|\
    raw frames: recvfrom, MSG_PEEK|raw frames: sendto, MSG_DONTWAIT|\
    raw frames: sendmsg, buffers of 1000 bytes|raw frames: recvmsg, buffers of 1000 bytes|\
    a Unix socket, bytes one by one|io_uring on a watched connection|\
    raw gaps: a call written by io_uring|raw gaps: a request read by io_uring|\
    raw gaps: a preface read by io_uring|raw transports: MPTCP|\
    a processor taken offline and back|the wall clock jumps";

/// All cases of raw peers, except those about the daemon and its files alone, and cases of the real stacks that start
/// quickly.
pub(super) const FILTER: &str = "four kinds of call: tonic -> tonic|\
    four kinds of call: python-asyncio -> python-threaded|errors: tonic -> python-asyncio|\
    cancelled: tonic -> tonic|cancelled: python-asyncio -> python-threaded|\
    expired: tonic -> tonic|expired: python-asyncio -> python-threaded|\
    raw codes|raw ends|raw frames|raw transports|raw processes|raw late|raw gaps|\
    over TLS: tonic -> tonic|over TLS: grpc-go -> grpc-go|\
    over TLS: python-asyncio -> python-asyncio|raw tls: |\
    raw privileges|--backend |costs no number|Unix socket|\
    a processor taken offline and back|the wall clock jumps";

/// The start of the names of cases that choose the backend themselves. They run once for each kernel.
pub(super) const CHOOSING: &str = "--backend ";
