//! The fields of kernel structs that the kernel programs read.
//!
//! rustc emits no CO-RE relocations, so the daemon looks the offsets up in the running kernel's
//! BTF and hands them over as one read-only array, indexed by [`Field`].

macro_rules! fields {
    ($($name:ident = $container:literal . $path:literal,)*) => {
        /// A field, as its position in the array of offsets.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Field {
            $(#[doc = concat!("`", $container, ".", $path, "`")] $name,)*
        }

        impl Field {
            /// All of them, in the order of their positions.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The struct, and the path of members in it.
            pub const fn place(self) -> (&'static str, &'static str) {
                match self { $(Self::$name => ($container, $path),)* }
            }
        }
    };
}

fields! {
    TaskFiles = "task_struct"."files",
    TaskGroupLeader = "task_struct"."group_leader",
    TaskTgid = "task_struct"."tgid",
    TaskComm = "task_struct"."comm",
    TaskSignal = "task_struct"."signal",
    SignalLive = "signal_struct"."live",
    FilesFdt = "files_struct"."fdt",
    FdtMaxFds = "fdtable"."max_fds",
    FdtFd = "fdtable"."fd",
    FileInode = "file"."f_inode",
    FilePrivateData = "file"."private_data",
    InodeNumber = "inode"."i_ino",
    SocketSk = "socket"."sk",
    SocketAllocInode = "socket_alloc"."vfs_inode",
    SockFamily = "sock"."__sk_common.skc_family",
    SockLocalPort = "sock"."__sk_common.skc_num",
    SockRemotePort = "sock"."__sk_common.skc_dport",
    SockLocalV4 = "sock"."__sk_common.skc_rcv_saddr",
    SockRemoteV4 = "sock"."__sk_common.skc_daddr",
    SockLocalV6 = "sock"."__sk_common.skc_v6_rcv_saddr",
    SockRemoteV6 = "sock"."__sk_common.skc_v6_daddr",
    SockType = "sock"."sk_type",
    SockProtocol = "sock"."sk_protocol",
    SockShutdown = "sock"."sk_shutdown",
    SockSocket = "sock"."sk_socket",
    TcpCopiedSeq = "tcp_sock"."copied_seq",
    TcpWriteSeq = "tcp_sock"."write_seq",
    TcpRcvNxt = "tcp_sock"."rcv_nxt",
    TcpSndUna = "tcp_sock"."snd_una",
    TcpBytesAcked = "tcp_sock"."bytes_acked",
    TcpBytesReceived = "tcp_sock"."bytes_received",
}
