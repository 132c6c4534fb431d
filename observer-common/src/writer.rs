//! Shares of processes in the last quarter of a ring: the BPF programs write them, the daemon reads them.

/// The share of one process in the last quarter of one ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes))]
#[repr(C)]
pub struct Writer {
    /// How far the ring had been read when `bytes` started, in halves of the ring.
    pub halves: u64,
    /// Bytes that the process wrote since then.
    pub bytes: u64,
    /// Its records that found no room.
    pub dropped: u64,
    /// Not 0 once it has exited: a later process with the same pid is another writer.
    pub exited: u64,
    /// Name of its main thread.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<Writer>() == 48);

/// The key of a process's writer for a ring.
pub const fn key(ring: u32, pid: u32) -> u64 {
    (ring as u64) << 32 | pid as u64
}

/// The process of a key.
pub const fn pid(key: u64) -> u32 {
    key as u32
}
