//! Maps that several modules use. Sizes are defaults; the daemon sets those that have a flag.

use core::borrow::Borrow;

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_F_RDONLY},
    btf_maps::{ArrayOfMaps, RingBuf},
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
};
use observer_common::{
    counter,
    counter::{Count, CountsOfProcess},
    driver::connection::Connection,
    record::MAX_RINGS,
    scanner::Message,
    selected::CGROUP_NAME,
    writer::Writer,
};

use crate::kernel::Address;

// Flags of an insertion: the key may, must not, or must be in the map.
pub const BPF_ANY: u64 = 0;
pub const BPF_NOEXIST: u64 = 1;
pub const BPF_EXIST: u64 = 2;

/// Lookups of values in maps.
pub trait Values<K, V: 'static> {
    /// The key's value. It is valid for the invocation, but other CPUs may change it meanwhile, and if it is removed,
    /// its place may get another key's value.
    fn value(&self, key: impl Borrow<K>) -> Option<&'static mut V>;

    /// Whether the key has a value.
    #[inline(always)]
    fn has(&self, key: impl Borrow<K>) -> bool {
        self.value(key).is_some()
    }
}

macro_rules! values {
    ($($map:ident)*) => {
        $(impl<K, V: 'static> Values<K, V> for $map<K, V> {
            #[inline(always)]
            fn value(&self, key: impl Borrow<K>) -> Option<&'static mut V> {
                // SAFETY: no value is freed before the invocation is over, and others only write integers at the same
                // time, where it does not matter which write wins.
                self.get_ptr_mut(key).map(|value| unsafe { &mut *value })
            }
        })*
    };
}

values! { HashMap LruHashMap }

impl<V: 'static> Values<u32, V> for PerCpuArray<V> {
    #[inline(always)]
    fn value(&self, index: impl Borrow<u32>) -> Option<&'static mut V> {
        // SAFETY: likewise, and only this CPU writes it.
        self.get_ptr_mut(*index.borrow()).map(|value| unsafe { &mut *value })
    }
}

/// The rings for records. The daemon makes one for each of its workers, with a size of its own. The size here is that
/// of the largest page.
#[btf_map]
pub static RINGS: ArrayOfMaps<RingBuf<u8, { 64 << 10 }>, { MAX_RINGS as usize }> =
    ArrayOfMaps::new();

/// Watched connections, by `struct sock`.
#[map]
pub static CONNECTIONS: HashMap<Address, Connection> =
    HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// One direction of a stream.
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
    /// The process that it counts for in `share`: `Shared::owner`.
    pub owner: u32,
}

pub const MAX_MESSAGES: u32 = 65_536;

/// Messages that a DATA frame left unfinished. Most calls never need it.
#[map]
pub static MESSAGES: HashMap<MessageKey, Kept> =
    HashMap::with_max_entries(MAX_MESSAGES, BPF_F_NO_PREALLOC);

/// Number of entries that a process has in [`CONNECTIONS`] and [`MESSAGES`].
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Share {
    pub connections: u64,
    pub messages: u64,
}

/// Shares of processes, by pid.
#[map]
pub static SHARES: HashMap<u32, Share> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Processes that have written into the last quarter of a ring, by `writer::key`. The daemon keeps it open, and can
/// only read it.
#[map]
pub static WRITERS: LruHashMap<u64, Writer> = LruHashMap::with_max_entries(4_096, BPF_F_RDONLY);

/// Arguments of a function of the kprobe backend, for its return.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Entered {
    pub sock: Address,
    pub message: Address,
    /// Address of the function.
    pub function: Address,
    pub flags: u32,
    /// One of `record::direction`.
    pub sent: u8,
    pub _reserved: [u8; 3],
}

/// Threads that are in one of the functions of the kprobe backend, which sets the size.
#[map]
pub static ENTERED: HashMap<u64, Entered> = HashMap::with_max_entries(1, 0);

/// A system call on several messages that is under way.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Multiple {
    /// The array of `struct mmsghdr`.
    pub headers: u64,
    /// Index of the next message.
    pub next: u64,
}

/// System calls on several messages, by thread, for the socket backend, which sets the size. If an entry were evicted,
/// the next message would be taken for the first one, with the wrong buffers. So there is room for more entries than
/// there are such system calls at once.
#[map]
pub static MULTIPLE: LruHashMap<u64, Multiple> = LruHashMap::with_max_entries(1, 0);

/// Selected ports, one bit each.
#[map]
pub static PORTS: Array<u64> = Array::with_max_entries(1024, 0);

/// The ports of `--thrift-port`, in the same way. The daemon sets the size.
#[map]
pub static THRIFT_PORTS: Array<u64> = Array::with_max_entries(1, 0);

/// Inode numbers of sockets that have connected to or from a selected port, by `struct sock`.
#[map]
pub static CONNECTED: LruHashMap<Address, u64> = LruHashMap::with_max_entries(16_384, 0);

/// Selected processes, and why: one of `observer_common::selected`.
#[map]
pub static PIDS: HashMap<u32, u8> = HashMap::with_max_entries(8_192, BPF_F_NO_PREALLOC);

/// Selected names of main threads.
#[map]
pub static COMMS: HashMap<[u8; 16], u8> = HashMap::with_max_entries(256, 0);

/// Selected users, by their real ids.
#[map]
pub static UIDS: HashMap<u32, u8> = HashMap::with_max_entries(256, 0);

/// Selected cgroups of version 2, by their names.
#[map]
pub static CGROUPS: HashMap<[u8; CGROUP_NAME], u8> = HashMap::with_max_entries(64, 0);

/// Processes whose name is not in `COMMS`, until they take another name or execute another program.
#[map]
pub static UNNAMED: LruHashMap<u32, u8> = LruHashMap::with_max_entries(4_096, 0);

/// How often a process changed its name in a second.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Renames {
    /// Start of the second.
    pub since_ns: u64,
    pub count: u64,
}

/// Processes of watched connections: their exit, exec and new names are reported to the daemon.
#[map]
pub static PROCESSES: HashMap<u32, Renames> = HashMap::with_max_entries(32_768, BPF_F_NO_PREALLOC);

/// Events and bytes by cause, then sockets by protocol. The daemon keeps it open, and can only read it.
#[map]
pub static COUNTS: PerCpuArray<Count> =
    PerCpuArray::with_max_entries(counter::COUNTS, BPF_F_RDONLY);

/// Connections of processes that are not watched, by pid. The least recently used processes make room. The daemon keeps
/// it open, and can only read it.
#[map]
pub static OTHERS: LruHashMap<u32, CountsOfProcess> =
    LruHashMap::with_max_entries(4_096, BPF_F_RDONLY);
