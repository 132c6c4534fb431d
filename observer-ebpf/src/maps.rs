//! All maps. Sizes are defaults; the daemon sets those that have a flag.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_F_RDONLY},
    btf_maps::{ArrayOfMaps, RingBuf},
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
};
use observer_common::{
    counter, counter::Count, record::MAX_RINGS, scanner::Message, selected::CGROUP_NAME,
    writer::Writer,
};

use crate::{
    connection::Connection,
    kernel::Address,
    scratch::{SLOTS, Scratch},
};

/// Records for the daemon, which makes as many rings as it has workers. Of a ring that is none of
/// these: as large as a page may be.
#[btf_map]
pub static RINGS: ArrayOfMaps<RingBuf<u8, { 64 << 10 }>, { MAX_RINGS as usize }> =
    ArrayOfMaps::new();

/// Watched connections by `struct sock`.
#[map]
pub static CONNECTIONS: HashMap<Address, Connection> =
    HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// A socket that was looked at and is none of ours.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Ignored {
    pub inode: u64,
    /// The direction in which an HTTP/1 response may still upgrade the connection to HTTP/2, or
    /// another of the constants.
    pub until: u32,
    pub _reserved: u32,
    /// For [`Ignored::TRIED`].
    pub tries: Tries,
}

/// Calls of a connection that was open before the daemon in which no frames were found, or for which there was no
/// room.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Tries {
    pub calls: u16,
    /// `1 << direction` for each that had any, and [`Tries::REFUSED`], [`Tries::HTTP2`].
    pub flags: u16,
    /// What they moved: counted once the connection turns out to be HTTP/2.
    pub bytes: u32,
}

impl Tries {
    /// There was no room to watch the connection, which has been counted.
    pub const REFUSED: u16 = 1 << 2;
    /// It opened HTTP/2: for as long as there is no room its bytes are counted as they come.
    pub const HTTP2: u16 = 1 << 3;

    #[inline(always)]
    pub const fn has(self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    #[inline(always)]
    pub const fn add(&mut self, bytes: u64) {
        let bytes = if bytes < u32::MAX as u64 { bytes as u32 } else { u32::MAX };
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

impl Ignored {
    /// The connection was open before the daemon, or there was no room for it, and may be HTTP/2.
    pub const TRIED: u32 = 2;
    pub const FOR_GOOD: u32 = 3;

    /// Whether a call in this direction is to be looked at all the same.
    #[inline(always)]
    pub const fn admits(&self, sent: u8) -> bool {
        self.until == sent as u32 || self.until == Self::TRIED
    }
}

/// By `struct sock`. The least recently used make room; one that comes back is looked at again.
#[map]
pub static IGNORED: LruHashMap<Address, Ignored> = LruHashMap::with_max_entries(16_384, 0);

/// Which stream of which connection, in which direction.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MessageKey {
    pub connection: u64,
    pub sock: Address,
    pub stream: u32,
    pub direction: u32,
}

/// A message that a DATA frame left unfinished.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Kept {
    pub message: Message,
    /// The process in whose share it is: [`Connection::owner`].
    pub owner: u32,
}

pub const MAX_MESSAGES: u32 = 65_536;

/// Messages that a DATA frame left unfinished. Most calls never need it.
#[map]
pub static MESSAGES: HashMap<MessageKey, Kept> =
    HashMap::with_max_entries(MAX_MESSAGES, BPF_F_NO_PREALLOC);

/// What a process has of [`CONNECTIONS`] and [`MESSAGES`].
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Share {
    pub connections: u64,
    pub messages: u64,
}

/// By process.
#[map]
pub static SHARES: HashMap<u32, Share> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// By ring and process, those that have written into the last quarter of the ring: the ring in the upper half.
/// The daemon, which keeps it open, can only read it.
#[map]
pub static WRITERS: LruHashMap<u64, Writer> = LruHashMap::with_max_entries(4_096, BPF_F_RDONLY);

/// What a function was called with, for its return.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Entered {
    pub sock: Address,
    pub message: Address,
    /// Of the function itself.
    pub function: Address,
    pub flags: u32,
    /// One of `record::direction`.
    pub sent: u8,
    pub _reserved: [u8; 3],
}

/// By thread: those that are in one of the functions of the kprobe backend, which sets the size.
#[map]
pub static ENTERED: HashMap<u64, Entered> = HashMap::with_max_entries(1, 0);

/// A call on several messages that is under way.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Multiple {
    /// The array of `struct mmsghdr`.
    pub headers: u64,
    /// The message that comes next.
    pub next: u64,
}

/// By thread, for the socket backend, which sets the size. One that was forgotten begins with the first message, whose buffers
/// are then not those of the bytes: so there is room for more than are in such a call at once.
#[map]
pub static MULTIPLE: LruHashMap<u64, Multiple> = LruHashMap::with_max_entries(1, 0);

/// Selected ports, one bit each.
#[map]
pub static PORTS: Array<u64> = Array::with_max_entries(1024, 0);

/// Sockets that have connected to a selected port, or from one: their inode numbers.
#[map]
pub static CONNECTED: LruHashMap<Address, u64> = LruHashMap::with_max_entries(16_384, 0);

/// Selected processes: one of `observer_common::selected`.
#[map]
pub static PIDS: HashMap<u32, u8> = HashMap::with_max_entries(8_192, BPF_F_NO_PREALLOC);

/// Selected names of main threads.
#[map]
pub static COMMS: HashMap<[u8; 16], u8> = HashMap::with_max_entries(256, 0);

/// Selected users, by their real ids.
#[map]
pub static UIDS: HashMap<u32, u8> = HashMap::with_max_entries(256, 0);

/// Selected control groups of version 2, by their names.
#[map]
pub static CGROUPS: HashMap<[u8; CGROUP_NAME], u8> = HashMap::with_max_entries(64, 0);

/// Processes whose name is not in `COMMS`, until they take another one or execute another program.
#[map]
pub static UNNAMED: LruHashMap<u32, u8> = LruHashMap::with_max_entries(4_096, 0);

/// How often a process has changed its name.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Renames {
    /// Since when they are counted.
    pub since_ns: u64,
    pub count: u64,
}

/// Processes of watched connections: their exit, exec and new names are told to the daemon.
#[map]
pub static PROCESSES: HashMap<u32, Renames> = HashMap::with_max_entries(32_768, BPF_F_NO_PREALLOC);

/// Where runs build their records: several to a CPU, because a run may be preempted by another.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(SLOTS, 0);

/// Events and bytes by cause, then sockets by protocol. The daemon, which keeps it open, can only read it.
#[map]
pub static COUNTS: PerCpuArray<Count> =
    PerCpuArray::with_max_entries(counter::COUNTS, BPF_F_RDONLY);
