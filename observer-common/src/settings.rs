//! What the daemon sets as it loads the BPF programs: one read-only global, whose values the verifier knows.

use crate::layout::Field;

/// The global `SETTINGS`. Where a field is a question, it is answered by 0 for no and 1 for yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(zerocopy::Immutable, zerocopy::IntoBytes))]
#[repr(C)]
pub struct Settings {
    /// Offsets in the running kernel's structs, by [`Field`].
    pub offsets: [u32; Field::COUNT],
    /// Kinds of `struct iov_iter`: `ITER_IOVEC`, `ITER_UBUF`; [`NO_KIND`] for one that this kernel does not have.
    pub iterator_kinds: [u32; 2],
    /// How many parameters the functions have that receive from a `struct sock`: [`WITH_NONBLOCK`],
    /// [`WITH_ADDRESS`] or [`WITH_NEITHER`].
    pub receive_parameters: u32,
    /// How many rings there are.
    pub rings: u32,
    /// Bytes waiting in a ring from which on the daemon is woken at once.
    pub wake_at: u32,
    /// How long a tick of the kernel's clock (a jiffy) is, in nanoseconds.
    pub tick_ns: u32,
    /// For how many connections there is room.
    pub max_connections: u32,
    /// Whether only sockets are watched that count their bytes.
    pub counted_only: u32,
    /// Whether only the ports in the `PORTS` map are watched.
    pub filter_ports: u32,
    /// Whether only the processes in `PIDS`, with a name in `COMMS`, of a user in `UIDS` or in a control group in
    /// `CGROUPS` are watched.
    pub filter_processes: u32,
    /// Whether there are users in `UIDS`.
    pub filter_uids: u32,
    /// Whether there are names in `CGROUPS`.
    pub filter_cgroups: u32,
    /// Whether the children of a selected process are selected too.
    pub follow_children: u32,
}

/// A number that no kind of iterator has.
pub const NO_KIND: u32 = u32::MAX;

/// `(sk, msg, len, nonblock, flags, addr_len)`, before Linux 5.19.
pub const WITH_NONBLOCK: u32 = 6;

/// `(sk, msg, len, flags, addr_len)`, before 7.1.
pub const WITH_ADDRESS: u32 = 5;

/// `(sk, msg, len, flags)`
pub const WITH_NEITHER: u32 = 4;
