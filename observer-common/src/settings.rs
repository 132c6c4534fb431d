//! The values that the daemon sets when it loads the BPF programs: one read-only global, whose values the verifier
//! knows.

use crate::layout::Field;

/// The global `SETTINGS`. A field that answers a question ("whether …") is 0 for no and 1 for yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(zerocopy::Immutable, zerocopy::IntoBytes))]
#[repr(C)]
pub struct Settings {
    /// Offsets in the running kernel's structs, by [`Field`], in bytes.
    pub offsets: [u32; Field::COUNT],
    /// Kinds of `struct iov_iter`: `ITER_IOVEC`, `ITER_UBUF`; [`NO_KIND`] for one that this kernel does not have.
    pub iterator_kinds: [u32; 2],
    /// Number of parameters of the functions that receive from a `struct sock`: [`WITH_NONBLOCK`],
    /// [`WITH_ADDRESS`] or [`WITH_NEITHER`].
    pub receive_parameters: u32,
    /// Number of rings.
    pub rings: u32,
    /// Number of bytes waiting in a ring from which on each record wakes the daemon.
    pub wake_at: u32,
    /// Length of a tick of the kernel's clock (a jiffy), in nanoseconds.
    pub tick_ns: u32,
    /// Room in the map of connections.
    pub max_connections: u32,
    /// Whether only sockets that count their bytes are watched.
    pub counted_only: u32,
    /// Whether only the ports in the `PORTS` map are watched.
    pub filter_ports: u32,
    /// Whether only these processes are watched: in `PIDS`, with a name in `COMMS`, of a user in `UIDS` or in a
    /// cgroup in `CGROUPS`.
    pub filter_processes: u32,
    /// Whether `UIDS` has users.
    pub filter_uids: u32,
    /// Whether `CGROUPS` has names.
    pub filter_cgroups: u32,
    /// Whether the children of a selected process are selected too.
    pub follow_children: u32,
    /// Whether TLS connections are followed.
    pub tls: u32,
    /// Whether gRPC is watched: connections with HTTP/2.
    pub grpc: u32,
    /// Whether Thrift connections are watched.
    pub thrift: u32,
    /// Whether messages of Thrift may have no version on the ports in the `THRIFT_PORTS` map.
    pub thrift_ports: u32,
    /// Whether bodies of gRPC-Web and Connect are followed.
    pub web: u32,
}

/// A number that no kind of iterator has.
pub const NO_KIND: u32 = u32::MAX;

/// `(sk, msg, len, nonblock, flags, addr_len)`, before Linux 5.19.
pub const WITH_NONBLOCK: u32 = 6;

/// `(sk, msg, len, flags, addr_len)`, before Linux 7.1.
pub const WITH_ADDRESS: u32 = 5;

/// `(sk, msg, len, flags)`, since Linux 7.1.
pub const WITH_NEITHER: u32 = 4;
