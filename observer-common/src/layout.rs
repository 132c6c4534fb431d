//! The fields of kernel structs that the BPF programs read.
//!
//! rustc emits no CO-RE relocations. So the daemon looks the offsets up in the running kernel's BTF and passes them
//! as one read-only array, indexed by [`Field`].

/// Offset of a field that this kernel does not have: a read at it always fails.
pub const NOWHERE: u32 = i32::MAX as u32;

/// The programs that read a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Those of every backend.
    All,
    /// Those that find the socket of a system call from its file descriptor.
    Syscalls,
    /// Those at the kernel's tracepoints for sockets, which look up the system call that the task is in.
    Sockets,
    /// Those at the kernel's own functions, whose arguments are the socket and an iterator.
    Functions,
    /// Those of every backend, if the kernel has the field: newer kernels do.
    Newer,
}

macro_rules! fields {
    ($($name:ident: $reader:ident = $container:literal . $path:literal $(| $other:literal)*,)*) => {
        /// A field of a kernel struct: its position in the array of offsets.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Field {
            $(#[doc = concat!("`", $container, ".", $path, "`")] $name,)*
        }

        impl Field {
            /// All fields, in the order of their positions.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Number of fields.
            pub const COUNT: usize = Self::ALL.len();

            /// The struct's name, and the path of members to the field, under each name that kernels give it.
            pub const fn place(self) -> (&'static str, &'static [&'static str]) {
                match self { $(Self::$name => ($container, &[$path $(, $other)*]),)* }
            }

            /// The programs that read it.
            pub const fn reader(self) -> Reader {
                match self { $(Self::$name => Reader::$reader,)* }
            }
        }
    };
}

fields! {
    TaskFiles: Syscalls = "task_struct"."files",
    TaskFlags: Sockets = "task_struct"."flags",
    // x86-64; aarch64.
    TaskAbi: Sockets = "task_struct"."thread_info.status" | "thread_info.flags",
    TaskRan: Newer = "task_struct"."se.sum_exec_runtime",
    TaskRanBefore: Newer = "task_struct"."se.prev_sum_exec_runtime",
    TaskGroupLeader: All = "task_struct"."group_leader",
    TaskTgid: All = "task_struct"."tgid",
    TaskComm: All = "task_struct"."comm",
    TaskSignal: All = "task_struct"."signal",
    // With CONFIG_CGROUPS.
    TaskCgroups: Newer = "task_struct"."cgroups",
    CssSetCgroup: Newer = "css_set"."dfl_cgrp",
    CgroupNode: Newer = "cgroup"."kn",
    NodeName: Newer = "kernfs_node"."name",
    NodeParent: Newer = "kernfs_node"."__parent" | "parent",
    SignalLive: All = "signal_struct"."live",
    FilesFdt: Syscalls = "files_struct"."fdt",
    FdtMaxFds: Syscalls = "fdtable"."max_fds",
    FdtFd: Syscalls = "fdtable"."fd",
    FileInode: Syscalls = "file"."f_inode",
    FilePrivateData: Syscalls = "file"."private_data",
    InodeNumber: All = "inode"."i_ino",
    SocketSk: All = "socket"."sk",
    SocketAllocInode: All = "socket_alloc"."vfs_inode",
    SockFamily: All = "sock"."__sk_common.skc_family",
    SockLocalPort: All = "sock"."__sk_common.skc_num",
    SockRemotePort: All = "sock"."__sk_common.skc_dport",
    SockLocalV4: All = "sock"."__sk_common.skc_rcv_saddr",
    SockRemoteV4: All = "sock"."__sk_common.skc_daddr",
    SockLocalV6: All = "sock"."__sk_common.skc_v6_rcv_saddr",
    SockRemoteV6: All = "sock"."__sk_common.skc_v6_daddr",
    SockType: All = "sock"."sk_type",
    SockProtocol: All = "sock"."sk_protocol",
    SockShutdown: All = "sock"."sk_shutdown",
    SockSocket: All = "sock"."sk_socket",
    SockQueued: All = "sock"."sk_receive_queue.qlen",
    SockBacklog: All = "sock"."sk_max_ack_backlog",
    // Since Linux 6.18.
    SockInode: Newer = "sock"."sk_ino",
    TcpCopiedSeq: All = "tcp_sock"."copied_seq",
    TcpWriteSeq: All = "tcp_sock"."write_seq",
    TcpRcvNxt: All = "tcp_sock"."rcv_nxt",
    TcpSndUna: All = "tcp_sock"."snd_una",
    TcpBytesAcked: All = "tcp_sock"."bytes_acked",
    TcpBytesReceived: All = "tcp_sock"."bytes_received",
    // When bytes arrived. Both are older than any supported kernel.
    TcpLastReceived: All = "inet_connection_sock"."icsk_ack.lrcvtime",
    TcpSegments: All = "tcp_sock"."data_segs_in",
    // With CONFIG_MPTCP.
    MptcpConsumed: Newer = "mptcp_sock"."bytes_consumed",
    UnixPeer: Newer = "unix_sock"."peer",
    // Since Linux 6.17.
    UnixWaiting: Newer = "unix_sock"."inq_len",
    MessageIterator: Functions = "msghdr"."msg_iter",
    IteratorType: Functions = "iov_iter"."iter_type",
    IteratorOffset: Functions = "iov_iter"."iov_offset",
    // In a union with the base of an ITER_UBUF.
    IteratorIovec: Functions = "iov_iter"."__iov" | "iov",
}
