//! The records that the BPF programs send to the daemon.
//!
//! One ring buffer entry is one record: a [`RecordHeader`] and, for [`record_kind::BYTES`], items:
//!
//! ```text
//! ┌──────────────┬────────────┬──────────┬────────────┬─────────────────────────┬─ ─
//! │ RecordHeader │ ItemHeader │ DataItem │ ItemHeader │ frame payload, padded   │ …
//! │              │ DATA       │          │ FRAME      │ to a multiple of 8      │
//! └──────────────┴────────────┴──────────┴────────────┴─────────────────────────┴─ ─
//! ```
//!
//! All integers are in the machine's byte order; nothing here is an enum or a bool, because the
//! daemon must survive any bytes. It reads and writes these structs by their definitions (feature `user`).

#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Version of this layout, for records that are kept. A change of a struct, of a number, or of what one means gives
/// it the next one.
pub const VERSION: u8 = 2;

const _: () = assert!(VERSION < 1 << 4);

/// Most rings that there can be. All records of a connection are in one of them, and those of
/// processes in each.
pub const MAX_RINGS: u32 = 8;

/// What a record reports. The layout's [`VERSION`] is in the upper four bits: a record of another version is of no kind
/// that is known.
pub mod record_kind {
    /// Bytes were moved in one direction: the record's items say which frames and messages.
    pub const BYTES: u8 = of(1);
    /// The connection ended; no more records follow for its identifier.
    pub const CLOSED: u8 = of(2);
    /// A process that had connections exited; `connection` is 0.
    pub const EXITED: u8 = of(3);
    /// A process that had connections executed another program: a [`super::NamedRecord`];
    /// `connection` is 0.
    pub const EXECUTED: u8 = of(4);
    /// A process that had connections changed its name: a [`super::NamedRecord`]; `connection` is 0.
    /// If `flags` is not 0 it did so more often than is reported, and the name is not known until the
    /// next such record.
    pub const RENAMED: u8 = of(5);

    const fn of(kind: u8) -> u8 {
        super::VERSION << 4 | kind
    }
}

/// Directions, as seen from the process that owns the socket.
pub mod direction {
    /// The process read the bytes.
    pub const RECEIVED: u8 = 0;
    /// The process wrote the bytes.
    pub const SENT: u8 = 1;
    /// Who ended the connection is not known.
    pub const UNKNOWN: u8 = 2;
    /// Nor will it be: both ends were found closed at once.
    pub const UNSURE: u8 = 3;
}

/// Which end of the connection the process is.
pub mod role {
    /// It received the client preface.
    pub const SERVER: u8 = 0;
    /// It sent the client preface.
    pub const CLIENT: u8 = 1;
    /// The connection was joined late, and header blocks of both directions have not shown it yet.
    pub const UNKNOWN: u8 = 2;
}

/// In [`RecordHeader::flags`]: the bytes may have been there, or may have been meant, for longer. The thread was busy
/// before the transfer; or a server received them, and nothing shows when they arrived. Where the socket does,
/// [`item_kind::WAITED`] says it instead.
pub const LATE: u8 = 1 << 7;

/// Begins every record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes))]
#[repr(C)]
pub struct RecordHeader {
    /// The connection's identifier, unique for the life of the BPF programs.
    pub connection: u64,
    /// Kernel's monotonic clock when the transfer returned, in nanoseconds.
    pub time_ns: u64,
    /// Position in the direction's byte stream of the first byte that this record accounts for.
    pub position: u64,
    /// Bytes of the direction's stream that this record accounts for: those before the first
    /// item report nothing (message bodies, PING, WINDOW_UPDATE).
    pub length: u64,
    /// Thread group that made the transfer, in the initial PID namespace.
    pub pid: u32,
    /// One of [`record_kind`].
    pub kind: u8,
    /// One of [`direction`]; of a connection's end, that in which who ended it sends.
    pub direction: u8,
    /// One of [`role`].
    pub role: u8,
    /// A bit for each [`direction`], `1 << direction`, in which there is a gap since the
    /// last record of it: that record was dropped, or no frame boundary is known any more.
    /// And [`LATE`].
    pub flags: u8,
}

/// A record of a process's new name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes))]
#[repr(C)]
pub struct NamedRecord {
    /// Its kind is [`record_kind::EXECUTED`] or [`record_kind::RENAMED`].
    pub header: RecordHeader,
    /// The name of the main thread, padded with zero bytes.
    pub comm: [u8; 16],
}

/// What an item reports.
pub mod item_kind {
    /// A [`super::OpenItem`] follows: the first record of a connection begins with it, and the first
    /// of another process that uses the connection.
    pub const OPEN: u8 = 1;
    /// A frame that is kept; its first `captured` payload bytes follow.
    pub const FRAME: u8 = 2;
    /// The next `captured` payload bytes of the last frame follow.
    pub const PART: u8 = 3;
    /// A [`super::DataItem`] follows: DATA frames of one stream.
    pub const DATA: u8 = 4;
    /// Before this record frames of the direction, or parts of one, are in a gap: it is not known what
    /// they were, nor what their header blocks did to the dynamic table. If `flags` is not 0, it was not
    /// known either where the next frame begins: a boundary was found, as in a connection joined late.
    pub const GAP: u8 = 5;
    /// Records of the direction before this one could not be sent. The header blocks in them
    /// inserted `length` entries into the dynamic table, if `flags` is 0; else it is not known how many.
    pub const LOST: u8 = 6;
    /// The record's bytes had arrived before the process received them: all of them `stream` microseconds before the
    /// record's time or longer, and none longer than `length` (`u32::MAX`: not known).
    pub const WAITED: u8 = 7;
}

/// Begins every item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes))]
#[repr(C)]
pub struct ItemHeader {
    /// One of [`item_kind`].
    pub kind: u8,
    /// The frame's type, for [`item_kind::FRAME`].
    pub frame_kind: u8,
    /// The frame's flags; for [`item_kind::DATA`], bits of [`data_flag`]; for others as they say.
    pub flags: u8,
    /// Padding.
    pub _reserved: u8,
    /// The frame's stream identifier; for [`item_kind::WAITED`] as it says.
    pub stream: u32,
    /// The frame's payload length, for [`item_kind::FRAME`]; for others as they say.
    pub length: u32,
    /// Bytes that follow this header, without the padding to a multiple of 8.
    pub captured: u32,
}

/// How long before a time something may have happened, in microseconds: what [`item_kind::WAITED`] says. Both are 0 if
/// it happened just then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Waited {
    /// At least.
    pub least_us: u32,
    /// At most; `u32::MAX` if it is not known.
    pub most_us: u32,
}

impl Waited {
    /// What [`LATE`] says. For how long is not known: within two seconds everything that can run has run.
    pub const BUSY: Self = Self { least_us: 0, most_us: 2_000_000 };

    /// When it happened: not before the first, nor after the second; in nanoseconds, of the time's clock.
    pub fn before(self, time_ns: u64) -> [u64; 2] {
        let ago = |us: u32| time_ns.saturating_sub(u64::from(us) * 1_000);
        let earliest_ns = if self.most_us == u32::MAX { 0 } else { ago(self.most_us) };
        [earliest_ns, ago(self.least_us)]
    }
}

/// Flags of a data item.
pub mod data_flag {
    /// A DATA frame with END_STREAM ended.
    pub const END_STREAM: u8 = 1;
    /// The message framing of what follows the item's messages is not known.
    pub const UNALIGNED: u8 = 2;
}

/// What ended in DATA frames of one stream that followed each other in one transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes))]
#[repr(C)]
pub struct DataItem {
    /// Lengths of the messages that ended, without their prefixes.
    pub message_bytes: u64,
    /// Messages that ended.
    pub messages: u64,
}

/// What is known of a connection when it is first seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes))]
#[repr(C)]
pub struct OpenItem {
    /// Local address: IPv6 and v4-mapped in network byte order; zeros for a Unix socket.
    pub local: [u8; 16],
    /// The peer's address, likewise.
    pub remote: [u8; 16],
    /// Local port.
    pub local_port: u16,
    /// The peer's port.
    pub remote_port: u16,
    /// `AF_INET`, `AF_INET6` or `AF_UNIX`.
    pub family: u16,
    /// Not 0 if the connection was joined late: its beginning was not seen.
    pub joined: u16,
    /// Name of the process's main thread.
    pub comm: [u8; 16],
    /// The same for both ends of a connection, and hardly for another one; 0 if it is not known.
    pub pair: u64,
}

const _: () = assert!(size_of::<RecordHeader>() == 40);
const _: () = assert!(size_of::<NamedRecord>() == 56);
const _: () = assert!(size_of::<ItemHeader>() == 16);
const _: () = assert!(size_of::<DataItem>() == 16);
const _: () = assert!(size_of::<OpenItem>() == 64);

/// Items begin at multiples of this.
pub const ITEM_ALIGNMENT: u32 = 8;
