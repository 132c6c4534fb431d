//! Reads the records of the BPF programs: bytes in, [`Record`]s and their [`Item`]s out.
//!
//! The bytes are not trusted: whatever they are, reading them ends and does not panic.

use std::{
    fmt,
    net::{Ipv6Addr, SocketAddr},
};

use observer_common::{
    frame::FrameHeader,
    record::{
        DataItem, HELD, HTTP1, ITEM_ALIGNMENT, ItemHeader, LATE, NamedRecord, OpenItem,
        RecordHeader, TAIL_PART, THRIFT, UNREAD, data_flag, direction, item_kind, open_flag,
        record_kind, role, tie,
    },
};
use serde::{Deserialize, Serialize};
use zerocopy::FromBytes;

pub use observer_common::{record::Waited, scanner::web::Tail};

use crate::call::{Direction, Directions, Role};

/// The address family of Unix sockets (`socket(2)`).
const AF_UNIX: i32 = 1;

/// A record of a BPF program: one event of a connection or a process.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// The connection's identifier; 0 if the record is about a process.
    pub connection: u64,
    /// The time of the event, in nanoseconds of the kernel's monotonic clock.
    pub time_ns: u64,
    /// The process's pid in the initial PID namespace.
    pub pid: u32,
    /// Whether the event is one of a TLS connection, and has to wait until it is known that no plaintext is missing
    /// before it: [`Event::Proof`].
    pub held: bool,
    /// The event.
    pub event: Event<'a>,
}

/// An event that a record reports.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Bytes were transferred.
    Bytes(Bytes<'a>),
    /// The connection ended.
    Closed(Closed),
    /// It is known now up to where the plaintext of a TLS connection is complete.
    Proof(Proof),
    /// The process exited.
    Exited,
    /// The process executed another program; the main thread has this name then.
    Executed([u8; 16]),
    /// The main thread has another name; `None` if the name changes too often to know it.
    Renamed(Option<[u8; 16]>),
}

/// Up to where the plaintext of a TLS connection is complete, in positions of its directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It is complete up to here.
    Complete {
        /// What the process read.
        received: u64,
        /// What the process wrote.
        sent: u64,
    },
    /// In one direction, it is complete up to a position, and may have a gap behind that.
    Doubt {
        /// The direction.
        direction: Direction,
        /// The position.
        from: u64,
        /// What is behind this position comes after the gap.
        to: u64,
    },
}

/// The end of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// The direction in which the end that closed first sends; `None` if it is not known which end that is.
    pub by: Option<Direction>,
    /// The directions with a gap that no position shows.
    pub gaps: Directions,
    /// Whether the process never read some of the bytes that it had received.
    pub unread: bool,
}

/// The bytes of one transfer, in one direction of a connection.
#[derive(Clone, Debug)]
pub struct Bytes<'a> {
    /// The direction of the bytes.
    pub direction: Direction,
    /// The side that the process is on; `None` while the BPF programs do not know it.
    pub role: Option<Role>,
    /// The position in the direction's byte stream of the first byte that the record accounts for.
    pub position: u64,
    /// The number of bytes that the record accounts for.
    pub length: u64,
    /// The directions with a gap since their last record. A dropped record shows in the position of the direction's
    /// next one; if there is none, or a record of the other direction comes first, only this shows it.
    pub gaps: Directions,
    /// How long before the record's time the bytes may have been sent, or have arrived.
    pub waited: Waited,
    /// The protocol of the connection.
    pub protocol: Carried,
    /// The frames and sums in the bytes.
    pub items: Items<'a>,
}

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// HTTP/2.
    Http2,
    /// HTTP/1.1.
    Http1,
    /// Thrift.
    Thrift,
}

/// A part of a record: a frame, a sum of DATA frames, or something about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A new connection, or one that another process uses now.
    Open(Open),
    /// A frame of a kind that is kept, with its first payload bytes.
    Frame {
        /// The frame's header.
        header: FrameHeader,
        /// The payload's first bytes: all `header.length` of them, unless the frame goes on in another record.
        payload: &'a [u8],
    },
    /// More payload of the frame, name of the message, or bytes of the head before.
    Part(&'a [u8]),
    /// The messages that ended in DATA frames of one stream.
    Data(Data),
    /// A gap before the next item.
    Gap {
        /// Whether the direction was out of sync, and a frame boundary was found again.
        resynced: bool,
    },
    /// Dropped records of this direction before this one.
    Lost {
        /// The entries that field blocks in them inserted into the dynamic table; `None` if that is not known.
        inserts: Option<u32>,
    },
    /// How long the record's bytes had been at the socket.
    Waited(Waited),
    /// A Thrift message.
    Message {
        /// One of [`observer_common::thrift::kind`], if it is known; 0 if only the end shows it.
        kind: u8,
        /// The length of its name.
        length: u32,
        /// The lower half of the name's position in its direction: both ends of a connection that did not join late have
        /// the same.
        position: u32,
        /// The first bytes of its name: all of them, unless it goes on in another record.
        name: &'a [u8],
    },
    /// The end of the last Thrift message.
    MessageEnd {
        /// Its sequence id.
        sequence: u32,
        /// One of [`observer_common::thrift::first`], if it is known.
        first: u8,
        /// One of [`observer_common::thrift::kind`], if it is known.
        kind: u8,
    },
    /// The trailers in the body of a gRPC-Web call, or the next part of them.
    Tail {
        /// The stream's identifier.
        stream: u32,
        /// What they are.
        tail: Tail,
        /// Whether the bytes follow those of the stream's last item of this kind.
        is_part: bool,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// The head of an HTTP/1.1 message.
    Head {
        /// The number of the message.
        stream: u32,
        /// The first bytes of the head: all of them, unless it goes on in another record.
        bytes: &'a [u8],
    },
}

/// The identity of a connection, in its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The name of the process's main thread.
    pub comm: [u8; 16],
    /// Whether the connection joined late.
    pub joined: bool,
    /// The address of the other end.
    pub peer: Peer,
    /// A number that both ends have in common, and hardly another connection has; 0 if it is not known.
    pub pair: u64,
    /// Whether `pair` is where the directions start, and counts only if the next one is the same.
    pub is_sample: bool,
    /// What shows that the TLS library's object is the socket's; `None` without TLS.
    pub tie: Option<Tie>,
}

/// What shows that an object of a TLS library is a socket's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tie {
    /// The object has the client's random.
    ClientRandom,
    /// The object has the socket's descriptor.
    Descriptor,
    /// A call with the object moved bytes of the socket.
    Call,
    /// The thread that made the object had just read from the socket.
    Creation,
    /// The object's plaintext was as long as the record that was read just before.
    Lengths,
}

impl Tie {
    const fn of(number: u8) -> Option<Self> {
        Some(match number {
            tie::RANDOM => Self::ClientRandom,
            tie::DESCRIPTOR => Self::Descriptor,
            tie::CALL => Self::Call,
            tie::MADE => Self::Creation,
            tie::LENGTHS => Self::Lengths,
            _ => return None,
        })
    }
}

/// The address of the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The address and port of a TCP connection.
    Address(SocketAddr),
    /// A Unix socket, whose address is not known.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// The messages that ended in DATA frames of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    /// The stream's identifier.
    pub stream: u32,
    /// The number of messages that ended.
    pub messages: u64,
    /// The sum of their lengths in bytes, without prefixes.
    pub message_bytes: u64,
    /// Whether a DATA frame with END_STREAM ended.
    pub end_stream: bool,
    /// Whether it is not known how the bytes after these messages are framed as messages.
    pub unaligned: bool,
}

impl<'a> Record<'a> {
    /// Reads a record; `None` if the bytes are not a record of this version of the layout.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = RecordHeader::read_from_prefix(bytes).ok()?;
        let comm = || first::<NamedRecord>(bytes).map(|record| record.comm);
        let gaps = gaps(header.flags);
        let event = match header.kind {
            record_kind::BYTES => Event::Bytes(Bytes {
                direction: direction(header.direction)?,
                role: role(header.role)?,
                position: header.position,
                length: header.length,
                gaps,
                waited: if header.flags & LATE == 0 { Waited::default() } else { Waited::BUSY },
                protocol: match header.flags & (THRIFT | HTTP1) {
                    0 => Carried::Http2,
                    HTTP1 => Carried::Http1,
                    _ => Carried::Thrift,
                },
                items: Items(rest),
            }),
            record_kind::CLOSED => Event::Closed(Closed {
                by: direction(header.direction),
                gaps,
                unread: header.flags & UNREAD != 0,
            }),
            record_kind::PROVEN => {
                Event::Proof(Proof::Complete { received: header.position, sent: header.length })
            }
            record_kind::DOUBTED => Event::Proof(Proof::Doubt {
                direction: direction(header.direction)?,
                from: header.position,
                to: header.position.saturating_add(header.length),
            }),
            record_kind::EXITED => Event::Exited,
            record_kind::EXECUTED => Event::Executed(comm()?),
            record_kind::RENAMED => {
                let comm = comm()?;
                Event::Renamed((header.flags == 0).then_some(comm))
            }
            _ => return None,
        };
        let RecordHeader { connection, time_ns, pid, .. } = header;
        let held = header.flags & HELD != 0 && matches!(event, Event::Bytes(_) | Event::Closed(_));
        Some(Self { connection, time_ns, pid, held, event })
    }
}

/// The set of directions whose bits are set.
fn gaps(flags: u8) -> Directions {
    let is_set = |bit: u8| flags & 1 << bit != 0;
    Directions { received: is_set(direction::RECEIVED), sent: is_set(direction::SENT) }
}

fn direction(direction: u8) -> Option<Direction> {
    match direction {
        direction::RECEIVED => Some(Direction::Received),
        direction::SENT => Some(Direction::Sent),
        _ => None,
    }
}

#[expect(clippy::option_option, reason = "no role, and a role that is not known, are not the same")]
fn role(role: u8) -> Option<Option<Role>> {
    match role {
        role::SERVER => Some(Some(Role::Server)),
        role::CLIENT => Some(Some(Role::Client)),
        role::UNKNOWN => Some(None),
        _ => None,
    }
}

/// The items of a record, in order, up to the first bytes that are not an item.
#[derive(Clone, Debug)]
pub struct Items<'a>(&'a [u8]);

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        let (header, rest) = ItemHeader::read_from_prefix(self.0).ok()?;
        let (content, rest) = rest.split_at_checked(header.captured as usize)?;
        let padding = content.len().wrapping_neg() % ITEM_ALIGNMENT as usize;
        // The last item of a record may lack its padding.
        self.0 = rest.get(padding..).unwrap_or_default();
        match header.kind {
            item_kind::DATA => data(header, content),
            item_kind::FRAME => Some(Item::Frame {
                header: FrameHeader {
                    length: header.length,
                    stream: header.stream,
                    kind: header.frame_kind,
                    flags: header.flags,
                    _reserved: 0,
                },
                payload: content,
            }),
            item_kind::PART => Some(Item::Part(content)),
            item_kind::OPEN => open(content),
            item_kind::GAP => Some(Item::Gap { resynced: header.flags != 0 }),
            item_kind::LOST => {
                Some(Item::Lost { inserts: (header.flags == 0).then_some(header.length) })
            }
            item_kind::MESSAGE => Some(Item::Message {
                kind: header.frame_kind,
                length: header.length,
                position: header.stream,
                name: content,
            }),
            item_kind::MESSAGE_END => {
                let (sequence, first, kind) = (header.stream, header.flags, header.frame_kind);
                Some(Item::MessageEnd { sequence, first, kind })
            }
            item_kind::TAIL => Some(Item::Tail {
                stream: header.stream,
                tail: Tail {
                    flags: header.frame_kind & !TAIL_PART,
                    text: header.flags,
                    length: header.length,
                },
                is_part: header.frame_kind & TAIL_PART != 0,
                bytes: content,
            }),
            item_kind::HEAD => Some(Item::Head { stream: header.stream, bytes: content }),
            item_kind::WAITED => {
                Some(Item::Waited(Waited { least_us: header.stream, most_us: header.length }))
            }
            _ => None,
        }
    }
}

fn data(header: ItemHeader, content: &[u8]) -> Option<Item<'_>> {
    let totals: DataItem = first(content)?;
    Some(Item::Data(Data {
        stream: header.stream,
        messages: totals.messages,
        message_bytes: totals.message_bytes,
        end_stream: header.flags & data_flag::END_STREAM != 0,
        unaligned: header.flags & data_flag::UNALIGNED != 0,
    }))
}

fn open(content: &[u8]) -> Option<Item<'_>> {
    let item: OpenItem = first(content)?;
    let peer = if i32::from(item.family) == AF_UNIX {
        Peer::Unix
    } else {
        let address = Ipv6Addr::from(item.remote).to_canonical();
        Peer::Address(SocketAddr::new(address, item.remote_port))
    };
    let OpenItem { comm, flags, pair, .. } = item;
    let [joined, is_sample] = [open_flag::JOINED, open_flag::SAMPLED].map(|bit| flags & bit != 0);
    let [tie, _] = flags.to_be_bytes().map(Tie::of);
    Some(Item::Open(Open { comm, joined, peer, pair, is_sample, tie }))
}

/// The value at the start of the bytes; `None` if there are too few bytes.
fn first<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_prefix(bytes).ok().map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use observer_common::record::{
        DataItem, ItemHeader, RecordHeader, VERSION, data_flag, direction, item_kind, record_kind,
        role,
    };
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    use super::{Data, Event, Item, Record, Waited};
    use crate::call::{Direction, Role};

    const HEADER: RecordHeader = RecordHeader {
        connection: 7,
        time_ns: 1_000,
        position: 24,
        length: 60,
        pid: 42,
        kind: record_kind::BYTES,
        direction: direction::SENT,
        role: role::CLIENT,
        flags: 0,
    };

    /// A record as the BPF programs write it.
    fn bytes_record(items: &[u8]) -> Vec<u8> {
        [HEADER.as_bytes(), items].concat()
    }

    fn item(header: ItemHeader, content: &[u8]) -> Vec<u8> {
        let header = ItemHeader { captured: content.len() as u32, ..header };
        let mut bytes = [header.as_bytes(), content].concat();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    /// The header of an item of stream 3.
    fn header(kind: u8, frame_kind: u8, flags: u8, length: u32) -> ItemHeader {
        ItemHeader { kind, frame_kind, flags, stream: 3, length, ..ItemHeader::default() }
    }

    fn items(items: &[u8]) -> Vec<Item<'_>> {
        let record = Record::parse(items).unwrap();
        assert_eq!((record.connection, record.time_ns, record.pid), (7, 1_000, 42));
        let Event::Bytes(bytes) = record.event else { panic!("not bytes") };
        assert_eq!((bytes.direction, bytes.role), (Direction::Sent, Some(Role::Client)));
        assert_eq!((bytes.position, bytes.length), (24, 60));
        bytes.items.collect()
    }

    #[test]
    fn reads_each_kind_of_item() {
        let totals = DataItem { message_bytes: 300, messages: 2 };
        let bytes = bytes_record(
            &[
                item(header(item_kind::FRAME, 1, 5, 10), b"12345"),
                item(header(item_kind::PART, 1, 5, 10), b"67890"),
                item(header(item_kind::DATA, 0, data_flag::END_STREAM, 0), totals.as_bytes()),
                item(header(item_kind::GAP, 2, 0, 99), &[]),
                item(header(item_kind::LOST, 0, 0, 3), &[]),
                item(header(item_kind::LOST, 0, 1, u32::MAX), &[]),
                item(header(item_kind::WAITED, 0, 0, 150_000), &[]),
            ]
            .concat(),
        );
        let items = items(&bytes);
        assert!(matches!(items[0], Item::Frame { header, payload: b"12345" }
                if header.length == 10 && header.kind == 1 && header.flags == 5));
        assert_eq!(items[1], Item::Part(b"67890"));
        let data =
            Data { stream: 3, messages: 2, message_bytes: 300, end_stream: true, unaligned: false };
        assert_eq!(items[2], Item::Data(data));
        assert_eq!(items[3], Item::Gap { resynced: false });
        assert_eq!(items[4], Item::Lost { inserts: Some(3) });
        assert_eq!(items[5], Item::Lost { inserts: None });
        assert_eq!(items[6], Item::Waited(Waited { least_us: 3, most_us: 150_000 }));
        assert_eq!(items.len(), 7);
    }

    #[test]
    fn an_item_longer_than_the_record_ends_it() {
        let mut bytes = bytes_record(&item(header(item_kind::FRAME, 1, 5, 10), b"12345"));
        bytes.truncate(bytes.len() - 4);
        assert!(items(&bytes).is_empty());
    }

    #[test]
    fn a_record_of_another_version_is_none() {
        for version in (0..16).filter(|version| *version != VERSION) {
            let kind = version << 4 | HEADER.kind & 0xf;
            assert!(Record::parse(RecordHeader { kind, ..HEADER }.as_bytes()).is_none());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(Record { event: Event::Bytes(bytes), .. }) = Record::parse(&bytes) {
                prop_assert!(bytes.items.count() <= 300 / 16);
            }
        }
    }
}
