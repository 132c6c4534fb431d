//! All maps. Sizes are defaults; the daemon sets those that have a flag.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use observer_common::{counter, counter::Count, scanner::Message};

use crate::{
    connection::Connection,
    kernel::Address,
    scratch::{SLOTS, Scratch},
};

/// Records for the daemon.
#[map]
pub static RING: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Watched connections by `struct sock`.
#[map]
pub static CONNECTIONS: HashMap<Address, Connection> =
    HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// A socket that was looked at and is none of ours.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Ignored {
    pub inode: u64,
    /// The direction in which an HTTP/1 response may still upgrade the connection to HTTP/2;
    /// [`Ignored::TRIED`] and how many calls of a connection that was open before the daemon were no
    /// frames; or [`Ignored::FOR_GOOD`].
    pub until: u64,
}

impl Ignored {
    pub const TRIED: u64 = 2;
    pub const FOR_GOOD: u64 = u64::MAX;

    /// Whether a call in this direction is to be looked at all the same.
    #[inline(always)]
    pub const fn admits(&self, sent: u8) -> bool {
        self.until == sent as u64 || self.tries() != 0
    }

    /// How many calls have been tried.
    #[inline(always)]
    pub const fn tries(&self) -> u64 {
        if self.until == Self::FOR_GOOD || self.until < Self::TRIED { 0 } else { self.until - 1 }
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

/// Messages that a DATA frame left unfinished. Most calls never need it.
#[map]
pub static MESSAGES: HashMap<MessageKey, Message> =
    HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);

/// Selected ports, one bit each.
#[map]
pub static PORTS: Array<u64> = Array::with_max_entries(1024, 0);

/// Selected processes.
#[map]
pub static PIDS: HashMap<u32, u8> = HashMap::with_max_entries(8_192, BPF_F_NO_PREALLOC);

/// Selected names of main threads.
#[map]
pub static COMMS: HashMap<[u8; 16], u8> = HashMap::with_max_entries(256, 0);

/// What `COMMS` says of a process, 0 or 1, remembered until it executes another program.
#[map]
pub static NAMED: LruHashMap<u32, u8> = LruHashMap::with_max_entries(4_096, 0);

/// Processes of watched connections: their exit and exec are told to the daemon.
#[map]
pub static PROCESSES: HashMap<u32, u8> = HashMap::with_max_entries(32_768, BPF_F_NO_PREALLOC);

/// Where runs build their records: several to a CPU, because a run may be preempted by another.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(SLOTS, 0);

/// Events and bytes by cause, then sockets by protocol.
#[map]
pub static COUNTS: PerCpuArray<Count> = PerCpuArray::with_max_entries(counter::COUNTS, 0);
