//! What processes wrote into a ring into its last quarter: the BPF programs keep it, the daemon reads it.

/// One process's, in one ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes))]
#[repr(C)]
pub struct Writer {
    /// How far the ring had been read when `bytes` began: a number of halves.
    pub halves: u64,
    /// Bytes that it wrote since then.
    pub bytes: u64,
    /// Records of it for which there was no room.
    pub dropped: u64,
    /// Not 0 once it has exited: another process of its number is another writer.
    pub exited: u64,
    /// Name of its main thread.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<Writer>() == 48);

/// Where it is in the map.
pub const fn key(ring: u32, pid: u32) -> u64 {
    (ring as u64) << 32 | pid as u64
}

/// The process of a key.
pub const fn pid(key: u64) -> u32 {
    key as u32
}
