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
//! All integers are in the machine's byte order. No field is an enum or a bool, because the daemon must survive any
//! bytes. It reads and writes these structs by their definitions (feature `user`).

#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Version of this layout, for records that are stored. It grows with each change of a struct, a number or a meaning.
pub const VERSION: u8 = 8;

const _: () = assert!(VERSION < 1 << 4);

/// Most rings that there can be. All records of a connection go to one ring, and records of processes to every ring.
pub const MAX_RINGS: u32 = 8;

/// Kinds of records. The upper four bits are the layout's [`VERSION`], so the kind of a record of another version is
/// unknown.
pub mod record_kind {
    /// A transfer moved bytes in one direction: the record's items report its frames and messages.
    pub const BYTES: u8 = of(1);
    /// The connection ended; no later record has its identifier.
    pub const CLOSED: u8 = of(2);
    /// A process that had connections exited; `connection` is 0.
    pub const EXITED: u8 = of(3);
    /// A process that had connections executed another program: a [`super::NamedRecord`];
    /// `connection` is 0.
    pub const EXECUTED: u8 = of(4);
    /// A process that had connections changed its name: a [`super::NamedRecord`]; `connection` is 0.
    /// If `flags` is not 0, it changes its name more often than is reported: the name is not known until the next
    /// record of this kind.
    pub const RENAMED: u8 = of(5);
    /// The plaintext of a TLS connection is complete up to these positions: `position` in the received direction,
    /// `length` in the sent one. See [`super::HELD`].
    pub const PROVEN: u8 = of(6);
    /// Plaintext of one direction of a TLS connection may be missing: it is complete up to `position`, and not known for
    /// the `length` bytes behind it. See [`super::HELD`].
    pub const DOUBTED: u8 = of(7);

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
    /// For a connection's end: it is not known which end closed first.
    pub const UNKNOWN: u8 = 2;
    /// For a connection's end: it can never be known, because both ends were found closed at once.
    pub const UNSURE: u8 = 3;
}

/// Sides of a connection: which one the process is.
pub mod role {
    /// It received the client preface.
    pub const SERVER: u8 = 0;
    /// It sent the client preface.
    pub const CLIENT: u8 = 1;
    /// Not known: the connection was joined late, and field blocks of both directions have not shown it yet.
    pub const UNKNOWN: u8 = 2;
}

/// In [`RecordHeader::flags`]: the bytes may have been there, or may have been meant, for longer. The thread was busy
/// before the transfer, or a server received the bytes and nothing shows when they arrived. If the socket shows that, an
/// [`item_kind::WAITED`] reports it instead.
pub const LATE: u8 = 1 << 7;

/// In [`RecordHeader::flags`], for [`record_kind::CLOSED`]: bytes that the process had received when the connection was
/// reset were never read. They may have ended calls, at an earlier time than the record's.
pub const UNREAD: u8 = 1 << 6;

/// In [`RecordHeader::flags`]: the bytes are the plaintext of a TLS connection. It may have gaps that do not show
/// until later: the record counts once a [`record_kind::PROVEN`] covers it. What is not covered at the connection's end
/// may have a gap.
pub const HELD: u8 = 1 << 5;

/// In [`RecordHeader::flags`], for [`record_kind::BYTES`]: the connection carries Thrift.
pub const THRIFT: u8 = 1 << 4;

/// In [`RecordHeader::flags`], for [`record_kind::BYTES`]: the connection carries HTTP/1.1. [`ItemHeader::stream`] is then
/// the number of a message in its direction: 1, 3, 5, …
pub const HTTP1: u8 = 1 << 3;

/// The start of every record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes))]
#[repr(C)]
pub struct RecordHeader {
    /// The connection's identifier, unique for the life of the BPF programs.
    pub connection: u64,
    /// The kernel's monotonic clock when the transfer returned, in nanoseconds.
    pub time_ns: u64,
    /// Position in the direction's byte stream of the first byte that this record covers.
    pub position: u64,
    /// Bytes of the direction's stream that this record covers, including those without items (message bodies,
    /// PING, WINDOW_UPDATE).
    pub length: u64,
    /// Thread group that made the transfer, in the initial PID namespace.
    pub pid: u32,
    /// One of [`record_kind`].
    pub kind: u8,
    /// One of [`direction`]; for [`record_kind::CLOSED`], the one in which the end that closed first sends.
    pub direction: u8,
    /// One of [`role`].
    pub role: u8,
    /// A bit `1 << direction` for each [`direction`] with a gap since its last record: that record was dropped, or no
    /// frame boundary is known. Also [`LATE`] or [`UNREAD`], [`HELD`], [`THRIFT`] and [`HTTP1`].
    pub flags: u8,
}

/// The record of a process's new name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes))]
#[repr(C)]
pub struct NamedRecord {
    /// Its kind is [`record_kind::EXECUTED`] or [`record_kind::RENAMED`].
    pub header: RecordHeader,
    /// The name of the main thread, padded with zero bytes.
    pub comm: [u8; 16],
}

/// Kinds of items.
pub mod item_kind {
    /// A connection: a [`super::OpenItem`] follows. It is the first item of a connection's first record, and of the
    /// first record after another process uses the connection.
    pub const OPEN: u8 = 1;
    /// A frame that is kept; its first `captured` payload bytes follow.
    pub const FRAME: u8 = 2;
    /// The next part of the last frame; `captured` payload bytes follow.
    pub const PART: u8 = 3;
    /// DATA frames of one stream; a [`super::DataItem`] follows.
    pub const DATA: u8 = 4;
    /// A gap before this record that has frames of the direction, or parts of one. It is not known what they were, or
    /// what their field blocks did to the dynamic table. If `flags` is not 0, the direction was out of sync, and a
    /// boundary was found as in a connection that is joined late.
    pub const GAP: u8 = 5;
    /// Dropped records of the direction before this one. If `flags` is 0, the field blocks in them inserted `length`
    /// entries into the dynamic table; otherwise it is not known how many.
    pub const LOST: u8 = 6;
    /// How long the record's bytes were at the socket before the process received them: all of them for `stream`
    /// microseconds before the record's time or longer, and none for longer than `length` (`u32::MAX`: not known).
    pub const WAITED: u8 = 7;
    /// A Thrift message: `frame_kind` is one of [`thrift::kind`](crate::thrift::kind), `length` the length of its name,
    /// `stream` the lower half of the name's position in its direction, as in [`RecordHeader::position`](super::RecordHeader::position).
    /// The first `captured` bytes of the name follow; the rest is in [`PART`]s.
    pub const MESSAGE: u8 = 8;
    /// The end of the last Thrift message: `stream` is its sequence id, `flags` one of
    /// [`thrift::first`](crate::thrift::first).
    pub const MESSAGE_END: u8 = 9;
    /// The tail of a body (see [`scanner::web`](crate::scanner::web)): `stream`, `flags` and `length` are those of
    /// [`Tail`](crate::scanner::web::Tail), `frame_kind` has its other flags, or [`TAIL_PART`](super::TAIL_PART) in
    /// addition. `captured` bytes of it follow; the rest is in more of these items.
    pub const TAIL: u8 = 10;
    /// The head of an HTTP/1.1 message, with the empty line after it. The first `captured` bytes follow; the rest is in
    /// [`PART`]s.
    pub const HEAD: u8 = 11;
}

/// In the `frame_kind` of an [`item_kind::TAIL`]: the bytes follow those of the stream's last one.
pub const TAIL_PART: u8 = 0x40;

/// The start of every item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes))]
#[repr(C)]
pub struct ItemHeader {
    /// One of [`item_kind`].
    pub kind: u8,
    /// The frame's type, for [`item_kind::FRAME`].
    pub frame_kind: u8,
    /// The frame's flags; for [`item_kind::DATA`], bits of [`data_flag`]; for other kinds, as documented there.
    pub flags: u8,
    /// Padding.
    pub _reserved: u8,
    /// The frame's stream identifier; for [`item_kind::WAITED`], as documented there.
    pub stream: u32,
    /// The frame's payload length, for [`item_kind::FRAME`]; for other kinds, as documented there.
    pub length: u32,
    /// Bytes that follow this header, without the padding to a multiple of 8.
    pub captured: u32,
}

/// How long before a time something happened, in microseconds: between two bounds, as in [`item_kind::WAITED`]. Both
/// are 0 if it happened at that time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Waited {
    /// Lower bound.
    pub least_us: u32,
    /// Upper bound; `u32::MAX` if it is not known.
    pub most_us: u32,
}

impl Waited {
    /// The meaning of [`LATE`]. It is not known for how long, but within two seconds everything that can run has run.
    pub const BUSY: Self = Self { least_us: 0, most_us: 2_000_000 };

    /// The earliest and the latest time at which it happened, if `time_ns` is the time; in nanoseconds of its clock.
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
    /// The bytes after the item's messages are not framed as messages, or it is not known how.
    pub const UNALIGNED: u8 = 2;
}

/// The messages that ended in consecutive DATA frames of one stream in one transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes))]
#[repr(C)]
pub struct DataItem {
    /// Sum of the messages' lengths in bytes, without their prefixes.
    pub message_bytes: u64,
    /// Number of messages.
    pub messages: u64,
}

/// The numbers that name a TCP connection.
pub mod pair {
    /// The number of a connection whose two directions start at these numbers, in any order: both ends know them.
    #[inline(always)]
    pub const fn of(one: u32, other: u32) -> u64 {
        let [low, high] = if one < other { [one, other] } else { [other, one] };
        (high as u64) << 32 | low as u64
    }

    /// The numbers at which an end's sent and received bytes start, by its socket's counters. At the end that connected,
    /// an acknowledged SYN counts as a byte, so the first one is too small by one.
    #[inline(always)]
    pub const fn starts(sent: u32, received: u32) -> u64 {
        (sent as u64) << 32 | received as u64
    }

    /// The pair by these numbers of an end; it connected if it is the client.
    pub const fn of_starts(starts: u64, is_client: bool) -> u64 {
        let [sent, received] = [(starts >> 32) as u32, starts as u32];
        of(sent.wrapping_add(is_client as u32), received)
    }
}

/// Bits of [`OpenItem::flags`].
pub mod open_flag {
    /// The connection was joined late.
    pub const JOINED: u16 = 1 << 0;
    /// `OpenItem::pair` has [`pair::starts`](super::pair::starts) instead, from counters that may have moved meanwhile: two
    /// items must agree.
    pub const SAMPLED: u16 = 1 << 1;
}

/// What shows that an object of a TLS library is a socket's.
pub mod tie {
    /// Not known, or there is no TLS.
    pub const UNKNOWN: u8 = 0;
    /// The object has the client's random.
    pub const RANDOM: u8 = 1;
    /// The object has the socket's descriptor.
    pub const DESCRIPTOR: u8 = 2;
    /// A call with the object moved bytes of the socket.
    pub const CALL: u8 = 3;
    /// The thread that made the object had just read from the socket.
    pub const MADE: u8 = 4;
    /// Several times in a row, the object's plaintext was as long as the record that the same thread had just read from the
    /// socket.
    pub const LENGTHS: u8 = 5;
}

/// The description of a connection, in its first record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes))]
#[repr(C)]
pub struct OpenItem {
    /// Local address: IPv6 and v4-mapped in network byte order; zeros for a Unix socket.
    pub local: [u8; 16],
    /// The peer's address, in the same form.
    pub remote: [u8; 16],
    /// Local port.
    pub local_port: u16,
    /// The peer's port.
    pub remote_port: u16,
    /// `AF_INET`, `AF_INET6` or `AF_UNIX`.
    pub family: u16,
    /// Of [`open_flag`], and in the upper byte one of [`tie`].
    pub flags: u16,
    /// Name of the process's main thread.
    pub comm: [u8; 16],
    /// A number that both ends of a connection have in common, and another connection hardly has; 0 if not known.
    pub pair: u64,
}

const _: () = assert!(size_of::<RecordHeader>() == 40);
const _: () = assert!(size_of::<NamedRecord>() == 56);
const _: () = assert!(size_of::<ItemHeader>() == 16);
const _: () = assert!(size_of::<DataItem>() == 16);
const _: () = assert!(size_of::<OpenItem>() == 64);

/// Items start at multiples of this number of bytes.
pub const ITEM_ALIGNMENT: u32 = 8;

#[cfg(test)]
mod tests {
    use super::pair;

    #[test]
    fn both_ends_of_a_connection_have_the_same_pair() {
        // The first bytes in both directions, each also around the end of the numbers.
        for (requests, responses) in [(7, 1_000), (1_000, 7), (0, u32::MAX), (u32::MAX, 0)] {
            let client = pair::starts(requests.wrapping_sub(1), responses);
            let server = pair::starts(responses, requests);
            let want = pair::of(requests, responses);
            assert_eq!(pair::of_starts(client, true), want);
            assert_eq!(pair::of_starts(server, false), want);
            // The end that accepted it is the client: the ends do not match, nor does anything else.
            assert_ne!(pair::of_starts(client, false), want);
        }
    }
}
